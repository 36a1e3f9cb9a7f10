"""The catalog: models/*.toml, and the user's own files of the same form, as ModelManifest values.

A manifest binds weights, preprocessing and label set; none of the three is inferred from another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from imgclassify import paths
from imgclassify.catalog.manifest import (
    CROP_MODES,
    EMBEDDED_MODEL,
    INTERPOLATIONS,
    MAX_SIDE,
    PROVIDERS,
    RGB,
    ModelManifest,
    ModelMetadata,
    PreprocessSpec,
    Size,
)
from imgclassify.catalog.parsing import parse_manifests
from imgclassify.errors import ManifestError, UnknownModelError

__all__ = [
    "CROP_MODES",
    "EMBEDDED_MODEL",
    "INTERPOLATIONS",
    "MAX_SIDE",
    "PROVIDERS",
    "RGB",
    "SORT_KEYS",
    "ModelManifest",
    "ModelMetadata",
    "PreprocessSpec",
    "Size",
    "filter_models",
    "find_model",
    "load_manifests",
    "parse_manifests",
    "user_models_folder",
]

MAX_FILE_BYTES = 2**20
"""A larger file of the user's is refused; torchvision's 177 models take an eighth of it."""


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
        yield str(path), read_manifest_file(path)


def read_manifest_file(path: Path) -> str:
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
