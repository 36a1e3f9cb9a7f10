"""The file split.tsv: what is written is read again, and nothing else is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgclassify.errors import ExitStatus, UsageError
from imgclassify.training.split_file import PARTS, SplitRow, read_split, write_split

HEADER = "source\tlabel\tpart\tsha256\treason\n"
SHA = "0123456789abcdef" * 4
ROWS = [
    SplitRow("pets/cat/1.jpg", "cat", "train", SHA, ""),
    SplitRow("pets.zip!dog/rex.png", "dog", "val", "f" * 64, ""),
    SplitRow("pets/dog/broken.jpg", "dog", "left out", "", "the file is empty"),
]

# What os.fsdecode makes of any bytes: no NUL, and surrogates only for bytes that are not text.
names = st.binary(min_size=1).map(lambda content: content.decode("utf-8", "surrogateescape"))
texts = st.text(st.characters(codec="utf-8"))


def error_of(path: Path, content: str) -> UsageError:
    path.write_text(content, encoding="utf-8", newline="")
    with pytest.raises(UsageError) as caught:
        read_split(path)
    assert caught.value.exit_status is ExitStatus.USAGE
    assert caught.value.hint
    assert str(path) in str(caught.value)
    return caught.value


def test_the_file_is_a_table_of_tabs(tmp_path: Path) -> None:
    path = tmp_path / "split.tsv"
    write_split(path, ROWS)
    assert path.read_text(encoding="utf-8") == (
        HEADER + f"pets/cat/1.jpg\tcat\ttrain\t{SHA}\t\n"
        f"pets.zip!dog/rex.png\tdog\tval\t{'f' * 64}\t\n"
        "pets/dog/broken.jpg\tdog\tleft out\t\tthe file is empty\n"
    )
    assert read_split(path) == ROWS
    with path.open(encoding="utf-8", newline="") as stream:
        assert [tuple(row) for row in csv.reader(stream, delimiter="\t")][1:] == ROWS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(SplitRow, names, texts, st.sampled_from(PARTS), st.just(SHA), texts),
        unique_by=lambda row: row.source,
    )
)
def test_any_name_is_read_as_it_was_written(tmp_path: Path, rows: list[SplitRow]) -> None:
    path = tmp_path / "split.tsv"
    write_split(path, rows)
    assert read_split(path) == rows


@pytest.mark.parametrize(
    "name", ["a\tb.jpg", "a\nb.jpg", "a\rb.jpg", 'a"b.jpg', '"a".jpg', "\udcff.jpg", " a ", "a" * 200_000]
)
def test_names_with_tabs_and_newlines(tmp_path: Path, name: str) -> None:
    path = tmp_path / "split.tsv"
    write_split(path, [ROWS[0]._replace(source=name), *ROWS[1:]])
    assert [row.source for row in read_split(path)] == [name, *(row.source for row in ROWS[1:])]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "split.tsv"
    write_split(path, ROWS)

    def fail() -> SplitRow:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_split(path, (fail() for _ in range(1)))
    assert read_split(path) == ROWS
    assert [each.name for each in tmp_path.iterdir()] == ["split.tsv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: the columns are not source, label"),
        ("source\tlabel\n", "the columns are not source, label, part, sha256, reason"),
        (HEADER + f"a.jpg\tcat\ttrain\t{SHA}\n", "line 2: it does not have 5 cells"),
        (HEADER + f"a.jpg\tcat\ttrain\t{SHA}\t\t\n", "line 2: it does not have 5 cells"),
        (HEADER + f"a.jpg\tcat\ttest\t{SHA}\t\n", "line 2: the part is 'test', not one of train, val, left out"),
        (HEADER + "a.jpg\tcat\ttrain\tabc\t\n", "line 2: the SHA-256 is 'abc'"),
        (HEADER + f"a.jpg\tcat\ttrain\t{SHA}\t", "the file ends within it"),
        (HEADER + f'"a.jpg\tcat\ttrain\t{SHA}\t\n', "line 2: unexpected end of data"),
        (HEADER + 2 * f"a.jpg\tcat\ttrain\t{SHA}\t\n", "line 3: 'a.jpg' is there twice, in line 2 too"),
    ],
    ids=["empty", "columns", "few cells", "many cells", "part", "digest", "cut off", "quotes", "twice"],
)
def test_what_is_not_as_it_was_written_is_an_error(tmp_path: Path, content: str, words: str) -> None:
    assert words in str(error_of(tmp_path / "split.tsv", content))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_split(tmp_path / "split.tsv")
