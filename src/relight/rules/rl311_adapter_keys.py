"""RL311."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import RenameKeys
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.core.target import Intent
from relight.facts import describe, snippets
from relight.facts.attribution import Explanation
from relight.facts.comparison import confidence, load_error, severity
from relight.facts.facts import Facts
from relight.facts.patterns import folded
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_PLAIN = {"net.q.weight": (4, 4), "net.q.bias": (4,), "net.out.weight": (2, 4)}
_BASE = {"net.q.base_layer.weight": (4, 4), "net.q.base_layer.bias": (4,), "net.out.weight": (2, 4)}
_LORA = {"net.q.lora_A.default.weight": (1, 4), "net.q.lora_B.default.weight": (4, 1)}
_WRAPPED = {f"base_model.model.{k}": s for k, s in {**_BASE, **_LORA}.items()}


class AdapterKeys(Rule):
    """Low-rank adapters (LoRA) are on one side only, or go by another name.

    What it checks
    --------------
    Keys that PEFT makes: ``base_layer`` for the layer that is adapted, ``lora_A`` and its kin for the adapter,
    ``base_model.model.`` in front of everything. Whether the file has only adapters, whether the model has none,
    whether both have them under other names or with another rank.

    Why loading fails
    -----------------
    ``get_peft_model`` replaces layers by wrappers: the weight of ``q`` becomes ``q.base_layer.weight``, and new
    tensors stand beside it. A file from before does not fit a model from after, nor the reverse.

    How to fix
    ----------
    Give the model the adapters of the file (same rank, same layers) before loading; or merge the adapters while they
    can still be loaded, and save that. Dropping the adapter's tensors loads the base network, not what was trained.

    References
    ----------
    peft, src/peft/tuners/tuners_utils.py (``BaseTunerLayer``), lora/layer.py, ``PeftModel.merge_and_unload``.
    """

    code = "RL311"
    name = "adapter-keys"
    causes = ("peft-lora-keys", "merged-vs-unmerged-lora")
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(
            name="the file has adapters, the model has none",
            file=File(tensors={**_BASE, **_LORA}),
            model=Model(params=_PLAIN),
            cause="merged-vs-unmerged-lora",
        ),
        Fires(
            name="saved from a PeftModel",
            file=File(tensors=_WRAPPED),
            model=Model(params=_PLAIN),
            cause="merged-vs-unmerged-lora",
        ),
        Fires(
            name="the model has adapters, the file is from before",
            file=File(tensors=_PLAIN),
            model=Model(params={**_BASE, **_LORA}),
            cause="merged-vs-unmerged-lora",
        ),
        Fires(
            name="only the adapter was saved",
            file=File(tensors=_LORA),
            model=Model(params={**_BASE, **_LORA}),
            cause="peft-lora-keys",
        ),
        Fires(
            name="the adapter's name is in the keys of one side only",
            file=File(tensors={**_BASE, "net.q.lora_A.weight": (1, 4), "net.q.lora_B.weight": (4, 1)}),
            model=Model(params={**_BASE, **_LORA}),
            cause="peft-lora-keys",
        ),
        Fires(
            name="another rank",
            file=File(tensors={**_BASE, "net.q.lora_A.default.weight": (2, 4), "net.q.lora_B.default.weight": (4, 2)}),
            model=Model(params={**_BASE, **_LORA}),
            cause="peft-lora-keys",
        ),
        Fires(
            name="adapters of the model's own making",
            file=File(tensors={"fc.weight": (4, 4), "fc.lora_A": (2, 4), "fc.lora_B": (4, 2)}),
            model=Model(params={"fc.weight": (4, 4)}),
            cause="peft-lora-keys",
        ),
        Silent(name="adapters on both sides", file=File(tensors={**_BASE, **_LORA}),
               model=Model(params={**_BASE, **_LORA})),
        Silent(name="no adapters", file=File(tensors=_PLAIN), model=Model(params=_PLAIN)),
        Silent(name="a layer called base", file=File(tensors={"base.weight": (2, 2)}),
               model=Model(params={"net.weight": (2, 2)})),
        Silent(name="a layer added beside adapters that fit", file=File(tensors={**_BASE, **_LORA}),
               model=Model(params={**_BASE, **_LORA, "aux.weight": (9, 9)})),
        Silent(name="an adapter and its base on both sides, wrapped", file=File(tensors=_WRAPPED),
               model=Model(params=_WRAPPED)),
        Silent(name="not strict, and only the file has adapters", file=File(tensors={**_PLAIN, **_LORA}),
               model=Model(params=_PLAIN), intent=Intent(strict=False)),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all adapters."""
        for e in facts.attribution.of("adapter"):
            if not facts.strict and not (e.missing or e.mismatched):
                continue
            adapters = [*e.about["added"], *e.about["dropped"], *(m.key for m in e.mismatched)]
            evidence = [Evidence(p, describe.tensors(len(ks))) for p, ks in list(folded(adapters).items())[:4]]
            evidence += [
                Evidence(f"{old} -> {new}", "the same tensor")
                for old, new in (*e.about["renamed"], *e.about["base"])[:2]
            ]
            yield self.finding(
                _message(e),
                cause=e.cause,
                severity=severity(facts, e),
                confidence=confidence(facts, e),
                evidence=evidence,
                context=_context(e),
                fixes=_fixes(facts, e),
                subjects=(*e.unexpected, *e.missing, *(m.key for m in e.mismatched)),
                explains=e.keys,
                predicts=load_error(facts),
                wrong=not facts.strict and bool(e.missing) and not e.mismatched,
            )


def _message(e: Explanation) -> str:
    if e.about["alone"]:
        return "the file holds only the adapter, not the network that it adapts"
    if e.mismatched:
        return "the adapters have another rank than in the model"
    if e.about["renamed"]:
        return "the adapters go by another name in the model"
    if e.about["dropped"]:
        return "the checkpoint has adapters (LoRA), the model has none"
    if e.about["added"]:
        return "the model has adapters (LoRA), the checkpoint has none"
    return "the checkpoint's layers are wrapped for adapters, the model's are not, or the reverse"


def _context(e: Explanation) -> list[str]:
    if e.about["alone"]:
        return ["The weights of the network itself come from somewhere else: load them first."]
    if e.about["dropped"]:
        return ["Without them the base network is loaded, which is not what was trained."]
    if e.about["added"]:
        if e.about["peft"]:
            return ["New adapters start as nothing: the loaded network computes what the file's did."]
        return [
            "What new adapters add at the start is up to the code that makes them: nothing, where they begin at zero."
        ]
    return []


def _fixes(facts: Facts, e: Explanation) -> list[Fix]:
    if e.about["dropped"]:
        return [
            Fix(
                title="Give the model the same adapters before loading: get_peft_model(model, config) "
                "with the rank and the layers of the file."
                if e.about["peft"]
                else "Build the model with the adapters that it was trained with, of the file's rank, before loading.",
                kind=FixKind.CODE,
            )
        ]
    if e.mismatched:
        saved, wanted = e.mismatched[0].saved, e.mismatched[0].wanted
        rank = next(((a, b) for a, b in zip(saved, wanted, strict=False) if a != b), None)
        return [
            Fix(title=f"Build the adapters with r={rank[0]}, as in the file; here r is {rank[1]}.", kind=FixKind.CODE)
            if rank
            else Fix(title="Build the adapters as in the file.", kind=FixKind.CODE)
        ]
    if e.about["alone"]:
        return [
            Fix(
                title="Load the network's own weights first, then the adapter with strict=False, "
                "and see that nothing is unexpected.",
                kind=FixKind.CODE,
            )
        ]
    if e.about["added"]:
        before = " (before get_peft_model)" if e.about["peft"] else ""
        return [Fix(title=f"Load before the adapters are added{before}.", kind=FixKind.CODE)]
    return [
        Fix(
            title="Rename the keys in a copy; no tensor changes:",
            kind=FixKind.FILE,
            applicability=Applicability.SAFE,
            code=snippets.rewrite_keys(facts, e.pairs),
            edits=(RenameKeys(tuple(e.pairs)),),
        )
    ]
