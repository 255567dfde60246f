"""Code that leaves keys out: run, it leaves out just those."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.core.finding import FixKind
from relight.engine.diagnose import diagnose
from relight.facts import snippets
from relight.rulekit import File, Fires, Model
from relight.rulekit.registry import all_rules
from relight.testing import facts_of

_KEYS = st.lists(st.sampled_from(["a", "b", "ab", "a1"]), min_size=1, max_size=3).map(".".join)


def left_by(code, keys):
    """The keys that a program leaves, with the two calls of torch taken out."""
    lines = [s for s in code.splitlines() if "torch" not in s]
    namespace = {"ckpt": {"state_dict": dict.fromkeys(keys, 0)}}
    exec("\n".join(lines), namespace)
    return list(namespace["ckpt"]["state_dict"])


@given(keys=st.lists(_KEYS, min_size=1, max_size=12, unique=True), data=st.data())
def test_just_those_are_left_out(keys, data, tmp_path_factory):
    # No key of a state_dict lies below another one: a name is a module or a tensor.
    keys = [k for k in keys if not any(o.startswith(f"{k}.") for o in keys)]
    if not keys:
        return
    dropped = data.draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
    example = Fires(name="x", file=File(tensors=dict.fromkeys(keys, (1,))))
    facts = facts_of(example, tmp_path_factory.mktemp("x"))
    assert left_by(snippets.drop_keys(facts, dropped), keys) == [k for k in keys if k not in dropped]


@pytest.mark.parametrize("beside", [{}, {"pos": (1,), "pos_embed": (1,)}])
def test_layers_are_said_by_their_prefixes(beside, tmp_path):
    file = {f"layers.{i}.{n}": (4,) for i in range(30) for n in ("weight", "bias")} | beside
    model = {k: v for k, v in file.items() if k == "pos_embed" or k.startswith(("layers.0.", "layers.1."))}
    facts = facts_of(Fires(name="x", file=File(tensors=file), model=Model(params=model)), tmp_path)
    report = diagnose(facts, all_rules())
    code = next(f.code for e in report.findings for f in e.fixes if f.kind is FixKind.FILE)
    assert sorted(left_by(code, file)) == sorted(model)
    assert max(len(s) for s in code.splitlines() if str(tmp_path) not in s) <= 110
