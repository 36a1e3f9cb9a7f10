"""Reading the values of options, and completing them in the shell."""

from __future__ import annotations

import math

from imgclassify.errors import UsageError


def complete_model(incomplete: str) -> list[str]:
    """Catalogued names; behind an @, the weights of the name before it."""
    from imgclassify import catalog

    manifests = catalog.load_manifests()
    names = [each.reference for each in manifests] if "@" in incomplete else [each.name for each in manifests]
    return sorted({name for name in names if name.startswith(incomplete)})


def complete_format(incomplete: str) -> list[str]:
    """Names of output formats."""
    from imgclassify.output.formats import FORMATS

    return [each.name for each in FORMATS if each.name.startswith(incomplete)]


def parse_number(option: str, text: str) -> int | None:
    """A number of at least 1, or None for "auto"."""
    if text == "auto":
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"{option} is {text!r}", hint="give a number of at least 1, or auto")
    return number


def parse_size(option: str, text: str | None) -> int | tuple[int, int] | None:
    """Pixels: "224", or "224x320" for height and width."""
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.lower().replace("×", "x").split("x")]
    except ValueError:
        sides = []
    if len(sides) == 1:
        return sides[0]
    if len(sides) == 2:
        return (sides[0], sides[1])
    raise UsageError(f"{option} is {text!r}", hint="give pixels such as 224, or HEIGHTxWIDTH such as 224x320")


def parse_channels(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Three numbers, or one for all three channels."""
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
