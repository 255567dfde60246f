"""The only thing that a rule sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeAlias

from relight.core.checkpoint import Checkpoint, Layout
from relight.core.edits import Edit, RenameKeys
from relight.core.errors import MissingFact
from relight.core.finding import Prediction, Stage
from relight.core.manifest import Manifest, buffer_values
from relight.core.objects import Value
from relight.core.target import BuildFailure, Environment, Intent, IntentCall, ModelSpec, Rehearsal, Target
from relight.facts import (
    altered,
    devices,
    finite,
    imports,
    keys,
    makes,
    memory,
    optimizers,
    replay,
    resume,
    ties,
    unpickling,
)
from relight.facts.arguments import Arguments, sort_arguments
from relight.facts.attribution import Attribution, Explanation, attribute, sizes_of, told, with_arguments
from relight.facts.keys import KeyDiff
from relight.facts.lightning import LightningView
from relight.facts.manifest import manifest_of
from relight.facts.question import Question
from relight.facts.versions import at_least
from relight.reader.tensors import rebuilds_tensor

FactName: TypeAlias = str


class Facts:
    """Everything that is known about one question, derived when asked for and then kept.

    A rule names the facts that it uses in ``needs``; asking for one that this check does not have raises
    `MissingFact`, which makes the rule *skipped* with that reason.

    Args:
        checkpoint: What was read.
        question: What was asked.
        target: What ``--target`` led to, None if there was none.
        environment: Where it is loaded; None if nothing is known about it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        question: Question,
        target: Target | None = None,
        environment: Environment | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.question = question
        self._target = target
        self._environment = environment

    @property
    def intent(self) -> Intent:
        """How it is loaded."""
        return self.question.intent

    @property
    def has_target(self) -> bool:
        """Whether a target was given, built or not."""
        return self._target is not None

    def folder_of_module(self, name: str) -> str | None:
        """A folder below the working directory that holds a module of that name, None if there is none."""
        return imports.folder_of_module(name)

    def places_of_class(self, name: str) -> list[str]:
        """Where below the working directory a class or function of that name is defined: ``lib/net.py:12``."""
        return imports.places_of_class(name)

    def text_of(self, path: str) -> str | None:
        """A text file of the user's, None where it cannot be read."""
        return imports.text_of(path)

    def is_tensor(self, value: Value) -> bool:
        """Whether a value of the file's objects is a tensor."""
        return rebuilds_tensor(value)

    def display(self, file: str) -> str:
        """A path as the user would write it: relative to the working directory where it lies below it."""
        return imports.relative(file)

    @property
    def resolved_target(self) -> Target:
        """What ``--target`` led to, built or not (fact ``target``)."""
        if self._target is None:
            raise MissingFact("target", "no --target was given")
        return self._target

    @property
    def spec(self) -> ModelSpec:
        """The model (fact ``spec``)."""
        target = self.resolved_target
        if target.spec is None:
            raise MissingFact("spec", "the model could not be built")
        return target.spec

    @property
    def failure(self) -> BuildFailure | None:
        """Why the model could not be built; None if it was (fact ``target``)."""
        return self.resolved_target.failure

    @property
    def rehearsal(self) -> Rehearsal | None:
        """What the real class said to the file's keys; None if it was not asked (fact ``target``)."""
        return self.resolved_target.rehearsal

    @property
    def environment(self) -> Environment:
        """Where it is loaded (fact ``environment``)."""
        if self._environment is None:
            raise MissingFact("environment", "the environment is not known: no torch here, and no --env or --python")
        return self._environment

    @property
    def environment_known(self) -> bool:
        """Whether anything is known about where it is loaded."""
        return self._environment is not None

    @cached_property
    def lightning(self) -> LightningView:
        """The Lightning view of the file (fact ``contents``)."""
        self._need_contents()
        return LightningView(self.checkpoint)

    @cached_property
    def resume(self) -> resume.Resume:
        """Where a resume would start, and where the training stood (facts ``contents``, ``environment``)."""
        version = self.environment.lightning
        if version is None:
            raise MissingFact("environment", "the version of Lightning is not known")
        training = None if self._target is None or self._target.spec is None else self._target.spec.training
        return resume.resume(self.lightning, version, None if training is None else not training.automatic)

    @cached_property
    def states(self) -> optimizers.Arrangement:
        """What a resume makes of the states of optimizers (facts ``contents``, ``spec``)."""
        pairs = [p for e in self.attribution.explanations for p in e.pairs]
        edits = (RenameKeys(tuple(dict(pairs).items())),) if pairs else ()
        return self.states_after(edits)

    def states_after(self, edits: Sequence[Edit]) -> optimizers.Arrangement:
        """The same once some edits have been made of the state_dict (facts ``contents``, ``spec``)."""
        self._need_contents()
        return optimizers.arrange(self.checkpoint, self.spec, edits, optimizers.told_by(self.manifest_or_none))

    @cached_property
    def manifest_or_none(self) -> Manifest | None:
        """What the program that saved the file wrote down of itself."""
        return manifest_of(self.checkpoint)

    @property
    def manifest(self) -> Manifest:
        """The same (fact ``manifest``)."""
        if self.manifest_or_none is None:
            raise MissingFact("manifest", "the file has no manifest")
        return self.manifest_or_none

    @cached_property
    def altered(self) -> altered.Altered:
        """Tensors that are not those which the manifest describes (facts ``contents``, ``manifest``)."""
        return altered.altered(self.checkpoint, self.manifest, prove=self.question.prove)

    @cached_property
    def not_finite(self) -> tuple[finite.NotFinite, ...]:
        """What was learnt and is no number (fact ``contents``)."""
        self._need_contents()
        spec = None if self._target is None else self._target.spec
        return finite.not_finite(
            self.checkpoint, None if spec is None else {p.key for p in spec.params if p.kind == "parameter"}
        )

    @cached_property
    def overwritten(self) -> tuple[ties.Overwritten, ...]:
        """Tensors that a load overwrites by others, since the model has one for both (facts ``contents``, ``spec``)."""
        return ties.overwritten(self.checkpoint, self.spec, self.keys)

    @cached_property
    def replayed(self) -> replay.Outcome | None:
        """How the model answered when it was asked again; None where it was not (facts ``manifest``, ``target``)."""
        return replay.compare(self.manifest, self.resolved_target.replay)

    @cached_property
    def changes(self) -> makes.Changes:
        """What differs between the model that was saved and the one of today (facts ``manifest``, ``spec``).

        Raises:
            MissingFact: One of the two is not described, or so many keys differ that paths mean something else.
        """
        saved, now = self.manifest.make, self.spec.architecture
        if saved is None:
            raise MissingFact("manifest", "the manifest does not describe the model")
        if now is None:
            raise MissingFact("spec", "the model of today was not described beyond its keys")
        asked = self.resolved_target.replay
        pairs = [p for e in self.attribution.explanations if e.certain for p in e.pairs]
        accounted = {old for old, _ in pairs} | {new for _, new in pairs}
        renamed = not self.keys.mismatched and accounted.issuperset((*self.keys.missing, *self.keys.unexpected))
        return makes.compare(
            saved,
            now if asked is None else replace(now, buffer_values=buffer_values(list(asked.buffers))),
            self.spec,
            [t.key for t in self.checkpoint.tensors],
            whole=self.keys.clean or renamed,
            renamed=makes.module_paths(pairs),
        )

    def _need_contents(self) -> None:
        if not self.checkpoint.readable:
            raise MissingFact("contents", "the file's contents could not be read")

    @cached_property
    def calls_lightning(self) -> bool:
        """Whether the call goes through Lightning (``load`` and ``resume``)."""
        return self.intent.call is not IntentCall.WEIGHTS

    @property
    def constructs(self) -> bool:
        """Whether the call itself makes the model, from the file's hyper_parameters; else it is given one."""
        return self.intent.call is IntentCall.LOAD

    @cached_property
    def call_name(self) -> str:
        """Name of the call, as a message would put it."""
        return {
            IntentCall.LOAD: "load_from_checkpoint",
            IntentCall.RESUME: "Trainer.fit",
            IntentCall.WEIGHTS: "torch.load",
        }[self.intent.call]

    @cached_property
    def strict(self) -> bool:
        """``strict`` as it will be: passed, else the class's ``strict_loading``, else True."""
        if self.intent.strict is not None:
            return self.intent.strict
        spec = None if self._target is None else self._target.spec
        if spec is not None and spec.strict_loading is not None and self.calls_lightning:
            # Lightning asks the class since 2.2 (core/saving.py: _load_state); before, it is an attribute like any other.
            old = self.environment_known and at_least(self.environment.lightning, "2.2") is False
            return True if old else spec.strict_loading
        return True

    @cached_property
    def weights_only(self) -> bool | None:
        """Whether the call unpickles with ``weights_only=True``; None if that is not known (fact ``environment``)."""
        return imports.weights_only_in_effect(self.intent, self.environment, self.question.path)

    @property
    def weights_only_or_none(self) -> bool | None:
        """`weights_only`, and None where the environment is not known."""
        return None if self._environment is None else self.weights_only

    @cached_property
    def blocked(self) -> imports.Blocked | None:
        """What ``weights_only=True`` would refuse in the file (fact ``contents``)."""
        self._need_contents()
        return imports.blocked(self.checkpoint, self._environment, self.intent.types)

    @cached_property
    def resolutions(self) -> tuple[imports.Resolution, ...]:
        """Every name of the pickle against the environment (facts ``contents``, ``environment``)."""
        self._need_contents()
        main = None
        if self._target is not None and self._target.file is not None:
            main = self._target.file
        patched = self.calls_lightning and self.weights_only is False
        return tuple(imports.resolve(self.checkpoint, self.environment, main, patched=patched))

    @cached_property
    def refuses_tar(self) -> bool:
        """Whether the call does not even begin with torch's oldest layout (fact ``environment``).

        Source: torch 2.6, torch/serialization.py: ``_legacy_load``; 2.5 does not ask.
        """
        old = self.checkpoint.layout is Layout.TORCH_TAR
        return old and self.weights_only is True and at_least(self.environment.torch, "2.6") is True

    @cached_property
    def unpickling(self) -> Prediction | None:
        """What unpickling raises first, None if nothing that can be told (facts ``contents``, ``environment``)."""
        if self.refuses_tar:
            message = "files saved in the legacy .tar format"
            return Prediction(Stage.OPEN, self.call_name, "RuntimeError", message)
        if self.weights_only:
            return None if self.blocked is None else unpickling.refusal(self.blocked, self.call_name)
        if self.weights_only is None:
            return None
        for resolution in self.resolutions:
            if resolution.found in (imports.Found.NO_MODULE, imports.Found.NO_ATTRIBUTE):
                return unpickling.import_error(resolution, self.call_name, self.environment)
            if unpickling.foreign_path(resolution, self.environment):
                return unpickling.unsupported_path(resolution, self.environment, self.call_name)
            bad = unpickling.bad_enum(resolution)
            if bad is not None:
                name = resolution.ref.name
                message = f"{bad[0]!r} is not a valid {name}"
                position = unpickling.call_position(resolution)
                return Prediction(Stage.UNPICKLE, self.call_name, "ValueError", message, position)
        return None

    @cached_property
    def unpickling_unknown(self) -> tuple[str, ...]:
        """Why it cannot be told whether unpickling works, one sentence each (facts ``contents``, ``environment``)."""
        if self.weights_only is not False:
            return ()
        out = [
            f"whether {r.ref.full_name} can be imported" for r in self.resolutions if r.found is imports.Found.UNKNOWN
        ]
        out += [
            f"whether {r.ref.full_name} takes the arguments that the file calls it with"
            for r in self.resolutions
            if unpickling.is_called(r)
        ]
        return tuple(f"{sentence} is not known" for sentence in out[:3])

    @cached_property
    def placement(self) -> devices.Placement:
        """The file's location tags in this call (facts ``contents``, ``environment``)."""
        self._need_contents()
        return devices.place(self.checkpoint, self.environment, self.intent, safe=self.weights_only)

    @cached_property
    def memory(self) -> memory.Memory:
        """What the call needs of the memory here (facts ``contents``, ``environment``)."""
        spec = None if self._target is None else self._target.spec
        return memory.memory(self.checkpoint, spec, self.environment, self.placement)

    @cached_property
    def keys(self) -> KeyDiff:
        """What ``load_state_dict`` finds (facts ``contents``, ``spec``)."""
        spec = self.spec
        self._need_contents()
        if spec.kind == "datamodule":
            raise MissingFact("contents", "a LightningDataModule takes no weights")
        if self.checkpoint.state_dict_path is None:
            raise MissingFact("contents", "nothing in the file looks like a state_dict")
        torch = self.environment.torch if self.environment_known else None
        return keys.compare(self.checkpoint, spec, self.rehearsal, torch=torch)

    @cached_property
    def arguments(self) -> Arguments | None:
        """The constructor call that loading makes; None if the class or its way is not known (fact ``target``)."""
        target = self.resolved_target
        init = target.init or (target.spec.init if target.spec is not None else None)
        self._need_contents()
        if init is None:
            return None
        modelled = target.spec is not None and target.class_kind != "datamodule"
        sizes = sizes_of(self.keys.mismatched) if modelled and self.checkpoint.state_dict_path is not None else ()
        return sort_arguments(self.lightning, init, self.intent, data=target.class_kind == "datamodule", sizes=sizes)

    @property
    def targets_base_class(self) -> bool:
        """Whether the target is LightningModule itself (fact ``target``)."""
        target = self.resolved_target
        return target.class_name == "LightningModule" and target.file is None

    @cached_property
    def other_arguments(self) -> tuple[str, ...]:
        """Names whose value in the file is not the one that a saved spec was built with (facts ``contents``, ``spec``).

        A live target is built with the file's own values; a spec from a file may have been built with the defaults.
        """
        spec = self.spec
        if self.rehearsal is not None or spec.init is None or not self.calls_lightning:
            return ()
        defaults = {p.name: p.default for p in spec.init.params}
        return tuple(
            name
            for name, value in self.lightning.hyper_parameters
            if name in defaults
            and name not in spec.passed
            and isinstance(value, (int, float, str, bool))
            and repr(value) != defaults[name]
        )

    @cached_property
    def attribution(self) -> Attribution:
        """Why keys differ, each explained once (facts ``contents``, ``spec``)."""
        if self.targets_base_class and not self.keys.clean:
            # It has no keys of its own: none of the file's is missing or renamed, they belong to another class.
            all_of_them = Explanation(
                kind="base-class", cause="abstract-lightningmodule", unexpected=tuple(self.keys.unexpected)
            )
            return Attribution(explanations=(all_of_them,))
        names = told.told_pairs(self.question.renames, self.checkpoint, self.spec) if self.question.renames else None
        found = attribute(self.keys, self.checkpoint, self.spec, names)
        if not self.calls_lightning or self.arguments is None:
            return found
        return with_arguments(found, self.arguments)
