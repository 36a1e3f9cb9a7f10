"""Parses the TOML text of a manifest file, and checks every key."""

from __future__ import annotations

import math
import re
import reprlib
import tomllib
import warnings
from pathlib import Path
from typing import Any, cast

from imgclassify.catalog.manifest import (
    ACTIVATIONS,
    CHANNEL_ORDERS,
    CROP_MODES,
    CROP_ROUNDINGS,
    INTERPOLATIONS,
    MAX_SIDE,
    PROGRAMS,
    PROVIDERS,
    RGB,
    FeatureLayers,
    ModelManifest,
    ModelMetadata,
    PreprocessSpec,
    PublishedTemperature,
    Size,
)
from imgclassify.errors import ManifestError

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
_URL_KINDS = "an http, https, file or package: URL"
_LAYER = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
_WEIGHTS_OPTIONS = (
    "weights",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
)
"""Builder arguments that load weights without verification. In old versions of timm, this can run code."""
_DEEP_KEY = re.compile(r"""(?:\.[\t ]*+(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[\t ]*+){32}""")
"""A dotted key like a.b.c with more than 32 parts. tomllib's time grows with the square of their number."""
_MAX_LEVEL = 1e30
"""The largest absolute value in `mean` and `std`."""
_KIND_NAMES = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "an array",
    dict: "a table",
}


def parse_manifests(text: str, origin: str) -> list[ModelManifest]:
    """Returns the models of one manifest file.

    Args:
        origin: the file's name, in errors and in the result.

    Raises:
        ManifestError: the text is not TOML, or a key is unknown, missing, or has a wrong type or value. The
            message names the file and the key.
    """
    root = parse_toml(text, origin)
    models = take_models(root, origin)
    root.check_empty()
    return models


def parse_toml(text: str, origin: str) -> TomlTable:
    """Returns the root table of a TOML text.

    Args:
        origin: the file's name, in errors.

    Raises:
        ManifestError: the text is not TOML.
    """
    try:
        if _DEEP_KEY.search(text):
            raise RecursionError
        document = tomllib.loads(text)
    except RecursionError:
        raise ManifestError(f"{origin}: nested too deeply", hint="fix the file, or move it away") from None
    except ValueError as error:  # invalid TOML, or a number with more digits than Python converts
        raise ManifestError(f"{origin}: not TOML: {error}", hint="fix the file, or move it away") from error
    return TomlTable(document, origin, "")


def take_models(
    root: TomlTable, origin: str, providers: tuple[str, ...] = PROVIDERS + PROGRAMS
) -> list[ModelManifest]:
    """Takes the models out of the root table of a manifest file.

    Args:
        origin: as for `parse_manifests`.
        providers: the values that `provider` may have.

    Raises:
        ManifestError: as for `parse_manifests`.
    """
    return [
        _parse_model(TomlTable(entry, origin, f"models[{index}]"), origin, providers)
        if isinstance(entry, dict)
        else root.reject("models", "an array of tables")
        for index, entry in enumerate(root.take_value("models", list))
    ]


class TomlTable:
    """A TOML table whose keys are taken out one by one, each with its type. At the end, no key may be left."""

    def __init__(self, values: dict[str, Any], origin: str, place: str) -> None:
        self._values = dict(values)
        self._origin = origin
        self._place = place

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def reject(self, key: str, wanted: str) -> Any:
        raise ManifestError(
            f"{self._origin}: {self._key_path(key)} must be {wanted}", hint="docs/models.md describes each key"
        )

    def take_value(self, key: str, kind: type | tuple[type, ...], *, default: Any = ...) -> Any:
        if key not in self._values:
            if default is not ...:
                return default
            raise ManifestError(
                f"{self._origin}: missing key {self._key_path(key)}", hint="docs/models.md describes each key"
            )
        value = self._values.pop(key)
        # In Python, bool is a subclass of int, but `true` is not a valid number in a manifest.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            self.reject(key, " or ".join(_KIND_NAMES[each] for each in kinds))
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.reject(key, "a 64-bit integer")
        return value

    def take_float(self, key: str) -> float:
        value = float(self.take_value(key, (int, float)))
        return value if math.isfinite(value) else cast(float, self.reject(key, "a finite number"))

    def take_positive(self, key: str) -> int:
        value = cast(int, self.take_value(key, int))
        return value if value > 0 else cast(int, self.reject(key, "above zero"))

    def take_choice(self, key: str, words: tuple[str, ...], *, default: Any = ...) -> str:
        value = cast(str, self.take_value(key, str, default=default))
        return value if value in words else cast(str, self.reject(key, f"one of {', '.join(words)}"))

    def take_matching(self, key: str, pattern: str, wanted: str) -> str:
        value = cast(str, self.take_value(key, str))
        return value if re.fullmatch(pattern, value) else cast(str, self.reject(key, wanted))

    def take_size(self, key: str) -> Size:
        value = self.take_value(key, (int, list))
        pair = [value, value] if isinstance(value, int) else value
        if not _is_size(pair):
            self.reject(key, f"a number of pixels up to {MAX_SIDE}, or [height, width]")
        return (pair[0], pair[1])

    def take_rgb(self, key: str) -> RGB:
        value = self.take_value(key, list)
        # Compared before the conversion, because float() raises OverflowError for an integer beyond its range.
        if len(value) != 3 or not all(type(part) in (int, float) and abs(part) <= _MAX_LEVEL for part in value):
            self.reject(key, "three numbers, for red, green and blue")
        return (float(value[0]), float(value[1]), float(value[2]))

    def take_table(self, key: str, *, default: Any = ...) -> TomlTable | None:
        value = self.take_value(key, dict, default=default)
        return None if value is None else TomlTable(value, self._origin, self._key_path(key))

    def check_empty(self) -> None:
        if self._values:
            key = next(iter(self._values))
            raise ManifestError(
                f"{self._origin}: unknown key {self._key_path(key)}", hint="docs/models.md describes each key"
            )

    def _key_path(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key


def _is_size(pair: list[Any]) -> bool:
    return len(pair) == 2 and all(type(side) is int and 0 < side <= MAX_SIDE for side in pair)


def _parse_model(table: TomlTable, origin: str, providers: tuple[str, ...]) -> ModelManifest:
    file = _parse_file(table, origin)
    manifest = ModelManifest(
        name=table.take_matching("name", _NAME, "ASCII letters, digits, and _ . + -"),
        weights=table.take_matching("weights", f"({_NAME})?", "ASCII letters, digits, and _ . + -, or empty"),
        default=table.take_value("default", bool),
        # No colons: timm would take such a name for a source to download or read the model from.
        architecture=table.take_matching("architecture", _NAME, "ASCII letters, digits, and _ . + -"),
        provider=table.take_choice("provider", providers),
        url=Path(file).as_uri()
        if file
        else table.take_matching("url", r"((https?://|file://|package:)[^\x00-\x20]+)?", _URL_KINDS),
        sha256=table.take_matching("sha256", r"([0-9a-f]{8,64})?", "8 to 64 lower-case hex digits, or empty"),
        num_classes=table.take_positive("num_classes"),
        label_set=table.take_value("label_set", str),
        preprocess=_parse_preprocess(cast(TomlTable, table.take_table("preprocess"))),
        activation=table.take_choice("activation", ("", *ACTIVATIONS), default=""),
        output_name=table.take_value("output_name", str, default=""),
        options=_parse_options(table),
        rename=_parse_rename(table),
        checkpoint_key=table.take_value("checkpoint_key", str, default=""),
        layers=_parse_layers(table.take_table("layers", default=None)),
        calibration=_parse_calibration(calibration)
        if (calibration := table.take_table("calibration", default=None))
        else None,
        metadata=_parse_metadata(table.take_table("metadata", default=None)),
        gflops=table.take_float("gflops") if "gflops" in table else None,
        file=file,
        origin=origin,
    )
    table.check_empty()
    _check_weights(table, manifest)
    return manifest


def _check_weights(table: TomlTable, manifest: ModelManifest) -> None:
    """Refuses a manifest of weights that does not say where they are, and one of no weights that says more."""
    if manifest.weights:
        if not manifest.has_weights:
            table.reject("url", f"{_URL_KINDS}, unless weights is empty")
        return
    for key in ("file", "url", "sha256", "checkpoint_key", "calibration", "metadata"):
        if getattr(manifest, key):
            table.reject(key, "empty or left out, because weights is empty")
    if not manifest.default:
        table.reject("default", "true, because weights is empty")
    if manifest.provider in PROGRAMS:
        table.reject("weights", "the version of the program, which contains them")


def _parse_file(table: TomlTable, origin: str) -> str:
    """Returns the absolute path of the model's own file. Returns "" if the manifest has a URL instead."""
    if "file" not in table:
        return ""
    # TOML has no NUL, but its strings can: "\u0000".
    name = table.take_matching("file", r"[^\x00]+", "the path of a file")
    if "url" in table:
        table.reject("file", "the only one of file and url")
    return str(Path(origin).absolute().parent / name)


def parse_preprocess(values: dict[str, Any], origin: str) -> PreprocessSpec:
    """Parses what PreprocessSpec.to_dict returns.

    Args:
        origin: names the file in errors.

    Raises:
        ManifestError: a key is missing or unknown, or a value is out of its range.
    """
    return _parse_preprocess(TomlTable(values, origin, "preprocess"))


def parse_temperature(values: dict[str, Any], origin: str) -> PublishedTemperature:
    """Parses what PublishedTemperature._asdict returns.

    Args:
        origin: names the file in errors.

    Raises:
        ManifestError: a key is missing or unknown, or a value is out of its range.
    """
    return _parse_calibration(TomlTable(values, origin, "temperature"))


def _parse_preprocess(table: TomlTable) -> PreprocessSpec:
    spec = PreprocessSpec(
        resize_size=_parse_resize_size(table),
        crop_size=table.take_size("crop_size"),
        interpolation=table.take_choice("interpolation", INTERPOLATIONS),
        antialias=table.take_value("antialias", bool),
        mean=table.take_rgb("mean"),
        std=table.take_rgb("std"),
        crop_mode=table.take_choice("crop_mode", CROP_MODES, default="center"),
        channel_order=table.take_choice("channel_order", CHANNEL_ORDERS, default="rgb"),
        crop_rounding=table.take_choice("crop_rounding", CROP_ROUNDINGS, default="even"),
    )
    if min(spec.std) <= 0:
        table.reject("std", "three numbers above zero")
    for key, values in (("mean", spec.mean), ("std", spec.std)):
        if max(map(abs, values)) > 1:
            table.reject(key, _for_unit_scale(key, spec))
    table.check_empty()
    return spec


def _for_unit_scale(key: str, spec: PreprocessSpec) -> str:
    from imgclassify.catalog.pixel_scale import to_unit_scale

    scaled = to_unit_scale(spec.mean, spec.std)
    if not scaled.fits:
        return "for pixels scaled to 0..1"
    numbers = ", ".join(f"{value:.6g}" for value in getattr(scaled, key))
    return f"for pixels scaled to 0..1; divided by 255: [{numbers}]"


def _parse_resize_size(table: TomlTable) -> int | Size:
    value = table.take_value("resize_size", (int, list))
    if isinstance(value, int) and 0 < value <= MAX_SIDE:
        return value
    if isinstance(value, list) and _is_size(value):
        return (value[0], value[1])
    return cast(int, table.reject("resize_size", f"the short side in pixels up to {MAX_SIDE}, or [height, width]"))


def _parse_options(table: TomlTable) -> dict[str, Any]:
    options: dict[str, Any] = table.take_value("options", dict, default={})
    for name in _WEIGHTS_OPTIONS:
        if name in options:
            table.reject("options", f"without {name}: weights come from url alone")
    return options


def _parse_layers(table: TomlTable | None) -> FeatureLayers | None:
    if table is None:
        return None
    layers = FeatureLayers(
        head=table.take_matching("head", _LAYER, "the name of a layer, such as classifier.1"),
        feature_map=table.take_matching(
            "feature_map", rf"({_LAYER}(:output(:relu)?)?)?", "LAYER, LAYER:output, LAYER:output:relu, or empty"
        ),
    )
    table.check_empty()
    return layers


def _parse_calibration(table: TomlTable) -> PublishedTemperature:
    calibration = PublishedTemperature(
        temperature=table.take_float("temperature"),
        ece_before=table.take_float("ece_before"),
        ece_after=table.take_float("ece_after"),
        source=table.take_value("source", str),
    )
    if not 0.01 <= calibration.temperature <= 100:  # those of confidence.temperature; others are mistakes
        table.reject("temperature", "a number, 0.01..100")
    for key in ("ece_before", "ece_after"):
        if not 0 <= getattr(calibration, key) <= 1:
            table.reject(key, "a share, 0..1")
    table.check_empty()
    return calibration


def _parse_metadata(table: TomlTable | None) -> ModelMetadata | None:
    if table is None:
        return None
    metadata = ModelMetadata(
        num_params=table.take_positive("num_params"),
        gflops=table.take_float("gflops"),
        acc1=table.take_float("acc1"),
        acc5=table.take_float("acc5"),
        min_size=table.take_size("min_size"),
        file_size_mib=table.take_float("file_size_mib"),
        license=table.take_value("license", str),
        recipe=table.take_value("recipe", str),
    )
    table.check_empty()
    return metadata


def _parse_rename(table: TomlTable) -> tuple[tuple[str, str], ...]:
    pairs = table.take_value("rename", list, default=[])
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            table.reject("rename", "an array of [pattern, replacement] pairs")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about syntax that a later Python may read differently
                re.sub(pair[0], pair[1], "")
        except (re.error, IndexError, RecursionError, OverflowError) as error:
            table.reject("rename", f"made of valid regular expressions ({reprlib.repr(pair)}: {error})")
    return tuple((pattern, replacement) for pattern, replacement in pairs)
