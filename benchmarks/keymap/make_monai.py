"""Cases from the generative models of MONAI: files of the monai-generative package for the models inside MONAI.

    pip install torch==2.13.0 monai==1.6.1 monai-generative==0.2.3 einops
    python make_monai.py

Source: the state_dict of the `generative` class. Truth: `load_old_state_dict` of the `monai` class of the same name,
which exists for these files, run on marked tensors. What it fills itself (identity projections) has no source.
"""

import torch
import tracing as T

ARGS = T.arguments()
URL = "https://github.com/Project-MONAI/MONAI/blob/1.6.1/monai/networks/nets/"
UNET = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 3,
    "attention_levels": (False, True, True),
    "num_res_blocks": 2,
    "norm_num_groups": 32,
}


def main():
    import monai.networks.nets as new
    from generative.networks import nets as old

    def unet(cls, channels, **extra):
        return lambda: cls(**UNET, **{channels: (64, 128, 256)}, num_head_channels=(0, 64, 64), **extra)

    def vae(cls, channels):
        return lambda: cls(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            **{channels: (32, 64, 128)},
            latent_channels=3,
            num_res_blocks=2,
            attention_levels=(False, False, True),
            norm_num_groups=16,
        )

    def control(cls, channels):
        return lambda: cls(
            spatial_dims=2,
            in_channels=3,
            **{channels: (64, 128, 256)},
            attention_levels=(False, True, True),
            num_res_blocks=1,
            norm_num_groups=32,
            num_head_channels=(0, 64, 64),
            conditioning_embedding_in_channels=1,
            with_conditioning=True,
            cross_attention_dim=128,
        )

    def gpt(cls):
        return lambda: cls(
            num_tokens=512, max_seq_len=256, attn_layers_dim=256, attn_layers_depth=6, attn_layers_heads=8
        )

    conditional = {"with_conditioning": True, "cross_attention_dim": 128}
    cases = [
        (
            "monai-unet",
            "DiffusionModelUNet with self-attention",
            unet(old.DiffusionModelUNet, "num_channels"),
            unet(new.DiffusionModelUNet, "channels"),
            "diffusion_model_unet.py",
        ),
        (
            "monai-unet-conditional",
            "DiffusionModelUNet with cross-attention",
            unet(old.DiffusionModelUNet, "num_channels", **conditional),
            unet(new.DiffusionModelUNet, "channels", **conditional),
            "diffusion_model_unet.py",
        ),
        (
            "monai-vae3d",
            "AutoencoderKL in 3D",
            vae(old.AutoencoderKL, "num_channels"),
            vae(new.AutoencoderKL, "channels"),
            "autoencoderkl.py",
        ),
        (
            "monai-controlnet",
            "ControlNet with cross-attention",
            control(old.ControlNet, "num_channels"),
            control(new.ControlNet, "channels"),
            "controlnet.py",
        ),
        (
            "monai-decoder-transformer",
            "DecoderOnlyTransformer without cross-attention: norm3 becomes norm2, a new norm stays initialised",
            gpt(old.DecoderOnlyTransformer),
            gpt(new.DecoderOnlyTransformer),
            "transformer.py",
        ),
    ]
    for ident, what, before, after, file in cases:
        if ARGS.only not in ident:
            continue

        def load(sd, after=after):
            model = after().double()
            with torch.no_grad():
                for t in model.state_dict().values():
                    t.fill_(-1)
            model.load_old_state_dict(sd)
            return model.state_dict()

        try:
            T.convert(
                ident + "-generative-to-core",
                f"{what}: monai-generative to MONAI core",
                T.listing(T.state_of(before)),
                T.listing(T.state_of(after)),
                load,
                url=URL + file,
                packages="monai-generative 0.2.3 -> monai 1.6.1",
            )
        except Exception as e:
            print(ident, repr(e)[:500])


if __name__ == "__main__":
    main()
