"""Keys gathered into layers: weight, bias and statistics of one module move together."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from relight.facts.mapper.words import numbers, stripped, vocabulary, words

_SUFFIX = re.compile(r"(.+?)_(weight|bias)s?((?:_[a-z]*l\d+(?:_reverse)?)?)$")
_PARAMETRIZED = re.compile(r"^(?:(.*)\.)?parametrizations\.(\w+)\.original(\d?)$")
_BLOB = re.compile(r"_(\d+)_")
_BLOB_END = re.compile(r"_bn_(?:s|b|rm|riv)$")
_DIGITS = re.compile(r"\d+")
_ORDINAL = re.compile(r"([A-Za-z_]*[A-Za-z]_?)([0-3])$")
_LETTER = re.compile(r"((?:.*\d)?)([abc])$")
_COUNTED = frozenset("0123abc")
_ORDINALS = ("first", "second", "third")
_MAIN = ("weight", "weight_v", "bias", "running_mean")


class Tensor(NamedTuple):
    """What the mapper knows of a tensor.

    Attributes:
        key: Its key.
        shape: Its sizes.
        dtype: Its dtype, as in ``float32``.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Level(NamedTuple):
    """A numbered step of a path: the place among its siblings, how many there are, and where that is."""

    at: int
    among: int
    where: str


@dataclass(slots=True, eq=False)
class Layer:
    """Parameters and buffers of one module, or one parameter that a module holds beside its children.

    Attributes:
        path: Path of the module, without wrappers.
        leaves: Tensors by canonical name of the parameter.
        order: Place in the listing.
        main: Shape of the tensor that says most about it.
        pattern: The path with every number replaced.
        unit: The path up to and with the last number of a segment that is not the last, numbers replaced.
        block: Numbers of all segments but those in the name of the last one.
        own: Numbers in the name of the last segment.
        words: Words of the path, from the root down.
        last: Words of the last segment that has any.
        ancestors: Paths of the modules that hold it, from the root down.
        shapes: Shapes by name of the parameter, without counters.
        place: Place among the layers of one size in the same unit, by numbers: 0 to 1.
        fine: The same by all numbers.
        rank: The same as a count, of ``ranks``.
        levels: Its numbered steps.
        inner: Whether the last of them is a number in its own name.
        parts: By name of the parameter: the tensors that were put together, where it stands for several layers.
        tail: The last two segments.
        local: Place among the layers of one size in the same block, by listing: 0 to 1.
        overall: Place among the layers of one size by unit and block, of ``overalls``.
    """

    path: str
    leaves: dict[str, Tensor]
    order: int
    main: tuple[int, ...] = ()
    pattern: str = ""
    unit: str = ""
    block: tuple[int, ...] = ()
    own: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    ancestors: tuple[str, ...] = ()
    shapes: frozenset[tuple[str, tuple[int, ...]]] = field(default_factory=frozenset)
    place: float = 0.0
    fine: float = 0.0
    rank: int = 0
    ranks: int = 1
    levels: tuple[Level, ...] = ()
    inner: bool = False
    parts: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    tail: tuple[str, ...] = ()
    local: float = 0.0
    overall: int = 0
    overalls: int = 1

    @property
    def numel(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.leaves.values())


def split_key(key: str) -> tuple[str, str]:
    """(path of the layer, canonical name of the parameter) of a key without wrappers."""
    match = _PARAMETRIZED.match(key)
    if match:
        path, name, which = match.groups()
        leaf = {"0": f"{name}_g", "1": f"{name}_v"}.get(which, name)
        return path or "", leaf
    path, _, leaf = key.rpartition(".")
    known = vocabulary().leaves.get(leaf)
    if known is not None:
        return path, known
    match = _SUFFIX.match(leaf)
    if match:
        base, kind, tail = match.groups()
        return (f"{path}.{base}{tail}" if path else base + tail), kind
    return key, "weight"


def dotted(key: str) -> str:
    """A key with dots between its parts, also where the framework of its time wrote something else.

    TensorFlow writes slashes, Caffe2 writes ``res2_0_branch2a_bn_s``: numbers and words joined by underscores.
    """
    if "/" in key and "." not in key:
        return key.replace("/", ".")
    if "." in key or not (_BLOB.search(key) or _BLOB_END.search(key)):
        return key
    path, _, leaf = key.rpartition("_")
    kind = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}.get(leaf)
    body = _BLOB.sub(".\\1.", path if kind else key).replace("_bn", ".bn")
    return f"{body}.{kind}" if kind else body


def layers_of(tensors: Sequence[Tensor]) -> list[Layer]:
    """The layers of a listing, in its order."""
    found: dict[str, Layer] = {}
    for tensor in tensors:
        path, leaf = split_key(stripped(dotted(tensor.key)))
        layer = found.get(path)
        if layer is None:
            layer = found[path] = Layer(path, {}, len(found))
        elif leaf in layer.leaves:  # two wrapped names for one: kept apart
            path = tensor.key
            layer = found[path] = Layer(path, {}, len(found))
        layer.leaves[leaf] = tensor
    layers = list(found.values())
    _shorten(layers)
    describe(layers)
    return layers


def _shorten(layers: Sequence[Layer]) -> None:
    """A parameter that is all its module has goes by the name of the module: ``ls1.lambda`` is ``ls1``."""
    children = Counter(layer.path.rpartition(".")[0] for layer in layers)
    paths = {layer.path for layer in layers}
    for layer in layers:
        parent, _, name = layer.path.rpartition(".")
        bare = len(layer.leaves) == 1 and next(iter(layer.leaves.values())).key.endswith(name)
        if (
            parent
            and bare
            and children[parent] == 1
            and parent not in paths
            and not parent.rpartition(".")[2].isdigit()
        ):
            layer.path = parent


def describe(layers: Sequence[Layer]) -> None:
    """Set what follows from the paths of all layers of one side."""
    for layer in layers:
        _describe(layer)
    _count(layers)
    _number(layers)


def _count(layers: Sequence[Layer]) -> None:
    """Add a word for the place of a layer among those beside it: ``norm1`` and ``LayerNorm_0`` are first."""
    siblings: dict[tuple[str, str], set[str]] = defaultdict(set)
    found = []
    for layer in layers:
        parts = layer.path.split(".")
        for i in range(len(parts) - 1, max(len(parts) - 3, -1), -1):
            match = (_ORDINAL.match(parts[i]) or _LETTER.match(parts[i])) if parts[i][-1:] in _COUNTED else None
            if match:
                where = (".".join((*parts[:i], match[1])), "a" if match[2].isalpha() else "1")
                siblings[where].add(match[2])
                found.append((layer, where, match[2]))
                break
            if not parts[i].isdigit() and words(parts[i]) not in (("norm",), ("conv",)):
                break
    for layer, where, own in found:
        here = siblings[where]
        letter = "abc".find(own) if {"a", "b"} <= here else -1
        place = letter if own.isalpha() else int(own) - ("0" not in here)
        if 0 <= place < len(_ORDINALS) and layer.last and layer.last[-1] not in _ORDINALS:
            layer.words = (*(w for w in layer.words if w != own), _ORDINALS[place])


def _number(layers: Iterable[Layer]) -> None:
    """Set the levels: at each numbered step of the path, the place among its siblings and how many there are."""
    siblings: dict[tuple[str, str], set[int]] = defaultdict(set)
    steps: list[tuple[Layer, list[tuple[tuple[str, str], int]]]] = []
    for layer in layers:
        parts = layer.path.split(".")
        mine = []
        for i, part in enumerate(parts):
            here = numbers(part)
            if here:
                container = (".".join(parts[:i]), _DIGITS.sub("#", part))
                siblings[container].add(here[-1])
                mine.append((container, here[-1]))
        steps.append((layer, mine))
    places = {c: {n: i for i, n in enumerate(sorted(ns))} for c, ns in siblings.items()}
    for layer, mine in steps:
        layer.levels = tuple(
            Level(places[c][n], len(places[c]), _DIGITS.sub("#", f"{c[0]}.{c[1]}"))
            for c, n in mine
            if len(places[c]) > 1
        )
        layer.inner = bool(mine and layer.own and len(places[mine[-1][0]]) > 1)


def _describe(layer: Layer) -> None:
    parts = layer.path.split(".")
    main = next((layer.leaves[leaf] for leaf in _MAIN if leaf in layer.leaves), None)
    layer.main = (main or next(iter(layer.leaves.values()))).shape
    layer.shapes = frozenset((leaf, t.shape) for leaf, t in layer.leaves.items() if leaf != "num_batches_tracked")
    layer.pattern = ".".join((*(_DIGITS.sub("#", p) for p in parts[:-1]), "#" if parts[-1].isdigit() else parts[-1]))
    block: list[int] = []
    unit = 0
    for i, part in enumerate(parts):
        here = numbers(part)
        if here and i < len(parts) - 1:
            block.extend(here)
            unit = i + 1
    layer.unit = _DIGITS.sub("#", ".".join(parts[:unit]))
    layer.own = numbers(parts[-1])
    if not block:  # a flat list, or attributes that are numbered
        block, layer.own = list(layer.own), ()
    layer.block = tuple(block)
    layer.last = next((w for w in (words(p) for p in reversed(parts)) if w), ())
    layer.words = tuple(w for part in parts for w in words(part))
    layer.tail = tuple(parts[-2:])
    layer.ancestors = above(layer.path)


def above(path: str) -> tuple[str, ...]:
    """The paths of the modules that hold a module, from the root down."""
    parts = path.split(".")
    return tuple(".".join(parts[:i]) for i in range(1, len(parts)))


def rank(layers: Sequence[Layer]) -> None:
    """Set the places of layers of one shape: by number within their unit, never by where they are listed."""
    units: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        units[layer.unit.partition("#")[0]].append(layer)
    for members in units.values():
        blocks = sorted({m.block for m in members})
        finer = sorted({m.block + m.own for m in members})
        at = {b: i for i, b in enumerate(blocks)}
        at_finer = {b: i for i, b in enumerate(finer)}
        for m in members:
            m.rank, m.ranks = at[m.block], len(blocks)
            m.place = (at[m.block] + 0.5) / len(blocks)
            m.fine = (at_finer[m.block + m.own] + 0.5) / len(finer)
    blocks_of: dict[tuple[str, tuple[int, ...]], list[Layer]] = defaultdict(list)
    for layer in layers:
        blocks_of[(layer.unit, layer.block)].append(layer)
    for members in blocks_of.values():
        members.sort(key=lambda m: m.order)
        for i, m in enumerate(members):
            m.local = (i + 0.5) / len(members)
    every: dict[tuple[str, tuple[int, ...]], int] = {}
    for unit in units:  # in order of listing
        for block in sorted({m.block for m in units[unit]}):
            every[(unit, block)] = len(every)
    for unit, members in units.items():
        for m in members:
            m.overall, m.overalls = every[(unit, m.block)], len(every)
