"""Location tags of a file against the devices of a machine, as ``torch.load`` and Lightning treat them.

Source: ``torch/serialization.py`` of torch 2.13 (``_get_restore_location``, ``_validate_device``), and
``_default_map_location`` in ``core/saving.py`` of Lightning 2.1 and newer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from relight.core.checkpoint import Checkpoint
from relight.core.objects import Persistent, walk
from relight.core.target import Environment, Intent, IntentCall
from relight.facts import data
from relight.facts.versions import at_least

# Device types that torch or an extension of it can register. Source: c10/core/DeviceType.h of torch 2.13.
_BACKENDS = (
    "cuda", "mps", "xla", "meta", "xpu", "hpu", "npu", "mtia", "ipu", "vulkan", "opengl", "opencl", "ideep", "hip",
    "fpga", "maia", "lazy", "ve", "privateuseone",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placement:
    """What happens to the file's location tags in this call.

    Attributes:
        tags: Tag to number of storages, in file order.
        absent: The first tag that the call would try to restore and this machine cannot; None if it can all of them.
        exception: The exception class then.
        message: And the text that its message contains.
        mapped: Whether the call moves everything to the CPU by itself.
        unknown: Why it cannot be told, None where it can.
    """

    tags: Mapping[str, int]
    absent: str | None = None
    exception: str = "RuntimeError"
    message: str = ""
    mapped: bool = False
    unknown: str | None = None


def place(checkpoint: Checkpoint, environment: Environment, intent: Intent, *, safe: bool | None = None) -> Placement:
    """Follow every tag through the call.

    Args:
        checkpoint: The file.
        environment: Devices and versions.
        intent: The call.
        safe: Whether the safe unpickler will read it (``weights_only``); None if that is not known.
    """
    tags = Counter(s.device for s in checkpoint.storages.values())
    without_storage = _without_storage(checkpoint, environment, intent)
    if without_storage is not None and safe is not True:  # else it is refused before it comes to that
        return without_storage
    foreign = [t for t in tags if t != "cpu"]
    if intent.map_location is not None:
        wanted = intent.map_location
        if wanted == "cpu" or not tags:
            return Placement(tags, mapped=bool(foreign))
        return _restore(tags, [wanted], environment)
    if not foreign:
        return Placement(tags)
    if intent.call is IntentCall.RESUME:
        return Placement(tags, mapped=True)  # Trainer loads with map_location=lambda storage, loc: storage
    if intent.call is IntentCall.LOAD:
        facts = data.load("lightning_behaviour")["load_from_checkpoint"]
        newer = at_least(environment.lightning, facts["maps_everything_to_cpu_below"]["version"])
        if newer is False:
            return Placement(tags, mapped=True)
        if at_least(environment.lightning, facts["maps_what_is_absent_since"]["version"]) is False:
            return _restore(tags, foreign, environment)  # a few versions between left it to torch
        # _default_map_location sends what is not there to the CPU, backend by backend, and keeps the rest.
        left = []
        for tag in foreign:
            there = _available(_backend(tag), environment)
            if there is None and newer is not None:
                return Placement(tags, unknown=f"whether this machine has a {_backend(tag)} device is not known")
            if there or _backend(tag) not in ("cuda", "mps", "xla"):
                left.append(tag)
        return _restore(tags, left, environment) if left else Placement(tags, mapped=True)
    return _restore(tags, foreign, environment)


def _without_storage(checkpoint: Checkpoint, environment: Environment, intent: Intent) -> Placement | None:
    """Tensors of devices that have no storages (XLA): they are rebuilt from numpy arrays, and map_location hardly helps.

    Source: torch/_utils.py, ``_rebuild_device_tensor_from_numpy``; since 2.4 (pull request 126728) it asks
    ``map_location``, which may be a device or a dict and no function, and Lightning passes a function.
    """
    tags = Counter(t.device for t in checkpoint.tensors if t.layout == "numpy" and t.device != "cpu")
    if not tags:
        return None
    tag = next(iter(tags))
    asks = at_least(environment.torch, "2.4")
    if intent.map_location is None and intent.call is not IntentCall.WEIGHTS and asks:
        return Placement(
            tags, tag, message="Callable map_location not supported with _rebuild_wrapper_subclass or "
            "_rebuild_device_tensor_from_numpy"
        )  # fmt: skip
    if asks is None:
        return Placement(tags, unknown=f"whether this torch can rebuild {tag} tensors elsewhere is not known")
    if intent.map_location == "cpu" and asks:
        return Placement(tags, mapped=True)
    backend = _backend(tag)
    if backend == "xla" and _available(backend, environment) is False:
        return Placement(
            tags,
            tag,
            exception="NotImplementedError",
            message=f"Could not run 'aten::empty.memory_format' with arguments from the '{backend.upper()}' backend.",
        )
    return Placement(tags, unknown=f"whether this machine can restore a {backend} tensor is not known")


def position(checkpoint: Checkpoint, tag: str | None) -> int | None:
    """Byte offset in the pickle of the first storage with a tag, of any where it is None; None if there is none.

    torch restores a storage where its persistent id is read, in the middle of unpickling: what lies behind it in the
    pickle is never reached. Source: torch 2.13, torch/serialization.py: ``persistent_load`` of ``_load`` and
    ``_legacy_load``.
    """
    found = (
        v.position
        for _, v in walk(checkpoint.root)
        if isinstance(v, Persistent) and (tag is None or (isinstance(v.pid, tuple) and tag in v.pid))
    )
    return min(found, default=None)


def _backend(tag: str) -> str:
    return tag.partition(":")[0]


def _available(backend: str, environment: Environment) -> bool | None:
    if backend == "cuda":
        return None if environment.cuda_devices is None else environment.cuda_devices > 0
    if backend == "mps":
        return environment.mps
    if backend == "xla":
        return None if not environment.complete else "torch-xla" in environment.packages
    return None


def _restore(tags: Mapping[str, int], wanted: list[str], environment: Environment) -> Placement:
    for tag in wanted:
        backend = _backend(tag)
        if backend == "cuda":
            count = environment.cuda_devices
            if count is None:
                return Placement(tags, unknown="whether this machine has a GPU is not known")
            index = int(tag.partition(":")[2] or 0)
            if count == 0:
                return Placement(
                    tags,
                    tag,
                    message="Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
                )
            if index >= count:
                return Placement(
                    tags,
                    tag,
                    message=f"Attempting to deserialize object on CUDA device {index} but "
                    f"torch.cuda.device_count() is {count}.",
                )
        elif backend == "mps":
            if environment.mps is None:
                return Placement(tags, unknown="whether this machine has Apple's MPS is not known")
            if not environment.mps:
                return Placement(tags, tag, message="torch.UntypedStorage(): Storage device not recognized: mps")
        elif backend == "meta":
            continue
        elif tag.startswith("cpu:") or (
            backend == "xla" and "torch-xla" not in environment.packages and environment.complete
        ):
            return Placement(  # torch knows the tag "cpu" only; a numbered one is made by hand
                tags,
                tag,
                message=f"don't know how to restore data location of torch.storage.UntypedStorage (tagged with {tag})",
            )
        elif backend not in ("cpu", *_BACKENDS):
            return Placement(
                tags,
                tag,
                message=f"don't know how to restore data location of torch.storage.UntypedStorage (tagged with {tag})",
            )
        elif backend != "cpu":
            return Placement(tags, unknown=f"whether this machine can restore a {backend} tensor is not known")
    return Placement(tags)
