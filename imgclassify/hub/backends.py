"""The ways a network can be run: as a torch module, and as a graph in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from imgclassify import checkpoints
from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.checkpoints import StateDict
from imgclassify.graphs.graph import Graph, find_graph
from imgclassify.graphs.session import SessionConfig
from imgclassify.hub import architectures

if TYPE_CHECKING:
    import onnxruntime
    import torch

PREPARE_HINT = "`imgclassify models prepare` makes a graph of it"


@dataclass(frozen=True, slots=True)
class Backends:
    """How a network can be run; at least one of the two."""

    build_torch: Callable[[], torch.nn.Module] | None
    """Builds it with its weights, on the CPU."""
    open_session: Callable[[SessionConfig], onnxruntime.InferenceSession] | None
    """Opens it with its weights."""
    no_session_reason: str = ""
    """Why there is no session to be had, in a clause."""
    hint: str = ""
    """What would change that, in a clause."""


def backends_for(
    manifest: ModelManifest,
    preprocess: PreprocessSpec,
    read: Callable[[], StateDict],
    *,
    source_name: str,
    num_classes: int,
) -> Backends:
    """Those of an architecture that a manifest names, with a checkpoint's parameters in it.

    Args:
        read: reads the checkpoint.
        source_name: names it in errors.
    """
    build = partial(_build_torch, manifest, read, source_name=source_name, num_classes=num_classes)
    if architectures.is_quantized(manifest):
        return Backends(build, None, "quantized networks run in torch alone")
    graph = find_graph(manifest, preprocess)
    if graph is None:
        height, width = preprocess.crop_size
        missing = f"no graph of {manifest.architecture} for crops of {height}×{width} comes with imgclassify"
        return Backends(build, None, missing, PREPARE_HINT)
    return Backends(
        build,
        partial(_open_session, graph, manifest, preprocess, read, source_name=source_name, num_classes=num_classes),
    )


def count_classes(
    manifest: ModelManifest, preprocess: PreprocessSpec, state_dict: StateDict, *, source_name: str
) -> int:
    """The number of classes of a checkpoint of a manifest's architecture.

    Raises:
        CheckpointError: it has no parameter that tells; the first names that differ are listed.
    """
    graph = None if architectures.is_quantized(manifest) else find_graph(manifest, preprocess)
    if graph is None:
        return architectures.count_classes(manifest, state_dict, source_name=source_name)
    return graph.count_classes(checkpoints.rename_parameters(state_dict, manifest.rename), source_name=source_name)


def _build_torch(
    manifest: ModelManifest, read: Callable[[], StateDict], *, source_name: str, num_classes: int
) -> torch.nn.Module:
    return architectures.build_network(manifest, read(), source_name=source_name, num_classes=num_classes)


def _open_session(
    graph: Graph,
    manifest: ModelManifest,
    preprocess: PreprocessSpec,
    read: Callable[[], StateDict],
    config: SessionConfig,
    *,
    source_name: str,
    num_classes: int,
) -> onnxruntime.InferenceSession:
    state_dict = checkpoints.rename_parameters(read(), manifest.rename)
    return graph.open_session(
        state_dict, preprocess, source_name=source_name, num_classes=num_classes, config=config
    )
