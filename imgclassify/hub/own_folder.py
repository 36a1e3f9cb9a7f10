"""Loads model folders that imgclassify has written: imgclassify.toml says all about the model.

Where a graph of the architecture comes with imgclassify, the network runs without torch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from imgclassify import checkpoints, weights
from imgclassify import labels as label_sets
from imgclassify.catalog.lookup import read_manifest_file
from imgclassify.errors import HashMismatchError
from imgclassify.hub import from_arch
from imgclassify.hub.backends import Backends, backends_for
from imgclassify.hub.class_names import name_wnids
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.file_kind import require_binary
from imgclassify.hub.model_files import (
    CONFIG,
    LABELS,
    MANIFEST,
    WEIGHTS,
    ModelFiles,
    Weights,
    read_calibration,
    read_json,
)
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.own_manifest import TRANSFORMERS, OwnManifest
from imgclassify.labels import LabelSet


def load_network(files: ModelFiles, path: Path, options: LoadOptions) -> Network:
    """Loads the network of a folder.

    Args:
        path: its imgclassify.toml.

    Raises:
        ManifestError: imgclassify.toml is damaged, or of a newer imgclassify.
        HashMismatchError: the weights or the class names are not those that it describes.
        CheckpointError: a file is missing, or is no checkpoint.
        LabelsError: as for `from_arch.find_labels`.
    """
    manifest = OwnManifest.parse(read_manifest_file(path), str(path))
    model = manifest.model
    weights_path = _find_file(files, WEIGHTS)
    require_binary(weights_path)
    _require_digest(files, weights_path, weights.sha256_of(weights_path), model.sha256)
    preprocess = options.overrides.apply_to(model.preprocess)
    network = Network(
        model=files.reference,
        architecture=model.architecture,
        weights=weights_path.name,
        path=weights_path,
        sha256=model.sha256,
        preprocess=preprocess,
        labels=from_arch.find_labels(
            files.reference,
            options,
            FileConfig(labels=_read_labels(files, manifest) if options.with_labels else None),
            None,
            num_classes=model.num_classes,
        ),
        num_classes=model.num_classes,
        backends=Backends(None, None),
        activation=options.activation or model.activation,
        output_name=options.output_name,
        origins=_find_origins(options),
        gmacs=model.gmacs,
        layers=model.layers,
        own_calibration=read_calibration(files, fetch=manifest.has_calibration),
        license=manifest.start.license,
    )
    if model.provider == TRANSFORMERS:
        from imgclassify.hub import transformers_folder  # other networks do not need it

        config_path = _find_file(files, CONFIG)
        _require_digest(files, config_path, weights.sha256_of(config_path), manifest.sha256[CONFIG])
        config = read_json(config_path)
        transformers_folder.require_classifier(config, files.reference)
        found = Weights(weights_path, (weights_path,))
        backends = transformers_folder.backends_for(config, found, files.reference, num_classes=model.num_classes)
        return replace(network, backends=backends, config=config)
    model = replace(model, rename=(), checkpoint_key="")
    backends = backends_for(
        model,
        preprocess,
        partial(checkpoints.open_lazy, weights_path),
        source_name=f"{WEIGHTS} of {files.reference}",
        num_classes=model.num_classes,
    )
    return replace(network, backends=backends, manifest=model)


def _find_file(files: ModelFiles, name: str) -> Path:
    path = files.find(name)
    if path is None:
        raise files.missing(name)
    return path


def _require_digest(files: ModelFiles, path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise HashMismatchError(
            f"{path.name} of {files.reference} is not the file that {MANIFEST} describes: expected SHA-256 "
            f"{expected}, found {found}",
            hint="put the old file back: the files of a model folder belong together",
        )


def _read_labels(files: ModelFiles, manifest: OwnManifest) -> LabelSet:
    path = _find_file(files, LABELS)
    _require_digest(files, path, weights.sha256_of(path), manifest.sha256[LABELS])
    labels = label_sets.load_labels(path).labels
    return LabelSet(f"{LABELS} of {files.reference}", name_wnids(labels))


def _find_origins(options: LoadOptions) -> dict[str, str]:
    """Returns FileConfig.origins of what comes from the folder."""
    found = {"arch": MANIFEST, "preprocess": MANIFEST}
    if options.with_labels and options.labels is None:
        found["labels"] = LABELS
    if options.activation is None:
        found["activation"] = MANIFEST
    return found
