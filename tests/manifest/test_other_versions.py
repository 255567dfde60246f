"""Manifests that Lightning 1.9, 2.2 and 2.6 wrote, read by the one that is installed here.

`scripts/check_manifests.py` made the files, and asks the same under each of those versions.
"""

from __future__ import annotations

import shutil

import pytest
from corpus import FOLDER

from relight.api import _replay
from relight.core.target import Intent
from relight.engine.diagnose import diagnose
from relight.facts.facts import Facts
from relight.facts.manifest import manifest_of
from relight.facts.question import Question
from relight.live.capture import TargetRequest, build_targets
from relight.reader import open_checkpoint
from relight.rulekit.registry import all_rules

VERSIONS = ("1.9", "2.2", "2.6")
SAME, CHANGED = "nets_of_versions.py:Net", "changed_nets_of_versions.py:Net"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """(version, target) to the report; one start of torch for all of them."""
    folder = tmp_path_factory.mktemp("manifests")
    source = (FOLDER / "manifests" / "nets.py").read_text()
    (folder / SAME.partition(":")[0]).write_text(source)
    (folder / CHANGED.partition(":")[0]).write_text(source.replace("nn.ReLU()", "nn.GELU()"))
    asked, requests = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for version in VERSIONS:
            path = shutil.copy(FOLDER / "manifests" / f"lightning-{version}.ckpt", folder)
            checkpoint = open_checkpoint(path)
            for target in (SAME, CHANGED):
                question = _replay(checkpoint, True)
                requests.append(TargetRequest(argument=target, checkpoint=checkpoint, replay=question))
                asked.append((version, target, checkpoint))
        out = {}
        for (version, target, checkpoint), built in zip(asked, build_targets(requests, cache=False), strict=True):
            ask = Question(path=checkpoint.origin, target=target, intent=Intent(), class_name="Net", prove=True)
            out[version, target] = diagnose(Facts(checkpoint, ask, built, built.environment), all_rules())
        return out


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_missing(version):
    manifest = manifest_of(open_checkpoint(FOLDER / "manifests" / f"lightning-{version}.ckpt"))
    assert manifest is not None
    assert manifest.omitted == {}
    name = "lightning" if version == "2.6" else "pytorch-lightning"
    assert manifest.packages[name].startswith(version)
    assert len(str(manifest.data)) < 50_000


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_model_answers_as_it_did(reports, version):
    report = reports[version, SAME]
    assert (report.verdict.value, report.findings) == ("loads", ())
    assert any("it answers as it did when this was saved" in note for note in report.notes)


@pytest.mark.parametrize("version", VERSIONS)
def test_another_activation_is_named(reports, version):
    report = reports[version, CHANGED]
    assert report.verdict.value == "loads-wrong"
    assert [(f.name, f.subjects) for f in report.findings] == [
        ("activation-changed", ("blocks.0.act", "blocks.1.act")),
    ]
