"""Where a training stood when it was saved, where Lightning resumes it, and what to change where the two differ.

Since 1.6 Lightning counts by the progress of its loops, which lies under ``loops``; before, by ``epoch`` and
``global_step``. What each version reads and migrates is in ``data/migrations.json``, with the sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from relight.core.edits import Edit, MoveEntry, Plain, SetEntry
from relight.core.objects import ListNode, Value, mapping_get, mapping_has, mapping_pairs
from relight.facts import data
from relight.facts.lightning import VERSION_KEY, LightningView
from relight.facts.versions import at_least, release

# The first version that counts by loops, the first that migrates files when it loads them, and the one that renamed loops.
COUNTS_BY_LOOPS, MIGRATES, RENAMED = "1.6.0", "1.9.0", "2.0.0"
_BEFORE_VERSIONS = "0.7.6"  # the last that did not state its version
_FIT = ("loops", "fit_loop")
_AUTOMATIC = ("epoch_loop.automatic_optimization.optim_progress", "optimizer", "step")
_MANUAL = ("epoch_loop.manual_optimization.optim_step_progress",)


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a training.

    Attributes:
        epoch: Number of epochs that are finished, which is the index of the next one.
        step: Number of optimizer steps, as Lightning counts them.
    """

    epoch: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What a resume makes of a file.

    Attributes:
        saved: Where the training stood; None where the file does not say it.
        starts: Where Lightning starts; None where that is not known, or where it raises.
        edits: What makes Lightning start where the training stood; empty where nothing has to change.
        stored_step: ``global_step`` as it is stored, where that is not the number of steps.
        counted: What shows that number; empty where the stored one is taken as it is.
        unsure: What the file does not tell of the place, as a sentence; empty where it tells all.
    """

    saved: Point | None = None
    starts: Point | None = None
    edits: tuple[Edit, ...] = ()
    stored_step: int | None = None
    counted: str = ""
    unsure: str = ""

    @property
    def right(self) -> bool:
        """Whether Lightning starts where the training stood."""
        return self.saved is not None and self.saved == self.starts


def resume(view: LightningView, lightning: str, manual: bool | None = None) -> Resume:
    """What a version of Lightning makes of a file.

    Args:
        view: The file.
        lightning: The version that resumes.
        manual: Whether the model optimizes manually; None where that is not known.
    """
    return _Reading(view, lightning, manual).resume()


def written_by(view: LightningView) -> str | None:
    """The version that wrote a file; files of 0.7 do not state theirs. None where it is no file of Lightning."""
    if view.version is not None:
        return view.version if release(view.version) else None
    return _BEFORE_VERSIONS if view.kind == "lightning" and not view.has(VERSION_KEY) else None


class _Reading:
    def __init__(self, view: LightningView, lightning: str, manual: bool | None) -> None:
        self.view = view
        self.to = lightning
        self.wrote = written_by(view) or ""
        self.optimizers = _length(view.get("optimizer_states"))
        # Several optimizers cannot be optimized automatically since 2.0.
        self.manual = True if manual is None and self.optimizers > 1 and self._to(RENAMED) else manual
        loops = view.get("loops")
        self.loops = loops if mapping_pairs(loops) is not None else None
        self.fit = mapping_get(loops, "fit_loop") if self.loops is not None else None
        self.new_names = any(
            isinstance(k, str) and k.startswith(("epoch_loop.automatic_optim", "epoch_loop.manual_optim"))
            for k, _ in mapping_pairs(self.fit) or ()
        )

    def _to(self, version: str) -> bool:
        return at_least(self.to, version) is True

    def _wrote(self, version: str) -> bool:
        return at_least(self.wrote, version) is True

    # ------------------------------------------------------------ what the loops say

    def _name(self, name: str) -> str:
        """How the file calls a loop that is called ``name`` since 2.0."""
        return name if self.new_names else _OLD_NAMES.get(name, name)

    def _counter(self, path: Sequence[str]) -> int | None:
        value: Value = self.fit
        for i, step in enumerate((*path, "total", "completed")):
            value = mapping_get(value, self._name(step) if i == 0 else step)
        return value if type(value) is int else None

    @property
    def automatic(self) -> int | None:
        return self._counter(_AUTOMATIC)

    @property
    def by_hand(self) -> int | None:
        return self._counter(_MANUAL)

    @property
    def epoch(self) -> int | None:
        """Epochs that are finished: ``processed`` counts, ``completed`` follows it after the callbacks."""
        value = mapping_get(mapping_get(mapping_get(self.fit, "epoch_progress"), "current"), "processed")
        return value if type(value) is int else None

    @cached_property
    def complete(self) -> bool:
        """Whether the loops hold what 1.6 and newer count by, in a form that they can read."""
        if self.epoch is None or (self.automatic is None and self.by_hand is None):
            return False
        form = fit_loop(Point(0, 0), 0, old=not self.new_names)
        return all(
            _has_form(mapping_get(self.fit, name), value)
            for name, value in form.items()
            if not name.endswith("state_dict") and mapping_has(self.fit, name)
        )

    def _mode(self) -> bool | None:
        """Whether manual optimization counts the steps when the file is resumed; None where both count the same."""
        if self.manual is not None:
            return self.manual
        automatic, by_hand = self.automatic or 0, self.by_hand or 0
        return None if automatic == by_hand else by_hand > automatic

    def _steps(self, manual: bool | None) -> int:
        return (self.by_hand if manual else self.automatic) or 0

    # ------------------------------------------------------------ the two places

    def resume(self) -> Resume:
        if not self.wrote or not release(self.to):
            return Resume()
        saved, stored, counted, unsure = self._saved()
        if saved is None:
            return Resume()
        starts = self._starts()
        edits = self._edits(saved) if self._to(COUNTS_BY_LOOPS) and starts != saved else ()
        return Resume(
            saved=saved, starts=starts, edits=tuple(edits), stored_step=stored, counted=counted, unsure=unsure
        )

    def _saved(self) -> tuple[Point | None, int | None, str, str]:
        view = self.view
        stored = view.global_step
        if self.complete and self.epoch is not None:
            counts = {self.automatic or 0, self.by_hand or 0}
            return Point(self.epoch, stored if stored in counts and stored is not None else max(counts)), None, "", ""
        if view.epoch is None or stored is None:
            return None, None, "", ""
        if not self._wrote(COUNTS_BY_LOOPS):
            step, counted, unsure = _finished(view, view.epoch, stored)
            return Point(view.epoch, step), stored if step != stored else None, counted, unsure
        return (
            Point(view.epoch, stored),
            None,
            "",
            "Without loops, a file that ModelCheckpoint wrote at the end of an epoch names the epoch before: that one "
            "is trained again.",
        )

    def _starts(self) -> Point | None:
        view, stored = self.view, self.view.global_step
        if not self._to(COUNTS_BY_LOOPS):
            old = not self._wrote(COUNTS_BY_LOOPS)
            return Point(view.epoch, stored) if old and view.epoch is not None and stored is not None else None
        migrates = self._to(MIGRATES)
        if not self._wrote(COUNTS_BY_LOOPS):
            if self.loops is None:
                return None if stored is None else Point(0, stored)
            if not self.complete:
                return None  # the migration raises
            step = stored if migrates else self._steps(self._mode())
            return None if step is None else Point(self.epoch or 0, step)
        fallback = 0 if migrates else stored or 0
        if self.loops is None:
            return Point(0, fallback)
        if self.fit is None or mapping_pairs(self.fit) is None:
            return None  # KeyError: 'fit_loop'
        understood = self.new_names if self._wrote(RENAMED) or not self._to(RENAMED) else True
        if self._to(RENAMED) != understood:
            return Point(self.epoch or 0, fallback)
        return Point(self.epoch or 0, self._steps(self._mode()))

    # ------------------------------------------------------------ what makes them the same

    def _edits(self, saved: Point) -> list[Edit]:
        # The names that Lightning will look for: it renames them itself where the file says that it is older.
        old = not self._to(RENAMED) or not self._wrote(RENAMED)
        edits: list[Edit] = []
        if not self.complete:
            # Before 1.6 a step was a batch, however many optimizers there were.
            batches = saved.step // max(self.optimizers, 1) if self._wrote(COUNTS_BY_LOOPS) else saved.step
            fit = fit_loop(saved, batches, old=old)
            whole = self.loops is None
            edits.append(SetEntry(("loops",), {"fit_loop": fit}) if whole else SetEntry(_FIT, fit))
        else:
            edits += self._renamed(old)
            edits += self._counted(saved.step, old=old)
        if self.view.global_step != saved.step:
            edits.append(SetEntry(("global_step",), saved.step))
        if not self._to(RENAMED) and self._wrote(RENAMED):
            edits.append(SetEntry((VERSION_KEY,), self.to))
        return edits

    def _renamed(self, old: bool) -> list[Edit]:
        """Names of loops for the version that reads them."""
        names = [k for k, _ in mapping_pairs(self.fit) or () if isinstance(k, str)]
        pairs = _OLD_NAMES if old else {v: k for k, v in _OLD_NAMES.items()}
        edits: list[Edit] = [MoveEntry((*_FIT, k), (*_FIT, pairs[k])) for k in names if k in pairs]
        if old and self.new_names:
            progress = (*_FIT, _OLD_NAMES[_AUTOMATIC[0]], "optimizer_position")
            edits.append(SetEntry(progress, max(self.optimizers, 1)))
            edits += [
                MoveEntry(("loops", loop, "batch_progress"), ("loops", loop, "epoch_loop.batch_progress"))
                for loop in data.load("migrations")["loop_names"]["evaluation_loops"]
                if mapping_has(mapping_get(self.loops, loop), "batch_progress")
            ]
        return edits

    def _counted(self, step: int, *, old: bool) -> list[Edit]:
        """The counters that are read when the file is resumed; the current ones begin anew with the epoch."""
        edits: list[Edit] = []
        several = self.manual is None and self.optimizers > 1
        for manual, path, count in ((False, _AUTOMATIC, self.automatic), (True, _MANUAL, self.by_hand)):
            wanted = several or self._mode() in (None, manual)
            if not wanted or count == step:
                continue
            name = _OLD_NAMES[path[0]] if old else path[0]
            if count is None:
                edits.append(SetEntry((*_FIT, name), fit_loop(Point(0, step), 0, old=old)[name]))
                continue
            total = (*_FIT, name, *path[1:], "total")
            edits += [SetEntry((*total, "ready"), step), SetEntry((*total, "completed"), step)]
        return edits


def _finished(view: LightningView, epoch: int, stored: int) -> tuple[int, str, str]:
    """Steps that were finished: versions before 1.6 store one more where the training had ended.

    Returns:
        The number, what shows it, and what is not known.
    """
    counts = {n for n in _adam_steps(view.get("optimizer_states")) if n in (stored, stored - 1)}
    if len(counts) == 1:
        count = counts.pop()
        return count, f"Each tensor of the optimizer's state has seen {count} steps." if count != stored else "", ""
    if epoch > 0 and stored > 1:
        fits = [n for n in (stored, stored - 1) if n % epoch == 0]
        if len(fits) == 1:
            return fits[0], f"{epoch} epochs of equal length are {fits[0]} steps." if fits[0] != stored else "", ""
    return (
        stored,
        "",
        "Whether the last step of the file is finished is not known: versions before 1.6 may count one more.",
    )


def _adam_steps(states: Value) -> list[int]:
    """The greatest ``step`` of each optimizer, where it is a plain number."""
    out: list[int] = []
    for state in states.items if isinstance(states, ListNode) else ():
        found = [mapping_get(entry, "step") for _, entry in mapping_pairs(mapping_get(state, "state")) or ()]
        numbers = [n for n in found if type(n) is int]
        if numbers:
            out.append(max(numbers))
    return out


def _length(value: Value) -> int:
    return len(value.items) if isinstance(value, ListNode) else 0


_OLD_NAMES: dict[str, str] = dict(data.load("migrations")["loop_names"]["pairs"])


def _has_form(value: Value, form: Plain) -> bool:
    """Whether a value has all the entries of a state of progress."""
    if not isinstance(form, dict):
        return isinstance(value, (bool, int))
    return all(mapping_has(value, k) and _has_form(mapping_get(value, k), v) for k, v in form.items())


def fit_loop(at: Point, batches: int, *, old: bool) -> dict[str, Plain]:
    """The state of the loops of a training that has finished some epochs and is to begin the next.

    Args:
        at: Where it stands.
        batches: After how many batches an optimizer has stepped: loggers count by it.
        old: Whether for the names of before 2.0.
    """

    def tracker(count: int, *names: str) -> dict[str, Plain]:
        return dict.fromkeys(names, count)

    def progress(count: int, *names: str, current: int = 0) -> dict[str, Plain]:
        return {"total": tracker(count, *names), "current": tracker(current, *names)}

    pair, three = ("ready", "completed"), ("ready", "completed", "started")
    four = (*three, "processed")
    none: dict[str, Plain] = {**progress(0, *four), "is_last_batch": False}
    optimization: dict[str, Plain] = {
        "optimizer": {"step": progress(at.step, *pair), "zero_grad": progress(at.step, *three)}
    }
    if old:
        optimization["optimizer_position"] = 0
    state: dict[str, Plain] = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": batches},
        "epoch_loop.batch_progress": none,
        "epoch_loop.scheduler_progress": progress(0, *pair),
        "epoch_loop.automatic_optimization.state_dict": {},
        _AUTOMATIC[0]: optimization,
        "epoch_loop.manual_optimization.state_dict": {},
        _MANUAL[0]: progress(at.step, *pair),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": none,
        "epoch_progress": progress(at.epoch, *four, current=at.epoch),
    }
    if not old:
        return state
    out = {_OLD_NAMES.get(name, name): value for name, value in state.items()}
    out["epoch_loop.batch_loop.state_dict"] = {}
    out["epoch_loop.val_loop.dataloader_progress"] = progress(0, *pair)
    out["epoch_loop.val_loop.epoch_loop.state_dict"] = {}
    return out
