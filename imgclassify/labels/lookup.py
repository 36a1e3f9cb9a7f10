"""Loads a shipped label set by its name, or a label file of the user by its path."""

from __future__ import annotations

import difflib
import io
import os
import re
import stat
import time
from pathlib import Path

from imgclassify.errors import LabelsError
from imgclassify.labels.label_set import Label, LabelSet
from imgclassify.labels.parsing import parse_labels
from imgclassify.labels.rows import FORMS_HINT
from imgclassify.paths import REINSTALL_HINT, data_folder

MAX_FILE_BYTES = 8 * 2**20
"""Larger files are rejected. ImageNet-21k's 21,841 classes with synonyms and glosses take 3 MB."""
PIPE_SECONDS = 60.0
"""Time limit in seconds for reading a pipe to its end."""

_SHIPPED_HEADER = "class_index\twnid\tlabel\tsynonyms\tgloss"
_WNID = re.compile(r"([nvars][0-9]{8})?")  # empty if it is not known


def list_label_sets() -> list[str]:
    """Returns the names of the shipped label sets, sorted."""
    files = (entry.name for entry in data_folder("labels").iterdir())
    names = (name.removesuffix(".tsv") for name in files if name.endswith(".tsv"))
    return sorted(name for name in names if not name.endswith(".tree"))


def load_labels(name_or_file: str | os.PathLike[str], *, num_classes: int | None = None) -> LabelSet:
    """Returns the shipped label set with this name, or reads the user's file at this path (see `parse_labels`).

    Args:
        num_classes: the required number of classes; None for any.

    Raises:
        LabelsError: there is no such label set or file, the file cannot be read or parsed, or the set does not
            have `num_classes` classes.
    """
    name = os.fspath(name_or_file)
    if name in list_label_sets():
        text = (data_folder("labels") / f"{name}.tsv").read_text(encoding="utf-8")
        label_set = LabelSet(name, _parse_shipped(text, name))
    else:
        label_set = LabelSet(name, parse_labels(read_label_text(name), name))
    if num_classes is not None:
        label_set.require_num_classes(num_classes)
    return label_set


def _parse_shipped(text: str, name: str) -> tuple[Label, ...]:
    try:
        header, *lines = text.removesuffix("\n").split("\n")
        if header != _SHIPPED_HEADER:
            raise ValueError("the header is wrong")
        labels = []
        for position, line in enumerate(lines):
            class_index, wnid, label, synonyms, gloss = line.split("\t")
            if int(class_index) != position or not (
                _WNID.fullmatch(wnid) and label and bool(wnid) == bool(synonyms)
            ):
                raise ValueError(f"line {position + 2} does not describe class {position}")
            names = tuple(synonyms.split("|")) if synonyms else ()
            labels.append(Label(position, wnid or None, label, names, gloss))
    except ValueError as error:
        raise LabelsError(
            f"the label set {name} that ships with imgclassify is damaged: {error}",
            hint=REINSTALL_HINT,
        ) from error
    return tuple(labels)


def read_label_text(name: str, *, what: str = "label file", max_bytes: int | None = None) -> str:
    """Returns the text of the user's file at this path.

    Args:
        what: what the file should be, for errors.
        max_bytes: a larger file is an error. The default is MAX_FILE_BYTES.

    Raises:
        LabelsError: there is no such file, or it is too large, cannot be read or is not text.
    """
    # Only a user's file needs it, not a shipped label set.
    from imgclassify.labels.decoding import decode_text, refuse_other_kinds

    limit = MAX_FILE_BYTES if max_bytes is None else max_bytes
    try:
        data = _read_bytes(Path(name), limit)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(name.lower(), list_label_sets(), n=1)
        raise LabelsError(
            f"no label set is named {name!r}, and no such file exists",
            hint=(f"did you mean {near[0]}? " if near else "")
            + f"use one of the label sets {', '.join(list_label_sets())}, or give the path of a label file",
        ) from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise LabelsError(f"cannot read {name!r}: {reason}", hint=f"give a readable {what}") from error
    if len(data) > limit:
        refuse_other_kinds(data, name, what)
        raise LabelsError(
            f"{name}: more than {limit:,} bytes, not a {what}",
            hint=FORMS_HINT if max_bytes is None else "give a smaller one",
        )
    return decode_text(data, name, what)


def _read_bytes(path: Path, limit: int) -> bytes:
    """Reads a file or pipe. Stops soon after so many bytes.

    Raises:
        OSError: it cannot be read, it is a device or a socket, or it is a pipe that does not end in time.
    """
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        return _read_pipe(path, limit)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("it is a device, not a file")
    with path.open("rb") as file:
        return file.read(limit + 1)


def _read_pipe(path: Path, limit: int) -> bytes:
    """Reads a pipe, such as `<(command)` in a shell, with a time limit.

    Without the limit, a pipe that nobody writes to, or that a writer keeps open, would block for ever.
    """
    import select

    deadline = time.monotonic() + PIPE_SECONDS
    data = bytearray()
    with io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as pipe:
        while len(data) <= limit:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise OSError(f"it is a pipe that did not end within {PIPE_SECONDS:g} s")
            # The pipe is non-blocking: read() returns None if no data is available, and b"" at the end.
            piece = pipe.read(min(limit, MAX_FILE_BYTES))
            if piece == b"":
                break
            data += piece or b""
    return bytes(data)
