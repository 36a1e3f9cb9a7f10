"""Finds models in the manifests in models/*.toml and in the user's own files of the same form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from imgclassify import paths
from imgclassify.catalog.manifest import ModelManifest
from imgclassify.catalog.parsing import parse_manifests
from imgclassify.errors import ManifestError, UnknownModelError, WeightsError

MAX_FILE_BYTES = 2**20
"""Larger manifest files of the user are rejected. All 134 shipped manifests together take a tenth of it."""


def load_manifests() -> list[ModelManifest]:
    """Reads the manifests of all models, shipped and the user's own, sorted by name and then weights.

    Raises:
        ManifestError: a file cannot be read or parsed, or two define the same `name@WEIGHTS` or two default
            weights for one name.
    """
    return _check_unique(
        manifest for origin, text in _manifest_files() for manifest in parse_manifests(text, origin)
    )


def find_model(name: str, weights: str | None = None) -> ModelManifest:
    """Returns the manifest with this name and these weights, or with the name's default weights.

    Raises:
        UnknownModelError: there is no such name or weights. The hint lists the nearest valid ones.
        ManifestError: a file cannot be read, or one that mentions the name cannot be parsed.
    """
    # Only files that mention the name are parsed, so that looking up one model takes a millisecond.
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
    if valid == {""}:
        raise UnknownModelError(
            f"{name} is an architecture without weights, so it has no {weights!r}", hint=f"write {name}"
        )
    if weights is None:
        raise UnknownModelError(
            f"model {name!r} has no default weights", hint=f"add @WEIGHTS: {_suggest_names(name, valid)}"
        )
    raise _unknown_error("weights", weights, valid, f"imgclassify models show {name}", prefix=f"{name}@")


def require_weights(manifest: ModelManifest) -> None:
    """Raises WeightsError if a manifest describes an architecture without weights."""
    if not manifest.has_weights:
        raise WeightsError(
            f"{manifest.name} is an architecture without weights",
            hint=f"give a file of its weights, -m FILE --arch {manifest.name}; or train it: "
            f"imgclassify train FOLDER -o OUT --method scratch --arch {manifest.name}",
        )


def filter_models(models: Iterable[ModelManifest], pattern: str) -> list[ModelManifest]:
    """Returns the models whose name or `name@WEIGHTS` matches `pattern`, ignoring case.

    Args:
        pattern: a glob if it contains * ? or [; otherwise any part of `name@WEIGHTS`.
    """
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
"""Sort keys for listings: best accuracy first, lowest cost first, and models without metadata last."""


def user_models_folder() -> Path:
    """Returns the folder of the user's own manifests."""
    return paths.config_folder() / "models"


def _manifest_files() -> Iterator[tuple[str, str]]:
    """Yields (name for messages, text) of each manifest file, the shipped ones first."""
    shipped = (entry for entry in paths.data_folder("models").iterdir() if entry.name.endswith(".toml"))
    for entry in sorted(shipped, key=lambda entry: entry.name):
        yield f"models/{entry.name}", entry.read_text("utf-8")
    # Editors and macOS create hidden files with the same extension.
    for path in sorted(path for path in user_models_folder().glob("*.toml") if not path.name.startswith(".")):
        yield str(path), read_manifest_file(path)


def read_manifest_file(path: Path) -> str:
    """Returns the text of a manifest file. Raises ManifestError if it cannot be read or is too large."""
    try:
        if not path.is_file():
            raise ManifestError(f"cannot read {path}: it is not a file", hint="move it away")
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
            same = twin.reference == manifest.reference
            what = f"the model {manifest.reference!r}" if same else f"default weights for {manifest.name!r}"
            raise ManifestError(
                f"{manifest.origin} and {twin.origin} both define {what}",
                hint="rename the model in one of the two",
            )
    return sorted(found.values(), key=SORT_KEYS["name"])


def _unknown_error(what: str, name: str, valid: set[str], command: str, *, prefix: str = "") -> UnknownModelError:
    return UnknownModelError(
        f"unknown {what} {prefix + name!r}",
        hint=f"{_suggest_names(name, valid, prefix)}; `{command}` lists all",
    )


def _suggest_names(name: str, valid: set[str], prefix: str = "") -> str:
    import difflib

    folded = {candidate.lower(): candidate for candidate in sorted(valid)}
    near = difflib.get_close_matches(name.lower(), folded, n=5, cutoff=0.5)
    if near:
        return "the nearest names are " + ", ".join(prefix + folded[candidate] for candidate in near)
    names = sorted(valid)
    return "valid names include " + ", ".join(prefix + candidate for candidate in names[:8])
