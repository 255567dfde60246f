"""Cases from the conversion scripts that transformers ships (they are inside the wheel of release 4.40.0).

    pip install torch==2.13.0 transformers==4.40.0 timm==1.0.31 torchvision==0.28.0 segment-anything==1.0 einops requests
    pip install --no-deps encodec==0.1.1
    pip install --no-deps --target AUDIO torchaudio==2.11.0   # compiled libraries may be removed, only keys are needed
    pip install --no-deps --target OLD06 timm==0.6.13
    PYTHONPATH=AUDIO python make_hf_scripts.py --timm06 OLD06

Truth: the functions of `transformers/models/*/convert_*.py` (or torchaudio's import of transformers models), run on
marked tensors; the source is the state_dict of the package that published the model where it can be installed, else
the names that the script itself lists, with the shapes that the conversion needs.
"""

import importlib

import torch
import tracing as T

ARGS = T.arguments("timm06")
URL = "https://github.com/huggingface/transformers/blob/v4.40.0/src/transformers/models/"


def script(name):
    return importlib.import_module("transformers.models." + name)  # noqa: TID251


def make(ident, title, source, build, function, file, packages, **kwargs):
    if ARGS.only not in ident:
        return
    try:
        T.convert(
            ident,
            title,
            source(),
            T.listing(T.state_of(build)),
            function,
            url=kwargs.pop("url", URL + file),
            packages=packages,
            **kwargs,
        )
    except Exception as e:
        print(f"    {ident}: {e!r}"[:700])


def renamed(pairs, extra, build):
    """A source listing from a script's (old, new) pairs: shapes of the target, plus fused tensors given by hand."""
    target = {k: (s, d) for k, s, d in T.listing(T.state_of(build))}
    return [[old, *(extra[old] if old in extra else target[new])] for old, new in pairs]


def main():
    import transformers as H

    hf = "transformers 4.40.0"
    old = {}
    if ARGS.timm06:
        names = ["swinv2_tiny_window8_256", "poolformer_s12", "poolformer_s24"]
        setup = f"import timm\nBUILD = {{n: (lambda n=n: timm.create_model(n)) for n in {names!r}}}"
        old = T.old_listings(ARGS.timm06, setup)

    # EnCodec: both packages, weights are set attribute by attribute
    def encodec_source():
        from encodec import EncodecModel

        return T.listing(
            EncodecModel._get_model([1.5, 3, 6, 12, 24], 24000, 1, causal=True, model_norm="weight_norm").state_dict()
        )

    def encodec(sd):
        model = H.EncodecModel(H.EncodecConfig())
        with torch.no_grad():
            for t in model.state_dict().values():
                t.fill_(-1)
        script("encodec.convert_encodec_checkpoint_to_pytorch").recursively_load_weights(sd, model, "encodec_24khz")
        return model.state_dict()

    make(
        "encodec-to-hf",
        "EnCodec 24 kHz: nested conv.conv and convtr.convtr to layers, quantizer layers",
        encodec_source,
        lambda: H.EncodecModel(H.EncodecConfig()),
        encodec,
        "encodec/convert_encodec_checkpoint_to_pytorch.py",
        f"encodec 0.1.1 -> {hf}",
    )

    # Segment Anything
    def sam_source():
        from segment_anything import sam_model_registry

        return T.listing(sam_model_registry["vit_b"]().state_dict())

    make(
        "sam-orig-to-hf",
        "Segment Anything ViT-B: MLP layers 0,1,2 to proj_in, layers.0, proj_out; one buffer used twice",
        sam_source,
        lambda: H.SamModel(H.SamConfig()),
        lambda sd: script("sam.convert_sam_to_hf").replace_keys(sd),
        "sam/convert_sam_to_hf.py",
        f"segment-anything 1.0 -> {hf}",
        tags=["tied"],
    )

    # timm models
    def bit_source():
        import timm

        return T.listing(T.state_of(lambda: timm.create_model("resnetv2_50x1_bit")))

    def bit(sd):
        rename = script("bit.convert_bit_to_pytorch").rename_key
        return {rename(k): v.squeeze() if "head" in k else v for k, v in sd.items()}

    make(
        "timm-bit-to-hf",
        "BiT ResNetV2-50x1 (timm names): prefix, blocks to layers, convolutional head squeezed to a Linear",
        bit_source,
        lambda: H.BitForImageClassification(H.BitConfig(num_labels=1000)),
        bit,
        "bit/convert_bit_to_pytorch.py",
        f"timm 1.0.31 -> {hf}",
    )

    def swin_config():
        return H.Swinv2Config(
            image_size=256, window_size=8, embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), num_labels=1000
        )

    make(
        "timm-swinv2-to-hf",
        "Swin V2-T (timm 0.6 names): qkv weight split, separate q and v biases kept",
        lambda: old["swinv2_tiny_window8_256"],
        lambda: H.Swinv2ForImageClassification(swin_config()),
        lambda sd: script("swinv2.convert_swinv2_timm_to_pytorch").convert_state_dict(
            sd, H.Swinv2ForImageClassification(swin_config())
        ),
        "swinv2/convert_swinv2_timm_to_pytorch.py",
        f"timm 0.6.13 -> {hf}",
    )
    make(
        "poolformer-to-hf",
        "PoolFormer-S24 (names of the original and of timm 0.6): one list of stages and embeddings to two lists",
        lambda: old["poolformer_s24"],
        lambda: H.PoolFormerForImageClassification(H.PoolFormerConfig(num_labels=1000, depths=[4, 4, 12, 4])),
        lambda sd: script("poolformer.convert_poolformer_original_to_pytorch").rename_keys(sd),
        "poolformer/convert_poolformer_original_to_pytorch.py",
        f"timm 0.6.13 -> {hf}",
    )

    # names from the script
    def pvt_model():
        return H.PvtForImageClassification(H.PvtConfig(num_labels=1000))

    def pvt_source():
        s, c = script("pvt.convert_pvt_to_pytorch"), H.PvtConfig()
        kv = {
            f"block{i + 1}.{j}.attn.kv.{w}": ([2 * n, n] if w == "weight" else [2 * n], "float32")
            for i, n in enumerate(c.hidden_sizes)
            for j in range(c.depths[i])
            for w in ("weight", "bias")
        }
        return renamed(s.create_rename_keys(c), kv, pvt_model)

    def pvt(sd):
        s, c = script("pvt.convert_pvt_to_pytorch"), H.PvtConfig()
        for a, b in s.create_rename_keys(c):
            s.rename_key(sd, a, b)
        s.read_in_k_v(sd, c)
        return sd

    make(
        "pvt-orig-to-hf",
        "PVT-Tiny: stage numbers inside attribute names (block1.0) to lists, kv split",
        pvt_source,
        pvt_model,
        pvt,
        "pvt/convert_pvt_to_pytorch.py",
        f"names in the script -> {hf}",
    )

    def superpoint_model():
        return H.SuperPointForKeypointDetection(H.SuperPointConfig())

    def superpoint(sd):
        s = script("superpoint.convert_superpoint_to_pytorch")
        for a, b in s.create_rename_keys(None, sd):
            s.rename_key(sd, a, b)
        return sd

    def superpoint_source():
        rows = renamed(
            script("superpoint.convert_superpoint_to_pytorch").create_rename_keys(None, None), {}, superpoint_model
        )
        order = [
            "conv1a",
            "conv1b",
            "conv2a",
            "conv2b",
            "conv3a",
            "conv3b",
            "conv4a",
            "conv4b",
            "convPa",
            "convPb",
            "convDa",
            "convDb",
        ]
        return sorted(rows, key=lambda r: order.index(r[0].split(".")[0]))

    make(
        "superpoint-orig-to-hf",
        "SuperPoint: conv1a ... convDb to blocks and decoders",
        superpoint_source,
        superpoint_model,
        superpoint,
        "superpoint/convert_superpoint_to_pytorch.py",
        f"names in the script -> {hf}",
    )

    # SigLIP: JAX arrays, heads on an axis of their own
    def siglip_config():
        return H.SiglipConfig(
            text_config={"vocab_size": 32000, "max_position_embeddings": 64, "num_hidden_layers": 3},
            vision_config={"image_size": 224, "patch_size": 16, "num_hidden_layers": 3},
        )

    def siglip_source():
        s, c = script("siglip.convert_siglip_to_hf"), siglip_config()
        shapes = {k: v for k, v, _ in T.listing(T.state_of(lambda: H.SiglipModel(c)))}
        rows = []
        for a, b in s.create_rename_keys(c):
            shape, h = list(shapes[b]), 12
            n = 768
            if b.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                shape = [n, h, n // h]
            elif b.endswith("out_proj.weight"):
                shape = [h, n // h, n]
            elif b.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")):
                shape = [h, n // h]
            elif "patch_embedding.weight" in b:
                shape = [shape[2], shape[3], shape[1], shape[0]]
            elif "position_embedding" in b:
                shape = [1, *shape]
            elif b.endswith("weight") and "token_embedding" not in b:
                shape = shape[::-1]
            rows.append([a, shape, "float32"])
        at = next(i for i, r in enumerate(rows) if r[0].endswith("MAPHead_0/MultiHeadDotProductAttention_0/out/kernel"))
        head = "params/img/MAPHead_0/MultiHeadDotProductAttention_0/"
        rows[at:at] = [
            [f"{head}{p}/{w}", [768, 12, 64] if w == "kernel" else [12, 64], "float32"]
            for p in ("key", "value", "query")
            for w in ("kernel", "bias")
        ]
        return rows

    def siglip(sd):
        s, c = script("siglip.convert_siglip_to_hf"), siglip_config()
        sd = {k: v.numpy() for k, v in sd.items()}
        for a, b in s.create_rename_keys(c):
            s.rename_key(sd, a, b, c)
        s.read_in_q_k_v_head(sd, c)
        return sd

    make(
        "siglip-bigvision-to-hf",
        "SigLIP B/16 (Flax names, 3 layers): kernels transposed, head axes folded, one attention joined to in_proj",
        siglip_source,
        lambda: H.SiglipModel(siglip_config()),
        siglip,
        "siglip/convert_siglip_to_hf.py",
        f"names in the script -> {hf}",
        tags=["foreign-order"],
        notes="Shapes of the Flax arrays follow from the reshapes in the script. Transposes of square kernels are not visible.",
    )

    # torchaudio reads transformers models
    def w2v_source(large):
        return T.listing(T.state_of(lambda: H.Wav2Vec2ForCTC(w2v_config(large))))

    def w2v_config(large):
        if large:
            return H.Wav2Vec2Config(
                hidden_size=1024,
                num_hidden_layers=6,
                num_attention_heads=16,
                intermediate_size=4096,
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
                conv_bias=True,
                vocab_size=32,
            )
        return H.Wav2Vec2Config(vocab_size=32)

    def import_w2v(sd, large):
        from torchaudio.models.wav2vec2.utils import import_huggingface_model

        torch.set_default_dtype(torch.float64)  # float32 could not hold the marks
        try:
            model = H.Wav2Vec2ForCTC(w2v_config(large))
            model.load_state_dict(sd)
            return import_huggingface_model(model).state_dict()
        finally:
            torch.set_default_dtype(torch.float32)

    def audio_target(large):
        from torchaudio.models.wav2vec2.utils import import_huggingface_model

        return import_huggingface_model(H.Wav2Vec2ForCTC(w2v_config(large)))

    for large in (False, True):
        make(
            f"hf-wav2vec2-{'large' if large else 'base'}-to-torchaudio",
            f"wav2vec 2.0 {'large with layer norms (6 layers)' if large else 'base'} with CTC head: transformers to torchaudio",
            lambda large=large: w2v_source(large),
            lambda large=large: audio_target(large),
            lambda sd, large=large: import_w2v(sd, large),
            "",
            f"{hf} -> torchaudio 2.11.0",
            url="https://github.com/pytorch/audio/blob/v2.11.0/src/torchaudio/models/wav2vec2/utils/import_huggingface.py",
        )


if __name__ == "__main__":
    main()
