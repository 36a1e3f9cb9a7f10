"""Where the classes and the parts of a dataset are in the names of its images: folders below a root."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import takewhile
from typing import NamedTuple

from imgclassify.errors import UsageError
from imgclassify.evaluation.source_names import FolderReader
from imgclassify.hub.model_files import MANIFEST
from imgclassify.sources import Selection, archives, expand
from imgclassify.sources.path_expansion import is_archive

TRAIN, VAL, TEST = "train", "val", "test"
PARTS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""What folders are called that are parts of a dataset, in lower case. They may end in "set"."""
WORK_SUFFIX = ".partial"
"""The end of the name of a work folder (work_folder.py)."""
_SET = re.compile(r"[\s_-]*set$")
_SOME = 5
_UNCLEAR = "it is unclear which folders are the classes"
_BY_FILE = "or give the classes in a file: --truth FILE"


class Place(NamedTuple):
    """The class and the part of an image."""

    label: str
    part: str
    """TRAIN, VAL or TEST. TRAIN if the dataset has no parts."""


class _Images(NamedTuple):
    """The images below a folder."""

    root: str
    """The folder or archive that the user names. "" for images that are named by themselves."""
    below: tuple[str, ...]
    """The folders from there to the one that is meant."""
    images: list[tuple[int, tuple[str, ...]]]
    """Position, and the folders below the one that is meant, the highest first."""

    @property
    def path(self) -> str:
        return os.path.join(self.root, *self.below)  # noqa: PTH118

    def name_folder(self, folder: str) -> str:
        """Returns the name of a folder in the one that is meant, as the sources below it have it."""
        if is_archive(self.root):
            return f"{self.root}!{'/'.join((*self.below, folder))}"
        return os.path.join(self.path, folder)  # noqa: PTH118

    def enter(self, folder: str) -> _Images:
        inside = [(position, folders[1:]) for position, folders in self.images if folders[:1] == (folder,)]
        return _Images(self.root, (*self.below, folder), inside)

    def folders(self) -> list[str]:
        return sorted({folders[0] for _, folders in self.images if folders})


class Layout:
    """The places of images, and the folders that they were found by."""

    def __init__(self, names: Sequence[str], roots: Iterable[str]) -> None:
        """Finds the class of each image, as torchvision's ImageFolder does: the highest folder below its root.

        A folder that holds all others, as archives often have, is passed over. Below it, folders that are called
        train and val, or train and test, are parts, and the classes are below them. If all images lie directly in
        several roots, each root is a class.

        Args:
            names: of the sources.
            roots: the folders and archives that the user names.

        Raises:
            UsageError: an image is in no class folder, or it is unclear which folders are the classes.
        """
        self._names = names
        self._places: dict[int, Place] = {}
        self._parents: list[tuple[str, _Images]] = []
        """Roots, and images in folders that are classes."""
        self._above: list[tuple[str, _Images]] = []
        """Roots, and images in folders that are parts or that were passed over."""
        self.notes: list[str] = []
        """What the user should know, as sentences."""
        self.how = "the name of its folder"
        """How the classes were found, as the end of a sentence."""
        found = _group_by_root(names, roots)
        if len(found) > 1 and not any(folders for each in found.values() for _, folders in each.images):
            for base, each in found.items():
                for position, _ in each.images:
                    self._places[position] = Place(base[-1], TRAIN)
        elif _are_parts(heads := [base[-1] for base in found if base]) and len(heads) == len(found) > 1:
            for base, each in found.items():
                self._place(each, part_of(base[-1]) or TRAIN)
        else:
            for each in found.values():
                self._place_parts(self._pass_over(each))
        self.places = [self._places[position] for position in range(len(names))]

    def find_empty_folders(self, plain: Collection[str]) -> Iterator[str]:
        """Yields the class folders and the folders of parts that have no image.

        Args:
            plain: the roots to look into.
        """
        in_archive = cache(archives.find_folders)
        for root, each in self._parents:
            if root in plain:
                yield from map(each.name_folder, _other_folders(each, in_archive))
        for root, each in self._above:
            if root in plain:
                yield from map(each.name_folder, filter(part_of, _other_folders(each, in_archive)))

    def _pass_over(self, found: _Images) -> _Images:
        *passed, last = _pass_over(found)
        self._above += ((each.root, each) for each in passed)
        if passed:
            self.how = f"the name of its folder in {last.path!r}"
        return last

    def _place_parts(self, found: _Images) -> None:
        parts = {folder: part_of(folder) for folder in found.folders()}
        if not _are_parts(parts):
            if len(parts) > 1 and all(parts.values()):
                raise UsageError(
                    f"{_UNCLEAR}: {_list(parts)} are names of parts of a dataset, but none is called train",
                    hint="name the folder of the images to train on, and the other one: --val FOLDER",
                )
            self._place(found, TRAIN)
            return
        if others := [folder for folder, part in parts.items() if part is None]:
            raise UsageError(
                f"{_UNCLEAR}: {_list(folder for folder, part in parts.items() if part)} are names of parts of a "
                f"dataset, and beside them there is {others[0]!r}",
                hint="give the folder of the images to train on, and --val FOLDER; or leave the others out with "
                "--exclude",
            )
        self._require_folders(found)
        self._above.append((found.root, found))
        how = self.how
        for folder, part in parts.items():
            self._place(self._pass_over(found.enter(folder)), part or TRAIN)
        self.how = how

    def _place(self, found: _Images, part: str) -> None:
        """Places images in class folders."""
        self._require_folders(found)
        self._check_depth(found)
        if part == TRAIN:
            self._parents.append((found.root, found))
        for position, folders in found.images:
            self._places[position] = Place(folders[0], part)

    def _require_folders(self, found: _Images) -> None:
        """Raises UsageError if an image lies beside the folders."""
        beside = [self._names[position] for position, folders in found.images if not folders]
        if not beside:
            return
        where = f" in {found.path!r}" if found.path else ""
        if len(beside) == len(found.images):
            raise UsageError(
                f"the images{where} are in no class folders: {_list(beside)}",
                hint=f"put the images of each class into a folder that has its name, {_BY_FILE}",
            )
        raise UsageError(
            f"{len(beside):,} of {len(found.images):,} images{where} are in no class folder: {_list(beside)}",
            hint=f"move them into folders of classes, or leave them out with --exclude, {_BY_FILE}",
        )

    def _check_depth(self, found: _Images) -> None:
        """Raises UsageError if folders in the class folders may be the classes. Otherwise a note tells of them."""
        inner = sorted({folders[:2] for _, folders in found.images if len(folders) > 1})
        if not inner:
            return
        if part := next((pair for pair in inner if part_of(pair[0]) or part_of(pair[1])), None):
            raise UsageError(
                f"{_UNCLEAR}: {'/'.join(part)} has the name of a part of a dataset",
                hint="put the parts above the classes, train/CLASS and val/CLASS, or name the folder of the images "
                f"to train on; {_BY_FILE}",
            )
        counts = Counter(name for _, name in inner)
        repeated = sorted(name for name, count in counts.items() if count > 1)
        if repeated and len(counts) > 1 and all(len(folders) > 1 for _, folders in found.images):
            above = [folder for folder, name in inner if name == repeated[0]]
            raise UsageError(
                f"{_UNCLEAR}: {repeated[0]!r} is in {above[0]!r} and in {above[1]!r}",
                hint="if these are parts, name one of them and give --val for the other; if they are classes, put "
                f"the images directly into them, {_BY_FILE}",
            )
        self.notes.append(f"folders in those of classes are not classes: {_list('/'.join(pair) for pair in inner)}")


def find_parts(names: Sequence[str], roots: Iterable[str]) -> list[str]:
    """Returns the part of each image by folders that are called train and val, or train and test, and no others.

    Args:
        names: of the sources, of which something else tells the classes.
        roots: as for Layout.
    """
    parts = [TRAIN] * len(names)
    for found in _group_by_root(names, roots).values():
        last = _pass_over(found)[-1]
        kinds = [part_of(folders[0]) if folders else None for _, folders in last.images]
        if _are_parts(last.folders()) and all(kinds):
            for (position, _), kind in zip(last.images, kinds, strict=True):
                parts[position] = kind or TRAIN
    return parts


def part_of(name: str) -> str | None:
    """Returns which part of a dataset has this name: TRAIN, VAL, TEST, or None."""
    return PARTS.get(_SET.sub("", name.strip().casefold()))


def describe_empty(folder: str) -> str:
    """Returns that a folder has no image, and what is in it instead."""
    told: list[str] = []
    if not os.path.isdir(folder):  # noqa: PTH112
        return f"no image in {folder!r}"  # it is in an archive
    for _ in expand([folder], notice=told.append):
        pass
    return told[0] if told else f"no image in {folder!r}"


def _pass_over(found: _Images) -> list[_Images]:
    """Returns the images, and what is below each folder that holds all others, as long as there is one below it."""
    levels = [found]
    while all(len(folders) > 1 for _, folders in found.images) and len(found.folders()) == 1:
        folder = found.folders()[0]
        inner = found.enter(folder)
        if not part_of(folder) and len(inner.folders()) == 1 and all(len(each) == 1 for _, each in inner.images):
            break  # one class in one folder
        levels.append(found := inner)
    return levels


def _are_parts(folders: Iterable[str]) -> bool:
    parts = set(map(part_of, folders))
    return TRAIN in parts and bool({VAL, TEST} & parts)


def _group_by_root(names: Sequence[str], roots: Iterable[str]) -> dict[tuple[str, ...], _Images]:
    """Returns the images below each root, by the folders of the root. The others are below what they share."""
    read = FolderReader()
    known = {read(f"{root}/x")[0][::-1]: root for root in roots if root}
    longest = sorted(known, key=len, reverse=True)
    found: dict[tuple[str, ...], list[tuple[int, tuple[str, ...]]]] = {}
    rest: list[tuple[int, tuple[str, ...]]] = []
    for position, name in enumerate(names):
        path = read(name)[0][::-1]
        base = next((each for each in longest if path[: len(each)] == each), None)
        if base is None:
            rest.append((position, path))
        else:
            found.setdefault(base, []).append((position, path[len(base) :]))
    result = {base: _Images(known[base], (), images) for base, images in found.items()}
    if rest:
        shared = _shared_folders([path for _, path in rest])
        images = [(position, path[len(shared) :]) for position, path in rest]
        result[shared] = _Images("", shared, images + result[shared].images if shared in result else images)
    return result


def _shared_folders(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the folders that all paths begin with."""
    first, last = min(paths), max(paths)
    return tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _other_folders(found: _Images, in_archive: Callable[[str], set[tuple[str, ...]]]) -> list[str]:
    """Returns the names of the folders without an image beside those with one, sorted.

    Hidden folders do not count, nor those that `imgclassify train` has written here.

    Args:
        in_archive: archives.find_folders.
    """
    if is_archive(found.root):
        normal = partial(unicodedata.normalize, "NFC")
        paths = {tuple(map(normal, path)) for path in in_archive(found.root)}
        names = {path[-1] for path in paths if path[:-1] == found.below}
    else:
        try:
            with os.scandir(found.path) as entries:
                names = {entry.name for entry in entries if entry.is_dir()}
        except OSError:  # it has another name in Unicode's form NFC
            return []
    accepts = Selection().accepts_folder
    others = sorted(name for name in names - set(found.folders()) if accepts(name))
    return [name for name in others if not _is_of_training(os.path.join(found.path, name))]  # noqa: PTH118


def _is_of_training(folder: str) -> bool:
    """Whether a folder is a model folder, or the work folder of one."""
    return folder.endswith(WORK_SUFFIX) or os.path.isfile(os.path.join(folder, MANIFEST))  # noqa: PTH113, PTH118


def _list(names: Iterable[str]) -> str:
    some = [*names]
    return ", ".join(map(repr, some[:_SOME])) + (f" and {len(some) - _SOME:,} more" if len(some) > _SOME else "")
