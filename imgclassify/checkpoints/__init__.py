"""A checkpoint file as a state_dict of named arrays: .pth and .pt in both of PyTorch's formats, and .safetensors.

Arrays are mapped from the file. Neither torch nor any code in a checkpoint has a part in it.
"""

from __future__ import annotations

import logging
import math
import re
import reprlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from imgclassify.checkpoints.pickled import check_safe as check_safe
from imgclassify.checkpoints.pickled import list_archive, read_pickled
from imgclassify.checkpoints.pickled import unreadable_checkpoint as unreadable_checkpoint
from imgclassify.checkpoints.pickled import unsafe_checkpoint as unsafe_checkpoint
from imgclassify.checkpoints.safetensors import read_safetensors
from imgclassify.checkpoints.storage import Tensor as Tensor
from imgclassify.errors import CheckpointError, describe_error, make_printable

logger = logging.getLogger("imgclassify")

StateDict: TypeAlias = "OrderedDict[str, Any]"
"""Names, and for each a Tensor (of `index`) or a numpy.ndarray (of `read`). What is no tensor in the file, such as
a number, is here as it is there."""

_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "state_dict_ema", "model_ema")
"""Keys under which training scripts put the state_dict, in the order they are looked for."""
_PREFIX = "module."
"""What DataParallel and DistributedDataParallel put before every name."""
_COUNT_OF_AVERAGED = "n_averaged"
"""What torch.optim.swa_utils.AveragedModel puts beside the parameters."""
_SHOWN = 5
"""How many differing names an error lists..."""
_SHOWN_CHARACTERS = 200
"""...and how much of each."""
_MAX_SHARED = 4
"""Numbers that all tensors together may have for each byte of the file..."""
_MAX_SMALL = 2**20
"""...and for so many more."""


def open_lazy(path: Path) -> StateDict:
    """The state_dict in a checkpoint, its tensors told of and not looked at yet.

    A state_dict, or a dictionary that holds one under `state_dict`, `model` or another usual key; prefixes
    `module.` are stripped.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or needs code to be read.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {str(path)!r}", hint="check the path")
    read = read_safetensors if path.suffix.lower() == ".safetensors" else read_pickled
    return find_state_dict(read(path), path)


def load_arrays(path: Path) -> StateDict:
    """The state_dict in a checkpoint: arrays that are C-contiguous and of the file's own shape and dtype, but
    bfloat16 as float32; in the file's own memory where they can be.

    Raises:
        CheckpointError: as of `index`.
    """
    return materialize(open_lazy(path), source_name=repr(str(path)))


def materialize(state_dict: StateDict, *, source_name: str) -> StateDict:
    """The state_dict with an array for each Tensor. `where` names it in errors.

    Raises:
        CheckpointError: a tensor reaches beyond the file, which may have changed meanwhile; or they are many more
            numbers than are in the file.
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
    """To be asked when all is read that is to be.

    Raises:
        CheckpointError: the file is not as it was when it was indexed.
    """
    files = {value.storage.file for value in state_dict.values() if isinstance(value, Tensor)}
    if any(file is not None and file.has_changed for file in files):
        raise CheckpointError(f"{source_name} changed while it was read", hint="run again when it is written")


def _check_amount(state_dict: StateDict) -> None:
    """Tensors may share numbers, and those that are not in C order are copied, each for itself."""
    tensors = [value for value in state_dict.values() if isinstance(value, Tensor)]
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    size = max((len(tensor.storage.file) for tensor in tensors if tensor.storage.file), default=0)
    if numbers > _MAX_SHARED * (size + _MAX_SMALL):
        raise ValueError(f"its tensors are of {numbers:,} numbers in all, and the file of {size:,} bytes")


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, which holds a program rather than a state_dict."""
    try:
        return any(record.filename.split("/")[1:2] == ["code"] for record in list_archive(path))
    except Exception:  # noqa: BLE001 - zipfile has no one exception for what damaged archives lead it to
        return False


def rename_parameters(state_dict: StateDict, rules: Sequence[tuple[str, str]]) -> StateDict:
    """The state_dict under new names: each rule is a (pattern, replacement) for re.sub, applied in order."""
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
    """The state_dict in what a file holds, its values left as they are.

    Raises:
        CheckpointError: there is none; what there is is told.
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
        found = f"a dictionary of {', '.join(map(reprlib.repr, list(content)[:_SHOWN])) or 'nothing'}"
    else:
        found = f"a {type(content).__name__}"
    raise CheckpointError(
        f"{str(path)!r} holds no state_dict, but {found}",
        hint="save its state_dict: torch.save(model.state_dict(), 'weights.pth')",
    )


def parameter_shapes(state_dict: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each value; that of a scalar for what has none."""
    return {name: tuple(getattr(value, "shape", ())) for name, value in state_dict.items()}


def check_matches(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    *,
    source_name: str,
    architecture: str,
) -> None:
    """Holds a checkpoint's names and shapes against its architecture's.

    Raises:
        CheckpointError: they differ; the first names that do are listed.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = [
        f"{name} {_format_shape(found[name])} where {_format_shape(expected[name])} is expected"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    complaints = [
        f"{what}: {', '.join(map(_printable_name, names[:_SHOWN]))}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if names
    ]
    if complaints:
        raise CheckpointError(
            f"{source_name} does not fit the architecture {architecture!r}; " + "; ".join(complaints),
            hint="name the architecture that the checkpoint was saved from with --arch",
        )


def _printable_name(name: str) -> str:
    return make_printable(name[:_SHOWN_CHARACTERS])


def _format_shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _copy_metadata(source: object, target: StateDict) -> None:
    """torch hangs the version of each module's layout on the state_dict; modules read older layouts by it."""
    if hasattr(source, "_metadata"):
        target._metadata = source._metadata  # type: ignore[attr-defined]
