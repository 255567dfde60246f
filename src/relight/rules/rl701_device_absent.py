"""RL701."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import SetDevice
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall
from relight.facts import describe, devices
from relight.facts.facts import Facts
from relight.rulekit import Env, File, Fires, Phase, Rule, Silent, Tensor

_CUDA = {"net.weight": Tensor((2, 3), device="cuda:0"), "net.bias": Tensor((2,), device="cuda:0")}
_CUDA3 = {"net.weight": Tensor((2, 3), device="cuda:3")}
_TORCH = Intent(call=IntentCall.WEIGHTS)


class DeviceAbsent(Rule):
    """Tensors are tagged with a device that this machine does not have.

    What it checks
    --------------
    The location tag of every storage, and ``map_location``, against the devices here, as the call treats them:
    torch.load restores tensors where they were, load_from_checkpoint moves what is not there to the CPU.

    Why loading fails
    -----------------
    ``Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False``. It sounds like a
    driver problem and is not one.

    How to fix
    ----------
    ``map_location="cpu"``.

    References
    ----------
    torch/serialization.py, ``_validate_device``; pytorch_lightning/core/saving.py, ``_default_map_location``.
    """

    code = "RL701"
    name = "device-absent"
    causes = ("cuda-on-cpu", "cuda-ordinal", "mps-tag", "location-tag-unknown")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(name="a GPU file on a CPU, torch.load", file=File(tensors=_CUDA), intent=_TORCH, cause="cuda-on-cpu"),
        Fires(
            name="GPU 3 on a machine with one GPU",
            file=File(tensors=_CUDA3),
            env=Env(cuda_devices=1),
            intent=_TORCH,
            cause="cuda-ordinal",
            oracle=False,
        ),
        Fires(
            name="GPU 3 on a machine with one GPU, load_from_checkpoint",
            file=File(tensors=_CUDA3),
            env=Env(cuda_devices=1),
            cause="cuda-ordinal",
            oracle=False,
        ),
        Fires(
            name="asked for a GPU that is not there",
            intent=Intent(map_location="cuda:3"),
            cause="cuda-on-cpu",
        ),
        Fires(
            name="a file from an Apple GPU, torch.load",
            file=File(tensors={"w": Tensor((2,), device="mps")}),
            intent=_TORCH,
            cause="mps-tag",
        ),
        Fires(
            name="a file from a TPU, torch.load",
            file=File(tensors={"w": Tensor((2,), device="xla:0")}),
            intent=_TORCH,
            cause="location-tag-unknown",
        ),
        Fires(
            name="a GPU file on a CPU, load_from_checkpoint of 2.0.2 to 2.0.9",
            file=File(version="2.0.9", tensors=_CUDA),
            env=Env(packages={"torch": "2.0.1", "pytorch-lightning": "2.0.9"}),
            cause="cuda-on-cpu",
        ),
        Silent(name="a GPU file on a CPU, load_from_checkpoint", file=File(tensors=_CUDA)),
        Silent(
            name="mapped to the CPU",
            file=File(tensors=_CUDA),
            intent=Intent(call=IntentCall.WEIGHTS, map_location="cpu"),
        ),
        Silent(name="a GPU file on a machine with a GPU", file=File(tensors=_CUDA), env=Env(cuda_devices=1), intent=_TORCH),
        Silent(name="a CPU file", intent=_TORCH),
        Silent(
            name="GPU 3 in an old Lightning, which maps all to the CPU",
            file=File(tensors=_CUDA3),
            env=Env(packages={"torch": "1.13.1", "pytorch-lightning": "1.9.0"}, cuda_devices=1),
        ),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all tags: the first that cannot be restored is the one that raises."""
        placement = facts.placement
        tag = placement.absent
        if tag is None:
            return
        asked = facts.intent.map_location is not None
        count = sum(n for t, n in placement.tags.items() if t.partition(":")[0] == tag.partition(":")[0])
        backend = tag.partition(":")[0]
        here = _here(facts, backend)
        if asked:
            message = f"map_location asks for {tag}, {here}"
        else:
            message = f"{describe.tensors(count)} {'is' if count == 1 else 'are'} on {tag}, {here}"
        context = [f"{facts.call_name} raises {placement.exception}: {placement.message}"]
        index = tag.partition(":")[2]
        if backend == "cuda" and index not in ("", "0") and not asked and facts.environment.cuda_devices == 0:
            context.append(
                f"The same holds on a machine with {'one GPU' if index == '1' else f'one to {index} GPUs'}; there "
                'load_from_checkpoint needs map_location="cpu" too.'
            )
        code = facts.question.load_call(map_location="cpu")
        yield self.finding(
            message,
            cause=_cause(tag, facts.environment.cuda_devices),
            evidence=[Evidence(t, describe.tensors(n)) for t, n in placement.tags.items()]
            if len(placement.tags) > 1
            else [],
            context=context,
            fixes=[
                Fix(
                    title="Load them to the CPU:",
                    kind=FixKind.LOAD_ARGUMENT,
                    applicability=Applicability.SAFE,
                    code=code,
                ),
                *_copy(facts),
            ],
            subjects=[tag],
            predicts=Prediction(
                Stage.UNPICKLE,
                facts.call_name,
                placement.exception,
                placement.message,
                devices.position(facts.checkpoint, None if asked else tag),
            ),
        )


def _copy(facts: Facts) -> list[Fix]:
    """A file whose storages say that they are from the CPU."""
    if facts.intent.map_location is not None:
        return []
    return [
        Fix(
            title='For programs that you cannot change, a copy that says "cpu":',
            kind=FixKind.FILE,
            applicability=Applicability.SAFE,
            edits=(SetDevice("cpu"),),
        )
    ]


def _here(facts: Facts, backend: str) -> str:
    count = facts.environment.cuda_devices
    if backend == "cuda":
        if not count:
            return "this machine has no GPU"
        return "this machine has one GPU" if count == 1 else f"this machine has {count} GPUs"
    return f"which this machine cannot restore ({backend})"


def _cause(tag: str, cuda_devices: int | None) -> str:
    backend = tag.partition(":")[0]
    if backend == "cuda":
        return "cuda-ordinal" if cuda_devices else "cuda-on-cpu"
    return "mps-tag" if backend == "mps" else "location-tag-unknown"
