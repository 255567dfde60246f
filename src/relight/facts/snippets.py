"""Short programs to paste: they load, change keys, and save under another name. The user's file stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relight.facts.facts import Facts
from relight.facts.question import literal

_TRUST = "  # unpickles everything in the file: for one that you trust"


def rewrite_keys(facts: Facts, pairs: Sequence[tuple[str, str]]) -> str:
    """Code that renames keys: by one replacement where that does it, by a prefix table otherwise."""
    return _program(facts, _renaming(facts, pairs))


def drop_keys(facts: Facts, keys: Sequence[str]) -> str:
    """Code that leaves keys out."""
    first, last = min(keys), max(keys)  # what these two share all of them share
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    prefix = first[: first.rfind(".", 0, common) + 1]
    others = [t.key for t in facts.checkpoint.tensors if t.key not in set(keys)]
    if prefix and not any(k.startswith(prefix) for k in others):
        return _program(facts, f"{{k: v for k, v in state.items() if not k.startswith({literal(prefix)})}}")
    listed = ", ".join(literal(k) for k in keys)
    return _program(facts, f"{{k: v for k, v in state.items() if k not in ({listed},)}}")


def _program(facts: Facts, expression: str, *before: str) -> str:
    """A program that replaces the state_dict by an expression of the old one, ``state``."""
    path = facts.checkpoint.state_dict_path
    state = f"ckpt[{literal(str(path[0]))}]" if path else "ckpt"
    return _edited(facts, f"state = {state}", *before, f"{state} = {expression}")


def _edited(facts: Facts, *lines: str) -> str:
    """A program that loads the file as ``ckpt``, does what the lines say, and saves it under another name."""
    safe = facts.blocked is None
    load = f'ckpt = torch.load({literal(facts.question.path)}, map_location="cpu", weights_only={safe})'
    return "\n".join(
        [
            "import torch",
            load if safe else load + _TRUST,
            *lines,
            f"torch.save(ckpt, {literal(facts.question.fixed_path())})",
        ]
    )


def _renaming(facts: Facts, pairs: Sequence[tuple[str, str]]) -> str:
    wanted = dict(pairs)
    every = [t.key for t in facts.checkpoint.tensors] + list(facts.checkpoint.extra_keys)

    def does_it(change: object) -> bool:
        return callable(change) and all(change(k) == wanted.get(k, k) for k in every)

    for old, new in _candidates(pairs):
        if old and does_it(lambda k, o=old, n=new: n + k[len(o) :] if k.startswith(o) else k):
            changed = f"{literal(new)} + k[{len(old)}:]" if new else f"k[{len(old)}:]"
            return f"{{{changed} if k.startswith({literal(old)}) else k: v for k, v in state.items()}}"
        if old and does_it(lambda k, o=old, n=new: k.replace(o, n)):
            return f"{{k.replace({literal(old)}, {literal(new)}): v for k, v in state.items()}}"
        if not old and does_it(lambda k, n=new: n + k):
            return f"{{{literal(new)} + k: v for k, v in state.items()}}"
    table = ", ".join(f"{literal(o)}: {literal(n)}" for o, n in pairs)
    return f"{{{{{table}}}.get(k, k): v for k, v in state.items()}}"


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
