"""The images of a training after they were read: which can be used, and which are for validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.evaluation.name_errors import plural
from imgclassify.training.dataset import Dataset, LabelledSource, check_readable
from imgclassify.training.layout import TRAIN, VAL
from imgclassify.training.near_duplicates import group_images
from imgclassify.training.split import find_leaks, split_images
from imgclassify.training.split_file import LEFT_OUT, SplitRow

if TYPE_CHECKING:
    from imgclassify.training.reading import ReadImage


ReadAll = Callable[[Sequence[LabelledSource], int], Sequence["ReadImage"]]
"""Reads images, with so many augmented views of each, and returns what is known of each in the same order."""


class Example(NamedTuple):
    """An image that can be used."""

    source: LabelledSource
    read: ReadImage
    group: int
    """The same for images that are near duplicates."""

    @property
    def class_index(self) -> int:
        return self.source.class_index


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """All images of a training."""

    classes: tuple[str, ...]
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    failed: tuple[tuple[LabelledSource, ReadImage], ...]
    """Those that cannot be opened or decoded."""
    rows: tuple[SplitRow, ...]
    """What became of each image, in the order of the data."""
    is_split: bool
    """Whether the validation part was split off here, and not given."""
    notes: tuple[str, ...]
    """What the user should know, as sentences."""

    @property
    def has_features(self) -> bool:
        """Whether a network has computed features of the images."""
        return all(each.read.features is not None for each in self.train)


def collect_examples(
    dataset: Dataset,
    read_all: ReadAll,
    *,
    views: int,
    fraction: float,
    seed: int,
) -> Examples:
    """Reads all images, leaves out what cannot be used, and splits off a validation part if none is given.

    Of a part that is split off here, no near duplicate is on the other side. With one that is given, the images are
    used as they are, and a note says how many are on both sides.

    Args:
        views: how many augmented views there are to be of each image to train on. If a part is split off here, its
            images have them too.
        fraction: how many of all images are split off, 0..1.

    Raises:
        UsageError: too few images of a class can be used.
    """
    sources = (*dataset.train, *dataset.val)
    read = _read(dataset, read_all, views)
    border = len(dataset.train)
    check_readable(dataset, read[:border], read[border:])
    groups = group_images(read)
    usable = [index for index, each in enumerate(read) if each.error is None]
    if dataset.val:
        parts = {index: TRAIN if index < border else VAL for index in usable}
        notes = _describe_leaks(sources, parts, groups)
    else:
        chosen = split_images(
            [sources[index].class_index for index in usable],
            [groups[index] for index in usable],
            fraction=fraction,
            seed=seed,
            classes=dataset.classes,
        )
        parts = {index: VAL if is_val else TRAIN for index, is_val in zip(usable, chosen, strict=True)}
        notes = []
    notes += _describe_contradictions(dataset, sources, usable, groups)

    def examples(part: str) -> tuple[Example, ...]:
        return tuple(
            Example(sources[index], read[index], groups[index]) for index in usable if parts[index] == part
        )

    return Examples(
        dataset.classes,
        examples(TRAIN),
        examples(VAL),
        failed=tuple((sources[index], each) for index, each in enumerate(read) if each.error),
        rows=tuple(
            SplitRow(
                each.source.name,
                dataset.classes[each.class_index],
                parts.get(index, LEFT_OUT),
                (image.sha256 or b"").hex(),
                f"{image.error.type}: {image.error.message}" if image.error else "",
            )
            for index, (each, image) in enumerate(zip(sources, read, strict=True))
        ),
        is_split=not dataset.val,
        notes=tuple(notes),
    )


def _read(dataset: Dataset, read_all: ReadAll, views: int) -> Sequence[ReadImage]:
    """Reads all images, those to train on first. Those of a given validation part need no views."""
    if not views or not dataset.val:
        return read_all((*dataset.train, *dataset.val), views)
    return [*read_all(dataset.train, views), *read_all(dataset.val, 0)]


def _describe_contradictions(
    dataset: Dataset, sources: Sequence[LabelledSource], usable: Sequence[int], groups: Sequence[int]
) -> list[str]:
    """Returns a note if an image is in several classes: as the same file, or as a near duplicate."""
    first: dict[int, int] = {}
    pairs = [(first.setdefault(groups[index], index), index) for index in usable]
    pairs = [(one, other) for one, other in pairs if sources[one].class_index != sources[other].class_index]
    if not pairs:
        return []
    shown = " and ".join(
        f"{sources[index].source.name!r} ({dataset.classes[sources[index].class_index]})" for index in pairs[0]
    )
    return [f"near duplicates in different classes: {plural(len(pairs), 'image')}, the first are {shown}"]


def _describe_leaks(
    sources: Sequence[LabelledSource], parts: Mapping[int, str], groups: Sequence[int]
) -> list[str]:
    """Returns a note if images of a given validation part are near duplicates of those to train on."""
    in_train, in_val = ([index for index, part in parts.items() if part == each] for each in (TRAIN, VAL))
    leaked = find_leaks([groups[index] for index in in_train], [groups[index] for index in in_val])
    if not leaked:
        return []
    return [
        f"{len(leaked):,} images to train on are near duplicates of images for validation, so the figures are "
        f"better than for new images; the first is {sources[in_train[leaked[0]]].source.name!r}"
    ]
