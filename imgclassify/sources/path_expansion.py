"""Expands a path into sources: a file, a folder, an archive, a member of an archive, or a glob."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".
# ruff: noqa: PTH112, PTH113, PTH118, PTH206, PTH207

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import replace

from imgclassify.sources.files import file_or_pipe_source, file_source
from imgclassify.sources.folders import walk_folder
from imgclassify.sources.selection import Selection, describe_skipped
from imgclassify.sources.source import Frame, Notice, Source, has_wildcard

_FRAME = re.compile(r"(.+)#(\d+(?:\.\d+)?)", re.DOTALL)
"""The name of a frame: of a file, and behind it a number or the seconds in a video."""

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tzst")


def expand_path(name: str, notice: Notice, selection: Selection, *, from_file: bool = False) -> Iterator[Source]:
    """Returns the sources that a path stands for.

    If `from_file`, the name is not expanded as a glob, and a pipe fails to open instead of being waited for.
    """
    if os.path.isdir(name):
        return _warn_if_empty(walk_folder(name, selection), name, notice, selection)
    if is_archive(name):
        return _expand_archive(name, notice, selection)
    if os.path.lexists(name):
        return iter([file_source(name) if from_file else file_or_pipe_source(name)])
    if split := split_member(name):
        return _expand_member(name, *split)
    if frame := split_frame(name):
        return iter([replace(file_source(frame[0]), name=name, frame=Frame(frame[1]))])
    if not from_file and has_wildcard(name):
        return _expand_glob(name, notice, selection)
    return iter([file_source(name) if from_file else file_or_pipe_source(name)])


def _expand_member(name: str, archive: str, member: str) -> Iterator[Source]:
    from imgclassify.sources import archives

    found = archives.find_member(name, archive, member)
    if found is None and (frame := _FRAME.fullmatch(member)):
        file = archives.find_member(name, archive, frame[1])
        found = file and replace(file, frame=Frame(frame[2]))
    yield found or archives.missing_member(name, archive, member)


def split_frame(name: str) -> tuple[str, str] | None:
    """Returns ("cat.gif", "2") for "cat.gif#2" if cat.gif is a file."""
    found = _FRAME.fullmatch(name)
    return (found[1], found[2]) if found and os.path.isfile(found[1]) else None


def stands_for_many(path: str) -> bool:
    """Whether `expand_path` treats a path as a folder, an archive or a glob, and not as one image."""
    if os.path.isdir(path) or is_archive(path):
        return True
    return has_wildcard(path) and not os.path.lexists(path) and split_member(path) is None


def is_archive(path: str) -> bool:
    """Whether there is an archive at a path."""
    return path.lower().endswith(ARCHIVE_SUFFIXES) and os.path.isfile(path)


def _expand_archive(path: str, notice: Notice, selection: Selection) -> Iterator[Source]:
    from imgclassify.sources import archives

    members = archives.archive_members(path, selection.accepts_member)
    return _warn_if_empty(members, path, notice, selection)


def split_member(name: str) -> tuple[str, str] | None:
    """Returns ("photos.zip", "dogs/rex.jpg") for "photos.zip!dogs/rex.jpg" if photos.zip is an archive."""
    for position, character in enumerate(name):
        if character == "!" and is_archive(name[:position]):
            return name[:position], name[position + 1 :]
    return None


def _warn_if_empty(sources: Iterator[Source], name: str, notice: Notice, selection: Selection) -> Iterator[Source]:
    skipped, extensions = selection.skipped.copy(), selection.skipped_extensions.copy()
    source = None
    for source in sources:
        yield source
    if source is None:
        told = describe_skipped(selection.skipped - skipped, selection.skipped_extensions - extensions)
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in told.items())
        notice(f"no image in {name!r}" + (f": {told.total():,} skipped ({kinds})" if told else ""))


def _expand_glob(pattern: str, notice: Notice, selection: Selection) -> Iterator[Source]:
    # Sorted by path components, in the order of a folder walk: the contents of a folder directly follow it.
    matches = sorted(set(_iter_glob(pattern, hidden=selection.hidden)), key=lambda path: path.split(os.sep))
    if not matches:
        notice(f"no file matches {pattern!r}")
    named = {part for part in pattern.split(os.sep) if not has_wildcard(part)}
    walked = None
    for match in matches:
        # "photos/**" matches folders and also the files in them. Walking the folder has already yielded those.
        if walked is not None and match.startswith(walked):
            continue
        is_folder = os.path.isdir(match)
        walked = os.path.join(match, "") if is_folder else None
        holds_members = is_archive(match)
        below = _relative_path(pattern, match, is_folder=is_folder)
        if not selection.accepts_match(below, is_image=not is_folder and not holds_members, named=named):
            continue
        if is_folder:
            yield from _warn_if_empty(walk_folder(match, selection, below), match, notice, selection)
        else:
            yield from _expand_archive(match, notice, selection) if holds_members else [file_source(match)]


def _relative_path(pattern: str, match: str, *, is_folder: bool) -> str:
    """Returns the part of a match that follows the folder named before the pattern's first wildcard."""
    fixed, _ = os.path.split(re.split(r"[*?[]", pattern, maxsplit=1)[0])
    below = match[len(fixed) :].replace(os.sep, "/").strip("/")
    return f"{below}/" if below and is_folder else below


def _iter_glob(pattern: str, *, hidden: bool) -> Iterator[str]:
    """Yields the matches of a pattern as glob.iglob does, with two differences.

    ** does not follow symbolic links to folders, which may lead back. A folder that ** cannot list is a match,
    so that walking it reports the error.
    """
    parts = pattern.replace(os.altsep or os.sep, os.sep).split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern, include_hidden=hidden)
        return
    at = parts.index("**")
    before, after = os.sep.join(parts[:at]), os.sep.join(parts[at + 1 :]) or "*"
    for top in glob.glob(before, include_hidden=hidden) if before else [os.sep * (at > 0)]:
        # Matches of a relative pattern do not begin with the "./" of a walk of the current folder.
        start = 0 if top else len(os.path.join(os.curdir, ""))
        errors: list[OSError] = []
        for folder, below, _ in os.walk(top or os.curdir, onerror=errors.append):
            below[:] = [name for name in below if hidden or not name.startswith(".")]
            yield from _iter_glob(os.path.join(glob.escape(folder[start:]), after), hidden=hidden)
        yield from (error.filename[start:] for error in errors if os.path.isdir(error.filename))
