"""Checkpoints as values, without a file: the child only ever sees what the reader made of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relight.core.checkpoint import Checkpoint, Layout, StreamFacts
from relight.core.objects import Call, DictNode, Global, ListNode, ObjectPath, Persistent, SetNode, Value


class Raw:
    """A symbolic value inside plain data."""

    def __init__(self, value: Value) -> None:
        self.value = value


def named(full_name: str) -> Global:
    module, _, name = full_name.rpartition(".")
    return Global(module, name, 0)


def symbolic(value: object) -> Value:
    if isinstance(value, Raw):
        return value.value
    if isinstance(value, dict):
        return DictNode([(symbolic(k), symbolic(v)) for k, v in value.items()])
    if isinstance(value, list):
        return ListNode([symbolic(v) for v in value])
    if isinstance(value, set):
        return SetNode([symbolic(v) for v in value])
    if isinstance(value, tuple):
        return tuple(symbolic(v) for v in value)
    return value  # type: ignore[return-value]


def call(full_name: str, *args: object, how: str = "reduce", state: object = None) -> Raw:
    node = Call(named(full_name), tuple(symbolic(a) for a in args), how, 0)
    if state is not None:
        node.state, node.has_state = symbolic(state), True
    return Raw(node)


def tensor(*shape: int, storage: str = "FloatStorage") -> Raw:
    size = 1
    for n in shape:
        size *= n
    pid = Persistent(("storage", named(f"torch.{storage}"), "0", "cpu", size), 0)
    hooks = Call(named("collections.OrderedDict"), (), "reduce", 0)
    return Raw(
        Call(named("torch._utils._rebuild_tensor_v2"), (pid, 0, shape, (1,) * len(shape), False, hooks), "reduce", 0)
    )


def checkpoint_of(root: dict[str, object]) -> Checkpoint:
    return Checkpoint(
        origin="model.ckpt",
        nbytes=0,
        layout=Layout.TORCH_ZIP,
        root=symbolic(root),
        stream=StreamFacts(2, {}, 0),
        state_dict_path=ObjectPath(("state_dict",) if "state_dict" in root else ()),
    )


def lightning_file(
    state_dict: dict[str, object], hparams: dict[str, object] | None = None, **more: object
) -> Checkpoint:
    root: dict[str, object] = {
        "epoch": 1,
        "global_step": 4,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state_dict,
    }
    root.update({"loops": {}, "callbacks": {}, "optimizer_states": [], "lr_schedulers": []})
    if hparams is not None:
        root["hyper_parameters"] = hparams
        root["hparams_name"] = "kwargs"
    root.update(more)
    return checkpoint_of(root)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Work in an empty folder; call it to write files: ``folder({"load.py": "..."})``."""
    monkeypatch.chdir(tmp_path)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write
