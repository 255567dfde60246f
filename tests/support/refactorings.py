"""Six random changes of a real model, each with the truth that a diagnosis should find.

A refactoring changes one of two equal models the way people do: *rename* a module, *wrap* the model or a
part of it, *drop* a layer, *add* one, *resize* the head or the vocabulary, *shift* the positions in a container. Where
one class of block occurs many times, a change is made in one block or in all of them. Everything is drawn from one
seeded generator, so a seed and a name say all about a case.

A rename, a wrapping and a shift have two directions: which of the two models the checkpoint is of is drawn too.
"""

from __future__ import annotations

import copy
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from public_families import Family
from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Refactoring:
    """One case.

    Attributes:
        kind: ``rename``, ``wrap``, ``drop``, ``add``, ``resize`` or ``shift``.
        what: What was done, for people.
        saved: The model of the checkpoint.
        wanted: The model that it is loaded into.
        accept: Causes (ids of the catalogue of known failures) of which one must be named.
        also: Causes that may be named besides.
        beside: Causes that hold of the keys but are not what happened: naming one is wrong, yet says nothing untrue.
        unknowable: Whether keys and sizes cannot show which of several equal layers came or went.
        truth: Key of the model to the keys of the checkpoint that are its tensor (several where tensors are tied).
    """

    kind: str
    what: str
    saved: nn.Module
    wanted: nn.Module
    accept: tuple[str, ...]
    also: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    unknowable: bool = False
    truth: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Change:
    """What was done to the second of two equal models, and what that is called in either direction."""

    what: str
    accept: tuple[str, ...]
    also: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    unknowable: bool = False
    there_and_back: bool = True


class Wrapper(nn.Module):
    """A module that only holds another one, under any name."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)


def refactorings(family: Family, seed: int) -> Iterator[Refactoring]:
    """One of each kind.

    Args:
        family: What is changed.
        seed: Another seed, other changes.
    """
    for kind, change in _CHANGES.items():
        yield _changed(kind, change, family, random.Random(f"{seed} {family.name} {kind}"))
    size = random.Random(f"{seed} {family.name} resize").choice([s for s in family.sizes if s != family.size])
    before = family.build(family.size)
    yield Refactoring(
        kind="resize",
        what=f"{family.size} to {size}",
        saved=before,
        wanted=family.build(size),
        accept=family.resized,
        truth={key: group for group in _groups(before) for key in group},
    )


def _changed(
    kind: str,
    change: Callable[[nn.Module, random.Random], tuple[nn.Module, _Change]],
    family: Family,
    draw: random.Random,
) -> Refactoring:
    before, after = family.build(family.size), family.build(family.size)
    # The same object under its name of before: what it is called afterwards is the truth.
    unchanged = tensors(after)
    names = {id(unchanged[key]): group for group in _groups(after) for key in group}
    after, done = change(after, draw)
    forth = {key: names[id(t)] for key, t in tensors(after).items() if id(t) in names}
    accept, beside = done.accept, done.beside
    moved = [key for key in forth if key not in forth[key]]
    stayed = [key for key in moved if not forth[key].isdisjoint(forth)]
    if stayed:  # tied: they have a second name, and that one stayed
        accept, beside = (*accept, *_TIED) if stayed == moved else accept, (*beside, *_TIED)
    undone = done.there_and_back and draw.random() < 0.5
    back: dict[str, set[str]] = defaultdict(set)
    for key, group in forth.items():
        for old in group:
            back[old].add(key)
    return Refactoring(
        kind=kind,
        what=f"{done.what}, undone" if undone else done.what,
        saved=after if undone else before,
        wanted=before if undone else after,
        accept=_reversed(accept) if undone else accept,
        also=_reversed(done.also) if undone else done.also,
        beside=beside,
        unknowable=done.unknowable,
        truth={key: frozenset(group) for key, group in back.items()} if undone else forth,
    )


_TIED = ("tied-weights-key",)


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict with the tensors themselves, so that tied ones are the same object."""
    return dict(model.state_dict(keep_vars=True))


def _groups(model: nn.Module) -> list[frozenset[str]]:
    """Keys that are the same tensor."""
    groups: dict[int, set[str]] = defaultdict(set)
    for key, tensor in tensors(model).items():
        groups[id(tensor)].add(key)
    return [frozenset(group) for group in groups.values()]


def _reversed(causes: tuple[str, ...]) -> tuple[str, ...]:
    other = {"layer-added": "layer-removed", "layer-removed": "layer-added"}
    return tuple(other.get(c, c) for c in causes)


# ------------------------------------------------------------------ where a change can be made


@dataclass(frozen=True)
class _Edge:
    """A module and the one that holds it."""

    parent: nn.Module
    path: str
    name: str
    child: nn.Module

    @property
    def full(self) -> str:
        return f"{self.path}.{self.name}" if self.path else self.name


def _edges(model: nn.Module) -> list[_Edge]:
    """All modules that hold parameters; what torch puts there itself (parametrizations) keeps its names."""
    return [
        _Edge(parent, path, name, child)
        for path, parent in model.named_modules()
        if "parametrizations" not in path.split(".")
        for name, child in parent._modules.items()
        if child is not None and name != "parametrizations" and any(True for _ in child.parameters())
    ]


def _alike(edges: list[_Edge], one: _Edge) -> list[_Edge]:
    """The edge in every block of the same class."""
    return [e for e in edges if e.name == one.name and type(e.parent) is type(one.parent)]


def _some(edges: list[_Edge], draw: random.Random) -> list[_Edge]:
    """One edge, or that edge of all blocks: a name first, so that what occurs often is not all that is drawn."""
    name = draw.choice(sorted({e.name for e in edges}))
    one = draw.choice([e for e in edges if e.name == name])
    return _alike(edges, one) if draw.random() < 0.5 else [one]


def _times(edges: list[_Edge]) -> str:
    return edges[0].full if len(edges) == 1 else f"{edges[0].full} and {len(edges) - 1} like it"


def _put(parent: nn.Module, children: Mapping[str, nn.Module | None]) -> None:
    """Replace the children of a module, in this order."""
    parent._modules.clear()
    for name, child in children.items():
        parent._modules[name] = child


# ------------------------------------------------------------------ the changes

# How the same part is called elsewhere.
_OTHER_NAMES = {
    "attn": ("attention", "self_attn", "mixer"),
    "attention": ("attn", "self_attention"),
    "self": ("self_attn", "attn"),
    "mlp": ("ffn", "feed_forward"),
    "norm1": ("ln_1", "norm_1", "attn_norm"),
    "norm2": ("ln_2", "norm_2", "ffn_norm"),
    "norm": ("ln", "layer_norm", "bn"),
    "bn1": ("norm1", "batch_norm1"),
    "bn2": ("norm2", "batch_norm2"),
    "fc1": ("linear1", "w1", "up"),
    "fc2": ("linear2", "w2", "down"),
    "fc": ("head", "classifier", "linear"),
    "head": ("fc", "classifier", "heads"),
    "classifier": ("head", "fc", "out"),
    "encoder": ("enc", "backbone", "trunk"),
    "decoder": ("dec", "generator"),
    "embeddings": ("embed", "embedding"),
    "q_proj": ("query", "to_q"),
    "k_proj": ("key", "to_k"),
    "v_proj": ("value", "to_v"),
    "query": ("q", "q_proj", "q_lin"),
    "key": ("k", "k_proj", "k_lin"),
    "value": ("v", "v_proj", "v_lin"),
    "proj": ("out_proj", "to_out"),
    "layers": ("blocks", "h"),
    "layer": ("layers", "blocks"),
    "blocks": ("layers", "stages"),
}
_ANY_NAMES = ("body", "branch", "core", "inner_net", "main", "stage", "unit")


def _rename(model: nn.Module, draw: random.Random) -> tuple[nn.Module, _Change]:
    edges = _some([e for e in _edges(model) if not e.name.isdigit()], draw)
    old = edges[0].name
    usual = _OTHER_NAMES.get(old, (f"{old}_layer", f"new_{old}", f"{old}_2"))
    names = [n for n in (*usual, draw.choice(_ANY_NAMES)) if not any(hasattr(e.parent, n) for e in edges)]
    new = draw.choice(names)
    for edge in edges:
        _put(edge.parent, {new if name == old else name: m for name, m in edge.parent._modules.items()})
    return model, _Change(f"{_times(edges)} renamed to {new}", ("module-renamed",))


def _wrap(model: nn.Module, draw: random.Random) -> tuple[nn.Module, _Change]:
    attribute = "prefix-lightning-attribute"
    if draw.random() < 0.5:
        names, causes = draw.choice(
            [
                (("model",), (attribute,)),
                (("net",), (attribute,)),
                (("backbone",), (attribute,)),
                (("0",), (attribute,)),
                (("module",), ("prefix-module-ddp",)),
                (("_orig_mod",), ("prefix-orig-mod",)),
                (("module", "_orig_mod"), ("prefix-nested-wrappers",)),
            ]
        )
        for name in reversed(names):
            model = nn.Sequential(model) if name == "0" else Wrapper(name, model)
        return model, _Change(f"the whole in {'.'.join(names)}", causes)
    edges = _some([e for e in _edges(model) if not isinstance(e.child, (nn.ModuleList, nn.ModuleDict))], draw)
    name = draw.choice(["0", "fn", "inner", "block", "module"])
    for edge in edges:
        edge.parent._modules[edge.name] = nn.Sequential(edge.child) if name == "0" else Wrapper(name, edge.child)
    # A part that sits one deeper: a prefix to some, another place in the tree to others.
    causes = ("module-renamed", attribute, *(("prefix-module-ddp",) if name == "module" else ()))
    return model, _Change(f"{_times(edges)} in {name}", causes)


def _drop(model: nn.Module, draw: random.Random) -> tuple[nn.Module, _Change]:
    total = len(tensors(model))
    edges = [e for e in _edges(model) if not e.name.isdigit() and len(tensors(e.child)) * 3 <= total]
    chosen = _some(edges, draw)
    if sum(len(tensors(e.child)) for e in chosen) * 3 > total:
        chosen = chosen[:1]
    for edge in chosen:
        edge.parent._modules[edge.name] = nn.Identity()
    rest = {id(t) for t in tensors(model).values()}
    tied = all(id(t) in rest for e in chosen for t in tensors(e.child).values())
    causes = ("tied-weights-key",) if tied else ("layer-removed",)
    return model, _Change(f"{_times(chosen)} dropped", causes, there_and_back=False)


def _add(model: nn.Module, draw: random.Random) -> tuple[nn.Module, _Change]:
    holders = [
        e
        for e in [*_edges(model), _Edge(nn.Module(), "", "", model)]
        if e.child._modules
        and "parametrizations" not in e.child._modules
        and not isinstance(e.child, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    ]
    kind = draw.choice(sorted({type(e.child).__name__ for e in holders}))
    same = [e for e in holders if type(e.child).__name__ == kind]
    chosen = same if draw.random() < 0.5 else [draw.choice(same)]
    name = draw.choice(["adapter", "extra_norm", "projection", "gate", "aux_head", "rescale"])
    layer = draw.choice(["linear", "norm", "bottleneck", "conv", "batch norm"])
    for edge in chosen:
        width = draw.choice([t.shape[0] for t in edge.child.parameters() if t.ndim])
        edge.child.add_module(name, _layer(layer, width))
    where = chosen[0].full or "the model"
    more = "" if len(chosen) == 1 else f" and {len(chosen) - 1} like it"
    return model, _Change(f"{name} ({layer}) added to {where}{more}", ("layer-added",), there_and_back=False)


def _layer(kind: str, width: int) -> nn.Module:
    with torch.device("meta"):
        if kind == "linear":
            return nn.Linear(width, width)
        if kind == "norm":
            return nn.LayerNorm(width)
        if kind == "bottleneck":
            return nn.Sequential(nn.Linear(width, max(1, width // 4)), nn.ReLU(), nn.Linear(max(1, width // 4), width))
        if kind == "conv":
            return nn.Conv2d(width, width, 1)
        return nn.BatchNorm2d(width)


def _shift(model: nn.Module, draw: random.Random) -> tuple[nn.Module, _Change]:
    numbered = list(_numbered(model))
    # Positions of a Sequential or ModuleList; a model that has none numbers its layers by name (denselayer1, ...).
    path, holder, stem = draw.choice([n for n in numbered if not n[2]] or numbered)
    names = [name for name in holder._modules if _NUMBERED.fullmatch(name) and name.startswith(stem)]
    first = int(names[0][len(stem) :])
    children = [holder._modules[name] for name in names]
    before = [_look(child) for child in children]
    what = draw.choice(["a parameterless layer", "a layer like the next", "nothing"])
    also: tuple[str, ...] = ()
    if what == "nothing":
        at = draw.randrange(len(children) - 1)
        also = ("layer-removed",) if _look(children.pop(at)) else ()
        done = f"{path}.{names[at]} taken out"
    else:
        at = draw.randrange(1, len(children))
        children.insert(at, nn.Dropout() if what == "a parameterless layer" else copy.deepcopy(children[at]))
        also = ("layer-added",) if _look(children[at]) else ()
        done = f"{what} put in at {path}.{names[at]}"
    others = {name: child for name, child in holder._modules.items() if name not in names}
    _put(holder, {**others, **{f"{stem}{first + i}": child for i, child in enumerate(children)}})
    accept: tuple[str, ...] = ("sequential-index-shift",)
    # Each position has another name now, and the row another length.
    beside = ("module-renamed", *(("size-mismatch-width-depth",) if also else ()))
    look = [_look(child) for child in children]
    common = min(len(look), len(before))
    unknowable = look[:common] == before[:common]
    if unknowable:
        # Equal blocks: all that keys can show is that there is one more or one less at the end.
        accept = (*accept, "layer-removed" if len(look) < len(before) else "layer-added", "size-mismatch-width-depth")
    if stem:
        accept = (*accept, "module-renamed")
    return model, _Change(done, accept, also, beside, unknowable)


_NUMBERED = re.compile(r"(\D*)(\d+)")


def _numbered(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(path, module, stem) of modules that hold a row of three or more (by name: four) of which two have tensors."""
    for path, module in model.named_modules():
        rows: dict[str, list[nn.Module]] = defaultdict(list)
        for name, child in module._modules.items():
            match = _NUMBERED.fullmatch(name)
            if match and child is not None and "parametrizations" not in path.split("."):
                rows[match[1]].append(child)
        for stem, row in rows.items():
            if len(row) >= (4 if stem else 3) and sum(bool(tensors(child)) for child in row) >= 2:
                yield path, module, stem


def _look(module: nn.Module) -> dict[str, Shape]:
    return {key: tuple(t.shape) for key, t in tensors(module).items()}


_CHANGES: dict[str, Callable[[nn.Module, random.Random], tuple[nn.Module, _Change]]] = {
    "rename": _rename,
    "wrap": _wrap,
    "drop": _drop,
    "add": _add,
    "shift": _shift,
}
