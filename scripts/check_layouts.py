"""Compare what convert makes of a corpus's folders with what is known of them: weights, and where it is known all tensors.

Run: ``python scripts/check_layouts.py CORPUS``. Needs neither torch nor the frameworks that wrote the folders. Beside a
folder ``NAME.ckpt`` its facts are looked for: in ``NAME.truth.json``, what the framework's own converter gave, or in
``NAME.ckpt.json``, what torch's gave.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from relight.core.errors import RelightError
from relight.reader import open_checkpoint
from relight.repair.converting import convert


def facts(folder: Path) -> tuple[dict[str, dict[str, object]], str]:
    """What is known: tensors by name, each with dtype, shape and the first half of its SHA-256; and where that stands."""
    for name, key in (
        (f"{folder.name.rpartition('.')[0]}.truth.json", "full_state_dict"),
        (f"{folder.name}.json", "consolidated_state_dict"),
    ):
        file = folder.parent / name
        if file.exists():
            known = json.loads(file.read_text()).get(key)
            if known:
                return known, name
    return {}, ""


def wrong(weights: Path, known: dict[str, dict[str, object]]) -> list[str]:
    """Tensors that are not what they should be."""
    found = open_checkpoint(weights)
    data = weights.read_bytes()
    tensors = {t.key: t for t in found.tensors}
    out = sorted(tensors.keys() ^ known.keys())
    for key in tensors.keys() & known.keys():
        t, fact = tensors[key], known[key]
        span = found.storages[key].span
        assert span is not None
        digest = hashlib.sha256(data[span.start : span.end]).hexdigest()
        if (t.dtype, list(t.shape)) != (fact["dtype"], fact["shape"]) or not digest.startswith(
            str(fact["sha256"])[:16]
        ):
            out.append(key)
    return out


def main() -> None:
    """Convert every folder, and count."""
    root = Path(sys.argv[1])
    folders = sorted(p for p in root.glob("checkpoints/*/*") if p.is_dir())
    good = known_folders = 0
    for folder in folders:
        known, where = facts(folder)
        name = folder.relative_to(root / "checkpoints")
        known_folders += bool(known)
        with tempfile.TemporaryDirectory() as scratch:
            weights, whole = Path(scratch, "w.safetensors"), Path(scratch, "whole.ckpt")
            try:
                convert(str(folder), str(weights), rest=False)
                done = convert(str(folder), str(whole))
            except RelightError as error:
                print(f"{name}: {error}")
                continue
            bad = wrong(weights, known)
            good += bool(known) and not bad
            verdict = "no truth known" if not known else f"differs: {', '.join(bad[:5])}" if bad else f"as in {where}"
            print(
                f"{name}: {len(open_checkpoint(weights).tensors)} tensors, {verdict}; {dict(done.left_out) or 'all of it'}"
            )
    print(f"{good} of {known_folders} folders: weights equal to their truth")
    if good < known_folders or not known_folders:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
