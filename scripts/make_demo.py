"""Make the demo's files with the real libraries: checkpoints by Lightning, specs by ``relight spec``.

Run it in the development environment: ``python scripts/make_demo.py`` writes everything, ``--specs`` only the specs.
``classic.ckpt`` cannot be made here: Lightning 0.7.6 with torch 1.4 on Python 3.7 wrote it (``requirements: pip
install torch==1.4.0 pytorch-lightning==0.7.6``), two epochs of ``Classic`` on random numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "src" / "relight" / "cli" / "demo_files"
SPECS = {"trained": "Trained", "renamed": "Renamed", "grown": "Grown", "classic": "Classic", "injected": "Injected"}
LIBRARIES = ("torch", "lightning", "pytorch-lightning", "numpy")


def make_checkpoints() -> None:
    """Train for two epochs on random numbers and save, five ways."""
    import pytorch_lightning as pl
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    sys.path.insert(0, str(FOLDER))
    import models

    def train(model: pl.LightningModule) -> pl.Trainer:
        pl.seed_everything(1)
        data = TensorDataset(torch.randn(16, 4), torch.randint(0, 3, (16,)))
        trainer = pl.Trainer(
            max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(model, DataLoader(data, batch_size=4))
        return trainer

    pl.seed_everything(1)
    trained = models.Trained()
    trainer = train(trained)
    trainer.save_checkpoint(FOLDER / "trained.ckpt")
    whole = (FOLDER / "trained.ckpt").read_bytes()
    (FOLDER / "download.ckpt").write_bytes(whole[: len(whole) * 6 // 10])

    # A training on a CPU whose storages are tagged as on a GPU, by torch's own hook for that. Adam's step count stays
    # on the CPU, as it does on a real GPU.
    steps = {s["step"].data_ptr() for s in trainer.optimizers[0].state.values()}
    location_tag = torch.serialization.location_tag
    torch.serialization.location_tag = lambda s: "cpu" if s.data_ptr() in steps else "cuda:0"
    try:
        trainer.save_checkpoint(FOLDER / "gpu.ckpt")
    finally:
        torch.serialization.location_tag = location_tag

    # A layer of a project module that is not there any more when the file is loaded.
    gone = types.ModuleType("my_custom_module")

    class MyCustomLayer(nn.Module):
        def __init__(self, width: int = 8) -> None:
            super().__init__()
            self.proj = nn.Linear(4, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.proj(x)

    MyCustomLayer.__module__ = "my_custom_module"
    MyCustomLayer.__qualname__ = "MyCustomLayer"
    gone.MyCustomLayer = MyCustomLayer  # type: ignore[attr-defined]
    sys.modules["my_custom_module"] = gone
    train(models.Injected(MyCustomLayer())).save_checkpoint(FOLDER / "injected.ckpt")


def make_specs() -> dict[str, str]:
    """The specs as text, by file name. The environment is that of the development extra on a machine without a GPU."""
    from relight import api

    out = {}
    before = Path.cwd()
    os.chdir(FOLDER)
    try:
        for name, class_name in SPECS.items():
            spec = api.spec(f"models.py:{class_name}")
            assert spec.environment is not None
            environment = replace(
                spec.environment,
                python="3.11.7",
                platform="linux",
                packages={n: v for n, v in spec.environment.packages.items() if n in LIBRARIES},
                cuda_devices=0,
                mps=False,
                memory=None,
                search_path=(),
                modules=frozenset({"torch", "lightning", "pytorch_lightning", "numpy", "models"}),
            )
            text = json.dumps(replace(spec, environment=environment).to_dict(), indent=1) + "\n"
            out[f"{name}.spec.json"] = text
    finally:
        os.chdir(before)
    return out


def main() -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specs", action="store_true", help="only the specs")
    args = parser.parse_args()
    if not args.specs:
        warnings.simplefilter("ignore")
        make_checkpoints()
    for name, text in make_specs().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
