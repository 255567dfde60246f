"""RL705."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import Layout
from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.core.target import Intent, IntentCall
from relight.facts.facts import Facts
from relight.facts.memory import size
from relight.facts.question import literal
from relight.rulekit import Env, File, Fires, Model, Phase, Rule, Silent, Tensor

_TORCH = Intent(call=IntentCall.WEIGHTS)
_MOMENTS = {"optimizer_states": [{"state": {0: {"exp_avg": Tensor((1000,)), "exp_avg_sq": Tensor((1000,))}}}]}


class MemoryShort(Rule):
    """Loading needs more memory than is free here.

    What it checks
    --------------
    The sizes of all storages in the file, those of the optimizer too, and of the model's own tensors, against the
    memory that is free at this moment, limits of a container included. Memory of GPUs is not known to relight.

    Why loading fails
    -----------------
    torch.load reads the whole file into memory, also where only the weights are wanted, while the model is there as
    well. Where that does not fit the system ends the process, often with the one word ``Killed``, or swaps for hours.

    How to fix
    ----------
    ``mmap=True`` reads only what is used, and ``assign=True`` lets the model take the file's tensors as its own.

    References
    ----------
    torch/serialization.py, ``load``; the PyTorch tutorial "Tips for loading an nn.Module from a checkpoint".
    """

    code = "RL705"
    name = "memory-short"
    causes = ("ram-oom",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(name="more than is free", model=Model(), env=Env(memory=40), oracle=False),
        Fires(name="plain torch.load", env=Env(memory=10), intent=_TORCH, oracle=False),
        Fires(name="only with the optimizer's state", file=File(extra=_MOMENTS), env=Env(memory=4000), oracle=False),
        Fires(
            name="a GPU file that goes to the CPU",
            file=File(tensors={"w": Tensor((1000,), device="cuda:0")}),
            env=Env(memory=1000),
            oracle=False,
        ),
        Silent(name="enough", env=Env(memory=1 << 20)),
        Silent(name="not known", env=Env(memory=None)),
        Silent(name="both at once just fit", file=File(extra=_MOMENTS), env=Env(memory=8100)),
        Silent(
            name="straight to the GPU",
            file=File(tensors={"w": Tensor((1000,), device="cuda:0")}),
            env=Env(memory=1000, cuda_devices=1),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """A warning: what is free changes, and a system may swap."""
        memory = facts.memory
        if not memory.short or memory.free is None:
            return
        evidence = [Evidence("weights", size(memory.weights))]
        if memory.file > memory.weights:
            evidence.append(Evidence("rest of the file", f"{size(memory.file - memory.weights)}, read as well"))
        if memory.model:
            evidence.append(Evidence("model", size(memory.model)))
        yield self.finding(
            f"loading needs {size(memory.needed)} of memory, {size(memory.free)} are free",
            confidence=Confidence.LIKELY,
            evidence=evidence,
            context=["What is free was looked up just now; the system may swap, or end the process."],
            fixes=_fixes(facts),
            subjects=["memory"],
        )


def _fixes(facts: Facts) -> list[Fix]:
    if facts.checkpoint.layout is not Layout.TORCH_ZIP or facts.intent.call is IntentCall.RESUME:
        return []
    safe = facts.blocked is None
    load = f'torch.load({literal(facts.question.path)}, mmap=True, map_location="cpu", weights_only={safe})'
    inside = "".join(f"[{literal(str(step))}]" for step in facts.checkpoint.state_dict_path or ())
    return [
        Fix(
            title="Read only the weights, and let the model take them as they are:",
            kind=FixKind.CODE,
            applicability=Applicability.SAFE,
            code="import torch\n"
            f"model = {facts.question.class_name or 'MyModel'}()  # with the arguments of the training\n"
            f"model.load_state_dict({load}{inside}, assign=True)",
        )
    ]
