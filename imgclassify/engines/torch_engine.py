"""The torch engine: CUDA, MPS and the CPU, in float32, bfloat16 or float16.

cuda_streams.py has how a batch gets to the device and back.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from imgclassify.engines import LOGITS, Outputs
from imgclassify.engines.cuda_streams import CudaGraphPolicy, CudaRuntime, CudaStream, DefaultStream, DeviceStream
from imgclassify.errors import CheckpointError, DeviceError, describe_error

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec

logger = logging.getLogger("imgclassify")

_CPU_BATCH_SIZE = 8
_ACCELERATOR_BATCH_SIZE = 64

_CUDA_STREAMS = 2
"""One copies while the other computes; a third would only wait."""


class TorchEngine:
    """A torch network with the model's normalisation before it."""

    name = "torch"

    def __init__(
        self,
        build: Callable[[], torch.nn.Module],
        preprocess: PreprocessSpec,
        *,
        device: str = "auto",
        dtype: str = "float32",
        quantized: bool = False,
    ) -> None:
        """Builds the network and moves it to the device.

        Args:
            build: makes the network, with its weights, on the CPU.
            quantized: whether the network is quantized, and runs only on the CPU and in its own types.

        Raises:
            DeviceError: this machine lacks the device, or the network cannot run there or in that dtype.
            CheckpointError: the network cannot be built or moved.
        """
        import torch

        if quantized:
            _require_cpu_float32(device, dtype)
            device = "cpu"
        self._device = find_device(device)
        self.device = str(self._device)
        self.dtype = dtype
        self._dtype: torch.dtype = getattr(torch, dtype)
        _require_dtype(self._device, dtype)
        self.default_batch_size = _CPU_BATCH_SIZE if self._device.type == "cpu" else _ACCELERATOR_BATCH_SIZE
        network = build().eval()
        self._network = network if quantized else self._move_network(network)
        self._white = torch.tensor(255.0, device=self._device)
        self._mean = torch.tensor(preprocess.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess.std, device=self._device).view(1, 3, 1, 1)
        self._cuda = _cuda_runtime(self._device)
        if self._cuda is not None:
            self._cuda.synchronize()
        # On the CPU torch shares one batch out to all cores; two batches at once would only share the caches.
        self.concurrency = 1 if self._cuda is None else _CUDA_STREAMS
        self._graph_policy = CudaGraphPolicy(dtype)
        self._idle_streams: list[DeviceStream] = []
        self._max_batch = sys.maxsize
        """Images in the largest batch that may yet fit the device's memory."""

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """See Engine.allocate."""
        import numpy as np
        import torch

        if self._cuda is None:
            return np.empty(shape, np.uint8)
        pinned: NDArray[np.uint8] = self._cuda.allocate_pinned(shape, torch.uint8).numpy()
        return pinned

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """See Engine.infer. A batch that does not fit the device's memory is halved until it does.

        Raises:
            DeviceError: not even one image fits.
            CheckpointError: the network refuses the crops, or what it returns is not (N, classes).
        """
        return {LOGITS: self._infer_logits(crops)}

    def _infer_logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        import numpy as np
        import torch

        if len(crops) > self._max_batch:
            most = self._max_batch
            return np.concatenate([self._infer_logits(crops[at : at + most]) for at in range(0, len(crops), most)])
        try:
            return self._infer_on_stream(crops)
        except torch.OutOfMemoryError as error:
            # What was taken for speed goes first; the batch is then tried whole once more.
            if not self._drop_graphs():
                if len(crops) == 1:
                    raise DeviceError(
                        f"{self.device} has not enough free memory for one image",
                        hint="free some, or use a smaller model, --dtype float16, or --device cpu",
                    ) from error
                self._max_batch = min(self._max_batch, len(crops) // 2)
        # Outside the handler, whose error keeps the tensors of the failed attempt alive.
        return self._infer_logits(crops)

    def _infer_on_stream(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uses a stream that no other thread uses, and keeps it for the next batch of any thread."""
        try:
            stream = self._idle_streams.pop()
        except IndexError:
            stream = self._create_stream()
        try:
            return stream.infer(crops)
        finally:
            self._idle_streams.append(stream)

    def _create_stream(self) -> DeviceStream:
        if self._cuda is None:
            return DefaultStream(self._compute_logits)
        return CudaStream(self._compute_logits, self._cuda, self._graph_policy)

    def _drop_graphs(self) -> bool:
        """Drops every CUDA graph; False where there was none. A stream at work drops its own at its next batch."""
        there_were = self._graph_policy.disable()
        self._idle_streams = []
        return there_were

    def _compute_logits(self, crops: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 → (N, classes) float32 on the device."""
        import torch

        images = self.normalize_crops(crops).to(self._dtype)
        output = self._call_network(images)
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(images):
            raise _not_a_classifier(output)
        return output.float()

    def _call_network(self, images: torch.Tensor) -> object:
        import torch

        try:
            output = self._network(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a network's forward raises what it likes
            height, width = images.shape[2:]
            raise CheckpointError(
                f"the network cannot answer crops of {height}×{width}: {describe_error(error)}",
                hint="leave --crop-size to the model; `imgclassify models show` tells its own",
            ) from error
        # A scripted GoogLeNet or Inception always hands out its auxiliary answers too.
        return getattr(output, "logits", output)

    def _move_network(self, network: torch.nn.Module) -> torch.nn.Module:
        import torch

        try:
            return network.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} has not enough free memory for the network",
                hint="free some, or use a smaller model, --dtype float16, or --device cpu",
            ) from error
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise CheckpointError(
                f"the network cannot be moved to {self.device} in {self.dtype}: {describe_error(error)}",
                hint="its checkpoint may hold tensors of a kind that no network computes with",
            ) from error

    def normalize_crops(self, crops: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 → (N, 3, H, W) float32 in channels_last layout: `(x / 255 - mean) / std`.

        In float32 and in this order, as torchvision's presets and timm do, so that the bits are theirs.
        """
        import torch

        pixels = crops.to(self._device).permute(0, 3, 1, 2)
        # By a tensor, since CUDA multiplies by the reciprocal of a number, which rounds otherwise.
        return pixels.to(torch.float32).div_(self._white).sub_(self._mean).div_(self._std)


def find_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA if there is one, else MPS, else the CPU.

    Raises:
        DeviceError: no such device here; those there are are listed.
    """
    import torch

    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    wanted = f"{name}:0" if name == "cuda" else name
    if wanted not in there:
        raise DeviceError(f"no device {name!r} here", hint=f"use one of: auto, {', '.join(there)}")
    return torch.device(wanted)


def available_devices() -> list[str]:
    """Every device of this machine, the quickest kind first."""
    import torch

    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return cuda + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def _cuda_runtime(device: torch.device) -> CudaRuntime | None:
    return CudaRuntime(device) if device.type == "cuda" else None


def _require_dtype(device: torch.device, dtype: str) -> None:
    """Refuses what the device cannot compute in, and warns of what it computes in only slowly."""
    import torch

    if dtype == "float32":
        return
    others = "float32 or float16" if dtype == "bfloat16" else "float32 or bfloat16"
    try:
        one = torch.ones(1, 1, 1, 1, dtype=getattr(torch, dtype), device=device)
        torch.nn.functional.conv2d(one, one)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"{device} cannot compute in {dtype}: {describe_error(error)}", hint=f"use --dtype {others}"
        ) from error
    if not _has_native_dtype(device, dtype):
        logger.warning(
            "%s has no %s arithmetic and emulates it, which can be many times slower: use --dtype %s",
            "this processor" if device.type == "cpu" else device,
            dtype,
            others,
        )


def _has_native_dtype(device: torch.device, dtype: str) -> bool:
    """Whether the device's own arithmetic has the dtype; True where it is not known."""
    import torch

    if device.type == "cuda" and dtype == "bfloat16":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # oneDNN, which computes convolutions on the CPU, asks the processor.
        name = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}[dtype]
        supported = getattr(torch.ops.mkldnn, name, None)
        return supported is None or bool(supported())
    return True


def _require_cpu_float32(device: str, dtype: str) -> None:
    if device not in ("auto", "cpu"):
        raise DeviceError(f"a quantized network runs on the CPU only, not on {device!r}", hint="use --device cpu")
    if dtype != "float32":
        raise DeviceError(f"a quantized network has its own types, and no {dtype}", hint="leave --dtype at float32")


def _not_a_classifier(output: object) -> CheckpointError:
    shape = tuple(output.shape) if hasattr(output, "shape") else type(output).__name__
    return CheckpointError(
        f"the network is no image classifier: for N images it returns {shape}, not (N, classes)",
        hint="choose a model that ends in one logit per class",
    )
