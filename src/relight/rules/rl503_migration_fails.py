"""RL503."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relight.core.edits import SetEntry
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall, Rehearsal
from relight.facts import data, snippets
from relight.facts.facts import Facts
from relight.facts.lightning import VERSION_KEY
from relight.facts.versions import at_least, release
from relight.rulekit import Env, File, Fires, Model, Phase, Rule, Silent

_WHOLE = {"epoch": 2, "global_step": 8}


class MigrationFails(Rule):
    """Lightning's own upgrade of an old file will stop half-way.

    What it checks
    --------------
    For files older than a migration step of the installed Lightning: whether the entries that the step reads
    without a default are there; and whether the version in the file is one at all.

    Why loading fails
    -----------------
    Since 1.9 every load first brings the file to the present layout. For files older than 1.6 that reads
    ``global_step`` and ``epoch``; hand-made files and exports often lack them.

    How to fix
    ----------
    Add the entries in a copy. For loading weights their values do not matter.

    References
    ----------
    pytorch_lightning/utilities/migration/migration.py.
    """

    code = "RL503"
    name = "migration-fails"
    causes = ("migration-missing-global-step", "version-unparsable", "migration-loop-key")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(name="an old file without a step count", file=File(version="1.5.0")),
        Fires(name="a step count but no epoch", file=File(version="1.5.0", extra={"global_step": 8})),
        Fires(name="a version that is none", file=File(version="latest", extra=_WHOLE), cause="version-unparsable"),
        Fires(
            name="loops in a layout that the upgrade does not know",
            file=File(version="1.5.0", extra=_WHOLE),
            model=Model(
                rehearsal=Rehearsal(
                    ok=False,
                    stage="migrate",
                    exception="KeyError",
                    message="'epoch_loop.batch_loop.optimizer_loop.optim_progress'",
                )
            ),
            cause="migration-loop-key",
            oracle=False,
        ),
        Silent(name="an old file with both", file=File(version="1.5.0", extra=_WHOLE)),
        Silent(name="a new file without a step count", file=File(version="2.1.0")),
        Silent(name="plain torch.load", file=File(version="1.5.0"), intent=Intent(call=IntentCall.WEIGHTS)),
        Silent(
            name="a Lightning that does not migrate",
            file=File(version="1.5.0"),
            env=Env(packages={"torch": "1.10.2", "pytorch-lightning": "1.8.0"}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The first step that cannot run."""
        version = facts.lightning.version
        behaviour = data.load("lightning_behaviour")
        since = behaviour["load_from_checkpoint"]["needs_version_key_since"]["version"]
        if not facts.calls_lightning or version is None or not at_least(facts.environment.lightning, since):
            return
        if not _is_version(version):
            yield self.finding(
                f"the version in the file, {version!r}, is no version number",
                cause="version-unparsable",
                fixes=[
                    Fix(
                        title="Write the version that it was saved with into a copy, for example:",
                        kind=FixKind.FILE,
                        applicability=Applicability.MANUAL,
                        code=snippets.set_entry(facts, VERSION_KEY, "2.0.0"),
                        edits=(SetEntry((VERSION_KEY,), "2.0.0"),),
                        allow="guessed-version",
                    )
                ],
                subjects=[VERSION_KEY],
                predicts=Prediction(
                    Stage.MIGRATE, facts.call_name, "packaging.version.InvalidVersion", f"Invalid version: {version!r}"
                ),
            )
            return
        found = self._by_entries(facts, version, behaviour["migrations"])
        if found is None and facts.has_target:
            found = self._by_rehearsal(facts)
        if found is not None:
            yield found

    def _by_rehearsal(self, facts: Facts) -> Finding | None:
        """What Lightning's own migration did with the file's entries, where it was really run."""
        rehearsal = facts.rehearsal
        if rehearsal is None or rehearsal.ok is not False or rehearsal.stage != "migrate":
            return None
        exception = rehearsal.exception or "Exception"
        return self.finding(
            "Lightning's own upgrade of this file fails",
            cause="migration-loop-key",
            evidence=[Evidence(VERSION_KEY, facts.lightning.version or "")],
            context=[f"It was run on the file's entries: {exception}: {rehearsal.message}"],
            fixes=[Fix(title="Load the weights alone with torch.load and load_state_dict.", kind=FixKind.CODE)],
            subjects=[rehearsal.message],
            predicts=Prediction(Stage.MIGRATE, facts.call_name, exception, rehearsal.message),
        )

    def _by_entries(self, facts: Facts, version: str, migrations: list[dict[str, Any]]) -> Finding | None:
        """An entry that a step reads without a default, and that the file has not."""
        for step in migrations:
            if at_least(version, step["version"]):
                continue
            for key in step["reads"]:
                if not facts.lightning.has(key):
                    return self.finding(
                        f"the file has no {key}, which Lightning's upgrade of files before {step['version']} reads",
                        evidence=[Evidence(VERSION_KEY, version)],
                        fixes=[
                            Fix(
                                title="Add it in a copy; for the weights its value does not matter:",
                                kind=FixKind.FILE,
                                applicability=Applicability.SAFE,
                                code=snippets.set_entries(facts, _absent(facts, step["reads"])),
                                edits=tuple(SetEntry((k,), v) for k, v in _absent(facts, step["reads"]).items()),
                            )
                        ],
                        subjects=[key],
                        predicts=Prediction(Stage.MIGRATE, facts.call_name, "KeyError", repr(key)),
                    )
        return None


def _absent(facts: Facts, keys: list[str]) -> dict[str, int]:
    return {k: 0 for k in keys if not facts.lightning.has(k)}


def _is_version(text: str) -> bool:
    if release(text) and text.replace(".", "").isdigit():
        return True
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
