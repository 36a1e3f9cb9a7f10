"""What of a folder, a glob or an archive is taken, and how much was left out for which reason."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from imgclassify.errors import UsageError
from imgclassify.sources.source import IMAGE_SUFFIXES, file_suffix

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

# A regular expression's dot stops at a newline, its dollar before one, and some of pathspec's back ends take
# no lone surrogates (what bytes that are not text become). So these are matched as characters of private use.
_MATCHABLE = {ord("\n"): 0x10FFFD, **{code: code + 0xE2800 for code in range(0xD800, 0xE000)}}


class Selection:
    """Decides about what was found, never about what was named: a file that was named is always tried.

    Patterns are .gitignore's. Without a slash they match a name at any depth, else the path below what was named:
    a folder, an archive, or the part of a glob before its first wildcard.

    Args:
        include: where there are any, what to take among the files with an image's ending.
        exclude: what to leave out all the same. An excluded folder is not looked into.
        recursive: whether to take what lies in subfolders.
        hidden: whether to take what begins with a dot, and __MACOSX in an archive.

    Raises:
        UsageError: a pattern that does not parse, or matches nothing.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        recursive: bool = True,
        hidden: bool = False,
    ) -> None:
        self._include = _compile_patterns(include) if include else None
        self._exclude = _compile_patterns(exclude) if exclude else None
        self.recursive = recursive
        self.hidden = hidden
        self.skipped: Counter[str] = Counter()
        """How much was left out: "hidden", "not_an_image_name", "excluded" (or not included), "subfolder". Of a
        folder that is left out, the folder alone is counted."""

    def accepts_file(self, name: str, relative_dir: str = "") -> bool:
        """Whether a folder's file is taken; `within` is the folder's path below what was named, and a slash."""
        if self._is_hidden(name):
            return self._skip("hidden")
        if file_suffix(name) not in IMAGE_SUFFIXES:
            return self._skip("not_an_image_name")
        path = relative_dir + name
        return (self._is_included(path) and not self._is_excluded(path)) or self._skip("excluded")

    def accepts_folder(self, name: str, relative_dir: str = "") -> bool:
        if self._is_hidden(name):
            return self._skip("hidden")
        if self._is_excluded(f"{relative_dir}{name}/"):
            return self._skip("excluded")
        return self.recursive or self._skip("subfolder")

    def accepts_member(self, member: str) -> bool:
        """Whether an archive's file is taken. Its folders have no entries of their own that one could rely on."""
        parts = [part for part in member.split("/") if part not in ("", ".")]
        if any(self._is_hidden(part) or (part == "__MACOSX" and not self.hidden) for part in parts):
            return self._skip("hidden")
        if len(parts) > 1 and not self.recursive:
            return self._skip("subfolder")
        if file_suffix(member) not in IMAGE_SUFFIXES:
            return self._skip("not_an_image_name")
        path = "/".join(parts)
        return (self._is_included(path) and not self._is_below_excluded(path)) or self._skip("excluded")

    def accepts_match(self, path: str, *, is_picture: bool) -> bool:
        """Whether a glob's match is taken: as a picture, whatever its ending, or to be looked into."""
        taken = not self._is_below_excluded(path) and (not is_picture or self._is_included(path))
        return taken or self._skip("excluded")

    def _skip(self, reason: str) -> bool:
        self.skipped[reason] += 1
        return False

    def _is_hidden(self, name: str) -> bool:
        return name.startswith(".") and not self.hidden and name != ".."

    def _is_included(self, path: str) -> bool:
        return self._include is None or self._include.match_file(_to_matchable(path))

    def _is_excluded(self, path: str) -> bool:
        return self._exclude is not None and self._exclude.match_file(_to_matchable(path))

    def _is_below_excluded(self, path: str) -> bool:
        """The same where the folders above were not looked at: one that is excluded takes all below with it."""
        return self._exclude is not None and any(map(self._is_excluded, _with_parents(path)))


def _with_parents(path: str) -> Iterator[str]:
    """ "a/", "a/b/" and "a/b/c" for "a/b/c"."""
    yield from (path[: slash.end()] for slash in re.finditer("/", path))
    yield path


def _to_matchable(text: str) -> str:
    return text if text.isprintable() else text.translate(_MATCHABLE)


def _compile_patterns(patterns: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec([part for pattern in patterns for part in _parse_pattern(pattern).patterns])


def _parse_pattern(pattern: str) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    hint = r"patterns are written as in .gitignore; before a literal \, [, ! or # goes a \ "
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a set that regular expressions read otherwise, such as [[:alpha:]]
            parsed = GitIgnoreSpec.from_lines([_to_matchable(pattern)])
    except (ValueError, re.error, Warning) as error:
        raise UsageError(f"not a pattern: {pattern!r}", hint=hint) from error
    if all(part.include is None for part in parsed.patterns):
        raise UsageError(f"a pattern that matches nothing: {pattern!r}", hint=hint)
    return parsed
