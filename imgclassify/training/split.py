"""Splits images into a part to train on and one for validation, so that near duplicates are never on both sides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from imgclassify.errors import UsageError


def split_images(
    class_indices: Sequence[int], groups: Sequence[int], *, fraction: float, seed: int, classes: Sequence[str]
) -> list[bool]:
    """Returns for each image whether it is for validation.

    Groups are drawn in random order. One goes to the validation part if all classes in it still lack images there,
    that is, if it does not bring one of them above its share. Each class gets at least one image in each part.

    Args:
        class_indices: (N,).
        groups: (N,). Images with an equal number are near duplicates.
        fraction: the share of each class that is for validation, 0..1.
        seed: of NumPy's PCG64, which draws the order.
        classes: their names, for errors.

    Raises:
        UsageError: all images of a class are near duplicates of each other, or are tied to those of other classes.
    """
    import numpy as np

    members: dict[int, list[int]] = defaultdict(list)
    for image, group in enumerate(groups):
        members[group].append(image)
    ordered = list(members.values())
    contents = [Counter(class_indices[image] for image in each) for each in ordered]
    totals = Counter(class_indices)
    wanted = {index: max(1, round(fraction * total)) for index, total in totals.items()}
    _require_groups(contents, totals, classes)
    chosen: set[int] = set()
    held: Counter[int] = Counter()
    order: list[int] = np.random.default_rng(seed).permutation(len(ordered)).tolist()
    for number in order:
        if all(held[index] + count <= wanted[index] for index, count in contents[number].items()):
            chosen.add(number)
            held.update(contents[number])
    _fill_up(chosen, held, contents, totals, classes)
    is_val = [False] * len(groups)
    for number in chosen:
        for image in ordered[number]:
            is_val[image] = True
    return is_val


def find_leaks(train_groups: Sequence[int], val_groups: Sequence[int]) -> list[int]:
    """Returns the positions of the images to train on that are near duplicates of images for validation."""
    known = set(val_groups)
    return [position for position, group in enumerate(train_groups) if group in known]


def _require_groups(contents: Sequence[Counter[int]], totals: Counter[int], classes: Sequence[str]) -> None:
    per_class = Counter(index for content in contents for index in content)
    for index in sorted(totals):
        if per_class[index] < 2:
            raise UsageError(
                f"all {totals[index]:,} images of the class {classes[index]!r} are near duplicates of each other, "
                "so none can be kept for validation",
                hint="add other images of it, or give images for validation with --val FOLDER",
            )


def _fill_up(
    chosen: set[int],
    held: Counter[int],
    contents: Sequence[Counter[int]],
    totals: Counter[int],
    classes: Sequence[str],
) -> None:
    """Adds the smallest possible group for each class that has no image for validation, as its groups are large."""
    for index in sorted(totals):
        if held[index]:
            continue
        able = [
            number
            for number, content in enumerate(contents)
            if number not in chosen
            and index in content
            and all(held[each] + count < totals[each] for each, count in content.items())
        ]
        if not able:
            raise UsageError(
                f"no image of the class {classes[index]!r} can be kept for validation, because its images are near "
                "duplicates of those of other classes",
                hint="see `imgclassify duplicates`, or give images for validation with --val FOLDER",
            )
        number = min(able, key=lambda each: (sum(contents[each].values()), each))
        chosen.add(number)
        held.update(contents[number])
