"""Options that several commands share, and the reading of their values."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

import typer

from imgclassify.errors import UsageError


def complete_model(incomplete: str) -> list[str]:
    """Catalogued names for the shell; with an @, the weights of the name before it."""
    from imgclassify import catalog

    manifests = catalog.load_manifests()
    names = [each.reference for each in manifests] if "@" in incomplete else [each.name for each in manifests]
    return sorted({name for name in names if name.startswith(incomplete)})


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr: model, engine, device.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", envvar="IMGCLASSIFY_DEBUG")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Draw no progress on stderr.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a socket.", envvar="IMGCLASSIFY_OFFLINE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    """The output formats of predict, as output.FORMATS lists them."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"
    parquet = "parquet"
    sqlite = "sqlite"


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
