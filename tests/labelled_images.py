"""Small made images of classes that a network can tell apart, as labelled sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from imgclassify.catalog import PreprocessSpec
from imgclassify.sources import expand
from imgclassify.training.dataset import LabelledSource

HALF = (0.5, 0.5, 0.5)


def tiny_spec(side: int = 32, **changes: object) -> PreprocessSpec:
    """The preprocessing of PyTorch's tutorial: nothing is resized, mean and std are 0.5."""
    values = {
        "resize_size": side,
        "crop_size": (side, side),
        "interpolation": "bilinear",
        "antialias": True,
        "mean": HALF,
        "std": HALF,
    }
    return PreprocessSpec(**{**values, **changes})  # type: ignore[arg-type]


def made_pixels(class_index: int, number: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Noise of (height, width) that is brighter in one channel and in one half: the class."""
    random = np.random.default_rng([class_index, number])
    pixels = random.integers(0, 160, (*size, 3), dtype=np.uint8)
    half = slice(0, size[0] // 2) if class_index % 2 else slice(size[0] // 2, None)
    pixels[half, :, class_index % 3] += 90
    return pixels


def make_images(
    folder: Path, num_classes: int, each: int, size: tuple[int, int] = (32, 32), suffix: str = ".png"
) -> list[LabelledSource]:
    """Writes images of each class, and returns them in the order class by class."""
    folder.mkdir(parents=True)
    labelled = []
    for class_index in range(num_classes):
        for number in range(each):
            path = folder / f"{class_index}-{number:03}{suffix}"
            Image.fromarray(made_pixels(class_index, number, size)).save(path)
            labelled += [LabelledSource(source, class_index) for source in as_sources(path)]
    return labelled


def as_sources(path: Path) -> list:
    return list(expand([str(path)], notice=lambda _: None, offline=True))
