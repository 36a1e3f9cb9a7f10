"""Chooses the engine and the device: those that finish the job first, or those that the user named."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.engines import devices
from imgclassify.engines.activation import (
    Activation,
    check_activation,
    find_activation,
    logits_activation,
    require_activation,
)
from imgclassify.engines.engine import DTYPES, ENGINES, Engine
from imgclassify.engines.probing import probe_network
from imgclassify.errors import OutputError, UsageError
from imgclassify.graphs.session import LOGITS, has_cuda_provider

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.engines.onnxruntime_engine import OnnxruntimeEngine
    from imgclassify.engines.openvino_engine import OpenvinoEngine
    from imgclassify.hub.network import Network

ACCELERATOR_START_S = 5.0
"""Seconds until a GPU computes its first batch: importing torch, starting CUDA, loading kernels. The CPU can
start without torch. Measured between 4 and 8 s on the machines of docs/performance.md, and 4.2 s on an H100."""

BFLOAT16_START_S = 1.0
"""Seconds that the CPU computes in float32 from which on bfloat16 in OpenVINO is done first. It takes 0.2 to 1 s
longer to start, and then half of the time or less (docs/engines.md)."""

_BFLOAT16_SPEEDUP = 2.0
"""How much faster OpenVINO computes in bfloat16, roughly, on a processor that has it."""

_GMACS_PER_CORE_S = 45.0
"""Giga multiply-accumulates per second of a processor core, roughly: ResNet-50 in onnxruntime."""

_GMACS_UNKNOWN = 4.0
"""The cost assumed for a network whose cost is unknown: that of ResNet-50."""


class EngineSelection(NamedTuple):
    """A network that has been built in an engine, and the reason for choosing that engine."""

    engine: Engine
    num_outputs: int
    """The number of values that the network returns for an image; 0 if it has no classifier."""
    activation: Activation | None
    """What turns them into probabilities. None if the run needs none: it has no labels."""
    reason: str
    """Why this engine and this device were chosen, in a clause."""
    images_per_second: float
    """How many images the network computes in a second on the CPU, roughly. Infinite on an accelerator."""


def validate_options(engine: str, device: str, dtype: str) -> None:
    """Rejects options that no model can be run with, before a model is fetched.

    Raises:
        UsageError: the engine is not one of ENGINES, or the dtype neither one of DTYPES nor "auto".
        DeviceError: this machine does not have the device.
    """
    for what, word, words in (("engine", engine, ENGINES), ("dtype", dtype, ("auto", *DTYPES))):
        if word not in words:
            raise UsageError(f"unknown {what} {word!r}", hint=f"use one of {', '.join(words)}")
    if device.startswith("cuda") and has_cuda_provider():
        return  # torch may not be able to use it
    # Only torch can tell for sure whether a GPU is there, and importing it takes time.
    if device not in ("auto", "cpu"):
        from imgclassify.engines.torch_engine import find_device

        find_device(device)


def create_engine(
    network: Network,
    *,
    engine: str,
    device: str,
    dtype: str,
    num_images: int | None,
    outputs: tuple[str, ...] = (LOGITS,),
) -> EngineSelection:
    """Chooses the engine and the device for a network and builds the network there.

    Args:
        outputs: some of OUTPUTS.
        num_images: expected number of images. None means that it is unknown, and counts as many.

    Raises:
        UsageError: the engine that the user named cannot run the network.
        UnavailableError: the network cannot be built, or it cannot be run on the device or in the dtype.
    """
    chosen_device, device_reason = choose_device(network, device, num_images, engine=engine)
    in_torch = choose_engine(network, engine, chosen_device, "float32")[0] == "torch"
    if in_torch and chosen_device == "auto" and not _torch_finds_accelerator():
        # The GPU was detected without torch. On the CPU another engine may be the better one.
        chosen_device, device_reason = "cpu", "torch finds no GPU"
    chosen_dtype = choose_dtype(network, dtype, engine, chosen_device, num_images)
    name, engine_reason = choose_engine(network, engine, chosen_device, chosen_dtype)
    build = partial(_build_engine, network, device=chosen_device, num_images=num_images, outputs=outputs)
    try:
        built = build(name, dtype=chosen_dtype)
    except OutputError as error:
        name_then, dtype_then = _fallback(network, name, dtype, chosen_dtype)
        if engine != "auto" or name_then is None:
            raise
        engine_reason = f"in {name}, {error}"
        built = build(name_then, dtype=dtype_then)
    if built.name == "onnxruntime" and chosen_device == "auto" and built.device == "cpu":
        device_reason = ""  # it may say that a GPU was found, which this onnxruntime cannot use
    reason = "; ".join(part for part in (device_reason, engine_reason) if part)
    # The weights of a known architecture give logits, for as many classes as the last layer has.
    if network.num_classes is not None and network.activation != "none":
        activation = _known_activation(network, network.num_classes)
        return EngineSelection(built, network.num_classes, activation, reason, _estimate_rate(network, built))
    probe = probe_network(built, network.preprocess.crop_size)
    num_outputs = 0 if probe.outputs is None else probe.outputs.shape[1]
    activation = None
    if probe.outputs is not None and network.labels is not None:
        activation = _probed_activation(network, probe.outputs, built.operator)
    rate = _estimate_rate(network, probe.engine, probe.seconds)
    return EngineSelection(probe.engine, num_outputs, activation, reason, rate)


def _fallback(network: Network, name: str, dtype: str, chosen_dtype: str) -> tuple[str | None, str]:
    """Returns (engine, dtype) to try after an engine that cannot compute what is wanted. The engine may be None."""
    if name == "openvino" and dtype == "auto":
        return "onnxruntime", "float32"
    can_use_torch = name != "torch" and network.backends.build_torch is not None
    return "torch" if can_use_torch else None, chosen_dtype


def _estimate_rate(network: Network, engine: Engine, seconds: float | None = None) -> float:
    """Returns EngineSelection.images_per_second.

    Args:
        seconds: that one call took for one image, if it was measured.
    """
    if engine.device != "cpu":
        return math.inf
    if network.gmacs is None and seconds is not None:
        return engine.concurrency / seconds
    speedup = _BFLOAT16_SPEEDUP if (engine.name, engine.dtype) == ("openvino", "bfloat16") else 1
    return _rate_on_cpu(network) * speedup


def _known_activation(network: Network, num_outputs: int) -> Activation | None:
    """Returns the activation for a network that returns logits."""
    if not num_outputs or network.labels is None:
        return None
    if network.activation is None or "activation" in network.origins:
        activation = logits_activation(num_outputs, network.activation)
    else:
        activation = require_activation(network.activation, num_outputs)
    return activation.for_labels(num_outputs, len(network.labels))


def _probed_activation(network: Network, outputs: NDArray[np.float32], operator: str) -> Activation:
    """Returns the activation for a network that may return anything."""
    assert network.labels is not None
    if network.activation is None or "activation" in network.origins:
        activation = find_activation(outputs, operator, network.activation)
    else:
        activation = check_activation(network.activation, outputs, operator)
    return activation.for_labels(outputs.shape[1], len(network.labels))


def choose_device(
    network: Network, device: str, num_images: int | None, *, engine: str = "auto"
) -> tuple[str, str]:
    """Chooses the device, and gives the reason.

    Returns:
        (device, reason). The device is the one that the user named, "cpu", or "auto": the accelerator, whose
        name torch finds out later.
    """
    if device != "auto":
        return device, f"--device {device} was requested"
    if engine == "openvino":
        return "cpu", ""
    has_torch = network.backends.build_torch is not None
    # These networks run on the CPU only.
    if network.quantized or not (has_torch or has_cuda_provider()):
        return "cpu", ""
    if not (devices.detect_accelerator() if has_torch else devices.has_nvidia_gpu()):
        return "cpu", "no GPU was found"
    if num_images is None:
        return "auto", "a GPU was found"
    seconds = num_images / _rate_on_cpu(network)
    what, are = ("1 image", "is") if num_images == 1 else (f"{num_images} images", "are")
    if seconds > ACCELERATOR_START_S:
        return "auto", f"{what} {are} worth starting the GPU for"
    return "cpu", f"{what} {are} classified before the GPU would have started"


def _rate_on_cpu(network: Network) -> float:
    """Returns how many images the CPU computes in a second in float32, roughly."""
    return devices.count_cores() * _GMACS_PER_CORE_S / (network.gmacs or _GMACS_UNKNOWN)


def choose_dtype(network: Network, dtype: str, engine: str, device: str, num_images: int | None) -> str:
    """Returns the dtype, one of DTYPES. For "auto", it is bfloat16 where that is faster, otherwise float32.

    Args:
        dtype: one of DTYPES, or "auto".
        engine: one of ENGINES.
        device: "cpu", the name of another device, or "auto" for an accelerator that torch has found.
    """
    if dtype != "auto":
        return dtype
    if network.quantized:
        return "float32"
    if device == "cpu":
        is_long = num_images is None or num_images / _rate_on_cpu(network) > BFLOAT16_START_S
        able = engine in ("auto", "openvino") and _has_bfloat16_on_cpu(network)
        return "bfloat16" if is_long and able else "float32"
    if engine in ("auto", "torch") and network.backends.build_torch is not None:
        from imgclassify.engines.torch_engine import computes_in_bfloat16

        return "bfloat16" if computes_in_bfloat16(device) else "float32"
    return "float32"


def _has_bfloat16_on_cpu(network: Network) -> bool:
    """Whether OpenVINO can run the network in bfloat16, and the processor has it."""
    from imgclassify.graphs.openvino_session import computes_in_bfloat16, is_installed

    return network.backends.open_session is not None and is_installed() and computes_in_bfloat16()


def choose_engine(network: Network, engine: str, device: str, dtype: str) -> tuple[str, str]:
    """Chooses the engine, one of ENGINES but not "auto", and gives the reason.

    Returns:
        (engine, reason).

    Raises:
        UsageError: the engine that the user named cannot run the network.
    """
    able = {
        "torch": network.backends.build_torch,
        "onnxruntime": network.backends.open_session,
        "openvino": network.backends.open_session,
    }
    if engine != "auto":
        if able[engine] is None:
            other = "onnxruntime" if engine == "torch" else "torch"
            raise UsageError(
                f"the {engine} engine cannot run {network.model}"
                + (f": {network.backends.no_session_reason}" if engine != "torch" else ""),
                hint=f"use --engine {other}" + (f"; {network.backends.hint}" if network.backends.hint else ""),
            )
        return engine, f"--engine {engine} was requested"
    if device == "cpu" and dtype == "bfloat16" and _has_bfloat16_on_cpu(network):
        return "openvino", "this processor computes in bfloat16"
    if network.backends.build_torch is None:
        return "onnxruntime", "an .onnx file has its own graph"
    if network.backends.open_session is None:
        return "torch", network.backends.no_session_reason
    if device != "cpu":
        return "torch", ""
    if dtype != "float32":
        return "torch", f"{dtype} runs in torch"
    return "onnxruntime", ""


def _torch_finds_accelerator() -> bool:
    from imgclassify.engines.torch_engine import find_device

    return find_device("auto").type != "cpu"


def _build_engine(
    network: Network, name: str, *, device: str, dtype: str, num_images: int | None, outputs: tuple[str, ...]
) -> Engine:
    if name != "torch":
        assert network.backends.open_session is not None
        return _graph_engine(name)(
            network.backends.open_session,
            network.preprocess,
            name=repr(network.model),
            device=device,
            dtype=dtype,
            outputs=outputs,
            num_images=num_images,
            output_name=network.output_name,
            label_names=None if network.labels is None else [label.label for label in network.labels.labels],
            signature=network.backends.signature,
            num_outputs=network.num_classes,
        )
    from imgclassify.engines.torch_engine import TorchEngine

    assert network.backends.build_torch is not None
    return TorchEngine(
        network.backends.build_torch,
        network.preprocess,
        device=device,
        dtype=dtype,
        quantized=network.quantized,
        outputs=outputs,
        layers=network.layers,
        output_name=network.output_name,
        num_labels=None if network.labels is None else len(network.labels),
        takes_crops=network.backends.takes_crops,
    )


def _graph_engine(name: str) -> type[OnnxruntimeEngine | OpenvinoEngine]:
    if name == "openvino":
        from imgclassify.engines.openvino_engine import OpenvinoEngine

        return OpenvinoEngine
    from imgclassify.engines.onnxruntime_engine import OnnxruntimeEngine

    return OnnxruntimeEngine
