"""RL704."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relight.core.edits import WrapEntry
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Prediction, Severity, Stage
from relight.core.objects import mapping_has, mapping_pairs
from relight.core.target import BuildFailure, FailureKind, InitParam, Intent, IntentCall
from relight.facts import snippets
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_KNOWN = (
    (
        re.compile(r"Interpolation key|Unsupported interpolation type|resolv\w+ interpolation"),
        "interpolation-unresolved",
    ),
    (re.compile(r"'dict' object has no attribute"), "hparams-dict-not-object"),
    (re.compile(r"'NoneType' object has no attribute"), "hparam-object-none"),
    (re.compile(r"is not in struct|Missing key|object has no attribute"), "config-schema-drift"),
)
_OF_OTHER_RULES = re.compile(
    r"__init__\(\) missing \d+ required|got an unexpected keyword argument|got multiple values for"
    r"|allowlist of trusted instantiators|does not resolve to an already imported subclass"
    r"|is required for `hparams_file`|could not determine a constructor for the tag"
)


class ConstructorFails(Rule):
    """The class cannot be built with the hyper_parameters of the file.

    What it checks
    --------------
    The exception that the target's own code really raised while it was imported or constructed, on the meta device
    and then on the CPU, with the arguments that Lightning would pass. The network is off meanwhile: a constructor that
    wants it is named, and what it does with a network is not known.

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
        "interpolation-unresolved",
        "omegaconf-update-kwargs",
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
            name="a dict in place of a Namespace, under an argument that takes them all",
            file=File(hparams={"hidden": 16}, extra={"hparams_name": "hparams"}),
            model=Model(
                init=("hparams",),
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="AttributeError",
                    message="'dict' object has no attribute 'hidden'",
                    file="models.py",
                    line=8,
                    source="self.net = nn.Linear(8, hparams.hidden)",
                    stage="construct",
                ),
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
        Fires(
            name="a constructor that downloads",
            model=Model(
                init=(InitParam("pretrained", False, "True"),),
                failure=BuildFailure(
                    kind=FailureKind.UNKNOWN,
                    exception="OSError",
                    message="it needs the network, which relight does not use (OSError: We couldn't connect)",
                    file="models.py",
                    line=8,
                    source="self.net = AutoModel.from_pretrained('bert-base-uncased')",
                    stage="construct",
                    network=True,
                ),
            ),
            cause="init-needs-network-or-files",
            oracle=False,
        ),
        Fires(
            name="an argument that a closed configuration does not take",
            file=File(hparams={"width": 8}),
            model=Model(
                failure=BuildFailure(
                    kind=FailureKind.INIT_ERROR,
                    exception="omegaconf.errors.ConfigKeyError",
                    message="Key 'extra' is not in struct\n    full_key: extra\n    object_type=dict",
                    stage="construct",
                )
            ),
            intent=Intent(init=("extra",)),
            cause="omegaconf-update-kwargs",
            oracle=False,
        ),
        *(
            Fires(
                name=name,
                model=Model(
                    failure=BuildFailure(
                        kind=kind, exception=exception, message=message, file="models.py", line=8, stage=stage
                    )
                ),
                cause=cause,
                oracle=False,
            )
            for name, kind, exception, message, stage, cause in (
                (
                    "an object that was left out of the file",
                    FailureKind.INIT_ERROR,
                    "AttributeError",
                    "'NoneType' object has no attribute 'vocab_size'",
                    "construct",
                    "hparam-object-none",
                ),
                (
                    "an option that older configurations lack",
                    FailureKind.INIT_ERROR,
                    "omegaconf.errors.ConfigAttributeError",
                    "Missing key dropout",
                    "construct",
                    "config-schema-drift",
                ),
                (
                    "a reference to the configuration around it",
                    FailureKind.INIT_ERROR,
                    "omegaconf.errors.InterpolationKeyError",
                    "Interpolation key 'data.size' not found",
                    "construct",
                    "interpolation-unresolved",
                ),
                (
                    "a library of another version",
                    FailureKind.INIT_ERROR,
                    "AttributeError",
                    "module 'timm' has no attribute 'create'",
                    "construct",
                    "dependency-api-mismatch",
                ),
                (
                    "an import that fails for itself",
                    FailureKind.IMPORT_ERROR,
                    "OSError",
                    "libcudart.so.11.0: cannot open shared object file",
                    "import",
                    "import-side-effect-error",
                ),
            )
        ),
        Silent(name="a model that can be built"),
        *(
            Silent(
                name=f"{what}: the model is the user's, made with arguments of its own",
                model=Model(
                    failure=BuildFailure(
                        kind=FailureKind.INIT_ERROR, exception="AttributeError", message="x", stage="construct"
                    )
                ),
                intent=Intent(call=call),
            )
            for what, call in (("to be resumed", IntentCall.RESUME), ("only the weights", IntentCall.WEIGHTS))
        ),
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
        if failure is not None and failure.network:
            yield self._network(facts, failure)
        if failure is None or failure.kind not in (FailureKind.INIT_ERROR, FailureKind.IMPORT_ERROR):
            return
        importing = failure.kind is FailureKind.IMPORT_ERROR
        if not importing and (not facts.constructs or _OF_OTHER_RULES.search(failure.message)):
            return
        name = facts.resolved_target.class_name or facts.question.target or "the target"
        where = f"{failure.file}:{failure.line}" if failure.file else name
        exception = failure.exception or "Exception"
        fixes = []
        context = [f"{exception}: {' '.join(failure.message.split())}"]
        lacking = re.search(r"'dict' object has no attribute '(\w+)'", failure.message)
        if not importing and lacking is not None:
            context.append("Lightning saves a Namespace as a dict and gives the dict back.")
            argument = facts.lightning.hparams_name or "hparams"
            fixes.append(
                Fix(
                    title="Let the constructor take both:",
                    kind=FixKind.CODE,
                    code=f"if isinstance({argument}, dict):\n    {argument} = argparse.Namespace(**{argument})",
                )
            )
            fixes += _by_attribute(facts, argument, lacking[1])
        new_key = _new_key(facts, failure)
        if new_key is not None:
            context.append(
                f"The file's hyper_parameters are an OmegaConf configuration that takes no new keys, and the call "
                f"passes {new_key}."
            )
            fixes.append(
                Fix(
                    title="Let it take new keys, in a copy:",
                    kind=FixKind.FILE,
                    applicability=Applicability.SAFE,
                    code=snippets.open_struct(facts),
                )
            )
        yield self.finding(
            f"{name} cannot be {'imported' if importing else 'built'}",
            cause="omegaconf-update-kwargs" if new_key is not None else _cause(failure, importing=importing),
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

    def _network(self, facts: Facts, failure: BuildFailure) -> Finding:
        """Not an error: with a network it may work. But the answer depends on what is not in the checkpoint."""
        target = facts.resolved_target
        name = target.class_name or facts.question.target or "the target"
        importing = failure.stage == "import"
        fixes = []
        switches = [p for p in (target.init.params if target.init else ()) if _is_switch(p)]
        if switches and facts.calls_lightning:
            fixes.append(
                Fix(
                    title="The weights are in the checkpoint; where this argument only asks for others, switch it off:",
                    kind=FixKind.LOAD_ARGUMENT,
                    code=facts.question.load_call(**{p.name: False for p in switches}),
                )
            )
        return self.finding(
            f"{name} wants the network {'when it is imported' if importing else 'in its constructor'}",
            cause="init-needs-network-or-files",
            severity=Severity.WARNING,
            confidence=Confidence.POSSIBLE,
            evidence=[Evidence(f"{failure.file}:{failure.line}" if failure.file else name, failure.source or "")],
            context=[
                "relight builds models without the network. Where it is there, this may work; offline it does not."
            ],
            fixes=fixes,
            subjects=[name],
        )


def _by_attribute(facts: Facts, argument: str, wanted: str) -> list[Fix]:
    """The dict under its argument in the file, readable by attribute as the Namespace was."""
    init = facts.resolved_target.init
    held = facts.lightning.get("hyper_parameters")
    if init is None or argument not in init.names or mapping_pairs(held) is None or not facts.calls_lightning:
        return []
    if not mapping_has(held, wanted):
        return []  # it is another dict, deeper inside
    instead = tuple(k for k in ("hparams_name", "hparams_type") if facts.lightning.has(k))
    return [
        Fix(
            title="Or make it readable by attribute in a copy; no value changes:",
            kind=FixKind.FILE,
            applicability=Applicability.SAFE,
            edits=(WrapEntry(("hyper_parameters",), argument, instead, attributes=True),),
            note=f"The class gets a dict whose values are attributes, too: {argument}.x and {argument}['x'].",
        )
    ]


def _new_key(facts: Facts, failure: BuildFailure) -> str | None:
    """The argument of the call that a configuration in struct mode does not take."""
    found = re.search(r"Key '(\w+)' is not in struct", failure.message)
    return found.group(1) if found and facts.calls_lightning and found.group(1) in facts.intent.init else None


def _is_switch(param: InitParam) -> bool:
    """Whether an argument of the constructor looks as if it asked for weights to be fetched."""
    return param.default == "True" and re.search(r"pretrain|download|from_hub", param.name.lower()) is not None


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
