"""What the rule on hparams_file says happens, and where it is silent nothing does."""

from __future__ import annotations

import pytest
from real_models import attempt, import_file

from relight.rulekit import Fires
from relight.rulekit.registry import rule_named
from relight.testing import facts_of

SOURCE = """
import pytorch_lightning as pl
from torch import nn


class MyModel(pl.LightningModule):
    def __init__(self, **kwargs):
        super().__init__()
        self.net = nn.Linear(3, 2)
"""
RULE = rule_named("RL513")
EXAMPLES = [e for e in RULE.examples if e.hparams_file is not None and e.intent.call.value == "load"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_hparams_file(example, folder):
    facts = facts_of(example, folder)
    (folder / "models.py").write_text(SOURCE)
    cls = import_file(folder / "models.py").MyModel
    real = attempt(cls.load_from_checkpoint, folder / "model.ckpt", hparams_file=facts.question.hparams_file)
    found = list(RULE().check(facts))
    assert bool(found) is isinstance(example, Fires)
    assert real.agrees_with(found[0].predicts if found else None), str(real)
