"""Finds the state_dict in a checkpoint, renames and compares its parameters, and reads their arrays."""

from __future__ import annotations

import logging
import math
import re
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from imgclassify.checkpoints.safetensors import is_safetensors, read_safetensors
from imgclassify.checkpoints.storage import Tensor
from imgclassify.checkpoints.torch_files import read_torch_file, unreadable_checkpoint
from imgclassify.errors import CheckpointError, describe_error, make_printable, name_type

logger = logging.getLogger("imgclassify")

StateDict: TypeAlias = "OrderedDict[str, Any]"
"""Name → Tensor (from `open_lazy`) or numpy.ndarray (from `load_arrays`). Values that are not tensors in the
file, such as numbers, are unchanged."""

_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "state_dict_ema", "model_ema")
"""Keys under which training scripts put the state_dict, in the order in which they are tried."""
_PREFIX = "module."
"""DataParallel and DistributedDataParallel put this before every name."""
_COUNT_OF_AVERAGED = "n_averaged"
"""torch.optim.swa_utils.AveragedModel puts this entry beside the parameters."""
_SHOWN = 5
"""The number of differing names that an error lists."""
_SHOWN_CHARACTERS = 200
"""The number of characters of each name that an error shows."""
_MAX_SHARED = 4
"""All tensors together may have this many numbers per byte of the file and of _MAX_SMALL."""
_MAX_SMALL = 2**20
"""In bytes. Added to the size of the file, so that tensors of a small file may share numbers more often."""


def open_lazy(path: Path) -> StateDict:
    """Reads the state_dict in a checkpoint without the numbers of its tensors.

    The file holds a state_dict, or a dictionary with one under `state_dict`, `model` or another usual key. If
    all names begin with `module.`, that prefix is stripped.

    Returns:
        The state_dict, with a Tensor for each tensor.

    Raises:
        CheckpointError: the file is missing or damaged, is not a checkpoint, or cannot be read without running
            code.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {str(path)!r}", hint="check the path")
    return find_state_dict(_reader_of(path)(path), path)


def _reader_of(path: Path) -> Callable[[Path], Any]:
    """Returns the reader for the format of the file. The suffix counts only if the content is of none."""
    with path.open("rb") as stream:
        head = stream.read(16)
    if is_safetensors(head):
        return read_safetensors
    is_torch = head.startswith((b"PK\3\4", b"\x80"))
    return read_safetensors if path.suffix.lower() == ".safetensors" and not is_torch else read_torch_file


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
    _copy_metadata(state_dict, found)
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


def rename_parameters(state_dict: StateDict, rules: Sequence[tuple[str, str]]) -> StateDict:
    """Returns the state_dict with new names.

    Args:
        rules: (pattern, replacement) pairs for re.sub, applied to each name in order.
    """
    if not rules:
        return state_dict
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: StateDict = OrderedDict()
    for name, value in state_dict.items():
        for pattern, replacement in patterns:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    _copy_metadata(state_dict, renamed)
    return renamed


def find_state_dict(content: Any, path: Path) -> StateDict:
    """Finds the state_dict in the content of a file. Its values are not changed.

    Raises:
        CheckpointError: there is none. The message describes what was found instead.
    """
    if isinstance(content, Mapping):
        held = [wrapper for wrapper in _WRAPPERS if isinstance(content.get(wrapper), Mapping)]
        if held:
            content = content[held[0]]
        if len(held) > 1:
            logger.warning("%s holds %s; %s is used", path, " and ".join(map(repr, held)), repr(held[0]))
        # A quantized network's state_dict also holds packed tuples, dtypes and None.
        if (
            content
            and all(isinstance(name, str) for name in content)
            and any(hasattr(value, "shape") for value in content.values())
        ):
            state_dict: StateDict = OrderedDict(content)
            state_dict.pop(_COUNT_OF_AVERAGED, None)
            _copy_metadata(content, state_dict)
            if all(name.startswith(_PREFIX) for name in state_dict):
                return rename_parameters(state_dict, [("^" + re.escape(_PREFIX), "")])
            return state_dict
        found = f"a dictionary with {', '.join(map(reprlib.repr, list(content)[:_SHOWN])) or 'nothing'}"
    else:
        found = name_type(content)
    raise CheckpointError(
        f"{str(path)!r} does not contain a state_dict, but {found}",
        hint="save its state_dict: torch.save(model.state_dict(), 'weights.pth')",
    )


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
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = [
        f"{name} {_format_shape(found[name])} where {_format_shape(expected[name])} is expected"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    complaints = [
        f"{what}: {', '.join(make_printable(name, _SHOWN_CHARACTERS) for name in names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if names
    ]
    if complaints:
        raise CheckpointError(
            f"{source_name} does not fit the architecture {architecture!r}; " + "; ".join(complaints),
            hint="give --arch NAME of the architecture that the checkpoint was saved from",
        )


def _format_shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _copy_metadata(source: object, target: StateDict) -> None:
    """Copies the attribute in which torch stores the version of each module's layout.

    Modules need the version to load older layouts.
    """
    if hasattr(source, "_metadata"):
        target._metadata = source._metadata  # type: ignore[attr-defined]
