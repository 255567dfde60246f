"""RL405."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.facts import describe
from relight.facts.facts import Facts
from relight.facts.finite import NotFinite
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, Tensor

_NAN = 0xFF  # four of these bytes are a NaN of float32


class NotFiniteWeights(Rule):
    """Weights hold NaN or infinite values: the training had diverged when the file was saved.

    What it checks
    --------------
    The beginning (256 KB) of each weight, bias and running statistic, 16 MB in all, of files on this machine. Other
    buffers are left alone: a causal mask is infinite on purpose. ``relight verify --finite`` reads every value.

    Why loading fails
    -----------------
    It does not, and nothing is said: NaN is a value like any other. What the model computes from it is NaN.

    How to fix
    ----------
    Nothing in the file says what the values should be. Take an earlier checkpoint of the same training.

    References
    ----------
    torch/nn/modules/module.py, ``Module._load_from_state_dict``: values are copied as they are. IEEE 754: an operation on a
    NaN gives a NaN.
    """

    code = "RL405"
    name = "not-finite"
    causes = ("nan-weights",)
    severity = Severity.WARNING
    phase = Phase.COMPARISON
    needs = frozenset({"contents"})
    examples = (
        Fires(name="NaN in a weight", file=File(tensors={"net.weight": Tensor((2, 3), fill=_NAN), "net.bias": (2,)})),
        Fires(
            name="NaN in a parameter with a name of its own",
            file=File(tensors={"scale": Tensor((2,), fill=_NAN), "net.weight": (2, 3)}),
            model=Model(params={"scale": (2,), "net.weight": (2, 3)}),
        ),
        Fires(
            name="half precision, the old layout",
            file=File(tensors={"net.weight": Tensor((2, 3), "float16", fill=_NAN), "net.bias": (2,)}),
            model=Model(params={"net.weight": (2, 3), "net.bias": (2,)}),
        ),
        Silent(name="zeros"),
        Silent(
            name="very large values", file=File(tensors={"net.weight": Tensor((2, 3), fill=0x7E), "net.bias": (2,)})
        ),
        Silent(
            name="a buffer that is not learnt",
            file=File(tensors={"net.weight": (2, 3), "mask": Tensor((2, 2), fill=_NAN)}),
            model=Model(params={"net.weight": (2, 3), "mask": (2, 2)}, buffers=("mask",)),
        ),
        Silent(
            name="whole numbers",
            file=File(tensors={"net.weight": (2, 3), "bn.num_batches_tracked": Tensor((), "int64", fill=_NAN)}),
            model=Model(
                params={"net.weight": (2, 3), "bn.num_batches_tracked": ()}, buffers=("bn.num_batches_tracked",)
            ),
        ),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all tensors."""
        found = facts.not_finite
        if not found:
            return
        nan = sum(t.nan for t in found)
        what = (
            "NaN"
            if nan == sum(t.nan + t.inf for t in found)
            else "NaN and infinite values"
            if nan
            else "infinite values"
        )
        fully = sum(t.nan + t.inf == t.seen for t in found)
        lines = [Evidence(t.key, _counted(t)) for t in found[:3]]
        if len(found) > 3:
            all_of_them = " in every value that was read" if fully == len(found) else ""
            lines.append(Evidence("...", f"{describe.counted(len(found) - 3, 'more tensor')}{all_of_them}"))
        yield self.finding(
            f"{describe.tensors(len(found))} {'holds' if len(found) == 1 else 'hold'} {what}",
            confidence=Confidence.CERTAIN if nan else Confidence.POSSIBLE,
            evidence=lines,
            context=["Loading says nothing about it." + (" What the model computes from NaN is NaN." if nan else "")],
            fixes=[
                Fix(
                    title="No repair can know the values. Take an earlier checkpoint of this training; every value is read by:",
                    kind=FixKind.NONE,
                    command=facts.question.command("verify", None, "--finite"),
                )
            ],
            subjects=[t.key for t in found],
            wrong=nan > 0,
        )


def _counted(t: NotFinite) -> str:
    both = [f"{n:,} {what}" for n, what in ((t.nan, "NaN"), (t.inf, "infinite")) if n]
    seen = f"of {t.numel:,} values" if t.seen == t.numel else f"in the first {t.seen:,} of {t.numel:,} values"
    return f"{' and '.join(both)} {seen}"
