"""Makes photographs from the repository's examples: `python -m benchmarks.photos FOLDER --count N`.

This is a separate process because it needs Pillow, and the process that measures must stay small.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.layout import EXAMPLES

KINDS = ("web", "phone")
PHONE_SIZE = (4032, 3024)
_LARGE = 0.05
"""The share of web photographs that are larger than the usual 500 pixels."""


def make(folder: Path, count: int, *, kind: str = "web", seed: int = 0) -> list[Path]:
    """Makes `count` JPEG files with random crops, flips, colours, sizes, grain and quality.

    The same seed and the same version of Pillow give the same bytes.

    Args:
        kind: "web" photographs have about 500 × 375 pixels, like most of ImageNet, and a few are larger.
            "phone" photographs have 12 megapixels.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        work = partial(_make_one, folder, kind, seed)
        return list(processes.map(work, range(count), chunksize=max(1, min(16, count // 4))))


def _make_one(folder: Path, kind: str, seed: int, index: int) -> Path:
    random = np.random.default_rng([seed, index])
    originals = sorted(EXAMPLES.glob("*.jpg"))
    with Image.open(originals[index % len(originals)]) as original:
        image = _vary(original.convert("RGB"), random)
    if kind == "phone":
        size, quality, grain = PHONE_SIZE, 90, 7.0
    else:
        size, quality, grain = _web_size(random), int(random.integers(85, 97)), float(random.uniform(5, 12))
    path = folder / f"photo_{index:05}.jpg"
    _grainy(_crop(image, size, random), grain, random).save(path, quality=quality)
    return path


def _vary(image: Image.Image, random: np.random.Generator) -> Image.Image:
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    for enhancement in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancement(image).enhance(float(random.uniform(0.7, 1.3)))
    return image


def _web_size(random: np.random.Generator) -> tuple[int, int]:
    long = int(random.integers(1000, 1601)) if random.random() < _LARGE else 500
    short = int(long * random.uniform(0.66, 0.8))
    return (long, short) if random.random() < 0.75 else (short, long)


def _crop(image: Image.Image, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """Cuts out a random window with the aspect ratio of `size`, and resizes it to `size`.

    The window has at least half of the largest possible width and height.
    """
    width, height = size
    scale = random.uniform(0.5, 1.0) * min(image.width / width, image.height / height)
    left = random.uniform(0, image.width - scale * width)
    top = random.uniform(0, image.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    return image.resize(size, Image.Resampling.BICUBIC, box=box)


def _grainy(image: Image.Image, grain: float, random: np.random.Generator) -> Image.Image:
    """Adds noise like that of a camera sensor.

    An enlarged image has no fine detail. Without noise, it would decode faster than a photograph.
    """
    pixels = np.asarray(image, np.float32)
    noise = random.standard_normal(pixels.shape[:2], np.float32)[..., None]
    return Image.fromarray((pixels + grain * noise + 0.5).clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--kind", choices=KINDS, default="web")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.count, kind=arguments.kind, seed=arguments.seed)


if __name__ == "__main__":
    main()
