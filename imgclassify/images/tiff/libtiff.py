"""Reaches the libtiff that Pillow uses."""

from __future__ import annotations

import ctypes
from functools import cache

from PIL import Image


@cache
def _libtiff() -> ctypes.CDLL | None:
    """Returns the libtiff that Pillow uses, through Pillow's own extension module, or None."""
    try:
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
        library.TIFFSetErrorHandler.restype = ctypes.c_void_p
        library.TIFFIsCODECConfigured.argtypes = [ctypes.c_uint16]
    except (OSError, AttributeError, TypeError):  # built without libtiff, or linked to it statically
        return None
    return library


@cache
def silence_libtiff() -> None:
    """Keeps libtiff from writing to stderr, where it would not name the file. Its failures have records."""
    if library := _libtiff():
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def has_codec(compression: int) -> bool:
    library = _libtiff()
    return library is None or bool(library.TIFFIsCODECConfigured(compression))
