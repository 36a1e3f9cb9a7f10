"""What the loader hands over, and what the user may ask of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import labels as label_sets
from imgclassify.catalog import CROP_MODES, INTERPOLATIONS, RGB, ModelManifest, PreprocessSpec, Size
from imgclassify.errors import UsageError
from imgclassify.labels import LabelSet

if TYPE_CHECKING:
    import torch

    from imgclassify.weights import Progress


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
        if self.std is not None and not all(self.std):
            raise UsageError(f"--std {self.std} holds a zero, and is divided by", hint="give three others")
        sides = [*self.crop_size] if self.crop_size else []
        sides += [self.resize_size] if isinstance(self.resize_size, int) else [*(self.resize_size or ())]
        if any(side < 1 for side in sides):
            raise UsageError(f"{min(sides)} is no size in pixels", hint="give one above zero")

    def apply(self, spec: PreprocessSpec) -> PreprocessSpec:
        """The model's preprocessing with the user's changes."""
        return replace(spec, **{name: value for name, value in self._given().items() if value is not None})

    def alone(self, reference: str) -> PreprocessSpec:
        """A whole preprocessing from the overrides, for a model that brings none.

        Raises:
            UsageError: one is not given; nothing is guessed.
        """
        missing = [f"--{name.replace('_', '-')}" for name, value in self._given().items() if value is None]
        if missing:
            raise UsageError(
                f"{reference} does not say how its images were preprocessed",
                hint="add --arch NAME to take the preprocessing and labels of a catalogued model, or give "
                + ", ".join(missing),
            )
        return PreprocessSpec(**self._given(), antialias=True, crop_mode=CROP_MODES[0])

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in PreprocessOverrides.__slots__}


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a model reference."""

    arch: str | None = None
    """A catalogued or `timm:` architecture, for what does not name its own."""
    labels: str | None = None
    """A label set's name or a file, in place of the model's own."""
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
    labels: LabelSet
    num_classes: int | None
    """None where only running the network tells."""
    build: Callable[[], torch.nn.Module] | None
    """Makes the torch module with its weights, on the CPU; None for an .onnx file, which is at `path`."""
    quantized: bool = False
    """Whether it has types of its own and knows only the CPU."""


def labels_for(manifest: ModelManifest, options: LoadOptions, num_classes: int | None) -> LabelSet:
    """The user's label set if there is one, else the manifest's; checked against the number of classes.

    Raises:
        LabelsError: it cannot be read, or its count is another.
    """
    return label_sets.load(options.labels or manifest.label_set, num_classes=num_classes)


def foreign_spec(
    reference: str, options: LoadOptions, find: Callable[[str], ModelManifest]
) -> tuple[PreprocessSpec, LabelSet, str]:
    """(preprocessing, labels, architecture) of a network that brings none of its own: those of `--arch`, else the
    user's alone.

    Raises:
        UsageError: something is left unsaid.
        LabelsError: the label set cannot be read.
    """
    if options.arch is not None:
        manifest = find(options.arch)
        return (
            options.overrides.apply(manifest.preprocess),
            labels_for(manifest, options, None),
            manifest.name,
        )
    spec = options.overrides.alone(reference)
    if options.labels is None:
        raise UsageError(f"{reference} does not say what its classes are called", hint="add --labels NAME or FILE")
    return spec, label_sets.load(options.labels), ""
