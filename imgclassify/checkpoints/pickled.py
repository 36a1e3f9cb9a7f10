"""PyTorch's own files, .pth and .pt: the zip archive that torch writes since 1.6, and the pickles from before.

The pickle in either is read by an unpickler that knows only dictionaries and tensors, and calls nothing else.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from imgclassify.checkpoints.storage import BFLOAT16, MappedFile, Storage, Tensor
from imgclassify.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from zipfile import ZipInfo

_ZIP = b"PK"
"""What a zip archive begins with."""
_MAGIC = 0x1950A86A20F9469CFC6C
"""torch.serialization.MAGIC_NUMBER: what the first pickle of the older format holds."""
_PROTOCOL = 1001
"""torch.serialization.PROTOCOL_VERSION: what its second holds."""
_COUNT_BYTES = 8
"""In the older format each storage is preceded by its length as an int64."""
_LOCAL_HEADER_BYTES = 30
"""A zip archive's local header, without the name and the extra field that follow it."""

_DTYPES = {
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
}


class _UnsafeError(Exception):
    """The pickle names something that is no tensor."""


def read(path: Path) -> Any:
    """What the file holds, with a Tensor for each tensor.

    Raises:
        CheckpointError: it is damaged, no such file, or would need code of its own to be run.
    """
    try:
        with path.open("rb") as stream:
            return _read_archive(path) if stream.read(2) == _ZIP else _read_older(path)
    except _UnsafeError as error:
        raise unsafe(path, str(error)) from error
    except Exception as error:  # damaged bytes lead the unpickler to almost any exception
        raise unreadable(repr(str(path)), first_line(error)) from error


def unsafe(path: Path, name: str) -> CheckpointError:
    """Of a file that names something which is no tensor."""
    return CheckpointError(
        f"{str(path)!r} holds Python objects, not only tensors ({name}), and reading them would run code from the "
        "file",
        hint="save its state_dict alone: torch.save(model.state_dict(), 'weights.pth')",
    )


def unreadable(where: str, reason: str) -> CheckpointError:
    return CheckpointError(f"cannot read {where} as a checkpoint: {reason}", hint="fetch or save the file again")


class _Unpickler(pickle.Unpickler):
    """Knows dictionaries and tensors."""

    def __init__(self, stream: BinaryIO, storage: Callable[[str, str, int], Storage]) -> None:
        """`storage` gives the one of a key, from (key, dtype, count)."""
        super().__init__(stream, encoding="utf-8")
        self._storage = storage
        # Made anew for each file: a pickle can set attributes of what it names.
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): lambda *arguments: _tensor(*arguments[:4]),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _tensor(*arguments[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
            ("torch", "Size"): lambda sides: tuple(sides),
            ("torch", "device"): lambda *name: ":".join(map(str, name)),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return self._known[module, name]
        if module in ("torch", "torch.cuda") and name in _DTYPES:
            return name
        if module == "torch" and name in ("float64", "float32", "float16", "bfloat16", "int64", "uint8"):
            return name  # a dtype among a training script's notes
        raise _UnsafeError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[Storage, int]:
        """A storage, and where in it a view of it that older releases wrote begins."""
        kind, storage_type, key, _, count, *view = pid
        if kind != "storage":
            raise ValueError(f"it refers to a {kind}")
        begin = view[0][1] if view and view[0] is not None else 0
        return self._storage(key, _DTYPES[storage_type], count), begin


def _tensor(view: tuple[Storage, int], offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    (storage, begin), shape, stride = view, tuple(shape), tuple(stride)
    if not isinstance(storage, Storage) or len(shape) != len(stride):
        raise ValueError("a tensor has no storage of its own")
    if not all(isinstance(number, int) and number >= 0 for number in (begin, offset, *shape, *stride)):
        raise ValueError("a tensor begins before its storage, or runs backwards")
    return Tensor(storage, begin + offset, shape, stride)


def _read_archive(path: Path) -> Any:
    import zipfile

    file = MappedFile(path)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        [index] = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
        folder = index.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        for name in {index, order} & records.keys():
            if records[name].compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"the record {name} is compressed, which torch's are not")
        if order in records and archive.read(order) != b"little":
            raise ValueError("it was written on a big-endian machine")
        storages: dict[str, Storage] = {}

        def storage(key: str, dtype: str, count: int) -> Storage:
            if key not in storages:
                record = records[f"{folder}data/{key}"]
                found = Storage(dtype, count, file, _begin(file, record))
                if record.compress_type != zipfile.ZIP_STORED or found.itemsize * count > record.file_size:
                    raise ValueError(f"the record of tensor data {key} is not as torch writes it")
                storages[key] = found
            return storages[key]

        with archive.open(index) as stream:
            return _Unpickler(stream, storage).load()  # type: ignore[arg-type]


def _begin(file: MappedFile, record: ZipInfo) -> int:
    """Where a record's content begins, behind its local header, whose extra field torch pads to align it."""
    header = file.part(record.header_offset, _LOCAL_HEADER_BYTES)
    lengths = (int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little"))
    return record.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)


def _read_older(path: Path) -> Any:
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: str, count: int) -> Storage:
        return storages.setdefault(key, Storage(dtype, count))

    with path.open("rb") as stream:

        def load() -> Any:
            return _Unpickler(stream, storage).load()

        if load() != _MAGIC:
            raise ValueError("it is no checkpoint of torch's")
        if load() != _PROTOCOL:
            raise ValueError("it is of an unknown version")
        if load().get("little_endian") is not True:
            raise ValueError("it was written on a big-endian machine")
        content, keys = load(), load()
        file, position = MappedFile(path), stream.tell()
    for key in keys:
        found = storages[key]
        count = int.from_bytes(file.part(position, _COUNT_BYTES), "little")
        if count < found.count:
            raise ValueError(f"the tensor data {key} are {count} numbers, and {found.count} are spoken of")
        found.file, found.start = file, position + _COUNT_BYTES
        position = found.start + count * found.itemsize
    file.part(position, 0)
    return content
