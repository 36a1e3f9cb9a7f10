"""Reads what a mapping says of a model: class names, preprocessing, and the name of the architecture.

Training scripts save their options beside the weights, such as timm's and torchvision's `args`, and the names of
the classes. Exporters write them into the metadata of .safetensors and .onnx files, and into JSON files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from imgclassify.catalog import (
    ACTIVATIONS,
    CHANNEL_ORDERS,
    CROP_MODES,
    INTERPOLATIONS,
    MAX_SIDE,
    PreprocessSpec,
    Size,
    parse_preprocess,
)
from imgclassify.checkpoints import Checkpoint, Tensor, entries_of, to_plain
from imgclassify.errors import ManifestError, UsageError
from imgclassify.hub.class_names import find_class_names
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.network import PreprocessOverrides
from imgclassify.labels import LabelSet

_GROUPS = (
    *("meta", "dataset_meta", "args", "hyper_parameters", "hparams", "config", "cfg", "opt", "options", "params"),
    *("metadata", "info", "data", "dataset", "train_args", "model_args", "data_config", "pretrained_cfg"),
    *("default_cfg", "preprocessing", "preprocess", "transform", "transforms", "extra", "model_config"),
    *("preprocessor_config", "doc_string", "datamodule_hyper_parameters", "datamodule", "label_encoder", "le"),
    *("train_dataset", "train_data", "trainset", "train_ds", "train_set", "mapping", "mappings"),
)
"""Keys of mappings that describe a model."""
_ARCHITECTURES = (
    *("arch", "architecture", "model_name", "model_type", "model", "backbone", "net", "network", "encoder"),
    *("encoder_name", "base_model"),
)
"""Keys of the name of an architecture, the first preferred."""
_CROP_SIZES = ("val_crop_size", "crop_size", "img_size", "image_size", "input_size", "imgsz", "test_size")
"""Keys of the side of a crop, the first preferred."""
_RESIZE_SIZES = ("val_resize_size", "resize_size", "resize")
_CHANNEL_ORDERS = ("channel_order", "color_order", "color_space", "color_mode", "color_format", "input_space")
ACTIVATION_OF_PROBLEM = {"single_label_classification": "softmax", "multi_label_classification": "sigmoid"}
"""By transformers' `problem_type`."""
_ACTIVATION_KEYS = ("output_activation", "final_activation")
"""Keys of the activation of the outputs. Within options, "activation" alone may be that of inner layers."""
_SMALLEST = 8
"""In pixels. A smaller number under one of these keys is no size of images."""
_LARGEST_PERCENTAGE = 2
"""Of timm's crop_pct, which is a fraction. Above 1, the crop is larger than the image."""


_MAX_DEPTH = 3
"""How deep such mappings are searched: hyper_parameters.cfg.data."""


class _Group(NamedTuple):
    """A mapping that may describe the model."""

    key: str
    """Where it is in the file. "" for the content of the file."""
    values: Mapping[str, Any]

    def get(self, name: str) -> Any:
        return to_plain(self.values.get(name))

    def place(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key else name


def checkpoint_content(checkpoint: Checkpoint) -> Any:
    """Returns what describes the model in a checkpoint: the texts of a .safetensors file, else the content."""
    return parse_texts(checkpoint.metadata) or checkpoint.content


def parse_texts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of texts that are JSON, and the other texts as they are."""
    return {name.rpartition("imgclassify.")[2]: _parse_json(text) for name, text in metadata.items()}


def find_architectures(content: Any) -> list[tuple[str, str]]:
    """Finds the names that a mapping gives its architecture.

    Returns:
        (reference as for `--arch`, key) pairs, the likeliest first. A name may be both torchvision's and timm's, or
        nobody's.
    """
    groups = list(_iter_groups(content))
    by_timm = any(
        {"crop_pct", "num_classes"} <= group.values.keys() or "timm_version" in group.values for group in groups
    )
    found: list[tuple[str, str]] = []
    for group in groups:
        for name in _ARCHITECTURES:
            value = group.get(name)
            if not isinstance(value, str) or not re.fullmatch(r"(timm[:/])?[A-Za-z][\w.-]{2,99}", value):
                continue
            prefix, _, bare = value.rpartition(":" if ":" in value else "/")
            timm = f"timm:{bare}"
            forms = [timm] if prefix else [timm, bare] if by_timm else [bare, bare.lower(), timm]
            found += [(form, group.place(name)) for form in forms]
    return list(dict.fromkeys(found))


def read_config(
    content: Any,
    file_name: str,
    *,
    spec: PreprocessSpec | None = None,
    num_classes: Collection[int] = (),
    strict: bool = False,
) -> FileConfig:
    """Reads class names and preprocessing.

    Args:
        content: the mapping. Anything else says nothing.
        file_name: names the file of the mapping.
        spec: the preprocessing of the architecture, if it is known. It says how much of a resized image is cropped.
        num_classes: how many names the classes of the network may have. Names of another number are not its
            classes. Empty if it is not known.
        strict: whether class names of another number are returned too, if there are no others. They are an error.
    """
    groups = list(_iter_groups(content))
    labels, place = _find_labels(groups, num_classes, file_name, strict=strict)
    overrides, places = _find_preprocessing(groups, spec)
    activation, activation_place = _find_activation(groups)
    origins = {"labels": place} if labels else {}
    if activation:
        origins["activation"] = activation_place
    complete = _find_spec(groups, file_name)
    if complete:
        overrides, places = PreprocessOverrides(), ["preprocess"]
    if places:
        origins["preprocess"] = ", ".join(places)
    return FileConfig(
        labels=labels,
        preprocess=overrides,
        spec=complete,
        activation=activation,
        origins={name: f"{where} in {file_name}" for name, where in origins.items()},
    )


def _iter_groups(content: Any) -> Iterator[_Group]:
    """Yields the mapping and the mappings in it that describe the model, outer ones first."""
    pending = [("", content, 0)]
    for key, value, depth in pending:
        entries = entries_of(value)
        if entries is None:
            continue
        named = {name: each for name, each in entries.items() if isinstance(name, str)}
        yield _Group(key, named)
        if depth < _MAX_DEPTH:
            pending += [
                (f"{key}.{name}" if key else name, named[name], depth + 1) for name in _GROUPS if name in named
            ]


def _parse_json(text: Any) -> Any:
    """Returns the value of a text that is JSON, or a Python tuple of numbers. Else returns the text."""
    try:
        return json.loads(re.sub(r"^\((.*)\)$", r"[\1]", text))
    except (ValueError, TypeError, RecursionError):
        return text


def _find_labels(
    groups: Sequence[_Group], num_classes: Collection[int], file_name: str, *, strict: bool
) -> tuple[LabelSet | None, str]:
    """Returns (the class names, the key at which they are)."""
    others: list[tuple[LabelSet, str]] = []
    for group in groups:
        for key, found in find_class_names(group.values):
            place = group.place(key)
            labels = LabelSet(f"{place} in {file_name}", found)
            if not num_classes or len(found) in num_classes:
                return labels, place
            others.append((labels, place))
    return others[0] if others and strict else (None, "")


def _find_activation(groups: Sequence[_Group]) -> tuple[str | None, str]:
    """Returns (the activation, the key at which it is)."""
    for group in groups:
        if found := ACTIVATION_OF_PROBLEM.get(str(group.values.get("problem_type"))):
            return found, group.place("problem_type")
        for name in _ACTIVATION_KEYS if group.key else ("activation", *_ACTIVATION_KEYS):
            word = group.values.get(name)
            if isinstance(word, str) and word.lower() in ACTIVATIONS:
                return word.lower(), group.place(name)
    return None, ""


# Preprocessing ---------------------------------------------------------------------------------------------------


def _find_spec(groups: Sequence[_Group], file_name: str) -> PreprocessSpec | None:
    """Returns the preprocessing that imgclassify itself has written."""
    for group in groups[:1]:
        if isinstance(found := group.values.get("preprocess"), dict):
            with suppress(ManifestError):  # another program's
                return parse_preprocess(found, file_name)
    return None


def _find_preprocessing(
    groups: Sequence[_Group], spec: PreprocessSpec | None
) -> tuple[PreprocessOverrides, list[str]]:
    """Returns (the values that the file has, the keys at which they are)."""
    for group in groups:
        values, names = _preprocessing_of(group, spec)
        if names:
            try:
                return PreprocessOverrides(**values), [group.place(name) for name in names]
            except UsageError:
                continue  # the numbers mean something else
    return PreprocessOverrides(), []


def _preprocessing_of(group: _Group, spec: PreprocessSpec | None) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    names = []
    crop_name, crop = _first_size(group, _CROP_SIZES)
    resize_name, resize = _first_size(group, _RESIZE_SIZES)
    percentage = group.get("crop_pct")
    if not isinstance(percentage, int | float) or not 0 < percentage <= _LARGEST_PERCENTAGE:
        percentage = None
    if crop:
        found["crop_size"] = crop
        names.append(crop_name)
    if resize and len(set(resize)) == 1:
        found["resize_size"] = resize[0]
        names.append(resize_name)
    elif percentage is not None and (crop or spec):
        height, width = (math.floor(side / percentage) for side in crop or (spec.crop_size if spec else ()))
        found |= _short_side(height, width)
        names.append("crop_pct")
    elif crop and spec and isinstance(spec.resize_size, int):
        height, width = (round(spec.resize_size * side / min(spec.crop_size)) for side in crop)
        found |= _short_side(height, width)
    elif crop and spec:
        found["resize_size"] = crop
    order_name, order = _find_channel_order(group)
    if order:
        found["channel_order"] = order
        names.append(order_name)
    crop_mode = group.get("crop_mode")
    if crop_mode in CROP_MODES:
        found["crop_mode"] = crop_mode
        names.append("crop_mode")
    interpolation = group.get("interpolation")
    if isinstance(interpolation, str) and interpolation.lower() in INTERPOLATIONS:
        found["interpolation"] = interpolation.lower()
        names.append("interpolation")
    channels = {name: _as_channels(group.get(name)) for name in ("mean", "std")}
    given = {name: each for name, each in channels.items() if each and (name == "mean" or min(each) > 0)}
    # Alone, one number may be the mean of anything.
    if len(given) == 1 and len(set(*given.values())) == 1:
        given = {}
    # Of pixels in 0..255, if they are above 1.
    scale = 255 if any(max(each) > 1 for each in given.values()) else 1
    found |= {name: tuple(channel / scale for channel in each) for name, each in given.items()}
    names += list(given)
    return found, names


def _find_channel_order(group: _Group) -> tuple[str, str | None]:
    """Returns (key, channel order)."""
    for name in _CHANNEL_ORDERS:
        order = str(group.get(name)).lower()
        if order in CHANNEL_ORDERS:
            return name, order
    return "", None


def _short_side(height: int, width: int) -> dict[str, Any]:
    """Returns the fields of a resize that keeps the aspect ratio."""
    return {"resize_size": height if height == width else (height, width), "crop_mode": "center"}


def _first_size(group: _Group, names: Sequence[str]) -> tuple[str, Size | None]:
    """Returns the first (name, (height, width)): a number, or numbers such as (3, 224, 224)."""
    for name in names:
        value: Any = group.get(name)
        is_list = isinstance(value, list | tuple) and 1 <= len(value) <= len("CHW")
        sides: Sequence[Any] = value[-2:] if is_list else [value]
        # Of two sides that differ, it is not known which is the height.
        if all(type(side) is int and _SMALLEST <= side <= MAX_SIDE for side in sides) and (
            sides[0] == sides[-1] or len(value) == len("CHW")
        ):
            return name, (sides[0], sides[-1])
    return "", None


def _as_channels(value: Any) -> tuple[float, float, float] | None:
    if isinstance(value, Tensor) and math.prod(value.shape) in (1, 3):
        try:
            # Without the digits that a float32 adds.
            value = [round(float(each), 6) for each in value.to_array().ravel()]
        except (ValueError, TypeError):  # it has no numbers, or of a kind that NumPy has not
            return None
    channels = value if isinstance(value, list | tuple) else [value]
    if not all(type(each) in (int, float) and math.isfinite(each) for each in channels):
        return None
    if len(channels) == 1:
        return (float(channels[0]),) * 3
    return tuple(map(float, channels)) if len(channels) == 3 else None  # type: ignore[return-value]
