"""torch's global random numbers: what they depend on can be kept and restored."""

from __future__ import annotations

import torch


def get_random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the state of the generators of the CPU and of a device, by name."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["device"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restores what `get_random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state["device"])
