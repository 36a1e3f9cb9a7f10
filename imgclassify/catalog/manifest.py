"""What a manifest says of a model: preprocessing, metadata, and the manifest itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EMBEDDED_MODEL = "efficientnet_lite0"
"""The default: its weights are a dependency of the package, so it never needs a network."""

PROVIDERS = ("torchvision", "timm")
"""Who builds an architecture."""

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CROP_MODES = ("center", "squash", "border")

MAX_SIDE = 8192
"""Pixels; more than any network takes, and a picture of that size is three quarters of a gigabyte in float32."""

Size = tuple[int, int]
RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How an RGB image becomes a network's input; the field names are torchvision's.

    Resize, crop, scale to 0..1, then `(x - mean) / std` for each channel.
    """

    resize_size: int | Size
    """The short side in pixels, the long side following; or (height, width)."""
    crop_size: Size
    """(height, width) in pixels, cut from the centre."""
    interpolation: str
    """One of INTERPOLATIONS."""
    antialias: bool
    """As published. The PIL path, which this is, always antialiases when it shrinks."""
    mean: RGB
    std: RGB
    crop_mode: str = "center"
    """timm's word. "center": keep the aspect ratio and cut the overhang off. "squash": resize to `resize_size`
    whatever the ratio. "border": fit the whole image in and fill with the mean."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; square sizes as one number."""
        height, width = self.crop_size
        return {
            "resize_size": self.resize_size if isinstance(self.resize_size, int) else list(self.resize_size),
            "crop_size": height if height == width else [height, width],
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            "mean": list(self.mean),
            "std": list(self.std),
        }


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the publisher says of the weights. Nothing is computed from it."""

    num_params: int
    gflops: float
    """Giga multiply-accumulates for one image, as torchvision and timm count them."""
    acc1: float
    """acc@1 in percent, on ImageNet-1k's validation set."""
    acc5: float
    min_size: Size
    """(height, width) in pixels of the smallest input the network takes."""
    file_size_mib: float
    """The checkpoint's size in MiB (2**20 bytes)."""
    license: str
    """Licence of the weights, as a name or an address; empty where the publisher states none."""
    recipe: str
    """Where the training is described; empty where the publisher names no place."""


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A model: architecture, weights, preprocessing and labels, bound together."""

    name: str
    weights: str
    """The weights' version, such as "IMAGENET1K_V2"."""
    default: bool
    """Whether the bare name means these weights."""
    architecture: str
    """The builder's name at its provider."""
    provider: str
    """One of PROVIDERS."""
    url: str
    """https, http, file, or `package:import_name/path` for a file inside an installed package."""
    sha256: str
    """The published digest of the checkpoint or its head: 8 to 64 hex digits; empty where none is published."""
    num_classes: int
    label_set: str
    preprocess: PreprocessSpec
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the builder that these weights need."""
    rename: tuple[tuple[str, str], ...] = ()
    """(pattern, replacement) pairs for re.sub, applied in order to each name in the checkpoint."""
    metadata: ModelMetadata | None = None
    """None for a user's own model that states none."""
    origin: str = ""
    """The file it was read from."""

    @property
    def reference(self) -> str:
        """The exact model reference, `name@WEIGHTS`."""
        return f"{self.name}@{self.weights}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what a reader wants to know, under the manifest's own keys."""
        metadata = self.metadata
        return {
            "name": self.name,
            "weights": self.weights,
            "default": self.default,
            "architecture": self.architecture,
            "provider": self.provider,
            "url": self.url,
            "sha256": self.sha256,
            "num_classes": self.num_classes,
            "label_set": self.label_set,
            "preprocess": self.preprocess.to_dict(),
            "options": {
                key: value if isinstance(value, bool | int | float) else str(value)
                for key, value in self.options.items()
            },
            "metadata": None
            if metadata is None
            else {name: getattr(metadata, name) for name in ModelMetadata.__slots__},
        }
