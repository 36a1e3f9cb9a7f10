"""Finds the logits in what a torch network returns: a tensor, a tuple, a dictionary, or an object with fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from imgclassify.engines.output_choice import OutputForm, choose_output, wrong_form

if TYPE_CHECKING:
    import torch

_NETWORK = "the network"


class LogitsFinder:
    """Finds the logits in what a network returns. Of several outputs, they are chosen at the first call."""

    def __init__(self, output_name: str | None, num_labels: int | None) -> None:
        """
        Args:
            output_name: the name or the position of the output, if the user gives it.
            num_labels: as in `choose_output`.
        """
        self._wanted = output_name
        self._num_labels = num_labels
        self._chosen: str | None = None

    def find(self, output: Any, num_images: int) -> Any:
        """Returns the logits, of any form: `to_rows` checks it.

        Raises:
            CheckpointError, UsageError: as in `choose_output`.
        """
        outputs = _list_outputs(output)
        if self._chosen not in outputs:
            self._chosen = self._choose(outputs, num_images)
        return outputs[self._chosen]

    def _choose(self, outputs: Mapping[str, Any], num_images: int) -> str:
        if self._wanted is None and len(outputs) == 1:
            return next(iter(outputs))
        return choose_output(
            {name: _describe_output(each) for name, each in outputs.items()},
            num_images=num_images,
            wanted=self._wanted,
            num_labels=self._num_labels,
            network=_NETWORK,
        )


def to_rows(output: Any, num_images: int) -> torch.Tensor:
    """Returns logits as (N, number of outputs) in float32.

    Raises:
        CheckpointError: they are not one row of numbers for each image.
    """
    form = _describe_output(output)
    columns = form.count_columns(num_images)
    if columns is None:
        raise wrong_form({"output": form}, _NETWORK)
    rows: torch.Tensor = output.reshape(num_images, columns).float()
    return rows


def _list_outputs(output: Any) -> dict[str, Any]:
    """Returns the parts of what a network returns, by name or position. Those that are None are left out."""
    if isinstance(output, Mapping):
        parts = {str(name): value for name, value in output.items()}
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))
        parts = {str(name): value for name, value in zip(names, output, strict=True)}
    elif is_dataclass(output):
        parts = {field.name: getattr(output, field.name) for field in fields(output)}
    else:
        parts = {"logits": output.logits} if hasattr(output, "logits") else {"output": output}
    found = {name: value for name, value in parts.items() if value is not None}
    return found or {"output": output}


def _describe_output(output: Any) -> OutputForm:
    import torch

    if isinstance(output, torch.Tensor):
        return OutputForm(str(output.dtype).removeprefix("torch."), tuple(output.shape))
    return OutputForm(type(output).__name__, ())
