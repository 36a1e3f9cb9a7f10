"""The torch engine: normalisation, devices, dtypes, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from imgclassify.catalog import PreprocessSpec
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


def test_logits_are_those_of_the_normalised_images_in_float64() -> None:
    batch = crops(5)
    logits = TorchEngine(Channels, SPEC, device="cpu").logits(batch)
    expected = ((batch.astype(np.float64) / 255 - SPEC.mean) / SPEC.std).mean(axis=(1, 2))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)


def test_the_network_is_in_eval_and_inference_mode_and_channels_last() -> None:
    network = Channels()
    TorchEngine(lambda: network, SPEC, device="cpu").logits(crops(2))
    assert not network.training
    assert network.seen[0].is_inference()
    assert network.seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_a_dtype_is_what_the_network_computes_in(dtype: str, tolerance: float) -> None:
    network = Channels()
    engine = TorchEngine(lambda: network, SPEC, device="cpu", dtype=dtype)
    logits = engine.logits(crops(3))
    assert network.seen[0].dtype == network.scale.dtype == getattr(torch, dtype)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(
        logits, TorchEngine(Channels, SPEC, device="cpu").logits(crops(3)), rtol=0, atol=tolerance
    )


class SmallMemory(Channels):
    """Runs out of memory above two images."""

    limit = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(images)


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    batch = crops(7)
    whole = TorchEngine(Channels, SPEC, device="cpu").logits(batch)
    np.testing.assert_array_equal(TorchEngine(SmallMemory, SPEC, device="cpu").logits(batch), whole)


def test_not_even_one_image_fitting_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallMemory, "limit", 0)
    with pytest.raises(DeviceError, match="not enough free memory") as error:
        TorchEngine(SmallMemory, SPEC, device="cpu").logits(crops(3))
    assert "--device cpu" in str(error.value.hint)


@pytest.mark.parametrize(
    "output", [lambda images: images, lambda images: (images,), lambda images: images.mean(dim=(0, 1))]
)
def test_a_network_that_returns_no_logits_is_refused(output: Any) -> None:
    class Odd(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> Any:
            return output(images)

    with pytest.raises(CheckpointError, match="no image classifier"):
        TorchEngine(Odd, SPEC, device="cpu").logits(crops(2))


def test_a_network_that_refuses_the_crop_is_told_with_its_own_words() -> None:
    class Picky(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            torch._assert(images.shape[2] == 224, "Wrong image height! Expected 224 but got 24!")
            return images

    with pytest.raises(UnavailableError, match=r"24×24.*Wrong image height") as error:
        TorchEngine(Picky, SPEC, device="cpu").logits(crops(1))
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
        TorchEngine(Channels, SPEC, device=device, dtype=dtype, movable=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cuda_answers_as_the_cpu(dtype: str) -> None:
    from networks import seeded

    network = seeded("resnet18")
    batch = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    here = TorchEngine(lambda: network, SPEC, device="cpu").logits(batch)
    there = TorchEngine(lambda: network, SPEC, device="cuda", dtype=dtype).logits(batch)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-3 if dtype == "float32" else 0.3)
