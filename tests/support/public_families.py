"""Twenty public model families, built without weights: what real module trees and real keys look like.

Needs timm and transformers (the ``oracle`` extra). Nothing is downloaded: the sizes are those of the default
configurations, and all tensors lie on the meta device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

_HEAD = ("size-mismatch-head",)
# A language model's last layer is as large as its vocabulary: either reading of its size is right.
_VOCABULARY = ("size-mismatch-vocab", "size-mismatch-head")


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        name: For people.
        build: Size of the head or of the vocabulary to a model on the meta device.
        size: The one that the checkpoint has.
        sizes: Others.
        resized: Causes that are right when only that size differs.
    """

    name: str
    build: Callable[[int], nn.Module]
    size: int
    sizes: Sequence[int]
    resized: tuple[str, ...]


def families() -> list[Family]:
    """Ten of timm and ten of transformers."""
    return [*(_of_timm(n) for n in _TIMM), *(_of_transformers(*row) for row in _TRANSFORMERS)]


_TIMM = (
    "resnet50",
    "convnext_tiny",
    "efficientnet_b0",
    "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_large_100",
    "densenet121",
    "regnety_016",
    "mixer_b16_224",
    "deit_base_distilled_patch16_224",
)
_LABELS, _WORDS = (10, 37, 100, 365, 1001), (8, 1000, 28996, 30524, 50272)
# Class, argument of its configuration, the size that is taken as saved, others, causes.
_TRANSFORMERS = (
    ("BertForSequenceClassification", "num_labels", 2, _LABELS, _HEAD),
    ("GPT2LMHeadModel", "vocab_size", 50257, _WORDS, _VOCABULARY),
    ("T5ForConditionalGeneration", "vocab_size", 32128, _WORDS, _VOCABULARY),
    ("LlamaForCausalLM", "vocab_size", 32000, _WORDS, _VOCABULARY),
    ("CLIPModel", "vocab_size", 49408, _WORDS, _VOCABULARY),
    ("WhisperForConditionalGeneration", "vocab_size", 51865, (51864, 51866, 52000), _VOCABULARY),
    ("Wav2Vec2ForCTC", "vocab_size", 32, (29, 40, 52, 392), _VOCABULARY),
    ("RobertaForSequenceClassification", "num_labels", 2, _LABELS, _HEAD),
    ("DistilBertForSequenceClassification", "num_labels", 2, _LABELS, _HEAD),
    ("SegformerForSemanticSegmentation", "num_labels", 150, (2, 19, 21), _HEAD),
)


def _of_timm(name: str) -> Family:
    _let_torchvision_be_imported()
    import timm

    def build(size: int) -> nn.Module:
        with torch.device("meta"):
            return timm.create_model(name, num_classes=size)

    return Family(name, build, 1000, _LABELS, _HEAD)


def _of_transformers(name: str, argument: str, size: int, sizes: Sequence[int], resized: tuple[str, ...]) -> Family:
    import transformers

    cls = getattr(transformers, name)

    def build(size: int) -> nn.Module:
        config = cls.config_class()
        # CLIP keeps the words in a configuration of its own.
        setattr(config.text_config if hasattr(config, "text_config") else config, argument, size)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(config).to("meta")  # a tensor here and there is made by itself, on the CPU

    return Family(name, build, size, sizes, resized)


def _let_torchvision_be_imported() -> None:
    """timm imports torchvision for a few names; it needs none of its operators.

    The wheels of torchvision on the package index hold an extension for the CUDA build of torch. Beside the CPU build
    it cannot be loaded, and then importing torchvision fails where it describes two of its operators to torch.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for operator in ("nms", "qnms"):
            _OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
