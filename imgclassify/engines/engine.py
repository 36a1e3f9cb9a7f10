"""The interface of an engine. torch_engine.py, onnxruntime_engine.py and openvino_engine.py implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from imgclassify.errors import OutputError, UsageError
from imgclassify.graphs.session import FEATURE_MAP, FEATURES, LOGITS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINES = ("auto", "torch", "onnxruntime", "openvino")
DTYPES = ("float32", "bfloat16", "float16")
OUTPUTS = (LOGITS, FEATURES, FEATURE_MAP)
"""The names of the outputs that an engine can return."""

Outputs: TypeAlias = "dict[str, NDArray[np.float32]]"
"""The outputs of a network for N crops, by name. The first dimension of each array is N."""


class LinearHead(NamedTuple):
    """The last layer of a network: `logits = features @ weight.T + bias`."""

    weight: NDArray[np.float32]
    """(number of classes, D)."""
    bias: NDArray[np.float32]
    """(number of classes,). Zeros if the layer has none."""


class Engine(Protocol):
    """A network that is ready to run."""

    name: str
    """One of ENGINES, but not "auto"."""
    device: str
    """Such as "cpu" or "cuda:0"."""
    dtype: str
    """One of DTYPES: the type that the network computes in."""
    default_batch_size: int
    """Images in a batch if the user gives no number."""
    concurrency: int
    """How many threads benefit from calling `infer` at the same time. That many may call it."""
    fixed_batch: int | None
    """The number of images that the network takes at a time. None if it takes any number."""
    operator: str
    """The operator of a graph that computes the logits, such as "Softmax". Empty if it is not known."""

    def allocate(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Allocates an array for a batch.

        It is C-contiguous, not cleared, and in the memory that the device reads fastest.
        """
        ...

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """Runs the network on a batch.

        Args:
            crops: (N, H, W, 3) uint8, 0..255, C-contiguous, with the channels in the order that the network takes.
                The engine scales and normalises them.

        Returns:
            The outputs by name, all float32: LOGITS, unless the network has no classifier, and the other outputs
            that the engine was created with. LOGITS are what the network returns, (N, number of outputs): what
            they mean is decided elsewhere (activation.py).
        """
        ...

    def read_head(self) -> LinearHead:
        """Returns the weight and bias of the last layer.

        Raises:
            OutputError: the logits are not a linear function of the features, or the layer cannot be found.
        """
        ...


def validate_outputs(names: tuple[str, ...]) -> None:
    """Rejects names of outputs that no engine can return.

    Raises:
        UsageError: a name is not one of OUTPUTS.
    """
    for name in names:
        if name not in OUTPUTS:
            raise UsageError(f"unknown output {name!r}", hint=f"use one of {', '.join(OUTPUTS)}")


_FORMS = {FEATURES: (2, "(N, D)"), FEATURE_MAP: (4, "(N, C, height, width)")}


def check_form(name: str, shape: tuple[int, ...] | str, count: int, network: str) -> None:
    """Checks the shape of features or of a feature map for `count` images.

    Args:
        shape: the shape, or the name of a type that is not an array.
        network: names the network in errors.

    Raises:
        OutputError: the output is not what its name says.
    """
    dimensions, form = _FORMS[name]
    if isinstance(shape, tuple) and len(shape) == dimensions and shape[0] == count:
        return
    raise OutputError(
        f"{network} has no {name} that can be used: for {count} images they are {shape}, not {form}",
        hint="use another model, or export this one with an output of that name and form",
    )
