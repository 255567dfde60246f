"""Manifests that one Lightning writes, read by another: ``python check_manifests.py``, with the Python of each.

Trains the model of ``tests/corpus/manifests`` for an epoch with `relight.CheckpointManifest`, then asks about that file and
about those of the folder, which other versions wrote: into the same model, which has to answer as it did, and into one
with another activation, which has to be named. ``--write FOLDER`` keeps the new file. Exits with 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "tests" / "corpus" / "manifests"


def trained(path: str) -> str:
    """Train the model of this folder, save it with a manifest, and say which Lightning did."""
    import nets
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    import relight

    torch.manual_seed(0)
    x = torch.randn(32, 3)
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)
    trainer = nets.pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, callbacks=[relight.CheckpointManifest()],
    )  # fmt: skip
    trainer.fit(nets.Net(), data, data)
    trainer.save_checkpoint(path)
    return f"{nets.pl.__version__} (torch {torch.__version__})"


def wrong(path: str) -> list[str]:
    """What is not as it should be about one file."""
    import relight
    from relight.facts.manifest import manifest_of
    from relight.reader import open_checkpoint

    out = []
    manifest = manifest_of(open_checkpoint(path))
    if manifest is None or manifest.omitted:
        return [f"parts are missing: {manifest and manifest.omitted}"]
    same = relight.check(path, target="nets.py:Net", prove=True)
    if same.verdict.value != "loads" or same.findings:
        out.append(f"the same model: {same.verdict.value}, {[(f.name, f.message) for f in same.findings]}")
    if not any("it answers as it did" in note for note in same.notes):
        out.append(f"the same model was not asked again: {same.notes}")
    other = relight.check(path, target="changed.py:Net", prove=True)
    if [f.name for f in other.findings] != ["activation-changed"] or other.verdict.value != "loads-wrong":
        out.append(f"another activation: {other.verdict.value}, {[f.name for f in other.findings]}")
    return out


def main() -> int:
    """Write one, read all, print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", metavar="FOLDER", help="keep the file that this Lightning writes")
    args = parser.parse_args()
    keep = args.write and os.path.abspath(args.write)
    warnings.simplefilter("ignore")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="relight-manifests-") as folder:
        source = (FOLDER / "nets.py").read_text(encoding="utf-8")
        Path(folder, "nets.py").write_text(source, encoding="utf-8")
        Path(folder, "changed.py").write_text(source.replace("nn.ReLU()", "nn.GELU()"), encoding="utf-8")
        os.chdir(folder)
        sys.path.insert(0, folder)
        sys.argv = ["train.py"]
        version = trained("here.ckpt")
        if keep:
            name = f"lightning-{'.'.join(version.split('.')[:2])}.ckpt"
            os.makedirs(keep, exist_ok=True)
            shutil.copyfile("here.ckpt", os.path.join(keep, name))
        print(f"written and read by Lightning {version}")
        for path in ("here.ckpt", *sorted(map(str, FOLDER.glob("*.ckpt")))):
            problems = wrong(path)
            failed += bool(problems)
            print(
                f"  {os.path.basename(path)}: {'; '.join(problems) if problems else 'as it was, and the change is named'}"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
