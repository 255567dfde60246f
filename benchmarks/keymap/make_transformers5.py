"""Cases from transformers 4 to transformers 5: files of release 4.57.6 loaded by release 5.24.0.

    pip install torch==2.13.0 transformers==5.24.0 safetensors timm==1.0.31 torchvision==0.28.0
    pip install --target HF4 transformers==4.57.6
    python make_transformers5.py --hf4 HF4

Source listing: the state_dict of the 4.57.6 model. Truth: marked tensors are saved under these names next to a
configuration and read by `from_pretrained` of 5.24.0, whose `conversion_mapping.py` renames, splits, stacks and joins.
Sizes are those of small released models or reduced; only layer counts and widths were reduced.
"""

import json
import tempfile
from pathlib import Path

import tracing as T

ARGS = T.arguments("hf4")
URL = "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/conversion_mapping.py"
MOE = {
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 4096,
}
TEXT = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 4096,
}
DETR = {
    "use_pretrained_backbone": False,
    "use_timm_backbone": False,
    "backbone": None,
    "backbone_config": {"model_type": "resnet", "out_features": ["stage4"]},
}
CASES = {
    # id: (class, configuration class, arguments, what)
    "swin-hf4-to-hf5": ("SwinForImageClassification", "SwinConfig", {"num_labels": 1000}, "Swin-T"),
    "dinov2-registers-swiglu-hf4-to-hf5": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {"hidden_size": 384, "num_attention_heads": 6, "use_swiglu_ffn": True},
        "DINOv2 with registers and SwiGLU: the fused input weight is split",
    ),
    "vitmae-hf4-to-hf5": ("ViTMAEForPreTraining", "ViTMAEConfig", {}, "ViT-MAE pre-training model with decoder"),
    "videomae-hf4-to-hf5": (
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        {"num_labels": 400},
        "VideoMAE-B: q_bias and v_bias become biases of query and value",
    ),
    "qwen2moe-hf4-to-hf5": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            **MOE,
            "intermediate_size": 512,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 512,
            "num_experts": 16,
        },
        "Qwen2-MoE: 16 experts stacked, a shared expert stays",
    ),
    "jamba-hf4-to-hf5": (
        "JambaForCausalLM",
        "JambaConfig",
        {
            **MOE,
            "num_hidden_layers": 8,
            "intermediate_size": 512,
            "num_experts": 4,
            "use_mamba_kernels": False,
            "attn_layer_offset": 4,
            "attn_layer_period": 8,
        },
        "Jamba: Mamba and attention layers, experts in every other layer",
    ),
    "deepseekv3-hf4-to-hf5": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **MOE,
            "num_key_value_heads": 8,
            "num_hidden_layers": 4,
            "first_k_dense_replace": 1,
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 128,
            "intermediate_size": 512,
            "q_lora_rank": 96,
            "kv_lora_rank": 64,
        },
        "DeepSeek-V3: latent attention, one dense layer, experts stacked",
    ),
    "phimoe-hf4-to-hf5": (
        "PhimoeForCausalLM",
        "PhimoeConfig",
        {**MOE, "intermediate_size": 512, "num_local_experts": 8},
        "Phi-MoE: experts w1, w3, w2 stacked; the router renamed",
    ),
    "granitemoe-hf4-to-hf5": (
        "GraniteMoeForCausalLM",
        "GraniteMoeConfig",
        {**MOE, "intermediate_size": 512, "num_local_experts": 8},
        "Granite MoE",
    ),
    "rtdetr-hf4-to-hf5": ("RTDetrForObjectDetection", "RTDetrConfig", {"num_labels": 80}, "RT-DETR R50"),
    "deformable-detr-hf4-to-hf5": (
        "DeformableDetrForObjectDetection",
        "DeformableDetrConfig",
        {
            **DETR,
            "backbone_config": {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]},
            "num_labels": 91,
        },
        "Deformable DETR R50",
    ),
    "conditional-detr-hf4-to-hf5": (
        "ConditionalDetrForObjectDetection",
        "ConditionalDetrConfig",
        {**DETR, "num_labels": 91},
        "Conditional DETR R50",
    ),
    "maskformer-hf4-to-hf5": ("MaskFormerForInstanceSegmentation", "MaskFormerConfig", {}, "MaskFormer Swin-B"),
    "qwen2audio-hf4-to-hf5": (
        "Qwen2AudioForConditionalGeneration",
        "Qwen2AudioConfig",
        {
            "text_config": {**TEXT, "model_type": "qwen2"},
            "audio_config": {
                "model_type": "qwen2_audio_encoder",
                "d_model": 192,
                "encoder_layers": 4,
                "encoder_attention_heads": 6,
                "encoder_ffn_dim": 768,
            },
        },
        "Qwen2-Audio (reduced)",
    ),
    "altclip-hf4-to-hf5": ("AltCLIPModel", "AltCLIPConfig", {}, "AltCLIP"),
}


def main():
    import torch
    import transformers as H
    from safetensors.torch import save_file

    chosen = {k: v for k, v in CASES.items() if ARGS.only in k}
    setup = (
        "import transformers as H\nimport json\n"
        f"C = json.loads({json.dumps({k: v[:3] for k, v in chosen.items()})!r})\n"
        "BUILD = {k: (lambda c=c, f=f, a=a: getattr(H, c)(getattr(H, f)(**a))) for k, (c, f, a) in C.items()}"
    )
    old = T.old_listings(ARGS.hf4, setup)
    for ident, (cls, conf, args, what) in chosen.items():
        if ident not in old:
            continue
        try:
            one(ident, what, old[ident], getattr(H, cls), getattr(H, conf)(**args), save_file, torch)
        except Exception as e:  # a class that cannot be loaded is reported and left out
            print(f"    {ident}: {e!r}"[:600])


def one(ident, what, source, cls, config, save_file, torch):
    shared = {"lm_head.weight"} if getattr(config, "tie_word_embeddings", False) else set()
    source = [r for r in source if r[0] not in shared]
    with torch.device("meta"):
        target = T.listing(cls(config).state_dict())

    def load(sd):
        with tempfile.TemporaryDirectory() as folder:
            config.architectures = [cls.__name__]
            config.save_pretrained(folder)
            save_file(
                {k: v.contiguous() for k, v in sd.items()}, Path(folder, "model.safetensors"), metadata={"format": "pt"}
            )
            model, info = cls.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
        if info["unexpected_keys"]:
            print(f"    {ident}: not used: {sorted(info['unexpected_keys'])[:4]}")
        if info["missing_keys"]:
            print(f"    {ident}: not filled: {sorted(info['missing_keys'])[:4]}")
        return {k: v for k, v in model.state_dict().items() if k not in info["missing_keys"]}

    def same_tensor(truth):
        """Copies of one tied tensor, all of them in the file: any of them is right."""
        names = {r[0] for r in source}
        for key, entry in truth.items():
            other = key.removeprefix("model.decoder.") if "bbox_embed" in key or "class_embed" in key else key
            if other != key and other in names and entry["from"]:
                entry["alt"] = [[other]]
            if ident.startswith("deformable") and key.startswith(("bbox_embed.", "class_embed.")):
                head, _, rest = key.split(".", 2)  # without box refinement all layers share one head
                entry["alt"] = [[n] for n in (f"{head}.{i}.{rest}" for i in range(6)) if n in names and n != key]

    T.convert(
        ident,
        f"{what}: transformers 4 names to transformers 5 names",
        source,
        target,
        load,
        adjust=same_tensor,
        url=URL,
        packages=f"transformers 4.57.6 -> transformers 5.24.0, {cls.__name__}",
    )


if __name__ == "__main__":
    main()
