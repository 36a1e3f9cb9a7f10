"""A provider's architecture with a state_dict in it, as a torch module."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import checkpoints
from imgclassify.errors import CheckpointError, UnavailableError, describe_error
from imgclassify.graphs.graph import BATCH_COUNTER_SUFFIX

if TYPE_CHECKING:
    import torch

    from imgclassify.catalog import ModelManifest
    from imgclassify.checkpoints import StateDict


def create_network(manifest: ModelManifest, **changes: Any) -> torch.nn.Module:
    """The manifest's architecture without its weights; `changes` go over the manifest's options.

    Raises:
        UnavailableError: the installed provider lacks the architecture or an option of it.
    """
    options = {**manifest.options, "num_classes": manifest.num_classes, **changes}
    try:
        if manifest.provider == "timm":
            import timm

            network: torch.nn.Module = timm.create_model(manifest.architecture, pretrained=False, **options)
        else:
            from torchvision.models import get_model

            network = get_model(manifest.architecture, weights=None, **options)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UnavailableError(
            f"{manifest.provider} cannot build the architecture {manifest.architecture!r}: {error}",
            hint=f"`imgclassify doctor` shows the installed versions; a newer {manifest.provider} may have it",
        ) from error
    return network


def is_quantized(manifest: ModelManifest) -> bool:
    return bool(manifest.options.get("quantize"))


def build_network(
    manifest: ModelManifest, state_dict: StateDict, *, source_name: str, num_classes: int
) -> torch.nn.Module:
    """The manifest's architecture with a state_dict in it, on the CPU.

    Args:
        source_name: names the checkpoint in errors.

    Raises:
        CheckpointError: names or shapes differ; the first that do are listed.
    """
    state_dict = to_tensors(
        checkpoints.rename_parameters(checkpoints.materialize(state_dict, source_name=source_name), manifest.rename)
    )
    changes: dict[str, Any] = {"num_classes": num_classes}
    if manifest.options.get("aux_logits") and not any(name.lower().startswith("aux") for name in state_dict):
        changes["aux_logits"] = False
    if not is_quantized(manifest):
        network = _create_on_meta(manifest, **changes)
        _load_state_dict(network, state_dict, manifest, source_name, assign=True)
        # A buffer that no checkpoint holds is computed when the network is built, which meta cannot do.
        if not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            return network
    network = create_network(manifest, **changes)
    _load_state_dict(network, state_dict, manifest, source_name, assign=False)
    return network


def read_quantized(path: Path) -> StateDict:
    """The state_dict of a quantized network, whose tensors only torch knows how to read.

    Raises:
        CheckpointError: the file is damaged, no checkpoint, or needs code to be read.
    """
    import pickle
    import warnings

    import torch

    checkpoints.check_safe(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read is refused below
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes lead torch's reader to almost any exception
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        raise (
            checkpoints.unsafe_checkpoint(path, unsafe.group(1))
            if unsafe
            else checkpoints.unreadable_checkpoint(repr(str(path)), describe_error(error))
        ) from error
    return checkpoints.find_state_dict(content, path)


def to_tensors(state_dict: StateDict) -> StateDict:
    """The state_dict with a tensor for each array, which shares its memory."""
    import numpy as np
    import torch

    for name, value in state_dict.items():
        if isinstance(value, np.ndarray):
            state_dict[name] = torch.from_numpy(value)
    return state_dict


def count_classes(manifest: ModelManifest, state_dict: StateDict, *, source_name: str) -> int:
    """The number of classes of a checkpoint, read from the head: the last parameter whose shape follows it.

    Raises:
        CheckpointError: the checkpoint has no such parameter; the first names that differ are listed.
    """
    if is_quantized(manifest):
        return manifest.num_classes
    one, other = (_create_on_meta(manifest, num_classes=count).state_dict() for count in (2, 3))
    heads = [name for name, tensor in one.items() if tensor.shape != other[name].shape]
    shapes = checkpoints.parameter_shapes(checkpoints.rename_parameters(state_dict, manifest.rename))
    sizes = [shapes[name][0] for name in heads if shapes.get(name)]
    if not sizes:
        checkpoints.check_matches(
            shapes, checkpoints.parameter_shapes(one), source_name=source_name, architecture=manifest.name
        )
    return sizes[-1]


def _create_on_meta(manifest: ModelManifest, **changes: Any) -> torch.nn.Module:
    """`create` on the meta device, where nothing is initialised only to be overwritten; on the CPU where a builder
    computes with what it creates, which meta cannot do."""
    import torch

    try:
        with torch.device("meta"):
            return create_network(manifest, **changes)
    except UnavailableError:
        return create_network(manifest, **changes)


def _load_state_dict(
    network: torch.nn.Module,
    state_dict: StateDict,
    manifest: ModelManifest,
    source_name: str,
    *,
    assign: bool,
) -> None:
    import torch

    wanted = network.state_dict()
    given: StateDict = OrderedDict(state_dict)
    # Modules use it to read older layouts of their own; without it the checkpoint is taken to be of today's.
    given._metadata = getattr(state_dict, "_metadata", wanted._metadata)  # type: ignore[attr-defined]
    for name in wanted:
        if name.endswith(BATCH_COUNTER_SUFFIX):
            given.setdefault(name, torch.zeros((), dtype=torch.long))  # absent before torch 0.4, unused in eval
    try:
        network.load_state_dict(given, strict=True, assign=assign)
    except Exception as error:  # what stands for a tensor may be anything
        checkpoints.check_matches(
            checkpoints.parameter_shapes(given),
            checkpoints.parameter_shapes(wanted),
            source_name=source_name,
            architecture=manifest.name,
        )
        reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])
        raise CheckpointError(
            f"{source_name} does not fit the architecture {manifest.name!r}: {reason}",
            hint="name the architecture that the checkpoint was saved from with --arch",
        ) from error
