"""RL204."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind
from relight.core.target import Intent
from relight.facts import unpickling
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Obj, Phase, Rule, Silent


class EnumValueUnknown(Rule):
    """A member of an Enum in the file has a value that the class does not have any more.

    What it checks
    --------------
    Enum members are pickled as a call of the class with the member's value. The class's source is parsed, not run;
    classes whose values are not literals are left alone.

    Why loading fails
    -----------------
    The class is called with the stored value: ``ValueError: 'train' is not a valid Mode``.

    How to fix
    ----------
    Give the class a ``_missing_`` method that maps the old value, or the old value back.

    References
    ----------
    The Python documentation of enum, ``Enum._missing_``.
    """

    code = "RL204"
    name = "enum-value-unknown"
    causes = ("enum-value-changed",)
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="a value that was renamed",
            file=File(hparams={"mode": Obj("example_module.Mode", args=("training",))}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a value that is there",
            file=File(hparams={"mode": Obj("example_module.Mode", args=("train",))}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a class that is no Enum",
            file=File(hparams={"mode": Obj("example_module.Vocab", args=("train",))}),
            intent=Intent(weights_only=False),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding per class."""
        if facts.weights_only is not False:
            return  # refused before the class is called
        for r in facts.resolutions:
            bad = unpickling.bad_enum(r)
            if bad is None or r.file is None:
                continue
            stored, values = bad
            name = r.ref.name
            yield self.finding(
                f"{stored!r} is not a value of {name} any more",
                evidence=[
                    Evidence(
                        str(r.path) if r.path is not None else "the file",
                        f"is {name}({stored!r}); the class has {', '.join(map(repr, values))}",
                        facts.display(r.file),
                    )
                ],
                context=[f"{facts.display(r.file)} was parsed, not run."],
                fixes=[
                    Fix(
                        title=f"Let {name} in {facts.display(r.file)} read the old value too:",
                        kind=FixKind.CODE,
                        code="@classmethod\n"
                        "def _missing_(cls, value):\n"
                        f"    return cls({values[0]!r}) if value == {stored!r} else None",
                        note=f"In the body of the class. Choose the member that stands for {stored!r} today.",
                    )
                ],
                subjects=[r.ref.full_name],
                explains=[r.ref.full_name],
                predicts=facts.unpickling,
            )
