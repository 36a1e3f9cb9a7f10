"""Finds the row of each image in a file: by its whole name, the end of its path, or a unique file name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from imgclassify.errors import UsageError
from imgclassify.evaluation.source_names import to_path, without_frame, without_suffix

SameClass = Callable[[int, int], bool]
_NONE = -1


class SourceRows:
    """The rows of a file by the images that they name."""

    def __init__(self, file: str, texts: Sequence[str], lines: Sequence[int]) -> None:
        """
        Args:
            texts: for each row the image.
            lines: for each row its line in the file.
        """
        self._file, self._texts, self._lines = file, texts, lines
        self._paths = [to_path(text) for text in texts]
        self._row_of: dict[str, int] = {}
        self._repeated: list[tuple[int, int]] = []
        for row, path in enumerate(self._paths):
            first = self._row_of.setdefault(path, row)
            if first != row:
                self._repeated.append((first, row))
        self._has_stems = any(without_suffix(path) == path for path in self._paths)

    @property
    def num_repeated(self) -> int:
        """How many rows name the same image as an earlier one."""
        return len(self._repeated)

    def require_consistent(self, is_same: SameClass) -> None:
        """Raises UsageError if two rows name the same image with different classes."""
        for first, second in self._repeated:
            if not is_same(first, second):
                raise UsageError(
                    f"{self._file}: {self._texts[second]!r} is there twice with different classes, in lines "
                    f"{self._lines[first]} and {self._lines[second]}",
                    hint="remove one of the two lines",
                )

    def find_all(self, sources: Sequence[str], is_same: SameClass) -> dict[str, int]:
        """Returns the row of each source that has one.

        Raises:
            UsageError: a row fits several images, an image several rows of different classes, or no row any image.
        """
        found: dict[str, int] = {}
        owners: dict[int, str] = {}
        rest: dict[str, list[str]] = {}
        """File → the sources that are frames of it, or itself."""
        for source in dict.fromkeys(sources):
            row, name = self._find_end(source)
            if row == _NONE:
                rest.setdefault(without_frame(source), []).append(source)
                continue
            self._take(owners, row, name)
            found[source] = row
        if rest:
            for name, row in self._find_rest(rest, sources, is_same).items():
                self._take(owners, row, name)
                found.update(dict.fromkeys(rest[name], row))
        if not found:
            raise UsageError(
                f"no row of {self._file} fits an image: the rows name images such as {self._texts[0]!r}, and the "
                f"images are such as {sources[0]!r}",
                hint="write the names as those of the files, which differ in case"
                if self._differ_in_case(sources)
                else "give the file of these images; the end of a path, or a file name that is unique, is enough",
            )
        return found

    def _differ_in_case(self, sources: Sequence[str]) -> bool:
        """Whether the first row has the file name of an image but for its case."""
        file = self._paths[0].rpartition("/")[2].casefold()
        return any(to_path(source).rpartition("/")[2].casefold() == file for source in sources)

    def _take(self, owners: dict[int, str], row: int, name: str) -> None:
        owner = owners.setdefault(row, name)
        if owner != name and to_path(owner) != to_path(name):
            raise UsageError(
                f"{self._file}: line {self._lines[row]}, {self._texts[row]!r}, fits both {owner!r} and {name!r}",
                hint="write more of the path in the file, so that each row fits one image",
            )

    def _find_end(self, source: str) -> tuple[int, str]:
        """Returns the row that is the longest end of a source's path, and the name of the source or its file."""
        for name in dict.fromkeys((source, without_frame(source))):
            path = to_path(name)
            for end in self._ends(path):
                if (row := self._row_of.get(end, _NONE)) != _NONE:
                    return row, name
        return _NONE, source

    def _ends(self, path: str) -> Iterator[str]:
        """Yields the path, and what follows each of its slashes. Then the same without the suffix of the image."""
        yield from _ends(path)
        if self._has_stems and (stem := without_suffix(path)) != path and without_suffix(stem) == stem:
            yield from _ends(stem)

    def _find_rest(self, names: Collection[str], sources: Sequence[str], is_same: SameClass) -> dict[str, int]:
        """Finds rows of which a name is the end, or that have the same file name where that is unique."""
        keys = {key: name for name in names for key in self._spellings(to_path(name))}
        by_end: dict[str, int] = {}
        rows_of_file: Counter[str] = Counter()
        row_of_file: dict[str, int] = {}
        for row, path in enumerate(self._paths):
            for end in _ends(path):
                if (name := keys.get(end)) is None:
                    continue
                first = by_end.setdefault(name, row)
                if first != row and not is_same(first, row):
                    raise self._ambiguous(name, first, row)
            if self._row_of[path] == row:
                file = path.rpartition("/")[2]
                rows_of_file[file] += 1
                row_of_file[file] = row
        files = Counter(to_path(name).rpartition("/")[2] for name in dict.fromkeys(map(without_frame, sources)))
        for name in names:
            file = to_path(name).rpartition("/")[2]
            if name in by_end or files[file] > 1:
                continue
            for spelling in self._spellings(file):
                if rows_of_file[spelling] == 1:
                    by_end[name] = row_of_file[spelling]
                    break
        return by_end

    def _spellings(self, path: str) -> Iterator[str]:
        yield path
        if self._has_stems and (stem := without_suffix(path)) != path and without_suffix(stem) == stem:
            yield stem

    def _ambiguous(self, name: str, first: int, second: int) -> UsageError:
        return UsageError(
            f"{self._file}: lines {self._lines[first]} and {self._lines[second]}, {self._texts[first]!r} and "
            f"{self._texts[second]!r}, both end like {name!r}, with different classes",
            hint="name the images by a longer path, so that one row fits",
        )


def _ends(path: str) -> Iterator[str]:
    yield path
    start = path.find("/")
    while start >= 0:
        yield path[start + 1 :]
        start = path.find("/", start + 1)
