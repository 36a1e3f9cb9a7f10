"""Reads what a checkpoint says beside its weights: class names, preprocessing, and the name of the architecture.

Training scripts save their options, such as timm's and torchvision's `args`, and the names of the classes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from imgclassify import labels as label_sets
from imgclassify.catalog import INTERPOLATIONS, MAX_SIDE, PreprocessSpec
from imgclassify.checkpoints import Checkpoint, entries_of
from imgclassify.errors import UsageError
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.network import PreprocessOverrides
from imgclassify.labels import Label, LabelSet

_GROUPS = (
    *("meta", "dataset_meta", "args", "hyper_parameters", "hparams", "config", "cfg", "opt", "options", "params"),
    *("metadata", "info", "data", "dataset", "train_args", "model_args", "data_config", "pretrained_cfg"),
    *("default_cfg", "preprocessing", "preprocess", "transform", "transforms", "extra", "model_config"),
)
"""Keys of mappings that describe a model."""
_CLASS_NAMES = (
    *("class_to_idx", "idx_to_class", "id2label", "label2id", "class_names", "label_names", "classes"),
    *("classnames", "names", "labels", "categories", "class_list", "idx2label", "index_to_class", "idx_to_label"),
    *("label_to_idx", "class2idx", "idx2class", "label_map", "class_map", "class_mapping", "label_mapping"),
    *("labels_map", "vocab"),
)
"""Keys of class names, in lower case, the first preferred."""
_ARCHITECTURES = (
    *("arch", "architecture", "model_name", "model_type", "model", "backbone", "net", "network", "encoder"),
    *("encoder_name", "base_model"),
)
"""Keys of the name of an architecture, the first preferred."""
_CROP_SIZES = ("val_crop_size", "crop_size", "img_size", "image_size", "input_size", "imgsz", "test_size")
"""Keys of the side of a crop, the first preferred."""
_RESIZE_SIZES = ("val_resize_size", "resize_size", "resize")
_SMALLEST = 8
"""In pixels. A smaller number under one of these keys is no size of images."""
_LARGEST_PERCENTAGE = 2
"""Of timm's crop_pct, which is a fraction. Above 1, the crop is larger than the image."""
_WNID = re.compile(r"n\d{8}")
_MAX_CLASSES = 10**6


class _Group(NamedTuple):
    """A mapping that may describe the model."""

    key: str
    """Where it is in the file. "" for the content of the file."""
    values: Mapping[str, Any]

    def place(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name


def find_architectures(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Finds the names that a checkpoint gives its architecture.

    Returns:
        (reference as for `--arch`, key) pairs, the likeliest first. A name may be both torchvision's and timm's, or
        nobody's.
    """
    groups = list(_iter_groups(checkpoint))
    by_timm = any(
        {"crop_pct", "num_classes"} <= group.values.keys() or "timm_version" in group.values for group in groups
    )
    found: list[tuple[str, str]] = []
    for group in groups:
        for name in _ARCHITECTURES:
            value = group.values.get(name)
            if not isinstance(value, str) or not re.fullmatch(r"(timm[:/])?[A-Za-z][\w.-]{2,99}", value):
                continue
            prefix, _, bare = value.rpartition(":" if ":" in value else "/")
            timm = f"timm:{bare}"
            forms = [timm] if prefix else [timm, bare] if by_timm else [bare, bare.lower(), timm]
            found += [(form, group.place(name)) for form in forms]
    return list(dict.fromkeys(found))


def read_config(checkpoint: Checkpoint, spec: PreprocessSpec, num_classes: int) -> FileConfig:
    """Reads class names and preprocessing.

    Args:
        spec: the preprocessing of the architecture. It says how much of a resized image is cropped.
        num_classes: the number of classes of the network. Names of another number are not its classes.
    """
    groups = list(_iter_groups(checkpoint))
    labels, place = _find_labels(groups, num_classes, checkpoint.path.name)
    overrides, places = _find_preprocessing(groups, spec)
    origins = {"labels": place} if labels else {}
    if places:
        origins["preprocess"] = ", ".join(places)
    return FileConfig(
        labels=labels,
        preprocess=overrides,
        origins={name: f"{where} in {checkpoint.path.name}" for name, where in origins.items()},
    )


def _iter_groups(checkpoint: Checkpoint) -> Iterator[_Group]:
    """Yields the content of the file and the mappings in it that describe the model, outer ones first."""
    if checkpoint.metadata:
        yield _Group("", {name: _parse_json(value) for name, value in checkpoint.metadata.items()})
        return
    pending = [("", checkpoint.content, 0)]
    for key, value, depth in pending:
        entries = entries_of(value)
        if entries is None:
            continue
        named = {name: each for name, each in entries.items() if isinstance(name, str)}
        yield _Group(key, named)
        if depth < 2:
            pending += [
                (f"{key}.{name}" if key else name, named[name], depth + 1) for name in _GROUPS if name in named
            ]


def _parse_json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text


# Class names -----------------------------------------------------------------------------------------------------


def _find_labels(groups: Sequence[_Group], num_classes: int, file_name: str) -> tuple[LabelSet | None, str]:
    """Returns (the class names, the key at which they are)."""
    for group in groups:
        by_key = {name.lower(): name for name in group.values}
        for key in _CLASS_NAMES:
            if key not in by_key:
                continue
            names = parse_class_names(group.values[by_key[key]])
            # A network of one output may have the names of both of its classes.
            if names and (len(names) == num_classes or (num_classes == 1 and len(names) == 2)):
                place = group.place(by_key[key])
                return LabelSet(f"{place} in {file_name}", _as_labels(names)), place
    return None, ""


def parse_class_names(value: Any) -> list[str] | None:
    """Returns class names in class-index order, or None if the value does not hold any.

    Args:
        value: a list of names, or a dictionary from names to indices or from indices to names.
    """
    if isinstance(value, str):
        value = _parse_json(value)
    entries = entries_of(value)
    if entries is not None:
        return _parse_named_indices(entries)
    items = getattr(value, "items", None) if not isinstance(value, list | tuple) else value
    if not isinstance(items, list | tuple) or not 0 < len(items) <= _MAX_CLASSES:
        return None
    return list(items) if all(isinstance(name, str) and name.strip() for name in items) else None


def _parse_named_indices(entries: Mapping[Any, Any]) -> list[str] | None:
    pairs = [
        (index, name) for pair in entries.items() for index, name in (pair, pair[::-1]) if _is_class(index, name)
    ]
    by_index = {int(index): name for index, name in pairs}
    if not pairs or not len(pairs) == len(by_index) == len(entries):
        return None
    if by_index.keys() != set(range(len(by_index))):
        return None
    return [by_index[index] for index in range(len(by_index))]


def _is_class(index: Any, name: Any) -> bool:
    """Whether a pair is an index, which JSON has as text, and a name."""
    if not isinstance(name, str) or not name.strip():
        return False
    if isinstance(index, int) and not isinstance(index, bool):
        return 0 <= index < _MAX_CLASSES
    return isinstance(index, str) and re.fullmatch(r"\d{1,6}", index) is not None and not name.isdigit()


def _as_labels(names: Sequence[str]) -> tuple[Label, ...]:
    """Returns the names as labels. WordNet ids, which are the folders of ImageNet, become the names of classes."""
    if not all(map(_WNID.fullmatch, names)):
        return tuple(Label(index, None, name) for index, name in enumerate(names))
    known = {label.wnid: label for label in label_sets.load_labels("imagenet1k").labels}
    return tuple(
        replace(known[name], class_index=index) if name in known else Label(index, name, name)
        for index, name in enumerate(names)
    )


# Preprocessing ---------------------------------------------------------------------------------------------------


def _find_preprocessing(groups: Sequence[_Group], spec: PreprocessSpec) -> tuple[PreprocessOverrides, list[str]]:
    """Returns (the values that the file has, the keys at which they are)."""
    for group in groups:
        values, names = _preprocessing_of(group.values, spec)
        if values:
            try:
                return PreprocessOverrides(**values), [group.place(name) for name in names]
            except UsageError:
                continue  # the numbers mean something else
    return PreprocessOverrides(), []


def _preprocessing_of(values: Mapping[str, Any], spec: PreprocessSpec) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    names = []
    crop_name, crop = _first_size(values, _CROP_SIZES)
    resize_name, resize = _first_size(values, _RESIZE_SIZES)
    percentage = values.get("crop_pct")
    if not isinstance(percentage, int | float) or not 0 < percentage <= _LARGEST_PERCENTAGE:
        percentage = None
    if crop:
        found["crop_size"] = (crop, crop)
        names.append(crop_name)
    if resize:
        found["resize_size"] = resize
        names.append(resize_name)
    elif percentage is not None:
        found["resize_size"] = math.floor((crop or min(spec.crop_size)) / percentage)
        names.append("crop_pct")
    elif crop and isinstance(spec.resize_size, int):
        found["resize_size"] = round(spec.resize_size * crop / min(spec.crop_size))
    elif crop:
        found["resize_size"] = (crop, crop)
    interpolation = values.get("interpolation")
    if isinstance(interpolation, str) and interpolation.lower() in INTERPOLATIONS:
        found["interpolation"] = interpolation.lower()
        names.append("interpolation")
    channels = {name: _as_channels(values.get(name)) for name in ("mean", "std")}
    given = {name: each for name, each in channels.items() if each and (name == "mean" or min(each) > 0)}
    # Alone, one number may be the mean of anything.
    if len(given) == 1 and len(set(*given.values())) == 1:
        given = {}
    # Of pixels in 0..255, if they are above 1.
    scale = 255 if any(max(each) > 1 for each in given.values()) else 1
    found |= {name: tuple(channel / scale for channel in each) for name, each in given.items()}
    names += list(given)
    return found, names


def _first_size(values: Mapping[str, Any], names: Sequence[str]) -> tuple[str, int | None]:
    """Returns the first (name, side in pixels) of square images: a number, or equal ones such as (3, 224, 224)."""
    for name in names:
        value: Any = values.get(name)
        is_list = isinstance(value, list | tuple) and 1 <= len(value) <= len("CHW")
        is_list = isinstance(value, list | tuple) and 1 <= len(value) <= len("CHW")
        sides: Sequence[Any] = value[-2:] if is_list else [value]
        if all(type(side) is int and _SMALLEST <= side <= MAX_SIDE for side in sides) and len(set(sides)) == 1:
            return name, int(sides[0])
    return "", None


def _as_channels(value: Any) -> tuple[float, float, float] | None:
    channels = value if isinstance(value, list | tuple) else [value]
    if not all(type(each) in (int, float) and math.isfinite(each) for each in channels):
        return None
    if len(channels) == 1:
        return (float(channels[0]),) * 3
    return tuple(map(float, channels)) if len(channels) == 3 else None  # type: ignore[return-value]
