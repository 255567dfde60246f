"""RL202."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import BuildFailure, FailureKind, Intent, IntentCall
from relight.facts import describe, imports, plain_copy, unpickling
from relight.facts.absent import weights_without
from relight.facts.facts import Facts
from relight.facts.imports import Found, Resolution
from relight.facts.question import literal
from relight.rulekit import Env, File, Fires, Model, Obj, Phase, Ref, Rule, Silent

_NO_LIGHTNING = Env(packages={"torch": "2.13.0"}, modules=("torch",))
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
        "argparse-utils-module",
        "pandas-numeric-index",
        "libclass-old-sklearn-etc",
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
        Fires(
            name="a class of Lightning, and no Lightning here",
            file=File(hparams={"a": Obj("pytorch_lightning.utilities.parsing.AttributeDict", {})}),
            env=_NO_LIGHTNING,
            cause="missing-pytorch-lightning",
            intent=Intent(call=IntentCall.WEIGHTS, weights_only=False),
        ),
        Fires(
            name="what Lightning puts back, loaded by plain torch",
            file=File(extra={"x": Ref("pytorch_lightning.utilities.argparse_utils._gpus_arg_default")}),
            cause="argparse-utils-module",
            intent=Intent(call=IntentCall.WEIGHTS, weights_only=False),
        ),
        Fires(
            name="a number of numpy 2, and numpy 1 here",
            file=File(extra={"best": Ref("numpy._core.multiarray.scalar")}),
            env=Env(packages={**Env().packages, "numpy": "1.24.4"}),
            cause="numpy-core-renamed",
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="a path of Python 3.13",
            file=File(hparams={"root": Obj("pathlib._local.PosixPath", args=("data",))}),
            cause="pathlib-local-313",
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="an index of pandas 1, and pandas 2 here",
            file=File(hparams={"index": Obj("pandas.core.indexes.numeric.Int64Index", {})}),
            env=Env(packages={**Env().packages, "pandas": "2.2.3"}, modules=(*Env().modules, "pandas")),
            cause="pandas-numeric-index",
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="an encoder of an older scikit-learn",
            file=File(hparams={"encoder": Obj("sklearn.preprocessing.label.LabelEncoder", {})}),
            env=Env(packages={**Env().packages, "scikit-learn": "1.5.0"}, modules=(*Env().modules, "sklearn")),
            cause="libclass-old-sklearn-etc",
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="names that Lightning itself still provides",
            file=File(extra={"x": Obj("pytorch_lightning.utilities.argparse_utils._gpus_arg_default", args=(1,))}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a number of numpy 2, and numpy 1.26 here",
            file=File(extra={"best": Ref("numpy._core.multiarray.scalar")}),
            env=Env(packages={**Env().packages, "numpy": "1.26.4"}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a path of every other Python",
            file=File(hparams={"root": Obj("pathlib.PosixPath", args=("data",))}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="an index of pandas 1, and pandas 1 here",
            file=File(hparams={"index": Obj("pandas.core.indexes.numeric.Int64Index", {})}),
            env=Env(packages={**Env().packages, "pandas": "1.5.3"}, modules=(*Env().modules, "pandas")),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="standalone names, and the unified package here",
            file=File(extra={"callbacks": Ref("pytorch_lightning.callbacks.early_stopping.EarlyStopping")}),
            env=Env(packages={"torch": "2.13.0", "lightning": "2.6.6"}, modules=("torch", "lightning")),
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
        fixes = [_install(name)] if imports.distribution(name) else []
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
            cause=_cause(top, first.ref.module, part="." in module),
            confidence=Confidence.CERTAIN,
            evidence=[Evidence(e.what, e.text.replace("is names", "names")) for e in evidence][:5],
            context=context,
            fixes=[*_fixes(facts, top, first), *plain_copy.fixes(facts, missing=True), *weights_without(facts, group)],
            subjects=[r.ref.full_name for r in group],
            explains=[r.ref.full_name for r in group],
            predicts=facts.unpickling,
        )


def _cause(top: str, module: str, *, part: bool = False) -> str:
    entry = imports.moved_module(module)
    if entry is not None and "cause" in entry:
        return entry["cause"]
    if top in ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_lite"):
        return "missing-pytorch-lightning"
    if imports.distribution(top) is None:
        return "missing-module-project"
    return "libclass-old-sklearn-etc" if part else "missing-module-thirdparty"


def _install(module: str) -> Fix:
    return Fix(
        title="Install the package that has it:",
        kind=FixKind.ENVIRONMENT,
        applicability=Applicability.MANUAL,
        command=f"pip install {imports.distribution(module)}",
    )


def _fixes(facts: Facts, top: str, first: Resolution) -> list[Fix]:
    missing = first.missing_module or first.ref.module
    entry = imports.moved_module(first.ref.module)
    if entry is not None and ("package" not in entry or facts.environment.version(entry["package"]) is not None):
        return [_other_version(entry, missing)]
    package = imports.distribution(top)
    if package is not None and "." not in missing:
        return [_install(top)]
    if package is not None:
        here = facts.environment.version(package)
        return [
            Fix(
                title=f"{package}{f' {here}' if here else ''} is installed and has no such module. "
                f"Load the file with the version of {package} that wrote it.",
                kind=FixKind.ENVIRONMENT,
            )
        ]
    folder = facts.folder_of_module(top)
    moved = [] if folder is not None else facts.places_of_class(first.ref.name)
    if moved:
        return [_moved(facts, first, moved)]
    return [
        Fix(
            title="You have the source: put it on the path and try again:"
            if folder is None
            else f"A module of this name lies in {folder} (seen, not run). With that folder on the path:",
            kind=FixKind.ENVIRONMENT,
            command=f"PYTHONPATH={shlex.quote(folder or 'path/to/source')} {facts.question.command('check')}",
        )
    ]


def _other_version(entry: dict[str, str], missing: str) -> Fix:
    if "package" not in entry:
        return Fix(
            title=f"The file was written with Python {entry['python']}; there the module {entry['before']} is called "
            f"{missing}. Load it with Python {entry['python']}.",
            kind=FixKind.ENVIRONMENT,
        )
    package = entry["package"]
    if "until" in entry:
        title = f"{package} {entry['until']} and newer no longer have it. Load the file with an older one:"
        wanted = f"{package}<{entry['until']}"
    else:
        title = f"The file was written with a newer {package}"
        title += f"; there the module {entry['before']} is called {missing}. Load it with one that has it:"
        wanted = f"{package}>={entry['since']}"
    return Fix(title=title, kind=FixKind.ENVIRONMENT, command=f"pip install {shlex.quote(wanted)}")


def _moved(facts: Facts, first: Resolution, places: list[str]) -> Fix:
    """The class lies in another module now: the old name can stand for the new one while loading."""
    file = places[0].rpartition(":")[0]
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    parts = first.ref.module.split(".")
    absent = [".".join(parts[: i + 1]) for i in range(len(parts))]
    absent = [a for a in absent if a.startswith(first.missing_module or "")]
    names = " = ".join(f"sys.modules[{literal(a)}]" for a in absent)
    return Fix(
        title=f"A class of this name: {places[0]} (parsed, not run). Where it is the same, before loading:",
        kind=FixKind.CODE,
        code=f"import sys, {module}\n{names} = {module}",
    )
