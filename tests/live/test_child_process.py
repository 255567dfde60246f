"""What happens around the child: no torch, hanging, dying, a broken cache. A stub of torch is enough for that."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from relight.core.errors import UsageError
from relight.core.target import FailureKind
from relight.live import spec_cache
from relight.live.capture import TargetName, TargetRequest, build_target, build_targets, discover, parse_target

STUB = {
    "stub/torch/__init__.py": """
__version__ = "2.0.0"
class serialization: pass
class nn:
    class Module:
        _buffers = _parameters = {}
        def named_modules(self, remove_duplicate=True): return [("", self)]
        def state_dict(self, keep_vars=False): return {}
        def extra_repr(self): return ""
class Tensor: pass
class device:
    def __init__(self, name): pass
    def __enter__(self): return self
    def __exit__(self, *exc): pass
def manual_seed(n): pass
""",
    "net.py": "import torch\nclass Net(torch.nn.Module): pass\n",
    "hangs.py": "while True: pass\n",
    "dies.py": "import os\nprint('out of luck', flush=True)\nos._exit(3)\n",
}


@pytest.fixture
def stub(folder, tmp_path, monkeypatch):
    folder(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))


@pytest.mark.parametrize(
    "argument, parts",
    [
        ("package.module:Class", (None, "package.module", "Class")),
        ("load.py:Outer.Inner", ("load.py", None, "Outer.Inner")),
        ("load.py", ("load.py", None, None)),
        ("src/my model/load.py:Net", ("src/my model/load.py", None, "Net")),
        ("models", (None, "models", None)),
        ("C:/code/load.py:Net", ("C:/code/load.py", None, "Net")),
        ("C:/code/load.py", ("C:/code/load.py", None, None)),
    ],
)
def test_parts_of_a_target(argument, parts):
    assert parse_target(argument) == TargetName(*parts)


def test_the_others_are_built_when_one_hangs_or_dies(stub):
    requests = [TargetRequest(argument=a) for a in ("net.py:Net", "dies.py:Net", "hangs.py:Net", "net:Net")]
    first, dead, hung, last = build_targets(requests, timeout=1.0)
    assert first.spec is not None
    assert last.spec is not None
    assert dead.failure is not None
    assert dead.failure.kind is FailureKind.UNKNOWN
    assert dead.failure.message == "the process that built it ended with status 3: out of luck"
    assert hung.failure is not None
    assert hung.failure.message == "building it took longer than 1 s"


def test_prints_of_the_user_stay_out(stub, folder, capfd):
    folder(
        {"loud.py": "import sys, os, torch\nprint('hello')\nos.write(2, b'there')\nclass Net(torch.nn.Module): pass\n"}
    )
    assert build_target("loud.py").spec is not None
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name == "nt", reason="writes a shell script")
def test_an_interpreter_without_torch(folder, tmp_path):
    folder({"net.py": "import torch\n", "python": f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n'})
    (tmp_path / "python").chmod(stat.S_IRWXU)
    target = build_target("net.py:Net", python=str(tmp_path / "python"))
    assert target.failure is not None
    assert target.failure.kind is FailureKind.NO_TORCH
    assert target.failure.message == "No module named 'torch'"


def test_an_interpreter_that_is_not_there(folder):
    folder({"net.py": ""})
    with pytest.raises(UsageError, match="cannot start"):
        build_target("net.py:Net", python="no/such/python")


def test_a_file_that_is_not_there_is_looked_for(folder):
    folder({"src/load.py": ""})
    target = build_target("load.py:Net")
    assert target.failure is not None
    assert target.failure.kind is FailureKind.TARGET_FILE_MISSING
    assert (target.failure.suggestions, target.failure.searched) == (("src/load.py",), 1)


def test_a_json_that_is_no_spec(folder):
    folder({"config.json": '{"a": 1}'})
    with pytest.raises(UsageError, match="not a model specification"):
        build_target("config.json")


def test_arguments_have_to_be_plain(stub):
    with pytest.raises(UsageError, match="cannot be passed"):
        build_target("net.py:Net", init={"layer": object()})


def test_cached_answers(stub, folder, monkeypatch):
    said: list[str] = []
    build_target("net.py:Net", announce=said.append)
    build_target("net.py:Net", announce=said.append)
    assert len(said) == 1
    build_target("net.py:Net", strict=True, announce=said.append)
    assert len(said) == 2
    for entry in (spec_cache.cache_folder() / "specs").iterdir():
        entry.write_text("{broken")
    assert build_target("net.py:Net", announce=said.append).spec is not None
    assert len(said) == 3
    folder({"torch_helper.py": ""})  # something new that an import could find
    build_target("net.py:Net", announce=said.append)
    assert len(said) == 4
    build_target("net.py:Net", announce=said.append, cache=False)
    assert len(said) == 5


def test_a_cache_that_cannot_be_written(stub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RELIGHT_CACHE_DIR", str(tmp_path / "file" / "sub"))
    assert build_target("net.py:Net").spec is not None


def test_failures_are_not_kept(stub, folder):
    folder({"later.py": "import torch\nfrom not_yet import Net\n"})
    failure = build_target("later.py:Net").failure
    assert failure is not None
    assert failure.kind is FailureKind.MODULE_NOT_FOUND
    folder({"not_yet.py": "import torch\nclass Net(torch.nn.Module): pass\n"})
    assert build_target("later.py:Net").spec is not None


def test_discover_puts_first_what_the_keys_begin_with(folder):
    source = (
        "import lightning as L\n"
        "class Base(L.LightningModule):\n    def setup_it(self): self.encoder = 1\n"
        "class Other(L.LightningModule):\n    def __init__(self): self.body, self.head = 1, 2\n"
        "class Net(Base):\n    def __init__(self): self.head = 1\n"
    )
    folder({"a/models.py": source})
    assert discover("a", ["module.encoder.0.weight", "module.head.weight"])[0].endswith("models.py:Net")
    assert discover("a", ["body.weight", "head.weight"])[0].endswith("models.py:Other")
    assert discover("a")[0].endswith("models.py:Base")


def test_discover(folder):
    folder({"a/models.py": "import lightning as L\nclass Net(L.LightningModule): pass\n"})
    assert discover() == ["a/models.py:Net"]
    assert discover("a") == [os.path.join("a", "models.py:Net")]
