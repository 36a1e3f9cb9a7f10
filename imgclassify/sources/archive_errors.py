"""The exceptions that archive readers raise for damaged or encrypted archives and unknown methods."""

from __future__ import annotations

import lzma
import struct
import sys
import tarfile
import zipfile
import zlib

ZSTANDARD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"

_ALWAYS = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def archive_errors() -> tuple[type[Exception], ...]:
    """Returns the exception types for an `except` clause.

    Python evaluates the clause only after something was raised. If zstandard is not imported by then, the
    exception cannot be its own, so this function does not import it.
    """
    zstandard = sys.modules.get(ZSTANDARD)
    return (*_ALWAYS, zstandard.ZstdError) if zstandard else _ALWAYS
