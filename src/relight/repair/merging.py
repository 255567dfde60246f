"""Trees of several files as one: every storage gets a key of its own."""

from __future__ import annotations

from collections.abc import Sequence

from relight.core.checkpoint import Checkpoint, Layout, TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.errors import RepairError
from relight.core.objects import Call, ObjectPath, Persistent, Value, nodes
from relight.reader.tensors import StorageClaim, TensorReader, storage_claim
from relight.repair.material import contiguous, elements, tensor_node, without_views
from relight.repair.stored import FileRange, Files, Inflated, Stored


class Merged:
    """Storages of several files.

    Attributes:
        storages: Their bytes, by new keys.
    """

    def __init__(self, files: Files) -> None:
        self.storages: dict[str, Stored] = {}
        self._files = files
        self._keys: dict[tuple[str, int, str], str] = {}
        self._done: dict[int, Persistent] = {}  # kept, so that their ids are not given again

    def add(self, content: Stored) -> str:
        """A new storage; its key."""
        key = str(len(self.storages))
        self.storages[key] = content
        return key

    def tree(self, root: Value, checkpoint: Checkpoint, path: str, shift: int = 0) -> Value:
        """Take over a tree: its storages get their new keys in it.

        Args:
            root: The tree, or a part of it; it is changed. Parts of one tree may come one after the other.
            checkpoint: What was read of the file, or of a part of it.
            path: Of the file.
            shift: Where that part begins.

        Raises:
            RepairError: Bytes that it refers to are not there.
        """
        if checkpoint.layout is Layout.TORCH_LEGACY:
            without_views(root)
        for node in list(nodes(root)):
            if not isinstance(node, Persistent) or id(node) in self._done:
                continue
            claim = storage_claim(node.pid)
            if not isinstance(claim, StorageClaim):
                raise RepairError(path, f"a persistent id is none of torch's: {claim.reason}")
            place = (path, shift, claim.key)
            if place not in self._keys:
                self._keys[place] = self.add(stored_of(self._files, checkpoint, claim.key, path, shift))
            assert isinstance(node.pid, tuple)
            node.pid = (*node.pid[:2], self._keys[place], claim.device, claim.numel)
            self._done[id(node)] = node
        return root

    def tensor(self, dtype: str, shape: Sequence[int], content: Stored) -> Call:
        """A tensor that has a new storage to itself."""
        key = self.add(content)
        entry = contiguous(key, dtype, tuple(shape))
        if content.nbytes != entry.numel * BY_NAME[dtype].itemsize:
            raise RepairError("", f"{content.nbytes:,} bytes for a tensor of {entry.numel:,} elements")
        return tensor_node(entry, key, entry.numel)


def stored_of(files: Files, checkpoint: Checkpoint, key: str, path: str, shift: int = 0) -> FileRange | Inflated:
    """The bytes of one storage of a file, or of a part of one.

    Raises:
        RepairError: They are not there.
    """
    content = _stored_of(files, checkpoint, key, path, shift)
    if content.crc is not None:
        files.recorded[path, content.start] = content
    return content


def _stored_of(files: Files, checkpoint: Checkpoint, key: str, path: str, shift: int) -> FileRange | Inflated:
    storage = checkpoint.storages.get(key)
    record = next((r for r in checkpoint.records if r.name == f"data/{key}"), None)
    if storage is not None and storage.span is not None:
        crc = record.crc32 if record is not None and record.size == storage.nbytes else None
        return FileRange(files, path, storage.span.start + shift, storage.nbytes, crc)
    if record is not None and record.compressed:
        return Inflated(files, path, record.span.start + shift, record.span.length, record.size, record.crc32)
    raise RepairError(path, f"the bytes of storage {key} are not there")


def read_tensor(value: Value, checkpoint: Checkpoint) -> TensorEntry | None:
    """A tensor anywhere in a file; None where a value is none, or is none whose values are plainly there."""
    found = TensorReader(checkpoint.storages).read(value, "", ObjectPath())
    if isinstance(found, TensorEntry) and found.layout in ("strided", "subclass") and found.dtype in BY_NAME:
        return found
    return None


def values_of(files: Files, entry: TensorEntry, checkpoint: Checkpoint, path: str, shift: int = 0) -> Stored:
    """The values of such a tensor, one after the other."""
    return elements(entry, stored_of(files, checkpoint, entry.storage_id or "", path, shift))
