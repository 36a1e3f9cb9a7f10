"""Reads what the metadata of an ONNX graph say of the model: class names and preprocessing."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from imgclassify.graphs.onnx_file import OnnxFile
from imgclassify.graphs.onnx_signature import FLOATS, find_image_input
from imgclassify.hub import metadata, ultralytics
from imgclassify.hub.class_names import possible_counts
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.network import PreprocessOverrides

logger = logging.getLogger("imgclassify")

_PIXEL_FORMATS = {"rgb8": "rgb", "bgr8": "bgr", "gray8": "grey"}
"""Values of Image.BitmapPixelFormat, in lower case → channel order."""


class _Range(NamedTuple):
    """The numbers that a graph takes for black and for white."""

    black: float
    white: float


_RANGES = {
    "nominalrange_0_255": _Range(0, 255),
    "normalized_0_1": _Range(0, 1),
    "normalized_1_1": _Range(-1, 1),
    "nominalrange_16_235": _Range(16, 235),
}
"""Values of Image.NominalPixelRange, in lower case."""


def read_config(file: OnnxFile, *, num_classes: Collection[int]) -> FileConfig:
    """Reads class names and preprocessing from the metadata of a graph.

    Args:
        num_classes: how many names the classes of the network may have. Empty if it is not known.

    Raises:
        CheckpointError: the graph is no classifier.
    """
    name = file.path.name
    content = metadata.parse_texts(file.metadata)
    image = find_image_input(file.signature.inputs, file.signature.layout)
    takes_bytes = image is not None and image.takes_bytes
    return (
        _read_image_properties(file.metadata, name, takes_bytes=takes_bytes)
        .combine(ultralytics.read_config(content, name, input_size=image.fixed_size if image else None))
        .combine(metadata.read_config(content, name, num_classes=num_classes, strict=True))
    )


def count_classes(file: OnnxFile, output_name: str | None) -> Collection[int]:
    """Returns how many names the classes of a graph may have. Empty if its outputs do not say it.

    Args:
        output_name: the output to use, if the user names it.
    """
    found: set[int] = set()
    for value in file.signature.outputs:
        if value.type not in FLOATS or output_name not in (None, value.name):
            continue
        sides = [side for side in value.shape[1:] if isinstance(side, int) and side > 0]
        if not sides or len(sides) < len(value.shape) - 1:
            return ()
        found.update(possible_counts(math.prod(sides)))
    return found


def _read_image_properties(properties: Mapping[str, str], name: str, *, takes_bytes: bool) -> FileConfig:
    """Reads the image metadata that docs/MetadataProps.md of github.com/onnx/onnx defines.

    Their keys and values are the same in upper and lower case.
    """
    found = {key.lower(): value.strip().lower() for key, value in properties.items()}
    if found.get("image.colorspacegamma") == "linear":
        logger.warning("%s takes linear light (Image.ColorSpaceGamma), but images are given as they are", name)
    order = _PIXEL_FORMATS.get(found.get("image.bitmappixelformat", ""))
    pixels = None if takes_bytes else _RANGES.get(found.get("image.nominalpixelrange", ""))
    places = {"Image.BitmapPixelFormat": order, "Image.NominalPixelRange": pixels}
    if not any(places.values()):
        return FileConfig()
    overrides = PreprocessOverrides(channel_order=order)
    if pixels:
        # x is 0..1, and (x - mean) / std is black..white.
        std = 1 / (pixels.white - pixels.black)
        overrides = PreprocessOverrides(mean=((0 - pixels.black) * std,) * 3, std=(std,) * 3, channel_order=order)
    where = " and ".join(key for key, value in places.items() if value)
    return FileConfig(preprocess=overrides, origins={"preprocess": f"{where} in {name}"})
