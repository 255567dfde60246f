"""RL607."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import GroupSpec, Intent, IntentCall, OptimizerSpec, TrainingSpec
from relight.facts.describe import listed
from relight.facts.facts import Facts
from relight.facts.overwritten import edits, overwritten
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_RESUME = Intent(call=IntentCall.RESUME)
_PLAIN = {"epoch": 0, "global_step": 0, "lr_schedulers": []}


def _file(hparams: dict[str, object] | None = None, **options: object) -> File:
    group = {"lr": 0.01, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0, "params": [0, 1], **options}
    return File(hparams=hparams, extra={**_PLAIN, "optimizer_states": [{"state": {}, "param_groups": [group]}]})


def _model(**options: object) -> Model:
    plain = {"lr": 0.01, "eps": 1e-8, "weight_decay": 0.0, **options}
    made = OptimizerSpec("torch.optim.adam.Adam", (GroupSpec(("net.weight", "net.bias"), plain, ("betas",)),))
    return Model(training=TrainingSpec(optimizers=(made,)), init=("lr",))


class OptionOverwritten(Rule):
    """The learning rate, or another option, that the code gives its optimizer is replaced by that of the file.

    What it checks
    --------------
    Options of the groups of each optimizer, in the file and as ``configure_optimizers`` makes them with the file's
    hyper_parameters. It speaks where the file shows that the training began with its value: by ``initial_lr``, which
    schedulers leave as it was, or by a hyper_parameter of that name and value. A learning rate that the training may
    have changed itself is only noted.

    Why loading fails
    -----------------
    It does not. ``load_state_dict`` of an optimizer restores its options with its moments: who changes ``lr`` in the
    code and resumes goes on with the old one.

    How to fix
    ----------
    Decide which one is meant. ``--set optimizer.lr=...`` writes any value into a copy, ``--allow options-of-code``
    those of the code; to go on with those of the file, nothing has to be done.

    References
    ----------
    torch/optim/optimizer.py, ``Optimizer.load_state_dict``;
    https://github.com/Lightning-AI/pytorch-lightning/issues/5339.
    """

    code = "RL607"
    name = "option-overwritten"
    causes = ("silent-lr-overwritten",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="another learning rate than the hyper_parameters of the file",
            file=_file({"lr": 0.01}),
            model=_model(lr=0.0001),
            intent=_RESUME,
            oracle=False,
        ),
        Fires(
            name="another one than schedulers began with",
            file=_file(lr=0.001, initial_lr=0.01),
            model=_model(lr=0.002, initial_lr=0.002),
            intent=_RESUME,
            oracle=False,
        ),
        Fires(
            name="another weight decay",
            file=_file({"weight_decay": 0.1}, weight_decay=0.1),
            model=_model(weight_decay=0.5),
            intent=_RESUME,
            oracle=False,
        ),
        Silent(name="the same", file=_file({"lr": 0.01}), model=_model(), intent=_RESUME),
        Silent(
            name="a scheduler has brought it down",
            file=_file({"lr": 0.01}, lr=0.001, initial_lr=0.01),
            model=_model(initial_lr=0.01),
            intent=_RESUME,
        ),
        Silent(
            name="the training itself has brought it down",
            file=_file({"lr": 0.01}, lr=0.001),
            model=_model(),
            intent=_RESUME,
        ),
        Silent(name="nothing shows what it began with", file=_file(), model=_model(lr=0.1), intent=_RESUME),
        Silent(
            name="it is not restored by a load",
            file=_file(lr=0.001, initial_lr=0.01),
            model=_model(lr=0.002, initial_lr=0.002),
        ),
        Silent(
            name="states that were left out on purpose",
            file=File(hparams={"lr": 0.01}, extra={**_PLAIN, "optimizer_states": []}),
            model=_model(lr=0.0001),
            intent=_RESUME,
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all options; none where the optimizers themselves are others."""
        training = facts.spec.training
        if facts.intent.call is not IntentCall.RESUME or training is None or training.unknown or facts.states.kind:
            return
        found = [o for o in overwritten(facts.lightning, training) if o.shown]
        if not found:
            return
        names = list(dict.fromkeys(o.name for o in found))
        first = found[0]
        changes = tuple(e for o in found for e in edits(facts.lightning, training, o))
        value = first.now[0]
        fixes = []
        if changes:
            fixes.append(
                Fix(
                    title=f"To go on with {'that' if len(names) == 1 else 'those'} of the code, in a copy:",
                    kind=FixKind.FILE,
                    applicability=Applicability.MANUAL,
                    edits=changes,
                    allow="options-of-code",
                    note=f"Any other value: --set optimizer.{first.name}={value!r}."
                    if isinstance(value, (int, float))
                    else None,
                )
            )
        one = len(names) == 1
        yield self.finding(
            f"{listed(names)} of the code {'is' if one else 'are'} not used: a resume takes {'that' if one else 'those'} "
            "of the file",
            confidence=Confidence.LIKELY,
            evidence=[
                part
                for o in found
                for part in (
                    Evidence(f"{o.name} in the file", _values(o.saved)),
                    Evidence(f"{o.name} in the code", _values(o.now)),
                )
            ],
            context=[f"The training began with it: {first.shown}."],
            fixes=[*fixes, Fix(title="To go on as the training did, nothing has to be done.", kind=FixKind.CODE)],
            subjects=[f"optimizer_states[{o.optimizer}].{o.name}" for o in found],
            wrong=True,
        )


def _values(values: tuple[object, ...]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values))
