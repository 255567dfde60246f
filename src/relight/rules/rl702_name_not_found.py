"""RL702."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import Layout
from relight.core.finding import Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import BuildFailure, FailureKind
from relight.facts import describe
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_FAILURE = BuildFailure(
    kind=FailureKind.NAME_ERROR,
    exception="NameError",
    message="name 'MyCustomLayer' is not defined",
    file="load.py",
    line=7,
    source="self.custom_layer = MyCustomLayer()",
    stage="construct",
    name="MyCustomLayer",
    suggestions=("training/my_custom_module.py:2",),
    searched=14,
)


_CONVERTED = (Layout.TORCH_ZIP, Layout.TORCH_LEGACY, Layout.TORCH_TAR)


_CONVERTED = (Layout.TORCH_ZIP, Layout.TORCH_LEGACY, Layout.TORCH_TAR)


class NameNotFound(Rule):
    """The target's source uses a name that it neither defines nor imports.

    What it checks
    --------------
    A NameError that the target's own code raised while it was imported or built. A class or function of that name is
    looked for in this folder by parsing, never by importing; what the right one must provide is read off the
    checkpoint.

    Why loading fails
    -----------------
    ``NameError: name 'MyCustomLayer' is not defined``, from inside Lightning, before any weight is read. It looks
    like a bad checkpoint; the checkpoint never mentions the name.

    How to fix
    ----------
    Import the class.

    References
    ----------
    The Python documentation, NameError.
    """

    code = "RL702"
    name = "name-not-found"
    causes = ("name-not-defined",)
    phase = Phase.CONTENTS
    needs = frozenset({"target"})
    examples = (
        Fires(
            name="a layer that is used and never imported",
            file=File(tensors={"custom_layer.proj.weight": (10, 10), "custom_layer.proj.bias": (10,)}),
            model=Model(failure=_FAILURE),
            oracle=False,
        ),
        Silent(name="a model that can be built"),
        Silent(
            name="a module that is missing",
            model=Model(
                failure=BuildFailure(
                    kind=FailureKind.MODULE_NOT_FOUND, exception="ModuleNotFoundError", message="No module named 'x'", name="x"
                )
            ),
        ),
        Silent(name="no target"),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Word the NameError, and look for the class."""
        failure = facts.resolved_target.failure
        if failure is None or failure.kind is not FailureKind.NAME_ERROR:
            return
        name = failure.name or "a name"
        where = f"{failure.file}:{failure.line}" if failure.file else "the target"
        context = [
            f"{failure.file or 'It'} neither defines nor imports it: NameError, before any weight is read. "
            "The checkpoint does not record where the class came from."
        ]
        fixes = []
        for place in failure.suggestions[:3]:
            file = place.rpartition(":")[0] or place
            fixes.append(
                Fix(
                    title=f"A class of this name: {place} (parsed, not run).",
                    kind=FixKind.CODE,
                    code=f"from {_module(file)} import {name}",
                )
            )
        if facts.checkpoint.tensors and facts.checkpoint.layout in _CONVERTED:
            stem = facts.question.path.rpartition(".")[0] or facts.question.path
            fixes.append(
                Fix(
                    title="Lost for good? The weights come out without it:",
                    kind=FixKind.CODE,
                    command=facts.question.command("convert", None, f"{stem}.safetensors"),
                )
            )
        if not failure.suggestions:
            context.append(f"No class of this name under this folder ({failure.searched} Python files).")
        yield self.finding(
            f"{name} is not defined",
            evidence=[Evidence(where, failure.source or ""), *_must_provide(facts, failure)],
            context=context,
            fixes=fixes,
            subjects=[name],
            predicts=Prediction(
                Stage.IMPORT if failure.stage == "import" else Stage.CONSTRUCT,
                "import" if failure.stage == "import" else facts.call_name,
                "NameError",
                failure.message,
            ),
        )


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".").lstrip(".")


def _must_provide(facts: Facts, failure: BuildFailure) -> list[Evidence]:
    """What the checkpoint says of the attribute that the line would fill."""
    attribute = (failure.source or "").partition("=")[0].strip()
    if not attribute.startswith("self.") or not attribute[5:].isidentifier():
        return []
    prefix = attribute[5:] + "."
    modules: dict[str, list[str]] = {}
    for tensor in facts.checkpoint.tensors:
        if tensor.key.startswith(prefix):
            owner, _, leaf = tensor.key.rpartition(".")
            modules.setdefault(owner, []).append(f"{leaf} {describe.shape(tensor.shape)}")
    if not modules:
        return []
    lines = [Evidence("checkpoint", "what it must provide:")]
    lines += [Evidence(owner, "   ".join(parts[:4])) for owner, parts in list(modules.items())[:6]]
    if len(modules) > 6:
        lines.append(Evidence("...", f"{len(modules) - 6} more modules"))
    return lines
