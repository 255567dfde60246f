"""Compare predictions with what a real loader did to every file of a corpus: ``python check_matrix.py CORPUS``.

CORPUS/matrix.json holds the outcomes, CORPUS/checkpoints the files with a JSON beside each that names its class, and
CORPUS/sources the classes. This interpreter has to have the versions of the loader (the ``dev`` extra has). A pair of
file and call that loaded must get no error; one that raised must get an error that predicts the same class of
exception. How often the message agrees too is told, and not judged. Exits with 1 under 98 % of pairs right.

Some records are not of the library but of the program that recorded: it took ``["state_dict"]`` out of what torch.load
gave (then torch.load worked), or asked for a class that is not there (then there is no question).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from corpus import MY_CALLBACKS, check_built, working_in

from relight.core.errors import UsageError
from relight.core.finding import Report, Severity
from relight.live import capture
from relight.live.capture import TargetRequest
from relight.reader import installed, open_checkpoint

# Recorded call to the intent and the arguments that it stands for.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "load_from_checkpoint": ("load", {}),
    "load_from_checkpoint_weights_only_False": ("load", {"weights_only": False}),
    "torch_load": ("weights", {}),
    "torch_load_weights_only_True": ("weights", {"weights_only": True}),
    "torch_load_weights_only_False": ("weights", {"weights_only": False}),
    "torch_load_cpu_weights_only_False": ("weights", {"weights_only": False, "map_location": "cpu"}),
    "fit_resume": ("resume", {}),
    "fit_resume_weights_only_False": ("resume", {"weights_only": False}),
}
# Resumes of other kinds were recorded by a program that always passes weights_only=False, under the same name.
_RESUMED_BY_DEFAULT = {"plain", "full", "rich_hparams"}


def main() -> int:
    """Compare, print, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--loader", default="E26", help="which loader of the matrix this interpreter is")
    options = parser.parse_args()
    began = time.perf_counter()
    matrix = json.loads((options.corpus / "matrix.json").read_text())
    _say_versions(matrix["loaders"][options.loader])
    corpus = options.corpus.resolve()
    with tempfile.TemporaryDirectory(prefix="relight-callbacks-") as folder:
        # The class that old files name as a callback's key: whoever recorded had it.
        (Path(folder) / "my_callbacks.py").write_text(MY_CALLBACKS, encoding="utf-8")
        with working_in(corpus, Path(folder), corpus / "sources"):
            answers = list(_answers(corpus, matrix["cells"][options.loader]))
    return _printed(answers, time.perf_counter() - began)


def _say_versions(recorded: Mapping[str, str]) -> None:
    here = installed.environment_of(sys.executable)
    names = {name.replace("_", "-") for name in recorded} & set(here.packages) | {"torch"}
    for name in sorted(names):
        then, now = recorded.get(name.replace("-", "_")), here.packages.get(name)
        if then is not None and then.split("+")[0] != (now or "").split("+")[0]:
            print(f"recorded with {name} {then}, here is {now}")


def _answers(corpus: Path, cells: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Report, Mapping[str, Any]]]:
    """(pair, what is said, what happened), one child for all models."""
    files = {}
    for beside in (corpus / "checkpoints").rglob("*.json"):
        truth = json.loads(beside.read_text())
        if isinstance(truth, dict) and "kind" in truth:
            # A kind without a class of its own is of the plain one.
            path = str(beside.with_suffix("").relative_to(corpus))
            files[truth["env"], truth["kind"]] = path, truth.get("model") or "models:PlainMLP"
    asked = {}
    for name, cell in cells.items():
        producer, kind, call = name.split("/")
        if call in CALLS and (producer, kind) in files and not _is_the_recorders(cell, call):
            asked[name] = (*files[producer, kind], *CALLS[call], cell)
    requests: dict[tuple[str, str, str], TargetRequest] = {}
    for path, target, intent, _, _ in asked.values():
        if intent != "weights":  # torch.load asks no class
            requests.setdefault(
                (path, target, intent), TargetRequest(argument=target, checkpoint=open_checkpoint(path), call=intent)
            )
    built = dict(zip(requests, capture.build_targets(list(requests.values()), timeout=600, cache=False), strict=True))
    here = installed.environment_of(sys.executable)
    for name, (path, target, intent, arguments, cell) in asked.items():
        if intent == "resume" and name.split("/")[1] not in _RESUMED_BY_DEFAULT:
            arguments = {"weights_only": False}
        with contextlib.suppress(UsageError):
            model = built.get((path, target, intent))
            where = here if model is None else None
            report = check_built(model, path, intent=intent, environment=where, **arguments)
            yield name, report, _of_the_library(cell, path)


def _is_the_recorders(cell: Mapping[str, Any], call: str) -> bool:
    return not cell["ok"] and not call.startswith("torch_load") and "_load.py:op_" in cell.get("raised_in", "")


def _of_the_library(cell: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    if not cell["ok"] and "_load.py:op_" in cell.get("raised_in", ""):
        return {"ok": True}
    if not cell["ok"] and cell["message"].startswith("Weights only load failed"):
        # The record breaks off before it says what was refused: the torch of this interpreter says it again.
        import torch

        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            return {**cell, "message": str(error)}
    return cell


def _right(report: Report, cell: Mapping[str, Any]) -> bool:
    errors = [f for f in report.findings if f.severity is Severity.ERROR]
    if report.crashed:
        return False
    if cell["ok"]:
        return not errors and report.prediction is None
    return report.prediction is not None and report.prediction.exception == cell["exception"]


def _same_message(report: Report, cell: Mapping[str, Any]) -> bool:
    """Whether the message is what was recorded; a record keeps the beginning, and some telling lines of a long one."""
    if cell["ok"] or report.prediction is None:
        return True
    said = report.prediction.message
    lines = [cell["message"], *cell.get("key_lines", ())]
    return any(said[:100] in line or line[:100] in said for line in lines)


def _printed(answers: list[tuple[str, Report, Mapping[str, Any]]], seconds: float) -> int:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for name, report, cell in answers:
        count = rows[name.split("/")[2]]
        right = _right(report, cell)
        count["pairs"] += 1
        count["loaded"] += cell["ok"]
        count["right"] += right
        count["message"] += right and _same_message(report, cell)
        if not right:
            errors = [f.name for f in report.findings if f.severity is Severity.ERROR]
            said = report.prediction and f"{report.prediction.exception}: {report.prediction.message[:100]}"
            did = "it loaded" if cell["ok"] else f"{cell['exception']}: {cell['message'][:100]}"
            print(
                f"{name}: {report.verdict.value} {errors} {said}; but {did} {[c.error for c in report.crashed] or ''}"
            )
    print(f"{'':<42}{'pairs':>7}{'loaded':>8}{'right':>7}{'message too':>13}")
    for call, count in rows.items():
        print(f"{call:<42}{count['pairs']:>7}{count['loaded']:>8}{count['right']:>7}{count['message']:>13}")
    right, pairs = sum(c["right"] for c in rows.values()), len(answers)
    print(f"{right} of {pairs} right ({right / max(1, pairs):.1%}), {seconds:.0f} s")
    return 1 if right < 0.98 * pairs or not pairs else 0


if __name__ == "__main__":
    sys.exit(main())
