"""RL101."""

from __future__ import annotations

from collections.abc import Iterator

from relight.core.checkpoint import Layout, Problem, ProblemKind
from relight.core.finding import Applicability, Finding, Fix, FixKind, Prediction, Stage
from relight.core.target import Intent, IntentCall
from relight.facts import data, describe
from relight.facts.facts import Facts
from relight.facts.first_bytes import begins, not_a_pickle, tar_without_storages
from relight.facts.question import literal
from relight.facts.unpickling import refusal, vain_advice
from relight.facts.versions import at_least
from relight.rulekit import File, Fires, Phase, Rule, Silent

_KINDS = (ProblemKind.NOT_A_CHECKPOINT, ProblemKind.UNSUPPORTED)
# What torch says to an archive that is none of its own. Source: caffe2/serialize/inline_container.cc.
_LACKS = {
    "folder": "file in archive is not in a subdirectory",
    "version": 'Expected hasRecord("version") to be true',
    "data.pkl": "PytorchStreamReader failed locating file data.pkl: file not found",
}
_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")


class NotACheckpoint(Rule):
    """The file is something else than a checkpoint.

    What it checks
    --------------
    The first bytes of the file, whatever its name: web pages and error answers of servers, Git LFS pointers, other
    archives and other frameworks' formats, compiled programs, folders.

    Why loading fails
    -----------------
    torch.load takes anything that is not a zip archive for a pickle, and fails at the first byte that means nothing
    to it: ``invalid load key, '<'``. With ``weights_only=True`` the same failure is reported with the advice to try
    ``weights_only=False``, which cannot help.

    How to fix
    ----------
    Get the right file: download it again, fetch it with Git LFS, unpack the archive around it, or load it with the
    function that belongs to its format.

    References
    ----------
    torch/serialization.py, ``load`` and ``_legacy_load``.
    """

    code = "RL101"
    name = "not-a-checkpoint"
    causes = tuple(dict.fromkeys(k["cause"] for k in data.load("file_kinds")["kinds"].values()))
    phase = Phase.CONTAINER
    gates = True
    examples = (
        Fires(name="a web page", file=File(content=b"<!doctype html><html></html>"), cause="html-page-saved"),
        Fires(
            name="a Git LFS pointer",
            file=File(
                content=b"version https://git-lfs.github.com/spec/v1\noid sha256:"
                + b"4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 5160000000\n"
            ),
            cause="git-lfs-pointer",
        ),
        Fires(
            name="a server's JSON answer, plain torch.load",
            file=File(content=b'{"error": "not found"}'),
            cause="json-or-text-saved",
            intent=Intent(call=IntentCall.WEIGHTS),
        ),
        Fires(
            name="safetensors under another name",
            file=File(
                content=b"=\x00\x00\x00\x00\x00\x00\x00"
                + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}       '
                + bytes(4)
            ),
            cause="safetensors-as-ckpt",
        ),
        Fires(
            name="a git-annex pointer",
            file=File(content=b"/annex/objects/SHA256E-s516--4d7a2146.ckpt\n"),
            cause="git-annex-pointer",
        ),
        Fires(
            name="compressed once more",
            file=File(content=b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + bytes(40)),
            cause="compressed-or-other-format",
        ),
        Fires(
            name="a page that begins with an empty line",
            file=File(content=b"\n\n<html><body>404</body></html>"),
            cause="html-page-saved",
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="a list in JSON",
            file=File(content=b"[1, 2, 3]"),
            cause="json-or-text-saved",
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="HDF5, which begins with an opcode of pickles",
            file=File(content=b"\x89HDF\r\n\x1a\n" + bytes(100)),
            cause="compressed-or-other-format",
            intent=Intent(weights_only=False),
        ),
        Fires(
            name="ONNX",
            file=File(content=b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:\x10" + bytes(40)),
            cause="compressed-or-other-format",
        ),
        Fires(
            name="the data.pkl of an unpacked checkpoint",
            file=File(
                content=b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
                b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQK\x00K\x01\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR."
            ),
            cause="not-a-torch-pickle",
        ),
        Fires(
            name="a pickle of another program",
            file=File(content=b"\x80\x02}q\x00X\x01\x00\x00\x00aK\x01s."),
            cause="not-a-torch-pickle",
            intent=Intent(weights_only=False),
        ),
        Fires(name="a checkpoint in a tar archive", file=File(packed="tar"), cause="tar-wrapped"),
        Fires(name="a checkpoint in a zip archive", file=File(packed="zip"), cause="zip-no-subdirectory"),
        Fires(name="packed again without its folder", file=File(folder=""), cause="zip-no-subdirectory"),
        Silent(name="packed again in another folder", file=File(folder="epoch=3-step=100")),
        Silent(name="a checkpoint of torch before 1.6", file=File(legacy=True)),
        Silent(name="a checkpoint that is cut off", file=File(keep=0.7)),
        Silent(name="a plain state_dict", file=File(raw=True)),
    )

    def check(self, facts: Facts) -> Iterator[Finding]:
        """Word what the reader recognised."""
        kinds = data.load("file_kinds")["kinds"]
        if facts.checkpoint.layout is Layout.SAFETENSORS:
            kind = kinds["safetensors"]
            yield self.finding(
                f"this is {kind['is']}, not a checkpoint",
                cause=kind["cause"],
                context=[f"It holds {describe.tensors(len(facts.checkpoint.tensors))}. {kind['why']}"],
                fixes=[_fix(kind, facts)],
                predicts=Prediction(Stage.OPEN, facts.call_name, "_pickle.UnpicklingError", ""),
            )
        for problem in facts.checkpoint.problems_of(*_KINDS):
            kind = kinds.get(problem.what or "unknown", kinds["unknown"])
            context = [kind["why"]]
            if problem.what == "git-lfs-pointer" and "size" in problem.details:
                context.append(
                    f"The data that belongs here has {int(problem.details['size']):,} bytes, sha256 "
                    f"{str(problem.details.get('sha256', ''))[:16]}..."
                )
            inside = [f for f in facts.checkpoint.files if f.endswith(_SUFFIXES)] if problem.what == "directory" else []
            if problem.what == "directory":
                context.append(f"Inside: {describe.some(inside)}." if inside else "Nothing in it looks like one.")
            predicted = _prediction(problem, facts)
            context += vain_advice(predicted)
            yield self.finding(
                f"this is {kind['is']}, not a checkpoint"
                if not kind["is"].startswith("not ")
                else f"this is {kind['is']}",
                cause=kind["cause"],
                context=context,
                fixes=[_fix(kind, facts)],
                predicts=predicted,
            )


def _fix(kind: dict[str, str], facts: Facts) -> Fix:
    path = facts.question.path
    command = kind.get("command")
    if "unpack" in kind:
        import shlex

        out = path.removesuffix(".gz").removesuffix(".xz").removesuffix(".bz2").removesuffix(".zst")
        out = facts.question.fixed_path(kind.get("into", "unpacked")) if out == path else out
        command = kind["unpack"].format(path=shlex.quote(path), out=shlex.quote(out))
    code = kind["code"].format(literal=literal(path)) if "code" in kind else None
    return Fix(
        title=kind["remedy"],
        kind=FixKind(kind["fix"]),
        applicability=Applicability.MANUAL,
        command=command,
        code=code,
    )


def _prediction(problem: Problem, facts: Facts) -> Prediction | None:
    if problem.what in ("dcp", "deepspeed", "sharded-index", "hf-pieces", "directory"):
        return Prediction(Stage.OPEN, facts.call_name, "IsADirectoryError", "Is a directory")
    weights_only = facts.weights_only_or_none
    if problem.what == "torchscript":
        # Without weights_only torch hands the file to torch.jit.load, and gives what no checkpoint is: a module.
        if not weights_only or not at_least(facts.environment.packages.get("torch"), "2.6"):
            return None
        message = "Cannot use ``weights_only=True`` with TorchScript archives"
        return Prediction(Stage.OPEN, facts.call_name, "RuntimeError", message)
    if "lacks" in problem.details:
        lacks = _LACKS.get(str(problem.details["lacks"]))
        return None if lacks is None else Prediction(Stage.OPEN, facts.call_name, "RuntimeError", lacks)
    if problem.what == "tar":
        return tar_without_storages(facts.call_name, weights_only=weights_only)
    if problem.what == "data-pkl":
        # Whatever it meets first, a name or a reference to a storage: the safe unpickler refuses in one way.
        if not weights_only:
            return None
        return Prediction(Stage.OPEN, facts.call_name, "_pickle.UnpicklingError", "Weights only load failed")
    if problem.what == "plain-pickle":
        if weights_only is None:
            return None
        if weights_only and facts.blocked is not None:
            return refusal(facts.blocked, facts.call_name)
        if facts.checkpoint.globals:
            return None  # what they are decides
        return Prediction(Stage.OPEN, facts.call_name, "RuntimeError", "Invalid magic number; corrupt file?")
    return not_a_pickle(begins(problem), facts.call_name, weights_only=weights_only)
