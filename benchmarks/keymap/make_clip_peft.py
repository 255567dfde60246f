"""Cases from open_clip to timm (image tower alone) and from peft adapter files to peft models.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31 open_clip_torch==3.3.0 transformers==5.24.0 peft==0.21.2
    python make_clip_peft.py

Truth: timm's `checkpoint_filter_fn` (which recognises CLIP files), and peft's `set_peft_model_state_dict`, run on
marked tensors. An adapter file fills only the adapter: the base model's parameters have no source.
"""

import torch
import tracing as T

ARGS = T.arguments()
TIMM = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/models/"
PEFT = "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/utils/save_and_load.py"


def clip():
    import open_clip
    import timm
    from timm.models import byobnet, vision_transformer

    for ident, theirs, ours, function, file, what in (
        (
            "open-clip-vitb32-to-timm",
            "ViT-B-32-quickgelu",
            "vit_base_patch32_clip_quickgelu_224",
            vision_transformer.checkpoint_filter_fn,
            "vision_transformer.py",
            "open_clip ViT-B/32 to the timm image tower: class token and positions reshaped, projection transposed",
        ),
        (
            "open-clip-rn50-to-timm",
            "RN50-quickgelu",
            "resnet50_clip",
            byobnet.checkpoint_filter_fn,
            "byobnet.py",
            "open_clip RN50 to the timm image tower: numbered stages, attention pooling",
        ),
    ):
        if ARGS.only not in ident:
            continue
        classes = 512 if "vit" in ours else 1024
        source = T.listing(T.state_of(lambda theirs=theirs: open_clip.create_model(theirs)))
        model = timm.create_model(ours, num_classes=classes)
        T.convert(
            ident,
            what,
            source,
            T.listing(model.state_dict()),
            lambda sd, f=function, m=model: f(sd, m),
            url=TIMM + file,
            packages=f"open_clip 3.3.0 {theirs} -> timm 1.0.31 {ours}",
            notes="The text tower is left over.",
        )


def adapters():
    import peft
    import transformers as H

    base = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    }
    llama = (H.LlamaForCausalLM, H.LlamaConfig, base)
    t5 = (
        H.T5ForConditionalGeneration,
        H.T5Config,
        {
            "d_model": 256,
            "d_ff": 512,
            "num_layers": 3,
            "num_heads": 4,
            "vocab_size": 4096,
            "tie_word_embeddings": False,
        },
    )
    vit = (H.ViTForImageClassification, H.ViTConfig, {"num_hidden_layers": 4, "num_labels": 10})
    for ident, (cls, conf, args), config, what in (
        (
            "peft-dora-file-to-model",
            llama,
            peft.LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], r=8, use_dora=True),
            "DoRA adapter file to the wrapped Llama: adapter name inserted, magnitude vectors one level deeper",
        ),
        (
            "peft-lora-modules-to-save-to-model",
            vit,
            peft.LoraConfig(
                r=8, target_modules="all-linear", exclude_modules=["classifier"], modules_to_save=["classifier"]
            ),
            "LoRA adapter file with a saved classifier to the wrapped ViT",
        ),
        (
            "peft-ia3-file-to-model",
            t5,
            peft.IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"]),
            "IA3 adapter file to the wrapped T5",
        ),
    ):
        if ARGS.only not in ident:
            continue

        def build(cls=cls, conf=conf, args=args, config=config):
            return peft.get_peft_model(cls(conf(**args)), config)

        wrapped = build()
        source = T.listing(peft.get_peft_model_state_dict(wrapped))
        target = T.listing(wrapped.state_dict())

        def load(sd, build=build):
            model = build().double()
            with torch.no_grad():
                for t in model.state_dict().values():
                    t.fill_(-1)
            peft.set_peft_model_state_dict(model, sd)
            return model.state_dict()

        T.convert(
            ident,
            what,
            source,
            target,
            load,
            url=PEFT,
            packages="peft 0.21.2, transformers 5.24.0",
            notes="An adapter file holds no base weights; they keep their values.",
        )


if __name__ == "__main__":
    clip()
    adapters()
