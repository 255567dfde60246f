"""What gets imported, and what does not: relight is imported inside other people's training jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILES = Path(__file__).parents[1] / "src" / "relight" / "cli" / "demo_files"
HEAVY = ("torch", "lightning", "pytorch_lightning", "numpy", "pickle", "zipfile")

# Refuses these modules, as a Python without them would.
WITHOUT = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY[:4]!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=FILES, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_relight_loads_the_standard_library_only() -> None:
    out = run(
        "import sys\nbefore = set(sys.modules)\nimport relight\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'relight'}))"
    )
    assert out == "[]\n"


def test_every_public_name_is_there() -> None:
    out = run("import relight\nprint([n for n in relight.__all__ if getattr(relight, n, None) is None])")
    assert out == "[]\n"


def test_reading_imports_neither_torch_nor_an_unpickler() -> None:
    out = run(
        f"import sys, relight\nrelight.inspect('trained.ckpt')\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert out == "[]\n"


def test_checking_against_a_spec_needs_no_torch() -> None:
    out = run(
        WITHOUT + "import relight\n"
        "print(relight.check('trained.ckpt', target='trained.spec.json').verdict.value)\n"
        "print(relight.check('trained.ckpt', target='grown.spec.json').verdict.value)\n"
        f"print([m for m in {HEAVY[:4]!r} if m in sys.modules])"
    )
    assert out == "loads\nfails\n[]\n"


def test_a_live_target_without_torch_is_said_to_be_unknown() -> None:
    out = run(
        "import relight\n"
        "from relight.core.target import Environment\n"
        "report = relight.check('trained.ckpt', environment={'torch': '2.13.0', 'lightning': '2.6.6'})\n"
        "print(report.verdict.value, report.unknown)"
    )
    assert out == "unknown ('not compared with a model',)\n"
