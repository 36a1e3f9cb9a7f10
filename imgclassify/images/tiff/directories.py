"""Reads the directories of a TIFF: which pages there are, and their tags (TIFF 6.0; BigTIFF)."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from copy import copy
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from imgclassify.errors import CorruptImageError, ImageError, ImageTooLargeError, TruncatedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, SUB_DIRECTORIES = 254, 255, 330
WIDTH, HEIGHT, STRIP_OFFSETS = 256, 257, 273

_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a smaller version of another page, and the transparency mask of another page."""
_OLD_REDUCED = 2
"""The value of SubfileType that says the same as _REDUCED."""

MAX_PAGES = 2**16
"""How many pages of a file are looked at."""
_MAX_INNER = 64
"""How many directories inside each page are looked at."""
_MAX_ENTRIES = 2**16
_MAX_NUMBERS = 2**17

_FORMS = dict(
    zip(
        (*range(1, 14), 16, 17, 18),
        ["B", "B", "H", "I", "II", "b", "B", "h", "i", "ii", "f", "d", "I", "Q", "q", "Q"],
        strict=True,
    )
)
"""The `struct` format of each type of value. A rational has two numbers."""


class _Entry(NamedTuple):
    form: str
    many: int
    """How many values there are."""
    place: int
    """Where the values are in the file."""

    @property
    def length(self) -> int:
        """How many bytes they take."""
        return self.many * struct.calcsize("=" + self.form)


class Directory:
    """The tags of one page. Their values are read when they are asked for."""

    def __init__(self, stream: BinaryIO, offset: int, order: str, *, big: bool) -> None:
        """
        Args:
            order: "<" or ">", as for `struct`.

        Raises:
            ValueError: there is no directory at the offset.
        """
        self.offset, self.order, self.big = offset, order, big
        self.shift = 0
        """How far the strips lie behind the places that the directory gives: of a later image of a stack."""
        self.entries: dict[int, _Entry] = {}
        self._stream = stream
        number, width = ("Q", 8) if big else ("I", 4)
        stream.seek(offset)
        (count,) = self._unpack("Q" if big else "H", stream.read(8 if big else 2))
        if not 0 < count <= _MAX_ENTRIES:
            raise ValueError(f"a directory of {count} entries")
        size = struct.calcsize(f"{order}HH{number}{width}s")
        start = stream.tell()
        table = stream.read(count * size)
        (self.following,) = self._unpack(number, stream.read(width).ljust(width, b"\0"))
        for index in range(count):
            tag, kind, many, value = self._unpack(f"HH{number}{width}s", table[index * size : (index + 1) * size])
            form = _FORMS.get(kind)
            if form is None:
                continue
            inside = many * struct.calcsize(order + form) <= width
            place = start + (index + 1) * size - width if inside else self._unpack(number, value)[0]
            self.entries[tag] = _Entry(form, many, place)

    def _unpack(self, form: str, data: bytes) -> tuple[Any, ...]:
        return struct.unpack(self.order + form, data)

    def numbers(self, tag: int, default: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Returns the values of a tag, or `default` if the page does not have it."""
        entry = self.entries.get(tag)
        if entry is None or not entry.many:
            return default
        count = min(entry.many, _MAX_NUMBERS)
        return self._unpack(f"{count * len(entry.form)}{entry.form[0]}", self._read(entry, count))

    def number(self, tag: int, default: Any = None) -> Any:
        """Returns the first value of a tag."""
        return next(iter(self.numbers(tag)), default)

    def content(self, tag: int, most: int = _MAX_NUMBERS) -> bytes:
        """Returns the values of a tag as they are in the file, such as a text: at most so many."""
        entry = self.entries.get(tag)
        return self._read(entry, min(entry.many, most)) if entry else b""

    def array(self, tag: int, most: int) -> NDArray[Any]:
        """Returns the first values of a tag of integers, at most so many: of a file of any number of strips."""
        import numpy as np

        entry = self.entries.get(tag)
        if entry is None:
            return np.zeros(0, np.int64)
        if entry.form not in ("H", "I", "Q", "B"):
            raise ValueError(f"tag {tag} is not of integers")
        data = self._read(entry, min(entry.many, most))
        found = np.frombuffer(data, np.dtype(self.order + entry.form)).astype(np.int64)
        # Offsets above 2^63 become negative, and are refused as such.
        return found + self.shift if tag == STRIP_OFFSETS else found

    def _read(self, entry: _Entry, count: int) -> bytes:
        length = count * struct.calcsize(self.order + entry.form)
        self._stream.seek(entry.place)
        data = self._stream.read(length)
        if len(data) < length:
            raise EOFError("a tag reaches beyond the end of the file")
        return data

    @property
    def is_reduced(self) -> bool:
        """Whether the page is tagged as a smaller version, or as the mask, of another one."""
        kind = self.number(NEW_SUBFILE_TYPE, 0)
        old = self.number(OLD_SUBFILE_TYPE, 0)
        return bool(kind & (_REDUCED | _MASK)) or old == _OLD_REDUCED

    def read_inner(self) -> list[Directory]:
        """Reads the directories that the tag SubIFDs names. Damaged ones are left out."""
        found = []
        for offset in self.numbers(SUB_DIRECTORIES)[:_MAX_INNER]:
            try:
                found.append(Directory(self._stream, offset, self.order, big=self.big))
            except (ValueError, struct.error, OverflowError):
                continue
        return found


def read_pages(stream: BinaryIO) -> Iterator[Directory]:
    """Yields the directories of the pages in order.

    Raises:
        ValueError, struct.error, OverflowError: the first directory cannot be read.
        ImageError: a later one cannot be read, or there are more than MAX_PAGES.
    """
    stream.seek(0)
    header = stream.read(16)
    order = "<" if header[:1] == b"I" else ">"
    (version,) = struct.unpack(order + "H", header[2:4])
    big = version == 43 or header[2:4] in (b"+\0", b"\0+")
    (offset,) = struct.unpack(order + ("Q" if big else "I"), header[8:16] if big else header[4:8])
    seen: set[int] = set()
    while offset and offset not in seen:
        if len(seen) == MAX_PAGES:
            raise ImageTooLargeError(f"more than {MAX_PAGES} pages")
        try:
            page = Directory(stream, offset, order, big=big)
        except (ValueError, struct.error, OverflowError) as error:
            if not seen:
                raise
            if offset + 2 > stream.seek(0, io.SEEK_END) or isinstance(error, struct.error):
                raise TruncatedImageError("damaged TIFF file: it ends too early, and pages are missing") from error
            raise CorruptImageError(f"damaged TIFF file: page {len(seen) + 1} cannot be found: {error}") from error
        seen.add(offset)
        yield page
        offset = page.following


class Page(NamedTuple):
    """Where the directory of a page is. A file may have very many."""

    position: int | None
    """Its position in the list of directories, from 0. None if it is one of the SubIFDs of another."""
    offset: int
    order: str
    big: bool
    shift: int = 0

    def read(self, stream: BinaryIO) -> Directory:
        directory = Directory(stream, self.offset, self.order, big=self.big)
        directory.shift = self.shift
        return directory


def choose_pages(directories: Iterable[Directory]) -> tuple[list[Page], ImageError | None]:
    """Chooses the pages that are not tagged as reduced, in SubIFDs too; the first directory if all are.

    Returns:
        (pages, the error that ends the directories, if one does).
    """
    chosen: list[Page] = []
    first: list[Page] = []
    ending = None
    try:
        for position, page in enumerate(directories):
            first = first or [Page(position, page.offset, page.order, page.big)]
            chosen += _choose_of(page, position)
    except ImageError as error:
        ending = copy(error)  # without its traceback
    return chosen or first, ending


def _choose_of(page: Directory, position: int) -> list[Page]:
    if not page.is_reduced:
        return [Page(position, page.offset, page.order, page.big)]
    return [
        Page(None, inner.offset, inner.order, inner.big)
        for inner in page.read_inner()
        if not inner.is_reduced and WIDTH in inner.entries and HEIGHT in inner.entries
    ]


def starting_at(stream: BinaryIO, page: Directory) -> io.BytesIO:
    """Returns a copy of a TIFF whose first page is the given one."""
    stream.seek(0)
    content = bytearray(stream.read())
    struct.pack_into(page.order + ("Q" if page.big else "I"), content, 8 if page.big else 4, page.offset)
    return io.BytesIO(content)
