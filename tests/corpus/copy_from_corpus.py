"""Copy what the tests use out of the full corpus: ``python copy_from_corpus.py CORPUS KNOWLEDGE``.

Files and sources are copied as they are; records are shortened to what a test reads.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
LOADER = "E26"
CALLS = ("load_from_checkpoint", "load_from_checkpoint_weights_only_False")
PRODUCERS = ("E09", "E10", "E13", "E15", "E18", "E20", "E22", "E25", "E26")
KINDS = ("plain", "conv", "full", "weights_only", "rich_hparams", "custom_module")
RESUMED = ("E07/full", "E10/mid_epoch", "E18/gan", "E20/modelcheckpoint_file", "E26/gan")
MATRIX_CALLS = (*CALLS, "torch_load", "torch_load_weights_only_True", "torch_load_weights_only_False")


def main() -> None:
    corpus, knowledge = Path(sys.argv[1]), Path(sys.argv[2])

    def copy(name: str) -> None:
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(corpus / name, HERE / name)

    def dump(name: str, data: object) -> None:
        (HERE / name).write_text(json.dumps(data, separators=(",", ":"), ensure_ascii=True) + "\n", encoding="utf-8")

    crosswalk = json.loads((knowledge / "crosswalk.json").read_text())["scenarios"]
    scenarios = {}
    for file in sorted((corpus / "scenarios").glob("*.json")):
        whole = json.loads(file.read_text())
        name = whole["name"]
        actual = next(v for k, v in whole["actual"].items() if f"loader {LOADER} " in k)
        copy(f"scenarios/{name}.py")
        copy(whole["checkpoint"])
        scenarios[name] = {
            "checkpoint": whole["checkpoint"],
            "load_kwargs": whole.get("load_kwargs", {}),
            "custom_module_replaced_by": whole.get("custom_module_replaced_by"),
            "key_map": whole.get("key_map", {}),
            "after_fix_load": actual.get("after_fix_load"),
            **{k: crosswalk[name][k] for k in ("accept", "verdict", "shows_in")},
            "actual": {
                call: {k: actual[call][k] for k in ("ok", "exception", "message") if k in actual[call]}
                for call in CALLS
                if call in actual
            },
        }
    dump("scenarios.json", scenarios)
    for source in ("models.py", "my_custom_module.py", "scenario_models.py", "_data07.py"):
        copy(f"sources/{source}")

    cells = json.loads((corpus / "matrix.json").read_text())["cells"][LOADER]
    matrix = {}
    for producer in PRODUCERS:
        for kind in KINDS:
            name = f"checkpoints/{producer}/{kind}.ckpt"
            copy(name)
            whole = json.loads((corpus / f"{name}.json").read_text())
            keep = ("producer", "container", "pickle_globals", "state_dict", "storage_locations", "model")
            dump(f"{name}.json", {k: whole[k] for k in keep})
            for call in MATRIX_CALLS:
                cell = cells.get(f"{producer}/{kind}/{call}")
                if cell is not None:
                    matrix[f"{producer}/{kind}/{call}"] = {
                        k: cell[k] for k in ("ok", "exception", "message") if k in cell
                    }
    dump("matrix.json", matrix)
    for name in RESUMED:
        copy(f"checkpoints/{name}.ckpt")
        copy(f"checkpoints/{name}.ckpt.json")

    known = json.loads((knowledge / "failures.json").read_text())
    of_files = sorted(k["id"] for k in known if k["family"] in ("file/format", "storage/IO"))
    (HERE / "causes_of_files.json").write_text(json.dumps(of_files, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
