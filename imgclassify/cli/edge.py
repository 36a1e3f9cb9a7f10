"""The edge of the program: errors become messages on stderr and an exit status, here and nowhere else."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from imgclassify.cli import console
from imgclassify.errors import ExitStatus, ImgclassifyError


class Edge(TyperGroup):
    """The root of the commands. No traceback leaves it unless --debug was given."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                # A reader that has gone is noticed here, not when the interpreter exits.
                sys.stdout.flush()
        except ImgclassifyError as error:
            status = _report(error, str(error), error.hint, error.exit_status)
        except KeyboardInterrupt:
            console.say("interrupted")
            status = ExitStatus.INTERRUPTED
        except BrokenPipeError:
            # The reader has what it wanted (`| head`). What is still buffered must not fail at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = ExitStatus.OK
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("click", "typer"):
                raise  # usage errors and exits, which the framework prints and ends by itself
            status = _report(
                error,
                f"unexpected {type(error).__name__}: {error}",
                "this is a fault of imgclassify; please report it with what --debug prints",
                ExitStatus.UNAVAILABLE,
            )
        raise typer.Exit(int(status))


def guard_streams() -> None:
    """UTF-8 whatever the locale; a file name that is not valid UTF-8 leaves with the bytes it came with."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _report(error: BaseException, message: str, hint: str | None, status: ExitStatus) -> ExitStatus:
    if console.debug:
        traceback.print_exception(error, file=sys.stderr)
    console.error(message, hint)
    return status
