"""Divides images into a part to train on and a validation part, with each class and each group in mind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import floor
from typing import NamedTuple

from numpy.random import PCG64

from imgclassify.errors import UsageError

_OWN_PART = "give the validation part yourself: --val FOLDER"


def split_images(
    class_indices: Sequence[int],
    groups: Sequence[int],
    *,
    fraction: float,
    seed: int,
    classes: Sequence[str] = (),
) -> list[bool]:
    """Returns for each image whether it is of the validation part.

    A group is whole on one side. Each class has about this fraction of its images in the validation part, and at
    least one image on each side. The parts of all classes are rounded together, so that they sum up to the fraction
    of all images. Where groups are large, a part is as near as whole groups come.

    The order in which groups are taken is that of the first 64-bit numbers of numpy's PCG64 with this seed, one for
    each group by its first image. Unlike the methods of a Generator, these are the same in all versions of numpy.

    Args:
        class_indices: of each image.
        groups: the number of each image's group.
        fraction: of the images that are for validation, above 0 and below 1.
        classes: the names of the classes, for errors.

    Raises:
        UsageError: the fraction is not between 0 and 1, or a class cannot have an image on each side.
    """
    if not 0 < fraction < 1:
        raise UsageError(
            f"fraction must be above 0 and below 1, not {fraction}",
            hint="a fifth of the images is 0.2",
            argument="fraction",
        )
    names = dict(enumerate(classes))
    split = _Split(class_indices, groups, seed)
    split.require_groups(names)
    quotas = _compute_quotas(Counter(class_indices), fraction)
    # A class of few groups leaves the least choice.
    for index in sorted(quotas, key=lambda index: (len(split.groups_of[index]), index)):
        split.fill(index, quotas[index])
    split.require_both_sides(names)
    return [group in split.taken for group in groups]


def find_leaks(train_groups: Sequence[int], val_groups: Sequence[int]) -> list[int]:
    """Returns the indices of the images to train on that are in a group with one of the validation part.

    Args:
        train_groups: the groups of the images to train on.
        val_groups: those of the validation part. All were found together, so that a number is the same group.
    """
    of_val = set(val_groups)
    return [index for index, group in enumerate(train_groups) if group in of_val]


def _compute_quotas(counts: Mapping[int, int], fraction: float) -> dict[int, int]:
    """Returns how many images of each class are for validation: at least one, and not all."""
    quotas: dict[int, int] = {}
    before = total = 0.0
    for index in sorted(counts):
        total += fraction * counts[index]
        # The sums are rounded, so that the parts of small classes are not all rounded in the same direction.
        quota = floor(total + 0.5) - floor(before + 0.5)
        quotas[index] = max(1, min(quota, counts[index] - 1))
        before = total
    return quotas


class _Group(NamedTuple):
    number: int
    counts: Mapping[int, int]
    """Class index → how many images of it are in the group."""


class _Split:
    """The groups of each class, and which of them are taken for validation."""

    def __init__(self, class_indices: Sequence[int], groups: Sequence[int], seed: int) -> None:
        counts: dict[int, Counter[int]] = defaultdict(Counter)
        for index, group in zip(class_indices, groups, strict=True):
            counts[group][index] += 1
        order = PCG64(seed).random_raw(len(counts))
        shuffled = [number for _, number in sorted(zip(order.tolist(), counts, strict=True))]
        self.groups_of: dict[int, list[_Group]] = defaultdict(list)
        """In the order in which they are taken. Groups of one class come first, since they bind no other class."""
        for number in sorted(shuffled, key=lambda number: len(counts[number]) > 1):
            for index in counts[number]:
                self.groups_of[index].append(_Group(number, counts[number]))
        self.taken: set[int] = set()
        """The numbers of the groups of the validation part."""
        self._left = {index: len(groups) for index, groups in self.groups_of.items()}
        """How many groups of each class are not taken."""

    def require_groups(self, names: Mapping[int, str]) -> None:
        """Raises UsageError if all images of a class are in one group."""
        for index, groups in sorted(self.groups_of.items()):
            if len(groups) == 1:
                count = groups[0].counts[index]
                why = (
                    f"all its {count:,} images are near duplicates of each other"
                    if count > 1
                    else "it has only one"
                )
                raise UsageError(
                    f"no image of {_name(index, names)} can be set apart for validation: {why}",
                    hint=f"add other images of it, or {_OWN_PART}",
                )

    def fill(self, index: int, quota: int) -> None:
        """Takes groups of a class until it has its quota of images, as nearly as whole groups come."""
        groups = self.groups_of[index]
        lacking = quota - sum(group.counts[index] for group in groups if group.number in self.taken)
        for group in groups:
            is_new = group.number not in self.taken
            if is_new and group.counts[index] <= lacking and self._may_take(group):
                self._take(group)
                lacking -= group.counts[index]
        if lacking <= 0:
            return
        rest = [group for group in groups if group.number not in self.taken and self._may_take(group)]
        smallest = min(rest, key=lambda group: group.counts[index], default=None)
        has_none = not any(group.number in self.taken for group in groups)
        if smallest and (has_none or smallest.counts[index] - lacking < lacking):
            self._take(smallest)

    def require_both_sides(self, names: Mapping[int, str]) -> None:
        """Raises UsageError if a class has no image for validation."""
        for index, groups in sorted(self.groups_of.items()):
            if not any(group.number in self.taken for group in groups):
                raise UsageError(
                    f"no image of {_name(index, names)} can be set apart for validation: all are near duplicates "
                    "of images of other classes",
                    hint=f"see whether images are in the wrong class, add images, or {_OWN_PART}",
                )

    def _may_take(self, group: _Group) -> bool:
        """Whether each class of the group keeps another one to train on."""
        return all(self._left[index] > 1 for index in group.counts)

    def _take(self, group: _Group) -> None:
        self.taken.add(group.number)
        for index in group.counts:
            self._left[index] -= 1


def _name(index: int, names: Mapping[int, str]) -> str:
    return f"class {names.get(index, index)!r}"
