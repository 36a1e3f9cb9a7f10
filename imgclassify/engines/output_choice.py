"""Chooses the output of a network that holds its logits or probabilities, if it has several.

An output has the right form if it is one row of floats, or of bytes, for each image: (N, classes), also with
further sides of 1, or without N for a single image. Only one output may have it, or the user must choose.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

from imgclassify.errors import CheckpointError, UsageError
from imgclassify.graphs.session import FEATURE_MAP, FEATURE_NAMES, LOGITS, PROBABILITIES

logger = logging.getLogger("imgclassify")

SCORES = ("float16", "float32", "float64", "bfloat16", "uint8")
"""The types of numbers that logits and probabilities have. Other integers are class numbers."""
_INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
_QUANTIZED = ("int8", "int16", "uint16")
_EXPORT_HINT = "export the network with its logits or probabilities, (N, classes), as an output"


class OutputForm(NamedTuple):
    """The form of an output, for a number of images."""

    dtype: str
    """The name of a type of numbers, as numpy has it, or of a type that is not an array."""
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}" if self.dtype in (*SCORES, *_INTEGERS) else self.dtype

    @property
    def holds_choice(self) -> bool:
        """Whether it is the class that the network has chosen, as a number or as text."""
        return self.dtype == "text" or (self.dtype in _INTEGERS and len(self.shape) <= 2)

    def count_columns(self, num_images: int) -> int | None:
        """Returns the number of values for each image, or None if the output is not a row for each image."""
        sides = [side for side in self.shape[1:] if side != 1]
        if self.dtype not in SCORES:
            return None
        if self.shape[:1] == (num_images,) and len(sides) <= 1:
            return math.prod(sides) or None
        # Of a single image, its side may be squeezed too.
        return (math.prod(self.shape) or None) if num_images == 1 and len(self.shape) <= 1 else None


def choose_output(
    forms: Mapping[str, OutputForm],
    *,
    num_images: int,
    wanted: str | None,
    num_labels: int | None,
    network: str,
) -> str:
    """Returns the name of the output that holds the logits or probabilities.

    Args:
        forms: the form of each output, for `num_images` images.
        wanted: the name that the user gives, if any.
        num_labels: the number of labels; None if there are none, and any output will do.
        network: names the network in errors.

    Raises:
        UsageError: several outputs have the right form, or `wanted` is not an output.
        CheckpointError: no output has the right form.
    """
    listed = ", ".join(f"{name} ({form})" for name, form in forms.items())
    if wanted is not None and wanted not in forms:
        raise UsageError(
            f"{network} has no output {wanted!r}, but {listed}",
            hint="give --output-name one of these names" if len(forms) > 1 else "leave out --output-name",
        )
    columns = {name: form.count_columns(num_images) for name, form in forms.items()}
    # Of a detector, the outputs are rows of boxes, and the scores of a single image look like squeezed classes.
    if any(len(form.shape) > 1 and form.shape[0] != num_images for form in forms.values()):
        columns |= {name: None for name, form in forms.items() if len(form.shape) == 1}
    if wanted is not None:
        if columns[wanted] is None:
            raise wrong_form({wanted: forms[wanted]}, network)
        return wanted
    able = {name: count for name, count in columns.items() if count is not None}
    if not able:
        raise wrong_form(forms, network)
    if len(able) > 1:
        able = {name: count for name, count in able.items() if name not in (*FEATURE_NAMES, FEATURE_MAP)} or able
    if able.keys() == {LOGITS, PROBABILITIES}:  # as `imgclassify export` names them: both tell the same
        del able[PROBABILITIES]
    if len(able) > 1 and num_labels is not None:
        able = {name: count for name, count in able.items() if _fits(count, num_labels)} or able
    if num_labels is None:
        return _prefer_logits(able)
    if len(able) > 1:
        raise UsageError(
            f"{network} has several outputs that may be the classes: {listed}",
            hint=f"choose one with --output-name NAME, such as --output-name {_prefer_logits(able)}",
        )
    [chosen] = able
    if not forms.keys() <= {LOGITS, PROBABILITIES, FEATURE_MAP, *FEATURE_NAMES} and len(forms) > 1:
        logger.warning("%s has the outputs %s; %s is used", network, listed, chosen)
    return chosen


def _prefer_logits(names: Mapping[str, int]) -> str:
    return LOGITS if LOGITS in names else next(iter(names))


def _fits(columns: int, num_labels: int) -> bool:
    return columns == num_labels or (columns == 1 and num_labels <= 2)


def wrong_form(forms: Mapping[str, OutputForm], network: str) -> CheckpointError:
    """Returns the error for a network of which no output is one row of numbers for each image."""
    listed = ", ".join(f"{name} ({form})" for name, form in forms.items())
    if all(form.dtype in _QUANTIZED and math.prod(form.shape) > 1 for form in forms.values()):
        return CheckpointError(
            f"{network} returns quantized numbers, {listed}, without their scale",
            hint=f"{_EXPORT_HINT}, in float, after DequantizeLinear",
        )
    if all(form.holds_choice for form in forms.values()):
        return CheckpointError(
            f"{network} returns whole numbers or text, {listed}: the class that it has chosen, not probabilities",
            hint=f"{_EXPORT_HINT}, before ArgMax",
        )
    return CheckpointError(
        f"{network} is not an image classifier: it returns {listed}, and not one row of numbers for each image",
        hint=_EXPORT_HINT,
    )
