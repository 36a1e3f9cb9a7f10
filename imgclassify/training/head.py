"""The network of a model with another head: as the state_dict of a probe, or as a torch module to be trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify import checkpoints
from imgclassify.engines import FEATURES
from imgclassify.engines.feature_extraction import create_extractor
from imgclassify.errors import OutputError, UnavailableError, UsageError
from imgclassify.hub import architectures, transformers_folder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from imgclassify.hub.backends import GraphSource
    from imgclassify.hub.network import Network

_MAX_DIFFERENCE = 1e-3
"""The largest difference between logits and `features @ weight.T + bias`, as a fraction of the largest logit."""


class Head(NamedTuple):
    """The parameters of the last linear layer, by their names in the state_dict."""

    weight: str
    bias: str
    """Empty if the layer has none."""
    shape: tuple[int, ...]
    """Of a weight for any number of classes: (classes, D), or (classes, D, 1, 1) of a convolution."""


# A probe ---------------------------------------------------------------------------------------------------------


def find_head(network: Network) -> Head:
    """Finds the head that a probe replaces, and checks that logits are a linear function of features.

    Takes no torch if a graph of the network comes with imgclassify. Otherwise the network is built with a random
    head, and run once. So it may also be one without a classifier.

    Raises:
        UsageError: the network is none that can be trained.
        OutputError: its logits are not a linear function of its features.
    """
    network = require_trainable(network)
    source = find_shipped_graph(network)
    if source is None:
        return _find_torch_head(network)
    if not source.graph.has_linear_head:
        raise _not_linear(network)
    shapes, names, _ = source.graph.requirements()
    return _to_head(network, names, shapes)


def replace_head(
    network: Network, weight: NDArray[np.float32], bias: NDArray[np.float32], *, found: Head | None = None
) -> dict[str, NDArray[Any]]:
    """Returns the state_dict of a network whose head is that of a probe. Auxiliary heads are left out.

    Takes no torch if a graph of the network comes with imgclassify.

    Args:
        weight: (number of classes, D), for the features that the engines return.
        bias: (number of classes,). All zeros if the head has none: see `find_head`.
        found: what `find_head` returned. None calls it, which takes seconds without a graph.

    Raises:
        UsageError, OutputError: as for `find_head`.
        CheckpointError: the weights of the network cannot be read.
    """
    network = require_trainable(network)
    source = find_shipped_graph(network)
    head = found or find_head(network)
    if source is None:
        state_dict = to_arrays(_build(network))
    else:
        state_dict = dict(checkpoints.materialize(source.read(), source_name=f"the weights of {network.model}"))
    state_dict = {name: value for name, value in state_dict.items() if not _is_auxiliary(name, network)}
    return state_dict | dict(zip(*_shape_head(network, head, weight, bias), strict=True))


def _shape_head(
    network: Network, head: Head, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[list[str], list[NDArray[np.float32]]]:
    """Returns (names, arrays) of the parameters of a head with these numbers.

    Raises:
        ValueError: they do not fit the features.
        OutputError: there is a bias, and the head has none.
    """
    import numpy as np

    count, width = weight.shape
    if width != head.shape[1] or bias.shape != (count,):
        raise ValueError(f"a weight {weight.shape} and a bias {bias.shape} do not fit {head.shape[1]} features")
    shaped = np.ascontiguousarray(weight, np.float32).reshape(count, *head.shape[1:])
    if head.bias:
        return [head.weight, head.bias], [shaped, np.ascontiguousarray(bias, np.float32)]
    if bias.any():
        raise OutputError(
            f"the last layer of {network.model} has no bias, so it cannot compute {head.weight} @ features + bias",
            hint="fit the probe without an intercept",
        )
    return [head.weight], [shaped]


def _to_head(network: Network, names: list[str], shapes: dict[str, tuple[int, ...]]) -> Head:
    """
    Args:
        names: of the parameters whose shape depends on the number of classes.
        shapes: of the parameters, by name.
    """
    weights = [name for name in names if len(shapes[name]) > 1]
    biases = [name for name in names if len(shapes[name]) == 1]
    if len(weights) != 1 or len(biases) > 1 or math.prod(shapes[weights[0]][2:]) != 1:
        raise _not_linear(network)
    return Head(weights[0], biases[0] if biases else "", shapes[weights[0]])


def _find_torch_head(network: Network) -> Head:
    """Finds the head of a torch module, and compares `features @ weight.T + bias` with its logits."""
    import torch

    names = _head_names(network)
    with torch.random.fork_rng(devices=[]):  # the weights of a training depend on the global generator
        torch.manual_seed(0)
        module = _create_with_weights(network, 2, names)
        images = torch.randn(2, 3, *network.preprocess.crop_size)
    state_dict = module.state_dict()
    head = _to_head(network, names, {name: tuple(state_dict[name].shape) for name in names})
    try:
        extractor = create_extractor(module.eval(), (FEATURES,), network.layers, lambda outputs, _count: outputs)
        with torch.inference_mode():
            outputs = extractor(images)
    except OutputError as error:
        raise _not_linear(network) from error
    features, logits = outputs[FEATURES], outputs["logits"]
    weight = state_dict[head.weight].flatten(1)
    if features.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise _not_linear(network)
    computed = features @ weight.T + (state_dict[head.bias] if head.bias else 0)
    if not float((computed - logits).abs().max()) <= _MAX_DIFFERENCE * float(logits.abs().max()):
        raise _not_linear(network)
    return head


def _not_linear(network: Network) -> OutputError:
    return OutputError(
        f"a probe cannot become the head of {network.model}: its logits are not a linear function of its features",
        hint="choose --method finetune, or another model, such as resnet18",
    )


# A module --------------------------------------------------------------------------------------------------------


def build_trainable(
    network: Network,
    num_classes: int,
    head: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    *,
    found: Head | None = None,
) -> torch.nn.Module:
    """Builds a network with another head in float32 on the CPU, with gradients for all parameters.

    Auxiliary heads are left out. The names in its state_dict are those that a model folder has.

    Args:
        network: its weights are the initial ones. If it has none (`Network.path`), all are random.
        head: (weight, bias) of the head, as for `replace_head`. None for random numbers, as torch.nn.Linear has
            them, from torch's global generator.
        found: what `find_head` returned, as for `replace_head`.

    Raises:
        UsageError: the network is none that can be trained.
        UnavailableError: it cannot be built.
        OutputError: `head` is given, and logits are not a linear function of features.
    """
    network = require_trainable(network)
    names = _head_names(network)
    module = _create_with_weights(network, num_classes, names)
    if head is not None:
        import torch

        state_dict = module.state_dict()
        for name, values in zip(*_shape_head(network, found or find_head(network), *head), strict=True):
            state_dict[name].copy_(torch.from_numpy(values))
    return module.float().requires_grad_(requires_grad=True).train()


def _create_with_weights(network: Network, num_classes: int, heads: list[str]) -> torch.nn.Module:
    """Builds a network with its weights, and random numbers in the parameters of its heads."""
    module = _create(network, num_classes)
    if network.path is not None:
        wanted, found = module.state_dict(), _build(network).state_dict()
        kept = {name: value for name, value in found.items() if name in wanted and name not in heads}
        missing = module.load_state_dict(kept, strict=False).missing_keys
        assert set(missing) <= set(heads), missing
        _initialize(wanted, heads)
    return module


def _initialize(state_dict: dict[str, torch.Tensor], names: list[str]) -> None:
    """Gives parameters of heads the random numbers of torch.nn.Linear."""
    import torch

    fan_in = 1
    for name in names:
        parameter = state_dict[name]
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            torch.nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
        else:
            torch.nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


def to_arrays(module: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Returns the state_dict of a module as arrays, which share its memory on the CPU."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def find_weight(network: Network, state_dict: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Returns (name, shape) of the weight of the head in a state_dict, or ("", ()) if it has several."""
    source = find_shipped_graph(network)
    names = _head_names(network) if source is None else source.graph.requirements()[1]
    found = [(name, state_dict[name].shape) for name in names if name in state_dict and state_dict[name].ndim > 1]
    return found[0] if len(found) == 1 else ("", ())


def find_shipped_graph(network: Network) -> GraphSource | None:
    """Returns the graph of a network that comes with imgclassify, if one does. One of `models prepare` is none."""
    find = network.backends.find_graph
    return None if find is None or network.load_unprepared is not None else find()


# Networks --------------------------------------------------------------------------------------------------------


def require_trainable(network: Network) -> Network:
    """Returns the network itself, or the one that a graph of `models prepare` was made of.

    Raises:
        UsageError: it is none that can be trained.
    """
    if network.load_unprepared is not None:
        network = network.load_unprepared()
    if network.quantized:
        raise UsageError(
            f"{network.model} is quantized, and cannot be trained",
            hint=f"start from the network that is not: -m {network.architecture.removeprefix('quantized_')}",
        )
    if network.manifest is None and network.config is None:
        raise UsageError(
            f"{network.model} cannot be trained: its file or its own code contains the network",
            hint="give a catalogued model, timm:NAME, hf:OWNER/REPO, a model folder, or a checkpoint with --arch",
        )
    return network


def _build(network: Network) -> torch.nn.Module:
    build = network.backends.build_torch
    if build is None:
        raise UnavailableError(f"{network.model} does not run in torch", hint="pip install torch")
    return build()


def _create(network: Network, num_classes: int) -> torch.nn.Module:
    """Builds a network with random weights, and without auxiliary heads."""
    if network.manifest is None:
        assert network.config is not None
        config = transformers_folder.with_classes(network.config, [str(index) for index in range(num_classes)])
        return transformers_folder.create_network(config, network.model)
    return architectures.create_untrained(network.manifest, num_classes)


def _head_names(network: Network) -> list[str]:
    """Returns the names of the parameters whose shapes depend on the number of classes."""
    if network.manifest is None:
        assert network.config is not None
        return transformers_folder.find_heads(network.config, network.model)
    names = architectures.requirements(network.manifest)[1]
    return [name for name in names if not _is_auxiliary(name, network)]


def _is_auxiliary(name: str, network: Network) -> bool:
    return network.manifest is not None and architectures.is_auxiliary(name, network.manifest)
