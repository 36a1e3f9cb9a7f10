"""Reads the values that NumPy and OmegaConf wrap, of what a checkpoint says beside its weights.

A class index is often a numpy.int64, and class names an array. Read from their bytes, they take no code of NumPy.
"""

from __future__ import annotations

import struct
from typing import Any

from imgclassify.checkpoints.unpickler import Placeholder

NUMPY_MODULES = ("numpy.core", "numpy._core")
"""The module of NumPy's functions, before version 2 and since."""
_CODES = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}
"""NumPy's name of a dtype → struct's."""
_ARRAYS = {f"{module}.multiarray._reconstruct" for module in NUMPY_MODULES}
_BUFFERS = {f"{module}.numeric._frombuffer" for module in NUMPY_MODULES}
"""What builds an array from its bytes, in pickles of protocol 5."""
_MAX_SCALAR = 512
"""In bytes. A longer text is left alone, so that the cost of a scalar is limited (see Unpickler)."""
_MAX_ARRAY = 2**22
"""In bytes."""


def build_scalar(dtype: Any, data: Any = None) -> Any:
    """Returns a number or a text of NumPy as one of Python, or a Placeholder for any other scalar."""
    items = _read_items(dtype, data, _MAX_SCALAR)
    return items[0] if items and len(items) == 1 else Placeholder("numpy scalar", (dtype, data))


def to_plain(value: Any) -> Any:
    """Returns an array of NumPy as a flat list, and a value or list of OmegaConf as that of Python.

    Anything else is returned as it is.
    """
    if type(value) is not Placeholder:
        return value
    if is_array(value):
        items = _read_array(value)
        return value if items is None else items
    if isinstance(value.state, dict) and value.name.startswith("omegaconf."):
        if "_val" in value.state:
            return value.state["_val"]
        if isinstance(content := value.state.get("_content"), list):
            return [each.state.get("_val") if _is_node(each) else each for each in content]
    return value


def is_array(value: Any) -> bool:
    """Whether a value stands for an array of NumPy."""
    return type(value) is Placeholder and value.name in _ARRAYS | _BUFFERS


def _is_node(value: Any) -> bool:
    return type(value) is Placeholder and isinstance(value.state, dict)


def _read_array(value: Placeholder) -> list[Any] | None:
    if value.name in _BUFFERS:
        parts, begin = value.arguments, 0  # bytes, dtype, shape, order
    else:
        parts, begin = value.state, 2  # version, shape, dtype, is_fortran, bytes
    if not isinstance(parts, tuple) or len(parts) < begin + 2:
        return None
    if begin and isinstance(parts[-1], list):  # of objects
        return list(parts[-1])
    dtype, data = (parts[1], parts[0]) if not begin else (parts[begin], parts[-1])
    return _read_items(dtype, data, _MAX_ARRAY)


def _read_items(dtype: Any, data: Any, limit: int) -> list[Any] | None:
    """Returns the numbers or texts in the bytes of an array, or None if they are none or too long."""
    content = _to_bytes(data, limit)
    if content is None or type(dtype) is not Placeholder or dtype.name != "numpy.dtype":
        return None
    state = dtype.state if isinstance(dtype.state, tuple) else ()
    name = dtype.arguments[0] if isinstance(dtype.arguments, tuple) and dtype.arguments else None
    order = ">" if state[1:2] == (">",) else "<"
    if not isinstance(name, str):
        return None
    if (code := _CODES.get(name)) is not None:
        count, rest = divmod(len(content), struct.calcsize(code))
        return None if rest else list(struct.unpack(f"{order}{count}{code}", content))
    if name[:1] == "U" and name[1:].isdecimal() and len(name) < len("U1000000"):
        size, encoding = int(name[1:]) * 4, "utf-32-be" if order == ">" else "utf-32-le"
        if not size or len(content) % size:
            return None
        items = (content[begin : begin + size] for begin in range(0, len(content), size))
        return [str(item, encoding, "replace").rstrip("\0") for item in items]
    return None


def _to_bytes(data: Any, limit: int) -> bytes | None:
    """Returns bytes, which pickles of torch's protocol have as a text in Latin-1."""
    if type(data) is Placeholder and data.name == "_codecs.encode" and isinstance(data.arguments, tuple):
        text = data.arguments[0] if data.arguments else None
        if isinstance(text, str) and len(text) <= limit:
            return text.encode("latin-1", "replace")
        return None
    return data if isinstance(data, bytes) and len(data) <= limit else None
