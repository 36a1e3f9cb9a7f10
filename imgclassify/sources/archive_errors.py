"""What the readers of archives raise over those that are damaged, encrypted, or of an unknown method."""

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
    """For an except clause, which asks when something was raised: by zstandard only where that is imported."""
    zstandard = sys.modules.get(ZSTANDARD)
    return (*_ALWAYS, zstandard.ZstdError) if zstandard else _ALWAYS
