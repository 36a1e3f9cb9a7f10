"""Models with another head, as model folders, and what plain torch code gives for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from imgclassify.hub.network import Network
from imgclassify.training.head import find_head, replace_head
from imgclassify.training.model_folder import TrainedModel, write_model_folder
from imgclassify.training.split_file import SplitRow

NAMES = ("ant", "bee", "golden retriever", "étoile", "x | y")


def probe(width: int, classes: int, *, seed: int = 0, has_bias: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(classes, width)).astype(np.float32) / np.float32(width**0.5)
    return weight, (rng.normal(size=classes) * has_bias).astype(np.float32)


def features_of(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What remains of a network whose last linear layer does nothing."""
    name = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    head = network.get_submodule(name)
    network.set_submodule(name, nn.Identity())
    with torch.inference_mode():
        found = network.eval()(pixels)
    network.set_submodule(name, head)
    return found


def logits_of_head(features: torch.Tensor, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return features.double().numpy() @ weight.T.astype(np.float64) + bias


def normalized(crops: np.ndarray, network: Network) -> torch.Tensor:
    """(N, H, W, 3) uint8 → what the network gets."""
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (network.preprocess.mean, network.preprocess.std))
    return (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - mean) / std


def crops_for(network: Network, count: int = 2, seed: int = 3) -> np.ndarray:
    size = network.preprocess.crop_size
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def split_rows(names: tuple[str, ...]) -> tuple[SplitRow, ...]:
    return tuple(
        SplitRow(f"{name}/{number}.jpg", name, "val" if number == 2 else "train", f"{number:064x}", "")
        for name in names
        for number in range(3)
    )


def teach(network: Network, names: tuple[str, ...], *, seed: int = 0, **fields: Any) -> TrainedModel:
    """A probe of random numbers."""
    head = find_head(network)
    weight, bias = probe(head.shape[1], len(names), seed=seed, has_bias=bool(head.bias))
    known = {"calibration": None, "training": {"method": "probe", "seed": seed}, "split": split_rows(names)}
    return TrainedModel(network, replace_head(network, weight, bias), names, **{**known, **fields})


def write(folder: Path, network: Network, names: tuple[str, ...] = NAMES, **options: Any) -> TrainedModel:
    overwrite = options.pop("overwrite", False)
    model = teach(network, names, **options)
    write_model_folder(folder, model, overwrite=overwrite)
    return model
