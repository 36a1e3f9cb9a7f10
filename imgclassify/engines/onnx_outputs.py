"""Turns what an onnxruntime session returns into arrays: tensors as they are, and maps of classes to probabilities.

scikit-learn's and Azure's graphs return a list with a map for each image, made by the operator ZipMap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imgclassify.engines.output_choice import OutputForm

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def as_array(value: Any, label_names: Sequence[str] = ()) -> NDArray[Any]:
    """Returns an output as an array.

    Args:
        value: a tensor, or a list of maps from class to probability, one for each image.
        label_names: the names of the classes in order. They give the order of maps whose keys are these names.
    """
    import numpy as np

    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        keys = _order_keys(list(value[0]), label_names)
        return np.array([[row[key] for key in keys] for row in value], np.float32)
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    return np.array(None, object)  # a sequence of tensors, or an optional output that is absent


def describe_array(array: NDArray[Any]) -> OutputForm:
    """Returns the form of an output."""
    if array.dtype.kind in "OUS":
        return OutputForm("text" if array.shape else "sequence", array.shape)
    return OutputForm(array.dtype.name, array.shape)


def as_rows(array: NDArray[Any], num_images: int) -> NDArray[np.float32] | None:
    """Returns an output as (N, columns) float32, or None if it is not one row for each image."""
    import numpy as np

    columns = describe_array(array).count_columns(num_images)
    return None if columns is None else array.reshape(num_images, columns).astype(np.float32, copy=False)


def _order_keys(keys: list[Any], label_names: Sequence[str]) -> list[Any]:
    """Returns the keys of a map in the order of the classes.

    onnxruntime sorts the keys. Numbers, also as text, are in the order of their values. Names that are those of the
    labels are in the order of the labels. Other names stay sorted, as scikit-learn has its classes.
    """
    by_name = {str(key).strip().casefold(): key for key in keys}
    wanted = [name.strip().casefold() for name in label_names]
    if len(by_name) == len(keys) and sorted(by_name) == sorted(wanted):
        return [by_name[name] for name in wanted]
    if all(isinstance(key, int) or key.isdecimal() for key in keys):
        return sorted(keys, key=int)
    return sorted(keys)
