"""RL606."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import DropEntry, SetEntry
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Prediction, Severity, Stage
from relight.core.target import GroupSpec, Intent, IntentCall, OptimizerSpec, SchedulerSpec, TrainingSpec
from relight.facts.describe import counted, listed
from relight.facts.facts import Facts
from relight.facts.schedulers import Lacking, Pairing, begun, changed, kinds, lacking, saved_schedulers
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_RESUME = Intent(call=IntentCall.RESUME)
_BASE = {"base_lrs": [0.1], "last_epoch": 2, "_step_count": 3, "_last_lr": [0.05]}
_STEP = {"step_size": 1, "gamma": 0.5, **_BASE}
_OTHERS = ("base_lrs", "_last_lr")


def _file(*states: dict[str, object], **entries: object) -> File:
    group = {"lr": 0.05, "initial_lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0, "params": [0, 1]}
    group.update(entries)
    whole = {"epoch": 0, "global_step": 0, "optimizer_states": [{"state": {}, "param_groups": [group]}]}
    return File(extra={**whole, "lr_schedulers": list(states)})


def _model(*schedulers: SchedulerSpec) -> Model:
    group = GroupSpec(("net.weight", "net.bias"), {"lr": 0.1}, ("betas",))
    made = OptimizerSpec("torch.optim.adam.Adam", (group,))
    return Model(training=TrainingSpec(optimizers=(made,), schedulers=schedulers))


def _spec(name: str, *others: str, **options: object) -> SchedulerSpec:
    options = {"last_epoch": 0, "_step_count": 1, **options}
    return SchedulerSpec(f"torch.optim.lr_scheduler.{name}", options, (*_OTHERS, *others))


def _one_cycle() -> Model:
    entries = {"lr": 0.1, "initial_lr": 0.01, "max_lr": 0.1, "min_lr": 0.001}
    group = GroupSpec(("net.weight", "net.bias"), entries, ("betas", "eps", "weight_decay"))
    made = OptimizerSpec("torch.optim.adam.Adam", (group,))
    return Model(training=TrainingSpec(optimizers=(made,), schedulers=(_spec("OneCycleLR", total_steps=20),)))


_STEPS = _spec("StepLR", step_size=1, gamma=0.5)
_COSINE = _spec("CosineAnnealingLR", T_max=10, eta_min=0.0)


class SchedulerDiffers(Rule):
    """The learning rate schedulers that configure_optimizers makes are not those whose state is in the file.

    What it checks
    --------------
    How many there are, and whether the entries of each state are those of the class that gets it: which class wrote a
    state is told by its entries (``step_size`` is StepLR's). Where the code makes none at all, or the file holds none,
    nothing is said here. Settings of the same class are those of the file; a note names those that differ.

    Why loading fails
    -----------------
    Mostly it does not: Lightning pairs schedulers by position and stops where one side ends, and torch lays the state
    over the attributes of whatever class is there. Entries of the same name (``gamma``, ``eta_min``, ``factor``) are
    taken over with another meaning. LambdaLR, SequentialLR and some more ask for an entry of their own: ``KeyError``.
    OneCycleLR and SWALR keep some of theirs in the groups of the optimizer, which are then those of the file: ``KeyError``
    at the first step, also where the file has no schedulers at all.

    How to fix
    ----------
    Keep of the state what every class means in the same way, the place in the schedule and the learning rates; the
    settings are then those of the code. Or leave the schedulers' states out: they begin anew.

    References
    ----------
    pytorch_lightning/trainer/connectors/checkpoint_connector.py, ``restore_lr_schedulers``;
    torch/optim/lr_scheduler.py, ``LRScheduler.load_state_dict``.
    """

    code = "RL606"
    name = "scheduler-differs"
    causes = ("sched-class-changed", "silent-scheduler-mix", "silent-optimizer-count")
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="StepLR, now CosineAnnealingLR: its settings stay behind",
            file=_file(_STEP),
            model=_model(_COSINE),
            intent=_RESUME,
            cause="silent-scheduler-mix",
            oracle=False,
        ),
        Fires(
            name="StepLR, now ExponentialLR: it takes the gamma of the other",
            file=_file(_STEP),
            model=_model(_spec("ExponentialLR", gamma=0.99)),
            intent=_RESUME,
            cause="silent-scheduler-mix",
            oracle=False,
        ),
        Fires(
            name="StepLR, now LambdaLR, which asks for its functions",
            file=_file(_STEP),
            model=_model(_spec("LambdaLR", "lr_lambdas")),
            intent=_RESUME,
            cause="sched-class-changed",
            oracle=False,
        ),
        Fires(
            name="StepLR, now OneCycleLR, which looks things up in the optimizer",
            file=_file(_STEP),
            model=_one_cycle(),
            intent=_RESUME,
            cause="sched-class-changed",
            oracle=False,
        ),
        Fires(
            name="no scheduler, now OneCycleLR",
            file=_file(),
            model=_one_cycle(),
            intent=_RESUME,
            cause="sched-class-changed",
            oracle=False,
        ),
        Fires(
            name="one scheduler, now two",
            file=_file(_STEP),
            model=_model(_STEPS, _STEPS),
            intent=_RESUME,
            cause="silent-optimizer-count",
            oracle=False,
        ),
        Silent(
            name="the same class, with other settings",
            file=_file({**_STEP, "gamma": 0.1}),
            model=_model(_STEPS),
            intent=_RESUME,
        ),
        Silent(
            name="an older torch wrote entries that are gone",
            file=_file({**_STEP, "verbose": False}),
            model=_model(_STEPS),
            intent=_RESUME,
        ),
        Silent(
            name="OneCycleLR as it was",
            file=_file({"total_steps": 20, **_BASE}, max_lr=0.1, min_lr=0.001),
            model=_one_cycle(),
            intent=_RESUME,
        ),
        Silent(name="a place in a schedule, and no settings", file=_file(_BASE), model=_model(_COSINE), intent=_RESUME),
        Silent(
            name="a class of the user's own with an argument more",
            file=_file({**_BASE, "warmup": 5}),
            model=_model(SchedulerSpec("net.Warmup", {"last_epoch": 0, "warmup": 5, "floor": 0.0}, _OTHERS)),
            intent=_RESUME,
        ),
        Silent(name="schedulers are not restored by a load", file=_file(_STEP), model=_model(_COSINE)),
        Silent(name="states that were left out on purpose", file=_file(), model=_model(_COSINE), intent=_RESUME),
        Silent(
            name="a spec of before, which does not say what is in their states",
            file=_file(_STEP),
            model=_model(SchedulerSpec("torch.optim.lr_scheduler.CosineAnnealingLR")),
            intent=_RESUME,
        ),
        Silent(name="no scheduler any more", file=_file(_STEP), model=_model(), intent=_RESUME),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for the first that differs; their number comes first."""
        training = facts.spec.training
        if facts.intent.call is not IntentCall.RESUME or training is None or training.unknown:
            return
        saved, specs = saved_schedulers(facts.lightning), training.schedulers
        gone = lacking(facts.lightning, training)
        if gone is not None:
            yield self._gone(facts, gone, other=bool(saved))
            return
        if not saved or not specs:
            return
        torch = facts.environment.torch if facts.environment_known else None
        found = changed(facts.lightning, specs, torch)
        if found:
            yield self._class(facts, found)
        elif len(saved) != len(specs):
            names = [listed(kinds(s)) if len(kinds(s)) == 1 else "?" for s in saved]
            more = len(saved) > len(specs)
            yield self.finding(
                f"the file has {counted(len(saved), 'scheduler')}, configure_optimizers makes {len(specs)}: "
                + ("the rest is left out" if more else "the rest begins anew"),
                cause="silent-optimizer-count",
                severity=Severity.WARNING,
                confidence=Confidence.CERTAIN,
                evidence=[
                    Evidence("in the file", ", ".join(names)),
                    Evidence("configure_optimizers", ", ".join(s.class_path.rpartition(".")[2] for s in specs)),
                ],
                context=["Lightning pairs them by position, and says nothing."],
                fixes=[_anew(facts)],
                subjects=["lr_schedulers"],
                wrong=True,
            )

    def _gone(self, facts: Facts, gone: Lacking, *, other: bool) -> Finding:
        message = f"{gone.name} looks up {gone.first} in the optimizer's groups, and those of the file have none"
        anew = (SetEntry(("lr_schedulers",), []),) if other else ()
        return self.finding(
            message,
            cause="sched-class-changed",
            severity=Severity.ERROR,
            evidence=[Evidence("the file's groups lack", ", ".join(gone.names))],
            context=[
                "Its constructor puts them there, before the optimizer's state is restored, which takes them away again."
            ],
            fixes=[
                Fix(
                    title="Put the values of the code into the optimizer's groups; the schedule begins anew:",
                    kind=FixKind.FILE,
                    applicability=Applicability.MANUAL,
                    edits=(*gone.edits, *anew),
                    allow="begin-schedule",
                    note="Weights, moments, epoch and step are those of the file.",
                )
            ],
            subjects=["optimizer_states"],
            predicts=Prediction(Stage.RESTORE, facts.call_name, "KeyError", repr(gone.first)),
        )

    def _class(self, facts: Facts, found: list[Pairing]) -> Finding:
        first = next((p for p in found if p.raises is not None), found[0])
        was = " or ".join(first.was) or "another class"
        predicts = None
        if first.raises is not None:
            predicts = Prediction(Stage.RESTORE, facts.call_name, *first.raises)
        context = []
        if predicts is None:
            if first.taken:
                context.append(
                    f"{first.now} takes {listed(first.taken)} of the file, where it {'means' if len(first.taken) == 1 else 'mean'} "
                    "something else, instead of its own."
                )
            context.append("torch lays the state over whatever class is there, and says nothing.")
        fixes = []
        if all(p.raises is None for p in found):
            gone = [(p.index, key) for p in found for key in dict.fromkeys((*p.foreign, *p.taken))]
            edits = tuple(DropEntry(("lr_schedulers", str(i), key)) for i, key in gone)
            fixes.append(
                Fix(
                    title=f"Keep its place and its learning rates, with the settings of {first.now} in the code:",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    edits=edits,
                    allow="keep-scheduler-place",
                    note=f"The learning rate goes on from where {was} had brought it.",
                )
            )
        fixes.append(_anew(facts, alone=not fixes))
        return self.finding(
            f"the scheduler's state in the file is that of {was}, not of {first.now}",
            cause="sched-class-changed" if predicts is not None else "silent-scheduler-mix",
            severity=Severity.ERROR if predicts is not None else Severity.WARNING,
            confidence=Confidence.LIKELY,
            evidence=[
                Evidence(
                    "in the file", ", ".join(dict.fromkeys((*first.taken, *first.foreign))) or "nothing of its own"
                ),
                Evidence("configure_optimizers", facts.spec.training.schedulers[first.index].class_path)
                if facts.spec.training is not None
                else Evidence("configure_optimizers", first.now),
            ],
            context=context,
            fixes=fixes,
            subjects=[f"lr_schedulers[{p.index}]" for p in found],
            predicts=predicts,
            wrong=predicts is None,
        )


def _anew(facts: Facts, *, alone: bool = True) -> Fix:
    return Fix(
        title=f"{'L' if alone else 'Or l'}eave their states out: the schedulers begin anew, the optimizer goes on:",
        kind=FixKind.FILE,
        applicability=Applicability.UNSAFE,
        edits=(SetEntry(("lr_schedulers",), []), *begun(facts.lightning)),
        allow="drop-scheduler-states",
        note="The learning rate is the one that the schedule began with.",
    )
