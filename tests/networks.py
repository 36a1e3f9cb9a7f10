"""Seeded networks as published weights: a checkpoint, a manifest that names it, and a server to fetch it from."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model

from imgclassify import catalog, paths

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def seeded(architecture: str, **options: Any) -> torch.nn.Module:
    """torchvision's architecture with random weights, the same in each run, whose logits differ by class."""
    torch.manual_seed(sum(map(ord, architecture)))
    network = get_model(architecture, weights=None, **options)
    with torch.no_grad():
        for module in network.modules():
            # Statistics of their own make batch norm more than the identity.
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
        # Some heads begin as zeros, and would hide every fault before them; others saturate the softmax.
        kinds = torch.nn.Linear | torch.nn.Conv2d
        side = options.get("image_size", 224)
        head = [module for module in network.modules() if isinstance(module, kinds)][-1]
        torch.nn.init.normal_(head.weight, std=0.05)
        head.weight *= 2 / network.eval()(torch.randn(2, 3, side, side)).std()
    return network.eval()


def publish(folder: Path, network: torch.nn.Module, name: str, **save_options: Any) -> tuple[Path, str]:
    """Saves a state_dict as torchvision names its files. Gives (file, full SHA-256)."""
    draft = folder / f"{name}.draft"
    torch.save(network.state_dict(), draft, **save_options)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    return draft.rename(folder / f"{name}-{digest[:8]}.pth"), digest


def add_manifest(like: str, name: str, url: str, sha256: str, **changes: str) -> None:
    """Adds a model of the user's own: the shipped entry `like` (NAME@WEIGHTS) with other weights."""
    model, _, weights = like.partition("@")
    source = catalog.find_model(model, weights or None)
    text = (paths.data_folder("models") / source.origin.removeprefix("models/")).read_text("utf-8")
    [entry] = [
        entry
        for entry in text.split("[[models]]")[1:]
        if f'name = "{source.name}"\n' in entry and f'weights = "{source.weights}"\n' in entry
    ]
    changes = {
        "name": f'"{name}"',
        "default": "true",
        "url": f'"{url}"',
        "sha256": f'"{sha256}"',
        **changes,
    }
    for key, value in changes.items():
        entry, count = re.subn(rf"(?m)^{key} = .*$", lambda _: f"{key} = {value}", entry)  # noqa: B023
        assert count == 1, key
    folder = catalog.user_models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(f"[[models]]{entry}", "utf-8")


def probabilities(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What plain torch code gives for one preprocessed image, (3, H, W)."""
    with torch.inference_mode():
        return network(pixels[None]).softmax(dim=1)[0]


class TutorialNet(torch.nn.Module):
    """As in PyTorch's tutorial "Training a Classifier"."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 6, 5)
        self.pool = torch.nn.MaxPool2d(2, 2)
        self.conv2 = torch.nn.Conv2d(6, 16, 5)
        self.fc1 = torch.nn.Linear(16 * 5 * 5, 120)
        self.fc2 = torch.nn.Linear(120, 84)
        self.fc3 = torch.nn.Linear(84, classes)

    def spatial(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.nn.functional.relu(self.conv1(x)))
        return self.pool(torch.nn.functional.relu(self.conv2(x)))

    def seen_by_head(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(self.spatial(x), 1)
        x = torch.nn.functional.relu(self.fc1(x))
        return torch.nn.functional.relu(self.fc2(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(self.seen_by_head(x))
