"""A user's own file: a checkpoint with --arch, an .onnx graph, or a TorchScript program."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imgclassify import catalog, checkpoints, weights
from imgclassify.errors import CheckpointError, UsageError, first_line
from imgclassify.graphs import SessionPlan
from imgclassify.hub import architectures, borrowed, ways
from imgclassify.hub.network import LoadOptions, Network, labels_for
from imgclassify.hub.ways import Ways

if TYPE_CHECKING:
    import onnxruntime
    import torch


def load(reference: str, options: LoadOptions) -> Network:
    """See hub.load."""
    path = Path(os.path.expanduser(reference))  # noqa: PTH111 - Path.expanduser raises where there is no such user
    if not path.is_file():
        near = ", ".join(manifest.name for manifest in catalog.select(catalog.manifests(), path.stem)[:3])
        raise CheckpointError(
            f"no such model file: {reference!r}",
            hint="check the path" + (f"; catalogued models have no suffix: {near}" if near else ""),
        )
    if path.suffix.lower() == ".onnx":
        return _whole(reference, path, options, architecture="onnx")
    if checkpoints.is_torchscript(path):
        return _whole(reference, path, options, architecture="torchscript")
    return _checkpoint(reference, path, options)


def _checkpoint(reference: str, path: Path, options: LoadOptions) -> Network:
    if options.arch is None:
        raise UsageError(
            f"{reference!r} holds weights, and no word of the architecture they belong to",
            hint="add --arch NAME, such as --arch resnet18; `imgclassify models list` has the names",
        )
    manifest = borrowed.architecture(options.arch)
    quantized = architectures.is_quantized(manifest)
    preprocess = options.overrides.apply(manifest.preprocess)
    state_dict = architectures.read(path) if quantized else checkpoints.index(path)
    num_classes = ways.head_size(manifest, preprocess, state_dict, where=repr(reference))
    return Network(
        model=reference,
        architecture=manifest.architecture,
        weights=path.name,
        path=path,
        sha256=weights.sha256_of(path),
        preprocess=preprocess,
        labels=labels_for(manifest, options, num_classes),
        num_classes=num_classes,
        ways=ways.of(manifest, preprocess, lambda: state_dict, where=repr(reference), num_classes=num_classes),
        quantized=quantized,
        gmacs=manifest.metadata.gflops if manifest.metadata else None,
    )


def _whole(reference: str, path: Path, options: LoadOptions, *, architecture: str) -> Network:
    """A file that brings its architecture along, and no preprocessing or labels."""
    preprocess, labels = borrowed.preprocess_and_labels(repr(reference), options)
    is_onnx = architecture == "onnx"
    return Network(
        model=reference,
        architecture=architecture,
        weights=path.name,
        path=path,
        sha256=None if is_onnx and _external_data(path) else weights.sha256_of(path),
        preprocess=preprocess,
        labels=labels,
        num_classes=None,
        ways=Ways(None, partial(_open_onnx, path))
        if is_onnx
        else Ways(partial(_load_torchscript, path), None, "a TorchScript program runs in torch alone"),
    )


def _external_data(path: Path) -> set[str]:
    """The files beside an .onnx graph that hold its weights; none where they are in the graph itself.

    Found by the entry of onnx.proto's TensorProto.external_data as protobuf writes it: key "location", then a value
    of up to 127 bytes.

    Raises:
        CheckpointError: one would lie outside the graph's folder.
    """
    found = re.findall(rb"\n\x08location\x12([\x01-\x7f])([^\x00\n]{1,127})", path.read_bytes())
    names = {value[: length[0]].decode(errors="replace") for length, value in found}
    for name in names:
        if not (path.parent / name).resolve().is_relative_to(path.parent.resolve()):
            raise CheckpointError(
                f"{str(path)!r} takes its weights from {name!r}, outside its own folder",
                hint="put the weights beside the graph, and export it again",
            )
    return names


def _open_onnx(path: Path, plan: SessionPlan) -> onnxruntime.InferenceSession:
    import onnxruntime

    try:
        settings = plan.options()
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise CheckpointError(
            f"cannot read {str(path)!r} as .onnx: {first_line(error)}", hint="export or fetch the file again"
        ) from error


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
