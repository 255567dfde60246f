"""Copy what the reader's tests use out of the full corpus: ``python copy_from_corpus.py CORPUS CROSSWALK``.

Files are copied as they are. ``expected.json`` keeps of each record the names in the pickle and every tensor;
``broken.json`` of each broken file what the right answers about it are; ``folders.json`` of each folder what the framework
that wrote it makes of its weights.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
CHECKPOINTS = (
    "E07/bf16", "E10/plain", "E13/plain", "E26/quantized", "E26/sparse", "E26/many_dtypes", "E26/shared_storage",
    "E26/cuda_tagged", "E26/raw_state_dict", "E26/extra_state", "E26L/xla_numpy",
)  # fmt: skip
BROKEN = (
    "deflated_zip.ckpt", "encrypted_zip.ckpt", "flipped_data_pkl.ckpt", "flipped_eocd.ckpt", "full_nn_pickle.pt",
    "gguf_like.ckpt", "git_lfs_pointer.ckpt", "gzip_wrapped.ckpt", "hdf5_like.ckpt", "html_page.ckpt",
    "json_error.ckpt", "leading_garbage.ckpt", "missing_data_pkl.ckpt", "safetensors_as.ckpt", "short_record.ckpt",
    "torch_export.pt2.ckpt", "torchscript.ckpt", "trailing_garbage.ckpt", "truncated_25.ckpt", "truncated_50.ckpt",
    "truncated_last1.ckpt", "xml_s3_error.ckpt", "zipped_once_more.ckpt",
)  # fmt: skip
FOLDERS = ("E22/deepspeed_zero2.ckpt", "E22/deepspeed_zero2_bf16.ckpt", "E22/deepspeed_zero3.ckpt",
           "E22/dcp_lightning_state.dcp", "E26/model_parallel_sharded.ckpt")  # fmt: skip
ANSWERS = ("accept", "verdict", "verdict_resume", "safety", "safety_accept", "recoverable", "recoverable_accept",
           "empty_is_right", "shows_in")  # fmt: skip


def main() -> None:
    corpus = Path(sys.argv[1])
    expected = {}
    for name in CHECKPOINTS:
        source = corpus / "checkpoints" / f"{name}.ckpt"
        short = name.replace("/", "-") + ".ckpt"
        shutil.copyfile(source, HERE / "checkpoints" / short)
        whole = json.loads(Path(f"{source}.json").read_text())
        expected[short] = {k: whole[k] for k in ("container", "pickle_globals", "state_dict", "storage_locations")}
    truths = json.loads((HERE / "folders.json").read_text())  # those of folders/make_layouts.py stay
    for name in FOLDERS:
        source = corpus / "checkpoints" / name
        shutil.copytree(
            source, HERE / "folders" / source.stem, ignore=shutil.ignore_patterns("*.py"), dirs_exist_ok=True
        )
        truth = source.with_name(f"{source.stem}.truth.json")
        whole = json.loads((truth if truth.exists() else Path(f"{source}.json")).read_text())
        truths[source.stem] = whole.get("full_state_dict") or whole["consolidated_state_dict"]
    (HERE / "folders.json").write_text(json.dumps(truths, separators=(",", ":"), sort_keys=True) + "\n")
    for name in BROKEN:
        shutil.copyfile(corpus / "broken" / name, HERE / "broken" / name)
    known = json.loads(Path(sys.argv[2]).read_text())["broken"]
    answers = {name: {k: v for k, v in known[name].items() if k in ANSWERS} for name in sorted(BROKEN)}
    (HERE / "broken.json").write_text(json.dumps(answers, indent=1) + "\n")
    (HERE / "expected.json").write_text(json.dumps(expected, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
