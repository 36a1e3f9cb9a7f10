"""The catalog: models/*.toml, and the user's own files of the same form, as ModelManifest values.

A manifest binds weights, preprocessing and label set; none of the three is inferred from another.
"""

from __future__ import annotations

import math
import re
import reprlib
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from imgclassify import paths
from imgclassify.errors import ManifestError, UnknownModelError

EMBEDDED_MODEL = "efficientnet_lite0"
"""The default: its weights are a dependency of the package, so it never needs a network."""

PROVIDERS = ("torchvision", "timm")
"""Who builds an architecture."""

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CROP_MODES = ("center", "squash", "border")

MAX_FILE_BYTES = 2**20
"""A larger file of the user's is refused; torchvision's 177 models take an eighth of it."""
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


# ---------------------------------------------------------------------------------------------- look up


def load_manifests() -> list[ModelManifest]:
    """Every model, the shipped ones and the user's own, by name and then weights.

    Raises:
        ManifestError: a file does not parse, or two define the same `name@WEIGHTS`.
    """
    return _check_unique(
        manifest for origin, text in _manifest_files() for manifest in parse_manifests(text, origin)
    )


def find_model(name: str, weights: str | None = None) -> ModelManifest:
    """The model of that name, with those weights or its default ones.

    Raises:
        UnknownModelError: no such name or weights; the nearest valid ones are listed.
        ManifestError: a file that may define it does not parse.
    """
    # Parsing only the files that mention the name keeps a single look-up at a millisecond.
    mention = re.compile(rf"""["']{re.escape(name)}["']""")
    candidates = _check_unique(
        manifest
        for origin, text in _manifest_files()
        if mention.search(text)
        for manifest in parse_manifests(text, origin)
        if manifest.name == name
    )
    if not candidates:
        raise _unknown_error(
            "model", name, {manifest.name for manifest in load_manifests()}, "imgclassify models list"
        )
    for manifest in candidates:
        if manifest.default if weights is None else manifest.weights == weights:
            return manifest
    valid = {manifest.weights for manifest in candidates}
    if weights is None:
        raise UnknownModelError(
            f"model {name!r} has no default weights", hint=f"name one: {_suggest_names(name, valid)}"
        )
    raise _unknown_error("weights", weights, valid, f"imgclassify models show {name}", prefix=f"{name}@")


def filter_models(models: Iterable[ModelManifest], pattern: str) -> list[ModelManifest]:
    """Those whose name or `name@WEIGHTS` matches: a glob if it has * ? or [, else any part."""
    text = pattern.lower()
    if any(character in text for character in "*?["):
        return [
            manifest
            for manifest in models
            if fnmatchcase(manifest.name.lower(), text) or fnmatchcase(manifest.reference.lower(), text)
        ]
    return [manifest for manifest in models if text in manifest.reference.lower()]


def _by_metadata(name: str, *, descending: bool) -> Callable[[ModelManifest], tuple[bool, float]]:
    def key(manifest: ModelManifest) -> tuple[bool, float]:
        if manifest.metadata is None:
            return (True, 0.0)
        value = float(getattr(manifest.metadata, name))
        return (False, -value if descending else value)

    return key


SORT_KEYS: dict[str, Callable[[ModelManifest], Any]] = {
    "name": lambda manifest: (manifest.name, manifest.weights),
    "acc1": _by_metadata("acc1", descending=True),
    "acc5": _by_metadata("acc5", descending=True),
    "params": _by_metadata("num_params", descending=False),
    "gflops": _by_metadata("gflops", descending=False),
    "size": _by_metadata("file_size_mib", descending=False),
}
"""Orders for a listing: accuracies best first, costs cheapest first, models without metadata last."""


def user_models_folder() -> Path:
    """Where the user's own manifests lie."""
    return paths.config_folder() / "models"


def _manifest_files() -> Iterator[tuple[str, str]]:
    """(name for messages, text) of each manifest file, the shipped ones first."""
    shipped = (entry for entry in paths.data_folder("models").iterdir() if entry.name.endswith(".toml"))
    for entry in sorted(shipped, key=lambda entry: entry.name):
        yield f"models/{entry.name}", entry.read_text("utf-8")
    # Editors and macOS leave hidden files of the same ending.
    for path in sorted(path for path in user_models_folder().glob("*.toml") if not path.name.startswith(".")):
        yield str(path), _read_manifest(path)


def _read_manifest(path: Path) -> str:
    """Raises ManifestError: it cannot be read, or is too large to be a manifest."""
    try:
        if not path.is_file():
            raise ManifestError(f"cannot read {path}: it is no file", hint="move it away")
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ManifestError(
                f"cannot read {path}: it has more than {MAX_FILE_BYTES:,} bytes", hint="split it, or move it away"
            )
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"cannot read {path}: {error}", hint="make it readable UTF-8, or move it away"
        ) from error


def _check_unique(models: Iterable[ModelManifest]) -> list[ModelManifest]:
    found: dict[str, ModelManifest] = {}
    defaults: dict[str, ModelManifest] = {}
    for manifest in models:
        twin = found.setdefault(manifest.reference, manifest)
        if manifest.default and twin is manifest:
            twin = defaults.setdefault(manifest.name, manifest)
        if twin is not manifest:
            what = "the default weights of" if twin.reference != manifest.reference else "the model"
            raise ManifestError(
                f"{manifest.origin} and {twin.origin} both define {what} {manifest.reference!r}",
                hint="rename one of the two",
            )
    return sorted(found.values(), key=SORT_KEYS["name"])


def _unknown_error(what: str, name: str, valid: set[str], command: str, *, prefix: str = "") -> UnknownModelError:
    return UnknownModelError(
        f"unknown {what} {prefix + name!r}",
        hint=f"{_suggest_names(name, valid, prefix)}; `{command}` lists what there is",
    )


def _suggest_names(name: str, valid: set[str], prefix: str = "") -> str:
    import difflib

    folded = {candidate.lower(): candidate for candidate in sorted(valid)}
    near = difflib.get_close_matches(name.lower(), folded, n=5, cutoff=0.5)
    if near:
        return "the nearest: " + ", ".join(prefix + folded[candidate] for candidate in near)
    names = sorted(valid)
    return "among the valid ones: " + ", ".join(prefix + candidate for candidate in names[:8])


# ------------------------------------------------------------------------------------------------ parse


def parse_manifests(text: str, origin: str) -> list[ModelManifest]:
    """The models of one manifest file. `origin` names the file in errors and in the result.

    Raises:
        ManifestError: not TOML, or a key is unknown, missing, or of the wrong type or value; names file and key.
    """
    try:
        if _DEEP_KEY.search(text):
            raise RecursionError
        document = tomllib.loads(text)
    except RecursionError:
        raise ManifestError(f"{origin}: nested too deep", hint="mend the file, or move it away") from None
    except ValueError as error:  # of TOML's own, and of Python's own limit on the digits of a number
        raise ManifestError(f"{origin}: not TOML: {error}", hint="mend the file, or move it away") from error
    root = _TomlTable(document, origin, "")
    entries = root.take_value("models", list)
    root.check_empty()
    return [
        _parse_model(_TomlTable(entry, origin, f"models[{index}]"), origin)
        if isinstance(entry, dict)
        else root.reject("models", "an array of tables")
        for index, entry in enumerate(entries)
    ]


_DEEP_KEY = re.compile(r"""(?:\.[\t ]*+(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[\t ]*+){32}""")
"""A key such as a.b.c, but of more parts, over which tomllib's time grows with their square."""


class _TomlTable:
    """A TOML table being taken apart: each key is taken once, of a stated type, and none may be left over."""

    def __init__(self, values: dict[str, Any], origin: str, place: str) -> None:
        self._values = dict(values)
        self._origin = origin
        self._place = place

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
        # bool is an int to Python, and is none to a reader of the file.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            self.reject(key, " or ".join(_KIND_NAMES[each] for each in kinds))
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.reject(key, "a number of 64 bits")
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
        # Beyond float's own range there are whole numbers still.
        if len(value) != 3 or not all(type(part) in (int, float) and abs(part) <= _MAX_LEVEL for part in value):
            self.reject(key, "three numbers, for red, green and blue")
        return (float(value[0]), float(value[1]), float(value[2]))

    def take_table(self, key: str, *, default: Any = ...) -> _TomlTable | None:
        value = self.take_value(key, dict, default=default)
        return None if value is None else _TomlTable(value, self._origin, self._key_path(key))

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


_MAX_LEVEL = 1e30
_KIND_NAMES = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "an array",
    dict: "a table",
}


_NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
_WEIGHTS_OPTIONS = (
    "weights",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
)
"""Arguments by which builders read weights themselves: unverified, and of old, in timm, by running code."""


def _parse_model(table: _TomlTable, origin: str) -> ModelManifest:
    manifest = ModelManifest(
        name=table.take_matching("name", _NAME, "ASCII letters, digits, and _ . + -"),
        weights=table.take_matching("weights", _NAME, "ASCII letters, digits, and _ . + -"),
        default=table.take_value("default", bool),
        # timm would fetch or read what has a colon in its name.
        architecture=table.take_matching("architecture", _NAME, "ASCII letters, digits, and _ . + -"),
        provider=table.take_choice("provider", PROVIDERS),
        url=table.take_matching(
            "url", r"(https?://|file://|package:)[^\x00-\x20]+", "an http, https, file or package: URL"
        ),
        sha256=table.take_matching("sha256", r"([0-9a-f]{8,64})?", "8 to 64 lower-case hex digits, or empty"),
        num_classes=table.take_positive("num_classes"),
        label_set=table.take_value("label_set", str),
        preprocess=_parse_preprocess(cast(_TomlTable, table.take_table("preprocess"))),
        options=_parse_options(table),
        rename=_parse_rename(table),
        metadata=_parse_metadata(table.take_table("metadata", default=None)),
        origin=origin,
    )
    table.check_empty()
    return manifest


def _parse_preprocess(table: _TomlTable) -> PreprocessSpec:
    spec = PreprocessSpec(
        resize_size=_parse_resize_size(table),
        crop_size=table.take_size("crop_size"),
        interpolation=table.take_choice("interpolation", INTERPOLATIONS),
        antialias=table.take_value("antialias", bool),
        mean=table.take_rgb("mean"),
        std=table.take_rgb("std"),
        crop_mode=table.take_choice("crop_mode", CROP_MODES, default="center"),
    )
    if min(spec.std) <= 0:
        table.reject("std", "three numbers above zero")
    table.check_empty()
    return spec


def _parse_resize_size(table: _TomlTable) -> int | Size:
    value = table.take_value("resize_size", (int, list))
    if isinstance(value, int) and 0 < value <= MAX_SIDE:
        return value
    if isinstance(value, list) and _is_size(value):
        return (value[0], value[1])
    return cast(int, table.reject("resize_size", f"the short side in pixels up to {MAX_SIDE}, or [height, width]"))


def _parse_options(table: _TomlTable) -> dict[str, Any]:
    options: dict[str, Any] = table.take_value("options", dict, default={})
    for name in _WEIGHTS_OPTIONS:
        if name in options:
            table.reject("options", f"without {name}: weights come from url alone")
    return options


def _parse_metadata(table: _TomlTable | None) -> ModelMetadata | None:
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


def _parse_rename(table: _TomlTable) -> tuple[tuple[str, str], ...]:
    pairs = table.take_value("rename", list, default=[])
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            table.reject("rename", "an array of [pattern, replacement] pairs")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about notation that a later Python may read otherwise
                re.sub(pair[0], pair[1], "")
        except (re.error, IndexError, RecursionError, OverflowError) as error:
            table.reject("rename", f"made of valid regular expressions ({reprlib.repr(pair)}: {error})")
    return tuple((pattern, replacement) for pattern, replacement in pairs)
