"""A file of any version that ``relight fix --for resume`` wrote is resumed where its training stood, with its moments.

The whole corpus, and other versions of Lightning, are asked by ``make oracle``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import check_resume  # noqa: E402


def test_files_of_all_versions(tmp_path):
    corpus = ROOT / "tests" / "corpus"
    work = check_resume.jobs(corpus)
    assert {j["written_by"].rpartition(".")[0] for j in work} >= {"0.7", "0.9", "1.0", "1.5", "1.8", "2.0", "2.6"}
    versions, rows = check_resume.compared(work, sys.executable, corpus / "sources", tmp_path)
    assert [(r["name"], r["after"]) for r in rows if r["after"]] == []
    assert versions["lightning"]
    before = {r["name"]: r["before"] for r in rows}
    assert before["E15/full"] == "epoch 0, step 9 instead of 2, 8"
    assert before["E18/gan"] == "epoch 2, step 0 instead of 2, 16"
    assert before["E26/gan"] == ""
