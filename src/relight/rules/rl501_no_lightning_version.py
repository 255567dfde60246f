"""RL501."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import MoveEntry, SetEntry
from relight.core.finding import Applicability, Finding, Fix, FixKind, Prediction, Stage
from relight.core.objects import Call, ListNode
from relight.core.target import Intent, IntentCall
from relight.facts import data, describe, snippets
from relight.facts.facts import Facts
from relight.facts.lightning import VERSION_KEY, type_name
from relight.facts.versions import at_least
from relight.rulekit import Env, File, Fires, Obj, Phase, Rule, Silent


class NoLightningVersion(Rule):
    """The file does not say which Lightning wrote it: it is no Lightning checkpoint, or one of before 0.8.

    What it checks
    --------------
    Whether the root object is a dict with the key ``pytorch-lightning_version``, for calls that go through a
    Lightning that migrates files (1.9 and newer).

    Why loading fails
    -----------------
    The first thing that Lightning asks of a loaded file is its version: ``KeyError: 'pytorch-lightning_version'``.

    How to fix
    ----------
    Plain weights are loaded with torch.load and load_state_dict. A file of Lightning 0.7 only lacks the key: add it
    in a copy, and Lightning's own migration does the rest.

    References
    ----------
    pytorch_lightning/utilities/migration/utils.py, ``_get_version``.
    """

    code = "RL501"
    name = "no-lightning-version"
    causes = (
        "no-lightning-version-key",
        "optimizer-file",
        "tuple-or-list-root",
        "whole-module-pickle",
    )
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(name="a plain state_dict", file=File(raw=True)),
        Fires(
            name="another program's training state",
            file=File(version=None, under="model", extra={"optimizer": {}, "step": 3}),
        ),
        Fires(
            name="a training script's file with an epoch",
            file=File(version=None, extra={"epoch": 89, "arch": "resnet50", "optimizer": {}}),
        ),
        Fires(
            name="a file of Lightning 0.7",
            file=File(version=None, extra={"epoch": 2, "global_step": 8, "optimizer_states": [], "lr_schedulers": []}),
        ),
        Fires(
            name="the state of an optimizer",
            file=File(version=None, tensors={}, under="state", extra={"param_groups": []}),
            cause="optimizer-file",
        ),
        Fires(
            name="two things that were saved together",
            file=File(root=({"epoch": 3}, {"lr": 0.1})),
            cause="tuple-or-list-root",
        ),
        Fires(name="a list", file=File(root=[{"epoch": 3}]), cause="tuple-or-list-root"),
        Fires(
            name="a whole module",
            file=File(root=Obj("torch.nn.modules.activation.ReLU", {"training": False})),
            intent=Intent(weights_only=False),
            cause="whole-module-pickle",
        ),
        Silent(name="a Lightning file"),
        Silent(name="a plain state_dict, loaded by torch", file=File(raw=True), intent=Intent(call=IntentCall.WEIGHTS)),
        Silent(
            name="a file of Lightning 0.7 in Lightning 1.5, which does not ask",
            file=File(version=None, extra={"epoch": 2, "global_step": 8}),
            env=Env(packages={"torch": "1.10.2", "pytorch-lightning": "1.5.10"}),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Tell plain weights, foreign files and old Lightning files apart: their remedies differ."""
        view = facts.lightning
        since = data.load("lightning_behaviour")["load_from_checkpoint"]["needs_version_key_since"]["version"]
        if not facts.calls_lightning or view.version is not None or view.has(VERSION_KEY):
            return
        if not at_least(facts.environment.lightning, since):
            return
        kind = view.kind
        tensors = describe.tensors(len(facts.checkpoint.tensors))
        if kind == "lightning":
            message = "the file is from before Lightning 0.8 and states no version"
            context = ["Its contents are in the old layout, which Lightning still reads once the version is there."]
            fixes = [
                Fix(
                    title="Add the version in a copy; nothing else changes:",
                    kind=FixKind.FILE,
                    applicability=Applicability.SAFE,
                    code=snippets.set_entry(facts, VERSION_KEY, "0.7.6"),
                    edits=(SetEntry((VERSION_KEY,), "0.7.6"),),
                )
            ]
            cause = self.causes[0]
        else:
            message, cause = _name(kind, view.root_keys)
            where = "" if not facts.checkpoint.state_dict_path else f' under "{facts.checkpoint.state_dict_path}"'
            context = [f"It holds {tensors}{where}."] if facts.checkpoint.tensors else []
            ask = facts.question.command("check") + " --for weights"
            fixes = _as_lightning(facts, kind)
            fixes += [Fix(title="To ask about torch.load and load_state_dict instead:", kind=FixKind.CODE, command=ask)]
            fixes += [_plain(facts)] if facts.checkpoint.tensors and kind != "module" else []
        yield self.finding(
            message,
            cause=cause,
            context=context,
            fixes=fixes,
            subjects=[VERSION_KEY],
            predicts=Prediction(Stage.MIGRATE, facts.call_name, *_exception(facts)),
        )


def _as_lightning(facts: Facts, kind: str) -> list[Fix]:
    """Plain weights in the place where Lightning looks; with the version that reads them there is nothing to upgrade."""
    path, version = facts.checkpoint.state_dict_path, facts.environment.lightning
    if kind not in ("state-dict", "training-state") or path is None or len(path) > 1 or version is None:
        return []
    old = tuple(str(step) for step in path)
    moved = () if old == ("state_dict",) else (MoveEntry(old, ("state_dict",)),)
    return [
        Fix(
            title="Write the weights into a Lightning checkpoint; no tensor changes:",
            kind=FixKind.FILE,
            applicability=Applicability.SAFE,
            edits=(*moved, SetEntry((VERSION_KEY,), version)),
            note="What the constructor needs, the file does not hold: pass it to load_from_checkpoint.",
        )
    ]


def _name(kind: str, keys: tuple[str, ...]) -> tuple[str, str]:
    if kind == "state-dict":
        return "this is a plain state_dict, not a Lightning checkpoint", "no-lightning-version-key"
    if kind == "module":
        return "this is a whole pickled object, not a Lightning checkpoint", "whole-module-pickle"
    if {"param_groups", "state"} <= set(keys):
        return "this is the state of an optimizer, not a checkpoint", "optimizer-file"
    if not keys:
        return "this is no dict, so not a Lightning checkpoint", "tuple-or-list-root"
    return "this is a training state of another program, not a Lightning checkpoint", "no-lightning-version-key"


def _exception(facts: Facts) -> tuple[str, str]:
    root = facts.lightning.root
    if facts.lightning.is_mapping:
        return "KeyError", f"'{VERSION_KEY}'"
    if isinstance(root, (tuple, ListNode)):
        return "TypeError", f"{type_name(root)} indices must be integers or slices, not str"
    if isinstance(root, Call) and root.how == "new":
        return "TypeError", f"{root.name.rpartition('.')[2]!r} object is not subscriptable"
    return "TypeError", ""


def _plain(facts: Facts) -> Fix:
    safe = facts.blocked is None
    load = facts.question.torch_load(map_location="cpu", weights_only=safe)
    path = facts.checkpoint.state_dict_path
    inside = "".join(f'["{step}"]' for step in path or ())
    name = facts.question.class_name or "MyModel"
    return Fix(
        title="Load the weights into a model that you build yourself:",
        kind=FixKind.CODE,
        applicability=Applicability.SAFE,
        code=f"import torch\nmodel = {name}()  # with the arguments of the training\nmodel.load_state_dict({load}{inside})",
    )
