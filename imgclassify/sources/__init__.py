"""Expands names (paths, folders, globs, URLs, archives, stdin) into an ordered, lazy stream of sources.

No image is decoded here, and nothing is written to disk.
"""

from imgclassify.sources.expansion import expand, read_names, single_source
from imgclassify.sources.files import file_source
from imgclassify.sources.path_expansion import ARCHIVE_SUFFIXES
from imgclassify.sources.selection import NO_EXTENSION, Selection, describe_skipped
from imgclassify.sources.source import (
    IMAGE_FORMATS,
    IMAGE_SUFFIXES,
    MAX_BYTES,
    RAW_SUFFIXES,
    VIDEO_SUFFIXES,
    Frame,
    Source,
)

__all__ = [
    "ARCHIVE_SUFFIXES",
    "IMAGE_FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "NO_EXTENSION",
    "RAW_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Frame",
    "Selection",
    "Source",
    "describe_skipped",
    "expand",
    "file_source",
    "read_names",
    "single_source",
]
