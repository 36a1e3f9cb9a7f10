"""The settings of the training loop (`Recipe`): their defaults by method, images and network, and named ones.

recipe_file.py writes and reads them as TOML.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple

from imgclassify.errors import UsageError, short_repr

__all__ = ["AUTO", "METHODS", "NETWORK_KINDS", "RECIPES", "Recipe", "default_recipe", "named_recipe"]

METHODS = ("finetune", "scratch")
"""The methods that train all layers of a network."""
NETWORK_KINDS = ("convolutional", "transformer")
"""The kinds of network that need different settings. A network with batch norm is convolutional."""
AUTO = "auto"
"""The value of `epochs` and `dtype` that leaves the choice to the loop."""
_FEW_IMAGES = 1000
"""With fewer images to fine-tune on, steps are gentle and few."""
_SMALL_CROP = 96
"""The longest side in pixels of crops as in CIFAR or Tiny ImageNet: such images are shifted, not zoomed."""


class Setting(NamedTuple):
    """What a setting may be, and what it means."""

    comment: str
    """What it means, as sentences for people."""
    kind: type
    """bool, int, float, str or tuple (of two numbers, the first not above the second)."""
    low: float = 0
    high: float = math.inf
    above: bool = False
    """Whether a number must be above `low`, and not equal to it."""
    words: tuple[str, ...] = ()
    """The words that it may be. If `kind` is a number, a word may stand in its place."""

    def describe(self) -> str:
        """Says what it may be, as the end of a sentence."""
        listed = ", ".join(f'"{word}"' for word in self.words)
        if self.kind is str:
            return f"one of {listed}"
        if self.kind is bool:
            return "true or false"
        what = {int: "a whole number", float: "a number", tuple: "[least, most], two numbers"}[self.kind]
        low, high = f"{self.low:g}", f"{self.high:g}"
        if math.isinf(self.high):
            bounds = f"above {low}" if self.above else f"of at least {low}"
        else:
            bounds = f"above {low} and up to {high}" if self.above else f"from {low} to {high}"
        return f"{what} {bounds}" + (f", or {listed}" if listed else "")

    def accepts(self, value: object) -> bool:
        if isinstance(value, str):
            return value in self.words
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.kind is tuple:
            return (
                isinstance(value, tuple)
                and len(value) == 2
                and all(self._is_within(part) for part in value)
                and value[0] <= value[1]
            )
        if self.kind is int and not isinstance(value, int):
            return False
        return self.kind is not str and self._is_within(value)

    def _is_within(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)


def _setting(comment: str, kind: type, **limits: Any) -> Any:
    return field(metadata={"setting": Setting(comment, kind, **limits)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The settings of the training loop. The comment of each says what it means (`settings_of`).

    Raises:
        UsageError: a setting is of another type, or out of its range.
    """

    epochs: int | str = _setting(
        'How often each image is seen. "auto": up to max_epochs, and no longer than it helps.',
        int,
        low=1,
        words=(AUTO,),
    )
    max_epochs: int = _setting('With epochs = "auto": training ends after so many at the latest.', int, low=1)
    patience: int = _setting(
        'With epochs = "auto": training ends after so many epochs without a better validation loss. 0: never.', int
    )
    time_limit: float = _setting(
        "Seconds of training. 0: no limit. With a limit the learning rate falls with the clock, so that it is low "
        "in time, and no two runs are equal.",
        float,
    )
    batch_size: int = _setting("Images for one step.", int, low=1)
    last_batch: str = _setting(
        "What is done with the images of an epoch that do not fill a batch.", str, words=("keep", "drop")
    )
    optimizer: str = _setting("How gradients become steps.", str, words=("adamw", "sgd"))
    learning_rate: float = _setting("That of the last layer, at its highest.", float, above=True)
    first_layer_rate: float = _setting(
        "Learning rate of the first layer, as a part of that of the last. It rises from layer to layer.",
        float,
        high=1,
        above=True,
    )
    momentum: float = _setting("Of sgd. For adamw: beta1.", float, high=0.9999)
    nesterov: bool = _setting("Whether sgd looks ahead.", bool)
    weight_decay: float = _setting("Of the weights of layers. Norms and biases have none.", float)
    clip_norm: float = _setting("Longest gradient. A longer one is shortened. 0: any.", float)
    schedule: str = _setting(
        "How the learning rate falls after the warm-up.", str, words=("cosine", "linear", "constant")
    )
    warmup_epochs: float = _setting("Epochs in which the learning rate rises.", float)
    final_rate: float = _setting("Learning rate at the end, as a part of the highest.", float, high=1)
    ema_decay: float = _setting(
        "The result is an average of the weights over the steps, of which each step keeps this part. 0: the "
        "weights of the last step.",
        float,
        high=0.99999,
    )
    keep: str = _setting(
        "Which epoch's weights are the result: those of the least validation loss, or of the last.",
        str,
        words=("best", "last"),
    )
    label_smoothing: float = _setting("Probability that is spread over the wrong classes.", float, high=0.5)
    mixup: float = _setting(
        "Blends images in pairs. Both parameters of the beta distribution of their shares. 0: never.", float
    )
    cutmix: float = _setting(
        "Puts a part of one image into another, as mixup blends them. With both, a batch has one of the two.", float
    )
    crop: str = _setting(
        'What the network sees: a random part of the image, "resized"; the crop of predict, "shifted"; or that '
        "crop itself.",
        str,
        words=("resized", "shifted", "center"),
    )
    crop_scale: tuple[float, float] = _setting(
        'Area of a "resized" part, as a part of the image.', tuple, high=1, above=True
    )
    crop_shift: int = _setting('Most pixels by which a "shifted" crop is moved to each side.', int)
    flip: float = _setting("Probability that an image is mirrored.", float, high=1)
    trivial_augment: bool = _setting(
        "Whether colours or geometry of each image are changed at random (TrivialAugment Wide).", bool
    )
    batch_norm: str = _setting(
        'Statistics of batch norm: "frozen" as they are, or "updated" by each batch.',
        str,
        words=("frozen", "updated"),
    )
    dtype: str = _setting(
        'Numbers in which layers compute. "auto": bfloat16 where the processor has it.',
        str,
        words=(AUTO, "float32", "bfloat16"),
    )
    channels_last: bool = _setting(
        "Order of numbers in memory: for each pixel its channels. Quicker with convolutions on most processors.",
        bool,
    )
    loss_every: int = _setting("Batches after which their mean loss is reported. 0: never.", int)

    def __post_init__(self) -> None:
        for name, setting in settings_of().items():
            check_setting(name, getattr(self, name), setting)
        if self.nesterov and not self.momentum:
            raise _rejected("nesterov", True, "false where momentum is 0")

    @property
    def last_epoch(self) -> int:
        """The number of the epoch after which training ends at the latest."""
        return self.max_epochs if isinstance(self.epochs, str) else self.epochs


def settings_of() -> dict[str, Setting]:
    """Returns the settings by name, in order."""
    return {each.name: each.metadata["setting"] for each in fields(Recipe)}


def check_setting(name: str, value: object, setting: Setting, place: str = "recipe") -> None:
    """Raises UsageError if a setting cannot have a value.

    Args:
        place: names the recipe in the error.
    """
    if not setting.accepts(value):
        raise _rejected(name, value, setting.describe(), place)


def _rejected(name: str, value: object, wanted: str, place: str = "recipe") -> UsageError:
    shown = list(value) if isinstance(value, tuple) else value
    return UsageError(
        f"{place}: {name} is {short_repr(shown)}, and must be {wanted}",
        hint="`imgclassify train --recipe print` prints all settings with what they mean",
        argument="recipe" if place == "recipe" else None,
    )


assert all(each.default is MISSING for each in fields(Recipe)), "defaults depend on method, images and network"


def default_recipe(method: str, num_images: int, *, kind: str = "convolutional", crop_side: int = 224) -> Recipe:
    """Returns the settings for a method, a number of images and a network.

    Args:
        method: one of METHODS.
        num_images: how many there are to learn from.
        kind: one of NETWORK_KINDS.
        crop_side: the longer side in pixels of the network's crops.
    """
    if method not in METHODS:
        raise UsageError(f"method is {method!r}", hint=f"use one of {', '.join(METHODS)}", argument="method")
    if method == "finetune":
        return _finetune(num_images, kind, crop_side)
    return _scratch(num_images, kind, crop_side)


def _finetune(num_images: int, kind: str, crop_side: int) -> Recipe:
    batch_size = _batch_size(num_images, 64)
    steps = max(1, num_images // batch_size)
    # Measured on hymenoptera (244 images): AdamW learns them by heart within an epoch, and validation gets worse.
    is_gentle = kind == "convolutional" and num_images < _FEW_IMAGES
    return Recipe(
        epochs=AUTO,
        max_epochs=6 if is_gentle else _auto_epochs(num_images),
        patience=3 if is_gentle else 8,
        time_limit=0.0,
        batch_size=batch_size,
        last_batch=_last_batch(num_images, batch_size),
        optimizer="sgd" if is_gentle else "adamw",
        learning_rate=3e-3 if is_gentle else 3e-4 if kind == "convolutional" else 1e-4,
        first_layer_rate=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4 if is_gentle else 0.05,
        clip_norm=1.0,
        schedule="cosine",
        warmup_epochs=1.0,
        final_rate=0.01,
        ema_decay=_ema_decay(steps),
        keep="best",
        label_smoothing=0.1,
        mixup=0.0,
        cutmix=0.0,
        crop="shifted" if crop_side <= _SMALL_CROP else "resized",
        crop_scale=(0.35, 1.0),
        crop_shift=_shift(crop_side),
        flip=0.5,
        trivial_augment=True,
        batch_norm="frozen",
        dtype=AUTO,
        channels_last=True,
        loss_every=0,
    )


def _scratch(num_images: int, kind: str, crop_side: int) -> Recipe:
    batch_size = _batch_size(num_images, 128)
    steps = max(1, num_images // batch_size)
    convolutional = kind == "convolutional"
    return Recipe(
        epochs=AUTO,
        max_epochs=_auto_epochs(num_images, from_scratch=True),
        patience=0,
        time_limit=0.0,
        batch_size=batch_size,
        last_batch=_last_batch(num_images, batch_size),
        optimizer="sgd" if convolutional else "adamw",
        learning_rate=0.1 * batch_size / 128 if convolutional else 1e-3,
        first_layer_rate=1.0,
        momentum=0.9,
        nesterov=convolutional,
        weight_decay=5e-4 if convolutional else 0.05,
        clip_norm=1.0 if not convolutional else 5.0,
        schedule="cosine",
        warmup_epochs=5.0,
        final_rate=0.0,
        ema_decay=_ema_decay(steps),
        keep="best",
        label_smoothing=0.1,
        mixup=0.0 if convolutional else 0.2,
        cutmix=0.0,
        crop="shifted" if crop_side <= _SMALL_CROP else "resized",
        crop_scale=(0.25, 1.0),
        crop_shift=_shift(crop_side),
        flip=0.5,
        trivial_augment=crop_side > _SMALL_CROP,
        batch_norm="updated",
        dtype=AUTO,
        channels_last=True,
        loss_every=0,
    )


def _auto_epochs(num_images: int, *, from_scratch: bool = False) -> int:
    """Returns the most epochs for a number of images.

    The fewer images there are, the more often each must be seen: a fifth of the images takes 1.4 times the epochs.
    A network without weights needs several times as many.
    """
    epochs = 8 * math.pow(50_000 / max(num_images, 1), 0.2)
    return max(30, min(200, round(5 * epochs))) if from_scratch else max(3, min(40, round(epochs)))


def _batch_size(num_images: int, most: int) -> int:
    """Returns a power of two: at least a dozen steps an epoch, and no batch below 8."""
    return max(8, min(most, 1 << max(0, round(math.log2(max(num_images, 1) / 12)))))


def _last_batch(num_images: int, batch_size: int) -> str:
    """A last batch of one or two images would be a step as long as that of a full one."""
    return "drop" if num_images >= 4 * batch_size else "keep"


def _ema_decay(steps: int) -> float:
    """Returns the decay of an average over the steps of two epochs, and over no more than 1,000."""
    return round(1 - 1 / min(max(2 * steps, 4), 1000), 5)


def _shift(crop_side: int) -> int:
    """He et al. 2015 shift crops of 32 pixels by 4."""
    return max(1, crop_side // 8)


TUTORIAL = Recipe(
    epochs=2,
    max_epochs=2,
    patience=0,
    time_limit=0.0,
    batch_size=4,
    last_batch="keep",
    optimizer="sgd",
    learning_rate=0.001,
    first_layer_rate=1.0,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    clip_norm=0.0,
    schedule="constant",
    warmup_epochs=0.0,
    final_rate=1.0,
    ema_decay=0.0,
    keep="last",
    label_smoothing=0.0,
    mixup=0.0,
    cutmix=0.0,
    crop="center",
    crop_scale=(1.0, 1.0),
    crop_shift=0,
    flip=0.0,
    trivial_augment=False,
    batch_norm="updated",
    dtype="float32",
    channels_last=False,
    loss_every=2000,
)
"""PyTorch's tutorial "Training a Classifier", to the letter."""

RECIPES = {"tutorial": TUTORIAL}
"""The recipes that have a name."""


def named_recipe(name: str) -> Recipe:
    """Returns the recipe of a name.

    Raises:
        UsageError: there is none. The hint lists those that there are.
    """
    if name not in RECIPES:
        raise UsageError(
            f"recipe {name!r} is not known", hint=f"use {', '.join(RECIPES)}, or a file", argument="recipe"
        )
    return RECIPES[name]
