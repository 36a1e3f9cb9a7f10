"""Loading a model reference of any kind."""

from __future__ import annotations

from imgclassify import paths
from imgclassify.errors import UsageError
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.reference import ModelReference
from imgclassify.telemetry import disable_telemetry

__all__ = ["load_network"]


def load_network(reference: ModelReference | str, options: LoadOptions) -> Network:
    """The network that a model reference names, or the one that `models prepare` has made of it.

    Its weights are on disk, and verified where a digest is published. The network itself is built by the engine,
    with one of `Network.backends`.

    Raises:
        UsageError: the reference is malformed, or lacks an option that its kind needs.
        UnavailableError: model, weights or labels cannot be had; its subclasses say which and why.
    """
    reference = _parse(reference)
    # Most catalogued models come with a graph, and nothing prepared is looked for.
    network = load_unprepared(reference, options) if reference.kind.in_catalog else None
    if (network is None or network.backends.open_session is None) and paths.prepared_folder().is_dir():
        from imgclassify.hub.export_cache import find_prepared

        if prepared := find_prepared(reference, options):
            return prepared
    return network or load_unprepared(reference, options)


def load_unprepared(reference: ModelReference | str, options: LoadOptions) -> Network:
    """What `load_network` does, without what `models prepare` has left in the cache."""
    disable_telemetry()
    reference = _parse(reference)
    if options.arch is not None and not reference.kind.takes_arch:
        raise UsageError(
            f"--arch goes with a file or a hub: repository, not with the model {reference.text!r}, "
            "which has its own",
            hint=f"leave it out, or give the file: -m ./weights.pth --arch {options.arch}",
        )
    return reference.loader().load_network(reference, options)


def _parse(reference: ModelReference | str) -> ModelReference:
    return ModelReference.parse(reference) if isinstance(reference, str) else reference
