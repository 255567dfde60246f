"""Ask about refactorings of public models, and compare with torch and with the truth: ``python check_refactorings.py``.

Twenty families of timm and transformers, each changed in six ways (`tests/support/refactorings.py`). The checkpoint of
each case is a file that torch.save writes: every tensor has its real shape and one stored number, so that a model of 7
billion parameters takes kilobytes. The model is on the meta device. An answer is *right* when

- the exception and its whole text (missing, unexpected and mismatched keys) are those of the real ``load_state_dict``,
- a finding names the true cause, and no error names a cause that is not true,
- no pair of keys that is called certain joins two different tensors.

It is *wrong and certain* when such an error is called certain and what it says does not even hold of the keys, when the
text is not torch's, or when a certain pair is wrong.
Prints a table and the failures; exits with 1 under 95 % right or with any answer that is wrong and certain. Needs the
``oracle`` extra; takes half a minute for each seed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import torch
from public_families import families
from refactorings import Refactoring, refactorings
from torch import nn

from relight.core.finding import Confidence, Finding, Report, Severity
from relight.core.target import Environment, Intent, IntentCall, ModelSpec, Target
from relight.engine.diagnose import diagnose
from relight.facts.facts import Facts
from relight.facts.question import Question
from relight.live import child
from relight.reader import open_checkpoint
from relight.rulekit.registry import all_rules

KINDS = ("rename", "wrap", "drop", "add", "resize", "shift")
RIGHT, WRONG, CERTAIN = "right", "wrong", "WRONG, CERTAIN"


@dataclass(frozen=True)
class Answer:
    """What was said of a case, and what is wrong with it.

    Attributes:
        family: Name of the family.
        case: The case.
        outcome: ``right``, ``wrong`` or ``WRONG, CERTAIN``.
        problems: What is wrong, one line each.
        size: How many keys are missing, unexpected and mismatched.
        said: Causes of the errors, with how often each and how sure.
        sure: Whether all of them are called certain.
    """

    family: str
    case: Refactoring
    outcome: str
    problems: tuple[str, ...]
    size: tuple[int, int, int]
    said: str
    sure: bool


def main() -> int:
    """Ask, compare, print, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of the random changes")
    parser.add_argument("--rounds", type=int, default=1, help="how many seeds, counted on from the first")
    parser.add_argument("--family", help="only families whose name contains this")
    parser.add_argument("--kind", choices=KINDS, help="only this kind of change")
    options = parser.parse_args()
    began = time.perf_counter()
    answers = []
    with tempfile.TemporaryDirectory(prefix="relight-refactorings-") as folder:
        for family in families():
            if options.family and options.family not in family.name:
                continue
            for seed in range(options.seed, options.seed + options.rounds):
                answers += [
                    ask(family.name, case, Path(folder) / "model.pt")
                    for case in refactorings(family, seed)
                    if options.kind in (None, case.kind)
                ]
    return _printed(answers, time.perf_counter() - began)


def _printed(answers: Sequence[Answer], seconds: float) -> int:
    names = list(dict.fromkeys(a.family for a in answers))
    print(f"{'':<38}" + "".join(f"{kind:>8}" for kind in KINDS))
    for name in names:
        row = [[a for a in answers if a.family == name and a.case.kind == kind] for kind in KINDS]
        print(f"{name:<38}" + "".join(f"{_cell(cases):>8}" for cases in row))
    failures = [a for a in answers if a.outcome != RIGHT]
    for answer in failures:
        missing, unexpected, mismatched = answer.size
        print(
            f"\n{answer.outcome}: {answer.family}, {answer.case.kind}: {answer.case.what}\n"
            f"    {missing} missing, {unexpected} unexpected, {mismatched} mismatched; said: {answer.said}; "
            f"right: {' or '.join(answer.case.accept)}"
        )
        for problem in answer.problems:
            print(f"    {problem}")
    count = Counter(a.outcome for a in answers)
    rate = count[RIGHT] / max(1, len(answers))
    print(f"\n{'':<16}{'right':>8}{'wrong':>8}{'certain':>9}")
    for kind in KINDS:
        of_kind = Counter(a.outcome for a in answers if a.case.kind == kind)
        print(f"{kind:<16}{of_kind[RIGHT]:>8}{of_kind[WRONG]:>8}{of_kind[CERTAIN]:>9}")
    hidden = [a for a in answers if a.case.unknowable]
    if hidden:
        print(
            f"In {len(hidden)} shifts keys cannot show which of several equal layers came or went; "
            f"{sum(a.sure for a in hidden)} answers are called certain all the same (not counted as wrong)."
        )
    print(
        f"{count[RIGHT]} of {len(answers)} right ({rate:.1%}), {count[WRONG]} wrong, "
        f"{count[CERTAIN]} wrong and certain, {seconds:.0f} s"
    )
    return 1 if rate < 0.95 or count[CERTAIN] else 0


def _cell(cases: Iterable[Answer]) -> str:
    count = Counter(a.outcome for a in cases)
    if count.total() == 1:
        return {RIGHT: "ok", WRONG: "wrong", CERTAIN: "WRONG"}[next(iter(count))]
    return f"{count[RIGHT]}/{count.total()}"


# ------------------------------------------------------------------ one case


def ask(family: str, case: Refactoring, path: Path) -> Answer:
    """Write the checkpoint, ask relight and torch, and compare.

    Args:
        family: Name of the family.
        case: What is asked.
        path: Where the checkpoint is written.
    """
    save(case.saved, path)
    facts = _facts(path, case.wanted)
    report = diagnose(facts, all_rules())
    error = load(case.wanted, path)
    problems = [f"{crash.code} crashed: {crash.error}" for crash in report.crashed]
    certain = False
    text = _compared(report, error)
    if text is not None:
        problems.append(text)
        certain = not facts.keys.uncertain
    errors = [f for f in report.findings if f.severity is Severity.ERROR]
    allowed = {*case.accept, *case.also}
    false = [f for f in errors if f.cause not in allowed]
    for cause, findings in _by_cause(false).items():
        problems.append(f"{cause} is not true ({len(findings)}): {findings[0].message}")
    certain = certain or any(f.confidence is Confidence.CERTAIN and f.cause not in case.beside for f in false)
    if not any(f.cause in case.accept for f in errors):
        problems.append("the true cause is not named")
    for explanation in facts.attribution.explanations:
        bad = [(old, new) for old, new in explanation.pairs if old not in case.truth.get(new, ())]
        if bad and explanation.certain:
            certain = True
            old, new = bad[0]
            problems.append(f"{len(bad)} pairs called certain are wrong: {old} is not {new}")
    diff = facts.keys
    return Answer(
        family=family,
        case=case,
        outcome=CERTAIN if problems and certain else WRONG if problems else RIGHT,
        problems=tuple(problems),
        size=(len(diff.missing), len(diff.unexpected), len(diff.mismatched)),
        said=", ".join(
            f"{len(findings)} × {cause} ({'/'.join(sorted({f.confidence.value for f in findings}))})"
            for cause, findings in _by_cause(errors).items()
        )
        or "nothing",
        sure=all(f.confidence is Confidence.CERTAIN for f in errors),
    )


def _by_cause(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    out: dict[str, list[Finding]] = {}
    for finding in findings:
        out.setdefault(finding.cause, []).append(finding)
    return out


def _compared(report: Report, error: Exception | None) -> str | None:
    """How the prediction differs from what torch did; None where it does not."""
    said = None if report.prediction is None else (report.prediction.exception, report.prediction.message)
    did = None if error is None else (type(error).__qualname__, str(error))
    if said == did and report.verdict.value == ("loads" if did is None else "fails"):
        return None
    if said is None or did is None:
        return f"{report.verdict.value}, predicted {said and said[0]}, torch raised {did and did[0]}"
    lines = [(a, b) for a, b in zip(said[1].splitlines(), did[1].splitlines(), strict=False) if a != b]
    one, other = lines[0] if lines else (said[1][-80:], did[1][-80:])
    return f"predicted {said[0]} {one[:120]!r}, torch raised {did[0]} {other[:120]!r}"


def save(model: nn.Module, path: Path) -> None:
    """Write the state_dict with real shapes, and one number per tensor."""
    state = model.state_dict(keep_vars=True)
    zeros: dict[int, torch.Tensor] = {}
    for key, tensor in list(state.items()):
        # Tied tensors share their storage in the file, as they do in the model.
        state[key] = zeros.setdefault(id(tensor), torch.zeros((), dtype=tensor.dtype).expand(tensor.shape))
    torch.save(state, path)


def load(model: nn.Module, path: Path) -> Exception | None:
    """The real calls; what they raise, None if nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that copying to the meta device does nothing
        try:
            model.load_state_dict(torch.load(path, map_location="meta", weights_only=True))
        except Exception as error:
            return error
    return None


def _facts(path: Path, model: nn.Module) -> Facts:
    described = child.describe(model, child.Names(str(Path.cwd())), torch)
    here = Environment.from_dict({"torch": torch.__version__}, origin="this machine")
    spec = ModelSpec.from_dict({**_EMPTY, **described})
    target = Target(
        argument=spec.class_path, spec=spec, init=spec.init, class_name=spec.class_name, class_kind="module"
    )
    question = Question(
        path=str(path), target=spec.class_path, intent=Intent(call=IntentCall.WEIGHTS), class_name=spec.class_name
    )
    return Facts(open_checkpoint(path), question, target, here)


_EMPTY = ModelSpec(class_name="", class_path="").to_dict()

if __name__ == "__main__":
    sys.exit(main())
