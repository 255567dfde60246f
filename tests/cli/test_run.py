"""``relight run``: a program is what it is without it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """\
import atexit, pickle, sys
print(__name__, __file__, __spec__ and __spec__.name, __package__, __doc__, sorted(k for k in globals() if not k.startswith("__")))
print(sys.argv, sys.path[0] == HERE, sys.modules["__main__"].__dict__ is globals(), sys.flags.dev_mode)
class Own: pass
print(type(pickle.loads(pickle.dumps(Own()))) is Own, pickle.dumps(Own))
print(sys.stdin.read(), file=sys.stderr)
atexit.register(lambda: print("at exit", Own))
"""
ENDS = {
    "nothing": "",
    "a status": "sys.exit(3)",
    "words": "sys.exit('no more')",
    "an error": "def f():\n    raise ValueError('mine')\nf()",
    "an error from another": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('mine') from e",
    "a hook of its own": "sys.excepthook = lambda *a: print('hooked', a[0], a[2].tb_frame.f_code.co_name)\nraise ValueError",
    "an interrupt": "raise KeyboardInterrupt",
    "a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "no program": "def (",
    "an error of reading": "open('gone.ckpt')",
}


def run(folder, *command):
    return subprocess.run(
        [sys.executable, "-X", "dev", *command], cwd=folder, input=b"typed", capture_output=True, timeout=100
    )


def outcome(done):
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("end", ENDS)
def test_a_program_is_left_alone(tmp_path, end):
    (tmp_path / "sub").mkdir()
    text = PROGRAM.replace("HERE", repr(str(tmp_path / "sub"))) + ENDS[end]
    (tmp_path / "sub" / "program.py").write_text(text)
    arguments = ["sub/program.py", "-h", "--version", "a b", "--", "-m"]
    assert outcome(run(tmp_path, "-m", "relight", "run", *arguments)) == outcome(run(tmp_path, *arguments))


def test_a_module_is_left_alone(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "tool.py").write_text(
        PROGRAM.replace("HERE", repr(str(tmp_path))) + "raise ValueError('mine')"
    )
    ours = run(tmp_path, "-m", "relight", "run", "-m", "pack.tool", "-h")
    assert outcome(ours) == outcome(run(tmp_path, "-m", "pack.tool", "-h"))
    assert ours.returncode == 1


def test_no_such_program(tmp_path):
    done = run(tmp_path, "-m", "relight", "run", "gone.py")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"cannot run gone.py: there is no such file" in done.stderr


def test_what_fails_without_torch(tmp_path):
    """A library of this name that is not torch: the frames are what counts, and nothing else is needed."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "serialization.py").write_text(
        "def load(f, weights_only=None):\n    raise OSError('broken')\n"
    )
    (tmp_path / "model.ckpt").write_bytes(b"<html>not found</html>")
    (tmp_path / "program.py").write_text("from torch.serialization import load\nload('model.ckpt')\n")
    done = run(tmp_path, "-m", "relight", "run", "program.py")
    assert done.returncode == 1
    traceback, _, said = done.stderr.decode().partition("OSError: broken\n\n")
    assert traceback.splitlines()[1].strip().startswith('File "')
    assert "run_script" not in traceback
    assert said.startswith("model.ckpt: will not load with a plain torch.load\n\nerror: this is a web page (HTML)")
    os.remove(tmp_path / "model.ckpt")
    said = run(tmp_path, "-m", "relight", "run", "program.py").stderr.decode().rpartition("OSError: broken\n\n")[2]
    assert said.startswith("relight: cannot read model.ckpt")
