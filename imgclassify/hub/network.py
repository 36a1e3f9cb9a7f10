"""What the loader hands over, and what the user may ask of it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import labels as label_sets
from imgclassify.catalog import CROP_MODES, INTERPOLATIONS, MAX_SIDE, RGB, ModelManifest, PreprocessSpec, Size
from imgclassify.errors import UsageError
from imgclassify.hub.backends import Backends
from imgclassify.labels import LabelSet

if TYPE_CHECKING:
    from imgclassify.weights import Progress

__all__ = ["Backends", "LoadOptions", "Network", "PreprocessOverrides"]

logger = logging.getLogger("imgclassify")


@dataclass(frozen=True, slots=True)
class PreprocessOverrides:
    """What the user puts in place of a model's own preprocessing; None leaves the model's."""

    resize_size: int | Size | None = None
    crop_size: Size | None = None
    interpolation: str | None = None
    mean: RGB | None = None
    std: RGB | None = None

    def __post_init__(self) -> None:
        if self.interpolation is not None and self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"unknown interpolation {self.interpolation!r}",
                hint=f"use one of {', '.join(INTERPOLATIONS)}",
            )
        for name, channels in (("mean", self.mean), ("std", self.std)):
            if channels is not None and not _is_rgb(channels):
                raise UsageError(f"{name} is {channels!r}", hint="give three numbers, for red, green and blue")
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(f"std is {self.std!r}, and must be above zero", hint="give three others")
        for name, size in (("resize_size", self.resize_size), ("crop_size", self.crop_size)):
            if size is not None and not _is_size(size):
                raise UsageError(f"{name} is {size!r}", hint=f"give 1 to {MAX_SIDE} pixels, or (height, width)")

    def apply_to(self, spec: PreprocessSpec) -> PreprocessSpec:
        """The model's preprocessing with the user's changes; warns where the crop becomes the larger."""
        changed = replace(spec, **{name: value for name, value in self._values().items() if value is not None})
        if (
            changed != spec
            and isinstance(changed.resize_size, int)
            and max(changed.crop_size) > changed.resize_size
        ):
            logger.warning(
                "the crop of %d×%d is larger than the resize to %d: pictures are padded with black; "
                "add --resize-size to avoid it",
                *changed.crop_size,
                changed.resize_size,
            )
        return changed

    def to_spec(self, reference: str) -> PreprocessSpec:
        """A whole preprocessing from the overrides, for a model that brings none.

        Raises:
            UsageError: one is not given; nothing is guessed.
        """
        missing = [f"--{name.replace('_', '-')}" for name, value in self._values().items() if value is None]
        if missing:
            raise UsageError(
                f"{reference} does not say how its images were preprocessed",
                hint="add --arch NAME to take the preprocessing and labels of a catalogued model, or give "
                + ", ".join(missing),
            )
        return PreprocessSpec(**self._values(), antialias=True, crop_mode=CROP_MODES[0])

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in PreprocessOverrides.__slots__}


def _is_rgb(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(channel, int | float) and math.isfinite(channel) for channel in value)
    )


def _is_size(value: object) -> bool:
    sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    return all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model reference."""

    arch: str | None = None
    """A catalogued or `timm:` architecture, for what does not name its own."""
    labels: str | None = None
    """A label set's name or a file, in place of the model's own."""
    with_labels: bool = True
    """Whether labels are needed. Without, a model that has none is loaded too."""
    overrides: PreprocessOverrides = PreprocessOverrides()
    offline: bool = False
    """Never open a socket."""
    trust: bool = False
    """Let torch.hub run the repository's code."""
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A loadable network: weights verified, preprocessing and labels at hand, nothing built yet."""

    model: str
    """The name that records carry."""
    architecture: str
    weights: str
    path: Path | None
    """The verified file of the weights; None where they come with a torch.hub repository's code."""
    sha256: str | None
    """Its full digest."""
    preprocess: PreprocessSpec
    labels: LabelSet | None
    """None where LoadOptions.with_labels is False."""
    num_classes: int | None
    """None where only running the network tells."""
    backends: Backends
    """How it can be run."""
    quantized: bool = False
    """Whether it has types of its own and knows only the CPU."""
    gmacs: float | None = None
    """Giga multiply-accumulates for one image, where somebody states them."""


def labels_for_manifest(manifest: ModelManifest, options: LoadOptions, num_classes: int | None) -> LabelSet | None:
    """The user's label set, else the manifest's, if labels are needed. Checked against `num_classes` if given.

    Raises:
        LabelsError: it cannot be read, or has another number of classes.
        UsageError: neither the user nor the manifest names one.
    """
    if not options.with_labels:
        return None
    name = options.labels or manifest.label_set
    if not name:
        raise UsageError(
            f"{manifest.name} does not say what its classes are called", hint="add --labels NAME or FILE"
        )
    if not options.labels and name not in label_sets.list_label_sets():
        # A manifest's file lies beside the manifest, wherever the program is run.
        name = str(Path(manifest.origin).parent / name)
    return label_sets.load_labels(name, num_classes=num_classes)
