"""RL202."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import BuildFailure, FailureKind, Intent
from relight.facts import data, describe, unpickling
from relight.facts.facts import Facts
from relight.facts.imports import Found, Resolution
from relight.rulekit import Env, File, Fires, Model, Obj, Phase, Rule, Silent

_LAYER = {"layer": Obj("my_custom_module.MyCustomLayer", {"dim": 10})}


class ModuleNotFound(Rule):
    """A module that is needed cannot be imported here.

    What it checks
    --------------
    The modules of all classes and functions that the pickle names, against the environment; and the imports of the
    target's own source, which really ran.

    Why loading fails
    -----------------
    A pickle holds names, not code. Unpickling imports them: ``ModuleNotFoundError: No module named ...``. With
    ``weights_only=True`` the class is refused first, but both remedies that torch then suggests (allow the class,
    or weights_only=False) need the module as well.

    How to fix
    ----------
    Put the source on the path, or install the package that has it. The weights do not need the module.

    References
    ----------
    The Python documentation of pickle, "What can be pickled and unpickled".
    """

    code = "RL202"
    name = "module-not-found"
    causes = (
        "missing-module-project",
        "missing-module-thirdparty",
        "missing-pytorch-lightning",
        "numpy-core-renamed",
        "pathlib-local-313",
    )
    phase = Phase.CONTENTS
    needs = frozenset({"environment"})
    examples = (
        Fires(name="a layer of a project module", file=File(hparams=_LAYER), intent=Intent(weights_only=False)),
        Fires(name="refused first, and missing as well", file=File(hparams=_LAYER)),
        Fires(
            name="a package that is not installed",
            file=File(hparams={"model": Obj("timm.models.resnet.ResNet", {"depth": 2})}),
            cause="missing-module-thirdparty",
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="the target imports what is not there",
            model=Model(
                failure=BuildFailure(
                    kind=FailureKind.MODULE_NOT_FOUND,
                    exception="ModuleNotFoundError",
                    message="No module named 'my_custom_module'",
                    file="load.py",
                    line=3,
                    source="import my_custom_module",
                    name="my_custom_module",
                )
            ),
            oracle=False,
        ),
        Silent(
            name="the module is there",
            file=File(hparams=_LAYER),
            env=Env(modules=("torch", "lightning", "pytorch_lightning", "my_custom_module")),
            intent=Intent(weights_only=False),
        ),
        Silent(name="nothing known of the environment", file=File(hparams=_LAYER), env=None),
        Silent(
            name="names that Lightning itself still provides",
            file=File(extra={"x": Obj("pytorch_lightning.utilities.argparse_utils._gpus_arg_default", args=(1,))}),
            intent=Intent(weights_only=False),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The target's imports first: they run before the checkpoint is opened."""
        environment = facts.environment
        failure = facts.resolved_target.failure if facts.has_target else None
        if failure is not None and failure.kind is FailureKind.MODULE_NOT_FOUND:
            yield self._import_failure(facts, failure)
        if not facts.checkpoint.readable or facts.weights_only is None:
            return
        absent = [r for r in facts.resolutions if r.found is Found.NO_MODULE]
        by_module: dict[str, list[Resolution]] = {}
        for resolution in absent:
            by_module.setdefault(resolution.ref.module.partition(".")[0], []).append(resolution)
        for top, group in by_module.items():
            yield self._in_pickle(facts, top, group, environment.origin)

    def _import_failure(self, facts: Facts, failure: BuildFailure) -> Finding:
        name = failure.name or "a module"
        where = None if failure.file is None else f"{failure.file}:{failure.line}"
        found = [s for s in failure.suggestions if s]
        context = ["The checkpoint is innocent: this import fails before it is opened."]
        fixes = [_install(name)] if _distribution(name) else []
        if found:
            folder = found[0].rpartition("/")[0] or "."
            fixes.insert(
                0,
                Fix(
                    title=f"A module of this name: {found[0]} (seen, not run). With its folder on the path:",
                    kind=FixKind.ENVIRONMENT,
                    command=f"PYTHONPATH={shlex.quote(folder)} {facts.question.command('check')}",
                ),
            )
        elif not fixes:
            context.append(f"No module of this name under this folder ({failure.searched} Python files).")
        return self.finding(
            f"{facts.question.target} needs {name}, which is not here",
            cause=_cause(name, name),
            evidence=[Evidence(where or name, failure.source or "")],
            context=context,
            fixes=fixes,
            subjects=[name],
            predicts=Prediction(Stage.IMPORT, "import", failure.exception or "ModuleNotFoundError", failure.message),
        )

    def _in_pickle(self, facts: Facts, top: str, group: list[Resolution], origin: str) -> Finding:
        first = group[0]
        module = first.missing_module or first.ref.module
        evidence = [
            Evidence(str(r.path) if r.path is not None else "the file", "is " + unpickling.describe(r.ref, r.value))
            for r in group
        ]
        context = []
        if facts.weights_only:
            context.append("Neither remedy that torch suggests can help: both need the module.")
        if facts.checkpoint.tensors:
            n = len(facts.checkpoint.tensors)
            context.append(
                f"The weights do not: {describe.tensors(n)}, readable now."
                if n != 1
                else "The weights do not: 1 tensor, readable now."
            )
        return self.finding(
            f"the file needs {module}, which is not here",
            cause=_cause(top, first.ref.module),
            confidence=Confidence.CERTAIN,
            evidence=[Evidence(e.what, e.text.replace("is names", "names")) for e in evidence][:5],
            context=context,
            fixes=_fixes(facts, top, module),
            subjects=[r.ref.full_name for r in group],
            explains=[r.ref.full_name for r in group],
            predicts=facts.unpickling,
        )


def _distribution(module: str) -> str | None:
    top = module.partition(".")[0]
    for entry in data.load("importable")["distributions"]:
        if entry["module"] == top:
            return str(entry["distribution"])
    return None


def _cause(top: str, module: str) -> str:
    for entry in data.load("importable")["moved"]:
        if (module == entry["module"] or module.startswith(entry["module"] + ".")) and "cause" in entry:
            return str(entry["cause"])
    if top in ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_lite"):
        return "missing-pytorch-lightning"
    return "missing-module-thirdparty" if _distribution(top) else "missing-module-project"


def _install(module: str) -> Fix:
    return Fix(
        title="Install the package that has it:",
        kind=FixKind.ENVIRONMENT,
        applicability=Applicability.MANUAL,
        command=f"pip install {_distribution(module)}",
    )


def _fixes(facts: Facts, top: str, module: str) -> list[Fix]:
    for entry in data.load("importable")["moved"]:
        if module == entry["module"] and "before" in entry:
            newer = f"{entry['package']}>={entry['since']}" if "package" in entry else f"Python {entry['python']}"
            return [
                Fix(
                    title=f"The file was written with a newer {entry.get('package', 'Python')}; "
                    f"there the module {entry['before']} is called {module}. Load it with {newer}.",
                    kind=FixKind.ENVIRONMENT,
                    command=f"pip install {shlex.quote(newer)}" if "package" in entry else None,
                )
            ]
    if _distribution(top):
        return [_install(top)]
    folder = facts.folder_of_module(top)
    return [
        Fix(
            title="You have the source: put it on the path and try again:"
            if folder is None
            else f"A module of this name lies in {folder} (seen, not run). With that folder on the path:",
            kind=FixKind.ENVIRONMENT,
            command=f"PYTHONPATH={shlex.quote(folder or 'path/to/source')} {facts.question.command('check')}",
        )
    ]
