"""RL708."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import TensorEntry
from relight.core.dtypes import BY_NAME
from relight.core.finding import Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall, ParamSpec
from relight.facts import describe
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Obj, Phase, Ref, Rule, Silent, Tensor

_META = Obj("torch._utils._rebuild_meta_tensor_no_storage", args=(Ref("torch.float32"), (2, 3), (3, 1), False))
_COO = Obj("torch.serialization._get_layout", args=("torch.sparse_coo",))
_SPARSE_TENSOR = Obj(
    "torch._utils._rebuild_sparse_tensor",
    args=(_COO, (Tensor((2, 1), "int64"), Tensor((1,)), Obj("torch.Size", args=((2, 3),)))),
)
_NO_DATA = "Cannot copy out of meta tensor; no data!"
_QUANTIZED = "Copying from quantized Tensor to non-quantized Tensor is not allowed"
_SPARSE = "copy_() between dense and sparse Tensors is not implemented!"


class TensorNotCopyable(Rule):
    """A tensor of the file cannot be copied into the model: it has no values, or values of another kind.

    What it checks
    --------------
    Tensors of the state_dict that are on the meta device, quantized, or sparse, where the model's tensor of the same
    name and shape is an ordinary one.

    Why loading fails
    -----------------
    Name and shape fit, and the copy does not work: ``While copying the parameter named "w", ... an exception
    occurred : ('Cannot copy out of meta tensor; no data!',)``.

    How to fix
    ----------
    A meta tensor has a size and no values: they are lost, or in another file. A quantized one can be turned into
    floats with ``dequantize()``, a sparse one with ``to_dense()``.

    References
    ----------
    torch/nn/modules/module.py, ``_load_from_state_dict``.
    """

    code = "RL708"
    name = "tensor-not-copyable"
    causes = ("meta-in-file", "non-tensor-value")
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="on the meta device", file=File(tensors={"net.weight": _META, "net.bias": (2,)}), model=Model()),
        Fires(
            name="on the meta device, plain torch.load",
            file=File(tensors={"net.weight": _META, "net.bias": (2,)}),
            model=Model(),
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
        Fires(
            name="sparse",
            file=File(tensors={"net.weight": _SPARSE_TENSOR, "net.bias": (2,)}),
            model=Model(),
            cause="non-tensor-value",
        ),
        Silent(name="an ordinary tensor", model=Model()),
        Silent(
            name="a key that the model does not have",
            file=File(tensors={"net.weight": (2, 3), "net.bias": (2,), "old": _META}),
            model=Model(),
            intent=Intent(strict=False),
        ),
        Silent(
            name="another shape: torch does not come to copying",
            file=File(tensors={"net.weight": _META, "net.bias": (2,)}),
            model=Model(params={"net.weight": (5, 3), "net.bias": (2,)}),
        ),
        Silent(
            name="of another type",
            file=File(tensors={"net.weight": Tensor((2, 3), "float16"), "net.bias": (2,)}),
            model=Model(),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding per kind."""
        params = {p.key: p for p in facts.spec.persistent}
        groups: dict[str, list[str]] = {}
        for tensor in facts.checkpoint.tensors:
            param = params.get(tensor.key)
            if param is not None and param.shape == tensor.shape and _differs(tensor, param):
                groups.setdefault(tensor.layout, []).append(tensor.key)
        for layout, keys in groups.items():
            said, message = {
                "meta": ("no values in the file, only a size", _NO_DATA),
                "quantized": ("quantized values, the model has ordinary ones", _QUANTIZED),
                "sparse": ("sparse values, the model has dense ones", _SPARSE),
            }[layout]
            way = {"quantized": "dequantize", "sparse": "to_dense"}.get(layout)
            yield self.finding(
                f"{describe.tensors(len(keys))} {'has' if len(keys) == 1 else 'have'} {said}",
                cause="meta-in-file" if layout == "meta" else "non-tensor-value",
                evidence=[Evidence(describe.some(keys), layout)],
                fixes=[_fix(way)],
                subjects=keys,
                predicts=Prediction(
                    Stage.LOAD_STATE_DICT,
                    facts.call_name if facts.calls_lightning else "load_state_dict",
                    "RuntimeError",
                    message,
                ),
            )


def _differs(tensor: TensorEntry, param: ParamSpec) -> bool:
    if tensor.layout == "meta":
        return True
    if tensor.layout == "quantized":
        wanted = BY_NAME.get(param.dtype or "")
        return wanted is not None and wanted.kind != "quantized"
    return tensor.layout == "sparse" and param.layout == "strided"


def _fix(way: str | None) -> Fix:
    if way is None:
        return Fix(title="Find the file that has the values; this one was saved without them.", kind=FixKind.IMPOSSIBLE)
    return Fix(
        title="Turn them into ordinary tensors before load_state_dict:",
        kind=FixKind.CODE,
        code=f"state = {{k: v.{way}() if {'v.is_quantized' if way == 'dequantize' else 'v.is_sparse'} else v "
        "for k, v in state.items()}",
    )
