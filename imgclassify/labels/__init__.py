"""Label sets: labels/*.tsv and the user's own files, as LabelSet values: class index → wnid, label, synonyms.

Which network a set fits is not known here: the caller says how many classes it needs.
"""

from __future__ import annotations

import ast
import csv
import difflib
import io
import json
import os
import re
import reprlib
import stat
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter, itemgetter
from pathlib import Path

from imgclassify.errors import LabelsError
from imgclassify.paths import data_folder

MAX_FILE_BYTES = 8 * 2**20
"""A larger file is refused. ImageNet-21k's 21,841 classes with synonyms and glosses take 3 MB."""
MAX_CLASSES = 2**18
"""More are refused."""
MAX_COLUMNS = 1000
"""Of a file with a header; more are refused."""
PIPE_SECONDS = 60.0
"""How long a pipe is read."""

_SHIPPED_HEADER = "class_index\twnid\tlabel\tsynonyms\tgloss"
_COLUMN_NAMES = {
    "class_index": ("class_index", "class_id", "index", "id"),
    "wnid": ("wnid", "synset"),
    "label": ("label", "name", "class", "class_name"),
    "synonyms": ("synonyms",),
    "gloss": ("gloss", "definition"),
}
_COLUMNS = {name: column for column, names in _COLUMN_NAMES.items() for name in names}

_NEWLINE = re.compile(r"\r\n|\r|\n")
_DOCUMENT = re.compile(r"(?:\s*+#[^\n]*+\n)*+\s*+[\[{]")
_INDEX_FIRST = re.compile(r"([0-9]+)\s*[,:\t]\s*(.*)")
_WNID_FIRST = re.compile(r"([nvars][0-9]{8})(?:[\s,:]\s*|$)(.*)")
# A Python list or dict: its texts and comments; what else may be there; and what would be an index, call or sum.
_PYTHON_TEXT = re.compile(
    r"""#[^\n]*+|[bBrRuU]{0,2}(?:'(?!'')(?:[^'\\\n]|\\[\s\S])*+'|"(?!"")(?:[^"\\\n]|\\[\s\S])*+")"""
)
_PYTHON_DATA = re.compile(r"(?:[\s\[\](){},:]|-?\d\w*+(?:\.\d*+)?+|True|False|None)*+")
_PYTHON_CODE = re.compile(r"[\w.\])}]\s*+[\[({-]")
_WNID = re.compile(r"[nvars][0-9]{8}")
_CLASS_INDEX = re.compile(r"[0-9]{1,9}")
# Escapes in JSON and in Python can name half a surrogate pair, which no output can be given.
_SURROGATE = re.compile("[\ud800-\udfff]")

_FORMS_HINT = "docs/labels.md shows every form that a label file may have"
_INDEX_HINT = "class indices count from 0, and each occurs once; numbers that belong to the labels need a JSON list"

_Row = tuple[str, Mapping[str, object]]
"""One class as its file gives it: where it stands there ("line 3", "[2]"), and its values by column."""


@dataclass(frozen=True, slots=True)
class Label:
    """One class of a label set.

    The texts are kept as their source has them, control characters too: what prints them escapes them.
    """

    class_index: int
    """0-based position among the network's logits."""
    wnid: str | None
    """WordNet id such as "n02099601"; None where the source has none."""
    label: str
    """Human text, never empty; two classes may share it."""
    synonyms: tuple[str, ...] = ()
    """All names of the class (WordNet's lemmas, in the shipped sets); empty where the source has none."""
    gloss: str = ""
    """A definition; empty where the source has none."""


@dataclass(frozen=True)
class LabelSet:
    """What the classes of a network are called."""

    name: str
    """A shipped set's name such as "imagenet1k", or the file as the user named it."""
    labels: tuple[Label, ...]
    """In class-index order: `labels[i].class_index == i`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, class_index: int) -> Label:
        return self.labels[class_index]

    def search(self, text: str) -> list[Label]:
        """The classes that `text` may mean, best first; case is ignored, and blank text finds nothing.

        First those whose wnid, label or a synonym it is; then those where it stands as whole words in label
        or synonym; then those where it is part of one; last those whose gloss has all its words. Each group
        is in class-index order.
        """
        wanted = text.strip().casefold()
        if not wanted:
            return []
        phrase = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
        ranked = [(_match_rank(label, wanted, phrase), label) for label in self.labels]
        return [label for rank, label in sorted(ranked, key=itemgetter(0)) if rank < _NO_MATCH]

    def digest(self) -> str:
        """SHA-256 of its wnids and labels, in order: 64 hex digits."""
        from hashlib import sha256

        lines = "\n".join(f"{label.wnid or ''}\t{label.label}" for label in self.labels)
        return sha256(lines.encode(errors="surrogatepass")).hexdigest()

    def require_num_classes(self, num_classes: int) -> None:
        """Raises LabelsError unless the set names exactly `num_classes` classes."""
        if len(self) != num_classes:
            raise LabelsError(
                f"label set {self.name} has {len(self)} classes, the network has {num_classes}",
                hint="give the labels the network was trained with: --labels FILE, one label a class, "
                "in class-index order",
            )


_NO_MATCH = 4


def _match_rank(label: Label, wanted: str, phrase: re.Pattern[str]) -> int:
    names = [name.casefold() for name in (label.label, *label.synonyms)]
    if wanted == label.wnid or wanted in names:
        return 0
    if any(phrase.search(name) for name in names):
        return 1
    if any(wanted in name for name in names):
        return 2
    words = set(re.findall(r"\w+", wanted))
    if words and words <= set(re.findall(r"\w+", label.gloss.casefold())):
        return 3
    return _NO_MATCH


def list_label_sets() -> list[str]:
    """The names of the shipped label sets, sorted."""
    files = (entry.name for entry in data_folder("labels").iterdir())
    return sorted(name.removesuffix(".tsv") for name in files if name.endswith(".tsv"))


def load_labels(name_or_file: str | os.PathLike[str], *, num_classes: int | None = None) -> LabelSet:
    """The shipped label set of that name, else the user's file at that path (see `parse`).

    Raises:
        LabelsError: there is neither, the file cannot be read, or the set has not `num_classes` classes.
    """
    name = os.fspath(name_or_file)
    if name in list_label_sets():
        text = (data_folder("labels") / f"{name}.tsv").read_text(encoding="utf-8")
        label_set = LabelSet(name, _parse_shipped(text, name))
    else:
        label_set = LabelSet(name, parse_labels(_read_text(name), name))
    if num_classes is not None:
        label_set.require_num_classes(num_classes)
    return label_set


def parse_labels(text: str, name: str) -> tuple[Label, ...]:
    """The labels in `text`, in class-index order. The form is told from the text alone:

    - it begins with a bracket: JSON, or a Python literal (lines of # comment may precede it);
    - its first line names columns, the label's among them: CSV or TSV with a header;
    - else one class a line. Where every line begins with a class index and a comma, colon or tab, these are
      split off; where every line then begins with a wnid, that is too. All the rest is the label, commas
      included.

    Without class indices, the first class is 0. White space around a label is dropped.

    Args:
        name: what error messages call the text, such as its file's name.

    Raises:
        LabelsError: it has none of these forms, no classes, a label that is empty or not text, or class
            indices other than 0 to n-1. The message names the line or key and the value.
    """
    text = text.removeprefix("\ufeff")
    try:
        if not text.strip():
            raise LabelsError("there is nothing in it", hint=_FORMS_HINT)
        if opening := _DOCUMENT.match(text):
            # Without what precedes the bracket, but with its lines, so that errors count them too.
            bracket = opening.end() - 1
            return _to_labels(_document_rows("\n" * text.count("\n", 0, bracket) + text[bracket:]))
        if delimiter := _header_delimiter(_NEWLINE.split(text, maxsplit=1)[0]):
            return _to_labels(_table_rows(text, delimiter))
        return _to_labels(_line_rows(text))
    except LabelsError as error:
        raise LabelsError(f"{name}: {error}", hint=error.hint) from error.__cause__


def _parse_shipped(text: str, name: str) -> tuple[Label, ...]:
    try:
        header, *lines = text.removesuffix("\n").split("\n")
        if header != _SHIPPED_HEADER:
            raise ValueError("the header is another")
        labels = []
        for position, line in enumerate(lines):
            class_index, wnid, label, synonyms, gloss = line.split("\t")
            if int(class_index) != position or not (_WNID.fullmatch(wnid) and label and synonyms):
                raise ValueError(f"line {position + 2} does not describe class {position}")
            labels.append(Label(position, wnid, label, tuple(synonyms.split("|")), gloss))
    except ValueError as error:
        raise LabelsError(
            f"the label set {name} that ships with imgclassify is damaged: {error}",
            hint="reinstall it: pip install --force-reinstall --no-deps imgclassify",
        ) from error
    return tuple(labels)


def _read_text(name: str) -> str:
    try:
        data = _read_bytes(Path(name))
    except FileNotFoundError as error:
        near = difflib.get_close_matches(name.lower(), list_label_sets(), n=1)
        raise LabelsError(
            f"no label set is named {name!r}, and no such file exists",
            hint=(f"did you mean {near[0]}? " if near else "")
            + f"the label sets: {', '.join(list_label_sets())}; or give the path of a label file",
        ) from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise LabelsError(f"cannot read {name!r}: {reason}", hint="give a label file that is readable") from error
    if len(data) > MAX_FILE_BYTES:
        raise LabelsError(f"{name}: more than {MAX_FILE_BYTES:,} bytes, no label file", hint=_FORMS_HINT)
    return _decode_text(data, name)


def _read_bytes(path: Path) -> bytes:
    """What lies there, or its first MAX_FILE_BYTES and one more.

    Raises:
        OSError: it cannot be read, is a device, or a pipe that has not ended in time.
    """
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        return _read_pipe(path)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("it is a device, and no file")
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _read_pipe(path: Path) -> bytes:
    """Such as `<(command)` in a shell. One that nobody writes to would be waited for without end, and so would the
    end of one that somebody holds open."""
    import select

    deadline = time.monotonic() + PIPE_SECONDS
    data = bytearray()
    with io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as pipe:
        while len(data) <= MAX_FILE_BYTES:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise OSError(f"it is a pipe that has not ended within {PIPE_SECONDS:g} s")
            piece = pipe.read(MAX_FILE_BYTES)
            if piece == b"":
                break
            data += piece or b""
    return bytes(data)


def _decode_text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelsError(
            f"{name}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}, in line {line}",
            hint="save it as UTF-8: iconv -f WINDOWS-1252 -t UTF-8, or the encoding that it has",
        ) from error


def _require_bounded(count: int) -> None:
    if count > MAX_CLASSES:
        raise LabelsError(f"it has more than {MAX_CLASSES:,} classes", hint=_FORMS_HINT)


def _line_rows(text: str) -> list[_Row]:
    lines = [line.strip() for line in _NEWLINE.split(text.rstrip(), MAX_CLASSES + 1)]
    _require_bounded(len(lines))
    if "" in lines:
        raise LabelsError(
            f"line {lines.index('') + 1} is blank",
            hint="every line names a class: remove blank lines, and headings that are no class",
        )
    class_indices, labels = _split_off(_INDEX_FIRST, lines)
    wnids, labels = _split_off(_WNID_FIRST, labels)
    if wnids and not any(labels):
        labels = wnids
    if class_indices:
        labels = [_strip_quotes(label) for label in labels]
    columns = {"class_index": class_indices, "wnid": wnids, "label": labels}
    return [
        (f"line {number}", {column: values[number - 1] for column, values in columns.items() if values})
        for number in range(1, len(lines) + 1)
    ]


def _split_off(head: re.Pattern[str], texts: list[str]) -> tuple[list[str] | None, list[str]]:
    """The heads of the texts and what follows them; no heads, and the texts, unless every one has a head."""
    matches = [match for text in texts if (match := head.fullmatch(text))]
    if len(matches) < len(texts):
        return None, texts
    return [match[1] for match in matches], [match[2] for match in matches]


def _strip_quotes(cell: str) -> str:
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if quoted else cell


def _header_delimiter(first_line: str) -> str | None:
    """What separates the columns that `first_line` names; None where it is a class like the others."""
    for delimiter in "\t,;":
        cells = first_line.split(delimiter, MAX_COLUMNS)
        columns = [_column_name(cell.strip().strip('"')) for cell in cells[:MAX_COLUMNS]]
        if len(cells) > MAX_COLUMNS and any(columns):
            raise LabelsError(f"line 1 has more than {MAX_COLUMNS:,} columns", hint=_FORMS_HINT)
        if columns == ["label"] or (len(columns) > 1 and any(columns)):
            return delimiter
    return None


def _table_rows(text: str, delimiter: str) -> list[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        rows = [(f"line {reader.line_num}", cells) for cells in islice(reader, MAX_CLASSES + 2)]
    except csv.Error as error:
        raise LabelsError(f"line {reader.line_num}: {error}", hint=_FORMS_HINT) from error
    while not "".join(rows[-1][1]).strip() and len(rows[-1][1]) < 2:
        rows.pop()
    (where, names), *rows = rows
    _require_bounded(len(rows))
    columns = _find_columns(names, where)
    for where, cells in rows:
        if len(cells) != len(names):
            raise LabelsError(
                f"{where} has {len(cells)} columns, the header {len(names)}",
                hint=f'a value that holds {delimiter!r} goes in double quotes: "tench, Tinca tinca"',
            )
    return [(where, {column: cells[place] for column, place in columns.items()}) for where, cells in rows]


def _find_columns(names: Sequence[object], where: str) -> dict[str, int]:
    """At which place of `names` each column stands that is known."""
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        column = _column_name(name)
        if column in places:
            raise LabelsError(
                f"{where}: {names[places[column]]!r} and {name!r} both name the {column}",
                hint="keep one of the two",
            )
        if column:
            places[column] = place
    if "label" not in places:
        raise LabelsError(
            f"{where}: none of {_short_repr(list(names))} is the label",
            hint=f"name it one of {', '.join(_COLUMN_NAMES['label'])}",
        )
    return places


def _column_name(name: object) -> str | None:
    return _COLUMNS.get(str(name).strip().casefold().replace(" ", "_"))


def _document_rows(text: str) -> list[_Row]:
    document = _parse_document(text.rstrip())
    if isinstance(document, list | dict):
        _require_bounded(len(document))
    if isinstance(document, list):
        return [(f"[{place}]", _class_values(value, f"[{place}]")) for place, value in enumerate(document)]
    if not isinstance(document, dict):
        raise LabelsError(f"it is a {type(document).__name__}, not a list or a dict", hint=_FORMS_HINT)
    keyed = [(f"[{_short_repr(key)}]", key, value) for key, value in document.items()]
    # {"cat": 0}, as Keras's class_indices and torchvision's class_to_idx are saved: no label is a number.
    if all(type(value) is int for value in document.values()):
        return [(where, {"class_index": value, "label": key}) for where, key, value in keyed]
    return [(where, {**_class_values(value, where), "class_index": key}) for where, key, value in keyed]


def _class_values(value: object, where: str) -> dict[str, object]:
    """The columns of one class in a document: a label, [wnid, label], or an object with named values."""
    if isinstance(value, dict):
        values = list(value.values())
        places = _find_columns(list(value), where)
        return {column: values[place] for column, place in places.items() if values[place] is not None}
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise LabelsError(
                f"{where} has {len(value)} values: {_short_repr(value)}", hint="a pair is a wnid and a label"
            )
        return {"wnid": value[0], "label": value[1]}
    return {"label": value}


def _parse_document(text: str) -> object:
    """The JSON document or Python literal in `text`; no code is run."""
    failures = []
    for evaluate in (_parse_json, _parse_python):
        try:
            return evaluate(text)
        except (json.JSONDecodeError, SyntaxError) as error:
            failures.append((error.lineno or 1, error.msg))
        except (ValueError, TypeError, RecursionError, MemoryError):
            failures.append((1, "it holds more than plain values"))
    # The reader that got further is the one the file was meant for.
    line, problem = max(failures, key=itemgetter(0))
    raise LabelsError(f"line {line}: neither JSON nor a Python list or dict: {problem}", hint=_FORMS_HINT)


def _parse_json(text: str) -> object:
    def to_dict(pairs: list[tuple[str, object]]) -> dict[str, object]:
        _require_unique(key for key, _ in pairs)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=to_dict)


def _parse_python(text: str) -> object:
    # Over code, Python's own parser takes gigabytes, or for ever; over data, a thousand bytes a value.
    skeleton = _PYTHON_TEXT.sub(" 0 ", text)
    if not _PYTHON_DATA.fullmatch(skeleton) or _PYTHON_CODE.search(skeleton):
        raise ValueError("it is not made of text and numbers alone")
    if skeleton.count(",") > 2 * MAX_CLASSES:
        raise LabelsError(f"it has more than {2 * MAX_CLASSES:,} values", hint="save it as JSON")
    expression = ast.parse(text, mode="eval").body
    document: object = ast.literal_eval(expression)
    if isinstance(expression, ast.Dict):
        _require_unique(ast.literal_eval(key) for key in expression.keys if key)
    return document


def _require_unique(keys: Iterable[Hashable]) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise LabelsError(f"the key {_short_repr(key)} stands twice", hint="keep one entry a class")
        seen.add(key)


def _to_labels(rows: list[_Row]) -> tuple[Label, ...]:
    """The one gate into Label: every value checked, and the class indices exactly 0 to n-1."""
    if not rows:
        raise LabelsError("there are no classes in it", hint=_FORMS_HINT)
    indexed = any("class_index" in values for _, values in rows)
    places: dict[int, str] = {}
    labels = []
    for position, (where, values) in enumerate(rows):
        class_index = _check_class_index(values.get("class_index"), where) if indexed else position
        if class_index in places:
            raise LabelsError(f"{where}: class index {class_index} is {places[class_index]}'s", hint=_INDEX_HINT)
        places[class_index] = where
        label = _check_text(values.get("label"), "label", where)
        if not label:
            raise LabelsError(f"{where}: the label is empty", hint="every class needs a label")
        synonyms = _check_synonyms(values.get("synonyms", ""), where)
        gloss = _check_text(values.get("gloss", ""), "gloss", where)
        labels.append(Label(class_index, _check_wnid(values.get("wnid", ""), where), label, synonyms, gloss))
    last = max(places)
    if last >= len(rows):
        missing = next(index for index in range(len(rows)) if index not in places)
        raise LabelsError(
            f"class index {missing} is missing: {len(rows)} classes have 0 to {len(rows) - 1}, "
            f"but {places[last]} has {last}",
            hint=_INDEX_HINT,
        )
    return tuple(sorted(labels, key=attrgetter("class_index")))


def _check_class_index(value: object, where: str) -> int:
    number = value.strip() if isinstance(value, str) else _short_repr(value)
    if not _CLASS_INDEX.fullmatch(number):
        raise LabelsError(f"{where}: {_short_repr(value)} is not a class index", hint=_INDEX_HINT)
    return int(number)


def _check_wnid(value: object, where: str) -> str | None:
    wnid = _check_text(value, "wnid", where)
    if wnid and not _WNID.fullmatch(wnid):
        raise LabelsError(
            f"{where}: {_short_repr(value)} is not a WordNet id",
            hint="a wnid is like n02099601; or leave it out",
        )
    return wnid or None


def _check_synonyms(value: object, where: str) -> tuple[str, ...]:
    """From a list of texts, or from one text with "|" between them."""
    names = value if isinstance(value, list | tuple) else _check_text(value, "synonyms", where).split("|")
    synonyms = (_check_text(name, "synonyms", where) for name in names)
    return tuple(synonym for synonym in synonyms if synonym)


def _check_text(value: object, column: str, where: str) -> str:
    if not isinstance(value, str) or _SURROGATE.search(value):
        raise LabelsError(f"{where}: the {column} is {_short_repr(value)}, not text", hint=_FORMS_HINT)
    return value.strip()


def _short_repr(value: object) -> str:
    """A repr of bounded length."""
    try:
        return reprlib.repr(value)
    except ValueError:
        # Python turns no integer of more than 4300 digits into text.
        return "a huge number"
