"""A checkpoint file as a state_dict: .pth and .pt in both of PyTorch's formats, and .safetensors.

Nothing in a checkpoint is ever executed: pickles are read with weights_only=True, always.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from imgclassify.errors import CheckpointError, first_line

logger = logging.getLogger("imgclassify")

if TYPE_CHECKING:
    import torch

    StateDict: TypeAlias = "OrderedDict[str, torch.Tensor]"

_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "state_dict_ema", "model_ema")
"""Keys under which training scripts put the state_dict, in the order they are looked for."""
_PREFIX = "module."
"""What DataParallel and DistributedDataParallel put before every name."""
_COUNT_OF_AVERAGED = "n_averaged"
"""What torch.optim.swa_utils.AveragedModel puts beside the parameters."""
_SHOWN = 5
"""How many differing names an error lists."""


def read(path: Path) -> StateDict:
    """The state_dict in a checkpoint, on the CPU.

    A state_dict, or a dictionary that holds one under `state_dict`, `model` or another usual key; prefixes
    `module.` are stripped.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or needs code to be read.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {str(path)!r}", hint="check the path")
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    state_dict = _unwrap(content, path)
    if all(name.startswith(_PREFIX) for name in state_dict):
        return rename(state_dict, [("^" + re.escape(_PREFIX), "")])
    return state_dict


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, which holds a program rather than a state_dict."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())
    except Exception:  # noqa: BLE001 - the module has no one exception for what damaged archives lead it to
        return False


def rename(state_dict: StateDict, rules: Sequence[tuple[str, str]]) -> StateDict:
    """The state_dict under new names: each rule is a (pattern, replacement) for re.sub, applied in order."""
    if not rules:
        return state_dict
    renamed: StateDict = OrderedDict()
    for name, tensor in state_dict.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    _keep_metadata(state_dict, renamed)
    return renamed


def _keep_metadata(source: object, target: StateDict) -> None:
    """torch hangs the version of each module's layout on the state_dict; modules read older layouts by it."""
    if hasattr(source, "_metadata"):
        target._metadata = source._metadata  # type: ignore[attr-defined]


def check_fit(
    shapes: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    where: str,
    architecture: str,
) -> None:
    """Holds a checkpoint's names and shapes against its architecture's.

    Raises:
        CheckpointError: they differ; the first names that do are listed.
    """
    missing = [name for name in wanted if name not in shapes]
    unexpected = [name for name in shapes if name not in wanted]
    other = [
        f"{name} {_shape(shapes[name])} where {_shape(wanted[name])} is expected"
        for name in wanted
        if name in shapes and shapes[name] != wanted[name]
    ]
    complaints = [
        f"{what}: {', '.join(names[:_SHOWN])}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if names
    ]
    if complaints:
        raise CheckpointError(
            f"{where} does not fit the architecture {architecture!r}; " + "; ".join(complaints),
            hint="name the architecture that the checkpoint was saved from with --arch",
        )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot read {str(path)!r} as .safetensors: {error}", hint="fetch or save the file again"
        ) from error


def _read_torch(path: Path) -> Any:
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read is refused below
            if not _is_text(path):
                with path.open("rb") as stream:  # torch itself cannot open a name that is not UTF-8
                    return torch.load(stream, map_location="cpu", weights_only=True)
            # Mapping needs the zip format, and leaves the pages of a large file to the operating system.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        if unsafe:
            raise CheckpointError(
                f"{str(path)!r} holds Python objects, not only tensors ({unsafe.group(1)}), and reading them would "
                "run code from the file",
                hint="save its state_dict alone: torch.save(model.state_dict(), 'weights.pth')",
            ) from error
        reason = first_line(error)
    except Exception as error:  # noqa: BLE001 - damaged bytes lead torch's reader to almost any exception
        reason = first_line(error)
    raise CheckpointError(
        f"cannot read {str(path)!r} as a checkpoint: {reason}", hint="fetch or save the file again"
    )


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unwrap(content: Any, path: Path) -> StateDict:
    import torch

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
            and any(isinstance(value, torch.Tensor) for value in content.values())
        ):
            state_dict: StateDict = OrderedDict(content)
            state_dict.pop(_COUNT_OF_AVERAGED, None)
            _keep_metadata(content, state_dict)
            return state_dict
        found = f"a dictionary of {', '.join(map(repr, list(content)[:_SHOWN])) or 'nothing'}"
    else:
        found = f"a {type(content).__name__}"
    raise CheckpointError(
        f"{str(path)!r} holds no state_dict, but {found}",
        hint="save its state_dict: torch.save(model.state_dict(), 'weights.pth')",
    )
