"""RL704."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import BuildFailure, FailureKind
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_KNOWN = (
    (re.compile(r"'dict' object has no attribute"), "hparams-dict-not-object"),
    (re.compile(r"'NoneType' object has no attribute"), "hparam-object-none"),
    (re.compile(r"is not in struct|Missing key|object has no attribute"), "config-schema-drift"),
)
_OF_OTHER_RULES = re.compile(
    r"__init__\(\) missing \d+ required|got an unexpected keyword argument|got multiple values for"
)


class ConstructorFails(Rule):
    """The class cannot be built with the hyper_parameters of the file.

    What it checks
    --------------
    The exception that the target's own code really raised while it was imported or constructed, on the meta device
    and then on the CPU, with the arguments that Lightning would pass.

    Why loading fails
    -----------------
    load_from_checkpoint imports and constructs first; the weights are not read before that has worked.

    How to fix
    ----------
    The evidence names the line. Where a dict came back in place of the object that was saved, wrap it in the
    constructor.

    References
    ----------
    pytorch_lightning/core/saving.py, ``_load_state``.
    """

    code = "RL704"
    name = "constructor-fails"
    causes = (
        "init-needs-network-or-files",
        "hparams-dict-not-object",
        "hparam-object-none",
        "config-schema-drift",
        "dependency-api-mismatch",
        "lightning-api-removed",
        "import-side-effect-error",
    )
    phase = Phase.CONTENTS
    needs = frozenset({"target"})
    examples = (
        Fires(
            name="a dict in place of a Namespace",
            file=File(hparams={"hidden": 16}),
            model=Model(
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="AttributeError",
                    message="'dict' object has no attribute 'hidden'",
                    file="models.py",
                    line=8,
                    source="self.net = nn.Linear(8, hparams.hidden)",
                    stage="construct",
                )
            ),
            cause="hparams-dict-not-object",
            oracle=False,
        ),
        Fires(
            name="a file that the constructor wants to read",
            model=Model(
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="FileNotFoundError",
                    message="[Errno 2] No such file or directory: 'vocab.txt'",
                    file="models.py",
                    line=8,
                    source="self.vocab = open('vocab.txt').read()",
                    stage="construct",
                )
            ),
            cause="init-needs-network-or-files",
            oracle=False,
        ),
        Fires(
            name="an import of what Lightning no longer has",
            model=Model(
                failure=BuildFailure(
                    kind=FailureKind.IMPORT_ERROR,
                    exception="ImportError",
                    message="cannot import name 'EvalResult' from 'pytorch_lightning'",
                    file="models.py",
                    line=2,
                    source="from pytorch_lightning import EvalResult",
                )
            ),
            cause="lightning-api-removed",
            oracle=False,
        ),
        Silent(name="a model that can be built"),
        Silent(
            name="a missing argument",
            model=Model(
                init=("width",),
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="TypeError",
                    message="MyModel.__init__() missing 1 required positional argument: 'width'",
                ),
            ),
        ),
        Silent(
            name="not the user's fault",
            model=Model(failure=BuildFailure(kind=FailureKind.UNKNOWN, message="a stand-in object was used")),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Word the exception, unless another rule knows it better."""
        failure = facts.resolved_target.failure
        if failure is None or failure.kind not in (FailureKind.INIT_ERROR, FailureKind.IMPORT_ERROR):
            return
        importing = failure.kind is FailureKind.IMPORT_ERROR
        if not importing and facts.calls_lightning and _OF_OTHER_RULES.search(failure.message):
            return
        name = facts.resolved_target.class_name or facts.question.target or "the target"
        where = f"{failure.file}:{failure.line}" if failure.file else name
        exception = failure.exception or "Exception"
        fixes = []
        context = [f"{exception}: {failure.message}"]
        if not importing and not facts.calls_lightning:
            context.append("It was built without arguments, as nothing passes any; --init NAME=VALUE does.")
        elif not importing and re.search(r"'dict' object has no attribute", failure.message):
            context.append("Lightning saves a Namespace as a dict and gives the dict back.")
            argument = facts.lightning.hparams_name or "hparams"
            fixes.append(
                Fix(
                    title="Let the constructor take both:",
                    kind=FixKind.CODE,
                    code=f"if isinstance({argument}, dict):\n    {argument} = argparse.Namespace(**{argument})",
                )
            )
        yield self.finding(
            f"{name} cannot be {'imported' if importing else 'built'}",
            cause=_cause(failure, importing=importing),
            confidence=Confidence.LIKELY if facts.resolved_target.approximated else Confidence.CERTAIN,
            evidence=[Evidence(where, failure.source or "")],
            context=context,
            fixes=fixes,
            subjects=[name],
            predicts=Prediction(
                Stage.IMPORT if importing else Stage.CONSTRUCT,
                "import" if importing else facts.call_name,
                exception,
                failure.message,
            ),
        )


def _cause(failure: BuildFailure, *, importing: bool) -> str:
    if importing:
        moved = re.search(r"(pytorch_lightning|lightning)", failure.message)
        return "lightning-api-removed" if moved else "import-side-effect-error"
    for pattern, cause in _KNOWN:
        if pattern.search(failure.message):
            return cause
    if failure.exception in ("OSError", "FileNotFoundError", "ConnectionError"):
        return "init-needs-network-or-files"
    return "dependency-api-mismatch"
