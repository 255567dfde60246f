"""Cases around torchvision: its own upgrades of old files, and its models as timm and transformers write them.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31 transformers==5.24.0
    python make_torchvision.py

* Upgrades: the source has the keys of the earlier version; `_load_from_state_dict` of torchvision 0.28.0 maps them
  when a file without version metadata is loaded (Mask R-CNN heads, RPN, FPN, RetinaNet, ViT MLP). Truth: a real load
  of marked tensors.
* The same architecture elsewhere: there is no published function for these pairs. Leaf layers are paired in the order
  in which a forward pass reaches them, and the pairing is then proved: random weights (BatchNorm statistics too) are
  moved over and both models must give the same output on random input in float64.
"""

import re

import torch
import tracing as T

ARGS = T.arguments()
RAW = "https://github.com/pytorch/vision/blob/v0.28.0/torchvision/"


def load_marked(model, marked):
    """What a load really does to marked tensors; parameters that the file does not fill stay at -1."""
    model = model.double()
    with torch.no_grad():
        for t in [*model.parameters(), *model.buffers()]:
            t.fill_(-1)
    model.load_state_dict(marked, strict=False)
    return model.state_dict()


def upgrade(ident, title, build, rename, file, tags=(), drop=None):
    if ARGS.only not in ident:
        return
    with torch.device("meta"):
        target = T.listing(build().state_dict())
    source = [[rename(k), s, d] for k, s, d in target if not (drop and re.search(drop, k))]
    T.convert(
        ident,
        title,
        source,
        target,
        lambda sd: load_marked(build(), sd),
        url=RAW + file,
        packages="torchvision 0.28.0 loading a file of an earlier version (keys as its upgrade code expects them)",
        tags=tags,
    )


def subs(*pairs):
    def rename(key):
        for a, b in pairs:
            key = re.sub(a, b, key)
        return key

    return rename


def upgrades():
    import torchvision.models as M
    import torchvision.models.detection as D

    none = {"weights": None, "weights_backbone": None}
    fpn = (r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.")
    rpn = (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv.")

    def mask(m):
        return f"mask_head.mask_fcn{int(m.group(1)) + 1}."

    upgrade(
        "tv-maskrcnn-v1-to-v2",
        "Mask R-CNN R50-FPN: FPN, RPN and mask head from attributes to Conv2dNormActivation blocks",
        lambda: D.maskrcnn_resnet50_fpn(**none),
        subs(fpn, rpn, (r"mask_head\.(\d)\.0\.", mask)),
        "models/detection/mask_rcnn.py",
    )
    upgrade(
        "tv-retinanet-v1-to-v2",
        "RetinaNet R50-FPN: flat Sequential with activations (0,2,4,6) to nested blocks (0.0,1.0,2.0,3.0), twice",
        lambda: D.retinanet_resnet50_fpn(**none),
        subs(fpn, (r"head\.conv\.(\d)\.0\.", lambda m: f"head.conv.{2 * int(m.group(1))}.")),
        "models/detection/retinanet.py",
        tags=["overlap-trap"],
    )
    upgrade(
        "tv-keypointrcnn-v1-to-v2",
        "Keypoint R-CNN R50-FPN: FPN and RPN renamed, keypoint head as it was",
        lambda: D.keypointrcnn_resnet50_fpn(**none),
        subs(fpn, rpn),
        "ops/feature_pyramid_network.py",
        tags=["easy"],
    )
    upgrade(
        "tv-vit-linear12-to-mlp03",
        "ViT-B/32: mlp.linear_1 and linear_2 to mlp.0 and mlp.3",
        M.vit_b_32,
        subs((r"mlp\.0\.", "mlp.linear_1."), (r"mlp\.3\.", "mlp.linear_2.")),
        "models/vision_transformer.py",
    )


def randomise(model):
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if t.is_floating_point() and "coords_table" not in name:
                t.copy_(
                    torch.rand(t.shape, generator=g, dtype=t.dtype) * 0.5 + 0.5
                    if "var" in name
                    else torch.randn(t.shape, generator=g, dtype=t.dtype)
                    / max(1, t[0].numel() if t.dim() else 1) ** 0.5
                )


def reached(model, x):
    """Leaf layers with state, in the order in which a forward pass reaches them."""
    seen, hooks = [], []
    for name, m in model.named_modules():
        if next(m.parameters(recurse=False), None) is not None:
            hooks.append(
                m.register_forward_hook(lambda m, i, o, name=name: seen.append(name) if name not in seen else 0)
            )
    with torch.no_grad():
        out = model(x)
    for h in hooks:
        h.remove()
    return seen, getattr(out, "logits", out)


def by_execution(a, b, x):
    """{target key: source key} from the order of execution; layers out of order are found by their shapes."""
    left, _ = reached(a, x)
    right, _ = reached(b, x)
    sa, sb = a.state_dict(), b.state_dict()

    def shapes(state, name):
        return [[n for n in v.shape if n != 1] for k, v in state.items() if k.rpartition(".")[0] == name]

    pairs, free = {}, list(right)
    for name in left:
        other = next(o for o in free if shapes(sb, o) == shapes(sa, name))
        free.remove(other)
        for key in sa:
            if key.rpartition(".")[0] == name:
                pairs[other + "." + key.rpartition(".")[2]] = key
    return pairs


def same_architecture(ident, title, build_a, build_b, pair, size, packages, url, tags=(), cut=None, loose=()):
    """One case, after proof of equal outputs. `pair(a, b, x)` gives {target: source}; `cut` turns sources into targets."""
    if ARGS.only not in ident:
        return
    a, b = build_a().double().eval(), build_b().double().eval()
    randomise(a)
    x = torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = pair(a, b, x)
    sa, sb = a.state_dict(), b.state_dict()

    def function(sd):
        return {t: (cut(t, sd[s], sb[t].shape) if cut else sd[s].reshape(sb[t].shape)) for t, s in pairs.items()}

    missing, unexpected = b.load_state_dict({k: v.clone() for k, v in function(sa).items()}, strict=False)
    if unexpected or any(not k.endswith(tuple(loose)) for k in missing) or (missing and not loose):
        raise ValueError(f"{ident}: {missing[:4]} {unexpected[:4]}")
    with torch.no_grad():
        ya, yb = a(x), b(x)
    ya, yb = getattr(ya, "logits", ya), getattr(yb, "logits", yb)
    if not torch.allclose(ya, yb, rtol=1e-7, atol=1e-9) or float(ya.std()) == 0:
        raise ValueError(f"{ident}: outputs differ by {float((ya - yb).abs().max())}, spread {float(ya.std())}")
    real_a, real_b = (T.state_of(build) for build in (build_a, build_b))
    T.convert(
        ident,
        title,
        T.listing(real_a),
        T.listing(real_b),
        function,
        url=url,
        packages=packages,
        tags=tags,
        notes="Proved by equal outputs with random weights.",
    )


def by_name(function, a):
    """{target key: source key} from a renaming function over a state_dict."""
    return dict(function({k: k for k in a.state_dict()}))


def regnet_names(sd):
    rename = subs(
        (r"^stem\.0\.", "regnet.embedder.embedder.convolution."),
        (r"^stem\.1\.", "regnet.embedder.embedder.normalization."),
        (
            r"^trunk_output\.block(\d)\.block\d-(\d+)\.",
            lambda m: f"regnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.",
        ),
        (r"proj\.0\.", "shortcut.convolution."),
        (r"proj\.1\.", "shortcut.normalization."),
        (r"f\.([ab])\.0\.", lambda m: f"layer.{'ab'.index(m[1])}.convolution."),
        (r"f\.([ab])\.1\.", lambda m: f"layer.{'ab'.index(m[1])}.normalization."),
        (r"f\.c\.0\.", "layer.3.convolution."),
        (r"f\.c\.1\.", "layer.3.normalization."),
        (r"f\.se\.fc1\.", "layer.2.attention.0."),
        (r"f\.se\.fc2\.", "layer.2.attention.2."),
        (r"^fc\.", "classifier.1."),
    )
    return {rename(k): v for k, v in sd.items()}


def architectures():
    import timm
    import torchvision.models as M
    import transformers as H

    both = "torchvision 0.28.0 -> timm 1.0.31, "
    timm_url = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/models/"
    for tv, name, title, kwargs in (
        (
            "efficientnet_b0",
            "efficientnet_b0",
            "EfficientNet-B0: numbered features and block lists to named layers",
            {},
        ),
        (
            "mobilenet_v3_large",
            "mobilenetv3_large_100",
            "MobileNetV3-L: flat features to stages of blocks, classifier Linear",
            {},
        ),
        ("mobilenet_v2", "mobilenetv2_100", "MobileNetV2: features.N.conv to stages of named layers", {}),
        ("mnasnet1_0", "mnasnet_100", "MnasNet-1.0: layers.N to stages of named layers", {}),
    ):
        same_architecture(
            f"tv-{tv.replace('_', '-')}-to-timm",
            title,
            getattr(M, tv),
            lambda name=name, kwargs=kwargs, tv=tv: close(timm.create_model(name, **kwargs), getattr(M, tv)()),
            by_execution,
            224,
            both + name,
            timm_url + ("mobilenetv3.py" if "v3" in tv else "efficientnet.py"),
        )
    from timm.models.regnet import _filter_fn

    same_architecture(
        "tv-regnety-to-timm",
        "RegNetY-3.2GF: trunk_output.blockN.blockN-M.f.a/b/c to sN.bM.conv1/2/3",
        M.regnet_y_3_2gf,
        lambda: timm.create_model("regnety_032"),
        lambda a, b, x: by_name(_filter_fn, a),
        224,
        both + "regnety_032",
        timm_url + "regnet.py",
    )
    hf = "torchvision 0.28.0 -> transformers 5.24.0, "
    hf_url = "https://github.com/huggingface/transformers/blob/v4.40.0/src/transformers/models/"
    same_architecture(
        "tv-resnet50-to-hf",
        "ResNet-50 to transformers ResNetForImageClassification (layerN.M.convK to stages, layers, convolution, normalization)",
        M.resnet50,
        lambda: H.ResNetForImageClassification(H.ResNetConfig(num_labels=1000)),
        by_execution,
        224,
        hf + "ResNetForImageClassification",
        hf_url + "resnet/convert_resnet_to_pytorch.py",
    )
    same_architecture(
        "tv-resnet18-to-hf",
        "ResNet-18 (basic blocks) to transformers ResNetForImageClassification",
        M.resnet18,
        lambda: H.ResNetForImageClassification(
            H.ResNetConfig(num_labels=1000, depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
        ),
        by_execution,
        224,
        hf + "ResNetForImageClassification",
        hf_url + "resnet/convert_resnet_to_pytorch.py",
    )
    same_architecture(
        "tv-regnety-to-hf",
        "RegNetY-3.2GF to transformers RegNetForImageClassification",
        M.regnet_y_3_2gf,
        lambda: H.RegNetForImageClassification(
            H.RegNetConfig(
                num_labels=1000,
                depths=[2, 5, 13, 1],
                hidden_sizes=[72, 216, 576, 1512],
                groups_width=24,
                layer_type="y",
            )
        ),
        lambda a, b, x: by_name(regnet_names, a),
        224,
        hf + "RegNetForImageClassification",
        hf_url + "regnet/convert_regnet_to_pytorch.py",
    )

    def swin_v2(a, b, x):
        pairs = {}
        for t in b.state_dict():
            k = t
            k = k.replace("patch_embed.proj", "features.0.0").replace("patch_embed.norm", "features.0.2")
            k = re.sub(
                r"layers\.(\d)\.blocks\.(\d+)\.", lambda m: f"features.{2 * int(m.group(1)) + 1}.{m.group(2)}.", k
            )
            k = re.sub(r"layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m.group(1))}.", k)
            k = k.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3").replace("head.fc", "head")
            k = k.replace("q_bias", "qkv.bias").replace("v_bias", "qkv.bias")
            pairs[t] = k
        return pairs

    def swin_cut(key, value, shape):
        if key.endswith("q_bias"):
            return value[: shape[0]]
        return value[-shape[0] :] if key.endswith("v_bias") else value

    same_architecture(
        "tv-swinv2-to-timm",
        "Swin V2-T: one bias of qkv to q_bias and v_bias (k has none), features list to stages",
        M.swin_v2_t,
        lambda: timm.create_model("swinv2_tiny_window8_256"),
        swin_v2,
        256,
        both + "swinv2_tiny_window8_256",
        timm_url + "swin_transformer_v2.py",
        cut=swin_cut,
    )


def close(model, other):
    """The numerical settings (epsilon of BatchNorm) of the other model: they are no part of the keys."""
    eps = {m.eps for m in other.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    (value,) = eps
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.eps = value
    return model


if __name__ == "__main__":
    upgrades()
    architectures()
