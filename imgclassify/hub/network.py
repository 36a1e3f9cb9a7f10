"""The result of loading a model (`Network`) and the options for loading it (`LoadOptions`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import labels as label_sets
from imgclassify.catalog import (
    ACTIVATIONS,
    CHANNEL_ORDERS,
    CROP_MODES,
    INTERPOLATIONS,
    MAX_SIDE,
    RGB,
    FeatureLayers,
    ModelManifest,
    PreprocessSpec,
    PublishedTemperature,
    Size,
)
from imgclassify.errors import UsageError
from imgclassify.graphs.graph import TRANSFORM_INPUT
from imgclassify.hub.backends import Backends
from imgclassify.labels import LabelSet

if TYPE_CHECKING:
    from imgclassify.weights import Progress

__all__ = ["Backends", "LoadOptions", "Network", "PreprocessOverrides"]

logger = logging.getLogger("imgclassify")


@dataclass(frozen=True, slots=True)
class PreprocessOverrides:
    """Replacements for values of a model's own preprocessing. None keeps the model's value."""

    resize_size: int | Size | None = None
    crop_size: Size | None = None
    interpolation: str | None = None
    mean: RGB | None = None
    std: RGB | None = None
    channel_order: str | None = None
    crop_mode: str | None = None
    """One of CROP_MODES. By default, it follows from `resize_size`: a short side keeps the aspect ratio ("center"),
    and (height, width) does not ("squash")."""

    def __post_init__(self) -> None:
        for name, word, words in (
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("channel_order", self.channel_order, CHANNEL_ORDERS),
            ("crop_mode", self.crop_mode, CROP_MODES),
        ):
            if word is not None and word not in words:
                raise UsageError(f"{name} is {word!r}", hint=f"use one of {', '.join(words)}", argument=name)
        for name, channels in (("mean", self.mean), ("std", self.std)):
            if channels is not None and not _is_rgb(channels):
                raise UsageError(
                    f"{name} is {channels!r}",
                    hint="give three numbers, for red, green and blue",
                    argument=name,
                )
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(
                f"std is {self.std!r}, but each number must be above zero",
                hint="give three positive numbers",
                argument="std",
            )
        for name, size in (("resize_size", self.resize_size), ("crop_size", self.crop_size)):
            if size is not None and not _is_size(size):
                raise UsageError(
                    f"{name} is {size!r}",
                    hint=f"give 1 to {MAX_SIDE} pixels, or a height and a width",
                    argument=name,
                )
        for name, channels in (("mean", self.mean), ("std", self.std)):
            if channels is not None and max(map(abs, channels)) > 1:
                raise _not_in_unit_scale(name, channels, self.mean, self.std)
        if self.crop_mode is None and self.resize_size is not None:
            crop_mode = "center" if isinstance(self.resize_size, int) else "squash"
            object.__setattr__(self, "crop_mode", crop_mode)

    @property
    def is_complete(self) -> bool:
        """Whether the values are a whole preprocessing. The channels are RGB if nothing else is said."""
        return None not in (self.resize_size, self.crop_size, self.interpolation, self.mean, self.std)

    def combine(self, other: PreprocessOverrides) -> PreprocessOverrides:
        """Returns the values of both. Where both have a value, this one counts."""
        return replace(other, **{name: value for name, value in self._values().items() if value is not None})

    def apply_to(self, spec: PreprocessSpec) -> PreprocessSpec:
        """Returns the model's preprocessing with the user's changes.

        Logs a warning if there are changes and the crop is larger than the resized image.
        """
        changed = replace(spec, **{name: value for name, value in self._values().items() if value is not None})
        if changed != spec and changed.crop_mode != "border":
            size = changed.resize_size
            height, width = (size, size) if isinstance(size, int) else size
            if changed.crop_size[0] > height or changed.crop_size[1] > width:
                logger.warning(
                    "the crop of %d×%d is larger than the resize to %s: images are padded with black; "
                    "give a larger --resize-size to avoid this",
                    *changed.crop_size,
                    size if isinstance(size, int) else f"{height}×{width}",
                )
        return changed

    def to_spec(self, reference: str) -> PreprocessSpec:
        """Returns a complete preprocessing made of the overrides, for a model that has none.

        Raises:
            UsageError: an override is missing. Nothing is guessed.
        """
        if missing := self.missing():
            wanted = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
            raise UsageError(
                f"{reference} has no preprocessing of its own",
                hint=f"give {wanted}; or, for a file, "
                "give --arch NAME to use the preprocessing and labels of a catalogued model",
            )
        values = self._values() | {"channel_order": self.channel_order or CHANNEL_ORDERS[0]}
        return PreprocessSpec(**values, antialias=True)

    def missing(self) -> list[str]:
        """Returns the fields without a value that a complete preprocessing needs."""
        optional = ("channel_order", "crop_mode")  # nearly always "rgb", and what resize_size says
        return [name for name, value in self._values().items() if value is None and name not in optional]

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in PreprocessOverrides.__slots__}


def _is_rgb(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(channel, int | float) and math.isfinite(channel) for channel in value)
    )


def _not_in_unit_scale(name: str, channels: RGB, mean: RGB | None, std: RGB | None) -> UsageError:
    """Returns the error for a mean or std beyond 1. Its hint has both, for pixels scaled to 0..1."""
    from imgclassify.catalog.pixel_scale import format_channels, is_factor, to_unit_scale

    scaled = to_unit_scale(mean, std)
    hint = "give the mean and std of pixels in 0..1"
    if scaled.fits:
        options = [
            f"--{option} {format_channels(values)}"
            for option, values in (("mean", scaled.mean), ("std", scaled.std))
            if values is not None
        ]
        hint = f"numbers for pixels in 0..255 are divided by 255: {' '.join(options)}"
        if name == "mean" and std is not None and is_factor(std):
            hint += f", if {format_channels(std)} multiplies"
    return UsageError(f"{name} is {channels!r}, but pixels are scaled to 0..1 first", hint=hint, argument=name)


def _is_size(value: object) -> bool:
    sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    return all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model reference."""

    arch: str | None = None
    """A catalogued or `timm:` architecture, for a model that does not name its own."""
    labels: str | None = None
    """The name of a label set, or a file, in place of the model's own labels."""
    with_labels: bool = True
    """Whether labels are needed. If False, a model without labels can be loaded."""
    overrides: PreprocessOverrides = PreprocessOverrides()
    activation: str | None = None
    """One of ACTIVATIONS, in place of what is known of the model. None finds it out."""
    output_name: str | None = None
    """The output to use, of a network with several."""
    checkpoint_key: str | None = None
    """The key of the state_dict in a checkpoint with several, such as "state_dict_ema". Dots lead deeper."""
    transform_input: bool | None = None
    """For a checkpoint of an architecture that has torchvision's option of this name. None means as published."""
    offline: bool = False
    """Never open a socket."""
    trust: bool = False
    """Run the code of a torch.hub repository, or a TorchScript program."""
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise UsageError(
                f"activation is {self.activation!r}",
                hint=f"use one of auto, {', '.join(ACTIVATIONS)}",
                argument="activation",
            )


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is ready to be built: weights verified, preprocessing and labels loaded."""

    model: str
    """The name of the model in the results."""
    architecture: str
    weights: str
    path: Path | None
    """The verified file of the weights. None if the code of a torch.hub repository loads them."""
    sha256: str | None
    """The full digest of that file. None also for an .onnx graph with weights in other files."""
    preprocess: PreprocessSpec
    labels: LabelSet | None
    """None if LoadOptions.with_labels is False."""
    num_classes: int | None
    """0 if the network has no classifier. None if the number is known only after the network has run."""
    backends: Backends
    """The ways to run the network."""
    activation: str | None = None
    """One of ACTIVATIONS, as the user or the model's own files give it. None if it is found out when the network
    runs."""
    output_name: str | None = None
    """The output to use, as the user gives it."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where labels, preprocessing, activation and architecture were found, if the model's files say them:
    FileConfig.origins. An activation without an origin is the user's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else was chosen of what the file may mean: `checkpoint_key`, `transform_input`."""
    quantized: bool = False
    """Whether the network is quantized, and so runs only on the CPU and in its own types."""
    gmacs: float | None = None
    """Giga multiply-accumulates per image, if known."""
    manifest: ModelManifest | None = None
    """The architecture, with the options that it needs, if it is one of torchvision or timm that can be built anew.
    For a user's checkpoint, also with the preprocessing and the key of the state_dict."""
    config: Mapping[str, Any] | None = None
    """The configuration of a network of transformers: the content of its config.json."""
    license: str = ""
    """The licence of the weights, as a name or an address. Empty if it is not known."""
    load_unprepared: Callable[[], Network] | None = None
    """Loads the network that a graph of `models prepare` was made of. None of other networks."""
    layers: FeatureLayers | None = None
    """The layers that features come from, for torch. None if they are not known."""
    calibration: PublishedTemperature | None = None
    """A published temperature for these weights with this preprocessing. None if there is none."""
    own_calibration: str | None = None
    """The text of a calibration file (confidence/calibration.py) that is in the model's own files, if one is."""
    source_sha256: str | None = None
    """The digest of the weights that an exported file was made from, as the file says it."""


def chosen_options(checkpoint_key: str, manifest: ModelManifest) -> dict[str, Any]:
    """Returns Network.options of a user's checkpoint.

    Args:
        checkpoint_key: the key of its state_dict, if it was chosen among several.
        manifest: its architecture, with the options that were chosen for it.
    """
    found: dict[str, Any] = {"checkpoint_key": checkpoint_key} if checkpoint_key else {}
    if TRANSFORM_INPUT in manifest.options:
        found[TRANSFORM_INPUT] = bool(manifest.options[TRANSFORM_INPUT])
    return found


def labels_for_manifest(manifest: ModelManifest, options: LoadOptions, num_classes: int | None) -> LabelSet | None:
    """Returns the user's label set, or else the manifest's. Returns None if labels are not needed.

    Args:
        num_classes: the number of labels that the set must have; None to accept any number.

    Raises:
        LabelsError: the label set cannot be read, or has another number of classes.
        UsageError: neither the user nor the manifest names a label set.
    """
    if not options.with_labels:
        return None
    name = options.labels or manifest.label_set
    if not name:
        raise UsageError(f"{manifest.name} has no class names", hint="give --labels NAME or --labels FILE")
    if not options.labels and name not in label_sets.list_label_sets():
        # A relative path in a manifest is relative to the manifest's folder, not to the current folder.
        name = str(Path(manifest.origin).parent / name)
    return label_sets.load_labels(name, num_classes=num_classes)
