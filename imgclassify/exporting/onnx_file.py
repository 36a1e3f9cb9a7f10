"""Writes a classifier as an .onnx file: a graph with the parameters of the checkpoint in it.

Models with a graph need neither torch nor an exporter. Of others, torch's exporter makes the graph first.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from imgclassify.engines import FEATURES, LOGITS
from imgclassify.engines.torch_outputs import LogitsFinder
from imgclassify.errors import CheckpointError, OutputError
from imgclassify.graphs.graph import Graph
from imgclassify.graphs.onnx_model import MAX_BYTES, OnnxModel
from imgclassify.graphs.session import PROBABILITIES
from imgclassify.hub import exported_config as keys
from imgclassify.hub.backends import GraphSource

if TYPE_CHECKING:
    import torch

    from imgclassify.exporting.source import ExportSource
    from imgclassify.hub.network import Network

_DIGITS = 16
"""Of a digest, in the name of a file."""


def write_onnx(source: ExportSource, path: Path, texts: Mapping[str, str], *, dtype: str) -> Path | None:
    """Writes the file, for any number of images.

    Args:
        path: its folder must hold nothing else, and its name is the final one.
        texts: metadata.
        dtype: "float32" or "float16".

    Returns:
        The file with the parameters, beside it. None if they are in the file itself.

    Raises:
        CheckpointError: the network cannot be exported, or not in this dtype.
        OutputError: the features cannot be found in its graph.
        UnavailableError: it has no graph, and the exporter is not installed.
    """
    model = _create_model(source)
    names = source.output_sizes
    if FEATURES in names:
        try:
            model.add_features()
        except OutputError as error:
            raise OutputError(
                f"the features of {source.network.model} cannot be found in its graph: {error}",
                hint="leave out --features, or export it as .pt2",
            ) from error
    if dtype == "float16":
        model.convert_to_float16()
    if LOGITS not in names:
        model.replace_logits(source.activation.scale, is_pair=source.activation.is_pair)
    elif PROBABILITIES in names:
        model.add_probabilities(source.activation.name, is_pair=source.activation.is_pair)
    model.set_outputs(names)
    data = None
    if model.count_bytes(texts) > MAX_BYTES:
        data = _write_data(model, path)
        content = {"file": data.name, "sha256": _digest_of(data)}
        texts = {**texts, keys.DATA: json.dumps(content)}
    with path.open("wb") as stream:
        model.write(stream, texts, data.name if data else None)
    return data


def data_pattern(file_name: str) -> str:
    """Returns the pattern of the names of files with the parameters of a file."""
    return f"{escape(file_name)}.{'[0-9a-f]' * _DIGITS}.data"


def _write_data(model: OnnxModel, path: Path) -> Path:
    """Writes the parameters to a file that is named by its content, so that it replaces no other one."""
    draft = path.with_name(f"{path.name}.data")
    with draft.open("wb") as stream:
        model.write_data(stream)
    return draft.rename(path.with_name(f"{path.name}.{_digest_of(draft)[:_DIGITS]}.data"))


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _create_model(source: ExportSource) -> OnnxModel:
    network = source.network
    found = network.backends.find_graph() if network.backends.find_graph else _trace_graph(source)
    return OnnxModel(
        found.graph, found.read(), found.preprocess, num_classes=found.num_classes, source_name=found.source_name
    )


def _trace_graph(source: ExportSource) -> GraphSource:
    """Makes a graph of a torch network."""
    from imgclassify.graphs.export import export_graph

    network = source.network
    assert network.backends.build_torch is not None  # ExportSource has checked it
    module = _with_one_output(network.backends.build_torch().float().eval(), network, len(source.labels))
    metadata = {"architecture": network.architecture, "provider": "exported", "options": {}}
    size = network.preprocess.crop_size
    try:
        content = export_graph(module, crop_size=size, file_name="parameters", metadata=metadata)
    except CheckpointError as error:
        raise CheckpointError(str(error), hint="export it as .pt2") from error
    arrays = OrderedDict((name, tensor.numpy()) for name, tensor in module.state_dict().items())
    return GraphSource(
        Graph(Path("graph.onnx"), content),
        lambda: arrays,
        network.preprocess,
        source.runner.num_classes,
        network.model,
    )


def _with_one_output(module: torch.nn.Module, network: Network, num_labels: int) -> torch.nn.Module:
    """Returns a module that returns the logits alone: the same one, if it does."""
    import torch

    images = torch.zeros(2, 3, *network.preprocess.crop_size)
    finder = LogitsFinder(network.output_name, num_labels)
    with torch.inference_mode():
        output = module(images)
    if isinstance(output, torch.Tensor) and output.ndim == 2:
        return module
    finder.find(output, len(images))

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = finder.find(self.network(images), images.shape[0])
            return logits.flatten(1)

    return Logits()
