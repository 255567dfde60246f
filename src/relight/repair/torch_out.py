"""A tree of pickled values and its storages as the file that torch.save writes, in bounded memory."""

from __future__ import annotations

import hashlib
import os

from relight.core.checkpoint import Checkpoint
from relight.core.errors import RepairError
from relight.core.objects import Persistent, Value
from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader import DEFAULT_LIMITS
from relight.reader.pickle_vm import decode
from relight.reader.tensors import StorageClaim, storage_claim
from relight.repair.copying import Progress, new_file, written_to
from relight.repair.graphs import same_graph
from relight.repair.material import Material
from relight.repair.pickle_out import Unwritable, encode, lowered
from relight.repair.proving import NOT_EQUAL, Check, need_proof, read_again, same_bytes, settling
from relight.repair.sinks import FileSink
from relight.repair.stored import FileRange, Stored
from relight.repair.tree_edit import parts_of
from relight.repair.zip_out import ZipOut


def write_torch(
    material: Material, output: str, progress: Progress | None = None, *, whole: bool = False
) -> tuple[Checkpoint, list[Check]]:
    """Write an archive as torch has done since 1.6; its pickle is of protocol 2, which ``weights_only=True`` reads.

    ``.format_version`` is left out: without it, torch looks where the storages are.

    Args:
        material: What to write; storages get new keys in its tree.
        output: The new file; nothing may be there.
        progress: Called with the number of bytes written since the last call.
        whole: Whether the proof compares bytes also where the source records a checksum.

    Returns:
        (what reading it again gave, what was proved).

    Raises:
        RepairError: The tree cannot be written, the file cannot, or the proof fails; then there is none.
    """
    stored = _numbered(material)
    try:
        material.root = lowered(material.root)
        pickle = encode(material.root)
    except Unwritable as error:
        raise RepairError(material.origin, str(error)) from None
    again = decode(pickle, limits=DEFAULT_LIMITS)
    if again.problems or again.stream.end != len(pickle) or not same_graph(again.value, material.root):
        raise RepairError(
            material.origin, "the new pickle does not say what it should; this is a defect of relight, please report it"
        )
    name = os.path.basename(output)
    with new_file(output, material.like) as file:
        with written_to(output, material.like):
            sink = FileSink(file.descriptor)
            try:
                _emit(ZipOut(sink, name.rpartition(".")[0] or name), material, pickle, stored, progress)
            finally:
                sink.close()
        with written_to(output, material.like), settling(file, material.like):
            new, checks = _proved(file.descriptor, output, stored, material.root, whole=whole)
        need_proof(checks, material.origin)
    return new, checks


def _emit(out: ZipOut, material: Material, pickle: bytes, stored: dict[str, Stored], progress: Progress | None) -> None:
    sums = [f"data.pkl {out.add('data.pkl', pickle)}"]
    out.add("byteorder", b"little" if material.little_endian else b"big")
    for key, content in stored.items():
        if isinstance(content, FileRange) and content.crc is not None:
            source = material.files.source(content.path)
            crc = out.copy(f"data/{key}", source, content.start, content.nbytes, content.crc, progress)
        else:
            crc = out.stream(f"data/{key}", content.nbytes, content.chunks(), progress)
        sums.append(f"data/{key} {crc}")
    out.add("version", b"3\n")
    # It names a content: another content has another, of as many digits as torch's.
    number = str(int(hashlib.sha256("\n".join(sums).encode()).hexdigest(), 16))[:40].zfill(40)
    out.add(".data/serialization_id", number.encode())
    out.close()


def _proved(
    target: int, path: str, stored: dict[str, Stored], root: Value, *, whole: bool
) -> tuple[Checkpoint, list[Check]]:
    """Read a new archive again: its objects, and every storage."""
    new = read_again(target, path)
    problem = new.problems[0].message if new.problems else ""
    if not problem and not same_graph(new.root, root):
        problem = "its pickle is not what was written"
    checks = [("read again", not problem, problem or "nothing is wrong with it")]
    wrong = ""
    for key, content in stored.items():
        entry = new.storages.get(key)
        span = None if entry is None else entry.span
        if span is None or not same_bytes(target, span.start, span.length, content, whole=whole):
            wrong = wrong or f"storage {key} {NOT_EQUAL}"
    count = f"{len(stored):,} storage{'' if len(stored) == 1 else 's'} equal, byte by byte"
    checks.append(("storages", not wrong, wrong or count))
    bad = safety(new) is Safety.DANGEROUS
    checks.append(("safety", not bad, "unpickling it would run code" if bad else "it names nothing dangerous"))
    return new, checks


def _numbered(material: Material) -> dict[str, Stored]:
    """Number the storages in the order in which loading meets them, as torch does."""
    keys: dict[str, str] = {}
    out: dict[str, Stored] = {}
    for node in _persistents(material.root):
        claim = storage_claim(node.pid)
        if not isinstance(claim, StorageClaim):
            raise RepairError(material.origin, f"a persistent id is none of torch's: {claim.reason}")
        content = material.storages.get(claim.key)
        if content is None or content.nbytes < claim.nbytes:
            raise RepairError(material.origin, f"the bytes of storage {claim.key} are not all there")
        number = keys.setdefault(claim.key, str(len(keys)))
        out[number] = content
        assert isinstance(node.pid, tuple)
        node.pid = (*node.pid[:2], number, claim.device, claim.numel)
    return out


def _persistents(root: Value) -> list[Persistent]:
    """Persistent ids in the order in which a pickle of the tree holds them."""
    out: list[Persistent] = []
    seen: set[int] = set()
    stack: list[Value] = [root]
    while stack:
        value = stack.pop()
        if value.__class__ in (str, int, float, bool, bytes) or value is None or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Persistent):
            out.append(value)
        else:
            stack.extend(reversed(parts_of(value)))
    return out
