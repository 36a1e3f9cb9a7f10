"""Gets features and spatial maps out of torch networks, with forward hooks or timm's own methods.

An extractor runs a network and returns its outputs by name. Only one thread at a time may call it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from imgclassify.engines.engine import LinearHead
from imgclassify.errors import OutputError
from imgclassify.graphs.session import FEATURE_MAP, FEATURES, LOGITS
from imgclassify.graphs.timm_features import has_timm_methods, timm_outputs

if TYPE_CHECKING:
    import torch

    from imgclassify.catalog import FeatureLayers


class Extractor(Protocol):
    """Runs a network."""

    def __call__(self, images: torch.Tensor) -> dict[str, Any]:
        """Runs the network: (N, 3, H, W) → its outputs by name, which may be anything that the network returns.

        Raises:
            OutputError: one of the outputs cannot be found.
        """
        ...

    def find_head(self) -> torch.nn.Module | None:
        """Returns the last layer, or None if it is not known."""
        ...


FindLogits: TypeAlias = "Callable[[Any, int], Any]"
"""(what a network returns, number of images) → its logits."""


def create_extractor(
    network: torch.nn.Module, outputs: tuple[str, ...], layers: FeatureLayers | None, find_logits: FindLogits
) -> Extractor:
    """Returns the extractor for a network.

    Args:
        outputs: some of engine.OUTPUTS. Logits are always returned, unless the network has no classifier.
        layers: the layers that the manifest names, if it does.
        find_logits: finds the logits in what the network returns.

    Raises:
        OutputError: the network does not have one of the outputs.
    """
    extra = tuple(output for output in (FEATURES, FEATURE_MAP) if output in outputs)
    if not extra:
        return _LogitsExtractor(network, find_logits)
    if has_timm_methods(network):
        return _TimmExtractor(network, extra)
    if layers is None:
        return _UnnamedExtractor(network, extra, find_logits)
    return _HookedExtractor(network, extra, layers, find_logits)


def read_head(extractor: Extractor) -> LinearHead:
    """Returns weight and bias of a network's last layer, in float32.

    Raises:
        OutputError: the network does not end in a linear layer, or the layer cannot be found.
    """
    import numpy as np
    import torch

    head = extractor.find_head()
    if not isinstance(head, torch.nn.Linear):
        raise OutputError(
            "the network does not end in a linear layer of features",
            hint="use a network whose logits are a linear function of its features",
        )
    weight = head.weight.detach().float().cpu().numpy()
    bias = np.zeros(len(weight), np.float32) if head.bias is None else head.bias.detach().float().cpu().numpy()
    return LinearHead(weight, bias)


class _LogitsExtractor:
    """Only runs the network."""

    def __init__(self, network: torch.nn.Module, find_logits: FindLogits) -> None:
        self._network = network
        self._find_logits = find_logits

    def __call__(self, images: torch.Tensor) -> dict[str, Any]:
        return {LOGITS: self._find_logits(self._network(images), images.shape[0])}

    def find_head(self) -> torch.nn.Module | None:
        return None


class _TimmExtractor:
    """Uses the methods that every timm network has: forward_features, and forward_head(pre_logits=True)."""

    def __init__(self, network: Any, extra: tuple[str, ...]) -> None:
        self._network = network
        self._extra = extra

    def __call__(self, images: torch.Tensor) -> dict[str, Any]:
        outputs = timm_outputs(self._network, images)
        if FEATURE_MAP in self._extra and FEATURE_MAP not in outputs:
            raise _no_feature_map()
        return {name: output for name, output in outputs.items() if name == LOGITS or name in self._extra}

    def find_head(self) -> torch.nn.Module | None:
        head: torch.nn.Module | None = self._network.get_classifier()
        return head


class _HookedExtractor:
    """Keeps what the layers that a manifest names see or return."""

    def __init__(
        self, network: torch.nn.Module, extra: tuple[str, ...], layers: FeatureLayers, find_logits: FindLogits
    ) -> None:
        self._network = network
        self._find_logits = find_logits
        self._kept: dict[str, torch.Tensor] = {}
        if FEATURE_MAP in extra and not layers.feature_map:
            raise _no_feature_map()
        try:
            self._head = network.get_submodule(layers.head)
            if FEATURES in extra:
                self._head.register_forward_pre_hook(self._keep_features)
            if FEATURE_MAP in extra:
                self._keep_feature_map(*layers.feature_map.partition(":")[::2])
        except AttributeError as error:
            raise OutputError(
                f"the network lacks a layer that its manifest names: {error}",
                hint="correct `layers` in the manifest",
            ) from error

    def __call__(self, images: torch.Tensor) -> dict[str, Any]:
        try:
            return {LOGITS: self._find_logits(self._network(images), images.shape[0]), **self._kept}
        finally:
            self._kept = {}

    def find_head(self) -> torch.nn.Module | None:
        return self._head

    def _keep_features(self, _layer: object, inputs: tuple[torch.Tensor, ...]) -> None:
        value = inputs[0].dequantize()
        # A convolutional head sees a map. It is averaged, as the logits are.
        self._kept[FEATURES] = value.mean(dim=(2, 3)) if value.ndim == 4 else value

    def _keep_feature_map(self, layer: str, tensor: str) -> None:
        def keep_input(_layer: object, inputs: tuple[torch.Tensor, ...]) -> None:
            self._kept[FEATURE_MAP] = inputs[0].dequantize()

        def keep_output(_layer: object, _inputs: object, output: torch.Tensor) -> None:
            # A copy, because the network's next step may change the tensor in place.
            self._kept[FEATURE_MAP] = (
                output.dequantize().relu() if tensor == "output:relu" else output.dequantize().clone()
            )

        module = self._network.get_submodule(layer)
        if tensor:
            module.register_forward_hook(keep_output)
        else:
            module.register_forward_pre_hook(keep_input)


class _UnnamedExtractor:
    """Finds the features of a network whose layers nobody has named: the head is the linear layer whose output is
    the network's output."""

    def __init__(self, network: torch.nn.Module, extra: tuple[str, ...], find_logits: FindLogits) -> None:
        import torch

        if FEATURE_MAP in extra:
            raise _no_feature_map()
        self._network = network
        self._find_logits = find_logits
        self._head: torch.nn.Module | None = None
        self._calls: list[tuple[torch.nn.Module, Any, Any]] = []
        """(layer, input, output) of each linear layer, in the order in which they ran."""
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(self._keep_call)

    def __call__(self, images: torch.Tensor) -> dict[str, Any]:
        try:
            found = self._network(images)
            logits = self._find_logits(found, images.shape[0])
            if isinstance(found, Mapping) and FEATURES in found:
                return {LOGITS: logits, FEATURES: found[FEATURES]}
            for layer, features, output in reversed(self._calls):
                if output is logits:
                    self._head = layer
                    return {LOGITS: logits, FEATURES: features}
        finally:
            self._calls = []
        raise OutputError(
            "the features of the network cannot be found: no linear layer returns its output",
            hint="export it as .onnx with a second output named 'features'",
        )

    def find_head(self) -> torch.nn.Module | None:
        return self._head

    def _keep_call(self, layer: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._calls.append((layer, inputs[0], output))


def _no_feature_map() -> OutputError:
    return OutputError(
        "the network has no spatial map before a pooling layer, or the map cannot be found",
        hint="use a convolutional network, such as resnet50",
    )
