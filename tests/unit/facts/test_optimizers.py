"""Which parameter a state of an optimizer belongs to, and what gives it to it."""

from __future__ import annotations

import pytest

from relight.core.edits import (
    AddNames,
    ArrangeOptimizer,
    ComputeTensors,
    ConvertTensors,
    DropKeys,
    OrderKeys,
    RenameKeys,
)
from relight.core.target import GroupSpec, ModelSpec, OptimizerSpec, ParamSpec, TrainingSpec
from relight.facts.optimizers import arrange
from relight.reader import open_checkpoint
from relight.rulekit import File, Tensor
from relight.testing import write


def file(folder, tensors, moments, sizes=None):
    """A file whose Adam has moments of these shapes, in groups of these sizes."""
    groups, at = [], 0
    for size in sizes or [len(moments)]:
        options = {"lr": 0.1, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0}
        groups.append({**options, "params": list(range(at, at + size))})
        at += size
    state = {i: {"step": 3, "exp_avg": Tensor(s), "exp_avg_sq": Tensor(s)} for i, s in enumerate(moments)}
    extra = {"optimizer_states": [{"state": state, "param_groups": groups}], "lr_schedulers": []}
    return open_checkpoint(write(File(tensors=tensors, extra=extra), folder / "model.ckpt"))


def spec(params, *groups):
    made = OptimizerSpec("torch.optim.adam.Adam", tuple(GroupSpec(tuple(g), {"lr": 0.1}, ("betas",)) for g in groups))
    entries = tuple(ParamSpec(k, "float32", s, "parameter", True, (), "strided") for k, s in params.items())
    return ModelSpec(class_name="M", class_path="m:M", params=entries, training=TrainingSpec(optimizers=(made,)))


THREE = {"a": (2, 3), "b": (4,), "c": (2, 3)}


def test_the_same_order_needs_nothing(tmp_path):
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(THREE, THREE), ())
    assert (found.kind, found.edits) == ("", ())


def test_names_that_change_alone_need_nothing(tmp_path):
    now = {"x": (2, 3), "b": (4,), "c": (2, 3)}
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(now, now), (RenameKeys((("a", "x"),)),))
    assert (found.kind, found.edits) == ("", ())


def test_modules_that_changed_places_take_their_states_along(tmp_path):
    now = {"c": (2, 3), "b": (4,), "a": (2, 3)}
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(now, now), ())
    assert found.kind == "order"
    groups = ((((2,), "copy", (2, 3)), ((1,), "copy", (4,)), ((0,), "copy", (2, 3))),)
    # A copy is in the order of the model, too: whoever looks at it tells by that which state is whose.
    assert found.edits == (ArrangeOptimizer(0, groups), OrderKeys(("c", "b", "a")))


def test_a_new_parameter_starts_without_and_a_lost_one_is_told(tmp_path):
    now = {"a": (2, 3), "new": (5,), "c": (2, 3)}
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(now, now), ())
    assert found.names_first  # "b" could be what "new" is called now
    added = {"a": (2, 3), "b": (4,), "new": (5,), "c": (2, 3)}
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(added, added), ())
    assert (found.kind, found.without, found.left) == ("sizes", ["new"], [])
    removed = {"a": (2, 3), "c": (2, 3)}
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(removed, removed), ())
    assert (found.kind, found.without, found.left) == ("sizes", [], ["b"])


def test_joined_parameters_join_their_moments(tmp_path):
    now = {"ac": (4, 3), "b": (4,)}
    edits = (ConvertTensors((("ac", ("a", "c"), "concat:0", (4, 3)),)),)
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(now, now), edits)
    assert found.edits == (ArrangeOptimizer(0, ((((0, 2), "concat:0", (4, 3)), ((1,), "copy", (4,))),)),)


def test_parameters_that_were_frozen_are_told_by_the_shapes_of_the_moments(tmp_path):
    found = arrange(file(tmp_path, THREE, [(4,), (2, 3)]), spec(THREE, THREE), ())
    assert (found.kind, found.without) == ("sizes", ["a"])


@pytest.mark.parametrize("moments", [[(2, 3)], [(9,), (9,)]])
def test_several_readings_or_none_are_refused(tmp_path, moments):
    found = arrange(file(tmp_path, THREE, moments), spec(THREE, THREE), ())
    assert (found.kind, found.edits) == ("sizes", ())
    assert "cannot be told" in found.refused


def test_groups_keep_their_own(tmp_path):
    checkpoint = file(tmp_path, THREE, [(2, 3), (2, 3), (4,)], [2, 1])
    found = arrange(checkpoint, spec(THREE, ["a", "c"], ["b"]), ())
    assert (found.kind, found.edits) == ("", ())
    assert arrange(checkpoint, spec(THREE, ["a", "b", "c"]), ()).kind == "groups"


def test_a_tensor_under_a_name_that_means_another_layer_now_is_not_lost(tmp_path):
    # "b" is what "c" was called, and the model has another "b": the state of "b" is that of "c".
    before, now = {"a": (2, 3), "b": (4,)}, {"a": (2, 3), "b": (2, 3), "c": (4,)}
    found = arrange(file(tmp_path, before, before.values()), spec(now, now), ())
    assert (found.names_first, found.edits) == (True, ())
    told = arrange(file(tmp_path, before, before.values()), spec(now, now), (RenameKeys((("b", "c"),)),))
    assert (told.kind, told.without, told.left, told.waits) == ("sizes", ["b"], [], False)
    assert told.edits == (ArrangeOptimizer(0, ((((0,), "copy", (2, 3)), ((), "copy", ()), ((1,), "copy", (4,))),)),)


def test_lazy_parameters_keep_their_states(tmp_path):
    now = {"a": None, "b": (4,), "c": None}
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(now, now), ())
    assert (found.kind, found.edits) == ("", ())


def test_states_wait_for_tensors_that_nobody_has_settled(tmp_path):
    checkpoint, wider, fewer = file(tmp_path, THREE, THREE.values()), {**THREE, "b": (5,)}, {"a": (2, 3), "c": (2, 3)}
    assert arrange(checkpoint, spec(wider, wider), ()).waits
    assert not arrange(checkpoint, spec(wider, wider), (DropKeys(("b",)),)).waits
    assert arrange(checkpoint, spec(fewer, fewer), ()).waits
    assert not arrange(checkpoint, spec(fewer, fewer), (DropKeys(("b",)),)).waits
    assert not arrange(checkpoint, spec(THREE, ["a", "c"]), ()).waits  # it is frozen, and still there


def test_a_tensor_of_another_size_keeps_its_state_until_that_is_settled(tmp_path):
    now = {"a": (2, 3), "b": (7,), "c": (2, 3)}
    found = arrange(file(tmp_path, THREE, THREE.values()), spec(now, now), ())
    assert (found.names_first, found.edits) == (True, ()), "the shapes are what is wrong, and nothing moves"


def ordered(found):
    return [e.keys for e in found.edits if isinstance(e, OrderKeys)]


def test_the_order_of_a_copy_is_changed_only_where_the_other_edits_do_not_leave_that_of_the_model(tmp_path):
    checkpoint = file(tmp_path, THREE, THREE.values())
    new = {"a": (2, 3), "new": (2, 3), "b": (4,), "c": (2, 3)}
    added = (ComputeTensors((("new", (), "uniform:3", (2, 3), "float32"),)),)
    assert ordered(arrange(checkpoint, spec(new, new), ())) == [], "a layer that stays out of the file is in no order"
    assert ordered(arrange(checkpoint, spec(new, new), added)) == [tuple(new)], "what is made comes last"
    last = {**THREE, "new": (2, 3)}
    assert ordered(arrange(checkpoint, spec(last, last), added)) == []
    joined = (ConvertTensors((("ac", ("a", "c"), "concat:0", (4, 3)),)),)
    for now, order in (({"ac": (4, 3), "b": (4,)}, []), ({"b": (4,), "ac": (4, 3)}, [("b", "ac")])):
        assert ordered(arrange(checkpoint, spec(now, now), joined)) == order
    for first, second, order in (("p", "q", []), ("q", "p", [("q", "p", "b", "c")])):
        cut = {first: (1, 3), second: (1, 3), "b": (4,), "c": (2, 3)}
        pieces = (ConvertTensors((("p", ("a",), "split:0:0:2", (1, 3)), ("q", ("a",), "split:0:1:2", (1, 3)))),)
        found = arrange(checkpoint, spec(cut, cut), pieces)
        assert (found.kind, ordered(found)) == ("sizes", order)
    named = (AddNames((("a", "x"),)),)
    fewer = {"x": (2, 3), "c": (2, 3)}
    assert ordered(arrange(checkpoint, spec(fewer, ["c"]), (*named, DropKeys(("b",))))) == [("x", "c")]
