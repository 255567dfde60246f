"""Trees that are small in the file and endless where they are gone through without a memory."""

from __future__ import annotations

import time

import pytest
from repairing import plan_of

from relight.core.edits import MakePlain, RenameKeys, SetEntry
from relight.core.objects import DictNode
from relight.facts.plain_data import make_plain, preview
from relight.repair.graphs import same_graph
from relight.repair.pickle_out import Unwritable, encode, lowered
from relight.repair.rewriter import rewrite


def doubled(levels: int) -> tuple:
    value: tuple = ("x",)
    for _ in range(levels):
        value = (value, value)
    return value


@pytest.mark.parametrize("levels", [50, 90, 5000])
def test_tuples_that_hold_themselves_twice(levels):
    start = time.monotonic()
    tree = DictNode([("a", doubled(levels))])
    preview(tree)
    make_plain(DictNode([("a", doubled(levels))]), drop=True)
    if levels > 100:
        with pytest.raises(Unwritable):
            lowered(tree)
    else:
        assert len(encode(lowered(tree))) < 5000
    assert same_graph(DictNode([("a", doubled(levels))]), DictNode([("a", doubled(levels))]))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("edit", [RenameKeys((("w", "v"),)), SetEntry(("epoch",), 1), MakePlain(drop=True)])
def test_a_file_with_such_tuples(edit, tmp_path):
    """Written, and soon."""
    torch = pytest.importorskip("torch")
    path, copy = tmp_path / "m.ckpt", tmp_path / "copy.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3, "tuples": doubled(50)}, path)
    start = time.monotonic()
    rewrite(plan_of(path, edit), str(path), str(copy))
    assert copy.stat().st_size < 10_000
    assert time.monotonic() - start < 5
