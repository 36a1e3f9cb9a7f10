"""The truth of images by their names: a folder, or a wnid at the beginning of the file's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from imgclassify.errors import UsageError
from imgclassify.evaluation.class_finder import ClassFinder, Match, Mismatch, settle
from imgclassify.evaluation.found_truth import FoundTruth
from imgclassify.evaluation.name_errors import (
    Unmatched,
    no_truth_error,
    plural,
    seem_counted_from_one,
    unmatched_error,
)
from imgclassify.evaluation.source_names import FolderReader, wnid_of

_SOME = 5


class _Group(NamedTuple):
    """Images in the same folder whose files begin with the same wnid, if any."""

    folders: tuple[str, ...]
    """The names of the folders above them, the nearest one first."""
    wnid: str | None


class _Images:
    """How many images each group has, and some of them."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.counts: Counter[_Group] = Counter()
        self.examples: dict[_Group, list[str]] = {}
        group_of = _Grouper()
        for source in sources:
            group = group_of(source)
            self.counts[group] += 1
            examples = self.examples.setdefault(group, [])
            if len(examples) < _SOME:
                examples.append(source)
        self.total = self.counts.total()


class _Grouper:
    """Returns the group of a source."""

    def __init__(self) -> None:
        self._read = FolderReader()

    def __call__(self, source: str) -> _Group:
        folders, file = self._read(source)
        return _Group(folders, wnid_of(file))


class _Naming:
    """A way to name the class of a group, and what the names of all groups stand for."""

    def __init__(
        self, finder: ClassFinder, images: _Images, how: str, lack: str, name_of: Callable[[_Group], str | None]
    ) -> None:
        """
        Args:
            lack: why a group may have no name, as the end of a sentence.
        """
        self.how, self.lack, self.name_of = how, lack, name_of
        self.counts: Counter[str] = Counter()
        for group, count in images.counts.items():
            if (name := name_of(group)) is not None:
                self.counts[name] += count
        self.found = settle({name: finder.find(name) for name in self.counts})
        self.matched = {group for group in images.counts if isinstance(self.get(group), Match)}

    def get(self, group: _Group) -> Match | Mismatch | None:
        name = self.name_of(group)
        return None if name is None else self.found[name]

    def means_something(self) -> bool:
        """Whether any name stands for something, even if it is not known for what."""
        return any(isinstance(found, Match) or found.kind != "unknown" for found in self.found.values())


def read_names(
    finder: ClassFinder, sources: Sequence[str], which: str | None, *, ignore_unknown: bool
) -> FoundTruth:
    """Finds the truth of images by their names.

    Args:
        which: "folders", "names", or None for the one that finds the truth of more images.

    Raises:
        UsageError: a name stands for no class or for several, an image has no truth, or folders and files
            contradict each other.
    """
    images = _Images(sources)
    lead = ""
    if which == "names":
        naming = _name_by_file(finder, images)
    elif which == "folders":
        naming = _name_by_folder(finder, images)
    else:
        naming, lead = _choose(finder, images)
    _check(naming, images, finder, lead, ignore_unknown=ignore_unknown)
    group_of = _Grouper()
    return FoundTruth(
        how=naming.how,
        key_of=lambda source: naming.name_of(group_of(source)),
        matches={name: found for name, found in naming.found.items() if isinstance(found, Match)},
        all_names=naming.found,
        counts=naming.counts,
        ignored=[name for name, found in naming.found.items() if isinstance(found, Mismatch)],
        without_truth=images.total - naming.counts.total(),
    )


def _name_by_file(finder: ClassFinder, images: _Images) -> _Naming:
    return _Naming(
        finder,
        images,
        "the wnid at the beginning of each file's name",
        "the file's name does not begin with a wnid such as n01440764_",
        _wnid_of_group,
    )


def _name_by_folder(finder: ClassFinder, images: _Images) -> _Naming:
    """Returns the names of the folders at the level that names classes: the nearest, if any of them does."""
    nearest = _name_by_level(finder, images, 0)
    deepest = max(len(group.folders) for group in images.counts)
    higher = (_name_by_level(finder, images, level) for level in range(1, deepest))
    # A single name above all images may be that of the data set.
    whole = next((each for each in higher if len(each.matched) == len(images.counts) and len(each.found) > 1), None)
    if whole is None:
        return nearest
    if not nearest.means_something():
        return whole
    if nearest.matched and all(_is_number(nearest.get(group)) for group in nearest.matched):
        for group in sorted(nearest.matched, key=str):
            if _differ(nearest.get(group), whole.get(group)) and not _is_number(whole.get(group)):
                raise _contradiction(images, group, nearest, whole, "give a truth file: --truth FILE")
    return nearest


def _name_by_level(finder: ClassFinder, images: _Images, level: int) -> _Naming:
    """
    Args:
        level: how many folders lie between the one that is meant and the image.
    """
    above = {0: "", 1: "the folder above "}.get(level, f"the folder {level} levels above ")
    return _Naming(
        finder,
        images,
        f"the name of {above}each image's folder",
        "there is no such folder in the name" if level else "there is no folder in the name",
        lambda group: group.folders[level] if len(group.folders) > level else None,
    )


def _choose(finder: ClassFinder, images: _Images) -> tuple[_Naming, str]:
    """Returns the naming that finds the truth of all images that the other one does, and a clause for errors."""
    folders, files = _name_by_folder(finder, images), _name_by_file(finder, images)
    for group in sorted(folders.matched & files.matched, key=str):
        if _differ(folders.get(group), files.get(group)):
            raise _contradiction(images, group, folders, files, "say which with --truth folders or --truth names")
    if not folders.matched and not files.matched:
        return folders, "no file name begins with a wnid of the model, and "
    if folders.matched >= files.matched:
        return folders, ""
    if files.matched >= folders.matched:
        return files, ""
    counts = [sum(images.counts[group] for group in naming.matched) for naming in (folders, files)]
    raise UsageError(
        f"it is unclear what tells the classes: {folders.how} is a class for {counts[0]:,} of "
        f"{plural(images.total, 'image')}, and {files.how} for {counts[1]:,}, but neither for all",
        hint="say which with --truth folders or --truth names",
    )


def _contradiction(images: _Images, group: _Group, one: _Naming, other: _Naming, hint: str) -> UsageError:
    said = " but ".join(
        f"{naming.name_of(group)!r} ({getattr(naming.get(group), 'label', '')}) by {naming.how}"
        for naming in (one, other)
    )
    return UsageError(
        f"it is unclear what tells the classes: {images.examples[group][0]!r} is {said}",
        hint=hint,
    )


def _is_number(found: Match | Mismatch | None) -> bool:
    return isinstance(found, Match) and found.is_number


def _differ(one: Match | Mismatch | None, other: Match | Mismatch | None) -> bool:
    """Whether both are classes, and neither lies within the other."""
    if not isinstance(one, Match) or not isinstance(other, Match):
        return False
    return not (one.class_indices <= other.class_indices or other.class_indices <= one.class_indices)


def _check(naming: _Naming, images: _Images, finder: ClassFinder, lead: str, *, ignore_unknown: bool) -> None:
    finder.require_used_map(naming.found)
    unmatched = [
        Unmatched(name, found, naming.counts[name], repr(_example(name, naming, images)))
        for name, found in naming.found.items()
        if isinstance(found, Mismatch) and not (ignore_unknown and found.kind == "unknown")
    ]
    if unmatched:
        raise unmatched_error(
            unmatched,
            finder,
            what="folder" if naming.name_of is not _wnid_of_group else "file",
            number=len(naming.found),
            lead=lead,
            more_hint="; or give the truth in a file: --truth FILE" if lead else "",
            counted_from_one=seem_counted_from_one(naming.found, len(finder.label_set)),
        )
    nameless = [group for group in images.counts if naming.name_of(group) is None]
    if nameless and not ignore_unknown:
        examples = [example for group in nameless for example in images.examples[group]]
        count = sum(images.counts[group] for group in nameless)
        raise no_truth_error(examples, count, images.total, naming.lack)


def _wnid_of_group(group: _Group) -> str | None:
    return group.wnid


def _example(name: str, naming: _Naming, images: _Images) -> str:
    return next(examples[0] for group, examples in images.examples.items() if naming.name_of(group) == name)
