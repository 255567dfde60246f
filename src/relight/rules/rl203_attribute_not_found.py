"""RL203."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind
from relight.core.target import Intent
from relight.facts import unpickling
from relight.facts.facts import Facts
from relight.facts.imports import Found
from relight.rulekit import File, Fires, Obj, Phase, Rule, Silent


class AttributeNotFound(Rule):
    """A class that the file names is not in its module any more.

    What it checks
    --------------
    For names of the user's own modules: whether the module's source, parsed and not run, still defines them. For
    classes of ``__main__``: whether the target's file does.

    Why loading fails
    -----------------
    Unpickling imports the module and asks it for the name: ``AttributeError: Can't get attribute ...``. The class
    was renamed, moved or deleted since the file was written, or it was defined in the training script.

    How to fix
    ----------
    Give the module the old name again: an alias to the new class is enough where its attributes are the same.

    References
    ----------
    The Python documentation of pickle, ``Unpickler.find_class``.
    """

    code = "RL203"
    name = "attribute-not-found"
    causes = ("cant-get-attribute-module", "cant-get-attribute-main")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="a class that is gone",
            file=File(hparams={"vocab": Obj("example_module.Vocabulary", {"words": []})}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a class that is there",
            file=File(hparams={"vocab": Obj("example_module.Vocab", {"words": []})}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a module that is not there at all",
            file=File(hparams={"vocab": Obj("other_module.Vocab", {"words": []})}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="the training script's own class, and no script given",
            file=File(hparams={"vocab": Obj("__main__.Vocab", {"words": []})}),
            intent=Intent(weights_only=False),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding per module that lost names."""
        if facts.weights_only is None:
            return
        by_file: dict[tuple[str, str], list[int]] = {}
        resolutions = facts.resolutions
        for i, r in enumerate(resolutions):
            if r.found is Found.NO_ATTRIBUTE and r.file is not None:
                by_file.setdefault((r.ref.module, r.file), []).append(i)
        for (module, file), indices in by_file.items():
            group = [resolutions[i] for i in indices]
            names = [r.ref.name for r in group]
            alias = "\n".join(f"{n} = TheClassThatReplacesIt" for n in names)
            yield self.finding(
                f"{module} has no {' and no '.join(names[:3])} any more",
                cause=self.causes[1] if module == "__main__" else self.causes[0],
                confidence=Confidence.LIKELY if module == "__main__" else Confidence.CERTAIN,
                evidence=[
                    Evidence(
                        str(r.path) if r.path is not None else "the file",
                        ("is " + unpickling.describe(r.ref, r.value)).replace("is names", "names"),
                        facts.display(file),
                    )
                    for r in group
                ],
                context=[f"{facts.display(file)} was parsed, not run: it defines no such name."],
                fixes=[
                    Fix(
                        title=f"Give {facts.display(file)} the old name again, for example at its end:",
                        kind=FixKind.CODE,
                        code=alias,
                        note="An alias is enough where the new class has the same attributes.",
                    )
                ],
                subjects=[r.ref.full_name for r in group],
                explains=[r.ref.full_name for r in group],
                predicts=facts.unpickling,
            )
