"""Why a path leads to no file, and what may have been meant."""

from __future__ import annotations

import os

_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
# Source: pytorch_lightning 2.6, trainer/connectors/checkpoint_connector.py: _parse_ckpt_path.
_WORDS = ("best", "last", "hpc", "registry")
_COMPARED, _SHOWN = 1000, 3


def why_missing(path: str) -> str:
    """In words, on one line."""
    if not path:
        return "the path is empty"
    if path in _WORDS:
        return f"there is no such file; {path!r} is a word for a Trainer, which looks for the file itself"
    if os.path.islink(path):
        return f"it is a link to {os.readlink(path)!r}, and nothing is there"
    folder, name = os.path.split(path)
    if folder and not os.path.isdir(folder):
        return "there is no such folder"
    near = _near(folder, name)
    if not near:
        return "there is no such file"
    where = "that folder" if folder else "this folder"
    return f"there is no such file; {where} has {', '.join(near)}"


def _near(folder: str, name: str) -> list[str]:
    """Checkpoints that lie where the file was looked for, those with the most similar names first."""
    try:
        # Names that a terminal would not show as they are stay out.
        names = [n for n in os.listdir(folder or ".") if n.endswith(_SUFFIXES) and n.isprintable()][:_COMPARED]
    except OSError:
        return []
    import difflib

    names = [n for n in names if os.path.isfile(os.path.join(folder, n))]
    names.sort(key=lambda n: (-difflib.SequenceMatcher(None, name, n).ratio(), n))
    return names[:_SHOWN]
