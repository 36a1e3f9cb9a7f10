"""A torch network on its device, with its input: computes logits for steps and for validation."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from imgclassify.engines.crop_normalization import CropNormalizer
from imgclassify.engines.torch_outputs import LogitsFinder, to_rows
from imgclassify.training.optimization import is_batch_norm
from imgclassify.training.precision import choose_dtype, depthwise_in_float32

if TYPE_CHECKING:
    from imgclassify.catalog import PreprocessSpec
    from imgclassify.training.recipe import Recipe


class TrainedNetwork:
    """A network that is being trained."""

    def __init__(
        self, module: torch.nn.Module, recipe: Recipe, preprocess: PreprocessSpec, device: torch.device
    ) -> None:
        """Moves the network to the device, and changes the order of its weights in memory."""
        self.initial_digest = digest_weights(module)
        """SHA-256 of the weights that the training begins with."""
        self.device = device
        self.dtype = choose_dtype(recipe.dtype, device)
        self.dtype_name = str(self.dtype).removeprefix("torch.")
        self._format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.module = module.to(device).to(memory_format=self._format)
        self._normalize = CropNormalizer(preprocess, device)
        self._finder = LogitsFinder(None, None)
        self._frozen = recipe.batch_norm == "frozen"
        self.needs_pairs = not self._frozen and any(map(is_batch_norm, module.modules()))
        """Whether a batch of one image would be an error: it has no variance."""

    def mixed_precision(self) -> AbstractContextManager[None]:
        """Has depthwise convolutions compute as they are quickest, for as long as the block runs."""
        return depthwise_in_float32(self.module, self.device, self.dtype)

    def to_images(self, crops: torch.Tensor) -> torch.Tensor:
        """Moves crops to the device and normalises them: (N, H, W, 3) uint8 → (N, 3, H, W) float32."""
        moved = crops.to(self.device, non_blocking=self.device.type == "cuda")
        return self._normalize(moved).contiguous(memory_format=self._format)

    def start_training(self) -> None:
        """Switches dropout and batch norm to training. Frozen statistics of batch norms stay as they are."""
        self.module.train()
        if self._frozen:
            for module in filter(is_batch_norm, self.module.modules()):
                module.eval()

    def training_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Computes logits for a step: (N, 3, H, W) → (N, classes) float32."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.module(images)
        return self._rows(output, len(images))

    def logits(self, crops: torch.Tensor) -> torch.Tensor:
        """Computes logits as predict does: (N, H, W, 3) uint8 → (N, classes), all in float32."""
        return self._rows(self.module(self.to_images(crops)), len(crops))

    def _rows(self, output: object, num_images: int) -> torch.Tensor:
        return to_rows(self._finder.find(output, num_images), num_images)


def digest_weights(module: torch.nn.Module) -> str:
    """Returns the SHA-256 of all parameters and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
