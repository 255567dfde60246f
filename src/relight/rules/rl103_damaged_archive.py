"""RL103."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from relight.core.checkpoint import Problem, ProblemKind
from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind, Severity
from relight.facts import describe
from relight.facts.facts import Facts
from relight.rulekit import File, Fires, Phase, Rule, Silent

_CAUSES = {
    ProblemKind.ARCHIVE_MALFORMED: "zip-invalid-header",
    ProblemKind.ARCHIVE_AMBIGUOUS: "zip-invalid-header",
    ProblemKind.ENCRYPTED: "zip-encrypted",
    ProblemKind.RECORD_MISSING: "zip-missing-record",
    ProblemKind.RECORD_SHORT: "pickle-stream-corrupt",
    ProblemKind.CRC_MISMATCH: "crc-mismatch-silent",
    ProblemKind.PICKLE_MALFORMED: "pickle-stream-corrupt",
    ProblemKind.TENSOR_OUT_OF_BOUNDS: "pickle-stream-corrupt",
    ProblemKind.BYTES_BEFORE: "bytes-before-archive",
    ProblemKind.TRUNCATED: "pickle-stream-corrupt",
}


class DamagedArchive(Rule):
    """The file is whole in length, but its contents are damaged.

    What it checks
    --------------
    Records that are missing, too short or encrypted, headers that contradict each other, bytes in front of the
    archive, a pickle stream that makes no sense, tensors that reach beyond their storage, and the checksum of
    data.pkl. (Checksums of tensors are compared here for files up to 1 MiB; for all files by ``relight verify``.)

    Why loading fails
    -----------------
    torch stops at the first record that it cannot make sense of, with a message about the zip archive or the pickle.

    How to fix
    ----------
    Copy or download the file again. If this is the only copy, the damage is where the evidence says.

    References
    ----------
    caffe2/serialize/inline_container.cc in torch; the ZIP application note, sections 4.3 and 4.4.
    """

    code = "RL103"
    name = "damaged-archive"
    causes = tuple(dict.fromkeys(_CAUSES.values()))
    phase = Phase.CONTAINER
    gates = True
    examples = (
        Fires(name="a pickle that makes no sense", file=File(content=b"\x80\x02}q\x00(K\x01u.")),
        Silent(name="a whole file"),
        Silent(name="a file that is cut off", file=File(keep=0.5)),
        Silent(name="an empty file", file=File(content=b"")),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """One finding for all the damage: it has one remedy."""
        problems = [p for p in facts.checkpoint.problems if p.kind in _CAUSES and p.message]
        cut = any(
            p.fatal and p.record is None and p.kind in (ProblemKind.NO_CENTRAL_DIRECTORY, ProblemKind.TRUNCATED)
            for p in facts.checkpoint.problems
        )
        if not problems or cut:
            return
        fatal = [p for p in problems if p.fatal]
        first = (fatal or problems)[0]
        checkpoint = facts.checkpoint
        context = []
        if fatal and (checkpoint.tensors or checkpoint.lost):
            context.append(describe.what_is_left(len(checkpoint.tensors), len(checkpoint.lost)))
            if not checkpoint.readable:
                context.append("They stand before the place where the pickle breaks: compare them with the model.")
        yield self.finding(
            "the file is damaged" if fatal else "the file is damaged in a place that loading does not notice",
            cause=_CAUSES[first.kind],
            severity=Severity.ERROR if fatal else Severity.WARNING,
            confidence=Confidence.CERTAIN if fatal else Confidence.LIKELY,
            evidence=[
                Evidence(p.record or "file", p.message, None if p.position is None else f"byte {p.position:,}")
                for p in (first, *(p for p in problems if p is not first))
            ][:5],
            context=context,
            fixes=[
                *(_cut(p, facts) for p in fatal if p.kind is ProblemKind.BYTES_BEFORE and len(fatal) == 1),
                Fix(
                    title="Copy or download the file again, and compare its size and hash with the original.",
                    kind=FixKind.DOWNLOAD_AGAIN,
                ),
            ],
            subjects=[p.record for p in problems if p.record],
        )


def _cut(problem: Problem, facts: Facts) -> Fix:
    """A copy without what stands before the archive."""
    count = problem.position or 0
    out = facts.question.fixed_path("fixed")
    return Fix(
        title=f"Leave the first {count:,} bytes out of a copy: what follows is a whole archive.",
        kind=FixKind.FILE,
        command=f"tail -c +{count + 1} {shlex.quote(facts.question.path)} > {shlex.quote(out)}",
    )
