"""A training that is killed at any moment goes on to the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from labelled_images import tiny_spec
from torch import nn

from imgclassify.training.fitting import FittedNetwork, fit_network
from imgclassify.training.recipe import Recipe, default_recipe

CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
import test_resume
test_resume.train_in_child(Path(sys.argv[1]), Path(sys.argv[2]))
"""
KILLS = 10


class Net(nn.Module):
    """A small network with batch norm and dropout, whose statistics and random numbers must be restored too."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


RECIPE = replace(
    default_recipe("finetune", 100),
    epochs=4,
    batch_size=4,
    mixup=0.2,
    cutmix=1.0,
    batch_norm="updated",
    dtype="float32",
    crop_scale=(0.5, 1.0),
)


def fit(data: Path, work: Path, recipe: Recipe = RECIPE, *, seed: int = 5, resume: bool = False) -> FittedNetwork:
    train, val = (sorted_images(data / part) for part in ("train", "val"))
    torch.manual_seed(seed)
    return fit_network(
        Net(),
        train,
        val,
        recipe,
        num_classes=3,
        preprocess=tiny_spec(),
        folder=work,
        seed=seed,
        device="cpu",
        resume=resume,
    )
