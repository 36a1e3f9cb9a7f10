"""The way of a batch to a torch device and back. Each lane serves one thread at a time; on CUDA several run side by
side, so that the copies of one overlap the computing of another."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Compute = Callable[[torch.Tensor], torch.Tensor]
    """(N, H, W, 3) uint8, on any device → (N, classes) float32, on the network's."""

logger = logging.getLogger("imgclassify")

GRAPH_AFTER = 16
"""Batches of one size before it gets a CUDA graph. A capture costs as much as launching a few of them kernel by
kernel; a job that has lasted so long is likely to last longer, and one that ends now has lost little."""

_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""How far a graph's logits may be from the same kernels' launched one by one, as a part of the largest logit."""

_launch_lock = Lock()
"""Held while work is handed to CUDA, not while it runs there. Within it the process's float32 precision is ours, a
capture meets no other lane's calls, and nothing is lost by it: Python launches one kernel at a time anyhow."""


class DeviceStream(Protocol):
    """Answers batches, one at a time."""

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 → (N, classes) float32, the caller's own."""
        ...


class DefaultStream:
    """The CPU's and MPS's: the device's own queue, and torch's own threads."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Lane.answer."""
        import torch

        with torch.inference_mode():
            answer: NDArray[np.float32] = self._compute(torch.from_numpy(crops)).cpu().numpy()
            return answer


class CudaStream:
    """A stream of its own: copy in, compute, copy out; and a graph for batches of the size that keeps coming.

    A batch smaller than the graph's is answered by it too, with what an earlier batch left in the rows behind it
    computed along and thrown away: that takes no longer than any batch before, while another size would have
    kernels chosen and memory found for it, for the one batch that ends the job.
    """

    def __init__(self, compute: Compute, cuda: CudaRuntime, graph_policy: CudaGraphPolicy) -> None:
        self._compute = compute
        self._cuda = cuda
        self._graph_policy = graph_policy
        self._graph: _CudaGraph | None = None
        self._stream = cuda.create_stream()
        self._done = cuda.create_event()
        self._host: torch.Tensor | None = None

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Lane.answer."""
        import torch

        with _launch_lock, self._cuda.use_stream(self._stream), torch.inference_mode(), exact_float32():
            answer = self._to_host(self._launch_batch(crops))
            self._done.record(self._stream)
        self._done.synchronize()
        copy: NDArray[np.float32] = answer.numpy().copy()
        return copy

    def _launch_batch(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        import torch

        if not self._graph_policy.enabled:
            self._graph = None
        if self._graph is not None and self._graph.accepts(crops):
            return self._graph.infer(crops)
        output = self._compute(torch.from_numpy(crops).to(self._cuda.device, non_blocking=True))
        if self._graph_policy.should_capture(crops.shape):
            self._graph = None  # before the larger one takes its memory
            self._graph = self._capture_graph(crops, output)
        return output

    def _capture_graph(self, crops: NDArray[np.uint8], expected: torch.Tensor) -> _CudaGraph | None:
        """A graph for batches like this one, whose answer has just been computed without. None where the network
        cannot be captured, such as one that decides by what it computes; then no lane tries again."""
        try:
            graph = _CudaGraph(self._compute, self._cuda, self._stream, crops)
            if self._graph_policy.matches(graph.infer(crops), expected):
                return graph
            reason = "its graph gives other numbers"
        except Exception as error:  # noqa: BLE001 - whatever it is, there is a way without graphs
            reason = str(error)
        logger.debug("no CUDA graph: %s", reason)
        self._graph_policy.disable()
        return None

    def _to_host(self, output: torch.Tensor) -> torch.Tensor:
        import torch

        count, classes = output.shape
        if self._host is None or len(self._host) < count:
            self._host = self._cuda.allocate_pinned((count, classes), torch.float32)
        return self._host[:count].copy_(output, non_blocking=True)


class _CudaGraph:
    """The kernels for one size of batch, recorded once and launched by one call."""

    def __init__(
        self, compute: Compute, cuda: CudaRuntime, stream: torch.cuda.Stream, crops: NDArray[np.uint8]
    ) -> None:
        import torch

        static = torch.from_numpy(crops).to(cuda.device, copy=True)
        self._crops = static
        self._replay, self._output = cuda.capture_graph(stream, lambda: compute(static))

    def accepts(self, crops: NDArray[np.uint8]) -> bool:
        return len(crops) <= len(self._crops) and crops.shape[1:] == self._crops.shape[1:]

    def infer(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        import torch

        count = len(crops)
        self._crops[:count].copy_(torch.from_numpy(crops), non_blocking=True)
        self._replay()
        return self._output[:count]


class CudaGraphPolicy:
    """What the lanes of one engine know together: whether a CUDA graph pays, and whether one can be had.

    torch.compile is left out: it takes half a minute or more a network, which only the longest jobs earn back.
    cudnn.benchmark is left out: it runs every algorithm for each layer and size of batch first, and may choose
    another one the next time, so that float32 answers would change their last digits from run to run.
    """

    def __init__(self, dtype: str) -> None:
        self.enabled = True
        self._tolerance = _TOLERANCES[dtype]
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._any_captured = False

    def should_capture(self, shape: tuple[int, ...]) -> bool:
        """Counts one batch, answered without a graph; True where the next of its size had better have one."""
        self._seen[shape] += 1
        due = self.enabled and self._seen[shape] >= GRAPH_AFTER
        self._any_captured = self._any_captured or due
        return due

    def matches(self, answer: torch.Tensor, expected: torch.Tensor) -> bool:
        difference, largest = (answer - expected).abs().max(), expected.abs().max()
        return bool(difference <= self._tolerance * largest)

    def disable(self) -> bool:
        """No graphs from now on; returns whether there were any."""
        there_were = self.enabled and self._any_captured
        self.enabled = False
        return there_were


class CudaRuntime:
    """The calls that only a GPU answers, in one place, so that tests can stand in for them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        """Waits for all that was launched so far, which the streams of lanes do not wait for by themselves."""
        import torch

        torch.cuda.synchronize(self.device)

    def create_stream(self) -> torch.cuda.Stream:
        import torch

        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def use_stream(self, stream: torch.cuda.Stream) -> AbstractContextManager[object]:
        import torch

        return torch.cuda.stream(stream)

    def create_event(self) -> torch.cuda.Event:
        import torch

        # A waiting thread sleeps; otherwise it would spin on a core that decoding needs.
        return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def allocate_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory that the GPU copies by itself, while the processor goes on; plain where none is left."""
        import torch

        try:
            with torch.cuda.device(self.device):  # lest a context be made on GPU 0 too
                return torch.empty(shape, dtype=dtype, pin_memory=True)
        except RuntimeError:
            return torch.empty(shape, dtype=dtype)

    def capture_graph(
        self, stream: torch.cuda.Stream, compute: Callable[[], torch.Tensor]
    ) -> tuple[Callable[[], None], torch.Tensor]:
        """Records what `compute` launches, and runs none of it.

        Returns:
            (what launches it all, the tensor that its answer then stands in).
        """
        import torch

        graph = torch.cuda.CUDAGraph()
        # Other threads may decode on the GPU and allocate meanwhile; "global" would let that spoil the capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = compute()
        return graph.replay, output


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32, in which CUDA computes float32 convolutions to ten bits of the fraction unless told not to.

    The process's setting, read as kernels are launched: to be entered by one thread at a time, and left restored.
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
    # Since then reading allow_tf32 fails where the program has used the newer names.
    precisions = cudnn.conv.fp32_precision, matmul.fp32_precision
    cudnn.conv.fp32_precision = matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, matmul.fp32_precision = precisions
