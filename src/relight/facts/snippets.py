"""Short programs to paste: they load, change keys, and save under another name. The user's file stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relight.facts.facts import Facts
from relight.facts.mapper.layers import Tensor
from relight.facts.mapper.mapping import map_keys
from relight.facts.patterns import ends_cut
from relight.facts.question import literal

_TRUST = "  # unpickles everything in the file: for one that you trust"


def rewrite_keys(facts: Facts, pairs: Sequence[tuple[str, str]]) -> str:
    """Code that renames keys: by one replacement where that does it, by a table otherwise.

    The table is of prefixes where they are fewer; where even those are many, the code asks the key mapper again.
    """
    return _program(facts, *_renaming(facts, pairs))


def drop_keys(facts: Facts, keys: Sequence[str]) -> str:
    """Code that leaves keys out."""
    first, last = min(keys), max(keys)  # what these two share all of them share
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    prefix = first[: first.rfind(".", 0, common) + 1]
    every = [*(t.key for t in facts.checkpoint.tensors), *facts.checkpoint.extra_keys]
    dropped = set(keys)
    others = [k for k in every if k not in dropped]
    if prefix and not any(k.startswith(prefix) for k in others):
        return _program(facts, f"{{k: v for k, v in state.items() if not k.startswith({literal(prefix)})}}")
    beginnings = _beginnings(keys, others)
    if len(beginnings) == len(keys):
        return _program(facts, "{k: v for k, v in state.items() if k not in dropped}", f"dropped = {_tuple(keys)}")
    # A whole name among them is told from the beginning of a longer one by the dot behind it.
    whole = any(not b.endswith(".") for b in beginnings)
    listed = [b if b.endswith(".") else f"{b}." for b in beginnings]
    begins = '(k + ".").startswith(dropped)' if whole else "k.startswith(dropped)"
    return _program(facts, f"{{k: v for k, v in state.items() if not {begins}}}", f"dropped = {_tuple(listed)}")


def _beginnings(keys: Sequence[str], others: Sequence[str]) -> list[str]:
    """The shortest beginnings, up to a dot, that all of the keys have and none of the others; else whole keys."""
    taken = {k[: i + 1] for k in others for i, c in enumerate(k) if c == "."}
    out: dict[str, None] = {}
    for key in keys:
        ends = (key[: i + 1] for i, c in enumerate(key) if c == ".")
        out[next((p for p in ends if p not in taken), key)] = None
    return list(out)


def _tuple(names: Sequence[str]) -> str:
    """A tuple of texts as code, in lines of a width that can be read; one text is a tuple, too."""
    rows = [""]
    for name in names:
        entry = f"{literal(name)},"
        if rows[-1] and len(rows[-1]) + 1 + len(entry) > _WIDTH:
            rows.append("")
        rows[-1] += f" {entry}" if rows[-1] else entry
    if len(rows) == 1:
        return f"({rows[0] if len(names) == 1 else rows[0][:-1]})"
    return "(\n" + "".join(f"    {row}\n" for row in rows) + ")"


_WIDTH = 92  # columns of a line of code


def load_loosely(facts: Facts) -> str:
    """The call with ``strict=False``; without Lightning, the three steps of it."""
    if facts.calls_lightning:
        return facts.question.load_call(strict=False)
    safe = facts.blocked is None
    path = facts.checkpoint.state_dict_path
    inside = "".join(f"[{literal(str(step))}]" for step in path or ())
    load = f'ckpt = torch.load({literal(facts.question.path)}, map_location="cpu", weights_only={safe})'
    return "\n".join(
        [
            "import torch",
            load if safe else load + _TRUST,
            f"model = {facts.question.class_name or 'MyModel'}()  # with the arguments of the training",
            f"model.load_state_dict(ckpt{inside}, strict=False)",
        ]
    )


def _program(facts: Facts, expression: str, *before: str) -> str:
    """A program that replaces the state_dict by an expression of the old one, ``state``."""
    state = "ckpt" + "".join(f"[{literal(str(step))}]" for step in facts.checkpoint.state_dict_path or ())
    return _edited(facts, f"state = {state}", *before, f"{state} = {expression}")


def _edited(facts: Facts, *lines: str) -> str:
    """A program that loads the file as ``ckpt``, does what the lines say, and saves it under another name."""
    safe = facts.blocked is None
    load = f'ckpt = torch.load({literal(facts.question.path)}, map_location="cpu", weights_only={safe})'
    return "\n".join(
        [
            *(["import relight"] if any("relight." in line for line in lines) else []),
            "import torch",
            load if safe else load + _TRUST,
            *lines,
            f"torch.save(ckpt, {literal(facts.question.fixed_path())})",
        ]
    )


def _renaming(facts: Facts, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The expression of the renamed state_dict, and what has to stand before it."""
    wanted = dict(pairs)
    every = [t.key for t in facts.checkpoint.tensors] + list(facts.checkpoint.extra_keys)

    def does_it(change: object) -> bool:
        return callable(change) and all(change(k) == wanted.get(k, k) for k in every)

    for old, new in _candidates(pairs):
        if old and does_it(lambda k, o=old, n=new: n + k[len(o) :] if k.startswith(o) else k):
            changed = f"{literal(new)} + k[{len(old)}:]" if new else f"k[{len(old)}:]"
            return (f"{{{changed} if k.startswith({literal(old)}) else k: v for k, v in state.items()}}",)
        if old and does_it(lambda k, o=old, n=new: k.replace(o, n)):
            return (f"{{k.replace({literal(old)}, {literal(new)}): v for k, v in state.items()}}",)
        if not old and does_it(lambda k, n=new: n + k):
            return (f"{{{literal(new)} + k: v for k, v in state.items()}}",)
    prefixes: dict[str, str] = {}
    for old, new in pairs:
        prefixes.setdefault(*ends_cut(old, new))
    if len(prefixes) < len(pairs) and does_it(lambda k: _by_prefix(prefixes, k)):
        if len(prefixes) <= _MOST_NAMES:
            return _PREFIXED, f"names = {_table(prefixes)}"
    elif len(pairs) <= _MOST_NAMES:
        return "{names.get(k, k): v for k, v in state.items()}", f"names = {_table(wanted)}"
    target = facts.question.target
    if target is not None and _mapped(facts, wanted):
        return (
            "{names.get(k, k): v for k, v in state.items()}",
            f"found = relight.map_keys({literal(facts.question.path)}, {literal(target)})",
            'names = {p.source[0]: key for key, p in found.pairs.items() if p.op == "copy"}',
        )
    if len(prefixes) < len(pairs) and does_it(lambda k: _by_prefix(prefixes, k)):
        return _PREFIXED, f"names = {_table(prefixes)}"
    return "{names.get(k, k): v for k, v in state.items()}", f"names = {_table(wanted)}"


_MOST_NAMES = 12  # entries of a table that somebody would still read
_PREFIXED = '{next((n + k[len(o):] for o, n in names.items() if k == o or k.startswith(o + ".")), k): v for k, v in state.items()}'


def _mapped(facts: Facts, wanted: Mapping[str, str]) -> bool:
    """Whether the key mapper, asked again, gives these names and no others."""
    found = map_keys(
        [Tensor(e.key, e.shape, e.dtype) for e in facts.checkpoint.tensors],
        [Tensor(p.key, p.shape, p.dtype or "") for p in facts.spec.params if p.persistent and p.shape is not None],
    )
    names = {p.source[0]: key for key, p in found.pairs.items() if p.op == "copy"}
    return {o: n for o, n in names.items() if o != n} == dict(wanted)


def _table(names: Mapping[str, str]) -> str:
    """A dict as code, an entry a line where it has several."""
    if len(names) == 1:
        return "{" + ", ".join(f"{literal(o)}: {literal(n)}" for o, n in names.items()) + "}"
    return "{\n" + "".join(f"    {literal(o)}: {literal(n)},\n" for o, n in names.items()) + "}"


def _by_prefix(prefixes: Mapping[str, str], key: str) -> str:
    return next((n + key[len(o) :] for o, n in prefixes.items() if key == o or key.startswith(o + ".")), key)


def _candidates(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Replacements that the first pair suggests: what is left of it without the common beginning and end."""
    old, new = pairs[0]
    a, b = old.split("."), new.split(".")
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    out = []
    for lead in (start, 0):
        x, y = a[lead : len(a) - end], b[lead : len(b) - end]
        tail = "." if end else ""
        out.append((".".join(x) + tail if x else "", ".".join(y) + tail if y else ""))
    return out


def rewrite_prefixes(facts: Facts, prefixes: Mapping[str, str], pairs: Sequence[tuple[str, str]] = ()) -> str:
    """Code that renames whole subtrees by a table that a person is to check."""
    table = dict(prefixes)
    if pairs:
        table.update(dict(pairs))
    listed = ", ".join(f"{literal(o)}: {literal(n)}" for o, n in table.items())
    return _program(
        facts,
        '{next((n + k[len(o):] for o, n in names.items() if k == o or k.startswith(o + ".")), k): v '
        "for k, v in state.items()}",
        f"names = {{{listed}}}",
    )


def add_names(facts: Facts, pairs: Sequence[tuple[str, str]]) -> str:
    """Code that stores tensors under a second name as well: (existing key, new key)."""
    listed = ", ".join(f"{literal(n)}: state[{literal(o)}]" for o, n in pairs)
    return _program(facts, f"{{**state, {listed}}}")


def take_copy(facts: Facts, live: Mapping[str, str], copy: Sequence[str]) -> str:
    """Code that puts a second copy of a network in the place of the live one: live key by key of the copy."""
    listed = ", ".join(f"{literal(o)}: {literal(n)}" for o, n in live.items())
    rest = ", ".join(literal(k) for k in copy if k not in live)
    dropped = f" | {{{rest}}}" if rest else ""
    return _program(
        facts,
        "{**{k: v for k, v in state.items() if k not in dropped}, **{n: state[o] for o, n in names.items()}}",
        f"names = {{{listed}}}",
        f"dropped = set(names){dropped}",
    )


def convert(facts: Facts) -> str:
    """Code that does all that the key mapper finds: names, and tensors that are turned, cut or put together."""
    return _program(
        facts,
        "found.convert(state)",
        f"found = relight.map_keys({literal(facts.question.path)}, {literal(facts.question.target)})",
    )


def fuse(facts: Facts, groups: Mapping[str, Sequence[str]]) -> str:
    """Code that concatenates parts along the first dimension."""
    parts = "{" + ", ".join(f"{literal(w)}: {list(p)!r}" for w, p in groups.items()) + "}"
    return _program(
        facts,
        "{**{k: v for k, v in state.items() if not any(k in p for p in parts.values())}, "
        "**{w: torch.cat([state[k] for k in p]) for w, p in parts.items()}}",
        f"parts = {parts}",
    )


def split(facts: Facts, groups: Mapping[str, Sequence[str]]) -> str:
    """Code that splits wholes along the first dimension into equal or differently sized parts."""
    params = {p.key: p for p in facts.spec.params}
    sizes = {w: [(k, (params[k].shape or (0,))[0]) for k in parts] for w, parts in groups.items()}
    return _program(
        facts,
        "{**{k: v for k, v in state.items() if k not in parts}, "
        "**{k: t.clone() for w, p in parts.items() "
        "for (k, _), t in zip(p, torch.split(state[w], [n for _, n in p]))}}",
        f"parts = {sizes!r}",
    )


def stand_ins(facts: Facts, names: Sequence[tuple[str, str]], parents: Sequence[str] = ()) -> str:
    """Code that loads the weights with empty classes in place of (module, name) that are not there."""
    path = facts.checkpoint.state_dict_path
    inside = "".join(f"[{literal(str(step))}]" for step in path or ())
    listed = ", ".join(f"({literal(m)}, {literal(n)})" for m, n in names)
    return "\n".join(
        [
            f"import {', '.join([*parents, 'sys', 'types'])}",
            "import torch",
            "class StandIn(dict):",
            "    def __init__(self, *args, **kwargs): pass",
            f"for module, name in [{listed}]:",
            '    parts = module.split(".")',
            "    for i in range(len(parts)):",
            '        sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(parts[i]))',
            "    setattr(sys.modules[module], name, StandIn)",
            f'ckpt = torch.load({literal(facts.question.path)}, map_location="cpu", weights_only=False){_TRUST}',
            f"model = {facts.question.class_name or 'MyModel'}()  # with the arguments of the training",
            f"model.load_state_dict(ckpt{inside})",
        ]
    )


def set_entry(facts: Facts, key: str, value: object) -> str:
    """Code that sets one top-level entry."""
    return set_entries(facts, {key: value})


def set_entries(facts: Facts, entries: Mapping[str, object]) -> str:
    """Code that sets top-level entries."""
    return _edited(facts, *(f"ckpt[{literal(key)}] = {literal(value)}" for key, value in entries.items()))


def drop_hparam(facts: Facts, key: str, name: str) -> str:
    """Code that takes one name out of the hyper_parameters."""
    return _edited(facts, f"del ckpt[{literal(key)}][{literal(name)}]")


def rename_entry(facts: Facts, old: str, new: str) -> str:
    """Code that moves one top-level entry to another key."""
    return _edited(facts, f"ckpt[{literal(new)}] = ckpt.pop({literal(old)})")


def take_entry(facts: Facts, name: str, instead_of: str) -> str:
    """Code that puts one top-level entry in the place of another."""
    return _edited(facts, f"ckpt[{literal(instead_of)}] = ckpt[{literal(name)}]")


def open_struct(facts: Facts) -> str:
    """Code that lets an OmegaConf configuration take new keys."""
    return _edited(facts, "from omegaconf import OmegaConf", 'OmegaConf.set_struct(ckpt["hyper_parameters"], False)')


def namespace_to_dict(facts: Facts) -> str:
    """Code that turns the hyper_parameters from a Namespace into a dict."""
    return _edited(facts, 'ckpt["hyper_parameters"] = vars(ckpt["hyper_parameters"])')
