"""How many silent changes of a model `check` finds by the manifest, how many harmless ones it calls wrong.

Six architectures, each saved with a manifest; then their source is changed as people change it, and every changed model
is asked about. Beside it stands what strict loading says, of torch and of Lightning. ``make mutations`` prints the figures;
``--write FILE`` writes the table that is docs/mutations.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import torch

import relight
from relight.api import _replay
from relight.core.target import Intent, IntentCall
from relight.engine.diagnose import diagnose
from relight.facts.facts import Facts
from relight.facts.question import Question
from relight.live.capture import TargetRequest, build_targets
from relight.reader import open_checkpoint
from relight.rulekit.registry import all_rules

FOLDER = Path(__file__).with_name("mutations")


def imported(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def changed(source: str, edits: list[list[str]]) -> str:
    for old, new in edits:
        assert old in source, f"{old!r} is not in the source"
        pattern = rf"\b{old}\b" if old.isidentifier() else re.escape(old)
        source = re.sub(pattern, lambda _, new=new: new, source)
    return source


def lightning_says(cls: type, path: Path) -> str:
    """What ``load_from_checkpoint(strict=True)`` says of a model that is a part of a LightningModule."""
    import lightning.pytorch as pl

    class Whole(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = cls()

    with warnings.catch_warnings(record=True) as seen, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            Whole.load_from_checkpoint(path, strict=True, weights_only=True)
        except Exception as error:
            return type(error).__name__
    return f"{len(seen)} warnings" if seen else "nothing"


def asked(folder: Path, name: str, cases: dict[str, dict[str, list[list[str]]]], prove: bool):
    """(kind, title, what torch and Lightning say, whether answers differ, report) of each case."""
    source = (FOLDER / f"{name}.py").read_text()
    path = folder / f"{name}.py"
    path.write_text(source)
    torch.manual_seed(0)
    module = imported(path)
    model = module.Net().eval()
    for p in model.parameters():  # trained weights are no fresh ones: biases and norms are set
        p.data += 0.3 * torch.randn_like(p)
    for b in model.buffers():
        if b.is_floating_point() and b.dim() == 1:
            b.copy_(b + 0.3 * torch.rand_like(b))
    example = module.example()
    torch.save(relight.with_manifest(model.state_dict(), model, example=example), folder / f"{name}.pt")
    import lightning.pytorch as pl

    whole = {
        "state_dict": {f"net.{k}": v for k, v in model.state_dict().items()},
        "pytorch-lightning_version": pl.__version__,
    }
    torch.save(whole, folder / f"{name}.ckpt")
    with torch.no_grad():
        wanted = model(example)
    rows, requests = [], []
    checkpoint = open_checkpoint(folder / f"{name}.pt")
    question = _replay(checkpoint, prove)
    for kind in ("silent", "harmless"):
        for i, (title, edits) in enumerate(cases[kind].items()):
            file = folder / f"{name}_{kind}_{i}.py"
            file.write_text(changed(source, edits))
            assert edits[0][0] == edits[0][1] or file.read_text() != source, title
            with warnings.catch_warnings(record=True) as seen, contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("always")
                other = imported(file).Net()
                other.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True), strict=True)
                with torch.no_grad():
                    got = other.eval()(example)
            differs = got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)
            says = (
                f"{len(seen)} warnings" if seen else "nothing",
                lightning_says(sys.modules[file.stem].Net, folder / f"{name}.ckpt"),
            )
            rows.append((kind, title, says, differs))
            argument = f"{file.name}:Net"
            requests.append(TargetRequest(argument=argument, checkpoint=checkpoint, call="weights", replay=question))
    targets = build_targets(requests, cache=False)
    for row, target in zip(rows, targets, strict=True):
        ask = Question(
            path=f"{name}.pt", target=target.argument, intent=Intent(call=IntentCall.WEIGHTS), class_name="Net"
        )
        yield (*row, diagnose(Facts(checkpoint, ask, target, target.environment), all_rules()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-prove", action="store_true", help="without replaying the probe")
    parser.add_argument("--write", metavar="FILE", help="the table, as Markdown")
    parser.add_argument("-v", "--verbose", action="store_true", help="every case")
    args = parser.parse_args()
    page = None if args.write is None else Path(args.write).absolute()
    table: list[tuple[str, str, str, tuple[str, str], bool, object]] = []
    every = json.loads((FOLDER / "mutations.json").read_text())
    missed, alarms, quiet = [], [], 0
    total = {"silent": 0, "harmless": 0}
    named = wrong = training = warned = 0
    with tempfile.TemporaryDirectory(prefix="relight-mutations-") as folder:
        os.chdir(folder)
        sys.dont_write_bytecode = True
        for name, cases in every.items():
            for kind, title, says, differs, report in asked(Path(folder), name, cases, not args.no_prove):
                total[kind] += 1
                warned += sum(what != "nothing" for what in says)
                table.append((name, kind, title, says, differs, report))
                found = [f.name for f in report.findings]
                if args.verbose:
                    print(f"{name}: {kind}: {title}: {report.verdict.value} {found} differs={differs}")
                if report.crashed:
                    print(f"{name}: {title}: CRASHED {report.crashed}")
                if kind == "silent":
                    named += bool(found)
                    wrong += report.verdict.value == "loads-wrong"
                    training += bool(found) and not differs
                    if not found:
                        missed.append(f"{name}: {title}")
                    if not found and not differs:
                        quiet += 1
                else:
                    assert not differs, f"{name}: {title} is not harmless"
                    if found:
                        alarms.append(f"{name}: {title}: {report.verdict.value}, {', '.join(found)}")
    print(f"silent changes    {total['silent']}, in {len(every)} architectures")
    print(f"  found           {named} ({wrong} called wrong, {training} that only training notices)")
    print(
        f"  strict loading  of torch and of Lightning says something of {warned} of {2 * len(table)}, harmless ones included"
    )
    print(f"harmless changes  {total['harmless']}")
    print(f"  false alarms    {len(alarms)}")
    for line in missed:
        print(f"missed: {line}")
    for line in alarms:
        print(f"false alarm: {line}")
    if page is not None:
        page.write_text(as_page(table), encoding="utf-8")
    return 1 if alarms or missed else 0


def as_page(table: list) -> str:
    """docs/mutations.md."""
    import lightning.pytorch as pl

    silent = [row for row in table if row[1] == "silent"]
    harmless = [row for row in table if row[1] == "harmless"]
    found = [row for row in silent if row[5].findings]
    alarms = [row for row in harmless if row[5].findings]
    lines = [
        "# Silent changes, counted",
        "",
        "Written by `benchmarks/mutations_score.py --write docs/mutations.md`; `make mutations` prints the sums. Each of these",
        "changes one thing in the source of a model whose weights were saved with a [manifest](manifest.md). Names and shapes",
        "stay the same: strict loading, by `load_state_dict` of torch "
        f"{torch.__version__.partition('+')[0]} and `load_from_checkpoint` of Lightning {pl.__version__},",
        "loads every one of them.",
        "",
        f"Found: {len(found)} of {len(silent)} silent changes. False alarms: {len(alarms)} of {len(harmless)} harmless ones.",
        "",
    ]
    for name in dict.fromkeys(row[0] for row in table):
        lines += [
            f"## {name}",
            "",
            "| change | torch says | Lightning says | `relight check` says | place |",
            "|---|---|---|---|---|",
        ]
        for _, _, title, says, differs, report in (row for row in silent if row[0] == name):
            first = report.findings[0] if report.findings else None
            words = "nothing" if first is None else ", ".join(f.name for f in report.findings)
            if first is not None and not differs:
                words += " (training only)"
            place = "" if first is None else ", ".join(f"`{s}`" for s in first.subjects[:2])
            lines.append(f"| {title} | {says[0]} | {says[1]} | {words} | {place} |")
        quiet = [row for row in harmless if row[0] == name]
        said = [f"{row[2]} ({', '.join(f.name for f in row[5].findings)})" for row in quiet if row[5].findings]
        lines += ["", f"Harmless, and nothing is said: {', '.join(row[2] for row in quiet if not row[5].findings)}."]
        lines += [f"False alarms: {'; '.join(said)}.", ""] if said else [""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
