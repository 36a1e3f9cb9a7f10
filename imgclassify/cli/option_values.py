"""Parsers and shell completion for the values of options."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from imgclassify.errors import UsageError

if TYPE_CHECKING:
    from imgclassify.catalog import ModelManifest


def complete_model(incomplete: str) -> list[str]:
    """Returns the names of catalogued models that begin with `incomplete`, or NAME@WEIGHTS if it has an @."""
    return _complete_names(incomplete, lambda manifest: manifest.has_weights)


def complete_architecture(incomplete: str) -> list[str]:
    """Returns what `--arch` can name, as `complete_model` does: also architectures without weights."""
    from imgclassify.catalog import PROVIDERS

    return _complete_names(incomplete, lambda manifest: manifest.provider in PROVIDERS)


def complete_catalogued(incomplete: str) -> list[str]:
    """Returns all that the catalog has, as `complete_model` does."""
    return _complete_names(incomplete, lambda _: True)


def _complete_names(incomplete: str, select: Callable[[ModelManifest], bool]) -> list[str]:
    from imgclassify import catalog

    manifests = filter(select, catalog.load_manifests())
    names = [each.reference for each in manifests] if "@" in incomplete else [each.name for each in manifests]
    return sorted({name for name in names if name.startswith(incomplete)})


def complete_format(incomplete: str) -> list[str]:
    """Returns the names of output formats for predictions that begin with `incomplete`."""
    from imgclassify.output.formats import format_names

    return complete_from(format_names("predictions").split(", "))(incomplete)


def complete_from(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Returns a function that returns those of the values that begin with what is typed."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def complete_engine(incomplete: str) -> list[str]:
    """Returns the names of engines that begin with `incomplete`."""
    from imgclassify.engines.engine import ENGINES

    return complete_from(ENGINES)(incomplete)


def complete_dtype(incomplete: str) -> list[str]:
    """Returns the data types of networks that begin with `incomplete`."""
    from imgclassify.engines.engine import DTYPES

    return complete_from(["auto", *DTYPES])(incomplete)


def complete_interpolation(incomplete: str) -> list[str]:
    """Returns the interpolations that begin with `incomplete`."""
    from imgclassify.catalog import INTERPOLATIONS

    return complete_from(INTERPOLATIONS)(incomplete)


def complete_labels(incomplete: str) -> list[str]:
    """Returns label sets and files that begin with `incomplete`. Without a label set, the shell lists the files."""
    from imgclassify.labels import list_label_sets

    names = complete_from(list_label_sets())(incomplete)
    if not names:
        return []
    paths = sorted(Path().glob(glob.escape(incomplete) + "*"))
    return names + [f"{path}/" if path.is_dir() else str(path) for path in paths if path.name[0] != "."]


def parse_number(option: str, text: str, word: str = "auto", *, least: int = 1) -> int | None:
    """Returns a whole number of at least `least`, or None for `word`.

    Raises:
        UsageError: the text is neither.
    """
    if text == word:
        return None
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise UsageError(f"{option} is {text!r}", hint=f"give a whole number of at least {least}, or {word}")
    return number


def parse_size(option: str, text: str | None) -> int | tuple[int, int] | None:
    """Returns pixels: one number for "224", (height, width) for "224x320", None for None.

    Raises:
        UsageError: the text is not a size.
    """
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.lower().replace("×", "x").split("x")]
    except ValueError:
        sides = []
    if len(sides) in (1, 2) and min(sides) >= 1:
        return sides[0] if len(sides) == 1 else (sides[0], sides[1])
    raise UsageError(f"{option} is {text!r}", hint="give pixels such as 224, or HEIGHTxWIDTH such as 224x320")


def parse_channels(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Returns three numbers, or None for None. A single number applies to all three channels.

    Raises:
        UsageError: the text does not hold one or three finite numbers.
    """
    if text is None:
        return None
    try:
        numbers = [float(number) for number in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) == 3 and all(map(math.isfinite, numbers)):
        return (numbers[0], numbers[1], numbers[2])
    raise UsageError(
        f"{option} is {text!r}", hint="give one number such as 0.5, or three such as 0.485,0.456,0.406"
    )
