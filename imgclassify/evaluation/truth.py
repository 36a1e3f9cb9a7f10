"""Finds the truth of labelled images, which is the class that is right, by their names or from a CSV file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imgclassify.errors import NoImagesError, UsageError
from imgclassify.evaluation.class_finder import ClassFinder
from imgclassify.evaluation.class_map import ClassMap
from imgclassify.evaluation.found_truth import FoundTruth
from imgclassify.evaluation.name_truth import read_names
from imgclassify.evaluation.truth_file import read_truth_file
from imgclassify.labels.label_set import LabelSet

__all__ = ["Truth", "TruthClass", "find_truth"]

KINDS = ("folders", "names")
"""What `--truth` may be, besides the path of a file."""


@dataclass(frozen=True)
class TruthClass:
    """A class that is the truth of some images."""

    names: tuple[str, ...]
    """Its names in the data set, sorted."""
    label: str
    """The label of the class, or the name of the node."""
    wnid: str | None
    class_indices: frozenset[int]
    """Any of these is right."""
    is_node: bool
    """Whether it is not one class of the model, but all under a node of WordNet, or all that a map names."""

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]


@dataclass(frozen=True)
class Truth:
    """The truth of labelled images."""

    how: str
    """How it was found, such as "the name of each image's folder"."""
    classes: tuple[TruthClass, ...]
    """In the order of their least class index."""
    counts: tuple[int, ...]
    """How many images each class has."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Name that is unknown → how many images have it, and are left out."""
    without_truth: int = 0
    """How many images are left out because they have no folder or wnid in their name, or no row."""
    unused_rows: int = 0
    """How many rows of a truth file fit no image."""
    file: str | None = None
    """The truth file."""
    map_file: str | None = None
    unused_map_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know about the choice of classes."""
    _find: Callable[[str], int | None] = field(default=lambda name: None, repr=False, compare=False)

    @property
    def num_images(self) -> int:
        """How many images have a truth."""
        return sum(self.counts)

    def class_of(self, source_name: str) -> int | None:
        """Returns the position in `classes` of the truth of an image. None if it is left out.

        Args:
            source_name: one of the names that the truth was found for, or that of a frame of it.

        Raises:
            UsageError: it is none of them.
        """
        try:
            return self._find(source_name)
        except KeyError as error:
            raise UsageError(
                f"there is a record of {source_name!r}, which is none of the images that the true classes were "
                "found for",
                hint="name all images of the earlier run, or choose another file for the records",
            ) from error

    def has(self, source_name: str) -> bool:
        """Whether the image has a truth. Raises as `class_of` does."""
        return self.class_of(source_name) is not None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for the JSON document."""
        return {
            "how": self.how,
            "file": self.file,
            "map": self.map_file,
            "images": self.num_images,
            "classes": [
                {
                    "name": each.name,
                    "names": list(each.names),
                    "label": each.label,
                    "wnid": each.wnid,
                    "class_indices": sorted(each.class_indices),
                    "is_node": each.is_node,
                    "count": count,
                }
                for each, count in zip(self.classes, self.counts, strict=True)
            ],
            "ignored": dict(self.ignored),
            "without_truth": self.without_truth,
            "unused_rows": self.unused_rows,
            "unused_map_names": list(self.unused_map_names),
            "notes": list(self.notes),
        }


def find_truth(
    label_set: LabelSet,
    sources: Iterable[str],
    *,
    truth: str | None = None,
    map_file: str | None = None,
    ignore_unknown: bool = False,
) -> Truth:
    """Finds the class that is right for each image. Opens no image.

    A class is found by a label, a wnid, a synonym or a class index, never by the order of the names.

    Args:
        label_set: the classes of the model.
        sources: the names of the images. Each counts once.
        truth: where the truth is, one of these:

            - "folders": the name of each image's folder
            - "names": the wnid at the beginning of each file's name, as in "n01440764_tench.JPEG"
            - the path of a CSV file with a column `source` and one of `class`, `label`, `wnid` and `class_index`
            - None for one of the first two: the one that finds the truth of more images

        map_file: the path of a CSV file of two columns, names in the data set and classes. The class may be a
            node of WordNet. Several lines of a name mean any of the classes.
        ignore_unknown: whether images of unknown names, and images without a name, are left out and counted.
            Otherwise they are an error. Names that may mean several classes always are.

    Raises:
        UsageError: a name stands for no class or for several, an image has no truth, or a file cannot be read.
        NoImagesError: there are no sources.
    """
    finder = ClassFinder(label_set)
    class_map = None if map_file is None else ClassMap(map_file, finder)
    finder = ClassFinder(label_set, class_map)
    names = list(dict.fromkeys(sources))
    if not names:
        raise NoImagesError("there are no images to find the truth of", hint="name images, or folders of images")
    if truth in (None, *KINDS):
        found = read_names(finder, names, truth, ignore_unknown=ignore_unknown)
    else:
        found = read_truth_file(finder, names, truth, ignore_unknown=ignore_unknown)
    if not found.matches:
        raise UsageError(
            f"no image has a truth: all {len(names)} are left out, such as {names[0]!r}",
            hint="give other images, a truth file (--truth FILE), or a map of the names (--map FILE)",
        )
    return _build(found, class_map)


def _build(found: FoundTruth, class_map: ClassMap | None) -> Truth:
    same: dict[frozenset[int], list[Hashable]] = {}
    for key, match in found.matches.items():
        same.setdefault(match.class_indices, []).append(key)
    classes: list[TruthClass] = []
    counts: list[int] = []
    ids: dict[Hashable, int | None] = dict.fromkeys(found.ignored)
    for indices in sorted(same, key=lambda indices: (min(indices), len(indices), sorted(indices))):
        keys = same[indices]
        match = min((found.matches[key] for key in keys), key=lambda match: (match.is_node, match.label))
        names = tuple(sorted({found.names.get(key, str(key)) for key in keys}))
        ids.update(dict.fromkeys(keys, len(classes)))
        classes.append(TruthClass(names, match.label, match.wnid, indices, match.is_node))
        counts.append(sum(found.counts[key] for key in keys))

    def find(source_name: str) -> int | None:
        key = found.key_of(source_name)
        return None if key is None else ids[key]

    return Truth(
        how=found.how,
        classes=tuple(classes),
        counts=tuple(counts),
        ignored=_sum_by_name(found),
        without_truth=found.without_truth,
        unused_rows=found.unused_rows,
        file=found.file,
        map_file=class_map.file if class_map else None,
        unused_map_names=class_map.unused(found.all_names) if class_map else (),
        notes=tuple(sorted({match.note for match in found.matches.values() if match.note})),
        _find=find,
    )


def _sum_by_name(found: FoundTruth) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for key in found.ignored:
        counts[found.names.get(key, str(key))] += found.counts[key]
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
