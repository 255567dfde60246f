"""Compare diagnoses of changed models with the truth: ``python check_scenarios.py CORPUS CROSSWALK``.

CORPUS/scenarios holds a class ``Model`` for each scenario, with the checkpoint that it no longer fits and what really
happened. CROSSWALK is a JSON file whose ``scenarios`` say which causes are right (``accept``), whether it loads
(``verdict``, ``verdict_resume``) and in which call it can be seen (``shows_in``). Rates are printed of

- the first cause, where loading shows it, and whether a scenario that loading does not show gets no error;
- the verdict on ``load_from_checkpoint(..., weights_only=False)``;
- predictions (class of the exception and the beginning of its message) of every recorded call;
- the first cause and the verdict of a resume, which this version answers for the weights only: told, not judged. Nor is
  load_state_dict: those models were built by hand, some with other arguments than the class or the file gives.

Exits with 1 if a cause, a verdict or a prediction of loading is wrong in more than 5 % of scenarios, or with any false
alarm. This interpreter has to have the versions of the loader (the ``dev`` extra has).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from corpus import agrees, check_built, said, working_in

from relight.core.finding import Report, Severity
from relight.core.target import Target
from relight.live import capture
from relight.live.capture import TargetRequest
from relight.reader import installed, open_checkpoint

# Recorded call to the intent and the arguments that it stands for. load_state_dict was recorded on a model that had
# been built, with the state_dict of the file.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "load_from_checkpoint": ("load", {}),
    "load_from_checkpoint_weights_only_False": ("load", {"weights_only": False}),
    "load_state_dict": ("weights", {"weights_only": False, "map_location": "cpu"}),
    "load_state_dict_strict_False": ("weights", {"weights_only": False, "map_location": "cpu", "strict": False}),
    "fit_resume": ("resume", {}),
}
_JUDGED = ("cause", "no false alarm", "verdict", "load_from_checkpoint", "load_from_checkpoint_weights_only_False")


class Rates:
    """How often each question was answered rightly, and what was said where it was not."""

    def __init__(self) -> None:
        self._right: dict[str, list[bool]] = defaultdict(list)
        self._wrong: dict[str, list[str]] = defaultdict(list)

    def note(self, question: str, name: str, right: bool, report: Report, truth: object) -> None:
        """Count an answer."""
        self._right[question].append(right)
        if not right:
            self._wrong[question].append(f"{name}: {said(report)}, right: {truth}")

    def enough(self) -> bool:
        """Whether what is judged is right often enough."""
        return all(
            sum(self._right[q]) >= (1.0 if q == "no false alarm" else 0.95) * len(self._right[q]) > 0 for q in _JUDGED
        )

    def lines(self, *, everything: bool) -> Iterable[str]:
        """What is wrong (of what is judged, or of everything), then the rates."""
        for question, wrong in self._wrong.items():
            if not everything and question not in _JUDGED:
                continue
            yield question
            yield from (f"    {line[:600]}" for line in wrong)
        for question, right in self._right.items():
            told = "" if question in _JUDGED else "  (not judged)"
            yield f"{question:<42}{sum(right):>4} of {len(right):<4}{sum(right) / len(right):>7.1%}{told}"


def main() -> int:
    """Compare, print, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("crosswalk", type=Path)
    parser.add_argument("--loader", default="E26", help="which loader of the records this interpreter is")
    parser.add_argument("--all", action="store_true", help="also show what is wrong of what is not judged")
    options = parser.parse_args()
    began = time.perf_counter()
    corpus = options.corpus.resolve()
    known = json.loads(options.crosswalk.read_text())["scenarios"]
    scenarios = {}
    for file in sorted((corpus / "scenarios").glob("*.json")):
        scenario = json.loads(file.read_text())
        actual = next((v for k, v in scenario["actual"].items() if f"loader {options.loader} " in k), None)
        if actual is not None and scenario["name"] in known:
            scenarios[scenario["name"]] = {**scenario, "actual": actual}
    rates = Rates()
    for name, reports in _reports(corpus, scenarios).items():
        _judge(rates, name, reports, scenarios[name]["actual"], known[name])
    for line in rates.lines(everything=options.all):
        print(line)
    print(f"{len(scenarios)} scenarios, {time.perf_counter() - began:.0f} s")
    return 0 if rates.enough() else 1


def _judge(
    rates: Rates, name: str, reports: Mapping[str, Report], actual: Mapping[str, Any], truth: Mapping[str, Any]
) -> None:
    load, resume = reports["load_from_checkpoint_weights_only_False"], reports["fit_resume"]
    if truth["shows_in"] == "load":
        rates.note("cause", name, _first(load) in truth["accept"], load, truth["accept"])
    else:
        for call in ("load_from_checkpoint", "load_from_checkpoint_weights_only_False"):
            errors = [f for f in reports[call].findings if f.severity is Severity.ERROR]
            right = not errors or not actual[call]["ok"]
            rates.note("no false alarm", name, right, reports[call], "it loads")
    verdicts = {truth["verdict"], *truth.get("verdict_accept", ())}
    rates.note("verdict", name, load.verdict.value in verdicts, load, truth["verdict"])
    for call in CALLS:
        if call in actual and "ok" in actual[call]:
            what = actual[call].get("message", "it works")[:200]
            rates.note(call, name, agrees(reports[call], actual[call]), reports[call], what)
    if truth["shows_in"] == "resume":
        rates.note("cause of a resume", name, _first(resume) in truth["accept"], resume, truth["accept"])
    if truth.get("verdict_resume"):
        right = resume.verdict.value in {truth["verdict_resume"], *truth.get("verdict_resume_accept", ())}
        rates.note("verdict of a resume", name, right, resume, truth["verdict_resume"])


def _first(report: Report) -> str | None:
    return report.findings[0].cause if report.findings else None


# ------------------------------------------------------------------ asking


def _reports(corpus: Path, scenarios: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Report]]:
    """Scenario to recorded call to report. A module of the project that was changed needs a path of its own."""
    paths = (corpus / "scenarios", corpus / "sources")
    out = {}
    with ExitStack() as stack:
        stack.enter_context(working_in(corpus, *paths))
        plain = {n: s for n, s in scenarios.items() if not s.get("custom_module_replaced_by")}
        out.update(_ask({n: f"scenarios/{n}.py:Model" for n in plain}, plain))
    for name in sorted(set(scenarios) - set(out)):
        scenario = scenarios[name]
        with tempfile.TemporaryDirectory(prefix="relight-scenario-") as folder:
            shutil.copyfile(corpus / scenario["custom_module_replaced_by"], Path(folder) / "my_custom_module.py")
            beside = json.loads((corpus / f"{scenario['checkpoint']}.json").read_text())
            with working_in(corpus, Path(folder), *paths):
                out.update(_ask({name: beside["model"]}, {name: scenario}))
    return out


def _ask(targets: Mapping[str, str], scenarios: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Report]]:
    requests = {
        (name, intent, arguments.get("strict")): TargetRequest(
            argument=target,
            checkpoint=open_checkpoint(scenarios[name]["checkpoint"]),
            init=scenarios[name].get("load_kwargs") or {},
            call=intent,
            strict=arguments.get("strict"),
        )
        for name, target in targets.items()
        for intent, arguments in CALLS.values()
    }
    answers = capture.build_targets(list(requests.values()), timeout=600, cache=False)
    built = dict(zip(requests, answers, strict=True))
    here = installed.environment_of(sys.executable)
    out: dict[str, dict[str, Report]] = defaultdict(dict)
    for name in targets:
        scenario = scenarios[name]
        for call, (intent, arguments) in CALLS.items():
            target: Target | None = built[name, intent, arguments.get("strict")]
            if target is not None and target.failure is not None and target.failure.stage == "import":
                target = None  # the sources of the corpus want the class that was taken away; the question is the file
            out[name][call] = check_built(
                target,
                scenario["checkpoint"],
                intent=intent,
                init=scenario.get("load_kwargs") or {},
                environment=None if target is not None else here,
                **arguments,
            )
    return out


if __name__ == "__main__":
    sys.exit(main())
