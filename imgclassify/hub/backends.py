"""The ways a network can be run: as a torch module, and as a graph in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from imgclassify import checkpoints
from imgclassify.catalog import ModelManifest, PreprocessSpec
from imgclassify.checkpoints import StateDict
from imgclassify.graphs import graph as graphs
from imgclassify.graphs.graph import Graph, SessionPlan
from imgclassify.hub import architectures

if TYPE_CHECKING:
    import onnxruntime
    import torch

PREPARE = "`imgclassify models prepare` makes a graph of it"


@dataclass(frozen=True, slots=True)
class Ways:
    """How a network can be run; at least one of the two."""

    torch: Callable[[], torch.nn.Module] | None
    """Builds it with its weights, on the CPU."""
    session: Callable[[SessionPlan], onnxruntime.InferenceSession] | None
    """Opens it with its weights."""
    no_session: str = ""
    """Why there is no session to be had, in a clause."""
    remedy: str = ""
    """What would change that, in a clause."""


def of(
    manifest: ModelManifest,
    preprocess: PreprocessSpec,
    read: Callable[[], StateDict],
    *,
    where: str,
    num_classes: int,
) -> Ways:
    """Those of an architecture that a manifest names, with a checkpoint's parameters in it.

    Args:
        read: reads the checkpoint.
        where: names it in errors.
    """
    build = partial(_build, manifest, read, where=where, num_classes=num_classes)
    if architectures.is_quantized(manifest):
        return Ways(build, None, "quantized networks run in torch alone")
    graph = graphs.find(manifest, preprocess)
    if graph is None:
        height, width = preprocess.crop_size
        missing = f"no graph of {manifest.architecture} for crops of {height}×{width} comes with imgclassify"
        return Ways(build, None, missing, PREPARE)
    return Ways(build, partial(_open, graph, manifest, preprocess, read, where=where, num_classes=num_classes))


def head_size(manifest: ModelManifest, preprocess: PreprocessSpec, state_dict: StateDict, *, where: str) -> int:
    """The number of classes of a checkpoint of a manifest's architecture.

    Raises:
        CheckpointError: it has no parameter that tells; the first names that differ are listed.
    """
    graph = None if architectures.is_quantized(manifest) else graphs.find(manifest, preprocess)
    if graph is None:
        return architectures.head_size(manifest, state_dict, where=where)
    return graph.head_size(checkpoints.rename(state_dict, manifest.rename), where=where)


def _build(
    manifest: ModelManifest, read: Callable[[], StateDict], *, where: str, num_classes: int
) -> torch.nn.Module:
    return architectures.build(manifest, read(), where=where, num_classes=num_classes)


def _open(
    graph: Graph,
    manifest: ModelManifest,
    preprocess: PreprocessSpec,
    read: Callable[[], StateDict],
    plan: SessionPlan,
    *,
    where: str,
    num_classes: int,
) -> onnxruntime.InferenceSession:
    state_dict = checkpoints.rename(read(), manifest.rename)
    return graph.open(state_dict, preprocess, where=where, num_classes=num_classes, plan=plan)
