"""Repair a corpus and ask the real libraries whether it helped: ``python check_repairs.py CORPUS CROSSWALK``.

CORPUS/scenarios holds a class ``Model`` for each scenario, with the checkpoint that it no longer fits; CROSSWALK is a
JSON file whose ``scenarios`` say which can be mended without losing anything (``fixable``) and in which call they show.
CORPUS/checkpoints holds files with a JSON beside each, CORPUS/matrix.json what real loaders did to them.

Scenarios: `relight.fix` is asked unasked-for fixes only, then with everything that it offers by name. A repaired file is
loaded by the real Lightning, and what the model answers is compared with what the original model answers. A receipt
that claims more than is true is the worst that can happen: outputs that differ where nothing was said to be assumed,
invented or left out.

Files: every file from Lightning 1.0 on is repaired for its own sake (it then opens with ``weights_only=True``, and its
weights have the digest that the JSON beside it says) and for its class (then ``load_from_checkpoint`` succeeds where
the matrix has a loader that read it). What only works by name, or not at all, is listed.

Everything is unpickled here without protection: only for a corpus that you trust. Exits with 1 if less than 95 % of the
scenarios load with equal outputs, if one wrong model passes, or if a file does not open.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from corpus import MY_CALLBACKS, check_built, classes_on_path, working_in

import relight
from relight.core.edits import Receipt
from relight.core.errors import NothingToRepair, RelightError
from relight.core.finding import Report
from relight.core.version import __version__
from relight.live import capture
from relight.live.capture import TargetRequest
from relight.reader import installed, open_checkpoint
from relight.repair import planner, proof
from relight.repair.rewriter import digest_of, rewrite

_OLD = ("E07", "E09")  # before Lightning 1.0
_SHAPES = {"reg": (4, 8), "img": (2, 3, 8, 8)}


def main() -> int:
    """Repair, print, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("crosswalk", type=Path)
    parser.add_argument("--part", choices=["scenarios", "files"], help="only this one")
    parser.add_argument("--only", metavar="TEXT", default="", help="only what has TEXT in its name")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # Lightning says of each file that it was migrated
    corpus = options.corpus.resolve()
    known = json.loads(options.crosswalk.read_text())["scenarios"]
    print(f"relight {__version__}")
    good = True
    with tempfile.TemporaryDirectory(prefix="relight-repairs-") as folder:
        (Path(folder) / "my_callbacks.py").write_text(MY_CALLBACKS, encoding="utf-8")
        if options.part != "files":
            good &= _scenarios(corpus, known, Path(folder), options.only)
        if options.part != "scenarios":
            good &= _files(corpus, Path(folder), options.only)
    return 0 if good else 1


# ---------------------------------------------------------------- scenarios


@dataclass
class _Outcome:
    """What came of one scenario."""

    name: str
    said: str
    equal: bool | None = None
    claimed: bool = False
    allowed: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def line(self) -> str:
        """For people."""
        by_name = f" with --allow {', '.join(self.allowed)}" if self.allowed else ""
        answer = {True: "outputs equal", False: "OUTPUTS DIFFER", None: "not loaded"}[self.equal]
        told = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{self.name:<34}{self.said}{by_name}: {answer}{told}"


def _scenarios(corpus: Path, known: Mapping[str, Any], folder: Path, only: str) -> bool:
    began = time.perf_counter()
    outcomes: list[tuple[bool, _Outcome]] = []
    for file in sorted((corpus / "scenarios").glob("*.json")):
        scenario = json.loads(file.read_text())
        name = scenario["name"]
        if name not in known or only not in name:
            continue
        safe = known[name]["shows_in"] == "load" and known[name]["fixable"] == "safe"
        for outcome in _mended(corpus, scenario, folder):
            outcomes.append((safe, outcome))
            print(("safe    " if safe else "other   ") + outcome.line(), flush=True)
    names = {o.name for safe, o in outcomes if safe}
    unasked = {o.name for safe, o in outcomes if safe and o.equal and not o.allowed}
    right = {o.name for safe, o in outcomes if safe and o.equal}
    wrong = [o for _, o in outcomes if o.claimed and o.equal is False]
    print(f"safe scenarios that load with equal outputs: {len(right)} of {len(names)}, {len(unasked)} of them unasked")
    print(f"wrong models that pass as right: {len(wrong)} {[o.name for o in wrong] or ''}")
    print(f"{time.perf_counter() - began:.0f} s")
    return len(right) >= 0.95 * len(names) and not wrong


def _mended(corpus: Path, scenario: Mapping[str, Any], folder: Path) -> Iterator[_Outcome]:
    """The outcome of the fixes that are taken unasked, then of those that have to be named."""
    name = scenario["name"]
    paths = [corpus / "scenarios", corpus / "sources"]
    target = f"scenarios/{name}.py:Model"
    beside = json.loads((corpus / f"{_made_from(corpus, scenario['checkpoint'])}.json").read_text())
    if scenario.get("custom_module_replaced_by"):
        own = folder / name
        own.mkdir()
        shutil.copyfile(corpus / scenario["custom_module_replaced_by"], own / "my_custom_module.py")
        _follow(corpus / "sources" / "models.py", own, scenario["fix"])
        paths.insert(0, own)
        target = beside["model"]
    init = dict(scenario.get("load_kwargs") or {})
    with working_in(corpus, *paths, folder):
        before = _said_by_original(corpus, scenario, beside, folder)
        first = _fixed(scenario["checkpoint"], target, init, folder / f"{name}.ckpt", ())
        outcome, offers = first
        _compare(outcome, before, target, init, folder / f"{name}.ckpt", paths, scenario)
        yield outcome
        for count, offer in enumerate(offers):
            copy_ = folder / f"{name}.{count}.ckpt"
            outcome, _ = _fixed(scenario["checkpoint"], target, init, copy_, (offer,))
            _compare(outcome, before, target, init, copy_, paths, scenario)
            yield outcome


def _made_from(corpus: Path, path: str) -> str:
    """The file whose JSON tells the class: of a file that was made from another, that one."""
    if (corpus / f"{path}.json").exists():
        return path
    held = json.loads((corpus / "broken" / "broken.json").read_text())
    changed = held.get("files", held)
    return str(changed[Path(path).name]["made_from"])


def _follow(source: Path, own: Path, fix: str) -> None:
    """The project's other module after the same change: whoever renames a class renames it where it is used."""
    text = source.read_text(encoding="utf-8")
    there = {n.name for n in ast.parse((own / "my_custom_module.py").read_text()).body if hasattr(n, "name")}
    renamed = dict(re.findall(r"\.(\w+) -> [\w.]+\.(\w+)", fix))
    imported = re.search(r"from my_custom_module import (.*)", text)
    for name in imported[1].split(", ") if imported else ():
        if name not in there and name in renamed:
            text = re.sub(rf"\b{name}\b", renamed[name], text)
        elif name not in there:
            text = re.sub(rf"(import .*?), {name}\b", r"\1", text)
    (own / "models.py").write_text(text, encoding="utf-8")


def _fixed(
    path: str, target: str, init: Mapping[str, Any], output: Path, allow: tuple[str, ...]
) -> tuple[_Outcome, list[str]]:
    name = output.name.partition(".")[0]
    try:
        receipt = relight.fix(path, output, target=target, init=init, allow=allow)
    except NothingToRepair as error:
        offers = [line.split()[1] for line in str(error).splitlines() if line.strip().startswith("--allow")]
        return _Outcome(name, "nothing done", allowed=allow), list(dict.fromkeys(offers))
    except RelightError as error:
        return _Outcome(name, f"refused: {str(error)[:150]}", allowed=allow), []
    outcome = _Outcome(name, receipt.verdict or "written", allowed=allow, claimed=_claims_all(receipt))
    outcome.notes += [f"{what} {how}"[:90] for what, how in receipt.written.changes[:3]]
    offers = [c.allow for c in receipt.plan.rejected if c.allow and not c.reason.startswith("another")]
    return outcome, [o for o in dict.fromkeys(offers) if o is not None and o not in allow]


def _claims_all(receipt: Receipt) -> bool:
    """Whether a receipt says that the model is what it was: proved, loaded, and nothing assumed, invented or left out."""
    return receipt.proved and receipt.loaded == "yes"


def _said_by_original(
    corpus: Path, scenario: Mapping[str, Any], beside: Mapping[str, Any], folder: Path
) -> Mapping[str, Any] | None:
    """State and outputs of the model that was saved, from its own class; None where that cannot be built."""
    import torch

    with classes_on_path(corpus / "sources", folder):
        try:
            held = torch.load(corpus / scenario["checkpoint"], map_location="cpu", weights_only=False)
            module, _, name = beside["model"].partition(":")
            cls = getattr(importlib.import_module(module), name)  # noqa: TID251 - the corpus names its classes
            state = _state(held)
            given = dict(held.get("hyper_parameters") or {}) if isinstance(held, dict) else {}
            given = {**(beside.get("init") or {}), **given} if isinstance(beside.get("init"), dict) else given
            torch.manual_seed(0)
            model = cls(**given)
            # Loss weights and the like, which the class does not have, do not take part in what it answers.
            model.load_state_dict(_unwrapped(state), strict=not scenario["checkpoint"].startswith("broken/"))
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:150]}
        return {"output": _output(model, scenario)}


def _state(held: Any) -> Mapping[str, Any]:
    for key in ("state_dict", "model_state_dict"):
        if isinstance(held, dict) and key in held:
            found: Mapping[str, Any] = held[key]
            return found
    return held  # type: ignore[no-any-return]


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    for prefix in ("module.", "_orig_mod."):
        if all(k.startswith(prefix) for k in state):
            return {k.removeprefix(prefix): v for k, v in state.items()}
    return dict(state)


def _output(model: Any, scenario: Mapping[str, Any]) -> Any:
    import torch

    generator = torch.Generator().manual_seed(11)
    kind = scenario.get("input", "reg")
    if kind == "tok":
        given: Any = torch.randint(0, 20, (3, 5), generator=generator)
    else:
        given = torch.randn(*_SHAPES[kind], generator=generator)
    model.eval()
    with torch.no_grad():
        return model(given)


def _compare(
    outcome: _Outcome,
    before: Mapping[str, Any] | None,
    target: str,
    init: Mapping[str, Any],
    copy_: Path,
    paths: list[Path],
    scenario: Mapping[str, Any],
) -> None:
    import torch

    if not copy_.exists():
        return
    if before is None or "error" in before:
        outcome.notes.append(f"the original is not built: {before and before['error']}")
        return
    with classes_on_path(*paths):
        try:
            file, _, name = target.rpartition(":")
            cls = getattr(importlib.import_module(Path(file).stem), name)  # noqa: TID251 - the corpus names its classes
            torch.manual_seed(1)
            model = cls.load_from_checkpoint(copy_, map_location="cpu", **init)
            after = _output(model, scenario)
        except Exception as error:
            outcome.notes.append(f"{type(error).__name__}: {error}"[:150])
            outcome.equal = False if outcome.claimed else None
            return
    outcome.equal = after.shape == before["output"].shape and torch.allclose(after, before["output"], atol=1e-6)


# ---------------------------------------------------------------- files


def _files(corpus: Path, folder: Path, only: str) -> bool:
    began = time.perf_counter()
    matrix = json.loads((corpus / "matrix.json").read_text())["cells"]
    files: dict[str, Mapping[str, Any]] = {}
    for beside in sorted((corpus / "checkpoints").glob("*/*.json")):
        path = beside.with_suffix("")
        if beside.parent.name not in _OLD and path.is_file() and only in str(path):
            files[str(path.relative_to(corpus))] = json.loads(beside.read_text())
    with (
        working_in(corpus, folder, corpus / "sources"),
        classes_on_path(folder, corpus / "sources"),
    ):
        opened = _opened(files, folder)
        loaded, wanted = _loaded(files, matrix, folder)
    print(f"{time.perf_counter() - began:.0f} s")
    return opened == len(files) and loaded == wanted


def _opened(files: Mapping[str, Mapping[str, Any]], folder: Path) -> int:
    """Repair each file for its own sake, and open it."""
    here = installed.environment_of(sys.executable)
    right = by_name = untouched = 0
    for path, beside in files.items():
        report = relight.check(path, environment=here, map_location="cpu")
        copy_ = folder / "opened.ckpt"
        try:
            allowed = _repaired(path, report, copy_)
            problem = _wrong_with(copy_ if copy_.exists() else Path(path), Path(path), beside)
        except RelightError as error:
            allowed, problem = (), f"not written: {error}"
        untouched += not copy_.exists()
        right += not problem
        by_name += bool(allowed) and not problem
        if problem:
            print(f"{path}: {problem[:300]}")
        copy_.unlink(missing_ok=True)
    print(
        f"files that open with weights_only=True with equal weights: {right} of {len(files)}"
        f" ({untouched} as they are, {by_name} by name)",
        flush=True,
    )
    return right


def _repaired(path: str, report: Report, output: Path) -> tuple[str, ...]:
    """Write a copy where there is something to repair; names that had to be allowed."""
    made = planner.plan(report, digest_of(path))
    wanted = ("plain-objects", "drop-object", "add-buffers")
    done = {c.message for c in made.chosen}
    allowed = tuple(
        next(f.allow for f in finding.fixes if f.edits and f.allow in wanted)
        for finding in report.findings
        if finding.message not in done and any(f.edits and f.allow in wanted for f in finding.fixes)
    )
    if allowed:
        made = planner.plan(report, digest_of(path), allowed)
    if made.edits:
        written = rewrite(made, path, str(output))
        bad = [text for _, holds, text in proof.compared(written, path, whole=True) if not holds]
        if bad:
            raise RelightError(f"the proof fails: {bad[0]}")
    return allowed


def _wrong_with(path: Path, original: Path, beside: Mapping[str, Any]) -> str:
    import torch

    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
    state = held.get("state_dict", held)
    digest = _digest({k: v for k, v in state.items() if isinstance(v, torch.Tensor)})
    if beside["state_dict"]:
        wanted = beside["state_dict_sha256"]
    else:  # of another program: its weights are elsewhere
        wanted = _digest(_state(torch.load(original, map_location="cpu", weights_only=False)))
    return "" if digest == wanted else "other weights"


def _loaded(files: Mapping[str, Mapping[str, Any]], matrix: Mapping[str, Any], folder: Path) -> tuple[int, int]:
    """Repair each file for its class, and load it; how many loaded, and how many a real loader could read."""
    import torch

    asked = {path: beside for path, beside in files.items() if beside.get("model")}
    requests = {
        path: TargetRequest(argument=beside["model"], checkpoint=open_checkpoint(path))
        for path, beside in asked.items()
    }
    built = dict(zip(requests, capture.build_targets(list(requests.values()), timeout=900, cache=False), strict=True))
    right = wanted = more = by_name = 0
    for path, beside in asked.items():
        could = [name for name, cell in _cells(matrix, beside) if cell.get("ok")]
        report = check_built(built[path], path)
        copy_ = folder / "loaded.ckpt"
        try:
            allowed = _repaired(path, report, copy_)
            problem = ""
        except RelightError as error:
            allowed, problem = (), f"not written: {error}"
        if not problem:
            problem = _not_loaded(copy_ if copy_.exists() else Path(path), beside)
        copy_.unlink(missing_ok=True)
        if could:
            wanted += 1
            right += not problem
            by_name += bool(allowed) and not problem
            if problem:
                said = [f.name for f in report.findings]
                print(f"{path}: {problem[:200]}; read by {could[0]}; {said}")
        else:
            more += not problem
        torch.manual_seed(0)
    print(f"files that load into their class where a loader read them: {right} of {wanted} ({by_name} by name)")
    print(f"files that load although no loader of the matrix reads them: {more} of {len(asked) - wanted}", flush=True)
    return right, wanted


def _cells(matrix: Mapping[str, Any], beside: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    name = f"{beside['env']}/{beside['kind']}/load_from_checkpoint"
    for loader, call in (("E26", f"{name}_weights_only_False"), ("E26", name), (beside["env"], name)):
        cell = matrix.get(loader, {}).get(call)
        if cell is not None:
            yield f"{loader} {call}", cell


def _not_loaded(path: Path, beside: Mapping[str, Any]) -> str:
    module, _, name = beside["model"].partition(":")
    cls = getattr(importlib.import_module(module), name, None)  # noqa: TID251 - the corpus names its classes
    if cls is None:
        return f"there is no class {name}"
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            model = cls.load_from_checkpoint(path, map_location="cpu")
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    state = copy.copy(model.state_dict())
    names = {_bare(k) for k in beside["state_dict"]}
    digest = _digest({k: v for k, v in state.items() if hasattr(v, "dtype")})
    if digest != beside["state_dict_sha256"] and names == set(beside["state_dict"]):
        wanted = {k: v["dtype"] for k, v in beside["state_dict"].items()}
        if {k: str(v.dtype).removeprefix("torch.") for k, v in state.items() if hasattr(v, "dtype")} == wanted:
            return "other weights"
    return ""


def _bare(key: str) -> str:
    return key.removeprefix("module.").removeprefix("_orig_mod.")


def _digest(state: Mapping[str, Any]) -> str:
    """As the JSON beside each file has it: key, dtype, shape and bytes of each tensor, by key."""
    out = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key]
        out.update(key.encode() + str(tensor.dtype).encode() + str(list(tensor.shape)).encode() + _bytes(tensor))
    return out.hexdigest()


def _bytes(tensor: Any) -> bytes:
    import torch

    tensor = tensor.detach()
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return b"sparse_coo" + _bytes(tensor.indices()) + _bytes(tensor.values())
    if tensor.is_quantized:
        raw = b"quantized" + _bytes(tensor.int_repr())
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            return raw + repr((round(float(tensor.q_scale()), 6), int(tensor.q_zero_point()))).encode()
        scales, points = tensor.q_per_channel_scales().float(), tensor.q_per_channel_zero_points().long()
        return raw + _bytes(scales) + _bytes(points)
    tensor = tensor.cpu().contiguous()
    if tensor.numel() == 0:
        return b""
    flat = tensor.reshape(-1).clone()
    return flat.view(torch.uint8).numpy().tobytes()


if __name__ == "__main__":
    sys.exit(main())
