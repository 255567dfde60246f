"""Models that were refactored resume from the copy that ``relight fix`` writes, and learn as those of then would have.

For each of ten more steps the loss is that of the unrefactored model, resumed from the file as it was: so every moment
belongs to its parameter. Where the function is another one, only the start is compared. These are some of them;
``scripts/check_refactored.py`` resumes all.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from refactored import REFACTORINGS, model_named, outcome, train

import relight

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_lightning")  # as the models of the corpus do
pytestmark = pytest.mark.filterwarnings("ignore")
CORPUS = Path(__file__).parents[1] / "corpus"
SCENARIOS = json.loads((CORPUS / "scenarios.json").read_text())
CASES = {c.name: c for c in REFACTORINGS}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """The models of the corpus, importable here and in the child."""
    monkeypatch.syspath_prepend(str(CORPUS / "sources"))
    monkeypatch.syspath_prepend(str(CORPUS / "scenarios"))
    monkeypatch.setenv("PYTHONPATH", str(CORPUS / "sources"))
    monkeypatch.chdir(tmp_path)
    known, threads = set(sys.modules), torch.get_num_threads()
    torch.set_num_threads(1)
    yield CORPUS
    torch.set_num_threads(threads)
    for module in set(sys.modules) - known:
        if (getattr(sys.modules[module], "__file__", None) or "").startswith(str(CORPUS)):
            del sys.modules[module]


def asked(name):
    return CORPUS / SCENARIOS[name]["checkpoint"], f"{CORPUS / 'scenarios' / name}.py:Model"


@pytest.mark.parametrize("name", ["qkv_fused", "param_order_changed_shapes"])
def test_a_resume(name, corpus, tmp_path):
    file, target = asked(name)
    found = outcome(CASES[name], file, target, tmp_path)
    assert (found.wrong(CASES[name]), found.written, found.at) == ("", True, (2, 8))


def test_equal_parts_are_told_apart_by_who_knows(corpus, tmp_path, relight_command):
    case = CASES["two_branches_reordered"]
    file, target = asked(case.name)
    (tmp_path / "model.ckpt").write_bytes(file.read_bytes())
    report = relight.check("model.ckpt", target=target, intent="resume")
    renamed = next(f for f in report.findings if f.name == "renamed-module")
    assert any("which branch_b the file does not tell" in line for line in renamed.context)
    command = next(f.command for f in renamed.fixes if "--rename" in (f.command or ""))
    assert "Trainer.fit, which starts at epoch 2, step 8" in " ".join(relight_command(command).split())
    after = train(model_named(f"{case.name}:Model")(), tmp_path / "model.fixed.ckpt", tmp_path)
    then = train(model_named(case.before)(), file, tmp_path)
    assert after.losses == pytest.approx(then.losses, rel=1e-5)


def test_a_layer_that_took_the_number_of_another_one(corpus, tmp_path, relight_command):
    case = CASES["sequential_index_collide"]
    file, target = asked(case.name)
    (tmp_path / "model.ckpt").write_bytes(file.read_bytes())
    report = relight.check("model.ckpt", target=target, intent="resume")
    shifted = next(f for f in report.findings if f.name == "index-shifted")
    command = next(f.command for f in shifted.fixes if "--rename" in (f.command or ""))
    assert "net.2.weight: drawn anew" in relight_command(command)
    after = train(model_named(f"{case.name}:Model")(), tmp_path / "model.fixed.ckpt", tmp_path)
    then = train(model_named(case.before)(), file, tmp_path)
    moved = {"net.0": "net.0", "net.2": "net.4", "net.4": "net.6"}
    assert (after.at, len(after.states)) == ((2, 8), 6)
    for old, new in moved.items():
        for leaf in ("weight", "bias"):
            before, now = then.states[f"{old}.{leaf}"], after.states[f"{new}.{leaf}"]
            assert all(torch.equal(before[k], now[k]) for k in ("step", "exp_avg", "exp_avg_sq"))


@pytest.fixture
def relight_command(capsys):
    from command_line import CommandLine

    run = CommandLine(capsys)

    def paste(command: str) -> str:
        return run.says(*shlex.split(command)[1:])

    return paste


def test_a_folder_of_shards_as_one_file_into_a_renamed_model(corpus, tmp_path):
    """Its states are by name; the names change with those of the model, and torch's own optimizer takes them."""
    folder = corpus / "reader" / "folders" / "model_parallel_sharded"
    relight.convert(folder, "one.ckpt")
    (tmp_path / "renamed.py").write_text(
        "import models\n\n\nclass Model(models.PlainMLP):\n    def __init__(self, **how):\n        super().__init__(**how)\n"
        "        self.body = self.net\n        del self.net\n\n    def forward(self, x):\n        return self.body(x)\n"
    )
    receipt = relight.fix("one.ckpt", "copy.ckpt", target="renamed.py:Model", intent="resume")
    assert (receipt.left, receipt.verdict) == ((), "loads")
    sys.path.insert(0, str(tmp_path))
    try:
        after = train(model_named("renamed:Model")(), tmp_path / "copy.ckpt", tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["renamed"]
    then = train(model_named("models:PlainMLP")(), tmp_path / "one.ckpt", tmp_path)
    assert (after.at, after.losses) == (then.at, then.losses)


def test_a_guess_that_is_right_takes_the_states_along(corpus, tmp_path, monkeypatch):
    """The same two branches under new names, in the order of then: what is assumed is said, and holds."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "guessed.py").write_text(
        "import scenario_models\nimport torch\n\n\nclass Model(scenario_models.TwoBranch):\n    def __init__(self, **how):\n"
        "        super().__init__(**how)\n        self.branch_a, self.branch_b = self.left, self.right\n"
        "        del self.left, self.right\n\n    def forward(self, x):\n"
        "        return self.fuse(torch.cat([torch.relu(self.branch_a(x)), torch.tanh(self.branch_b(x))], 1))\n"
    )
    file, _ = asked("two_branches_reordered")
    receipt = relight.fix(file, "copy.ckpt", target="guessed.py:Model", intent="resume", allow=["guessed-names"])
    assert (receipt.left, receipt.verdict, receipt.proved) == ((), "loads", False)
    after = train(model_named("guessed:Model")(), tmp_path / "copy.ckpt", tmp_path)
    del sys.modules["guessed"]
    then = train(model_named("scenario_models:TwoBranch")(), file, tmp_path)
    assert (after.at, after.losses) == (then.at, pytest.approx(then.losses, rel=1e-5))


EQUAL = """
import pytorch_lightning as pl
import torch


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
{layers}

    def training_step(self, batch, index):
        for layer in ({used}):
            batch = torch.tanh(layer(batch))
        return batch.pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
"""


@pytest.mark.parametrize("manifest", [False, True])
def test_equal_layers_of_which_one_moved(tmp_path, monkeypatch, manifest):
    """Shapes tell nothing: the copy is in the order of the model, and nobody finds its states wrong afterwards.

    Without a manifest another layer was wrapped as well. With one, it is the manifest that tells which state is whose,
    and that must not be what was so before.
    """
    import pytorch_lightning as pl

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the file changes within a second
    monkeypatch.chdir(tmp_path)
    names = {n: n for n in ("stem", "mid", "out", "neck")} | ({} if manifest else {"out": "wrapped.out"})
    lines = {n: f"        self.{names[n]} = torch.nn.Linear(4, 4)" for n in names}
    wrapper = [] if manifest else ["        self.wrapped = torch.nn.Module()"]
    before = [line.replace("wrapped.", "") for line in lines.values()]
    after = [lines["stem"], lines["neck"], lines["mid"], *wrapper, lines["out"]]

    def model(layers, used):
        text = EQUAL.format(layers="\n".join(layers), used=", ".join(f"self.{n}" for n in used))
        Path("equal.py").write_text(text)
        monkeypatch.setitem(sys.modules, "equal", None)  # and is none when all is over
        del sys.modules["equal"]
        return model_named("equal:Model")()

    old = model(before, names)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    callbacks = [relight.CheckpointManifest()] if manifest else []
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, callbacks=callbacks, **quiet)
    trainer.fit(old, torch.utils.data.DataLoader(torch.randn(6, 4), batch_size=2))
    trainer.save_checkpoint("model.ckpt")

    new = model(after, names.values())
    receipt = relight.fix("model.ckpt", "copy.ckpt", target="equal.py:Model", intent="resume", prove="read")
    assert (receipt.left, receipt.new, receipt.verdict) == ((), (), "loads")
    copy = torch.load("copy.ckpt", weights_only=True)
    assert list(copy["state_dict"]) == list(new.state_dict())
    assert ("relight_manifest" in copy) is manifest
    new.load_state_dict(copy["state_dict"])
    optimizer = new.configure_optimizers()
    optimizer.load_state_dict(copy["optimizer_states"][0])
    then, now = trainer.optimizers[0], dict(new.named_parameters())
    for key, parameter in old.named_parameters():
        layer, leaf = key.split(".")
        other = now[f"{names[layer]}.{leaf}"]
        assert torch.equal(parameter, other)
        assert all(torch.equal(v, optimizer.state[other][k]) for k, v in then.state[parameter].items())
        assert then.state[parameter]["exp_avg_sq"].any(), "each has learnt, so that states differ"
