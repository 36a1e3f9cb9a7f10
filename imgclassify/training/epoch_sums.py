"""What the steps of an epoch come to: sums on the device, so that a step does not wait for it."""

from __future__ import annotations

import torch


class EpochSums:
    """Sums of losses and of right answers."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(5, dtype=torch.float64, device=device)
        """Of the epoch: losses times images, images that were right, and images. Since the last running loss:
        losses and batches."""

    def add(self, loss: torch.Tensor, logits: torch.Tensor, classes: torch.Tensor) -> None:
        """Adds a batch.

        Args:
            loss: the mean over its images.
            logits: (N, number of classes).
            classes: (N,).
        """
        value = loss.detach().double()
        one = torch.ones_like(value)
        right = (logits.detach().argmax(1) == classes).sum()
        self.values += torch.stack([value * len(classes), right.double(), one * len(classes), value, one])

    def clear(self) -> None:
        self.values.zero_()

    def read(self) -> tuple[float, float, int]:
        """Returns (mean loss, share of right answers, images) of the epoch until now. Waits for the device."""
        losses, right, images, *_ = self.values.tolist()
        return losses / max(images, 1), right / max(images, 1), int(images)

    def take_running_loss(self) -> float:
        """Returns the mean loss of the batches since the last call."""
        losses, batches = self.values[3:].tolist()
        self.values[3:] = 0
        return float(losses / batches)
