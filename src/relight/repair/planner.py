"""From findings to a plan: which fixes are taken, which are not, and why; their edits put together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from relight.core.edits import (
    AddNames,
    ArrangeOptimizer,
    Choice,
    ComputeTensors,
    ConvertTensors,
    DropEntry,
    DropKeys,
    Edit,
    MakePlain,
    MoveEntry,
    OrderKeys,
    Plan,
    RenameKeys,
    ReplaceGlobal,
    SetDevice,
    SetEntry,
    WrapEntry,
)
from relight.core.errors import UsageError
from relight.core.finding import Applicability, Fix, Report


def plan(report: Report, digest: str, allow: Collection[str] = ()) -> Plan:
    """Choose from the fixes of a report.

    Safe ones are taken unasked; any other only where its name is allowed. Of several fixes of one finding the one that
    was asked for by name goes first.

    Args:
        report: What is wrong with the file.
        digest: What tells the file from any other.
        allow: Names of fixes that need permission.

    Raises:
        UsageError: A name that no fix of this report has.
    """
    _check_names(report, allow)
    chosen: list[Choice] = []
    rejected: list[Choice] = []
    composed = _Composed()
    for finding in report.findings:
        candidates = [f for f in finding.fixes if f.edits]
        candidates.sort(key=lambda f: f.allow not in allow)
        taken = False
        for fix in candidates:
            reason = _reason(fix, allow, taken=taken)
            if not reason:
                reason = composed.add(fix.edits)
            choice = Choice(
                code=finding.code,
                name=finding.name,
                message=finding.message,
                title=fix.title.rstrip(":"),
                allow=fix.allow,
                reason=reason,
                assumed=fix.applicability is Applicability.MANUAL,
            )
            taken = taken or not reason
            (rejected if reason else chosen).append(choice)
    return Plan(
        source=report.origin,
        digest=digest,
        edits=composed.edits(),
        chosen=tuple(chosen),
        rejected=tuple(rejected),
    )


def with_states(made: Plan, arrangement: Sequence[ArrangeOptimizer | OrderKeys]) -> Plan:
    """The plan with the states of optimizers given to the parameters as its other edits name and make them."""
    if any(isinstance(e, SetEntry) and e.path == ("optimizer_states",) for e in made.edits):
        return made  # they are left out on request
    others = [e for e in made.edits if not isinstance(e, (ArrangeOptimizer, OrderKeys))]
    # Options are those of the new groups: they are set once these are there, and go where they do not come.
    by_group = [
        e
        for e in others
        if isinstance(e, SetEntry) and len(e.path) > 1 and e.path[0] in ("optimizer_states", "lr_schedulers")
    ]
    without_schedulers = any(isinstance(e, SetEntry) and e.path == ("lr_schedulers",) for e in others)
    stays = bool(arrangement) or len(others) == len(made.edits)
    kept = [e for e in by_group if e.path[0] == "optimizer_states" or not without_schedulers] if stays else []
    made = replace(made, edits=(*(e for e in others if e not in by_group), *arrangement, *kept))
    if arrangement:
        return made
    # What was to arrange them rests on names that this plan does not make.
    open_ones = [c for c in made.chosen if c.name == "optimizer-differs"]
    instead = [
        replace(c, reason=f"only with --allow {c.allow}")
        if open_ones and c.name == "optimizer-differs" and c.allow is not None
        else c
        for c in made.rejected
    ]
    return replace(
        made,
        chosen=tuple(c for c in made.chosen if c not in open_ones),
        rejected=(*instead, *(replace(c, reason="its tensors come first") for c in open_ones)),
    )


def with_wishes(made: Plan, wishes: Sequence[SetEntry]) -> Plan:
    """The plan with what the user wants besides; it wins over what the plan would do in the same place."""
    places = {e.path for e in wishes}
    gone = ("optimizer_states",) in places
    kept = tuple(
        e
        for e in made.edits
        if not (isinstance(e, SetEntry) and any(e.path[: len(p)] == p for p in places))
        and not (gone and isinstance(e, (ArrangeOptimizer, OrderKeys)))
    )
    return replace(made, edits=(*kept, *wishes))


def names_to_allow(report: Report) -> list[str]:
    """What ``--allow`` may name for this report."""
    return list(dict.fromkeys(f.allow for x in report.findings for f in x.fixes if f.edits and f.allow is not None))


def _check_names(report: Report, allow: Collection[str]) -> None:
    known = names_to_allow(report)
    for name in allow:
        if name not in known:
            hint = f"For this file: {', '.join(known)}." if known else "Nothing in this file needs permission."
            raise UsageError(f"there is nothing called {name} to allow", hint)


def _reason(fix: Fix, allow: Collection[str], *, taken: bool) -> str:
    if taken:
        return "another fix of the same finding is taken"
    if fix.allow in allow:
        return ""
    if fix.applicability is not Applicability.SAFE:
        return f"only with --allow {fix.allow}"
    return ""


class _Composed:
    """Edits of several fixes as one set; one that contradicts those before it is turned away."""

    def __init__(self) -> None:
        self.renamed: dict[str, str] = {}
        self.dropped: list[str] = []
        self.added: list[tuple[str, str]] = []
        self.converted: list[tuple[str, tuple[str, ...], str, tuple[int, ...]]] = []
        self.computed: dict[str, tuple[str, tuple[str, ...], str, tuple[int, ...], str]] = {}
        self.entries: dict[tuple[str, ...], SetEntry | DropEntry | MoveEntry] = {}
        self.wraps: dict[tuple[str, ...], WrapEntry] = {}
        self.names: dict[str, ReplaceGlobal] = {}
        self.device: SetDevice | None = None
        self.plain: MakePlain | None = None
        self.optimizers: dict[int, ArrangeOptimizer] = {}
        self.order: OrderKeys | None = None

    def add(self, edits: Sequence[Edit]) -> str:
        """Take edits; why not, where they contradict others, and then none of them is taken."""
        reason = next((r for r in map(self._conflict, edits) if r), "")
        if reason:
            return reason
        for edit in edits:
            self._take(edit)
        return ""

    def _conflict(self, edit: Edit) -> str:
        if isinstance(edit, RenameKeys):
            for old, new in edit.pairs:
                if self.renamed.get(old, new) != new:
                    return f"{old} is renamed to {self.renamed[old]} already"
                if old in self.dropped or old in self._parts():
                    return f"{old} is left out or made into another tensor already"
            taken = {*self.renamed.values(), *(n for _, n in self.added), *(c[0] for c in self.converted)}
            mine = {old for old, _ in edit.pairs}
            double = next((n for o, n in edit.pairs if n in taken and self.renamed.get(o) != n), None)
            if double is not None and double not in mine:
                return f"another tensor gets the name {double} already"
        elif isinstance(edit, DropKeys):
            both = [k for k in edit.keys if k in self.renamed or k in self._parts()]
            if both:
                return f"{both[0]} is renamed or made into another tensor already"
        elif isinstance(edit, ConvertTensors):
            both = [s for _, sources, _, _ in edit.pairs for s in sources if s in self.renamed or s in self.dropped]
            if both:
                return f"{both[0]} is renamed or left out already"
        elif isinstance(edit, (SetEntry, DropEntry, MoveEntry)):
            known = self.entries.get(_place(edit))
            if known is not None and known != edit:
                return f"{'.'.join(_place(edit))} is changed already"
        elif isinstance(edit, ComputeTensors):
            for new, sources, *_ in edit.tensors:
                if new in self.computed or new in self.renamed.values():
                    return f"another tensor gets the name {new} already"
                both = [s for s in sources if s in self.dropped or s in self._parts()]
                if both:
                    return f"{both[0]} is left out or made into another tensor already"
        elif isinstance(edit, WrapEntry):
            if self.wraps.get(edit.path, edit) != edit:
                return f"{'.'.join(edit.path)} is wrapped already"
        elif isinstance(edit, ReplaceGlobal):
            if self.names.get(edit.old, edit) != edit:
                return f"{edit.old} is replaced already"
        elif isinstance(edit, ArrangeOptimizer):
            if self.optimizers.get(edit.optimizer, edit) != edit:
                return f"the states of optimizer {edit.optimizer} are arranged already"
        elif isinstance(edit, OrderKeys) and self.order not in (None, edit):
            return "the tensors are put in order already"
        elif isinstance(edit, SetDevice) and self.device not in (None, edit):
            return "the device is set already"
        return ""

    def _parts(self) -> set[str]:
        return {s for _, sources, _, _ in self.converted for s in sources} | {
            s for t in self.computed.values() for s in t[1]
        }

    def _take(self, edit: Edit) -> None:
        if isinstance(edit, RenameKeys):
            self.renamed.update(edit.pairs)
        elif isinstance(edit, DropKeys):
            self.dropped += [k for k in edit.keys if k not in self.dropped]
        elif isinstance(edit, AddNames):
            self.added += [p for p in edit.pairs if p not in self.added]
        elif isinstance(edit, ConvertTensors):
            self.converted += [p for p in edit.pairs if p not in self.converted]
        elif isinstance(edit, ComputeTensors):
            self.computed.update((t[0], t) for t in edit.tensors)
        elif isinstance(edit, WrapEntry):
            self.wraps[edit.path] = edit
        elif isinstance(edit, (SetEntry, DropEntry, MoveEntry)):
            self.entries[_place(edit)] = edit
        elif isinstance(edit, ReplaceGlobal):
            self.names[edit.old] = edit
        elif isinstance(edit, ArrangeOptimizer):
            self.optimizers[edit.optimizer] = edit
        elif isinstance(edit, OrderKeys):
            self.order = edit
        elif isinstance(edit, SetDevice):
            self.device = edit
        else:
            known = self.plain or MakePlain()
            changes = known.changes + tuple(c for c in edit.changes if c not in known.changes)
            self.plain = MakePlain(
                changes,
                objects=known.objects or edit.objects,
                drop=known.drop or edit.drop,
                keep=known.keep or edit.keep,
            )

    def _outermost(self) -> list[SetEntry | DropEntry | MoveEntry]:
        """Changes of entries, without those inside of an entry that is replaced or left out as a whole."""
        whole = {place for place, edit in self.entries.items() if not isinstance(edit, MoveEntry)}
        return [
            edit
            for place, edit in self.entries.items()
            if isinstance(edit, MoveEntry) or not any(place[:n] in whole for n in range(1, len(place)))
        ]

    def edits(self) -> tuple[Edit, ...]:
        """All of them, what concerns most first."""
        out: list[Edit | None] = [
            RenameKeys(tuple(self.renamed.items())) if self.renamed else None,
            ConvertTensors(tuple(self.converted)) if self.converted else None,
            ComputeTensors(tuple(self.computed.values())) if self.computed else None,
            AddNames(tuple(self.added)) if self.added else None,
            DropKeys(tuple(self.dropped)) if self.dropped else None,
            *self.optimizers.values(),
            self.order,
            # What moves first: entries that are set may stand in what it makes.
            *sorted(self._outermost(), key=lambda e: not isinstance(e, MoveEntry)),
            *self.wraps.values(),
            *self.names.values(),
            self.device,
            self.plain,
        ]
        return tuple(e for e in out if e is not None)


def _place(edit: SetEntry | DropEntry | MoveEntry) -> tuple[str, ...]:
    return edit.old if isinstance(edit, MoveEntry) else edit.path
