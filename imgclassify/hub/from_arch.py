"""Finds preprocessing and labels for a model: from the user's options, the model's files, or `--arch`."""

from __future__ import annotations

from imgclassify import labels as label_sets
from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.errors import UsageError
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.network import LoadOptions, labels_for_manifest
from imgclassify.hub.reference import ModelReference
from imgclassify.labels import LabelSet


def find_architecture(arch: str) -> ModelManifest:
    """Returns the manifest of the model that `--arch` names.

    Raises:
        UnknownModelError: there is no such model; the nearest names are listed.
    """
    reference = ModelReference.parse(arch)
    return reference.loader().find_architecture(reference)


def preprocess_and_labels(
    reference: str, options: LoadOptions, config: FileConfig | None = None, *, num_classes: int | None = None
) -> tuple[PreprocessSpec, LabelSet | None]:
    """Returns the preprocessing and the labels of a model.

    Each comes from the user's options, else from the model's files, else from the model that `--arch` names.

    Args:
        reference: names the model in errors.
        config: what the model's files say; None if they say nothing.
        num_classes: the number of labels that the set must have; None to accept any number.

    Raises:
        UsageError: an option that is needed is missing. Nothing is guessed.
        LabelsError: the label set cannot be read, has another number of classes, or contradicts the files.
    """
    config = config or FileConfig()
    arch = options.arch or config.arch
    manifest = None if arch is None else find_architecture(arch)
    spec = (
        config.create_preprocess(options.overrides, reference)
        if manifest is None
        else config.adapt_preprocess(manifest.preprocess, options.overrides)
    )
    return spec, find_labels(reference, options, config, manifest, num_classes=num_classes)


def find_labels(
    reference: str,
    options: LoadOptions,
    config: FileConfig,
    manifest: ModelManifest | None,
    *,
    num_classes: int | None = None,
) -> LabelSet | None:
    """Returns the labels of a model, from the first of: options, files, manifest. None if they are not needed.

    Raises:
        UsageError, LabelsError: as in `preprocess_and_labels`.
    """
    if not options.with_labels:
        return None
    if options.labels is not None:
        given = label_sets.load_labels(options.labels, num_classes=num_classes)
        config.check_labels(given)
        return given
    if config.labels is not None:
        if num_classes is not None:
            config.labels.require_num_classes(num_classes)
        return config.labels
    if manifest is None:
        raise UsageError(f"{reference} has no class names", hint="give --labels NAME or --labels FILE")
    return labels_for_manifest(manifest, options, num_classes)
