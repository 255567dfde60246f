"""Refactored models of a corpus, resumed for real: what the copy needs, where the Trainer starts, and what it learns.

The losses of ten more steps are compared with those of the unrefactored model, resumed from the file as it was.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Refactoring:
    """A scenario whose layout changed.

    Attributes:
        name: Of the scenario.
        what: What was done to the model.
        before: The model that wrote the file: ``models:ConvNet``.
        allow: What has to be allowed by name.
        rename: Names that only the user knows.
        differs: Why the losses cannot be those of the unrefactored model; empty where they have to be.
        prefix: What stands before all names of the file, and that the unrefactored model does not have.
        scheduled: Whether the scenario still has the scheduler of the original.
    """

    name: str
    what: str
    before: str
    allow: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    differs: str = ""
    prefix: str = ""
    scheduled: bool = True


REFACTORINGS = (
    Refactoring(name="layer_renamed", what="renamed", before="models:ConvNet"),
    Refactoring(name="several_renames", what="renamed", before="models:ConvNet", allow=("guessed-names",)),
    Refactoring(name="same_shape_rename_ambiguous", what="renamed", before="scenario_models:AttnNet"),
    Refactoring(
        name="two_branches_reordered", what="renamed and reordered, told by --rename", before="scenario_models:TwoBranch",
        rename={"left": "branch_b", "right": "branch_a"},
    ),
    Refactoring(
        name="param_order_changed_shapes", what="reordered", before="models:FullModel", scheduled=False,
    ),
    Refactoring(
        name="sequential_index_collide", what="index shift with a new layer, told by --rename",
        before="models:PlainMLP", allow=("new-layers",), rename={"net.2": "net.4", "net.4": "net.6"},
        differs="one layer is new",
    ),
    Refactoring(name="qkv_fused", what="fused", before="scenario_models:AttnNet"),
    Refactoring(
        name="buffer_became_parameter", what="a parameter added", before="scenario_models:BufNet",
        differs="what was a constant learns now",
    ),
    Refactoring(
        name="param_frozen", what="parameters taken out of the optimizer", before="models:FullModel",
        differs="a layer learns no more",
    ),
    Refactoring(
        name="bias_removed", what="a parameter removed", before="models:PlainMLP", allow=("drop-layers",),
        differs="a bias is gone",
    ),
    Refactoring(name="compiled_prefix", what="a prefix", before="models:PlainMLP", prefix="_orig_mod."),
    Refactoring(name="ddp_prefix", what="a prefix", before="models:PlainMLP", prefix="module."),
    Refactoring(name="now_compiled", what="a prefix", before="models:PlainMLP"),
    Refactoring(name="submodule_unwrapped", what="a prefix", before="models:CompiledModel"),
    Refactoring(name="lazy_modules", what="lazy layers", before="models:PlainMLP"),
    Refactoring(
        name="metrics_removed", what="buffers removed", before="models:MetricModel", allow=("drop-buffers",),
        differs="another loss",
    ),
    Refactoring(name="tied_missing_key", what="one name of two tied ones", before="models:TiedModel"),
    Refactoring(name="weight_norm_new_api", what="another form of weight_norm", before="scenario_models:WeightNormNet"),
    Refactoring(
        name="weight_norm_removed", what="weight_norm folded", before="scenario_models:WeightNormNet",
        allow=("fold-weights",), differs="another parameter learns",
    ),
    Refactoring(
        name="transposed_weights", what="turned", before="models:PlainMLP", allow=("turned-weights",),
    ),
    Refactoring(
        name="bn_to_groupnorm", what="another norm", before="models:ConvNet", allow=("drop-statistics",),
        differs="another function",
    ),
)  # fmt: skip


class Begun:
    """What a resumed training began with, and the losses of its steps."""

    def __init__(self) -> None:
        self.at: tuple[int, int] | None = None
        self.states: dict[str, dict[str, Any]] = {}
        self.losses: list[float] = []


@dataclass(frozen=True)
class Outcome:
    """What became of one of them.

    Attributes:
        written: Whether there was anything to write; else the file resumes as it is.
        at: (epoch, step) at which the Trainer started.
        then: Where the unrefactored model starts.
        equal: Of how many steps the losses are those of the unrefactored model, from the first on.
        moments: Whether every moment is one that the unrefactored model has, too, slice by slice.
    """

    written: bool
    at: tuple[int, int] | None
    then: tuple[int, int] | None
    equal: int
    moments: bool

    def wrong(self, case: Refactoring) -> str:
        """What is not as it has to be; empty where nothing is."""
        if self.at is None or self.at != self.then:
            return f"starts at {self.at}, not at {self.then}"
        if not self.moments and "turned" not in case.what:
            return "moments of nobody"
        return "" if case.differs or self.equal == STEPS else f"losses are equal for {self.equal} steps only"


def outcome(case: Refactoring, file: Path, target: str, folder: Path) -> Outcome:
    """Repair a file for a resume, and resume both models; modules of the corpus have to be importable.

    Args:
        case: The scenario.
        file: Its checkpoint.
        target: Its model, as for ``--target``.
        folder: An empty one for what is written.

    Raises:
        RelightError: There is no copy.
    """
    import relight
    from relight.core.errors import NothingToRepair

    copy = folder / "copy.ckpt"
    with contextlib.suppress(NothingToRepair):
        relight.fix(file, copy, target=target, intent="resume", allow=case.allow, rename=case.rename)
    after = train(model_named(f"{case.name}:Model")(), copy if copy.exists() else file, folder)
    then = train_original(case, file, folder)
    close = [abs(a - b) <= 1e-5 * abs(b) for a, b in zip(after.losses, then.losses, strict=True)]
    equal = close.index(False) if False in close else len(close)
    return Outcome(copy.exists(), after.at, then.at, equal, _slices(after) <= _slices(then))


def _slices(begun: Begun) -> set[bytes]:
    """What moments have in each of their first dimension: joining, cutting and moving leaves it as it is."""
    out: set[bytes] = set()
    for state in begun.states.values():
        for tensor in state.values():
            for row in tensor if tensor.dim() else [tensor]:
                out.add(row.contiguous().numpy().tobytes())
    return out


def model_named(name: str) -> Any:
    """A class of a module: ``models:ConvNet``."""
    module, _, cls = name.partition(":")
    __import__(module)
    return getattr(sys.modules[module], cls)


def train(model: Any, path: Path, folder: Path, steps: int = STEPS) -> Begun:
    """Resume a file in the real Trainer, for some more steps."""
    import pytorch_lightning as lightning  # as the models of the corpus do
    import torch

    begun = Begun()
    last = torch.load(path, weights_only=True)["global_step"] + steps

    class Watch(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            begun.at = (trainer.current_epoch, trainer.global_step)
            names = {p: n for n, p in module.named_parameters()}
            states = trainer.optimizers[0].state
            begun.states = {names[p]: {k: torch.as_tensor(v).clone() for k, v in s.items()} for p, s in states.items()}

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            begun.losses.append(float(outputs["loss"]))

    trainer = lightning.Trainer(
        max_epochs=-1, max_steps=last, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Watch()],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=str(folder),
    )  # fmt: skip
    trainer.fit(model, ckpt_path=str(path))
    return begun


def train_original(case: Refactoring, path: Path, folder: Path) -> Begun:
    """The unrefactored model, resumed from the file as it was."""
    import torch

    if case.prefix:
        root = torch.load(path, weights_only=True)
        root["state_dict"] = {k.removeprefix(case.prefix): v for k, v in root["state_dict"].items()}
        path = folder / "without-prefix.ckpt"
        torch.save(root, path)
    model = model_named(case.before)()
    if not case.scheduled:  # without the scheduler, which the scenario has not either
        model.configure_optimizers = lambda: torch.optim.Adam(model.parameters(), lr=0.01)
    return train(model, path, folder)
