"""RL102."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import Layout, Problem, ProblemKind
from relight.core.finding import Finding, Fix, FixKind, Prediction, Stage
from relight.facts import describe
from relight.facts.facts import Facts
from relight.facts.first_bytes import not_a_pickle, tar_without_storages
from relight.rulekit import File, Fires, Phase, Rule, Silent

# miniz looks for the end of the archive in blocks of 4096 bytes that overlap by 3, back to 64 KiB before the end; an
# unsigned subtraction goes wrong when a block would start before the file: seek() then gets a negative position.
_BLOCK, _STEP, _REACH = 4096, 4093, 65535 + 22


class TruncatedFile(Rule):
    """The file is incomplete: its end is missing.

    What it checks
    --------------
    Whether the file is empty, was never written (all zero bytes), or breaks off before the end that its own format
    announces: the directory of a zip archive, or the storages that a legacy file lists.

    Why loading fails
    -----------------
    A zip archive is read from its end. Without the directory torch reports ``failed finding central directory``, or,
    for files between 4 KiB and 68 KiB, ``OSError: [Errno 22] Invalid argument``.

    How to fix
    ----------
    Copy or download the file again and compare sizes. Checkpoints that a full disk or a killed job cut off are gone:
    take an earlier one.

    References
    ----------
    caffe2/serialize/inline_container.cc and third_party/miniz (``mz_zip_reader_locate_header_sig``) in torch.
    """

    code = "RL102"
    name = "truncated-file"
    causes = (
        "zip-no-central-directory",
        "zip-truncated-small-oserror22",
        "legacy-truncated",
        "empty-file",
        "zeros-file",
    )
    phase = Phase.CONTAINER
    gates = True
    examples = (
        Fires(name="a download that broke off", file=File(keep=0.6)),
        Fires(
            name="a small file that breaks off",
            file=File(tensors={"net.weight": (64, 64)}, keep=0.6),
            cause="zip-truncated-small-oserror22",
        ),
        Fires(name="the last byte is missing", file=File(keep=0.999)),
        Fires(name="an empty file", file=File(content=b""), cause="empty-file"),
        Fires(name="written with zeros only", file=File(content=bytes(6000)), cause="zeros-file"),
        Fires(name="a legacy file that breaks off", file=File(legacy=True, keep=0.97), cause="legacy-truncated"),
        Silent(name="a whole file"),
        Silent(name="a whole legacy file", file=File(legacy=True)),
        Silent(name="a web page", file=File(content=b"<html></html>")),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Word where the file ends and what is left of it."""
        checkpoint = facts.checkpoint
        for problem in checkpoint.problems_of(
            ProblemKind.EMPTY, ProblemKind.ALL_ZERO, ProblemKind.NO_CENTRAL_DIRECTORY, ProblemKind.TRUNCATED
        ):
            if not problem.fatal or problem.record is not None:
                continue  # a record that breaks off inside a whole archive is damage, not a cut
            message, cause = _say(problem, checkpoint.nbytes, checkpoint.layout)
            context = []
            whole, lost = len(checkpoint.tensors), len(checkpoint.lost)
            if whole + lost:
                context.append(describe.what_is_left(whole, lost))
            yield self.finding(
                message,
                cause=cause,
                context=[*context, "weights_only=False cannot help: there is nothing more to read."],
                fixes=[
                    Fix(
                        title="Copy or download the file again, and compare its size with the original.",
                        kind=FixKind.DOWNLOAD_AGAIN,
                    ),
                    Fix(
                        title="If your own run wrote it: wait while the run goes on, else take an earlier checkpoint.",
                        kind=FixKind.NONE,
                    ),
                ],
                predicts=_prediction(problem, facts),
            )


def _say(problem: Problem, nbytes: int, layout: Layout) -> tuple[str, str]:
    if problem.kind is ProblemKind.EMPTY:
        return "the file is empty", "empty-file"
    if problem.kind is ProblemKind.ALL_ZERO:
        return f"the file holds {nbytes:,} zero bytes and nothing else", "zeros-file"
    if problem.kind is ProblemKind.TRUNCATED:
        return f"the file breaks off after {nbytes:,} bytes", "legacy-truncated"
    small = _errno22(nbytes)
    return (
        f"the file breaks off after {nbytes:,} bytes; its end is missing",
        "zip-truncated-small-oserror22" if small else "zip-no-central-directory",
    )


def _errno22(nbytes: int) -> bool:
    """Whether miniz's backward search would seek before the start of a file of this size."""
    start = max(nbytes - _BLOCK, 0)
    while start > 0 and nbytes - start < _REACH:
        start -= _STEP
    return start < 0


def _prediction(problem: Problem, facts: Facts) -> Prediction | None:
    call = facts.call_name
    if problem.kind is ProblemKind.EMPTY:
        return Prediction(Stage.OPEN, call, "EOFError", "")
    if problem.kind is ProblemKind.NO_CENTRAL_DIRECTORY:
        if _errno22(facts.checkpoint.nbytes):
            return Prediction(Stage.OPEN, call, "OSError", "[Errno 22] Invalid argument")
        return Prediction(
            Stage.OPEN,
            call,
            "RuntimeError",
            "PytorchStreamReader failed reading zip archive",
        )
    if problem.kind is ProblemKind.ALL_ZERO:
        # 1024 zero bytes are a tar archive without members, which is torch's oldest layout; fewer than a block are none.
        if facts.checkpoint.nbytes < 512:
            return not_a_pickle(bytes(1), call, weights_only=facts.weights_only_or_none)
        if facts.checkpoint.nbytes < 1024:
            return None
        return tar_without_storages(call, weights_only=facts.weights_only_or_none)
    if facts.checkpoint.layout is Layout.TORCH_LEGACY and facts.checkpoint.readable:
        # The object is whole, and is unpickled before its storages are read.
        if facts.weights_only_or_none is None:
            return None
        return facts.unpickling or Prediction(Stage.OPEN, call, "RuntimeError", "unexpected EOF, expected")
    return None
