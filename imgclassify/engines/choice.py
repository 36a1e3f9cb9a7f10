"""Which engine runs what, and on which device: what finishes the job first, or what the user named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgclassify.engines import DTYPES, ENGINES, Engine, devices
from imgclassify.engines.probing import ProbedEngine
from imgclassify.errors import UsageError

if TYPE_CHECKING:
    from imgclassify.hub.network import Network

ACCELERATOR_START_S = 5.0
"""What it takes until a GPU answers, where the CPU without torch would have begun: importing torch, starting CUDA,
loading kernels. Between 4 and 8 s on the machines of docs/performance.md."""

_GMACS_PER_CORE_S = 45.0
"""Giga multiply-accumulates that a processor core computes in a second, by and large: onnxruntime's ResNet-50."""

_GMACS_UNKNOWN = 4.0
"""A network whose cost nobody states is taken for a ResNet-50."""


@dataclass(frozen=True, slots=True)
class EngineSelection:
    """A network, running."""

    engine: Engine
    num_classes: int
    reason: str
    """Why this engine, and why this device, in a clause."""


def validate_options(engine: str, device: str, dtype: str) -> None:
    """Refuses what no model could be run with, before one is fetched.

    Raises:
        UsageError: not one of ENGINES or DTYPES.
        DeviceError: this machine lacks the device.
    """
    for what, word, words in (("engine", engine, ENGINES), ("dtype", dtype, DTYPES)):
        if word not in words:
            raise UsageError(f"unknown {what} {word!r}", hint=f"use one of {', '.join(words)}")
    # Whether there is a GPU only torch tells for sure, and importing it takes its time.
    if device not in ("auto", "cpu"):
        from imgclassify.engines.torch_engine import find_device

        find_device(device)


def create_engine(
    network: Network, *, engine: str, device: str, dtype: str, num_images: int | None
) -> EngineSelection:
    """The engine that runs a network, with the network built in it.

    Args:
        num_images: how many images it will be asked for. None: unknown, and taken for many.

    Raises:
        UsageError: the engine that the user named cannot.
        UnavailableError: the network cannot be built, or not be run on the device or in the dtype.
    """
    chosen_device, device_reason = choose_device(network, device, num_images)
    name, engine_reason = choose_engine(network, engine, chosen_device, dtype)
    if name == "onnxruntime" and chosen_device == "auto":  # it runs on the CPU alone
        chosen_device, device_reason = "cpu", ""
    if name == "torch" and chosen_device == "auto" and not _torch_finds_accelerator():
        chosen_device, device_reason = "cpu", "torch finds no GPU"
        name, engine_reason = choose_engine(network, engine, chosen_device, dtype)
    built = _build_engine(network, name, device=chosen_device, dtype=dtype, num_images=num_images)
    reason = "; ".join(part for part in (device_reason, engine_reason) if part)
    if network.num_classes is not None:
        return EngineSelection(built, network.num_classes, reason)
    probed = ProbedEngine(built, network.preprocess.crop_size)
    return EngineSelection(probed, probed.num_classes, reason)


def choose_device(network: Network, device: str, num_images: int | None) -> tuple[str, str]:
    """ "cpu", "auto" (the accelerator, which torch knows best) or what the user named; and why."""
    if device != "auto":
        return device, f"--device {device} was asked for"
    if network.backends.build_torch is None or network.quantized:
        return "cpu", ""
    accelerator = devices.detect_accelerator()
    if accelerator is None:
        return "cpu", "no GPU is here"
    if num_images is None:
        return "auto", "a GPU is here"
    seconds = num_images * (network.gmacs or _GMACS_UNKNOWN) / _GMACS_PER_CORE_S / devices.count_cores()
    what, are = ("1 image", "is") if num_images == 1 else (f"{num_images} images", "are")
    if seconds > ACCELERATOR_START_S:
        return "auto", f"{what} {are} worth starting the GPU for"
    return "cpu", f"{what} {are} answered before the GPU would have started"


def choose_engine(network: Network, engine: str, device: str, dtype: str) -> tuple[str, str]:
    """ "torch" or "onnxruntime", and why.

    Raises:
        UsageError: the engine that the user named cannot run the network.
    """
    able = {"torch": network.backends.build_torch, "onnxruntime": network.backends.open_session}
    if engine != "auto":
        if able[engine] is None:
            other = "onnxruntime" if engine == "torch" else "torch"
            raise UsageError(
                f"the {engine} engine cannot run {network.model}"
                + (f": {network.backends.no_session_reason}" if engine == "onnxruntime" else ""),
                hint=f"use --engine {other}" + (f"; {network.backends.hint}" if network.backends.hint else ""),
            )
        return engine, f"--engine {engine} was asked for"
    if network.backends.build_torch is None:
        return "onnxruntime", "an .onnx file brings its own graph"
    if network.backends.open_session is None:
        return "torch", network.backends.no_session_reason
    if device != "cpu":
        return "torch", ""
    if dtype != "float32":
        return "torch", f"{dtype} is computed by torch"
    return "onnxruntime", ""


def _torch_finds_accelerator() -> bool:
    from imgclassify.engines.torch_engine import find_device

    return find_device("auto").type != "cpu"


def _build_engine(network: Network, name: str, *, device: str, dtype: str, num_images: int | None) -> Engine:
    if name == "onnxruntime":
        from imgclassify.engines.onnxruntime_engine import OnnxruntimeEngine

        assert network.backends.open_session is not None
        return OnnxruntimeEngine(
            network.backends.open_session,
            network.preprocess,
            name=repr(network.model),
            device=device,
            dtype=dtype,
            num_images=num_images,
        )
    from imgclassify.engines.torch_engine import TorchEngine

    assert network.backends.build_torch is not None
    return TorchEngine(
        network.backends.build_torch, network.preprocess, device=device, dtype=dtype, quantized=network.quantized
    )
