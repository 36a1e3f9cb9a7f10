"""Finds preprocessing and labels for a model: from the user's options, the model's files, or `--arch`."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from imgclassify import labels as label_sets
from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.errors import UsageError
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.network import LoadOptions, PreprocessOverrides, labels_for_manifest
from imgclassify.hub.reference import ModelReference
from imgclassify.labels import LabelSet

logger = logging.getLogger("imgclassify")


def find_architecture(arch: str, *, transform_input: bool | None = None) -> ModelManifest:
    """Returns the manifest of the model that `--arch` names.

    Args:
        transform_input: LoadOptions.transform_input.

    Raises:
        UnknownModelError: there is no such model; the nearest names are listed.
        UsageError: the architecture has no `transform_input`.
    """
    reference = ModelReference.parse(arch)
    manifest = reference.loader().find_architecture(reference)
    if transform_input is None:
        return manifest
    if "transform_input" not in manifest.options:
        raise UsageError(
            f"transform_input is {transform_input}, but {arch} has no such option",
            hint="leave it out: torchvision's googlenet and inception_v3 have it",
            argument="transform_input",
        )
    return replace(manifest, options={**manifest.options, "transform_input": transform_input})


def report_transform_input(reference: str, manifest: ModelManifest, options: LoadOptions) -> None:
    """Logs which `transform_input` is assumed for a checkpoint, whose parameters do not show it."""
    if "transform_input" in manifest.options and options.transform_input is None:
        logger.warning(
            "%s is run with transform_input=%s, as %s was published; a network trained from scratch needs "
            "--no-transform-input; with one of the two options, this warning is left out",
            reference,
            bool(manifest.options["transform_input"]),
            manifest.name,
        )


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
    if options.transform_input is not None:
        raise UsageError(
            f"transform_input is {options.transform_input}, but {reference} contains its own network",
            hint="leave it out: it is for checkpoint files",
            argument="transform_input",
        )
    manifest = None if arch is None else find_architecture(arch)
    if manifest is None or config.spec is not None:
        spec = config.create_preprocess(options.overrides, reference)
    else:
        spec = config.adapt_preprocess(manifest.preprocess, options.overrides)
        lender = f"{manifest.name} ({manifest.weights})" if manifest.weights else manifest.name
        report_lent(reference, lender, manifest.preprocess, config.complete_overrides(options.overrides))
    return spec, find_labels(reference, options, config, manifest, num_classes=num_classes)


def report_lent(reference: str, lender: str, preprocess: PreprocessSpec, known: PreprocessOverrides) -> None:
    """Logs which values of a preprocessing are those of another model, because nothing else is known.

    Args:
        lender: names the other model.
        known: the values that are not taken from it.
    """
    values = preprocess.to_dict()
    lent = [name for name in known.missing() if name in values]
    if lent:
        logger.warning(
            "%s does not say how its images are prepared; what is not given is taken from %s: %s",
            reference,
            lender,
            ", ".join(f"{name} {_format_value(values[name])}" for name in lent),
        )


def _format_value(value: Any) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, list) else str(value)


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
    if manifest is None or not manifest.label_set:
        raise UsageError(f"{reference} has no class names", hint=_suggest_labels(num_classes))
    return labels_for_manifest(manifest, options, num_classes)


def _suggest_labels(num_classes: int | None) -> str:
    """Returns the hint for a model without class names. A label set of as many classes may be meant, or not."""
    fitting = [
        name
        for name in label_sets.list_label_sets()
        if num_classes is not None and len(label_sets.load_labels(name)) == num_classes
    ]
    if not fitting:
        return "give --labels NAME or --labels FILE"
    return f"give --labels FILE, or --labels {' or '.join(fitting)} if the network was trained on these classes"
