"""What a network is taught with: images, their classes, and which of them are for validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from imgclassify.sources import Source


class LabelledSource(NamedTuple):
    """An image and its class."""

    source: Source
    class_index: int


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """The images of a training, by name. None of them has been opened."""

    classes: tuple[str, ...]
    """Sorted. A class index counts in this order."""
    train: tuple[LabelledSource, ...]
    val: tuple[LabelledSource, ...]
    """Empty if the images of `train` are still to be split."""
    how: str
    """How the classes were found, as the end of a sentence: "the name of its folder"."""
    notes: tuple[str, ...] = ()
    """What the user should know, as sentences."""


def find_dataset(sources, *, val=None, truth=None, roots=()):
    train, v = [], []
    for s in sources:
        parts = s.name.replace("\\", "/").replace("!", "/").split("/")
        (v if len(parts) > 2 and parts[-3] in ("val", "test") else train).append((s, parts[-2]))
    for s in val or ():
        v.append((s, s.name.split("/")[-2]))
    classes = tuple(sorted({c for _, c in train}))
    return Dataset(classes, tuple(LabelledSource(s, classes.index(c)) for s, c in train), tuple(LabelledSource(s, classes.index(c)) for s, c in v), "the name of its folder")


def check_readable(dataset, read_train, read_val):
    pass
