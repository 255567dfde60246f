"""Objects that ``weights_only=True`` refuses as plain data that answers the same questions, where there is such data.

A Namespace has to stay usable by attribute: an OrderedDict whose ``__dict__`` holds the values is accepted by
``weights_only=True``, and ``args.width``, ``args["width"]`` and ``vars(args)`` all work; a plain dict breaks whatever
reads ``args.width``. What is replaced, by what, and what is lost is told value by value.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from relight.core.objects import (
    Call,
    DictNode,
    Global,
    ListNode,
    ObjectPath,
    Opaque,
    Persistent,
    SetNode,
    Value,
    mapping_get,
    mapping_has,
    mapping_pairs,
)
from relight.facts import data
from relight.reader.tensors import REBUILD_NAMES, sizes_of

_DEEPEST = 60  # objects in objects; they are made plain by recursion
_MOST_ELEMENTS = 100_000  # of an array that becomes a list of numbers
_NUMPY_CODES = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?",
}  # fmt: skip


_OF_NUMPY = frozenset({"torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_xla_tensor"})
_TORCH_CODES = {
    "f2": "float16", "f4": "float32", "f8": "float64", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "b1": "bool",
}  # fmt: skip


@dataclass(slots=True)
class Plain:
    """What making a tree plain gave.

    Attributes:
        root: The tree.
        changes: (where, what it was, what it is now), in file order.
        inexact: Those of the changes after which code may take another path without an error: a member of an enum
            that is its value now, an object of the user's class without its methods.
        left: (where, what) of objects that have no plain form and were not dropped.
        tensors: How many arrays of numpy that stand for tensors became tensors.
    """

    root: Value
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    inexact: list[tuple[str, str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    tensors: int = 0


@dataclass(frozen=True, slots=True)
class Numbers:
    """The elements of an array that stands for a tensor.

    Attributes:
        data: Their bytes, the least significant first.
        shape: Sizes.
        dtype: Element type, as torch calls it.
    """

    data: bytes
    shape: tuple[int, ...]
    dtype: str


class _NoPlainForm(Exception):
    """There is no plain data for it."""


_DROPPED: Any = Opaque("left out", 0)
LEFT_OUT = "left out"
_HPARAMS_TYPE = ObjectPath(("hparams_type",))


def make_plain(
    root: Value,
    *,
    drop: bool = False,
    keep: Collection[str] = (),
    stored: Callable[[Numbers, bool], Value] | None = None,
) -> Plain:
    """Replace refused objects within a tree.

    Args:
        root: The tree; it is changed.
        drop: Whether to leave out objects that have no plain form.
        keep: Names, as ``module.name``, that whoever loads it allows.
        stored: Makes a tensor of numbers and of whether it requires a gradient; None leaves such tensors alone.

    Returns:
        What was done, with the tree.
    """
    work = _Work(drop, change=True, keep=keep)
    work.stored = stored
    work.run(root)
    return work.out


def preview(root: Value, *, drop: bool = False, keep: Collection[str] = ()) -> Plain:
    """What `make_plain` would do; the tree stays as it is, and the result has none."""
    work = _Work(drop, change=False, keep=keep)
    work.stored = lambda numbers, grad: None
    work.run(root)
    work.out.root = None
    return work.out


def accepted(name: Global) -> bool:
    """Whether ``weights_only=True`` takes a name."""
    allowed = data.load("weights_only")
    return name.full_name in allowed["globals"] or name.full_name in allowed["registered"]["globals"]


class _Work:
    def __init__(self, drop: bool, *, change: bool, keep: Collection[str] = ()) -> None:
        self.change = change
        allowed = data.load("weights_only")
        self.allowed = {*allowed["globals"], *allowed["registered"]["globals"], *keep}
        self.forms = [(re.compile(f["pattern"]), f) for f in data.load("plain_forms")["forms"]]
        self.drop = drop
        self.done: dict[int, Any] = {}
        self.keep: list[Any] = []
        self.active: set[int] = set()
        self.stays: set[int] = set()  # what has no plain form: it is told once, not part by part
        self.out = Plain(None)
        self.stored: Callable[[Numbers, bool], Value] | None = None

    def run(self, root: Value) -> None:
        """Walk the tree without recursion; objects that are replaced are made plain by recursion, which is bounded."""
        self.out.root = root = self.replaced(root, ObjectPath())
        stack: list[tuple[Any, ObjectPath]] = [(root, ObjectPath())]
        seen: set[int] = set()
        while stack:
            value, path = stack.pop()
            if value.__class__ in _ATOMS or id(value) in seen or id(value) in self.stays:
                continue
            seen.add(id(value))
            if isinstance(value, Call) and value.name in REBUILD_NAMES:
                if value.name in _OF_NUMPY and id(value) in self.done:
                    continue
                if self.refused_inside(value):
                    self.out.left.append((str(path), "a tensor of a kind that weights_only=True refuses"))
                continue
            below: list[tuple[Any, ObjectPath]] = []
            if isinstance(value, (DictNode, Call)):
                pairs = []
                for key, item in value.pairs:
                    step = path / (key if isinstance(key, (str, int, float, bytes)) else "<key>")
                    if step == _HPARAMS_TYPE and isinstance(item, Global) and item.full_name not in self.allowed:
                        # Lightning only uses it to turn the dict into that class again.
                        self.note(step, f"the name {item.full_name}", LEFT_OUT)
                        continue
                    key, item = self.key(key, step, item), self.replaced(item, step)
                    if key is _DROPPED or item is _DROPPED:
                        continue
                    pairs.append((key, item))
                    below.append((item, step))
                if self.change:
                    value.pairs = pairs
            if isinstance(value, (ListNode, SetNode, Call)):
                items = [self.in_list(v, path / i) for i, v in enumerate(value.items)]
                below += [(v, path / i) for i, v in enumerate(items)]
                if self.change:
                    value.items = items
            if isinstance(value, Call):
                args = tuple(self.in_list(v, path) for v in value.args)
                below += [(v, path) for v in args]
                if self.change:
                    value.args = args
                if value.has_state:
                    below.append((value.state, path))
            elif isinstance(value, tuple):
                below += [(v, path / i) for i, v in enumerate(value)]
            elif isinstance(value, Persistent):
                continue
            stack += reversed(below)

    def in_list(self, value: Value, path: ObjectPath) -> Value:
        new = self.replaced(value, path)
        return None if new is _DROPPED else new

    def key(self, key: Value, path: ObjectPath, state: Value = None) -> Value:
        """A key of a dict: callbacks were once stored under their classes."""
        if isinstance(key, Global) and key.full_name not in self.allowed:
            text = key.name
            callback = path[:1] == ("callbacks",) and len(path) == 2
            if callback:
                # Lightning looks for these texts first, and only then for the classes: data/migrations.json.
                text = callback_key(key, state)
            self.note(path, f"the class {key.full_name}", repr(text), exact=callback)
            return text
        new: Value = self.replaced(key, path)
        return new

    def replaced(self, value: Any, path: ObjectPath) -> Any:
        """The value itself where it is accepted, else its plain form, `_DROPPED`, or itself where that is not allowed."""
        if value.__class__ in _ATOMS and not isinstance(value, Global):
            return value
        if isinstance(value, tuple):
            return self.tuple_(value, path)
        if isinstance(value, SetNode) and value.frozen:
            self.note(path, "a frozenset", "set")
            return SetNode(value.items)
        if not isinstance(value, (Call, Global, Opaque)):
            return value
        if (
            isinstance(value, Call)
            and value.name in _OF_NUMPY
            and self.stored is not None
            and not _names_in((value.callee, *value.args)) <= self.allowed
        ):
            return self.of_numpy(value, path)
        if isinstance(value, Call) and value.name in self.allowed:
            return value
        if isinstance(value, Global) and value.full_name in self.allowed:
            return value
        if id(value) in self.done:
            return self.done[id(value)]
        if id(value) in self.active:
            raise _NoPlainForm  # it holds itself
        self.keep.append(value)
        self.active.add(id(value))
        mark = len(self.out.changes), len(self.out.inexact)
        new: Any
        try:
            new = self.plain(value, path)
        except _NoPlainForm:
            del self.out.changes[mark[0] :], self.out.inexact[mark[1] :]
            what = _what(value)
            if self.drop:
                new = _DROPPED
                self.note(path, what, LEFT_OUT, exact=False)
            else:
                new = value
                self.out.left.append((str(path), what))
                self.stays.add(id(value))
        self.active.discard(id(value))
        self.done[id(value)] = new
        return new

    def of_numpy(self, value: Call, path: ObjectPath) -> Any:
        """An array of numpy that stands for the tensor of another device: ``(array, dtype, device, requires_grad)``."""
        known = self.done.get(id(value))
        if known is not None or self.stored is None:
            return known
        self.keep.append(value)
        array, dtype = (value.args[0], value.args[1]) if len(value.args) == 4 else (None, None)
        name = dtype.name if isinstance(dtype, Global) and dtype.module == "torch" else ""
        state = array.state if isinstance(array, Call) else None
        try:
            if not isinstance(state, tuple) or len(state) != 5 or state[3] is not False:
                raise _NoPlainForm
            shape = sizes_of(state[1])
            letter, order, raw = _elements(state[2], state[4])
            if shape is None or _TORCH_CODES.get(letter) != name or (order == ">" and not letter.endswith("1")):
                raise _NoPlainForm
            if len(raw) != math.prod(shape) * int(letter[1:]):
                raise _NoPlainForm
        except _NoPlainForm:
            self.done[id(value)] = value
            self.out.left.append((str(path), "a tensor of a kind that weights_only=True refuses"))
            self.stays.add(id(value))
            return value
        new = self.stored(Numbers(raw, shape, name), value.args[3] is True)
        self.out.tensors += 1
        self.note(path, f"an array of numpy for a tensor on {value.args[2]!r}", "a tensor")
        self.done[id(value)] = value if new is None else new
        return self.done[id(value)]

    def tuple_(self, value: tuple[Any, ...], path: ObjectPath) -> Any:
        """A tuple is replaced as a whole; one that is met again is not gone through again."""
        known = self.done.get(id(value))
        if known is not None:
            return known
        self.keep.append(value)
        if len(path) > _DEEPEST:
            self.out.left.append((str(ObjectPath(path[:3])), f"tuples that are nested more than {_DEEPEST} deep"))
            self.stays.add(id(value))
            self.done[id(value)] = value
            return value
        parts = tuple(self.in_list(v, path / i) for i, v in enumerate(value))
        new = value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
        self.done[id(value)] = new
        return new

    def note(self, path: ObjectPath, was: str, becomes: str, *, exact: bool = True) -> None:
        change = (str(path), was, becomes)
        self.out.changes.append(change)
        if not exact:
            self.out.inexact.append(change)

    def refused_inside(self, value: Call) -> bool:
        return bool(_names_in(value.args) - self.allowed)

    # ------------------------------------------------------------ forms

    def plain(self, value: Any, path: ObjectPath) -> Any:
        if len(path) > _DEEPEST or not isinstance(value, Call):
            raise _NoPlainForm
        entry = next((f for pattern, f in self.forms if pattern.search(value.name)), None)
        form = "object" if entry is None else entry["form"]
        make: Callable[[Call, ObjectPath], tuple[Any, str]] | None = {
            "attributes": self.attributes,
            "omegaconf": self.omegaconf,
            "path": self.path,
            "numpy-scalar": self.numpy_scalar,
            "numpy-array": self.numpy_array,
            "dict": self.dict_,
            "list": self.list_,
            "set": self.set_,
            "object": self.object_,
        }.get(form)
        if make is None or value.kwargs:
            raise _NoPlainForm
        at = len(self.out.changes)
        new, becomes = make(value, path)
        exact = entry is not None and bool(entry["exact"])
        change = (str(path), _what(value), becomes)
        self.out.changes.insert(at, change)
        if not exact:
            self.out.inexact.append(change)
        return new

    def below(self, value: Value, path: ObjectPath) -> Any:
        """A value inside an object that becomes plain: it must become plain as well, or be left out."""
        return self.replaced(value, path)

    def with_attributes(self, items: Iterable[tuple[Value, Value]], path: ObjectPath) -> Call:
        pairs: list[tuple[Value, Value]] = []
        for key, item in items:
            new = self.below(item, path / (key if isinstance(key, (str, int)) else "<key>"))
            if new is not _DROPPED:
                pairs.append((key, new))
        out = Call(Global("collections", "OrderedDict", 0), (), "reduce", 0)
        out.pairs = pairs
        named = [(k, v) for k, v in pairs if isinstance(k, str)]
        if named:
            out.state, out.has_state = DictNode(list(named)), True
        return out

    def attributes(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        items = value.pairs if value.pairs else mapping_pairs(value.state) if value.has_state else []
        if value.items or value.args or items is None:
            raise _NoPlainForm
        return self.with_attributes(items, path), "OrderedDict with the same attributes"

    def omegaconf(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        state = value.state
        if value.name.startswith("omegaconf.nodes."):
            if not mapping_has(state, "_val"):
                raise _NoPlainForm
            found = mapping_get(state, "_val")
            if isinstance(found, str) and "${" in found:
                self.note(path, f"a reference, {found}", "the value that it stands for")
                return self.below(_referred(value, found), path), "its value"
            return self.below(found, path), "its value"
        if not mapping_has(state, "_content"):
            raise _NoPlainForm
        content = mapping_get(state, "_content")
        before = len(self.out.changes), len(self.out.inexact)
        if content is None:
            return None, "None"
        pairs = mapping_pairs(content)
        if pairs is not None and value.name.endswith("DictConfig"):
            new: Any = self.with_attributes(pairs, path)
            becomes = "OrderedDict with the same attributes"
        elif isinstance(content, ListNode):
            new, becomes = ListNode([self.in_list(v, path / i) for i, v in enumerate(content.items)]), "list"
        else:
            raise _NoPlainForm
        # Every value of a configuration is an object of its own: one line for all of them.
        inner = self.out.changes[before[0] :]
        self.out.changes[before[0] :] = [c for c in inner if not c[1].startswith("omegaconf.")]
        return new, becomes

    def path(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        del path
        if not value.args or not all(isinstance(a, str) for a in value.args):
            raise _NoPlainForm
        joint = "\\" if "Windows" in value.name else "/"
        first, *rest = [str(a) for a in value.args]
        text = first + ("" if not rest or first.endswith(("/", "\\")) else joint) + joint.join(rest)
        return text, repr(text)

    def numpy_scalar(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        del path
        if len(value.args) != 2:
            raise _NoPlainForm
        numbers = _numbers(value.args[0], value.args[1])
        if len(numbers) != 1:
            raise _NoPlainForm
        return numbers[0], repr(numbers[0])

    def numpy_array(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        del path
        state = value.state
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[1], tuple) or state[3] is True:
            raise _NoPlainForm
        shape = state[1]
        if not all(type(n) is int for n in shape):
            raise _NoPlainForm
        sizes = [n for n in shape if isinstance(n, int)]
        numbers = _numbers(state[2], state[4])
        if len(numbers) != math.prod(sizes) or len(numbers) > _MOST_ELEMENTS:
            raise _NoPlainForm
        nested: list[Any] = list(numbers)
        for size in reversed(sizes[1:]):
            nested = [ListNode(nested[i : i + size]) for i in range(0, len(nested), size)] if size else []
        return (ListNode(nested) if sizes else numbers[0]), "list of its numbers"

    def dict_(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        pairs = list(value.pairs)
        if value.name == "builtins.dict" and value.args:
            pairs = list(mapping_pairs(value) or ())
        out = DictNode()
        for key, item in pairs:
            new = self.below(item, path / (key if isinstance(key, (str, int)) else "<key>"))
            if new is not _DROPPED:
                out.pairs.append((key, new))
        return out, "dict"

    def list_(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        items = [*(value.args[0].items if value.args and isinstance(value.args[0], ListNode) else ()), *value.items]
        return ListNode([self.in_list(v, path / i) for i, v in enumerate(items)]), "list"

    def set_(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        del path
        items = value.args[0].items if value.args and isinstance(value.args[0], ListNode) else []
        return Call(Global("builtins", "set", 0, "__builtin__.set"), (ListNode(list(items)),), "reduce", 0), "set"

    def object_(self, value: Call, path: ObjectPath) -> tuple[Any, str]:
        """An object of a class that is no library's: of a dataclass its attributes, of a member of an enum its value."""
        if value.how == "reduce" and len(value.args) == 1 and not value.has_state and not value.pairs:
            only = value.args[0]
            if only.__class__ in (str, int, float, bool):
                return only, f"{only!r}, the value of that member"
            raise _NoPlainForm
        if not value.has_state or value.items or value.pairs or not _is_bare(value):
            raise _NoPlainForm
        pairs = mapping_pairs(value.state)
        if pairs is None or not all(isinstance(k, str) for k, _ in pairs) or mapping_has(value.state, "_modules"):
            raise _NoPlainForm
        return self.with_attributes(pairs, path), "OrderedDict with the same attributes"


_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_][\w.]*)\}")
_MOST_STEPS = 20  # from reference to reference


def _referred(node: Call, text: str) -> Value:
    """What a reference of OmegaConf stands for: ``${a.b}`` from the root, ``${.b}`` beside it, or text with some in it.

    Raises:
        _NoPlainForm: It calls a resolver, or leads nowhere.
    """
    for _ in range(_MOST_STEPS):
        whole = _REFERENCE.fullmatch(text)
        if whole is None:
            break
        found = _at(node, whole[1], whole[2])
        value = mapping_get(found.state, "_val") if found.name.startswith("omegaconf.nodes.") else found
        if not (isinstance(value, str) and "${" in value):
            return value
        node, text = found, value
    parts, end = [], 0
    for match in _REFERENCE.finditer(text):
        found = _at(node, match[1], match[2])
        value = mapping_get(found.state, "_val") if found.name.startswith("omegaconf.nodes.") else None
        if value.__class__ not in (str, int, float, bool) or "${" in str(value):
            raise _NoPlainForm
        parts += [text[end : match.start()], str(value)]
        end = match.end()
    joined = "".join([*parts, text[end:]])
    if "${" in joined or "\\" in text:
        raise _NoPlainForm
    return joined


def _at(node: Call, dots: str, name: str) -> Call:
    """The node of a configuration that a reference names."""
    up = len(dots) or _MOST_STEPS * _DEEPEST  # without dots from the root
    place: Value = node
    while up and isinstance(place, Call):
        parent = mapping_get(place.state, "_parent")
        if parent is None:
            break
        place, up = parent, up - 1
    for step in name.split("."):
        content = mapping_get(place.state, "_content") if isinstance(place, Call) else None
        if isinstance(content, ListNode) and step.isdecimal() and int(step) < len(content.items):
            place = content.items[int(step)]
        elif mapping_has(content, step):
            place = mapping_get(content, step)
        else:
            raise _NoPlainForm
    if not isinstance(place, Call) or not place.name.startswith("omegaconf."):
        raise _NoPlainForm
    return place


_ATOMS = frozenset({type(None), bool, int, float, str, bytes, Global})


def callback_key(cls: Global, state: Value) -> str:
    """The text under which Lightning 1.5 and newer store the state of a callback that was stored under its class.

    What the state does not hold of it is taken from the defaults of the callback.
    """
    for known in data.load("migrations")["callback_keys"]["classes"]:
        if re.match(known["pattern"], cls.full_name):
            monitor = mapping_get(state, "monitor")
            return str(known["key"].format(monitor=monitor if isinstance(monitor, str) else known["monitor"]))
    return cls.name


def _is_bare(value: Call) -> bool:
    """Whether an object is made empty before its state is set: by NEWOBJ, or by copyreg for protocol 0 and 1."""
    if value.how == "new":
        return not value.args
    return value.how == "inst" and not value.args


def _what(value: Any) -> str:
    if isinstance(value, Call):
        name = value.name or "a computed object"
        if name.startswith("numpy.") and name.endswith(".scalar"):
            return "a number of numpy"
        return "an array of numpy" if name.endswith("._reconstruct") else name
    if isinstance(value, Global):
        return f"the name {value.full_name}"
    return str(getattr(value, "what", "an object"))


def _names_in(value: Any) -> set[str]:
    out: set[str] = set()
    stack, seen = [value], set()
    while stack:
        part = stack.pop()
        if isinstance(part, Global):
            out.add(part.full_name)
        elif part.__class__ not in _ATOMS and id(part) not in seen:
            seen.add(id(part))
            if isinstance(part, tuple):
                stack.extend(part)
            elif isinstance(part, Call):
                stack += [part.callee, *part.args, *part.items, *(p for pair in part.pairs for p in pair), part.state]
            elif isinstance(part, DictNode):
                stack += [p for pair in part.pairs for p in pair]
            elif isinstance(part, Persistent):
                stack.append(part.pid)
            elif isinstance(part, Opaque):
                out.add(part.what)
            else:
                stack.extend(getattr(part, "items", ()))
    return out


def _elements(dtype: Value, raw: Value) -> tuple[str, str, bytes]:
    """Code, order and bytes of numpy's elements: ``numpy.dtype("f8", False, True)`` with ``(3, "<", ...)``, and bytes."""
    if isinstance(raw, Call) and raw.name == "_codecs.encode" and raw.args and isinstance(raw.args[0], str):
        try:
            raw = raw.args[0].encode("latin-1")
        except UnicodeEncodeError:
            raise _NoPlainForm from None
    elif isinstance(raw, str):  # as pickles of Python 2 hold it
        raw = raw.encode("latin-1", "replace")
    if not isinstance(dtype, Call) or not dtype.args or not isinstance(raw, bytes):
        raise _NoPlainForm
    code = dtype.args[0]
    letter = code.lstrip("<>=|") if isinstance(code, str) else ""
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    if letter not in _NUMPY_CODES or order not in ("<", ">", "|", "="):
        raise _NoPlainForm
    return letter, str(order), raw


def _numbers(dtype: Value, raw: Value) -> list[int | float | bool]:
    """The elements themselves."""
    letter, order, data_ = _elements(dtype, raw)
    code = _NUMPY_CODES[letter]
    size = struct.calcsize("<" + code)
    if len(data_) % size or len(data_) > size * _MOST_ELEMENTS:
        raise _NoPlainForm
    sign = ">" if order == ">" else "<"
    return [n for (n,) in struct.iter_unpack(sign + code, data_)]
