"""Optimizer states and the parameters that they belong to.

A file keeps the states by position, and a resume gives them out by position: whoever renames, adds or moves a
parameter moves the states of others. Which parameter a state belongs to is told by names that newer torch stores, by a
manifest, or by the order of the state_dict, which is that of ``parameters()``, together with the shapes of the moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from relight.core.checkpoint import Checkpoint
from relight.core.edits import (
    AddNames,
    ArrangeOptimizer,
    ComputeTensors,
    ConvertTensors,
    DropKeys,
    Edit,
    OrderKeys,
    RenameKeys,
)
from relight.core.manifest import Manifest
from relight.core.objects import Call, ListNode, Value, mapping_get, mapping_has, mapping_pairs
from relight.core.target import GroupSpec, ModelSpec, OptimizerSpec
from relight.facts import data
from relight.facts.describe import counted
from relight.facts.joined_states import ELEMENTWISE, cannot_be_made, states_at
from relight.facts.lightning import LightningView
from relight.facts.regrouping import regroup
from relight.facts.schedulers import OF_GROUPS
from relight.reader.tensors import REBUILD_NAMES

Shape: TypeAlias = "tuple[int, ...]"
# Entries of a state that is one vector over all parameters, kept with the first of them. Source: torch 2.13,
# torch/optim/lbfgs.py, step.
_FLAT = frozenset({"d", "prev_flat_grad", "old_dirs", "old_stps"})
# Options that tell classes of optimizers apart; the class itself is not in a file.
_TELLING = frozenset({
    "betas", "momentum", "dampening", "alpha", "centered", "rho", "lambd", "t0", "etas", "step_sizes", "lr_decay",
    "initial_accumulator_value", "momentum_decay", "max_iter", "history_size", "beta2_decay",
})  # fmt: skip
# Options of how a step is computed, not of what: torch 2.13, torch/optim/optimizer.py, _foreach_doc and the like.
_HOW = frozenset({"foreach", "fused", "capturable", "differentiable"})
# Source: torch 2.13, torch/optim/optimizer.py, Optimizer.load_state_dict.
_OTHER_GROUPS = "loaded state dict has a different number of parameter groups"
_OTHER_SIZES = "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
_BUFFER_NAMES = frozenset({"running_mean", "running_var", "num_batches_tracked", "position_ids"})


@dataclass(frozen=True, slots=True)
class Saved:
    """An optimizer as a file has it.

    Attributes:
        sizes: Number of parameters in each group.
        shapes: Shape of each parameter as its state shows it, over all groups; None where there is none.
        names: Names of the parameters where the file states them; empty where it does not.
        by_name: Whether the states are kept by these names instead of by numbers, as sharded strategies do.
        options: Names of the options of the first group.
        values: Options that are plain data in all groups (lists for tuples): the value in each. ``lr`` is the one that
            schedulers begin with, where there are any.
        entries: Names in the states of its parameters.
        present: Whether each parameter has a state.
        flat: Whether there is one state over all parameters, as LBFGS keeps it.
    """

    sizes: tuple[int, ...]
    shapes: tuple[Shape | None, ...]
    names: tuple[str, ...]
    options: frozenset[str]
    values: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    entries: frozenset[str] = frozenset()
    present: tuple[bool, ...] = ()
    flat: bool = False
    by_name: bool = False

    @property
    def steps(self) -> bool:
        """Whether any of its parameters has a state."""
        return any(self.present)


@dataclass(slots=True)
class Arrangement:
    """What a resume makes of the optimizers' states, and what makes it right.

    Attributes:
        edits: What gives each state to its parameter; empty where they are, or where that cannot be done.
        refused: Why it cannot be done; empty where it can.
        kind: What a resume does as it is: empty where it is right, else ``count``, ``groups``, ``sizes``, ``class``,
            ``order`` or ``shapes``.
        at: Which optimizer that is.
        moved: (parameter of the file, parameter that gets its state as it is), where they differ.
        without: Parameters that get no state.
        left: Parameters of the file whose state nobody takes.
        raises: Exception and text of its message where groups or their sizes are others, or where a class finds no state
            of its own; empty where a resume goes on silently.
        names_first: Whether it is refused only because names or sizes of tensors differ, too.
        options: What sets the options of groups that are others than those of the file.
        waits: Whether it rests on tensors that are still to be mended: parameters of another size in the file, or
            tensors of the file that the model has no more and that nobody has left out yet.
    """

    edits: tuple[Edit, ...] = ()
    refused: str = ""
    kind: str = ""
    at: int = 0
    moved: list[tuple[str, str]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    raises: tuple[str, str] = ("", "")
    names_first: bool = False
    waits: bool = False
    options: list[Edit] = field(default_factory=list)

    @property
    def options_asked(self) -> bool:
        """Whether groups are others, so that somebody has to say whose options they get."""
        return any(isinstance(e, ArrangeOptimizer) and e.options_of for e in self.edits)


def saved_optimizers(view: LightningView) -> list[Saved] | None:
    """The optimizers of a file; None where they are not what torch writes."""
    every = view.get("optimizer_states")
    if not isinstance(every, ListNode):
        return None
    out = []
    for n, state in enumerate(every.items):
        groups = mapping_get(state, "param_groups")
        if not isinstance(groups, ListNode):
            return None
        sizes, names = [], []
        plain: dict[str, list[object]] = {}
        for group in groups.items:
            members = mapping_get(group, "params")
            if not isinstance(members, ListNode):
                return None
            sizes.append(len(members.items))
            named = members if _texts(members) else mapping_get(group, "param_names")
            names += [n for n in named.items if isinstance(n, str)] if isinstance(named, ListNode) else []
            for key, value in mapping_pairs(group) or ():
                if isinstance(key, str) and _is_plain(value) and key not in _HOW and key not in OF_GROUPS:
                    if key == "lr" and mapping_has(group, "initial_lr"):
                        value = mapping_get(group, "initial_lr")
                    plain.setdefault(key, []).append(list(value) if isinstance(value, tuple) else value)
        options = {k for k, _ in mapping_pairs(groups.items[0]) or () if isinstance(k, str)} if groups.items else set()
        whole = tuple(names) if len(names) == sum(sizes) else ()
        if options & {"max_momentum", "base_momentum"}:  # a scheduler moves these up and down
            plain = {k: v for k, v in plain.items() if k not in ("momentum", "betas")}
        values = {name: tuple(listed) for name, listed in plain.items() if len(listed) == len(sizes)}
        states = states_at(view, n)
        each = [dict(mapping_pairs(s) or ()) for s in states]
        entries = frozenset(k for e in each for k in e if isinstance(k, str))
        out.append(
            Saved(
                tuple(sizes), tuple(_shape_in(s) for s in states), whole, frozenset(options), values, entries,
                present=tuple(bool(e) for e in each), flat=bool(_FLAT & entries),
                by_name=bool(whole) and all(_texts(mapping_get(g, "params")) for g in groups.items),
            )
        )  # fmt: skip
    return out


def _is_plain(value: Value) -> bool:
    return isinstance(value, (bool, int, float, str)) or (
        isinstance(value, tuple) and bool(value) and all(v is None or isinstance(v, (int, float)) for v in value)
    )


def _texts(members: Value) -> bool:
    """Whether a group lists its parameters by name."""
    return isinstance(members, ListNode) and bool(members.items) and all(isinstance(m, str) for m in members.items)


def told_by(manifest: Manifest | None) -> tuple[tuple[str, ...], ...]:
    """Names of the parameters of each optimizer as a manifest has them; empty for those of which it has none."""
    if manifest is None:
        return ()
    training = manifest.part("training")
    names = training.get("parameters")
    found = training.get("optimizers")
    if not isinstance(names, list) or not isinstance(found, list):
        return ()
    out = []
    for optimizer in found:
        groups = optimizer.get("groups") if isinstance(optimizer, dict) else None
        mine: list[str] = []
        for group in groups if isinstance(groups, list) else ():
            ranges = group.get("parameters") if isinstance(group, dict) else None
            for pair in ranges if isinstance(ranges, list) else ():
                if isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair):
                    mine += [str(n) for n in names[pair[0] : pair[1] + 1]]
        out.append(tuple(mine))
    return tuple(out)


def _shape_in(state: Value) -> Shape | None:
    for name, value in mapping_pairs(state) or ():
        if name in ELEMENTWISE and isinstance(name, str) and isinstance(value, Call) and value.name in REBUILD_NAMES:
            size = value.args[2] if len(value.args) > 2 else None
            if isinstance(size, tuple) and all(type(n) is int for n in size):
                return tuple(n for n in size if isinstance(n, int))
    return None


def arrange(
    checkpoint: Checkpoint, spec: ModelSpec, edits: Sequence[Edit], told: Sequence[Sequence[str]] = ()
) -> Arrangement:
    """What a resume makes of the states of a file, once some edits have given its tensors the names of a model.

    Args:
        checkpoint: The file.
        spec: The model, with its ``training``.
        edits: Of the names and tensors of the state_dict.
        told: Names of the parameters of each optimizer, where something else than the file's optimizers tells them.
    """
    view = LightningView(checkpoint)
    saved = saved_optimizers(view)
    training = spec.training
    if training is None or training.unknown or saved is None or not saved:
        return Arrangement()
    origin = _origins(checkpoint, spec, edits)
    out = Arrangement()
    if len(saved) != len(training.optimizers):
        out.kind = "count"
        out.refused = (
            f"the file has {counted(len(saved), 'optimizer')}, configure_optimizers makes {len(training.optimizers)}"
        )
        return out
    made: list[Edit] = []
    for i, (mine, theirs) in enumerate(zip(saved, training.optimizers, strict=True)):
        kind, edit = _one(i, mine, theirs, checkpoint, spec, origin, told[i] if i < len(told) else (), out)
        if kind and not out.kind:
            out.kind, out.at = kind, i
        if edit is not None:
            made.append(edit)
    if (
        out.kind in ("sizes", "order", "shapes", "groups")
        and not out.refused
        and _open(checkpoint, spec, edits, origin, out.without)
    ):
        out.refused = "which tensors of the file some parameters are is still open"
        out.names_first = True
    resized, gone = _unsettled(checkpoint, spec, edits, origin, out)
    if out.kind in ("sizes", "order", "shapes") and not out.refused and resized:
        out.refused = f"{min(resized)} has another size"
        out.names_first = True
    out.waits = bool(out.refused) or bool(resized or gone)
    order = _order(checkpoint, spec, edits, origin) if made else []
    out.edits = () if out.refused else (*made, *order, *out.options)
    return out


def _order(checkpoint: Checkpoint, spec: ModelSpec, edits: Sequence[Edit], origin: Mapping[str, _Origin]) -> list[Edit]:
    """What puts the tensors in the order of the model, where the other edits do not leave them in it.

    Whose states are whose is told by that order when the copy is looked at. A load goes by name.
    """
    places = {t.key: i for i, t in enumerate(checkpoint.tensors)}
    end = len(places)
    after: dict[str, tuple[int, int]] = {}
    for edit in edits:
        if isinstance(edit, ConvertTensors):
            # Several made of one stand where it stood; further names of one come last.
            taken = {n for n, sources, op, _ in edit.pairs if op == "copy" and sources == (n,)}
            for i, (new, sources, op, _) in enumerate(edit.pairs):
                again = op == "copy" and sources != (new,) and sources[0] in taken
                taken.update(sources if op == "copy" else ())
                after[new] = (end if again else places.get(sources[0], end), i)
        elif isinstance(edit, ComputeTensors):
            after |= {n: (places.get(s[0] if s else n, end), i) for i, (n, s, *_) in enumerate(edit.tensors)}
        elif isinstance(edit, AddNames):
            after |= {new: (end, i) for i, (_, new) in enumerate(edit.pairs)}
    found: list[tuple[int, int]] = []
    tied: set[str] = set()
    for p in spec.params:
        if p.kind != "parameter" or p.key in tied:
            continue
        tied.update(p.tied_with)
        if p.key in after:
            found.append(after[p.key])
        elif p.key in origin:
            found.append((places[origin[p.key][0][0]], 0))
    return [] if found == sorted(found) else [OrderKeys(tuple(p.key for p in spec.params if p.persistent))]


def _unsettled(
    checkpoint: Checkpoint, spec: ModelSpec, edits: Sequence[Edit], origin: Mapping[str, _Origin], found: Arrangement
) -> tuple[set[str], set[str]]:
    """Tensors of the file that do not load as they are, and whose states would be lost: of another size, of no name."""
    settled: set[str] = set()
    for edit in edits:
        if isinstance(edit, DropKeys):
            settled.update(edit.keys)
        elif isinstance(edit, RenameKeys):
            settled.update(old for old, _ in edit.pairs)
        elif isinstance(edit, ConvertTensors):
            settled.update(s for _, sources, _, _ in edit.pairs for s in sources)
        elif isinstance(edit, ComputeTensors):
            settled.update(s for _, sources, _, _, _ in edit.tensors for s in sources)
    here = {t.key for t in checkpoint.tensors}
    wanted = {p.key for p in spec.params}
    resized = {k for k in found.without if k in here and k not in origin and k not in settled}
    gone = {k for k in found.left if k not in wanted and k not in settled}
    return resized, gone


def _open(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    edits: Sequence[Edit],
    origin: Mapping[str, _Origin],
    without: Sequence[str],
) -> bool:
    """Whether tensors of the file that nobody takes could be parameters that seem to have none there."""
    wanted = {p.key: p.shape for p in spec.params}
    # A tensor whose name the model has for one of another size may be what another parameter was called then.
    lacking = {wanted.get(k) for k in without}
    sizes = {t.key: t.shape for t in checkpoint.tensors}
    taken = {s for sources, _, _ in origin.values() for s in sources}
    taken |= {k for k, shape in wanted.items() if shape in (None, sizes.get(k)) or sizes.get(k) not in lacking}
    for edit in edits:
        if isinstance(edit, DropKeys):
            taken.update(edit.keys)
        elif isinstance(edit, RenameKeys):
            taken.update(old for old, _ in edit.pairs)
    here = {t.key for t in checkpoint.tensors}
    for edit in edits:
        if isinstance(edit, ComputeTensors):
            taken.update(s for _, sources, _, _, _ in edit.tensors for s in sources)
            here.update(name for name, _, _, _, _ in edit.tensors)
    return any(k not in here for k in without) and any(t.key not in taken for t in checkpoint.tensors)


_Origin: TypeAlias = "tuple[tuple[str, ...], str, Shape]"


def _origins(checkpoint: Checkpoint, spec: ModelSpec, edits: Sequence[Edit]) -> dict[str, _Origin]:
    """What each parameter of a model is in a file: the tensors that it is made of, how, and its shape."""
    shapes = {t.key: t.shape for t in checkpoint.tensors}
    renamed: dict[str, str] = {}
    made: dict[str, _Origin] = {}
    for edit in edits:
        if isinstance(edit, RenameKeys):
            renamed.update({new: old for old, new in edit.pairs})
        elif isinstance(edit, ConvertTensors):
            made.update({new: (sources, op, shape) for new, sources, op, shape in edit.pairs})
        elif isinstance(edit, ComputeTensors):
            # A conversion keeps the moments what they are; whatever else is computed has none.
            made.update(
                {n: (s, "copy", shape) for n, s, how, shape, _ in edit.tensors if how == "cast" and len(s) == 1}
            )
    gone = set(renamed.values()) | {s for sources, _, _ in made.values() for s in sources}
    out: dict[str, _Origin] = {}
    for p in spec.params:
        if p.kind != "parameter":
            continue
        for name in (p.key, *p.tied_with):
            if name in made:
                out[p.key] = made[name]
                break
            old = renamed.get(name, name if name not in gone else None)
            # A lazy parameter has no shape yet, and takes that of the file.
            if old in shapes and p.shape in (None, shapes[old]):
                out[p.key] = ((old,), "copy", shapes[old])
                break
    return out


def _one(
    index: int,
    mine: Saved,
    theirs: OptimizerSpec,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    origin: Mapping[str, _Origin],
    told: Sequence[str],
    out: Arrangement,
) -> tuple[str, Edit | None]:
    """What is wrong with one optimizer, and the edit that mends it."""
    kind = ""
    if len(mine.sizes) != len(theirs.groups):
        kind, raises = "groups", ("ValueError", _OTHER_GROUPS)
    elif mine.sizes != tuple(len(g.parameters) for g in theirs.groups):
        kind, raises = "sizes", ("ValueError", _OTHER_SIZES)
    else:
        raises = ("", "")
    other, exception = _of_another_class(mine, theirs)
    if not out.kind:
        # Numbers are compared when the state is restored, before anything is looked up in it.
        out.raises = raises if kind else (exception, "")
    if other:
        out.refused = f"the state is not that of {theirs.class_path.rpartition('.')[2]}, as {other} shows"
        return "class", None
    if kind == "groups":
        return kind, _regrouped(index, mine, theirs, checkpoint, spec, origin, told, out)
    if not mine.steps and not kind:
        return "", None  # nothing that could go to the wrong one
    names = _stated(mine, checkpoint, told)
    if names is None:
        names, why = _names(mine, theirs, checkpoint, spec, origin)
        if names is None:
            if not kind and _fits(mine, theirs, spec):
                return "", None  # by position they fit, and nothing says that they are others
            out.refused = why
            return kind or "shapes", None
    position = {name: i for i, name in enumerate(names)}
    groups: list[tuple[tuple[tuple[int, ...], str, Shape], ...]] = []
    identical = not kind
    at = 0
    for group in theirs.groups:
        members: list[tuple[tuple[int, ...], str, Shape]] = []
        for key in group.parameters:
            sources, op, shape = origin.get(key, ((), "copy", ()))
            places = tuple(position[s] for s in sources if s in position)
            if len(places) != len(sources):
                places = ()
            if not places:
                out.without.append(key)
            if places != (at,) or op != "copy":
                identical = False
                if at < len(names):
                    out.moved.append((names[at], key))
            members.append((places, op if places else "copy", shape))
            at += 1
        groups.append(tuple(members))
    used = {p for g in groups for places, _, _ in g for p in places}
    if mine.flat and not identical:
        out.refused = "its state is one vector over all parameters, in the order of then"
        return kind or "order", None
    states = states_at(LightningView(checkpoint), index)
    for places, op, _ in (member for g in groups for member in g):
        if op != "copy" and places:
            out.refused = cannot_be_made(checkpoint, [states[p] for p in places], [names[p] for p in places])
            if out.refused:
                return kind or "shapes", None
    out.left += [n for i, n in enumerate(names) if i not in used and mine.present[i]]
    if identical:
        # By position they are right; a sharded strategy looks for names, which are those of then.
        renamed = mine.by_name and names != [k for g in theirs.groups for k in g.parameters]
        return "", ArrangeOptimizer(index, tuple(groups)) if renamed else None
    if not kind:
        kind = "order" if _fits(mine, theirs, spec) else "shapes"
    return kind, ArrangeOptimizer(index, tuple(groups))


def _stated(mine: Saved, checkpoint: Checkpoint, told: Sequence[str]) -> list[str] | None:
    """Names that somebody wrote down; None where nobody did.

    They are those of tensors of the file, or of something else: of a part of the model, which was asked for its own.
    """
    here = {t.key for t in checkpoint.tensors}
    known = (list(n) for n in (told, mine.names) if len(n) == len(mine.shapes) and here.issuperset(n))
    return next(known, None)


def _regrouped(
    index: int,
    mine: Saved,
    theirs: OptimizerSpec,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    origin: Mapping[str, _Origin],
    told: Sequence[str],
    out: Arrangement,
) -> Edit | None:
    """What gives each state to its parameter in other groups, and sets their options beside it."""
    view = LightningView(checkpoint)
    counts = f"the file has {counted(len(mine.sizes), 'group')} of parameters, the optimizer has {len(theirs.groups)}"
    names = _stated(mine, checkpoint, told)
    if names is None and len(mine.sizes) == 1:
        # All of them in one group: in the order of the model, whatever groups it has now.
        whole = OptimizerSpec(theirs.class_path, (_one_group(theirs, spec),))
        names, _ = _names(mine, whole, checkpoint, spec, origin)
    if names is None or mine.flat:
        out.refused = f"{counts}; which parameters were in which is not in the file"
        return None
    position = {name: i for i, name in enumerate(names)}
    groups: list[tuple[tuple[tuple[int, ...], str, Shape], ...]] = []
    for group in theirs.groups:
        found = [(key, *origin.get(key, ((), "copy", ()))) for key in group.parameters]
        if any(op != "copy" for _, _, op, _ in found):
            out.refused = f"{counts}, and some are made of others"
            return None
        places = [
            (key, tuple(position[s] for s in sources if s in position), shape) for key, sources, _, shape in found
        ]
        out.without += [key for key, at, _ in places if not at]
        groups.append(tuple((at, "copy", shape) for _, at, shape in places))
    used = {p for g in groups for at, _, _ in g for p in at}
    out.left += [n for i, n in enumerate(names) if i not in used and mine.present[i]]
    options = regroup(view, index, theirs, [[p for at, _, _ in g for p in at] for g in groups], mine.sizes)
    if options.refused:
        out.refused = f"{counts}; {options.refused}"
        return None
    out.options += options.edits
    return ArrangeOptimizer(index, tuple(groups), options.options_of)


def _one_group(theirs: OptimizerSpec, spec: ModelSpec) -> GroupSpec:
    """All parameters of an optimizer in the order of the model."""
    mine = {k for g in theirs.groups for k in g.parameters}
    return GroupSpec(tuple(p.key for p in spec.params if p.key in mine))


def _of_another_class(mine: Saved, theirs: OptimizerSpec) -> tuple[str, str]:
    """The name that shows that a state is not that of a class, and what its next step raises; empty where it takes it."""
    options = {k for g in theirs.groups for k in (*g.options, *g.others)}
    more, less = sorted(mine.options & _TELLING - options), sorted(options & _TELLING - mine.options)
    known = data.load("optimizer_classes")["classes"].get(theirs.class_path)
    if known is None:
        return (more or less or [""])[0], "KeyError" if less else ""
    for name in known["pairs"]:  # taken apart before anything else is looked up
        if any(not isinstance(v, list) for v in mine.values.get(name, ())):
            return (more or [name])[0], "TypeError"
    lacking = sorted(set(known["options"]) - mine.options)
    if mine.entries:
        lacking += [e for e in known["states"] if e not in mine.entries]
    if lacking:
        return (more or less or lacking)[0], "KeyError"
    return (more or [""])[0], ""


def _fits(mine: Saved, theirs: OptimizerSpec, spec: ModelSpec) -> bool:
    """Whether all states have the shapes of the parameters that get them by position."""
    shapes = {p.key: p.shape for p in spec.params}
    keys = [k for g in theirs.groups for k in g.parameters]
    return len(keys) == len(mine.shapes) and all(
        s is None or shapes.get(k) in (None, s) for k, s in zip(keys, mine.shapes, strict=True)
    )


# ---------------------------------------------------------------- names of parameters that a file does not state


def _names(
    mine: Saved, theirs: OptimizerSpec, checkpoint: Checkpoint, spec: ModelSpec, origin: Mapping[str, _Origin]
) -> tuple[list[str] | None, str]:
    """Names of the parameters of an optimizer of a file, or why they cannot be told."""
    order = _in_order(checkpoint, spec, origin)
    shapes = {t.key: t.shape for t in checkpoint.tensors}
    here = [[s for key in g.parameters for s in origin.get(key, ((), "", ()))[0]] for g in theirs.groups]
    everywhere = {s for sources, _, _ in origin.values() for s in sources}
    free = [k for k in order if k not in everywhere]  # what the model has no more
    defined = [p.key for p in spec.params if p.kind == "parameter"]
    out: list[str] = []
    at = 0
    for g, (group, size) in enumerate(zip(theirs.groups, mine.sizes, strict=True)):
        wanted = mine.shapes[at : at + size]
        at += size
        own = [k for k in defined if k in set(group.parameters)]
        several = len(theirs.groups) > 1
        mates = set(here[g])
        base = [k for k in order if k in mates]
        wide = [k for k in order if k in mates or k in free]
        candidates = [base, wide] if several else [base, wide, order]
        if list(group.parameters) != own:
            # An order of its own: it may be that of then, or new.
            candidates.insert(0, list(dict.fromkeys(here[g])))
        fits = [c for c in candidates if len(c) == size and _matches(c, wanted, shapes)]
        if list(group.parameters) != own and any(c != fits[0] for c in fits if set(c) == set(fits[0])):
            return None, "which parameters of the file its states belong to cannot be told: several orders fit"
        if fits:
            found = fits[0]
        else:
            ways: list[list[str]] = []
            for c in candidates:
                ways = _ways(c, wanted, shapes)
                if ways:
                    break
            if len(ways) != 1:
                return None, "which parameters of the file its states belong to cannot be told: " + (
                    "several readings fit" if ways else f"{size} states do not fit {len(wide)} tensors"
                )
            found = ways[0]
        out += found
    if len(set(out)) != len(out):
        return None, "which parameters of the file its states belong to cannot be told"
    return out, ""


def _in_order(checkpoint: Checkpoint, spec: ModelSpec, origin: Mapping[str, _Origin]) -> list[str]:
    """Parameters of a file in the order of ``parameters()``, as far as the file tells them from buffers."""
    parameters = {s for sources, _, _ in origin.values() for s in sources}
    buffers = {p.key for p in spec.params if p.kind == "buffer"}
    out: list[str] = []
    seen: set[tuple[object, ...]] = set()
    for t in checkpoint.tensors:
        named_so = t.key.rpartition(".")[2] in _BUFFER_NAMES or not t.dtype.startswith(("float", "bf"))
        if t.key not in parameters and (t.key in buffers or named_so):
            continue
        # A tensor under two names is one parameter, under the first of them.
        place = (t.storage_id, t.offset, t.shape)
        if t.storage_id is not None and place in seen:
            continue
        seen.add(place)
        out.append(t.key)
    return out


def _matches(keys: Sequence[str], wanted: Sequence[Shape | None], shapes: Mapping[str, Shape]) -> bool:
    return all(w is None or shapes[k] == w for k, w in zip(keys, wanted, strict=True))


def _ways(
    keys: Sequence[str], wanted: Sequence[Shape | None], shapes: Mapping[str, Shape], most: int = 2
) -> list[list[str]]:
    """Up to two ways to choose keys in their order so that their shapes are those wanted."""
    rest = len(keys) - len(wanted)
    if rest < 0 or len(keys) * len(wanted) > 1_000_000:
        return []
    # Chains that end the choice of the first states; a chain is (index of the key, the chain before it).
    chains: list[list[tuple[int, object]]] = [[(-1, None)]]
    for j, want in enumerate(wanted):
        now: list[tuple[int, object]] = []
        for i in range(j, j + rest + 1):
            if want is not None and shapes[keys[i]] != want:
                continue
            now += [(i, chain) for chain in chains[j] if chain[0] < i][:most]
        # Two that end at the same key are enough to know that there are several ways.
        chains.append(_fewest(now, most))
    out: list[list[str]] = []
    for chain in chains[-1][:most]:
        picked: list[str] = []
        link: object = chain
        while isinstance(link, tuple) and link[0] >= 0:
            picked.append(keys[link[0]])
            link = link[1]
        out.append(picked[::-1])
    return out


def _fewest(chains: list[tuple[int, object]], most: int) -> list[tuple[int, object]]:
    by_end: dict[int, list[tuple[int, object]]] = {}
    for chain in chains:
        kept = by_end.setdefault(chain[0], [])
        if len(kept) < most:
            kept.append(chain)
    return [chain for kept in by_end.values() for chain in kept]
