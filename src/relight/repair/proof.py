"""What proves a repair: the new file read again, diagnosed again, compared with the old one, and really loaded."""

from __future__ import annotations

import hashlib
import os

from relight.core.checkpoint import Layout, StorageEntry
from relight.core.edits import DropEntry, DropKeys, Loaded, MakePlain, Plan, Receipt, Written
from relight.core.finding import Finding, Report, Severity, Verdict
from relight.core.safety import Safety
from relight.core.target import Rehearsal
from relight.facts.plain_data import LEFT_OUT
from relight.reader import DEFAULT_LIMITS, open_checkpoint
from relight.reader.archive import Archive
from relight.reader.source import LocalSource
from relight.repair.copying import BUFFER, Progress
from relight.repair.proving import checksum_of


def compared(
    written: Written, source: str, *, whole: bool, progress: Progress | None = None
) -> list[tuple[str, bool, str]]:
    """Compare the new file with the old one, tensor by tensor.

    Args:
        written: What was done.
        source: The old file.
        whole: Whether to read every byte of both; else every byte of the new one is read, and has to give the checksum
            that the old file records, where it records one.
        progress: Called with the number of bytes of the new file that were read since the last call.

    Returns:
        (what was asked, whether it holds, in words).
    """
    old, new = open_checkpoint(source), open_checkpoint(written.path)
    out = [("read again", not new.problems, new.problems[0].message if new.problems else "nothing is wrong with it")]
    if written.pickle:
        same = written.pickle == _pickle_digest(written.path)
        out.append(("the pickle", same, "it is the one that was planned" if same else "it is not what was written"))
    here, there = LocalSource(source), LocalSource(written.path)
    try:
        different = ""
        by_checksum = 0
        recorded = {r.name: r.crc32 for r in old.records}
        for name, before in written.new_storages:
            key = name.removeprefix("data/") if new.layout is not Layout.SAFETENSORS else name
            mine = new.storages.get(key)
            theirs = old.storages.get(before.removeprefix("data/") if old.layout is Layout.TORCH_ZIP else before)
            if mine is None or theirs is None or mine.nbytes != theirs.nbytes:
                different = different or key
                continue
            known = recorded.get(before)
            if known is not None:
                by_checksum += 1
                same = _checksum(there, mine, None if whole else progress) == known
            else:
                same = True
            if (whole or known is None) and not _same_bytes(here, theirs, there, mine, progress):
                same = False
            if not same:
                different = different or key
        count = len(written.new_storages)
        how = "equal byte by byte" if whole or by_checksum < count else "equal by checksum"
        text = f"{count:,} storages read again, {how}"
        if different:
            text = f"storage {different} is not what the file's checksum says, or not what the file has"
        out.append(("untouched tensors", not different, text))
    finally:
        here.close()
        there.close()
    return out


def _checksum(source: LocalSource, storage: StorageEntry, progress: Progress | None) -> int | None:
    if storage.span is None:
        return None
    return checksum_of(source.descriptor, *storage.span, progress)


def _same_bytes(
    here: LocalSource, old: StorageEntry, there: LocalSource, new: StorageEntry, progress: Progress | None
) -> bool:
    if old.span is None or new.span is None:
        return False
    position, left = 0, old.span.length
    while left:
        step = min(left, BUFFER)
        mine = os.pread(here.descriptor, step, old.span.start + position)
        if not mine or mine != os.pread(there.descriptor, len(mine), new.span.start + position):
            return False
        position, left = position + len(mine), left - len(mine)
        if progress is not None:
            progress(len(mine))
    return True


def _pickle_digest(path: str) -> str:
    """SHA-256 of the pickle in an archive, as it lies on the disk."""
    source = LocalSource(path)
    try:
        archive = Archive(source, DEFAULT_LIMITS)
        return hashlib.sha256(archive.read("data.pkl", DEFAULT_LIMITS.pickle_bytes) or b"").hexdigest()
    finally:
        source.close()


def receipt(
    plan: Plan,
    written: Written,
    checks: list[tuple[str, bool, str]],
    *,
    before: Report | None = None,
    after: Report | None = None,
    loaded: Rehearsal | None = None,
    not_tried: str = "",
) -> Receipt:
    """Put the proof together.

    Args:
        plan: What was to be done.
        written: What was done.
        checks: What `compared` found.
        before: The answer on the old file, None where it was not asked.
        after: The answer on the new file.
        loaded: What really loading it gave.
        not_tried: Why that was not tried.
    """
    gone: list[str] = []
    left: list[str] = []
    new: list[str] = []
    if before is not None and after is not None:
        wanted = {(c.name, c.message) for c in plan.chosen}
        still = {(f.name, f.message) for f in after.findings}
        gone = [f.name for f in before.findings if (f.name, f.message) not in still]
        left = [f.name for f in after.findings if _bad(f)]
        failed = sorted(name for name, message in wanted if (name, message) in still)
        checks = [
            *checks,
            ("diagnosed again", not failed, f"{failed[0]} is still there" if failed else "what was to go is gone"),
        ]
        # What could not be asked before may come up now; that is no fault of the repair.
        known = (
            {f.code for f in before.findings} | {s.code for s in before.skipped} | {s.code for s in before.suppressed}
        )
        asked = _left_out(plan)  # that the model misses what was left out on request is no surprise
        new = [f.name for f in after.findings if _bad(f) and f.code not in known and not asked.issuperset(f.subjects)]
        if after.safety is Safety.DANGEROUS and before.safety is not Safety.DANGEROUS:  # a plan may come from anywhere
            checks.append(("safety", False, "unpickling the copy would run code that the file did not"))
        checks.append(("nothing new", not new, f"{new[0]} was not there before" if new else "no finding has come up"))
    answer: Loaded = "not-tried"
    by = not_tried
    if loaded is not None and loaded.ok is not None:
        answer = "yes" if loaded.ok else "no"
        by = loaded.stage or "" if loaded.ok else f"{loaded.exception}: {loaded.message}".partition("\n")[0]
    elif loaded is not None:
        by = loaded.message.partition("\n")[0] or not_tried
    return Receipt(
        plan=plan,
        written=written,
        checks=tuple(checks),
        verdict=None if after is None else after.verdict.value,
        gone=tuple(dict.fromkeys(gone)),
        left=tuple(dict.fromkeys(left)),
        new=tuple(dict.fromkeys(new)),
        loaded=answer,
        loaded_by=by,
    )


def _left_out(plan: Plan) -> set[str]:
    """Names of tensors and arguments that a plan leaves out."""
    out: set[str] = set()
    for edit in plan.edits:
        if isinstance(edit, DropKeys):
            out.update(edit.keys)
        elif isinstance(edit, DropEntry):
            out.add(edit.path[-1])
        elif isinstance(edit, MakePlain):
            out.update(where.rpartition(".")[2] for where, _, becomes in edit.changes if becomes == LEFT_OUT)
    return out


def _bad(finding: Finding) -> bool:
    return finding.severity is Severity.ERROR or finding.wrong


def worth_loading(report: Report | None) -> str:
    """Why a real load would tell nothing; empty where it would."""
    if report is None or report.target is None:
        return "no --target to load it into"
    if report.verdict is Verdict.FAILS:
        return "other findings are left"
    return ""
