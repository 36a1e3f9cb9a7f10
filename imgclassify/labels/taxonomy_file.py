"""Reads the user's own tree of classes: a table of classes and parents, or of classes and their ranks."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from imgclassify.errors import UnknownClassError, UsageError
from imgclassify.labels.cell_table import CellTable
from imgclassify.labels.label_set import LabelSet
from imgclassify.labels.taxonomy import Taxonomy, TaxonomyNode, arrange

__all__ = ["read_taxonomy"]

_RANKS = (
    *("subspecies", "species", "subgenus", "genus", "subtribe", "tribe", "subfamily", "family", "superfamily"),
    *("infraorder", "suborder", "order", "superorder", "infraclass", "subclass", "class", "superclass"),
    *("subphylum", "phylum", "subkingdom", "kingdom", "domain"),
)
"""The ranks of biology, the most specific one first."""
_INDEX = "class_index"
_IDENTIFIERS = ("label", "class_name", "name", "class_label", "wnid", _INDEX, "common_name")
"""Columns that identify a class. All but one of them are ignored."""
_CLASS_COLUMNS = (*_IDENTIFIERS, "class", "species")
"""Columns that may hold the classes, the first choice first."""
_PARENT = "parent"
_FORMS_HINT = (
    "give a file with the columns class,parent, or class and the ranks above it, such as class,genus,family"
)
_ROOT = ""


class _Row(NamedTuple):
    location: str
    cells: tuple[str, ...]


class _Table(NamedTuple):
    path: str
    columns: tuple[str, ...]
    rows: tuple[_Row, ...]

    def cells(self, column: str) -> list[str]:
        place = self.columns.index(column)
        return [row.cells[place] for row in self.rows]


class _Link(NamedTuple):
    """One step up the tree, as a row gives it."""

    child: str
    parent: str
    location: str


class _Name(NamedTuple):
    """What a key stands for in a message."""

    text: str
    class_index: int | None = None


def read_taxonomy(path: str | os.PathLike[str], label_set: LabelSet) -> Taxonomy:
    """Reads a tree over the classes of a label set from a table with a header, as CSV or TSV.

    It has one of two forms:

    - the columns `class` and `parent`. A parent may have a row itself. What has no row, or an empty parent, is
      directly under the root.
    - a column with the classes, and one or more columns with the names of their ranks, such as genus, family and
      order. The ranks of biology are put in their order; others go from the most specific to the most general.
      An empty cell skips a rank.

    A class is named by its label, a synonym, its wnid or its index. Case is ignored. Classes without a row are
    directly under the root (`Taxonomy.num_unplaced`).

    Raises:
        UsageError: a name is no class, a class or node has two parents, a node is above itself, or it is not clear
            what the columns mean, or the file does not exist or is not text.
    """
    table = _read_table(os.fspath(path))
    classes = _Classes(label_set)
    if _PARENT in table.columns:
        links, names = _read_parents(table, classes)
    else:
        links, names = _read_ranks(table, classes)
    parents = _connect(links, names, table.path)
    placed = {names[key].class_index for key in parents}
    class_keys = [_class_key(label.class_index) for label in label_set.labels]
    for key in class_keys:
        parents.setdefault(key, _ROOT)
    under = _collect_members(class_keys, parents)
    nodes = {
        key: TaxonomyNode(key, names[key].text, None, tuple(indices))
        for key, indices in under.items()
        if key in names and key != _ROOT
    }
    return arrange(
        label_set,
        class_keys,
        parents,
        nodes,
        under,
        bottom=class_keys,
        num_unplaced=len(set(range(len(label_set))) - placed),
    )


class _Classes:
    """Finds one class by its name, as `ClassNames` finds classes and nodes."""

    def __init__(self, label_set: LabelSet) -> None:
        self.label_set = label_set
        self._usual: dict[str, set[int]] = defaultdict(set)
        self._synonyms: dict[str, set[int]] = defaultdict(set)
        for label in label_set.labels:
            for name in (label.label, label.wnid, *label.synonyms[:1]):
                if name:
                    self._usual[name.casefold()].add(label.class_index)
            for name in label.synonyms:
                self._synonyms[name.casefold()].add(label.class_index)

    def find_by_label(self, text: str) -> int | None:
        """Returns the class of this label or wnid, or None. Raises UsageError if several have it."""
        return self._only(self._usual, text)

    def find(self, text: str) -> int | None:
        """Returns the class of this name or index, or None. Raises UsageError if several have it."""
        found = self._only(self._usual, text)
        if found is None:
            found = self._only(self._synonyms, text)
        if found is None and text.isascii() and text.isdigit() and int(text) < len(self.label_set):
            found = int(text)
        return found

    def require(self, text: str, location: str) -> int:
        """Returns the class of this name.

        Raises:
            UsageError: there is none, or there are several. The message begins with the location.
        """
        try:
            found = self.find(text)
        except UsageError as error:
            raise UsageError(f"{location}: {error}", hint=error.hint) from error
        if found is None:
            near = self.label_set.find_nearest(text, 3)
            raise UnknownClassError(
                f"{location}: {text!r} is no class of {self.label_set.name}",
                hint=(f"did you mean {' or '.join(near)}? " if near else "")
                + "name a class by its label, a synonym, its wnid or its index",
            )
        return found

    def count_known(self, texts: Sequence[str]) -> int:
        return sum(self._is_known(text) for text in texts)

    def _is_known(self, text: str) -> bool:
        try:
            return self.find(text) is not None
        except UsageError:
            return True

    def _only(self, names: Mapping[str, set[int]], text: str) -> int | None:
        found = sorted(names.get(text.casefold(), ()))
        if len(found) > 1:
            which = ", ".join(f"{index} ({self.label_set[index].label})" for index in found[:5])
            raise UsageError(
                f"{text!r} can mean {len(found)} classes: {which}", hint="give the wnid or the class index instead"
            )
        return found[0] if found else None


def _read_table(path: str) -> _Table:
    file = CellTable(path, "tree", _FORMS_HINT)
    rows = [_Row(f"{path}: line {line}", tuple(map(str.strip, cells))) for line, cells in file.rows(_names_classes)]
    if len(rows) < 2:
        raise UsageError(f"{path}: there is no tree in it", hint=_FORMS_HINT)
    columns = _column_names(rows[0].cells)
    for row in rows[1:]:
        if len(row.cells) != len(columns):
            raise UsageError(
                f"{row.location} has {len(row.cells)} columns, the header has {len(columns)}",
                hint='put a name that contains a comma in double quotes: "tench, Tinca tinca"',
            )
    table = _drop_unnamed(_Table(path, columns, tuple(rows[1:])))
    columns = table.columns
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise UsageError(f"{rows[0].location}: two columns are named {twice!r}", hint=_FORMS_HINT)
    return table


def _column_names(header: Sequence[str]) -> tuple[str, ...]:
    return tuple(re.sub(r"[\s_-]+", "_", cell.strip().casefold()) for cell in header)


def _names_classes(header: Sequence[str]) -> bool:
    """Whether a header, split at the right delimiter, has the columns of a tree."""
    return len(header) > 1 and not {_PARENT, *_CLASS_COLUMNS}.isdisjoint(_column_names(header))


def _drop_unnamed(table: _Table) -> _Table:
    """Leaves out what spreadsheets and pandas write without a name: empty columns, and the number of the row."""
    kept = [
        place
        for place, column in enumerate(table.columns)
        if column or not all(row.cells[place].isdigit() or not row.cells[place] for row in table.rows)
    ]
    return _Table(
        table.path,
        tuple(table.columns[place] for place in kept),
        tuple(_Row(row.location, tuple(row.cells[place] for place in kept)) for row in table.rows),
    )


def _class_key(class_index: int) -> str:
    return f"class {class_index}"


def _node_key(text: str, rank: str = "") -> str:
    return f"{rank}:{text.casefold()}"


def _read_parents(table: _Table, classes: _Classes) -> tuple[list[_Link], dict[str, _Name]]:
    """Returns the links of a table with the columns class and parent, and what their keys stand for."""
    others = [column for column in table.columns if column != _PARENT]
    if len(others) != 1 or others[0] not in _CLASS_COLUMNS:
        raise UsageError(
            f"{table.path}: beside 'parent' there must be one column 'class', "
            f"not {', '.join(map(repr, others)) or 'none'}",
            hint=_FORMS_HINT,
        )
    used_as_parents = {text.casefold() for text in table.cells(_PARENT)}
    names: dict[str, _Name] = {_ROOT: _Name("the root")}

    def key_of(text: str, location: str, *, is_parent: bool) -> str:
        """A label or a wnid is a class, wherever it stands. Else a name that is a parent is that of a node."""
        try:
            index = classes.find_by_label(text)
        except UsageError as error:
            raise UsageError(f"{location}: {error}", hint=error.hint) from error
        if index is None and text.casefold() in used_as_parents:
            key = _node_key(text)
            names.setdefault(key, _Name(text))
            return key
        if index is None and not is_parent:
            index = classes.require(text, location)
        assert index is not None
        names[_class_key(index)] = _Name(classes.label_set[index].label, index)
        return _class_key(index)

    links = []
    for row, child, parent in zip(table.rows, table.cells(others[0]), table.cells(_PARENT), strict=True):
        if not child:
            raise UsageError(f"{row.location}: the class is empty", hint=_FORMS_HINT)
        above = key_of(parent, row.location, is_parent=True) if parent else _ROOT
        links.append(_Link(key_of(child, row.location, is_parent=False), above, row.location))
    return links, names


def _read_ranks(table: _Table, classes: _Classes) -> tuple[list[_Link], dict[str, _Name]]:
    """Returns the links of a table with a column of classes and columns of ranks, and what their keys stand for."""
    class_column = _find_class_column(table, classes)
    ranks = _order_ranks(table, class_column)
    places = [table.columns.index(rank) for rank in ranks]
    names: dict[str, _Name] = {_ROOT: _Name("the root")}
    links = []
    for row, text in zip(table.rows, table.cells(class_column), strict=True):
        if not text:
            raise UsageError(f"{row.location}: the class is empty", hint=_FORMS_HINT)
        index = classes.require(text, row.location)
        child = _class_key(index)
        names[child] = _Name(classes.label_set[index].label, index)
        for rank, place in zip(ranks, places, strict=True):
            if name := row.cells[place]:
                parent = _node_key(name, rank)
                names.setdefault(parent, _Name(name))
                links.append(_Link(child, parent, row.location))
                child = parent
        links.append(_Link(child, _ROOT, row.location))
    return links, names


def _find_class_column(table: _Table, classes: _Classes) -> str:
    """Returns the column with the most names that are known, the first of `_CLASS_COLUMNS` if several have as many.

    The column `class` holds classes in one table, and Mammalia and Aves in another. A class index is used only if
    no name is known, since any numbering of the rows looks like one.
    """
    candidates = [column for column in _CLASS_COLUMNS if column in table.columns]
    known = {column: classes.count_known(table.cells(column)) for column in candidates}
    best = max(candidates, key=lambda column: (known[column] > 0 and column != _INDEX, known[column]), default=None)
    if best is None or known[best] == 0:
        examples = [f"{column!r} ({table.cells(column)[0]}, …)" for column in candidates]
        raise UsageError(
            f"{table.path}: no column holds classes of {classes.label_set.name}"
            + (f": {' and '.join(examples)} {'does' if len(examples) == 1 else 'do'} not" if examples else ""),
            hint="name the column with the labels of the classes 'label'",
        )
    return best


def _order_ranks(table: _Table, class_column: str) -> list[str]:
    """Returns the columns of ranks, the most specific one first.

    Raises:
        UsageError: there are none, or their order is not known or is wrong.
    """
    others = [column for column in table.columns if column not in (class_column, *_IDENTIFIERS)]
    known = [rank for rank in _RANKS if rank in others]
    unknown = [column for column in others if column not in _RANKS]
    if not others:
        raise UsageError(f"{table.path}: there is no column of parents or of ranks", hint=_FORMS_HINT)
    if not unknown:
        return known
    if len(known) > 1:
        raise UsageError(
            f"{table.path}: the place of the column {unknown[0]!r} among the ranks {', '.join(known)} is not known",
            hint="leave the column out",
        )
    counts = [(column, len({cell.casefold() for cell in table.cells(column) if cell})) for column in others]
    for (lower, few), (upper, many) in pairwise(counts):
        if few < many:
            raise UsageError(
                f"{table.path}: the column {lower!r} has {few} different names, but {upper!r}, which follows and "
                f"should be more general, has {many}",
                hint="put the columns in order, from the most specific one to the most general one",
            )
    return others


def _connect(links: Sequence[_Link], names: Mapping[str, _Name], path: str) -> dict[str, str]:
    """Returns the parent of each key.

    Raises:
        UsageError: a key has two, or is above itself.
    """
    parents: dict[str, str] = {}
    locations: dict[str, str] = {}
    for child, parent, location in links:
        if parents.setdefault(child, parent) != parent:
            raise UsageError(
                f"{location}: {names[child].text!r} lies under {names[parent].text!r}, but in "
                f"{locations[child].removeprefix(f'{path}: ')} under {names[parents[child]].text!r}",
                hint="give each class and each node one parent",
            )
        locations.setdefault(child, location)
    for key in list(parents.values()):
        parents.setdefault(key, _ROOT)
    parents.pop(_ROOT, None)
    for cycle in _find_cycles(parents):
        raise UsageError(
            f"{locations[cycle[0]]}: {' > '.join(names[key].text for key in [*cycle, cycle[0]])} is a circle",
            hint="a node cannot lie under itself",
        )
    return parents


def _find_cycles(parents: Mapping[str, str]) -> Iterator[list[str]]:
    """Yields the keys of each cycle once, from a key up to the last one before it comes again."""
    done: set[str] = set()
    for key in parents:
        way: dict[str, int] = {}
        while key in parents and key not in done and key not in way:
            way[key] = len(way)
            key = parents[key]
        if key in way:
            yield list(way)[way[key] :]
        done.update(way)


def _collect_members(class_keys: Sequence[str], parents: Mapping[str, str]) -> dict[str, list[int]]:
    """Returns for each class and each node with classes under it which they are."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(class_keys):
        members[key].append(index)
        while key in parents:
            key = parents[key]
            members[key].append(index)
    return dict(members)
