"""The torch engine: normalisation, devices, dtypes, memory, and CUDA's lanes with the GPU stood in for."""

from __future__ import annotations

import copy
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from networks import needs_gpu, seeded

from imgclassify.catalog import FeatureLayers, PreprocessSpec, find_model
from imgclassify.engines import FEATURE_MAP, FEATURES, LOGITS, Engine, cuda_streams, torch_engine
from imgclassify.engines.torch_engine import TorchEngine, available_devices, find_device
from imgclassify.errors import CheckpointError, DeviceError, UnavailableError

SPEC = PreprocessSpec(32, (24, 24), "bilinear", True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Channels(torch.nn.Module):
    """Three logits: the mean of each channel. Remembers the input it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return images.mean(dim=(2, 3)) * self.scale


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)


def infer(engine: Engine, batch: np.ndarray) -> np.ndarray:
    """The logits, which are all that an engine hands out."""
    [(name, logits)] = engine.infer(batch).items()
    assert name == LOGITS
    return logits


def test_logits_are_those_of_the_normalised_images_in_float64() -> None:
    batch = crops(5)
    logits = infer(TorchEngine(Channels, SPEC, device="cpu"), batch)
    expected = ((batch.astype(np.float64) / 255 - SPEC.mean) / SPEC.std).mean(axis=(1, 2))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)


def test_the_network_is_in_eval_and_inference_mode_and_channels_last() -> None:
    network = Channels()
    infer(TorchEngine(lambda: network, SPEC, device="cpu"), crops(2))
    assert not network.training
    assert network.seen[0].is_inference()
    assert network.seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_a_dtype_is_what_the_network_computes_in(dtype: str, tolerance: float) -> None:
    network = Channels()
    engine = TorchEngine(lambda: network, SPEC, device="cpu", dtype=dtype)
    logits = infer(engine, crops(3))
    assert network.seen[0].dtype == network.scale.dtype == getattr(torch, dtype)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(
        logits, infer(TorchEngine(Channels, SPEC, device="cpu"), crops(3)), rtol=0, atol=tolerance
    )


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),  # by torch's allocator
    RuntimeError("CUDA error: out of memory"),  # by CUDA, as on a GPU that other processes have filled
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
memory_errors = pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["allocator", "cuda", "cublas"])


class SmallMemory(Channels):
    """Runs out of memory above two images."""

    limit = 2
    error: RuntimeError = MEMORY_ERRORS[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.limit:
            raise self.error
        return super().forward(images)


@memory_errors
def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    monkeypatch.setattr(SmallMemory, "error", error)
    batch = crops(7)
    whole = infer(TorchEngine(Channels, SPEC, device="cpu"), batch)
    np.testing.assert_array_equal(infer(TorchEngine(SmallMemory, SPEC, device="cpu"), batch), whole)


@memory_errors
def test_a_network_that_does_not_fit_is_a_lack_of_memory_and_no_damaged_checkpoint(error: RuntimeError) -> None:
    class Large(Channels):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            raise error

    with pytest.raises(DeviceError, match="not enough free memory on cpu for the network") as raised:
        TorchEngine(Large, SPEC, device="cpu")
    assert "--device cpu" in str(raised.value.hint)


def test_not_even_one_image_fitting_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallMemory, "limit", 0)
    with pytest.raises(DeviceError, match="not enough free memory") as error:
        infer(TorchEngine(SmallMemory, SPEC, device="cpu"), crops(3))
    assert "--device cpu" in str(error.value.hint)


@pytest.mark.parametrize(
    "output", [lambda images: images, lambda images: (images,), lambda images: images.mean(dim=(0, 1))]
)
def test_a_network_that_returns_no_logits_is_refused(output: Any) -> None:
    class Odd(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> Any:
            return output(images)

    with pytest.raises(CheckpointError, match="not an image classifier"):
        infer(TorchEngine(Odd, SPEC, device="cpu"), crops(2))


def test_a_network_that_refuses_the_crop_is_told_with_its_own_words() -> None:
    class Picky(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            torch._assert(images.shape[2] == 224, "Wrong image height! Expected 224 but got 24!")
            return images

    with pytest.raises(UnavailableError, match=r"24×24.*Wrong image height") as error:
        infer(TorchEngine(Picky, SPEC, device="cpu"), crops(1))
    assert "--crop-size" in str(error.value.hint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "tpu"])
def test_a_device_that_is_not_there_lists_those_that_are(name: str) -> None:
    with pytest.raises(DeviceError, match=f"'{name}'") as error:
        find_device(name)
    assert "auto, cpu" in str(error.value.hint)


def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert available_devices() == ["cuda:0", "cuda:1", "mps", "cpu"]
    assert find_device("auto") == find_device("cuda") == torch.device("cuda:0")
    assert find_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("mps")


@pytest.mark.parametrize(("device", "dtype"), [("cuda", "float32"), ("cpu", "float16")])
def test_a_quantized_network_stays_on_the_cpu_in_its_own_types(device: str, dtype: str) -> None:
    with pytest.raises(DeviceError, match="quantized"):
        TorchEngine(Channels, SPEC, device=device, dtype=dtype, quantized=True)


def test_on_the_cpu_one_thread_computes_and_batches_are_plain_memory() -> None:
    engine = TorchEngine(Channels, SPEC, device="cpu")
    assert engine.concurrency == 1
    batch = engine.allocate((3, 24, 24, 3))
    assert (batch.shape, batch.dtype, batch.flags.c_contiguous) == ((3, 24, 24, 3), np.uint8, True)
    batch[:] = crops(3)
    np.testing.assert_array_equal(infer(engine, batch[:2]), infer(engine, crops(3)[:2]))


def test_a_size_that_did_not_fit_is_not_tried_again() -> None:
    network = SmallMemory()
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    engine = TorchEngine(lambda: network, SPEC, device="cpu")
    infer(engine, crops(4))
    infer(engine, crops(4))
    assert sizes == [4, 2, 2, 2, 2]


# dtypes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_only_float32_on_cuda_is_computed_in_contiguous_layout(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: str
) -> None:
    chosen = torch_engine._memory_format(torch.device(device), dtype)
    assert chosen == (torch.contiguous_format if (device, dtype) == ("cuda", "float32") else torch.channels_last)
    monkeypatch.setattr(torch_engine, "_memory_format", lambda *_: chosen)
    seen: list[torch.Tensor] = []

    class Convolution(Channels):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            seen.append(self.convolution.weight)
            return super().forward(images)

    infer(TorchEngine(Convolution, SPEC, device="cpu"), crops(2))
    assert [tensor.is_contiguous(memory_format=chosen) for tensor in seen] == [True, True]


@pytest.mark.parametrize(("dtype", "other"), [("bfloat16", "float16"), ("float16", "bfloat16")])
def test_a_dtype_that_the_processor_emulates_is_warned_of(
    dtype: str, other: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = False
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: answer)
    with caplog.at_level(logging.WARNING, "imgclassify"):
        TorchEngine(Channels, SPEC, device="cpu", dtype=dtype)
        [message] = [record.getMessage() for record in caplog.records]
        assert f"no {dtype}" in message
        assert f"float32 or {other}" in message
        answer = True
        TorchEngine(Channels, SPEC, device="cpu", dtype=dtype)
        TorchEngine(Channels, SPEC, device="cpu", dtype="float32")
    assert len(caplog.records) == 1


def test_a_dtype_that_cannot_be_computed_in_at_all_is_refused_before_the_network_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("\"slow_conv2d_cpu\" not implemented for 'Half'\nmore")

    def build() -> torch.nn.Module:
        raise AssertionError

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(DeviceError, match=r"cpu cannot compute in float16: .*'Half'$") as error:
        TorchEngine(build, SPEC, device="cpu", dtype="float16")
    assert "--dtype float32 or bfloat16" in str(error.value.hint)


@pytest.mark.parametrize("setting", ["as it is", "allowed", "forbidden", "newer names"])
def test_tf32_is_off_within_and_as_the_program_had_it_after(setting: str) -> None:
    """Flags only: they can be set without a GPU, and are read when kernels are launched."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    newer = hasattr(cudnn, "conv")

    def flags() -> tuple[Any, ...]:
        if newer:
            return cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision
        return cudnn.allow_tf32, matmul.allow_tf32

    try:
        if setting in ("allowed", "forbidden"):
            cudnn.allow_tf32 = matmul.allow_tf32 = setting == "allowed"
        if setting == "newer names" and newer:
            cudnn.conv.fp32_precision = matmul.fp32_precision = "tf32"
            cudnn.rnn.fp32_precision = "ieee"
        found = flags()
        with suppress(KeyError), cuda_streams.exact_float32():
            if newer:
                assert (cudnn.conv.fp32_precision, matmul.fp32_precision) == ("ieee", "ieee")
            else:
                assert flags() == (False, False)
            raise KeyError
        assert flags() == found
    finally:
        # torch's own defaults, by the older names, which reset what the newer ones have set apart.
        cudnn.allow_tf32, matmul.allow_tf32 = True, False


# CUDA's lanes, with the CPU for a GPU -----------------------------------------------------------------------


def _is_launcher() -> bool:
    # By name, because a thread can run before its executor lists it.
    return threading.current_thread().name.startswith("imgclassify-cuda-launcher")


Tensors = dict[str, torch.Tensor]


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def record(self, stream: object) -> None:
        self._cuda.log.append(("record", stream))
        self._stream = stream

    def synchronize(self) -> None:
        self._cuda.log.append(("synchronize", self._stream))
        assert not _is_launcher(), "keeps others from launching"
        if self._cuda.meeting is not None:
            self._cuda.meeting.wait(timeout=20)


class FakeGraph:
    def __init__(self, compute: Callable[[], Tensors], outputs: Tensors, error: float) -> None:
        self._compute, self._outputs, self._error = compute, outputs, error

    def replay(self) -> None:
        for name, output in self._compute().items():
            self._outputs[name].copy_(output + self._error)


class FakeCuda:
    """A CudaRuntime of the CPU, without waiting. A graph runs its function again, over its first output."""

    def __init__(self, *, capture_error: Exception | None = None, replay_error: float = 0) -> None:
        self.device = torch.device("cpu")
        self.log: list[tuple[str, Any]] = []
        self.alive = self.most_alive = 0
        self.meeting: threading.Barrier | None = None
        self._capture_error = capture_error
        self._replay_error = replay_error
        self._streams = 0

    def synchronize(self) -> None:
        self.log.append(("synchronize device", None))

    def create_stream(self) -> Any:
        self._streams += 1
        return f"stream {self._streams}"

    def allocate_workspaces(self, stream: Any) -> None:
        assert _is_launcher(), "allocated for another thread"
        self.log.append(("workspaces", stream))

    def use_stream(self, stream: Any) -> AbstractContextManager[object]:
        assert _is_launcher(), "launched by several threads"
        self.log.append(("using", stream))
        return nullcontext()

    def create_event(self) -> Any:
        return FakeEvent(self)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.log.append(("pinned", (shape, dtype)))
        return torch.empty(shape, dtype=dtype)

    def capture_graph(self, stream: Any, compute: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        self.log.append(("capture", stream))
        self.most_alive = max(self.most_alive, self.alive + 1)
        if self._capture_error is not None:
            raise self._capture_error
        # Nothing is computed before a replay.
        outputs = {name: torch.full_like(output, torch.nan) for name, output in compute().items()}
        graph = FakeGraph(compute, outputs, self._replay_error)
        self.alive += 1
        weakref.finalize(graph, self._dies)
        return graph.replay, outputs

    def _dies(self) -> None:
        self.alive -= 1

    def count(self, what: str) -> int:
        return sum(name == what for name, _ in self.log)


Engines = Callable[..., TorchEngine]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Makes an engine whose GPU is the FakeCuda given; graphs are captured from the third batch of a size on."""
    monkeypatch.setattr(cuda_streams, "GRAPH_AFTER", 3)

    def make(cuda: FakeCuda, build: Callable[[], torch.nn.Module] = Channels, **options: Any) -> TorchEngine:
        monkeypatch.setattr(torch_engine, "_cuda_runtime", lambda _: cuda)
        return TorchEngine(build, SPEC, device="cpu", **options)

    return make


def exact(batch: np.ndarray) -> np.ndarray:
    """What plain torch code gives."""
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))
    return ((images - mean) / std).mean(dim=(2, 3)).numpy()


def test_a_lane_answers_as_the_cpu_does_before_and_after_its_graph_is_captured(on: Engines) -> None:
    cuda, network = FakeCuda(), Channels()
    engine = on(cuda, lambda: network)
    for index in range(6):
        batch = crops(4, seed=index)
        np.testing.assert_array_equal(infer(engine, batch), exact(batch))
        assert cuda.count("capture") == (index >= 2)
    assert engine.concurrency == 2
    assert cuda.alive == 1
    assert cuda.log[0] == ("synchronize device", None)
    assert {stream for name, stream in cuda.log if name not in ("synchronize device", "pinned")} == {"stream 1"}
    waits = [name for name, _ in cuda.log if name in ("using", "record", "synchronize")]
    assert waits == ["using", "record", "synchronize"] * 6
    # Three launched one by one, the third's again to capture and to check the graph, and three replays.
    assert len(network.seen) == 3 + 2 + 3


def test_logits_are_the_caller_s_own_and_outlive_the_next_batch(on: Engines) -> None:
    engine = on(FakeCuda())
    first = [infer(engine, crops(4, seed=index)) for index in range(6)]
    for index, answer in enumerate(first):
        np.testing.assert_array_equal(answer, exact(crops(4, seed=index)))


def test_a_smaller_batch_is_answered_by_the_graph_and_a_larger_one_without(on: Engines) -> None:
    cuda = FakeCuda()
    sizes: list[int] = []
    network = Channels()
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    engine = on(cuda, lambda: network)
    for _ in range(3):
        infer(engine, crops(4))
    sizes.clear()
    for count in (1, 3, 6):
        batch = crops(count, seed=count)
        np.testing.assert_array_equal(infer(engine, batch), exact(batch))
    assert sizes == [4, 4, 6]


def test_a_larger_size_that_keeps_coming_takes_the_graph_over(on: Engines) -> None:
    cuda = FakeCuda()
    engine = on(cuda)
    for size in (2, 2, 2, 6, 6, 6, 6):
        batch = crops(size)
        np.testing.assert_array_equal(infer(engine, batch), exact(batch))
    assert (cuda.count("capture"), cuda.alive) == (2, 1)
    assert cuda.most_alive == 1, "the memory of two"


def test_sizes_that_vary_get_no_graph(on: Engines) -> None:
    cuda = FakeCuda()
    engine = on(cuda)
    for size in range(1, 12):
        infer(engine, crops(size))
    assert cuda.count("capture") == 0


@pytest.mark.parametrize(
    "cuda",
    [
        FakeCuda(capture_error=RuntimeError("operation not permitted when stream is capturing")),
        FakeCuda(capture_error=torch.OutOfMemoryError("CUDA out of memory")),
        FakeCuda(capture_error=CheckpointError("the network cannot answer")),
        FakeCuda(replay_error=0.1),
        FakeCuda(replay_error=float("nan")),
    ],
    ids=["refused", "memory", "network", "other numbers", "nan"],
)
def test_where_a_graph_cannot_be_had_or_is_wrong_the_answers_come_without(on: Engines, cuda: FakeCuda) -> None:
    engine = on(cuda)
    for index in range(8):
        batch = crops(4, seed=index)
        np.testing.assert_array_equal(infer(engine, batch), exact(batch))
    assert cuda.count("capture") == 1
    assert cuda.alive == 0


def test_memory_running_out_costs_the_graph_before_it_costs_the_size_of_the_batch(on: Engines) -> None:
    cuda = FakeCuda()
    sizes: list[int] = []

    class Crowded(Channels):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            if len(images) > 4 and cuda.alive:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    engine = on(cuda, Crowded)
    _on_two_lanes(cuda, engine, [crops(4)] * 8)
    assert cuda.alive == 2
    sizes.clear()
    np.testing.assert_array_equal(infer(engine, crops(9)), exact(crops(9)))
    assert sizes == [9, 9]
    for _ in range(8):
        infer(engine, crops(4))
    assert (cuda.alive, cuda.count("capture"), cuda.count("workspaces")) == (0, 2, 2)


def test_a_lane_at_work_while_memory_runs_out_drops_its_graph_at_its_next_batch() -> None:
    cuda, graphs = FakeCuda(), cuda_streams.CudaGraphPolicy("float32")
    lane: Any = cuda_streams.CudaStream(TorchEngine(Channels, SPEC, device="cpu")._compute_outputs, cuda, graphs)
    for _ in range(cuda_streams.GRAPH_AFTER):
        lane.infer(crops(2))
    assert cuda.alive == 1
    assert graphs.disable()
    np.testing.assert_array_equal(lane.infer(crops(2))[LOGITS], exact(crops(2)))
    assert cuda.alive == 0
    assert not graphs.disable()


def test_without_a_graph_to_drop_the_batch_is_halved_and_one_image_is_the_least(
    on: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    engine = on(cuda, SmallMemory)
    np.testing.assert_array_equal(infer(engine, crops(7)), exact(crops(7)))
    assert cuda.count("workspaces") == 1, "memory of one stream for each size that was tried"
    monkeypatch.setattr(SmallMemory, "limit", 0)
    with pytest.raises(DeviceError, match="not enough free memory"):
        infer(engine, crops(3))


def test_an_engine_that_is_no_longer_used_frees_its_memory_at_once(on: Engines) -> None:
    cuda = FakeCuda()
    engine = on(cuda)
    for _ in range(4):
        infer(engine, crops(4))
    network = weakref.ref(engine._network)
    gc.disable()
    try:
        del engine
        assert network() is None
        assert cuda.alive == 0
    finally:
        gc.enable()


def _on_two_lanes(cuda: FakeCuda, engine: TorchEngine, batches: list[np.ndarray]) -> list[np.ndarray]:
    """The answers by two threads, each of which waits for its GPU only when the other does so too."""
    cuda.meeting = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(partial(infer, engine), batches))
    cuda.meeting = None
    return answers


def test_two_threads_have_a_lane_each_wait_side_by_side_and_answer_as_one(on: Engines) -> None:
    cuda = FakeCuda()
    engine = on(cuda)
    batches = [crops(4, seed=index) for index in range(12)]
    answers = _on_two_lanes(cuda, engine, batches)
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(answer, exact(batch))
    assert {stream for name, stream in cuda.log if name == "using"} == {"stream 1", "stream 2"}
    assert cuda.alive == cuda.count("capture") == 2
    # Threads come and go with each folder; the lanes, and their graphs, stay.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(infer, engine, batches[0]).result()
    assert cuda.count("capture") == 2


def test_many_threads_at_once_answer_as_one(on: Engines) -> None:
    engine = on(FakeCuda())
    batches = [crops(1 + index % 4, seed=index) for index in range(60)]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(partial(infer, engine), batches))
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(answer, exact(batch))


def test_batches_and_answers_pass_through_pinned_memory(on: Engines) -> None:
    cuda = FakeCuda()
    engine = on(cuda)
    batch = engine.allocate((4, 24, 24, 3))
    assert cuda.log[-1] == ("pinned", ((4, 24, 24, 3), torch.uint8))
    batch[:] = crops(4)
    for _ in range(3):
        infer(engine, batch)
    infer(engine, batch[:2])
    pinned = [what for name, what in cuda.log if name == "pinned"]
    assert pinned[1:] == [((4, 3), torch.float32)]


def test_a_network_that_fails_on_a_lane_is_told_as_on_the_cpu_and_the_lane_serves_on(on: Engines) -> None:
    class Picky(Channels):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            torch._assert(len(images) != 3, "not three")
            return super().forward(images)

    engine = on(FakeCuda(), Picky)
    with pytest.raises(CheckpointError, match="not three"):
        infer(engine, crops(3))
    np.testing.assert_array_equal(infer(engine, crops(2)), exact(crops(2)))


class WithHead(torch.nn.Module):
    """A pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.head = torch.nn.Linear(3, 2)
        torch.nn.init.constant_(self.head.weight, 0.5)
        torch.nn.init.constant_(self.head.bias, 0.25)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(images).flatten(1))


def test_features_and_maps_pass_through_graphs_and_smaller_batches_as_logits_do(on: Engines) -> None:
    cuda = FakeCuda()
    engine = on(cuda, WithHead, outputs=(FEATURES, FEATURE_MAP), layers=FeatureLayers("head", "pool"))
    for index, count in enumerate((4, 4, 4, 4, 2, 6)):
        batch = crops(count, seed=index)
        found = engine.infer(batch)
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))
        np.testing.assert_allclose(found[FEATURE_MAP], ((pixels - mean) / std).numpy(), atol=1e-6)
        np.testing.assert_allclose(found[FEATURES], exact(batch), atol=1e-6)
        np.testing.assert_allclose(
            found[LOGITS], exact(batch).sum(axis=1, keepdims=True) / 2 + [0.25, 0.25], atol=1e-6
        )
    assert (cuda.count("capture"), cuda.alive) == (1, 1)


def test_a_batch_that_does_not_fit_is_halved_with_all_its_outputs(on: Engines) -> None:
    class Small(WithHead):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    engine = on(FakeCuda(), Small, outputs=(FEATURES,), layers=FeatureLayers("head", "pool"))
    found = engine.infer(crops(7))
    np.testing.assert_allclose(found[FEATURES], exact(crops(7)), atol=1e-6)
    assert found[LOGITS].shape == (7, 2)


# CUDA itself ------------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cuda_answers_as_the_cpu_with_its_graph_and_without(
    dtype: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_streams, "GRAPH_AFTER", 2)
    batch = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    here = infer(TorchEngine(lambda: seeded("resnet18"), SPEC, device="cpu"), batch)
    engine = TorchEngine(lambda: seeded("resnet18"), SPEC, device="cuda", dtype=dtype)
    pinned = engine.allocate(batch.shape)
    pinned[:] = batch
    assert torch.from_numpy(pinned).is_pinned()
    with caplog.at_level(logging.DEBUG, "imgclassify"):
        for crops in (batch, pinned, pinned, pinned[:3], pinned[:1]):
            there = infer(engine, crops)
            tolerance = 1e-3 if dtype == "float32" else 0.3
            np.testing.assert_allclose(there, here[: len(crops)], rtol=0, atol=tolerance)
    assert "no CUDA graph" not in caplog.text


@needs_gpu
def test_two_threads_on_cuda_answer_as_one_while_both_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_streams, "GRAPH_AFTER", 4)
    random = np.random.default_rng(1)
    batches = [random.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8) for _ in range(40)]
    engine = TorchEngine(lambda: seeded("resnet18"), SPEC, device="cuda")
    alone = [infer(engine, batch) for batch in batches]
    engine = TorchEngine(lambda: seeded("resnet18"), SPEC, device="cuda")
    with ThreadPoolExecutor(engine.concurrency) as threads:
        for answer, expected in zip(threads.map(partial(infer, engine), batches), alone, strict=True):
            np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-4)


@needs_gpu
def test_a_network_that_decides_by_what_it_computes_is_answered_without_a_graph(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Deciding(Channels):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answer = super().forward(images)
            return -answer if answer.sum().item() > 0 else answer

    monkeypatch.setattr(cuda_streams, "GRAPH_AFTER", 2)
    engine = TorchEngine(Deciding, SPEC, device="cuda")
    here = TorchEngine(Deciding, SPEC, device="cpu")
    with caplog.at_level(logging.DEBUG, "imgclassify"):
        for index in range(6):
            batch = crops(4, seed=index) // (1 + index % 2 * 3)
            np.testing.assert_allclose(infer(engine, batch), infer(here, batch), rtol=0, atol=1e-5)
    assert "no CUDA graph" in caplog.text


@needs_gpu
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "timm"])
def test_features_on_cuda_are_those_of_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setattr(cuda_streams, "GRAPH_AFTER", 2)
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0") if name == "timm" else seeded(name)
    layers = None if name == "timm" else find_model(name).layers
    options: Any = {"outputs": (FEATURES, FEATURE_MAP), "layers": layers}
    batch = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    here = TorchEngine(lambda: copy.deepcopy(network), SPEC, device="cpu", **options).infer(batch)
    engine = TorchEngine(lambda: network, SPEC, device="cuda", **options)
    for count in (4, 4, 4, 2, 4):
        there = engine.infer(batch[:count])
        assert there.keys() == here.keys() == {LOGITS, FEATURES, FEATURE_MAP}
        for output, wanted in here.items():
            np.testing.assert_allclose(there[output], wanted[:count], rtol=0, atol=1e-4 * np.abs(wanted).max())
    head = engine.read_head()
    np.testing.assert_allclose(
        here[FEATURES] @ head.weight.T + head.bias, here[LOGITS], rtol=0, atol=1e-4 * np.abs(here[LOGITS]).max()
    )


@needs_gpu
def test_a_batch_that_does_not_fit_on_the_gpu_is_halved() -> None:
    few = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    wanted = infer(TorchEngine(lambda: seeded("resnet18"), SPEC, device="cpu"), few)
    gc.collect()  # what earlier tests held
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    engine = TorchEngine(lambda: seeded("resnet18"), SPEC, device="cuda")
    # 1 GiB. The outputs of the first convolution and of its batch norm for 512 images take 1.6 GB each.
    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.get_device_properties(0).total_memory)
    try:
        for _ in range(2 * cuda_streams.GRAPH_AFTER):
            found = infer(engine, np.tile(few, (128, 1, 1, 1)))
            np.testing.assert_allclose(found, np.tile(wanted, (128, 1)), rtol=0, atol=1e-3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 32 <= engine._max_batch <= 256
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    # The workspaces of cuBLAS, and nothing that they could hold on to.
    assert torch.cuda.memory_reserved() - reserved < 200 * 2**20
