"""Preprocessing and labels for what brings none of its own: borrowed from the architecture that --arch names."""

from __future__ import annotations

from imgclassify import labels as label_sets
from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.errors import UsageError
from imgclassify.hub import catalogued, timm_registry
from imgclassify.hub.network import LoadOptions, labels_for_manifest
from imgclassify.labels import LabelSet


def find_architecture(reference: str) -> ModelManifest:
    """The manifest that `--arch` names: NAME, NAME@WEIGHTS or timm:NAME.

    Raises:
        UnknownModelError: there is no such model; the nearest are listed.
    """
    if reference.startswith("timm:"):
        return timm_registry.timm_manifest(reference.removeprefix("timm:"))
    return catalogued.find_manifest(reference)


def preprocess_and_labels(reference: str, options: LoadOptions) -> tuple[PreprocessSpec, LabelSet]:
    """Those of `--arch`, with the user's overrides; else the user's alone.

    Raises:
        UsageError: something is left unsaid; nothing is guessed.
        LabelsError: the label set cannot be read.
    """
    if options.arch is not None:
        manifest = find_architecture(options.arch)
        return options.overrides.apply_to(manifest.preprocess), labels_for_manifest(manifest, options, None)
    spec = options.overrides.to_spec(reference)
    if options.labels is None:
        raise UsageError(f"{reference} does not say what its classes are called", hint="add --labels NAME or FILE")
    return spec, label_sets.load_labels(options.labels)
