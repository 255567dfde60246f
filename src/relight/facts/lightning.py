"""The Lightning view of a checkpoint: the keys that Lightning writes and reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from relight.core.checkpoint import Checkpoint
from relight.core.objects import Call, DictNode, Global, ListNode, Value, mapping_get, mapping_has, mapping_pairs
from relight.facts import data

VERSION_KEY = "pytorch-lightning_version"
# Source: files that 0.7.6 wrote.
_BEFORE_0_8 = {"epoch", "global_step", "state_dict"}
_ONLY_LIGHTNING = {"optimizer_states", "lr_schedulers", "hparams", "hparams_type", "checkpoint_callback_best"}


@dataclass(frozen=True)
class LightningView:
    """What Lightning would find in the root object.

    Attributes:
        checkpoint: The checkpoint that is looked at.
    """

    checkpoint: Checkpoint

    @property
    def root(self) -> Value:
        """The pickled object."""
        return self.checkpoint.root

    @cached_property
    def root_keys(self) -> tuple[str, ...]:
        """String keys of the root mapping, in file order."""
        return tuple(k for k, _ in mapping_pairs(self.root) or () if isinstance(k, str))

    @property
    def is_mapping(self) -> bool:
        """Whether the root is a dict at all."""
        return mapping_pairs(self.root) is not None

    def get(self, key: str) -> Value:
        """Value under a top-level key, None if there is none."""
        return mapping_get(self.root, key)

    def has(self, key: str) -> bool:
        """Whether the root has that key."""
        return mapping_has(self.root, key)

    @cached_property
    def version(self) -> str | None:
        """Lightning version that wrote the file, as stated; None where the key is absent or no string."""
        value = self.get(VERSION_KEY)
        return value if isinstance(value, str) else None

    @cached_property
    def epoch(self) -> int | None:
        """``epoch`` as stored."""
        value = self.get("epoch")
        return value if isinstance(value, int) else None

    @cached_property
    def global_step(self) -> int | None:
        """``global_step`` as stored."""
        value = self.get("global_step")
        return value if isinstance(value, int) else None

    @cached_property
    def hyper_parameters(self) -> tuple[tuple[str, Value], ...]:
        """What Lightning would pass to the constructor: past keys first, ``hyper_parameters`` last, later ones win."""
        merged: dict[str, Value] = {}
        past = data.load("lightning_behaviour")["checkpoint_keys"]["past_hparams_keys"]["keys"]
        for key in (*past, "hyper_parameters"):
            merged.update(hparam_items(self.get(key)))
        return tuple(merged.items())

    @property
    def hparams_key(self) -> str | None:
        """Which top-level key holds them, None if none does."""
        past = data.load("lightning_behaviour")["checkpoint_keys"]["past_hparams_keys"]["keys"]
        return next((k for k in ("hyper_parameters", *past) if self.has(k)), None)

    @cached_property
    def hparams_name(self) -> str | None:
        """``hparams_name``: the constructor argument that takes them all; ``kwargs`` means each by its own name."""
        value = self.get("hparams_name")
        return value if isinstance(value, str) else None

    @cached_property
    def data_parameters(self) -> tuple[tuple[str, Value], ...]:
        """What Lightning would pass to a LightningDataModule: it has a key of its own, and no past ones."""
        return tuple(hparam_items(self.get("datamodule_hyper_parameters")))

    @cached_property
    def optimizer_entries(self) -> tuple[tuple[str, int], ...]:
        """Per optimizer: its state's number of parameters, and a guess of its family by the state's keys."""
        states = self.get("optimizer_states")
        out: list[tuple[str, int]] = []
        for state in states.items if isinstance(states, ListNode) else ():
            per_param = mapping_pairs(mapping_get(state, "state")) or []
            names = {k for _, v in per_param[:1] for k, _ in mapping_pairs(v) or ()}
            family = (
                "Adam" if {"exp_avg", "exp_avg_sq"} <= names else "SGD" if "momentum_buffer" in names else "optimizer"
            )
            out.append((family, len(per_param)))
        return tuple(out)

    @cached_property
    def optimizer_groups(self) -> tuple[tuple[int, ...], ...]:
        """Per optimizer: the number of parameters in each of its groups, whether they have state yet or not."""
        states = self.get("optimizer_states")
        out: list[tuple[int, ...]] = []
        for state in states.items if isinstance(states, ListNode) else ():
            groups = mapping_get(state, "param_groups")
            members = [mapping_get(g, "params") for g in groups.items] if isinstance(groups, ListNode) else []
            out.append(tuple(len(m.items) for m in members if isinstance(m, ListNode)))
        return tuple(out)

    @property
    def kind(self) -> str:
        """``lightning``, ``state-dict``, ``training-state`` (a dict of another program), ``module`` or ``other``."""
        path = self.checkpoint.state_dict_path
        keys = set(self.root_keys)
        # Before 0.8 there was no version key. Many training scripts write "state_dict" and "epoch", so more is asked for.
        if VERSION_KEY in keys or (keys >= _BEFORE_0_8 and keys & _ONLY_LIGHTNING):
            return "lightning"
        if path is not None and len(path) == 0 and self.is_mapping:
            return "state-dict"
        if self.is_mapping and path is not None:
            return "training-state"
        if isinstance(self.root, Call):
            return "module"
        return "other"


def hparam_items(value: Value) -> Iterator[tuple[str, Value]]:
    """Names and values of a hyper_parameters object: a dict, AttributeDict, Namespace or DictConfig."""
    pairs = mapping_pairs(value)
    if pairs is None and isinstance(value, Call):
        if value.pairs:  # a dict subclass: AttributeDict
            pairs = value.pairs
        elif value.has_state:
            state = value.state
            content = mapping_get(state, "_content")  # omegaconf keeps its items there
            pairs = mapping_pairs(content) or mapping_pairs(state)
    for name, item in pairs or ():
        if isinstance(name, str):
            yield name, item


def type_name(value: Value) -> str:
    """The class of a value as a reader of the report knows it: ``argparse.Namespace``, ``dict``, ``int``."""
    if isinstance(value, Call):
        return value.name or "a computed object"
    if isinstance(value, Global):
        return value.full_name
    if isinstance(value, DictNode):
        return "dict"
    if isinstance(value, ListNode):
        return "list"
    return (
        type(value).__name__.removesuffix("Node").lower()
        if not isinstance(value, (str, bytes))
        else type(value).__name__
    )
