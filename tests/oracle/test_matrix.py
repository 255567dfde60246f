"""Real files of nine Lightning versions: what is read is what was written, and what is predicted is what happened."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from corpus import CLASSES, FOLDER, MATRIX, MY_CALLBACKS, agrees, build_all, check_built, said, working_in

from relight.core.dtypes import BY_NAME
from relight.core.finding import Severity
from relight.facts.producer import producer
from relight.reader import installed, open_checkpoint

FILES = sorted(
    str(p.relative_to(FOLDER)) for p in FOLDER.glob("checkpoints/E*/*.ckpt") if (p.parent / f"{p.name}.json").is_file()
)
CELLS = {k: v for k, v in MATRIX.items() if k.split("/")[2].startswith("load_from_checkpoint")}
PLAIN_CELLS = {k: v for k, v in MATRIX.items() if k.split("/")[2].startswith("torch_load")}
WEIGHTS_ONLY = {"torch_load": None, "torch_load_weights_only_True": True, "torch_load_weights_only_False": False}


def _recorded(file):
    return json.loads((FOLDER / f"{file}.json").read_text())


# ------------------------------------------------------------------ reading: needs no torch


def test_there_is_something_to_read():
    assert len(FILES) == 59
    assert {f.split("/")[1] for f in FILES} == {"E07", "E09", "E10", "E13", "E15", "E18", "E20", "E22", "E25", "E26"}


@pytest.mark.parametrize("file", FILES)
def test_keys_shapes_and_dtypes(file):
    checkpoint = open_checkpoint(FOLDER / file)
    assert checkpoint.problems == ()
    read = {t.key: (t.dtype, list(t.shape)) for t in checkpoint.tensors}
    assert read == {k: (t["dtype"], t["shape"]) for k, t in _recorded(file)["state_dict"].items()}
    assert [t.key for t in checkpoint.tensors] == list(_recorded(file)["state_dict"])


@pytest.mark.parametrize("file", FILES)
def test_names_in_the_pickle(file):
    checkpoint = open_checkpoint(FOLDER / file)
    assert sorted({g.stored for g in checkpoint.globals}) == _recorded(file)["pickle_globals"]
    assert sorted({s.device for s in checkpoint.storages.values()}) == _recorded(file)["storage_locations"]


@pytest.mark.parametrize("file", FILES)
def test_versions_of_the_writer(file):
    """What is stated is exact; what is inferred is a range that holds the truth."""
    from packaging.version import Version

    written = _recorded(file)["producer"]
    facts = producer(open_checkpoint(FOLDER / file))
    # Before 0.8 no file said it.
    stated = None if Version(written["lightning"]) < Version("0.8") else written["lightning"]
    assert facts["lightning"].exact == stated
    for name, fact in facts.items():
        if name not in written:
            continue
        true = Version(Version(written[name]).public)
        if fact.exact is not None:
            assert Version(fact.exact) == true, name
        if fact.at_least is not None:
            assert true >= Version(fact.at_least), (name, fact)
        if fact.below is not None:
            assert true < Version(fact.below), (name, fact)


def test_values_are_where_the_reader_says():
    """The bytes of every tensor, by span, offset and shape, have the hash that the writing torch gave them."""
    checked = 0
    for file in FILES:
        checkpoint, recorded = open_checkpoint(FOLDER / file), _recorded(file)["state_dict"]
        data = (FOLDER / file).read_bytes()
        for tensor in checkpoint.tensors:
            storage = checkpoint.storages[tensor.storage_id]
            size = BY_NAME[tensor.dtype].itemsize
            start = storage.span.start + tensor.offset * size
            digest = hashlib.sha256(data[start : start + tensor.numel * size]).hexdigest()
            assert digest.startswith(recorded[tensor.key]["sha256"]), (file, tensor.key)
            checked += 1
    assert checked >= 400


def test_reading_all_of_them_imports_neither_torch_nor_numpy():
    code = (
        "import sys, relight\n"
        f"for f in {FILES!r}:\n"
        "    assert relight.inspect(f).tensors\n"
        "print(sorted({'torch', 'lightning', 'pytorch_lightning', 'numpy', 'pickle', 'omegaconf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------ predicting


def _agrees(report, cell, file) -> bool:
    """The record of a refusal breaks off before it says what was refused: for that the installed torch is asked."""
    import torch

    if not cell["ok"] and cell["message"].startswith("Weights only load failed"):
        first = report.prediction
        with pytest.raises(Exception, match="Weights only load failed") as caught:
            torch.load(FOLDER / file, map_location="cpu", weights_only=True)
        return first is not None and first.exception == cell["exception"] and first.message in str(caught.value)
    return agrees(report, cell)


def _file(cell) -> str:
    producer, kind, _ = cell.split("/")
    return f"checkpoints/{producer}/{kind}.ckpt"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """PRODUCER/KIND/CALL to the report of load_from_checkpoint; all models, one child."""
    folder = tmp_path_factory.mktemp("callbacks")
    (folder / "my_callbacks.py").write_text(MY_CALLBACKS)
    with working_in(FOLDER, folder, FOLDER / "sources"):
        files = dict.fromkeys(map(_file, CELLS))
        built = build_all({f: (f"models:{CLASSES[f.split('/')[2].removesuffix('.ckpt')]}", f, {}) for f in files})
        out = {}
        for cell in CELLS:
            env, kind, call = cell.split("/")
            file = f"checkpoints/{env}/{kind}.ckpt"
            out[cell] = check_built(built[file], file, weights_only=False if call.endswith("_False") else None)
        return out


@pytest.mark.parametrize("cell", CELLS)
def test_load_from_checkpoint(cell, reports):
    report = reports[cell]
    assert report.crashed == ()
    if CELLS[cell]["ok"]:
        assert [f.name for f in report.findings if f.severity is Severity.ERROR] == [], said(report)
    assert _agrees(report, CELLS[cell], _file(cell)), f"{said(report)} recorded {CELLS[cell]}"


@pytest.fixture(scope="module")
def plain_reports(tmp_path_factory):
    """The same for torch.load, which needs no model."""
    folder = tmp_path_factory.mktemp("callbacks")
    (folder / "my_callbacks.py").write_text(MY_CALLBACKS)
    with working_in(FOLDER, folder, FOLDER / "sources"):
        here = installed.environment_of(sys.executable)
        out = {}
        for cell in PLAIN_CELLS:
            env, kind, call = cell.split("/")
            out[cell] = check_built(
                None,
                f"checkpoints/{env}/{kind}.ckpt",
                intent="weights",
                weights_only=WEIGHTS_ONLY[call],
                environment=here,
            )
        return out


@pytest.mark.parametrize("cell", PLAIN_CELLS)
def test_torch_load(cell, plain_reports):
    """Without a model nobody says that it loads, but an error that is said has to come, and one that comes be said."""
    report = plain_reports[cell]
    if PLAIN_CELLS[cell]["ok"]:
        assert [f.name for f in report.findings if f.severity is Severity.ERROR] == [], said(report)
    else:
        assert _agrees(report, PLAIN_CELLS[cell], _file(cell)), f"{said(report)} recorded {PLAIN_CELLS[cell]}"


def test_the_records_are_of_both_kinds():
    for cells in (CELLS, PLAIN_CELLS):
        assert sum(c["ok"] for c in cells.values()) >= 15
        assert sum(not c["ok"] for c in cells.values()) >= 15
