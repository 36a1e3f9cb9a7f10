"""What a network is taught with: images, their classes, and which of them are for validation."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.errors import ImageError, NoImagesError, UsageError
from imgclassify.evaluation.name_errors import plural
from imgclassify.evaluation.source_names import to_path
from imgclassify.sources import Source
from imgclassify.sources.expansion import is_collection
from imgclassify.training.layout import TEST, TRAIN, VAL, Layout, Place, describe_empty, find_parts

if TYPE_CHECKING:
    from imgclassify.training.reading import ReadImage

__all__ = ["Dataset", "LabelledSource", "check_readable", "find_dataset"]

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
        truth: a CSV file with the class of each image (truth_classes.py). None takes the folders.
        folders: those of the roots that are looked into for class folders without an image.

    Raises:
        NoImagesError: there are no images.
        UsageError: the class of an image is unclear, or there is nothing to learn.
    """
    notes: list[str] = []
    of_train = _take(sources, notes)
    of_val = [] if val is None else _take(val, notes)
    if not of_train or (val is not None and not of_val):
        raise NoImagesError("no image was found", hint="give a folder with a folder of images for each class")
    _require_different(of_train, of_val)
    find = _find_by_folders if truth is None else partial(_find_by_file, truth)
    found = find(of_train, roots, of_val, val_roots, folders)
    notes += found.notes
    parts: dict[str, list[tuple[Source, str]]] = {TRAIN: [], VAL: [], TEST: []}
    for source, place in zip((*of_train, *of_val), found.places, strict=True):
        parts[place.part].append((source, place.label))
    if of_val and len(parts[VAL]) > len(of_val):
        raise UsageError(
            f"val is given, but {len(parts[VAL]) - len(of_val):,} of the other images are for validation too, such "
            f"as {parts[VAL][0][0].name!r}",
            hint="leave out --val, or name the folder of the images to train on",
            argument="val",
        )
    _settle_test(parts, notes)
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
    _check_contents(dataset, train)
    if val and all(image.error for image in val):
        raise UsageError("none of the images for validation can be read", hint="replace the broken images")


def _check_contents(dataset: Dataset, train: Sequence[ReadImage]) -> None:
    """Raises UsageError if two classes have the same files."""
    contents: dict[int, set[bytes]] = {}
    for each, image in zip(dataset.train, train, strict=True):
        if image.sha256 is not None and image.error is None:
            contents.setdefault(each.class_index, set()).add(image.sha256)
    seen: dict[frozenset[bytes], int] = {}
    for index, content in contents.items():
        other = seen.setdefault(frozenset(content), index)
        if other != index:
            raise UsageError(
                f"the classes {dataset.classes[other]!r} and {dataset.classes[index]!r} have the same images, so "
                "that nothing tells them apart",
                hint="remove one of the two, or put the right images into it",
            )


class _Found(NamedTuple):
    """The classes and the parts of images, those to train on first."""

    places: list[Place]
    how: str
    notes: Sequence[str]


def _find_by_folders(
    train: Sequence[Source],
    roots: Sequence[str],
    val: Sequence[Source],
    val_roots: Sequence[str],
    folders: Sequence[str],
) -> _Found:
    names = _names(train)
    layout = Layout(names, roots)
    _require_one_spelling(names, layout.places)
    for folder in layout.find_empty_folders(folders):
        raise UsageError(
            f"the folder {folder!r} is that of a class or of a part, but there is {describe_empty(folder)}",
            hint="put images into it, remove it, or leave it out with --exclude; --any-name takes files without "
            "the extension of an image",
        )
    places, notes = list(layout.places), layout.notes
    if val:
        # A folder in that of the images to train on can be that of one class.
        given = Layout(_names(val), val_roots)
        if any(place.part != TRAIN for place in given.places):
            raise UsageError(
                "val has folders that are parts themselves, such as train and val",
                hint="name the folder with the images for validation",
                argument="val",
            )
        places += [Place(place.label, VAL) for place in given.places]
        notes = notes + given.notes
    return _Found(places, layout.how, notes)


def _find_by_file(
    file: Path,
    train: Sequence[Source],
    roots: Sequence[str],
    val: Sequence[Source],
    _val_roots: Sequence[str],
    _folders: Sequence[str],
) -> _Found:
    from imgclassify.training.truth_classes import read_classes

    names = _names(train)
    found = read_classes(file, names + _names(val))
    parts = found.parts
    if parts is None:
        parts = find_parts(names, roots) + [VAL] * len(val)
    elif val:
        raise UsageError(
            f"val is given, but {file} has a column that says which images are for validation",
            hint="leave out --val, or remove the column",
            argument="val",
        )
    return _Found(list(map(Place, found.labels, parts)), found.how, found.notes)


def _names(sources: Iterable[Source]) -> list[str]:
    return [source.name for source in sources]


def _take(sources: Iterable[Source], notes: list[str]) -> list[Source]:
    """Returns each source once.

    Raises:
        UsageError: a folder or an archive could not be listed, or not to its end.
    """
    kept: dict[str, Source] = {}
    repeated = 0
    for source in sources:
        _require_listed(source)
        # to_path also joins what differs in its Unicode form, of which _require_one_spelling tells.
        key = to_path(source.name) if source.name.isascii() else source.name
        repeated += kept.setdefault(key, source) is not source
    if repeated:
        notes.append(f"left out: {plural(repeated, 'image')} named twice")
    return list(kept.values())


def _require_listed(source: Source) -> None:
    """Raises UsageError if a source stands for what could not be listed. A class might be missing."""
    name = source.name
    if source.path is not None or source.in_memory or name == "-" or "://" in name:
        return
    # A pipe is not opened, since it can be read only once.
    if "!" in name or not (os.path.isdir(name) or is_collection(name) or not os.path.lexists(name)):  # noqa: PTH112
        return
    try:
        source.open().close()
    except ImageError as error:
        raise UsageError(str(error), hint="name a folder or an archive that can be read") from error


def _require_different(train: Sequence[Source], val: Sequence[Source]) -> None:
    """Raises UsageError if an image to train on is for validation too."""
    known = {to_path(source.name) for source in val}
    both = [source.name for source in train if to_path(source.name) in known] if known else []
    if both:
        raise UsageError(
            f"val has {plural(len(both), 'image')} that are to train on too, such as {both[0]!r}",
            hint="leave out --val, or leave its folder out of the images to train on with --exclude",
            argument="val",
        )


def _require_one_spelling(names: Sequence[str], places: Sequence[Place]) -> None:
    """Raises UsageError if the names of two folders of a class differ only in their Unicode normalisation."""
    spellings: dict[str, str] = {}
    for name, place in zip(names, places, strict=True):
        if place.label.isascii():
            continue
        for part in name.replace("\\", "/").replace("!", "/").split("/"):
            if unicodedata.normalize("NFC", part) != place.label:
                continue
            other = spellings.setdefault(place.label, part)
            if other != part:
                raise UsageError(
                    f"two class folders have the same name in different Unicode forms: {other!a} and {part!a}",
                    hint="join them, or rename one of them",
                )


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


def _find_classes(parts: dict[str, list[tuple[Source, str]]], notes: list[str]) -> tuple[str, ...]:
    """Returns the names of the classes, sorted.

    Raises:
        UsageError: there is nothing to learn, or the names cannot be those of classes.
    """
    train, val = (Counter(label for _, label in parts[part]) for part in (TRAIN, VAL))
    classes = tuple(sorted(train))
    if not classes:
        raise UsageError(
            "there is nothing to learn, because all images are for validation", hint="call a part train"
        )
    _check_names(sorted({*train, *val}))
    if unknown := sorted(val.keys() - train.keys()):
        raise UsageError(
            f"the images for validation have the class {unknown[0]!r}, and those to train on do not",
            hint="name the classes the same in both parts",
        )
    if len(classes) == 1:
        raise UsageError(
            f"there is nothing to learn, because all images have one class: {classes[0]!r}",
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
    if all(name.isdecimal() for name in classes) and list(classes) != sorted(classes, key=int):
        notes.append(f"the classes are in the order of their names as text: {', '.join(classes[:_SHOWN])}, …")
    return classes


def _check_names(classes: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        if not name.strip() or not name.isprintable():
            raise UsageError(f"{name!r} cannot be the name of a class", hint="rename it: give it a printable name")
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        other = seen.setdefault(key, name)
        if other != name:
            raise UsageError(
                f"two classes have nearly the same name: {other!r} and {name!r}",
                hint="join them, or give them names that differ in more than case and blanks",
            )
    if blank := next((name for name in classes if name != name.strip()), None):
        raise UsageError(f"the class {blank!r} has a blank at the beginning or the end", hint="rename it")
