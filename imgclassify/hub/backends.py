"""The ways to run a network: as a torch module, or as a graph in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from imgclassify import checkpoints
from imgclassify.catalog import PROGRAMS, ModelManifest, PreprocessSpec
from imgclassify.checkpoints import StateDict
from imgclassify.graphs.graph import TRANSFORM_INPUT, Graph, find_graph, undo_transform_input
from imgclassify.graphs.session import GraphSession, SessionConfig
from imgclassify.hub import architectures

if TYPE_CHECKING:
    import torch

    from imgclassify.graphs.onnx_signature import Signature

PREPARE_HINT = "or make a graph of it with `imgclassify models prepare`"


class GraphSource(NamedTuple):
    """A graph without weights, with the checkpoint that has its parameters."""

    graph: Graph
    read: Callable[[], StateDict]
    """Reads the checkpoint. Its parameters have the names of the graph's."""
    preprocess: PreprocessSpec
    """How the graph normalises its crops."""
    num_classes: int
    source_name: str
    """Names the checkpoint in errors."""

    def open_session(self, config: SessionConfig) -> GraphSession:
        return self.graph.open_session(
            self.read(),
            self.preprocess,
            source_name=self.source_name,
            num_classes=self.num_classes,
            config=config,
        )


class Backends(NamedTuple):
    """The ways to run one network. At least one of `build_torch` and `open_session` is not None."""

    build_torch: Callable[[], torch.nn.Module] | None
    """Builds the network with its weights, on the CPU."""
    open_session: Callable[[SessionConfig], GraphSession] | None
    """Opens the graph with its weights."""
    no_session_reason: str = ""
    """Why `open_session` is None, as a clause for messages."""
    hint: str = ""
    """What the user can do to get a session, as a clause that follows "use --engine torch; "."""
    signature: Signature | None = None
    """What an .onnx graph of the user says of its inputs and outputs."""
    find_graph: Callable[[], GraphSource] | None = None
    """Returns the graph that `open_session` opens, if it is one without weights."""
    takes_crops: bool = False
    """Whether the network that `build_torch` builds takes crops, uint8 (N, H, W, 3), and normalises them itself."""

    @property
    def engines(self) -> list[str]:
        """The engines that can run the network. The first runs it on the CPU, the last on a GPU."""
        able = {"onnxruntime": self.open_session, "torch": self.build_torch}
        return [name for name, function in able.items() if function is not None]


def backends_for(
    manifest: ModelManifest,
    preprocess: PreprocessSpec,
    read: Callable[[], StateDict],
    *,
    source_name: str,
    num_classes: int,
) -> Backends:
    """Returns the backends of a manifest's architecture with the parameters of a checkpoint.

    Args:
        read: reads the checkpoint.
        source_name: names the checkpoint in errors.
    """
    build = partial(_build_torch, manifest, read, source_name=source_name, num_classes=num_classes)
    if architectures.is_quantized(manifest):
        return Backends(build, None, "quantized networks run in torch alone")
    graph = find_graph(manifest, preprocess)
    if graph is None:
        height, width = preprocess.crop_size
        missing = f"no graph of {manifest.architecture} for crops of {height}×{width} comes with imgclassify"
        return Backends(build, None, missing, PREPARE_HINT)
    if manifest.options.get(TRANSFORM_INPUT) is False:
        preprocess = undo_transform_input(preprocess)  # the graph has it
    source = GraphSource(
        graph,
        lambda: checkpoints.rename_parameters(read(), manifest.rename),
        preprocess,
        num_classes,
        source_name,
    )
    return Backends(build, source.open_session, find_graph=lambda: source)


def find_engines(manifest: ModelManifest) -> list[str]:
    """Returns what Backends.engines is for a catalogued model. Its weights are not needed."""
    if manifest.provider in PROGRAMS:
        return ["onnxruntime" if manifest.provider == "onnx" else "torch"]
    if architectures.is_quantized(manifest) or find_graph(manifest, manifest.preprocess) is None:
        return ["torch"]
    return ["onnxruntime", "torch"]


def _build_torch(
    manifest: ModelManifest, read: Callable[[], StateDict], *, source_name: str, num_classes: int
) -> torch.nn.Module:
    return architectures.build_network(manifest, read(), source_name=source_name, num_classes=num_classes)
