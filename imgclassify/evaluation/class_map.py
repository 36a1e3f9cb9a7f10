"""A map from the names in a data set to classes, read from a file. A name may stand for any of several classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from imgclassify.errors import UnknownClassError, UsageError
from imgclassify.evaluation.class_finder import ClassFinder, Match, Mismatch, exact, normalise
from imgclassify.labels.cell_table import CellTable
from imgclassify.labels.class_names import ClassNames

_NAMES = {"name", "folder", "truth", "from"}
_CLASSES = {"class", "class_index", "label", "wnid", "to"}
_SOME = 5
_FORM = (
    'each line is a name in the data set and a class, such as "automobile,car"; several lines for a name mean any '
    "of them"
)


class ClassMap:
    """For each name in a map file the classes that are right for it."""

    def __init__(self, file: str, finder: ClassFinder) -> None:
        """
        Raises:
            UsageError: the file cannot be read, or a class in it is not known.
        """
        self.file = file
        found: dict[str, list[Match]] = defaultdict(list)
        class_names = ClassNames(finder.label_set)
        for line, name, text in _read_pairs(file):
            found[exact(name)].append(_find_class(f"{file}: line {line}", text, finder, class_names))
        if not found:
            raise UsageError(f"the map {file!r} has no lines", hint=_FORM)
        self._matches = {name: _join(name, matches) for name, matches in found.items()}
        self._spellings: dict[str, list[str]] = defaultdict(list)
        for name in self._matches:
            self._spellings[normalise(name)].append(name)

    def unused(self, names: Iterable[str]) -> tuple[str, ...]:
        """Returns the names in the map that are none of the names in the data set.

        Raises:
            UsageError: these are all.
        """
        names = list(names)
        unused = self._matches.keys() - {self.key(name) for name in names}
        if len(unused) == len(self._matches):
            raise UsageError(
                f"the map {self.file!r} is for other names: it has {_list(self._matches)}, and the images have "
                f"{_list(names)}",
                hint=_FORM,
            )
        return tuple(sorted(unused))

    def key(self, name: str) -> str | None:
        """Returns the name in the map that is the same, or the only one that differs in case or blanks."""
        name = exact(name.strip())
        if name in self._matches:
            return name
        keys = self._spellings.get(normalise(name), [])
        return keys[0] if len({self._matches[key].class_indices for key in keys}) == 1 else None

    def find(self, name: str) -> Match | None:
        key = self.key(name)
        return None if key is None else self._matches[key]


def _read_pairs(file: str) -> Iterator[tuple[int, str, str]]:
    places = (0, 1)
    for position, (line, cells) in enumerate(CellTable(file, "map file", _FORM).rows()):
        if len(cells) != 2:
            raise UsageError(f"{file}: line {line} has {len(cells)} columns, not a name and a class", hint=_FORM)
        words = [cell.strip().casefold() for cell in cells]
        if position == 0 and words[0] in _NAMES and words[1] in _CLASSES:
            continue
        if position == 0 and words[1] in _NAMES and words[0] in _CLASSES:
            places = (1, 0)
            continue
        name, text = (cells[place].strip() for place in places)
        if not name or not text:
            raise UsageError(f"{file}: line {line} has no {'class' if name else 'name'}", hint=_FORM)
        yield line, name, text


def _find_class(location: str, text: str, finder: ClassFinder, class_names: ClassNames) -> Match:
    try:
        found = class_names.find(text)
    except UnknownClassError:
        return _find_spelling(location, text, finder, class_names)
    except UsageError as error:
        raise UsageError(f"{location}: {error}", hint=error.hint) from error
    labels = [finder.label_set[index] for index in sorted(found.class_indices)]
    if found.wnid is None and len(labels) > 1:
        raise UsageError(
            f"{location}: {text!r} is the label of {len(labels)} classes: "
            f"{', '.join(str(label.class_index) for label in labels)}",
            hint="give the class index instead",
        )
    is_node = all(label.wnid != found.wnid for label in labels)
    return Match(found.name, found.wnid, found.class_indices, is_node=is_node)


def _find_spelling(location: str, text: str, finder: ClassFinder, class_names: ClassNames) -> Match:
    """Finds a class or a node whose name is written with underscores or hyphens."""
    found = finder.find(text)
    if isinstance(found, Match):
        return found
    if found.kind == "node":
        return _find_class(location, found.remedy, finder, class_names)
    raise UsageError(f"{location}: {text!r} {finder.explain(found, text)}", hint=_hint(found))


def _hint(found: Mismatch) -> str:
    if found.kind == "ambiguous":
        return f"give the wnid or the class index instead, such as {found.remedy}"
    kinds = "a label, a synonym, a wnid, a class index or a node of WordNet"
    return f"give {kinds}; `imgclassify labels search TEXT` finds them"


def _join(name: str, matches: list[Match]) -> Match:
    indices = frozenset(index for match in matches for index in match.class_indices)
    for match in matches:
        if match.class_indices == indices:
            return match._replace(is_number=False)
    return Match(name, None, indices, is_node=True)


def _list(names: Iterable[str]) -> str:
    some = sorted(names)
    return ", ".join(map(repr, some[:_SOME])) + (f" and {len(some) - _SOME} more" if len(some) > _SOME else "")
