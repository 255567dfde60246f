"""RL507."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Rehearsal
from relight.facts import snippets
from relight.facts.facts import Facts
from relight.rulekit import Fires, Model, Phase, Rule, Silent

_HOOKS = ("on_load_checkpoint", "configure_model")


class LoadHookFails(Rule):
    """The class's own loading hook raises on this file.

    What it checks
    --------------
    What ``configure_model`` and ``on_load_checkpoint`` did when the class was really given the file's contents
    (without tensor values); for a saved spec, the keys that ``on_load_checkpoint`` reads without asking.

    Why loading fails
    -----------------
    Hooks read what they once wrote. A file from before the hook, or from another program, does not have it.

    How to fix
    ----------
    Let the hook ask first (``checkpoint.get(...)``), or add the entry in a copy.

    References
    ----------
    pytorch_lightning/core/hooks.py, ``CheckpointHooks.on_load_checkpoint``.
    """

    code = "RL507"
    name = "load-hook-fails"
    causes = ("on-load-hook-missing-key",)
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="a key that older files lack",
            model=Model(
                rehearsal=Rehearsal(
                    ok=False,
                    stage="on_load_checkpoint",
                    exception="KeyError",
                    message="'my_extra'",
                    file="models.py",
                    line=9,
                    source="self.seen = checkpoint['my_extra']['seen']",
                )
            ),
            oracle=False,
        ),
        Silent(name="a hook that is content", model=Model(rehearsal=Rehearsal(ok=True))),
        Silent(
            name="a hook that only real values could satisfy",
            model=Model(rehearsal=Rehearsal(ok=None, stage="on_load_checkpoint", exception="NotImplementedError")),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The rehearsal where there was one, the spec's list of keys where not."""
        if not facts.calls_lightning:
            return
        rehearsal = facts.rehearsal
        if rehearsal is None:
            absent = [k for k in facts.spec.hook_keys if not facts.lightning.has(k)]
            if absent:
                yield self._word(facts, "on_load_checkpoint", "KeyError", repr(absent[0]), None, Confidence.LIKELY)
        elif rehearsal.ok is False and rehearsal.stage in _HOOKS:
            where = None if rehearsal.file is None else f"{rehearsal.file}:{rehearsal.line}"
            yield self._word(
                facts,
                rehearsal.stage,
                rehearsal.exception or "Exception",
                rehearsal.message,
                Evidence(where or rehearsal.stage, rehearsal.source or ""),
                Confidence.CERTAIN,
            )

    def _word(
        self, facts: Facts, hook: str, exception: str, message: str, line: Evidence | None, confidence: Confidence
    ) -> Finding:
        key = message.strip("'\"") if exception == "KeyError" else None
        said = f"wants {key!r}, which the file does not have" if key else f"raises {exception}: {message}"
        fixes = []
        if key:
            fixes = [
                Fix(
                    title="Let the hook do without it:",
                    kind=FixKind.CODE,
                    code=f'if "{key}" in checkpoint:\n    ...  # what {hook} does with it',
                ),
                Fix(
                    title="Or add the entry in a copy, with a value that the hook can use:",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    code=snippets.set_entry(facts, key, {}),
                ),
            ]
        return self.finding(
            f"{hook} of the class {said}",
            confidence=confidence,
            evidence=[line] if line is not None else [],
            fixes=fixes,
            subjects=[key or hook],
            predicts=Prediction(Stage.HOOK, facts.call_name, exception, message),
        )
