"""In which numbers layers compute: the same results, whatever is chosen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from imgclassify.training import precision
from imgclassify.training.precision import choose_dtype, depthwise_in_float32

CPU = torch.device("cpu")


class Recording(nn.Conv2d):
    """A convolution that keeps the dtype of what it computes."""

    computed: torch.dtype | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output = super().forward(images)
        self.computed = output.dtype
        return output


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        Recording(3, 4, 3), Recording(4, 4, 3, groups=4), Recording(4, 4, 1), Recording(4, 4, 3, groups=2)
    )


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda _: native)
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16


def test_a_processor_has_bfloat16_if_its_flags_say_so() -> None:
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        flags = file.read()
    if "flags" not in flags:
        pytest.skip("not a processor of this kind")
    assert precision.computes_in_bfloat16(CPU) == ("avx512_bf16" in flags)


def test_depthwise_convolutions_alone_compute_in_float32() -> None:
    network = make_network()
    images = torch.randn(2, 3, 12, 12)
    with depthwise_in_float32(network, CPU, torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
        output = network(images)
    kinds = [layer.computed for layer in network]
    assert kinds == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), network(images), rtol=0.1, atol=0.1)
    output.float().sum().backward()
    assert all(layer.weight.grad.dtype == torch.float32 for layer in network)


def test_afterwards_the_network_is_as_before() -> None:
    network = make_network()
    with depthwise_in_float32(network, CPU, torch.bfloat16):
        assert "forward" in vars(network[1])
    assert not any("forward" in vars(layer) for layer in network)


@pytest.mark.parametrize(("device", "dtype"), [("cuda", torch.bfloat16), ("cpu", torch.float32)])
def test_elsewhere_nothing_is_changed(device: str, dtype: torch.dtype) -> None:
    network = make_network()
    with depthwise_in_float32(network, torch.device(device), dtype):
        assert not any("forward" in vars(layer) for layer in network)
