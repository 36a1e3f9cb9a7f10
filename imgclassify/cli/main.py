"""`main` and the command tree. The module of a command is imported only when the command is used."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from imgclassify._version import __version__
from imgclassify.cli.app import CommandApp
from imgclassify.cli.error_handling import ErrorHandlingGroup, configure_stdio, handle_startup_error
from imgclassify.errors import ExitStatus
from imgclassify.paths import inductor_folder
from imgclassify.telemetry import disable_telemetry

COMMANDS = {
    "predict": "Classify images.",
    "evaluate": "Measure how good a model is on labelled images.",
    "calibrate": "Learn from labelled images how far a model's probabilities can be trusted.",
    "train": "Teach a network your own classes.",
    "preview": "Show which part of an image the network sees.",
    "embed": "Turn images into vectors: the features before a network's last layer.",
    "duplicates": "Find images that are the same file, the same pixels, or the same image changed.",
    "search": "Find the images nearest to an image, among vectors of `embed`.",
    "sort": "Put image files into folders by their predictions.",
    "compare": "Compare two models, or a faster setting with the exact one, on your own images.",
    "export": "Write a whole classifier into one file, for programs without imgclassify.",
    "models": "List, show, add, fetch, prepare, verify and remove models.",
    "labels": "List, show and search label sets.",
    "cache": "Show or clear the cache of weights and graphs.",
    "doctor": "Check this installation.",
}
"""The line of each command in `imgclassify --help`. The command is `app` in the module commands/NAME.py."""

EXAMPLES = {
    "one image": "imgclassify predict dog.jpg",
    "a folder, as a table": "imgclassify predict photos/ -o labels.csv",
    "all options": "imgclassify predict --help",
}


class LazyGroup(ErrorHandlingGroup):
    """The root command group. Listing the commands imports none of them. Running one imports only that one."""

    examples = EXAMPLES
    _listing = False

    def main(self, *args: Any, **settings: Any) -> Any:
        if "_IMGCLASSIFY_COMPLETE" in os.environ:
            from imgclassify.cli.completion import register_bash_completion

            register_bash_completion()
        return super().main(*args, **settings)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if self._listing:  # only the help line is needed, so the module is not imported
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name])
        command = get_command(import_module(f"imgclassify.cli.commands.{cmd_name}").app)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


app = CommandApp(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Classify images with pretrained models.",
)


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
    """Runs the command line, then ends the process with its exit status."""
    configure_stdio()
    disable_telemetry()
    # torch creates this folder on import. By default it is in the folder for temporary files.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(inductor_folder()))
    try:
        try:
            app(prog_name="imgclassify")
        finally:
            sys.stdout.flush()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else ExitStatus.OK
    except Exception as error:  # noqa: BLE001 - the last handler before the user
        status = handle_startup_error(error)
    # The output is complete once the streams are flushed. os._exit skips the teardown of the interpreter and of
    # the network, which takes a quarter of the time of one image. It also does not wait for threads that are
    # still waiting for a slow server.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
