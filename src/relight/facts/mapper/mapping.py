"""Map the keys of a checkpoint to those of a model."""

from __future__ import annotations

from collections.abc import Sequence

from relight.facts.mapper import copies, exact, fused, leftovers, questions, relation, steps
from relight.facts.mapper.layers import Layer, Tensor, layers_of
from relight.facts.mapper.matching import Match, Matcher, twins
from relight.facts.mapper.pairs import LEVELS, KeyMap, Pair, confidence_of, pairs_of
from relight.facts.mapper.rules import Rule, apply


def map_keys(source: Sequence[Tensor], target: Sequence[Tensor]) -> KeyMap:
    """Find which tensor goes where.

    Args:
        source: Tensors of the checkpoint, in order of listing.
        target: Tensors of the model.
    """
    out = KeyMap()
    every, source = source, copies.live(source, target)
    all_mine, all_theirs = layers_of(source), layers_of(target)
    first = exact.by_prefix(source, target, all_theirs)
    for key, other in first.items():
        reason = "the same name" if key == other else "the same name but for what stands in front"
        out.pairs[key] = Pair(key, (other,), "copy", "certain", reason)
    known = _known(all_mine, all_theirs, first)
    mine, theirs = all_mine, all_theirs
    if first:
        used = set(first.values())
        mine = layers_of([s for s in source if s.key not in used])
        theirs = layers_of([t for t in target if t.key not in first])
    mine, theirs = fused.fuse(mine, theirs), fused.fuse(theirs, mine)
    open_theirs = theirs

    matches = Matcher(mine, theirs, known=known).run()
    mine, theirs = _left(mine, theirs, matches)
    matches += leftovers.reshaped(mine, theirs, [*known, *matches])
    weak = leftovers.unsupported(matches, open_theirs, known)
    matches = [m for m in matches if id(m.target) not in weak]
    mine, theirs = _left(mine, open_theirs, matches)
    stacks = leftovers.stacked(mine, theirs, [*known, *matches])
    done = {t.key for t, _, _ in stacks}
    theirs = [t for t in theirs if not any(tensor.key in done for tensor in t.leaves.values())]
    tables = leftovers.resized(mine, theirs, [*known, *matches])
    mine, theirs = _left(mine, theirs, tables)
    settled = [*known, *matches, *tables]

    refused = ""
    if not stacks:
        if matches and not first:
            refused = relation.unrelated(source, target, matches)
        refused = refused or relation.other_blocks(all_mine, all_theirs, settled)
    if refused and not _add_wrapped(out, source, target):
        return KeyMap({}, tuple(t.key for t in target), tuple(s.key for s in every), (), refused)

    if refused:
        _complete(out, every, target)
        return out
    same_names, moved = len(first) * 2 > len(target), tuple(exact.moved_lists(source, target))
    _collect(out, known, [*matches, *tables], leftovers.tied(theirs, settled), same_names, moved)
    for tensor, source_bias in leftovers.doubled_bias(theirs, settled):
        reason = "the bias of the output layer beside it"
        out.pairs.setdefault(tensor.key, Pair(tensor.key, (source_bias.key,), "copy", "likely", reason))
    for tensor, bias, op in leftovers.parts_of_biases(theirs, settled):
        out.pairs.setdefault(tensor.key, Pair(tensor.key, (bias.key,), op, "likely", "one of the fused projections"))
    for tensor, parts, op in stacks:
        out.pairs[tensor.key] = Pair(tensor.key, tuple(p.key for p in parts), op, "likely", "the experts in one tensor")
    _add_wrapped(out, source, target)
    _complete(out, every, target)
    out.questions = tuple(questions.ask(out, every, target))
    return out


def _add_wrapped(out: KeyMap, source: Sequence[Tensor], target: Sequence[Tensor]) -> bool:
    """Add layers that nothing else has found and whose names are the same but for one step."""
    used = {s for pair in out.pairs.values() for s in pair.source}
    found = steps.by_one_step([s for s in source if s.key not in used], target, out.pairs)
    for key, other in found.items():
        out.pairs[key] = Pair(key, (other,), "copy", "likely", "the same name but for one step")
    return bool(found)


def _collect(
    out: KeyMap,
    known: Sequence[Match],
    matches: Sequence[Match],
    tied: Sequence[Match],
    same_names: bool,
    moved: tuple[str, ...],
) -> None:
    """Add the tensors of matched layers.

    Args:
        out: What they are added to.
        known: Pairs of layers that were settled by their names.
        matches: The others.
        tied: Pairs of layers that share their source with another.
        same_names: Whether most of the model goes by the same names: then names that differ are meant to.
        moved: Modules of the model in which equal numbers may mean other layers.
    """
    turned = leftovers.turned_squares([*known, *matches])
    for m in known:
        if id(m.target) in turned:
            key, other = m.target.leaves["weight"].key, m.source.leaves["weight"].key
            reason = "square, and all weights beside it are turned"
            out.pairs[key] = Pair(key, (other,), "transpose", "likely", reason)
    alike = twins(matches)
    for match in (*matches, *tied):
        twin = id(match) in alike
        if twin and same_names:
            continue
        if moved and any(t.key.startswith(moved) for t in match.target.leaves.values()):
            twin = True
        for pair in pairs_of(match, turned, confidence_of(match, twin=twin, rest=bool(known))):
            out.pairs.setdefault(pair.target, pair)


def _complete(out: KeyMap, source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    """Say what is left on both sides, and what shapes are wanted."""
    out.shapes = {t.key: t.shape for t in target if t.key in out.pairs}
    taken = {s for pair in out.pairs.values() for s in pair.source}
    out.initialised = tuple(t.key for t in target if t.key not in out.pairs)
    out.leftover = tuple(s.key for s in source if s.key not in taken)


def _known(source: Sequence[Layer], target: Sequence[Layer], first: dict[str, str]) -> list[Match]:
    """The pairs that are settled already, as pairs of layers."""
    if not first:
        return []
    mine = {t.key: layer for layer in source for t in layer.leaves.values()}
    seen: set[tuple[int, int]] = set()
    out = []
    for layer in target:
        for tensor in layer.leaves.values():
            other = mine.get(first.get(tensor.key, ""))
            if other is not None and (id(other), id(layer)) not in seen:
                seen.add((id(other), id(layer)))
                out.append(Match(other, layer, 0.0))
    return out


def _left(mine: list[Layer], theirs: list[Layer], matches: list[Match]) -> tuple[list[Layer], list[Layer]]:
    used = {id(m.source) for m in matches}
    done = {id(m.target) for m in matches}
    return [s for s in mine if id(s) not in used], [t for t in theirs if id(t) not in done]


def kept(found: KeyMap, *, only: str = "ambiguous", drop: Sequence[str] = ()) -> KeyMap:
    """A mapping without the pairs that are not wanted; their keys stay initialised and left over.

    Args:
        found: The mapping.
        only: The least confidence: ``ambiguous`` keeps all, ``likely`` and ``certain`` fewer.
        drop: Ops that are not wanted, as ``resize``.
    """
    least = LEVELS.index(only)
    pairs = {
        key: p
        for key, p in found.pairs.items()
        if LEVELS.index(p.confidence) >= least and not any(op.startswith(d) for op in p.op.split("+") for d in drop)
    }
    taken = {s for p in pairs.values() for s in p.source}
    gone = [p for key, p in found.pairs.items() if key not in pairs]
    lost = dict.fromkeys(s for p in gone for s in p.source if s not in taken)
    return KeyMap(
        pairs,
        (*found.initialised, *(p.target for p in gone)),
        (*found.leftover, *lost),
        found.questions,
        found.refused,
        found.shapes,
    )


def by_rules(rules: Sequence[Rule], source: Sequence[Tensor], target: Sequence[Tensor]) -> KeyMap:
    """The mapping that rules say, as far as the shapes allow it.

    Args:
        rules: Rules of a person, or learnt before.
        source: Tensors of the checkpoint.
        target: Tensors of the model.
    """
    shapes = {t.key: t.shape for t in target}
    mine = {s.key: s.shape for s in source}
    out = KeyMap()
    wrong = []
    for key, (sources, op) in apply(rules, mine, shapes).items():
        if key not in shapes:
            continue
        same = sources == (key,) and op == "copy"
        if op == "copy" and mine[sources[0]] != shapes[key]:
            wrong += [] if same else [key]
            continue
        out.pairs[key] = Pair(key, sources, op, "certain", "the same name" if same else "a rule")
    _complete(out, source, target)
    if wrong:
        out.questions = (
            f"{len(wrong):,} keys fit a rule but not the shape, {wrong[0]} among them: what is done to them?",
        )
    return out
