"""Loads models from a user's own file: a checkpoint with --arch, an .onnx graph, or a program of torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import catalog, checkpoints, weights
from imgclassify.checkpoints import Checkpoint
from imgclassify.checkpoints.candidates import find_candidates
from imgclassify.checkpoints.storage import MappedFile
from imgclassify.errors import (
    CheckpointError,
    OutputError,
    UnknownModelError,
    UsageError,
    describe_error,
)
from imgclassify.graphs import onnx_file
from imgclassify.graphs.onnx_file import OnnxFile
from imgclassify.graphs.onnx_signature import find_image_input, no_image_input
from imgclassify.graphs.outputs import add_outputs
from imgclassify.graphs.session import GraphSession, SessionConfig
from imgclassify.hub import architectures, backends, file_kind, from_arch, metadata, onnx_config, torchscript_config
from imgclassify.hub.backends import Backends
from imgclassify.hub.checkpoint_fit import (
    NO_ARCHITECTURE_FITS,
    FittedCheckpoint,
    fit_checkpoint,
    suggest_architectures,
)
from imgclassify.hub.class_names import possible_counts
from imgclassify.hub.exported_config import read_exported
from imgclassify.hub.exported_model import load_exported
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.model_files import CONFIG
from imgclassify.hub.neighbour_files import NeighbourFiles
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides, chosen_options, labels_for_manifest
from imgclassify.hub.reference import ModelReference, ReferenceLoader
from imgclassify.hub.reference_hints import suggest_reference
from imgclassify.hub.torch_programs import find_program
from imgclassify.hub.training_folder import read_training_folder
from imgclassify.labels import Label, LabelSet

if TYPE_CHECKING:
    import onnxruntime

    from imgclassify.graphs.openvino_session import OpenvinoSession

logger = logging.getLogger("imgclassify")


class FileLoader(ReferenceLoader):
    """Loads files; see ReferenceLoader. The content of a file decides of which format it is."""

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        path = Path(os.path.expanduser(reference.value))  # noqa: PTH111 - Path.expanduser raises for unknown users
        _require_file(path, reference.value)
        found = file_kind.find_format(path, reference.value)
        if found != file_kind.CHECKPOINT and options.checkpoint_key is not None:
            raise UsageError(
                f"checkpoint_key is for checkpoints, but {reference.value!r} contains its own network",
                hint="leave it out",
                argument="checkpoint_key",
            )
        loaders: dict[str, Callable[[str, Path, LoadOptions], Network]] = {
            file_kind.ONNX: _load_onnx,
            file_kind.TORCHSCRIPT: partial(_load_torch_program, file_kind.TORCHSCRIPT),
            file_kind.PT2: partial(_load_torch_program, file_kind.PT2),
            file_kind.CHECKPOINT: _load_checkpoint,
        }
        return loaders[found](reference.value, path, options)

    def cache_key(self, reference: ModelReference) -> dict[str, Any]:
        path = Path(reference.value).absolute()
        return {"reference": str(path), "code": NeighbourFiles(path).digest()}


def _require_file(path: Path, name: str) -> None:
    if path.is_file():
        return
    if path.exists():
        raise CheckpointError(f"{name!r} is a folder, pipe or device", hint="give the path of a file")
    raise CheckpointError(f"no such model file: {name!r}", hint=suggest_reference(name))


def _load_checkpoint(reference: str, path: Path, options: LoadOptions) -> Network:
    name = repr(reference)
    if options.arch is not None and architectures.is_quantized(from_arch.find_architecture(options.arch)):
        return _load_quantized(reference, path, options)
    checkpoint = checkpoints.open_checkpoint(path)
    neighbours = NeighbourFiles(path)
    found, origins = _fit_architecture(checkpoint, neighbours, name, options)
    for note in found.notes:
        logger.warning("%s", note)
    manifest = found.manifest
    num_classes = possible_counts(found.num_classes)
    config = metadata.read_config(
        metadata.checkpoint_content(checkpoint),
        path.name,
        spec=manifest.preprocess,
        num_classes=num_classes,
        strict=bool(checkpoint.metadata),
    )
    config = neighbours.complete(config, options, num_classes=num_classes, spec=manifest.preprocess)
    if options.with_labels and not (options.labels or config.labels):
        config = config.combine(read_training_folder(checkpoint.content, path.name, num_classes=num_classes))
    preprocess = config.adapt_preprocess(manifest.preprocess, options.overrides)
    if manifest.preprocess.channel_order == "grey" and preprocess.channel_order != "grey":
        raise UsageError(
            f"channel_order is {preprocess.channel_order!r}, but {name} takes one channel",
            hint="give --channel-order grey, or leave it out",
            argument="channel_order",
        )
    from_arch.report_transform_input(name, manifest, options)
    return Network(
        model=reference,
        architecture=manifest.architecture,
        weights=path.name,
        path=path,
        sha256=weights.sha256_of(path),
        preprocess=preprocess,
        labels=from_arch.find_labels(name, options, config, manifest, num_classes=found.num_classes),
        num_classes=found.num_classes,
        backends=backends.backends_for(
            # The names are those of the architecture already.
            replace(manifest, rename=()),
            preprocess,
            lambda: found.state_dict,
            source_name=name,
            num_classes=found.num_classes,
        ),
        activation=options.activation or config.activation,
        output_name=options.output_name,
        origins={**config.origins, **origins},
        options=chosen_options(found.key, manifest),
        gmacs=manifest.gmacs,
        manifest=replace(manifest, checkpoint_key=found.key),
        layers=manifest.layers,
    )


def _load_quantized(reference: str, path: Path, options: LoadOptions) -> Network:
    assert options.arch is not None
    manifest = replace(from_arch.find_architecture(options.arch), checkpoint_key=options.checkpoint_key or "")
    preprocess = options.overrides.apply_to(manifest.preprocess)
    state_dict = architectures.read_quantized(path, options.checkpoint_key)
    return Network(
        model=reference,
        architecture=manifest.architecture,
        weights=path.name,
        path=path,
        sha256=weights.sha256_of(path),
        preprocess=preprocess,
        labels=labels_for_manifest(manifest, options, manifest.num_classes),
        num_classes=manifest.num_classes,
        backends=backends.backends_for(
            manifest,
            preprocess,
            lambda: state_dict,
            source_name=repr(reference),
            num_classes=manifest.num_classes,
        ),
        activation=options.activation,
        output_name=options.output_name,
        quantized=True,
        gmacs=manifest.gmacs,
        manifest=manifest,
        layers=manifest.layers,
    )


def _fit_architecture(
    checkpoint: Checkpoint, neighbours: NeighbourFiles, name: str, options: LoadOptions
) -> tuple[FittedCheckpoint, dict[str, str]]:
    """Fits a checkpoint to the architecture that the user names, or to that which the checkpoint names.

    Returns:
        (the fitted checkpoint, {"arch": where its name was found} if the user does not give it).

    Raises:
        UsageError: neither names one, or none that the checkpoint names fits.
        UnknownModelError: there is no such architecture.
        CheckpointError: the checkpoint does not fit the architecture that the user names.
    """
    if options.arch is not None:
        manifest = from_arch.find_architecture(options.arch, transform_input=options.transform_input)
        if manifest.provider in catalog.PROGRAMS:
            raise UnknownModelError(
                f"{options.arch!r} is a file that contains its own network, not an architecture for weights",
                hint="give --arch the name of another catalogued model, or timm:NAME",
            )
        return fit_checkpoint(checkpoint, manifest, key=options.checkpoint_key, source_name=name), {}
    failure: CheckpointError | None = None
    named = [
        (arch, f"{place} in {file}")
        for file, places in (
            (checkpoint.path.name, metadata.find_architectures(metadata.checkpoint_content(checkpoint))),
            (CONFIG, neighbours.find_architectures()),
        )
        for arch, place in places
    ]
    for arch, place in named:
        if arch.startswith("timm:") and not _is_in_timm(arch.removeprefix("timm:")):
            continue
        try:
            manifest = from_arch.find_architecture(arch, transform_input=options.transform_input)
            if manifest.provider not in catalog.PROGRAMS and not architectures.is_quantized(manifest):
                found = fit_checkpoint(checkpoint, manifest, key=options.checkpoint_key, source_name=name)
                return found, {"arch": f"{place}: {arch}"}
        except (UnknownModelError, UsageError):
            continue
        except CheckpointError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    raise _unnamed_architecture(checkpoint, name, options.checkpoint_key)


def _is_in_timm(name: str) -> bool:
    from imgclassify.hub.timm_registry import registered_names

    return name.partition(".")[0] in registered_names()


def _unnamed_architecture(checkpoint: Checkpoint, name: str, key: str | None) -> UsageError:
    candidates = find_candidates(checkpoint.content, checkpoint.path, key)
    fitting = suggest_architectures(max(candidates, key=lambda each: len(each.state_dict)).state_dict)
    hint = f"it fits --arch {' or --arch '.join(fitting)}" if fitting else NO_ARCHITECTURE_FITS
    return UsageError(f"{name} holds weights but does not name their architecture", hint=hint)


def program_backends(kind: str, reference: str, path: Path, *, trust: bool) -> Backends:
    """Returns the backends of a file that contains its own network.

    Args:
        kind: one of catalog.PROGRAMS.
        reference: names the file in errors.

    Raises:
        UntrustedCodeError: the file is a program of torch, and `trust` is False.
        CheckpointError: the file is an ONNX graph that cannot be used, or has weights in other files.
    """
    if kind == "onnx":
        file = OnnxFile(path)
        require_whole(file)
        return onnx_backends(file)
    return find_program(kind, reference, path, trust=trust).backends


def require_whole(file: OnnxFile) -> None:
    """Raises CheckpointError if an .onnx file has weights in other files."""
    if file.external:
        raise CheckpointError(
            f"{str(file.path)!r} has weights in other files, such as {min(file.external)!r}, "
            "so its SHA-256 does not identify the model",
            hint="save the graph with its weights in one file, or use it by its path: -m FILE",
        )


def onnx_backends(file: OnnxFile) -> Backends:
    return Backends(None, partial(_open_onnx, file), signature=file.signature)


def _load_onnx(reference: str, path: Path, options: LoadOptions) -> Network:
    file = OnnxFile(path)
    if exported := read_exported(file.metadata, path.name):
        return load_exported(
            reference,
            path,
            options,
            exported,
            onnx_backends(file),
            architecture="onnx",
            external=file.external,
        )
    num_classes = onnx_config.count_classes(file, options.output_name)
    config = _read_graph_config(file, options).combine(onnx_config.read_config(file, num_classes=num_classes))
    config = NeighbourFiles(path).complete(config, options, num_classes=num_classes)
    preprocess, labels = from_arch.preprocess_and_labels(repr(reference), options, config)
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
        backends=onnx_backends(file),
        activation=config.activation,
        origins=config.origins,
    )


def _read_graph_config(file: OnnxFile, options: LoadOptions) -> FileConfig:
    """Returns what the input of a graph says of the preprocessing, and the class names of its map of probabilities.

    The crop size is that of the graph, but not beside `--arch`: its resize belongs to its own crop size.
    """
    labels = None
    # With the user's labels, the classes of the map get their order: see engines/onnx_outputs.py.
    if file.signature.class_names and options.labels is None:
        named = enumerate(file.signature.class_names)
        labels = LabelSet(str(file.path), tuple(Label(index, None, name) for index, name in named))
    image = find_image_input(file.signature.inputs, file.signature.layout)
    if image is None:
        raise no_image_input(repr(str(file.path)), file.signature.inputs)
    known = PreprocessOverrides()
    if image.takes_bytes:
        known = PreprocessOverrides(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        for name in ("mean", "std"):
            if getattr(options.overrides, name) not in (None, getattr(known, name)):
                logger.warning("--%s is not used: %s takes uint8 and normalises images itself", name, file.path)
    return FileConfig(
        labels=labels,
        preprocess=replace(
            known,
            crop_size=image.fixed_size if options.arch is None else None,
            channel_order="grey" if image.channels == 1 else None,
        ),
    )


def _open_onnx(file: OnnxFile, config: SessionConfig) -> GraphSession:
    if config.engine == "openvino":
        return _open_openvino(file, config)
    import onnxruntime

    settings = config.session_options()
    held: list[MappedFile] = []
    try:
        model: str | bytes = str(file.path)
        if config.extra_outputs:
            held = _hand_over_weights(file, settings)
            model = add_outputs(
                file.path.read_bytes(), config.extra_outputs, repr(str(file.path)), logits=config.logits
            )
        session: GraphSession = onnxruntime.InferenceSession(model, settings, providers=config.providers())
    except OutputError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no other common base
        raise onnx_file.unreadable_onnx(file.path, describe_error(error)) from error
    file.check_unchanged()
    del held
    return session


def _open_openvino(file: OnnxFile, config: SessionConfig) -> OpenvinoSession:
    from imgclassify.graphs.openvino_session import OpenvinoSession

    name = repr(str(file.path))
    model: Path | bytes = file.path
    if config.extra_outputs:
        if file.external:
            raise OutputError(
                f"OpenVINO cannot add an output to {name}, whose weights are in other files",
                hint="use --engine onnxruntime",
            )
        model = add_outputs(file.path.read_bytes(), config.extra_outputs, name, logits=config.logits)
    session = OpenvinoSession(model, config, name=name)
    file.check_unchanged()
    return session


def _hand_over_weights(file: OnnxFile, settings: onnxruntime.SessionOptions) -> list[MappedFile]:
    """Tells onnxruntime where the weights are that are in other files than a graph in memory.

    Returns:
        The files. They must stay open until the session is created.
    """
    folder = file.path.parent
    if not any((folder / name).is_symlink() for name in file.external):
        settings.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder.resolve())
        )
        return []
    # In memory, because onnxruntime does not follow links that lead out of a folder. It can since 1.23.
    files = [MappedFile(folder / name) for name in sorted(file.external)]
    views = [each.view(0, len(each)) for each in files]
    settings.add_external_initializers_from_files_in_memory(sorted(file.external), views, list(map(len, views)))
    return files


def _load_torch_program(kind: str, reference: str, path: Path, options: LoadOptions) -> Network:
    found = find_program(kind, reference, path, trust=options.trust)
    if found.exported:
        return load_exported(reference, path, options, found.exported, found.backends, architecture=kind)
    config = NeighbourFiles(path).complete(torchscript_config.read_config(found.texts, path.name), options)
    preprocess, labels = from_arch.preprocess_and_labels(repr(reference), options, config)
    return Network(
        model=reference,
        architecture=kind,
        weights=path.name,
        path=path,
        sha256=weights.sha256_of(path),
        preprocess=preprocess,
        labels=labels,
        num_classes=None,
        backends=found.backends,
        activation=config.activation,
        origins=config.origins,
    )
