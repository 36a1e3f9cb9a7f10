"""The table of --count: how many images have each label as their best prediction."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from imgclassify.errors import UsageError

if TYPE_CHECKING:
    from imgclassify.cli.options.output import OutputOptions
    from imgclassify.results import ImageResult

_Options = TypeVar("_Options", bound="OutputOptions")


class LabelCounts:
    """Counts images by the class, or group, of their best prediction."""

    def __init__(self) -> None:
        # By class and not by label, because two classes may have the same label.
        self._counts: Counter[tuple[int, str | None, str]] = Counter()

    def add(self, result: ImageResult) -> None:
        """Counts an image, unless it failed."""
        if result.predictions:
            best = result.predictions[0]
            self._counts[best.class_index, best.wnid, best.label] += 1

    def print_counts(self, *, as_json: bool) -> None:
        """Prints the counts on stdout, the largest first: as a table, or as a JSON list of objects."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0][0]))
        if as_json:
            names = ("class_index", "wnid", "label")
            documents = [dict(zip(names, key, strict=True)) | {"count": count} for key, count in ordered]
            typer.echo(json.dumps(documents, indent=1, ensure_ascii=False))
        elif ordered:
            from imgclassify.cli.tables import print_table

            total = self._counts.total()
            print_table(
                ["images", "share", "label"],
                [[f"{count:,}", f"{100 * count / total:.1f} %", label] for (_, _, label), count in ordered],
                right=(0, 1),
            )


def separate_counts(output: _Options) -> tuple[_Options, bool]:
    """Returns the options for the records beside --count, and whether the counts are printed as JSON.

    The counts go to stdout, and the records to --output. Without it, the records are discarded.

    Raises:
        UsageError: the records would go to stdout too, or the format is not one that counts can have.
    """
    as_json = output.json or (output.output is None and output.output_format == "json")
    if output.output is None:
        if output.jsonl or output.output_format not in (None, "table", "json"):
            name = "jsonl" if output.jsonl else output.output_format
            raise UsageError(
                f"--count does not print {name}",
                hint="leave the format out or use --json; to write records too, name a file with --output",
            )
        return replace(output, output=Path(os.devnull), output_format="jsonl", json=False), as_json
    if str(output.output) == "-":
        raise UsageError(
            "the counts and the records cannot both go to stdout", hint="name a file with --output, or leave it out"
        )
    return replace(output, json=False), as_json
