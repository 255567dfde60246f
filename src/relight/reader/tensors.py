"""Tensors in a tree of pickled values, as descriptions: which storage, which part of it, which shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relight.core.checkpoint import StorageEntry, TensorEntry
from relight.core.dtypes import BY_NAME, BY_STORAGE, dtype_named
from relight.core.objects import Call, Global, ListNode, ObjectPath, Persistent, Value, mapping_pairs

# The functions that rebuild a tensor from a storage, and how their arguments begin.
_STRIDED = frozenset(
    {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
)
_PARAMETER = frozenset({"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"})
_FROM_TYPE = frozenset({"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"})
_SPARSE = "torch._utils._rebuild_sparse_tensor"
_SPARSE_ROWS = "torch._utils._rebuild_sparse_csr_tensor"
_QUANTIZED = "torch._utils._rebuild_qtensor"
_META = "torch._utils._rebuild_meta_tensor_no_storage"
_WRAPPER = "torch._utils._rebuild_wrapper_subclass"
_FROM_NUMPY = frozenset({"torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_xla_tensor"})
_FROM_CPU = "torch._utils._rebuild_device_tensor_from_cpu_tensor"

_WRAPPED_DEPTH = 8  # a Parameter around a subclass around a tensor; deeper is no real file


def storage_of(pid: Value) -> tuple[str, str, str, int] | None:
    """(id, dtype name, device, elements) of a persistent id of torch; None for any other.

    The id is ``("storage", class, key, location, elements[, view])``; ``("module", ...)`` ids of files before 1.0
    carry source text and are no storages.
    """
    if not isinstance(pid, tuple) or len(pid) < 5 or _plain(pid[0]) != "storage":
        return None
    kind, key, location, numel = pid[1], _plain(pid[2]), _plain(pid[3]), pid[4]
    if not isinstance(kind, Global) or not isinstance(numel, int) or isinstance(numel, bool) or numel < 0:
        return None
    dtype = BY_STORAGE.get(kind.name.rpartition(".")[2])
    name = "uint8" if dtype is None else dtype.name
    if isinstance(key, int):
        key = str(key)
    if not isinstance(key, str) or not isinstance(location, str):
        return None
    # torch.cuda.FloatStorage of old files: the location says where as well.
    return key, name, location, numel


def _plain(value: Value) -> Value:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def as_tensor(
    value: Value, key: str, path: ObjectPath, storages: Mapping[str, StorageEntry], depth: int = 0
) -> TensorEntry | None:
    """The tensor that a value would be rebuilt to; None if it is none.

    Args:
        value: A value of the tree.
        key: Its name.
        path: Where it sits.
        storages: Storages by id.
        depth: How many wrappers were taken off already.
    """
    if not isinstance(value, Call) or depth > _WRAPPED_DEPTH:
        return None
    name, args = value.name, value.args
    if name in _STRIDED:
        return _strided(args, key, path, storages, name.endswith("_v3"))
    if name in _PARAMETER and args:
        inner = as_tensor(args[0], key, path, storages, depth + 1)
        return None if inner is None else _changed(inner, parameter=True)
    if name in _FROM_TYPE and len(args) >= 3 and isinstance(args[0], Global) and isinstance(args[2], tuple):
        inner = as_tensor(Call(args[0], args[2], "reduce", value.position), key, path, storages, depth + 1)
        return (
            None if inner is None else _changed(inner, layout="subclass" if inner.layout == "strided" else inner.layout)
        )
    if name in (_SPARSE, _SPARSE_ROWS) and len(args) >= 2:
        return _sparse(args, key, path, storages, depth)
    if name == _QUANTIZED and len(args) >= 4:
        inner = _strided(args, key, path, storages, False)
        return None if inner is None else _changed(inner, layout="quantized")
    if name == _META and len(args) >= 3:
        dtype, size = _dtype(args[0]), _sizes(args[1])
        if dtype is not None and size is not None:
            return TensorEntry(key, dtype, size, _sizes(args[2]) or (), 0, None, "meta", path, layout="meta")
    if name == _WRAPPER and len(args) >= 3:
        return _wrapper(args, key, path)
    if name in _FROM_NUMPY and len(args) >= 3:
        return _from_numpy(args, key, path)
    if name == _FROM_CPU and len(args) >= 3:
        inner = as_tensor(args[0], key, path, storages, depth + 1)
        return None if inner is None else _changed(inner, dtype=_dtype(args[1]) or inner.dtype, layout="numpy")
    return None


def _changed(t: TensorEntry, *, parameter: bool | None = None, layout: str | None = None, dtype: str | None = None) -> TensorEntry:  # fmt: skip
    return TensorEntry(
        t.key,
        dtype or t.dtype,
        t.shape,
        t.stride,
        t.offset,
        t.storage_id,
        t.device,
        t.path,
        layout or t.layout,
        t.parameter if parameter is None else parameter,
    )


def _strided(
    args: tuple[Value, ...], key: str, path: ObjectPath, storages: Mapping[str, StorageEntry], typed: bool
) -> TensorEntry | None:
    if len(args) < 4 or not isinstance(args[0], Persistent):
        return None
    pid = storage_of(args[0].pid)
    size, stride, offset = _sizes(args[2]), _sizes(args[3]), args[1]
    if pid is None or size is None or stride is None or not isinstance(offset, int) or isinstance(offset, bool):
        return None
    storage = storages.get(pid[0])
    dtype = pid[1]
    if typed:
        dtype = next((d for d in (_dtype(a) for a in args[4:]) if d is not None), dtype)
    return TensorEntry(key, dtype, size, stride, offset, pid[0], pid[2] if storage is None else storage.device, path)


def _sparse(
    args: tuple[Value, ...], key: str, path: ObjectPath, storages: Mapping[str, StorageEntry], depth: int
) -> TensorEntry | None:
    data = args[1]
    if not isinstance(data, tuple):
        return None
    size = next((s for s in (_sizes(part) for part in data) if s is not None), None)
    values = [t for t in (as_tensor(part, key, path, storages, depth + 1) for part in data) if t is not None]
    if size is None or not values:
        return None
    last = values[-1]
    return TensorEntry(key, last.dtype, size, (), 0, last.storage_id, last.device, path, layout="sparse")


def _wrapper(args: tuple[Value, ...], key: str, path: ObjectPath) -> TensorEntry | None:
    """``(cls, dtype, size, stride, storage_offset, layout, device, requires_grad)``."""
    dtype, size = _dtype(args[1]), _sizes(args[2])
    if dtype is None or size is None:
        return None
    device = _device(args[6]) if len(args) > 6 else "cpu"
    return TensorEntry(
        key, dtype, size, (_sizes(args[3]) or ()) if len(args) > 3 else (), 0, None, device, path, "subclass"
    )


def _from_numpy(args: tuple[Value, ...], key: str, path: ObjectPath) -> TensorEntry | None:
    """``(array, dtype, device, requires_grad)``; the array's shape is in its state: (version, shape, dtype, ...)."""
    array, dtype = args[0], _dtype(args[1])
    shape = None
    if isinstance(array, Call) and isinstance(array.state, tuple) and len(array.state) >= 2:
        shape = _sizes(array.state[1])
    if dtype is None or shape is None:
        return None
    return TensorEntry(key, dtype, shape, (), 0, None, _device(args[2]), path, layout="numpy")


def _device(value: Value) -> str:
    if isinstance(value, Call) and value.name == "torch.device":
        return ":".join(str(a) for a in value.args if isinstance(a, (str, int)))
    return value if isinstance(value, str) else "cpu"


def _dtype(value: Value) -> str | None:
    if isinstance(value, Global) and value.module == "torch":
        found = dtype_named(value.name)
        return None if found is None else found.name
    return None


def _sizes(value: Value) -> tuple[int, ...] | None:
    """A size or stride: a tuple, a list, or a torch.Size around one."""
    if isinstance(value, Call) and value.name == "torch.Size" and value.args:
        value = value.args[0]
    items = value.items if isinstance(value, ListNode) else value if isinstance(value, tuple) else None
    if items is None or len(items) > 64:
        return None
    out = tuple(i for i in items if isinstance(i, int) and not isinstance(i, bool) and i >= 0)
    return out if len(out) == len(items) else None


def tensors_of(
    value: Value, path: ObjectPath, storages: Mapping[str, StorageEntry], limit: int
) -> tuple[list[TensorEntry], list[str]]:
    """Tensors of a state_dict, and its keys that hold something else; a later pair wins over an equal key."""
    found: dict[str, TensorEntry | None] = {}
    for key, item in mapping_pairs(value) or ():
        if isinstance(key, bytes):
            key = key.decode("utf-8", "replace")
        if isinstance(key, str):
            found[key] = as_tensor(item, key, path / key, storages)
        if len(found) > limit:
            break
    return [t for t in found.values() if t is not None], [k for k, t in found.items() if t is None]


def module_tensors(root: Call, storages: Mapping[str, StorageEntry], limit: int) -> Iterator[TensorEntry]:
    """Tensors of a whole pickled nn.Module, under the names that its state_dict would have."""
    stack: list[tuple[str, ObjectPath, Value]] = [("", ObjectPath(), root)]
    seen: set[int] = set()
    while stack and limit > 0:
        prefix, path, module = stack.pop()
        if not isinstance(module, Call) or id(module) in seen:
            continue
        seen.add(id(module))
        state = dict((k, v) for k, v in mapping_pairs(module.state) or () if isinstance(k, str))
        skipped = _strings(state.get("_non_persistent_buffers_set"))
        for part in ("_parameters", "_buffers"):
            for key, value in mapping_pairs(state.get(part)) or ():
                if isinstance(key, str) and key not in skipped:
                    tensor = as_tensor(value, prefix + key, path / f".{part}" / key, storages)
                    if tensor is not None:
                        limit -= 1
                        yield tensor
        children = [(k, v) for k, v in mapping_pairs(state.get("_modules")) or () if isinstance(k, str)]
        for key, value in reversed(children):
            stack.append((f"{prefix}{key}.", path / "._modules" / key, value))


def _strings(value: Value) -> set[str]:
    items = getattr(value, "items", None)
    if isinstance(value, Call) and value.args and isinstance(value.args[0], ListNode):
        items = value.args[0].items
    return {i for i in items if isinstance(i, str)} if isinstance(items, list) else set()


def out_of_bounds(t: TensorEntry, storage: StorageEntry) -> str | None:
    """Why a tensor cannot lie in its storage; None if it can. Plain integers: nothing overflows."""
    if t.layout not in ("strided", "quantized", "subclass") or (not t.shape and t.offset < 0):
        return None
    if len(t.stride) != len(t.shape):
        return f"{len(t.shape)} sizes and {len(t.stride)} strides"
    if any(s == 0 for s in t.shape):
        return None
    itemsize = BY_NAME[t.dtype].itemsize if t.dtype in BY_NAME else 1
    last = t.offset + sum((n - 1) * s for n, s in zip(t.shape, t.stride, strict=True)) + 1
    if t.offset < 0 or last * itemsize > storage.nbytes:
        return f"it ends at byte {last * itemsize:,} of a storage of {storage.nbytes:,}"
    return None
