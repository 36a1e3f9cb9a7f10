"""Classes and parts of images by a truth file. How rows are found: tests/evaluation/test_truth_file.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgclassify.errors import ExitStatus, UsageError
from imgclassify.training.layout import TEST, TRAIN, VAL
from imgclassify.training.truth_classes import TruthClasses, read_classes


@pytest.fixture
def truth_csv(tmp_path: Path) -> Path:
    return tmp_path / "truth.csv"


def read(path: Path, content: str, *names: str) -> TruthClasses:
    path.write_text(content, encoding="utf-8")
    return read_classes(path, names)


def error_of(path: Path, content: str, *names: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read(path, content, *names)
    assert caught.value.exit_status is ExitStatus.USAGE
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "content",
    [
        "source,class\na.jpg,cat\nb.jpg,dog\n",
        "file;label\nd/a.jpg;cat\nd/b.jpg;dog\n",
        "label\timage\ncat\ta.jpg\ndog\tb.jpg\n",
        "id,class_index,label\na,0,cat\nb,1,dog\n",
    ],
    ids=["commas", "semicolons", "tabs", "index and label"],
)
def test_classes_are_named_as_in_the_file(truth_csv: Path, content: str) -> None:
    found = read(truth_csv, content, "d/b.jpg", "d/a.jpg")
    assert found.labels == ["dog", "cat"]
    assert found.parts is None
    assert found.notes == []


def test_how_the_classes_were_found(truth_csv: Path) -> None:
    found = read(truth_csv, "source,class_index,label\na.jpg,0,cat\n", "a.jpg")
    assert found.how == f"the column label of {truth_csv}"


@pytest.mark.parametrize("cells", [("0", "7"), ("0.0", "7.0")])
def test_whole_numbers_are_names(truth_csv: Path, cells: tuple[str, str]) -> None:
    content = f"source,class\na.jpg,{cells[0]}\nb.jpg,{cells[1]}\n"
    assert read(truth_csv, content, "a.jpg", "b.jpg").labels == ["0", "7"]


@pytest.mark.parametrize("column", ["split", "part", "Split"])
def test_a_column_may_tell_the_parts(truth_csv: Path, column: str) -> None:
    content = f"source,class,{column}\na.jpg,cat,Train\nb.jpg,cat,validation\nc.jpg,cat,test\n"
    assert read(truth_csv, content, "a.jpg", "b.jpg", "c.jpg").parts == [TRAIN, VAL, TEST]


@pytest.mark.parametrize("cell", ["", "holdout"])
def test_an_unknown_part_is_an_error(truth_csv: Path, cell: str) -> None:
    content = f"source,class,split\na.jpg,cat,train\nb.jpg,cat,{cell}\n"
    assert f"line 3: the part is {cell!r}" in str(error_of(truth_csv, content, "a.jpg", "b.jpg"))


def test_an_image_without_a_row_is_an_error(truth_csv: Path) -> None:
    error = error_of(truth_csv, "source,class\na.jpg,cat\n", "a.jpg", "b.jpg")
    assert "1 of 2 images has no truth" in str(error)
    assert "--ignore-unknown" not in str(error.hint)


def test_rows_that_fit_no_image_are_told(truth_csv: Path) -> None:
    content = "source,class\na.jpg,cat\na.jpg,cat\nb.jpg,dog\nc.jpg,dog\n"
    assert read(truth_csv, content, "a.jpg").notes == [f"2 rows of {truth_csv} fit no image"]


@pytest.mark.parametrize("rows", ["a.jpg,cat,train\na.jpg,dog,train\n", "a.jpg,cat,train\na.jpg,cat,val\n"])
def test_an_image_with_two_classes_or_parts_is_an_error(truth_csv: Path, rows: str) -> None:
    assert "there twice" in str(error_of(truth_csv, "source,class,split\n" + rows, "a.jpg"))


def test_one_name_of_two_classes_is_an_error(truth_csv: Path) -> None:
    content = "source,label,class_index\na.jpg,crane,134\nb.jpg,bus,4\nc.jpg,crane,517\n"
    assert "'crane' is '134' in line 2 and '517' in line 4" in str(error_of(truth_csv, content, "a.jpg"))
    read(truth_csv, "source,label,class_index\na.jpg,crane,134\nb.jpg,crane,\nc.jpg,,4\n", "a.jpg")


@pytest.mark.parametrize("content", ["", "source,class\n", "source,colour\na.jpg,red\n"])
def test_a_file_without_classes_is_an_error(truth_csv: Path, content: str) -> None:
    assert str(truth_csv) in str(error_of(truth_csv, content, "a.jpg"))
