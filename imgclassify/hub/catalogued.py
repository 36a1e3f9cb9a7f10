"""Catalogued models: NAME, NAME@WEIGHTS."""

from __future__ import annotations

from functools import partial

from imgclassify import catalog, checkpoints, weights
from imgclassify.catalog import ModelManifest
from imgclassify.hub import architectures, backends
from imgclassify.hub.network import LoadOptions, Network, labels_for


def find(reference: str) -> ModelManifest:
    """The manifest of NAME or NAME@WEIGHTS, `torchvision:` before it or not.

    Raises:
        UnknownModelError: no such model or weights; the nearest are listed.
    """
    name, at, version = reference.removeprefix("torchvision:").partition("@")
    return catalog.find(name, version if at else None)


def load(reference: str, options: LoadOptions) -> Network:
    """See hub.load."""
    manifest = find(reference)
    labels = labels_for(manifest, options, manifest.num_classes)
    preprocess = options.overrides.apply(manifest.preprocess)
    file = weights.fetch(manifest.url, manifest.sha256, offline=options.offline, progress=options.progress)
    read = architectures.read if architectures.is_quantized(manifest) else checkpoints.index
    return Network(
        model=manifest.name if manifest.default else manifest.reference,
        architecture=manifest.architecture,
        weights=manifest.weights,
        path=file.path,
        sha256=file.sha256,
        preprocess=preprocess,
        labels=labels,
        num_classes=manifest.num_classes,
        quantized=architectures.is_quantized(manifest),
        gmacs=manifest.metadata.gflops if manifest.metadata else None,
        ways=backends.of(
            manifest,
            preprocess,
            partial(read, file.path),
            where=f"the checkpoint {file.path.name}",
            num_classes=manifest.num_classes,
        ),
    )
