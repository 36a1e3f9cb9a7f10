"""What the names of images or a file say of their truth, before classes with several names are joined."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, NamedTuple

from imgclassify.evaluation.class_finder import Match


class FoundTruth(NamedTuple):
    """The classes of images by key. A key is a name, or the number of a combination of cells."""

    how: str
    key_of: Callable[[str], Hashable | None]
    """Returns the key of the name of an image. None if it has no truth."""
    matches: Mapping[Any, Match]
    all_names: Collection[str]
    """What a map may have been used for."""
    counts: Mapping[Any, int]
    """Images by key."""
    ignored: Collection[Hashable] = ()
    """Keys of unknown names."""
    names: Mapping[Any, str] = {}
    """Key → its name, where it is not the key itself."""
    without_truth: int = 0
    """How many images have no key."""
    unused_rows: int = 0
    file: str | None = None
