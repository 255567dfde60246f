"""What the proof compares is what lies on the disk, not what the files say of themselves."""

from __future__ import annotations

import pytest
from repairing import repaired

from relight.core.edits import RenameKeys
from relight.reader import open_checkpoint
from relight.repair import proof
from relight.rulekit import File
from relight.testing import write

RENAME = RenameKeys((("net.weight", "head.weight"),))


@pytest.fixture
def file(tmp_path):
    return write(File(tensors={"net.weight": (70, 30), "net.bias": (3,)}), tmp_path / "model.ckpt")


def spoil(path, key):
    """Change one bit of a tensor's values."""
    checkpoint = open_checkpoint(path)
    storage = checkpoint.storages[next(t.storage_id for t in checkpoint.tensors if t.key == key)]
    data = bytearray(path.read_bytes())
    data[storage.span.start + 1] ^= 4
    path.write_bytes(data)


def untouched(written, path, *, whole=False, progress=None):
    checks = {what: (ok, text) for what, ok, text in proof.compared(written, str(path), whole=whole, progress=progress)}
    return checks["untouched tensors"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_bit_that_differs(file, whole):
    output = file.with_name("out.ckpt")
    written = repaired(file, output, RENAME)
    read = []
    assert untouched(written, file, whole=whole, progress=read.append)[0]
    assert sum(read) == sum(s.nbytes for s in open_checkpoint(file).storages.values())
    spoil(output, "head.weight")
    ok, text = untouched(written, file, whole=whole)
    assert not ok
    assert text.startswith("storage 0 is not what ")


def test_a_large_file_whose_own_checksum_is_wrong(tmp_path):
    """It went bad long ago, where reading it does not look: a copy would hide that."""
    file = write(File(tensors={"net.weight": (3000, 3000)}), tmp_path / "model.ckpt")
    spoil(file, "net.weight")
    assert open_checkpoint(file).problems == ()
    written = repaired(file, file.with_name("out.ckpt"), RENAME)
    assert untouched(written, file)[0] is False
