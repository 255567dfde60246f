"""From a decoded pickle and its storages to a `Checkpoint`: finds the state_dict and checks every tensor of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from relight.core.checkpoint import (
    Checkpoint,
    Layout,
    Pickled,
    Problem,
    ProblemKind,
    Record,
    StorageEntry,
    TensorEntry,
)
from relight.core.objects import Call, ObjectPath, Persistent, Value, mapping_get, mapping_pairs
from relight.reader import sparse
from relight.reader.limits import Limits
from relight.reader.pickle_vm import Decoded
from relight.reader.source import ByteSource
from relight.reader.tensors import (
    Refusal,
    StorageClaim,
    TensorReader,
    is_variable,
    module_tensors,
    rebuilds_tensor,
    storage_claim,
    tensors_of,
)

# Where other programs keep their weights; tried in this order, the fullest wins.
STATE_DICT_KEYS = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "params_ema",
    "model_ema", "ema", "ema_state_dict", "generator", "g_ema", "encoder", "backbone", "student", "teacher",
)  # fmt: skip
_MANY_PROBLEMS = 20


@dataclass(slots=True)
class Storages:
    """Storages of one file, as its persistent ids claim them.

    Attributes:
        entries: By id.
        missing: Why the bytes of a storage are not (all) in the file, by id.
        problems: What is wrong with them.
        claims: What persistent ids say about them, by the id of their node.
    """

    entries: dict[str, StorageEntry] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    claims: dict[int, StorageClaim] = field(default_factory=dict)


@dataclass(slots=True)
class Claims:
    """What persistent ids say about storages.

    Attributes:
        by_key: Distinct claims by storage, in order.
        by_node: The claim of each node, by its id.
        refused: Ids that make no sense.
    """

    by_key: dict[str, list[StorageClaim]] = field(default_factory=dict)
    by_node: dict[int, StorageClaim] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)


def claims(persistents: Iterable[Persistent]) -> Claims:
    """What persistent ids say about storages."""
    out = Claims()
    by_key, by_node = out.by_key, out.by_node
    for node in persistents:
        claim = storage_claim(node.pid)
        if isinstance(claim, Refusal):
            if not _is_module_id(node.pid):
                out.refused.append(claim)
            continue
        by_node[id(node)] = claim
        known = by_key.get(claim.key)
        if known is None:
            by_key[claim.key] = [claim]
        elif claim != known[0] and claim not in known and len(known) < _MANY_PROBLEMS:
            known.append(claim)
    return out


def _is_module_id(pid: Value) -> bool:
    """``("module", class, file, source)``: how torch before 1.0 kept the source text of modules."""
    return isinstance(pid, tuple) and bool(pid) and pid[0] in ("module", b"module")


def assemble(
    source: ByteSource,
    layout: Layout,
    decoded: Decoded,
    storages: Storages,
    *,
    problems: list[Problem],
    limits: Limits,
    records: tuple[Record, ...] = (),
    folder: str = "",
    pickles: tuple[Pickled, ...] = (),
    little_endian: bool = True,
) -> Checkpoint:
    """Put a checkpoint together.

    Args:
        source: Where the bytes are.
        layout: How they are stored.
        decoded: The stream of the root object.
        storages: Its storages.
        problems: Those that are known already, in order.
        limits: What a tensor may claim.
        records: Records of the archive.
        folder: The folder inside it that holds them.
        pickles: Other streams of the file.
        little_endian: Byte order of the values.
    """
    problems = [*problems, *storages.problems]
    reader = TensorReader(storages.entries, limits, storages.claims)
    path, tensors, refused, extra, metadata = find_state_dict(decoded.value, reader, limits)
    if decoded.stream.end is None:
        tensors, refused = _before_the_break(decoded, reader, limits)
    if decoded.stream.end is not None:
        _changed_later(decoded.calls, problems)
    reasons = {key: refusal.reason for key, refusal in refused.items()}
    said = tuple(p.message for p in storages.problems)
    for key, refusal in list(refused.items())[:_MANY_PROBLEMS]:
        if not any(message.endswith(refusal.reason) for message in said):  # of the storage that it lies on
            problems.append(_refusal_problem(key, refusal))
    whole: list[TensorEntry] = []
    lost: list[TensorEntry] = []
    for t in tensors:
        reason = storages.missing.get(t.storage_id or "") if storages.missing else None
        _, parts = reader.parts.get(t.key, ("", ())) if reader.parts else ("", ())
        for part in parts:
            reason = reason or storages.missing.get(part.storage_id or "")
        if reason is not None:
            reasons[t.key] = reason
            lost.append(t)
            continue
        if parts and t.layout == "sparse":
            bad = sparse.check(source, t, *reader.parts[t.key], storages.entries, limits, little=little_endian)
            if bad is not None:
                reasons[t.key] = bad.reason
                problems.append(_refusal_problem(t.key, bad))
                continue
        whole.append(t)
    return Checkpoint(
        origin=source.name,
        nbytes=source.size,
        layout=layout,
        records=records,
        folder=folder,
        storages=storages.entries,
        root=decoded.value,
        globals=decoded.globals,
        stream=decoded.stream if decoded.stream.end is not None else None,
        state_dict_path=path,
        tensors=tuple(whole),
        lost=tuple(lost),
        refused=reasons,
        extra_keys=tuple(extra),
        metadata=metadata,
        pickles=(decoded.pickled(), *pickles),
        little_endian=little_endian,
        problems=tuple(problems),
        bytes_read=source.bytes_read,
    )


def _before_the_break(
    decoded: Decoded, reader: TensorReader, limits: Limits
) -> tuple[list[TensorEntry], dict[str, Refusal]]:
    """Tensors of the fullest OrderedDict that a damaged pickle completes before it makes no sense any more.

    The damage may begin before the place where it shows: each of them is checked like any other, and whoever uses them
    is told.
    """
    if not all(p.kind in (ProblemKind.PICKLE_MALFORMED, ProblemKind.TRUNCATED) for p in decoded.problems):
        return [], {}
    counted = [(_counts(c), c) for c in decoded.calls if c.pairs and c.name == "collections.OrderedDict"]
    count, fullest = max(counted, key=lambda pair: pair[0], default=(0, None))
    if not count:
        return [], {}
    tensors, refused, _ = tensors_of(fullest, ObjectPath(), reader, limits.tensors)
    return tensors, refused


def _changed_later(calls: Iterable[Call], problems: list[Problem]) -> None:
    """Tensors that the pickle changes after making them, wherever they are: no writer does that."""
    for call in calls:
        if (call.has_state or call.pairs or call.items) and rebuilds_tensor(call) and not is_variable(call):
            problems.append(
                Problem(
                    kind=ProblemKind.PICKLE_MALFORMED,
                    message="the pickle changes a tensor after making it",
                    fatal=True,
                    position=call.position,
                )
            )
            return


def _refusal_problem(key: str, refusal: Refusal) -> Problem:
    kind = ProblemKind.LIMIT if refusal.limit else ProblemKind.TENSOR_OUT_OF_BOUNDS
    return Problem(kind=kind, message=f"{key}: {refusal.reason}", fatal=True, what=refusal.limit, record=key)


Found = tuple[
    "ObjectPath | None", "list[TensorEntry]", "dict[str, Refusal]", "list[str]", "dict[str, int | None] | None"
]


def find_state_dict(root: Value, reader: TensorReader, limits: Limits) -> Found:
    """The model's tensors: where they are, what they are, what is refused, what else is there, and ``_metadata``."""
    here = ObjectPath()
    pairs = mapping_pairs(root)
    if pairs is None:
        return _module(root, reader, limits)
    named = mapping_get(root, "state_dict")
    if mapping_pairs(named) is not None and (_counts(named) > 0 or not mapping_pairs(named)):
        return _taken(named, here / "state_dict", reader, limits)
    if pairs and _counts(root) * 2 > len(pairs):
        return _taken(root, here, reader, limits)
    best: tuple[int, ObjectPath, Value] | None = None
    for key in STATE_DICT_KEYS:
        value = mapping_get(root, key)
        if mapping_pairs(value) is not None:
            count = _counts(value)
            if count and (best is None or count > best[0]):
                best = (count, here / key, value)
    if best is None:
        for name, value in pairs:
            if isinstance(name, str) and mapping_pairs(value) is not None:
                count = _counts(value)
                if count and count * 2 > len(mapping_pairs(value) or ()) and (best is None or count > best[0]):
                    best = (count, here / name, value)
    if best is None and not _counts(root):
        best = _deeper(root)
    if best is not None:
        return _taken(best[2], best[1], reader, limits)
    if _counts(root):
        return _taken(root, here, reader, limits)
    return None, [], {}, [], None


_DEEPEST = 4  # steps from the root: programs wrap the state of a wrapped model
_MOST_LOOKED_AT = 10_000  # mappings


def _deeper(root: Value) -> tuple[int, ObjectPath, Value] | None:
    """The mapping with the most tensors among those that hold little else, below the first level.

    Only texts are followed as keys: the state of an optimizer is numbered.
    """
    best: tuple[int, ObjectPath, Value] | None = None
    seen: set[int] = set()
    level: list[tuple[ObjectPath, Value]] = [(ObjectPath(), root)]
    for _ in range(_DEEPEST):
        below: list[tuple[ObjectPath, Value]] = []
        for path, value in level:
            for name, inner in mapping_pairs(value) or ():
                pairs = mapping_pairs(inner)
                if not isinstance(name, str) or pairs is None or id(inner) in seen or len(seen) >= _MOST_LOOKED_AT:
                    continue
                if "optim" in name.lower():
                    continue
                seen.add(id(inner))
                count = _counts(inner)
                if count * 2 > len(pairs) and (best is None or count > best[0]):
                    best = (count, path / name, inner)
                below.append((path / name, inner))
        level = below
    return best


def _module(root: Value, reader: TensorReader, limits: Limits) -> Found:
    """The tensors of a whole pickled nn.Module."""
    if not isinstance(root, Call):
        return None, [], {}, [], None
    tensors: list[TensorEntry] = []
    refused: dict[str, Refusal] = {}
    for key, found in module_tensors(root, reader, limits.tensors):
        if isinstance(found, Refusal):
            refused[key] = found
        else:
            tensors.append(found)
    return (ObjectPath() if tensors or refused else None), tensors, refused, [], None


def _counts(value: Value) -> int:
    """How many values of a mapping are tensors."""
    return sum(1 for _, v in mapping_pairs(value) or () if rebuilds_tensor(v))


def _taken(value: Value, path: ObjectPath, reader: TensorReader, limits: Limits) -> Found:
    tensors, refused, extra = tensors_of(value, path, reader, limits.tensors)
    return path, tensors, refused, extra, _metadata(value)


def _metadata(value: Value) -> dict[str, int | None] | None:
    """``_metadata``: versions by module path, from the state of the OrderedDict."""
    if not isinstance(value, Call) or not value.has_state:
        return None
    stored = mapping_get(value.state, "_metadata")
    if mapping_pairs(stored) is None:
        return None
    out: dict[str, int | None] = {}
    for key, entry in mapping_pairs(stored) or ():
        version = mapping_get(entry, "version")
        if isinstance(key, str):
            out[key] = version if isinstance(version, int) else None
    return out


def unusable(
    source: ByteSource,
    layout: Layout,
    problems: Iterable[Problem],
    decoded: Decoded | None = None,
    *,
    records: tuple[Record, ...] = (),
    pickles: tuple[Pickled, ...] = (),
) -> Checkpoint:
    """A checkpoint of which nothing but problems, and perhaps the names in its streams, could be read."""
    own = () if decoded is None else (decoded.pickled(),)
    return Checkpoint(
        origin=source.name,
        nbytes=source.size,
        layout=layout,
        records=records,
        globals=() if decoded is None else decoded.globals,
        pickles=(*own, *pickles),
        problems=tuple(problems),
        bytes_read=source.bytes_read,
    )
