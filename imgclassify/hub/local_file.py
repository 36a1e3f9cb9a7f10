"""A user's own file: a checkpoint with --arch, an .onnx graph, or a TorchScript program."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imgclassify import catalog, checkpoints, weights
from imgclassify.errors import CheckpointError, UsageError, first_line
from imgclassify.hub import architectures, catalogued, timm_registry
from imgclassify.hub.network import LoadOptions, Network, foreign_spec, labels_for

if TYPE_CHECKING:
    import torch

    from imgclassify.catalog import ModelManifest


def load(path: Path, options: LoadOptions) -> Network:
    """See hub.load."""
    if not path.is_file():
        near = ", ".join(manifest.name for manifest in catalog.select(catalog.manifests(), path.stem)[:3])
        raise CheckpointError(
            f"no such model file: {str(path)!r}",
            hint="check the path" + (f"; catalogued models have no suffix: {near}" if near else ""),
        )
    if path.suffix.lower() == ".onnx":
        return _whole(path, options, onnx=True)
    if checkpoints.is_torchscript(path):
        return _whole(path, options, onnx=False)
    return _checkpoint(path, options)


def _architecture(reference: str) -> ModelManifest:
    if reference.startswith("timm:"):
        return timm_registry.manifest(reference.removeprefix("timm:"))
    return catalogued.find(reference)


def _checkpoint(path: Path, options: LoadOptions) -> Network:
    if options.arch is None:
        raise UsageError(
            f"{str(path)!r} holds weights, and no word of the architecture they belong to",
            hint="add --arch NAME, such as --arch resnet18; `imgclassify models list` has the names",
        )
    manifest = _architecture(options.arch)
    state_dict = checkpoints.read(path)
    num_classes = architectures.head_size(manifest, state_dict) or manifest.num_classes
    return Network(
        model=path.name,
        architecture=manifest.architecture,
        weights=path.name,
        path=path,
        sha256=weights.sha256_of(path),
        preprocess=options.overrides.apply(manifest.preprocess),
        labels=labels_for(manifest, options, num_classes),
        num_classes=num_classes,
        build=partial(architectures.build, manifest, state_dict, where=repr(str(path)), num_classes=num_classes),
        quantized=architectures.is_quantized(manifest),
    )


def _whole(path: Path, options: LoadOptions, *, onnx: bool) -> Network:
    """A file that brings its architecture along, and no preprocessing or labels."""
    preprocess, labels, _ = foreign_spec(repr(str(path)), options, _architecture)
    return Network(
        model=path.name,
        architecture="onnx" if onnx else "torchscript",
        weights=path.name,
        path=path,
        sha256=weights.sha256_of(path),
        preprocess=preprocess,
        labels=labels,
        num_classes=None,
        build=None if onnx else partial(_load_torchscript, path),
    )


def _load_torchscript(path: Path) -> torch.nn.Module:
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated in newer releases; the files people have remain.
            warnings.simplefilter("ignore")
            network: torch.nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return network
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {str(path)!r} as TorchScript: {first_line(error)}",
            hint="export or fetch the file again",
        ) from error
