"""RL301."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import RenameKeys
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.facts import snippets
from relight.facts.comparison import load_error, severity
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_NET = {"net.0.weight": (4, 3), "net.0.bias": (4,), "net.2.weight": (1, 4), "net.2.bias": (1,)}


class WrapperPrefix(Rule):
    """Keys carry a name that a wrapper put in front of or between them.

    What it checks
    --------------
    Whether missing and unexpected keys are the same up to the names that wrappers insert anywhere in a key
    (``module``, ``_orig_mod``, ``_fsdp_wrapped_module`` ...), or up to one attribute in front of all of them, with
    equal shapes.

    Why loading fails
    -----------------
    torch.compile, DistributedDataParallel and others hold the network in an attribute of their own. Its name becomes
    part of every key that is saved from the wrapper, and is missing when such a state_dict is read without it.

    How to fix
    ----------
    Rename the keys in a copy; no tensor changes. ``strict=False`` would leave these layers at random values.

    References
    ----------
    torch/_dynamo/eval_frame.py, torch/nn/parallel/distributed.py, torch/distributed/fsdp.
    """

    code = "RL301"
    name = "wrapper-prefix"
    causes = (
        "prefix-orig-mod",
        "prefix-module-ddp",
        "prefix-nested-wrappers",
        "prefix-fsdp-wrapped",
        "prefix-activation-ckpt",
        "prefix-lightning-attribute",
        "ema-prefix",
    )
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="saved from a compiled module",
            file=File(tensors={f"_orig_mod.{k}": s for k, s in _NET.items()}),
            model=Model(params=_NET),
            cause="prefix-orig-mod",
        ),
        Fires(
            name="compiled in the middle of the keys",
            file=File(tensors={k.replace("net.", "net._orig_mod."): s for k, s in _NET.items()}),
            model=Model(params=_NET),
            cause="prefix-orig-mod",
        ),
        Fires(
            name="the model is wrapped now, the file is not",
            file=File(tensors=_NET),
            model=Model(params={f"module.{k}": s for k, s in _NET.items()}),
            cause="prefix-module-ddp",
        ),
        Fires(
            name="two wrappers",
            file=File(tensors={f"module._orig_mod.{k}": s for k, s in _NET.items()}),
            model=Model(params=_NET),
            cause="prefix-nested-wrappers",
        ),
        Fires(
            name="saved from FullyShardedDataParallel",
            file=File(tensors={f"_fsdp_wrapped_module.{k}": s for k, s in _NET.items()}),
            model=Model(params=_NET),
            cause="prefix-fsdp-wrapped",
        ),
        Fires(
            name="activation checkpointing in part of the model",
            file=File(tensors={k.replace("net.2.", "net.2._checkpoint_wrapped_module."): s for k, s in _NET.items()}),
            model=Model(params=_NET),
            cause="prefix-activation-ckpt",
        ),
        Fires(
            name="an attribute in front of everything",
            file=File(tensors={f"model.{k}": s for k, s in _NET.items()}),
            model=Model(params=_NET),
            cause="prefix-lightning-attribute",
        ),
        Fires(
            name="only an averaged copy was saved, its names without dots",
            file=File(tensors={"model_ema." + k.replace(".", ""): s for k, s in _NET.items()}),
            model=Model(params=_NET),
            cause="ema-prefix",
        ),
        Silent(name="an averaged copy of other shapes", file=File(tensors={"ema.0.weight": (9, 3), "ema.0.bias": (9,)}),
               model=Model(params={"net.0.weight": (4, 3), "net.0.bias": (4,)})),
        Silent(name="an averaged copy on both sides", file=File(tensors={**_NET, "ema.0.weight": (4, 3)}),
               model=Model(params={**_NET, "ema.0.weight": (4, 3)})),
        Silent(name="wrapped on both sides", file=File(tensors={f"module.{k}": s for k, s in _NET.items()}),
               model=Model(params={f"module.{k}": s for k, s in _NET.items()})),
        Silent(name="a layer that is called module", file=File(tensors={"module.weight": (2, 3), "net.weight": (2, 3)}),
               model=Model(params={"module.weight": (2, 3), "net.weight": (2, 3)})),
        Silent(name="wrapped, but of other shapes", file=File(tensors={"module.net.weight": (9, 9)}),
               model=Model(params={"net.weight": (2, 3)})),
        Silent(name="renamed, not wrapped", file=File(tensors={"body.weight": (2, 3), "body.bias": (2,)}),
               model=Model(params={"net.weight": (2, 3), "net.bias": (2,)})),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Word each wrapper explanation."""
        for e in facts.attribution.of("wrapper"):
            extra, lacking = e.about["extra"], e.about["lacking"]
            first_old, first_new = e.pairs[0]
            names = " and ".join(f'"{s}."' for s in (*extra, *lacking))
            side = "the checkpoint's keys carry" if extra else "the model's keys carry"
            if extra and lacking:
                side = "checkpoint and model carry"
            yield self.finding(
                f"{side} {names}, the other side does not"
                if not (extra and lacking)
                else f"{side} different wrappers: {names}",
                cause=e.cause,
                evidence=[
                    Evidence("checkpoint", first_old),
                    Evidence("model", first_new),
                ],
                context=[
                    f"That is the name of {' and of '.join(e.about['by'])}. "
                    f"All {len(e.pairs)} tensors are there, with the right shapes.",
                ],
                fixes=[
                    Fix(
                        title="Rename the keys in a copy; no tensor changes:",
                        kind=FixKind.FILE,
                        applicability=Applicability.SAFE,
                        code=snippets.rewrite_keys(facts, e.pairs),
                        edits=(RenameKeys(tuple(e.pairs)),),
                    )
                ],
                subjects=[o for o, _ in e.pairs],
                severity=severity(facts, e),
                explains=e.keys,
                predicts=load_error(facts),
                wrong=not facts.strict,  # not one of these is loaded, and nothing is said
            )
