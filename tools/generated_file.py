"""The end of a tool that generates one file: writes it, or with --check only compares."""

import sys
from pathlib import Path


def write_or_check(target: Path, text: str, *, check: bool) -> int:
    """Writes a generated file unless it is up to date, and prints which.

    Args:
        check: write nothing.

    Returns:
        The exit status: 1 if the file differs and nothing was written, else 0.
    """
    name = f"{target.parent.name}/{target.name}"
    if target.is_file() and target.read_bytes() == text.encode():
        print(f"{name} is up to date")
        return 0
    if check:
        print(f"{name} differs: run this tool without --check", file=sys.stderr)
        return 1
    target.write_bytes(text.encode())
    print(f"{name} written")
    return 0
