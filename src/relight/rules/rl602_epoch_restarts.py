"""RL602."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import Intent, IntentCall
from relight.facts.facts import Facts
from relight.facts.lightning import VERSION_KEY
from relight.facts.versions import at_least, release
from relight.rulekit import Env, File, Fires, Phase, Rule, Silent

_RESUME = Intent(call=IntentCall.RESUME)
_WHOLE = {"epoch": 10, "global_step": 40, "optimizer_states": [], "lr_schedulers": []}


class EpochRestarts(Rule):
    """Resuming this file starts again at epoch 0, without an error.

    What it checks
    --------------
    Files of Lightning before 1.6 that have finished an epoch, resumed by 1.6 or newer; newer files without ``loops``.

    Why loading fails
    -----------------
    It does not: weights and optimizer are restored. But the loops of 1.6 and newer count by progress counters that
    older files do not hold. The automatic upgrade sets ``epoch_progress.current.completed``, and the loop counts with
    ``processed``, so training begins at epoch 0.

    How to fix
    ----------
    Where only the weights are wanted, load them with load_from_checkpoint. To resume at the right epoch, train for
    the epochs that are left.

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
        Silent(
            name="1.6, resumed by 2.6",
            file=File(version="1.6.0", extra={**_WHOLE, "loops": {"fit_loop": {}}}),
            intent=_RESUME,
        ),
        Silent(name="1.5, loaded by 2.6", file=File(version="1.5.10", extra=_WHOLE)),
        Silent(
            name="1.5, resumed by 1.5",
            file=File(version="1.5.10", extra=_WHOLE),
            env=Env(packages={"torch": "1.10.2", "pytorch-lightning": "1.5.10"}),
            intent=_RESUME,
        ),
        Silent(name="no epoch finished", file=File(version="1.5.10", extra={**_WHOLE, "epoch": 0}), intent=_RESUME),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Only where an epoch would really be lost."""
        view = facts.lightning
        version = view.version
        if facts.intent.call is not IntentCall.RESUME or version is None or not release(version) or not view.epoch:
            return
        if not at_least(facts.environment.lightning, "1.6"):
            return
        if at_least(version, "1.6"):
            # What lacks the optimizer's states, too, fails before the loops are asked for.
            if not view.has("loops") and view.has("optimizer_states"):
                yield self._without_loops(view.epoch)
            return
        yield self._restarts(
            view.epoch,
            Evidence(VERSION_KEY, version),
            "Files older than 1.6 do not hold the progress counters that newer versions resume from, and the "
            "automatic upgrade fills them in only partly. Weights and optimizer are restored.",
            subject="epoch",
        )

    def _without_loops(self, epoch: int) -> Finding:
        return self._restarts(
            epoch,
            Evidence("loops", "the key is not in the file"),
            "Lightning resumes from the counters under `loops`, and begins at epoch 0, step 0 where there are none. "
            "Weights and optimizer are restored.",
            subject="loops",
            cause="loops-absent-restart",
        )

    def _restarts(self, epoch: int, evidence: Evidence, why: str, *, subject: str, cause: str | None = None) -> Finding:
        return self.finding(
            f"training restarts at epoch 0 instead of {epoch}",
            cause=cause,
            evidence=[evidence, Evidence("epoch", str(epoch))],
            context=[why],
            fixes=[
                Fix(
                    title=f"Resume, and train only for what is left: lower max_epochs by {epoch}.",
                    kind=FixKind.CODE,
                )
            ],
            subjects=[subject],
            wrong=True,
        )
