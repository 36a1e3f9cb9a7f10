"""Networks for images of 32×32 pixels that no library builds: that of PyTorch's tutorial, and CIFAR ResNets.

The names of the parameters are those of the checkpoints that people have. Layers are created and initialised in the
order of the original code, so that one seed gives the same initial weights.

This module imports torch, so only `architectures.create_network` imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def create_network(architecture: str, *, num_classes: int, **options: Any) -> nn.Module:
    """Builds an architecture with random weights from torch's global generator.

    Raises:
        ValueError: there is no such architecture.
        TypeError: it does not take one of the options.
    """
    if architecture not in _BUILDERS:
        raise ValueError(f"unknown architecture; there are {', '.join(_BUILDERS)}")
    return _BUILDERS[architecture](num_classes=num_classes, **options)


class CifarNet(nn.Module):
    """The network of PyTorch's tutorial "Training a Classifier", (N, 3, 32, 32) → (N, classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.pool(functional.relu(self.conv1(images)))
        maps = self.pool(functional.relu(self.conv2(maps)))
        features = functional.relu(self.fc1(torch.flatten(maps, 1)))
        features = functional.relu(self.fc2(features))
        logits: torch.Tensor = self.fc3(features)
        return logits


class CifarResNet(nn.Module):
    """A residual network for CIFAR-10 (He et al. 2016, section 4.2), (N, 3, H, W) → (N, classes).

    It has 6 * `blocks` + 2 layers with weights. Names of parameters and initial weights are those of Yerlan
    Idelbayev's implementation, whose checkpoints are widely used.
    """

    def __init__(self, blocks: int, num_classes: int) -> None:
        """
        Args:
            blocks: the number of residual blocks in each of the three stages.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _create_stage(blocks, 16, 16)
        self.layer2 = _create_stage(blocks, 16, 32)
        self.layer3 = _create_stage(blocks, 32, 64)
        self.linear = nn.Linear(64, num_classes)
        self.apply(_initialize)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = functional.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        features = functional.avg_pool2d(maps, maps.shape[2:]).flatten(1)
        logits: torch.Tensor = self.linear(features)
        return logits


class _ResidualBlock(nn.Module):
    """Two convolutions and a shortcut. If it has more channels than its input, its sides are half as long."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.stride = channels // channels_in
        self.padding = (channels - channels_in) // 2
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        residual = functional.relu(self.bn1(self.conv1(maps)))
        residual = self.bn2(self.conv2(residual))
        return functional.relu(residual + self._shortcut(maps))

    def _shortcut(self, maps: torch.Tensor) -> torch.Tensor:
        """Returns every second pixel, with channels of zeros before and after: the paper's option A, which has no
        parameters."""
        if self.stride == 1:
            return maps
        return functional.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


def _create_stage(blocks: int, channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        _ResidualBlock(channels_in, channels), *(_ResidualBlock(channels, channels) for _ in range(blocks - 1))
    )


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "cifar_net": CifarNet,
    **{f"cifar_resnet{6 * blocks + 2}": partial(CifarResNet, blocks) for blocks in (3, 5, 7, 9)},
}
