"""States that real optimizers of torch wrote, joined, cut and moved, and what the real optimizers then do with them."""

from __future__ import annotations

import copy

import pytest

from relight.core.edits import ConvertTensors, Plan, RenameKeys
from relight.core.target import GroupSpec, ModelSpec, OptimizerSpec, ParamSpec, TrainingSpec
from relight.facts.optimizers import arrange
from relight.reader import open_checkpoint
from relight.repair.rewriter import digest_of, rewrite

torch = pytest.importorskip("torch")
WHOLE = ConvertTensors((("qk.weight", ("q.weight", "k.weight"), "concat:0", (6, 3)),))
PIECES = ConvertTensors((
    ("q.weight", ("qk.weight",), "slice:0:0:3", (3, 3)),
    ("k.weight", ("qk.weight",), "slice:0:3:6", (3, 3)),
))  # fmt: skip


def parameters(*names):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 3, generator=generator)
    values = {"qk.weight": whole, "q.weight": whole[:3], "k.weight": whole[3:], "b.weight": torch.ones(2, 3)}
    return {n: torch.nn.Parameter(values[n].clone()) for n in names}


def steps(params, optimizer, count, skip=()):
    """Steps towards targets of their own; ``skip`` are those without a gradient."""
    for _ in range(count):
        for n, p in params.items():
            p.grad = None if n in skip else (p.detach() * 3 + 1)
        optimizer.step(lambda: 0.0) if isinstance(optimizer, torch.optim.LBFGS) else optimizer.step()


def saved(folder, params, optimizer):
    """As Lightning saves them, beside the names that the parameters have."""
    root = {"state_dict": {n: p.detach() for n, p in params.items()}, "optimizer_states": [optimizer.state_dict()]}
    torch.save(
        {**root, "epoch": 0, "global_step": 3, "pytorch-lightning_version": "2.6.6", "lr_schedulers": []},
        folder / "m.ckpt",
    )
    return folder / "m.ckpt"


def spec(params, optimizer):
    group = optimizer.param_groups[0]
    others = tuple(k for k in group if k != "params")
    made = OptimizerSpec(f"torch.optim.{type(optimizer).__name__}", (GroupSpec(tuple(params), {}, others),))
    entries = tuple(
        ParamSpec(n, "float32", tuple(p.shape), "parameter", True, (), "strided") for n, p in params.items()
    )
    return ModelSpec(class_name="M", class_path="m:M", params=entries, training=TrainingSpec(optimizers=(made,)))


def planned(path, *edits):
    return Plan(source=str(path), digest=digest_of(str(path)), edits=edits, chosen=(), rejected=())


MAKE = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    ("before", "now", "edit"),
    [
        (["b.weight", "q.weight", "k.weight"], ["qk.weight", "b.weight"], WHOLE),
        (["qk.weight", "b.weight"], ["q.weight", "b.weight", "k.weight"], PIECES),
    ],
    ids=["joined", "cut"],
)
def test_they_go_on_as_they_would_have(name, before, now, edit, tmp_path):
    then = parameters(*before)
    old = MAKE[name](then.values())
    steps(then, old, 3)
    path = saved(tmp_path, then, old)
    assert arrange(open_checkpoint(path), spec(then, old), ()).kind == ""
    model = parameters(*now)
    new = MAKE[name](model.values())
    found = arrange(open_checkpoint(path), spec(model, new), (edit,))
    assert found.refused == ""
    rewrite(planned(path, edit, *found.edits), str(path), str(tmp_path / "c.ckpt"))
    root = torch.load(tmp_path / "c.ckpt", weights_only=True)
    with torch.no_grad():
        for key, p in model.items():
            p.copy_(root["state_dict"][key])
    new.load_state_dict(root["optimizer_states"][0])
    steps(then, old, 5)
    steps(model, new, 5)
    joined = {n: p.detach() for n, p in (*then.items(), *model.items())}
    assert torch.equal(torch.cat([joined["q.weight"], joined["k.weight"]]), joined["qk.weight"])
    assert torch.equal(then["b.weight"], model["b.weight"])


def refused(folder, make, before, now, edits=(), skip=(), more=0):
    """Why there is no arrangement: after three steps of all, and some more without those in ``skip``."""
    then = parameters(*before)
    old = make(then.values())
    steps(then, old, 3 if not skip or more else 0)
    if skip:
        steps(then, old, more or 3, skip)
    path = saved(folder, then, old)
    model = parameters(*now)
    return arrange(open_checkpoint(path), spec(model, make(model.values())), edits)


JOIN = (["b.weight", "q.weight", "k.weight"], ["qk.weight", "b.weight"], (WHOLE,))


@pytest.mark.parametrize(
    ("make", "skip", "more", "said"),
    [
        (MAKE["Adam"], ("k.weight",), 2, "step of their states differs: 5 and 3"),
        (MAKE["Adam"], ("k.weight",), 0, "k.weight has no state"),
        (MAKE["SGD"], ("k.weight",), 0, "k.weight has no state"),
        (lambda p: torch.optim.Adafactor(p), (), 0, "is not kept value by value"),
    ],
)
def test_parts_of_another_training_are_not_joined(make, skip, more, said, tmp_path):
    found = refused(tmp_path, make, *JOIN, skip=skip, more=more)
    assert said in found.refused
    assert (found.edits, found.kind) == ((), "sizes")


def test_momentum_of_some_is_not_momentum_of_all(tmp_path):
    then = parameters("b.weight", "q.weight", "k.weight")
    old = MAKE["SGD"](then.values())
    steps(then, old, 3)
    old.state[then["k.weight"]]["momentum_buffer"] = None
    model = parameters("qk.weight", "b.weight")
    found = arrange(open_checkpoint(saved(tmp_path, then, old)), spec(model, MAKE["SGD"](model.values())), (WHOLE,))
    assert "not all of them have momentum_buffer" in found.refused


def test_one_state_over_all_parameters_is_not_moved(tmp_path):
    make = torch.optim.LBFGS
    assert refused(tmp_path, make, ["q.weight", "k.weight"], ["q.weight", "k.weight"]).kind == ""
    found = refused(tmp_path, make, ["q.weight", "k.weight"], ["k.weight", "q.weight"])
    assert (found.kind, found.edits) == ("order", ())
    assert "one vector over all parameters" in found.refused


def test_states_of_other_shapes_move_whole(tmp_path):
    then = parameters("b.weight", "q.weight")
    old = torch.optim.Adafactor(then.values())
    steps(then, old, 3)
    path = saved(tmp_path, then, old)
    model = parameters("q.weight", "b.weight")
    new = torch.optim.Adafactor(model.values())
    found = arrange(open_checkpoint(path), spec(model, new), ())
    assert found.kind == "order"
    rewrite(planned(path, *found.edits), str(path), str(tmp_path / "c.ckpt"))
    new.load_state_dict(torch.load(tmp_path / "c.ckpt", weights_only=True)["optimizer_states"][0])
    for name in then:
        before, now = old.state[then[name]], new.state[model[name]]
        assert before.keys() == now.keys()
        assert all(torch.equal(torch.as_tensor(before[k]), torch.as_tensor(now[k])) for k in before)


def test_a_state_is_given_twice_with_memory_of_its_own():
    """What torch itself does with one counter for two: it counts twice."""
    then = parameters("q.weight", "k.weight")
    old = MAKE["Adam"](then.values())
    steps(then, old, 1)
    state = copy.deepcopy(old.state_dict())
    state["state"][1]["step"] = state["state"][0]["step"]
    old.load_state_dict(state)
    steps(then, old, 1)
    assert old.state[then["q.weight"]]["step"].item() == 3


@pytest.mark.parametrize("now", [["b.weight", "q.weight"], ["q.weight", "b.weight"]])
def test_states_by_name_follow_the_names(now, tmp_path):
    """As sharded strategies keep them; torch itself gives them out by position all the same."""
    then = parameters("b.weight", "q.weight")
    old = MAKE["Adam"](then.values())
    steps(then, old, 3)
    path = saved(tmp_path, then, old)
    root = torch.load(path, weights_only=True)
    (states,) = root["optimizer_states"]
    names = list(then)
    states["state"] = {names[i]: s for i, s in states["state"].items()}
    states["param_groups"][0]["params"] = names
    torch.save(root, path)
    renamed = RenameKeys((("q.weight", "k.weight"),))
    model = parameters(*("k.weight" if n == "q.weight" else n for n in now))
    new = MAKE["Adam"](model.values())
    found = arrange(open_checkpoint(path), spec(model, new), (renamed,))
    assert found.kind == ("" if now == names else "shapes")
    rewrite(planned(path, renamed, *found.edits), str(path), str(tmp_path / "c.ckpt"))
    (states,) = torch.load(tmp_path / "c.ckpt", weights_only=True)["optimizer_states"]
    assert states["param_groups"][0]["params"] == [0, 1]
    new.load_state_dict(states)
    assert torch.equal(new.state[model["k.weight"]]["exp_avg"], old.state[then["q.weight"]]["exp_avg"])
    assert torch.equal(new.state[model["b.weight"]]["exp_avg"], old.state[then["b.weight"]]["exp_avg"])


def test_names_of_a_part_of_the_model_are_no_names_of_the_file(tmp_path):
    """``Adam(self.net.named_parameters())`` stores names without the prefix."""
    then = parameters("b.weight", "q.weight")
    old = torch.optim.Adam([(n.partition(".")[2] + n[0], p) for n, p in then.items()], lr=0.1)
    steps(then, old, 3)
    path = saved(tmp_path, then, old)
    assert arrange(open_checkpoint(path), spec(then, old), ()).kind == ""
    model = parameters("q.weight", "b.weight")
    found = arrange(open_checkpoint(path), spec(model, MAKE["Adam"](model.values())), ())
    assert (found.kind, found.without) == ("shapes", [])
