"""Runs ONNX graphs with OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack

from imgclassify.engines.graph_engine import AboutGraph, GraphEngine, cpu_batch_size, divide_cores
from imgclassify.errors import DeviceError
from imgclassify.graphs.openvino_session import OpenvinoSession, computes_in_bfloat16, require_openvino
from imgclassify.graphs.session import GraphSession, SessionConfig

if TYPE_CHECKING:
    from imgclassify.catalog import PreprocessSpec


class OpenvinoEngine(GraphEngine):
    """Runs an ONNX graph with OpenVINO, one image at a time on each processor core."""

    name = "openvino"
    device = "cpu"
    images_per_run = 1

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
            device: "cpu" or "auto".
            dtype: "float32", or "bfloat16" if this processor computes in it.
            num_images: expected number of images, if known.
            open_session: as for GraphEngine.

        Raises:
            UnavailableError: OpenVINO is not installed.
            DeviceError: it does not run on the device, or not in the dtype.
            CheckpointError, UsageError, OutputError: as for GraphEngine.
        """
        require_openvino()
        if device not in ("auto", "cpu"):
            raise DeviceError(
                f"the openvino engine runs on the CPU only, not on {device!r}", hint="use --device cpu"
            )
        if dtype == "float16":
            raise DeviceError(
                "the openvino engine does not compute in float16",
                hint="use --dtype bfloat16, or leave out --dtype",
            )
        if dtype == "bfloat16" and not computes_in_bfloat16():
            raise DeviceError(
                "this processor does not compute in bfloat16", hint="leave out --dtype: float32 is as fast"
            )
        self.concurrency, threads = divide_cores(num_images)
        self.dtype = dtype
        self.default_batch_size = cpu_batch_size(preprocess.crop_size)
        config = SessionConfig(threads=threads, engine="openvino", dtype=dtype)
        super().__init__(open_session, config, preprocess, **about)
        # What OpenVINO cannot compute shows only now, and is to show before the first image.
        assert isinstance(self._session, OpenvinoSession)
        self._session.prepare(self._black_images().shape)
