"""How much is printed on stderr."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import dataclass
from typing import Annotated

import typer

from imgclassify.cli import console
from imgclassify.cli.option_groups import OTHER_PANEL

Debug = Annotated[
    bool,
    typer.Option(
        "--debug", rich_help_panel=OTHER_PANEL, help="Print the traceback of an error.", envvar="IMGCLASSIFY_DEBUG"
    ),
]
NoProgress = Annotated[
    bool, typer.Option("--no-progress", rich_help_panel=OTHER_PANEL, help="Do not show progress on stderr.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=OTHER_PANEL, help="Print only errors on stderr.")
]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConsoleOptions:
    """How much is printed on stderr."""

    no_progress: NoProgress = False
    quiet: Quiet = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            rich_help_panel=OTHER_PANEL,
            help="Print more on stderr: model, engine and device.",
        ),
    ] = False
    debug: Debug = False

    def configure(self) -> None:
        """Applies these options to the console of this process."""
        console.configure_console(
            be_quiet=self.quiet,
            be_verbose=self.verbose,
            be_debug=self.debug,
            show_progress=not self.no_progress,
        )
