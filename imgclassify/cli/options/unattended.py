"""What happens to images that fail, and to a run that is stopped."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from imgclassify.images import MAX_PIXELS, TIME_LIMIT

_UNATTENDED = "Running unattended"

FailFast = Annotated[
    bool, typer.Option("--fail-fast", rich_help_panel=_UNATTENDED, help="Stop at the first failed image.")
]
MaxErrors = Annotated[
    int | None,
    typer.Option(
        "--max-errors",
        metavar="N",
        min=1,
        rich_help_panel=_UNATTENDED,
        show_default=False,
        help="Stop when N images have failed.",
    ),
]
Summary = Annotated[
    Path | None,
    typer.Option(
        "--summary",
        metavar="FILE",
        rich_help_panel=_UNATTENDED,
        show_default=False,
        help="Write a summary of the run to FILE as JSON.",
    ),
]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnattendedOptions:
    """How an unattended run resumes, stops at failures and reports."""

    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=_UNATTENDED,
            help="Keep the records in --output and process only the other sources. "
            "If there are no records yet, a new run starts.",
        ),
    ] = False
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            rich_help_panel=_UNATTENDED,
            help="Like --resume, but also process the failed sources again.",
        ),
    ] = False
    fail_fast: FailFast = False
    max_errors: MaxErrors = None
    summary: Summary = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FailureOptions:
    """How a run that cannot be resumed stops at failures and reports."""

    fail_fast: FailFast = False
    max_errors: MaxErrors = None
    summary: Summary = None

    def to_unattended(self) -> UnattendedOptions:
        """Returns the options of a run that is not resumed."""
        return UnattendedOptions(fail_fast=self.fail_fast, max_errors=self.max_errors, summary=self.summary)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DecodingOptions:
    """Limits on decoding one image, and what is done with a damaged one."""

    max_pixels: Annotated[
        int,
        typer.Option(
            "--max-pixels",
            metavar="N",
            min=1,
            rich_help_panel=_UNATTENDED,
            help="Reject images with more pixels, before decoding. Each gets an error record.",
        ),
    ] = MAX_PIXELS
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate",
            rich_help_panel=_UNATTENDED,
            help="Decode in separate processes. If a decoder crashes or hangs, only its image fails.",
        ),
    ] = False
    time_limit: Annotated[
        float,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            rich_help_panel=_UNATTENDED,
            help="Time limit for decoding one image, with --isolate.",
        ),
    ] = TIME_LIMIT
    decode_damaged: Annotated[
        bool,
        typer.Option(
            "--decode-damaged",
            rich_help_panel=_UNATTENDED,
            help="Use what there is of a damaged JPEG, PNG, WebP or GIF. Its record is marked as damaged.",
        ),
    ] = False

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier."""
        return asdict(self)

    def to_settings(self) -> dict[str, int | str]:
        """Returns the options that records depend on, as settings of their output. Without them, it is empty."""
        return {"decode_damaged": "yes"} if self.decode_damaged else {}
