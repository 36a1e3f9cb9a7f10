"""Where the classes and the parts of a dataset are in the names of its images: folders below a root."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from imgclassify.errors import UsageError
from imgclassify.evaluation.source_names import to_path, without_frame

TRAIN, VAL, TEST = "train", "val", "test"
PARTS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""What folders are called that are parts of a dataset, in lower case."""
_SYSTEM = frozenset(("__MACOSX", "$RECYCLE.BIN", "System Volume Information"))


class Place(NamedTuple):
    """The class and the part of an image."""

    label: str
    part: str
    """TRAIN, VAL or TEST. TRAIN if the dataset has no parts."""


class _Root(NamedTuple):
    """The images below one folder or archive that the user names, or those that are named by themselves."""

    name: str
    """As the user gives it. "" for images that are named by themselves."""
    base: tuple[str, ...]
    """The folders that all of these images are in."""
    images: list[tuple[int, tuple[str, ...]]]
    """Position, and the folders below the base, the highest first."""


def find_places(names: Sequence[str], roots: Iterable[str]) -> list[Place]:
    """Finds the class of each image, as torchvision's ImageFolder does: the highest folder below its root.

    A folder that holds all others, as archives often have, is passed over. Below it, folders that are called train
    and val, or train and test, are parts, and the classes are below them. If all images lie directly in several
    roots, each root is a class.

    Args:
        names: of the sources.
        roots: the folders and archives that the user names.

    Raises:
        UsageError: an image is in no class folder, or it is unclear which folders are the classes.
    """
    places: list[Place | None] = [None] * len(names)
    found = _group_by_root(names, roots)
    if len(found) > 1 and all(not folders for root in found for _, folders in root.images):
        for root in found:
            for position, _ in root.images:
                places[position] = Place(root.base[-1] if root.base else "", TRAIN)
    else:
        for root in map(_pass_over, found):
            has_parts = _has_parts(root)
            for position, folders in root.images:
                places[position] = _find_place(names[position], folders, root, has_parts=has_parts)
    return [place for place in places if place is not None]


def list_class_folders(root: str, places: Sequence[Place]) -> Iterator[str]:
    """Yields the paths of the class folders of a plain folder that are on disk but hold no image.

    Args:
        root: the folder, as the user gives it.
        places: those of its images.
    """
    labels = {place.label for place in places}
    folder = root
    while True:
        below = sorted(_subfolders(folder))
        names = [os.path.basename(each) for each in below]  # noqa: PTH119
        if {PARTS.get(name.lower()) for name in names} >= {TRAIN} and len(names) > 1 and not labels & set(names):
            for each, name in zip(below, names, strict=True):
                if PARTS.get(name.lower()) == TRAIN:
                    yield from (path for path in sorted(_subfolders(each)) if os.path.basename(path) not in labels)  # noqa: PTH119
            return
        if len(below) == 1 and names[0] not in labels:
            folder = below[0]
            continue
        yield from (path for path, name in zip(below, names, strict=True) if name not in labels)
        return


def _subfolders(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (
            entry.path
            for entry in entries
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in _SYSTEM
        )


def _group_by_root(names: Sequence[str], roots: Iterable[str]) -> list[_Root]:
    known = {tuple(to_path(root).split("/")): root for root in roots if root}
    longest = sorted(known, key=len, reverse=True)
    found: dict[tuple[str, ...] | None, list[tuple[int, tuple[str, ...]]]] = {}
    for position, name in enumerate(names):
        path = tuple(to_path(without_frame(name)).split("/"))
        base = next((each for each in longest if path[: len(each)] == each and len(path) > len(each)), None)
        here = () if base is None or known[base] in (".", "./") else base
        found.setdefault(base, []).append((position, path[len(here) : -1]))
    result = []
    for base, images in found.items():
        if base is None:
            shared = _shared_folders([folders for _, folders in images])
            result.append(_Root("", shared, [(position, folders[len(shared) :]) for position, folders in images]))
        else:
            result.append(_Root(known[base], base, images))
    return result


def _shared_folders(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the folders that all paths begin with."""
    first, last = min(paths), max(paths)
    count = next(
        (at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other),
        min(len(first), len(last)),
    )
    return first[:count]


def _pass_over(root: _Root) -> _Root:
    """Passes over folders that hold all others, as long as each image is in a folder below."""
    while len({folders[:1] for _, folders in root.images}) == 1 and all(
        len(folders) > 1 for _, folders in root.images
    ):
        folder = root.images[0][1][:1]
        below = {folders[1] for _, folders in root.images}
        if len(below) == 1 and all(len(folders) == 2 for _, folders in root.images):
            break  # one class in one folder
        root = _Root(root.name, root.base + folder, [(position, folders[1:]) for position, folders in root.images])
    return root


def _has_parts(root: _Root) -> bool:
    """Whether the highest folders are the parts of a dataset.

    Raises:
        UsageError: some of them are, and others are not.
    """
    highest = Counter(folders[0] for _, folders in root.images if folders)
    kinds = {name: PARTS.get(name.lower()) for name in highest}
    if not (TRAIN in kinds.values() and {VAL, TEST} & set(kinds.values())):
        return False
    if others := sorted(name for name, kind in kinds.items() if kind is None):
        parts = ", ".join(sorted(name for name, kind in kinds.items() if kind))
        raise UsageError(
            f"it is unclear which folders are the classes: {parts} are names of parts, and beside them there is "
            f"{others[0]!r}",
            hint="give the folders of the classes, and --val FOLDER; or leave the others out with --exclude",
        )
    return True


def _find_place(name: str, folders: tuple[str, ...], root: _Root, *, has_parts: bool) -> Place:
    part = TRAIN
    if has_parts and folders:
        part, folders = PARTS[folders[0].lower()], folders[1:]
    if not folders:
        raise UsageError(
            f"{name!r} is in no class folder",
            hint="put each image into a folder that has the name of its class, or give --truth FILE",
        )
    if len(folders) > 1 and folders[1].lower() in PARTS:
        raise UsageError(
            f"it is unclear which folders are the classes: {name!r} has the part {folders[1]!r} below the class "
            f"{folders[0]!r}",
            hint="put the folders of the parts above those of the classes: train/CLASS, val/CLASS",
        )
    return Place(folders[0], part)
