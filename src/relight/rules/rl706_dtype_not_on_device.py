"""RL706."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Applicability, Confidence, Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall
from relight.facts import data, describe
from relight.facts.facts import Facts
from relight.rulekit import Env, File, Fires, Phase, Rule, Silent, Tensor

_APPLE = Env(platform="darwin", mps=True)
_DOUBLE = File(tensors={"net.weight": Tensor((2, 3), "float64"), "net.bias": (2,)})


class DtypeNotOnDevice(Rule):
    """The file holds tensors of a type that the chosen device does not have.

    What it checks
    --------------
    The element types of all tensors in the file against the device of ``map_location``.

    Why loading fails
    -----------------
    Tensors are made on the device before they are copied into the model: ``Cannot convert a MPS Tensor to float64
    dtype as the MPS framework doesn't support float64``. One tensor is enough, also one of the optimizer.

    How to fix
    ----------
    Load to the CPU. The model's own types decide afterwards; ``model.float()`` makes a float64 model one of float32.

    References
    ----------
    The PyTorch documentation, "MPS backend".
    """

    code = "RL706"
    name = "dtype-not-on-device"
    causes = ("mps-float64",)
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(name="float64 to an Apple GPU", file=_DOUBLE, env=_APPLE, intent=Intent(map_location="mps")),
        Fires(
            name="plain torch.load",
            file=_DOUBLE,
            env=_APPLE,
            intent=Intent(call=IntentCall.WEIGHTS, map_location="mps:0"),
        ),
        Fires(
            name="only the optimizer is of float64",
            file=File(extra={"optimizer_states": [{"state": {0: {"exp_avg": Tensor((2,), "float64")}}}]}),
            env=_APPLE,
            intent=Intent(map_location="mps"),
        ),
        Silent(name="float64 to the CPU of the same machine", file=_DOUBLE, env=_APPLE),
        Silent(name="float32 to an Apple GPU", env=_APPLE, intent=Intent(map_location="mps")),
        Silent(name="bfloat16 to an Apple GPU", file=File(tensors={"w": Tensor((2,), "bfloat16")}), env=_APPLE,
               intent=Intent(map_location="mps")),
        Silent(name="no such GPU: another rule has that", file=_DOUBLE, intent=Intent(map_location="mps")),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The tensors' own names where the state_dict has some; else how many storages."""
        wanted = (facts.intent.map_location or "").partition(":")[0]
        if facts.placement.absent is not None or facts.placement.unknown is not None:
            return
        for entry in data.load("device_dtypes")["lacking"]:
            if entry["device"] != wanted:
                continue
            storages = [s for s in facts.checkpoint.storages.values() if s.dtype in entry["dtypes"]]
            if not storages:
                continue
            keys = [t.key for t in facts.checkpoint.tensors if t.dtype in entry["dtypes"]]
            dtype = storages[0].dtype
            yield self.finding(
                f"{describe.tensors(len(keys) or len(storages))} of {dtype} cannot be on {wanted}",
                confidence=Confidence.LIKELY,
                evidence=[Evidence(describe.some(keys), dtype)] if keys else [Evidence("optimizer_states", dtype)],
                fixes=[
                    Fix(
                        title="Load them to the CPU:",
                        kind=FixKind.LOAD_ARGUMENT,
                        applicability=Applicability.SAFE,
                        code=facts.question.load_call(map_location="cpu"),
                        note=f"Then model.float().to({wanted!r}), where float32 is enough.",
                    )
                ],
                subjects=keys or [dtype],
                predicts=Prediction(Stage.UNPICKLE, facts.call_name, entry["exception"], entry["message"]),
            )
