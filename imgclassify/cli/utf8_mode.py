"""Runs the command line in Python's UTF-8 mode, so that a file's name is the same text in every locale.

Otherwise Python would decode names with the encoding of the locale, and the same file would have another `source`
in another locale.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_VARIABLE = "PYTHONUTF8"


def restart_in_utf8_mode() -> None:
    """Replaces this process by one in UTF-8 mode. Returns only if that was done before, or is impossible."""
    if os.environ.get(_VARIABLE) == "1" or not sys.executable:
        return
    os.environ[_VARIABLE] = "1"  # also for worker processes
    # The option works with -E and -I too, which ignore the variable.
    os.execv(sys.executable, [os.fsencode(sys.executable), b"-X", b"utf8", *_read_arguments()[1:]])


def _read_arguments() -> list[bytes]:
    """Returns the command line of this process.

    On Linux these are the bytes that the process was given. Decoding them with the encoding of the locale and
    encoding the text again need not give the same bytes.
    """
    try:
        arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        arguments = []
    if len(arguments) == len(sys.orig_argv):
        return arguments
    return [os.fsencode(argument) for argument in sys.orig_argv]
