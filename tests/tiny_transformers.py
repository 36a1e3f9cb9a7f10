"""Tiny networks of transformers with seeded weights, and the image processors that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from conftest import noise

hf.logging.set_verbosity_error()
hf.logging.disable_progress_bar()

NAMES = {0: "cat", 1: "dog", 2: "emu"}
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def short(side: int) -> dict[str, int]:
    return {"shortest_edge": side}


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "ViT": lambda: (hf.ViTConfig(**_VIT), hf.ViTImageProcessorPil(size=square(32))),
    "DeiT": lambda: (
        hf.DeiTConfig(**_VIT),
        hf.DeiTImageProcessorPil(size=square(39), crop_size=square(32)),
    ),
    "BEiT": lambda: (
        hf.BeitConfig(**_VIT, use_relative_position_bias=True),
        hf.BeitImageProcessorPil(size=square(32)),
    ),
    "Swin": lambda: (
        hf.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
        hf.ViTImageProcessorPil(size=square(32), resample=3),
    ),
    "ConvNeXT": lambda: (
        hf.ConvNextConfig(**_STAGES),
        hf.ConvNextImageProcessorPil(size=short(64), crop_pct=0.875),
    ),
    "ResNet": lambda: (
        hf.ResNetConfig(embedding_size=8, layer_type="basic", **_STAGES),
        hf.ConvNextImageProcessorPil(size=short(384)),
    ),
    "MobileNetV2": lambda: (
        hf.MobileNetV2Config(image_size=64, depth_multiplier=0.35),
        hf.MobileNetV2ImageProcessorPil(size=short(71), crop_size=square(64)),
    ),
    "EfficientNet": lambda: (
        hf.EfficientNetConfig(image_size=64, width_coefficient=0.2, depth_coefficient=0.2, hidden_dim=256),
        hf.EfficientNetImageProcessorPil(
            size=square(64), resample=0, image_mean=[0.485, 0.456, 0.406], image_std=[0.478, 0.473, 0.474]
        ),
    ),
    "DINOv2": lambda: (
        hf.Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=28, patch_size=7
        ),
        hf.BitImageProcessorPil(size=short(35), crop_size=square(28)),
    ),
    "SigLIP": lambda: (
        hf.SiglipConfig(vision_config=_VIT, text_config=_TEXT),
        hf.SiglipImageProcessorPil(size=square(32)),
    ),
    "MobileViT": lambda: (
        hf.MobileViTConfig(image_size=64, hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 32]),
        hf.MobileViTImageProcessorPil(size=short(75), crop_size=square(64)),
    ),
    "LeViT": lambda: (
        hf.LevitConfig(
            image_size=64,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
        ),
        hf.LevitImageProcessorPil(size=short(64), crop_size=square(64)),
    ),
}


def save_model(name: str, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """Saves a network and its image processor as transformers does, and returns both.

    Args:
        name: a key of MODELS.
        changes: values of the configuration.
    """
    config, processor = MODELS[name]()
    config.id2label, config.label2id = NAMES, {text: index for index, text in NAMES.items()}
    config.architectures = []
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(3)
    network = hf.AutoModelForImageClassification.from_config(config).eval()
    _enliven(network, processor)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor


def _enliven(network: Any, processor: Any) -> None:
    """Gives a network weights with which different images get different probabilities."""
    generator = torch.Generator().manual_seed(5)
    images = processor(images=[noise(90, 70, seed=seed) for seed in range(8)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.3 if parameter.ndim == 1 else 1 / parameter[0].numel() ** 0.5
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                module.momentum = 0.5
        for _ in range(8):
            network.train()(pixel_values=images)
        logits = network.eval()(pixel_values=images).logits
        head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
        # Larger logits would magnify the rounding of float32, which differs with the number of threads.
        scale = 0.2 / logits.std(dim=0).mean()
        head.weight.mul_(scale)
        head.bias.sub_(logits.mean(dim=0)).mul_(scale)
