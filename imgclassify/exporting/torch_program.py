"""Writes a classifier as a program of torch: with torch.export (.pt2), or as TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from imgclassify.engines import FEATURES, LOGITS
from imgclassify.engines.feature_extraction import create_extractor
from imgclassify.engines.torch_outputs import LogitsFinder
from imgclassify.errors import CheckpointError, describe_error
from imgclassify.graphs.export import quiet_exporter
from imgclassify.graphs.session import PROBABILITIES

if TYPE_CHECKING:
    import torch

    from imgclassify.engines.activation import Activation
    from imgclassify.exporting.source import ExportSource


def build_program(source: ExportSource) -> torch.nn.Module:
    """Builds a module that takes crops, (N, H, W, 3) uint8, and returns the outputs of the file.

    It returns a tensor if there is one output, and else a tuple of them, in order.
    """
    import torch

    network = source.network
    assert network.backends.build_torch is not None  # ExportSource has checked it
    layers = network.backends.build_torch().float().eval().requires_grad_(False)
    names = list(source.output_sizes)
    wanted = (LOGITS, FEATURES) if FEATURES in names else (LOGITS,)
    finder = LogitsFinder(network.output_name, len(source.labels))
    extract = create_extractor(layers, wanted, network.layers, finder.find)
    spec, activation = network.preprocess, source.activation

    class Program(torch.nn.Module):
        """A classifier without its labels."""

        def __init__(self) -> None:
            super().__init__()
            self.network = layers
            self.white = torch.nn.Buffer(torch.tensor(255.0))
            self.mean = torch.nn.Buffer(torch.tensor(spec.mean).view(1, 3, 1, 1))
            self.std = torch.nn.Buffer(torch.tensor(spec.std).view(1, 3, 1, 1))

        def forward(self, crops: torch.Tensor) -> Any:
            # In this order, as the engine computes it. A permuted tensor is channels_last to torch.
            pixels = crops.permute(0, 3, 1, 2).to(torch.float32)
            outputs = extract((pixels / self.white - self.mean) / self.std)
            scores = outputs[LOGITS].flatten(1).float()
            found = {LOGITS: scores, PROBABILITIES: _to_probabilities(scores, activation)}
            if FEATURES in names:
                found[FEATURES] = outputs[FEATURES].float()
            return found[names[0]] if len(names) == 1 else tuple(found[name] for name in names)

    return Program().eval().to(memory_format=torch.channels_last)


def _to_probabilities(scores: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Computes Activation.apply."""
    import torch

    if activation.name == "softmax":
        return scores.softmax(dim=1)
    if activation.name == "sigmoid":
        return (torch.cat([-scores, scores], dim=1) if activation.is_pair else scores).sigmoid()
    scaled = scores * activation.scale
    return torch.cat([1 - scaled, scaled], dim=1) if activation.is_pair else scaled


def write_pt2(program: torch.nn.Module, example: torch.Tensor, stream: BinaryIO, texts: Mapping[str, str]) -> None:
    """Writes a program with torch.export, for any number of images.

    Args:
        example: two crops or more.
        texts: extra files.

    Raises:
        CheckpointError: torch cannot export it.
    """
    import torch

    try:
        with quiet_exporter(), torch.no_grad():
            program(example)
            exported = torch.export.export(
                program, (example,), dynamic_shapes=({0: torch.export.Dim("n")},), strict=False
            )
            torch.export.save(exported, stream, extra_files=dict(texts))
    except Exception as error:  # a network's forward may raise any exception
        raise _export_error("torch.export", error) from error


def write_torchscript(
    program: torch.nn.Module, example: torch.Tensor, stream: BinaryIO, texts: Mapping[str, str]
) -> None:
    """Writes a program as TorchScript. Arguments and errors are those of `write_pt2`."""
    import torch

    try:
        with quiet_exporter(), warnings.catch_warnings(), torch.no_grad():
            program(example)
            # Its own check only runs the same crops again. The written file is checked on others.
            traced = torch.jit.trace(program, example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, stream, _extra_files=dict(texts))
    except Exception as error:  # as above
        raise _export_error("TorchScript", error) from error


def _export_error(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the network cannot be exported with {name}: {describe_error(error)}", hint="export it as .onnx"
    )
