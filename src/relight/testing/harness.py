"""Runs a rule on its examples, ours or a plugin's, and tells what is wrong with the rule."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from relight.core.errors import MissingFact
from relight.core.finding import Finding
from relight.core.manifest import Make
from relight.core.target import (
    Environment,
    InitParam,
    InitSignature,
    ModelSpec,
    ModuleSpec,
    ParamSpec,
    Replay,
    Target,
)
from relight.facts.facts import Facts
from relight.facts.question import Question
from relight.reader import open_checkpoint
from relight.rulekit.example import Env, Example, Fires, Model, Silent
from relight.rulekit.rule import Rule
from relight.testing.recipes import write

# Source of `example_module`, which examples may name: it lies on the search path of every example.
EXAMPLE_MODULE = '''import enum


class Vocab:
    """Stands for a class of the user's."""


class Mode(enum.Enum):
    TRAIN = "train"
    EVAL = "eval"
'''


def facts_of(example: Example, folder: Path) -> Facts:
    """The facts of one example, its file written into a folder.

    Args:
        example: What a rule declares.
        folder: Where the checkpoint and ``example_module.py`` are put.
    """
    path = write(example.file, folder / "model.ckpt")
    (folder / "example_module.py").write_text(EXAMPLE_MODULE, encoding="utf-8")
    environment = None if example.env is None else _environment(example.env, folder)
    target = None if example.model is None else target_of(example.model)
    if target is not None and example.env is not None and "models.py" in example.env.sources:
        target = replace(target, file=str(folder / "models.py"))
    hparams_file = None
    if example.hparams_file is not None:
        name, text = example.hparams_file
        (folder / name).write_text(text, encoding="utf-8")
        hparams_file = str(folder / name)
    question = Question(
        path=str(path),
        target=None if target is None else target.argument,
        intent=example.intent,
        init=dict.fromkeys(example.intent.init),
        hparams_file=hparams_file,
        class_name=None if target is None else target.class_name,
    )
    return Facts(open_checkpoint(path), question, target, environment)


def _environment(env: Env, folder: Path) -> Environment:
    for name, text in env.sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return Environment(
        python=env.python,
        platform=env.platform,
        packages=dict(env.packages),
        complete=True,
        cuda_devices=env.cuda_devices,
        mps=env.mps,
        memory=env.memory,
        modules=frozenset(env.modules),
        search_path=(str(folder), str(folder / "site-packages")),
        origin="the example",
    )


def target_of(model: Model) -> Target:
    """The target that a model recipe stands for."""
    init = InitSignature(
        tuple(p if isinstance(p, InitParam) else InitParam(p, True) for p in model.init), model.var_keyword
    )
    spec = None if model.failure is not None else spec_of(model, init)
    return Target(
        argument=f"models.py:{model.name}",
        spec=spec,
        failure=model.failure,
        rehearsal=model.rehearsal,
        init=init,
        class_name="LightningModule" if model.kind == "base" else model.name,
        class_kind="datamodule" if model.kind == "datamodule" else "lightning",
        passed=model.passed,
        dropped=model.dropped,
        stopped_at="models.py:20" if model.on_instance else None,
        stopped_by="load_from_checkpoint" if model.on_instance else None,
        stopped_on_instance=model.on_instance,
        file=None if model.kind == "base" else "models.py",
        replay=None if model.answer is None else Replay(answer=model.answer),
    )


def spec_of(model: Model, init: InitSignature) -> ModelSpec:
    """The spec of a model recipe: modules are derived from the keys; known classes bring their load hooks."""
    tied = {k: tuple(o for o in group if o != k) for group in model.tied for k in group}
    paths: dict[str, None] = {"": None}
    for key in model.params:
        parts = key.split(".")
        paths.update(dict.fromkeys(".".join(parts[:i]) for i in range(1, len(parts))))
    return ModelSpec(
        class_name=model.name,
        class_path=f"models.py:{model.name}",
        kind="datamodule" if model.kind == "datamodule" else "lightning",
        params=tuple(
            ParamSpec(
                key,
                model.dtypes.get(key, "float32"),
                None if shape is None else tuple(shape),
                "buffer" if key in model.buffers else "parameter",
                tied_with=tied.get(key, ()),
                value=model.values.get(key),
            )
            for key, shape in model.params.items()
        ),
        modules=tuple(ModuleSpec(path, _class(model, path), load_hooks=_hooks(_class(model, path))) for path in paths),
        init=init,
        strict_loading=model.strict_loading,
        architecture=Make.from_dict(model.architecture),
        training=model.training,
    )


def _class(model: Model, path: str) -> str:
    return model.modules.get(path, f"models.{model.name}" if not path else "torch.nn.modules.module.Module")


def _hooks(class_path: str) -> tuple[str, ...]:
    if class_path.startswith("torch.nn.modules.batchnorm."):
        return ("torch.nn.modules.batchnorm._NormBase._load_from_state_dict",)
    return ()


def run(rule: type[Rule], example: Example) -> list[Finding]:
    """What the rule finds on an example; nothing when it is skipped for want of a fact."""
    with tempfile.TemporaryDirectory(prefix="relight-example-") as folder:
        try:
            return list(rule().check(facts_of(example, Path(folder))))
        except MissingFact:
            return []


def problems_of_rule(rule: type[Rule]) -> Iterator[str]:
    """What is wrong with a rule, one sentence each; nothing when it keeps the contract."""
    for example in rule.examples:
        findings = run(rule, example)
        if isinstance(example, Silent):
            if findings:
                yield f"{rule.code} says {findings[0].message!r} on the near miss {example.name!r}"
            continue
        if not findings:
            yield f"{rule.code} is silent on {example.name!r}"
        for finding in findings:
            yield from _problems_of_finding(rule, finding, example)


def _problems_of_finding(rule: type[Rule], finding: Finding, example: Fires | Silent) -> Iterator[str]:
    where = f"{rule.code} on {example.name!r}"
    if finding.code != rule.code or finding.name != rule.name:
        yield f"{where}: the finding has another rule's code"
    if finding.cause not in rule.causes:
        yield f"{where}: cause {finding.cause!r} is not declared"
    if isinstance(example, Fires) and example.cause is not None and finding.cause != example.cause:
        yield f"{where}: cause {finding.cause!r}, expected {example.cause!r}"
    if "\n" in finding.message or finding.message.endswith("."):
        yield f"{where}: a message is one line without a full stop"
    if not finding.explains <= set(finding.subjects) | finding.explains:
        yield f"{where}: explains more than its subjects"
    for fix in finding.fixes:
        if not fix.title:
            yield f"{where}: a fix without a title"
