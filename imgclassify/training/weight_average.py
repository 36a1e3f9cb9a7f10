"""An average of the weights of all steps, which is often better than those of the last one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class WeightAverage:
    """An exponential moving average of the weights of a network, and of the statistics of its batch norms.

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.
    """

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        self._decay = decay
        current: dict[int, tuple[str, torch.Tensor]] = {}
        for name, tensor in network.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                current.setdefault(id(tensor), (name, tensor.detach()))
        self._current = dict(current.values())
        self.tensors = {name: tensor.clone() for name, tensor in self._current.items()}
        """The averages, by name. A tensor that has two names is here under the first."""
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Adds the weights after a step. The first steps weigh more, so that the beginning is soon forgotten."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._current.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the network the averages for as long as the block runs."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, current in self._current.items():
            kept = current.clone()
            current.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
