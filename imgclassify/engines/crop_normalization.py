"""Scales crops to floats and normalises them, with the bits that torchvision and timm compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from imgclassify.catalog import PreprocessSpec


class CropNormalizer:
    """Computes `(x / 255 - mean) / std` on one device.

    This is computed in float32 and in this order, as torchvision's presets and timm do, so that the bits are the
    same.
    """

    def __init__(self, preprocess: PreprocessSpec, device: torch.device) -> None:
        import torch

        self._device = device
        self._white = torch.tensor(255.0, device=device)
        self._mean = torch.tensor(preprocess.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess.std, device=device).view(1, 3, 1, 1)

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        """Scales and normalises a batch.

        Args:
            crops: (N, H, W, 3) uint8, on any device.

        Returns:
            (N, 3, H, W) float32 in channels_last layout.
        """
        import torch

        pixels = crops.to(self._device).permute(0, 3, 1, 2)
        # Divide by a tensor. For a Python number CUDA multiplies by the reciprocal, which rounds differently.
        return pixels.to(torch.float32).div_(self._white).sub_(self._mean).div_(self._std)
