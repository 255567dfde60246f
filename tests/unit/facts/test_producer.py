"""Who wrote a file: bounds that real files keep to, and what is not concluded from files that were changed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from relight.core.checkpoint import Layout, Span
from relight.core.objects import DictNode, ListNode, mapping_pairs
from relight.facts import data
from relight.facts import producer as module
from relight.facts.producer import PACKAGES, Produced, producer
from relight.facts.versions import at_least, release
from relight.reader import open_checkpoint

CORPUS = Path(__file__).parents[2] / "corpus" / "checkpoints"
TABLE = data.load("producer")


def _told(checkpoint):
    return {name: str(fact) for name, fact in producer(checkpoint).items()}


def _file(name):
    return open_checkpoint(CORPUS / name)


def _pickled(tmp_path, stream):
    path = tmp_path / "some.pkl"
    path.write_bytes(stream)
    return open_checkpoint(path)


@pytest.mark.parametrize(
    "name, told",
    [
        (
            "E07/plain",
            {"lightning": "before 0.8.0", "torch": "0.1.10 or newer but before 1.6", "python": "3.0 or newer"},
        ),
        ("E09/full", {"lightning": "0.9.0", "torch": "1.6 or newer but before 1.9", "python": "3.6.1 or newer"}),
        ("E15/full", {"lightning": "1.5.10", "torch": "1.9 or newer but before 2.1", "python": "3.6.2 or newer"}),
        ("E18/full", {"lightning": "1.8.0", "torch": "1.13 or newer but before 2.1", "python": "3.7 or newer"}),
        ("E22/full", {"lightning": "2.2.5", "torch": "2.1 or newer but before 2.6", "python": "3.8 or newer"}),
        ("E26/full", {"lightning": "2.6.6", "torch": "2.7 or newer", "python": "3.10 or newer"}),
        ("E26/raw_state_dict", {"torch": "2.7 or newer", "python": "3.9 or newer"}),
    ],
)
def test_real_files(name, told):
    assert _told(_file(f"{name}.ckpt")) == told


def test_every_bound_of_every_real_file_holds():
    seen = 0
    for beside in sorted(CORPUS.glob("*/*.ckpt.json")):
        truth = json.loads(beside.read_text())["producer"]
        for name, fact in producer(open_checkpoint(beside.with_suffix(""))).items():
            real = truth[name].partition("+")[0]
            assert fact.known
            assert not fact.contrary
            assert fact.exact in (None, real)
            assert fact.at_least is None or at_least(real, fact.at_least), (beside, name)
            assert fact.below is None or not at_least(real, fact.below), (beside, name)
            seen += 1
    assert seen > 100


def test_evidence_names_what_sets_the_bounds():
    assert producer(_file("E22/plain.ckpt"))["torch"] == Produced(
        at_least="2.1", below="2.7", evidence="the record byteorder; no record .format_version, which 2.7 brought"
    )


# ---------------------------------------------------------------- files that were saved again or changed


def _saved_again(old, new):
    """What an old file holds, in the container of a new one."""
    return replace(old, layout=new.layout, records=new.records, folder="some", storages=new.storages, stream=new.stream)


@pytest.mark.parametrize("old", ["E07/plain", "E15/full", "E18/full"])
def test_what_the_file_shows_wins_over_what_is_inside(old):
    fact = producer(_saved_again(_file(f"{old}.ckpt"), _file("E26/raw_state_dict.ckpt")))["torch"]
    assert str(fact) == "2.7 or newer"
    assert "before" in fact.contrary


def test_contents_bound_a_file_from_above_only_where_lightning_saved_it():
    checkpoint = _file("E22/full.ckpt")
    assert producer(checkpoint)["torch"].below == "2.6"  # the scheduler
    assert producer(replace(checkpoint, folder="averaged"))["torch"].below == "2.7"  # the records


def test_an_archive_that_was_packed_again_may_lack_records():
    checkpoint = _file("E18/full.ckpt")
    moved = tuple(r._replace(span=Span(r.span.start + 1, r.span.length)) for r in checkpoint.records)
    assert producer(replace(checkpoint, records=moved))["torch"] == Produced(
        at_least="1.13", evidence="the keys of Adam or AdamW in the optimizer's groups"
    )


def test_records_that_contradict_each_other_tell_nothing():
    checkpoint = _file("E26/raw_state_dict.ckpt")
    storages = {str(94019272867168 + i): s for i, s in enumerate(checkpoint.storages.values())}
    fact = producer(replace(checkpoint, storages=storages))["torch"]
    assert not fact.known
    assert "the record .format_version (2.7 or newer)" in fact.contrary
    assert "storages named by their address (before 1.9)" in fact.contrary


def _without(checkpoint, *keys):
    pairs = [(k, v) for k, v in mapping_pairs(checkpoint.root) if k not in keys]
    return replace(checkpoint, root=DictNode(pairs))


def test_without_its_version_a_file_is_dated_by_what_lightning_laid_into_it():
    told = {
        env: str(producer(_without(_file(f"{env}/full.ckpt"), "pytorch-lightning_version"))["lightning"])
        for env in ("E09", "E10", "E15", "E18", "E20", "E26")
    }
    assert told == {
        "E09": "0.8.0 or newer",
        "E10": "1.0.0 or newer but before 1.5.0",
        "E15": "1.5.0 or newer but before 1.9.0",
        "E18": "1.5.0 or newer but before 1.9.0",
        "E20": "2.0.0 or newer",
        "E26": "2.0.0 or newer",
    }


def test_a_stated_version_that_cannot_be_is_told():
    checkpoint = _file("E26/full.ckpt")
    pairs = [(k, "1.4.0" if k == "pytorch-lightning_version" else v) for k, v in mapping_pairs(checkpoint.root)]
    fact = producer(replace(checkpoint, root=DictNode(pairs)))["lightning"]
    assert fact.exact == "1.4.0"
    assert "automatic_optimization in loops (2.0.0 or newer)" in fact.contrary


@pytest.mark.parametrize("version", ["", "banana", "2", "1.9.0.dev0", "9" * 5000])
def test_any_text_may_stand_for_a_version(version):
    checkpoint = _file("E26/full.ckpt")
    pairs = [(k, version if k == "pytorch-lightning_version" else v) for k, v in mapping_pairs(checkpoint.root)]
    assert producer(replace(checkpoint, root=DictNode(pairs)))["lightning"].exact == version


# ---------------------------------------------------------------- optimizers and schedulers


def _optimizer(*keys, params=(0, 1)):
    group = DictNode([*((k, 1) for k in keys), ("params", ListNode(list(params)))])
    state = DictNode([("state", DictNode([])), ("param_groups", ListNode([group]))])
    root = DictNode([("model", DictNode([])), ("optimizer", state)])
    return replace(_file("E26/raw_state_dict.ckpt"), layout=Layout.PICKLE, root=root, globals=(), storages={})


SGD = ("lr", "momentum", "dampening", "weight_decay", "nesterov")


@pytest.mark.parametrize(
    "keys, told",
    [
        ((*SGD, "maximize"), "1.11 or newer"),
        ((*SGD, "maximize", "foreach", "differentiable"), "1.13 or newer"),
        ((*SGD, "maximize", "foreach", "differentiable", "fused", "initial_lr"), "2.3 or newer"),
        ((*SGD, "maximize", "foreach", "differentiable", "fused", "trust"), "1.6 or newer"),  # somebody's own
        (SGD, "1.6 or newer"),  # copies of the old SGD are in many projects
    ],
)
def test_keys_of_an_optimizer(keys, told):
    assert _told(_optimizer(*keys))["torch"] == told


def test_parameters_by_address():
    # A new torch may have saved what an old one made: only the old layout settles it.
    inside = _optimizer("lr", params=(139636794445728, 139636794445648))
    assert "torch" not in _told(inside)
    assert str(producer(replace(inside, layout=Layout.TORCH_LEGACY))["torch"]) == "0.1.10 or newer but before 1.6"


def test_only_torch_counts_an_optimizer_of_a_model():
    checkpoint = _optimizer("lr")
    many = DictNode([(f"k{i}", v) for i in range(300) for _, v in mapping_pairs(checkpoint.root)])
    assert "torch" not in producer(replace(checkpoint, root=many))


# ---------------------------------------------------------------- python and numpy


@pytest.mark.parametrize(
    "stream, package, told",
    [
        (b"\x80\x02cfractions\nFraction\nX\x03\x00\x00\x001/3\x85R.", "python", "before 3.11"),
        (b"\x80\x02cfractions\nFraction\nK\x01K\x03\x86R.", "python", "3.11 or newer"),
        (b"\x80\x02cpathlib\nPosixPath\nX\x03\x00\x00\x00a/b\x85R.", "python", "3.14 or newer"),
        (b"\x80\x02cpathlib._local\nPosixPath\nX\x03\x00\x00\x00a/b\x85R.", "python", "3.13 or newer but before 3.14"),
        (b"\x80\x02U\x01a.", "python", "before 3.0"),
        (b"\x80\x04K\x01.", "python", "3.4 or newer"),
        (b"\x80\x05K\x01.", "python", "3.8 or newer"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R.", "numpy", "before 1.19"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R.", "numpy", "1.19 or newer"),
        (b"\x80\x02cnumpy.core.multiarray\nscalar\n.", "numpy", "before 2.0"),
        (b"\x80\x02cnumpy._core.multiarray\nscalar\n.", "numpy", "2.0 or newer"),
    ],
)
def test_how_objects_are_pickled(tmp_path, stream, package, told):
    assert _told(_pickled(tmp_path, stream))[package] == told


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02cpathlib\nPosixPath\nX\x01\x00\x00\x00/X\x01\x00\x00\x00a\x86R.",  # parts of 3.12, or raw ones of 3.14
        b"\x80\x02cpathlib\nPosixPath\nX\x01\x00\x00\x00a\x85R.",
        b"\x80\x02cpathlib\nPosixPath\nX\x02\x00\x00\x00//\x85R.",
        b"\x80\x02cpathlib\nPureWindowsPath\nX\x03\x00\x00\x00a/b\x85R.",
        b"\x80\x02X\x01\x00\x00\x00a.",
        b"\x80\x02cmy_numpy.core\nscalar\n.",
    ],
)
def test_what_several_versions_write_tells_nothing(tmp_path, stream):
    assert producer(_pickled(tmp_path, stream)) == {}


# ---------------------------------------------------------------- the table


def _rows():
    yield from TABLE["marks"].values()
    yield from TABLE["names"]
    yield from (
        {**row, "package": "torch", "source": TABLE["optimizers"]["source"]} for row in TABLE["optimizers"]["keys"]
    )
    yield from ({**row, "below": None} for row in TABLE["requires"])


def test_every_entry_has_a_source_and_bounds_that_make_sense():
    for row in _rows():
        assert row["package"] in PACKAGES
        assert re.search(r"\d", row["source"]), row
        bounds = [row["at_least"], row["below"]]
        assert any(bounds), row
        assert all(release(b) for b in bounds if b), row
        assert None in bounds or not at_least(row["at_least"], row["below"]), row


def test_every_mark_is_looked_for():
    code = Path(module.__file__).read_text()
    looked_for = {*re.findall(r'"([a-z0-9-]+)"', code), "zip-version-2", "zip-version-3", "protocol-4", "protocol-5"}
    assert set(TABLE["marks"]) <= looked_for
