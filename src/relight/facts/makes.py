"""Two descriptions of a model beside each other: which module, attribute or function is not what it was.

Renaming is no change: a module without parameters under another name, a class, a helper or a constant that is called
something else. What only training can notice is told apart from what changes every answer.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from relight.core.manifest import FunctionMake, Make, ModuleMake
from relight.core.target import ModelSpec
from relight.facts import data
from relight.facts.describe import where


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One module or attribute that is not what it was.

    Attributes:
        path: Module, as it is called today where it still is.
        name: Attribute; None for the module itself.
        saved: What it was, in words; None where there was nothing.
        now: What it is; None where there is nothing any more.
        line: Where it is assigned today.
        activation: Whether both are activations.
        only_training: Whether answers in eval mode are the same.
        certain: Whether the two really do something else; False where they may be the same under two names.
    """

    path: str
    name: str | None
    saved: str | None
    now: str | None
    line: str | None = None
    activation: bool = False
    only_training: bool = False
    certain: bool = True

    @property
    def label(self) -> str:
        """``blocks.0.act`` or ``norm.eps``."""
        return ".".join(p for p in (self.path, self.name) if p) or "the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionChange:
    """A function whose source is not what it was.

    Attributes:
        name: As it is called today.
        line: Where it begins today.
        lines: Lines of today that are new or different; empty where that could not be told.
        modules: Paths of the modules that reach it.
    """

    name: str
    line: str | None
    lines: tuple[int, ...] = ()
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TieChange:
    """Names of one tensor that are several today, or the other way round.

    Attributes:
        names: Of the parameters.
        tied: Whether they are one tensor today.
    """

    names: tuple[str, ...]
    tied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All that differs.

    Attributes:
        modules: Modules of another class, added or left out.
        attributes: Attributes with another value.
        functions: Functions of the user's with another source.
        hooks: Hooks that came or went.
        buffers: Buffers that no file holds, with another form or other values.
        ties: Parameters that were one tensor, or are one now.
        code_compared: Whether the code of every forward of then was compared with one of today.
    """

    modules: tuple[Change, ...] = ()
    attributes: tuple[Change, ...] = ()
    functions: tuple[FunctionChange, ...] = ()
    hooks: tuple[Change, ...] = ()
    buffers: tuple[Change, ...] = ()
    ties: tuple[TieChange, ...] = ()
    code_compared: bool = True

    @property
    def any(self) -> bool:
        """Whether anything differs that may change an answer."""
        if self.functions or self.hooks or self.buffers:
            return True
        return any(not c.only_training for c in (*self.modules, *self.attributes))


def module_paths(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Paths of modules then and now, from names of tensors then and now; where two tensors disagree, none.

    Args:
        pairs: (key in the file, key in the model).
    """
    found: dict[str, set[str]] = {}
    for old, new in pairs:
        a, b = old.split(".")[:-1], new.split(".")[:-1]
        while a and b:
            found.setdefault(".".join(a), set()).add(".".join(b))
            if a.pop() != b.pop():
                break
    return {old: next(iter(news)) for old, news in found.items() if len(news) == 1}


def compare(
    saved: Make,
    now: Make,
    spec: ModelSpec,
    keys: Sequence[str],
    *,
    whole: bool,
    renamed: Mapping[str, str] | None = None,
) -> Changes:
    """Compare two descriptions.

    Args:
        saved: Of the manifest.
        now: Of the model of today.
        spec: That model, for the lines of its source.
        keys: Keys of the file.
        whole: Whether all keys agree, be it under other names. Where they do not, only what has the same path is
            compared.
        renamed: Paths of modules that are called something else today.
    """
    return _Comparison(saved, now, spec, keys, whole=whole, renamed=renamed or {}).result()


class _Comparison:
    def __init__(
        self, saved: Make, now: Make, spec: ModelSpec, keys: Sequence[str], *, whole: bool, renamed: Mapping[str, str]
    ) -> None:
        self.saved, self.now, self.spec, self.whole = saved, now, spec, whole
        self.renamed = renamed
        self.facts = data.load("manifest")
        self.saved_names = _names(saved, keys)
        self.now_names = _names(now, [p.key for p in spec.params])
        self.pairs: list[tuple[ModuleMake, ModuleMake]] = []
        self.modules: list[Change] = []
        self.attributes: list[Change] = []
        self.code_compared = True
        self.hooks: list[Change] = []
        self.buffers: list[Change] = []
        self.functions: dict[str, FunctionChange] = {}

    def result(self) -> Changes:
        if self.saved.by_path.get("") is not None and self.now.by_path.get("") is not None:
            self._pair("", "")
        for before, after in self.pairs:
            self._compare(before, after)
        return Changes(
            modules=tuple(self.modules),
            attributes=tuple(self.attributes),
            functions=tuple(self.functions.values()),
            hooks=tuple(self.hooks),
            buffers=tuple(self.buffers),
            ties=tuple(self._ties()),
            code_compared=self.code_compared
            and {m.path for m in self.saved.modules if m.forward is not None}
            <= {before.path for before, _ in self.pairs},
        )

    # ---------------------------------------------------------------- which module is which

    def _pair(self, one: str, two: str) -> None:
        before, after = self.saved.by_path[one], self.now.by_path[two]
        self.pairs.append((before, after))
        old, new = self.saved.children(one), self.now.children(two)
        for name in old:
            if name in new:
                self._pair(_join(one, name), _join(two, name))
        gone, come = [n for n in old if n not in new], [n for n in new if n not in old]
        for name in list(gone):
            known = self.renamed.get(_join(one, name), "")
            if _parent(known) == two and known.rpartition(".")[2] in come:
                gone.remove(name)
                come.remove(known.rpartition(".")[2])
                self._pair(_join(one, name), known)
        if not self.whole:
            return
        in_order = before.name in self.facts["containers"]["called_in_order"]
        # Those of the same class first: a module without parameters that is only called something else.
        for name in list(gone):
            same = [n for n in come if self._class(self.now, two, n) == self._class(self.saved, one, name)]
            if same and not in_order:
                gone.remove(name)
                come.remove(same[0])
                self._pair(_join(one, name), _join(two, same[0]))
        if in_order:
            self._left_over(one, gone, two, come)
        else:
            # A forward of the user's says whether it uses them; one each can only stand for the other.
            for a, b in zip(list(gone), list(come), strict=False):
                if len(gone) == len(come) == 1:
                    self._pair(_join(one, a), _join(two, b))

    def _class(self, make: Make, parent: str, name: str) -> str:
        return make.by_path[_join(parent, name)].class_path

    def _left_over(self, one: str, gone: Iterable[str], two: str, come: Iterable[str]) -> None:
        for name in gone:
            row = self.saved.by_path[_join(one, name)]
            if row.name not in self.facts["nothing_done"]["classes"]:
                self._module(_join(one, name), row, None)
        for name in come:
            row = self.now.by_path[_join(two, name)]
            if row.name not in self.facts["nothing_done"]["classes"]:
                self._module(_join(two, name), None, row)

    def _module(self, path: str, before: ModuleMake | None, after: ModuleMake | None, *, certain: bool = True) -> None:
        quiet = (*self.facts["only_training"]["classes"], *self.facts["nothing_done"]["classes"])
        rows = [r for r in (before, after) if r is not None]
        losses = self.facts["only_training"]["modules"]
        self.modules.append(
            Change(
                path=path,
                name=None,
                saved=None if before is None else before.text,
                now=None if after is None else after.text,
                line=where(self.spec, path),
                activation=len(rows) == 2 and all(self._is_activation(r) for r in rows),
                only_training=all(r.name in quiet or r.class_path.rpartition(".")[0] in losses for r in rows),
                certain=certain,
            )
        )

    def _is_activation(self, row: ModuleMake) -> bool:
        return row.name in self.facts["activations"]["classes"]

    # ---------------------------------------------------------------- one pair

    def _compare(self, before: ModuleMake, after: ModuleMake) -> None:
        one = self.saved.functions.get(before.forward or "")
        two = self.now.functions.get(after.forward or "")
        users = before.package is None and after.package is None
        if (one is None) != (two is None):
            self.code_compared = False
        # Two classes of the user's at one place are the same module, whatever they are called: their code is compared.
        if _class_name(before) != _class_name(after) and not (users and (one is None) == (two is None)):
            if self._used(after):
                both_plain = before.package is not None and after.package is not None
                self._module(after.path, before, after, certain=both_plain)
            return
        self._attributes(before, after)
        self._hooks(before, after)
        self._buffers(before, after)
        if one is not None and two is not None:
            self._function(one, two, before, after, set())

    def _used(self, row: ModuleMake) -> bool:
        """Whether the forward that holds a module looks at it; yes where nobody can tell."""
        parent, _, name = row.path.rpartition(".")
        holder = self.now.by_path.get(parent)
        if not row.path or holder is None or holder.forward is None:
            return True
        return name in _read(self.now, holder.forward, set()) or not name.isidentifier()

    def _attributes(self, before: ModuleMake, after: ModuleMake) -> None:
        hidden = {*self.facts["without_effect"]["attributes"], *self.facts["volatile"]["attributes"]}
        training = self.facts["only_training"]
        quiet_names = training["class_attributes"].get(after.name, ())
        quiet = after.name in training["classes"] or after.class_path.rpartition(".")[0] in training["modules"]
        for name, text in before.attributes.items():
            other = after.attributes.get(name)
            if other is None or _same(text, other) or name.rpartition(".")[2] in hidden:
                continue
            self.attributes.append(
                Change(
                    path=after.path,
                    name=name,
                    saved=text,
                    now=other,
                    line=where(self.spec, f"{after.path}.{name}" if after.path else name),
                    activation=self._names_activation(text) and self._names_activation(other),
                    only_training=quiet or name in quiet_names,
                )
            )

    def _names_activation(self, text: str) -> bool:
        name = text.strip("'\"").rpartition(".")[2]
        facts = self.facts["activations"]
        return name in facts["functions"] or name in facts["classes"]

    def _hooks(self, before: ModuleMake, after: ModuleMake) -> None:
        """Hooks by the last part of their names: the file that defines them may have moved."""
        old, new = self._acting(before.hooks), self._acting(after.hooks)
        if Counter(_last(h) for h in old) == Counter(_last(h) for h in new):
            return
        for name, side, other in (("gone", old, new), ("new", new, old)):
            for hook in side:
                if _last(hook) in map(_last, other):
                    continue
                self.hooks.append(
                    Change(
                        path=after.path,
                        name=None,
                        saved=hook if name == "gone" else None,
                        now=hook if name == "new" else None,
                        line=where(self.spec, after.path),
                        certain=False,
                    )
                )

    def _acting(self, hooks: Iterable[str]) -> list[str]:
        watchers = self.facts["watchers"]["modules"]
        return [h for h in hooks if not any(h == w or h.startswith(f"{w}.") for w in watchers)]

    def _buffers(self, before: ModuleMake, after: ModuleMake) -> None:
        """Buffers that no file holds: the constructor alone says what is in them."""
        old, new = _below(self.saved.buffers, before.path), _below(self.now.buffers, after.path)
        for name in dict.fromkeys((*old, *new)):
            one, two = old.get(name), new.get(name)
            values = _moved(
                self.saved.buffer_values.get(_join(before.path, name)),
                self.now.buffer_values.get(_join(after.path, name)),
            )
            if one is not None and two is not None and one[1] == two[1] and _kind(one[0]) == _kind(two[0]):
                if not values:
                    continue
                forms: tuple[str | None, str | None] = values
            else:
                forms = _form(one), _form(two)
            self.buffers.append(
                Change(
                    path=after.path,
                    name=name,
                    saved=forms[0],
                    now=forms[1],
                    line=where(self.spec, _join(after.path, name)),
                    certain=False,
                )
            )

    def _ties(self) -> Iterator[TieChange]:
        if not self.whole:
            return
        known = {p.key for p in self.spec.params}
        for groups, others, tied in ((self.saved.tied, self.now.tied, False), (self.now.tied, self.saved.tied, True)):
            for names in groups:
                here = tuple(n for n in names if n in known)
                if len(here) > 1 and not any(set(here) <= set(other) for other in others):
                    yield TieChange(names=here, tied=tied)

    # ---------------------------------------------------------------- functions

    def _function(
        self, one: FunctionMake, two: FunctionMake, before: ModuleMake, after: ModuleMake, seen: set[tuple[str, str]]
    ) -> None:
        if (one.name, two.name) in seen:
            return
        seen.add((one.name, two.name))
        if one.digest != two.digest or not self._same_names(one, two, before, after):
            self._note(one, two, after)
        for a, b in _calls(one, two):
            first, second = self.saved.functions.get(a or ""), self.now.functions.get(b or "")
            if first is not None and second is not None:
                self._function(first, second, before, after, seen)

    def _same_names(self, one: FunctionMake, two: FunctionMake, before: ModuleMake, after: ModuleMake) -> bool:
        """Whether the attributes of ``self`` are the same ones, be it under new names."""
        if len(one.attributes) != len(two.attributes):
            return False
        old, new = self.saved_names.get(before.path, frozenset()), self.now_names.get(after.path, frozenset())
        paths = {p[0].path: p[1].path for p in self.pairs}
        for a, b in zip(one.attributes, two.attributes, strict=True):
            if a == b:
                continue
            if paths.get(_join(before.path, a)) == _join(after.path, b):
                continue
            if a in old and a not in new and b in new and b not in old:
                first, second = before.attributes.get(a), after.attributes.get(b)
                if first is not None and second is not None and _same(first, second):
                    continue
            return False
        return True

    def _note(self, one: FunctionMake, two: FunctionMake, after: ModuleMake) -> None:
        known = self.functions.get(two.name)
        modules = (after.path,) if known is None else (*known.modules, after.path)
        lines = _lines(one, two) if known is None else known.lines
        self.functions[two.name] = FunctionChange(name=two.name, line=two.line, lines=lines, modules=modules)


def _last(hook: str) -> str:
    return hook.rpartition(".")[2]


def _below(buffers: Mapping[str, tuple[str, tuple[int, ...]]], path: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Those of one module, by their names in it."""
    return {name: form for key, form in buffers.items() for at, _, name in (key.rpartition("."),) if at == path}


def _kind(dtype: str) -> str:
    """Training in half precision changes the type of a buffer, not what it is."""
    return "float" if "float" in dtype else dtype


def _form(form: tuple[str, tuple[int, ...]] | None) -> str | None:
    return None if form is None else f"{form[0]} {list(form[1])}"


def _moved(old: tuple[float, ...] | None, new: tuple[float, ...] | None) -> tuple[str, str] | None:
    """The first number that is another one, then and now, in words; a GPU computes a little differently."""
    if old is None or new is None or len(old) != len(new) or len(old) < 4:
        return None
    spread = max(old[1], 1e-3 * max(abs(old[0]), abs(old[2]), abs(old[3])), 1e-6)
    for i, (a, b) in enumerate(zip(old, new, strict=True)):
        if a != b and str(a) != str(b) and not abs(a - b) <= 1e-2 * spread:
            label = ("mean", "deviation", "least", "largest")[i] if i < 4 else "a value"
            return f"{label} {a:.5g}", f"{label} {b:.5g}"
    return None


def _class_name(row: ModuleMake) -> str:
    """The class of a library by its whole path, one of the user's by its name: the file may have moved."""
    if row.package is None:
        return row.name
    # A lazy layer that has met an input is of the plain class, a reparametrised one of a class made on the spot.
    name = row.name
    if row.package == "torch":
        name = name.removeprefix("Parametrized").removeprefix("Lazy")
    return f"{row.package}.{name}"


def _calls(one: FunctionMake, two: FunctionMake) -> Iterator[tuple[str | None, str | None]]:
    if one.digest == two.digest:
        yield from zip(one.calls, two.calls, strict=False)
    else:
        # A class may be called something else today: its methods by their own names.
        known = {_last(name): name for name in two.calls if name is not None}
        yield from ((name, known[_last(name)]) for name in one.calls if name is not None and _last(name) in known)


def _lines(one: FunctionMake, two: FunctionMake) -> tuple[int, ...]:
    matcher = SequenceMatcher(None, [d for d, _ in one.statements], [d for d, _ in two.statements], autojunk=False)
    out: list[int] = []
    for tag, _, _, start, end in matcher.get_opcodes():
        if tag == "equal":
            continue
        rows = two.statements[start:end] or two.statements[start : start + 1] or two.statements[-1:]
        out += [line for _, line in rows]
    return tuple(dict.fromkeys(out))


def _read(make: Make, name: str, seen: set[str]) -> set[str]:
    """Attributes of ``self`` that a function and what it calls look at."""
    function = make.functions.get(name)
    if function is None or name in seen:
        return set()
    seen.add(name)
    out = set(function.attributes)
    for inner in function.calls:
        out |= _read(make, inner or "", seen)
    return out


def _names(make: Make, keys: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """Per module: what its attributes are called, as far as anybody wrote them down."""
    out: dict[str, set[str]] = {m.path: set(m.attributes) for m in make.modules}
    for m in make.modules:
        if m.path:
            parent, _, name = m.path.rpartition(".")
            out.setdefault(parent, set()).add(name)
    for key in keys:
        parent, _, name = key.rpartition(".")
        out.setdefault(parent, set()).add(name)
    return {path: frozenset(names) for path, names in out.items()}


def _same(one: str, two: str) -> bool:
    """Whether two texts are the same value: ``1`` and ``1.0``."""
    if one == two:
        return True
    try:
        return bool(ast.literal_eval(one) == ast.literal_eval(two))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
