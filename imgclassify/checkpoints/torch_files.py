"""Reads PyTorch's own files, .pth and .pt: the zip archives that torch writes since 1.6, and the older pickles.

The pickles in both are read by an unpickler that builds only plain values and tensors (unpickler.py). It calls
only what allowed_globals.py lists.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify.checkpoints.allowed_globals import (
    STORAGE_DTYPES,
    UnsafePickleError,
    find_global,
    find_torch_global,
)
from imgclassify.checkpoints.storage import LENGTH_LIMIT, MappedFile, Storage
from imgclassify.checkpoints.unpickler import MAX_ARGUMENTS, Placeholder, Unpickler
from imgclassify.errors import CheckpointError, describe_error, make_printable

if TYPE_CHECKING:
    from zipfile import ZipInfo

_ZIP = b"PK"
"""The first bytes of a zip archive."""
_MAGIC = 0x1950A86A20F9469CFC6C
"""torch.serialization.MAGIC_NUMBER: the content of the older format's first pickle."""
_PROTOCOL = 1001
"""torch.serialization.PROTOCOL_VERSION: the content of its second pickle."""
_LEGACY_PICKLES = 5
"""The older format's pickles: magic number, protocol version, machine properties, content, storage keys."""
_COUNT_BYTES = 8
"""In the older format, each storage is preceded by its length as an int64."""
_LOCAL_HEADER_BYTES = 30
"""The size of a zip archive's local header, without the name and the extra field that follow it."""

_unpack_two_uint16 = struct.Struct("<HH").unpack_from

_MAX_LISTING = 2**23
"""Bytes in a zip archive's list of contents. A member takes about 100, and ten times as many in memory."""
_STORED = 0
"""The compression method of records that are not compressed."""
_STORAGE_PARTS = 5
"""The parts of a reference to a storage: "storage", type, key, location, length."""
_MODULE_PARTS = 4
"""The parts of a reference to the class of a module: "module", class, source file, source."""
_SHOWN = 100
"""The number of characters of a name that an error shows."""


def read_torch_file(path: Path) -> Any:
    """Returns the content of the file, with a Tensor for each tensor.

    Raises:
        CheckpointError: the file is missing or damaged, is not in PyTorch's format, or cannot be read without
            running code.
    """
    try:
        with path.open("rb") as stream:
            return _read_archive(path) if stream.read(2) == _ZIP else _read_legacy(path)
    except Exception as error:  # the unpickler raises almost any exception for damaged bytes
        raise unreadable_checkpoint(repr(str(path)), describe_error(error)) from error


def check_safe(path: Path) -> None:
    """Checks the limits of this reader on a file that torch's own reader is about to read.

    torch's reader does not run code of the file's choice either, but has no limit on its time and memory.

    Raises:
        CheckpointError: the file is damaged, exceeds the limits, or names something that is not part of torch.
    """
    try:
        with path.open("rb") as stream:
            is_zip = stream.read(2) == _ZIP
        file = MappedFile(path)
        content: bytes | memoryview = _index_archive(file)[1] if is_zip else file.view(0, len(file))
        pickles = Unpickler(content, find_torch_global, _check_storage, with_objects=False)
        for _ in range(1 if is_zip else _LEGACY_PICKLES):
            pickles.load_next()
    except UnsafePickleError as error:
        raise unsafe_checkpoint(path, str(error)) from error
    except Exception as error:
        raise unreadable_checkpoint(repr(str(path)), describe_error(error)) from error


def unsafe_checkpoint(path: Path, name: str) -> CheckpointError:
    """Returns the error for a file that names something other than tensors."""
    return CheckpointError(
        f"{str(path)!r} holds Python objects, not only tensors ({name}), and reading them would run code from the "
        "file",
        hint="save its state_dict alone: torch.save(model.state_dict(), 'weights.pth')",
    )


def unreadable_checkpoint(source_name: str, reason: str) -> CheckpointError:
    """Returns the error for a file that cannot be read as a checkpoint."""
    return CheckpointError(
        f"cannot read {source_name} as a checkpoint: {reason}", hint="fetch or save the file again"
    )


class _BoundedReader(io.FileIO):
    """A file that refuses to read more than _MAX_LISTING bytes at once.

    zipfile reads an archive's whole list of contents at once.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_LISTING:
            raise ValueError("its list of contents is too long")
        return super().read(size)


def list_archive(path: Path) -> list[ZipInfo]:
    """Returns the records that a zip archive lists.

    Raises:
        ValueError: the list of contents is too long.
        OSError: the file cannot be read.
        zipfile.BadZipFile: the file is not a zip archive, or is damaged. zipfile also raises other exceptions
            for damaged archives.
    """
    from zipfile import ZipFile

    with _BoundedReader(path) as stream, ZipFile(stream) as archive:
        return archive.infolist()


def _create_unpickler(content: bytes | memoryview, storage: Callable[[str, str, int], Storage]) -> Unpickler:
    """Creates an unpickler for checkpoints.

    Args:
        storage: returns the Storage for (key, dtype, count).
    """

    def persistent(pid: Any) -> Any:
        """Returns a storage, and the offset of a view of it. Older releases of torch wrote views.

        Of the class of a module, which the older format writes with its source, returns the Placeholder.
        """
        if type(pid) is tuple and len(pid) == _MODULE_PARTS and pid[0] == "module":
            return pid[1] if type(pid[1]) is Placeholder else Placeholder("module")
        _check_storage(pid)
        _, storage_type, key, _, count, *view = pid
        begin = view[0][1] if view and view[0] is not None else 0
        return storage(key, STORAGE_DTYPES[storage_type], count), begin

    return Unpickler(content, find_global, persistent, with_objects=True)


def _check_storage(pid: Any) -> None:
    """Checks that a persistent id is ("storage", type, key, location, length), optionally followed by a view.

    Raises:
        ValueError: it is something else.
    """
    if type(pid) is not tuple or not _STORAGE_PARTS <= len(pid) <= MAX_ARGUMENTS:
        raise ValueError("it refers to something that is not a storage")
    kind, storage_type, key, _, count = pid[:_STORAGE_PARTS]
    if kind != "storage" or not (isinstance(storage_type, str) and isinstance(key, str)):
        raise ValueError("it refers to something that is not a storage")
    if not (isinstance(count, int) and 0 <= count < LENGTH_LIMIT):
        raise ValueError("a storage has no valid length")


def _read_archive(path: Path) -> Any:
    file = MappedFile(path)
    folder, content, found = _index_archive(file)
    order = found.get(f"{folder}byteorder")
    if order and _member_bytes(file, order) != b"little":
        raise ValueError("it was written on a big-endian machine")
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: str, count: int) -> Storage:
        if key not in storages:
            member = found.get(f"{folder}data/{key}")
            if member is None:
                raise ValueError(f"it lacks the member of tensor data {make_printable(key, _SHOWN)}")
            storages[key] = Storage(dtype, count, file, _member_start(file, member))
            if member.compress_type != _STORED or storages[key].itemsize * count > member.file_size:
                raise ValueError(
                    f"the member of tensor data {make_printable(key, _SHOWN)} is compressed or too short"
                )
        return storages[key]

    return _create_unpickler(content, storage).load_next()


def _index_archive(file: MappedFile) -> tuple[str, bytes, dict[str, ZipInfo]]:
    """Returns (the folder in the archive, the pickle, all records by name)."""
    found = {member.filename: member for member in list_archive(file.path)}
    indices = [name for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(indices) != 1:
        raise ValueError("it is a zip archive, but not a torch checkpoint")
    return indices[0].removesuffix("data.pkl"), _member_bytes(file, found[indices[0]]), found


def _member_bytes(file: MappedFile, member: ZipInfo) -> bytes:
    """Returns the content of a member.

    Raises:
        ValueError: the member is compressed or damaged.
    """
    from zlib import crc32

    if member.compress_type != _STORED:
        raise ValueError(
            f"the member {make_printable(member.filename, _SHOWN)} is compressed, which torch never does"
        )
    content = bytes(file.view(_member_start(file, member), member.file_size))
    # torch has a setting not to write checksums. They are 0 then.
    if member.CRC not in (0, crc32(content)):
        raise ValueError(f"the member {make_printable(member.filename, _SHOWN)} is damaged")
    return content


def _member_start(file: MappedFile, member: ZipInfo) -> int:
    """Returns the offset of a member's content.

    The content follows the local header, whose extra field torch pads to align the content.
    """
    header = file.view(member.header_offset, _LOCAL_HEADER_BYTES)
    name, extra = _unpack_two_uint16(header, 26)
    return member.header_offset + _LOCAL_HEADER_BYTES + int(name + extra)


def _read_legacy(path: Path) -> Any:
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: str, count: int) -> Storage:
        return storages.setdefault(key, Storage(dtype, count))

    file = MappedFile(path)
    pickles = _create_unpickler(file.view(0, len(file)), storage)
    if pickles.load_next() != _MAGIC:
        raise ValueError("it is not a checkpoint that torch wrote")
    if pickles.load_next() != _PROTOCOL:
        raise ValueError("its version is unknown")
    if pickles.load_next().get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine")
    content, keys, position = pickles.load_next(), pickles.load_next(), pickles.position
    for key in keys:
        if not (isinstance(key, str) and key in storages):
            raise ValueError("it has tensor data that does not belong to any tensor")
        found = storages[key]
        count = int.from_bytes(file.view(position, _COUNT_BYTES), "little")
        if count < found.count:
            raise ValueError(
                f"the tensor data {make_printable(key, _SHOWN)} has {count} numbers, but {found.count} are expected"
            )
        found.file, found.start = file, position + _COUNT_BYTES
        position = found.start + count * found.itemsize
    file.view(position, 0)  # raises if the last storage ends after the file
    return content
