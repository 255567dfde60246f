"""RL103."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from relight.core.checkpoint import Layout, Problem, ProblemKind
from relight.core.finding import Confidence, Evidence, Finding, Fix, FixKind, Prediction, Severity, Stage
from relight.facts import describe
from relight.facts.facts import Facts
from relight.facts.first_bytes import begins, not_a_pickle
from relight.facts.question import literal
from relight.facts.unpickling import vain_advice
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

_MISSING = {"version": "zip-no-version-record", "data.pkl": "zip-no-data-pkl"}


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
    causes = tuple(dict.fromkeys((*_CAUSES.values(), *_MISSING.values())))
    phase = Phase.CONTAINER
    gates = True
    examples = (
        Fires(name="a pickle that makes no sense", file=File(content=b"\x80\x02}q\x00(K\x01u.")),
        Fires(name="a tensor's record is gone", file=File(without=("data/0",)), cause="zip-missing-record"),
        Fires(name="no record says the version", file=File(without=("version",)), cause="zip-no-version-record"),
        Fires(name="nothing names the tensors", file=File(without=("data.pkl",)), cause="zip-no-data-pkl"),
        Fires(
            name="an HTTP header before the archive",
            file=File(before=b"HTTP/1.1 200 OK\r\n\r\n"),
            cause="bytes-before-archive",
        ),
        Silent(name="a whole file"),
        Silent(name="no record says the byte order", file=File(without=("byteorder",))),
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
        other = any(p.what == "data-pkl" for p in facts.checkpoint.problems_of(ProblemKind.NOT_A_CHECKPOINT))
        if not problems or cut or other or facts.checkpoint.layout is Layout.DIRECTORY:
            return
        fatal = [p for p in problems if p.fatal]
        first = (fatal or problems)[0]
        checkpoint = facts.checkpoint
        context = []
        if fatal and (checkpoint.tensors or checkpoint.lost):
            context.append(describe.what_is_left(len(checkpoint.tensors), len(checkpoint.lost)))
            if not checkpoint.readable:
                context.append("They stand before the place where the pickle breaks: compare them with the model.")
        predicted = _prediction(fatal, facts)
        context += vain_advice(predicted)
        yield self.finding(
            "the file is damaged" if fatal else "the file is damaged in a place that loading does not notice",
            cause=_cause(first),
            severity=Severity.ERROR if fatal else Severity.WARNING,
            confidence=Confidence.CERTAIN if fatal else Confidence.LIKELY,
            evidence=[
                Evidence(p.record or "file", p.message, None if p.position is None else f"byte {p.position:,}")
                for p in (first, *(p for p in problems if p is not first))
            ][:5],
            context=context,
            fixes=[
                *(_cut(p, facts) for p in fatal if p.kind is ProblemKind.BYTES_BEFORE and len(fatal) == 1),
                *(_version(facts) for p in fatal if p.record == "version" and len(fatal) == 1),
                _unlock(facts)
                if first.kind is ProblemKind.ENCRYPTED
                else Fix(
                    title="Copy or download the file again, and compare its size and hash with the original.",
                    kind=FixKind.DOWNLOAD_AGAIN,
                ),
            ],
            subjects=[p.record for p in problems if p.record],
            predicts=predicted,
        )


def _cause(problem: Problem) -> str:
    if problem.kind is ProblemKind.RECORD_MISSING:
        return _MISSING.get(problem.record or "", _CAUSES[problem.kind])
    return _CAUSES[problem.kind]


def _prediction(fatal: list[Problem], facts: Facts) -> Prediction | None:
    """What loading raises where one thing alone is wrong: of several, the order in which torch reads decides."""
    kinds = {p.kind for p in fatal}
    if ProblemKind.ENCRYPTED in kinds and ProblemKind.BYTES_BEFORE not in kinds:
        # Asked of every record when the archive is opened.
        return Prediction(Stage.OPEN, facts.call_name, "RuntimeError", "invalid header or archive is corrupted")
    if len({(p.kind, p.record if p.kind is ProblemKind.RECORD_MISSING else "") for p in fatal}) != 1:
        return None
    problem, call = fatal[0], facts.call_name
    if problem.kind is ProblemKind.BYTES_BEFORE:
        return not_a_pickle(begins(problem), call, weights_only=facts.weights_only_or_none)
    if problem.kind is ProblemKind.RECORD_MISSING:
        message = f"PytorchStreamReader failed locating file {problem.record}: file not found"
        if problem.record == "version":
            message = 'Expected hasRecord("version") to be true'
        return Prediction(Stage.OPEN, call, "RuntimeError", message)
    return None


def _unlock(facts: Facts) -> Fix:
    path, out = shlex.quote(facts.question.path), shlex.quote(facts.question.fixed_path("unlocked"))
    return Fix(
        title="Unpack it with its password, and pack it again without one and without compression.",
        kind=FixKind.FILE,
        command=f"unzip {path} -d unlocked && (cd unlocked && zip -0 -r - .) > {out}",
    )


def _version(facts: Facts) -> Fix:
    """A copy with the record that is missing, where nothing else is."""
    path, out = facts.question.path, facts.question.fixed_path("fixed")
    return Fix(
        title="Add the record version to a copy, if the file was packed again by another program:",
        kind=FixKind.FILE,
        code=(
            f"import shutil, zipfile\nshutil.copyfile({literal(path)}, {literal(out)})\n"
            f'with zipfile.ZipFile({literal(out)}, "a") as archive:\n'
            '    folder = archive.namelist()[0].partition("/")[0]\n'
            '    archive.writestr(f"{folder}/version", "3\\n")'
        ),
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
