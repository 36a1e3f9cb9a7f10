"""Loads files that `imgclassify export` wrote. They say all of their model, so that no option is needed."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from imgclassify import weights
from imgclassify.errors import HashMismatchError
from imgclassify.graphs.session import LOGITS
from imgclassify.hub import from_arch
from imgclassify.hub.backends import Backends
from imgclassify.hub.exported_config import ExportedConfig
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides

logger = logging.getLogger("imgclassify")


def load_exported(
    reference: str,
    path: Path,
    options: LoadOptions,
    exported: ExportedConfig,
    backends: Backends,
    *,
    architecture: str,
    external: Collection[str] = (),
) -> Network:
    """Returns the network of a file. The files beside it are not looked at.

    Args:
        architecture: one of catalog.PROGRAMS.
        external: the names of files with its parameters.

    Raises:
        HashMismatchError: a file with its parameters is not the one that it was exported with.
        UsageError, LabelsError: as in `from_arch.preprocess_and_labels`.
    """
    config = FileConfig(labels=exported.labels, spec=exported.preprocess, activation=exported.activation)
    options = replace(options, overrides=_without_normalization(options.overrides, path))
    preprocess, labels = from_arch.preprocess_and_labels(repr(reference), options, config)
    sha256 = _identify(path, exported, external)
    return Network(
        model=reference,
        architecture=architecture,
        weights=path.name,
        path=path,
        sha256=sha256,
        preprocess=preprocess,
        labels=labels,
        # Without it, the network would be run on made-up crops, to see what it returns.
        num_classes=exported.outputs.get(LOGITS) if options.output_name is None else None,
        backends=backends,
        activation=config.activation,
        calibration=exported.temperature if preprocess == exported.preprocess else None,
        own_calibration=exported.bind_calibration(sha256),
        source_sha256=exported.weights_sha256,
    )


def _without_normalization(overrides: PreprocessOverrides, path: Path) -> PreprocessOverrides:
    """Returns the user's values without mean and std, since the network normalises images itself."""
    for name in ("mean", "std"):
        if getattr(overrides, name) is not None:
            logger.warning("--%s is not used: %s takes uint8 and normalises images itself", name, path)
    return replace(overrides, mean=None, std=None)


def _identify(path: Path, exported: ExportedConfig, external: Collection[str]) -> str | None:
    """Returns the digest of a file, which has that of the parameters in another file. None if it has not.

    Raises:
        HashMismatchError: the other file is not the one that it should be.
    """
    for name in external:
        if name not in exported.data:
            return None
        found = weights.sha256_of(path.with_name(name))
        if found != exported.data[name]:
            raise HashMismatchError(
                f"{str(path.with_name(name))!r} does not belong to {path.name}: expected SHA-256 "
                f"{exported.data[name]}, found {found}",
                hint="fetch both files again, or export the model again",
            )
    return weights.sha256_of(path)
