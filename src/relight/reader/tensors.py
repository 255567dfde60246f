"""Tensors in a tree of pickled values, as descriptions: which storage, which part of it, which shape.

A description that does not make sense is refused with a reason, never mended: what torch would do with it is torch's
business, and whoever reads the values relies on them lying within their storage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from relight.core.checkpoint import StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME, BY_STORAGE, dtype_named
from relight.core.objects import Call, Global, ListNode, ObjectPath, Persistent, SetNode, Value, mapping_pairs
from relight.reader.limits import DEFAULT_LIMITS, Limits

_WRAPPED_DEPTH = 8  # a Parameter around a subclass around a tensor; deeper is no real file
_UNTYPED = frozenset({"UntypedStorage", "_UntypedStorage", "TypedStorage", "_TypedStorage"})
_STORAGE_MODULES = frozenset({"torch", "torch.storage", "torch.cuda", "torch.xpu", "torch.hpu"})
_KEY = re.compile(r"(?!.*\.\.)[^/\\\x00-\x1f]{1,256}\Z")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a value that names a function which rebuilds tensors is no tensor that can be given out."""

    reason: str
    limit: str | None = None


class StorageClaim(NamedTuple):
    """What a persistent id says about a storage."""

    key: str
    dtype: str
    device: str
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes that it claims."""
        return self.numel * BY_NAME[self.dtype].itemsize


Read: TypeAlias = "TensorEntry | Refusal | None"
Where: TypeAlias = "tuple[str, ObjectPath]"


def storage_claim(pid: Value) -> StorageClaim | Refusal:
    """What a persistent id of torch refers to.

    The id is ``("storage", class, key, location, elements[, view])``; ``("module", ...)`` ids of files before 1.0
    carry source text and are no storages.
    """
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] not in ("storage", b"storage"):
        return Refusal("its storage is not described as torch describes one")
    kind, key, device, numel = pid[1], pid[2], pid[3], pid[4]
    if key.__class__ is bytes or device.__class__ is bytes:  # text of Python 2
        key, device = _plain(key), _plain(device)
    if not isinstance(kind, Global):
        return Refusal("the class of its storage is no name")
    dtype = BY_STORAGE.get(kind.name)
    if kind.module not in _STORAGE_MODULES or (dtype is None and kind.name not in _UNTYPED):
        return Refusal(f"torch has no storage class {kind.full_name}")
    if numel.__class__ is not int or not isinstance(numel, int) or numel < 0:
        return Refusal("the size of its storage is no count")
    if key.__class__ is int:
        key = str(key)
    if not isinstance(key, str) or _KEY.match(key) is None:
        return Refusal("the key of its storage names no record of its own")
    if device is None:
        device = "cpu"
    if not isinstance(device, str):
        return Refusal("the device of its storage is no text")
    return StorageClaim(key, "uint8" if dtype is None else dtype.name, device, numel)


def _plain(value: Value) -> Value:
    return value.decode("latin-1") if isinstance(value, bytes) else value


class TensorReader:
    """Reads tensors out of pickled values.

    Args:
        storages: Storages of the file by id.
        limits: What a tensor may claim.
        claims: What persistent ids say, by the id of their node, where that is known already.

    Attributes:
        parts: By id of the entry's key: the tensors that a sparse or quantized tensor is made of, with their roles.
    """

    def __init__(
        self,
        storages: Mapping[str, StorageEntry],
        limits: Limits = DEFAULT_LIMITS,
        claims: Mapping[int, StorageClaim] | None = None,
    ) -> None:
        self.storages = storages
        self.limits = limits
        self.claims: Mapping[int, StorageClaim] = {} if claims is None else claims
        self.parts: dict[str, tuple[str, tuple[TensorEntry, ...]]] = {}

    def read(self, value: Value, key: str, path: ObjectPath, depth: int = 0) -> Read:
        """The tensor that a value would be rebuilt to; None if it is none, a refusal if it makes no sense.

        Args:
            value: A value of the tree.
            key: Its name.
            path: Where it sits.
            depth: How many wrappers were taken off already.
        """
        if not isinstance(value, Call) or not isinstance(value.callee, Global):
            return None
        known = _REBUILD.get((value.callee.module, value.callee.name))
        if known is None:
            inner = _in_variable(value)
            return None if inner is None else self._parameter((inner,), (key, path), depth)
        least, most, function = known
        if depth > _WRAPPED_DEPTH:
            return Refusal("a tensor inside a tensor inside a tensor")
        if not least <= len(value.args) <= most or value.kwargs:
            return Refusal(f"{value.callee.name} with {len(value.args)} arguments")
        if value.has_state or value.items or value.pairs:
            return Refusal("the pickle changes the tensor after making it")
        return function(self, value.args, (key, path), depth)

    def _inner(self, value: Value, where: Where, depth: int) -> Read:
        found = self.read(value, where[0], where[1], depth + 1)
        return Refusal("what it wraps is no tensor") if found is None else found

    # ------------------------------------------------------------ plain tensors

    def _strided(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        del depth
        return self._view(args, where, None)

    def _strided_v3(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        del depth
        dtype = dtype_of(args[6])
        return Refusal("its dtype is none of torch's") if dtype is None else self._view(args, where, dtype)

    def _view(self, args: tuple[Value, ...], where: Where, dtype: str | None) -> Read:
        source = args[0]
        if not isinstance(source, Persistent):
            return Refusal("it does not lie on a storage")
        claim = self.claims.get(id(source)) or storage_claim(source.pid)
        if isinstance(claim, Refusal):
            return claim
        size, stride, offset = sizes_of(args[2]), sizes_of(args[3]), args[1]
        if size is None or stride is None:
            return Refusal("its shape or stride is no list of counts")
        if offset.__class__ is not int or not isinstance(offset, int) or offset < 0:
            return Refusal("its offset is no count")
        view = source.pid[5] if isinstance(source.pid, tuple) and len(source.pid) == 6 else None
        if view is not None:
            # Before torch 0.4, a storage could be a part of another: (key, first element, elements).
            if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
                return Refusal("its storage is no part of another that makes sense")
            assert isinstance(view[1], int)
            offset += view[1]
        if len(size) > self.limits.rank:
            return Refusal(f"it has {len(size):,} dimensions", "rank")
        storage = self.storages.get(claim.key)
        if storage is None:
            return Refusal("its storage is nowhere in the file")
        if storage.numel != claim.numel or storage.dtype != claim.dtype:
            return Refusal("two references disagree about the size or type of its storage")
        entry = TensorEntry(where[0], dtype or claim.dtype, size, stride, offset, claim.key, claim.device, where[1])
        reason = out_of_bounds(entry, storage)
        if reason is not None:
            return Refusal(reason)
        if 0 in stride or entry.numel > storage.numel:
            nbytes = entry.numel * BY_NAME[entry.dtype].itemsize
            if nbytes > storage.nbytes and nbytes > self.limits.expanded_bytes:
                return Refusal(f"it spreads {storage.nbytes:,} bytes over {nbytes:,}", "expanded_bytes")
        return entry

    # ------------------------------------------------------------ wrappers

    def _parameter(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        inner = self._inner(args[0], where, depth)
        return inner._replace(parameter=True) if isinstance(inner, TensorEntry) else inner

    def _from_type(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        """``(function, type, arguments, state)``: a subclass, or a tensor with attributes."""
        function, _, inner_args, _ = args
        if not isinstance(function, Global) or not isinstance(inner_args, tuple):
            return Refusal("the function that rebuilds it is no name")
        inner = self._inner(Call(function, inner_args, "reduce", 0), where, depth)
        if not isinstance(inner, TensorEntry):
            return inner
        return inner._replace(layout="subclass") if inner.layout == "strided" else inner

    def _from_cpu(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        inner = self._inner(args[0], where, depth)
        if not isinstance(inner, TensorEntry):
            return inner
        return inner._replace(dtype=dtype_of(args[1]) or inner.dtype, layout="numpy")

    # ------------------------------------------------------------ tensors of several parts

    def _sparse(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        """``(layout, (indices, values, size[, coalesced]))``, or ``(rows, columns, values, size)`` for CSR and kin."""
        data = args[1]
        if not isinstance(data, tuple):
            return Refusal("its parts are no tuple")
        parts = [self.read(part, where[0], where[1], depth + 1) for part in data]
        refused = next((p for p in parts if isinstance(p, Refusal)), None)
        if refused is not None:
            return refused
        tensors = tuple(p for p in parts if isinstance(p, TensorEntry))
        size = next((s for s in map(sizes_of, data) if s is not None), None)
        if size is None or len(tensors) not in (2, 3):
            return Refusal("its parts are not those of a sparse tensor")
        layout = _layout_name(args[0])
        self.parts[where[0]] = (layout, tensors)
        last = tensors[-1]
        return TensorEntry(where[0], last.dtype, size, (), 0, last.storage_id, last.device, where[1], layout="sparse")

    def _quantized(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        inner = self._view(args, where, None)
        if not isinstance(inner, TensorEntry):
            return inner
        params = args[4] if isinstance(args[4], tuple) else ()
        parts = [self.read(part, where[0], where[1], depth + 1) for part in params]
        refused = next((p for p in parts if isinstance(p, Refusal)), None)
        if refused is not None:
            return refused
        tensors = tuple(p for p in parts if isinstance(p, TensorEntry))
        if tensors:
            self.parts[where[0]] = ("quantized", tensors)
        return inner._replace(layout="quantized")

    def _nested(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        """``(buffer, sizes, strides, offsets)``: many tensors in one buffer, described by others."""
        inner = self._inner(args[0], where, depth)
        return inner._replace(layout="nested") if isinstance(inner, TensorEntry) else inner

    # ------------------------------------------------------------ tensors without a storage

    def _meta(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        del depth
        dtype, size, stride = dtype_of(args[0]), sizes_of(args[1]), sizes_of(args[2])
        if dtype is None or size is None or stride is None:
            return Refusal("its dtype or shape makes no sense")
        return TensorEntry(where[0], dtype, size, stride, 0, None, "meta", where[1], layout="meta")

    def _wrapper(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        """``(cls, dtype, size, stride, storage_offset, layout, device, requires_grad)``."""
        del depth
        dtype, size, stride = dtype_of(args[1]), sizes_of(args[2]), sizes_of(args[3])
        if dtype is None or size is None:
            return Refusal("its dtype or shape makes no sense")
        return TensorEntry(where[0], dtype, size, stride or (), 0, None, _device(args[6]), where[1], "subclass")

    def _numpy(self, args: tuple[Value, ...], where: Where, depth: int) -> Read:
        """``(array, dtype, device, requires_grad)``; the array's shape is in its state: (version, shape, dtype, ...)."""
        del depth
        array, dtype = args[0], dtype_of(args[1])
        shape = None
        if isinstance(array, Call) and isinstance(array.state, tuple) and len(array.state) >= 2:
            shape = sizes_of(array.state[1])
        if dtype is None or shape is None:
            return Refusal("its array has no shape")
        return TensorEntry(where[0], dtype, shape, (), 0, None, _device(args[2]), where[1], layout="numpy")


_Function: TypeAlias = "Callable[[TensorReader, tuple[Value, ...], Where, int], Read]"

# Functions that rebuild a tensor: how many arguments they take, at least and at most, in any torch up to 2.13.
_REBUILD: dict[tuple[str, str], tuple[int, int, _Function]] = {
    ("torch._utils", "_rebuild_tensor"): (4, 4, TensorReader._strided),
    ("torch._utils", "_rebuild_tensor_v2"): (6, 7, TensorReader._strided),
    ("torch._utils", "_rebuild_tensor_v3"): (7, 8, TensorReader._strided_v3),
    ("torch._utils", "_rebuild_parameter"): (3, 3, TensorReader._parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): (4, 4, TensorReader._parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): (4, 4, TensorReader._from_type),
    ("torch._tensor", "_rebuild_from_type"): (4, 4, TensorReader._from_type),
    ("torch._utils", "_rebuild_sparse_tensor"): (2, 2, TensorReader._sparse),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): (2, 2, TensorReader._sparse),
    ("torch._utils", "_rebuild_qtensor"): (7, 7, TensorReader._quantized),
    ("torch._utils", "_rebuild_nested_tensor"): (4, 4, TensorReader._nested),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): (4, 4, TensorReader._meta),
    ("torch._utils", "_rebuild_wrapper_subclass"): (8, 8, TensorReader._wrapper),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): (4, 4, TensorReader._numpy),
    ("torch._utils", "_rebuild_xla_tensor"): (4, 4, TensorReader._numpy),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): (4, 4, TensorReader._from_cpu),
}
REBUILD_NAMES = frozenset(f"{module}.{name}" for module, name in _REBUILD)


def rebuilds_tensor(value: Value) -> bool:
    """Whether a value names a function that rebuilds tensors."""
    return (
        isinstance(value, Call)
        and isinstance(value.callee, Global)
        and ((value.callee.module, value.callee.name) in _REBUILD or _in_variable(value) is not None)
    )


# How torch 0.1 to 0.3 pickled a Parameter: the class called with its tensor, or empty with the tensor in its state.
_VARIABLES = frozenset({("torch.nn.parameter", "Parameter"), ("torch.autograd.variable", "Variable")})


def _in_variable(value: Call) -> Value | None:
    """The tensor in a Parameter or Variable of torch before 0.4.

    Source: ``Tensor.__setstate__`` in ``torch/_tensor.py`` of torch 2.13, which reads a state of five parts as (tensor,
    gradient, hooks, requires_grad, volatile) and one of three as (requires_grad, volatile, hooks).
    """
    if not isinstance(value.callee, Global) or (value.callee.module, value.callee.name) not in _VARIABLES:
        return None
    state = value.state
    if isinstance(state, tuple) and len(state) == 5:
        return state[0]
    return value.args[0] if value.args else None


def is_variable(value: Call) -> bool:
    """Whether a call makes a Parameter as torch before 0.4 did: those carry a state."""
    return _in_variable(value) is not None


def _layout_name(value: Value) -> str:
    if isinstance(value, Call) and value.args and isinstance(value.args[0], str):
        return value.args[0].removeprefix("torch.")
    return value.name if isinstance(value, Global) else "sparse_coo"


def _device(value: Value) -> str:
    if isinstance(value, Call) and value.name == "torch.device":
        return ":".join(str(a) for a in value.args if isinstance(a, (str, int)))
    return value if isinstance(value, str) else "cpu"


def dtype_of(value: Value) -> str | None:
    """Name of the element type that a global of torch stands for; None for anything else."""
    if isinstance(value, Global) and value.module == "torch":
        found = dtype_named(value.name)
        return None if found is None else found.name
    return None


def sizes_of(value: Value) -> tuple[int, ...] | None:
    """A size or stride: a tuple, a list, or a torch.Size around one."""
    if isinstance(value, ListNode):
        value = tuple(value.items)
    elif isinstance(value, Call) and value.name == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if value.__class__ is not tuple:
        return None
    sizes: tuple[Any, ...] = value
    for size in sizes:
        if size.__class__ is not int or size < 0:
            return None
    return sizes


def tensors_of(
    value: Value, path: ObjectPath, reader: TensorReader, limit: int
) -> tuple[list[TensorEntry], dict[str, Refusal], list[str]]:
    """Tensors of a state_dict, refused ones, and keys that hold something else; a later pair wins over an equal key."""
    found: dict[str, Read] = {}
    read = reader.read
    for key, item in mapping_pairs(value) or ():
        if isinstance(key, bytes):
            key = key.decode("utf-8", "replace")
        if isinstance(key, str):
            found[key] = read(item, key, path / key)
            if len(found) > limit:
                break
    tensors = [t for t in found.values() if isinstance(t, TensorEntry)]
    refused = {k: t for k, t in found.items() if isinstance(t, Refusal)}
    return tensors, refused, [k for k, t in found.items() if t is None]


def module_tensors(root: Call, reader: TensorReader, limit: int) -> Iterator[tuple[str, TensorEntry | Refusal]]:
    """Tensors of a whole pickled nn.Module, under the names that its state_dict would have."""
    stack: list[tuple[str, ObjectPath, Value]] = [("", ObjectPath(), root)]
    seen: set[int] = set()
    while stack and limit > 0:
        prefix, path, module = stack.pop()
        if not isinstance(module, Call) or id(module) in seen:
            continue
        seen.add(id(module))
        state = {k: v for k, v in mapping_pairs(module.state) or () if isinstance(k, str)}
        skipped = _strings(state.get("_non_persistent_buffers_set"))
        for part in ("_parameters", "_buffers"):
            for key, value in mapping_pairs(state.get(part)) or ():
                if isinstance(key, str) and key not in skipped:
                    tensor = reader.read(value, prefix + key, path / f".{part}" / key)
                    if tensor is not None:
                        limit -= 1
                        yield prefix + key, tensor
        children = [(k, v) for k, v in mapping_pairs(state.get("_modules")) or () if isinstance(k, str)]
        for key, value in reversed(children):
            stack.append((f"{prefix}{key}.", path / "._modules" / key, value))


def _strings(value: Value) -> set[str]:
    items: list[Value] = value.items if isinstance(value, (ListNode, SetNode)) else []
    if isinstance(value, Call) and value.args and isinstance(value.args[0], ListNode):
        items = value.args[0].items
    return {i for i in items if isinstance(i, str)}


def out_of_bounds(t: TensorEntry, storage: StorageEntry) -> str | None:
    """Why a tensor cannot lie in its storage; None if it can. Plain integers: nothing overflows."""
    shape, stride = t.shape, t.stride
    if len(stride) != len(shape):
        return f"it has {len(shape)} sizes and {len(stride)} strides"
    itemsize = BY_NAME[t.dtype].itemsize if t.dtype in BY_NAME else 1
    last = t.offset
    for n, s in zip(shape, stride, strict=True):
        if n == 0:
            return None
        last += (n - 1) * s
    if (last + 1) * itemsize > storage.nbytes:
        return f"it ends at byte {(last + 1) * itemsize:,} of a storage of {storage.nbytes:,}"
    return None
