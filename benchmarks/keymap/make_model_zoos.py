"""Cases from collections of image models that name their layers in their own ways, for torchvision and timm.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31
    pip install --no-deps pytorchcv==0.0.74 efficientnet_pytorch==0.7.1
    python make_model_zoos.py

Layers are paired in the order of execution, and the pairing is proved by equal outputs, as in make_torchvision.py. The
cases go to ``blind``: the mapper's figures on them were taken once, before anything was changed because of them.
"""

from functools import partial

import make_torchvision as TV
import tracing as T

BLIND = T.HERE / "blind"


def zoos():
    import timm
    import torchvision.models as tv
    from efficientnet_pytorch import EfficientNet
    from pytorchcv.model_provider import get_model

    cv = "https://github.com/osmr/pytorchcv/tree/master/pytorchcv/models"
    for name, other in (
        ("resnet18", tv.resnet18),
        ("resnet50b", tv.resnet50),
        ("resnext50_32x4d", tv.resnext50_32x4d),
        ("densenet121", tv.densenet121),
        ("vgg11", tv.vgg11),
        ("bn_vgg16b", tv.vgg16_bn),
        ("squeezenet_v1_1", tv.squeezenet1_1),
        ("alexnetb", tv.alexnet),
        ("efficientnet_b0b", "tf_efficientnet_b0"),
        ("regnetx002", "regnetx_002"),
        ("mnasnet_b1", "mnasnet_100"),
        ("mobilenetv3_large_w1", "mobilenetv3_large_100"),
        ("xception", "legacy_xception"),
        ("dla34", "dla34"),
    ):
        build = partial(timm.create_model, other) if isinstance(other, str) else other
        whose = f"timm 1.0.31, {other}" if isinstance(other, str) else "torchvision 0.28.0"
        yield f"pytorchcv-{name}-to-other", partial(get_model, name), build, f"pytorchcv 0.0.74 {name} -> {whose}", cv
    yield (
        "lukemelas-efficientnet-b0-to-timm",
        partial(EfficientNet.from_name, "efficientnet-b0"),
        partial(timm.create_model, "tf_efficientnet_b0"),
        "efficientnet_pytorch 0.7.1 -> timm 1.0.31, tf_efficientnet_b0",
        "https://github.com/lukemelas/EfficientNet-PyTorch",
    )


def shortcuts_last(model, x):
    """Layers in the order of execution, but the shortcut of a unit behind its body, as torchvision runs them."""
    seen, out = REACHED(model, x)
    for name in [n for n in seen if "identity_conv" in n]:
        unit = name.partition("identity_conv")[0]
        last = max(i for i, n in enumerate(seen) if n.startswith(unit + "body"))
        seen.insert(last, seen.pop(seen.index(name)))
    return seen, out


REACHED = TV.reached


def main():
    BLIND.mkdir(exist_ok=True)
    TV.reached = shortcuts_last
    T.convert = partial(T.convert, out=BLIND)
    for ident, a, b, packages, url in zoos():
        try:
            TV.same_architecture(ident, packages, a, b, TV.by_execution, 224, packages, url)
        except Exception as error:
            print(f"{ident}: not written, {type(error).__name__}: {str(error)[:200]}")


if __name__ == "__main__":
    main()
