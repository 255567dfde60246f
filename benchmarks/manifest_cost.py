"""What `CheckpointManifest` costs: time of saving a model of 1 GB, bytes of the manifest, and what it imports.

One trainer with the callback and one without save in turn; the medians are compared, and the callback's own share is
measured inside the run as well. The first save also describes source and environment, once in a run: it stands apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import lightning.pytorch as pl  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

loaded = set(sys.modules)
start = time.perf_counter()
import relight  # noqa: E402

CheckpointManifest = relight.CheckpointManifest
IMPORTED = time.perf_counter() - start

from relight.core.manifest import KEY  # noqa: E402


class Net(pl.LightningModule):
    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.act = nn.ReLU()

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return x

    def training_step(self, batch, index):
        return self(batch).sum()

    def validation_step(self, batch, index):
        self(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trained(layers: int, width: int, callbacks: list) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", callbacks=callbacks,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(torch.randn(2, width), batch_size=2)
    model = Net(layers, width)
    trainer.fit(model, data, data)
    for p in model.parameters():
        p.grad = None
    return trainer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=256)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    callback = CheckpointManifest()
    own: list[float] = []
    add = callback._add

    def timed(*arguments):
        begin = time.perf_counter()
        add(*arguments)
        own.append(time.perf_counter() - begin)

    callback._add = timed
    bare, mine = trained(args.layers, args.width, []), trained(args.layers, args.width, [callback])
    times: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory(prefix="relight-cost-") as folder:
        path = Path(folder) / "model.ckpt"
        for i in range(args.runs + 1):
            for name, trainer in (("without", bare), ("with", mine)):
                begin = time.perf_counter()
                trainer.save_checkpoint(path)
                if i:
                    times[name].append(time.perf_counter() - begin)
        size = os.path.getsize(path)
        text = torch.load(path, weights_only=True, mmap=True)[KEY]
    save = statistics.median(times["without"])
    share = statistics.median(own[1:]) / save
    quickest = min(own[1:]) / min(times["without"])
    heavy = sorted({m.partition(".")[0] for m in set(sys.modules) - loaded} - set(sys.stdlib_module_names))
    print(f"checkpoint         {size / 1e9:.2f} GB, {args.layers * 2} tensors")
    print(f"saving without     {save:.2f} s (median of {args.runs})")
    print(f"saving with        {statistics.median(times['with']):.2f} s")
    print(f"the callback's own {statistics.median(own[1:]):.3f} s, {share:.1%}; the first time {own[0]:.3f} s")
    print(f"  of the quickest  {min(own[1:]):.3f} s of {min(times['without']):.2f} s, {quickest:.1%}")
    print(f"manifest           {len(text) / 1000:.1f} KB")
    print(f"import             {IMPORTED * 1000:.0f} ms; besides the standard library: {', '.join(heavy)}")
    # On a busy machine, the quickest of several runs is the one that was disturbed least.
    return 0 if min(share, quickest) < 0.05 and len(text) < 1_000_000 else 1


if __name__ == "__main__":
    sys.exit(main())
