"""The functions that a pickle may call. Nothing else is called, so a checkpoint runs no code."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from imgclassify.checkpoints.plain_values import NUMPY_MODULES, build_scalar
from imgclassify.checkpoints.storage import BFLOAT16, LENGTH_LIMIT, MAX_SIDES, Storage, Tensor
from imgclassify.checkpoints.unpickler import KEYS, MAX_ARGUMENTS, Placeholder
from imgclassify.errors import make_printable

STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "untyped",
}
"""torch's name of a type of storage → the dtype of its numbers, a key of ITEM_SIZES."""
_SHOWN = 100
"""The number of characters of a name that an error shows."""


class UnsafePickleError(Exception):
    """The pickle names something that a quantized network does not need."""


def find_global(module: str, name: str) -> Any:
    """Returns what the unpickler uses for a name in a pickle: an allowed function, the name of a type of storage,
    or a Placeholder, which is never called.
    """
    if (module, name) in _ALLOWED_CALLS:
        return _ALLOWED_CALLS[module, name]
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGE_DTYPES:
        return name
    return Placeholder(f"{module}.{name}")


def find_torch_global(module: str, name: str) -> Any:
    """Returns what `check_safe` uses for a name in a pickle.

    Every name in torch is allowed. Storage types become their names. Anything else becomes a function that
    returns None.

    Raises:
        UnsafePickleError: the name is not part of torch.
    """
    if (module, name) == ("collections", "OrderedDict"):
        return _build_empty_dict
    if module.partition(".")[0] != "torch":
        raise UnsafePickleError(make_printable(f"{module}.{name}", _SHOWN))
    return name if name.endswith("Storage") else _build_nothing


def _build_empty_dict(*pairs: Any) -> OrderedDict[Any, Any]:
    """Returns an empty dictionary. Only Python 2 wrote pairs, and no quantized network is that old."""
    if pairs:
        raise ValueError("a dictionary is made from a list")
    return OrderedDict()


def _build_nothing(*arguments: Any) -> None:
    """Stands for every function of torch. Checks the number of dimensions, in case it is given a shape."""
    if any(isinstance(each, tuple | list) and len(each) > MAX_SIDES for each in arguments):
        raise ValueError("a tensor has too many dimensions")


def _build_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    """Builds a dictionary from a list of pairs, which only Python 2 wrote.

    The list is emptied, so that a file cannot have one list made into any number of dictionaries.
    """
    taken: list[Any] = list(pairs)
    if taken:
        pairs.clear()
    if not all(isinstance(key, KEYS) for key, _ in taken):
        raise ValueError("it has a dictionary with a key that is neither text nor a number")
    return OrderedDict(taken)


def _build_tensor(view: tuple[Storage, int], offset: int, shape: Any, stride: Any, *more: Any) -> Tensor:
    storage, begin = view
    if any(isinstance(each, dict) and (each.get("neg") or each.get("conj")) for each in more[2:3]):
        raise ValueError("a tensor has its numbers with the other sign (torch.Tensor.is_neg, is_conj)")
    if not isinstance(storage, Storage) or not len(shape) == len(stride) <= MAX_SIDES:
        raise ValueError("a tensor has no storage of its own, or no shape")
    if not all(
        isinstance(number, int) and 0 <= number < LENGTH_LIMIT for number in (begin, offset, *shape, *stride)
    ):
        raise ValueError("a tensor has a negative or invalid offset, shape or stride")
    return Tensor(storage, begin + offset, tuple(shape), tuple(stride))


def _build_from_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Builds a tensor that has attributes, or is of a subclass: as a plain tensor."""
    if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
        raise ValueError("a tensor is built from too many values")
    if type(function) is Placeholder:
        return Placeholder(function.name, arguments)
    if function not in (_build_tensor, _build_parameter):
        raise ValueError("a tensor is built by something that builds no tensors")
    return function(*arguments)


def _build_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _build_size(sides: Any) -> tuple[Any, ...]:
    if len(sides) > MAX_SIDES:
        raise ValueError(f"a shape has {len(sides)} dimensions")
    return tuple(sides)


_ALLOWED_CALLS = {
    ("collections", "OrderedDict"): _build_dict,
    ("torch._utils", "_rebuild_tensor"): _build_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _build_tensor,
    ("torch._utils", "_rebuild_parameter"): _build_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _build_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _build_from_type,
    ("torch", "Size"): _build_size,
    ("torch", "device"): lambda *name: name,
    **{(f"{module}.multiarray", "scalar"): build_scalar for module in NUMPY_MODULES},
}
"""(module, name) → the function to call. Its cost may not grow with its arguments (see Unpickler)."""
