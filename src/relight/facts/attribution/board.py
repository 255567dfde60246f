"""What the matchers work on: keys that are still unexplained, and the explanations found so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from relight.core.checkpoint import Checkpoint, TensorEntry
from relight.core.target import ModelSpec, ParamSpec
from relight.facts.keys import KeyDiff, Mismatch

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Keys that one cause accounts for.

    Attributes:
        kind: Which reading: ``wrapper``, ``tied``, ``adapter``, ``copy``, ``quantised``, ``form``, ``norm-kind``,
            ``index-shift``, ``renamed``, ``fused``, ``converted``, ``buffer``, ``loss-buffer``, ``metric-state``,
            ``counter``, ``library-buffer``, ``helper``, ``variant``, ``head``, ``vocabulary``, ``positions``,
            ``kernel``, ``channels``, ``transposed``, ``size``, ``argument``, ``added``, ``removed``.
        cause: Id in the catalogue of known failures.
        missing: Missing keys that it accounts for.
        unexpected: Unexpected keys.
        mismatched: Keys with another shape.
        pairs: (key in the checkpoint, key in the model), where it says that they are the same tensor.
        certain: False where other readings fit the file as well.
        about: Further facts for the wording.
    """

    kind: str
    cause: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    certain: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> frozenset[str]:
        """All keys that it accounts for."""
        return frozenset((*self.missing, *self.unexpected, *(m.key for m in self.mismatched)))


class Board:
    """What is still unexplained, and what matchers need to look up."""

    def __init__(self, diff: KeyDiff, checkpoint: Checkpoint, spec: ModelSpec) -> None:
        self.diff = diff
        self.spec = spec
        self.entries: dict[str, TensorEntry] = {t.key: t for t in checkpoint.tensors}
        self.params: dict[str, ParamSpec] = {p.key: p for p in spec.params}
        self.modules = {m.path: m for m in spec.modules}
        self.missing = dict.fromkeys(diff.missing)
        # Keys that the file lacks and torch fills in: nobody misses them, but a rename moves them with the rest.
        self.filled = frozenset(diff.filled)
        self.unexpected = dict.fromkeys(diff.unexpected)
        self.mismatched = {m.key: m for m in diff.mismatched}
        self.explanations: list[Explanation] = []
        self.saved_modules = _prefixes(self.entries)
        self.wanted_modules = _prefixes(self.params)

    def saved(self, key: str) -> Shape | None:
        """Shape in the file; None if it is not there."""
        entry = self.entries.get(key)
        return None if entry is None else entry.shape

    def wanted(self, key: str) -> Shape | None:
        """Shape in the model; None if it is not there, or lazy."""
        param = self.params.get(key)
        return None if param is None else param.shape

    def fits(self, old: str, new: str) -> bool:
        """Whether the file's tensor ``old`` could be the model's ``new``: both sides known and equal, or lazy."""
        param, entry = self.params.get(new), self.entries.get(old)
        if param is None or entry is None:
            return False
        return param.shape is None or param.shape == entry.shape

    def add(self, explanation: Explanation) -> None:
        """Record an explanation; its keys are explained from now on."""
        for key in explanation.missing:
            del self.missing[key]
        for key in explanation.unexpected:
            del self.unexpected[key]
        for m in explanation.mismatched:
            del self.mismatched[m.key]
        self.explanations.append(explanation)


def _prefixes(keys: Iterable[str]) -> frozenset[str]:
    """Every module that keys lie in, the root too."""
    out = {""}
    for key in keys:
        end = key.rfind(".")
        while end > 0 and key[:end] not in out:
            out.add(key[:end])
            end = key.rfind(".", 0, end)
    return frozenset(out)
