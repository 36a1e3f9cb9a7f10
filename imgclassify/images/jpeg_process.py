"""Names the kinds of JPEG that libjpeg does not decode: of other precisions, lossless, and JPEG-LS."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import BinaryIO

_MOST_SEGMENTS = 2**12
_PROCESSES = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "lossless JPEG",
    0xCB: "lossless JPEG",
    0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG",
    0xCF: "lossless JPEG",
    0xF7: "JPEG-LS",
}
"""The markers of frames that are not baseline, extended or progressive (ITU-T T.81 table B.1; T.87)."""
_DECODED = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)


def name_unsupported_process(stream: BinaryIO) -> str | None:
    """Returns what kind of JPEG a file is, such as "lossless JPEG of 16 bits", if libjpeg cannot decode it.

    Returns:
        None if it is of 8 bits, and of a kind that libjpeg decodes, or has no readable header.
    """
    with suppress(struct.error, OSError):
        position = 2
        for _ in range(_MOST_SEGMENTS):
            stream.seek(position)
            mark, marker, length, bits = struct.unpack(">BBHB", stream.read(5))
            if mark != 0xFF or marker == 0xDA:
                break
            if marker in _PROCESSES or (marker in _DECODED and bits != 8):
                return f"{_PROCESSES.get(marker, 'JPEG')} of {bits} bits"
            position += 2 + length
    return None
