"""``relight.load(..., prove=True)``: the model that was loaded is asked what it answered when it was saved."""

from __future__ import annotations

import importlib.util
import sys
import warnings

import pytest
from corpus import FOLDER

import relight

torch = pytest.importorskip("torch")

SOURCE = (FOLDER / "manifests" / "nets.py").read_text()


@pytest.fixture
def net(tmp_path):
    """The class of the files in tests/corpus/manifests, from a source that a test may change."""

    def made(*edits):
        source = SOURCE
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        path = tmp_path / "nets_to_prove.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module.Net

    yield made
    sys.modules.pop("nets_to_prove", None)


@pytest.mark.parametrize("version", ["1.9", "2.2", "2.6"])
def test_proved(net, version):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = relight.load(net(), FOLDER / "manifests" / f"lightning-{version}.ckpt", prove=True)
    assert relight.report_of(model).proved
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    "edit",
    [("nn.ReLU()", "nn.GELU()"), ("self.scale = 0.5", "self.scale = 0.6"), ("-1, 1, width", "-1, 2, width")],
    ids=["activation", "constant", "buffer"],
)
@pytest.mark.filterwarnings("ignore")
def test_another_model(net, edit):
    with pytest.raises(
        relight.LoadError, match="WITHOUT AN ERROR, BUT WRONG: it answers otherwise than when this was saved"
    ):
        relight.load(net(edit), FOLDER / "manifests" / "lightning-2.6.ckpt", prove=True)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_proved(net, tmp_path):
    """To load it all the same, one does not ask for a proof."""
    saved = torch.load(FOLDER / "manifests" / "lightning-2.6.ckpt", weights_only=True)
    del saved["relight_manifest"]
    torch.save(saved, tmp_path / "bare.ckpt")
    with pytest.raises(relight.LoadError, match="which cannot be proved: the file has no manifest"):
        relight.load(net(), tmp_path / "bare.ckpt", prove=True)
    assert not relight.report_of(relight.load(net(), tmp_path / "bare.ckpt")).proved
    with pytest.raises(relight.LoadError, match="which cannot be proved: it answers differently every time"):
        relight.load(
            net(("self.drop(x)", "x + torch.rand(1)")), FOLDER / "manifests" / "lightning-2.6.ckpt", prove=True
        )
