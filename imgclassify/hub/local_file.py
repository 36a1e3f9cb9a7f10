"""Loads models from a user's own file: a checkpoint with --arch, an .onnx graph, or a TorchScript program."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import catalog, checkpoints, weights
from imgclassify.errors import (
    CheckpointError,
    OutputError,
    UnknownModelError,
    UntrustedCodeError,
    UsageError,
    describe_error,
)
from imgclassify.graphs import onnx_file
from imgclassify.graphs.onnx_file import OnnxFile
from imgclassify.graphs.outputs import add_outputs
from imgclassify.graphs.session import SessionConfig
from imgclassify.hub import architectures, backends, from_arch
from imgclassify.hub.backends import Backends
from imgclassify.hub.network import LoadOptions, Network, labels_for_manifest
from imgclassify.hub.reference import FILE_SUFFIXES, ModelReference, ReferenceLoader

if TYPE_CHECKING:
    import onnxruntime
    import torch


class FileLoader(ReferenceLoader):
    """Loads files; see ReferenceLoader. The suffix and the content decide which kind of file it is."""

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        path = Path(os.path.expanduser(reference.value))  # noqa: PTH111 - Path.expanduser raises for unknown users
        _require_file(path, reference.value)
        if path.suffix.lower() == ".onnx":
            return _load_onnx(reference.value, path, options)
        if checkpoints.is_torchscript(path):
            return _load_torchscript(reference.value, path, options)
        return _load_checkpoint(reference.value, path, options)

    def cache_key(self, reference: ModelReference) -> dict[str, Any]:
        return super().cache_key(reference) | {"reference": str(Path(reference.value).absolute())}


def _require_file(path: Path, name: str) -> None:
    if path.is_file():
        return
    if path.exists():
        raise CheckpointError(f"{name!r} is a folder, pipe or device", hint="give the path of a file")
    raise CheckpointError(
        f"no such model file: {name!r}", hint=f"check the path{_hub_hint(name) or _catalog_hint(path.stem)}"
    )


def _hub_hint(name: str) -> str:
    """Returns what to give instead, if the name may be that of a repository on the Hugging Face hub."""
    found = re.fullmatch(r"(?:hf[-_]hub:|hf:)?([\w-]+)/([\w.-]+)", name)
    if not found or name.lower().endswith(FILE_SUFFIXES):
        return ""
    owner, repository = found.groups()
    if owner == "timm":
        return f"; this model of the Hugging Face hub is named timm:{repository}"
    return (
        "; of the models on the Hugging Face hub, timm's are named timm:NAME, and of others, the weights can be "
        "fetched by hand and given as -m FILE --arch NAME"
    )


def _catalog_hint(stem: str) -> str:
    near = ", ".join(manifest.name for manifest in catalog.filter_models(catalog.load_manifests(), stem)[:3])
    return f"; names of catalogued models have no suffix: {near}" if near else ""


def _load_checkpoint(reference: str, path: Path, options: LoadOptions) -> Network:
    if options.arch is None:
        raise UsageError(
            f"{reference!r} holds weights but does not name their architecture",
            hint="give --arch NAME, such as --arch resnet18; see the names with `imgclassify models list`",
        )
    manifest = from_arch.find_architecture(options.arch, transform_input=options.transform_input)
    if manifest.provider in catalog.PROGRAMS:
        raise UnknownModelError(
            f"{options.arch!r} is a file that contains its own network, not an architecture to load weights into",
            hint="give --arch the name of another catalogued model, or timm:NAME",
        )
    quantized = architectures.is_quantized(manifest)
    preprocess = options.overrides.apply_to(manifest.preprocess)
    state_dict = architectures.read_quantized(path) if quantized else checkpoints.open_lazy(path)
    num_classes = backends.count_classes(manifest, preprocess, state_dict, source_name=repr(reference))
    from_arch.report_transform_input(repr(reference), manifest, options)
    return Network(
        model=reference,
        architecture=manifest.architecture,
        weights=path.name,
        path=path,
        sha256=weights.sha256_of(path),
        preprocess=preprocess,
        labels=labels_for_manifest(manifest, options, num_classes),
        num_classes=num_classes,
        backends=backends.backends_for(
            manifest, preprocess, lambda: state_dict, source_name=repr(reference), num_classes=num_classes
        ),
        quantized=quantized,
        gmacs=manifest.gmacs,
        layers=manifest.layers,
    )


def program_backends(kind: str, reference: str, path: Path, *, trust: bool) -> Backends:
    """Returns the backends of a file that contains its own network.

    Args:
        kind: one of catalog.PROGRAMS.
        reference: names the file in errors.

    Raises:
        UntrustedCodeError: the file is a TorchScript program, and `trust` is False.
        CheckpointError: the file is an ONNX graph that cannot be used, or has weights in other files.
    """
    if kind == "onnx":
        file = OnnxFile(path)
        require_whole(file)
        return _onnx_backends(file)
    return _torchscript_backends(reference, path, trust=trust)


def require_whole(file: OnnxFile) -> None:
    """Raises CheckpointError if an .onnx file has weights in other files."""
    if file.external:
        raise CheckpointError(
            f"{str(file.path)!r} has weights in other files, such as {min(file.external)!r}, "
            "so its SHA-256 does not identify the model",
            hint="save the graph with its weights in one file, or use it by its path: -m FILE",
        )


def _onnx_backends(file: OnnxFile) -> Backends:
    return Backends(None, partial(_open_onnx, file))


def _load_onnx(reference: str, path: Path, options: LoadOptions) -> Network:
    preprocess, labels = from_arch.preprocess_and_labels(repr(reference), options)
    file = OnnxFile(path)
    return Network(
        model=reference,
        architecture="onnx",
        weights=path.name,
        path=path,
        # The digest of the graph alone would not identify weights that are in other files.
        sha256=None if file.external else weights.sha256_of(path),
        preprocess=preprocess,
        labels=labels,
        num_classes=None,
        backends=_onnx_backends(file),
    )


def _open_onnx(file: OnnxFile, config: SessionConfig) -> onnxruntime.InferenceSession:
    import onnxruntime

    settings = config.session_options()
    try:
        model: str | bytes = str(file.path)
        if config.extra_outputs:
            settings.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(file.path.resolve().parent)
            )
            model = add_outputs(file.path.read_bytes(), config.extra_outputs, repr(str(file.path)))
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except OutputError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no other common base
        raise onnx_file.unreadable_onnx(file.path, describe_error(error)) from error
    file.check_unchanged()
    return session


def _torchscript_backends(reference: str, path: Path, *, trust: bool) -> Backends:
    if not trust:
        raise UntrustedCodeError(
            f"{reference!r} is a TorchScript program, which can read and write the files of this machine",
            hint="if you trust its author, give --trust, or use a checkpoint with --arch or an .onnx graph instead",
        )
    return Backends(partial(_read_torchscript, path), None, "a TorchScript program runs only in torch")


def _load_torchscript(reference: str, path: Path, options: LoadOptions) -> Network:
    found = _torchscript_backends(reference, path, trust=options.trust)
    preprocess, labels = from_arch.preprocess_and_labels(repr(reference), options)
    return Network(
        model=reference,
        architecture="torchscript",
        weights=path.name,
        path=path,
        sha256=weights.sha256_of(path),
        preprocess=preprocess,
        labels=labels,
        num_classes=None,
        backends=found,
    )


def _read_torchscript(path: Path) -> torch.nn.Module:
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            # Newer releases of torch warn that TorchScript is deprecated, but users still have such files.
            warnings.simplefilter("ignore")
            network: torch.nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return network
    except Exception as error:  # code that the program runs while it is loaded may raise any exception
        raise CheckpointError(
            f"cannot read {str(path)!r} as TorchScript: {describe_error(error)}",
            hint="export or fetch the file again",
        ) from error
