"""The torch engine: CUDA, MPS and the CPU, in float32, bfloat16 or float16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgclassify.errors import CheckpointError, DeviceError, first_line

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec

_CPU_BATCH_SIZE = 8
_ACCELERATOR_BATCH_SIZE = 64


class TorchEngine:
    """A torch network with the model's normalisation before it."""

    name = "torch"

    def __init__(
        self,
        build: Callable[[], torch.nn.Module],
        preprocess: PreprocessSpec,
        *,
        device: str = "auto",
        dtype: str = "float32",
        movable: bool = True,
    ) -> None:
        """Builds the network and moves it to the device.

        Args:
            build: makes the network, with its weights, on the CPU.
            movable: False for a quantized network, which knows only the CPU and its own types.

        Raises:
            DeviceError: this machine lacks the device, or the network cannot run there or in that dtype.
            CheckpointError: the network cannot be built or moved.
        """
        import torch

        if not movable:
            _require_cpu_float32(device, dtype)
            device = "cpu"
        self._device = find_device(device)
        self.device = str(self._device)
        self.dtype = dtype
        self._dtype: torch.dtype = getattr(torch, dtype)
        if self._device.type == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
            raise DeviceError(f"{self.device} has no bfloat16", hint="use --dtype float16 or float32")
        self.default_batch_size = _CPU_BATCH_SIZE if self._device.type == "cpu" else _ACCELERATOR_BATCH_SIZE
        network = build().eval()
        self._network = self._moved(network) if movable else network
        self._white = torch.tensor(255.0, device=self._device)
        self._mean = torch.tensor(preprocess.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess.std, device=self._device).view(1, 3, 1, 1)

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Engine.logits. A batch that does not fit the device's memory is halved until it does.

        Raises:
            DeviceError: not even one image fits.
            CheckpointError: the network refuses the crops, or what it returns is not (N, classes).
        """
        import numpy as np
        import torch

        try:
            return self._run(torch.from_numpy(crops))
        except torch.OutOfMemoryError as error:
            if len(crops) == 1:
                raise DeviceError(
                    f"{self.device} has not enough free memory for one image",
                    hint="free some, or use a smaller model, --dtype float16, or --device cpu",
                ) from error
        half = len(crops) // 2
        return np.concatenate([self.logits(crops[:half]), self.logits(crops[half:])])

    def _run(self, crops: torch.Tensor) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode(), _exact_float32():
            images = self.normalize(crops).to(self._dtype)
            output = self._call(images)
            if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(images):
                raise _no_classifier(output)
            answer: NDArray[np.float32] = output.float().cpu().numpy()
            return answer

    def _call(self, images: torch.Tensor) -> object:
        import torch

        try:
            output = self._network(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a network's forward raises what it likes
            height, width = images.shape[2:]
            raise CheckpointError(
                f"the network cannot answer crops of {height}×{width}: {first_line(error)}",
                hint="leave --crop-size to the model; `imgclassify models show` tells its own",
            ) from error
        # A scripted GoogLeNet or Inception always hands out its auxiliary answers too.
        return getattr(output, "logits", output)

    def _moved(self, network: torch.nn.Module) -> torch.nn.Module:
        import torch

        try:
            return network.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} has not enough free memory for the network",
                hint="free some, or use a smaller model, --dtype float16, or --device cpu",
            ) from error
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise CheckpointError(
                f"the network cannot be moved to {self.device} in {self.dtype}: {first_line(error)}",
                hint="its checkpoint may hold tensors of a kind that no network computes with",
            ) from error

    def normalize(self, crops: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 → (N, 3, H, W) float32 in channels_last layout: `(x / 255 - mean) / std`.

        In float32 and in this order, as torchvision's presets and timm do, so that the bits are theirs.
        """
        import torch

        pixels = crops.to(self._device).permute(0, 3, 1, 2)
        # By a tensor, since CUDA multiplies by the reciprocal of a number, which rounds otherwise.
        return pixels.to(torch.float32).div_(self._white).sub_(self._mean).div_(self._std)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Without TF32, in which cuDNN computes float32 convolutions to ten bits of the fraction unless told not to."""
    import torch

    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def find_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA if there is one, else MPS, else the CPU.

    Raises:
        DeviceError: no such device here; those there are are listed.
    """
    import torch

    there = available_devices()
    if name == "auto":
        return torch.device(there[0])
    wanted = f"{name}:0" if name == "cuda" else name
    if wanted not in there:
        raise DeviceError(f"no device {name!r} here", hint=f"use one of: auto, {', '.join(there)}")
    return torch.device(wanted)


def available_devices() -> list[str]:
    """Every device of this machine, the quickest kind first."""
    import torch

    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return cuda + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def _require_cpu_float32(device: str, dtype: str) -> None:
    if device not in ("auto", "cpu"):
        raise DeviceError(f"a quantized network runs on the CPU only, not on {device!r}", hint="use --device cpu")
    if dtype != "float32":
        raise DeviceError(f"a quantized network has its own types, and no {dtype}", hint="leave --dtype at float32")


def _no_classifier(output: object) -> CheckpointError:
    shape = tuple(output.shape) if hasattr(output, "shape") else type(output).__name__
    return CheckpointError(
        f"the network is no image classifier: for N images it returns {shape}, not (N, classes)",
        hint="choose a model that ends in one logit per class",
    )
