"""Plans that are applied, plans that do not fit, and files that are not rewritten."""

from __future__ import annotations

import os
import stat

import pytest
from repairing import plan_of, repaired, rows

from relight.core.edits import (
    AddNames,
    ComputeTensors,
    ConvertTensors,
    DropEntry,
    DropKeys,
    MakePlain,
    MoveEntry,
    Plan,
    RenameKeys,
    ReplaceGlobal,
    SetDevice,
    SetEntry,
    WrapEntry,
    edit_from_dict,
    edit_to_dict,
)
from relight.core.errors import RepairError
from relight.core.objects import mapping_get, mapping_pairs
from relight.reader import open_checkpoint
from relight.repair.rewriter import rewrite
from relight.rulekit import File, Obj, Ref, Tensor
from relight.testing import write

_NET = {"net.weight": (2, 3), "net.bias": (2,)}
EDITS = [
    RenameKeys((("net.weight", "head.weight"),)),
    DropKeys(("net.bias",)),
    AddNames((("net.weight", "tied.weight"),)),
    ConvertTensors((("turned", ("net.weight",), "transpose", (3, 2)),)),
    ReplaceGlobal("collections.OrderedDict", "collections.Counter"),
    SetEntry(("hyper_parameters", "width"), [1, {"a": None}]),
    DropEntry(("epoch",)),
    MoveEntry(("epoch",), ("last_epoch",)),
    WrapEntry(("hyper_parameters",), "conf", ("hparams_name",), attributes=True),
    ComputeTensors(
        (("net.scale", (), "value:AACAPw==", (1,), "float32"), ("g", ("net.weight",), "norm:0", (2, 1), "float32"))
    ),
    SetDevice("cpu"),
    MakePlain((("hyper_parameters.args", "argparse.Namespace", "OrderedDict"),), objects=True),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: type(e).__name__)
def test_edits_survive_json(edit):
    assert edit_from_dict(edit_to_dict(edit)) == edit


@pytest.mark.parametrize(
    "data",
    [
        {"edit": "paint-keys"},
        {"edit": "drop-keys"},
        {"edit": "drop-keys", "keys": [1]},
        {"edit": "drop-keys", "keys": ["a"], "more": 1},
        {"edit": "rename-keys", "pairs": [["a"]]},
        {"edit": "set-entry", "path": [], "value": 1},
        {"edit": "convert-tensors", "pairs": [["a", ["b"], "copy", [-1]]]},
        {"edit": "compute-tensors", "tensors": [["a", ["b"], "cast", [1]]]},
        {"edit": "wrap-entry", "path": [], "key": "conf", "instead": []},
    ],
)
def test_what_is_no_edit(data):
    with pytest.raises(ValueError, match="edit"):
        edit_from_dict(data)


@pytest.fixture
def file(tmp_path):
    return write(File(tensors=_NET, extra={"epoch": 3}, metadata={"": 1, "net": 2}), tmp_path / "model.ckpt")


def test_renamed(file, tmp_path):
    before = file.read_bytes()
    written = repaired(
        file, tmp_path / "out.ckpt", RenameKeys((("net.weight", "head.weight"), ("net.bias", "head.bias")))
    )
    assert list(rows(tmp_path / "out.ckpt")) == ["head.weight", "head.bias"]
    assert open_checkpoint(tmp_path / "out.ckpt").metadata == {"": 1, "head": 2}, "versions of modules move with them"
    assert not written.whole, "a few tokens changed, nothing else"
    assert file.read_bytes() == before


def test_two_names_exchanged(tmp_path):
    file = write(File(tensors={"a": (2,), "b": (3,)}), tmp_path / "model.ckpt")
    repaired(file, tmp_path / "out.ckpt", RenameKeys((("a", "b"), ("b", "a"))))
    assert {k: row[1] for k, row in rows(tmp_path / "out.ckpt").items()} == {"b": (2,), "a": (3,)}


def test_a_name_that_is_also_a_value_elsewhere(tmp_path):
    """Pickle writes an equal string once: the other place must keep it."""
    torch = pytest.importorskip("torch")
    name = "net.weight"
    torch.save({"names": [name], "state_dict": {name: torch.ones(2)}, "more": name}, tmp_path / "model.ckpt")
    written = repaired(tmp_path / "model.ckpt", tmp_path / "out.ckpt", RenameKeys(((name, "head.weight"),)))
    loaded = torch.load(tmp_path / "out.ckpt", weights_only=True)
    assert loaded["names"] == [name]
    assert loaded["more"] == name
    assert list(loaded["state_dict"]) == ["head.weight"]
    assert written.whole


def test_left_out_with_its_bytes(file, tmp_path):
    written = repaired(file, tmp_path / "out.ckpt", DropKeys(("net.weight",)))
    assert written.left_out == 1
    assert list(rows(tmp_path / "out.ckpt")) == ["net.bias"]
    assert [r.name for r in open_checkpoint(tmp_path / "out.ckpt").records if r.name.startswith("data/")] == ["data/1"]


def test_left_out_while_another_name_keeps_the_bytes(tmp_path):
    shared = {"a": Tensor((4, 3), storage="s"), "b": Tensor((4, 3), storage="s")}
    file = write(File(tensors=shared), tmp_path / "model.ckpt")
    assert repaired(file, tmp_path / "out.ckpt", DropKeys(("a",))).left_out == 0
    assert list(rows(tmp_path / "out.ckpt")) == ["b"]


def test_a_second_name(file, tmp_path):
    repaired(file, tmp_path / "out.ckpt", AddNames((("net.weight", "tied.weight"),)))
    found = open_checkpoint(tmp_path / "out.ckpt")
    assert len(found.storages) == 2
    assert [t.storage_id for t in found.tensors] == ["0", "1", "0"]


def test_entries(file, tmp_path):
    repaired(
        file,
        tmp_path / "out.ckpt",
        SetEntry(("hyper_parameters", "width"), [1, 2.5, {"a": None}]),
        DropEntry(("epoch",)),
        MoveEntry(("pytorch-lightning_version",), ("version",)),
    )
    root = open_checkpoint(tmp_path / "out.ckpt").root
    assert [k for k, _ in mapping_pairs(root)] == ["version", "state_dict", "hyper_parameters"]
    assert mapping_get(mapping_get(root, "hyper_parameters"), "width").items[:2] == [1, 2.5]


def test_device(tmp_path):
    file = write(
        File(tensors={"a": Tensor((2,), device="cuda:3"), "b": Tensor((2,), device="cuda:1")}), tmp_path / "m.ckpt"
    )
    written = repaired(file, tmp_path / "out.ckpt", SetDevice("cpu"))
    assert {row[4] for row in rows(tmp_path / "out.ckpt").values()} == {"cpu"}
    assert not written.whole


def test_a_name_of_a_class(tmp_path):
    file = write(File(tensors=_NET, extra={"kind": Ref("old_module.Net")}), tmp_path / "m.ckpt")
    written = repaired(file, tmp_path / "out.ckpt", ReplaceGlobal("old_module.Net", "new_module.Net"))
    assert "new_module.Net" in {g.full_name for g in open_checkpoint(tmp_path / "out.ckpt").globals}
    assert b"old_module" not in (tmp_path / "out.ckpt").read_bytes()
    assert not written.whole


@pytest.mark.parametrize(
    "recipe", [File(tensors=_NET, legacy=True), File(tensors=_NET, protocol=4)], ids=["legacy", "protocol 4"]
)
def test_other_layouts_become_an_archive_of_protocol_2(recipe, tmp_path):
    file = write(recipe, tmp_path / "m.ckpt")
    repaired(file, tmp_path / "out.ckpt", RenameKeys((("net.bias", "b"),)))
    found = open_checkpoint(tmp_path / "out.ckpt")
    assert found.layout.value == "torch-zip"
    assert found.stream.protocol == 2
    assert [t.key for t in found.tensors] == ["net.weight", "b"]


def test_permissions_are_kept(file, tmp_path):
    file.chmod(0o640)
    repaired(file, tmp_path / "out.ckpt")
    assert stat.S_IMODE(os.stat(tmp_path / "out.ckpt").st_mode) == 0o640


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "edits, why",
    [
        ([RenameKeys((("net.gone", "b"),))], "no tensor net.gone"),
        ([DropKeys(("net.gone",))], "no tensor net.gone"),
        ([RenameKeys((("net.bias", "net.weight"),))], "two tensors would be called net.weight"),
        ([RenameKeys((("net.bias", "b"),)), DropKeys(("net.bias",))], "to be renamed and to be left out"),
        ([RenameKeys((("net.bias", "b"),)), RenameKeys((("net.bias", "c"),))], "two names"),
        ([AddNames((("net.bias", "net.weight"),))], "two tensors would be called net.weight"),
        ([DropEntry(("gone",))], "no entry gone"),
        ([DropEntry(("gone", "deeper"))], "no dict"),
        ([MoveEntry(("gone",), ("x",))], "no entry gone"),
        ([ReplaceGlobal("a.B", "c.D")], "does not name a.B"),
        ([ConvertTensors((("w", ("net.weight",), "resize", (9, 9)),))], "would invent values"),
        ([ConvertTensors((("w", ("net.weight",), "reshape", (9, 9)),))], "cannot become"),
        ([ConvertTensors((("w", ("net.weight",), "split:0:5/2", (1, 3)),))], "cannot be cut"),
    ],
)
def test_plans_that_do_not_fit(file, tmp_path, edits, why):
    with pytest.raises(RepairError, match=why):
        repaired(file, tmp_path / "out.ckpt", *edits)
    assert os.listdir(tmp_path) == ["model.ckpt"]


def test_a_plan_is_for_one_file(file, tmp_path):
    plan = plan_of(file, RenameKeys((("net.bias", "b"),)))
    rewrite(plan, str(file), str(tmp_path / "out.ckpt"))
    with pytest.raises(RepairError, match="for another file"):
        rewrite(plan, str(tmp_path / "out.ckpt"), str(tmp_path / "again.ckpt"))
    assert not (tmp_path / "again.ckpt").exists()


def test_nothing_is_written_over(file, tmp_path):
    (tmp_path / "out.ckpt").write_bytes(b"mine")
    with pytest.raises(RepairError, match="is there already"):
        rewrite(plan_of(file), str(file), str(tmp_path / "out.ckpt"))
    with pytest.raises(RepairError, match="is there already"):
        rewrite(plan_of(file), str(file), str(file))
    assert (tmp_path / "out.ckpt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "recipe, why",
    [
        (File(tensors=_NET, keep=0.9), "damaged|cannot be read"),
        (File(tensors=_NET, tar=True), "layout torch-tar"),
        (File(content=b"no checkpoint"), "not written yet"),
        (File(root=Obj("net.Net", {"a": 1})), "whole module"),
    ],
)
def test_files_that_are_not_rewritten(recipe, why, tmp_path):
    file = write(recipe, tmp_path / "m.ckpt")
    with pytest.raises(RepairError, match=why):
        repaired(file, tmp_path / "out.ckpt", RenameKeys((("net.bias", "b"),)))


def test_a_changed_byte_is_not_copied_on(file, tmp_path):
    data = bytearray(file.read_bytes())
    at = open_checkpoint(file).storages["0"].span.start
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(RepairError, match="damaged"):
        repaired(file, tmp_path / "out.ckpt")


def test_plans_survive_json(file):
    plan = plan_of(file, *EDITS)
    assert Plan.from_dict(plan.to_dict()) == plan
    with pytest.raises(ValueError, match="not a plan"):
        Plan.from_dict({"schema": "relight/check/1"})
    with pytest.raises(ValueError, match="not a plan"):
        Plan.from_dict({"schema": "relight/plan/1", "edits": 3})


def test_a_plain_dict_of_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3, "state_dict": {"a": torch.ones(2), "b": torch.ones(3)}}, tmp_path / "model.ckpt")
    written = repaired(tmp_path / "model.ckpt", tmp_path / "out.ckpt", RenameKeys((("a", "net.a"), ("b", "net.b"))))
    assert not written.whole
    assert list(torch.load(tmp_path / "out.ckpt", weights_only=True)["state_dict"]) == ["net.a", "net.b"]


def test_a_plain_state_dict_becomes_an_entry(tmp_path):
    file = write(File(tensors=_NET, raw=True), tmp_path / "m.ckpt")
    repaired(
        file, tmp_path / "out.ckpt", MoveEntry((), ("state_dict",)), SetEntry(("pytorch-lightning_version",), "2.6.6")
    )
    found = open_checkpoint(tmp_path / "out.ckpt")
    assert [k for k, _ in mapping_pairs(found.root)] == ["state_dict", "pytorch-lightning_version"]
    assert [t.key for t in found.tensors] == list(_NET)


def test_a_hyper_parameter_gets_another_name(tmp_path):
    file = write(File(tensors=_NET, hparams={"hidden": 8, "lr": 0.1}), tmp_path / "m.ckpt")
    repaired(file, tmp_path / "out.ckpt", MoveEntry(("hyper_parameters", "hidden"), ("hyper_parameters", "width")))
    held = mapping_get(open_checkpoint(tmp_path / "out.ckpt").root, "hyper_parameters")
    assert mapping_pairs(held) == [("width", 8), ("lr", 0.1)]


def test_averaged_weights_follow_and_nothing_else_does(tmp_path):
    same = {k: Tensor(shape) for k, shape in _NET.items()}
    extra = {
        "current_model_state": same,
        "averaging_state": {f"module.{k}": v for k, v in same.items()},
        "teacher": {"net.weight": Tensor((3, 3)), "net.bias": Tensor((2,))},
        "half": {"net.weight": Tensor((2, 3))},
        "mixed": {**same, "head.bias": Tensor((2,))},
        "shapes": {"net.weight": [2, 3], "net.bias": [2]},
    }
    path = write(File(tensors=_NET, extra=extra), tmp_path / "model.ckpt")
    written = repaired(
        path, tmp_path / "out.ckpt", RenameKeys((("net.weight", "head.weight"), ("net.bias", "head.bias")))
    )
    root = open_checkpoint(tmp_path / "out.ckpt").root
    names = {key: [k for k, _ in mapping_pairs(mapping_get(root, key))] for key in extra}
    assert names.pop("current_model_state") == ["head.weight", "head.bias"]
    assert names.pop("averaging_state") == ["module.head.weight", "module.head.bias"]
    assert names == {k: list(extra[k]) for k in names}
    followed = [what for what, how in written.changes if "follow" in how]
    assert followed == ["current_model_state", "averaging_state"]


def test_wrapped_under_one_name(tmp_path):
    path = write(File(tensors=_NET, hparams={"width": 8}, extra={"hparams_name": "conf"}), tmp_path / "model.ckpt")
    written = repaired(path, tmp_path / "out.ckpt", WrapEntry(("hyper_parameters",), "conf", ("hparams_name",)))
    root = open_checkpoint(tmp_path / "out.ckpt").root
    assert mapping_get(mapping_get(mapping_get(root, "hyper_parameters"), "conf"), "width") == 8
    assert mapping_get(root, "hparams_name") is None
    assert written.dropped == ()
    repaired(path, tmp_path / "out.ckpt", WrapEntry(("hyper_parameters",), "conf", attributes=True))
    conf = mapping_get(mapping_get(open_checkpoint(tmp_path / "out.ckpt").root, "hyper_parameters"), "conf")
    assert mapping_get(conf, "width") == mapping_get(conf.state, "width") == 8
    with pytest.raises(RepairError, match="no entry"):
        repaired(path, tmp_path / "out.ckpt", WrapEntry(("gone",), "conf"))


def test_what_is_computed_is_told_apart(file, tmp_path):
    written = repaired(
        file,
        tmp_path / "out.ckpt",
        DropKeys(("net.bias",)),
        ComputeTensors(
            (
                ("net.bias", (), "uniform:3", (4,), "float32"),
                ("net.weight", ("net.weight",), "rows:mean", (4, 3), "float32"),
            )
        ),
    )
    assert list(rows(tmp_path / "out.ckpt")) == ["net.weight", "net.bias"], "each in its place"
    assert [what for what, _ in written.invented] == ["net.bias", "net.weight"]
    assert written.dropped == (("net.bias", "left out (1 tensor)"),)
    assert written.changed == 2
    assert written.untouched == 0


def test_parts_that_nothing_takes_are_told(file, tmp_path):
    cut = ConvertTensors((("net.weight", ("net.weight",), "slice:0:0:1", (1, 3)),))
    assert repaired(file, tmp_path / "out.ckpt", cut).dropped == (("net.weight", "3 of its 6 values"),)
    tied = repaired(file, tmp_path / "tied.ckpt", AddNames((("net.weight", "tied"),)))
    assert tied.dropped == ()
    assert repaired(tmp_path / "tied.ckpt", tmp_path / "out.ckpt", DropKeys(("tied",))).dropped == (), (
        "it is there still"
    )
