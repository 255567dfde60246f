"""RL604."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import DropEntry, Edit, MoveEntry, SetEntry
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.objects import DictNode, Global
from relight.core.target import Intent, IntentCall
from relight.facts.facts import Facts
from relight.facts.plain_data import callback_key
from relight.facts.resume import MIGRATES
from relight.facts.versions import at_least
from relight.rulekit import Env, File, Fires, Phase, Rule, Silent

_RESUME = Intent(call=IntentCall.RESUME)
_WHOLE = {"epoch": 2, "global_step": 8, "optimizer_states": [], "lr_schedulers": []}
_BEST, _SCORE, _PATH = (f"checkpoint_callback_best{end}" for end in ("", "_model_score", "_model_path"))
_COUNTS = ("early_stop_callback_wait", "early_stop_callback_patience")
_STOPPING = "early_stop_callback_state_dict"


class CallbackStatesOutdated(Rule):
    """States of ModelCheckpoint or EarlyStopping lie where Lightning before 1.0 put them, and are not restored.

    What it checks
    --------------
    The entries ``checkpoint_callback_best`` and ``early_stop_callback_wait`` of Lightning 0.7, and
    ``early_stop_callback_state_dict`` of 0.8 and 0.9, for a resume by a version that migrates files.

    Why loading fails
    -----------------
    The migration makes states of the callbacks from the entries of 0.7, but incomplete ones: a Trainer with
    ModelCheckpoint, which is the default, or with EarlyStopping ends in ``KeyError: 'best_model_path'`` or
    ``KeyError: 'stopped_epoch'``. The entry of 0.8 and 0.9 it does not know: EarlyStopping starts counting anew,
    without an error.

    How to fix
    ----------
    Write a copy with complete entries. What 0.7 counted for EarlyStopping is left out: the best value, without which
    it means nothing, is not in the file.

    References
    ----------
    pytorch_lightning/utilities/migration/migration.py, ``_migrate_model_checkpoint_early_stopping``;
    pytorch_lightning/callbacks/model_checkpoint.py and early_stopping.py, ``load_state_dict``.
    """

    code = "RL604"
    name = "callback-states-outdated"
    causes = ("checkpoint-callback-keys-06", "callback-load-state")
    severity = Severity.WARNING
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="entries of 0.7",
            file=File(version="0.7.6", extra={**_WHOLE, _BEST: 0.5, _COUNTS[0]: 1, _COUNTS[1]: 3}),
            intent=_RESUME,
            oracle=False,
        ),
        Fires(
            name="the entry of 0.9",
            file=File(version="0.9.0", extra={**_WHOLE, _STOPPING: {"wait_count": 1, "patience": 3}}),
            intent=_RESUME,
            cause="callback-load-state",
            oracle=False,
        ),
        Silent(name="entries of 0.7, to be loaded", file=File(version="0.7.6", extra={**_WHOLE, _BEST: 0.5})),
        Silent(
            name="entries of 0.9 that are complete",
            file=File(version="0.9.0", extra={**_WHOLE, _SCORE: 0.5, _PATH: "epoch=1.ckpt"}),
            intent=_RESUME,
        ),
        Silent(
            name="a version that does not migrate",
            file=File(version="0.9.0", extra={**_WHOLE, _STOPPING: {"wait_count": 1}}),
            env=Env(packages={"torch": "1.10.2", "pytorch-lightning": "1.5.10"}),
            intent=_RESUME,
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all entries."""
        view = facts.lightning
        if facts.intent.call is not IntentCall.RESUME or not view.has("optimizer_states"):
            return
        if not at_least(facts.environment.lightning, MIGRATES):
            return
        edits: list[Edit] = []
        if view.has(_BEST) and not view.has(_SCORE):
            edits.append(MoveEntry((_BEST,), (_SCORE,)))
        if (view.has(_BEST) or view.has(_SCORE)) and not view.has(_PATH):
            edits.append(SetEntry((_PATH,), ""))
        counts = [key for key in _COUNTS if view.has(key)]
        edits += [DropEntry((key,)) for key in counts]
        raises = bool(edits)
        if view.has(_STOPPING):
            cls = Global("pytorch_lightning.callbacks.early_stopping", "EarlyStopping", 0)
            edits.append(MoveEntry((_STOPPING,), ("callbacks", callback_key(cls, DictNode()))))
        if not edits:
            return
        found = [key for key in (_BEST, _SCORE, *_COUNTS, _STOPPING) if view.has(key)]
        context = []
        if raises:
            what = "'stopped_epoch'" if counts else "'best_model_path'"
            who = "EarlyStopping" if counts else "ModelCheckpoint"
            context.append(f"With {who} the automatic upgrade of these entries ends in KeyError: {what}.")
        if view.has(_STOPPING):
            context.append("The automatic upgrade does not know the entry of EarlyStopping, which counts anew then.")
        note = "What EarlyStopping had counted is left out: its best value is not in the file." if counts else None
        if view.has(_STOPPING):
            note = "It is restored where EarlyStopping monitors val_loss, which the file does not tell."
        yield self.finding(
            "the states of callbacks are in the layout of Lightning before 1.0",
            cause=self.causes[0] if raises else self.causes[1],
            confidence=Confidence.LIKELY,
            evidence=[Evidence(key, "is in the file") for key in found],
            context=context,
            fixes=[
                Fix(
                    title="Write a copy with entries that can be restored:",
                    kind=FixKind.FILE,
                    applicability=Applicability.SAFE,
                    edits=tuple(edits),
                    note=note,
                )
            ],
            subjects=found,
        )
