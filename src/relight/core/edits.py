"""What a repair changes, as values: the closed list of edits, the plan that holds them, and the receipt.

All edits of a plan name keys, entries and names as the *source* has them, and are applied at once: swapping two names
is one edit, and no edit sees what another has made. A plan is for one file, which its digest says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from relight.core.finding import Report

PLAN_SCHEMA = "relight/plan/1"
RECEIPT_SCHEMA = "relight/fix/1"

# What JSON can hold: a plan can be written down, read by a person and applied elsewhere.
Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"


@dataclass(frozen=True, slots=True)
class RenameKeys:
    """Tensors of the state_dict get other names.

    Attributes:
        pairs: (name in the file, new name).
    """

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DropKeys:
    """Tensors of the state_dict are left out.

    Attributes:
        keys: Their names in the file.
    """

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddNames:
    """Tensors of the state_dict get a second name on the same storage, as tied weights have.

    Attributes:
        pairs: (name in the file, further name).
    """

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ConvertTensors:
    """Tensors are turned, cut or put together; no value changes.

    Attributes:
        pairs: (new name, names in the file, op, shape), ops as `relight.facts.mapper.pairs.Pair` writes them. Sources
            that no pair of a plan keeps under their own name are gone afterwards.
    """

    pairs: tuple[tuple[str, tuple[str, ...], str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class ReplaceGlobal:
    """A name that the pickle refers to is written as another.

    Attributes:
        old: ``module.name`` in the file.
        new: What stands there instead.
    """

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class SetEntry:
    """An entry of the root, or of a dict below it, is set; it is made where it is not there.

    Attributes:
        path: Keys from the root: ``("hyper_parameters", "lr")``; a number in it may be a place in a list.
        value: What it becomes.
    """

    path: tuple[str, ...]
    value: Plain


@dataclass(frozen=True, slots=True)
class DropEntry:
    """An entry of the root, or of a dict below it, is left out.

    Attributes:
        path: Keys from the root.
    """

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MoveEntry:
    """An entry gets another key, there or in another dict, which is made where it is not; or the root becomes an entry.

    Attributes:
        old: Keys from the root; empty for the root itself, which becomes an entry of a new one.
        new: Keys from the root; a single one where ``old`` is empty.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WrapEntry:
    """What stands under an entry becomes the only item of a dict there, under a name of its own.

    Attributes:
        path: Keys from the root.
        key: The name.
        instead: Entries of the root that said the same, and go.
        attributes: Whether the values of what stands there, a dict, can be read by attribute as well afterwards.
    """

    path: tuple[str, ...]
    key: str
    instead: tuple[str, ...] = ()
    attributes: bool = False


@dataclass(frozen=True, slots=True)
class ComputeTensors:
    """Tensors get values that the file does not hold: computed from others, taken from the target, or drawn.

    Attributes:
        tensors: (name, names in the file that it is made of, how, shape, dtype). ``how`` is one of ``fold:DIM``
            (weight_norm's magnitude and direction to the weight), ``norm:DIM`` (the weight's magnitude),
            ``rows:POLICY`` (other rows at the end, cut or the mean of those that are there), ``grid:KEPT`` (positions of
            a square, interpolated, the first KEPT as they are), ``uniform:FAN`` (drawn as torch draws those of a linear
            layer of so many inputs), ``cast``, and ``value:BASE64`` (these very bytes).
    """

    tensors: tuple[tuple[str, tuple[str, ...], str, tuple[int, ...], str], ...]


@dataclass(frozen=True, slots=True)
class SetDevice:
    """All storages say that they come from another device.

    Attributes:
        device: Location tag, as ``cpu``.
    """

    device: str


@dataclass(frozen=True, slots=True)
class MakePlain:
    """Objects that ``weights_only=True`` refuses become plain data, or are left out.

    Attributes:
        changes: (where, what it was, what it becomes), for people: which objects are concerned follows from the file.
        objects: Whether objects of the user's classes become their attributes, and members of enums their values;
            where False, they stop the repair, since code may then take another path without an error.
        drop: Whether objects that have no plain form are left out; where False, they stop the repair.
        keep: Classes, as ``module.name``, whose objects stay what they are: whoever loads the file allows them.
    """

    changes: tuple[tuple[str, str, str], ...] = ()
    objects: bool = False
    drop: bool = False
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArrangeOptimizer:
    """The states of an optimizer are given to the parameters of another order, or of other groups.

    Attributes:
        optimizer: Which of ``optimizer_states``.
        groups: For each parameter of each group: positions of the parameters in the file, over all groups, whose states
            make its own (none: it starts without), the op as in `ConvertTensors`, and its shape.
        options_of: For each group, the group of the file whose options it has; empty where they are as many.
    """

    optimizer: int
    groups: tuple[tuple[tuple[tuple[int, ...], str, tuple[int, ...]], ...], ...]
    options_of: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OrderKeys:
    """Tensors of the state_dict stand in another order; a load goes by name, and does not notice.

    Attributes:
        keys: Names after all other edits, in their order. Those that are there take the places that they have together;
            others stay where they are.
    """

    keys: tuple[str, ...]


Edit: TypeAlias = (
    "ArrangeOptimizer | OrderKeys | RenameKeys | DropKeys | AddNames | ConvertTensors | ComputeTensors | ReplaceGlobal | "
    "SetEntry | DropEntry | MoveEntry | WrapEntry | SetDevice | MakePlain"
)

_KINDS: dict[str, type[Any]] = {
    "rename-keys": RenameKeys,
    "drop-keys": DropKeys,
    "add-names": AddNames,
    "convert-tensors": ConvertTensors,
    "compute-tensors": ComputeTensors,
    "replace-global": ReplaceGlobal,
    "set-entry": SetEntry,
    "drop-entry": DropEntry,
    "move-entry": MoveEntry,
    "wrap-entry": WrapEntry,
    "set-device": SetDevice,
    "make-plain": MakePlain,
    "arrange-optimizer": ArrangeOptimizer,
    "order-keys": OrderKeys,
}
_NAMES = {cls: kind for kind, cls in _KINDS.items()}


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """JSON form of an edit: its kind and its fields."""
    return {"edit": _NAMES[type(edit)], **{name: _listed(getattr(edit, name)) for name in type(edit).__slots__}}


def edit_from_dict(data: Mapping[str, Any]) -> Edit:
    """Read the form of `edit_to_dict`.

    Raises:
        ValueError: It is none.
    """
    fields = dict(data)
    cls = _KINDS.get(str(fields.pop("edit", None)))
    if cls is None:
        raise ValueError(f"there is no edit {data.get('edit')!r}")
    if set(fields) != set(cls.__slots__):
        raise ValueError(f"an edit {data.get('edit')!r} has the fields {', '.join(cls.__slots__)}")
    # The value of an entry is data of its own; in all other fields a list stands for a tuple.
    edit: Edit = cls(**{name: v if name == "value" else _frozen(v) for name, v in fields.items()})
    _check(edit)
    return edit


def _check(edit: Edit) -> None:
    """Types of the fields: a plan may come from anywhere."""
    kind = _NAMES[type(edit)]

    def texts(values: object, count: int | None = None) -> bool:
        return (
            isinstance(values, tuple)
            and all(isinstance(v, str) for v in values)
            and (count is None or len(values) == count)
        )

    good = True
    if isinstance(edit, (RenameKeys, AddNames)):
        good = isinstance(edit.pairs, tuple) and all(texts(p, 2) for p in edit.pairs)
    elif isinstance(edit, (DropKeys, OrderKeys)):
        good = texts(edit.keys)
    elif isinstance(edit, ConvertTensors):
        good = isinstance(edit.pairs, tuple) and all(
            isinstance(p, tuple)
            and len(p) == 4
            and isinstance(p[0], str)
            and texts(p[1])
            and isinstance(p[2], str)
            and isinstance(p[3], tuple)
            and all(type(n) is int and n >= 0 for n in p[3])
            for p in edit.pairs
        )
    elif isinstance(edit, ComputeTensors):
        good = isinstance(edit.tensors, tuple) and all(
            isinstance(t, tuple)
            and len(t) == 5
            and texts((t[0], t[2], t[4]))
            and texts(t[1])
            and isinstance(t[3], tuple)
            and all(type(n) is int and n >= 0 for n in t[3])
            for t in edit.tensors
        )
    elif isinstance(edit, WrapEntry):
        good = texts(edit.path) and bool(edit.path) and texts((edit.key,)) and texts(edit.instead)
        good = good and type(edit.attributes) is bool
    elif isinstance(edit, ReplaceGlobal):
        good = texts((edit.old, edit.new))
    elif isinstance(edit, MoveEntry):
        good = texts(edit.old) and texts(edit.new) and bool(edit.new) and (bool(edit.old) or len(edit.new) == 1)
    elif isinstance(edit, (SetEntry, DropEntry)):
        good = texts(edit.path) and bool(edit.path)
    elif isinstance(edit, SetDevice):
        good = texts((edit.device,))
    elif isinstance(edit, ArrangeOptimizer):
        members = [m for g in edit.groups for m in g] if isinstance(edit.groups, tuple) else [()]
        good = type(edit.optimizer) is int and edit.optimizer >= 0
        good = good and isinstance(edit.options_of, tuple) and all(type(n) is int and n >= 0 for n in edit.options_of)
        good = good and all(
            isinstance(m, tuple)
            and len(m) == 3
            and isinstance(m[1], str)
            and all(isinstance(part, tuple) and all(type(n) is int and n >= 0 for n in part) for part in (m[0], m[2]))
            for m in members
        )
    else:
        good = isinstance(edit.changes, tuple) and all(texts(c, 3) for c in edit.changes)
        good = good and type(edit.objects) is bool and type(edit.drop) is bool and texts(edit.keep)
    if not good:
        raise ValueError(f"the fields of an edit {kind!r} are not what they should be")


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A fix that a plan takes, or does not take.

    Attributes:
        code: Of the rule.
        name: Of the rule.
        message: What the finding says.
        title: What the fix does.
        allow: What ``--allow`` calls it; None where it needs no permission.
        reason: Why it is not taken; empty where it is.
        assumed: Whether it rests on something that the file cannot confirm: an order, which name is which.
    """

    code: str
    name: str
    message: str
    title: str
    allow: str | None = None
    reason: str = ""
    assumed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "code": self.code,
            "name": self.name,
            "message": self.message,
            "title": self.title,
            "allow": self.allow,
            "reason": self.reason,
            "assumed": self.assumed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a repair will do to one file: can be looked at, kept, and applied elsewhere.

    Attributes:
        source: Path of the file, as given.
        digest: What tells the file from any other.
        edits: What changes.
        chosen: The fixes that it takes, root cause first.
        rejected: Those that it does not take, with the reasons.
    """

    source: str
    digest: str
    edits: tuple[Edit, ...] = ()
    chosen: tuple[Choice, ...] = ()
    rejected: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``relight/plan/1``."""
        from relight.core.version import __version__

        return {
            "schema": PLAN_SCHEMA,
            "relight_version": __version__,
            "source": self.source,
            "digest": self.digest,
            "edits": [edit_to_dict(e) for e in self.edits],
            "chosen": [c.to_dict() for c in self.chosen],
            "rejected": [c.to_dict() for c in self.rejected],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read the form of `to_dict`.

        Raises:
            ValueError: The mapping is not a plan.
        """
        if not isinstance(data, Mapping) or data.get("schema") != PLAN_SCHEMA:
            raise ValueError(f"not a plan: the schema is not {PLAN_SCHEMA}")
        try:
            chosen, rejected = (
                tuple(Choice(**{str(k): v for k, v in c.items()}) for c in data[name])
                for name in ("chosen", "rejected")
            )
            edits = tuple(edit_from_dict(e) for e in data["edits"])
            return cls(
                source=str(data["source"]), digest=str(data["digest"]), edits=edits, chosen=chosen, rejected=rejected
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a plan: {error}") from None


Loaded: TypeAlias = 'Literal["yes", "no", "not-tried"]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What writing the new file did.

    Attributes:
        path: The new file.
        digest: What tells it from any other.
        changes: (what, how), a line each, for people.
        copied: Records that were copied byte by byte.
        rewritten: Records that were written anew.
        left_out: Records that nothing refers to any more.
        bytes_copied: Size of those that were copied.
        untouched: Tensors whose bytes and description stay what they were, whatever they are called.
        changed: Tensors that were turned, cut or put together.
        new_storages: For the proof: (new record, old record) of every storage that was copied.
        whole: Whether a pickle was written anew rather than edited in place of a few tokens.
        pickle: SHA-256 of the pickle that was written; empty for files that have none.
        assumed: (what, how) of changes after which code may take another path without an error.
        dropped: (what, how) of what the new file does not hold any more.
        invented: (what, how) of values that no file held.
    """

    path: str
    digest: str
    changes: tuple[tuple[str, str], ...] = ()
    copied: int = 0
    rewritten: int = 0
    left_out: int = 0
    bytes_copied: int = 0
    untouched: int = 0
    changed: int = 0
    new_storages: tuple[tuple[str, str], ...] = ()
    whole: bool = False
    pickle: str = ""
    assumed: tuple[tuple[str, str], ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    invented: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The proof that a repair did what it says and nothing else.

    Attributes:
        plan: What was to be done.
        written: What was done.
        checks: (what was asked, whether it holds, in words), in order.
        verdict: The answer on the new file, as `relight.core.finding.Verdict` says it; None where nobody asked.
        gone: Findings that are no longer there.
        left: Findings that are still there.
        new: Findings that were not there before.
        loaded: Whether it was really loaded.
        loaded_by: What loaded it, or why that was not tried.
    """

    plan: Plan
    written: Written
    checks: tuple[tuple[str, bool, str], ...] = ()
    verdict: str | None = None
    gone: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    loaded: Loaded = "not-tried"
    loaded_by: str = ""

    @property
    def holds(self) -> bool:
        """Whether everything that was asked holds."""
        return all(ok for _, ok, _ in self.checks) and self.loaded != "no"

    @property
    def assumed(self) -> tuple[tuple[str, str], ...]:
        """(what, how) of what no check can confirm: which name is which, whether code needs more than plain data."""
        chosen = tuple((c.message, c.title) for c in self.plan.chosen if c.assumed)
        return (*chosen, *self.written.assumed)

    @property
    def proved(self) -> bool:
        """Whether everything holds, and nothing was assumed, left out or invented."""
        return self.holds and not (self.assumed or self.written.dropped or self.written.invented)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``relight/fix/1``."""
        from relight.core.version import __version__

        written = self.written
        return {
            "schema": RECEIPT_SCHEMA,
            "relight_version": __version__,
            "source": {"path": self.plan.source, "digest": self.plan.digest},
            "output": {"path": written.path, "digest": written.digest},
            "holds": self.holds,
            "proved": self.proved,
            **{
                name: [{"what": what, "text": text} for what, text in lines]
                for name, lines in (
                    ("assumed", self.assumed),
                    ("dropped", written.dropped),
                    ("invented", written.invented),
                )
            },
            "plan": self.plan.to_dict(),
            "changes": [{"what": what, "text": text} for what, text in written.changes],
            "records": {
                "copied": written.copied,
                "rewritten": written.rewritten,
                "left_out": written.left_out,
                "bytes_copied": written.bytes_copied,
            },
            "tensors": {"untouched": written.untouched, "changed": written.changed},
            "checks": [{"check": what, "holds": ok, "text": text} for what, ok, text in self.checks],
            "verdict": self.verdict,
            "findings": {"gone": list(self.gone), "left": list(self.left), "new": list(self.new)},
            "loaded": {"answer": self.loaded, "by": self.loaded_by},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What `relight.load` did to load a model.

    Attributes:
        origin: The checkpoint, as given.
        class_name: Class of the model.
        plan: What was changed in memory; None where the file was loaded as it is.
        changes: (what, how) of each change, for people.
        initial: Tensors of the model that the file does not have, after a load that was not strict: they stay what the
            constructor made them.
        unused: Tensors of the file that the model does not have, after such a load.
        report: What `check` says of the file as it is and of the class; None where that cannot be asked.
        proved: Whether the model was asked what it answered when it was saved, and answered the same.
    """

    origin: str
    class_name: str
    plan: Plan | None = None
    changes: tuple[tuple[str, str], ...] = ()
    initial: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    report: Report | None = None
    proved: bool = False

    @property
    def repaired(self) -> bool:
        """Whether the model was loaded from something else than the file as it is."""
        return self.plan is not None

    def __str__(self) -> str:
        how = "as it is" if self.plan is None else "repaired in memory"
        lines = [f"{self.origin}: loaded into {self.class_name}{', ' if self.repaired else ' '}{how}"]
        width = max((len(what) for what, _ in self.changes), default=0)
        lines += [f"  {what.ljust(width)}  {how}" for what, how in self.changes]
        for title, keys in (("At initial values", self.initial), ("In the file, not used", self.unused)):
            if keys:
                more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
                lines.append(f"  {title}: {', '.join(keys[:5])}{more}")
        return "\n".join(lines)
