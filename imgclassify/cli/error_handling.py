"""Turns errors into messages on stderr and an exit status. No other module does this."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from typing import Any

import typer

from imgclassify.cli import console
from imgclassify.cli.app import CommandGroup
from imgclassify.cli.shutdown import watch_interrupts
from imgclassify.errors import ExitStatus, ImgclassifyError, UnavailableError

TORCH_PACKAGES = ("torch", "torchvision", "timm")
"""The packages that docs/install.md leaves out of a slim installation."""
_DISK_FAULTS = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", None)}


class ErrorHandlingGroup(CommandGroup):
    """A root command group that reports errors and ends with their exit status. Tracebacks need --debug."""

    def invoke(self, ctx: Any) -> Any:
        with watch_interrupts() as interrupts:
            try:
                try:
                    return super().invoke(ctx)
                finally:
                    # Flushed here, so that a closed pipe is noticed now and not when the interpreter exits.
                    sys.stdout.flush()
            except KeyboardInterrupt:
                status = _report_interrupt()
            except BrokenPipeError:
                # The reader has stopped early, as in `| head`.
                _discard_stdout()
                status = ExitStatus.OK
            except Exception as error:  # the last handler before the user
                if _is_of_framework(error):
                    raise
                status = _report_interrupt() if interrupts else _report_exception(error)
        raise typer.Exit(int(status))


def handle_startup_error(error: Exception) -> ExitStatus:
    """Reports an error from before a command is called, such as unwritable help. Returns the exit status."""
    if isinstance(error, BrokenPipeError):
        _discard_stdout()
        return ExitStatus.OK
    if _is_of_framework(error):
        raise error
    return _report_exception(error)


class _ClosedStdout(io.StringIO):
    """Replaces a stdout that was closed before the process began. Only writing to it is an error."""

    def write(self, text: str) -> int:
        raise UnavailableError("stdout is closed", hint="redirect stdout, or give a file with --output")

    def reconfigure(self, **settings: object) -> None:
        pass


def _is_of_framework(error: Exception) -> bool:
    """Returns whether the framework handles it: an exit, or help for a command without arguments."""
    return type(error).__module__.partition(".")[0] in ("click", "typer")


def _report_interrupt() -> ExitStatus:
    console.print_message("interrupted")
    return ExitStatus.INTERRUPTED


def _report_exception(error: Exception) -> ExitStatus:
    if isinstance(error, ImgclassifyError):
        return _report_error(error, str(error), error.hint, error.exit_status)
    if isinstance(error, ModuleNotFoundError) and error.name in TORCH_PACKAGES:
        return _report_error(
            error,
            f"this needs {error.name}, which a slim installation does not have",
            f"pip install {' '.join(TORCH_PACKAGES)}; without them, models of the catalog run on the CPU in "
            "float32",
            ExitStatus.UNAVAILABLE,
        )
    if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
        _discard_stdout()
        return _report_error(
            error,
            f"cannot write to stdout: {error.strerror}",
            "check the disk and its free space",
            ExitStatus.UNAVAILABLE,
        )
    return _report_error(
        error,
        f"unexpected {type(error).__name__}: {error}",
        "this is a bug in imgclassify; please report it with the output of --debug",
        ExitStatus.UNAVAILABLE,
    )


def _discard_stdout() -> None:
    """Redirects stdout to the null device, so that the rest of its buffer does not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def configure_stdio() -> None:
    """Sets stdout and stderr to UTF-8, whatever the locale.

    A file name that is not valid UTF-8 is written with its original bytes.
    """
    if sys.stderr is None:  # it was closed when the process was started
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
