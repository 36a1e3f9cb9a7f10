"""Runs ONNX graphs with onnxruntime, on the CPU, or on CUDA if onnxruntime-gpu is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack

from imgclassify.engines import devices
from imgclassify.engines.graph_engine import AboutGraph, GraphEngine, cpu_batch_size, divide_cores
from imgclassify.errors import DeviceError
from imgclassify.graphs.session import GraphSession, SessionConfig, has_cuda_provider, uses_cuda

if TYPE_CHECKING:
    from imgclassify.catalog import PreprocessSpec

_CUDA_BATCH_SIZE = 64
_CUDA_CALLS = 2
"""One call copies while the other computes."""


class OnnxruntimeEngine(GraphEngine):
    """Runs an ONNX graph with onnxruntime."""

    name = "onnxruntime"

    def __init__(
        self,
        open_session: Callable[[SessionConfig], GraphSession],
        preprocess: PreprocessSpec,
        *,
        device: str = "auto",
        dtype: str = "float32",
        num_images: int | None = None,
        **about: Unpack[AboutGraph],
    ) -> None:
        """Opens the graph.

        Args:
            device: "cpu", "cuda" or "cuda:N". "auto" is CUDA if onnxruntime can use it.
            num_images: expected number of images, if known.
            open_session: as for GraphEngine.

        Raises:
            DeviceError: onnxruntime does not have the device, or the dtype is not that of the graph.
            CheckpointError, UsageError, OutputError: as for GraphEngine.
        """
        config, self.concurrency = _session_config(num_images, _find_device(device))
        super().__init__(open_session, config, preprocess, **about)
        self.device = config.device
        if config.device != "cpu" and not uses_cuda(self._session):
            if device != "auto":
                raise DeviceError(
                    f"onnxruntime cannot use {device!r}: the libraries of CUDA or cuDNN that it needs are missing",
                    hint="install them, or use --device cpu",
                )
            _, self.concurrency = _session_config(num_images, "cpu")
            self.device = "cpu"
        on_cpu = self.device == "cpu"
        self.default_batch_size = cpu_batch_size(preprocess.crop_size) if on_cpu else _CUDA_BATCH_SIZE
        self.dtype = self._own_dtype
        # float32 is the default, and so it does not mean that the user chose it.
        if dtype not in ("float32", self.dtype):
            raise DeviceError(
                f"{about['name']} computes in its own dtype, {self.dtype}, not in {dtype}", hint="leave out --dtype"
            )


def _find_device(device: str) -> str:
    """Returns "cpu" or "cuda:N" for the name of a device.

    Raises:
        DeviceError: onnxruntime does not have it.
    """
    if device == "cpu" or (device == "auto" and not has_cuda_provider()):
        return "cpu"
    name, _, index = device.partition(":")
    if name not in ("auto", "cuda"):
        raise DeviceError(
            f"the onnxruntime engine runs on the CPU or on CUDA, not on {device!r}", hint="use --device cpu"
        )
    if not has_cuda_provider():
        raise DeviceError(
            f"the onnxruntime engine runs on the CPU only, not on {device!r}",
            hint="use --device cpu, or install onnxruntime-gpu in place of onnxruntime",
        )
    return f"cuda:{index or 0}"


def _session_config(num_images: int | None, device: str) -> tuple[SessionConfig, int]:
    """Returns (how to compute, number of calls at the same time)."""
    if device != "cpu":
        return SessionConfig(threads=devices.count_cores(), device=device), _CUDA_CALLS
    concurrency, threads = divide_cores(num_images)
    return SessionConfig(threads=threads, single_run=num_images == 1), concurrency
