"""Writes the files of this folder with the real torch (2.13.0 wrote those that are checked in).

Run: python tests/corpus/reader/make_files.py
"""

from __future__ import annotations

import collections
import json
from pathlib import Path

import torch

HERE = Path(__file__).parent


class Tagged(torch.Tensor):
    """A subclass."""


def kinds() -> dict[str, torch.Tensor]:
    """One tensor of every kind that torch.save rebuilds in its own way."""
    torch.manual_seed(0)
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tied = torch.nn.Parameter(torch.ones(3, 2))
    tagged = torch.ones(2).as_subclass(Tagged)
    attributed = torch.ones(2)
    attributed.note = "kept"
    out = {
        "float32": base,
        "view": base[1:, ::2],
        "transposed": base.t(),
        "expanded": torch.ones(1).expand(3, 4),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "parameter": tied,
        "tied": tied,
        "subclass": tagged,
        "attributes": attributed,
        "meta": torch.zeros(2, 2, device="meta"),
        "coo": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "csc": torch.eye(3).to_sparse_csc(),
        "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
        "quantized": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.quint8),
        "per_channel": torch.quantize_per_channel(
            torch.ones(2, 2), torch.tensor([0.1, 0.2]), torch.tensor([0, 0]), 0, torch.qint8
        ),
        "complex": torch.ones(2, dtype=torch.complex64),
        "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
        "rank5": torch.zeros(1, 1, 1, 1, 2),
    }
    for name in ("bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2", "uint16", "uint64", "int8", "bool"):
        out[name] = torch.ones(3).to(getattr(torch, name))
    return out


def facts(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, object]]:
    """What torch itself says about them."""
    out: dict[str, dict[str, object]] = {}
    for key, t in tensors.items():
        strided = t.layout is torch.strided
        out[key] = {
            "dtype": str(t.dtype).removeprefix("torch."),
            "shape": list(t.shape),
            "stride": list(t.stride()) if strided else [],
            "offset": t.storage_offset() if strided else 0,
            "parameter": isinstance(t, torch.nn.Parameter),
        }
    return out


def main() -> None:
    """Write all of them."""
    tensors = kinds()
    torch.save(collections.OrderedDict(tensors), HERE / "kinds.pt")
    (HERE / "kinds.json").write_text(json.dumps(facts(tensors), indent=1) + "\n")
    dense = {k: v for k, v in tensors.items() if v.layout is torch.strided and k not in ("subclass", "uint16", "uint64")
             and not k.startswith("float8")}  # fmt: skip
    torch.save(dense, HERE / "legacy.pt", _use_new_zipfile_serialization=False)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(net, HERE / "module.pt")
    torch.save({"state_dict": net.state_dict(), "epoch": 1}, HERE / "state_dict.pt")
    torch.jit.script(torch.nn.Linear(2, 1)).save(HERE / "script.pt")
    torch.export.save(torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),)), HERE / "export.pt2")
    import torch.distributed.checkpoint as dcp

    tiny = {"state_dict": {"weight": torch.ones(2, 3), "half": torch.ones(4, dtype=torch.float16)}, "epoch": 3}
    dcp.save(tiny, checkpoint_id=HERE / "tiny.dcp", no_dist=True)


if __name__ == "__main__":
    main()
