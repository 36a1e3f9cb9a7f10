"""The undo list of a sort: a file in its folder with one line for each action, written before the action."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, NamedTuple, Self

from imgclassify.errors import UsageError, describe_error
from imgclassify.files import temp_path

SCHEMA = "imgclassify.sort/1"
"""Identifies the structure of an undo list. A breaking change increases the number."""

_PREFIX = "imgclassify-undo-"
_SUFFIX = ".jsonl"

FOLDER = "folder"
"""The action of making a folder."""
_FAILED = "failed"
"""Marks the last action as one that did not happen."""


class UndoEntry(NamedTuple):
    """One action."""

    action: str
    """One of plan.ACTIONS, or FOLDER."""
    target: Path
    source: Path
    """Absolute. For FOLDER the same as the target."""


class UndoList:
    """Writes the undo list of a run. Used in a with statement. The file is created with the first entry."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: the folder that files are sorted into. The list is made in it.
        """
        self._folder = folder
        self._stream: Any = None
        self.path: Path | None = None
        """The file; None before the first entry."""

    def add(self, entry: UndoEntry) -> None:
        """Appends an action that is about to begin.

        Raises:
            UsageError: the file cannot be written.
        """
        target = str(entry.target.relative_to(self._folder))
        source = {} if entry.action == FOLDER else {"source": str(entry.source)}
        self._write({"action": entry.action, "target": target, **source})

    def revoke(self) -> None:
        """Appends that the last action did not happen."""
        self._write({"action": _FAILED})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            with suppress(OSError):  # what could not be written has been reported
                self._stream.close()

    def _write(self, value: dict[str, str]) -> None:
        try:
            if self._stream is None:
                self._create()
            self._stream.write(json.dumps(value) + "\n")
            self._stream.flush()
        except OSError as error:
            raise UsageError(
                f"cannot write the undo list in {str(self._folder)!r}: {describe_error(error)}",
                hint="choose another --into",
            ) from error

    def _create(self) -> None:
        """Makes the file, and before it the folder if there is none. If that fails, nothing is left of them."""
        makes_folder = not self._folder.is_dir()
        if makes_folder:
            self._folder.mkdir()
        stamp = datetime.now().astimezone().strftime("%Y%m%dT%H%M%S-%f")
        path = self._folder / f"{_PREFIX}{stamp}{_SUFFIX}"
        try:
            stream = path.open("x", encoding="ascii")
            stream.write(json.dumps({"schema": SCHEMA}) + "\n")
            if makes_folder:
                stream.write(json.dumps({"action": FOLDER, "target": "."}) + "\n")
            stream.flush()
        except OSError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                if makes_folder:
                    self._folder.rmdir()
            raise
        self.path, self._stream = path, stream


def draft_path(target: Path, undo_list: Path) -> Path:
    """Returns where an incomplete copy of a run is written. The undo list's name makes it the run's own."""
    return temp_path(target, f".{undo_list.stem}")


def find_lists(folder: Path) -> list[Path]:
    """Returns the undo lists in a folder, the oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def read_entries(path: Path) -> list[UndoEntry]:
    """Returns the actions of an undo list, the first first.

    Raises:
        UsageError: the file cannot be read, or is not an undo list.
    """
    try:
        return list(_parse_entries(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = describe_error(error) if isinstance(error, OSError) else "it is damaged, or not an undo list"
        raise UsageError(
            f"cannot read the undo list {str(path)!r}: {reason}",
            hint=f"give a file {_PREFIX}….jsonl from a folder that `imgclassify sort` made",
        ) from error


def _parse_entries(path: Path) -> Iterator[UndoEntry]:
    folder = Path(os.path.realpath(path)).parent
    # A last line without a line feed was cut off before its action began.
    schema, *lines = path.read_text("ascii").split("\n")[:-1]
    if json.loads(schema)["schema"] != SCHEMA:
        raise ValueError(schema)
    last: UndoEntry | None = None
    for line in lines:
        value = json.loads(line)
        if value["action"] == _FAILED:
            last = None
            continue
        if last:
            yield last
        target = PurePath(value["target"])
        source = Path(value.get("source", folder / target))
        # Nothing outside the list's folder is ever removed.
        if target.is_absolute() or ".." in target.parts or not source.is_absolute():
            raise ValueError(line)
        last = UndoEntry(value["action"], folder / target, source)
    if last:
        yield last
