"""The errors about names of a data set that stand for no class, and about images without a truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from imgclassify.errors import UsageError
from imgclassify.evaluation.class_finder import ClassFinder, Mismatch

_MOST_NAMES = 10
_MOST_IMAGES = 5
LEAVE_OUT = "--ignore-unknown leaves them out, and counts them"


class Unmatched(NamedTuple):
    """A name that stands for no class."""

    name: str
    found: Mismatch
    count: int
    """How many images, or rows, have it."""
    example: str
    """The name of such an image, or the line of such a row."""


def unmatched_error(
    unmatched: Sequence[Unmatched],
    finder: ClassFinder,
    *,
    what: str,
    number: int,
    unit: str = "image",
    lead: str = "",
    counted_from_one: bool = False,
) -> UsageError:
    """Returns the error that lists names, the most frequent first.

    Args:
        what: what they are names of: "folder".
        number: how many different names there are.
        unit: what is counted.
        lead: a clause before the list.
        counted_from_one: whether the names are numbers that seem to count from 1.
    """
    listed = sorted(unmatched, key=lambda each: (-each.count, each.name))
    lines = [
        f"\n  {each.name!r} {finder.explain(each.found, each.name)} "
        f"({plural(each.count, unit)}, such as {each.example})"
        for each in listed[:_MOST_NAMES]
    ]
    if len(listed) > _MOST_NAMES:
        rest = listed[_MOST_NAMES:]
        lines.append(f"\n  and {len(rest)} more, with {plural(sum(each.count for each in rest), unit)}")
    stand = "stands" if len(listed) == 1 else "stand"
    message = f"{lead}{len(listed)} of {plural(number, what + ' name')} {stand} for no class:{''.join(lines)}"
    return UsageError(message, hint=_hint(listed, finder, counted_from_one=counted_from_one))


def _hint(unmatched: Sequence[Unmatched], finder: ClassFinder, *, counted_from_one: bool) -> str:
    if counted_from_one:
        count = len(finder.label_set)
        return (
            f"class indices count from 0, so the last of {count} classes is {count - 1}; these seem to count from 1"
        )
    first = {each.found.kind: each for each in reversed(unmatched)}
    parts = []
    if node := first.get("node"):
        parts.append(f'to count any class under a node as right, add the line "{node.name},{node.found.remedy}"')
    if ambiguous := first.get("ambiguous"):
        parts.append(f'to say which class is meant, add a line such as "{ambiguous.name},{ambiguous.found.remedy}"')
    if unknown := first.get("unknown"):
        near = finder.suggest(unknown.name) or ["CLASS"]
        parts.append(f'to name the class, add a line such as "{unknown.name},{near[0]}"')
    hint = f"give --map FILE: {'; '.join(parts)}"
    return hint + ("; or --ignore-unknown leaves unknown names out, and counts them" if unknown else "")


def no_truth_error(
    names: Sequence[str], count: int, total: int, reason: str, *, hint: str = LEAVE_OUT
) -> UsageError:
    """Returns the error about images without a truth.

    Args:
        names: some or all of them.
        reason: why, as the end of a sentence that begins with the images.
    """
    have = "has" if count == 1 else "have"
    return UsageError(
        f"{count} of {plural(total, 'image')} {have} no truth, because {reason}: {list_some(names, count)}",
        hint=hint,
    )


def list_some(names: Iterable[str], count: int) -> str:
    """Returns up to five names, and how many more there are."""
    some = [repr(name) for name in list(names)[:_MOST_IMAGES]]
    return ", ".join(some) + (f" and {count - len(some)} more" if count > len(some) else "")


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def seem_counted_from_one(names: Iterable[str], num_classes: int) -> bool:
    """Whether the names are numbers that may count from 1: the number of classes is among them, but 0 is not."""
    numbers = {int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 10}
    return num_classes in numbers and min(numbers) == 1 and max(numbers) == num_classes
