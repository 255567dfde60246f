"""Which hyper_parameters reach the constructor, as Lightning sorts them.

Source: ``pytorch_lightning/core/saving.py`` of 2.6.6, ``_load_state``: unknown names are dropped without a word unless
the constructor takes ``**kwargs``; ``hparams_name`` names an argument that takes all of them as one mapping.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from relight.core.objects import Value
from relight.core.target import InitParam, InitSignature, Intent
from relight.facts.lightning import LightningView


@dataclass(frozen=True, slots=True)
class Arguments:
    """The constructor call that loading makes.

    Attributes:
        passed: Names that reach the constructor.
        dropped: (name, value) pairs that Lightning drops.
        missing: Required arguments that nothing is passed for.
        renamed: Dropped name to the unfilled argument that it was probably renamed to.
    """

    passed: tuple[str, ...]
    dropped: tuple[tuple[str, Value], ...]
    missing: tuple[InitParam, ...]
    renamed: dict[str, InitParam]


def sort_arguments(
    view: LightningView,
    init: InitSignature,
    intent: Intent,
    *,
    data: bool = False,
    sizes: Collection[tuple[int, int]] = (),
) -> Arguments | None:
    """Sort them; None where the file asks for an instantiator of LightningCLI, which sorts otherwise.

    Args:
        view: The file.
        init: The constructor.
        intent: The call.
        data: Whether the class is a LightningDataModule.
        sizes: (in the file, in the model) of the dimensions that differ: what a value that was dropped leads to.
    """
    saved = dict(view.data_parameters if data else view.hyper_parameters)
    if "_instantiator" in saved:
        return None
    names = set(init.names)
    key = "datamodule_hparams_name" if data else "hparams_name"
    found = view.get(key)
    whole = found if isinstance(found, str) else None
    if whole is not None and whole in names:
        offered: dict[str, Value] = {whole: view.get("datamodule_hyper_parameters" if data else "hyper_parameters")}
    else:
        offered = dict(saved)
    for name in intent.init:
        offered[name] = None
    passed = tuple(n for n in offered if n in names or init.var_keyword)
    dropped = tuple((n, v) for n, v in offered.items() if n not in passed)
    missing = tuple(p for p in init.params if p.required and p.name not in offered)
    unfilled = [p for p in init.params if p.name not in offered]
    # They were saved as the contents of one argument, which has another name now: none of them is that argument.
    of_one = whole not in (None, "kwargs") and whole not in names
    renamed = {} if of_one else _renames(dict(dropped), unfilled, sizes)
    return Arguments(passed, dropped, missing, renamed)


def _renames(
    dropped: dict[str, Value], unfilled: list[InitParam], sizes: Collection[tuple[int, int]]
) -> dict[str, InitParam]:
    """Pairs of a dropped name and an unfilled argument that look like one thing, one to one."""
    out: dict[str, InitParam] = {}
    free = list(unfilled)
    for name in dropped:
        scored = sorted(((_alike(name, p.name), -i) for i, p in enumerate(free)), reverse=True)
        if scored and scored[0][0] >= 0.6:
            out[name] = free.pop(-scored[0][1])
    # Names that have nothing in common: the sizes in the file are the dropped value, those of the model the default.
    led = {n: [p for p in free if any(follows(v, p, s) for s in sizes)] for n, v in dropped.items() if n not in out}
    for name, params in led.items():
        if len(params) == 1 and sum(params[0] in others for others in led.values()) == 1:
            out[name] = params[0]
            free.remove(params[0])
    required = [p for p in free if p.required]
    rest = [n for n in dropped if n not in out]
    if len(rest) == 1 and len(required) == 1:
        out[rest[0]] = required[0]  # the only value without a place, and the only place without a value
    return out


def follows(value: Value, param: InitParam, size: tuple[int, int]) -> bool:
    """Whether a size that differs is what a dropped value and the default in its place lead to.

    Both may be multiplied by one number, as the hidden layer of a transformer is four times its width.
    """
    if type(value) is not int or value < 1 or param.default is None or not param.default.isdecimal():
        return False
    default, (saved, wanted) = int(param.default), size
    return default > 0 and saved % value == 0 and saved // value * default == wanted


def _alike(a: str, b: str) -> float:
    """Likeness of two argument names, 0 to 1; one that contains the other as a word counts as alike."""
    words_a, words_b = set(a.lower().split("_")), set(b.lower().split("_"))
    if words_a < words_b or words_b < words_a:
        return 0.9
    return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()


def missing_message(class_name: str, missing: tuple[InitParam, ...]) -> str:
    """Python's own text of the TypeError (3.10 and newer qualify the name)."""
    kind = "keyword-only" if all(p.keyword_only for p in missing) else "positional"
    listed = [p for p in missing if p.keyword_only == (kind == "keyword-only")]
    names = [repr(p.name) for p in listed]
    text = (
        names[0]
        if len(names) == 1
        else " and ".join(names)
        if len(names) == 2
        else f"{', '.join(names[:-1])}, and {names[-1]}"
    )
    plural = "" if len(names) == 1 else "s"
    return f"{class_name}.__init__() missing {len(names)} required {kind} argument{plural}: {text}"
