"""Bound methods of classes are pickled as getattr: Lightning's own files hold some."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader import open_checkpoint
from relight.rulekit import File, Obj, Ref
from relight.testing import write


@pytest.mark.parametrize(
    ("owner", "attribute", "expected"),
    [
        ("torch.optim.swa_utils.SWALR", "_cosine_anneal", Safety.UNKNOWN),  # StochasticWeightAveraging writes this
        ("my_module.Schedule", "linear", Safety.UNKNOWN),
        ("my_module.Schedule", "__globals__", Safety.DANGEROUS),
        ("builtins.object", "__subclasses__", Safety.DANGEROUS),
        ("torch.optim.swa_utils", "load", Safety.DANGEROUS),
    ],
)
def test_getattr(tmp_path: Path, owner: str, attribute: str, expected: Safety) -> None:
    file = File(extra={"lr_schedulers": [{"anneal_func": Obj("builtins.getattr", args=(Ref(owner), attribute))}]})
    assert safety(open_checkpoint(write(file, tmp_path / "m.ckpt"))) is expected
