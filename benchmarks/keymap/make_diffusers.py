"""Cases from the single-file loaders of diffusers: original checkpoint layouts to diffusers models.

    pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 open_clip_torch==3.3.0 torchvision==0.28.0 timm==1.0.31
    python make_diffusers.py

Truth: the `convert_*` functions of `diffusers.loaders.single_file_utils`, run on marked tensors. The open_clip case has
both models from their packages. For the others the original code is no package: its names are obtained by inverting the
published function over the diffusers model (names that meet are one fused tensor), in the order of the original
modules, and the published function must turn all of them into the model again. Depths (some widths) are reduced.
"""

import re

import torch
import tracing as T

ARGS = T.arguments()
URL = "https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/loaders/single_file_utils.py"
PACK = "names inverted from the function -> diffusers 0.42.1"


def invert(rows, rules, order=(), extra=()):
    out = {}
    for key, shape, dtype in rows:
        for a, b in rules:
            key = re.sub(a, b, key)
        if key in out:
            out[key] = [[out[key][0][0] + shape[0], *shape[1:]], dtype]
        else:
            out[key] = [list(shape), dtype]
    result = [[k, *v] for k, v in out.items()] + [list(e) for e in extra]

    def rank(row):
        parts = []
        for pattern in order:
            m = re.search(pattern, row[0])
            parts.append((0, *(int(g) for g in m.groups())) if m else (1,))
        return parts

    return sorted(result, key=rank) if order else result


def make(ident, title, build, rules, function, order, extra=(), **kwargs):
    if ARGS.only not in ident:
        return
    target = T.listing(T.state_of(build))
    source = invert(target, rules, order, extra)
    T.convert(ident, title, source, target, function, url=URL, packages=kwargs.pop("packages", PACK), **kwargs)


def main():
    import diffusers as D
    from diffusers.loaders import single_file_utils as S

    # Wan 2.1 T2V
    make(
        "wan-to-diffusers",
        "Wan 2.1 video transformer: norm2 and norm3 exchange their names, modulation tables renamed",
        lambda: D.WanTransformer3DModel(
            num_layers=4, num_attention_heads=6, attention_head_dim=128, ffn_dim=2048, text_dim=512
        ),
        [
            (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
            (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
            (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
            (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
            (r"condition_embedder\.time_proj", "time_projection.1"),
            (r"attn1\.", "self_attn."),
            (r"attn2\.", "cross_attn."),
            (r"to_out\.0\.", "o."),
            (r"\.to_([qkv])\.", r".\1."),
            (r"\.norm2\.", ".norm3."),
            (r"ffn\.net\.0\.proj", "ffn.0"),
            (r"ffn\.net\.2", "ffn.2"),
            (r"^scale_shift_table", "head.modulation"),
            (r"scale_shift_table", "modulation"),
            (r"^proj_out", "head.head"),
        ],
        S.convert_wan_transformer_to_diffusers,
        [
            r"^patch_embedding",
            r"^text_embedding",
            r"^time_embedding",
            r"^time_projection",
            r"^blocks\.(\d+)",
            r"blocks\.(\d+)\.modulation",
        ],
        tags=["overlap-trap"],
    )
    # Sana
    make(
        "sana-to-diffusers",
        "Sana 600M (6 layers): fused qkv and kv split, convolutional feed-forward",
        lambda: D.SanaTransformer2DModel(
            num_layers=6,
            num_attention_heads=36,
            attention_head_dim=32,
            num_cross_attention_heads=16,
            cross_attention_head_dim=72,
            cross_attention_dim=1152,
        ),
        [
            (r"^patch_embed\.proj", "x_embedder.proj"),
            (r"^time_embed\.emb\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
            (r"^time_embed\.emb\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
            (r"^time_embed\.linear", "t_block.1"),
            (r"^caption_projection\.linear_", "y_embedder.y_proj.fc"),
            (r"^caption_norm", "attention_y_norm"),
            (r"^transformer_blocks", "blocks"),
            (r"attn1\.to_[qkv]", "attn.qkv"),
            (r"attn1\.to_out\.0", "attn.proj"),
            (r"attn2\.to_q", "cross_attn.q_linear"),
            (r"attn2\.to_[kv]", "cross_attn.kv_linear"),
            (r"attn2\.to_out\.0", "cross_attn.proj"),
            (r"ff\.conv_inverted", "mlp.inverted_conv.conv"),
            (r"ff\.conv_depth", "mlp.depth_conv.conv"),
            (r"ff\.conv_point", "mlp.point_conv.conv"),
            (r"^scale_shift_table", "final_layer.scale_shift_table"),
            (r"^proj_out", "final_layer.linear"),
        ],
        S.convert_sana_transformer_to_diffusers,
        [
            r"^pos_embed",
            r"^x_embedder",
            r"^t_embedder",
            r"^t_block",
            r"^y_embedder",
            r"^attention_y_norm",
            r"^blocks\.(\d+)",
        ],
        extra=[["pos_embed", [1, 1024, 1152], "float32"], ["y_embedder.y_embedding", [300, 2304], "float32"]],
    )
    # Stable Diffusion 3
    context = r"joint_blocks.\1.context_block."
    block = r"joint_blocks.\1.x_block."
    b = r"^transformer_blocks\.(\d+)\."
    make(
        "sd3-to-diffusers",
        "Stable Diffusion 3 transformer (4 layers): x_block and context_block with fused qkv to one block",
        lambda: D.SD3Transformer2DModel(
            num_layers=4,
            num_attention_heads=12,
            attention_head_dim=64,
            caption_projection_dim=768,
            joint_attention_dim=4096,
            pooled_projection_dim=2048,
            pos_embed_max_size=96,
        ),
        [
            (r"^pos_embed\.pos_embed", "pos_embed"),
            (r"^pos_embed\.proj", "x_embedder.proj"),
            (r"^time_text_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
            (r"^time_text_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
            (r"^time_text_embed\.text_embedder\.linear_1", "y_embedder.mlp.0"),
            (r"^time_text_embed\.text_embedder\.linear_2", "y_embedder.mlp.2"),
            (b + r"attn\.to_[qkv]", block + "attn.qkv"),
            (b + r"attn\.add_[qkv]_proj", context + "attn.qkv"),
            (b + r"attn\.to_out\.0", block + "attn.proj"),
            (b + r"attn\.to_add_out", context + "attn.proj"),
            (b + r"norm1\.linear", block + "adaLN_modulation.1"),
            (b + r"norm1_context\.linear", context + "adaLN_modulation.1"),
            (b + r"ff\.net\.0\.proj", block + "mlp.fc1"),
            (b + r"ff\.net\.2", block + "mlp.fc2"),
            (b + r"ff_context\.net\.0\.proj", context + "mlp.fc1"),
            (b + r"ff_context\.net\.2", context + "mlp.fc2"),
            (r"^proj_out", "final_layer.linear"),
            (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
        ],
        S.convert_sd3_transformer_checkpoint_to_diffusers,
        [
            r"^pos_embed",
            r"^x_embedder",
            r"^t_embedder",
            r"^y_embedder",
            r"^context_embedder",
            r"joint_blocks\.(\d+)\.",
            r"context_block",
        ],
    )
    # Lumina Image 2: sizes are fixed inside the function
    make(
        "lumina2-to-diffusers",
        "Lumina Image 2.0 (2 layers): grouped-query qkv cut unevenly, three kinds of blocks",
        lambda: D.Lumina2Transformer2DModel(num_layers=2, num_refiner_layers=1),
        [
            (r"^time_caption_embed\.caption_embedder", "cap_embedder"),
            (r"^time_caption_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
            (r"^time_caption_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
            (r"^norm_out\.linear_1", "final_layer.adaLN_modulation.1"),
            (r"^norm_out\.linear_2", "final_layer.linear"),
            (r"attn\.to_[qkv]", "attention.qkv"),
            (r"attn\.to_out\.0", "attention.out"),
            (r"attn\.norm_([qk])", r"attention.\1_norm"),
            (r"feed_forward\.linear_", "feed_forward.w"),
            (r"^(context_refiner\.\d)\.norm1\.", r"\1.attention_norm1."),
            (r"\.norm1\.linear", ".adaLN_modulation.1"),
            (r"\.norm1\.norm", ".attention_norm1"),
            (r"\.norm2\.", ".attention_norm2."),
        ],
        S.convert_lumina2_to_diffusers,
        [r"^x_embedder", r"^noise_refiner", r"^context_refiner", r"^t_embedder", r"^cap_embedder", r"^layers\.(\d+)"],
    )
    # DC-AE
    pairs = [
        (r"^(en|de)coder\.(down|up)_blocks", r"\1coder.stages"),
        (r"^encoder\.conv_in\.", "encoder.project_in.conv."),
        (r"^encoder\.conv_out\.", "encoder.project_out.0.conv."),
        (r"^decoder\.conv_in\.", "decoder.project_in.conv."),
        (r"^decoder\.norm_out", "decoder.project_out.0"),
        (r"^decoder\.conv_out\.", "decoder.project_out.2.conv."),
        (r"(stages\.\d+\.\d+)\.attn\.to_qkv_multiscale\.0\.proj_in", r"\1.context_module.main.aggreg.0.0"),
        (r"(stages\.\d+\.\d+)\.attn\.to_qkv_multiscale\.0\.proj_out", r"\1.context_module.main.aggreg.0.1"),
        (r"(stages\.\d+\.\d+)\.attn\.to_[qkv]\.weight", r"\1.context_module.main.qkv.conv.weight"),
        (r"(stages\.\d+\.\d+)\.attn\.to_out\.weight", r"\1.context_module.main.proj.conv.weight"),
        (r"(stages\.\d+\.\d+)\.attn\.norm_out", r"\1.context_module.main.proj.norm"),
        (r"conv_out\.conv_inverted", "local_module.main.inverted_conv.conv"),
        (r"conv_out\.conv_depth", "local_module.main.depth_conv.conv"),
        (r"conv_out\.conv_point", "local_module.main.point_conv.conv"),
        (r"conv_out\.norm", "local_module.main.point_conv.norm"),
        (r"(stages\.\d+\.\d+)\.conv1\.", r"\1.main.conv1.conv."),
        (r"(stages\.\d+\.\d+)\.conv2\.", r"\1.main.conv2.conv."),
        (r"(stages\.\d+\.\d+)\.norm\.", r"\1.main.conv2.norm."),
        (r"(stages\.\d+\.\d+)\.conv\.", r"\1.main.conv.conv."),
        (r"^(encoder|decoder)\.stages\.(\d+)\.(\d+)\.", r"\1.stages.\2.op_list.\3."),
    ]

    def dcae_source(target):
        rows = invert(target, pairs)
        for r in rows:
            if r[0].endswith((".qkv.conv.weight", ".proj.conv.weight")):
                r[1] = [*r[1], 1, 1]
        return rows

    if ARGS.only in "dcae-to-diffusers":

        def dcae():
            return D.AutoencoderDC(
                encoder_block_out_channels=(64, 128, 256, 256),
                decoder_block_out_channels=(64, 128, 256, 256),
                encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"),
                decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"),
                encoder_layers_per_block=(2, 2, 2, 2),
                decoder_layers_per_block=(2, 2, 2, 2),
                encoder_qkv_multiscales=((), (), (5,), (5,)),
                decoder_qkv_multiscales=((), (), (5,), (5,)),
                decoder_norm_types="rms_norm",
                downsample_block_type="conv",
                upsample_block_type="interpolate",
            )

        target = T.listing(T.state_of(dcae))
        T.convert(
            "dcae-to-diffusers",
            "Deep compression autoencoder (reduced): op_list and main removed, 1x1 qkv convolution to three Linear layers",
            dcae_source(target),
            target,
            S.convert_autoencoder_dc_checkpoint_to_diffusers,
            url=URL,
            packages=PACK,
        )
    open_clip_text(S)


def open_clip_text(S):
    import open_clip
    import transformers as H

    if ARGS.only not in "open-clip-text-to-hf":
        return
    config = H.CLIPTextConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8, projection_dim=512
    )

    def build():
        return H.CLIPTextModelWithProjection(config)

    with torch.device("meta"):
        model = build()
    source = T.listing(T.state_of(lambda: open_clip.create_model("ViT-B-32")))
    T.convert(
        "open-clip-text-to-hf",
        "open_clip ViT-B/32 checkpoint to the transformers text tower alone: in_proj split, vision half left over",
        source,
        T.listing(model.state_dict()),
        lambda sd: S.convert_open_clip_checkpoint(model, sd, prefix=""),
        url=URL,
        packages="open_clip 3.3.0 -> transformers 5.24.0, by diffusers 0.42.1",
    )


if __name__ == "__main__":
    main()
