"""Cases in which nothing, or only a part, may be mapped: other architectures whose names and shapes coincide.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31 transformers==5.24.0
    python make_limits.py

There is no conversion between these models. Truth: none for all targets, or the shared backbone (same class of the
same package, equal sub-state) and none for the rest. Where a transfer would be sensible but nobody publishes it, the
entry says `accept_none`.
"""

import re

import tracing as T

ARGS = T.arguments()


def case(ident, title, source, target, rule, url, packages, notes):
    if ARGS.only not in ident:
        return
    sizes = {k: s for k, s, _ in source}
    truth = {}
    for key, shape, _ in target:
        name, optional = rule(key)
        if name and sizes.get(name) == shape:
            truth[key] = {"from": [name], "op": "copy", **({"accept_none": True} if optional else {})}
        elif name and not optional:
            raise ValueError(f"{ident}: {key} has no {name}")
        else:
            truth[key] = {"from": [], "op": "none"}
    T.write(
        ident,
        title,
        source,
        target,
        truth,
        url=url,
        packages=packages,
        notes=notes,
        origin="adversarial",
        tags=["must-not-map"],
    )


def main():
    import timm
    import torchvision.models as M
    import transformers as H

    def nothing(key):
        return None, False

    def both(a, b):
        return [T.listing(T.state_of(f)) for f in (a, b)]

    tv = "https://github.com/pytorch/vision/blob/v0.28.0/torchvision/models/"
    tm = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/models/"
    hf = "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/"
    case(
        "mixer-weights-for-vit",
        "MLP-Mixer-B/16 for ViT-B/16: norms and patch projection coincide in name and shape",
        *both(lambda: timm.create_model("mixer_b16_224"), lambda: timm.create_model("vit_base_patch16_224")),
        nothing,
        tm + "mlp_mixer.py",
        "timm 1.0.31",
        "Another architecture: equal names (blocks.N.norm1) mean layers with other neighbours.",
    )
    case(
        "swin-weights-for-convnext",
        "Swin-T for ConvNeXt-T: widths 96 to 768, same MLP shapes and stage names",
        *both(lambda: timm.create_model("swin_tiny_patch4_window7_224"), lambda: timm.create_model("convnext_tiny")),
        nothing,
        tm + "convnext.py",
        "timm 1.0.31",
        "Another architecture of the same widths; the classifier has the same shape too.",
    )
    case(
        "gpt2-weights-for-opt",
        "GPT-2 small for OPT-125M: same depth and width",
        *both(lambda: H.GPT2LMHeadModel(H.GPT2Config()), lambda: H.OPTForCausalLM(H.OPTConfig())),
        nothing,
        hf + "opt/modeling_opt.py",
        "transformers 5.24.0",
        "Other training, vocabulary and activation.",
    )

    def retina(key):
        m = re.match(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(.*)", key)
        if key.startswith("backbone.body."):
            return key, False
        if m:
            return f"backbone.fpn.{m[1]}_blocks.{int(m[2]) + 1}.{m[3]}", True
        return None, False

    none = {"weights": None, "weights_backbone": None}
    case(
        "fasterrcnn-weights-for-retinanet",
        "Faster R-CNN R50-FPN for RetinaNet R50-FPN: body shared, pyramid levels shifted by one, heads unrelated",
        *both(lambda: M.detection.fasterrcnn_resnet50_fpn(**none), lambda: M.detection.retinanet_resnet50_fpn(**none)),
        retina,
        tv + "detection/retinanet.py",
        "torchvision 0.28.0",
        "Pyramid level i of RetinaNet (from C3 on) is level i+1 of Faster R-CNN (from C2 on); leaving it initialised is as good.",
    )

    def deeplab(key):
        if key.startswith("backbone."):
            return key, False
        return (key, True) if key.startswith("aux_classifier.") else (None, False)

    case(
        "fcn-weights-for-deeplab",
        "FCN-R50 for DeepLabV3-R50: backbone shared, auxiliary head equal, main head another one",
        *both(
            lambda: M.segmentation.fcn_resnet50(aux_loss=True, **none),
            lambda: M.segmentation.deeplabv3_resnet50(aux_loss=True, **none),
        ),
        deeplab,
        tv + "segmentation/deeplabv3.py",
        "torchvision 0.28.0",
        "The auxiliary head may be kept (same layers at the same place).",
    )


if __name__ == "__main__":
    main()
