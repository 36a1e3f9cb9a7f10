"""The edge of the program: errors become messages on stderr and an exit status, here and nowhere else."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from imgclassify.cli import console
from imgclassify.errors import ExitStatus, ImgclassifyError, UnavailableError

_DISK_FAULTS = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", None)}


class RootGroup(TyperGroup):
    """The root of the commands. No traceback leaves it unless --debug was given."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                # A reader that has gone is noticed here, not when the interpreter exits.
                sys.stdout.flush()
        except ImgclassifyError as error:
            status = _report_error(error, str(error), error.hint, error.exit_status)
        except KeyboardInterrupt:
            console.print_message("interrupted")
            status = ExitStatus.INTERRUPTED
        except BrokenPipeError:
            # The reader has what it wanted (`| head`).
            _discard_stdout()
            status = ExitStatus.OK
        except Exception as error:  # noqa: BLE001 - the last stop before the user
            status = _report_unexpected(error)
        raise typer.Exit(int(status))


def handle_startup_error(error: Exception) -> ExitStatus:
    """What arises before a command is called, such as help that cannot be written."""
    if isinstance(error, BrokenPipeError):
        _discard_stdout()
        return ExitStatus.OK
    if isinstance(error, ImgclassifyError):
        return _report_error(error, str(error), error.hint, error.exit_status)
    return _report_unexpected(error)


class _ClosedStdout(io.StringIO):
    """Stands for a stdout that was closed before the process began; only who writes to it is told."""

    def write(self, text: str) -> int:
        raise UnavailableError("stdout is closed", hint="give it a place, or name a file with --output")

    def reconfigure(self, **settings: object) -> None:
        pass


def _report_unexpected(error: Exception) -> ExitStatus:
    if type(error).__module__.partition(".")[0] in ("click", "typer"):
        raise error  # usage errors and exits, which the framework prints and ends by itself
    if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
        _discard_stdout()
        return _report_error(
            error, f"cannot write to stdout: {error.strerror}", "make room", ExitStatus.UNAVAILABLE
        )
    return _report_error(
        error,
        f"unexpected {type(error).__name__}: {error}",
        "this is a fault of imgclassify; please report it with what --debug prints",
        ExitStatus.UNAVAILABLE,
    )


def _discard_stdout() -> None:
    """Sends what is still buffered nowhere, so that it does not fail once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def configure_stdio() -> None:
    """UTF-8 whatever the locale; a file name that is not valid UTF-8 leaves with the bytes it came with."""
    if sys.stderr is None:  # closed by whoever started the process; what is said there is for nobody
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        sys.stdout = _ClosedStdout()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _report_error(error: BaseException, message: str, hint: str | None, status: ExitStatus) -> ExitStatus:
    if console.debug:
        traceback.print_exception(error, file=sys.stderr)
    console.print_error(message, hint)
    return status
