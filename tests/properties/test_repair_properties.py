"""What must hold for any plan on any honest file: the new file is the old one, edited, and nothing else.

``RELIGHT_PROPERTIES=long`` runs many more examples.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from repairing import plan_of, repaired, rows

from relight.core.checkpoint import Layout
from relight.core.edits import (
    AddNames,
    ConvertTensors,
    DropEntry,
    DropKeys,
    Edit,
    MakePlain,
    MoveEntry,
    RenameKeys,
    SetDevice,
    SetEntry,
)
from relight.core.objects import mapping_get
from relight.reader import open_checkpoint
from relight.reader.pickle_vm import decode
from relight.reader.source import open_local
from relight.repair.graphs import same_graph
from relight.repair.pickle_out import encode, lowered
from relight.repair.rewriter import splice
from relight.rulekit import File, Obj, Tensor
from relight.testing import write

LONG = os.environ.get("RELIGHT_PROPERTIES") == "long"


def few(examples: int) -> settings:
    return settings(
        max_examples=examples * (50 if LONG else 1),
        deadline=None,
        database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
    )


steps = st.sampled_from(["net", "layer1", "0", "1", "weight", "bias", "h", "blöck", "a b", "x" * 300])
keys = st.lists(steps, min_size=1, max_size=4).map(".".join)
tensors = st.builds(
    Tensor,
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    dtype=st.sampled_from(["float32", "bfloat16", "int64", "bool", "float8_e4m3fn"]),
    device=st.sampled_from(["cpu", "cuda:0", "cuda:1"]),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def files(draw):
    """Recipes of honest files; now and then a name of a tensor is a value elsewhere as well."""
    state = draw(st.dictionaries(keys, tensors, min_size=1, max_size=8))
    extra = {"epoch": draw(st.integers(0, 300)), "names": draw(st.lists(st.sampled_from(sorted(state)), max_size=3))}
    layout = draw(st.sampled_from([{}, {}, {}, {"legacy": True}, {"protocol": 4}, {"raw": True}]))
    return File(
        tensors=state,
        extra={} if layout.get("raw") else extra,
        hparams=None
        if layout.get("raw")
        else draw(st.none() | st.dictionaries(st.text(max_size=5), plain, max_size=4)),
        metadata=draw(st.none() | st.just({"": 1, **{k.rpartition(".")[0]: 2 for k in state}})),
        **layout,
    )


@contextmanager
def written(recipe: File) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as name:
        path = write(recipe, Path(name) / "model.ckpt")
        data = bytearray(path.read_bytes())
        yield path, Path(name) / "out.ckpt"
        assert path.read_bytes() == bytes(data), "the file itself stays as it is"


def in_memory(path: Path, output: Path, edits: list[Edit]) -> None:
    """What `relight.load` gives torch is the file that would have been written, whatever is asked of it."""
    source = open_local(path)
    try:
        view, _ = splice(plan_of(path, *edits), source)
        written = output.read_bytes()
        assert view.size == len(written)
        if open_checkpoint(path).layout is Layout.TORCH_ZIP:  # of other layouts it records no checksums
            assert view.read() == written
        view.seek(-1, os.SEEK_END)
        assert (view.read(5), view.read(5)) == (written[-1:], b"")
        middle = len(written) // 3
        view.seek(middle)
        assert view.read(7) == written[middle : middle + 7]
    finally:
        source.close()


@given(st.data(), files())
@few(120)
def test_reading_the_result_is_editing_what_was_read(data, recipe):
    with written(recipe) as (path, output):
        before = rows(path)
        names = sorted(before)
        some = data.draw(st.lists(st.sampled_from(names), unique=True))
        targets = data.draw(st.lists(keys, unique=True, min_size=len(some), max_size=len(some)))
        rename = dict(zip(some, targets, strict=True))
        drop = set(data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3))) - set(rename)
        add = data.draw(st.dictionaries(keys, st.sampled_from(names), max_size=2))
        device = data.draw(st.none() | st.sampled_from(["cpu", "cuda:0", "mps"]))
        after = [rename.get(k, k) for k in before if k not in drop] + list(add)
        assume(len(set(after)) == len(after))
        edits = [RenameKeys(tuple(rename.items())), DropKeys(tuple(sorted(drop)))]
        edits.append(AddNames(tuple((old, new) for new, old in add.items())))
        if device is not None:
            edits.append(SetDevice(device))
        done = repaired(path, output, *edits)
        expected = {rename.get(k, k): before[k] for k in before if k not in drop} | {
            n: before[o] for n, o in add.items()
        }
        if device is not None:
            expected = {k: (*row[:4], device, *row[5:]) for k, row in expected.items()}
        assert rows(output) == expected
        assert list(rows(output)) == after
        in_memory(path, output, edits)
        assert done.untouched == len(before) - len(drop)
        # Everything else is as it was.
        if not recipe.raw:
            old, new = open_checkpoint(path).root, open_checkpoint(output).root
            for key in ("epoch", "names", "hyper_parameters"):
                assert same_graph(lowered(mapping_get(old, key)), lowered(mapping_get(new, key)))


@given(st.data(), files())
@few(60)
def test_there_and_back(data, recipe):
    """A renaming and its inverse give the content that was there first; of a file that torch would write, its bytes."""
    with written(recipe) as (path, output):
        names = sorted(rows(path))
        targets = data.draw(st.lists(keys, unique=True, min_size=len(names), max_size=len(names)))
        there = tuple(zip(names, targets, strict=True))
        repaired(path, output, RenameKeys(there))
        back = output.with_name("back.ckpt")
        repaired(output, back, RenameKeys(tuple((b, a) for a, b in there)))
        assert rows(back) == rows(path)
        again = output.with_name("again.ckpt")
        repaired(path, again, RenameKeys(there))
        assert again.read_bytes() == output.read_bytes(), "the same plan on the same file gives the same bytes"


@given(st.data(), files().filter(lambda f: not f.raw))
@few(60)
def test_whole_plans_there_and_back(data, recipe):
    """Every kind of edit that has an inverse, several at once, and the inverse of all of them: the content is the first."""
    with written(recipe) as (path, output):
        before = rows(path)
        names = sorted(before)
        targets = data.draw(st.lists(keys, unique=True, min_size=len(names), max_size=len(names)))
        rename = dict(zip(names, targets, strict=True))
        turned = [k for k in names if len(before[k][1]) == 2 and data.draw(st.booleans())]
        there: list[Edit] = [RenameKeys(tuple((a, b) for a, b in rename.items() if a not in turned))]
        back: list[Edit] = [RenameKeys(tuple((b, a) for a, b in rename.items() if a not in turned))]
        if turned:
            shapes = {k: before[k][1] for k in turned}
            there.append(ConvertTensors(tuple((rename[k], (k,), "transpose", shapes[k][::-1]) for k in turned)))
            back.append(ConvertTensors(tuple((k, (rename[k],), "transpose", shapes[k]) for k in turned)))
        kept = [k for k in names if k not in turned]
        if kept and data.draw(st.booleans()):
            there.append(AddNames(((kept[0], "a second name"),)))
            back.append(DropKeys(("a second name",)))
        if data.draw(st.booleans()):
            there.append(MoveEntry(("epoch",), ("era",)))
            back.append(MoveEntry(("era",), ("epoch",)))
        if data.draw(st.booleans()):
            there.append(SetEntry(("more",), data.draw(plain)))
            back.append(DropEntry(("more",)))
        devices = {row[4] for row in before.values()}
        if len(devices) == 1 and data.draw(st.booleans()):
            there.append(SetDevice("mps"))
            back.append(SetDevice(devices.pop()))
        repaired(path, output, *there)
        home = output.with_name("home.ckpt")
        repaired(output, home, *back)
        assert rows(home) == before
        old, new = open_checkpoint(path).root, open_checkpoint(home).root
        for key in ("epoch", "names", "hyper_parameters"):
            assert same_graph(lowered(mapping_get(old, key)), lowered(mapping_get(new, key)))
        assert mapping_get(new, "more") is None
        assert mapping_get(new, "era") is None


# Objects that weights_only=True refuses, among plain values.
objects = st.builds(
    lambda values, name: Obj(name, values),
    st.dictionaries(st.sampled_from(["lr", "width", "x y"]), plain, max_size=3),
    st.sampled_from(["argparse.Namespace", "pytorch_lightning.utilities.parsing.AttributeDict"]),
)


@given(st.data(), files().filter(lambda f: not f.raw))
@few(40)
def test_twice_is_once(data, recipe):
    """What such a plan says of the new file holds already: doing it again changes nothing."""
    hparams = dict(recipe.hparams or {}, args=data.draw(objects))
    with written(replace(recipe, hparams=hparams)) as (path, output):
        edits = [SetEntry(("epoch",), data.draw(plain)), SetDevice("cpu"), MakePlain(objects=True)]
        edits = [e for e in edits if data.draw(st.booleans())]
        repaired(path, output, *edits)
        again = output.with_name("again.ckpt")
        repaired(output, again, *edits)
        assert rows(again) == rows(output)
        once, twice = open_checkpoint(output).root, open_checkpoint(again).root
        assert same_graph(lowered(once), lowered(twice))


@given(st.data(), files().filter(lambda f: not f.raw))
@few(40)
def test_entries(data, recipe):
    with written(recipe) as (path, output):
        value = data.draw(plain)
        repaired(path, output, SetEntry(("hyper_parameters", "some name"), value), DropEntry(("epoch",)))
        root = open_checkpoint(output).root
        from relight.repair.tree_edit import node_of

        found = mapping_get(mapping_get(root, "hyper_parameters"), "some name")
        assert same_graph(found, node_of(value))
        assert mapping_get(root, "epoch") is None
        assert rows(output) == rows(path)


@given(files())
@few(60)
def test_what_is_encoded_is_decoded(recipe):
    with written(recipe) as (path, _):
        tree = lowered(open_checkpoint(path).root)
        again = decode(encode(tree))
        assert again.problems == ()
        assert same_graph(again.value, tree)


@given(files())
@few(20)
def test_a_plan_is_refused_by_its_own_result(recipe):
    import pytest

    from relight.core.errors import RepairError
    from relight.repair.rewriter import rewrite

    with written(recipe) as (path, output):
        first = next(iter(rows(path)))
        plan = plan_of(path, RenameKeys(((first, "quite another name"),)))
        rewrite(plan, str(path), str(output))
        with pytest.raises(RepairError, match="another file"):
            rewrite(plan, str(output), str(output.with_name("twice.ckpt")))
