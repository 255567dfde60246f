"""What can be said about a file's intentions: from the names in its pickles and the roles they play.

An answer better than ``unknown`` needs every name to be on the allow-list, in its allowed role.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from relight.core.checkpoint import Checkpoint, Layout, Pickled, ProblemKind
from relight.core.dtypes import BY_NAME, dtype_named
from relight.core.objects import (
    Call,
    DictNode,
    Global,
    ListNode,
    Opaque,
    Persistent,
    SetNode,
    Value,
    mapping_get,
    mapping_has,
    mapping_pairs,
    nodes,
)
from relight.core.safety import Safety
from relight.facts import data

# Damage that lets two readers see different things, or that leaves something unread.
_VOUCHLESS = frozenset(ProblemKind) - {
    ProblemKind.COMPRESSED_RECORDS,
    ProblemKind.BYTES_AFTER,
    ProblemKind.LIMIT,
    ProblemKind.UNSUPPORTED,
}
# A real format that is not damaged by being none of torch.save's.
_NO_DAMAGE = frozenset({"plain-pickle", "torchscript", "torch-export"})
_READ = frozenset({Layout.TORCH_ZIP, Layout.TORCH_LEGACY, Layout.TORCH_TAR, Layout.PICKLE, Layout.SHARDED, Layout.DCP,
                   Layout.DEEPSPEED})  # fmt: skip
_MANY = 1000
_MANY_PARTS = 100_000


# ---------------------------------------------------------------- names


@dataclass(frozen=True, slots=True)
class _Lists:
    """The lists of trust.json, ready to be asked."""

    roles: dict[str, str]
    factories: frozenset[str]
    modules: frozenset[str]
    builtins: frozenset[str]
    attributes: frozenset[str]
    methods: frozenset[str]
    components: frozenset[str]
    library_components: frozenset[str]
    libraries: frozenset[str]
    hooks: frozenset[str]
    instantiators: frozenset[str]


@lru_cache(maxsize=1)
def _lists() -> _Lists:
    trust = data.load("trust")
    danger = trust["dangerous"]
    return _Lists(
        roles={name: role for role, names in trust["allowed"].items() for name in names},
        factories=frozenset(trust["factories"]),
        modules=frozenset(danger["modules"]),
        builtins=frozenset(danger["builtins"]),
        attributes=frozenset(danger["attributes"]),
        methods=frozenset(danger["methods"]),
        components=frozenset(danger["components"]),
        library_components=frozenset(danger["library_components"]),
        libraries=frozenset(danger["libraries"]),
        hooks=frozenset(danger["hooks"]),
        instantiators=frozenset(trust["instantiators"]),
    )


def role(name: str) -> str | None:
    """The role in which a name is allowed; None for names outside the list."""
    known = _lists().roles.get(name)
    if known is not None:
        return known
    if name.startswith("torch.") and dtype_named(name) in BY_NAME.values():
        return "constant"
    return None


def is_dangerous(name: str) -> bool:
    """Whether a name is on the danger list: its module or a parent, the builtin, or a step of its path."""
    if role(name) is not None:
        return False
    lists = _lists()
    parts = name.split(".")
    if any(".".join(parts[:i]) in lists.modules for i in range(1, len(parts) + 1)):
        return True
    if parts[0] == "builtins" and len(parts) > 1 and parts[1] in lists.builtins:
        return True
    # An innocent module leads to a dangerous one through its own imports: torch.serialization.os.system.
    components = lists.components
    if parts[0] in lists.libraries or parts[0] in sys.stdlib_module_names:
        components |= lists.library_components
    if any(p in components or p.lstrip("_") in components for p in parts[1:-1]):
        return True
    if len(parts) > 2 and parts[-1] in lists.methods and parts[-2][:1].isupper():
        return True
    return any(p in lists.attributes for p in parts[1:])


# ---------------------------------------------------------------- roles


def dangers(checkpoint: Checkpoint) -> Iterator[str]:
    """What in the file is dangerous, in words, in file order."""
    pickles = _pickles(checkpoint)
    for pickled in pickles:
        where = f"{pickled.where}: " if pickled.where else ""
        called = (
            {id(c.callee) for c in pickled.calls} if any(g.full_name in _BY_ARGUMENTS for g in pickled.globals) else ()
        )
        for ref in pickled.globals:
            # Names that honest pickles call with certain arguments are judged by their calls.
            if is_dangerous(ref.full_name) and not (ref.full_name in _BY_ARGUMENTS and id(ref) in called):
                yield f"{where}names {ref.full_name}"
        for text in _called(pickled):
            yield f"{where}{text}"
    yield from _contents(checkpoint)


def _pickles(checkpoint: Checkpoint) -> tuple[Pickled, ...]:
    """All streams; those of a checkpoint that no reader made are found from its objects."""
    if checkpoint.pickles or checkpoint.root is None:
        return checkpoint.pickles
    found = list(nodes(checkpoint.root))
    calls = tuple(n for n in found if isinstance(n, Call))
    own = Pickled(
        where="",
        root=checkpoint.root,
        globals=checkpoint.globals,
        calls=calls,
        persistents=tuple(n for n in found if isinstance(n, Persistent)),
        sightings=(),
        whole=checkpoint.stream is not None,
    )
    return (own,)


def _called(pickled: Pickled) -> Iterator[str]:
    """What a stream does with the names in it."""
    if pickled.whole or not pickled.where:
        # What follows a break in some other bytes is no pickle, and its opcodes mean nothing.
        for sighting in pickled.sightings:
            yield sighting.what
    for call in _to_judge(pickled):
        yield from _unusual(call)
    classes: dict[int, Value] = {}
    for node in pickled.persistents:
        if isinstance(node.pid, tuple) and len(node.pid) > 1 and isinstance(node.pid[0], str):
            kind = node.pid[1]
            if id(kind) not in classes:
                classes[id(kind)] = kind
                if node.pid[0] == "storage" and isinstance(kind, Global) and not _is_storage(kind):
                    yield f"{kind.full_name} stands where a storage class belongs"


def _is_storage(kind: Global) -> bool:
    return kind.module.partition(".")[0] == "torch" and kind.name.endswith("Storage")


def _to_judge(pickled: Pickled) -> Iterator[Call]:
    """Calls that need a look: all but the plain tensors and mappings that every checkpoint is full of."""
    kinds: dict[int, str] = {}  # by the id of a name: each is looked up once
    for call in pickled.calls:
        callee = call.callee
        if callee.__class__ is Global:
            kind = kinds.get(id(callee))
            if kind is None:
                assert isinstance(callee, Global)
                kind = kinds[id(callee)] = _kind(callee.full_name)
            if kind == "tensor":
                args = call.args
                if not (call.pairs or call.items or (len(args) > 5 and _has_parts(args[5]))):
                    continue
            elif kind == "mapping" and not (call.items or call.has_state):
                continue
        yield call


def _kind(name: str) -> str:
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"):
        return "tensor"
    return "mapping" if name == "collections.OrderedDict" else "other"


def _has_parts(hooks: Value) -> bool:
    """Whether the place of backward hooks holds any: they are called by the first backward."""
    if isinstance(hooks, Call):
        return bool(hooks.pairs or hooks.args or hooks.items or hooks.has_state)
    return hooks is not None and hooks != () and not (isinstance(hooks, DictNode) and not hooks.pairs)


def _unusual(call: Call) -> Iterator[str]:
    name = call.name
    if not name:
        if isinstance(call.callee, (Call, Opaque, Persistent, tuple, ListNode, DictNode, SetNode)):
            yield "calls something that the file itself computes"
        return
    allowed = role(name)
    if name in _BY_ARGUMENTS and not _harmless(call):
        yield f"calls {name}"
    elif name == "collections.defaultdict":
        factory = call.args[0] if call.args else None
        if factory is not None and not (isinstance(factory, Global) and factory.full_name in _lists().factories):
            yield f"a defaultdict that calls {getattr(factory, 'full_name', 'an object')}"
    elif allowed == "storage":
        yield f"{name} is called"
    elif allowed == "rebuild":
        if call.pairs or call.items:
            yield f"puts items into what {name} makes: memory is written while loading"
        if len(call.args) > 5 and _has_parts(call.args[5]) and "_tensor_v" in name:
            yield "a tensor carries backward hooks"
        if name.startswith("torch._tensor._rebuild_from_type") and not _rebuilds(call.args[0] if call.args else None):
            yield f"{name} calls something else than a function that rebuilds tensors"
        if name == "_codecs.encode" and call.args[1:] not in (("latin1",), ("latin-1",)):
            yield f"_codecs.encode with {_short(call.args[1:])}"
        if name == "copyreg._reconstructor":
            base = call.args[1] if len(call.args) > 1 else None
            if not isinstance(base, Global) or is_dangerous(base.full_name):
                yield "copyreg._reconstructor with a base that is no class"
    if call.has_state:
        yield from _state(name, call.state)


def _rebuilds(value: Value) -> bool:
    return isinstance(value, Global) and role(value.full_name) == "rebuild" and value.module.startswith("torch")


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, (str, int)) else "other arguments"
    if isinstance(value, tuple) and all(isinstance(v, (str, int)) for v in value):
        text = ", ".join(repr(v) for v in value) or "no encoding"
    return text[:60]


def _state(name: str, state: Value) -> Iterator[str]:
    """Attributes that BUILD sets and that Python, or torch, then calls."""
    hooks = _lists().hooks
    for part in state if isinstance(state, tuple) else (state,):
        for key, value in mapping_pairs(part) or ():
            if key == "__class__" or (isinstance(key, str) and key in hooks and not _is_plain(value)):
                yield f"sets {key} of a {name}"


def _is_plain(value: Value) -> bool:
    """Whether a value holds nothing that could be called."""
    stack: list[Value] = [value]
    left = _MANY
    while stack and left > 0:
        left -= 1
        part = stack.pop()
        if isinstance(part, (Global, Opaque)) or (isinstance(part, Call) and mapping_pairs(part) is None):
            return False
        if isinstance(part, tuple):
            stack.extend(part)
        elif isinstance(part, (ListNode, SetNode)):
            stack.extend(part.items)
        for pair in mapping_pairs(part) or ():
            stack.extend(pair)
    return not stack


# Names on the danger list that honest pickles use with certain arguments: the method of a class, the type of None.
_BY_ARGUMENTS = frozenset({"builtins.getattr", "builtins.type"})


def _harmless(call: Call) -> bool:
    args = call.args
    if call.name == "builtins.type":
        return args == (None,)
    if len(args) != 2 or not isinstance(args[0], Global) or not isinstance(args[1], str):
        return False
    owner = args[0].full_name
    return (
        not is_dangerous(owner)
        and owner not in _BY_ARGUMENTS
        and "." not in args[1]
        and not args[1].startswith("__")
        and not is_dangerous(f"{owner}.{args[1]}")
        and args[0].name[:1].isupper()  # a class: its methods; a module's functions are named directly
    )


# ---------------------------------------------------------------- contents that a program acts on


def _contents(checkpoint: Checkpoint) -> Iterator[str]:
    """Values that Lightning or hydra call or import, although the pickle holds them as plain data."""
    root = checkpoint.root
    kind = mapping_get(root, "hparams_type")
    if isinstance(kind, Global) and role(kind.full_name) not in ("config", "container"):
        yield f"hparams_type is {kind.full_name}, which Lightning calls"
    elif isinstance(kind, (Call, Opaque)):
        yield "hparams_type is something that the file itself computes, and Lightning calls it"
    for name in ("hyper_parameters", "datamodule_hyper_parameters", "hparams"):
        settings = mapping_get(root, name)
        if settings is None:
            continue
        instantiator = mapping_get(settings, "_instantiator")
        if isinstance(instantiator, str) and instantiator not in _lists().instantiators:
            yield f"{name}._instantiator is {instantiator!r}, which Lightning imports and calls"
        for key, target in _targets(settings):
            if is_dangerous(target):
                yield f"{name}: {key} is {target!r}"


def _targets(root: Value) -> Iterator[tuple[str, str]]:
    """``_target_`` and ``class_path`` texts below a value: hydra and jsonargparse import them."""
    seen: set[int] = set()
    stack: list[Value] = [root]
    while stack and len(seen) < _MANY_PARTS:
        value = stack.pop()
        if value is None or isinstance(value, (str, int, float, bytes, Global)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, tuple):
            stack.extend(value)
        elif isinstance(value, (ListNode, SetNode)):
            stack.extend(value.items)
        elif isinstance(value, Call):
            stack.extend((*value.args, value.state, *value.items))
        for key, part in mapping_pairs(value) or (value.pairs if isinstance(value, Call) else ()):
            if key in ("_target_", "class_path") and isinstance(part, str) and isinstance(key, str):
                yield key, part
            else:
                stack.append(part)


# ---------------------------------------------------------------- the verdict


def safety(checkpoint: Checkpoint) -> Safety:
    """The verdict. ``ok`` is never the default: it has to be shown."""
    if next(dangers(checkpoint), None) is not None:
        return Safety.DANGEROUS
    if any(p.what not in _NO_DAMAGE for p in checkpoint.problems_of(*_VOUCHLESS)):
        return Safety.MALFORMED
    if any(True for _ in checkpoint.problems_of(ProblemKind.LIMIT)):
        return Safety.LIMIT
    if checkpoint.layout is Layout.SAFETENSORS:
        # The format allows no byte that belongs to no tensor.
        return Safety.MALFORMED if any(True for _ in checkpoint.problems_of(ProblemKind.BYTES_AFTER)) else Safety.OK
    if not checkpoint.readable or checkpoint.layout not in _READ:
        return Safety.UNKNOWN
    if not _holds_together(checkpoint):
        return Safety.MALFORMED
    return Safety.OK if all(_all_known(p) for p in _pickles(checkpoint)) else Safety.UNKNOWN


def _holds_together(checkpoint: Checkpoint) -> bool:
    """Whether what was read can be a checkpoint at all: some object, and a state_dict that holds tensors."""
    root = checkpoint.root
    if checkpoint.layout in (Layout.SHARDED, Layout.DCP, Layout.DEEPSPEED):
        return True
    if not isinstance(root, (DictNode, ListNode, Call, tuple)):
        return False
    if mapping_has(root, "state_dict"):
        pairs = mapping_pairs(mapping_get(root, "state_dict"))
        if pairs is None or (pairs and not checkpoint.tensors and not checkpoint.lost and not checkpoint.refused):
            return pairs is not None and any(v is not mapping_get(root, "state_dict") for _, v in pairs)
    return True


def _all_known(pickled: Pickled) -> bool:
    """Whether all names of a stream are on the allow-list and are used as their writers use them."""
    if any(role(g.full_name) is None and g.full_name not in _JUDGED_BY_CALL for g in pickled.globals):
        return False
    return all(_as_written(call) for call in _to_judge(pickled))


# Not on the allow-list, and fine as long as `dangers` has nothing to say on how they are called.
_JUDGED_BY_CALL = frozenset({"collections.defaultdict", "builtins.type"})
_WITH_STATE = frozenset({"config", "callback-state", "array"})
_WITH_ITEMS = frozenset({"collections.deque", "builtins.list", "omegaconf.listconfig.ListConfig"})
_SIZED_BY_NUMBER = frozenset({"builtins.bytearray", "builtins.bytes", "builtins.range", "collections.deque"})


def _as_written(call: Call) -> bool:
    """Whether an allowed name gets what those who write it give it: no state, items or sizes of the file's choosing."""
    name = call.name
    allowed = role(name)
    mapping = mapping_pairs(call) is not None
    if call.kwargs and allowed != "config":
        return False
    if call.pairs and not mapping and allowed != "config":
        return False
    if call.items and name not in _WITH_ITEMS:
        return False
    if call.has_state and not mapping and allowed not in _WITH_STATE and name != "copyreg._reconstructor":
        return False
    return not (name in _SIZED_BY_NUMBER and any(isinstance(a, int) for a in call.args))
