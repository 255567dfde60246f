"""Examples as data: a rule says which tiny checkpoint it fires on and on which near miss it stays silent.

`relight.testing` turns them into real files, models and environments; they are tests, and they are in the rule's page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from relight.core.manifest import KEY, SCHEMA
from relight.core.target import BuildFailure, InitParam, Intent, Rehearsal, TrainingSpec

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a recipe.

    Attributes:
        shape: Sizes.
        dtype: Element type by name.
        device: Location tag.
        storage: Tensors of the same storage name share their bytes; None gives each its own.
        fill: What every byte of a zip's storage is.
    """

    shape: Shape
    dtype: str = "float32"
    device: str = "cpu"
    storage: str | None = None
    fill: int = 0


@dataclass(frozen=True, slots=True)
class Ref:
    """A class or function that the pickle names, as a value: ``Ref("my_module.MyClass")``."""

    name: str


@dataclass(frozen=True, slots=True)
class Obj:
    """An object that the pickle would construct.

    Attributes:
        name: ``module.Class``.
        state: Its attributes.
        args: Constructor arguments (``Enum`` members are pickled as a call with their value).
    """

    name: str
    state: Mapping[str, object] | None = None
    args: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A checkpoint of a few hundred bytes.

    Attributes:
        tensors: The state_dict: key to shape, `Tensor`, or any other value.
        version: ``pytorch-lightning_version``; None leaves the key out.
        hparams: ``hyper_parameters``; None leaves the key out.
        extra: Further top-level entries.
        raw: The state_dict itself is the root: no Lightning file at all.
        under: Key that holds the state_dict in place of ``state_dict``.
        metadata: Versions in the state_dict's ``_metadata``; None leaves it out.
        legacy: Write the layout of torch before 1.6.
        tar: Write the layout of torch before 0.1.10.
        folder: The folder of the archive that holds the records; an empty string for none.
        without: Records that the archive lacks.
        packed: ``zip`` or ``tar``: the whole file is put into such an archive once more.
        before: Bytes that stand in front of the file.
        keep: Keep that share of the bytes only, 0 to 1: a download that broke off.
        content: Bytes of something else altogether, instead of all of the above.
        protocol: Pickle protocol, 2 or 4.
        root: Any other object as the root, instead of the dict.
    """

    tensors: Mapping[str, object] = field(default_factory=lambda: {"net.weight": (2, 3), "net.bias": (2,)})
    version: str | None = "2.6.6"
    hparams: Mapping[str, object] | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    raw: bool = False
    under: str = "state_dict"
    metadata: Mapping[str, int] | None = None
    legacy: bool = False
    tar: bool = False
    folder: str = "archive"
    without: tuple[str, ...] = ()
    packed: str = ""
    before: bytes = b""
    keep: float = 1.0
    content: bytes | None = None
    protocol: int = 2
    root: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, as much of it as a rule looks at.

    Attributes:
        params: Entries of the state_dict: key to shape, or None for a lazy one.
        buffers: Keys among them that are buffers.
        modules: Module path to class path, for the modules whose class matters (``torch.nn.modules.linear.Linear``).
        tied: Groups of keys that are the same tensor.
        init: Constructor arguments: ``"width"`` is required, ``InitParam`` says more.
        var_keyword: The constructor takes ``**kwargs``.
        failure: Why it could not be built, instead of a model.
        rehearsal: What the real class said.
        dropped: Hyper_parameters that Lightning drops.
        passed: Hyper_parameters that reach the constructor.
        strict_loading: As the class sets it.
        dtypes: Key to element type, for those that are not float32.
        values: Key to base64 of the elements, for buffers that the constructor always makes alike.
        on_instance: Its script calls load_from_checkpoint on an object.
        kind: ``lightning``, ``datamodule``, or ``base`` for LightningModule itself.
        name: Class name.
        architecture: What it computes, as `make` describes it; None where that was not captured.
        training: What it is trained with; None where that was not captured.
        answer: What it answers to the probe of a manifest, as `probe` describes it; None where it was not asked.
    """

    params: Mapping[str, Shape | None] = field(default_factory=lambda: {"net.weight": (2, 3), "net.bias": (2,)})
    buffers: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()
    init: tuple[str | InitParam, ...] = ()
    var_keyword: bool = False
    failure: BuildFailure | None = None
    rehearsal: Rehearsal | None = None
    dropped: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    strict_loading: bool | None = None
    dtypes: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    on_instance: bool = False
    kind: str = "lightning"
    name: str = "MyModel"
    architecture: Mapping[str, object] | None = None
    training: TrainingSpec | None = None
    answer: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Env:
    """An environment; the defaults are those of the development extra on a machine without a GPU.

    Attributes:
        python: Version.
        packages: Versions by distribution.
        cuda_devices: Number of GPUs.
        modules: Top-level modules that can be imported besides the standard library.
        sources: Files on the search path besides `example_module`: path to text. ``models.py`` is the target's own;
            what is under ``site-packages/`` counts as installed.
        platform: ``sys.platform``.
        memory: Bytes of RAM that are free, None if unknown.
        mps: Whether there is an Apple GPU.
    """

    python: str = "3.11.7"
    packages: Mapping[str, str] = field(
        default_factory=lambda: {
            "torch": "2.13.0",
            "lightning": "2.6.6",
            "pytorch-lightning": "2.6.6",
            "numpy": "2.4.6",
        }
    )
    cuda_devices: int = 0
    modules: tuple[str, ...] = ("torch", "lightning", "pytorch_lightning", "numpy", "omegaconf")
    sources: Mapping[str, str] = field(default_factory=dict)
    platform: str = "linux"
    memory: int | None = None
    mps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One case of a rule.

    Attributes:
        name: What it shows, as a test id: ``one layer added``.
        file: The checkpoint.
        model: The target, None for none.
        env: The environment, None for an unknown one.
        intent: How it is loaded.
        hparams_file: Name and text of the file that ``hparams_file=`` names, None for none.
    """

    name: str
    file: File = field(default_factory=File)
    model: Model | None = None
    env: Env | None = field(default_factory=Env)
    intent: Intent = field(default_factory=Intent)
    hparams_file: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fires(Example):
    """The rule must find something here.

    Attributes:
        cause: The cause it must name; None accepts any of the rule's.
        oracle: False where the real libraries cannot be asked with this recipe (the live tests ask them then).
    """

    cause: str | None = None
    oracle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent(Example):
    """A near miss: the rule must not say anything."""


# ---------------------------------------------------------------- manifests


def function(
    digest: str, statements: Sequence[tuple[str, int]] = (), *, reads: Sequence[str] = ()
) -> dict[str, object]:
    """A forward of the user's, as a manifest describes it: digest of the whole, of each statement, attributes."""
    return {
        "digest": digest,
        "attributes": list(reads),
        "calls": [],
        "statements": [list(s) for s in statements],
        "line": "models.py:1",
    }


def make(
    modules: Mapping[str, str | tuple[str, Mapping[str, str]]],
    *,
    hooks: Mapping[str, Sequence[str]] | None = None,
    buffers: Mapping[str, tuple[int, ...]] | None = None,
    tied: Sequence[Sequence[str]] = (),
    **forwards: Mapping[str, object],
) -> dict[str, object]:
    """What a model computes.

    Args:
        modules: Path to class, or to class and attributes.
        hooks: Path to names of forward hooks.
        buffers: Shapes of buffers that are not saved.
        tied: Names of parameters that are one tensor.
        **forwards: Path to forward, for classes of the user's own.
    """
    rows: list[dict[str, object]] = [{"path": "", "class": "models.MyModel", "package": None, "attributes": {}}]
    functions: dict[str, object] = {}
    for path, value in modules.items():
        name, attributes = (value, {}) if isinstance(value, str) else value
        package = name.partition(".")[0]
        row: dict[str, object] = {
            "path": path,
            "class": name,
            "package": None if package in ("models", "train") else package,
            "attributes": dict(attributes),
        }
        if path in forwards:
            row["forward"] = f"{name.rpartition('.')[2]}.forward"
            functions[str(row["forward"])] = forwards[path]
        if hooks is not None and path in hooks:
            row["hooks"] = list(hooks[path])
        rows.append(row)
    unsaved = [{"key": k, "dtype": "float32", "shape": list(shape)} for k, shape in (buffers or {}).items()]
    return {"modules": rows, "functions": functions, "buffers": unsaved, "tied": [list(names) for names in tied]}


def probe(sample: Sequence[float]) -> dict[str, object]:
    """A probe and the answer to it: one output with these values."""
    mean = sum(sample) / len(sample)
    std = (sum((v - mean) ** 2 for v in sample) / len(sample)) ** 0.5
    statistics = [mean, std, min(sample), max(sample)]
    output = {"name": "", "dtype": "float32", "shape": [len(sample)], "finite": len(sample)}
    return {
        "module": "",
        "generator": "hash20/1",
        "input": {"args": [{"tensor": "float32", "shape": [2, 3]}], "kwargs": {}},
        "dtype": "float32",
        "outputs": [{**output, "statistics": statistics, "sample": list(sample)}],
    }


def manifest(
    architecture: Mapping[str, object] | None = None,
    *,
    packages: Mapping[str, str] | None = None,
    integrity: Mapping[str, Sequence[str]] | None = None,
    algorithm: str = "sum64+sample/1",
    parameters: Sequence[str] = (),
    groups: Sequence[Sequence[Sequence[int]]] | None = None,
    probe: Mapping[str, object] | None = None,
    sealed: bool = False,
) -> dict[str, object]:
    """The entry that `relight.CheckpointManifest` adds to a checkpoint's dictionary.

    Args:
        architecture: As `make` describes it.
        packages: Versions by distribution.
        integrity: Sum and sample by key.
        algorithm: Of the digests.
        parameters: Names of the parameters in the order of the model.
        groups: Positions in each group of the one optimizer, as ranges; None for one group of all of them.
        probe: As `probe` describes it.
        sealed: Whether `relight seal` added it to a file that was there already.
    """
    whole = [[[0, len(parameters) - 1]]]
    data: dict[str, object] = {"schema": SCHEMA, "environment": {"packages": dict(packages or {})}}
    if architecture is not None:
        data["architecture"] = architecture
    if integrity is not None:
        data["integrity"] = {"algorithm": algorithm, "tensors": {k: list(v) for k, v in integrity.items()}}
    if parameters:
        rows = [{"options": {}, "parameters": g} for g in (whole if groups is None else groups)]
        data["training"] = {"parameters": list(parameters), "optimizers": [{"class": "Adam", "groups": rows}]}
    if probe is not None:
        data["probe"] = probe
    if sealed:
        data.update(created="2026-01-02T03:04:05Z", sealed={"target": "models.py:MyModel"})
    return {KEY: json.dumps(data)}
