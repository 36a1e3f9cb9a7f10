"""Defines the contents of a manifest: the model itself, its preprocessing and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EMBEDDED_MODEL = "efficientnet_lite0"
"""The default model. Its weights come with a dependency of the package, so it never needs the internet."""

PROVIDERS = ("torchvision", "timm", "imgclassify")
"""The libraries that build architectures. "imgclassify" is hub/cifar_networks.py."""

PROGRAMS = ("onnx", "torchscript", "pt2")
"""The kinds of file that contain their own network. They stand in place of a provider."""

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CROP_MODES = ("center", "squash", "border")
CROP_ROUNDINGS = ("even", "down")
CHANNEL_ORDERS = ("rgb", "bgr", "grey")
ACTIVATIONS = ("softmax", "sigmoid", "none")
"""What turns the outputs of a network into probabilities. "none" means that they are probabilities already."""

MAX_SIDE = 8192
"""Largest side in pixels. No network takes more, and an image of this size needs 0.75 GiB in float32."""

Size = tuple[int, int]
RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """The steps that turn an RGB image into a network's input. The field names are torchvision's.

    The image is resized, cropped and scaled to 0..1. Then `(x - mean) / std` is computed for each channel.
    """

    resize_size: int | Size
    """The short side in pixels (the long side keeps the aspect ratio), or (height, width)."""
    crop_size: Size
    """(height, width) in pixels of the crop, which is cut from the centre."""
    interpolation: str
    """One of INTERPOLATIONS."""
    antialias: bool
    """The published value, for information only. Pillow always antialiases when it shrinks an image."""
    mean: RGB
    std: RGB
    crop_mode: str = "center"
    """One of CROP_MODES, which are timm's terms. "center" keeps the aspect ratio and cuts off what is outside
    the crop. "squash" resizes to `resize_size` and ignores the aspect ratio. "border" fits in the whole image
    and fills the rest with the mean."""
    channel_order: str = "rgb"
    """One of CHANNEL_ORDERS: the order in which the network takes the channels. `mean` and `std` are in this order.
    "grey" is for networks of one channel: the image is converted to Pillow's mode L before it is resized, and all
    three channels of a crop are equal. Such a network takes the first."""

    crop_rounding: str = "even"
    """One of CROP_ROUNDINGS. If the crop's margins are an odd number of pixels, the centre lies between two pixels.
    "even" rounds the first pixel to the even number and pads the smaller half before the image, as torchvision
    and timm do. "down" rounds down, as transformers does."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON. A square crop size becomes one number. Rare fields are left out if they
        have their defaults."""
        height, width = self.crop_size
        return {
            "resize_size": self.resize_size if isinstance(self.resize_size, int) else list(self.resize_size),
            "crop_size": height if height == width else [height, width],
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            "mean": list(self.mean),
            "std": list(self.std),
            **({} if self.channel_order == "rgb" else {"channel_order": self.channel_order}),
            **({} if self.crop_rounding == "even" else {"crop_rounding": self.crop_rounding}),
        }


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The publisher's figures for the weights.

    `models list` shows them and sorts by them. Only `gflops` affects a run: it helps to choose the device.
    """

    num_params: int
    gflops: float
    """Giga multiply-accumulates for one image, as torchvision and timm count them."""
    acc1: float
    """Top-1 accuracy in percent, on ImageNet-1k's validation set."""
    acc5: float
    """Top-5 accuracy in percent, on the same set."""
    min_size: Size
    """(height, width) in pixels of the smallest input that the network takes."""
    file_size_mib: float
    """The checkpoint's size in MiB (2**20 bytes)."""
    license: str
    """The licence of the weights, as a name or an address; empty if the publisher states none."""
    recipe: str
    """The address of a description of the training; empty if the publisher gives none."""


class PublishedTemperature(NamedTuple):
    """A temperature that makes the probabilities of published weights more like frequencies.

    It was measured with the model's own preprocessing.
    """

    temperature: float
    """The logits are divided by it before the softmax. Above zero; below 1 it raises the largest probability."""
    ece_before: float
    """Expected calibration error (15 equal-width bins) without it, 0..1."""
    ece_after: float
    """The same with it."""
    source: str
    """Who measured it, and on which images."""


class FeatureLayers(NamedTuple):
    """The layers of a torch network that features come from, by their names in the network."""

    head: str
    """The last linear layer. Its input is the features. A 1×1 convolution counts too; its input is averaged."""
    feature_map: str
    """The last spatial map before pooling: "layer" means its input, "layer:output" its output, and
    "layer:output:relu" its output after a ReLU that is no layer. Empty if the network has no such map."""


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A model: architecture, weights, preprocessing and labels that belong together.

    An architecture that nobody has published weights for is a manifest too: for the weights of a user, and for
    training. Its `weights`, `url` and `sha256` are empty.
    """

    name: str
    weights: str
    """The version of the weights, such as "IMAGENET1K_V2". Empty if there are none."""
    default: bool
    """Whether the name alone means these weights."""
    architecture: str
    """The provider's name for the architecture, or the kind of program."""
    provider: str
    """One of PROVIDERS or PROGRAMS."""
    url: str
    """An https, http or file URL, or `package:import_name/path` for a file inside an installed package. Empty if
    there are no weights."""
    sha256: str
    """The published SHA-256 digest of the checkpoint, or its first digits: 8 to 64 hex digits. Empty if none is
    published."""
    num_classes: int
    """Of the weights. Of an architecture without weights, the number that it is usually built with."""
    label_set: str
    """The name of a shipped label set, or the path of a label file. Empty if the classes have no names."""
    preprocess: PreprocessSpec
    activation: str = ""
    """One of ACTIVATIONS. Empty if the outputs show it (engines/activation.py)."""
    output_name: str = ""
    """The output to use, of a network with several. Empty if only one can be meant."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that these weights need when the architecture is built."""
    rename: tuple[tuple[str, str], ...] = ()
    """(pattern, replacement) pairs for re.sub, which are applied in order to each name in the checkpoint."""
    checkpoint_key: str = ""
    """The key of the state_dict in the user's own file, if it is not the usual one. Dots lead deeper."""
    layers: FeatureLayers | None = None
    """None if they are not known. timm's networks need none."""
    calibration: PublishedTemperature | None = None
    """None if none is published, or if it does not help."""
    metadata: ModelMetadata | None = None
    """None if a model of the user has none."""
    gflops: float | None = None
    """The cost of one image, of a model without metadata: see ModelMetadata."""
    file: str = ""
    """The absolute path of the user's own file, if the manifest names one instead of a URL. `url` is then its
    file URL."""
    origin: str = ""
    """The file that the manifest was read from."""

    @property
    def reference(self) -> str:
        """The exact model reference, `name@WEIGHTS`; the name alone if there are no weights."""
        return f"{self.name}@{self.weights}" if self.weights else self.name

    @property
    def has_weights(self) -> bool:
        """Whether the manifest says where weights are. Without, it is only an architecture."""
        return self.url != ""

    @property
    def gmacs(self) -> float | None:
        """Giga multiply-accumulates for one image, if known."""
        return self.metadata.gflops if self.metadata else self.gflops

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON under the manifest's keys, without those that only a loader needs."""
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
            "calibration": self.calibration._asdict() if self.calibration else None,
            "metadata": None
            if metadata is None
            else {name: getattr(metadata, name) for name in ModelMetadata.__slots__},
        }
