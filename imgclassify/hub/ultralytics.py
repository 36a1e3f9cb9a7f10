"""Reads what ultralytics writes about a YOLO model when it exports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgclassify.catalog import Size
from imgclassify.errors import CheckpointError
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.network import PreprocessOverrides

_CLASSIFY = "classify"
_TASKS = {"detect": "detection", "segment": "segmentation", "pose": "pose estimation", "obb": "detection"}
"""Other tasks of its models, in words."""


def read_config(content: Mapping[str, Any], file_name: str, *, input_size: Size | None = None) -> FileConfig:
    """Returns the preprocessing that ultralytics uses for a classifier.

    It is that of `classify_transforms` in ultralytics.data.augment with its defaults: the short side is resized, or
    both sides if they differ, and the pixels are only scaled to 0..1.

    Args:
        content: the metadata. Those of other exporters say nothing.
        file_name: names the file of the metadata.
        input_size: (height, width) that the graph takes, if it is fixed.

    Raises:
        CheckpointError: the model is no classifier.
    """
    task = content.get("task")
    if not (isinstance(task, str) and {"names", "stride"} <= content.keys()):
        return FileConfig()
    if task in _TASKS:
        raise CheckpointError(
            f"{file_name} is a model for {_TASKS[task]}, not for classification",
            hint="give a classifier, such as yolo11n-cls",
        )
    size = _parse_size(content.get("imgsz")) or input_size
    if task != _CLASSIFY or size is None:
        return FileConfig()
    height, width = size
    return FileConfig(
        preprocess=PreprocessOverrides(
            resize_size=height if height == width else size,
            crop_size=size,
            interpolation="bilinear",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            crop_mode="center" if height == width else "squash",
        ),
        origins={"preprocess": f"imgsz and task in {file_name}"},
    )


def _parse_size(value: Any) -> Size | None:
    sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
    return (sides[0], sides[1]) if all(type(side) is int and side > 0 for side in sides) else None
