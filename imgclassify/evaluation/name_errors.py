"""The errors about names of a data set that stand for no class, and about images without a truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from imgclassify.errors import UsageError, make_printable
from imgclassify.evaluation.class_finder import ClassFinder, Mismatch

_MOST_NAMES = 10
_MOST_IMAGES = 5
_LEAVE_OUT = "--ignore-unknown leaves such images out, and counts them"
_GIVE_FILE = "give the truth in a file: --truth FILE"
_LEAVE_OUT_NAMES = "--ignore-unknown leaves out the images of unknown names, and counts them"
_COUNTED_FROM_ONE = (
    "class indices count from 0, but these seem to count from 1; give --map FILE with lines such as 1,0 and 2,1"
)


class Unmatched(NamedTuple):
    """A name that stands for no class."""

    name: str
    found: Mismatch
    images: int
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
    more_hint: str = "",
    counted_from_one: bool = False,
    instead: str = "",
) -> UsageError:
    """Returns the error that lists names, the most frequent first.

    Args:
        what: what they are names of: "folder".
        number: how many different names there are.
        unit: what is counted.
        lead: a clause before the list.
        more_hint: a clause behind the hint.
        counted_from_one: whether the names are numbers that seem to count from 1.
        instead: another hint.
    """
    listed = sorted(unmatched, key=lambda each: (-each.images, each.name))
    lines = [f"\n  {_describe(each, finder, unit)}" for each in listed[:_MOST_NAMES]]
    if rest := listed[_MOST_NAMES:]:
        lines.append(f"\n  and {len(rest):,} more, with {plural(sum(each.images for each in rest), unit)}")
    does = "does" if len(listed) == 1 else "do"
    return UsageError(
        f"{lead}{len(listed):,} of {plural(number, what + ' name')} {does} not name one class of "
        f"{finder.label_set.name}:{''.join(lines)}",
        hint=_COUNTED_FROM_ONE if counted_from_one else instead or _hint(listed, finder) + more_hint,
    )


def _describe(each: Unmatched, finder: ClassFinder, unit: str) -> str:
    # Few images may have been put there by mistake.
    example = f", such as {each.example}" if each.images <= _MOST_IMAGES else ""
    name = f"{each.name!r} ({plural(each.images, unit)}{example})"
    if each.found.kind == "unknown":
        near = finder.suggest(each.name)
        return f"{name} is unknown" + (f"; did you mean {' or '.join(near)}?" if near else "")
    return f"{name} {each.found.reason}; a line of a map for it: {_map_line(each.name, each.found.remedy)}"


def _hint(unmatched: Sequence[Unmatched], finder: ClassFinder) -> str:
    lines = [
        (each.name, each.found.remedy or next(iter(finder.suggest(each.name)), ""))
        for each in unmatched[:_MOST_NAMES]
    ]
    name, remedy = next((line for line in lines if line[1]), (unmatched[0].name, "CLASS"))
    hint = f"give --map FILE with a line for each of these names, such as {_map_line(name, remedy)}"
    return hint + (f"; {_LEAVE_OUT_NAMES}" if any(each.found.kind == "unknown" for each in unmatched) else "")


def _map_line(name: str, remedy: str) -> str:
    """Returns a line for a map file, with quotes where a name needs them."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow([name, remedy])
    return make_printable(stream.getvalue())


def no_truth_error(names: Sequence[str], count: int, total: int, reason: str) -> UsageError:
    """Returns the error about images without a truth.

    Args:
        names: some or all of them.
        reason: why, as the end of a sentence that begins with the images.
    """
    have = "has" if count == 1 else "have"
    return UsageError(
        f"{count:,} of {plural(total, 'image')} {have} no truth, because {reason}: {list_some(names, count)}",
        hint=_LEAVE_OUT if count < total else _GIVE_FILE,
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
