"""Resume a corpus's files for real, before and after ``relight fix``: ``python check_resume.py CORPUS``.

Every file of some kinds, of every version that wrote any, is resumed by the Lightning of an interpreter (this one, or
``--python``), as it is and as ``relight fix --for resume`` writes it. Right is: the Trainer starts at the epoch and the
step that the training had reached, and weights, optimizer states and learning rates are bit-equal to those of the file.

The kinds are known to have trained two epochs of four batches; ``mid_epoch`` six batches, and its epoch is the one that
the file names, which is what the version that wrote it would have resumed at. Lightning counts a step for each batch
before 1.6, and one for each optimizer since.

Exits with 1 if fewer than 95 % are right after the fix.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from relight import api
from relight.core.errors import NothingToRepair, RelightError
from relight.facts.lightning import LightningView
from relight.facts.versions import at_least

KINDS = ("plain", "full", "full_step", "mid_epoch", "modelcheckpoint_file", "gan")


def jobs(corpus: Path) -> list[dict[str, Any]]:
    """Files with what builds their model and where the training stood."""
    out = []
    for folder in sorted((corpus / "checkpoints").iterdir()):
        for kind in KINDS:
            path = folder / f"{kind}.ckpt"
            if not path.is_file() or not path.with_suffix(".ckpt.json").is_file():
                continue
            sidecar = json.loads(path.with_suffix(".ckpt.json").read_text())
            model = sidecar["model"].rpartition(":")[2]
            view = LightningView(api.inspect(path))
            old = not at_least(view.version, "1.6")
            out.append(
                {
                    "name": f"{folder.name}/{kind}",
                    "written_by": view.version or "0.7.6",
                    "original": str(path),
                    "kind": kind,
                    "model": model,
                    "init": sidecar.get("init", {}),
                    "epoch": view.epoch if kind == "mid_epoch" else 2,
                    "step": 6 if kind == "mid_epoch" else 16 if kind == "gan" and not old else 8,
                }
            )
    return out


def resumed(work: list[dict[str, Any]], python: str, sources: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """What the Lightning of an interpreter does with files: its versions, and an answer for each file."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"sources": str(sources.resolve()), "jobs": work}, file)
        file.flush()
        child = Path(__file__).with_name("resume_child.py")
        run = subprocess.run([python, str(child), file.name], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(run.stderr)
    return lines[0], {answer["file"]: answer for answer in lines[1:]}


def judged(job: dict[str, Any], answer: dict[str, Any] | None) -> str:
    """What is wrong with an answer; empty where nothing is."""
    if answer is None:
        return "no answer"
    if "error" in answer:
        return str(answer["error"])
    wrong = []
    if (answer["epoch"], answer["step"]) != (job["epoch"], job["step"]):
        wrong.append(f"epoch {answer['epoch']}, step {answer['step']} instead of {job['epoch']}, {job['step']}")
    if not answer["weights"]:
        wrong.append("other weights")
    return "; ".join([*wrong, *([answer["moments"]] if answer["moments"] else [])])


def compared(
    work: list[dict[str, Any]], python: str, sources: Path, folder: Path
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What is wrong with the resume of each file, as it is and after ``relight fix``; copies go to a folder."""
    versions, before = resumed([{**j, "file": j["original"]} for j in work], python, sources)
    pins = {"lightning": versions["lightning"], "torch": versions["torch"].partition("+")[0]}
    for job in work:
        copy = folder / f"{job['name'].replace('/', '_')}.ckpt"
        job["file"], job["fix"] = job["original"], "nothing to do"
        try:
            api.fix(job["original"], copy, intent="resume", environment=pins)
            job["file"], job["fix"] = str(copy), "written"
        except NothingToRepair:
            pass
        except RelightError as error:
            job["fix"] = str(error).splitlines()[0]
    _, after = resumed(work, python, sources)
    rows = []
    for job in work:
        was, now = judged(job, before.get(job["original"])), judged(job, after.get(job["file"]))
        rows.append({**{k: job[k] for k in ("name", "written_by", "kind", "fix")}, "before": was, "after": now})
    return versions, rows


def counted(rows: list[dict[str, str]]) -> dict[str, list[int]]:
    """How many files of each version that wrote them are right before and after, and how many there are."""
    out: dict[str, list[int]] = {}
    for row in rows:
        numbers = out.setdefault(row["written_by"], [0, 0, 0])
        numbers[0] += not row["before"]
        numbers[1] += not row["after"]
        numbers[2] += 1
    return out


def main() -> int:
    """Resume all of them twice, and print what is wrong and how many are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--python", default=sys.executable, help="Interpreter whose Lightning resumes them.")
    parser.add_argument(
        "--table", type=Path, help="Also write the numbers into the file that docs/resuming.md is made of."
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        versions, rows = compared(
            jobs(args.corpus.resolve()), args.python, args.corpus.resolve() / "sources", Path(folder)
        )
    for row in rows:
        if row["after"]:
            print(f"{row['name']}: {row['after']}  (fix: {row['fix']})")
    right = sum(not r["after"] for r in rows)
    print(
        f"Lightning {versions['lightning']}: {sum(not r['before'] for r in rows)} of {len(rows)} resume rightly as they "
        f"are, {right} of {len(rows)} after relight fix"
    )
    if args.table:
        known = json.loads(args.table.read_text()) if args.table.is_file() else {}
        known[versions["lightning"]] = counted(rows)
        args.table.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return 0 if right >= 0.95 * len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
