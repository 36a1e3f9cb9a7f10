"""In which numbers the layers of a network compute while it is trained."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from imgclassify.training.recipe import AUTO


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of autocast, or float32 for none.

    Args:
        wanted: the recipe's `dtype`. "auto" is bfloat16 where the device computes in it.
    """
    if wanted == AUTO:
        return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has arithmetic of its own for bfloat16. Emulated, it would take longer than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN takes any processor with AVX-512, and emulates it there.
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return native is not None and bool(native())
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


@contextmanager
def depthwise_in_float32(network: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Has the depthwise convolutions of a network compute in float32 under autocast, on the CPU.

    oneDNN's gradients of a depthwise convolution take five times as long in bfloat16 as in float32. So
    EfficientNet-Lite0, with these in float32 and the rest in bfloat16, is trained twice as fast as with all in
    bfloat16, and 1.5 times as fast as with all in float32.
    """
    if device.type != "cpu" or dtype == torch.float32:
        yield
        return
    layers = [module for module in network.modules() if _is_depthwise(module)]
    for layer in layers:
        layer.forward = partial(_run_in_float32, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_depthwise(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Conv2d) and 1 < module.groups == module.in_channels


def _run_in_float32(forward: Any, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast(images.device.type, enabled=False):
        output: torch.Tensor = forward(images.float())
    return output.to(images.dtype)
