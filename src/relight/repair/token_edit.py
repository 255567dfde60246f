"""Edits of names in a pickle as it is written: a few tokens change, every other byte stays.

Where a token is to be found follows from the tree, which knows the offset of what comes after it. A guess is not
needed to be right: whoever calls decodes what comes out and compares it with the tree that it should be.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from relight.core.edits import Edit, RenameKeys, ReplaceGlobal, SetDevice
from relight.core.objects import Call, ObjectPath, Persistent, Value, mapping_pairs, nodes
from relight.repair.pickle_out import name_node

_FRAME = 0x95


def edit_tokens(
    data: bytes,
    root: Value,
    edits: Sequence[Edit],
    state_dict: ObjectPath | None,
    metadata: Mapping[str, str],
    opcodes: Iterable[int],
) -> bytes | None:
    """Write a pickle with other names; None where that takes more than exchanging tokens.

    Args:
        data: The pickle.
        root: Its tree, as it is before the edits.
        edits: What changes.
        state_dict: Where the tensors are.
        metadata: Module paths that ``_metadata`` is to have under another name.
        opcodes: The opcodes that the pickle uses.
    """
    if not all(isinstance(e, (RenameKeys, ReplaceGlobal, SetDevice)) for e in edits):
        return None
    if _FRAME in opcodes:  # lengths of frames would have to follow
        return None
    changes: list[tuple[int, bytes, bytes]] = []
    rename: dict[str, str] = {}
    for edit in edits:
        if isinstance(edit, RenameKeys):
            rename.update(edit.pairs)
        elif isinstance(edit, ReplaceGlobal):
            old, new = _name_token(edit.old), _name_token(name_node(edit.new).stored)
            changes += _everywhere(data, old, new)
        elif isinstance(edit, SetDevice):
            tags = {n.pid[3] for n in nodes(root) if isinstance(n, Persistent) and isinstance(n.pid, tuple)}
            for tag in tags - {edit.device}:
                if not isinstance(tag, str):
                    return None
                changes += _everywhere(data, text_token(tag), text_token(edit.device))
    if rename:
        sites = _key_sites(data, root, state_dict, rename, metadata)
        if sites is None:
            return None
        changes += sites
    return _exchanged(data, changes)


def text_token(text: str) -> bytes:
    """BINUNICODE and its argument."""
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _name_token(stored: str) -> bytes:
    module, _, name = stored.rpartition(".")
    return f"c{module}\n{name}\n".encode("utf-8", "surrogatepass")


def _everywhere(data: bytes, old: bytes, new: bytes) -> list[tuple[int, bytes, bytes]]:
    out = []
    at = data.find(old)
    while at >= 0:
        out.append((at, old, new))
        at = data.find(old, at + len(old))
    return out


def _key_sites(
    data: bytes, root: Value, path: ObjectPath | None, rename: Mapping[str, str], metadata: Mapping[str, str]
) -> list[tuple[int, bytes, bytes]] | None:
    """The tokens of keys: each stands between the tensor before it and its own."""
    value = root
    for step in path or ():
        value = next((v for k, v in reversed(mapping_pairs(value) or ()) if k == step), None)
    pairs = mapping_pairs(value)
    if pairs is None:
        return None
    out = []
    # An OrderedDict is a call, whose place is known; a dict begins behind its own key, or with the pickle.
    position = value.position if isinstance(value, Call) else 0
    if position == 0 and path:
        position = max(data.find(text_token(str(path[-1]))), 0)
    for key, tensor in pairs:
        end = tensor.position if isinstance(tensor, Call) else len(data)
        if isinstance(key, str) and key in rename:
            old = text_token(key)
            at = data.find(old, position, end)
            if at < 0:
                return None
            out.append((at, old, text_token(rename[key])))
        if isinstance(tensor, Call) and tensor.position > position:
            position = tensor.position
    state = value.state if isinstance(value, Call) else None
    stored = next((v for k, v in mapping_pairs(state) or () if k == "_metadata"), None)
    for key, _ in mapping_pairs(stored) or ():
        if isinstance(key, str) and key in metadata:
            old = text_token(key)
            at = data.find(old, position)
            if at < 0:
                return None
            out.append((at, old, text_token(metadata[key])))
            position = at + len(old)
    return out


def _exchanged(data: bytes, changes: list[tuple[int, bytes, bytes]]) -> bytes | None:
    parts: list[bytes] = []
    position = 0
    for at, old, new in sorted(changes):
        if at < position:
            return None
        parts += (data[position:at], new)
        position = at + len(old)
    return b"".join([*parts, data[position:]])
