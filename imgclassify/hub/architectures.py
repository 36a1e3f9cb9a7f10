"""Builds an architecture as a torch module, and loads a state_dict into it."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import checkpoints
from imgclassify.catalog import PROGRAMS, ModelManifest
from imgclassify.checkpoints import BATCH_COUNTER_SUFFIX
from imgclassify.errors import CheckpointError, UnavailableError, describe_error

if TYPE_CHECKING:
    import torch

    from imgclassify.checkpoints import StateDict


def create_network(manifest: ModelManifest, **changes: Any) -> torch.nn.Module:
    """Builds the manifest's architecture without its weights.

    Args:
        changes: options that override those of the manifest.

    Raises:
        UnavailableError: the installed provider lacks the architecture or one of its options.
    """
    options = {**manifest.options, "num_classes": manifest.num_classes, **changes}
    try:
        if manifest.provider == "timm":
            import timm

            network: torch.nn.Module = timm.create_model(manifest.architecture, pretrained=False, **options)
            if options.get("in_chans") == 1:
                take_first_channel(network)
        elif manifest.provider == "imgclassify":
            from imgclassify.hub import cifar_networks

            network = cifar_networks.create_network(manifest.architecture, **options)
        else:
            from torchvision.models import get_model

            network = get_model(manifest.architecture, weights=None, **options)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UnavailableError(
            f"{manifest.provider} cannot build the architecture {manifest.architecture!r}: {error}",
            hint=f"see the installed versions with `imgclassify doctor`; try a newer {manifest.provider}",
        ) from error
    return network


def take_first_channel(network: torch.nn.Module) -> None:
    """Makes a network of one channel accept the three equal channels of a crop."""
    import torch

    first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda _module, inputs: (inputs[0][:, :1],))


def create_untrained(manifest: ModelManifest, num_classes: int) -> torch.nn.Module:
    """Builds the manifest's architecture for training from scratch, with random weights from torch's generator.

    It has no auxiliary heads, so its output is one tensor of logits. Its weights are initialised as its authors do:
    the options of a manifest leave that out where published weights replace them.

    Raises:
        UnavailableError: as for `create_network`; or the manifest names a program, or a quantized network.
    """
    if manifest.provider in PROGRAMS or is_quantized(manifest):
        what = "a quantized network" if is_quantized(manifest) else "a file that contains its own network"
        raise UnavailableError(
            f"{manifest.name} cannot be trained from scratch: it is {what}",
            hint="give the name of another catalogued model, or timm:NAME",
        )
    changes = {"aux_logits": False, "init_weights": True}
    return create_network(
        manifest,
        num_classes=num_classes,
        **{name: value for name, value in changes.items() if name in manifest.options},
    )


def is_quantized(manifest: ModelManifest) -> bool:
    return bool(manifest.options.get("quantize"))


def build_network(
    manifest: ModelManifest, state_dict: StateDict, *, source_name: str, num_classes: int
) -> torch.nn.Module:
    """Builds the manifest's architecture on the CPU, with the tensors of a state_dict.

    Args:
        source_name: names the checkpoint in errors.

    Raises:
        CheckpointError: names or shapes differ from the architecture's; the first differences are listed.
    """
    state_dict = to_tensors(
        checkpoints.rename_parameters(checkpoints.materialize(state_dict, source_name=source_name), manifest.rename)
    )
    changes: dict[str, Any] = {"num_classes": num_classes}
    # A checkpoint may come without the auxiliary heads.
    if manifest.options.get("aux_logits") and not any(is_auxiliary(name, manifest) for name in state_dict):
        changes["aux_logits"] = False
    if not is_quantized(manifest):
        network = _create_on_meta(manifest, **changes)
        _load_state_dict(network, state_dict, manifest, source_name, assign=True)
        # Buffers that checkpoints leave out are computed when the network is built. On meta, they are empty.
        if not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            return network
    network = create_network(manifest, **changes)
    _load_state_dict(network, state_dict, manifest, source_name, assign=False)
    return network


def read_quantized(path: Path, key: str | None = None) -> StateDict:
    """Reads the state_dict of a quantized network, whose tensors only torch can read.

    Args:
        key: the key of the state_dict in the file, if it is not a usual one.

    Raises:
        CheckpointError: the file is damaged, is not a checkpoint, or cannot be read without running code.
    """
    import pickle
    import warnings

    import torch

    checkpoints.check_safe(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # they are about pickle protocols; an unreadable file raises below
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises almost any exception for damaged bytes
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        raise (
            checkpoints.unsafe_checkpoint(path, unsafe.group(1))
            if unsafe
            else checkpoints.unreadable_checkpoint(repr(str(path)), describe_error(error))
        ) from error
    return checkpoints.find_state_dict(content, path, key)


def to_tensors(state_dict: StateDict) -> StateDict:
    """Replaces each array of a state_dict with a tensor that shares its memory. Returns the same state_dict."""
    import numpy as np
    import torch

    for name, value in state_dict.items():
        if isinstance(value, np.ndarray):
            state_dict[name] = torch.from_numpy(value)
    return state_dict


def requirements(
    manifest: ModelManifest,
) -> tuple[dict[str, tuple[int, ...]], list[str], dict[str, tuple[int, ...]]]:
    """Returns what a checkpoint must have for an architecture.

    Returns:
        (shapes of the parameters by name, the names of all heads' parameters, shapes of those that are not
        needed).

    Raises:
        UnavailableError: as for `create_network`.
    """
    # The head's parameters are those whose shapes differ between two and three classes.
    one, other = (_create_on_meta(manifest, num_classes=count).state_dict() for count in (2, 3))
    shapes = {name: shape for name, shape in checkpoints.parameter_shapes(one).items() if not _is_counter(name)}
    optional = {name: shape for name, shape in shapes.items() if is_auxiliary(name, manifest)}
    needed = {name: shape for name, shape in shapes.items() if name not in optional}
    return needed, [name for name in shapes if one[name].shape != other[name].shape], optional


def _is_counter(name: str) -> bool:
    return name.endswith(BATCH_COUNTER_SUFFIX)


def is_auxiliary(name: str, manifest: ModelManifest) -> bool:
    """Whether a parameter is of the auxiliary heads, which only training uses."""
    return bool(manifest.options.get("aux_logits")) and name.lower().startswith("aux")


def _create_on_meta(manifest: ModelManifest, **changes: Any) -> torch.nn.Module:
    """Calls `create_network` on the meta device, which skips initial values that would only be overwritten.

    If the builder computes with the tensors it creates, which meta cannot do, the network is built on the CPU.
    """
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
    # Modules use _metadata to convert older layouts of their parameters. A checkpoint without it is taken to
    # have the current layout.
    given._metadata = getattr(state_dict, "_metadata", wanted._metadata)  # type: ignore[attr-defined]
    for name in wanted:
        if name.endswith(BATCH_COUNTER_SUFFIX):
            given.setdefault(name, torch.zeros((), dtype=torch.long))  # absent before torch 0.4, unused in eval
    try:
        network.load_state_dict(given, strict=True, assign=assign)
    except Exception as error:  # a value that should be a tensor may be of any type
        checkpoints.check_matches(
            checkpoints.parameter_shapes(given),
            checkpoints.parameter_shapes(wanted),
            source_name=source_name,
            architecture=manifest.name,
        )
        reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])
        raise CheckpointError(
            f"{source_name} does not fit the architecture {manifest.name!r}: {reason}",
            hint="give --arch NAME of the architecture that the checkpoint was saved from",
        ) from error
