"""The choice of files from folders, globs and archives, with counts of what was left out and why."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING

from imgclassify.errors import UsageError
from imgclassify.sources.source import IMAGE_SUFFIXES, VIDEO_SUFFIXES, file_suffix

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_MAX_EXTENSIONS = 100
"""The number of extensions that are counted one by one, so that memory does not grow with odd file names."""
_SYSTEM_FOLDERS = frozenset(
    {
        "@eadir",  # Synology: thumbnails
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "$recycle.bin",  # Windows
        "system volume information",
        "lost+found",  # Linux
        "__macosx",  # macOS, in archives
    }
)
"""The folders in which a system keeps thumbnails, deleted files and metadata, in lower case. Those that begin with
a dot (.Trash-1000, .thumbnails) are hidden anyway."""
NO_EXTENSION = "no extension"
"""Counts the files without an extension among the extensions."""
_OTHERS = "others"

# In a regular expression, a dot does not match a newline, and a dollar sign also matches before one. Some of
# pathspec's back ends reject lone surrogates, which stand for bytes that are not text. Private-use characters
# therefore replace all of these before matching.
_MATCHABLE = {ord("\n"): 0x10FFFD, **{code: code + 0xE2800 for code in range(0xD800, 0xE000)}}


class Selection:
    """Decides which of the files found in folders, globs and archives are taken.

    It does not apply to files that the user named: those are always tried.

    Patterns are written as in .gitignore. A pattern without a slash matches a name at any depth. Any other
    pattern matches the path below what the user named: a folder, an archive, or the part of a glob before its
    first wildcard.

    Args:
        include: patterns of the files to take, among those with an image's suffix, unless `any_name`. Empty: all
            of them.
        exclude: patterns of what to leave out, even if it is included. An excluded folder is not entered.
        recursive: whether to take files in subfolders.
        hidden: whether to take names that begin with a dot, and system folders such as @eaDir and $RECYCLE.BIN.
        any_name: whether to take files without the suffix of an image too.
        videos: whether to take videos too.

    Raises:
        UsageError: a pattern is invalid, or cannot match anything.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        recursive: bool = True,
        hidden: bool = False,
        any_name: bool = False,
        videos: bool = False,
    ) -> None:
        self._include = _compile_patterns(include) if include else None
        self._exclude = _compile_patterns(exclude) if exclude else None
        self.recursive = recursive
        self.hidden = hidden
        self.any_name = any_name
        self._suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
        self.skipped: Counter[str] = Counter()
        """Number of names left out, by reason: "hidden", "system_folder", "not_an_image_name", "excluded" (or not
        included), "subfolder". A folder that is left out counts as one."""
        self.skipped_extensions: Counter[str] = Counter()
        """The names left out as "not_an_image_name", by extension: ".mp4", "no extension", or "others" for
        those beyond _MAX_EXTENSIONS."""

    def accepts_file(self, name: str, relative_dir: str = "") -> bool:
        """Whether a file in a folder is taken.

        Args:
            relative_dir: the folder's path below what the user named, ending in a slash; "" for the named folder.
        """
        if self._is_hidden(name):
            return self._skip("hidden")
        if (suffix := file_suffix(name)) not in self._suffixes and not self.any_name:
            return self._skip_extension(suffix)
        path = relative_dir + name
        return (self._is_included(path) and not self._is_excluded(path)) or self._skip("excluded")

    def accepts_folder(self, name: str, relative_dir: str = "") -> bool:
        """Whether a subfolder is entered. The arguments are those of `accepts_file`."""
        if self._is_hidden(name):
            return self._skip("hidden")
        if self._is_system_folder(name):
            return self._skip("system_folder")
        if self._is_excluded(f"{relative_dir}{name}/"):
            return self._skip("excluded")
        return self.recursive or self._skip("subfolder")

    def accepts_member(self, member: str) -> bool:
        """Whether a file in an archive is taken.

        Its folders are checked here too, since an archive need not have entries for them.
        """
        parts = [part for part in member.split("/") if part not in ("", ".")]
        if any(map(self._is_hidden, parts)):
            return self._skip("hidden")
        if any(map(self._is_system_folder, parts[:-1])):
            return self._skip("system_folder")
        if len(parts) > 1 and not self.recursive:
            return self._skip("subfolder")
        if (suffix := file_suffix(member)) not in self._suffixes and not self.any_name:
            return self._skip_extension(suffix)
        path = "/".join(parts)
        return (self._is_included(path) and not self._is_below_excluded(path)) or self._skip("excluded")

    def accepts_match(self, path: str, *, is_image: bool, named: Container[str] = ()) -> bool:
        """Whether a glob's match is taken: an image with any suffix, or a folder or archive to look into.

        Args:
            path: the path below the folder before the first wildcard. That of a folder ends in a slash.
            named: the names that the glob spells out. System folders of these names are entered.
        """
        if any(self._is_system_folder(name) and name not in named for name in path.split("/")[:-1]):
            return self._skip("system_folder")
        taken = not self._is_below_excluded(path) and (not is_image or self._is_included(path))
        return taken or self._skip("excluded")

    def _skip(self, reason: str) -> bool:
        self.skipped[reason] += 1
        return False

    def _skip_extension(self, suffix: str) -> bool:
        counted = self.skipped_extensions
        name = suffix or NO_EXTENSION
        counted[name if name in counted or len(counted) < _MAX_EXTENSIONS else _OTHERS] += 1
        return self._skip("not_an_image_name")

    def _is_hidden(self, name: str) -> bool:
        # An archive member's path may contain "..", which is not a hidden name.
        return name.startswith(".") and not self.hidden and name != ".."

    def _is_system_folder(self, name: str) -> bool:
        return name.lower() in _SYSTEM_FOLDERS and not self.hidden

    def _is_included(self, path: str) -> bool:
        return self._include is None or self._include.match_file(_to_matchable(path))

    def _is_excluded(self, path: str) -> bool:
        return self._exclude is not None and self._exclude.match_file(_to_matchable(path))

    def _is_below_excluded(self, path: str) -> bool:
        """Whether a path or a folder above it is excluded, for paths whose folders were not checked before."""
        return self._exclude is not None and any(map(self._is_excluded, _with_parents(path)))


def describe_skipped(skipped: Counter[str], extensions: Counter[str], limit: int = 5) -> Counter[str]:
    """Returns what was skipped as it is told to people: by extension, then by the other reasons.

    Args:
        skipped: as Selection.skipped.
        extensions: as Selection.skipped_extensions.
        limit: the number of extensions that are named. The rest counts as "others".
    """
    named = sorted((-count, name) for name, count in extensions.items() if name != _OTHERS)[:limit]
    told = Counter({name: -count for count, name in named})
    if rest := extensions.total() - told.total():
        told[_OTHERS] = rest
    return told + Counter({reason: count for reason, count in skipped.items() if reason != "not_an_image_name"})


def _with_parents(path: str) -> Iterator[str]:
    """Yields the folders above a path, and the path: "a/", "a/b/" and "a/b/c" for "a/b/c"."""
    yield from (path[: slash.end()] for slash in re.finditer("/", path))
    yield path


def _to_matchable(text: str) -> str:
    return text if text.isprintable() else text.translate(_MATCHABLE)


def _compile_patterns(patterns: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec([part for pattern in patterns for part in _parse_pattern(pattern).patterns])


def _parse_pattern(pattern: str) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    hint = r"write patterns as in .gitignore; put a \ before a literal \, [, ! or #"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # sets that re would read differently, such as [[:alpha:]]
            parsed = GitIgnoreSpec.from_lines([_to_matchable(pattern)])
    except (ValueError, re.error, Warning) as error:
        raise UsageError(f"invalid pattern: {pattern!r}", hint=hint) from error
    if all(part.include is None for part in parsed.patterns):
        raise UsageError(f"this pattern cannot match anything: {pattern!r}", hint=hint)
    return parsed
