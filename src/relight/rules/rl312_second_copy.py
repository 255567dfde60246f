"""RL312."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.edits import AddNames, DropKeys, RenameKeys
from relight.core.finding import Applicability, Evidence, Finding, Fix, FixKind
from relight.core.target import Intent
from relight.facts import describe, snippets
from relight.facts.comparison import confidence, load_error, severity
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Model, Phase, Rule, Silent

_NET = {"net.0.weight": (4, 3), "net.0.bias": (4,), "net.2.weight": (1, 4)}
_EMA = {k.replace("net.", "ema_model."): s for k, s in _NET.items()}
_FLAT = {"model_ema." + k.replace(".", ""): s for k, s in _NET.items()}


class SecondCopy(Rule):
    """One side keeps a second, averaged copy of the network (EMA, teacher), the other does not.

    What it checks
    --------------
    Keys below a name that stands for a copy (``ema_model``, ``model_ema``, ``teacher`` ...), with or without the dots
    inside, that each have a counterpart of the same shape in the live network of the same side.

    Why loading fails
    -----------------
    A training program that averages its weights saves both. A model without the average has no place for the copy; a
    model with it finds none in the file.

    How to fix
    ----------
    Decide which copy you want. For inference it is most often the average: move it over the live weights in a copy of
    the file. To leave it out keeps the live ones.

    References
    ----------
    CompVis/latent-diffusion, ldm/modules/ema.py (names without dots); torch/optim/swa_utils.py, ``AveragedModel``;
    Lightning, ``WeightAveraging``.
    """

    code = "RL312"
    name = "second-copy"
    causes = ("ema-prefix",)
    phase = Phase.COMPARISON
    needs = frozenset({"contents", "spec"})
    examples = (
        Fires(name="an average beside the network", file=File(tensors={**_NET, **_EMA}), model=Model(params=_NET)),
        Fires(
            name="an average whose names lost their dots, with its counters",
            file=File(tensors={**_NET, **_FLAT, "model_ema.decay": (), "model_ema.num_updates": ()}),
            model=Model(params=_NET),
        ),
        Fires(
            name="the model keeps an average, the file has none",
            file=File(tensors=_NET),
            model=Model(params={**_NET, **{k.replace("net.", "teacher."): s for k, s in _NET.items()}}),
        ),
        Silent(name="both keep it", file=File(tensors={**_NET, **_EMA}), model=Model(params={**_NET, **_EMA})),
        Silent(name="a teacher of another size", file=File(tensors={**_NET, "teacher.0.weight": (9, 9)}),
               model=Model(params=_NET)),
        Silent(name="a layer that is called ema", file=File(tensors={**_NET, "ema.weight": (7, 7)}),
               model=Model(params=_NET)),
        Silent(name="not strict: the copy is left out", file=File(tensors={**_NET, **_EMA}),
               model=Model(params=_NET), intent=Intent(strict=False)),
    )  # fmt: skip

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for each copy."""
        for e in facts.attribution.of("copy"):
            if not facts.strict and not e.missing:
                continue
            prefix, live, keys = e.about["prefix"], e.about["live"], (*e.unexpected, *e.missing)
            copy, first = next(iter(live.items()))
            in_file = e.about["side"] == "file"
            fixes = []
            if in_file:
                fixes += [
                    Fix(
                        title="Keep the live weights: leave the copy out.",
                        kind=FixKind.FILE,
                        applicability=Applicability.UNSAFE,
                        code=snippets.drop_keys(facts, keys),
                        edits=(DropKeys(keys),),
                        allow="drop-copy",
                    ),
                    Fix(
                        title="Or take the copy in place of the live weights:",
                        kind=FixKind.FILE,
                        applicability=Applicability.UNSAFE,
                        code=snippets.take_copy(facts, live, keys),
                        edits=(
                            DropKeys((*live.values(), *(k for k in keys if k not in live))),
                            RenameKeys(tuple(live.items())),
                        ),
                        allow="take-copy",
                    ),
                ]
            else:
                fixes.append(
                    Fix(
                        title="Let the copy begin as the live weights, as it does in a new training:",
                        kind=FixKind.FILE,
                        applicability=Applicability.MANUAL,
                        code=snippets.add_names(facts, [(o, n) for n, o in live.items()]),
                        edits=(AddNames(tuple((o, n) for n, o in live.items())),),
                        allow="begin-copy",
                    )
                )
            yield self.finding(
                f"the {'checkpoint' if in_file else 'model'} keeps a second copy of the network under {prefix}, "
                f"the {'model' if in_file else 'checkpoint'} does not",
                severity=severity(facts, e),
                confidence=confidence(facts, e),
                evidence=[
                    Evidence(prefix, f"{describe.tensors(len(keys))}, {len(live)} of them as in the live network"),
                    Evidence(copy, f"the copy of {first}"),
                ],
                context=["Which of the two is wanted, the file cannot say."] if in_file else [],
                fixes=fixes,
                subjects=keys,
                explains=e.keys,
                predicts=load_error(facts),
                wrong=not facts.strict,
            )
