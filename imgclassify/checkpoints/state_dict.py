"""Finds the state_dict in a checkpoint, renames and compares its parameters, and reads their arrays."""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imgclassify.checkpoints.candidates import StateDict, copy_metadata, find_candidates
from imgclassify.checkpoints.safetensors import is_safetensors, read_safetensors
from imgclassify.checkpoints.storage import Tensor
from imgclassify.checkpoints.torch_files import read_torch_file, unreadable_checkpoint
from imgclassify.errors import CheckpointError, describe_error

logger = logging.getLogger("imgclassify")

BATCH_COUNTER_SUFFIX = ".num_batches_tracked"
"""Batch norm counts batches in training. Inference does not use the counter, and older checkpoints lack it."""

_HEAD_BYTES = 16
_TORCH_HEADS = (b"PK\3\4", b"\x80")
"""The first bytes of PyTorch's formats: of a zip archive, and of a pickle."""
_PREFIX = "module."
"""DataParallel and DistributedDataParallel put this before every name."""
_MAX_SHARED = 4
"""All tensors together may have this many numbers per byte of the file and of _MAX_SMALL."""
_MAX_SMALL = 2**20
"""In bytes. Added to the size of the file, so that tensors of a small file may share numbers more often."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint file, without the numbers of its tensors."""

    path: Path
    content: Any
    """Plain values, with a Tensor for each tensor and a Placeholder for each object of another class."""
    metadata: Mapping[str, str]
    """The texts beside the tensors of a .safetensors file. Empty for other files."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint without the numbers of its tensors.

    Raises:
        CheckpointError: the file is missing or damaged, or is not a checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {str(path)!r}", hint="check the path")
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    is_torch = head.startswith(_TORCH_HEADS)
    # The suffix counts only if the content is of neither format.
    if is_safetensors(head) or (path.suffix.lower() == ".safetensors" and not is_torch):
        return Checkpoint(path, *read_safetensors(path))
    return Checkpoint(path, read_torch_file(path), {})


def open_lazy(path: Path) -> StateDict:
    """Reads the state_dict in a checkpoint without the numbers of its tensors.

    The file holds a state_dict, or a dictionary with one under `state_dict`, `model` or another usual key. If
    all names begin with `module.`, that prefix is stripped.

    Returns:
        The state_dict, with a Tensor for each tensor.

    Raises:
        CheckpointError: the file is missing or damaged, or is not a checkpoint.
    """
    return find_state_dict(open_checkpoint(path).content, path)


def load_arrays(path: Path) -> StateDict:
    """Reads the state_dict in a checkpoint as arrays.

    Returns:
        The state_dict, with C-contiguous arrays of the shapes and dtypes in the file. bfloat16 is converted to
        float32. Arrays are in the mapped memory of the file if possible, else copies.

    Raises:
        CheckpointError: as for `open_lazy` and `materialize`.
    """
    return materialize(open_lazy(path), source_name=repr(str(path)))


def materialize(state_dict: StateDict, *, source_name: str) -> StateDict:
    """Returns the state_dict with an array for each Tensor.

    Args:
        source_name: names the checkpoint in errors.

    Raises:
        CheckpointError: a tensor reaches beyond the file, the file has changed since it was indexed, or the
            tensors have many more numbers than the file.
    """
    found: StateDict = OrderedDict()
    try:
        _check_amount(state_dict)
        for name, value in state_dict.items():
            found[name] = value.to_array() if isinstance(value, Tensor) else value
    except (ValueError, TypeError) as error:
        raise unreadable_checkpoint(source_name, describe_error(error)) from error
    check_unchanged(state_dict, source_name=source_name)
    copy_metadata(state_dict, found)
    return found


def check_unchanged(state_dict: StateDict, *, source_name: str) -> None:
    """Checks that the file has not changed while it was read. Call it after the last read.

    Raises:
        CheckpointError: the file has changed since it was indexed.
    """
    files = {value.storage.file for value in state_dict.values() if isinstance(value, Tensor)}
    if any(file is not None and file.has_changed for file in files):
        raise CheckpointError(
            f"{source_name} changed while it was read", hint="run again when it is completely written"
        )


def _check_amount(state_dict: StateDict) -> None:
    """Limits how many numbers all tensors have together.

    Tensors may share numbers, but each tensor that is not in C order is copied separately.

    Raises:
        ValueError: the tensors have too many numbers for the size of the file.
    """
    tensors = [value for value in state_dict.values() if isinstance(value, Tensor)]
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    size = max((len(tensor.storage.file) for tensor in tensors if tensor.storage.file), default=0)
    if numbers > _MAX_SHARED * (size + _MAX_SMALL):
        raise ValueError(f"its tensors have {numbers:,} numbers in total, but the file has {size:,} bytes")


def renamer(rules: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """Returns the function that applies (pattern, replacement) pairs for re.sub to a name, in order."""
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in patterns:
            name = pattern.sub(replacement, name)
        return name

    return rename


def rename_parameters(state_dict: StateDict, rules: Sequence[tuple[str, str]]) -> StateDict:
    """Returns the state_dict with new names.

    Args:
        rules: as for `renamer`.
    """
    if not rules:
        return state_dict
    rename = renamer(rules)
    renamed: StateDict = OrderedDict((rename(name), value) for name, value in state_dict.items())
    copy_metadata(state_dict, renamed)
    return renamed


def find_state_dict(content: Any, path: Path, key: str | None = None) -> StateDict:
    """Finds the state_dict in the content of a file. Its values are not changed.

    Args:
        key: as in `find_candidates`.

    Raises:
        CheckpointError: there is none. The message describes what was found instead.
    """
    found = find_candidates(content, path, key)
    state_dict = found[0].state_dict
    held = [each for each in found if len(each.state_dict) == len(state_dict)]
    if len(held) > 1:
        logger.warning("%s holds %s; %r is used", path, " and ".join(repr(each.key) for each in held), found[0].key)
    if all(name.startswith(_PREFIX) for name in state_dict):
        return rename_parameters(state_dict, [("^" + re.escape(_PREFIX), "")])
    return state_dict


def parameter_shapes(state_dict: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each value, and () for values without a shape."""
    return {name: tuple(getattr(value, "shape", ())) for name, value in state_dict.items()}


def check_matches(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    *,
    source_name: str,
    architecture: str,
) -> None:
    """Compares a checkpoint's names and shapes with those of its architecture.

    Raises:
        CheckpointError: they differ; the first names that differ are listed.
    """
    from imgclassify.checkpoints.misfit import SAVED_FROM_HINT, format_shape, list_names  # only errors need it

    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = [
        f"{name} {format_shape(found[name])} where {format_shape(expected[name])} is expected"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    complaints = list_names({"missing": missing, "unexpected": unexpected, "of another shape": other})
    if complaints:
        raise CheckpointError(
            f"{source_name} does not fit the architecture {architecture!r}; {complaints}",
            hint=SAVED_FROM_HINT,
        )
