"""Finds preprocessing and labels for a model without its own: from `--arch`, or from the user's options."""

from __future__ import annotations

from imgclassify import labels as label_sets
from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.errors import UsageError
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


def preprocess_and_labels(reference: str, options: LoadOptions) -> tuple[PreprocessSpec, LabelSet | None]:
    """Returns preprocessing and labels of the model that `--arch` names, changed by the user's options.

    Without `--arch`, they come from the user's options alone.

    Args:
        reference: names the model in errors.

    Raises:
        UsageError: an option that is needed is missing. Nothing is guessed.
        LabelsError: the label set cannot be read.
    """
    if options.arch is not None:
        manifest = find_architecture(options.arch)
        return options.overrides.apply_to(manifest.preprocess), labels_for_manifest(manifest, options, None)
    spec = options.overrides.to_spec(reference)
    if not options.with_labels:
        return spec, None
    if options.labels is None:
        raise UsageError(f"{reference} has no class names", hint="give --labels NAME or --labels FILE")
    return spec, label_sets.load_labels(options.labels)
