"""RL602."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import Intent, IntentCall
from relight.facts.facts import Facts
from relight.facts.lightning import VERSION_KEY
from relight.facts.resume import COUNTS_BY_LOOPS, written_by
from relight.facts.versions import at_least
from relight.rulekit import Env, File, Fires, Phase, Rule, Silent

_RESUME = Intent(call=IntentCall.RESUME)
_WHOLE = {"epoch": 10, "global_step": 40, "optimizer_states": [], "lr_schedulers": []}
_TOTAL = {"ready": 2, "started": 2, "processed": 2, "completed": 2}
_STEPS = {"ready": 8, "completed": 8, "started": 8}
_LOOPS = {
    "fit_loop": {
        "epoch_progress": {"total": _TOTAL, "current": _TOTAL},
        "epoch_loop.batch_loop.optimizer_loop.optim_progress": {
            "optimizer": {
                "step": {"total": _STEPS, "current": _STEPS},
                "zero_grad": {"total": _STEPS, "current": _STEPS},
            },
            "optimizer_position": 0,
        },
    }
}


class EpochRestarts(Rule):
    """Resuming this file starts again at epoch 0, without an error.

    What it checks
    --------------
    Files of Lightning before 1.6 that have finished an epoch, resumed by 1.6 or newer; newer files without ``loops``,
    or with only a part of them.

    Why loading fails
    -----------------
    It does not: weights and optimizer are restored. But the loops of 1.6 and newer count by progress counters that
    older files do not hold. The automatic upgrade sets ``epoch_progress.current.completed``, and the loop counts with
    ``processed``, so training begins at epoch 0. Files of before 1.6 that were saved after the training had ended also
    name one step too many.

    How to fix
    ----------
    Write a copy with the counters. Where only the weights are wanted, load them with load_from_checkpoint.

    References
    ----------
    pytorch_lightning/utilities/migration/migration.py, ``_migrate_loop_current_epoch_to_progress_tracking``.
    """

    code = "RL602"
    name = "epoch-restarts"
    causes = ("pre-1-6-resume-epoch-lost", "loops-absent-restart")
    severity = Severity.WARNING
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(name="1.5, resumed by 2.6", file=File(version="1.5.10", extra=_WHOLE), intent=_RESUME, oracle=False),
        Fires(
            name="2.6 without loops",
            file=File(version="2.6.0", extra=_WHOLE),
            intent=_RESUME,
            cause="loops-absent-restart",
            oracle=False,
        ),
        Fires(
            name="2.6 with a part of the loops",
            file=File(version="2.6.0", extra={**_WHOLE, "loops": {"fit_loop": {"state_dict": {}}}}),
            intent=_RESUME,
            cause="loops-absent-restart",
            oracle=False,
        ),
        Fires(
            name="0.7, resumed by 2.6",
            file=File(version=None, extra=_WHOLE),
            intent=_RESUME,
            oracle=False,
        ),
        Silent(
            name="1.6, resumed by 2.6",
            file=File(version="1.6.0", extra={**_WHOLE, "epoch": 2, "global_step": 8, "loops": _LOOPS}),
            intent=_RESUME,
        ),
        Silent(name="1.5, loaded by 2.6", file=File(version="1.5.10", extra=_WHOLE)),
        Silent(
            name="1.5, resumed by 1.5",
            file=File(version="1.5.10", extra=_WHOLE),
            env=Env(packages={"torch": "1.10.2", "pytorch-lightning": "1.5.10"}),
            intent=_RESUME,
        ),
        Silent(
            name="1.5 with the counters",
            file=File(version="1.5.10", extra={**_WHOLE, "epoch": 2, "global_step": 8, "loops": _LOOPS}),
            intent=_RESUME,
        ),
        Silent(name="no epoch finished", file=File(version="1.5.10", extra={**_WHOLE, "epoch": 0}), intent=_RESUME),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Only where an epoch would really be lost."""
        view = facts.lightning
        if facts.intent.call is not IntentCall.RESUME or facts.environment.lightning is None:
            return
        if not view.has("optimizer_states"):
            return  # that fails before the loops are asked for
        found = facts.resume
        if found.saved is None or found.starts is None or found.saved.epoch == found.starts.epoch:
            return
        version = written_by(view) or ""
        old = at_least(version, COUNTS_BY_LOOPS) is False
        if old:
            why = (
                "Files older than 1.6 do not hold the progress counters that newer versions resume from, and the "
                "automatic upgrade fills them in only partly. Weights and optimizer are restored; epoch and step are not."
            )
            shown = Evidence(VERSION_KEY, view.version or "is not in the file")
        else:
            why = (
                "Lightning resumes from the counters under `loops`, and begins at epoch 0, step 0 where there are none. "
                "Weights and optimizer are restored."
            )
            partial = "does not hold all counters" if view.has("loops") else "the key is not in the file"
            shown = Evidence("loops", partial)
        context = [why]
        if found.starts.step != found.saved.step and old:
            context.append(
                f"The step would be {found.starts.step} instead of {found.saved.step}. {found.counted}".strip()
            )
        if found.unsure:
            context.append(found.unsure)
        yield self.finding(
            f"training restarts at epoch {found.starts.epoch} instead of {found.saved.epoch}",
            cause=None if old else "loops-absent-restart",
            evidence=[shown, Evidence("epoch", str(view.epoch))],
            context=context,
            fixes=[
                Fix(
                    title="Write a corrected copy:",
                    kind=FixKind.FILE,
                    applicability=Applicability.SAFE,
                    edits=found.edits,
                ),
                Fix(
                    title="Only want the weights? load_from_checkpoint reads them correctly as they are.",
                    kind=FixKind.CODE,
                ),
            ],
            subjects=["epoch" if old else "loops"],
            wrong=True,
        )
