"""Several programs for one file: each goes on from the copy that the one before wrote."""

from __future__ import annotations

from pathlib import Path

from relight.engine.diagnose import diagnose
from relight.rulekit import File, Fires, Model
from relight.rulekit.registry import all_rules
from relight.testing import facts_of


def test_the_second_program_reads_what_the_first_one_wrote(tmp_path: Path) -> None:
    example = Fires(
        name="a wrapper, and a layer that is gone",
        file=File(tensors={"module.net.weight": (2, 3), "module.net.bias": (2,), "old.weight": (5, 5)}),
        model=Model(params={"net.weight": (2, 3), "net.bias": (2,)}),
    )
    report = diagnose(facts_of(example, tmp_path), all_rules())
    assert [f.name for f in report.findings] == ["layer-removed", "wrapper-prefix"] or [
        f.name for f in report.findings
    ] == ["wrapper-prefix", "layer-removed"]
    first, second = (next(x.code for x in f.fixes if x.code and "torch.save" in x.code) for f in report.findings)
    assert first is not None
    assert second is not None
    assert 'model.ckpt", map_location' in first
    assert 'model.fixed.ckpt", map_location' in second
    assert first.splitlines()[-1] == second.splitlines()[-1]


def test_one_program_reads_the_file(tmp_path: Path) -> None:
    example = Fires(
        name="one layer that is gone",
        file=File(tensors={"net.weight": (2, 3), "old.weight": (5, 5)}),
        model=Model(params={"net.weight": (2, 3)}),
    )
    (finding,) = diagnose(facts_of(example, tmp_path), all_rules()).findings
    assert "fixed.ckpt" not in (finding.fixes[0].code or "").splitlines()[1]
