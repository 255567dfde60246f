"""RL306."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import ComputeTensors, DropKeys
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.core.target import Intent
from relight.facts import describe, snippets
from relight.facts.attribution import Explanation
from relight.facts.comparison import confidence, load_error
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent, Tensor

_NET = {"net.weight": (2, 3), "net.bias": (2,)}
_WHAT = {
    "no-longer-saved": (
        "a buffer that is no longer saved",
        "The model makes it anew (persistent=False): its constructor gives it its value, not the file.",
    ),
    "extra-state": (
        "extra state of a module",
        "A module saves what it likes there (get_extra_state); what it is for only its class knows.",
    ),
    "buffer": ("a buffer", "A buffer is not learnt; strict=False keeps the value that the constructor gives it."),
    "loss-buffer": ("class weights of a loss function", "They do not take part in what the model computes."),
    "metric-state": ("the state of a metric", "It counts what a metric has seen; the model does not compute with it."),
    "counter": ("counters of a profiler", "A profiler left them in every module; nothing computes with them."),
    "library-buffer": (
        "a constant that a library saves in some versions and not in others",
        "It is known by its name: such a constant is computed anew when the model is built.",
    ),
}


class BufferSetChanged(Rule):
    """Only auxiliary buffers differ: loss weights, metric states, counters, constants of a library.

    What it checks
    --------------
    Missing or unexpected keys that are known not to be learnt: ``weight`` and ``pos_weight`` of a loss, states of
    torchmetrics, ``total_ops``, ``position_ids``, ``inv_freq``, ``num_batches_tracked``, buffers that the model makes
    itself now (``persistent=False``), integer tensors beside a layer that is still there, extra state.

    Why loading fails
    -----------------
    Buffers are in the state_dict like parameters, and ``strict=True`` wants exactly the model's keys.

    How to fix
    ----------
    Extra buffers can be left out of a copy. For missing ones ``strict=False`` keeps the values that the constructor
    gives them.

    References
    ----------
    torch/nn/modules/loss.py; torchmetrics, ``Metric.persistent``; transformers 4.31, ``persistent=False``.
    """

    code = "RL306"
    name = "buffer-set-changed"
    causes = (
        "buffer-set-changed",
        "loss-buffer-keys",
        "torchmetrics-keys",
        "profiler-counter-keys",
        "transformers-position-ids",
        "rotary-inv-freq-buffers",
        "bn-num-batches-tracked",
        "extra-state-keys",
    )
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="weights of a loss",
            file=File(tensors={**_NET, "criterion.pos_weight": (2,)}),
            model=Model(params=_NET),
            cause="loss-buffer-keys",
        ),
        Fires(
            name="states of a metric",
            file=File(tensors={**_NET, "train_acc.tp": (3,), "train_acc.fp": (3,)}),
            model=Model(params=_NET),
            cause="torchmetrics-keys",
        ),
        Fires(
            name="counters of a profiler",
            file=File(tensors={**_NET, "total_ops": (1,), "net.total_params": (1,)}),
            model=Model(params=_NET),
            cause="profiler-counter-keys",
        ),
        Fires(
            name="position_ids of an older library",
            file=File(tensors={**_NET, "embeddings.position_ids": (1, 5)}),
            model=Model(params=_NET),
            cause="transformers-position-ids",
        ),
        Fires(
            name="rotary frequencies of an older library",
            file=File(tensors={**_NET, "attn.rotary_emb.inv_freq": (4,)}),
            model=Model(params=_NET),
            cause="rotary-inv-freq-buffers",
        ),
        Fires(
            name="a count of batches without a batch norm",
            file=File(tensors={**_NET, "net.num_batches_tracked": ()}),
            model=Model(params=_NET),
            cause="bn-num-batches-tracked",
        ),
        Fires(
            name="a new buffer of the project",
            file=File(tensors=_NET),
            model=Model(params={**_NET, "mean": (3,)}, buffers=("mean",)),
            cause="buffer-set-changed",
        ),
        Fires(
            name="a new buffer, whose value the constructor always makes alike",
            file=File(tensors=_NET),
            model=Model(params={**_NET, "mean": (2,)}, buffers=("mean",), values={"mean": "AACAPwAAAEA="}),
            cause="buffer-set-changed",
        ),
        Fires(
            name="an integer buffer that the model gave up",
            file=File(tensors={**_NET, "net.offsets": Tensor((4,), dtype="int64")}),
            model=Model(params=_NET),
            cause="buffer-set-changed",
        ),
        Fires(
            name="extra state that the model's module no longer has",
            file=File(tensors={**_NET, "net._extra_state": Tensor((1,), dtype="uint8")}),
            model=Model(params=_NET),
            cause="extra-state-keys",
        ),
        Silent(name="an integer tensor of a layer that is gone",
               file=File(tensors={**_NET, "quant.weight": Tensor((4,), dtype="int64")}), model=Model(params=_NET)),
        Silent(name="states of a metric on both sides", file=File(tensors={**_NET, "train_acc.tp": (3,)}),
               model=Model(params={**_NET, "train_acc.tp": (3,)}, buffers=("train_acc.tp",))),
        Silent(name="counters of a profiler, not strict", file=File(tensors={**_NET, "total_ops": (1,)}),
               model=Model(params=_NET), intent=Intent(strict=False)),
        Silent(name="a batch norm of the model alone, with its counter", file=File(tensors=_NET),
               model=Model(params={**_NET, "bn.weight": (2,), "bn.num_batches_tracked": ()},
                           buffers=("bn.num_batches_tracked",))),
        Silent(name="the same buffers", file=File(tensors={**_NET, "criterion.pos_weight": (2,)}),
               model=Model(params={**_NET, "criterion.pos_weight": (2,)}, buffers=("criterion.pos_weight",))),
        Silent(name="a layer of the net", file=File(tensors={**_NET, "head.weight": (2, 2)}), model=Model(params=_NET)),
        Silent(name="a layer called weight_loss_net", file=File(tensors={**_NET, "lossy.weight": (2, 2)}),
               model=Model(params=_NET)),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding per kind of buffer."""
        if not facts.strict:
            return
        for e in facts.attribution.of(*_WHAT):
            yield self._word(facts, e)

    def _word(self, facts: Facts, e: Explanation) -> Finding:
        what, why = _WHAT[e.kind]
        side = "the checkpoint has" if e.unexpected and not e.missing else "the model has"
        other = "the model does not" if e.unexpected and not e.missing else "the checkpoint does not"
        keys = (*e.unexpected, *e.missing)
        diff = facts.keys
        fixes = []
        if e.unexpected:
            fixes.append(
                Fix(
                    title="Leave them out of a copy:",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    code=snippets.drop_keys(facts, e.unexpected),
                    edits=(DropKeys(e.unexpected),),
                    allow="drop-buffers",
                )
            )
        values = {p.key: p for p in facts.spec.params if p.value is not None and p.shape is not None and p.dtype}
        if e.missing and values.keys() >= set(e.missing):
            fixes.append(
                Fix(
                    title="Add them to a copy, with the values that the model's constructor gives them:",
                    kind=FixKind.FILE,
                    applicability=Applicability.UNSAFE,
                    edits=(
                        ComputeTensors(
                            tuple(
                                (k, (), f"value:{values[k].value}", values[k].shape or (), values[k].dtype or "")
                                for k in e.missing
                            )
                        ),
                    ),
                    allow="add-buffers",
                    note="What they were in training, no file says.",
                )
            )
        every = {k for other in facts.attribution.of(*_WHAT) for k in (*other.missing, *other.unexpected)}
        if {*diff.missing, *diff.unexpected} == every and not diff.mismatched:
            hides = "nothing else" if every == set(keys) else f"no more than these {len(every):,} buffers"
            fixes.append(
                Fix(
                    title=f"{'Or load' if fixes else 'Load'} as it is; here strict=False hides {hides}:",
                    kind=FixKind.LOAD_ARGUMENT,
                    applicability=Applicability.UNSAFE,
                    code=snippets.load_loosely(facts),
                )
            )
        return self.finding(
            f"{side} {what}, {other}",
            cause=e.cause,
            confidence=confidence(facts, e),
            evidence=[Evidence(describe.some(keys), describe.tensors(len(keys)))],
            context=[why],
            fixes=fixes,
            subjects=keys,
            explains=e.keys,
            predicts=load_error(facts),
        )
