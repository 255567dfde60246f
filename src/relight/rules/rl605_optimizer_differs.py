"""RL605."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from relight.core.edits import SetEntry
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Prediction, Severity, Stage
from relight.core.target import GroupSpec, Intent, IntentCall, OptimizerSpec, TrainingSpec
from relight.facts.describe import listed, some
from relight.facts.facts import Facts
from relight.facts.optimizers import Arrangement, saved_optimizers
from relight.facts.schedulers import saved_schedulers
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, Tensor

_SHOWN = 3
_RESUME = Intent(call=IntentCall.RESUME)
_ADAM = {"lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0}


def _file(*sizes: int, **options: object) -> File:
    groups = []
    at = 0
    for size in sizes:
        groups.append({**_ADAM, **options, "params": list(range(at, at + size))})
        at += size
    states = [{"state": {}, "param_groups": groups}] if sizes else []
    return File(extra={"epoch": 0, "global_step": 0, "lr_schedulers": [], "optimizer_states": states})


def _model(*groups: tuple[str, ...], name: str = "Adam", others: tuple[str, ...] = ("betas",)) -> Model:
    made = OptimizerSpec(f"torch.optim.{name.lower()}.{name}", tuple(GroupSpec(g, {"lr": 0.1}, others) for g in groups))
    return Model(training=TrainingSpec(optimizers=(made,)))


def _named(**shapes: tuple[int, ...]) -> File:
    """With the names that torch stores for named parameters, and a moment for each."""
    names = [name.replace("_", ".") for name in shapes]
    state = {
        i: {"step": 3, "exp_avg": Tensor(shape), "exp_avg_sq": Tensor(shape)} for i, shape in enumerate(shapes.values())
    }
    group = {**_ADAM, "params": list(range(len(names))), "param_names": names}
    whole = {"epoch": 0, "global_step": 0, "lr_schedulers": []}
    return File(
        tensors=dict(zip(names, shapes.values(), strict=True)),
        extra={**whole, "optimizer_states": [{"state": state, "param_groups": [group]}]},
    )


def _two() -> Model:
    made = OptimizerSpec("torch.optim.adam.Adam", (GroupSpec(("net.weight",), {"lr": 0.1}, ("betas",)),))
    return Model(training=TrainingSpec(optimizers=(made, made)))


class OptimizerDiffers(Rule):
    """The optimizer that configure_optimizers makes is not the one whose state is in the file.

    What it checks
    --------------
    Number of optimizers, groups of parameters and parameters in each; whether the options of the file are those of the
    class; and whether each parameter gets its own state by its position. Which parameter a state in the file belongs
    to is told by names that newer torch stores, by a manifest, or by the order of the state_dict and the shapes of the
    moments. Where that leaves several readings, nothing is said of the order.

    Why loading fails
    -----------------
    Optimizers keep states by position. Another number of groups or parameters raises ``ValueError`` when they are
    restored, the state of another class mostly ``KeyError`` then or at the first step, a moment of another shape ``RuntimeError``
    there. Where shapes agree, parameters go on with the moments of others, without an error; so does a class that finds
    all that it looks up in the state of another, as Adam does in that of NAdam.

    How to fix
    ----------
    Write a copy in which each state goes with its parameter; parameters that are new start without one. Where groups are
    others, options stay those of the file, save for those in which the groups of today differ; where it is not in the
    file which parameters were in which group, or the class is another one, leave the state out, and start anew.

    References
    ----------
    torch/optim/optimizer.py, ``Optimizer.load_state_dict``;
    pytorch_lightning/strategies/strategy.py, ``load_optimizer_state_dict``.
    """

    code = "RL605"
    name = "optimizer-differs"
    causes = (
        "optim-group-size",
        "optim-n-groups",
        "optim-class-changed",
        "silent-optimizer-order",
        "silent-optimizer-count",
        "optim-param-order",
    )
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="a parameter less",
            file=_file(1),
            model=_model(("net.weight", "net.bias")),
            intent=_RESUME,
            oracle=False,
        ),
        Fires(
            name="two groups of parameters, once one",
            file=_file(2),
            model=_model(("net.weight",), ("net.bias",)),
            intent=_RESUME,
            cause="optim-n-groups",
            oracle=False,
        ),
        Fires(
            name="an optimizer more",
            file=_file(2),
            model=_two(),
            intent=_RESUME,
            cause="silent-optimizer-count",
            oracle=False,
        ),
        Fires(
            name="another order",
            file=_named(a_weight=(2, 2), b_weight=(2, 2)),
            model=replace(_model(("b.weight", "a.weight")), params={"a.weight": (2, 2), "b.weight": (2, 2)}),
            intent=_RESUME,
            cause="silent-optimizer-order",
            oracle=False,
        ),
        Fires(
            name="another order, and other shapes",
            file=_named(net_weight=(2, 3), net_bias=(2,)),
            model=_model(("net.bias", "net.weight")),
            intent=_RESUME,
            cause="optim-param-order",
            oracle=False,
        ),
        Fires(
            name="the state of another class",
            file=_file(2),
            model=_model(("net.weight", "net.bias"), name="SGD", others=("momentum",)),
            intent=_RESUME,
            cause="optim-class-changed",
            oracle=False,
        ),
        Silent(name="the same optimizer", file=_file(2), model=_model(("net.weight", "net.bias")), intent=_RESUME),
        Silent(
            name="the optimizer is not restored by a load",
            file=_file(1),
            model=_model(("net.weight", "net.bias")),
        ),
        Silent(
            name="states that were left out on purpose",
            file=_file(),
            model=_model(("net.weight", "net.bias")),
            intent=_RESUME,
        ),
        Silent(
            name="configure_optimizers could not be run",
            file=_file(1),
            model=Model(training=TrainingSpec(unknown="it asks for self.trainer")),
            intent=_RESUME,
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding: for the first optimizer, and for all of them where the states only have to be arranged."""
        training = facts.spec.training
        if facts.intent.call is not IntentCall.RESUME or training is None or facts.checkpoint.state_dict_path is None:
            return
        found = facts.states
        if not found.kind:
            return
        if found.names_first:
            return  # what seems to be new or moved may only have another name
        name = training.optimizers[found.at].class_path.rpartition(".")[2] if training.optimizers else "the optimizer"
        message, cause, predicts = _told(facts, found, name)
        sizes = [s.sizes for s in saved_optimizers(facts.lightning) or ()]
        evidence = [Evidence("in the file", _groups(sizes))]
        evidence.append(
            Evidence(
                "configure_optimizers", _groups([[len(g.parameters) for g in o.groups] for o in training.optimizers])
            )
        )
        if found.kind in ("order", "shapes"):
            evidence += [Evidence(f"state of {a}", f"goes to {b}") for a, b in found.moved[:_SHOWN]]
            if len(found.moved) > _SHOWN:
                evidence.append(Evidence("...", f"{len(found.moved) - _SHOWN} more"))
        context = []
        if found.refused:
            context.append(f"{found.refused[0].upper()}{found.refused[1:]}.")
        if found.without and not found.refused:
            context.append(
                f"{some(found.without, 3)} {'has' if len(found.without) == 1 else 'have'} no state in the file."
            )
        yield self.finding(
            message,
            cause=cause,
            severity=Severity.WARNING if predicts is None else Severity.ERROR,
            confidence=Confidence.CERTAIN if found.kind in ("sizes", "groups") else Confidence.LIKELY,
            evidence=evidence,
            context=context,
            fixes=_fixes(facts, found),
            subjects=[f"optimizer_states[{found.at}]"],
            predicts=predicts,
            wrong=predicts is None,
        )


def _told(facts: Facts, found: Arrangement, name: str) -> tuple[str, str, Prediction | None]:
    """The message, the cause, and what raises."""
    exception, text = found.raises
    raises = Prediction(Stage.RESTORE, facts.call_name, exception, text) if exception else None
    if found.kind == "sizes":
        message, cause = (
            f"{name} gets another number of parameters than its state in the file is for",
            "optim-group-size",
        )
    elif found.kind == "groups":
        message = f"{name} gets another number of groups of parameters than its state in the file has"
        cause = "optim-n-groups"
    elif found.kind == "class":
        message, cause = f"the optimizer's state in the file is not that of {name}", "optim-class-changed"
    elif found.kind == "shapes":
        message, cause = "parameters get the optimizer's state of others, of another shape", "optim-param-order"
        raises = Prediction(Stage.RESTORE, facts.call_name, "RuntimeError", "")
    elif found.kind == "count":
        message = "the file has another number of optimizers: the rest starts anew, or is left out"
        cause = "silent-optimizer-count"
    else:
        message, cause = "parameters go on with the optimizer's state of others", "silent-optimizer-order"
    return message, cause, raises


def _fixes(facts: Facts, found: Arrangement) -> list[Fix]:
    fixes = []
    if found.edits:
        note = None
        if found.left:
            note = f"The state of {some(found.left, 3)} is left out: the optimizer has no such parameter."
        if found.options_asked:
            own = sorted(
                {e.path[-1] for e in found.edits if isinstance(e, SetEntry) and e.path[0] == "optimizer_states"}
            )
            told = "Options are those of the file"
            told += f"; {listed(own)}, in which the groups differ, those of the code." if own else " in all groups."
            note = f"{told} {note}" if note else told
        fixes.append(
            Fix(
                title="Write a copy with the groups of today, in which each state goes with its parameter:"
                if found.options_asked
                else "Write a copy in which each state goes with its parameter:",
                kind=FixKind.FILE,
                applicability=Applicability.MANUAL if found.options_asked else Applicability.SAFE,
                edits=found.edits,
                allow="regroup-optimizer" if found.options_asked else None,
                note=note,
            )
        )
    scheduled = bool(saved_schedulers(facts.lightning))
    fixes.append(
        Fix(
            title="Or start the optimizer anew, with weights, epoch and step of the file:"
            if fixes
            else "Start the optimizer anew, with weights, epoch and step of the file:",
            kind=FixKind.FILE,
            applicability=Applicability.UNSAFE,
            edits=(SetEntry(("optimizer_states",), []), *((SetEntry(("lr_schedulers",), []),) if scheduled else ())),
            allow="drop-optimizer-states",
            note="Its moments are lost, and schedules begin anew: they go on from its learning rate."
            if scheduled
            else "Its moments are lost.",
        )
    )
    return fixes


def _groups(sizes: object) -> str:
    listed = sizes if isinstance(sizes, list) else []
    if not listed:
        return "no optimizer"
    out = []
    for groups in listed:
        total = sum(groups)
        what = f"{total} parameter{'' if total == 1 else 's'}"
        out.append(what if len(groups) == 1 else f"{what} in {len(groups)} groups ({', '.join(map(str, groups))})")
    return "; ".join(out)
