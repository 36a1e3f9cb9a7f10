"""Which engine runs what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgclassify.engines import DTYPES, ENGINES, Engine
from imgclassify.engines.foreign import ForeignEngine
from imgclassify.errors import UsageError

if TYPE_CHECKING:
    from imgclassify.hub import Network


def check(engine: str, device: str, dtype: str) -> None:
    """Refuses what no model could be run with, before one is fetched.

    Raises:
        UsageError: not one of ENGINES or DTYPES.
        DeviceError: this machine lacks the device.
    """
    for what, word, words in (("engine", engine, ENGINES), ("dtype", dtype, DTYPES)):
        if word not in words:
            raise UsageError(f"unknown {what} {word!r}", hint=f"use one of {', '.join(words)}")
    # Whether there is a GPU only torch tells, and importing it takes its time.
    if device not in ("auto", "cpu"):
        from imgclassify.engines.torch_engine import find_device

        find_device(device)


def require(engine: str, wanted: str, model: str) -> None:
    """Holds the engine that the user named against the one that can run the model.

    Raises:
        UsageError: they are two.
    """
    if engine not in ("auto", wanted):
        raise UsageError(f"the {engine} engine cannot run {model}", hint=f"use --engine {wanted}")


def start(network: Network, *, engine: str, device: str, dtype: str) -> tuple[Engine, int]:
    """The engine that runs a network, with the network built in it; and the network's number of classes.

    Raises:
        UsageError: the engine that the user named cannot.
        UnavailableError: the network cannot be built, or not be run on the device or in the dtype.
    """
    require(engine, network.engine, network.model)
    started = _build(network, device=device, dtype=dtype)
    if network.num_classes is not None:
        return started, network.num_classes
    foreign = ForeignEngine(started, network.preprocess.crop_size)
    return foreign, foreign.num_classes


def _build(network: Network, *, device: str, dtype: str) -> Engine:
    if network.engine == "onnxruntime":
        from imgclassify.engines.onnxruntime_engine import OnnxruntimeEngine

        return OnnxruntimeEngine(
            network.build, network.preprocess, name=repr(network.model), device=device, dtype=dtype
        )
    from imgclassify.engines.torch_engine import TorchEngine

    return TorchEngine(network.build, network.preprocess, device=device, dtype=dtype, movable=not network.quantized)
