from __future__ import annotations

import time
from pathlib import Path

import pytest

from relight.reader.source_tree import ClassLocation, SourceTree, enum_values, module_names


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    write(
        tmp_path,
        {
            "load.py": "import pytorch_lightning as pl\n\nclass MyModel(pl.LightningModule):\n    pass\n",
            "lib/base.py": "from lightning import LightningModule as LM\nclass Base(LM, metaclass=type): ...\n",
            "lib/net.py": "from lib import base\nif True:\n    class Net(\n        base.Base,\n    ):\n        pass\n"
            "class Other(dict): pass\n",
            "lib/generic.py": "from lightning import LightningModule\nclass G(LightningModule[int]): pass\n",
            "text.py": 'DOC = """\nclass Fake(pl.LightningModule):\n"""\n',
            "broken.py": "class Half(LightningModule:\n",
            "training/my_custom_module.py": "import os\nclass MyCustomLayer:\n    def MyCustomLayer(self): ...\n",
            "my_custom_module/__init__.py": "async def MyCustomLayer(): ...\n",
            ".hidden/a.py": "class MyModel(LightningModule): pass\n",
            "venv/a.py": "class MyModel(LightningModule): pass\n",
            "myenv/pyvenv.cfg": "",
            "myenv/a.py": "class MyModel(LightningModule): pass\n",
            "x/site-packages/a.py": "class MyModel(LightningModule): pass\n",
            "huge.py": "class Huge(LightningModule): pass\n" + "#" * (1 << 20),
        },
    )
    return SourceTree(tmp_path)


def test_lightning_modules_are_found_through_their_bases(tree):
    assert tree.lightning_modules() == [
        ClassLocation("Base", "lib/base.py", 2),
        ClassLocation("G", "lib/generic.py", 2),
        ClassLocation("Net", "lib/net.py", 3),
        ClassLocation("MyModel", "load.py", 3),
    ]


def test_what_is_not_the_users_is_not_read(tree):
    assert tree.files_parsed == 8
    assert not tree.truncated


def test_places_of_a_class_or_function(tree):
    assert [str(c) for c in tree.classes_named("MyCustomLayer")] == [
        "my_custom_module/__init__.py:1",
        "training/my_custom_module.py:2",
    ]
    assert [c.module for c in tree.classes_named("MyCustomLayer")] == ["my_custom_module", "training.my_custom_module"]
    assert tree.classes_named("Nothing") == []
    assert tree.classes_named("(") == []


def test_places_of_a_module(tree):
    assert tree.modules_named("my_custom_module") == ["my_custom_module/__init__.py", "training/my_custom_module.py"]
    assert tree.modules_named("lib.base") == ["lib/base.py"]
    assert tree.modules_named("ib.base") == []


def test_a_limit_is_said(tmp_path):
    write(tmp_path, {f"m{i}.py": "" for i in range(5)})
    tree = SourceTree(tmp_path, limit=3)
    assert (tree.files_parsed, tree.truncated) == (3, True)


def test_a_large_project_is_read_quickly(tmp_path):
    text = "import os\n\n\nclass Thing(object):\n    def run(self):\n        return os.name\n\n" * 20
    write(tmp_path, {f"package{i % 40}/module{i}.py": text for i in range(2000)})
    write(tmp_path, {"model.py": "class Net(LightningModule): pass\n"})
    start = time.process_time()
    assert [c.name for c in SourceTree(tmp_path).lightning_modules()] == ["Net"]
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "source, names",
    [
        ("import os.path as p, sys\nfrom a import b as c, d", {"p", "sys", "c", "d"}),
        ("def f(): x = 1\nclass C: y = 2\nasync def g(): ...", {"f", "C", "g"}),
        ("a = b = 1\n(c, [d, *e]) = 1, [2]\nf: int = 3\ng: int\nh += 1", {"a", "b", "c", "d", "e", "f", "h"}),
        ("if x:\n    a = 1\nelif y:\n    b = 2\nelse:\n    c = 3", {"a", "b", "c"}),
        (
            "try:\n    import a\nexcept E as e:\n    a = None\nelse:\n    b = 1\nfinally:\n    c = 1",
            {"a", "b", "c", "e"},
        ),
        ("for i, j in x:\n    k = 1\nwith open(f) as f:\n    pass\nwhile (n := 1): ...", {"i", "j", "k", "f", "n"}),
        ("def f():\n    global late\n    late = 1", {"f", "late"}),
        ("if True:\n    from m import *", None),
        ("def __getattr__(name): ...", None),
        ("globals()['a'] = 1", None),
        ("def f(:", None),
    ],
)
def test_names_of_a_module(tmp_path, source, names):
    path = tmp_path / "m.py"
    path.write_text(source)
    found = module_names(path)
    assert names == (None if found is None else {n for n in found if not n.startswith("__")})


def test_names_of_a_package_and_of_no_file(tmp_path):
    path = tmp_path / "__init__.py"
    path.write_text("from .sub import x\nfrom . import y\nfrom ..up import z")
    found = module_names(path)
    assert found is not None
    assert {"sub", "x", "y", "z", "__name__"} <= found
    assert module_names(tmp_path / "absent.py") is None


@pytest.mark.parametrize(
    "body, values",
    [
        ("class Mode(enum.Enum):\n    TRAIN = 'train'\n    EVAL = 2\n    _x = 3\n    def f(self): ...", ("train", 2)),
        ("class Mode(str, Enum):\n    A = 'a'", ("a",)),
        ("class Mode(enum.Enum):\n    A = enum.auto()", None),
        ("class Mode:\n    A = 1", None),
        ("class Outer:\n    class Mode(IntFlag):\n        A = 1", None),
        ("", None),
    ],
)
def test_values_of_an_enum(tmp_path, body, values):
    path = tmp_path / "m.py"
    path.write_text(body)
    assert enum_values(path, "Mode") == values
    if "Outer" in body:
        assert enum_values(path, "Outer.Mode") == (1,)
