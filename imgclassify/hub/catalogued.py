"""Catalogued models: NAME, NAME@WEIGHTS."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from imgclassify import catalog, checkpoints, weights
from imgclassify.hub import architectures
from imgclassify.hub.network import LoadOptions, Network, labels_for

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from imgclassify.catalog import ModelManifest


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
    file = weights.fetch(manifest.url, manifest.sha256, offline=options.offline, progress=options.progress)
    return Network(
        model=manifest.name if manifest.default else manifest.reference,
        architecture=manifest.architecture,
        weights=manifest.weights,
        path=file.path,
        sha256=file.sha256,
        preprocess=options.overrides.apply(manifest.preprocess),
        labels=labels,
        num_classes=manifest.num_classes,
        build=partial(_build, manifest, file.path),
        quantized=architectures.is_quantized(manifest),
    )


def _build(manifest: ModelManifest, path: Path) -> torch.nn.Module:
    return architectures.build(
        manifest,
        checkpoints.read(path),
        where=f"the checkpoint {path.name}",
        num_classes=manifest.num_classes,
    )
