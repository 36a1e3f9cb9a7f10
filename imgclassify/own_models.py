"""Gives a name to a model file of the user: adds it to the catalog, and removes it again.

The manifest is NAME.toml in the folder of the user's own manifests. A copy of the labels is kept beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imgclassify import catalog, files, labels
from imgclassify.catalog import PROGRAMS, ModelManifest
from imgclassify.catalog.writing import format_manifest
from imgclassify.errors import LabelsError, UnavailableError, UsageError
from imgclassify.graphs.onnx_file import OnnxFile
from imgclassify.hub import from_arch, local_file
from imgclassify.hub.reference import ModelReference, is_path
from imgclassify.labels import LabelSet
from imgclassify.labels.writing import format_labels
from imgclassify.runner import ModelRunner, load_runner

__all__ = ["add_model", "remove_model"]

_HEADER = "# Written by `imgclassify models add`. docs/models.md describes each key.\n\n"


def add_model(
    file: str, name: str, *, arch: str | None = None, overwrite: bool = False, **loading: Any
) -> ModelManifest:
    """Adds a model file to the catalog under a name. The file stays where it is.

    The network is built before anything is written, so that a model that cannot be used is not added.

    Args:
        file: the path of a checkpoint, an ONNX graph or a TorchScript program.
        name: ASCII letters, digits and `_ . + -`.
        arch: the architecture of a checkpoint, as for Classifier.
        overwrite: whether an earlier model that was added under this name is replaced.
        loading: `labels`, `trust`, and values of the preprocessing, as for Classifier.

    Returns:
        The manifest. Its `origin` is the path of the file that was written.

    Raises:
        UsageError: the name cannot be used, or the file is not one; or as for Classifier.
        UnavailableError: the model cannot be used, as for Classifier; or the manifest cannot be written.
    """
    reference = _file_reference(file)
    target = _check_name(name, overwrite=overwrite)
    # Any machine can run the network on the CPU, and loading it there takes the least time.
    runner = load_runner(reference, arch=arch, device="cpu", num_images=1, **loading)
    manifest = _describe_model(name, runner, arch, target, transform_input=loading.get("transform_input"))
    label_set = runner.network.labels
    assert label_set is not None  # load_runner is called with with_labels=True
    with _explained_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if manifest.label_set != label_set.name:
            _write_labels(target.with_name(manifest.label_set), label_set)
        text = _HEADER + format_manifest(manifest)
        with files.atomic_write(target) as draft:
            draft.write_text(text, "utf-8")
        # Only now: until the manifest is replaced, the old one names the old copy of the labels.
        _remove_labels(name, keep=manifest.label_set)
    return manifest


def remove_model(manifest: ModelManifest) -> Path:
    """Removes the manifest of a model that `add_model` added, and its copy of the labels. The file is kept.

    Returns:
        The path of the manifest that was removed.

    Raises:
        UsageError: the manifest's file is not one that `add_model` wrote.
        UnavailableError: the file cannot be removed.
    """
    target = _manifest_path(manifest.name)
    if not _is_added(manifest):
        raise UsageError(
            f"{manifest.reference} is defined in {manifest.origin}, which `models add` has not written",
            hint="remove it from that file",
        )
    with _explained_errors(target):
        target.unlink()
        _remove_labels(manifest.name)
    return target


def _file_reference(file: str) -> str:
    """Returns the model reference of a file. A name without a folder may be that of a file too."""
    kind = ModelReference.parse(file).kind
    if kind.name == "file":
        return file
    if Path(file).is_file():
        return os.path.join(".", file)  # noqa: PTH118 - Path would drop the dot
    raise UsageError(
        f"{file!r} is not a model file",
        hint="give the path of a checkpoint, an .onnx graph or a TorchScript program",
    )


def _manifest_path(name: str) -> Path:
    return catalog.user_models_folder() / f"{name}.toml"


def _is_added(manifest: ModelManifest) -> bool:
    """Whether `add_model` may have written the manifest's file: it has this one model, and the name of it."""
    target = _manifest_path(manifest.name)
    others = (each.name for each in catalog.load_manifests() if each.origin == manifest.origin)
    return bool(manifest.file) and Path(manifest.origin) == target and list(others) == [manifest.name]


def _check_name(name: str, *, overwrite: bool) -> Path:
    """Returns the path for the manifest of a new model.

    Raises:
        UsageError: the name is invalid or taken.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise UsageError(
            f"{name!r} cannot be the name of a model",
            hint="use ASCII letters, digits, and _ . + -, and begin with a letter or digit",
        )
    if is_path(name):
        raise UsageError(
            f"{name!r} cannot be the name of a model: -m would take it for a file",
            hint="leave out the file extension",
        )
    target = _manifest_path(name)
    found = [manifest for manifest in catalog.load_manifests() if manifest.name == name]
    for manifest in found:
        if Path(manifest.origin).parent != target.parent:
            raise UsageError(
                f"{name!r} is the name of a model that comes with imgclassify", hint="choose another --name"
            )
        if not _is_added(manifest):
            raise UsageError(
                f"{name!r} is defined in {manifest.origin}, which `models add` has not written",
                hint="choose another --name, or edit that file",
            )
        if not overwrite:
            raise UsageError(
                f"{name!r} is the name of your model {manifest.file}",
                hint="choose another --name, or replace that model with --overwrite",
            )
    # A file of another model, or on some systems of a name that differs only in case.
    if target.exists() and not found:
        raise UsageError(f"{target} exists, and defines another model", hint="choose another --name")
    return target


def _describe_model(
    name: str, runner: ModelRunner, arch: str | None, target: Path, *, transform_input: bool | None
) -> ModelManifest:
    network = runner.network
    assert network.path is not None
    assert network.labels is not None
    network.labels.require_num_classes(runner.num_classes)
    path = network.path.absolute()
    if network.architecture == "onnx":
        local_file.require_whole(OnnxFile(path))
    assert network.sha256 is not None
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"the path {str(path)!r} is not UTF-8, and a manifest must be", hint="rename the file"
        ) from None
    common: dict[str, Any] = {
        "name": name,
        "weights": network.sha256[:8],
        "default": True,
        "architecture": network.architecture,
        "url": path.as_uri(),
        "file": str(path),
        "sha256": network.sha256,
        "num_classes": runner.num_classes,
        "label_set": _label_set_name(name, network.labels),
        "preprocess": network.preprocess,
        "activation": _activation_name(runner),
        "output_name": network.output_name or "",
        "origin": str(target),
    }
    # A program has the name of its kind in place of an architecture.
    if network.architecture in PROGRAMS:
        return ModelManifest(provider=network.architecture, **common)
    source = network.manifest
    if source is None:  # of a graph of `models prepare`
        assert arch is not None
        source = from_arch.find_architecture(arch, transform_input=transform_input)
    return ModelManifest(
        provider=source.provider,
        options=source.options,
        rename=source.rename,
        checkpoint_key=source.checkpoint_key,
        layers=source.layers,
        gflops=source.gmacs,
        **common,
    )


def _activation_name(runner: ModelRunner) -> str:
    """Returns the activation to record: the user's, or one that the outputs alone do not show again."""
    network, found = runner.network, runner.activation
    if network.activation and "activation" not in network.origins:
        return network.activation
    return "" if found is None or found.name == "softmax" or found.scale != 1 else found.name


def _label_set_name(name: str, label_set: LabelSet) -> str:
    """Returns the name of a shipped label set, or the name for the copy of another one.

    The name has the digest of the labels, so a manifest never names a copy with other labels.
    """
    if label_set.name in labels.list_label_sets():
        return label_set.name
    return f"{name}.labels-{label_set.digest()[:16]}.json"


def _write_labels(path: Path, label_set: LabelSet) -> None:
    with files.atomic_write(path) as draft:
        draft.write_text(format_labels(label_set.labels), "utf-8")
        if labels.load_labels(draft).labels != label_set.labels:
            raise LabelsError(
                f"the labels of {label_set.name} cannot be copied without a change",
                hint="give --labels FILE, one label per line",
            )


def _remove_labels(name: str, *, keep: str = "") -> None:
    for copy in catalog.user_models_folder().iterdir():
        if copy.name != keep and re.fullmatch(rf"{re.escape(name)}\.labels-[0-9a-f]{{16}}\.json", copy.name):
            copy.unlink()


@contextlib.contextmanager
def _explained_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"{error.filename or target} cannot be changed: {error.strerror or error}",
            hint="make the folder writable, or set XDG_CONFIG_HOME to another one",
        ) from error
