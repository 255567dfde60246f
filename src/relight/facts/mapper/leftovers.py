"""What whole layers do not explain: stacked experts, other sizes, tied weights, and turned squares."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from relight.facts.mapper.layers import Layer, Tensor, above
from relight.facts.mapper.matching import Match, Matcher
from relight.facts.mapper.words import numbers, vocabulary

_EMBEDDING = frozenset({"embed", "position", "token"})
_HEAD = frozenset({"head"})
_NAMED_ALIKE = 1.6
_MANY = 1_000_000  # elements: so many are no coincidence
_BATCH_STATISTICS = ("running_mean", "running_var")


def elements(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The class of all shapes with as many elements: what reshaping may bring together."""
    n = math.prod(shape)
    return (n,) if n > 1 else (0, *shape)


def rank_only(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The class of all shapes with as many dimensions."""
    return (len(shape),)


def reshaped(source: Sequence[Layer], target: Sequence[Layer], known: Sequence[Match]) -> list[Match]:
    """Layers with as many elements in other dimensions, where names agree as well."""
    found = Matcher(source, target, classes=elements, known=known).run()
    return [
        m
        for m in found
        if len(m.target.main) > 1
        and (
            m.cost < _NAMED_ALIKE
            or (m.margin >= 9.0 and elements(m.target.main)[0] > _MANY)
            or (m.margin >= 1.0 and vocabulary().roles & set(m.source.last) & set(m.target.last))
        )
    ]


def resized(source: Sequence[Layer], target: Sequence[Layer], known: Sequence[Match]) -> list[Match]:
    """Embeddings of another length: all sizes but one are equal."""
    tables = [t for t in target if _EMBEDDING & set(t.words)]
    sources = [s for s in source if _EMBEDDING & set(s.words)]
    found = Matcher(sources, tables, classes=rank_only, known=known).run()
    out = [m for m in found if m.cost < _NAMED_ALIKE + 0.8 and one_differs(m.source.main, m.target.main)]
    # An output layer that has the sizes of the table shares its weights.
    for m in list(out):
        heads = [t for t in target if t.main == m.target.main and t is not m.target and _HEAD & set(t.words)]
        mine = [s for s in source if s.main == m.source.main and s is not m.source and _HEAD & set(s.words)]
        if len(heads) == 1:
            out.append(Match(mine[0] if len(mine) == 1 else m.source, heads[0], m.cost, 0.3))
    return out


def one_differs(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes differ in one size only."""
    return len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1


Stacked = tuple[Tensor, tuple[Tensor, ...], str]


def stacked(source: Sequence[Layer], target: Sequence[Layer], known: Sequence[Match]) -> list[Stacked]:
    """Tensors of experts that one tensor of the target holds: ``(target, sources, op)``."""
    if not any(len(layer.main) > 2 for layer in target):
        return []
    families: dict[tuple[str, str], list[Layer]] = defaultdict(list)
    for layer in source:
        parts = layer.path.split(".")
        for i in range(len(parts) - 1, -1, -1):
            if parts[i].isdigit():
                families[(".".join(parts[:i]), ".".join(parts[i + 1 :]))].append(layer)
                break
    together: Counter[tuple[str, str]] = Counter()
    for m in known:
        for a in m.source.ancestors:
            for b in m.target.ancestors:
                together[(a, b)] += 1
    out: list[Stacked] = []
    for layer in target:
        wanted = layer.leaves.get("weight")
        if wanted is None or len(wanted.shape) < 3:
            continue
        n, rows = wanted.shape[0], wanted.shape[1:]
        whole: list[tuple[float, list[Layer]]] = []
        halves: list[tuple[float, str, list[Layer]]] = []
        for (parent, name), members in families.items():
            if len(members) != n or any("weight" not in m.leaves for m in members):
                continue
            near = max(
                (together[(a, b)] for a in (*above(parent), parent) for b in layer.ancestors if (a, b) in together),
                default=0,
            )
            exact = numbers(parent) == numbers(layer.path)
            shape = members[0].main
            if shape == rows:
                whole.append((-near - 1000 * exact, members))
            elif len(shape) == len(rows) and (shape[0] * 2, *shape[1:]) == rows:
                halves.append((-near - 1000 * exact, name, members))
        if whole:
            members = min(whole, key=lambda w: w[0])[1]
            out.append((wanted, tuple(m.leaves["weight"] for m in _sorted(members)), "stack:0"))
        elif len(halves) >= 2:
            halves.sort(key=lambda h: (h[0], h[1]))
            pair = sorted(halves[:2], key=lambda h: (0 if "gate" in h[2][0].last or h[1] == "w1" else 1, h[1]))
            experts = [m.leaves["weight"] for _, _, members in pair for m in _sorted(members)]
            out.append((wanted, tuple(experts), "stack2:1"))
    return out


def _sorted(members: Iterable[Layer]) -> list[Layer]:
    return sorted(members, key=lambda m: (m.block, m.own))


def tied(target: Sequence[Layer], matches: Sequence[Match]) -> list[Match]:
    """Tables of the model that share the weights of another one: its source is theirs as well."""
    out = []
    tables = [m for m in matches if (_EMBEDDING | _HEAD) & set(m.target.words) and len(m.target.main) == 2]
    tables += [m for m in matches if m.target.path.endswith("shared") and len(m.target.main) == 2]
    for layer in target:
        if not (_EMBEDDING | _HEAD | {"out"}) & set(layer.words):
            continue
        same = [m for m in tables if m.target.main == layer.main and m.source.main == layer.main]
        if len({id(m.source) for m in same}) == 1 and layer.main[0] > layer.main[-1]:
            out.append(Match(same[0].source, layer, 0.5, 0.3))
    return out


def doubled_bias(target: Sequence[Layer], matches: Sequence[Match]) -> list[tuple[Tensor, Tensor]]:
    """``(target, source)`` for the bias of an output layer that the model also keeps beside it."""
    out = []
    for layer in target:
        bias = layer.leaves.get("bias")
        if bias is None or len(layer.leaves) > 1 or not _HEAD & set(layer.words):
            continue
        same = {
            id(m.source): m.source.leaves["bias"]
            for m in matches
            if "bias" in m.source.leaves and "bias" in m.target.leaves and _HEAD & set(m.target.words)
            and m.source.leaves["bias"].shape == bias.shape == m.target.leaves["bias"].shape
        }  # fmt: skip
        if len(same) == 1:
            out.append((bias, next(iter(same.values()))))
    return out


def turned_squares(matches: Sequence[Match]) -> set[int]:
    """Ids of target layers whose square weight is turned, as every other weight of their kind is."""
    votes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for m in matches:
        s, t = m.source.leaves.get("weight"), m.target.leaves.get("weight")
        if s is None or t is None or len(s.shape) != 2 or len(t.shape) != 2 or s.shape[0] == s.shape[1]:
            continue
        how = "copy" if s.shape == t.shape else "turned" if s.shape == t.shape[::-1] else ""
        leaf = _kind(s)
        if how and not _EMBEDDING & set(m.source.words):
            votes[(leaf, m.source.unit)][how] += 1
            votes[(leaf, "*")][how] += 1
    out = set()
    for m in matches:
        s, t = m.source.leaves.get("weight"), m.target.leaves.get("weight")
        if s is None or len(s.shape) != 2 or s.shape[0] != s.shape[1] or len(m.target.main) != 2:
            continue
        leaf = _kind(s)
        here = votes.get((leaf, m.source.unit)) or votes.get((leaf, "*"))
        if here and here["turned"] and not here["copy"]:
            out.add(id(m.target))
        elif not here and leaf == "bare" and t is not None and _kind(t) == "weight" and not _tables(m):
            out.add(id(m.target))  # a matrix of its own is multiplied from the right, a Linear layer holds it turned
    return out


def _tables(match: Match) -> bool:
    return bool(_EMBEDDING & {*match.source.words, *match.target.words})


def parts_of_biases(target: Sequence[Layer], matches: Sequence[Match]) -> list[tuple[Tensor, Tensor, str]]:
    """``(target, source, op)`` for biases of queries and values that the source keeps in one with that of the keys."""
    wanted: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for layer in target:
        said = set(layer.last) & {"query", "key", "value"}
        if len(said) == 1 and set(layer.leaves) == {"bias"}:
            wanted[layer.path.rpartition(".")[0]][said.pop()] = layer.leaves["bias"]
    out = []
    for m in matches:
        bias = m.source.leaves.get("bias")
        if bias is None or "bias" in m.target.leaves or {"query", "key", "value"} - set(m.source.last):
            continue
        for role, tensor in wanted[m.target.path.rpartition(".")[0]].items():
            if bias.shape == (3 * tensor.shape[0],):
                out.append((tensor, bias, f"split:0:{('query', 'key', 'value').index(role)}/3"))
    return out


def of_its_own(tensor: Tensor) -> bool:
    """Whether a matrix is a parameter of its own, not the weight of a layer."""
    return _kind(tensor) == "bare"


def _kind(tensor: Tensor) -> str:
    """What its module calls a weight; those that are parameters of their own are one kind."""
    leaf = tensor.key.rpartition(".")[2].rpartition("/")[2]
    if leaf.endswith("_weight"):
        return "weight"
    return leaf if leaf in vocabulary().leaves else "bare"


def unsupported(matches: Sequence[Match], target: Sequence[Layer], known: Sequence[Match]) -> set[int]:
    """Ids of target layers of one dimension that only their size speaks for.

    Where no matrix below the same parent found its place, a norm or a bias that fits one elsewhere says nothing.
    """
    settled = {id(m.target) for m in (*matches, *known)}
    matrices: dict[str, list[bool]] = defaultdict(list)
    for layer in target:
        if len(layer.main) > 1:
            for above in layer.ancestors[-2:]:
                matrices[above].append(id(layer) in settled)
    out = set()
    for m in matches:
        if len(m.target.main) != 1 or m.source.words == m.target.words:
            continue
        near = next((matrices[a] for a in reversed(m.target.ancestors) if a in matrices), None)
        if near is not None and not any(near):
            out.add(id(m.target))
    return out


def other_norm(match: Match) -> str:
    """Why two norms of equal shape may not be one kind; empty where nothing speaks against it."""
    mine = any(leaf in match.source.leaves for leaf in _BATCH_STATISTICS)
    theirs = any(leaf in match.target.leaves for leaf in _BATCH_STATISTICS)
    if mine == theirs or len(match.target.main) != 1:
        return ""
    return (
        "the checkpoint's norm keeps statistics of batches, the model's does not"
        if mine
        else ("the model's norm keeps statistics of batches, which the checkpoint does not have")
    )
