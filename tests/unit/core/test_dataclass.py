"""relight's own dataclasses are those of the standard library in everything that a program sees."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import subprocess
import sys

import pytest

import relight
from relight.core import checkpoint, edits, finding, target
from relight.core import dataclass as own
from relight.repair import converting, in_place

MODULES = [m for name, m in sorted(sys.modules.items()) if name.startswith("relight.")]


class Sample:
    """Both kinds of one class."""

    def __init__(self, frozen: bool, slots: bool, kw_only: bool) -> None:
        self.twins = tuple(self._made(kind, frozen, slots, kw_only) for kind in (own, dataclasses))

    @staticmethod
    def _made(kind, frozen, slots, kw_only):
        @kind.dataclass(frozen=frozen, slots=slots)
        class Base:
            """A base."""

            first: int
            second: str = "two"

            def doubled(self) -> int:
                """Twice."""
                return 2 * self.first

        @kind.dataclass(frozen=frozen, slots=slots, kw_only=kw_only)
        class Thing(Base):
            """A thing."""

            third: list[int] = kind.field(default_factory=list)
            fourth: float = kind.field(default=4.0, repr=False)
            fifth: str = kind.field(default="x", compare=False)

        return Thing


KINDS = [(f, s, k) for f in (True, False) for s in (True, False) for k in (True, False)]


@pytest.mark.parametrize("frozen, slots, kw_only", KINDS)
def test_what_objects_do(frozen, slots, kw_only):
    seen = []
    for cls in Sample(frozen, slots, kw_only).twins:
        one, other = cls(1), cls(1, "two", third=[], fifth="y")
        told = [
            repr(one).partition(".<locals>.")[2], one == other, one == cls(2), one != (1, "two"), one.doubled(),
            [(f.name, f.type, f.repr, f.compare, f.kw_only) for f in dataclasses.fields(one)],
            dataclasses.asdict(other), dataclasses.astuple(one), cls.__match_args__, str(inspect.signature(cls)),
            dataclasses.is_dataclass(cls), cls.__doc__, hasattr(one, "__dict__"), cls(1).third is cls(1).third,
            repr(own.replace(one, first=5)).partition(".<locals>.")[2], dataclasses.replace(one, second="b").second,
            copy.deepcopy(one) == one, copy.copy(one) == one, getattr(cls, "__slots__", None),
        ]  # fmt: skip
        for arguments in ((), (1, 2, 3, 4, 5, 6)):
            with pytest.raises(TypeError) as raised:
                cls(*arguments)
            told.append(str(raised.value).replace("Sample._made.<locals>.Thing.", ""))
        if frozen:
            assert hash(cls(1, third=())) == hash(cls(1, third=(), fifth="z"))
            for change in (lambda o: setattr(o, "first", 3), lambda o: delattr(o, "first")):
                with pytest.raises(dataclasses.FrozenInstanceError) as raised:
                    change(one)
                told.append(str(raised.value))
        else:
            told.append(cls.__hash__)
            one.first = 7
            told.append(one.first)
        match cls(3, "b"):
            case cls(first, second):
                told += [first, second]
        seen.append(told)
    assert seen[0] == seen[1]


@own.dataclass(frozen=True, slots=True)
class Node:
    """One that can refer to itself."""

    value: int
    children: list[Node] = own.field(default_factory=list)


def test_copies_and_circles():
    node = Node(1, [Node(2)])
    assert copy.copy(node) == copy.deepcopy(node) == node
    assert node.__getstate__() == [1, [Node(2)]], "what pickle keeps"
    node.children.append(node)
    assert repr(node) == "Node(value=1, children=[Node(value=2, children=[]), ...])"


def test_what_it_knows_nothing_of():
    @dataclasses.dataclass
    class Other:
        """One of the standard library."""

        x: int

    assert own.replace(Other(1), x=2).x == 2

    @dataclasses.dataclass(frozen=True)
    class Below(Node):
        """One of the standard library, of one of relight's."""

        name: str = ""

    assert (Below(1, name="b").name, [f.name for f in dataclasses.fields(Below)]) == (
        "b",
        ["value", "children", "name"],
    )


def test_every_class_has_the_signature_and_the_fields_of_the_standard_library():
    classes = {
        cls for module in MODULES for cls in vars(module).values()
        if isinstance(cls, type) and "_dataclass" in vars(cls)
    }  # fmt: skip
    assert len(classes) > 60
    assert {checkpoint.Checkpoint, edits.Plan, finding.Finding, target.ModelSpec} <= classes
    assert in_place.Written in classes
    assert converting.Conversion in classes
    for cls in classes:
        known = cls._dataclass
        namespace = {"__annotations__": known.annotations}
        for name, one in known.own.items():
            given = {k: v for k in ("default", "default_factory") if (v := getattr(one, k)) is not own._ABSENT}
            namespace[name] = dataclasses.field(**given)
        keyword = next(iter(known.own.values())).kw_only
        twin = dataclasses.dataclass(kw_only=keyword)(type(cls.__name__, (), namespace))
        assert str(inspect.signature(cls)) == str(inspect.signature(twin)), cls
        assert [(f.name, f.type) for f in dataclasses.fields(cls)] == [
            (f.name, f.type) for f in dataclasses.fields(twin)
        ]


def test_reading_does_not_load_the_standard_library_s():
    """It loads inspect, ast and tokenize, which takes as long as reading a file."""
    code = "import sys, relight; relight.inspect(sys.argv[1]); print('dataclasses' in sys.modules, 'inspect' in sys.modules)"
    path = relight.__path__[0] + "/cli/demo_files/trained.ckpt"
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"
