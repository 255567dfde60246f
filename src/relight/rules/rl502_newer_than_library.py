"""RL502."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import Layout
from relight.core.dtypes import BY_NAME
from relight.core.finding import Evidence, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent
from relight.facts import describe
from relight.facts.facts import Facts
from relight.facts.versions import at_least
from relight.rulekit import Env, File, Fires, Phase, Rule, Silent, Tensor


class NewerThanLibrary(Rule):
    """The file uses something that the installed torch does not have yet.

    What it checks
    --------------
    The zip layout against torch before 1.6, and element types against the torch that brought them. A version number
    alone is never a finding: nearly all files of newer versions load in older ones.

    Why loading fails
    -----------------
    Torch before 1.6 stops with ``version_ <= kMaxSupportedFileFormatVersion INTERNAL ASSERT FAILED``; a torch
    without the element type with ``module 'torch' has no attribute 'float8_e4m3fn'``.

    How to fix
    ----------
    Load it with a newer torch, or save it there again with ``_use_new_zipfile_serialization=False`` or in another
    element type.

    References
    ----------
    Release notes of torch 1.6; torch/storage.py, ``_new_dtypes``.
    """

    code = "RL502"
    name = "newer-than-library"
    causes = ("zip-in-old-torch", "dtype-unknown")
    phase = Phase.CONTENTS
    needs = frozenset({"contents", "environment"})
    examples = (
        Fires(
            name="a zip file in torch 1.4",
            env=Env(python="3.7.16", packages={"torch": "1.4.0", "pytorch-lightning": "0.9.0"}),
            cause="zip-in-old-torch",
            oracle=False,
        ),
        Fires(
            name="float8 in torch 2.0",
            file=File(tensors={"w": Tensor((2,), "float8_e4m3fn")}),
            env=Env(packages={"torch": "2.0.1", "pytorch-lightning": "2.0.9"}),
            cause="dtype-unknown",
            oracle=False,
        ),
        Silent(name="the torch of the file"),
        Silent(name="a newer Lightning wrote it", file=File(version="2.9.1"), intent=Intent(strict=True)),
        Silent(
            name="a legacy file in torch 1.4",
            file=File(legacy=True),
            env=Env(python="3.7.16", packages={"torch": "1.4.0", "pytorch-lightning": "0.9.0"}),
        ),
        Silent(name="float8 in a torch that has it", file=File(tensors={"w": Tensor((2,), "float8_e4m3fn")})),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """The layout first: without it nothing is read."""
        torch = facts.environment.torch
        if facts.checkpoint.layout is Layout.TORCH_ZIP and at_least(torch, "1.6") is False:
            yield self.finding(
                f"torch {torch} cannot read the zip layout of this file",
                context=["torch 1.6 and newer write it."],
                fixes=[Fix(title="Load it with torch 1.6 or newer.", kind=FixKind.ENVIRONMENT)],
                predicts=Prediction(
                    Stage.OPEN, facts.call_name, "RuntimeError", "kMaxSupportedFileFormatVersion INTERNAL ASSERT FAILED"
                ),
            )
            return
        unknown: dict[str, list[str]] = {}
        for tensor in facts.checkpoint.tensors:
            dtype = BY_NAME.get(tensor.dtype)
            if dtype is not None and dtype.since is not None and at_least(torch, dtype.since) is False:
                unknown.setdefault(dtype.name, []).append(tensor.key)
        # The function that rebuilds such tensors is named before their type: torch/_tensor.py, _reduce_ex_internal.
        rebuild = "_rebuild_tensor_v3"
        named = any(g.full_name == f"torch._utils.{rebuild}" for g in facts.checkpoint.globals)
        before = named and at_least(torch, "2.2") is False
        for name, keys in unknown.items():
            since = BY_NAME[name].since
            yield self.finding(
                f"torch {torch} has no {name}",
                cause="dtype-unknown",
                evidence=[Evidence(describe.some(keys), f"{describe.tensors(len(keys))} of {name}")],
                fixes=[
                    Fix(
                        title=f"Load it with torch {since} or newer.",
                        kind=FixKind.ENVIRONMENT,
                        command=f'pip install "torch>={since}"',
                    )
                ],
                subjects=keys,
                predicts=Prediction(Stage.UNPICKLE, facts.call_name, "AttributeError", rebuild if before else name),
            )
