"""The callback: what it writes, that it changes nothing else, and that none of its own steps can fail a run."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import pickle  # noqa: TID251 - what multiprocessing does with a callback
import zipfile

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import relight
from relight.core.manifest import KEY
from relight.manifest import behaviour, callback, environment, integrity, probing, reasons, record, structure, training
from relight.reader import fingerprint, open_checkpoint
from relight.reader.source import open_local

pytestmark = pytest.mark.torch


def _module(package):
    class Net(package.LightningModule):
        def __init__(self, width=8):
            super().__init__()
            self.save_hyperparameters()
            self.first, self.act, self.head = nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2)
            self.norm = nn.BatchNorm1d(width)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.head(self.drop(self.norm(self.act(self.first(x)))))

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 5)]

    return Net


def _data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 2, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)


def _run(path, package=lightning.pytorch, callbacks=(), *, weights_only=False, validate=True, **options):
    torch.manual_seed(3)
    model = _module(package)()
    trainer = package.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(model, _data(), *([_data()] if validate else []))
    trainer.save_checkpoint(path, weights_only=weights_only)
    return model, trainer


def _saved(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
@pytest.mark.parametrize("weights_only", [False, True])
def test_what_is_written(tmp_path, package, weights_only):
    model, _ = _run(tmp_path / "a.ckpt", package, [relight.CheckpointManifest()], weights_only=weights_only)
    saved = _saved(tmp_path / "a.ckpt")
    manifest = json.loads(saved[KEY])
    assert manifest["schema"] == "relight/manifest/1"
    assert manifest["omitted"] == {}
    assert manifest["environment"]["packages"]["torch"] == torch.__version__
    assert [m["class"].rpartition(".")[2] for m in manifest["architecture"]["modules"]][1:3] == ["Linear", "ReLU"]
    assert set(manifest["integrity"]["tensors"]) == set(saved["state_dict"])
    assert manifest["training"]["optimizers"][0]["groups"][0]["parameters"] == [[0, 5]]
    assert manifest["training"]["schedulers"][0]["arguments"]["step_size"] == "5"
    assert manifest["init"]["arguments"] == {"width": "8"}
    assert manifest["probe"]["input"] == {"args": [{"tensor": "float32", "shape": [8, 2]}], "kwargs": {}}
    again = type(model).load_from_checkpoint(tmp_path / "a.ckpt")
    answer = behaviour.answer(again, "", manifest["probe"]["input"], torch)
    assert answer["outputs"] == manifest["probe"]["outputs"]


def test_it_is_read_with_zipfile_and_json_alone(tmp_path):
    _run(tmp_path / "a.ckpt", callbacks=[relight.CheckpointManifest()])
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        raw = archive.read(name).decode("latin-1")
    manifest, _ = json.JSONDecoder().raw_decode(raw[raw.index('{"schema":"relight/manifest/1"') :])
    assert manifest["integrity"]["algorithm"] == "sum64+sample/1"


def test_nothing_else_changes(tmp_path):
    """Same weights, same random numbers, same flags and hooks afterwards: the run is the one without it."""
    bare, _ = _run(tmp_path / "a.ckpt")
    drawn = torch.rand(3)
    mine, trainer = _run(tmp_path / "b.ckpt", callbacks=[relight.CheckpointManifest()])
    assert torch.equal(drawn, torch.rand(3))
    one, two = _saved(tmp_path / "a.ckpt"), _saved(tmp_path / "b.ckpt")
    assert set(two) - set(one) == {KEY}
    assert all(torch.equal(v, two["state_dict"][k]) for k, v in one["state_dict"].items())
    assert {n: m.training for n, m in bare.named_modules()} == {n: m.training for n, m in mine.named_modules()}
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in mine.modules())
    assert set(vars(bare)) == set(vars(mine))
    assert trainer.callback_metrics.keys() == {"loss"}


def test_resuming_goes_on_as_ever(tmp_path):
    _run(tmp_path / "a.ckpt", callbacks=[relight.CheckpointManifest()])
    model = _module(lightning.pytorch)()
    trainer = lightning.pytorch.Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=[relight.CheckpointManifest()],
    )  # fmt: skip
    trainer.fit(model, _data(), ckpt_path=tmp_path / "a.ckpt")
    assert trainer.current_epoch == 3


def test_it_can_be_copied_and_sent_to_another_process():
    callback = relight.CheckpointManifest(probe=False)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert isinstance(other, relight.CheckpointManifest)
        assert isinstance(other, lightning.pytorch.Callback)
        assert other._options["probe"] is False


# ---------------------------------------------------------------- faults

MODULES = (behaviour, callback, environment, integrity, probing, reasons, record, structure, training)
# What guards the others, and what Lightning itself calls: each body is one guarded step.
GUARDS = {
    "Recorder.__init__",
    "Recorder.step",
    "Watch._seen",
    "CheckpointManifest.__new__",
    "CheckpointManifest.__init__",
}
GUARDS |= {f"_Hooks.{name}" for name in vars(callback._Hooks) if not name.startswith("_") or name.startswith("__")}
GUARDS |= {"_fresh", "_again", "_class"}  # of the constructor, before there is a run
# Not of this run: what wraps, compiles or decorates a model, or answers in another process.
ELSEWHERE = {"asked_twice", "unwrapped_path"}


def _steps():
    """Every function and method of the code that a run calls."""
    for module in MODULES:
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value) and name not in GUARDS | ELSEWHERE:
                yield module, name
            elif inspect.isclass(value) and not issubclass(value, BaseException):
                for inner, method in vars(value).items():
                    if inspect.isfunction(method) and f"{name}.{inner}" not in GUARDS:
                        yield value, inner


STEPS = [*_steps(), (json, "dumps")]
OUTER = [
    (environment, "environment"),
    (structure, "structure"),
    (integrity, "integrity"),
    (training, "training"),
    (behaviour, "answer"),
    (probing, "probe"),
    (record.Recorder, "text"),
    (record, "put"),
]


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


FAULTS = [(o, n, RuntimeError("broken")) for o, n in STEPS]
FAULTS += [(o, n, error) for o, n in OUTER for error in (_Unprintable(), MemoryError(), RecursionError())]


@pytest.mark.parametrize(
    "owner, name, error", FAULTS, ids=[f"{o.__name__}.{n}-{type(e).__name__}" for o, n, e in FAULTS]
)
def test_a_step_that_raises_costs_its_own_part_only(tmp_path, monkeypatch, caplog, owner, name, error):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(owner, name, broken)
    with caplog.at_level(logging.WARNING, logger="relight"):
        model, trainer = _run(tmp_path / "a.ckpt", callbacks=[relight.CheckpointManifest()])
    monkeypatch.undo()
    assert trainer.current_epoch == 2
    saved = _saved(tmp_path / "a.ckpt")
    assert all(torch.equal(v, saved["state_dict"][k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    said = [r.getMessage() for r in caplog.records if r.name == "relight"]
    assert len(said) == len(set(said))
    if KEY in saved:
        manifest = json.loads(saved[KEY])
        parts = {"architecture", "environment", "training", "integrity", "probe"}
        without = set(manifest["integrity"]["without"]) if "integrity" in manifest else set()
        assert parts - set(manifest) <= set(manifest["omitted"]), "a part is missing without a reason"
        assert manifest["omitted"] or without or parts <= set(manifest)
        assert said or not manifest["omitted"]
    else:
        assert said


def test_a_model_that_cannot_be_asked(tmp_path, caplog):
    """A forward that fails, an attribute that raises, a property that must not be run."""
    asked = []

    class Odd(_module(lightning.pytorch)):
        def __init__(self):
            super().__init__()
            self.steps = 0

        @property
        def precious(self):
            asked.append(1)
            raise RuntimeError("not now")

        def extra_repr(self):
            raise RuntimeError("no repr")

        def forward(self, x):
            if not self.training and not torch.is_grad_enabled() and self.steps > 3:
                raise RuntimeError("only while training")
            self.steps += 1
            return super().forward(x)

    model = Odd()
    trainer = lightning.pytorch.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=[relight.CheckpointManifest()],
    )  # fmt: skip
    trainer.fit(model, _data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    manifest = json.loads(_saved(tmp_path / "a.ckpt")[KEY])
    assert manifest["omitted"] == {"probe": "RuntimeError: only while training"}
    assert "steps" not in manifest["architecture"]["modules"][0]["attributes"], "a count is no make of a model"
    assert asked == []


def test_an_interrupt_is_not_swallowed(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "packages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record.describe_environment(record.Recorder())


# ---------------------------------------------------------------- torch.save


def test_plain_torch_save(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    optimizer = torch.optim.SGD([model[0].bias, model[0].weight], lr=0.1)
    whole = relight.with_manifest({"model": model.state_dict(), "epoch": 1}, model, optimizers=[optimizer])
    torch.save(whole, tmp_path / "a.pt")
    manifest = json.loads(_saved(tmp_path / "a.pt")[KEY])
    assert manifest["training"]["optimizers"][0]["groups"][0]["parameters"] == [[1, 1], [0, 0]]
    assert set(manifest["integrity"]["tensors"]) == {"0.weight", "0.bias"}
    assert "probe" not in manifest


def test_a_plain_state_dict_stays_one(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    torch.save(relight.with_manifest(model.state_dict(), model, example=torch.zeros(2, 3)), tmp_path / "a.pt")
    saved = _saved(tmp_path / "a.pt")
    assert list(saved) == ["0.weight", "0.bias"]
    nn.Sequential(nn.Linear(3, 4), nn.ReLU()).load_state_dict(saved, strict=True)
    manifest = json.loads(saved._metadata[KEY])
    assert manifest["probe"]["outputs"][0]["shape"] == [2, 4]


def test_what_cannot_take_a_manifest_is_saved_all_the_same(caplog):
    assert relight.with_manifest(3, nn.Linear(1, 1)) == 3
    assert "manifest" in caplog.text


# ---------------------------------------------------------------- parts


def test_secrets_of_a_command_line():
    token = "hf_" + "a1B2" * 8
    line = ["train.py", "--lr=0.1", "--api-key", "abc", "--token=xyz", f"--name={token}", token, "PASSWORD=q", "run-7"]
    line += ["https://me:pw@host/data", os.sep.join(["data", "set1"])]
    line += [
        "https://host/x?run=3&access_token=abc",
        "{'api_key': 'abc', 'n': 1}",
        "Authorization: Bearer abc",
        "sk-12345678",
    ]
    shown = environment.command_line(line)
    assert shown == [
        "train.py", "--lr=0.1", "--api-key", "***", "--token=***", "--name=***", "***", "PASSWORD=***", "run-7",
        "https://***@host/data", os.sep.join(["data", "set1"]),
        "https://host/x?run=3&access_token=***", "{'api_key': ***", "Authorization: ***", "***",
    ]  # fmt: skip


def test_values_of_the_data_are_not_written_down():
    """Forms only: text, and lists of numbers that are longer than a size is, are the user's."""
    x = torch.arange(6.0).reshape(2, 3)
    assert behaviour.call_of((x, "train", (224, 224)), {"scale": 2.0}, torch) == {
        "args": [
            {"tensor": "float32", "shape": [2, 3]},
            {"value": "train"},
            {"tuple": [{"value": 224}, {"value": 224}]},
        ],
        "kwargs": {"scale": {"value": 2.0}},
    }
    for private in ("a sentence of somebody", ["word"], {"name": "word"}, list(range(9)), "x" * 40):
        with pytest.raises(behaviour.Unsuitable, match="not written down"):
            behaviour.call_of((x, private), {}, torch)


def test_a_manifest_that_is_too_large_gives_up_what_tells_least():
    recorder = record.Recorder()
    recorder.parts = {"architecture": {"modules": []}, "integrity": {"x": "y" * record.LARGEST}}
    manifest = json.loads(recorder.text())
    assert manifest["omitted"] == {"integrity": "too large"}
    assert "architecture" in manifest


# ---------------------------------------------------------------- the probe belongs to what is saved


def test_a_slow_model_is_asked_less_from_the_next_save_on(tmp_path, monkeypatch):
    """What was asked stands beside its own answer: a form cut meanwhile made an unchanged model look changed."""
    monkeypatch.setattr(probing, "_SLOW", 0.0)
    _, trainer = _run(tmp_path / "a.ckpt", callbacks=[relight.CheckpointManifest()])
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    for name, batch in (("a", 8), ("b", 1)):
        found = json.loads(_saved(tmp_path / f"{name}.ckpt")[KEY])["probe"]
        assert found["input"]["args"][0]["shape"] == [batch, 2]
        assert found["outputs"][0]["shape"] == [batch, 2]
    assert "the first time" in json.loads(_saved(tmp_path / "c.ckpt")[KEY])["omitted"]["probe"]


def test_averaged_weights_have_no_probe_of_others(tmp_path):
    """The file gets the average, the model has its own: what it answers says nothing of the file."""
    kept = {}

    class Saving(lightning.pytorch.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "a.ckpt")
            kept.update({k: v.clone() for k, v in pl_module.state_dict().items()})

    averaging = lightning.pytorch.callbacks.EMAWeightAveraging(decay=0.5)
    _run(tmp_path / "b.ckpt", callbacks=[averaging, relight.CheckpointManifest(), Saving()])
    saved = _saved(tmp_path / "a.ckpt")
    manifest = json.loads(saved[KEY])
    assert not torch.equal(saved["state_dict"]["head.weight"], kept["head.weight"])
    assert "probe" not in manifest
    assert "the file gets another" in manifest["omitted"]["probe"]


def test_several_threads_add_up_to_the_same(tmp_path, monkeypatch):
    """Pieces, odd lengths, copies; and the file is read to the same digests without torch."""
    base = torch.randn(40, 30)
    state = {
        "plain": base, "transposed": base.t(), "part": base.reshape(-1)[3:], "bytes": torch.arange(13, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]), "empty": torch.zeros(0, 3), "one": torch.tensor(3.0),
        "half": torch.randn(7, dtype=torch.float64).half(), "complex": torch.randn(5, dtype=torch.complex64),
    }  # fmt: skip
    alone = integrity.integrity(state, torch)
    monkeypatch.setattr(integrity, "_MANY", 0)
    monkeypatch.setattr(integrity, "_PIECE", 7)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert integrity.integrity(state, torch) == alone
    assert alone["without"] == {}
    monkeypatch.setattr(integrity, "_SUMMED", 0)
    sampled = integrity.integrity(state, torch)["tensors"]
    assert sampled == {k: ["", sample] for k, (_, sample) in alone["tensors"].items()}
    assert integrity.integrity(state, torch, every_byte=True) == alone
    monkeypatch.setattr(integrity, "_SUMMED", 1 << 40)
    monkeypatch.setattr(integrity, "ThreadPoolExecutor", None)  # no threads to be had: one part less, no more
    with pytest.raises(TypeError):
        integrity.integrity(state, torch)
    torch.save({k: v.contiguous() for k, v in state.items()}, tmp_path / "a.pt")
    checkpoint = open_checkpoint(tmp_path / "a.pt")
    source = open_local(str(tmp_path / "a.pt"))
    for tensor in checkpoint.tensors:
        storage = checkpoint.storages[tensor.storage_id]
        span = fingerprint.span_of(tensor, storage)
        read = [fingerprint.total(source, tensor, storage), fingerprint.sample(source, tensor, span)]
        assert read == alone["tensors"][tensor.key], tensor.key
    source.close()
