"""A digest for each tensor: a sum over all of its bytes, and a hash of a sample of them.

Hashing a gigabyte takes as long as writing it. The sum costs one reading at the speed of memory and notices every
single change; the sample notices what leaves a sum alone, as permuted rows. `relight.reader.fingerprint` says what is
sampled and does the same without torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from relight.manifest.reasons import reason_of
from relight.reader.fingerprint import ALGORITHM, CHUNK, offsets


def integrity(state: Mapping[str, Any], torch: ModuleType) -> dict[str, Any]:
    """The digests of a state_dict; what has none is listed with the reason.

    Args:
        state: The state_dict as it is going to be saved.
        torch: The imported module.
    """
    tensors: dict[str, list[str]] = {}
    without: dict[str, str] = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            continue
        try:
            tensors[key] = fingerprint(value, torch)
        except Exception as error:  # sparse, quantized, sharded, on a device that cannot add: one of many
            without[key] = reason_of(error)
    return {"algorithm": ALGORITHM, "tensors": tensors, "without": without}


def fingerprint(tensor: Any, torch: ModuleType) -> list[str]:
    """Sum and sample of one tensor."""
    tensor = tensor.detach()
    if (
        tensor.layout is not torch.strided
        or tensor.is_quantized
        or type(tensor) not in (torch.Tensor, torch.nn.Parameter)
    ):
        raise TypeError("not a plain tensor")
    if tensor.device.type == "meta":
        raise TypeError("without values")
    flat = tensor.contiguous().reshape(-1)
    if tensor.dtype is torch.bool:
        flat = flat.to(torch.uint8)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    count = flat.numel() * flat.element_size()
    raw = flat.view(torch.uint8) if count else flat.new_empty(0, dtype=torch.uint8)
    whole = count // 8 * 8
    total = 0
    if whole:
        body = raw[:whole]
        if body.data_ptr() % 8 or body.storage_offset() % 8:
            body = body.clone()
        if body.device.type == "cpu":
            # By numpy, in this thread: torch would wait for all of its threads once for each tensor, which on a busy
            # machine costs a hundred times as much as the sum itself.
            total = int(body.numpy().view("<u8").sum(dtype="<u8"))
        else:
            total = int(body.view(torch.int64).sum().item())
    tail = bytes(raw[whole:].cpu().tolist())
    total += int.from_bytes(tail, "little")
    parts = [raw[o : o + CHUNK] for o in offsets(count)]
    sample = torch.cat(parts).cpu() if parts else raw
    hashed = hashlib.sha256(f"{str(tensor.dtype)[6:]} {list(tensor.shape)}".encode())
    hashed.update(memoryview(sample.numpy()))
    return [f"{total & (1 << 64) - 1:016x}", hashed.hexdigest()[:24]]
