"""What ``load_state_dict`` will say about the keys: a faithful static rendering of torch's own algorithm.

Source: ``torch/nn/modules/module.py`` of torch 2.13, ``Module.load_state_dict`` and ``_load_from_state_dict``; the
special cases of batch norm (``batchnorm.py``), lazy modules (``lazy.py``) and the two forms of weight_norm
(``utils/parametrizations.py``) are those that torch itself carries. The oracle tests compare every line with torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relight.core.checkpoint import Checkpoint, TensorEntry
from relight.core.target import ModelSpec, ParamSpec, Rehearsal
from relight.facts.versions import at_least

# Load hooks that this module renders; a module with any other hook makes the comparison a guess.
RENDERED_HOOKS = frozenset(
    {
        "torch.nn.modules.batchnorm._NormBase._load_from_state_dict",
        "torch.nn.modules.instancenorm._InstanceNorm._load_from_state_dict",
        "torch.nn.modules.lazy.LazyModuleMixin._lazy_load_hook",
        "torch.nn.utils.parametrizations.weight_norm.<locals>._weight_norm_compat_hook",
    }
)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A key that both sides have with another shape.

    Attributes:
        key: The key.
        saved: Shape in the checkpoint.
        wanted: Shape in the model.
    """

    key: str
    saved: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDiff:
    """Result of the comparison.

    Attributes:
        missing: In the model, not in the checkpoint, in torch's order.
        unexpected: In the checkpoint, not in the model, in torch's order.
        mismatched: In both, with other shapes.
        matched: In both, fitting.
        filled: Keys that the file lacks and torch fills in by itself (``num_batches_tracked`` of old files).
        other_errors: Further lines of torch's message.
        uncertain: Why the comparison is a guess, one line each; empty when it is exact.
        rehearsed: Whether the real class confirmed it.
        class_name: Name in the message.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    matched: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    other_errors: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    rehearsed: bool = False
    class_name: str = ""

    @property
    def clean(self) -> bool:
        """Nothing differs."""
        return not (self.missing or self.unexpected or self.mismatched or self.other_errors)

    def message(self, *, strict: bool) -> str | None:
        """The text of the RuntimeError that ``load_state_dict(strict=...)`` raises; None where it raises nothing."""
        lines: list[str] = []
        if strict and self.missing:
            lines.append("Missing key(s) in state_dict: {}. ".format(", ".join(f'"{k}"' for k in self.missing)))
        if strict and self.unexpected:
            lines.append("Unexpected key(s) in state_dict: {}. ".format(", ".join(f'"{k}"' for k in self.unexpected)))
        lines.extend(
            f"size mismatch for {m.key}: copying a param with shape torch.Size({list(m.saved)}) from checkpoint, "
            f"the shape in current model is torch.Size({list(m.wanted)})."
            for m in self.mismatched
        )
        lines.extend(self.other_errors)
        if not lines:
            return None
        return "Error(s) in loading state_dict for {}:\n\t{}".format(self.class_name, "\n\t".join(lines))


@dataclass(slots=True)
class _Walk:
    """State of one rendering."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[Mismatch] = field(default_factory=list)
    matched: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)


def compare(
    checkpoint: Checkpoint, spec: ModelSpec, rehearsal: Rehearsal | None = None, *, torch: str | None = None
) -> KeyDiff:
    """What torch finds when this state_dict is loaded into this model.

    Args:
        checkpoint: Source of keys, shapes and ``_metadata``.
        spec: The model.
        rehearsal: What the real class said, where it was asked: it overrules the rendering.
        torch: Version that compares, None if it is not known: then a new one is taken.
    """
    entries: dict[str, TensorEntry | None] = {t.key: t for t in checkpoint.tensors}
    entries.update(dict.fromkeys(checkpoint.extra_keys))
    static = _render(entries, spec, checkpoint.metadata, lenient=at_least(torch, "2.4") is False)
    return static if rehearsal is None else _overruled(static, entries, spec, rehearsal)


def _render(
    entries: Mapping[str, TensorEntry | None],
    spec: ModelSpec,
    metadata: Mapping[str, int | None] | None,
    *,
    lenient: bool,
) -> KeyDiff:
    walk = _Walk()
    by_owner: dict[str, list[ParamSpec]] = {}
    for param in spec.params:
        by_owner.setdefault(_owner(param.key), []).append(param)
    paths = [m.path for m in spec.modules] or [""]
    child_names: dict[str, set[str]] = {}
    for path in paths:
        if path:
            child_names.setdefault(_owner(path), set()).add(path.rpartition(".")[2])
    keys_under = _keys_by_first_names(entries, paths)
    hooks = {m.path: m.load_hooks for m in spec.modules}
    state = dict(entries)
    for path in paths:
        version = None if metadata is None else metadata.get(path)
        _apply_hooks(walk, path, hooks.get(path, ()), state, by_owner.get(path, []), version)
        _load_own(walk, path, state, by_owner.get(path, []), hooks.get(path, ()))
        own, children = by_owner.get(path, []), child_names.get(path, set())
        _find_unexpected(walk, path, state, keys_under.get(path, ()), own, children, lenient=lenient)
    return KeyDiff(
        missing=tuple(walk.missing),
        unexpected=tuple(walk.unexpected),
        mismatched=tuple(walk.mismatched),
        matched=tuple(walk.matched),
        filled=tuple(walk.filled),
        other_errors=tuple(walk.other),
        uncertain=tuple(walk.uncertain),
        class_name=spec.class_name,
    )


def _owner(key: str) -> str:
    return key.rpartition(".")[0]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _keys_by_first_names(entries: Mapping[str, object], paths: Sequence[str]) -> dict[str, list[str]]:
    """For each module of the model, the file's keys that lie under it: each key is listed along its own chain only."""
    known = set(paths)
    under: dict[str, list[str]] = {}
    for key in entries:
        path = ""
        under.setdefault("", []).append(key)
        for step in key.split(".")[:-1]:
            path = _join(path, step)
            if path not in known:
                break
            under.setdefault(path, []).append(key)
    return under


def _apply_hooks(
    walk: _Walk,
    path: str,
    hooks: Sequence[str],
    state: dict[str, TensorEntry | None],
    params: Sequence[ParamSpec],
    version: int | None,
) -> None:
    for hook in hooks:
        if hook not in RENDERED_HOOKS:
            walk.uncertain.append(f"{path or 'the model'} changes the state_dict while loading ({hook})")
        elif hook.endswith("_weight_norm_compat_hook"):
            # torch/nn/utils/parametrizations.py: the names of the old weight_norm are read as the new ones.
            for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
                if _join(path, old) in state:
                    state[_join(path, f"parametrizations.weight.{new}")] = state.pop(_join(path, old))
        elif hook.endswith("_NormBase._load_from_state_dict") and (version is None or version < 2):
            key = _join(path, "num_batches_tracked")
            if key not in state and any(p.key == key for p in params):
                walk.filled.append(key)
        elif hook.endswith("_InstanceNorm._load_from_state_dict") and version is None:
            owned = {p.key for p in params}
            stats = [_join(path, n) for n in ("running_mean", "running_var")]
            if any(k in state and k not in owned for k in stats):
                walk.uncertain.append(f"{path}: old running statistics of an InstanceNorm")


def _load_own(
    walk: _Walk,
    path: str,
    state: Mapping[str, TensorEntry | None],
    params: Sequence[ParamSpec],
    hooks: Sequence[str],
) -> None:
    for param in params:
        if not param.persistent:
            continue
        if param.key not in state:
            if param.key not in walk.filled:
                walk.missing.append(param.key)
            continue
        entry = state[param.key]
        if param.kind == "extra_state":
            walk.matched.append(param.key)
        elif entry is None:
            walk.uncertain.append(f"{param.key}: the file holds an object where the model has a tensor")
        elif param.shape is None or _same_shape(entry.shape, param.shape):
            walk.matched.append(param.key)
        else:
            walk.mismatched.append(Mismatch(param.key, entry.shape, param.shape))


def _same_shape(saved: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    # A one-element vector still loads into a scalar: files of torch 0.3 had no scalars (module.py).
    return saved == wanted or (wanted == () and saved == (1,))


def _find_unexpected(
    walk: _Walk,
    path: str,
    state: Mapping[str, TensorEntry | None],
    under: Sequence[str],
    params: Sequence[ParamSpec],
    children: set[str],
    *,
    lenient: bool,
) -> None:
    """Keys below a module that it has no place for.

    Before torch 2.4 only the first name behind the module was looked at, and any of its own would do: a key below the
    name of a parameter (``fc.weight.absmax``) passed. Source: torch/nn/modules/module.py of 2.3 and 2.4.
    """
    own = {p.key for p in params if p.persistent}
    prefix = f"{path}." if path else ""
    extra = prefix + "_extra_state"
    if extra in state and extra not in own:
        walk.unexpected.append(extra)
    for key in under:
        if key not in state or key == extra:  # renamed by a hook
            continue
        first, dot, _ = key[len(prefix) :].partition(".")
        if lenient and (first in children or prefix + first in own):
            continue
        if (dot and first not in children) or (not dot and key not in own):
            walk.unexpected.append(key)


_MISMATCH = re.compile(
    r"size mismatch for (.+?): copying a param with shape torch\.Size\(\[([\d, ]*)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[([\d, ]*)\]\)"
)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(s) for s in text.split(",") if s.strip())


def _overruled(
    static: KeyDiff, entries: Mapping[str, TensorEntry | None], spec: ModelSpec, rehearsal: Rehearsal
) -> KeyDiff:
    """What the real class said, in the terms of the rendering."""
    if rehearsal.ok is None or rehearsal.stage not in (None, "load_state_dict"):
        return static
    mismatched = tuple(
        Mismatch(m.group(1), _sizes(m.group(2)), _sizes(m.group(3))) for m in _MISMATCH.finditer(rehearsal.message)
    )
    different = {*rehearsal.missing, *rehearsal.unexpected, *(m.key for m in mismatched)}
    lines = rehearsal.message.split("\n\t")[1:]
    other = tuple(s for s in lines if not s.startswith(("Missing key(s)", "Unexpected key(s)", "size mismatch for ")))
    return KeyDiff(
        missing=rehearsal.missing,
        unexpected=rehearsal.unexpected,
        mismatched=mismatched,
        matched=tuple(p.key for p in spec.persistent if p.key in entries and p.key not in different),
        filled=static.filled,
        other_errors=other,
        rehearsed=True,
        class_name=static.class_name,
    )
