"""RL801."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Evidence, Finding, Fix, FixKind
from relight.facts import safety
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Obj, Phase, Rule, Silent


class CodeInPickle(Rule):
    """Unpickling this file would run code that the file chooses.

    What it checks
    --------------
    Every name in the pickle, read without executing it, against a list of functions that run code, start processes,
    reach the network or write files; calls of things that the file itself computes; and defaultdicts with a factory
    that does more than make an empty container.

    Why loading fails
    -----------------
    It may not fail: with ``weights_only=False`` the code runs and the weights load. With ``weights_only=True`` torch
    refuses it.

    How to fix
    ----------
    Do not load it with ``weights_only=False``. Take the weights from a source that you trust.

    References
    ----------
    The Python documentation of pickle, the warning at its top.
    """

    code = "RL801"
    name = "code-in-pickle"
    causes = ("wo-blocked-module",)
    phase = Phase.CONTENTS
    needs = frozenset({"contents"})
    examples = (
        Fires(name="a shell command", file=File(extra={"x": Obj("os.system", args=("true",))}), oracle=False),
        Fires(name="eval", file=File(extra={"x": Obj("builtins.eval", args=("1",))}), oracle=False),
        Fires(
            name="a defaultdict that calls",
            file=File(extra={"x": Obj("collections.defaultdict", args=(Obj("os.getcwd", args=()),))}),
            oracle=False,
        ),
        Silent(name="a Namespace", file=File(hparams={"a": Obj("argparse.Namespace", {"x": 1})})),
        Silent(name="a class of the user's", file=File(hparams={"a": Obj("my_models.Config", {"x": 1})})),
        Silent(name="plain values", file=File(hparams={"command": "os.system"})),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding with all that is dangerous."""
        found = list(dict.fromkeys(safety.dangers(facts.checkpoint)))
        if not found:
            return
        names = [g for g in facts.checkpoint.globals if safety.is_dangerous(g.full_name)]
        yield self.finding(
            "unpickling this file would run code that the file chooses",
            evidence=[Evidence("pickle", text) for text in found[:5]]
            + ([Evidence("...", f"{len(found) - 5} more")] if len(found) > 5 else []),
            context=["relight has only read it. Nothing was run."],
            fixes=[
                Fix(
                    title="Do not load it with weights_only=False. Get the weights from a source that you trust.",
                    kind=FixKind.DOWNLOAD_AGAIN,
                )
            ],
            subjects=[n.full_name for n in names],
            explains=[n.full_name for n in names],
            predicts=facts.unpickling if facts.weights_only_or_none else None,
        )
