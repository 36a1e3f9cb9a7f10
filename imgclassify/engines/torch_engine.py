"""Runs torch networks on CUDA, MPS and the CPU, in float32, bfloat16 or float16.

cuda_streams.py moves the batches to the device and back.
"""

from __future__ import annotations

import logging
import re
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imgclassify.engines.crop_normalization import CropNormalizer
from imgclassify.engines.cuda_streams import CudaGraphPolicy, CudaRuntime, CudaStream, DefaultStream, DeviceStream
from imgclassify.engines.engine import LinearHead, Outputs, check_form
from imgclassify.engines.feature_extraction import create_extractor, read_head
from imgclassify.engines.torch_outputs import LogitsFinder, to_rows
from imgclassify.errors import CheckpointError, DeviceError, ImgclassifyError, describe_error
from imgclassify.graphs.session import LOGITS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from imgclassify.catalog import FeatureLayers, PreprocessSpec

logger = logging.getLogger("imgclassify")

_CPU_BATCH_SIZE = 8
_ACCELERATOR_BATCH_SIZE = 64

_CUDA_STREAMS = 2
"""One stream copies while the other computes. A third would only wait."""


class TorchEngine:
    """Runs a torch network, and before it the model's normalisation, on one device."""

    name = "torch"
    fixed_batch: int | None = None
    operator = ""

    def __init__(
        self,
        build: Callable[[], torch.nn.Module],
        preprocess: PreprocessSpec,
        *,
        device: str = "auto",
        dtype: str = "float32",
        quantized: bool = False,
        outputs: tuple[str, ...] = (LOGITS,),
        layers: FeatureLayers | None = None,
        output_name: str | None = None,
        num_labels: int | None = None,
        takes_crops: bool = False,
    ) -> None:
        """Builds the network and moves it to the device.

        Args:
            build: builds the network, with its weights, on the CPU.
            quantized: whether the network is quantized. It then runs only on the CPU and in its own types.
            outputs: some of engine.OUTPUTS.
            layers: the layers that features come from, if they are known.
            output_name: the output of the network that holds the logits, if the user names one.
            num_labels: the number of classes; None if there are no labels, and any output will do.
            takes_crops: whether the network takes crops and normalises them itself. It computes in its own type.

        Raises:
            OutputError: the network does not have one of the outputs.
            DeviceError: this machine does not have the device, or the network cannot run there or in that
                dtype.
            CheckpointError: the network cannot be built or moved.
        """
        import torch

        if quantized:
            _require_cpu_float32(device, dtype)
            device = "cpu"
        if takes_crops and dtype != "float32":
            raise DeviceError(f"the network computes in its own type, not in {dtype}", hint="leave out --dtype")
        self._device = find_device(device)
        self.device = str(self._device)
        self.dtype = dtype
        self._dtype: torch.dtype = getattr(torch, dtype)
        _require_dtype(self._device, dtype)
        self.default_batch_size = _CPU_BATCH_SIZE if self._device.type == "cpu" else _ACCELERATOR_BATCH_SIZE
        self._memory_format = _memory_format(self._device, dtype)
        network = build().eval()
        self._network = network if quantized else self._move_network(network)
        finder = LogitsFinder(output_name, num_labels)
        self._extractor = create_extractor(self._network, outputs, layers, finder.find)
        self._normalize = CropNormalizer(preprocess, self._device)
        self._takes_crops = takes_crops
        self._cuda = _cuda_runtime(self._device)
        if self._cuda is not None:
            # The streams do not wait for the copy of the weights by themselves.
            self._cuda.synchronize()
        # On the CPU torch spreads one batch over all cores. Two batches at once would only share the
        # caches.
        self.concurrency = 1 if self._cuda is None else _CUDA_STREAMS
        self._graph_policy = CudaGraphPolicy(dtype)
        self._idle_streams: list[DeviceStream] = []
        self._max_batch = sys.maxsize
        """The largest batch that may still fit in the device's memory, in images."""

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """See Engine.allocate."""
        import numpy as np
        import torch

        if self._cuda is None:
            return np.empty(shape, np.uint8)
        pinned: NDArray[np.uint8] = self._cuda.allocate_pinned(shape, torch.uint8).numpy()
        return pinned

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """See Engine.infer. A batch that does not fit in the device's memory is halved until it does.

        Raises:
            DeviceError: not even one image fits.
            CheckpointError: the network rejects the crops, or no output is a row of numbers for each image.
            UsageError: the network has several outputs that may be the logits.
            OutputError: one of the other outputs is not of the form that its name says.
        """
        if len(crops) > self._max_batch:
            return self._infer_parts(crops)
        try:
            return self._infer_on_stream(crops)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # First the CUDA graphs are dropped, which only save time. The whole batch is then tried once more.
            if not self._drop_graphs():
                if len(crops) == 1:
                    raise _not_enough_memory(self.device, "one image") from error
                self._max_batch = min(self._max_batch, len(crops) // 2)
        # Outside the handler, because there the exception keeps the tensors of the failed attempt alive.
        return self.infer(crops)

    def read_head(self) -> LinearHead:
        """See Engine.read_head. The engine must have been created with the output FEATURES."""
        return read_head(self._extractor)

    def _infer_parts(self, crops: NDArray[np.uint8]) -> Outputs:
        """Runs the network on batches of the largest size that fits."""
        import numpy as np

        size = self._max_batch
        parts = [self.infer(crops[start : start + size]) for start in range(0, len(crops), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _infer_on_stream(self, crops: NDArray[np.uint8]) -> Outputs:
        """Runs a batch on a stream that no other thread uses.

        The stream is kept for the next batch of any thread.
        """
        try:
            stream = self._idle_streams.pop()
        except IndexError:
            stream = self._create_stream()
        try:
            return stream.infer(crops)
        finally:
            self._idle_streams.append(stream)

    def _create_stream(self) -> DeviceStream:
        # A stream that held the engine would keep its memory on the GPU until Python looks for cycles.
        method = weakref.WeakMethod(self._compute_outputs)

        def compute(crops: torch.Tensor) -> dict[str, torch.Tensor]:
            compute_outputs = method()
            assert compute_outputs is not None  # the engine is waiting for this batch
            return compute_outputs(crops)

        if self._cuda is None:
            return DefaultStream(compute)
        return CudaStream(compute, self._cuda, self._graph_policy)

    def _drop_graphs(self) -> bool:
        """Drops all CUDA graphs. Returns False if there were none.

        A busy stream drops its graph at its next batch. All streams are used again, because torch would keep
        memory for each one that is not (CudaRuntime.allocate_workspaces).
        """
        there_were = self._graph_policy.disable()
        idle, self._idle_streams = self._idle_streams, []
        for stream in idle:
            stream.drop_graph()
        self._idle_streams += idle
        return there_were

    def _compute_outputs(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
        """Computes (N, H, W, 3) uint8 → the outputs in float32, on the device."""
        import torch

        if self._takes_crops:
            images = crops.to(self._device)
        else:
            images = self.normalize_crops(crops).to(self._dtype, memory_format=self._memory_format)
        outputs = self._call_network(images)
        for name, output in outputs.items():
            if name != LOGITS:
                shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                check_form(name, shape, len(images), "the network")
        if LOGITS in outputs:
            outputs[LOGITS] = to_rows(outputs[LOGITS], len(images))
        return {name: output.float().contiguous() for name, output in outputs.items()}

    def _call_network(self, images: torch.Tensor) -> dict[str, Any]:
        try:
            return self._extractor(images)
        except ImgclassifyError:
            raise
        except Exception as error:  # a network's forward may raise any exception
            if is_out_of_memory(error):
                raise
            height, width = images.shape[1:3] if self._takes_crops else images.shape[2:]
            raise CheckpointError(
                f"the network cannot process crops of {height}×{width}: {describe_error(error)}",
                hint="leave out --crop-size; `imgclassify models show` prints the model's own crop size",
            ) from error

    def _move_network(self, network: torch.nn.Module) -> torch.nn.Module:

        try:
            return network.to(self._device, self._dtype).to(memory_format=self._memory_format)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            if is_out_of_memory(error):
                raise _not_enough_memory(self.device, "the network") from error
            raise CheckpointError(
                f"the network cannot be moved to {self.device} in {self.dtype}: {describe_error(error)}",
                hint="check the checkpoint: it may hold tensors of a type that no network computes with",
            ) from error

    def normalize_crops(self, crops: torch.Tensor) -> torch.Tensor:
        """Scales and normalises (N, H, W, 3) uint8 crops on the device: see CropNormalizer."""
        return self._normalize(crops)


def find_device(name: str) -> torch.device:
    """Returns the torch device of that name. "auto" is CUDA if available, else MPS, else the CPU.

    Raises:
        DeviceError: this machine does not have the device. The hint lists those that it has.
    """
    import torch

    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    wanted = f"{name}:0" if name == "cuda" else name
    if wanted not in there:
        raise DeviceError(f"this machine has no device {name!r}", hint=f"use one of: auto, {', '.join(there)}")
    return torch.device(wanted)


def available_devices() -> list[str]:
    """Returns the names of all devices of this machine, the fastest kind first."""
    import torch

    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return cuda + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def _memory_format(device: torch.device, dtype: str) -> torch.memory_format:
    """Returns the layout of images and weights in which the device computes fastest.

    On an H100 in float32 without TF32, ResNet-50 takes 22 ms for 64 images in contiguous layout and 26 ms in
    channels_last, and the first batch of an EfficientNet-B0 takes 0.07 s and 3 s. In float16, channels_last
    takes two thirds of the time.
    """
    import torch

    contiguous = device.type == "cuda" and dtype == "float32"
    return torch.contiguous_format if contiguous else torch.channels_last


def _cuda_runtime(device: torch.device) -> CudaRuntime | None:
    return CudaRuntime(device) if device.type == "cuda" else None


def _require_dtype(device: torch.device, dtype: str) -> None:
    """Rejects a dtype that the device cannot compute in, and warns of one that it computes in only slowly."""
    import torch

    if dtype == "float32":
        return
    others = "float32 or float16" if dtype == "bfloat16" else "float32 or bfloat16"
    try:
        one = torch.ones(1, 1, 1, 1, dtype=getattr(torch, dtype), device=device)
        torch.nn.functional.conv2d(one, one)
    except (RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise _not_enough_memory(str(device), "the network") from error
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


def computes_in_bfloat16(device: str) -> bool:
    """Whether an accelerator has arithmetic for bfloat16.

    Args:
        device: as for `find_device`.
    """
    found = find_device(device)
    return found.type == "cuda" and _has_native_dtype(found, "bfloat16")


def _has_native_dtype(device: torch.device, dtype: str) -> bool:
    """Whether the device has arithmetic of its own for the dtype. True if that is not known."""
    import torch

    if device.type == "cuda" and dtype == "bfloat16":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # oneDNN computes convolutions on the CPU, and knows what the processor supports.
        name = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}[dtype]
        supported = getattr(torch.ops.mkldnn, name, None)
        return supported is None or bool(supported())
    return True


def _require_cpu_float32(device: str, dtype: str) -> None:
    """Rejects a device or a dtype that a quantized network cannot use."""
    if device not in ("auto", "cpu"):
        raise DeviceError(f"a quantized network runs on the CPU only, not on {device!r}", hint="use --device cpu")
    if dtype != "float32":
        raise DeviceError(
            f"a quantized network computes in its own types, not in {dtype}", hint="leave out --dtype"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory is exhausted.

    torch's allocator raises OutOfMemoryError. CUDA itself and its libraries fail with other classes, for example
    if other processes hold so much memory that CUDA cannot start.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and re.search("out of memory|ALLOC_FAILED", str(error)) is not None


def _not_enough_memory(device: str, purpose: str) -> DeviceError:
    return DeviceError(
        f"not enough free memory on {device} for {purpose}",
        hint="free some memory, or use a smaller model, --dtype float16 or --device cpu",
    )
