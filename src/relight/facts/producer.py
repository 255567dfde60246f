"""Who wrote a file: versions of Lightning, torch, python and numpy, stated or bounded, each with its evidence.

Marks come from two places. The *file* (its records, how objects are pickled) shows who saved it last; its *contents*
(the state of an optimizer, the version of Lightning) may come from an older run that somebody saved again. So what the
file shows wins, and contents that say otherwise are told, not mixed in.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from relight.core.checkpoint import Checkpoint, Layout
from relight.core.objects import DictNode, Global, ListNode, Value, mapping_get, mapping_has, mapping_pairs
from relight.facts import data
from relight.facts.lightning import VERSION_KEY, LightningView
from relight.facts.versions import at_least, release

PACKAGES = ("lightning", "torch", "python", "numpy")
# Addresses are far above, numbers of tensors in one file far below.
_ADDRESS = 1 << 24
# Training states have a few dozen keys; a state_dict, which is none, may have a hundred thousand.
_FEW = 200
_BUFFER = "archive"  # the folder of an archive that torch wrote to anything but a path
_STRING, _BINSTRING, _SHORT_BINSTRING = b"STU"
_PLATEAU = frozenset({"factor", "min_lrs", "patience", "cooldown", "threshold", "threshold_mode", "mode_worse", "best"})
_SCHEDULER = frozenset({"base_lrs", "last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step"})
_TEXT_PATHS = frozenset({"pathlib.PosixPath", "pathlib.PurePosixPath"})


@dataclass(frozen=True, slots=True)
class Produced:
    """What is known of one package's version.

    Attributes:
        exact: The version, where the file states it.
        at_least: A lower bound, None if there is none.
        below: An upper bound (exclusive), None if there is none.
        evidence: What shows it.
        contrary: What speaks against it: signs of other versions, in a file that was saved again or changed.
    """

    exact: str | None = None
    at_least: str | None = None
    below: str | None = None
    evidence: str = ""
    contrary: str = ""

    @property
    def known(self) -> bool:
        """Whether it says anything of the version."""
        return bool(self.exact or self.at_least or self.below)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "exact": self.exact,
            "at_least": self.at_least,
            "below": self.below,
            "evidence": self.evidence,
            "contrary": self.contrary,
        }

    def __str__(self) -> str:
        if self.exact is not None:
            return self.exact
        if self.at_least and self.below:
            return f"{self.at_least} or newer but before {self.below}"
        return f"{self.at_least} or newer" if self.at_least else f"before {self.below}" if self.below else "unknown"


@dataclass(frozen=True, slots=True)
class _Mark:
    """One sign of a version."""

    package: str
    of_file: bool
    at_least: str | None
    below: str | None
    says: str

    @property
    def told(self) -> str:
        """With the versions that it stands for."""
        return f"{self.says} ({Produced(at_least=self.at_least, below=self.below)})"


def producer(checkpoint: Checkpoint) -> dict[str, Produced]:
    """Versions by package; a package of which nothing is known is left out."""
    view = LightningView(checkpoint)
    marks = list(dict.fromkeys((*_marks(checkpoint, view), *_named(checkpoint), *_optimizers(view))))
    out: dict[str, Produced] = {}
    # In the order in which one bounds the next: a Lightning needs a torch, that needs a python.
    for package in ("lightning", "numpy", "torch", "python"):
        own = [m for m in marks if m.package == package]
        if package == "numpy" and not own:
            continue  # an unused numpy leaves nothing in a file
        own += _required(package, out)
        if package == "lightning" and view.version is not None:
            out[package] = _stated(view.version, own)
        elif own:
            fact = _bounded(own, as_trained=package != "torch" or _as_trained(checkpoint, view))
            if fact.known or fact.contrary:
                out[package] = fact
    return {package: out[package] for package in PACKAGES if package in out}


# ---------------------------------------------------------------- putting marks together


def _stated(version: str, marks: list[_Mark]) -> Produced:
    against = [
        m
        for m in marks
        if (m.at_least is not None and at_least(version, m.at_least) is False)
        or (m.below is not None and at_least(version, m.below))
    ]
    return Produced(exact=version, evidence=f"{VERSION_KEY} in the file", contrary=_joined(against))


def _as_trained(checkpoint: Checkpoint, view: LightningView) -> bool:
    """Whether it is stored as Lightning does: through a buffer. Who loads a file and saves it again gives a path."""
    return view.kind == "lightning" and checkpoint.folder == _BUFFER and _aligned(checkpoint)


def _bounded(marks: list[_Mark], *, as_trained: bool) -> Produced:
    """The closest bounds: of the file, and of the contents too where all of them fit.

    Args:
        marks: Of one package.
        as_trained: Whether the file is what the training wrote: else it may be newer than its contents.
    """
    of_file = [m for m in marks if m.of_file]
    contents = [m for m in marks if not m.of_file]
    if _crossed(of_file):
        return Produced(contrary=_joined(of_file))
    if not _crossed(marks):
        used, against = marks, []
    elif of_file:
        used, against = of_file, [m for m in contents if _crossed([*of_file, m])] or contents
    else:
        return Produced(contrary=_joined(contents))
    low, high = _lowest(used), _highest(used if as_trained else (m for m in used if m.of_file))
    says = dict.fromkeys(m.says for m in (low, high) if m is not None)
    return Produced(
        at_least=low.at_least if low else None,
        below=high.below if high else None,
        evidence="; ".join(says),
        contrary=_joined(against),
    )


def _lowest(marks: Iterable[_Mark]) -> _Mark | None:
    best: _Mark | None = None
    for mark in marks:
        if mark.at_least is not None and (best is None or not at_least(best.at_least, mark.at_least)):
            best = mark
    return best


def _highest(marks: Iterable[_Mark]) -> _Mark | None:
    best: _Mark | None = None
    for mark in marks:
        if mark.below is not None and (best is None or not at_least(mark.below, best.below or "")):
            best = mark
    return best


def _crossed(marks: Iterable[_Mark]) -> bool:
    """Whether no version has all of these marks."""
    listed = list(marks)
    low, high = _lowest(listed), _highest(listed)
    return low is not None and high is not None and at_least(low.at_least, high.below or "") is True


def _joined(marks: Iterable[_Mark]) -> str:
    return "; ".join(dict.fromkeys(m.told for m in marks))


def _required(package: str, known: dict[str, Produced]) -> Iterator[_Mark]:
    """What the versions that are known by now need of this package."""
    for row in data.load("producer")["requires"]:
        fact = known.get(row["package"])
        if row["needs"] != package or fact is None:
            continue
        version = fact.exact or fact.at_least
        if at_least(version, row["since"]):
            # What Lightning needs belongs to the contents: who saves a checkpoint again needs no Lightning.
            says = f"{row['package']} {row['since']} and later need it"
            yield _Mark(package, row["package"] != "lightning", row["at_least"], None, says)


# ---------------------------------------------------------------- finding marks


def _marks(checkpoint: Checkpoint, view: LightningView) -> Iterator[_Mark]:
    table = data.load("producer")["marks"]
    for seen in (_container(checkpoint), _python(checkpoint), _numpy(checkpoint), _training(view), _layout(view)):
        for name in seen:
            row = table[name]
            yield _Mark(row["package"], row["of"] == "file", row["at_least"], row["below"], row["says"])


def _named(checkpoint: Checkpoint) -> Iterator[_Mark]:
    """Names that came or went with a version; an entry that ends in a dot stands for all names inside."""
    names = [g.full_name for g in checkpoint.globals]
    for row in data.load("producer")["names"]:
        name: str = row["name"]
        found = next((n for n in names if n == name or (name.endswith(".") and n.startswith(name))), None)
        if found is not None:
            yield _Mark(row["package"], True, row["at_least"], row["below"], f"the name {found}")


def _container(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.layout is Layout.TORCH_LEGACY:
        yield "legacy-layout"
    elif checkpoint.layout is Layout.TORCH_TAR:
        yield "tar-layout"
    if checkpoint.layout is not Layout.TORCH_ZIP:
        return
    yield "zip-layout"
    records = {r.name: r for r in checkpoint.records if not r.name.startswith("data/")}
    for record, mark in (
        ("byteorder", "byteorder"),
        (".data/serialization_id", "serialization-id"),
        (".format_version", "format-version"),
        (".storage_alignment", "storage-alignment"),
    ):
        if record in records:
            yield mark
    # In the order in which the pickle first names them, which is the order in which torch counts them.
    first = list(islice(checkpoint.storages, _FEW))
    if any(s.isdecimal() and len(s) >= 8 for s in first):
        yield "storage-addresses"
    elif first and first == [str(i) for i in range(len(first))]:
        yield "storage-numbers"
    version = records.get("version")
    # torch aligns what it writes; another program that packs the same records again may leave some out.
    if version is None or not _aligned(checkpoint):
        return
    for number in (2, 3):
        if version.crc32 == zlib.crc32(b"%d\n" % number):
            yield f"zip-version-{number}"
            if number == 3 and checkpoint.folder not in ("", _BUFFER):
                yield "folder-of-the-file"
    if ".format_version" not in records and ".storage_alignment" not in records:
        yield "no-format-version"
        if "byteorder" not in records and ".data/serialization_id" not in records:
            yield "no-byteorder"


def _aligned(checkpoint: Checkpoint) -> bool:
    """Whether torch packed it: its records begin at multiples of 64, those of another program hardly ever do."""
    return not any(r.span.start % 64 for r in islice(checkpoint.records, _FEW))


def _python(checkpoint: Checkpoint) -> Iterator[str]:
    """From the way in which python pickles its own objects."""
    stream = checkpoint.stream
    if stream is None:
        return
    if {_STRING, _BINSTRING, _SHORT_BINSTRING} & stream.opcodes.keys():
        yield "python-2-strings"
    elif checkpoint.storages:
        yield "python-3-strings"
    if stream.protocol in (4, 5):
        yield f"protocol-{stream.protocol}"
    for name, args in _calls(checkpoint, _TEXT_PATHS | {"fractions.Fraction"}):
        if name == "fractions.Fraction":
            yield "fraction-integers" if len(args) == 2 else "fraction-text"
        elif any(isinstance(a, str) and "/" in a and a.strip("/") for a in args):
            yield "path-joined"


def _numpy(checkpoint: Checkpoint) -> Iterator[str]:
    for _, args in _calls(checkpoint, frozenset({"numpy.dtype"})):
        if len(args) == 3:
            yield "numpy-dtype-booleans" if isinstance(args[1], bool) else "numpy-dtype-integers"


def _calls(checkpoint: Checkpoint, wanted: frozenset[str]) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Name and arguments of what the file constructs from some names."""
    if not checkpoint.pickles or not any(g.full_name in wanted for g in checkpoint.globals):
        return
    for call in checkpoint.pickles[0].calls:
        if call.name in wanted:
            yield call.name, tuple(call.args)


def _states(view: LightningView) -> Iterator[Value]:
    """Where states of optimizers and schedulers are: in the lists of Lightning, or by themselves in other files."""
    pairs = mapping_pairs(view.root) or []
    for _, value in pairs if len(pairs) <= _FEW else ():
        for state in value.items if isinstance(value, ListNode) else (value,):
            if len(mapping_pairs(state) or ()) <= _FEW:
                yield state


def _keys(value: Value) -> frozenset[str]:
    return frozenset(k for k, _ in mapping_pairs(value) or () if isinstance(k, str))


def _training(view: LightningView) -> Iterator[str]:
    numbers: list[int] = []
    for state in _states(view):
        keys = _keys(state)
        if keys >= _PLATEAU:
            yield "plateau-default-min-lr" if "default_min_lr" in keys else "plateau-no-default-min-lr"
            if "verbose" not in keys:
                yield "plateau-no-verbose"
        elif keys >= _SCHEDULER:
            yield "scheduler-is-initial" if "_is_initial" in keys else "scheduler-no-is-initial"
            if "verbose" in keys:
                yield "scheduler-verbose"
        for group in _groups(state):
            params = mapping_get(group, "params")
            numbers += [p for p in (params.items if isinstance(params, ListNode) else ()) if isinstance(p, int)]
            if mapping_has(group, "param_names"):
                yield "optimizer-names"
    if any(n >= _ADDRESS for n in numbers):
        yield "optimizer-addresses"
        if view.checkpoint.layout is Layout.TORCH_LEGACY:
            yield "legacy-addresses"
    elif numbers:
        yield "optimizer-numbers"


def _groups(state: Value) -> Iterator[Value]:
    groups = mapping_get(state, "param_groups")
    yield from groups.items if isinstance(groups, ListNode) else ()


def _optimizers(view: LightningView) -> Iterator[_Mark]:
    """Groups with exactly the keys of an optimizer of torch: one mark that spans all versions that have them."""
    table = data.load("producer")["optimizers"]
    beside = frozenset(table["beside"])
    for state in _states(view):
        for group in _groups(state):
            keys = _keys(group) - beside
            rows = [row for row in table["keys"] if keys == frozenset(row["keys"])]
            if rows:
                names = " or ".join(row["optimizer"] for row in rows)
                low = min((row["at_least"] for row in rows), key=release)
                ends = [row["below"] for row in rows]
                high = None if None in ends else max(ends, key=release)
                yield _Mark("torch", False, low, high, f"the keys of {names} in the optimizer's groups")


def _layout(view: LightningView) -> Iterator[str]:
    """What Lightning lays into the root, by version."""
    if view.kind != "lightning":
        return
    seen = list(_laid(view))
    if view.version is None and not seen:
        yield "lightning-no-version"
    yield from seen


def _laid(view: LightningView) -> Iterator[str]:
    if view.has("hyper_parameters"):
        yield "lightning-hyper-parameters"
    callbacks = mapping_pairs(view.get("callbacks"))
    if callbacks is not None:
        yield "lightning-callbacks"
        if any(isinstance(k, Global) for k, _ in callbacks):
            yield "lightning-callback-classes"
        elif any(isinstance(k, str) for k, _ in callbacks):
            yield "lightning-callback-names"
        if any(isinstance(k, str) and k.startswith("ModelCheckpoint{") and "save_on_train_epoch_end" in k
               for k, _ in callbacks):  # fmt: skip
            yield "lightning-checkpoint-key-old"
    loops = view.get("loops")
    if isinstance(loops, DictNode):
        yield "lightning-loops"
        inside = _keys(mapping_get(loops, "fit_loop"))
        if any(k.startswith("epoch_loop.batch_loop.") for k in inside):
            yield "lightning-batch-loop"
        if any(k.startswith("epoch_loop.automatic_optimization.") for k in inside):
            yield "lightning-automatic-optimization"
