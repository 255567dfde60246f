"""`dataclasses.dataclass`, without code that is written for each class.

The standard library writes and compiles six methods for every class while the module that defines it is imported: for the
classes that reading a file takes, that was half of the time in which relight starts. Here all classes share methods that
look up which fields there are. What a program sees is the same: `dataclasses.fields`, `asdict` and
`replace`, signatures, pattern matching, pickling, and the error where something frozen is written to. For a type checker it
is the standard library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    from operator import attrgetter
    from reprlib import recursive_repr

    _ABSENT = object()
    _set = object.__setattr__

    class _Field:
        """What one field is like."""

        __slots__ = ("compare", "default", "default_factory", "kw_only", "name", "repr")

        def __init__(self, default=_ABSENT, default_factory=_ABSENT, repr=True, compare=True):
            self.name, self.kw_only = "", False
            self.default, self.default_factory, self.repr, self.compare = default, default_factory, repr, compare

    _Slot = type(_Field.name)

    def field(*, default=_ABSENT, default_factory=_ABSENT, repr=True, compare=True):
        """As `dataclasses.field`."""
        return _Field(default, default_factory, repr, compare)

    def replace(obj, /, **changes):
        """As `dataclasses.replace`."""
        known = getattr(obj.__class__, "_dataclass", None)
        if known is None:
            import dataclasses

            return dataclasses.replace(obj, **changes)
        for name in known.fields:
            if name not in changes:
                changes[name] = getattr(obj, name)
        return obj.__class__(**changes)

    def dataclass(cls=None, /, *, frozen=False, slots=False, kw_only=False, eq=True, repr=True):
        """As `dataclasses.dataclass`."""

        def made(cls):
            return _made(cls, frozen=frozen, slots=slots, kw_only=kw_only, eq=eq, repr=repr)

        return made if cls is None else made(cls)

    class _Known:
        """What is known of a class.

        Attributes:
            cls: The class.
            fields: By name, those of bases first.
            own: Those that the class itself declares.
            annotations: What it declares of them.
            frozen: Whether nothing is written to its objects.
            key: Gives what is compared of an object.
        """

        __slots__ = ("annotations", "cls", "fields", "frozen", "key", "own")

    def _made(cls, *, frozen, slots, kw_only, eq, repr):
        known = _Known()
        known.frozen, known.annotations = frozen, cls.__annotations__
        known.own, known.fields = {}, {}
        for base in reversed(cls.__mro__[1:]):
            if "_dataclass" in base.__dict__:
                known.fields.update(base._dataclass.own)
        inherited = set(known.fields)
        namespace = dict(cls.__dict__)
        for name in known.annotations:
            default = namespace.get(name, _ABSENT)
            one = default if default.__class__ is _Field else _Field(default)
            one.name, one.kw_only = name, kw_only
            known.own[name] = known.fields[name] = one
            if slots or one.default is _ABSENT:
                namespace.pop(name, None)
            else:
                namespace[name] = one.default
        compared = [name for name, one in known.fields.items() if one.compare]
        known.key = attrgetter(*compared) if compared else lambda _: ()
        own = cls.__dict__
        if slots:
            namespace["__slots__"] = tuple(name for name in known.own if name not in inherited)
        namespace.pop("__dict__", None)
        namespace.pop("__weakref__", None)
        namespace["_dataclass"] = known
        namespace.setdefault("__match_args__", tuple(n for n, one in known.fields.items() if not one.kw_only))
        namespace["__dataclass_fields__"] = _Late("__dataclass_fields__")
        namespace["__dataclass_params__"] = _Late("__dataclass_params__")
        if repr and "__repr__" not in own:
            namespace["__repr__"] = _repr
        if eq and "__eq__" not in own:
            namespace["__eq__"] = _eq
        if eq and frozen and "__hash__" not in own:
            namespace["__hash__"] = _hash
        if frozen:
            namespace["__setattr__"], namespace["__delattr__"] = _refuse_to_set, _refuse_to_delete
            if slots:
                namespace["__getstate__"], namespace["__setstate__"] = _getstate, _setstate
        if "__init__" not in own:
            namespace["__init__"] = _init(known)
            namespace["__signature__"] = _Signature()
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        made.__qualname__ = cls.__qualname__
        known.cls = made
        return made

    # ------------------------------------------------------------ what is made late

    def _init(known):
        """An ``__init__`` that looks its arguments up; where they do not fit, the standard library's says why."""
        plain = [one.name for one in known.fields.values() if not one.kw_only]
        keyed = [one.name for one in known.fields.values() if one.kw_only]
        told = [(name, known.fields[name].default, known.fields[name].default_factory) for name in plain + keyed]
        count, setters = len(plain), {}

        def __init__(self, *args, **kwargs):
            if not setters:
                setters.update((name, _setter(self.__class__, name)) for name in known.fields)
            given = len(args)
            if given > count:
                _wrong(known, args, kwargs)
            for name, value in zip(plain, args, strict=False):
                setters[name](self, value)
            used = 0
            for name, default, factory in told[given:] if given else told:
                if name in kwargs:
                    value = kwargs[name]
                    used += 1
                elif default is not _ABSENT:
                    value = default
                elif factory is not _ABSENT:
                    value = factory()
                else:
                    _wrong(known, args, kwargs)
                setters[name](self, value)
            if used != len(kwargs):
                _wrong(known, args, kwargs)

        return __init__

    def _setter(cls, name):
        """Sets a field of an object, frozen or not."""
        slot = getattr(cls, name, None)
        if slot.__class__ is _Slot:
            return slot.__set__
        return lambda self, value: _set(self, name, value)

    def _wrong(known, args, kwargs):
        _Late.standard(known.cls)(*args, **kwargs)
        raise TypeError(f"wrong arguments for {known.cls.__qualname__}")

    class _Late:
        """What only the standard library's own functions ask for: it is taken from a class that it makes for that."""

        def __init__(self, name):
            self._name = name

        def __get__(self, instance, owner):
            cls = next(c for c in owner.__mro__ if "_dataclass" in c.__dict__)
            other = self.standard(cls)
            for name in ("__dataclass_fields__", "__dataclass_params__"):
                setattr(cls, name, other.__dict__[name])
            return other.__dict__[self._name]

        @staticmethod
        def standard(cls):
            """The same class, as the standard library makes it."""
            import dataclasses

            known = cls._dataclass
            namespace = {
                "__annotations__": dict(known.annotations), "__module__": cls.__module__, "__qualname__": cls.__qualname__
            }  # fmt: skip
            for name, one in known.own.items():
                given = {k: getattr(one, k) for k in ("default", "default_factory") if getattr(one, k) is not _ABSENT}
                namespace[name] = dataclasses.field(**given, repr=one.repr, compare=one.compare, kw_only=one.kw_only)
            bases = tuple(b for b in cls.__bases__ if hasattr(b, "_dataclass")) or (object,)
            bare = type(cls.__name__, bases, namespace)
            return dataclasses.dataclass(frozen=known.frozen, repr=False, eq=False)(bare)

    class _Signature:
        """For `inspect.signature`, which help and documentation use."""

        def __get__(self, instance, owner):
            import inspect

            if instance is not None or "_dataclass" not in owner.__dict__:
                raise AttributeError("__signature__")
            return inspect.signature(_Late.standard(owner))

    # ------------------------------------------------------------ what all have

    @recursive_repr()
    def _repr(self):
        shown = (f"{n}={getattr(self, n)!r}" for n, one in self._dataclass.fields.items() if one.repr)
        return f"{self.__class__.__qualname__}({', '.join(shown)})"

    def _eq(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        key = self._dataclass.key
        return key(self) == key(other)

    def _hash(self):
        return hash(self._dataclass.key(self))

    def _refuse_to_set(self, name, value):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_to_delete(self, name):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _getstate(self):
        return [getattr(self, name) for name in self._dataclass.fields]

    def _setstate(self, state):
        for name, value in zip(self._dataclass.fields, state, strict=True):
            _set(self, name, value)
