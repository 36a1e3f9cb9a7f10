"""Makes the crops that a network is trained on: parts of images, mirrored and changed at random.

The randomness of an image in an epoch depends on nothing but the seed, the epoch and the position of the image. The
operations are those of torchvision.transforms.v2, on PIL images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.training.recipe import Recipe

_RATIO = (3 / 4, 4 / 3)
"""Least and most width over height of a part."""
_ATTEMPTS = 10
"""How often a part is drawn before the centre is taken: a part of a long strip may not fit in it."""
_BINS = 31
"""Number of strengths of an operation."""


def random_generator(seed: int, epoch: int, index: int, purpose: int = 0) -> np.random.Generator:
    """Returns a generator whose numbers depend on these four alone.

    Args:
        seed: any whole number.
        epoch, index: at least 0, below 2**64.
        purpose: tells apart generators for different things, below 2**64.
    """
    key, counter = np.array([seed % 2**64, purpose], np.uint64), np.array([0, 0, epoch, index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class Augmentation:
    """Cuts out a crop and changes it, as a recipe says."""

    def __init__(self, recipe: Recipe, spec: PreprocessSpec, seed: int) -> None:
        self._recipe = recipe
        self._spec = spec
        self._seed = seed
        modes = {mode.value: mode for mode in InterpolationMode}
        self._interpolation = modes[spec.interpolation]

    def __call__(self, pixels: NDArray[np.uint8], epoch: int, index: int, out: NDArray[np.uint8]) -> None:
        """Writes the crop of an image.

        Args:
            pixels: the image, (H, W, 3) in RGB. For the crops "shifted" and "center", predict's crop of it.
            epoch: the number of the epoch.
            index: the position of the image in the data.
            out: (crop height, crop width, 3), in the network's order of channels.
        """
        random = random_generator(self._seed, epoch, index)
        recipe = self._recipe
        image: Any = Image.fromarray(pixels)
        if recipe.crop == "resized":
            box = draw_part(random, (image.height, image.width), recipe.crop_scale)
            image = functional.resized_crop(image, *box, list(self._spec.crop_size), self._interpolation)
        elif recipe.crop == "shifted":
            image = _shift(random, image, recipe.crop_shift)
        if random.random() < recipe.flip:
            image = functional.horizontal_flip(image)
        if recipe.trivial_augment:
            image = trivial_augment(random, image)
        out[...] = self._to_array(image)

    def _to_array(self, image: Image.Image) -> NDArray[np.uint8]:
        order = self._spec.channel_order
        if self._recipe.crop != "resized":  # predict's crop has the network's order of channels
            return np.asarray(image)
        if order == "grey":
            return np.asarray(image.convert("L"))[..., None]
        return np.asarray(image)[..., ::-1] if order == "bgr" else np.asarray(image)


def draw_part(
    random: np.random.Generator, size: tuple[int, int], scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draws a part of an image, as torchvision.transforms.v2.RandomResizedCrop does.

    Args:
        size: (height, width) of the image.
        scale: least and most area of the part, as a part of the image's.

    Returns:
        (top, left, height, width).
    """
    height, width = size
    for _ in range(_ATTEMPTS):
        area = height * width * random.uniform(*scale)
        ratio = math.exp(random.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < part_width <= width and 0 < part_height <= height:
            top = int(random.integers(height - part_height + 1))
            left = int(random.integers(width - part_width + 1))
            return top, left, part_height, part_width
    part_height, part_width = height, width
    if width < height * _RATIO[0]:
        part_height = round(width / _RATIO[0])
    elif width > height * _RATIO[1]:
        part_width = round(height * _RATIO[1])
    return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def _shift(random: np.random.Generator, image: Any, most: int) -> Any:
    """Moves an image by up to `most` pixels in both directions. What is then empty is black (He et al. 2015)."""
    top, left = (int(shift) for shift in random.integers(-most, most + 1, 2))
    return image.crop((left, top, left + image.width, top + image.height))


class _Operation(NamedTuple):
    """A change of colours or geometry."""

    apply: Callable[[Any, float], Any]
    """(image, strength) → image."""
    strengths: tuple[float, ...] = (0.0,)
    signed: bool = False
    """Whether the strength is as often negative."""


def _shear(x: float, y: float) -> Callable[[Any, float], Any]:
    def apply(image: Any, strength: float) -> Any:
        degrees = math.degrees(math.atan(strength))
        return functional.affine(
            image, 0.0, [0, 0], 1.0, [x * degrees, y * degrees], InterpolationMode.BILINEAR, center=[0, 0]
        )

    return apply


def _translate(x: int, y: int) -> Callable[[Any, float], Any]:
    def apply(image: Any, strength: float) -> Any:
        pixels = int(strength)
        return functional.affine(image, 0.0, [x * pixels, y * pixels], 1.0, [0.0, 0.0], InterpolationMode.BILINEAR)

    return apply


def _bins(first: float, last: float) -> tuple[float, ...]:
    return tuple(torch.linspace(first, last, _BINS).tolist())


OPERATIONS = {
    "Identity": _Operation(lambda image, _: image),
    "ShearX": _Operation(_shear(1, 0), _bins(0.0, 0.99), signed=True),
    "ShearY": _Operation(_shear(0, 1), _bins(0.0, 0.99), signed=True),
    "TranslateX": _Operation(_translate(1, 0), _bins(0.0, 32.0), signed=True),
    "TranslateY": _Operation(_translate(0, 1), _bins(0.0, 32.0), signed=True),
    "Rotate": _Operation(
        lambda image, strength: functional.rotate(image, strength, InterpolationMode.BILINEAR),
        _bins(0.0, 135.0),
        signed=True,
    ),
    "Brightness": _Operation(
        lambda image, strength: functional.adjust_brightness(image, 1.0 + strength), _bins(0.0, 0.99), signed=True
    ),
    "Color": _Operation(
        lambda image, strength: functional.adjust_saturation(image, 1.0 + strength), _bins(0.0, 0.99), signed=True
    ),
    "Contrast": _Operation(
        lambda image, strength: functional.adjust_contrast(image, 1.0 + strength), _bins(0.0, 0.99), signed=True
    ),
    "Sharpness": _Operation(
        lambda image, strength: functional.adjust_sharpness(image, 1.0 + strength), _bins(0.0, 0.99), signed=True
    ),
    "Posterize": _Operation(lambda image, strength: functional.posterize(image, round(strength)), _bins(8.0, 2.0)),
    "Solarize": _Operation(lambda image, strength: functional.solarize(image, 255.0 * strength), _bins(1.0, 0.0)),
    "AutoContrast": _Operation(lambda image, _: functional.autocontrast(image)),
    "Equalize": _Operation(lambda image, _: functional.equalize(image)),
}
"""The operations of torchvision.transforms.v2.TrivialAugmentWide, by its names, with its strengths."""
_OPERATIONS = tuple(OPERATIONS.values())


def trivial_augment(random: np.random.Generator, image: Any) -> Any:
    """Applies one operation of one strength, all equally probable (Müller and Hutter 2021)."""
    operation = _OPERATIONS[int(random.integers(len(_OPERATIONS)))]
    strength = operation.strengths[int(random.integers(len(operation.strengths)))]
    if operation.signed and random.random() < 0.5:
        strength = -strength
    return operation.apply(image, strength)


class Mixture(NamedTuple):
    """Images that were mixed in pairs."""

    images: torch.Tensor
    partner_classes: torch.Tensor
    """The class of the other image of each pair, (N,)."""
    share: float
    """The share of the other images, 0..1."""


def mix_images(
    random: np.random.Generator, images: torch.Tensor, classes: torch.Tensor, recipe: Recipe
) -> Mixture | None:
    """Mixes each image with the one before it, as the recipe's `mixup` or `cutmix` says. None if neither does.

    Zhang et al. 2018 and Yun et al. 2019. With both, one of the two is chosen for each batch.

    Args:
        images: (N, 3, H, W). Not changed.
        classes: (N,).
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    cuts = bool(recipe.cutmix) and (not recipe.mixup or random.random() < 0.5)
    alpha = recipe.cutmix if cuts else recipe.mixup
    share = float(random.beta(alpha, alpha))
    partners, partner_classes = images.roll(1, 0), classes.roll(1, 0)
    if not cuts:
        return Mixture(torch.lerp(images, partners, share), partner_classes, share)
    height, width = images.shape[2:]
    # As in the paper: the centre is drawn, and what lies outside the image is cut off.
    y, x = int(random.integers(height)), int(random.integers(width))
    half_height, half_width = round(height * math.sqrt(share) / 2), round(width * math.sqrt(share) / 2)
    top, bottom = max(0, y - half_height), min(height, y + half_height)
    left, right = max(0, x - half_width), min(width, x + half_width)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return Mixture(mixed, partner_classes, (bottom - top) * (right - left) / (height * width))
