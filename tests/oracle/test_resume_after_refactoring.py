"""Models that were refactored resume from the copy that ``relight fix`` writes, and learn as those of then would have.

For each of ten more steps the loss is that of the unrefactored model, resumed from the file as it was: so every moment
belongs to its parameter. Where the function is another one, only the start is compared.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import relight

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("pytorch_lightning")  # as the models of the corpus do
CORPUS = Path(__file__).parents[1] / "corpus"
SCENARIOS = json.loads((CORPUS / "scenarios.json").read_text())
EVERY = os.environ.get("RELIGHT_RESUME") == "all"  # as make oracle sets it: each takes some seconds
# Scenario, the model that wrote the file, what has to be allowed, and whether the function is still the same.
CASES = [
    ("qkv_fused", "scenario_models:AttnNet", (), True),
    ("param_order_changed_shapes", "models:FullModel", (), True),
    ("buffer_became_parameter", None, (), False),
]
MORE = [
    ("layer_renamed", "models:ConvNet", (), True),
    ("several_renames", "models:ConvNet", ("guessed-names",), True),
    ("same_shape_rename_ambiguous", "scenario_models:AttnNet", (), True),
    ("param_frozen", None, (), False),
]
CASES += MORE if EVERY else []


class Begun:
    """What a resumed training began with, and the losses of its steps."""

    def __init__(self):
        self.at = None
        self.states = {}
        self.losses = []


def import_by_name(name):
    __import__(name)
    return sys.modules[name]


def train(model, path, folder):
    begun = Begun()
    steps = torch.load(path, weights_only=True)["global_step"] + 10

    class Watch(lightning.Callback):
        def on_train_start(self, trainer, module):
            begun.at = (trainer.current_epoch, trainer.global_step)
            names = {p: n for n, p in module.named_parameters()}
            states = trainer.optimizers[0].state
            begun.states = {names[p]: {k: torch.as_tensor(v).clone() for k, v in s.items()} for p, s in states.items()}

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            begun.losses.append(float(outputs["loss"]))

    trainer = lightning.Trainer(
        max_epochs=-1, max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Watch()],
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, default_root_dir=str(folder),
    )  # fmt: skip
    trainer.fit(model, ckpt_path=str(path))
    return begun


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "before", "allow", "same"), CASES, ids=[c[0] for c in CASES])
def test_a_resume(name, before, allow, same, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(CORPUS / "sources"))
    monkeypatch.syspath_prepend(str(CORPUS / "scenarios"))
    monkeypatch.setenv("PYTHONPATH", str(CORPUS / "sources"))
    monkeypatch.chdir(tmp_path)
    known, threads = set(sys.modules), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        file, copy = CORPUS / SCENARIOS[name]["checkpoint"], tmp_path / "copy.ckpt"
        target = f"{CORPUS / 'scenarios' / name}.py:Model"
        receipt = relight.fix(file, copy, target=target, intent="resume", allow=allow)
        assert (receipt.left, receipt.verdict) == ((), "loads")
        assert "really resumed" in [what for what, ok, _ in receipt.checks if ok]
        after = train(import_by_name(name).Model(), copy, tmp_path)
        assert after.at == (2, 4 if before == "models:ConvNet" else 8)  # of two batches an epoch, or four
        assert len(after.losses) == 10
        if not same:
            return
        module, _, cls = before.partition(":")
        model = getattr(import_by_name(module), cls)()
        if name == "param_order_changed_shapes":  # without the scheduler, which the scenario has not either
            model.configure_optimizers = lambda: torch.optim.Adam(model.parameters(), lr=0.01)
        then = train(model, file, tmp_path)
        assert after.losses == pytest.approx(then.losses, rel=1e-5)
    finally:
        torch.set_num_threads(threads)
        for module in set(sys.modules) - known:
            if (getattr(sys.modules[module], "__file__", None) or "").startswith(str(CORPUS)):
                del sys.modules[module]
