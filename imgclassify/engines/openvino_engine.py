"""Runs ONNX graphs with OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack

from imgclassify.engines.graph_engine import AboutGraph, GraphEngine, cpu_batch_size, divide_cores
from imgclassify.errors import DeviceError, OutputError
from imgclassify.graphs.openvino_session import OpenvinoSession, computes_in_bfloat16, require_openvino
from imgclassify.graphs.session import GraphSession, SessionConfig

if TYPE_CHECKING:
    from imgclassify.catalog import PreprocessSpec


_IMAGES_PER_RUN = 4
"""Networks are up to a third faster with 4 images than with one, and hardly faster with more (docs/engines.md)."""


class OpenvinoEngine(GraphEngine):
    """Runs an ONNX graph with OpenVINO, with the same number of images each time on each processor core.

    OpenVINO compiles the graph for each number of images, which takes longer than some images.
    """

    name = "openvino"
    device = "cpu"

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
        self._had_one = False
        self._run_size = self.fixed_batch or (1 if num_images == 1 else _IMAGES_PER_RUN)
        # What OpenVINO cannot compute shows only now, and is to show before the first image.
        try:
            self._compile(self._run_size)
        except OutputError:
            if self.fixed_batch or self._run_size == 1:
                raise
            self._run_size = 1  # the graph may take only one image at a time
            self._compile(1)

    def _compile(self, num_images: int) -> None:
        assert isinstance(self._session, OpenvinoSession)
        self._session.prepare((num_images, *self._black_images().shape[1:]))

    def _images_per_run(self, batch_size: int) -> int:
        # The last batch of a run may have one image. If there was one already, more of them will follow.
        alone = batch_size == 1 and self._had_one
        self._had_one = self._had_one or batch_size == 1
        return 1 if alone else self._run_size
