"""What a network is taught with: images, their classes, and which of them are for validation."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.errors import NoImagesError, UsageError, make_printable
from imgclassify.sources import Source
from imgclassify.training.layout import TEST, TRAIN, VAL, Place, find_places, list_class_folders

if TYPE_CHECKING:
    from imgclassify.training.reading import ReadImage

_SHOWN = 5
MIN_IMAGES = 2
"""Images that a class needs: one to learn from and one for validation, or for cross-validation."""


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


class _Labelled(NamedTuple):
    """Images with the names of their classes."""

    sources: list[Source]
    places: list[Place]
    how: str


def find_dataset(
    sources: Iterable[Source],
    *,
    roots: Sequence[str] = (),
    val: Iterable[Source] | None = None,
    val_roots: Sequence[str] = (),
    truth: Path | None = None,
    folders: Sequence[str] = (),
) -> Dataset:
    """Finds the class of each image and its part, by its folders (layout.py) or by a truth file.

    Args:
        sources: all images, or those to train on.
        roots: the folders and archives among the names that the user gave for them.
        val: the images for validation. None looks for folders called val or test, and for a column called split.
        val_roots: as `roots`, for `val`.
        truth: a CSV file with the class of each image (evaluation/truth_file.py). None takes the folders.
        folders: plain folders that are looked into for class folders without an image.

    Raises:
        NoImagesError: there are no images.
        UsageError: the class of an image is unclear, or there is nothing to learn.
    """
    notes: list[str] = []
    found = _label(_drop_repeated(sources, notes), roots, truth)
    given = None if val is None else _label(_drop_repeated(val, notes), val_roots, truth)
    if not found.sources:
        raise NoImagesError("no image was found", hint="give a folder with a folder of images for each class")
    parts: dict[str, list[tuple[Source, str]]] = {TRAIN: [], VAL: [], TEST: []}
    for source, place in zip(found.sources, found.places, strict=True):
        parts[place.part].append((source, place.label))
    if given is not None:
        if parts[VAL]:
            raise UsageError(
                "there are images for validation already: val",
                hint="leave out --val, or name the folder of the images to train on",
            )
        parts[VAL] = [(source, place.label) for source, place in zip(given.sources, given.places, strict=True)]
    _settle_test(parts, notes)
    _check_folders(folders, found.places)
    classes = _find_classes(parts, notes)
    index_of = {name: index for index, name in enumerate(classes)}
    train, validation = (
        tuple(LabelledSource(source, index_of[label]) for source, label in parts[part]) for part in (TRAIN, VAL)
    )
    return Dataset(classes, train, validation, found.how, tuple(notes))


def check_readable(dataset: Dataset, train: Sequence[ReadImage], val: Sequence[ReadImage]) -> None:
    """Checks that there is enough to learn from once the images are left out that cannot be read.

    Args:
        train: what is known of each of `dataset.train`.
        val: the same for `dataset.val`.

    Raises:
        UsageError: a class has too few images, or no image for validation is left.
    """
    counts = Counter(
        each.class_index for each, image in zip(dataset.train, train, strict=True) if image.error is None
    )
    total = Counter(each.class_index for each in dataset.train)
    for index, name in enumerate(dataset.classes):
        if counts[index] < MIN_IMAGES:
            raise UsageError(
                f"only {counts[index]} of {total[index]} images of the class {name!r} can be read, and a class "
                f"needs {MIN_IMAGES}",
                hint="replace the broken images, or remove the class",
            )
    if val and all(image.error for image in val):
        raise UsageError("none of the images for validation can be read", hint="replace the broken images")


def _drop_repeated(sources: Iterable[Source], notes: list[str]) -> list[Source]:
    kept: dict[str, Source] = {}
    repeated = 0
    for source in sources:
        repeated += kept.setdefault(source.name, source) is not source
    if repeated:
        notes.append(f"left out: {repeated:,} images that are named twice")
    return list(kept.values())


def _label(sources: list[Source], roots: Sequence[str], truth: Path | None) -> _Labelled:
    names = [source.name for source in sources]
    if truth is not None:
        from imgclassify.training.truth_classes import read_classes

        places, how = read_classes(truth, names)
        return _Labelled(sources, places, how)
    return _Labelled(sources, find_places(names, roots), "the name of its folder")


def _settle_test(parts: dict[str, list[tuple[Source, str]]], notes: list[str]) -> None:
    """Decides what becomes of a part called test."""
    count = len(parts[TEST])
    if not count:
        return
    if parts[VAL]:
        notes.append(f"left out: {count:,} images of the part test; measure them with `imgclassify evaluate`")
    else:
        parts[VAL] = parts[TEST]
        notes.append(f"the part test is used for validation: {count:,} images")
    parts[TEST] = []


def _check_folders(folders: Sequence[str], places: Sequence[Place]) -> None:
    for folder in folders:
        if empty := list(list_class_folders(folder, places)):
            raise UsageError(
                f"the class folder {empty[0]!r} has no image",
                hint="put images into it, or remove it, or leave it out with --exclude; --any-name takes files "
                "without the extension of an image",
            )


def _find_classes(parts: dict[str, list[tuple[Source, str]]], notes: list[str]) -> tuple[str, ...]:
    """Returns the names of the classes, sorted.

    Raises:
        UsageError: there is nothing to learn, or the names cannot be those of classes.
    """
    train, val = (Counter(label for _, label in parts[part]) for part in (TRAIN, VAL))
    classes = tuple(sorted(train))
    _check_names(classes)
    if unknown := sorted(val.keys() - train.keys()):
        raise UsageError(
            f"the images for validation have the class {unknown[0]!r}, and those to train on do not",
            hint="name the classes the same in both parts",
        )
    if len(classes) < 2:
        only = f": {classes[0]!r}" if classes else ""
        raise UsageError(
            f"there is nothing to learn, because all images have one class{only}",
            hint="give a folder with a folder of images for each class, at least two",
        )
    if few := [name for name in classes if train[name] < MIN_IMAGES]:
        raise UsageError(
            f"the class {few[0]!r} has {train[few[0]]} image, and a class needs {MIN_IMAGES}"
            + (f"; so do {len(few) - 1:,} more" if len(few) > 1 else ""),
            hint="add images, or remove the class",
        )
    if val and (missing := sorted(train.keys() - val.keys())):
        shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        notes.append(f"no image for validation is of {shown}")
    return classes


def _check_names(classes: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        if not name.strip() or make_printable(name) != name:
            raise UsageError(f"{name!r} cannot be the name of a class", hint="rename it: give it a printable name")
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        other = seen.setdefault(key, name)
        if other != name:
            raise UsageError(
                f"two classes have nearly the same name: {other!r} and {name!r}",
                hint="join them, or give them names that differ in more than case and blanks",
            )
