from __future__ import annotations

from pathlib import Path

from relight.reader import open_checkpoint
from relight.rulekit import File
from relight.testing import write


def test_a_notebook_shows_keys_and_escapes_them(tmp_path: Path) -> None:
    path = write(
        File(tensors={"<img src=x>": (2,), **{f"layer{i}.weight": (1,) for i in range(40)}}), tmp_path / "m.ckpt"
    )
    html = open_checkpoint(path)._repr_html_()
    assert "&lt;img src=x&gt;" in html
    assert "<img" not in html
    assert "... 11 more tensors" in html


def test_repr_is_one_short_line(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(File(), tmp_path / "m.ckpt"))
    assert repr(checkpoint).startswith("Checkpoint(")
    assert "2 tensors, 0 problems" in repr(checkpoint)
