"""First values of layers that a file lacks, as torch's own layers begin."""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Sequence

from relight.core.edits import ComputeTensors
from relight.core.target import ModelSpec, ParamSpec

# Source: torch 2.13, torch/nn/modules/linear.py and conv.py, reset_parameters: kaiming_uniform_ with a = sqrt(5) for the
# weight and the same bound for the bias is uniform within 1/sqrt(fan_in), whose fan_in is that of
# torch/nn/init.py: _calculate_fan_in_and_fan_out.
_DRAWN = re.compile(r"torch\.nn\.modules\.(linear\.Linear|conv\.(Lazy)?Conv(Transpose)?[123]d)$")
# Source: torch 2.13, torch/nn/modules/normalization.py, batchnorm.py, instancenorm.py: reset_parameters.
_NORMS = re.compile(r"torch\.nn\.modules\.(normalization|batchnorm|instancenorm)\.\w+$")
_NORM_VALUES = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}
_CODES = {"float64": "d", "float32": "f", "float16": "e", "int64": "q"}
_MOST = 1 << 26  # values that are drawn one by one, without torch


def initial(spec: ModelSpec, keys: Sequence[str]) -> ComputeTensors | None:
    """What puts first values under keys of a model; None where one of their layers begins in another way.

    Args:
        spec: The model.
        keys: Of layers that the file lacks.
    """
    params = {p.key: p for p in spec.params}
    classes = {m.path: m.class_path for m in spec.modules}
    if sum(math.prod(params[k].shape or ()) for k in keys if k in params) > _MOST:
        return None
    out = []
    for key in keys:
        owner = key.rpartition(".")[0]
        how = _how(params.get(key), params.get(f"{owner}.weight"), classes.get(owner, ""))
        if how is None:
            return None
        out.append((key, (), how, params[key].shape or (), params[key].dtype or ""))
    return ComputeTensors(tuple(out)) if out else None


def _how(param: ParamSpec | None, weight: ParamSpec | None, class_path: str) -> str | None:
    if param is None or param.shape is None or param.dtype is None or param.layout not in (None, "strided"):
        return None
    leaf = param.key.rpartition(".")[2]
    if _DRAWN.match(class_path) and leaf in ("weight", "bias") and weight is not None and weight.shape is not None:
        inputs = math.prod(weight.shape[1:])
        return f"uniform:{inputs}" if inputs and param.dtype in ("float64", "float32", "float16", "bfloat16") else None
    if _NORMS.match(class_path) and leaf in _NORM_VALUES and param.dtype in _CODES:
        code = _CODES[param.dtype]
        value = _NORM_VALUES[leaf]
        one = struct.pack(f"<{code}", int(value) if code == "q" else value)
        return f"value:{base64.b64encode(one * math.prod(param.shape)).decode()}"
    return None
