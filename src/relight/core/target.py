"""What a checkpoint is loaded into, where, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from relight.core.manifest import Make

SPEC_SCHEMA = "relight/spec/1"


class IntentCall(str, Enum):
    """The call that the user is going to make."""

    LOAD = "load"  # Class.load_from_checkpoint(path)
    RESUME = "resume"  # Trainer.fit(model, ckpt_path=path)
    WEIGHTS = "weights"  # torch.load(path), then module.load_state_dict(...)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """How the checkpoint will be loaded. None everywhere means: not passed, the library's default holds.

    Attributes:
        call: Which call.
        strict: ``strict=`` of the call.
        weights_only: ``weights_only=`` of the call.
        map_location: ``map_location=`` of the call.
        init: Names of keyword arguments passed on to the constructor (``--init``).
        types: Names, as ``module.name``, that ``torch.serialization.safe_globals`` has accepted.
    """

    call: IntentCall = IntentCall.LOAD
    strict: bool | None = None
    weights_only: bool | None = None
    map_location: str | None = None
    init: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Environment:
    """Where it is loaded. What is not stated is *unknown*, never taken as missing.

    Attributes:
        python: Version, ``3.11.7``; None if unknown.
        platform: ``linux``, ``win32``, ``darwin``; None if unknown.
        packages: Distribution name (normalised: ``pytorch-lightning``) to version.
        complete: Whether ``packages`` lists all that is installed: then what is not in it is not there.
        cuda_devices: Number of CUDA devices, None if unknown.
        mps: Whether Apple's MPS is available, None if unknown.
        memory: Bytes of RAM available, None if unknown.
        search_path: Folders that imports are looked up in, in order; empty if unknown. Not written to JSON.
        modules: Top-level names that can be imported besides the standard library; None if unknown.
        origin: Where this knowledge comes from, for the report: ``this machine``, ``spec.json``, ...
    """

    python: str | None = None
    platform: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False
    cuda_devices: int | None = None
    mps: bool | None = None
    memory: int | None = None
    search_path: tuple[str, ...] = ()
    modules: frozenset[str] | None = None
    origin: str = "unknown"

    def version(self, *names: str) -> str | None:
        """Version of the first of these packages that is installed; None if unknown or absent."""
        return next((self.packages[n] for n in names if n in self.packages), None)

    @property
    def lightning(self) -> str | None:
        """Version of Lightning, under either of its package names."""
        return self.version("lightning", "pytorch-lightning")

    @property
    def torch(self) -> str | None:
        """Version of torch."""
        return self.version("torch")

    def to_dict(self) -> dict[str, Any]:
        """JSON form; machine-specific paths are left out."""
        return {
            "python": self.python,
            "platform": self.platform,
            "packages": dict(sorted(self.packages.items())),
            "complete": self.complete,
            "cuda_devices": self.cuda_devices,
            "mps": self.mps,
            "memory": self.memory,
            "modules": None if self.modules is None else sorted(self.modules),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, origin: str = "spec") -> Environment:
        """Read the form of `to_dict`; a flat mapping of pins (``{"python": "3.10", "torch": "2.1"}``) works too."""
        if "packages" not in data:
            pins = {str(k): str(v) for k, v in data.items() if k != "python"}
            python = data.get("python")
            return cls(python=None if python is None else str(python), packages=pins, origin=origin)
        modules = data.get("modules")
        return cls(
            python=data.get("python"),
            platform=data.get("platform"),
            packages=dict(data["packages"]),
            complete=bool(data.get("complete", False)),
            cuda_devices=data.get("cuda_devices"),
            mps=data.get("mps"),
            memory=data.get("memory"),
            modules=None if modules is None else frozenset(modules),
            origin=origin,
        )

    def on_this_path(self, search_path: tuple[str, ...]) -> Environment:
        """The same environment with folders to look modules up in."""
        return replace(self, search_path=search_path)


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One entry that the model's state_dict has, or a buffer that it leaves out.

    Attributes:
        key: Name in the state_dict.
        dtype: Element type by name, None for ``_extra_state``.
        shape: Sizes, None while a lazy module does not know them (and for ``_extra_state``).
        kind: ``parameter``, ``buffer`` or ``extra_state``.
        persistent: False for buffers that stay out of the state_dict.
        tied_with: Other keys that are the same tensor.
        layout: ``strided``, or as torch names another (``sparse_coo``).
        value: Base64 of the elements of a small buffer that the file lacks and that the constructor always makes alike.
    """

    key: str
    dtype: str | None
    shape: tuple[int, ...] | None
    kind: str = "parameter"
    persistent: bool = True
    tied_with: tuple[str, ...] = ()
    layout: str = "strided"
    value: str | None = None


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """One module of the model.

    Attributes:
        path: Its name in the model (``layer1.0``; empty for the model itself).
        class_path: ``torch.nn.modules.linear.Linear``.
        extra_repr: What its repr shows in the parentheses.
        line: ``file.py:9``, where the attribute that holds it is assigned; None if not found.
        load_hooks: Names of what this module does to a state_dict before or while it is loaded, other than
            the default (``_load_from_state_dict`` overrides, pre-hooks), as ``module.qualname``.
    """

    path: str
    class_path: str
    extra_repr: str = ""
    line: str | None = None
    load_hooks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InitParam:
    """One argument of the constructor.

    Attributes:
        name: Its name.
        required: Whether it has no default.
        default: ``repr`` of the default, None if required.
        keyword_only: Whether it can be passed by name only.
    """

    name: str
    required: bool
    default: str | None = None
    keyword_only: bool = False


@dataclass(frozen=True, slots=True)
class InitSignature:
    """The constructor's arguments without ``self``, ``*args`` and ``**kwargs``.

    Attributes:
        params: In order.
        var_keyword: Whether it takes ``**kwargs``.
        location: ``file.py:12`` of ``def __init__``, None if unknown.
    """

    params: tuple[InitParam, ...] = ()
    var_keyword: bool = False
    location: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(p.name for p in self.params)


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A group of parameters of an optimizer.

    Attributes:
        parameters: Their keys, in order.
        options: Its plain options: ``lr``, ``betas`` (a list) ...
        others: Names of its other options.
    """

    parameters: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """An optimizer as ``configure_optimizers`` makes it.

    Attributes:
        class_path: ``torch.optim.adam.Adam``.
        groups: Its groups, in order.
    """

    class_path: str
    groups: tuple[GroupSpec, ...]


@dataclass(frozen=True, slots=True)
class SchedulerSpec:
    """A learning rate scheduler as ``configure_optimizers`` makes it.

    Attributes:
        class_path: ``torch.optim.lr_scheduler.StepLR``.
        options: Entries of its state that are plain values: ``step_size``, ``gamma``, ``last_epoch`` ...
        others: Names of the other entries of its state: ``base_lrs`` ...
    """

    class_path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"class_path": self.class_path, "options": dict(self.options), "others": list(self.others)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | str) -> SchedulerSpec:
        """Read the form of `to_dict`; specs of before have a class path only."""
        if isinstance(data, str):
            return cls(data)
        return cls(data["class_path"], dict(data["options"]), tuple(data["others"]))

    @property
    def keys(self) -> frozenset[str]:
        """Names in its state; empty where that is not known."""
        return frozenset((*self.options, *self.others))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """What a LightningModule is trained with.

    Attributes:
        optimizers: In order.
        schedulers: In order.
        automatic: ``automatic_optimization``.
        unknown: Why the rest is not known; empty where it is.
    """

    optimizers: tuple[OptimizerSpec, ...] = ()
    schedulers: tuple[SchedulerSpec, ...] = ()
    automatic: bool = True
    unknown: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "automatic": self.automatic,
            "optimizers": [
                {
                    "class_path": o.class_path,
                    "groups": [
                        {"parameters": list(g.parameters), "options": dict(g.options), "others": list(g.others)}
                        for g in o.groups
                    ],
                }
                for o in self.optimizers
            ],
            "schedulers": [s.to_dict() for s in self.schedulers],
            "unknown": self.unknown,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingSpec:
        """Read the form of `to_dict`."""
        return cls(
            optimizers=tuple(
                OptimizerSpec(
                    o["class_path"],
                    tuple(
                        GroupSpec(tuple(g["parameters"]), dict(g["options"]), tuple(g["others"])) for g in o["groups"]
                    ),
                )
                for o in data["optimizers"]
            ),
            schedulers=tuple(SchedulerSpec.from_dict(s) for s in data["schedulers"]),
            automatic=bool(data["automatic"]),
            unknown=str(data["unknown"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The serialisable description of a model: what `relight spec` writes.

    Attributes:
        class_name: ``MyModel``.
        class_path: ``package.module:MyModel`` or ``load.py:MyModel``, as one would pass it to ``--target``.
        kind: ``lightning``, ``module`` (a plain nn.Module) or ``datamodule``.
        file: Source file of the class, relative to where it was captured; None if unknown.
        line: Line of the class statement.
        params: Entries of the state_dict in its order, then non-persistent buffers.
        modules: Module tree in order of ``named_modules``.
        init: Constructor signature.
        bases: Class paths of the method resolution order, without ``object``.
        hooks: What the class overrides that changes loading: ``on_load_checkpoint``, ``configure_model``,
            ``load_state_dict``, ``_load_from_state_dict`` ...
        hook_keys: Keys that ``on_load_checkpoint`` reads by ``checkpoint["key"]`` before it could set them.
        strict_loading: The ``strict_loading`` attribute, None where the class leaves the default.
        passed: Names of the hyper_parameters that reached the constructor when this spec was captured.
        dropped: Names that Lightning drops because the constructor does not take them.
        approximated: Paths of hyper_parameters that were replaced by stand-ins; findings on shapes are guesses then.
        environment: Where it was captured.
        architecture: What it computes, as far as objects and source show it; None where that was not captured.
        training: What it is trained with; None where nobody asked about a resume.
    """

    class_name: str
    class_path: str
    kind: str = "lightning"
    file: str | None = None
    line: int | None = None
    params: tuple[ParamSpec, ...] = ()
    modules: tuple[ModuleSpec, ...] = ()
    init: InitSignature | None = None
    bases: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    hook_keys: tuple[str, ...] = ()
    strict_loading: bool | None = None
    passed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    approximated: tuple[str, ...] = ()
    environment: Environment | None = None
    architecture: Make | None = None
    training: TrainingSpec | None = None

    @property
    def persistent(self) -> tuple[ParamSpec, ...]:
        """Entries of the state_dict."""
        return tuple(p for p in self.params if p.persistent)

    def module(self, path: str) -> ModuleSpec | None:
        """The module at a path."""
        return next((m for m in self.modules if m.path == path), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``relight/spec/1``."""
        init = None
        if self.init is not None:
            init = {
                "params": [
                    {"name": p.name, "required": p.required, "default": p.default, "keyword_only": p.keyword_only}
                    for p in self.init.params
                ],
                "var_keyword": self.init.var_keyword,
                "location": self.init.location,
            }
        return {
            "schema": SPEC_SCHEMA,
            "class_name": self.class_name,
            "class_path": self.class_path,
            "kind": self.kind,
            "file": self.file,
            "line": self.line,
            "params": [
                {
                    "key": p.key,
                    "dtype": p.dtype,
                    "shape": None if p.shape is None else list(p.shape),
                    "kind": p.kind,
                    "persistent": p.persistent,
                    "tied_with": list(p.tied_with),
                    "layout": p.layout,
                    **({} if p.value is None else {"value": p.value}),
                }
                for p in self.params
            ],
            "modules": [
                {
                    "path": m.path,
                    "class_path": m.class_path,
                    "extra_repr": m.extra_repr,
                    "line": m.line,
                    "load_hooks": list(m.load_hooks),
                }
                for m in self.modules
            ],
            "init": init,
            "bases": list(self.bases),
            "hooks": list(self.hooks),
            "hook_keys": list(self.hook_keys),
            "strict_loading": self.strict_loading,
            "passed": list(self.passed),
            "dropped": list(self.dropped),
            "approximated": list(self.approximated),
            "environment": None if self.environment is None else self.environment.to_dict(),
            "architecture": None if self.architecture is None else self.architecture.to_dict(),
            **({} if self.training is None else {"training": self.training.to_dict()}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, origin: str = "spec") -> ModelSpec:
        """Read the form of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: The mapping is not a spec.
        """
        if not isinstance(data, Mapping):
            raise ValueError("not a relight spec: no JSON object")
        if data.get("schema") != SPEC_SCHEMA:
            raise ValueError(f"not a relight spec: schema is {data.get('schema')!r}, expected {SPEC_SCHEMA!r}")
        init = data["init"]
        environment = data["environment"]
        return cls(
            class_name=data["class_name"],
            class_path=data["class_path"],
            kind=data["kind"],
            file=data["file"],
            line=data["line"],
            params=tuple(
                ParamSpec(
                    p["key"],
                    p["dtype"],
                    None if p["shape"] is None else tuple(p["shape"]),
                    p["kind"],
                    p["persistent"],
                    tuple(p["tied_with"]),
                    p.get("layout", "strided"),
                    p.get("value"),
                )
                for p in data["params"]
            ),
            modules=tuple(
                ModuleSpec(m["path"], m["class_path"], m["extra_repr"], m["line"], tuple(m["load_hooks"]))
                for m in data["modules"]
            ),
            init=None
            if init is None
            else InitSignature(
                tuple(InitParam(p["name"], p["required"], p["default"], p["keyword_only"]) for p in init["params"]),
                init["var_keyword"],
                init["location"],
            ),
            bases=tuple(data["bases"]),
            hooks=tuple(data["hooks"]),
            hook_keys=tuple(data["hook_keys"]),
            strict_loading=data["strict_loading"],
            passed=tuple(data["passed"]),
            dropped=tuple(data["dropped"]),
            approximated=tuple(data["approximated"]),
            environment=None if environment is None else Environment.from_dict(environment, origin=origin),
            architecture=Make.from_dict(data.get("architecture")),
            training=None if data.get("training") is None else TrainingSpec.from_dict(data["training"]),
        )


class FailureKind(str, Enum):
    """Why no model could be built from a target."""

    TARGET_FILE_MISSING = "target-file-missing"  # the file or module of --target is not there
    TARGET_NAME_MISSING = "target-name-missing"  # the module is there, the class is not
    TARGET_AMBIGUOUS = "target-ambiguous"  # file.py without a class name has none or several
    TARGET_WRONG_TYPE = "target-wrong-type"  # the name is neither an nn.Module class nor a factory of one
    MODULE_NOT_FOUND = "module-not-found"  # importing the target raised ModuleNotFoundError
    IMPORT_ERROR = "import-error"  # importing the target raised anything else
    NAME_ERROR = "name-error"  # NameError in the constructor or while importing
    INIT_ERROR = "init-error"  # the constructor raised
    NO_TORCH = "no-torch"  # the interpreter that should build it has no torch
    UNKNOWN = (
        "unknown"  # could not be tried to the end (time, memory, a stand-in object was used): not the user's fault
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFailure:
    """Why no model could be built, as facts for a rule to word.

    Attributes:
        kind: Which of the known ways.
        exception: Class of the exception, qualified unless builtin; None where nothing was raised.
        message: Its text.
        file: File of the innermost frame that is the user's code, relative to the working directory.
        line: Line in that file.
        source: Text of that line, stripped.
        stage: ``import`` or ``construct``.
        name: The name concerned: of a NameError, a missing module, the class asked for.
        suggestions: Close matches or places where the name was found by parsing, as ``file.py:12`` or names.
        searched: How many Python files were parsed for the suggestions.
        candidates: LightningModules that the file defines (for TARGET_AMBIGUOUS and TARGET_NAME_MISSING).
        traceback: The user's part of the traceback, for ``-v``.
        network: Whether it wanted the network, which is off while a model is built.
    """

    kind: FailureKind
    exception: str | None = None
    message: str = ""
    file: str | None = None
    line: int | None = None
    source: str | None = None
    stage: str = "import"
    name: str | None = None
    suggestions: tuple[str, ...] = ()
    searched: int = 0
    candidates: tuple[str, ...] = ()
    traceback: str = ""
    network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What happened when the user's own class was given the file's keys, shapes and dtypes without values.

    The child process really runs ``configure_model``, ``on_load_checkpoint`` and ``load_state_dict`` on the meta
    device. It is the user's code on data that holds no tensor value, so an exception that only a missing value
    explains is reported as not conclusive.

    Attributes:
        ok: True: nothing raised; False: raised; None: not conclusive.
        stage: Where it raised: ``migrate`` (Lightning's own migration of the file, before anything is constructed),
            ``strict`` (the argument against ``strict_loading``), ``configure_model``, ``on_load_checkpoint`` or
            ``load_state_dict``.
        exception: Class of the exception, qualified unless builtin.
        message: Its text.
        missing: Keys that ``load_state_dict`` reported as missing.
        unexpected: Keys that it reported as unexpected.
        file: File of the innermost frame of the user's code.
        line: Line there.
        source: Text of that line.
    """

    ok: bool | None
    stage: str | None = None
    exception: str | None = None
    message: str = ""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    file: str | None = None
    line: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the model of today answers, with the file's weights, to the input of the manifest's probe.

    Attributes:
        answer: As in the probe: type and numbers of the outputs; None where there is none.
        steady: Whether it answers the same twice.
        reason: Why there is no answer.
        buffers: Its buffers that no file holds, as the constructor made them: rows as in a manifest.
    """

    answer: Mapping[str, Any] | None = None
    steady: bool = True
    reason: str | None = None
    buffers: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What ``--target`` led to: a spec, or the reason why there is none.

    Attributes:
        argument: As the user gave it.
        spec: The model, None if it could not be built.
        failure: Why not.
        rehearsal: Result of the dry run with this file, None where none was made (a spec from a file).
        loaded: Result of the real call on a file that relight wrote, None where it was not made.
        init: The constructor's signature, known even when construction failed.
        class_name: Name of the class, where it was found.
        class_kind: ``lightning``, ``module``, ``datamodule`` or ``factory``.
        passed: Names of hyper_parameters passed to the constructor.
        dropped: Names that Lightning drops.
        approximated: Paths of hyper_parameters for which stand-ins were passed.
        stopped_at: ``load.py:11``, where a script was stopped before it would have loaded or trained.
        stopped_by: The call that it was stopped at: ``load_from_checkpoint``.
        stopped_on_instance: Whether that was called on an object in place of its class.
        file: File of the class as the user would name it, ``load.py``.
        environment: Where the child ran.
        replay: What it answers to the manifest's probe, None where it was not asked.
        sealed: Parts of a manifest of the model of today, and ``omitted``; None where nobody asked.
    """

    argument: str
    spec: ModelSpec | None = None
    failure: BuildFailure | None = None
    rehearsal: Rehearsal | None = None
    loaded: Rehearsal | None = None
    init: InitSignature | None = None
    class_name: str | None = None
    class_kind: str | None = None
    passed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    approximated: tuple[str, ...] = ()
    stopped_at: str | None = None
    stopped_by: str | None = None
    stopped_on_instance: bool = False
    file: str | None = None
    environment: Environment | None = None
    replay: Replay | None = None
    sealed: Mapping[str, Any] | None = None
