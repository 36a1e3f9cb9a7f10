"""Loads the network that a model reference of any kind names, or only its preprocessing."""

from __future__ import annotations

from dataclasses import replace

from imgclassify import catalog, paths
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import DownloadError, OfflineError, UsageError
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.reference import FOLDER, ModelReference
from imgclassify.telemetry import disable_telemetry

__all__ = ["find_preprocessing", "load_network"]


def load_network(reference: ModelReference | str, options: LoadOptions) -> Network:
    """Loads the network that a model reference names.

    If the model comes without a graph and `models prepare` has made one, the prepared network is returned.

    The weights are on disk, and verified if a digest is published. The engine builds the network later, with
    one of `Network.backends`.

    Raises:
        UsageError: the reference is malformed, or lacks an option that its kind needs.
        UnavailableError: the model, its weights or its labels are unavailable. The subclass shows why.
    """
    network = _find_network(_parse(reference), options)
    if options.output_name is not None:
        network = replace(network, output_name=options.output_name)
    if options.activation is not None:
        network = replace(network, activation=options.activation)
    # What the user gives has no origin in the files.
    given = {
        "activation": options.activation is not None,
        "labels": options.labels is not None or not options.with_labels,
        "preprocess": options.overrides.is_complete and network.preprocess.channel_order == "rgb",
    }
    origins = {name: origin for name, origin in network.origins.items() if not given.get(name)}
    return replace(network, origins=origins) if origins != network.origins else network


def _find_network(reference: ModelReference, options: LoadOptions) -> Network:
    # Most catalogued models come with a graph. The cache is not searched for those.
    network = load_unprepared(reference, options) if reference.loader().is_quick(reference) else None
    if (network is None or network.backends.open_session is None) and paths.prepared_folder().is_dir():
        from imgclassify.hub.export_cache import find_prepared

        if prepared := find_prepared(reference, options):
            return prepared
    return network or load_unprepared(reference, options)


def find_preprocessing(reference: ModelReference | str, options: LoadOptions) -> PreprocessSpec:
    """Returns the preprocessing of a model, with the user's changes.

    Of catalogued and timm: models, neither weights nor labels are needed. Other models are loaded.

    Raises:
        UsageError: as in `load_network`.
        UnavailableError: as in `load_network`.
    """
    reference = _parse(reference)
    if reference.kind.has_architecture and options.arch is None:
        disable_telemetry()
        return options.overrides.apply_to(reference.loader().find_architecture(reference).preprocess)
    return load_network(reference, options).preprocess


def load_unprepared(reference: ModelReference | str, options: LoadOptions) -> Network:
    """Loads a network as `load_network` does, but ignores the cache of `models prepare`."""
    disable_telemetry()
    reference = _parse(reference)
    if options.arch is not None and not reference.kind.takes_arch:
        if reference.kind is FOLDER:
            raise UsageError(
                f"--arch is for files and hub: repositories, not for the folder {reference.text!r}",
                hint=f"give a file in it: -m FILE --arch {options.arch}; a folder with config.json needs no --arch",
            )
        raise UsageError(
            f"--arch is for files and hub: repositories, not for the model {reference.text!r}, "
            "which has its own architecture",
            hint=f"leave out --arch, or give a file: -m ./weights.pth --arch {options.arch}",
        )
    for name, value in (("checkpoint_key", options.checkpoint_key), ("transform_input", options.transform_input)):
        if value is not None and not reference.kind.takes_arch:
            raise UsageError(
                f"{name} is {value!r}, but it is for checkpoint files, not for the model {reference.text!r}",
                hint="leave it out",
                argument=name,
            )
    try:
        return reference.loader().load_network(reference, options)
    except (DownloadError, OfflineError) as error:
        error.hint = f"{error.hint}; {catalog.EMBEDDED_MODEL} needs no download"
        raise


def _parse(reference: ModelReference | str) -> ModelReference:
    return ModelReference.parse(reference) if isinstance(reference, str) else reference
