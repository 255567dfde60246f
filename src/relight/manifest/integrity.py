"""A digest for each tensor: a hash of a sample of its bytes, and a sum over all of them where they are not too many.

Hashing a gigabyte takes as long as writing it. The sum costs one reading at the speed of memory, which is some seven
hundredths of what saving costs, and notices every single change: it is left out for large models unless somebody wants it.
The sample notices what leaves a sum alone, as permuted rows. `relight.reader.fingerprint` says what is
sampled and does the same without torch.

One thread does not read at the speed of memory: many bytes are added up by a few of our own, by numpy, which lets go of
the interpreter meanwhile. Torch would wait for all of its threads once for each tensor, which on a busy machine costs a
hundred times as much as the sum itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Any

from relight.manifest.reasons import reason_of
from relight.reader.fingerprint import ALGORITHM, CHUNK, offsets


def integrity(state: Mapping[str, Any], torch: ModuleType, *, every_byte: bool = False) -> dict[str, Any]:
    """The digests of a state_dict; what has none is listed with the reason.

    Args:
        state: The state_dict as it is going to be saved.
        torch: The imported module.
        every_byte: Whether there are sums however large the model is.
    """
    tensors: dict[str, list[str]] = {}
    without: dict[str, str] = {}
    total = sum(v.numel() * v.element_size() for v in state.values() if isinstance(v, torch.Tensor))
    summed = every_byte or total <= _SUMMED
    with _adders(total if summed else 0) as later:
        sums = {}
        for key, value in state.items():
            if not isinstance(value, torch.Tensor):
                continue
            try:
                sums[key] = _begun(value, torch, later if summed else None)
            except Exception as error:  # sparse, quantized, sharded, on a device that cannot add: one of many
                without[key] = reason_of(error)
        for key, (parts, sample) in sums.items():
            try:
                tensors[key] = [f"{sum(part() for part in parts) & _MASK:016x}" if summed else "", sample]
            except Exception as error:
                without[key] = reason_of(error)
    return {"algorithm": ALGORITHM, "tensors": tensors, "without": without}


def fingerprint(tensor: Any, torch: ModuleType) -> list[str]:
    """Sum and sample of one tensor."""
    parts, sample = _begun(tensor, torch, _at_once)
    return [f"{sum(part() for part in parts) & _MASK:016x}", sample]


_MASK = (1 << 64) - 1
_SUMMED = 256_000_000  # bytes up to which there are sums
_MANY = 64_000_000  # bytes that are worth a thread
_PIECE = 1 << 20  # 64-bit numbers that one of them adds up at a time
_Part = Callable[[], int]
_Later = Callable[[_Part], _Part]


def _at_once(part: _Part) -> _Part:
    value = part()
    return lambda: value


@contextlib.contextmanager
def _adders(total: int) -> Iterator[_Later]:
    """What adds up: threads of our own where there is much to add and more than one core, this one otherwise."""
    count = min(4, os.cpu_count() or 1)
    if total < _MANY or count < 2:
        yield _at_once
        return
    with ThreadPoolExecutor(count, thread_name_prefix="relight") as pool:
        yield lambda part: pool.submit(part).result


def _begun(tensor: Any, torch: ModuleType, later: _Later | None) -> tuple[list[_Part], str]:
    """The summands of a tensor's sum, which may still be added up, and its sample; no summands where nobody adds up."""
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
    sums: list[_Part] = []
    if whole and later is not None:
        body = raw[:whole]
        if body.data_ptr() % 8 or body.storage_offset() % 8:
            body = body.clone()
        if body.device.type == "cpu":
            numbers = body.numpy().view("<u8")
            # A copy is not kept for later: of a model that has many, all would be there at once.
            add = later if body.data_ptr() == tensor.data_ptr() else _at_once
            sums += [add(partial(_sum, numbers[at : at + _PIECE])) for at in range(0, len(numbers), _PIECE)]
        else:
            started = body.view(torch.int64).sum()
            sums.append(lambda: int(started.item()))
    if later is not None:
        rest = int.from_bytes(bytes(raw[whole:].cpu().tolist()), "little")
        sums.append(lambda: rest)
    hashed = hashlib.sha256(f"{str(tensor.dtype)[6:]} {list(tensor.shape)}".encode())
    if raw.device.type == "cpu":
        values = memoryview(raw.numpy())
        hashed.update(b"".join(values[at : at + CHUNK] for at in offsets(count)))
    elif count:
        hashed.update(memoryview(torch.cat([raw[at : at + CHUNK] for at in offsets(count)]).cpu().numpy()))
    return sums, hashed.hexdigest()[:24]


def _sum(numbers: Any) -> int:
    return int(numbers.sum(dtype="<u8"))
