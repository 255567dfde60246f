"""Lines worth knowing under a good answer. A difference that changes nothing gets one line, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from relight.core.errors import MissingFact
from relight.core.target import IntentCall
from relight.facts import conversions
from relight.facts.describe import counted, some, tensors
from relight.facts.facts import Facts
from relight.facts.overwritten import overwritten
from relight.facts.schedulers import kinds, other_values, saved_schedulers
from relight.facts.versions import at_least, release


def notes(facts: Facts) -> Iterator[str]:
    """Sentences, at most one per subject."""
    if not facts.checkpoint.readable:
        return
    if not facts.environment_known and facts.blocked is not None and facts.blocked.names:
        names = [n.full_name for n in facts.blocked.names]
        yield (
            f"Not all of it is plain data: it names {some(names, 3)}. "
            "torch 2.6 and newer refuse that by default; whether the modules are here is not known."
        )
    if not facts.has_target or facts.resolved_target.spec is None:
        return
    path = facts.checkpoint.state_dict_path
    if not facts.calls_lightning and path:
        inside = "".join(f"[{step!r}]" for step in path)
        yield f"Its weights are under {inside}: that is what load_state_dict has to be given."
    elif not facts.calls_lightning and facts.lightning.kind == "module":
        yield "The file holds a whole module: load_state_dict has to be given what its .state_dict() returns."
    yield from _versions(facts)
    yield from _devices(facts)
    yield from _dtypes(facts)
    yield from _optimizers(facts)
    yield from _not_visible(facts)


def _not_visible(facts: Facts) -> Iterator[str]:
    """What a manifest would have shown, or what the one that is there makes certain."""
    if facts.spec.kind == "datamodule" or facts.checkpoint.state_dict_path is None:
        return
    if facts.manifest_or_none is None:
        if facts.spec.architecture is None:
            return  # a spec of an earlier version: with a manifest, nothing more would be known
        yield "Not visible in this file (no manifest): activations, dropout, forward."
        history = facts.question.history
        if history is not None:
            yield (
                f"{history.file} has {counted(history.commits, 'commit')} since the date of the file; to see "
                f"{'it' if history.commits == 1 else 'them'}: {history.command}"
            )
        return
    outcome = facts.replayed
    if facts.question.prove and (outcome is None or outcome.same is None):
        reason = outcome.reason if outcome is not None else facts.manifest.omitted.get("probe", "")
        yield f"Not replayed: {reason.removeprefix('Unsuitable: ') or 'the manifest has no probe'}."
    if outcome is None or outcome.same is not True:
        return
    if facts.question.prove:
        yield (
            f"Replayed on the recorded input form ({outcome.form}, seeded): it answers as it did when this was "
            f"{facts.manifest.verb}."
        )
    with contextlib.suppress(MissingFact):
        names = [f.name for f in facts.changes.functions]
        if names:
            yield (
                f"{some(names, 3)} {'is' if len(names) == 1 else 'are'} written differently than when this was "
                f"{facts.manifest.verb}, and the recorded input is answered as it was then."
            )


def _optimizers(facts: Facts) -> Iterator[str]:
    """Whose options win in a resume; and what the state covers where configure_optimizers could not be asked."""
    if facts.intent.call is not IntentCall.RESUME or facts.spec.kind == "datamodule":
        return
    training = facts.spec.training
    if training is not None and not training.unknown:
        yield from _schedulers(facts)
        if facts.states.kind:
            return
        for one in overwritten(facts.lightning, training):
            if one.shown:
                continue  # a finding says it
            text = f"{one.name} is that of the file, {_values(one.saved)}, not that of configure_optimizers, "
            text += _values(one.now)
            if all(isinstance(v, (int, float)) for v in one.saved):
                text += f": relight fix --for resume --set optimizer.{one.name}=... decides otherwise"
            yield f"{text}."
        return
    seen: set[str] = set()
    mine_count = 0
    for p in facts.spec.params:  # a tensor under two names is one parameter
        if p.kind == "parameter" and p.key not in seen:
            mine_count += 1
            seen.update((p.key, *p.tied_with))
    for i, groups in enumerate(facts.lightning.optimizer_groups):
        if sum(groups) != mine_count:
            which = "The optimizer's" if len(facts.lightning.optimizer_groups) == 1 else f"Optimizer {i}'s"
            yield (
                f"{which} state is for {counted(sum(groups), 'parameter')} in {counted(len(groups), 'group')}, "
                f"the model has {mine_count:,}: it resumes only if configure_optimizers gives it as many."
            )


def _schedulers(facts: Facts) -> Iterator[str]:
    """Whose schedulers and whose settings win in a resume, where neither raises nor mixes anything up."""
    training = facts.spec.training
    saved = saved_schedulers(facts.lightning)
    specs = () if training is None else training.schedulers
    if saved and not specs:
        names = [" or ".join(kinds(s)) or "a scheduler" for s in saved]
        yield (
            f"{some(names, 3)} of the file {'is' if len(names) == 1 else 'are'} left out, as configure_optimizers makes "
            "none: the learning rate stays where the file has it."
        )
    if specs and not saved and facts.lightning.has("lr_schedulers"):
        names = [s.class_path.rpartition(".")[2] for s in specs]
        yield f"{some(names, 3)} {'begins' if len(names) == 1 else 'begin'} anew: the file has no state of a scheduler."
    for i, name, before, now in other_values(facts.lightning, specs):
        yield (
            f"{name} of {specs[i].class_path.rpartition('.')[2]} is that of the file, {before}, not that of "
            f"configure_optimizers, {now}: relight fix --for resume --set scheduler.{name}=... decides otherwise."
        )


def _values(values: Sequence[object]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values))


def _versions(facts: Facts) -> Iterator[str]:
    """Only for files of another major.minor; migration touches loops and callbacks, which a load does not read."""
    if not facts.environment_known or facts.intent.call is not IntentCall.LOAD:
        return
    wrote, reads = facts.lightning.version, facts.environment.lightning
    if wrote is None or reads is None or release(wrote)[:2] == release(reads)[:2]:
        return
    if at_least(reads, wrote) is None:
        return
    yield f"Written by Lightning {wrote}, read by {reads}: that makes no difference to a load."


def _devices(facts: Facts) -> Iterator[str]:
    if not facts.environment_known:
        return
    placement = facts.placement
    foreign = [t for t in placement.tags if t != "cpu"]
    if not foreign or not placement.mapped or facts.intent.map_location is not None:
        return
    where = _device_words(foreign[0])
    lacks = "; no GPU here" if foreign[0].startswith("cuda") and facts.environment.cuda_devices == 0 else ""
    yield f"Saved on {where}{lacks}. {facts.call_name} moves it to the CPU itself."
    ids = {t.storage_id for t in facts.checkpoint.tensors}
    weights = sum(s.nbytes for s in facts.checkpoint.storages.values() if s.id in ids)
    everything = sum(s.nbytes for s in facts.checkpoint.storages.values())
    more = f"; {_bytes(everything)} with the optimizer's state (resume only)" if everything > weights else ""
    yield f"Memory: {_bytes(weights)} of weights{more}."


def _device_words(tag: str) -> str:
    backend, _, index = tag.partition(":")
    if backend == "cuda":
        return f"GPU {index or 0}"
    return {"mps": "an Apple GPU", "xla": "a TPU"}.get(backend, tag)


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit in ("B", "KB") or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def _dtypes(facts: Facts) -> Iterator[str]:
    """Conversions that load_state_dict makes without a word and without a loss; a rule has the others."""
    if facts.spec.kind == "datamodule":
        return
    for found in conversions.conversions(facts.checkpoint, facts.spec):
        if found.loss is conversions.Loss.NONE:
            yield f"{tensors(len(found.keys))}: values are converted from {found.saved} to {found.wanted}."
