"""Moves batches to a torch device and back.

Each stream serves one thread at a time. On CUDA several streams run side by side, so that the copies of one
overlap the computation of another.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from imgclassify.engines.engine import Outputs

    DeviceOutputs = dict[str, torch.Tensor]
    """The outputs of a network by name, float32, on its device. The first dimension of each is N."""
    Compute = Callable[[torch.Tensor], DeviceOutputs]
    """(N, H, W, 3) uint8, on any device → the outputs."""

logger = logging.getLogger("imgclassify")

GRAPH_AFTER = 4
"""How many batches of one size are run before that size gets a CUDA graph. A capture takes 5 to 40 ms on an
H100, as long as a batch. For a network with depthwise convolutions in float16, cuDNN prepares every other
batch size for 3 s, and the last batch of a job usually has one. With a graph it needs no preparation."""

_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""How far an output of a graph may be from that of the same kernels launched one by one, as a fraction of the
output's largest absolute value."""

_launcher = ThreadPoolExecutor(1, "imgclassify-cuda-launcher")
"""The thread that launches all work on CUDA. It controls the process's float32 precision, and no other stream
makes calls during a capture. torch keeps what cuDNN has prepared for each layer and batch size per thread, so
with one thread this happens once. Nothing is lost by it: Python launches one kernel at a time anyway."""


class DeviceStream(Protocol):
    """Runs batches on a device, one at a time."""

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """Runs the network: (N, H, W, 3) uint8 → its outputs by name, in arrays that the caller owns."""
        ...

    def drop_graph(self) -> None:
        """Frees the memory of a CUDA graph. No batch may be in progress."""
        ...


class DefaultStream:
    """The stream for the CPU and MPS: the device's own queue, and torch's own threads."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """See DeviceStream.infer."""
        import torch

        with torch.inference_mode():
            outputs = self._compute(torch.from_numpy(crops))
            return {name: output.cpu().numpy() for name, output in outputs.items()}

    def drop_graph(self) -> None:
        """See DeviceStream.drop_graph. There is none."""


class CudaStream:
    """A CUDA stream: copies a batch in, computes it and copies the outputs out.

    Batches of a recurring size use a CUDA graph. The graph also computes smaller batches. The rows after such
    a batch hold data of an earlier one; they are computed too, and their outputs are discarded. This takes no
    longer than a full batch. Without the graph, torch would choose kernels and allocate memory for the new
    size, for the single batch that ends the job.
    """

    def __init__(self, compute: Compute, cuda: CudaRuntime, graph_policy: CudaGraphPolicy) -> None:
        self._compute = compute
        self._cuda = cuda
        self._graph_policy = graph_policy
        self._graph: _CudaGraph | None = None
        self._stream = cuda.create_stream()
        _launcher.submit(cuda.allocate_workspaces, self._stream).result()
        self._done = cuda.create_event()
        self._host: DeviceOutputs = {}

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """See DeviceStream.infer."""
        outputs = _launcher.submit(self._launch, crops).result()
        # Here, so that the launcher can launch work of other streams meanwhile.
        self._done.synchronize()
        # The next batch overwrites the host memory.
        return {name: output.numpy().copy() for name, output in outputs.items()}

    def drop_graph(self) -> None:
        """See DeviceStream.drop_graph."""
        self._graph = None

    def _launch(self, crops: NDArray[np.uint8]) -> DeviceOutputs:
        """Launches everything for a batch. Returns its outputs on the host, which are there once `_done` is."""
        import torch

        with self._cuda.use_stream(self._stream), torch.inference_mode(), exact_float32():
            outputs = self._compute_on_device(crops)
            copies = {name: self._to_host(name, output) for name, output in outputs.items()}
            self._done.record(self._stream)
        return copies

    def _compute_on_device(self, crops: NDArray[np.uint8]) -> DeviceOutputs:
        import torch

        if not self._graph_policy.enabled:
            self._graph = None
        if self._graph is not None and self._graph.accepts(crops):
            return self._graph.infer(crops)
        outputs = self._compute(torch.from_numpy(crops).to(self._cuda.device, non_blocking=True))
        if self._graph_policy.should_capture(crops.shape):
            self._graph = None  # frees its memory before the new graph takes more
            self._graph = self._capture_graph(crops, outputs)
        return outputs

    def _capture_graph(self, crops: NDArray[np.uint8], expected: DeviceOutputs) -> _CudaGraph | None:
        """Captures a graph for batches like this one, whose outputs have just been computed without a graph.

        Returns:
            The graph. None if the network cannot be captured, for example because it branches on what it
            computes, or if the graph's outputs differ. No stream tries again then.
        """
        try:
            graph = _CudaGraph(self._compute, self._cuda, self._stream, crops)
            if self._graph_policy.matches(graph.infer(crops), expected):
                return graph
            reason = "the graph's outputs differ from those without it"
        except Exception as error:  # noqa: BLE001 - whatever the reason, batches can run without a graph
            reason = str(error)
        logger.debug("no CUDA graph: %s", reason)
        self._graph_policy.disable()
        return None

    def _to_host(self, name: str, output: torch.Tensor) -> torch.Tensor:
        import torch

        count = len(output)
        host = self._host.get(name)
        if host is None or len(host) < count:
            host = self._host[name] = self._cuda.allocate_pinned(tuple(output.shape), torch.float32)
        return host[:count].copy_(output, non_blocking=True)


class _CudaGraph:
    """The kernels for one batch size, recorded once and launched by one call."""

    def __init__(
        self, compute: Compute, cuda: CudaRuntime, stream: torch.cuda.Stream, crops: NDArray[np.uint8]
    ) -> None:
        import torch

        static = torch.from_numpy(crops).to(cuda.device, copy=True)
        self._crops = static
        self._replay, self._outputs = cuda.capture_graph(stream, lambda: compute(static))

    def accepts(self, crops: NDArray[np.uint8]) -> bool:
        """Whether the batch is of the graph's size or smaller."""
        return len(crops) <= len(self._crops) and crops.shape[1:] == self._crops.shape[1:]

    def infer(self, crops: NDArray[np.uint8]) -> DeviceOutputs:
        import torch

        count = len(crops)
        self._crops[:count].copy_(torch.from_numpy(crops), non_blocking=True)
        self._replay()
        return {name: output[:count] for name, output in self._outputs.items()}


class CudaGraphPolicy:
    """Decides for all streams of one engine whether to use CUDA graphs.

    torch.compile is not used. It takes half a minute or more per network, which only the longest jobs earn
    back.

    cudnn.benchmark is not used. It first runs every algorithm for each layer and batch size. It may also
    choose another algorithm the next time, so that the last digits of float32 outputs would change from run to
    run.
    """

    def __init__(self, dtype: str) -> None:
        self.enabled = True
        self._tolerance = _TOLERANCES[dtype]
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._any_captured = False

    def should_capture(self, shape: tuple[int, ...]) -> bool:
        """Counts one batch that was run without a graph, and returns whether its size should now get one."""
        self._seen[shape] += 1
        due = self.enabled and self._seen[shape] >= GRAPH_AFTER
        self._any_captured = self._any_captured or due
        return due

    def matches(self, outputs: DeviceOutputs, expected: DeviceOutputs) -> bool:
        """Whether a graph's outputs are all close enough to the expected ones. NaN never is."""
        return all(
            bool((outputs[name] - wanted).abs().max() <= self._tolerance * wanted.abs().max())
            for name, wanted in expected.items()
        )

    def disable(self) -> bool:
        """Stops the use of graphs. Returns whether any were in use."""
        there_were = self.enabled and self._any_captured
        self.enabled = False
        return there_were


class CudaRuntime:
    """The calls that need a GPU, in one class, so that tests can replace them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        """Waits for all work launched so far. The streams of this module do not wait for it by themselves."""
        import torch

        torch.cuda.synchronize(self.device)

    def create_stream(self) -> torch.cuda.Stream:
        import torch

        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def allocate_workspaces(self, stream: torch.cuda.Stream) -> None:
        """Lets cuBLAS allocate its memory for the stream and this thread: 32 MiB or more on an H100.

        torch keeps it until the process ends. Allocated only for the first batch, it would lie within memory that
        a larger tensor has left, and torch could give back none of that, not even when a batch does not fit.
        """
        import torch

        with torch.cuda.stream(stream), torch.inference_mode():
            matrix = torch.zeros(8, 8, device=self.device)
            torch.nn.functional.linear(matrix, matrix, matrix[0])  # cuBLASLt, which has memory of its own
            torch.mm(matrix, matrix)

    def use_stream(self, stream: torch.cuda.Stream) -> AbstractContextManager[object]:
        import torch

        return torch.cuda.stream(stream)

    def create_event(self) -> torch.cuda.Event:
        import torch

        # With a blocking event, a waiting thread sleeps. Otherwise it would spin on a core that decoding needs.
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def allocate_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Allocates host memory that the GPU can copy from and to while the processor continues.

        Allocates ordinary memory if no pinned memory is left.
        """
        import torch

        try:
            with torch.cuda.device(self.device):  # otherwise CUDA would create a context on GPU 0 too
                return torch.empty(shape, dtype=dtype, pin_memory=True)
        except RuntimeError:
            return torch.empty(shape, dtype=dtype)

    def capture_graph(
        self, stream: torch.cuda.Stream, compute: Callable[[], DeviceOutputs]
    ) -> tuple[Callable[[], None], DeviceOutputs]:
        """Records the kernels that `compute` launches, without running them.

        Returns:
            (function that launches all of them, tensors that then hold the outputs).
        """
        import torch

        graph = torch.cuda.CUDAGraph()
        # Other threads may decode on the GPU and allocate meanwhile. With "global", this would invalidate the
        # capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = compute()
        return graph.replay, outputs


@contextmanager
def exact_float32() -> Iterator[None]:
    """Turns TF32 off within the context.

    By default CUDA uses TF32 for float32 convolutions, with a fraction of only 10 bits. The setting belongs to
    the whole process and is read when kernels are launched. Only one thread at a time may enter the context.
    The previous setting is restored at the end.
    """
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if not hasattr(cudnn, "conv"):  # before torch 2.9
        before = cudnn.allow_tf32, matmul.allow_tf32
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        try:
            yield
        finally:
            cudnn.allow_tf32, matmul.allow_tf32 = before
        return
    # Since torch 2.9, reading allow_tf32 fails if the program has used the newer names.
    precisions = cudnn.conv.fp32_precision, matmul.fp32_precision
    cudnn.conv.fp32_precision = matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, matmul.fp32_precision = precisions
