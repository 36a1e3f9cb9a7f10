"""Reads .safetensors files: a length, a JSON index, and the numbers.

The README of github.com/huggingface/safetensors describes the format.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from imgclassify.checkpoints.storage import BFLOAT16, MAX_SIDES, MappedFile, Storage, Tensor, c_strides
from imgclassify.errors import CheckpointError, describe_error, short_repr

_LENGTH_BYTES = 8
_MAX_INDEX = 2**24
"""In bytes. A tensor takes about 100 of them. The format allows six times as many bytes, which would take
gigabytes of memory in Python."""
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": BFLOAT16,
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class _UnknownDtypeError(ValueError):
    """A tensor has a dtype that is not in _DTYPES, such as a float8."""


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes, at least nine, is in this format."""
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and head[_LENGTH_BYTES - 2 : _LENGTH_BYTES] == b"\0\0"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a file by name, and the texts beside them.

    Raises:
        CheckpointError: the file is damaged, is not in this format, or has a dtype that is not supported.
    """
    try:
        file = MappedFile(path)
        length = int.from_bytes(file.view(0, _LENGTH_BYTES), "little")
        if length > _MAX_INDEX:
            raise ValueError(f"its index would have {length:,} bytes")
        index = json.loads(bytes(file.view(_LENGTH_BYTES, length)))
        metadata = index.pop("__metadata__", None)
        tensors = {name: _parse_tensor(file, _LENGTH_BYTES + length, entry) for name, entry in index.items()}
        return tensors, metadata if isinstance(metadata, dict) else {}
    except _UnknownDtypeError as error:
        raise CheckpointError(
            f"{str(path)!r} has tensors of the dtype {short_repr(str(error))}, which cannot be read",
            hint="save it with torch in float32, float16 or bfloat16, as it was before it was quantized",
        ) from error
    except Exception as error:  # a damaged index may be any JSON
        raise CheckpointError(
            f"cannot read {str(path)!r} as .safetensors: {_describe_error(error)}",
            hint="fetch or save the file again",
        ) from error


def _parse_tensor(file: MappedFile, data: int, entry: dict[str, Any]) -> Tensor:
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if len(shape) > MAX_SIDES or any(not 0 <= side <= len(file) for side in (*shape, begin)):
        raise ValueError(f"a tensor has an impossible offset, or an impossible shape of {len(shape)} dimensions")
    if entry["dtype"] not in _DTYPES:
        raise _UnknownDtypeError(entry["dtype"])
    storage = Storage(_DTYPES[entry["dtype"]], math.prod(shape), file, data + begin)
    if storage.count * storage.itemsize != end - begin:
        raise ValueError(f"{shape} {entry['dtype']} do not fill bytes {begin} to {end}")
    file.view(storage.start, end - begin)
    return Tensor(storage, 0, shape, c_strides(shape))


def _describe_error(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else describe_error(error)
