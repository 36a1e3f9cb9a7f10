"""Where results are written, and in which form."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli.option_values import complete_format
from imgclassify.errors import UsageError
from imgclassify.output.formats import format_names

if TYPE_CHECKING:
    from imgclassify.output.formats import OutputFormat
    from imgclassify.output.records import RecordType

OUTPUT_PANEL = "Output"

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=OUTPUT_PANEL,
        show_default=False,
        help="File to write to. Default: stdout.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        rich_help_panel=OUTPUT_PANEL,
        help="If --output has a result already, start again and replace it.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        rich_help_panel=OUTPUT_PANEL,
        show_default=False,
        help="Also write a page with figures, charts and mistakes: one HTML file. Needs Jinja2.",
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        "--top-k", "-k", metavar="N", min=1, rich_help_panel=OUTPUT_PANEL, help="Number of predictions per image."
    ),
]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OutputOptions:
    """Where records are written, and in which format."""

    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            autocompletion=complete_format,
            metavar="FORMAT",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help=f"Output format: {format_names('predictions')}. "
            "Default: from the extension of --output, else table.",
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT_PANEL, help="Short for --format json.")] = (
        False
    )
    jsonl: Annotated[
        bool, typer.Option("--jsonl", rich_help_panel=OUTPUT_PANEL, help="Short for --format jsonl.")
    ] = False
    output: Output = None
    overwrite: Overwrite = False

    def find_format(self, record_type: "RecordType[Any]", *, default: str) -> "OutputFormat":
        """Returns the selected output format. Without an option for it, the extension of --output decides.

        Args:
            record_type: the kind of record that the format must hold.
            default: name of the format for stdout.

        Raises:
            UsageError: the format is unknown or cannot hold such records, or several are given.
        """
        from imgclassify.output import formats

        names = {name for name, wanted in (("json", self.json), ("jsonl", self.jsonl)) if wanted}
        names |= set() if self.output_format is None else {self.output_format}
        if len(names) > 1:
            raise UsageError(f"several formats given: {', '.join(sorted(names))}", hint="choose one of them")
        if names:
            return formats.find_format(names.pop(), record_type)
        if self.output is None or str(self.output) == "-":
            return formats.find_format(default, record_type)
        return formats.format_of_path(self.output, record_type)
