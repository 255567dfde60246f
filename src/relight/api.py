"""The functions behind the commands: the only place that joins reading, the live target and the engine."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeAlias, TypeVar

    from relight.core.checkpoint import Checkpoint, TensorEntry
    from relight.core.conversion import Conversion
    from relight.core.edits import ArrangeOptimizer, Edit, LoadReport, OrderKeys, Plan, Receipt, SetEntry, Written
    from relight.core.safety import Safety
    from relight.core.target import BuildFailure, Environment, IntentCall, ModelSpec, Target
    from relight.engine.choice import Choice
    from relight.facts.diff import Difference
    from relight.facts.facts import Facts
    from relight.facts.mapper.layers import Tensor
    from relight.facts.mapper.pairs import KeyMap
    from relight.facts.question import History
    from relight.live.loading import RealLoad, Types
    from relight.reader.values import Statistics
    from relight.reader.verify import Verification
    from relight.report.printable import Ranking, Report

    ModelT = TypeVar("ModelT")
    TensorLike: TypeAlias = "tuple[str, Iterable[int], str]"

# Every function imports what it needs when it is called: `inspect` costs what reading costs, and nothing of the rules.

_TARGET_ERRORS = ("target-file-missing", "target-name-missing", "target-ambiguous", "target-wrong-type")


def inspect(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint without executing anything in it.

    Args:
        path: A file or a folder.

    Returns:
        What is inside. Damage is in ``problems``, never an exception.

    Raises:
        SourceError: The path cannot be opened.
    """
    from relight.reader import open_checkpoint

    return open_checkpoint(path)


def tensor_statistics(path: str | os.PathLike[str], key: str) -> tuple[TensorEntry, Statistics]:
    """Read the values of one tensor, and nothing else, and describe them.

    Args:
        path: The checkpoint.
        key: The tensor's key in the state_dict.

    Returns:
        (its description, statistics of its values).

    Raises:
        SourceError: The path cannot be opened.
        UsageError: There is no such key, or its values are not plainly in the file, or the path is no file.
    """
    from relight.core.errors import UsageError
    from relight.reader import open_checkpoint
    from relight.reader.detect import open_source
    from relight.reader.values import statistics

    checkpoint = open_checkpoint(path)
    entry = next((t for t in checkpoint.tensors if t.key == key), None)
    if entry is None and key in checkpoint.refused:
        raise UsageError(f"the values of {key} cannot be given out: {checkpoint.refused[key]}")
    if entry is None:
        import difflib

        close = difflib.get_close_matches(key, [t.key for t in checkpoint.tensors], n=3)
        raise UsageError(f"{os.fspath(path)} has no tensor {key!r}", f"Close: {', '.join(close)}" if close else None)
    storage = checkpoint.storages.get(entry.storage_id or "")
    if os.path.isdir(path):
        raise UsageError(f"{os.fspath(path)} is a folder: values are read from files", "Name the file with the tensor.")
    source = open_source(path)
    try:
        if storage is None:
            raise ValueError(f"the values of {key} are not plainly in the file")
        return entry, statistics(source, entry, storage, little=checkpoint.little_endian)
    except ValueError as error:
        raise UsageError(str(error)) from None
    finally:
        source.close()


def check(
    path: str | os.PathLike[str],
    *,
    target: str | ModelSpec | type | Callable[..., object] | None = None,
    environment: Environment | Mapping[str, str] | str | None = None,
    intent: str = "load",
    strict: bool | None = None,
    weights_only: bool | None = None,
    map_location: str | None = None,
    init: Mapping[str, object] | None = None,
    hparams_file: str | None = None,
    prove: bool | None = None,
    select: Iterable[str] | None = None,
    ignore: Mapping[str, str] | None = None,
    baseline: str | os.PathLike[str] | None = None,
    explain: bool = False,
    announce: Callable[[str], None] | None = None,
) -> Report:
    """Will it load, into this model, here, for this purpose, and if not, why and what to do?

    Args:
        path: The checkpoint.
        target: What it is loaded into: ``package.module:Class``, ``file.py:Class``, ``file.py``, a factory, the path
            of a saved spec, a `ModelSpec`, a class, or a function that makes a model; None compares with nothing.
        environment: Where: an `Environment`, pins such as ``{"torch": "2.1.0"}``, the path of a Python interpreter, or
            None for the one that the target was built in, else this one if it has torch, else unknown.
        intent: ``load`` (load_from_checkpoint), ``resume`` (Trainer.fit) or ``weights`` (torch.load, then
            load_state_dict).
        strict: ``strict`` as the call will pass it; None where it does not.
        weights_only: ``weights_only`` as the call will pass it; None where it does not.
        map_location: ``map_location`` as the call will pass it; None where it does not.
        init: Keyword arguments that load_from_checkpoint passes on to the constructor.
        hparams_file: ``hparams_file`` as the call will pass it.
        prove: Whether the model is asked, with the file's weights, what it answered when it was saved, where a manifest
            says that: None asks where the weights are small (up to 256 MB).
        select: Rules whose findings are wanted, by code, prefix of codes (``RL3``) or name; None for all.
        ignore: Rule, said in the same ways, to the reason why its findings are not wanted.
        baseline: File of findings that were accepted, as `write_baseline` writes it.
        explain: Also say why, from the pages of the rules.
        announce: Called with one line before something slow starts.

    Returns:
        The report. Findings that are not wanted are in ``suppressed``; verdict and prediction are the same with them.

    Raises:
        SourceError: The path cannot be opened.
        UsageError: An argument does not make sense: an unknown intent, a target or a rule that does not exist.
    """
    return _ask(
        path,
        target=target,
        environment=environment,
        intent=intent,
        strict=strict,
        weights_only=weights_only,
        map_location=map_location,
        init=init,
        hparams_file=hparams_file,
        prove=prove,
        select=select,
        ignore=ignore,
        baseline=baseline,
        explain=explain,
        announce=announce,
    )[0]


def _ask(
    path: str | os.PathLike[str],
    *,
    target: str | ModelSpec | type | Callable[..., object] | None = None,
    environment: Environment | Mapping[str, str] | str | None = None,
    intent: str = "load",
    strict: bool | None = None,
    weights_only: bool | None = None,
    map_location: str | None = None,
    init: Mapping[str, object] | None = None,
    hparams_file: str | None = None,
    select: Iterable[str] | None = None,
    ignore: Mapping[str, str] | None = None,
    baseline: str | os.PathLike[str] | None = None,
    explain: bool = False,
    announce: Callable[[str], None] | None = None,
    prove: bool | None = False,
    really: str | None = None,
    candidates: bool = True,
    rename: Mapping[str, str] | None = None,
) -> tuple[Report, Target | None]:
    """The answer, and what ``--target`` led to; ``really`` is a file that relight wrote, to be loaded with its values."""
    from relight.reader import open_checkpoint

    asked = _Asked(
        path=path, environment=environment, intent=intent, strict=strict, weights_only=weights_only,
        map_location=map_location, init=init, hparams_file=hparams_file, select=select, ignore=ignore,
        baseline=baseline, explain=explain, rename=rename,
    )  # fmt: skip
    checkpoint = open_checkpoint(path)
    if checkpoint.readable or not isinstance(target, str):
        built = _target(
            target,
            checkpoint,
            asked.call,
            strict,
            asked.init,
            hparams_file,
            asked.python,
            _told(checkpoint, announce),
            really,
            prove,
        )
    else:
        built = _not_needed(target)
    _need_told(asked.renames, checkpoint, built)
    return asked.report(asked.facts(checkpoint, built, prove=prove is True), candidates=candidates), built


def rank_targets(
    path: str | os.PathLike[str],
    targets: str | Sequence[str | ModelSpec | type | Callable[..., object]],
    *,
    environment: Environment | Mapping[str, str] | str | None = None,
    intent: str = "load",
    strict: bool | None = None,
    weights_only: bool | None = None,
    map_location: str | None = None,
    init: Mapping[str, object] | None = None,
    hparams_file: str | None = None,
    select: Iterable[str] | None = None,
    ignore: Mapping[str, str] | None = None,
    baseline: str | os.PathLike[str] | None = None,
    explain: bool = False,
    announce: Callable[[str], None] | None = None,
) -> Ranking:
    """Which class was this? Check a checkpoint against several models, and rank them by what fits.

    Args:
        path: The checkpoint.
        targets: ``file.py:*`` or ``package.module:*`` for all models that it defines, or several targets.
        environment: As for `check`.
        intent: As for `check`.
        strict: As for `check`.
        weights_only: As for `check`.
        map_location: As for `check`.
        init: As for `check`; a class that does not take an argument is built without it.
        hparams_file: As for `check`.
        select: As for `check`.
        ignore: As for `check`.
        baseline: As for `check`.
        explain: As for `check`.
        announce: As for `check`.

    Returns:
        The models, the best first, each with its report.

    Raises:
        SourceError: The path cannot be opened.
        UsageError: As for `check`, or there is no model where all of them are meant.
    """
    from relight.engine.ranking import Candidate, fit_of, ranked
    from relight.reader import open_checkpoint
    from relight.report.printable import Ranking

    asked = _Asked(
        path=path, environment=environment, intent=intent, strict=strict, weights_only=weights_only,
        map_location=map_location, init=init, hparams_file=hparams_file, select=select, ignore=ignore,
        baseline=baseline, explain=explain,
    )  # fmt: skip
    checkpoint = open_checkpoint(path)
    listed = [targets] if isinstance(targets, str) else list(targets)
    if not checkpoint.readable:
        # Nothing can be compared with it, whatever the class: one answer for all.
        built = [_not_needed(str(listed[0]))]
    else:
        built = _several(listed, checkpoint, asked, strict, _told(checkpoint, announce))
    candidates = []
    for target in built:
        facts = asked.facts(checkpoint, target)
        candidates.append(Candidate(asked.report(facts), fit_of(facts)))
    return Ranking(
        origin=asked.path,
        asked=tuple(t if isinstance(t, str) else getattr(t, "__name__", type(t).__name__) for t in listed),
        candidates=ranked(candidates),
    )


def _several(
    targets: Sequence[str | ModelSpec | type | Callable[..., object]],
    checkpoint: Checkpoint,
    asked: _Asked,
    strict: bool | None,
    announce: Callable[[str], None] | None,
) -> list[Target]:
    """Every model that is meant, each once, built with as few starts of torch as can be."""
    from relight.core.errors import UsageError
    from relight.core.target import ModelSpec
    from relight.live.capture import TargetRequest, build_models, build_targets, parse_target

    out: list[Target] = []
    single: dict[int, TargetRequest] = {}
    for target in targets:
        if isinstance(target, ModelSpec):
            out.append(_from_spec(target, target.class_path))
            continue
        if not isinstance(target, str):
            from relight.live.named import argument_of

            target = argument_of(target)
        request = TargetRequest(
            argument=target,
            checkpoint=checkpoint,
            init=asked.init,
            hparams_file=asked.hparams_file,
            call=asked.call.value,
            strict=strict,
        )
        if parse_target(target).name != "*":
            single[len(out)] = request
            out.append(_not_needed(target))
            continue
        models = build_models(request, python=asked.python, announce=announce)
        if not models:
            raise UsageError(f"--target {target}: it defines no nn.Module")
        out += models
    built = build_targets(list(single.values()), python=asked.python, announce=announce)
    for place, target_built in zip(single, built, strict=True):
        out[place] = target_built
    slips: list[UsageError] = []
    for target_built in out:
        _need_target(target_built)
        try:
            _need_names(target_built, asked.init, checkpoint)
        except UsageError as error:
            slips.append(error)
    if slips and len(slips) == len(out):  # one class may take what another does not
        raise slips[0]
    return list({t.argument: t for t in out}.values())


class _Asked:
    """One question, checked; what it is loaded into comes later, and may be one of several."""

    def __init__(
        self,
        *,
        path: str | os.PathLike[str],
        environment: Environment | Mapping[str, str] | str | None,
        intent: str,
        strict: bool | None,
        weights_only: bool | None,
        map_location: str | None,
        init: Mapping[str, object] | None,
        hparams_file: str | None,
        select: Iterable[str] | None,
        ignore: Mapping[str, str] | None,
        baseline: str | os.PathLike[str] | None,
        explain: bool,
        types: Iterable[str] = (),
        rename: Mapping[str, str] | None = None,
    ) -> None:
        from relight.core.errors import UsageError
        from relight.core.target import Intent, IntentCall

        try:
            self.call = IntentCall(intent)
        except ValueError:
            raise UsageError(f"unknown intent {intent!r}", "One of load, resume, weights.") from None
        _need_file(hparams_file)
        if isinstance(environment, dict):
            _need_versions(environment)
        self.path = os.fspath(path)
        self.environment = environment
        self.python = environment if isinstance(environment, str) else None
        self.init = dict(init or {})
        self.hparams_file = hparams_file
        self.explain = explain
        self.intent = Intent(
            call=self.call,
            strict=strict,
            weights_only=weights_only,
            map_location=map_location,
            init=tuple(self.init),
            types=tuple(types),
        )
        self.choice = _choice(self.path, select, ignore, baseline)
        self.renames = tuple((_bare(old), _bare(new)) for old, new in (rename or {}).items())

    def facts(self, checkpoint: Checkpoint, built: Target | None, *, prove: bool = False) -> Facts:
        """All that is known about one target."""
        from relight.facts.facts import Facts
        from relight.facts.question import Question

        question = Question(
            path=self.path,
            target=None if built is None else built.argument,
            intent=self.intent,
            init=self.init,
            hparams_file=self.hparams_file,
            class_name=None if built is None else built.class_name,
            pins=_pins(self.environment),
            history=_history(checkpoint, built),
            prove=prove,
            renames=self.renames,
        )
        return Facts(checkpoint, question, built, _environment(self.environment, built))

    def report(self, facts: Facts, *, candidates: bool = True) -> Report:
        """The answer for one target; whoever shows it to nobody needs no candidates, whose search may take a while."""
        from dataclasses import replace

        from relight.core.finding import Verdict
        from relight.engine.diagnose import diagnose
        from relight.engine.explanations import explanations
        from relight.report.printable import Report
        from relight.rulekit.registry import all_rules

        report = diagnose(facts, all_rules(), choice=self.choice)
        if candidates and not facts.has_target and report.verdict is Verdict.UNKNOWN:
            report = replace(report, candidates=tuple(_candidates(facts.checkpoint)))
        if self.explain:
            where = facts.environment if facts.environment_known else None
            report = replace(report, explanations=tuple(explanations(report.findings, where)))
        return Report.of(report)


def _bare(name: str) -> str:
    """``encoder.*`` and ``encoder.`` are the module ``encoder``."""
    return name.strip().removesuffix("*").removesuffix(".")


def _pins(environment: Environment | Mapping[str, str] | str | None) -> tuple[str, ...]:
    if not isinstance(environment, dict) or "packages" in environment:
        return ()
    return tuple(f"{name}=={version}" for name, version in environment.items())


def _choice(
    path: str,
    select: Iterable[str] | None,
    ignore: Mapping[str, str] | None,
    baseline: str | os.PathLike[str] | None,
) -> Choice | None:
    if select is None and not ignore and baseline is None:
        return None
    from relight.engine import baseline as baselines
    from relight.engine.choice import Choice

    known = None if baseline is None else baselines.read(os.fspath(baseline))
    file = "" if known is None else known.name_of(path)
    return Choice.of(select=select, ignore=ignore, baseline=known, file=file)


def write_baseline(path: str | os.PathLike[str], report: Report) -> Report:
    """Accept the findings of a report: later checks with this baseline show only what is new.

    Args:
        path: The file. What it says of other checkpoints, targets and intents stays; what it says of this one is
            replaced.
        report: The answer to one question.

    Returns:
        The report with its findings in ``suppressed``.

    Raises:
        UsageError: The file is there and is no baseline.
        OSError: It cannot be written.
    """
    from dataclasses import replace

    from relight.core.finding import Suppressed, Suppression
    from relight.engine import baseline as baselines

    known = baselines.read(os.fspath(path), new=True)
    before = [s.finding for s in report.suppressed if s.how is Suppression.BASELINE]
    target = None if report.target is None else str(report.target["argument"])
    file = known.name_of(report.origin)
    text = known.updated([*report.findings, *before], file=file, target=target, intent=report.intent).text()
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    accepted = [Suppressed(f, Suppression.BASELINE, f"listed in {known.path}") for f in report.findings]
    return replace(report, findings=(), suppressed=(*report.suppressed, *accepted))


def verify(
    path: str | os.PathLike[str],
    *,
    finite: bool = False,
    digest: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Read every byte once and compare checksums; torch.load does not.

    Args:
        path: A file, or a folder: then its files one by one.
        finite: Also look for NaN and Inf.
        digest: Also compute sha256 of every record and of the file.
        progress: Called with the number of bytes read since the last call.

    Returns:
        What reading everything showed.

    Raises:
        SourceError: The file cannot be opened or read.
        UsageError: The path is a URL.
    """
    from relight.reader import verify as verifying

    return verifying.verify(path, finite=finite, digest=digest, progress=progress)


def plan(report: Report, *, allow: Sequence[str] = ()) -> Plan:
    """What `fix` would do about the findings of a report; nothing is written.

    Args:
        report: What `check` found.
        allow: Names of fixes that are not taken unasked, as ``drop-layers``; the report's fixes name theirs.

    Returns:
        The plan: edits, the fixes that it takes, and those that it does not, with the reasons.

    Raises:
        SourceError: The file cannot be opened any more.
        UsageError: A name that no fix of this report has.
    """
    from relight.repair import planner
    from relight.repair.rewriter import digest_of

    return planner.plan(report, digest_of(report.origin), allow)


def fix(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    *,
    target: str | ModelSpec | type | Callable[..., object] | None = None,
    environment: Environment | Mapping[str, str] | str | None = None,
    intent: str = "load",
    strict: bool | None = None,
    weights_only: bool | None = None,
    map_location: str | None = None,
    init: Mapping[str, object] | None = None,
    hparams_file: str | None = None,
    allow: Sequence[str] = (),
    plan: Plan | None = None,
    prove: str = "load",
    in_place: bool = False,
    keep: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    rename: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Receipt:
    """Write a corrected copy, and prove that it is one.

    The copy is read again, diagnosed again with the same question, compared with the file tensor by tensor, and really
    loaded into the target where there is one and torch. Where one of these fails, there is no copy.

    Args:
        path: The checkpoint; it is only read.
        output: The copy; nothing may be there. None goes with ``in_place``.
        target: What it is loaded into, as for `check`.
        environment: Where, as for `check`.
        intent: How, as for `check`.
        strict: As for `check`.
        weights_only: As for `check`.
        map_location: As for `check`.
        init: As for `check`.
        hparams_file: As for `check`.
        allow: Names of fixes that are not taken unasked.
        plan: A plan for this very file; None makes one from what `check` finds.
        prove: ``load``; ``bytes`` also compares every byte of untouched tensors; ``read`` does not load.
        in_place: Append to the file itself, where only names and values in its pickle change: its old bytes stay, so
            that `undo` takes it back. Refused where it could hurt: links, files of several names, read-only files, and
            repairs for safety's sake.
        keep: For a resume: the parts that it is to restore, of weights, optimizer, loops, callbacks, schedulers; the
            others begin anew. Empty for all.
        options: For a resume: options of the optimizer that get another value, as ``{"optimizer.lr": 0.001}``.
        rename: Names of modules or tensors in the file to those in the target, where you know them: they settle what
            could only be guessed.
        progress: Called with the number of bytes written, and then with those read again, since the last call.
        announce: Called with one line before something slow starts.

    Returns:
        The receipt.

    Raises:
        SourceError: The file cannot be opened.
        UsageError: An argument does not make sense.
        RepairError: There is nothing that can be repaired, the plan is for another file, the copy cannot be written,
            or the proof fails. Then there is no copy.
    """
    from dataclasses import replace

    from relight.core.errors import NothingToRepair, RepairError, UsageError
    from relight.repair import in_place as inplace
    from relight.repair import proof
    from relight.repair.copying import refuse_existing
    from relight.repair.rewriter import rewrite

    source = os.fspath(path)
    if in_place == (output is not None):
        raise UsageError("in place there is no other file to write" if in_place else "there is no name for the copy")
    copy = source if output is None else os.fspath(output)
    environment = _destination(environment)
    if prove not in ("load", "bytes", "read"):
        raise UsageError(f"unknown proof {prove!r}", "One of load, bytes, read.")
    if not in_place:
        refuse_existing(copy, source)
    healed = inplace.heal(source)
    if healed and announce is not None:
        announce(f"{source}: {healed}")

    def ask(file: str, really: str | None = None) -> tuple[Report, Target | None]:
        return _ask(
            file,
            target=target,
            environment=environment,
            intent=intent,
            strict=strict,
            weights_only=weights_only,
            map_location=map_location,
            init=init,
            hparams_file=hparams_file,
            announce=announce if file == source else None,
            really=really,
            candidates=False,
            rename=rename if file == source and really is None else None,  # the copy has the names of the target
        )

    before, there = ask(source)
    if plan is None:
        plan = _planned(source, before, there, allow, intent, keep, options or {})
    elif keep or options or rename:
        raise UsageError("a plan says what is kept, set and renamed already", "Leave one of them out.")
    if not plan.edits:
        raise NothingToRepair(source, _nothing(plan, before))
    receipts: list[Receipt] = []

    def prove_it(written: Written, checks: list[tuple[str, bool, str]]) -> None:
        """Before the copy has its name: nobody ever finds one there that was not proved."""
        reason = "" if prove != "read" else "--prove read"
        if not reason and os.path.getsize(written.path) > _LOADED_UNASKED and prove != "bytes":
            reason = "it is large; --prove bytes loads it all the same"
        reason = reason or _elsewhere(environment)
        after, built = ask(written.path, really=None if reason else written.path)
        loaded = None if built is None else built.loaded
        reason = reason or proof.worth_loading(after)
        if reason:
            loaded = None  # what raises is another finding, which is reported
        elif loaded is None:
            reason = "the target is described, not there"
        at = after.summary.get("resumes_at")
        if at and not isinstance(environment, dict) and loaded is not None and "which starts" in (loaded.stage or ""):
            ok = (loaded.stage or "").endswith(f"at epoch {at['epoch']}, step {at['step']}")
            checks.append(
                ("really resumed", ok, f"{loaded.stage}, where it was to start at {at['epoch']}, {at['step']}")
            )
        receipt = proof.receipt(plan, written, checks, before=before, after=after, loaded=loaded, not_tried=reason)
        if not receipt.holds:
            failed = next((f"{what}: {text}" for what, ok, text in receipt.checks if not ok), receipt.loaded_by)
            outcome = "it is what it was" if in_place else "no copy"
            raise RepairError(source, f"{outcome}, the proof fails: {failed}".replace(written.path, copy))
        receipts.append(receipt)

    def compare_and_prove(written: Written) -> None:
        prove_it(written, proof.compared(written, source, whole=prove == "bytes", progress=progress))

    if in_place:
        written = inplace.rewrite_in_place(plan, source, prove=prove_it)
    else:
        written = rewrite(plan, source, copy, progress=progress, announce=announce, prove=compare_and_prove)
    return replace(receipts[0], written=written)


def seal(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    target: str | type | Callable[..., object],
    *,
    intent: str = "load",
    input: Sequence[str] = (),
    init: Mapping[str, object] | None = None,
    hparams_file: str | None = None,
    python: str | None = None,
    progress: Callable[[int], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Receipt:
    """Add a manifest to a copy of a file that was saved without one; the tensors stay what they are, byte for byte.

    It describes the model of today, not that of the training run, and says so: to be done before a refactoring.

    Args:
        path: The checkpoint; it is only read.
        output: The copy; nothing may be there.
        target: The model that it belongs to, as for `check`.
        intent: How it is loaded, as for `check`.
        input: The form of each argument of ``forward``, as ``8x3x32x32`` or ``4x16:int64:0..99``; without it the model's
            ``example_input_array`` is taken, where it has one.
        init: As for `check`.
        hparams_file: As for `check`.
        python: Interpreter to build the target with.
        progress: Called with the number of bytes written since the last call.
        announce: Called with one line before something slow starts.

    Returns:
        The receipt.

    Raises:
        SourceError: The file cannot be opened.
        UsageError: An argument does not make sense.
        RepairError: The file has a manifest already, has no place for one, or does not load into the target; or the copy
            cannot be written or is not what it should be. Then there is no copy.
    """
    import contextlib

    from relight.core.errors import RepairError, UsageError
    from relight.core.target import IntentCall
    from relight.facts import replay
    from relight.facts.manifest import manifest_of
    from relight.live.capture import build_target
    from relight.live.named import argument_of
    from relight.reader import open_checkpoint
    from relight.repair import proof, sealing
    from relight.repair.copying import refuse_existing
    from relight.repair.rewriter import digest_of, rewrite

    source, copy = os.fspath(path), os.fspath(output)
    refuse_existing(copy, source)
    form = sealing.input_form(tuple(input))
    _need_file(hparams_file)
    try:
        call = IntentCall(intent)
    except ValueError:
        raise UsageError(f"unknown intent {intent!r}", "One of load, resume, weights.") from None
    checkpoint = open_checkpoint(source)
    sealing.refuse(checkpoint)
    places = replay.places(checkpoint)
    if places is None:
        raise RepairError(source, "its values are not all plainly in it")
    argument = target if isinstance(target, str) else argument_of(target)
    built: Target = build_target(
        argument, checkpoint, init=init, hparams_file=hparams_file, python=python, call=call.value,
        seal={**places, "input": form}, announce=_told(checkpoint, announce), cache=False,
    )  # fmt: skip
    _need_target(built)
    _need_names(built, init or {}, checkpoint)
    parts = built.sealed or {}
    if "architecture" not in parts:
        failed = built.failure or built.rehearsal
        why = next(iter((parts.get("omitted") or {}).values()), failed.message if failed is not None else "")
        raise RepairError(source, f"it does not load into {argument}" + (f": {' '.join(why.split())}" if why else ""))
    made = sealing.text(checkpoint, parts, argument)
    plan = sealing.plan(checkpoint, digest_of(source), made)
    written = rewrite(plan, source, copy, progress=progress)
    try:
        checks = proof.compared(written, source, whole=False)
        found = manifest_of(open_checkpoint(copy))
        checks.append(("the manifest", found is not None and found.sealed is not None, "it is read as it was written"))
        receipt = proof.receipt(plan, written, checks, not_tried="a manifest changes nothing that is loaded")
        if not receipt.proved:
            failed_at = next(f"{what}: {text}" for what, ok, text in receipt.checks if not ok)
            raise RepairError(source, f"no copy, the proof fails: {failed_at}")
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(copy)
        raise
    return receipt


def undo(path: str | os.PathLike[str]) -> int:
    """Take back the last repair in place: the file is then, byte for byte, what it was before.

    Args:
        path: A file that `fix` repaired with ``in_place``.

    Returns:
        Its size.

    Raises:
        SourceError: It cannot be opened.
        RepairError: It was not repaired in place.
    """
    from relight.repair import in_place

    return in_place.undo(os.fspath(path))


def convert(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: str | None = None,
    rest: bool = True,
    only: str | None = None,
    prove: str = "read",
    salvage: bool = False,
    target: str | ModelSpec | type | Callable[..., object] | None = None,
    init: Mapping[str, object] | None = None,
    python: str | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Conversion:
    """Write what a checkpoint holds in another layout, and prove it; what is read is never changed.

    The new files are read again and compared with the source, tensor by tensor. Where that fails, there are none.

    Args:
        path: A checkpoint: a file of torch of any age, safetensors, or a folder of shards.
        output: The new file; nothing may be there.
        to: ``torch`` or ``safetensors``; None goes by the name of the new file.
        rest: Whether what safetensors cannot hold is written beside it, as ``NAME.rest.json``: converting the new file
            then gives the whole checkpoint back.
        only: ``weights`` leaves out all but the state_dict.
        prove: ``read`` compares checksums where the source records them, and bytes elsewhere; ``bytes`` compares bytes.
        salvage: Whether a file that is cut off or whose bytes have changed is converted as far as it is intact; what is
            not is listed in the receipt.
        target: The LightningModule, as for `check`, that a state_dict becomes a checkpoint for: its names become those of
            the target, as `fix` changes them, and the new file has to load into it.
        init: Arguments of its constructor, kept as hyper_parameters.
        python: Interpreter to build the target with.
        announce: Called with one line before something slow starts.
        progress: Called with the number of bytes written since the last call.

    Returns:
        The receipt.

    Raises:
        SourceError: The path cannot be opened.
        UsageError: An argument does not make sense.
        ConversionError: It is damaged or incomplete, cannot be written so, or the proof fails. Then nothing is written.
    """
    from relight.core.errors import UsageError
    from relight.reader.remote import is_url
    from relight.repair import converting

    for name, value, known in (
        ("to", to, (None, "torch", "safetensors")),
        ("only", only, (None, "weights")),
        ("prove", prove, ("read", "bytes")),
    ):
        if value not in known:
            raise UsageError(f"unknown {name} {value!r}", f"One of {', '.join(k for k in known if k is not None)}.")
    if is_url(os.fspath(path)):
        raise UsageError("convert reads every byte, and does not fetch them", "Download the file first.")
    how: dict[str, Any] = {"only": only, "whole": prove == "bytes", "salvage": salvage, "progress": progress}
    if target is None:
        if init:
            raise UsageError("init goes with a target")
        return converting.convert(os.fspath(path), os.fspath(output), to=to, rest=rest, **how)
    if to == "safetensors" or only is not None:
        raise UsageError("a target takes a checkpoint of Lightning, which is a file of torch")
    return _for_target(
        os.fspath(path), os.fspath(output), target, dict(init or {}), python=python, announce=announce, how=how
    )


def _for_target(
    path: str,
    output: str,
    target: str | ModelSpec | type | Callable[..., object],
    init: Mapping[str, object],
    *,
    python: str | None,
    announce: Callable[[str], None] | None,
    how: dict[str, Any],
) -> Conversion:
    """A checkpoint of Lightning for a target: made beside the new file, and given its name once it loads."""
    import tempfile
    from dataclasses import replace

    from relight.core.errors import ConversionError, RepairError
    from relight.core.finding import Verdict
    from relight.repair import converting
    from relight.repair.copying import refuse_existing

    refuse_existing(output, path)
    here = _environment(python, None)
    version = (here.lightning if here is not None else None) or _LIGHTNING
    folder, name = os.path.split(os.path.abspath(output))
    try:
        scratch = tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".relight", dir=folder)
    except OSError as error:
        raise ConversionError(path, f"{output} cannot be written: {error.strerror or error}") from None
    with scratch as beside:
        made = os.path.join(beside, name)
        done = converting.convert(path, made, to="torch", lightning=(version, init), **how)
        report, built = _ask(made, target=target, environment=python, announce=announce, really=made)
        rehearsed = None if built is None else built.loaded
        changes, checks = list(done.changes), list(done.checks)
        if report.verdict is Verdict.LOADS and (rehearsed is None or rehearsed.ok is not False):
            loaded = rehearsed is not None and rehearsed.ok is True
            refuse_existing(output, path)
            os.replace(made, output)
        else:
            first = next((f.message for f in report.findings), "it does not load into the target")
            try:
                receipt = fix(made, output, target=target, environment=python, announce=announce)
            except RepairError as error:
                said, *offers = error.reason.splitlines()
                reason = f"{first}; {said}"
                if offers:
                    names = ", ".join(line.split()[1] for line in offers)
                    reason += f"; relight fix --target does by name: {names}"
                raise ConversionError(
                    path, f"nothing is written, it would not load into the target: {reason}"
                ) from None
            if receipt.left or receipt.verdict != Verdict.LOADS.value:
                os.unlink(output)
                raise ConversionError(path, f"nothing is written, it would not load into the target: {first}")
            changes += receipt.written.changes
            loaded = receipt.loaded == "yes"
        text = "really loaded into the target" if loaded else "by its description, it loads into the target"
        checks.append(("the target", True, text))
    made_of = tuple(replace(o, path=output, nbytes=os.path.getsize(output)) for o in done.outputs)
    return replace(done, outputs=made_of, changes=tuple(changes), checks=tuple(checks))


def load(
    cls: type[ModelT],
    path: str | os.PathLike[str],
    *,
    strict: bool | None = None,
    weights_only: bool | None = None,
    map_location: object = None,
    hparams_file: str | None = None,
    allow: Sequence[str] = (),
    types: Types = (),
    prove: bool = False,
    **hparams: object,
) -> ModelT:
    """``load_from_checkpoint`` that repairs what can be repaired safely, and says why where it cannot load.

    Nothing is written: repairs are made to what torch reads, in memory, and the file is diagnosed again with them before
    it is loaded. What was repaired is said in a warning, and by `report_of`. Whatever the versions and the path, objects
    are unpickled with ``weights_only=True``, unless the caller says otherwise.

    Args:
        cls: A LightningModule class, or a LightningDataModule class.
        path: The checkpoint: a file, a URL, or a folder that Lightning wrote from several processes.
        strict: ``strict`` of the call.
        weights_only: ``weights_only`` of the call.
        map_location: ``map_location`` of the call.
        hparams_file: ``hparams_file`` of the call.
        allow: Names of fixes that are not taken unasked, as for `fix`.
        types: Classes whose objects are accepted as they are, and nothing else is: those of the caller's that the file
            holds. Where it has another name for one, ``{"module.name": Class}``.
        prove: Ask the model, once it is loaded, what it answered when it was saved, as the manifest in the file says. It
            has to answer the same; a file without a manifest cannot be proved.
        **hparams: Further arguments of the constructor.

    Returns:
        The model.

    Raises:
        SourceError: The file cannot be opened.
        UsageError: The class does not load from checkpoints, or ``types`` holds something else than classes.
        LoadError: It does not load; the message is what `check` says, the cause what the library raised. Or it loads,
            and ``prove`` does not hold.
    """
    import warnings
    from dataclasses import replace

    from relight.core.edits import LoadReport
    from relight.core.errors import LoadError, SourceError
    from relight.core.safety import Safety
    from relight.facts.safety import safety
    from relight.live.loading import RealLoad
    from relight.reader.remote import is_url
    from relight.report import text
    from relight.report.layout import Style

    origin = os.fspath(path)
    given: dict[str, Any] = {
        "strict": strict, "weights_only": weights_only, "map_location": map_location, "hparams_file": hparams_file,
    }  # fmt: skip
    real = RealLoad(cls, {**{k: v for k, v in given.items() if v is not None}, **hparams}, types)
    try:
        verdict = safety(inspect(path))  # a path that leads nowhere is said as everywhere else
    except SourceError:
        if not is_url(origin) or weights_only is False:
            raise
        verdict = Safety.UNKNOWN  # a server that gives out no parts of a file: nothing of it will run all the same
    if verdict is Safety.DANGEROUS:
        raise LoadError(origin, text.render(check(path), Style()))  # whatever the library would do with it
    loaded = LoadReport(origin=origin, class_name=cls.__name__)
    asked: dict[str, Any] = {
        "strict": strict, "weights_only": real.weights_only if weights_only is None else weights_only,
        "hparams_file": hparams_file, "init": hparams, "types": real.type_names,
        "map_location": map_location if isinstance(map_location, str) else None,
    }  # fmt: skip
    if os.path.isdir(path):
        model: ModelT = _load_folder(real, origin, verdict)
    else:
        try:
            model = real.model(origin)
        except Exception as error:
            model, loaded = _load_repaired(cls, origin, real, asked, allow, error)
        else:
            if not _is_strict(model, strict):
                # What strict=True would have raised is looked at all the same: a renamed layer stays at random values.
                model, loaded = _load_rest(cls, origin, real, asked, allow, model)
        if loaded.repaired:
            said = "; ".join(f"{what} {how}" for what, how in loaded.changes[:5])
            warnings.warn(f"{origin} was repaired in memory to be loaded: {said}", UserWarning, stacklevel=2)
    if prove:
        _prove(model, origin)
        loaded = replace(loaded, proved=True)
    _loaded()[model] = loaded, asked
    return model


def _prove(model: Any, origin: str) -> None:
    """Ask a loaded model what the manifest of its file says that it answered.

    Raises:
        LoadError: It answers otherwise, or there is nothing to ask it.
    """
    import sys

    from relight.core.errors import LoadError
    from relight.core.target import Replay
    from relight.facts import replay
    from relight.facts.manifest import manifest_of
    from relight.manifest import behaviour

    head = f"{origin}: loads into {type(model).__name__}"
    manifest = manifest_of(inspect(origin))
    form = None if manifest is None else replay.asked(manifest)
    if manifest is None or form is None:
        omitted = "" if manifest is None else manifest.omitted.get("probe", "").removeprefix("Unsuitable: ")
        reason = omitted or f"the {'file has no manifest' if manifest is None else 'manifest has no probe'}"
        raise LoadError(origin, f"{head}, which cannot be proved: {reason}")
    try:
        answer, steady = behaviour.asked_twice(model, form["module"], form["input"], sys.modules["torch"])
        outcome = replay.compare(manifest, Replay(answer=answer, steady=steady))
    except Exception as error:
        raise LoadError(origin, f"{head}, which cannot be proved: {type(error).__name__}: {error}") from error
    if outcome is None or outcome.same is None:
        raise LoadError(origin, f"{head}, which cannot be proved: {outcome.reason if outcome else 'no answer'}")
    if not outcome.same:
        raise LoadError(
            origin,
            f"{head} WITHOUT AN ERROR, BUT WRONG: it answers otherwise than when this was {manifest.verb}\n"
            f"  Asked with the recorded input form ({outcome.form}, seeded): {outcome.text}.\n"
            "  relight check says what else is not as it was.",
        )


def report_of(model: object) -> LoadReport:
    """What `load` did to load a model, and what `check` says of its file; where nobody has asked yet, it is asked now.

    Args:
        model: What it returned.

    Raises:
        UsageError: It was not loaded by `load`, in this process.
    """
    from dataclasses import replace

    from relight.core.errors import UsageError

    try:
        loaded, asked = _loaded()[model]
    except (KeyError, TypeError):
        raise UsageError("this model was not loaded by relight.load", "A copy of one is another model.") from None
    if loaded.report is None and not os.path.isdir(loaded.origin):
        loaded = replace(loaded, report=_report_on(model, loaded.origin, asked))
        _loaded()[model] = loaded, asked
    return loaded


def _report_on(model: object, origin: str, question: Mapping[str, Any]) -> Report | None:
    """What `check` says of a file and of the model that was loaded from it; None where it is not there any more."""
    from relight.core.errors import SourceError
    from relight.live.loading import downloaded, opened, target_here
    from relight.reader.detect import read

    try:
        file = downloaded(origin) if origin.startswith("http") else origin
        source = opened(file)
    except SourceError:
        return None
    try:
        asked = _Asked(
            path=file,
            environment=None,
            intent="load",
            select=None,
            ignore=None,
            baseline=None,
            explain=False,
            **question,
        )
        return asked.report(asked.facts(read(source), target_here(type(model), model)))
    finally:
        source.close()


@functools.cache
def _loaded() -> weakref.WeakKeyDictionary[Any, tuple[LoadReport, Mapping[str, Any]]]:
    """What was loaded, as long as it is there; nothing is added to the models themselves, which are saved again."""
    import weakref

    return weakref.WeakKeyDictionary()


def _load_repaired(
    cls: type[ModelT],
    origin: str,
    real: RealLoad,
    question: Mapping[str, Any],
    allow: Sequence[str],
    error: Exception,
) -> tuple[ModelT, LoadReport]:
    """Load what did not load, with repairs in memory; where that does not help, say why."""
    from dataclasses import replace

    from relight.core.edits import LoadReport
    from relight.core.errors import LoadError, RelightError
    from relight.live.failure import built_model
    from relight.live.loading import downloaded, let_go, opened, target_here
    from relight.reader.detect import read
    from relight.reader.remote import is_url
    from relight.repair import planner
    from relight.repair.rewriter import digest_of_source, splice
    from relight.report import text
    from relight.report.layout import Style

    try:
        file = downloaded(origin) if origin.startswith("http") else origin
        asked = _Asked(
            path=file,
            environment=None,
            intent="load",
            select=None,
            ignore=None,
            baseline=None,
            explain=False,
            **question,
        )
        source = opened(file)
    except RelightError:
        raise LoadError(origin, f"{origin} does not load: {type(error).__name__}: {error}") from error
    try:
        checkpoint = read(source)
        # Only where nothing is written is a file behind a URL repaired: to the planner it is one that is on no disk.
        in_memory = f"{file.replace('://', ':')} in memory"
        here = replace(checkpoint, origin=in_memory) if is_url(file) else checkpoint
        # What failed here says what is needed, step by step, in no time. Another process, which builds the class as far
        # as that goes, knows more, and takes seconds.
        targets = [target_here(cls, built_model(error, cls))]
        let_go(error)
        tried: list[tuple[Edit, ...]] = []
        lax: tuple[ModelT, LoadReport] | None = None
        elsewhere = False
        while True:
            target = targets[-1]
            report = asked.report(asked.facts(here, target))
            known = planner.names_to_allow(report)
            plan = planner.plan(report, digest_of_source(source), [name for name in allow if name in known])
            failure: Exception | None = None
            if plan.edits and plan.edits not in tried:
                tried.append(plan.edits)
                try:
                    repaired, written = splice(plan, source, checkpoint=here)
                    new = read(repaired.source(in_memory))
                    if _as_planned(asked, plan, written, report, new, target):
                        repaired.seek(0)
                        model: ModelT = real.model(repaired)
                        loaded = LoadReport(
                            origin=origin, class_name=cls.__name__, plan=plan, changes=written.changes, report=report
                        )
                        if not _is_strict(model, question["strict"]):
                            initial, unused = _left_out_of(model, new)
                            loaded = replace(loaded, initial=initial, unused=unused)
                            if initial and unused and target.spec is None and lax is None:
                                lax = model, loaded  # before there was a model, nobody could see what is renamed
                                targets.append(target_here(cls, model))
                                continue
                        return model, loaded
                except Exception as again:
                    failure = again
            if lax is not None:
                return lax
            if elsewhere:
                break
            if failure is not None:
                further = target_here(cls, built_model(failure, cls))
                let_go(failure)
                if further.spec is not None and target.spec is None:
                    targets.append(further)
                    continue
            elsewhere = True
            described = _described_elsewhere(cls, checkpoint, asked)
            if described is None:
                break
            targets.append(described)
        if here is not checkpoint:
            report = asked.report(asked.facts(checkpoint, target))
        said = text.render(report, Style())
        if not report.failed:  # then the cause is none that relight knows: the first line must not say that all is well
            said = f"{origin} does not load: {type(error).__name__}: {error}\n\nNo cause is found in the file:\n{said}"
        raise LoadError(origin, said) from error
    finally:
        source.close()


def _load_rest(
    cls: type[ModelT],
    origin: str,
    real: RealLoad,
    question: Mapping[str, Any],
    allow: Sequence[str],
    model: ModelT,
) -> tuple[ModelT, LoadReport]:
    """After a load that was not strict: load again where a repair brings in what was left out, and say what was."""
    from dataclasses import replace

    from relight.core.edits import LoadReport
    from relight.live.loading import downloaded, opened, target_here
    from relight.reader.detect import read
    from relight.reader.remote import is_url
    from relight.repair import planner
    from relight.repair.rewriter import digest_of_source, splice

    file = downloaded(origin) if origin.startswith("http") else origin
    source = opened(file)
    try:
        checkpoint = read(source)
        loaded = LoadReport(origin=origin, class_name=cls.__name__)
        initial, unused = _left_out_of(model, checkpoint)
        if initial and unused:
            asked = _Asked(
                path=file, environment=None, intent="load", select=None, ignore=None, baseline=None, explain=False,
                **question,
            )  # fmt: skip
            in_memory = f"{file.replace('://', ':')} in memory"
            here = replace(checkpoint, origin=in_memory) if is_url(file) else checkpoint
            target = target_here(cls, model)
            report = asked.report(asked.facts(here, target))
            known = planner.names_to_allow(report)
            plan = planner.plan(report, digest_of_source(source), [name for name in allow if name in known])
            loaded = replace(loaded, report=report)
            if plan.edits:
                repaired, written = splice(plan, source, checkpoint=here)
                again = read(repaired.source(in_memory))
                if _as_planned(asked, plan, written, report, again, target):
                    repaired.seek(0)
                    model = real.model(repaired)
                    initial, unused = _left_out_of(model, again)
                    loaded = replace(loaded, plan=plan, changes=written.changes)
        return model, replace(loaded, initial=initial, unused=unused)
    finally:
        source.close()


def _is_strict(model: object, strict: bool | None) -> bool:
    """Whether Lightning has loaded a model strictly; since 2.2 the class may say."""
    return strict is True or (strict is None and bool(getattr(model, "strict_loading", True)))


def _left_out_of(model: Any, checkpoint: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(tensors of a model that a file does not have, tensors of the file that the model does not have)."""
    mine = dict.fromkeys(model.state_dict())
    theirs = dict.fromkeys(t.key for t in checkpoint.tensors)
    return tuple(k for k in mine if k not in theirs), tuple(k for k in theirs if k not in mine)


def _described_elsewhere(cls: type, checkpoint: Checkpoint, asked: _Asked) -> Target | None:
    """The class as another process builds it; None where that cannot find it: of a notebook, of a function."""
    from relight.core.errors import UsageError

    if not checkpoint.readable:
        return None
    try:
        return _target(cls, checkpoint, asked.call, asked.intent.strict, asked.init, asked.hparams_file, None, None)
    except UsageError:
        return None


def explain_failure(error: BaseException) -> Report | None:
    """What `check` says of the load that an exception comes from.

    File, class, arguments and, where there is one already, the model are taken from the frames of the traceback.

    Args:
        error: What ``load_from_checkpoint``, ``Trainer.fit``, ``torch.load`` or ``load_state_dict`` raised, or what was
            raised from that.

    Returns:
        The report; None where the exception comes from no load.

    Raises:
        SourceError: The file cannot be opened.
    """
    from relight.live.failure import failed_load
    from relight.live.loading import target_here
    from relight.reader import open_checkpoint

    found = failed_load(error)
    if found is None:
        return None
    asked = _Asked(
        path=found.path, environment=None, intent=found.call.value, strict=found.strict,
        weights_only=found.weights_only, map_location=found.map_location, hparams_file=found.hparams_file,
        init=found.init, select=None, ignore=None, baseline=None, explain=False,
    )  # fmt: skip
    checkpoint = open_checkpoint(found.path)
    target = None
    if found.cls is not None:
        if found.model is None:
            target = _described_elsewhere(found.cls, checkpoint, asked)
        target = target or target_here(found.cls, found.model)
    return asked.report(asked.facts(checkpoint, target))


def _as_planned(asked: _Asked, plan: Plan, written: Written, before: Report, again: Checkpoint, target: Target) -> bool:
    """Whether what was to go is gone and nothing new has come up, as `fix` asks of a copy."""
    from dataclasses import replace

    from relight.repair import proof

    target = replace(target, rehearsal=None, loaded=None, replay=None)  # those were of the file as it is
    after = asked.report(asked.facts(again, target))
    return not again.problems and proof.receipt(plan, written, [], before=before, after=after).proved


def _load_folder(real: RealLoad, origin: str, verdict: Safety) -> Any:
    """A folder, by way of what Lightning makes of it."""
    from relight.core.checkpoint import Layout
    from relight.core.errors import LoadError, RelightError
    from relight.core.safety import Safety
    from relight.live.loading import folder_content
    from relight.report import text
    from relight.report.layout import Style

    if inspect(origin).layout is not Layout.DCP or verdict is not Safety.OK:
        raise LoadError(origin, text.render(check(origin), Style()))
    try:
        return real.model_of(folder_content(origin), origin)
    except RelightError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise LoadError(origin, f"{origin} is read, and does not load: {said}") from error


def _nothing(plan: Plan, report: Report) -> str:
    """Why a plan is empty, and what could be allowed."""
    offers = [f"\n  --allow {c.allow}  {c.title}" for c in plan.rejected if c.allow]
    if offers:
        return "nothing is done to it unasked" + "".join(offers)
    return "what is wrong is not mended in the file" if report.failed else "nothing is wrong with it"


_LIGHTNING = "2.6.6"  # what a new checkpoint says where no Lightning is installed
_LOADED_UNASKED = 2 << 30  # bytes that somebody who asked for a copy would still wait to see loaded


def diff(left: str | os.PathLike[str], right: str | os.PathLike[str], *, values: bool = False) -> Difference:
    """What differs between two checkpoints.

    Args:
        left: The first file.
        right: The second file.
        values: Also compare the values of tensors that both have with the same shape and dtype.

    Returns:
        The comparison.

    Raises:
        SourceError: A file cannot be opened.
    """
    from relight.facts.diff import compare
    from relight.reader import open_checkpoint

    return compare(open_checkpoint(left), open_checkpoint(right), with_values=values)


def map_keys(
    source: str | os.PathLike[str] | Iterable[TensorLike],
    target: str | os.PathLike[str] | ModelSpec | type | Iterable[TensorLike],
    *,
    rules: str | None = None,
    prefix: str = "",
    only: str = "ambiguous",
    drop: Sequence[str] = (),
    init: Mapping[str, object] | None = None,
    hparams_file: str | None = None,
    python: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> KeyMap:
    """Find which tensor of a checkpoint belongs where in a model.

    Args:
        source: The checkpoint, a ``.json`` list of ``[key, shape, dtype]``, or such triples.
        target: What it is mapped to: a model as for `check`, another checkpoint, such a list, or triples.
        rules: Text of a TOML file with rules; then they say what goes where, and nothing is inferred.
        prefix: Use only keys of the checkpoint that start so, without it.
        only: The least confidence of pairs: ``ambiguous``, ``likely`` or ``certain``.
        drop: Ops that are not wanted, as ``resize``.
        init: Keyword arguments for the constructor of the target.
        hparams_file: YAML or CSV file with arguments.
        python: Interpreter to build the target with.
        announce: Called with one line before something slow starts.

    Returns:
        The pairs, with op, confidence and reason; what is left on both sides; and what only a person can say.

    Raises:
        SourceError: A file cannot be opened.
        UsageError: The target does not exist or cannot be built, a file holds no tensors, or the rules make no sense.
    """
    from relight.facts.mapper import mapping, questions, rule_files, settling
    from relight.facts.mapper.layers import Tensor

    mine = _listed(source, None, init, hparams_file, python, announce)
    checkpoint = source if isinstance(source, (str, os.PathLike)) else None
    theirs = _listed(target, checkpoint, init, hparams_file, python, announce)
    taken = [t for t in mine if t.key.startswith(prefix)]
    plain = [Tensor(t.key[len(prefix) :], t.shape, t.dtype) for t in taken]
    if rules is not None:
        return mapping.by_rules(rule_files.parse(rules), plain, theirs)
    found = mapping.map_keys(plain, theirs)
    if settling.unsure(found):
        with (
            settling.opened(_file(source), prefix) as one,
            settling.opened(_file(target)) as two,
        ):
            if one is not None:
                found = settling.settle(found, one, two)
                found.questions = tuple(questions.ask(found, plain, theirs))
    return mapping.kept(found, only=only, drop=drop)


def _file(side: object) -> Checkpoint | None:
    """The checkpoint of one side of a mapping; None where it is a model, a folder or a list."""
    from relight.core.errors import RelightError
    from relight.reader import open_checkpoint

    if (
        not isinstance(side, (str, os.PathLike))
        or not os.path.isfile(side)
        or os.fspath(side).endswith((".py", ".json"))
    ):
        return None
    try:
        return open_checkpoint(side)
    except RelightError:
        return None


def _listed(
    side: str | os.PathLike[str] | ModelSpec | type | Iterable[TensorLike],
    checkpoint: str | os.PathLike[str] | None,
    init: Mapping[str, object] | None,
    hparams_file: str | None,
    python: str | None,
    announce: Callable[[str], None] | None,
) -> list[Tensor]:
    """The tensors of one side of a mapping; a side that has a checkpoint may be a model that is built with it."""
    import json

    from relight.core.errors import UsageError
    from relight.core.target import ModelSpec
    from relight.facts.mapper.layers import Tensor
    from relight.reader import open_checkpoint

    if not isinstance(side, (str, os.PathLike, ModelSpec, type)):
        return [Tensor(key, tuple(shape), dtype) for key, shape, dtype in side]
    if isinstance(side, (str, os.PathLike)):
        path = os.fspath(side)
        if path.endswith(".json") and os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                try:
                    found = json.load(file)
                except ValueError as error:
                    raise UsageError(f"{path} is no JSON: {error}") from None
            if isinstance(found, list):
                try:
                    return [Tensor(str(k), tuple(int(n) for n in s), str(d)) for k, s, d in found]
                except (TypeError, ValueError):
                    raise UsageError(f"{path} is no list of [key, shape, dtype]") from None
        elif checkpoint is None or (os.path.exists(path) and not path.endswith((".py", ".json"))):
            read = open_checkpoint(path)
            if not read.tensors:
                raise UsageError(f"{path} holds no tensors that can be read", f"relight check {path}")
            return [Tensor(t.key, t.shape, t.dtype) for t in read.tensors]
        side = path
    model = side
    if not isinstance(model, ModelSpec):
        model = spec(
            model, checkpoint=checkpoint, init=init, hparams_file=hparams_file, python=python, announce=announce
        )
    return [Tensor(p.key, p.shape or (), p.dtype or "float32") for p in model.persistent]


def spec(
    target: str | type | Callable[..., object],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    init: Mapping[str, object] | None = None,
    hparams_file: str | None = None,
    python: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> ModelSpec:
    """Describe a model: build it in a child process and write down what loading needs to know.

    Args:
        target: What to build, as for `check`.
        checkpoint: File whose hyper_parameters are the constructor's arguments.
        init: Further arguments, by name.
        hparams_file: YAML or CSV file with arguments.
        python: Interpreter to build it with.
        announce: Called with one line before the child starts.

    Returns:
        The description.

    Raises:
        SourceError: The checkpoint cannot be opened.
        UsageError: There is no such target, or it cannot be built; the message says why.
    """
    from relight.core.errors import UsageError
    from relight.core.target import BuildFailure, FailureKind, IntentCall
    from relight.reader import open_checkpoint

    _need_file(hparams_file)
    read = None if checkpoint is None else open_checkpoint(checkpoint)
    # As for a resume, so that what the spec says of the optimizers can be compared as well.
    built = _target(target, read, IntentCall.RESUME, None, init or {}, hparams_file, python, announce)
    assert built is not None
    if built.spec is None:
        failure = built.failure or BuildFailure(kind=FailureKind.UNKNOWN, message="it could not be built")
        where = f" ({failure.file}:{failure.line})" if failure.file else ""
        said = f"{failure.exception}: {failure.message}" if failure.exception else failure.message
        raise UsageError(
            f"{built.argument} cannot be built: {said}{where}",
            "Arguments of the constructor: --init NAME=VALUE, or --checkpoint FILE for those that a file holds.",
        )
    return built.spec


def _target(
    target: str | ModelSpec | type | Callable[..., object] | None,
    checkpoint: Checkpoint | None,
    call: IntentCall,
    strict: bool | None,
    init: Mapping[str, object],
    hparams_file: str | None,
    python: str | None,
    announce: Callable[[str], None] | None,
    really: str | None = None,
    prove: bool | None = False,
) -> Target | None:
    from relight.core.errors import UsageError
    from relight.core.target import ModelSpec

    if target is None:
        return None
    if isinstance(target, ModelSpec):
        return _from_spec(target, target.class_path)
    from relight.live.capture import build_target, parse_target

    if not isinstance(target, str):
        from relight.live.named import argument_of

        target = argument_of(target)
    elif parse_target(target).name == "*":
        raise UsageError(f"--target {target} means several models", "Only relight check takes such a target.")

    built = build_target(
        target,
        checkpoint,
        init=init,
        hparams_file=hparams_file,
        python=python,
        call=call.value,
        strict=strict,
        really=really,
        replay=_replay(checkpoint, prove),
        announce=announce,
    )
    _need_target(built)
    _need_names(built, init, checkpoint)
    return built


def _need_target(built: Target) -> None:
    from relight.core.errors import UsageError

    failure = built.failure
    if failure is not None and failure.kind.value in _TARGET_ERRORS:
        raise UsageError(
            f"--target {built.argument}: {_target_error(failure, built.argument)}", _hint(failure, built.argument)
        )


def _history(checkpoint: Checkpoint, built: Target | None) -> History | None:
    """What is known of the source where the file itself says nothing of it."""
    from relight.facts.manifest import manifest_of

    if built is None or built.spec is None or built.file is None or manifest_of(checkpoint) is not None:
        return None
    from relight.live.history import history_since

    return history_since(built.file, checkpoint.origin)


_PROVED_UNASKED = 256 * 10**6


def _replay(checkpoint: Checkpoint | None, prove: bool | None) -> dict[str, Any] | None:
    """The question of a manifest's probe, and where in the file the weights are; None where it is not to be asked."""
    from relight.facts import replay
    from relight.facts.manifest import manifest_of

    if checkpoint is None or prove is False:
        return None
    manifest = manifest_of(checkpoint)
    question = None if manifest is None else replay.question(manifest, checkpoint)
    if question is None or (prove is None and sum(t[4] for t in question["tensors"]) > _PROVED_UNASKED):
        return None
    return question


def _need_file(hparams_file: str | None) -> None:
    """Lightning itself only warns, and goes on with no hyper_parameters at all."""
    from relight.core.errors import UsageError

    if hparams_file is not None and "://" not in hparams_file and not os.path.isfile(hparams_file):
        raise UsageError(f"--hparams-file {hparams_file}: there is no such file")


def _need_told(renames: tuple[tuple[str, str], ...], checkpoint: Checkpoint, target: Target | None) -> None:
    """A slip of the pen in a name is told at once; where the model cannot be built, the report says why."""
    from relight.core.errors import UsageError
    from relight.facts.attribution import told

    if not renames:
        return
    if target is None:
        raise UsageError("--rename gives tensors the names of a model", "Name the model with --target.")
    if target.spec is not None and checkpoint.readable:
        try:
            told.told_pairs(renames, checkpoint, target.spec)
        except told.Untrue as error:
            raise UsageError(str(error)) from None


def _need_names(target: Target, init: Mapping[str, object], checkpoint: Checkpoint | None) -> None:
    """Lightning drops what the constructor does not take, without a word: a slip of the pen would go unnoticed."""
    from difflib import get_close_matches

    from relight.core.errors import UsageError
    from relight.facts.lightning import LightningView

    signature = target.init
    if signature is None or signature.var_keyword:
        return
    whole = None if checkpoint is None else LightningView(checkpoint).hparams_name
    if whole in signature.names:
        return  # one argument takes them all, whatever they are called
    for name in init:
        if name not in signature.names:
            close = get_close_matches(name, signature.names, n=1)
            takes = f"It takes: {', '.join(signature.names)}." if signature.names else "It takes no arguments."
            raise UsageError(
                f"--init {name}: {target.class_name or 'the target'} takes no such argument",
                f"Did you mean {close[0]}?" if close else takes,
            )


def _not_needed(target: str) -> Target:
    """The target of a file that cannot be read: nobody has to wait for torch to hear that."""
    from relight.core.target import Target

    name = target.rpartition(":")[2]
    return Target(argument=target, class_name=name if name.isidentifier() else None)


def _told(checkpoint: Checkpoint, announce: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """Put what is known of the file already in front of the line that says why it takes a moment."""
    if announce is None:
        return None
    from relight.facts.describe import tensors

    return lambda line: announce(f"{checkpoint.origin}: read, {tensors(len(checkpoint.tensors))}; {line}")


def _from_spec(model: ModelSpec, argument: str) -> Target:
    from relight.core.target import Target

    return Target(
        argument=argument,
        spec=model,
        init=model.init,
        class_name=model.class_name,
        class_kind=model.kind,
        passed=model.passed,
        dropped=model.dropped,
        approximated=model.approximated,
        file=model.file,
        environment=model.environment,
    )


def _target_error(failure: BuildFailure, target: str) -> str:
    from relight.core.target import FailureKind

    where, _, name = target.rpartition(":")
    if failure.message:
        return failure.message
    if failure.kind is FailureKind.TARGET_FILE_MISSING:
        return "there is no such file or module"
    if failure.kind is FailureKind.TARGET_NAME_MISSING:
        return f"{where} has no {failure.name or name}"
    if failure.kind is FailureKind.TARGET_AMBIGUOUS:
        return "which of its LightningModules?" if failure.candidates else "it defines no LightningModule"
    return "this is neither an nn.Module class nor a function that makes one"


def _hint(failure: BuildFailure, target: str) -> str | None:
    if failure.suggestions:
        return f"Did you mean {' or '.join(failure.suggestions[:3])}?"
    if failure.candidates:
        listed = ", ".join(failure.candidates[:8])
        every = f" check compares with each of them: --target '{target}:*'." if ":" not in target else ""
        return f"It defines: {listed}.{every}"
    return None


# Packages whose version decides how a checkpoint is read; a slip in one of these names would make all of it unknown.
_DECISIVE = ("torch", "lightning", "pytorch-lightning", "numpy", "python", "omegaconf")


def _need_versions(pins: Mapping[str, str]) -> None:
    from packaging.version import InvalidVersion, Version

    from relight.core.errors import UsageError

    for name, version in pins.items():
        try:
            Version(version)
        except InvalidVersion:
            raise UsageError(f"--env {name}=={version}: {version!r} is no version number") from None
        for known in _DECISIVE:
            # Two letters changed places, or one is lacking: no package is called so.
            lacking = len(name) == len(known) - 1 and any(name == known[:i] + known[i + 1 :] for i in range(len(known)))
            if name != known and (sorted(name) == sorted(known) or lacking):
                raise UsageError(f"--env {name}=={version}: there is no such package", f"Did you mean {known}?")


def _environment(
    environment: Environment | Mapping[str, str] | str | None, target: Target | None
) -> Environment | None:
    from relight.core.target import Environment
    from relight.reader import installed

    if isinstance(environment, Environment):
        return environment
    if isinstance(environment, str):
        return installed.environment_of(environment)
    if environment is not None:
        return Environment.from_dict(environment, origin="the given versions")
    if target is not None and target.environment is not None:
        return target.environment
    here = installed.current_environment()
    return here if here.torch is not None else None


def plan_of(
    path: str | os.PathLike[str],
    *,
    allow: Sequence[str] = (),
    keep: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    intent: str = "load",
    environment: Environment | Mapping[str, str] | str | None = None,
    **question: Any,
) -> Plan:
    """What `fix` would do, with the same arguments; nothing is written.

    Args:
        path: The checkpoint.
        allow: As for `fix`.
        keep: As for `fix`.
        options: As for `fix`.
        intent: As for `check`.
        environment: As for `check`.
        **question: Further arguments of `check`.

    Returns:
        The plan.

    Raises:
        SourceError: The file cannot be opened.
        UsageError: An argument does not make sense.
    """
    where = _destination(environment)
    before, there = _ask(path, intent=intent, environment=where, candidates=False, **question)
    return _planned(os.fspath(path), before, there, allow, intent, keep, options or {})


def _planned(
    path: str,
    report: Report,
    target: Target | None,
    allow: Sequence[str],
    intent: str,
    keep: Sequence[str],
    options: Mapping[str, object],
) -> Plan:
    from relight.repair import planner
    from relight.repair.rewriter import digest_of

    if intent == "resume":
        _need_loops(report)
    made = planner.plan(report, digest_of(path), allow)
    if intent == "resume":
        made = planner.with_states(made, _arrangement(path, target, made, allow))
    if keep or options:
        made = planner.with_wishes(made, _wishes(path, report, intent, keep, options))
    return made


def _elsewhere(environment: object) -> str:
    """Why loading it here would tell nothing: it is for other versions; empty where it is for those here."""
    from relight.reader import installed

    if not isinstance(environment, dict) or "packages" in environment:
        return ""
    here = installed.current_environment()
    for name, label in (("lightning", "Lightning"), ("pytorch-lightning", "Lightning"), ("torch", "torch")):
        wanted, found = environment.get(name), here.torch if name == "torch" else here.lightning
        if wanted is not None and found is not None and wanted != found:
            return f"it is for {label} {wanted}, and {found} is here"
    return ""


def _need_loops(report: Report) -> None:
    """Refuse versions that keep no loops: what they resume is not what is written here."""
    from relight.core.errors import UsageError
    from relight.facts.versions import at_least

    version = report.environment.get("lightning")
    if isinstance(version, str) and at_least(version, "1.6") is False:
        raise UsageError(f"copies to resume are written for Lightning 1.6 and newer, not for {version}")


def _arrangement(
    path: str, target: Target | None, made: Plan, allow: Sequence[str]
) -> list[ArrangeOptimizer | OrderKeys]:
    """What gives each state of an optimizer to its parameter, as the other edits of a plan name and make parameters."""
    from relight.core.edits import ArrangeOptimizer, OrderKeys
    from relight.facts import optimizers
    from relight.facts.manifest import manifest_of
    from relight.reader import open_checkpoint

    if target is None or target.spec is None or target.spec.training is None:
        return []
    checkpoint = open_checkpoint(path)
    if not checkpoint.readable or checkpoint.state_dict_path is None:
        return []
    found = optimizers.arrange(checkpoint, target.spec, made.edits, optimizers.told_by(manifest_of(checkpoint)))
    if found.waits or (found.options_asked and "regroup-optimizer" not in allow):
        return []
    return [e for e in found.edits if isinstance(e, (ArrangeOptimizer, OrderKeys))]


def _wishes(
    path: str, report: Report, intent: str, parts: Sequence[str], values: Mapping[str, object]
) -> list[SetEntry]:
    """What the user wants of a resume besides, as edits."""
    from relight.core.edits import SetEntry
    from relight.core.errors import UsageError
    from relight.facts import wishes
    from relight.facts.lightning import LightningView
    from relight.reader import open_checkpoint

    if intent != "resume":
        raise UsageError("parts and options of a training are for a resume", "--for resume")
    view = LightningView(open_checkpoint(path))
    edits = wishes.options(view, values) if values else []
    if parts:
        kept = wishes.keep(view, parts, report.environment.get("lightning"))
        gone = {e.path for e in kept if isinstance(e, SetEntry)}
        if values and ("optimizer_states",) in gone:
            raise UsageError("--set and --keep contradict each other: the optimizer is not kept")
        edits = [*kept, *(e for e in edits if isinstance(e, SetEntry) and e.path[:1] not in gone)]
    return [e for e in edits if isinstance(e, SetEntry)]


def _destination(environment: Environment | Mapping[str, str] | str | None) -> Any:
    """Where a copy is to be loaded; with a Lightning of today and no torch named, that is the torch that is here."""
    from relight.facts.versions import at_least
    from relight.reader import installed

    if not isinstance(environment, dict) or "packages" in environment or "torch" in environment:
        return environment
    lightning = environment.get("lightning") or environment.get("pytorch-lightning")
    here = installed.current_environment().torch
    return {**environment, "torch": here} if here is not None and at_least(lightning, "2.0") else environment


def _candidates(checkpoint: Checkpoint) -> list[str]:
    from pathlib import Path

    from relight.live.capture import discover

    here = f"{Path.cwd()}{os.sep}"
    keys = [t.key for t in (*checkpoint.tensors, *checkpoint.lost)]
    return [found.removeprefix(here) for found in discover(str(Path.cwd()), keys)]


def explain_rule(selector: str) -> dict[str, Any]:
    """The page of a rule, by code or name.

    Raises:
        UsageError: There is no such rule.
    """
    from relight.rulekit.registry import rule_named

    rule = rule_named(selector)
    return {
        "code": rule.code,
        "name": rule.name,
        "title": rule.title(),
        "causes": list(rule.causes),
        "severity": rule.severity.value,
        "since": rule.since,
        "page": rule.page(),
        "examples": [{"name": e.name, "fires": type(e).__name__ == "Fires"} for e in rule.examples],
    }
