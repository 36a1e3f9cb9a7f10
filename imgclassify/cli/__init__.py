"""The command line: `main` and the tree of commands. Each command is a thin client of the library."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from imgclassify import __version__
from imgclassify.cli import cache, doctor, labels, models
from imgclassify.cli.edge import Edge, guard_streams
from imgclassify.cli.predict import predict
from imgclassify.errors import ExitStatus

app = typer.Typer(
    cls=Edge,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Name what is in pictures, with pretrained models.",
    epilog="Example: imgclassify predict dog.jpg",
)
app.command(
    epilog="Exit status: 0 every image answered, 1 some failed, 2 wrong usage, 3 model or labels unavailable, "
    "4 no image found, 130 interrupted."
)(predict)
app.add_typer(models.app, name="models")
app.add_typer(labels.app, name="labels")
app.add_typer(cache.app, name="cache")
app.command()(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imgclassify {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script."""
    guard_streams()
    try:
        app(prog_name="imgclassify")
    except SystemExit as ended:
        if ended.code == ExitStatus.INTERRUPTED:
            # What was to be written is written; threads that still wait for a slow server are not waited for.
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(ExitStatus.INTERRUPTED)
        raise
