"""Objects as plain data: what becomes what, what is told, and what is left as it is."""

from __future__ import annotations

import pytest

from relight.core.objects import Call, DictNode, Global, ListNode, mapping_get
from relight.facts.plain_data import callback_key, make_plain, preview
from relight.reader import open_checkpoint
from relight.rulekit import File, Obj, Ref
from relight.testing import write

NS = "argparse.Namespace"


def tree(hparams, tmp_path, **recipe):
    return open_checkpoint(write(File(hparams=hparams, **recipe), tmp_path / "m.ckpt")).root


def hparam(root, name):
    return mapping_get(mapping_get(root, "hyper_parameters"), name)


def test_a_namespace_stays_usable_by_attribute(tmp_path):
    root = tree({"args": Obj(NS, {"width": 8, "deep": Obj(NS, {"lr": 0.5})})}, tmp_path)
    done = make_plain(root)
    args = hparam(done.root, "args")
    assert isinstance(args, Call)
    assert args.name == "collections.OrderedDict"
    assert mapping_get(args, "width") == mapping_get(args.state, "width") == 8
    assert mapping_get(args, "deep") is mapping_get(args.state, "deep"), "one object, found both ways"
    assert [c[0] for c in done.changes] == ["hyper_parameters.args", "hyper_parameters.args.deep"]
    assert done.inexact == []
    assert done.left == []


def test_one_object_stays_one_object(tmp_path):
    torch = pytest.importorskip("torch")
    import argparse

    shared = argparse.Namespace(width=8)
    torch.save({"hyper_parameters": {"a": shared, "b": shared}}, tmp_path / "m.ckpt")
    done = make_plain(open_checkpoint(tmp_path / "m.ckpt").root)
    assert hparam(done.root, "a") is hparam(done.root, "b")


@pytest.mark.parametrize(
    "value, plain",
    [
        (Obj("pathlib.PosixPath", args=("/", "data", "x")), "/data/x"),
        (Obj("pathlib.PosixPath", args=("data", "x")), "data/x"),
        (Obj("pathlib.WindowsPath", args=("C:\\", "data")), "C:\\data"),
        (Obj("pathlib._local.PosixPath", args=("data",)), "data"),
    ],
)
def test_paths(value, plain, tmp_path):
    done = make_plain(tree({"x": value}, tmp_path))
    assert hparam(done.root, "x") == plain
    assert not done.inexact


def test_a_member_of_an_enum_and_an_object_are_told_apart_from_the_rest(tmp_path):
    """Code that compares them may take another path without an error: it is not done unasked."""
    root = tree({"mode": Obj("models.Mode", args=("train",)), "cfg": Obj("models.Config", {"width": 8})}, tmp_path)
    done = make_plain(root)
    assert hparam(done.root, "mode") == "train"
    assert mapping_get(hparam(done.root, "cfg").state, "width") == 8
    assert [c[0] for c in done.inexact] == ["hyper_parameters.mode", "hyper_parameters.cfg"]


@pytest.mark.parametrize(
    "value",
    [
        Obj("torch.nn.modules.loss.MSELoss", {"training": True}),
        Obj("functools.partial", args=(Ref("torch.optim.adam.Adam"),)),
        Obj("models.Layer", {"training": True, "_modules": {}}),
        Obj("os.system", args=("true",)),
        Obj("models.Pair", args=(1, 2)),
        Ref("torch.nn.modules.activation.ReLU"),
    ],
    ids=lambda v: v.name,
)
def test_what_has_no_plain_form(value, tmp_path):
    done = make_plain(tree({"x": value, "width": 8}, tmp_path))
    assert [path for path, _ in done.left] == ["hyper_parameters.x"]
    done = make_plain(tree({"x": value, "width": 8}, tmp_path), drop=True)
    assert done.left == []
    assert [k for k, _ in mapping_get(done.root, "hyper_parameters").pairs] == ["width"]
    assert done.inexact, "leaving out is never exact"


def test_an_object_that_holds_one_without_a_plain_form(tmp_path):
    args = Obj(NS, {"width": 8, "loss": Obj("torch.nn.modules.loss.MSELoss", {})})
    assert make_plain(tree({"args": args}, tmp_path)).left == [
        ("hyper_parameters.args.loss", "torch.nn.modules.loss.MSELoss")
    ]
    done = make_plain(tree({"args": args}, tmp_path), drop=True)
    assert mapping_get(hparam(done.root, "args"), "width") == 8
    assert mapping_get(hparam(done.root, "args"), "loss") is None


def test_classes_as_keys_of_callbacks(tmp_path):
    torch = pytest.importorskip("torch")
    import argparse

    torch.save({"callbacks": {argparse.Namespace: {"best": 1.0}}, "other": {argparse.Action: 1}}, tmp_path / "m.ckpt")
    done = make_plain(open_checkpoint(tmp_path / "m.ckpt").root)
    assert [k for k, _ in mapping_get(done.root, "callbacks").pairs] == ["Namespace"]
    # Lightning looks for the text first; of any other dict it is not known who reads it, and how.
    assert [what for _, what, _ in done.inexact] == ["the class argparse.Action"]


def test_classes_of_lightning_as_keys_of_callbacks_become_the_keys_that_it_looks_for():
    stopping = Global("pytorch_lightning.callbacks.early_stopping", "EarlyStopping", 0)
    saving = Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", 0)
    assert callback_key(stopping, DictNode()) == "EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}"
    assert callback_key(saving, DictNode([("monitor", "val_acc")])) == (
        "ModelCheckpoint{'monitor': 'val_acc', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
        "'train_time_interval': None}"
    )
    assert callback_key(Global("my_callbacks", "Count", 0), DictNode()) == "Count"


def test_plain_data_is_left_alone(tmp_path):
    root = tree({"width": 8, "layers": [1, 2], "name": "x", "none": None}, tmp_path, tensors={"w": (2, 3)})
    before = hparam(root, "layers")
    done = make_plain(root)
    assert (done.changes, done.left) == ([], [])
    assert hparam(done.root, "layers") is before


def test_a_preview_changes_nothing(tmp_path):
    root = tree({"args": Obj(NS, {"width": 8}), "list": [Obj("pathlib.PosixPath", args=("x",))]}, tmp_path)
    seen = preview(root)
    assert seen.root is None
    assert hparam(root, "args").name == NS
    assert isinstance(hparam(root, "list").items[0], Call)
    assert seen.changes == make_plain(root).changes


def test_an_object_that_holds_itself(tmp_path):
    call = Call(open_checkpoint(write(File(extra={"n": Ref(NS)}), tmp_path / "m.ckpt")).globals[-1], (), "new", 0)
    call.state, call.has_state = DictNode([("me", call)]), True
    done = make_plain(DictNode([("x", ListNode([call]))]))
    assert done.left, "neither endless nor wrong"


def configuration(values):
    """A DictConfig as it is pickled, without the package."""
    omegaconf = pytest.importorskip("omegaconf")
    return omegaconf.OmegaConf.create(values)


def plain_of(config, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"hyper_parameters": {"conf": config}}, tmp_path / "m.ckpt")
    return make_plain(open_checkpoint(tmp_path / "m.ckpt").root)


def test_references_of_a_configuration_become_what_they_stand_for(tmp_path):
    values = {
        "a": 1,
        "name": "net",
        "b": {"c": [1, 2], "ref": "${a}", "beside": "${.c}", "second": "${b.c.1}", "twice": "${.ref}"},
        "whole": "${b}",
        "text": "runs/${name}/${a}",
    }
    done = plain_of(configuration(values), tmp_path)
    conf = hparam(done.root, "conf")
    b = mapping_get(conf, "b")
    assert [mapping_get(b, k) for k in ("ref", "second", "twice")] == [1, 2, 1]
    assert mapping_get(b, "beside").items == [1, 2]
    assert mapping_get(mapping_get(conf, "whole"), "ref") == 1
    assert mapping_get(conf, "text") == "runs/net/1"
    assert done.left == []
    assert done.inexact == []
    assert ("hyper_parameters.conf.b.ref", "a reference, ${a}", "the value that it stands for") in done.changes


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "x ${gone} y", "${gone}", "${a}", r"\${a} ${b}"])
def test_a_reference_that_only_its_library_can_follow_is_left(value, tmp_path):
    done = plain_of(configuration({"a": value, "b": 1}), tmp_path)
    assert [where for where, _ in done.left] == ["hyper_parameters.conf.a"]


def test_tensors_that_were_sent_as_arrays(tmp_path):
    torch = pytest.importorskip("torch")
    numpy = pytest.importorskip("numpy")

    class Sent:
        def __init__(self, *args):
            self.args = args

        def __reduce__(self):
            return torch._utils._rebuild_device_tensor_from_numpy, self.args

    weight = numpy.arange(6, dtype="float32").reshape(2, 3)
    sent = Sent(weight, torch.float32, "xla:0", False)
    torch.save(
        {"state_dict": {"w": sent, "same": sent, "odd": Sent(weight, torch.float64, "xla:0", False)}},
        tmp_path / "m.ckpt",
    )
    stored = []
    done = make_plain(
        open_checkpoint(tmp_path / "m.ckpt").root,
        stored=lambda numbers, grad: stored.append((numbers, grad)) or "tensor",
    )
    ((numbers, grad),) = stored
    assert (numbers.shape, numbers.dtype, grad) == ((2, 3), "float32", False)
    assert numbers.data == weight.tobytes()
    state = mapping_get(done.root, "state_dict")
    assert mapping_get(state, "w") == mapping_get(state, "same") == "tensor"
    assert [where for where, _ in done.left] == ["state_dict.odd"], "it would have to be converted"
