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

from imgclassify.checkpoints import pickled, safetensors
from imgclassify.checkpoints.pickled import check, unreadable, unsafe
from imgclassify.checkpoints.storage import Tensor
from imgclassify.errors import CheckpointError, first_line, printable

__all__ = [
    "StateDict",
    "Tensor",
    "arrays",
    "check",
    "check_fit",
    "check_unchanged",
    "index",
    "is_torchscript",
    "read",
    "rename",
    "shapes",
    "unreadable",
    "unsafe",
    "unwrap",
]

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


def index(path: Path) -> StateDict:
    """The state_dict in a checkpoint, its tensors told of and not looked at yet.

    A state_dict, or a dictionary that holds one under `state_dict`, `model` or another usual key; prefixes
    `module.` are stripped.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or needs code to be read.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {str(path)!r}", hint="check the path")
    reader = safetensors if path.suffix.lower() == ".safetensors" else pickled
    return unwrap(reader.read(path), path)


def read(path: Path) -> StateDict:
    """The state_dict in a checkpoint: arrays that are C-contiguous and of the file's own shape and dtype, but
    bfloat16 as float32; in the file's own memory where they can be.

    Raises:
        CheckpointError: as of `index`.
    """
    return arrays(index(path), where=repr(str(path)))


def arrays(state_dict: StateDict, *, where: str) -> StateDict:
    """The state_dict with an array for each Tensor. `where` names it in errors.

    Raises:
        CheckpointError: a tensor reaches beyond the file, which may have changed meanwhile; or they are many more
            numbers than are in the file.
    """
    found: StateDict = OrderedDict()
    try:
        _check_amount(state_dict)
        for name, value in state_dict.items():
            found[name] = value.array() if isinstance(value, Tensor) else value
    except (ValueError, TypeError) as error:
        raise unreadable(where, first_line(error)) from error
    check_unchanged(state_dict, where=where)
    _keep_metadata(state_dict, found)
    return found


def check_unchanged(state_dict: StateDict, *, where: str) -> None:
    """To be asked when all is read that is to be.

    Raises:
        CheckpointError: the file is not as it was when it was indexed.
    """
    files = {value.storage.file for value in state_dict.values() if isinstance(value, Tensor)}
    if any(file is not None and file.changed for file in files):
        raise CheckpointError(f"{where} changed while it was read", hint="run again when it is written")


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
        return any(record.filename.split("/")[1:2] == ["code"] for record in pickled.records(path))
    except Exception:  # noqa: BLE001 - zipfile has no one exception for what damaged archives lead it to
        return False


def rename(state_dict: StateDict, rules: Sequence[tuple[str, str]]) -> StateDict:
    """The state_dict under new names: each rule is a (pattern, replacement) for re.sub, applied in order."""
    if not rules:
        return state_dict
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: StateDict = OrderedDict()
    for name, value in state_dict.items():
        for pattern, replacement in patterns:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    _keep_metadata(state_dict, renamed)
    return renamed


def unwrap(content: Any, path: Path) -> StateDict:
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
            _keep_metadata(content, state_dict)
            if all(name.startswith(_PREFIX) for name in state_dict):
                return rename(state_dict, [("^" + re.escape(_PREFIX), "")])
            return state_dict
        found = f"a dictionary of {', '.join(map(reprlib.repr, list(content)[:_SHOWN])) or 'nothing'}"
    else:
        found = f"a {type(content).__name__}"
    raise CheckpointError(
        f"{str(path)!r} holds no state_dict, but {found}",
        hint="save its state_dict: torch.save(model.state_dict(), 'weights.pth')",
    )


def shapes(state_dict: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each value; that of a scalar for what has none."""
    return {name: tuple(getattr(value, "shape", ())) for name, value in state_dict.items()}


def check_fit(
    given: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    where: str,
    architecture: str,
) -> None:
    """Holds a checkpoint's names and shapes against its architecture's.

    Raises:
        CheckpointError: they differ; the first names that do are listed.
    """
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    other = [
        f"{name} {_shape(given[name])} where {_shape(wanted[name])} is expected"
        for name in wanted
        if name in given and given[name] != wanted[name]
    ]
    complaints = [
        f"{what}: {', '.join(map(_named, names[:_SHOWN]))}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if names
    ]
    if complaints:
        raise CheckpointError(
            f"{where} does not fit the architecture {architecture!r}; " + "; ".join(complaints),
            hint="name the architecture that the checkpoint was saved from with --arch",
        )


def _named(name: str) -> str:
    return printable(name[:_SHOWN_CHARACTERS])


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _keep_metadata(source: object, target: StateDict) -> None:
    """torch hangs the version of each module's layout on the state_dict; modules read older layouts by it."""
    if hasattr(source, "_metadata"):
        target._metadata = source._metadata  # type: ignore[attr-defined]
