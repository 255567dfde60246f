"""Cases from two releases of timm: checkpoint of the old release, model of the new one.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31
    pip install --no-deps --target OLD04 timm==0.4.12
    pip install --no-deps --target OLD06 timm==0.6.13
    python make_timm_versions.py --timm04 OLD04 --timm06 OLD06

Source listing: `timm.create_model(name).state_dict()` of the old release. Target listing: the same of the new release.
Truth: the new release's `checkpoint_filter_fn` of that model file, which exists to load the old files, run on marked
tensors. Where the file has no such function (`None` below), equal names are meant, as timm loads them.
"""

import importlib
import re

import tracing as T

ARGS = T.arguments("timm04", "timm06")
URL = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/models/"
CASES = [
    # id, model, option, old version, module, tags, what
    (
        "timm04-levit-to-timm1",
        "levit_128s",
        "timm04",
        "0.4.12",
        "levit",
        [],
        "LeViT: c/bn to linear/bn, flat blocks to stages, attention-bias indices dropped",
    ),
    (
        "timm06-tresnet-to-timm1",
        "tresnet_m",
        "timm06",
        "0.6.13",
        "tresnet",
        [],
        "TResNet: in-place ABN pairs to named conv and bn",
    ),
    (
        "timm06-pit-to-timm1",
        "pit_s_224",
        "timm06",
        "0.6.13",
        "pit",
        [],
        "PiT (names of the original files): pools.N to transformers.N+1.pool",
    ),
    (
        "timm06-swin-to-timm1",
        "swin_tiny_patch4_window7_224",
        "timm06",
        "0.6.13",
        "swin_transformer",
        ["overlap-trap"],
        "Swin: downsample moves from the end of a stage to the start of the next; masks and indices not stored",
    ),
    (
        "timm06-poolformer-to-timm1",
        "poolformer_s12",
        "timm06",
        "0.6.13",
        "metaformer",
        [],
        "PoolFormer becomes a MetaFormer: other modules, layer scales, stem and norms",
    ),
    (
        "timm06-sequencer-to-timm1",
        "sequencer2d_s",
        "timm06",
        "0.6.13",
        "sequencer",
        ["overlap-trap"],
        "Sequencer2D (LSTMs): flat blocks to stages with downsampling",
    ),
    (
        "timm06-swinv2cr-to-timm1",
        "swinv2_cr_tiny_224",
        "timm06",
        "0.6.13",
        "swin_transformer_v2_cr",
        ["easy"],
        "SwinV2-CR: only the head moves to head.fc",
    ),
]


def levit(sd, model):
    """The pairing of timm's own conversion of the LeViT files, kept in levit.py as a comment: both in order."""
    sd = {k: v for k, v in sd.items() if "attention_bias_idxs" not in k}
    out = {}
    for (ka, va), vb in zip(model.state_dict().items(), sd.values(), strict=True):
        if va.ndim == 4 and vb.ndim == 2:
            vb = vb[:, :, None, None]
        if va.shape != vb.shape:
            raise ValueError(ka)
        out[ka] = vb
    return out


def tresnet(sd, model):
    """The published function also adds 1e-5 to the absolute BatchNorm weights; the marks are read without that."""
    return {
        k: v.round()
        for k, v in importlib.import_module("timm.models.tresnet").checkpoint_filter_fn(sd, model).items()  # noqa: TID251
    }


SPECIAL = {"levit": levit, "tresnet": tresnet}


def original_pit(rows):
    """The names of the original files: the inverse of the renaming in timm 0.6.13, pools listed after transformers."""
    rows = [[re.sub(r"transformers\.(\d)\.pool", r"pools.\1", k), s, d] for k, s, d in rows]
    last = max(i for i, r in enumerate(rows) if r[0].startswith("transformers."))
    pools = [r for r in rows if r[0].startswith("pools.")]
    head = [r for r in rows[: last + 1] if r not in pools]
    return head + pools + [r for r in rows[last + 1 :] if r not in pools]


def main():
    import timm

    old = {}
    for option in ("timm04", "timm06"):
        path = getattr(ARGS, option)
        names = [c[1] for c in CASES if c[2] == option and ARGS.only in c[0]]
        if path and names:
            setup = f"import timm\nBUILD = {{n: (lambda n=n: timm.create_model(n)) for n in {names!r}}}"
            old[option] = T.old_listings(path, setup)
    for ident, name, option, version, module, tags, what in CASES:
        if name not in old.get(option, {}):
            continue
        new = T.state_of(lambda name=name: timm.create_model(name))
        model = timm.create_model(name)
        function = SPECIAL.get(module) or importlib.import_module("timm.models." + module).checkpoint_filter_fn  # noqa: TID251
        source = original_pit(old[option][name]) if module == "pit" else old[option][name]
        T.convert(
            ident,
            what,
            source,
            T.listing(new),
            lambda sd, f=function, m=model: f(sd, m),
            url=URL + module + ".py",
            packages=f"{'original names, from ' if module == 'pit' else ''}timm {version} -> timm 1.0.31, {name}",
            tags=tags,
        )


if __name__ == "__main__":
    main()
