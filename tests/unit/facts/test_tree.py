from __future__ import annotations

from relight.core.checkpoint import TensorEntry
from relight.core.objects import ObjectPath
from relight.facts.tree import folded, tree


def entries(keys: dict[str, tuple[int, ...]]) -> list[TensorEntry]:
    return [TensorEntry(k, "float32", s, (), 0, None, "cpu", ObjectPath((k,))) for k, s in keys.items()]


def test_equal_numbered_layers_are_one_node() -> None:
    keys = {f"layers.{i}.weight": (2, 2) for i in range(12)}
    (layers,) = folded(tree(entries(keys))).children
    assert [(c.name, c.count) for c in layers.children] == [("0-11", 12)]
    assert layers.totals() == (12, 48)


def test_a_layer_of_another_shape_breaks_the_run() -> None:
    keys = {f"layers.{i}.weight": (2, 2) for i in range(6)} | {"layers.3.weight": (2, 3)}
    (layers,) = folded(tree(entries(keys))).children
    assert [c.name for c in layers.children] == ["0-2", "3", "4-5"]


def test_numbers_with_a_gap_are_no_run() -> None:
    (net,) = folded(tree(entries({"net.0.weight": (2,), "net.2.weight": (2,)}))).children
    assert [c.name for c in net.children] == ["0", "2"]


def test_names_are_not_folded() -> None:
    root = folded(tree(entries({"a.weight": (2,), "b.weight": (2,)})))
    assert [c.name for c in root.children] == ["a", "b"]


def test_a_key_of_many_steps_does_not_recurse() -> None:
    deep = ".".join("a" for _ in range(20_000))
    root = folded(tree(entries({deep: (2,), "b.weight": (3,)})))
    assert root.totals() == (2, 5)
