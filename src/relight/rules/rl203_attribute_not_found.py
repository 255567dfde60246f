"""RL203."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES

from relight.core.edits import ReplaceGlobal
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind
from relight.core.target import Intent, IntentCall
from relight.facts import imports, plain_copy, renamed_class, unpickling
from relight.facts.absent import weights_without
from relight.facts.facts import Facts
from relight.facts.imports import Found, Resolution
from relight.rulekit import Env, File, Fires, Model, Obj, Phase, Ref, Rule, Silent

_TORCH = Intent(call=IntentCall.WEIGHTS, weights_only=False)
# Where Lightning keeps what it never meant to be pickled.
_INTERNALS = ("pytorch_lightning.trainer.", "lightning.pytorch.trainer.")
_SAME = {"pytorch-lightning": ("lightning",), "lightning": ("pytorch-lightning",), "lightning-fabric": ("lightning",)}


_RENAMED = """\
class ModelConfig:
    hidden: int = 16
    dropout: float = 0.1


class Other:
    def __init__(self, words):
        self.words = words
"""


class AttributeNotFound(Rule):
    """A class that the file names is not in its module any more.

    What it checks
    --------------
    For names of the user's own modules and of packages without compiled parts: whether the module's source, parsed
    and not run, still defines them. For names that are known to have come or gone with a version of their package:
    that version. For classes of ``__main__``: whether the target's file defines them.

    Why loading fails
    -----------------
    Unpickling imports the module and asks it for the name: ``AttributeError: Can't get attribute ...``. The class
    was renamed, moved or deleted since the file was written, or it was defined in the training script.

    How to fix
    ----------
    Give the module the old name again: an alias to the new class is enough where its attributes are the same. What
    a package lost is there in the version of the package that wrote the file; the weights do not need it.

    References
    ----------
    The Python documentation of pickle, ``Unpickler.find_class``.
    """

    code = "RL203"
    name = "attribute-not-found"
    causes = (
        "cant-get-attribute-module",
        "cant-get-attribute-main",
        "gpus-arg-default",
        "fault-tolerant-enum",
        "attributedict-moved",
        "numpy-removed-alias",
        "connector-classes-pickled",
    )
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="a class that is gone",
            file=File(hparams={"vocab": Obj("example_module.Vocabulary", {"words": []})}),
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="a class of the training script, and another script given",
            file=File(hparams={"mode": Obj("__main__.Mode", {"x": 1})}),
            env=Env(sources={"models.py": "class MyModel: ..."}),
            model=Model(),
            cause="cant-get-attribute-main",
            intent=Intent(weights_only=False),
            oracle=False,
        ),
        Fires(
            name="a default of Trainer's arguments, loaded by plain torch",
            file=File(extra={"x": Ref("pytorch_lightning.utilities.argparse._gpus_arg_default")}),
            cause="gpus-arg-default",
            intent=_TORCH,
        ),
        Fires(
            name="an enum of 1.x, in 2.0.1",
            file=File(extra={"x": Obj("pytorch_lightning.utilities.enums._FaultTolerantMode", args=("disabled",))}),
            env=Env(packages={"torch": "2.0.1", "pytorch-lightning": "2.0.1"}),
            cause="fault-tolerant-enum",
        ),
        Fires(
            name="an AttributeDict of 2.2, in 2.1",
            file=File(hparams={"a": Obj("lightning.fabric.utilities.data.AttributeDict", {})}),
            env=Env(packages={"torch": "2.1.2", "lightning": "2.1.4"}),
            cause="attributedict-moved",
        ),
        Fires(
            name="a type of numpy 2, in 1.24",
            file=File(extra={"dtype": Ref("numpy.bool")}),
            env=Env(packages={**Env().packages, "numpy": "1.24.4"}),
            cause="numpy-removed-alias",
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="a class inside of Trainer, in another version",
            file=File(hparams={"data": Obj("pytorch_lightning.trainer.gone.DataConnector", {})}),
            env=Env(sources={"site-packages/pytorch_lightning/trainer/gone.py": "class Other: ..."}),
            cause="connector-classes-pickled",
            intent=Intent(weights_only=False),
            oracle=False,
        ),
        Fires(
            name="a class that has another name now",
            file=File(hparams={"config": Obj("models.Config", {"hidden": 16, "dropout": 0.1})}),
            env=Env(sources={"models.py": _RENAMED}),
            intent=Intent(weights_only=False),
            oracle=False,
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
        Silent(
            name="the training script's own class, and that script given",
            file=File(hparams={"mode": Obj("__main__.Mode", {"x": 1})}),
            env=Env(sources={"models.py": "class Mode: ..."}),
            model=Model(init=("mode",)),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a default of Trainer's arguments, which Lightning puts back",
            file=File(extra={"x": Ref("pytorch_lightning.utilities.argparse._gpus_arg_default")}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="an enum of 1.x, in 2.6",
            file=File(extra={"x": Obj("pytorch_lightning.utilities.enums._FaultTolerantMode", args=("disabled",))}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="an AttributeDict of 2.2, in 2.6",
            file=File(hparams={"a": Obj("lightning.fabric.utilities.data.AttributeDict", {})}),
            intent=Intent(weights_only=False),
        ),
        Silent(
            name="a package with compiled parts",
            file=File(hparams={"data": Obj("fast.core.Node", {})}),
            env=Env(
                sources={
                    "site-packages/fast/core.py": "class Other: ...",
                    f"site-packages/fast/_c{EXTENSION_SUFFIXES[0]}": "",
                }
            ),
            intent=Intent(weights_only=False),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding per module that lost names."""
        if facts.weights_only is None:
            return
        by_module: dict[tuple[str, str | None], list[Resolution]] = {}
        for r in facts.resolutions:
            if r.found is Found.NO_ATTRIBUTE:
                by_module.setdefault((r.ref.module, r.file), []).append(r)
        for (module, file), group in by_module.items():
            names = [r.ref.name for r in group]
            entry = imports.moved_name(group[0].ref)
            early = entry is not None and file is None and "until" not in entry
            own = file is not None and imports.is_project(file)
            where = None if file is None else facts.display(file)
            yield self.finding(
                f"{module} has no {' and no '.join(names[:3])} {'yet' if early else 'any more'}",
                cause=self._cause(module, entry if file is None else None),
                confidence=Confidence.CERTAIN if (own and module != "__main__") or file is None else Confidence.LIKELY,
                evidence=[
                    Evidence(
                        str(r.path) if r.path is not None else "the file",
                        ("is " + unpickling.describe(r.ref, r.value)).replace("is names", "names"),
                        where if own else None,
                    )
                    for r in group
                ][:6],
                context=_context(facts, module, where if own else None),
                fixes=[
                    *_fixes(facts, module, names, where if own else None, entry),
                    *_in_the_file(facts, group, file if own else None),
                    *weights_without(facts, group),
                ],
                subjects=[r.ref.full_name for r in group],
                explains=[r.ref.full_name for r in group],
                predicts=facts.unpickling,
            )

    def _cause(self, module: str, entry: dict[str, str] | None) -> str:
        if entry is not None:
            return entry["cause"]
        if module == "__main__":
            return "cant-get-attribute-main"
        return "connector-classes-pickled" if module.startswith(_INTERNALS) else "cant-get-attribute-module"


def _context(facts: Facts, module: str, file: str | None) -> list[str]:
    if module == "__main__":
        return [
            f"It was defined in the script that saved the file; {file} was parsed, not run, and defines no such name."
        ]
    if file is not None:
        return [f"{file} was parsed, not run: it defines no such name."]
    package = imports.distribution(module)
    version = None if package is None else facts.environment.version(package, *_SAME.get(package, ()))
    return [f"{package} {version} is installed." if version else f"{module} is part of an installed package."]


def _fixes(facts: Facts, module: str, names: list[str], file: str | None, entry: dict[str, str] | None) -> list[Fix]:
    if file is None:
        return [_other_version(module, entry)]
    if module == "__main__":
        places = facts.places_of_class(names[0])
        lines = "\n".join(f"from {_dotted(places[0])} import {n}" for n in names) if places else ""
        return [
            Fix(
                title=f"A class of this name: {places[0]} (parsed, not run). In the script that loads:"
                if places
                else "Define or import the name in the script that loads, as the script that saved did.",
                kind=FixKind.CODE,
                code=lines or None,
            )
        ]
    return [
        Fix(
            title=f"Give {file} the old name again, for example at its end:",
            kind=FixKind.CODE,
            code="\n".join(f"{n} = TheClassThatReplacesIt" for n in names),
            note="An alias is enough where the new class has the same attributes.",
        )
    ]


def _in_the_file(facts: Facts, group: list[Resolution], file: str | None) -> list[Fix]:
    """What can be done to the file: plain data needs no class; else the name that a class with these attributes has now."""
    if facts.weights_only:
        return plain_copy.fixes(facts, missing=True)
    found = {r.ref.full_name: None if file is None else renamed_class.present_name(file, r) for r in group}
    if None in found.values():
        return []
    listed = ", ".join(f"{old} is {new}" for old, new in found.items())
    return [
        Fix(
            title="Or, if these are their new names, write them into a copy:"
            if len(found) > 1
            else "Or, if that is its new name, write it into a copy:",
            kind=FixKind.FILE,
            applicability=Applicability.MANUAL,
            note=f"By their attributes: {listed}.",
            edits=tuple(ReplaceGlobal(old, str(new)) for old, new in found.items()),
            allow="renamed-class",
        )
    ]


def _dotted(place: str) -> str:
    file = place.rpartition(":")[0]
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _other_version(module: str, entry: dict[str, str] | None) -> Fix:
    package = imports.distribution(module) or module.partition(".")[0]
    if entry is None:
        return Fix(
            title=f"Load the file with the version of {package} that wrote it.",
            kind=FixKind.ENVIRONMENT,
        )
    wanted = f"{package}<{entry['until']}" if "until" in entry else f"{package}>={entry['since']}"
    return Fix(
        title=f"Load the file with a {package} that has it:",
        kind=FixKind.ENVIRONMENT,
        command=f"pip install {shlex.quote(wanted)}",
    )
