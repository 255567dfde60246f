"""RL506."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relight.core.edits import DropEntry
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import BuildFailure, FailureKind
from relight.facts import snippets
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_UNEXPECTED = re.compile(r"got an unexpected keyword argument '([^']+)'")
_MULTIPLE = re.compile(r"got multiple values for (?:keyword )?argument '([^']+)'")


class ArgumentUnexpected(Rule):
    """A saved hyper_parameter reaches a function that does not take it.

    What it checks
    --------------
    What the constructor really raised when it was called with the file's hyper_parameters.

    Why loading fails
    -----------------
    A class with ``**kwargs`` gets every saved name, also those that it no longer has a use for, and hands them on.

    How to fix
    ----------
    Take the name out of the hyper_parameters in a copy, or accept and ignore it in the class.

    References
    ----------
    pytorch_lightning/core/saving.py, ``_load_state``.
    """

    code = "RL506"
    name = "argument-unexpected"
    causes = ("unexpected-kwarg", "multiple-values")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "target"})
    examples = (
        Fires(
            name="handed on by **kwargs",
            file=File(hparams={"width": 8, "out_dim": 1}),
            model=Model(
                var_keyword=True,
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="TypeError",
                    message="build() got an unexpected keyword argument 'out_dim'",
                    file="models.py",
                    line=12,
                    source="self.net = build(**kwargs)",
                    stage="construct",
                ),
            ),
            oracle=False,
        ),
        Fires(
            name="passed twice",
            file=File(hparams={"width": 8}),
            model=Model(
                var_keyword=True,
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="TypeError",
                    message="build() got multiple values for argument 'width'",
                    stage="construct",
                ),
            ),
            cause="multiple-values",
            oracle=False,
        ),
        Silent(name="a class that takes it", file=File(hparams={"out_dim": 1}), model=Model(var_keyword=True)),
        Silent(
            name="another failure",
            model=Model(failure=BuildFailure(kind=FailureKind.INIT_ERROR, exception="ValueError", message="no")),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Word the exception."""
        failure = facts.resolved_target.failure
        if failure is None or failure.kind is not FailureKind.INIT_ERROR or not facts.constructs:
            return
        if facts.targets_base_class:
            return  # it takes nothing at all: another rule says so
        match = _UNEXPECTED.search(failure.message) or _MULTIPLE.search(failure.message)
        if match is None:
            return
        name = match.group(1)
        saved = dict(facts.lightning.hyper_parameters)
        multiple = _MULTIPLE.search(failure.message) is not None
        where = None if failure.file is None else f"{failure.file}:{failure.line}"
        fixes = []
        if name in saved and facts.lightning.hparams_key is not None:
            fixes.append(
                Fix(
                    title=f"Take {name} out of the hyper_parameters in a copy:",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    code=snippets.drop_hparam(facts, facts.lightning.hparams_key, name),
                    edits=(DropEntry((facts.lightning.hparams_key, name)),),
                    allow="drop-argument",
                )
            )
        yield self.finding(
            f"{name} reaches a function {'twice' if multiple else 'that does not take it'}",
            cause=self.causes[1] if multiple else self.causes[0],
            evidence=[
                *([Evidence(f"hyper_parameters.{name}", repr(saved[name]))] if name in saved else []),
                Evidence(where or "the constructor", failure.source or ""),
            ],
            context=[f"The class takes **kwargs, so Lightning passes every saved name: {failure.message}"],
            fixes=fixes,
            subjects=[name],
            predicts=Prediction(Stage.CONSTRUCT, facts.call_name, "TypeError", failure.message),
        )
