"""Catalogued models: NAME, NAME@WEIGHTS."""

from __future__ import annotations

from functools import partial

from imgclassify import catalog, checkpoints, weights
from imgclassify.catalog import ModelManifest
from imgclassify.hub import architectures, backends
from imgclassify.hub.network import LoadOptions, Network, labels_for_manifest


def find_manifest(reference: str) -> ModelManifest:
    """The manifest of NAME or NAME@WEIGHTS, `torchvision:` before it or not.

    Raises:
        UnknownModelError: no such model or weights; the nearest are listed.
    """
    name, at, version = reference.removeprefix("torchvision:").partition("@")
    return catalog.find_model(name, version if at else None)


def load_catalogued(reference: str, options: LoadOptions) -> Network:
    """See hub.load."""
    manifest = find_manifest(reference)
    labels = labels_for_manifest(manifest, options, manifest.num_classes)
    preprocess = options.overrides.apply_to(manifest.preprocess)
    file = weights.fetch_weights(manifest.url, manifest.sha256, offline=options.offline, progress=options.progress)
    read = architectures.read_quantized if architectures.is_quantized(manifest) else checkpoints.open_lazy
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
        backends=backends.backends_for(
            manifest,
            preprocess,
            partial(read, file.path),
            source_name=f"the checkpoint {file.path.name}",
            num_classes=manifest.num_classes,
        ),
    )
