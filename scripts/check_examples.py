"""Ask the torch and Lightning of this interpreter about every example of every rule: ``python check_examples.py``.

The tests do the same with the versions of the development extra; this is for other versions, above all older ones. The
environment of each example is the one that is installed here, so a rule that knows of versions has to know of these.
The examples whose environment is the point of them, that resume, or that stand for a model that cannot be built are
left out, as in the tests. Prints every answer that did not come true, and exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from real_models import Outcome, can_be_asked, holds, load_for_real, real_class, with_model

from relight.core.finding import Report, Verdict
from relight.engine.diagnose import diagnose
from relight.rulekit.example import Env, Example
from relight.rulekit.registry import all_rules
from relight.testing import facts_of


def main() -> int:
    """Ask, compare, print, and give the exit status."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    here = _here()
    print(f"Python {here.python}, " + ", ".join(f"{name} {version}" for name, version in here.packages.items()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning  # noqa: F401
        import torch
    torch.set_num_threads(1)
    rules = all_rules()
    asked = wrong = unknown = 0
    for rule in rules:
        for example in rule.examples:
            if not can_be_asked(example) or not getattr(example, "oracle", True):
                continue
            report, real = _ask(replace(example, env=here))
            asked += 1
            unknown += report.verdict is Verdict.UNKNOWN
            if not holds(report, real) or report.crashed:
                wrong += 1
                first = report.prediction
                said = "no exception" if first is None else f"{first.exception}: {first.message}"
                print(f"\n{rule.code} {rule.name}, {example.name!r}")
                print(f"    said: {report.verdict.value}, {said[:300]!r} {[f.name for f in report.findings]}")
                print(f"    did:  {str(real)[:300]!r}")
                for crash in report.crashed:
                    print(f"    {crash.code} crashed: {crash.error}")
    print(f"\n{asked - wrong} of {asked} came true, {unknown} of them promise nothing")
    return 1 if wrong or not asked else 0


def _here() -> Env:
    """What is installed, as an example states it."""
    packages = {}
    for name in Env().packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    modules = tuple(name for name in Env().modules if importlib.util.find_spec(name) is not None)
    return Env(python=platform.python_version(), packages=packages, modules=modules)


def _ask(example: Example) -> tuple[Report, Outcome]:
    with _folder() as folder:
        example = with_model(example)
        report = diagnose(facts_of(example, folder), all_rules())
        assert example.model is not None
        cls = real_class(example.model, folder)
        return report, load_for_real(cls, folder / "model.ckpt", example.intent, under=example.file.under)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty working directory that is on the path; what was imported from it is forgotten."""
    modules, path, before = set(sys.modules), list(sys.path), os.getcwd()
    with tempfile.TemporaryDirectory(prefix="relight-example-") as name:
        os.chdir(name)
        sys.path.insert(0, name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)
            sys.path[:] = path
            for module in set(sys.modules) - modules:
                if getattr(sys.modules[module], "__file__", None) and str(sys.modules[module].__file__).startswith(
                    name
                ):
                    del sys.modules[module]


if __name__ == "__main__":
    sys.exit(main())
