"""RL603."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import Intent, IntentCall
from relight.facts.facts import Facts
from relight.facts.lightning import VERSION_KEY
from relight.facts.resume import RENAMED
from relight.facts.versions import at_least
from relight.rulekit import Env, File, Fires, Phase, Rule, Silent

_RESUME = Intent(call=IntentCall.RESUME)
_EPOCHS = {"ready": 2, "started": 2, "processed": 2, "completed": 2}
_NONE = {"total": {"ready": 0, "completed": 0}, "current": {"ready": 0, "completed": 0}}
_STEPS = {"total": {"ready": 16, "completed": 16}, "current": {"ready": 8, "completed": 8}}
_ZEROED = {
    "total": {"ready": 16, "completed": 16, "started": 16},
    "current": {"ready": 8, "completed": 8, "started": 8},
}
_PAIR: list[object] = [{"state": {}, "param_groups": []}, {"state": {}, "param_groups": []}]
_OLD_LOOPS = {
    "fit_loop": {
        "epoch_progress": {"total": _EPOCHS, "current": _EPOCHS},
        "epoch_loop.batch_loop.optimizer_loop.optim_progress": {
            "optimizer": {"step": _STEPS, "zero_grad": _ZEROED},
            "optimizer_position": 2,
        },
        "epoch_loop.batch_loop.manual_loop.optim_step_progress": _NONE,
    }
}
_NEW_LOOPS = {
    "fit_loop": {
        "epoch_progress": {"total": _EPOCHS, "current": _EPOCHS},
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": _STEPS, "zero_grad": _ZEROED}},
        "epoch_loop.manual_optimization.optim_step_progress": _NONE,
    }
}
_FILE = {"epoch": 2, "global_step": 16, "lr_schedulers": []}


class StepLost(Rule):
    """Resuming this file starts at another step than the training had reached, without an error.

    What it checks
    --------------
    The counters under ``loops`` that the resuming version of Lightning reads: by the names of its loops, and by
    whether the model optimizes manually.

    Why loading fails
    -----------------
    It does not: weights and optimizer are restored, and the epoch is. But Lightning 2.0 renamed the loops that count
    optimizer steps, so that 1.9 finds none in a newer file; and since several optimizers need manual optimization
    since 2.0, a file of 1.6 to 1.9 with several has its steps in the counter that nobody reads. ``max_steps`` and
    whatever depends on ``global_step`` then begin anew.

    How to fix
    ----------
    Write a copy with the steps where they are read.

    References
    ----------
    pytorch_lightning/loops/training_epoch_loop.py, ``global_step``.
    """

    code = "RL603"
    name = "step-lost"
    causes = ("loops-absent-restart", "newer-than-installed")
    severity = Severity.WARNING
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="two optimizers of 1.9, resumed by 2.6",
            file=File(version="1.9.0", extra={**_FILE, "optimizer_states": _PAIR, "loops": _OLD_LOOPS}),
            intent=_RESUME,
            cause="loops-absent-restart",
            oracle=False,
        ),
        Fires(
            name="2.6, resumed by 1.9",
            file=File(version="2.6.0", extra={**_FILE, "optimizer_states": _PAIR[:1], "loops": _NEW_LOOPS}),
            env=Env(packages={"torch": "2.0.1", "pytorch-lightning": "1.9.5"}),
            intent=_RESUME,
            cause="newer-than-installed",
            oracle=False,
        ),
        Silent(
            name="one optimizer of 1.9, resumed by 2.6",
            file=File(version="1.9.0", extra={**_FILE, "optimizer_states": _PAIR[:1], "loops": _OLD_LOOPS}),
            intent=_RESUME,
        ),
        Silent(
            name="two optimizers of 1.9, resumed by 1.9",
            file=File(version="1.9.0", extra={**_FILE, "optimizer_states": _PAIR, "loops": _OLD_LOOPS}),
            env=Env(packages={"torch": "2.0.1", "pytorch-lightning": "1.9.5"}),
            intent=_RESUME,
        ),
        Silent(
            name="two optimizers of 1.9, loaded by 2.6",
            file=File(version="1.9.0", extra={**_FILE, "optimizer_states": _PAIR, "loops": _OLD_LOOPS}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Only the step: where the epoch is lost as well, that finding has both."""
        view = facts.lightning
        if facts.intent.call is not IntentCall.RESUME or facts.environment.lightning is None:
            return
        found = facts.resume
        if not view.has("optimizer_states") or found.saved is None or found.starts is None:
            return
        if found.saved.epoch != found.starts.epoch or found.saved.step == found.starts.step:
            return
        reads, wrote = facts.environment.lightning, view.version or ""
        cause = self.causes[0]
        if at_least(reads, RENAMED) is False and at_least(wrote, RENAMED) is True:
            cause = "newer-than-installed"
            why = (
                f"Lightning 2.0 renamed the loops that count optimizer steps: {reads} does not find them in a file of "
                f"{wrote}. Weights, optimizer and epoch are restored."
            )
        elif view.has("loops"):
            why = (
                "Several optimizers need manual optimization since Lightning 2.0, which counts its steps elsewhere "
                "than automatic optimization. Weights, optimizers and epoch are restored."
            )
        else:
            why = " ".join(["Weights and optimizer are restored.", found.counted, found.unsure]).strip()
        yield self.finding(
            f"training resumes at step {found.starts.step} instead of {found.saved.step}",
            cause=cause,
            evidence=[
                Evidence(VERSION_KEY, wrote or "is not in the file"),
                Evidence("global_step", str(view.global_step)),
            ],
            context=[why],
            fixes=[
                Fix(
                    title="Write a corrected copy:",
                    kind=FixKind.FILE,
                    applicability=Applicability.SAFE,
                    edits=found.edits,
                )
            ],
            subjects=["global_step"],
            wrong=True,
        )
