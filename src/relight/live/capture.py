"""What a ``--target`` is: built by the user's interpreter in a child process, described here without torch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relight.core.checkpoint import Checkpoint
from relight.core.errors import UsageError
from relight.core.manifest import Make
from relight.core.target import (
    SPEC_SCHEMA,
    BuildFailure,
    Environment,
    FailureKind,
    InitParam,
    InitSignature,
    IntentCall,
    ModelSpec,
    ModuleSpec,
    ParamSpec,
    Rehearsal,
    Replay,
    Target,
    TrainingSpec,
)
from relight.live import spec_cache
from relight.live.wire import encode_arguments, encode_checkpoint
from relight.reader.installed import environment_from, executable
from relight.reader.source_tree import SourceTree

CHILD = Path(__file__).with_name("child.py")
# What it loads by path: the code that also writes manifests.
_BESIDE = tuple(CHILD.parents[1] / "manifest" / name for name in ("structure.py", "behaviour.py"))
_WITH_NAME = re.compile(r"^(.+):(\*|[^\W\d]\w*(?:\.[^\W\d]\w*)*)$")
ALL = "*"
_OUTPUT_KEPT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRequest:
    """One target to be built.

    Attributes:
        argument: ``package.module:Class``, ``file.py:Class``, ``file.py``, ``module:factory`` or a spec's JSON file.
        checkpoint: The file to build it for: its hyper_parameters are the arguments, its keys are tried.
        init: Keyword arguments of ``load_from_checkpoint`` that go to the constructor (``--init``).
        hparams_file: ``hparams_file=`` of ``load_from_checkpoint``.
        call: The call that the user is going to make.
        strict: ``strict=`` of that call, None where it is not passed.
        really: A file that relight wrote, and that the real call is to load with real values; None tries nothing.
        replay: Module and input of a probe that the model is asked with the file's weights, None for none.
        seal: Where the weights of the file are, and an input, for a manifest of the model of today; None for none.
    """

    argument: str
    checkpoint: Checkpoint | None = None
    init: Mapping[str, object] = field(default_factory=dict)
    hparams_file: str | None = None
    call: str = "load"
    strict: bool | None = None
    really: str | None = None
    replay: Mapping[str, Any] | None = None
    seal: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TargetName:
    """The parts of a target: a file or a module, and a name in it.

    Attributes:
        file: Path of a Python file, as given.
        module: Dotted name of a module, where it is not a file.
        name: Class, factory or model; ``*`` for all models; None where the file's only one is meant.
    """

    file: str | None
    module: str | None
    name: str | None


def parse_target(argument: str) -> TargetName:
    """Split a target into file or module, and name."""
    match = _WITH_NAME.match(argument)
    left, name = (argument, None) if match is None or os.path.isfile(argument) else match.groups()
    if left.endswith((".py", ".pyw")) or "/" in left or os.sep in left or os.path.isfile(left):
        return TargetName(left, None, name)
    return TargetName(None, left, name)


def discover(folder: str = ".", keys: Iterable[str] = ()) -> list[str]:
    """Targets under a folder: LightningModules found by parsing, as one would pass them to ``--target``.

    Args:
        folder: Where to look.
        keys: Of a state_dict: classes that assign what these begin with come first.
    """
    tree = SourceTree(folder)
    prefix = "" if os.path.normpath(folder) == "." else os.path.normpath(folder) + os.sep
    wrapper = re.compile(r"^(?:module\.|_orig_mod\.)*")
    first = {wrapper.sub("", key).partition(".")[0] for key in keys}
    found = tree.lightning_modules()
    if first and len(found) > 1:
        found.sort(key=lambda c: -len(first & tree.attributes(c)))
    return [f"{prefix}{c.file}:{c.name}" for c in found]


def build_target(
    argument: str,
    checkpoint: Checkpoint | None = None,
    *,
    init: Mapping[str, object] | None = None,
    hparams_file: str | None = None,
    python: str | None = None,
    call: str = "load",
    strict: bool | None = None,
    really: str | None = None,
    replay: Mapping[str, Any] | None = None,
    seal: Mapping[str, Any] | None = None,
    timeout: float = 120,
    announce: Callable[[str], None] | None = None,
    cache: bool = True,
) -> Target:
    """Build what ``--target`` names and describe it.

    Args:
        argument: ``package.module:Class``, ``file.py:Class``, ``file.py``, ``module:factory`` or a spec's JSON file.
        checkpoint: The file whose hyper_parameters are the constructor's arguments and whose keys are tried.
        init: Keyword arguments for the constructor, as ``load_from_checkpoint`` would get them.
        hparams_file: ``hparams_file=`` of ``load_from_checkpoint``.
        python: Interpreter to build it with, or the folder of its virtual environment; None for this one.
        call: ``load``, ``resume`` or ``weights``.
        strict: ``strict=`` of that call, None where it is not passed.
        really: A file that relight wrote, and that the real call is to load; nothing else is ever loaded.
        replay: Module and input of a probe that the model is asked with the file's weights.
        seal: Where the weights of the file are, and an input, for a manifest of the model of today.
        timeout: Seconds after which the child process is ended.
        announce: Called with one line before the child process is started; not where the answer is cached.
        cache: Whether to use and to keep answers.

    Returns:
        A spec, or the reason why there is none.

    Raises:
        UsageError: The interpreter cannot be started, an argument is not plain data, or a spec's file is not one.
    """
    request = TargetRequest(
        argument=argument,
        checkpoint=checkpoint,
        init=init or {},
        hparams_file=hparams_file,
        call=call,
        strict=strict,
        really=really,
        replay=replay,
        seal=seal,
    )
    return build_targets([request], python=python, timeout=timeout, announce=announce, cache=cache)[0]


def build_targets(
    requests: Sequence[TargetRequest],
    *,
    python: str | None = None,
    timeout: float = 120,
    announce: Callable[[str], None] | None = None,
    cache: bool = True,
) -> list[Target]:
    """Build several targets with one start of torch; otherwise like `build_target`.

    Args:
        requests: What to build.
        python: Interpreter to build them with.
        timeout: Seconds for each.
        announce: Called with one line before the child process is started.
        cache: Whether to use and to keep answers.

    Returns:
        One Target for each request, in order.
    """
    interpreter = sys.executable if python is None else executable(python)
    targets: dict[int, Target] = {}
    pending: dict[int, dict[str, Any]] = {}
    keys: dict[int, str] = {}
    files = _EncodedCheckpoints()
    for index, request in enumerate(requests):
        ready = _without_child(request)
        if ready is not None:
            targets[index] = ready
            continue
        wire = _wire_target(index, request, files)
        keys[index] = _cache_key(request, wire, files, interpreter)
        kept = spec_cache.load(keys[index]) if cache and request.really is None else None
        if kept is not None:
            targets[index] = _target(request, kept["answer"], kept["about"], python)
        else:
            pending[index] = wire
    while pending:
        if announce is not None:
            names = [parse_target(requests[i].argument) for i in pending]
            what = names[0].name or Path(names[0].file or names[0].module or "").stem
            if len(names) > 1:
                what += f" and {len(names) - 1} more"
            announce(f"loading torch to build {what} ...")
        run = _run_child(interpreter, list(pending.values()), files.encoded, timeout)
        for answer in run.answers:
            index = int(answer["index"])
            if index not in pending:
                continue
            del pending[index]
            targets[index] = _target(requests[index], answer, run.about, python)
            if cache and requests[index].really is None and "spec" in answer and "defect" not in answer:
                _keep(keys[index], answer, run)
        if not pending:
            break
        stuck = _stuck(pending, run)
        for index in stuck:
            del pending[index]
            targets[index] = Target(argument=requests[index].argument, failure=run.failure())
    return [targets[i] for i in range(len(requests))]


def build_models(
    request: TargetRequest,
    *,
    python: str | None = None,
    timeout: float = 120,
    announce: Callable[[str], None] | None = None,
    cache: bool = True,
) -> list[Target]:
    """Build all models that a file or a module defines, in one child process; otherwise like `build_target`.

    Args:
        request: What to build; its argument ends in ``:*``.
        python: Interpreter to build them with.
        timeout: Seconds for listing and building them; what is left then is built again, each with as many.
        announce: Called with one line before the child process is started.
        cache: Whether to use and to keep answers.

    Returns:
        One Target for each, in the order of their definition; one with a failure if there is nothing to list.
    """
    ready = _without_child(request)
    if ready is not None:
        return [ready]
    interpreter = sys.executable if python is None else executable(python)
    files = _EncodedCheckpoints()
    wire = _wire_target(0, request, files)
    key = _cache_key(request, wire, files, interpreter)
    kept = spec_cache.load(key) if cache else None
    found: dict[str, Target] = {}
    if kept is not None:
        names = list(kept["answer"]["members"])
    else:
        if announce is not None:
            announce(f"loading torch to build the models of {request.argument.removesuffix(':*')} ...")
        run = _run_child(interpreter, [wire], files.encoded, timeout)
        listing = next((a for a in run.answers if "member" not in a), None)
        if listing is None:
            return [Target(argument=request.argument, failure=run.failure())]
        if "members" not in listing:
            return [_target(request, listing, run.about, python)]
        names = list(listing["members"])
        if cache:
            _keep(key, listing, run)
        for answer in run.answers:
            if "member" in answer:
                name = answer["member"]
                member = _member(request, name)
                found[name] = _target(member, answer, run.about, python)
                if cache and "spec" in answer and "defect" not in answer:
                    _keep(_cache_key(member, _wire_target(0, member, files), files, interpreter), answer, run)
    # From the cache, or what the child did not survive.
    left = [n for n in names if n not in found]
    built = build_targets(
        [_member(request, n) for n in left], python=python, timeout=timeout, announce=announce, cache=cache
    )
    found.update(zip(left, built, strict=True))
    return [found[n] for n in names]


def _member(request: TargetRequest, name: str) -> TargetRequest:
    return replace(request, argument=f"{request.argument.removesuffix(ALL)}{name}")


def _keep(key: str, answer: dict[str, Any], run: _Run) -> None:
    folders = [*answer["search_path"], *answer["folders"]]
    spec_cache.store(key, {"answer": answer, "about": run.about}, answer["files"], folders)


# ---------------------------------------------------------------- without a child


def _without_child(request: TargetRequest) -> Target | None:
    """The answers that need no torch: a spec from a file, a file that is not there."""
    if request.argument.lower().endswith(".json"):
        return Target(argument=request.argument, **_spec_file(request.argument))
    name = parse_target(request.argument)
    if name.file is None or os.path.isfile(name.file):
        return None
    near = SourceTree(os.curdir)
    wanted = os.path.basename(name.file)
    places = tuple(c for c in near.modules_named(wanted.removesuffix(".py")) if os.path.basename(c) == wanted)
    failure = BuildFailure(
        kind=FailureKind.TARGET_FILE_MISSING, name=name.file, suggestions=places, searched=near.files_parsed
    )
    return Target(argument=request.argument, failure=failure)


def _spec_file(path: str) -> dict[str, Any]:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        spec = ModelSpec.from_dict(data, origin=path)
    except FileNotFoundError:
        return {"failure": BuildFailure(kind=FailureKind.TARGET_FILE_MISSING, name=path)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise UsageError(f"{path} is not a model specification ({SPEC_SCHEMA}): {exc}") from exc
    return {
        "spec": spec,
        "init": spec.init,
        "class_name": spec.class_name,
        "class_kind": spec.kind,
        "passed": spec.passed,
        "dropped": spec.dropped,
        "approximated": spec.approximated,
        "file": spec.file,
        "environment": spec.environment,
    }


# ---------------------------------------------------------------- the child


class _EncodedCheckpoints:
    """The checkpoints of a run in wire form, each once."""

    def __init__(self) -> None:
        self.encoded: list[dict[str, Any]] = []
        self.digests: list[str] = []
        self._known: list[Checkpoint] = []

    def index(self, checkpoint: Checkpoint) -> int:
        for i, known in enumerate(self._known):
            if known is checkpoint:
                return i
        self._known.append(checkpoint)
        self.encoded.append(encode_checkpoint(checkpoint))
        self.digests.append(spec_cache.digest(self.encoded[-1]))
        return len(self._known) - 1


def _wire_target(index: int, request: TargetRequest, files: _EncodedCheckpoints) -> dict[str, Any]:
    name = parse_target(request.argument)
    hparams = request.hparams_file
    checkpoint = request.checkpoint
    # A file that could not be read has no objects: the class is described, nothing is tried.
    readable = checkpoint is not None and checkpoint.readable
    return {
        "index": index,
        "file": name.file,
        "module": name.module,
        "name": name.name,
        "call": IntentCall(request.call).value,
        "strict": request.strict,
        "really": None if request.really is None else os.path.abspath(request.really),
        "init": encode_arguments(request.init),
        "hparams_file": None if hparams is None else os.path.abspath(hparams),
        "checkpoint": files.index(checkpoint) if readable and checkpoint is not None else None,
        "replay": None if request.replay is None else dict(request.replay),
        "seal": None if request.seal is None else dict(request.seal),
    }


def _cache_key(request: TargetRequest, wire: dict[str, Any], files: _EncodedCheckpoints, interpreter: str) -> str:
    def content(path: str | None) -> str | None:
        try:
            return None if path is None else spec_cache.digest(Path(path).read_bytes().hex())
        except OSError:
            return None

    real = os.path.realpath(interpreter)
    return spec_cache.digest(
        [
            [content(str(p)) for p in (CHILD, *_BESIDE)],
            request.argument,
            {k: v for k, v in wire.items() if k not in ("index", "checkpoint")},
            None if wire["checkpoint"] is None else files.digests[wire["checkpoint"]],
            content(request.hparams_file),
            os.getcwd(),
            interpreter,
            real,
            os.stat(real).st_mtime_ns if os.path.exists(real) else None,
            {k: v for k, v in os.environ.items() if k.startswith(("PYTHON", "CUDA_", "TORCH_"))},
            None if request.replay is None else _identity(str(request.replay["file"])),
        ]
    )


def _identity(path: str) -> list[int]:
    """What changes when somebody writes a file again: its values count where it is replayed."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ino]


@dataclass(slots=True)
class _Run:
    """What came back from one start of the child."""

    about: dict[str, Any]
    answers: list[dict[str, Any]]
    started: list[int]
    code: int | None
    output: str
    timeout: float

    def failure(self) -> BuildFailure:
        if "no_torch" in self.about:
            facts = self.about["no_torch"]
            return BuildFailure(kind=FailureKind.NO_TORCH, exception=facts["exception"], message=facts["message"])
        last = self.output.strip().splitlines()[-1:] or [""]
        if self.code is None:
            message = f"building it took longer than {self.timeout:g} s"
        else:
            message = f"the process that built it ended with status {self.code}" + (f": {last[0]}" if last[0] else "")
        return BuildFailure(kind=FailureKind.UNKNOWN, message=message, stage="construct", traceback=self.output)


def _stuck(pending: Iterable[int], run: _Run) -> list[int]:
    """Targets to give up on: the one that the child did not survive; all of them where it did not get to any."""
    waiting = list(pending)
    if "no_torch" in run.about or not run.started:
        return waiting
    return [i for i in run.started if i in waiting][:1] or waiting


def _run_child(
    interpreter: str, targets: list[dict[str, Any]], checkpoints: list[dict[str, Any]], timeout: float
) -> _Run:
    with tempfile.TemporaryDirectory(prefix="relight-") as folder:
        request, answers, output = (os.path.join(folder, n) for n in ("request.json", "answer.jsonl", "output.txt"))
        with open(request, "w", encoding="utf-8") as f:
            json.dump({"cwd": os.getcwd(), "targets": targets, "checkpoints": checkpoints}, f)
        environ = dict(os.environ)
        environ.setdefault("MPLBACKEND", "Agg")  # no windows
        environ.setdefault("WANDB_MODE", "disabled")
        with open(output, "wb") as sink:
            try:
                process = subprocess.Popen(
                    [interpreter, str(CHILD), request, answers],
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env=environ,
                    start_new_session=True,  # so that what a script starts can be ended with it
                )
            except OSError as exc:
                raise UsageError(f"cannot start {interpreter}: {exc.strerror}") from exc
            code: int | None = None
            try:
                code = process.wait(timeout * len(targets))
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end(process)
        lines = _lines(answers)
        with open(output, "rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - _OUTPUT_KEPT))
            tail = f.read().decode("utf-8", "replace")
    return _Run(
        about=next((r["about"] for r in lines if "about" in r), {}),
        answers=[r for r in lines if "index" in r],
        started=[int(r["started"]) for r in lines if "started" in r],
        code=code,
        output=tail,
        timeout=timeout,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child and what it started."""
    try:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended by itself
    process.wait()


def _lines(path: str) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as f:
            # A line without its end: the child was ended in the middle of it.
            return [json.loads(line) for line in f if line.endswith("\n")]
    except (OSError, ValueError):
        return []


# ---------------------------------------------------------------- from the answer to nouns


def _target(request: TargetRequest, answer: dict[str, Any], about: dict[str, Any], python: str | None) -> Target:
    environment = environment_from(
        answer.get("search_path") or about.get("search_path", ()),
        python=about.get("python"),
        platform=about.get("platform"),
        origin="this machine" if python is None else python,
        cuda_devices=about.get("cuda_devices"),
        mps=about.get("mps"),
    )
    if about.get("torch"):
        environment = replace(environment, packages={**environment.packages, "torch": about["torch"]})
    init = init_of(answer.get("init"))
    rehearsal, loaded = answer.get("rehearsal"), answer.get("loaded")
    return Target(
        argument=request.argument,
        spec=spec_of(_class_path(request, answer["spec"]), answer["spec"], init, environment)
        if "spec" in answer
        else None,
        failure=_failure(request, answer["failure"], environment) if "failure" in answer else None,
        rehearsal=None if rehearsal is None else _rehearsal(rehearsal),
        loaded=None if loaded is None else _rehearsal(loaded),
        init=init,
        class_name=answer.get("class_name"),
        class_kind=answer.get("class_kind"),
        passed=tuple(answer.get("passed", ())),
        dropped=tuple(answer.get("dropped", ())),
        approximated=tuple(answer.get("approximated", ())),
        stopped_at=answer.get("stopped_at"),
        stopped_by=answer.get("stopped_by"),
        stopped_on_instance=answer.get("stopped_on_instance", False),
        file=answer.get("file"),
        environment=environment,
        replay=None if "replay" not in answer else Replay(**answer["replay"]),
        sealed=answer.get("sealed"),
    )


def init_of(data: Mapping[str, Any] | None) -> InitSignature | None:
    """A constructor as the child describes it."""
    if data is None:
        return None
    return InitSignature(tuple(InitParam(**p) for p in data["params"]), data["var_keyword"], data["location"])


def _class_path(request: TargetRequest, data: dict[str, Any]) -> str:
    name = parse_target(request.argument)
    return f"{name.file or name.module}:{name.name or data['class_name']}"


def spec_of(
    class_path: str, data: Mapping[str, Any], init: InitSignature | None, environment: Environment
) -> ModelSpec:
    """A model as the child describes it."""
    return ModelSpec(
        class_name=data["class_name"],
        class_path=class_path,
        kind=data["kind"],
        file=data["file"],
        line=data["line"],
        params=tuple(
            ParamSpec(
                p["key"],
                p["dtype"],
                None if p["shape"] is None else tuple(p["shape"]),
                p["kind"],
                p["persistent"],
                tuple(p["tied_with"]),
                p["layout"],
                p.get("value"),
            )
            for p in data.get("params", ())
        ),
        modules=tuple(
            ModuleSpec(m["path"], m["class_path"], m["extra_repr"], m["line"], tuple(m["load_hooks"]))
            for m in data.get("modules", ())
        ),
        init=init,
        bases=tuple(data["bases"]),
        hooks=tuple(data["hooks"]),
        hook_keys=tuple(data["hook_keys"]),
        strict_loading=data.get("strict_loading"),
        passed=tuple(data["passed"]),
        dropped=tuple(data["dropped"]),
        approximated=tuple(data["approximated"]),
        environment=environment,
        architecture=Make.from_dict(data.get("architecture")),
        training=None if data.get("training") is None else TrainingSpec.from_dict(data["training"]),
    )


def _rehearsal(data: dict[str, Any]) -> Rehearsal:
    return Rehearsal(
        ok=data["ok"],
        stage=data.get("stage"),
        exception=data.get("exception"),
        message=data.get("message", ""),
        missing=tuple(data.get("missing", ())),
        unexpected=tuple(data.get("unexpected", ())),
        file=data.get("file"),
        line=data.get("line"),
        source=data.get("source"),
    )


def _failure(request: TargetRequest, data: dict[str, Any], environment: Environment) -> BuildFailure:
    failure = BuildFailure(
        kind=FailureKind(data["kind"]),
        exception=data.get("exception"),
        message=data.get("message", ""),
        file=data.get("file"),
        line=data.get("line"),
        source=data.get("source"),
        stage=data.get("stage", "import"),
        name=data.get("name"),
        suggestions=tuple(data.get("suggestions", ())),
        candidates=tuple(data.get("candidates", ())),
        traceback=data.get("traceback", ""),
        network=data.get("network", False),
    )
    if failure.name is None or failure.suggestions:
        return failure
    if failure.kind in (FailureKind.NAME_ERROR, FailureKind.TARGET_NAME_MISSING):
        tree = SourceTree(os.curdir)
        found = [str(c) for c in tree.classes_named(failure.name)]
    elif failure.kind in (FailureKind.MODULE_NOT_FOUND, FailureKind.TARGET_FILE_MISSING):
        tree = SourceTree(os.curdir)
        found = tree.modules_named(failure.name)
    else:
        return failure
    return replace(failure, suggestions=tuple(found), searched=tree.files_parsed)
