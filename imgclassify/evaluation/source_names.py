"""The parts of a source's name: its folders, its file, and the wnid at the beginning of the file's name."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote, urlsplit

from imgclassify.sources import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES

_FRAME = re.compile(r"#[0-9]+(?:\.[0-9]+)?$")
_MEMBER = re.compile(rf"({'|'.join(re.escape(suffix) for suffix in ARCHIVE_SUFFIXES)})!", re.IGNORECASE)
_ARCHIVE = re.compile(rf"(?:{'|'.join(re.escape(suffix) for suffix in ARCHIVE_SUFFIXES)})$", re.IGNORECASE)
_SCHEMES = ("http://", "https://")
_WNID = re.compile(r"([nvars][0-9]{8})(?![0-9A-Za-z])")


def without_frame(name: str) -> str:
    """Returns the name of the file of a frame: "a.gif" for "a.gif#2". Other names are returned as they are."""
    return _FRAME.sub("", name) if "#" in name else name


def to_path(name: str) -> str:
    """Returns the name as parts between slashes, without empty ones and ".".

    So an archive is a folder, a backslash is a slash, and a URL is its host and path, without its query. Unicode is
    in the form NFC, as macOS does not keep it.
    """
    if name[:8].lower().startswith(_SCHEMES):
        try:
            address = urlsplit(name)
            name = f"{address.hostname}/{unquote(address.path)}"
        except ValueError:  # not a valid address
            pass
    if "!" in name:
        name = _MEMBER.sub(r"\1/", name)
    name = name.replace("\\", "/")
    if "./" in name or "//" in name or name[:1] == "/":
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def folders_of(name: str, folder: str) -> list[str]:
    """Returns the names of the folders above an image, the nearest one first. That of an archive has no suffix.

    Args:
        name: the name of a source.
        folder: its path, as of `to_path`, without the file.
    """
    parts = [part for part in folder.split("/") if part]
    if name[:8].lower().startswith(_SCHEMES):
        del parts[:1]  # the host
    return [_ARCHIVE.sub("", part) for part in reversed(parts) if part != ".."]


class FolderReader:
    """Reads the folders and the file of a source from its name. Computes the folders of each folder once."""

    def __init__(self) -> None:
        self._folders: dict[tuple[bool, str], tuple[str, ...]] = {}

    def __call__(self, name: str) -> tuple[tuple[str, ...], str]:
        """Returns the names of the folders, as `folders_of`, and that of the file."""
        folder, _, file = to_path(without_frame(name)).rpartition("/")
        key = (name[:4].lower() == "http", folder)
        folders = self._folders.get(key)
        if folders is None:
            folders = self._folders[key] = tuple(folders_of(name, folder))
        return folders, file


def wnid_of(file: str) -> str | None:
    """Returns the wnid at the beginning of a file's name: "n01440764" for "n01440764_tench.JPEG"."""
    found = _WNID.match(file)
    return found[1] if found else None


def without_suffix(file: str) -> str:
    """Returns the name of an image file without its suffix. Other names are returned as they are."""
    stem, dot, suffix = file.rpartition(".")
    return stem if stem and dot + suffix.lower() in IMAGE_SUFFIXES else file
