"""The truth of images by a CSV file."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclassify.errors import ExitStatus, UsageError
from imgclassify.evaluation.truth import Truth, find_truth
from imgclassify.labels import Label, LabelSet, load_labels

IMAGENET = load_labels("imagenet1k")
TENCH, GOLDFISH = 0, 1


@pytest.fixture
def truth_csv(tmp_path: Path) -> Path:
    return tmp_path / "truth.csv"


def find(path: Path, *sources: str, labels: LabelSet = IMAGENET, **options: object) -> Truth:
    return find_truth(labels, sources, truth=str(path), **options)  # type: ignore[arg-type]


def classes(path: Path, content: str | bytes, *sources: str, **options: object) -> list[list[int] | None]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    truth = find(path, *sources, **options)  # type: ignore[arg-type]
    found = [truth.class_of(source) for source in sources]
    return [None if each is None else sorted(truth.classes[each].class_indices) for each in found]


def error_of(path: Path, content: str | bytes, *sources: str, **options: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        classes(path, content, *sources, **options)
    assert caught.value.exit_status is ExitStatus.USAGE
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ("class", "tench"),
        ("class", "n01440764"),
        ("class", "0"),
        ("class", "n01440764_tench"),
        ("label", "Tinca tinca"),
        ("wnid", "n01440764"),
        ("class_index", "0"),
        ("Class Index", "0.0"),
        ("classIndex", "00"),
    ],
)
def test_columns_of_classes(truth_csv: Path, header: str, cell: str) -> None:
    assert classes(truth_csv, f"source,{header}\na.jpg,{cell}\n", "a.jpg") == [[TENCH]]


@pytest.mark.parametrize(
    "header",
    ["source", "file", "filename", "file_name", "filepath", "image", "Image Path", "path", "id", "image_id"],
)
def test_columns_of_images(truth_csv: Path, header: str) -> None:
    assert classes(truth_csv, f"class,{header}\ntench,a.jpg\n", "a.jpg") == [[TENCH]]


@pytest.mark.parametrize(
    "content",
    [
        "source,class\na.jpg,tench\nb.jpg,goldfish\n",
        "source;class\r\na.jpg;tench\r\n\r\nb.jpg;goldfish\r\n",
        "source\tclass\ra.jpg\ttench\rb.jpg\tgoldfish",
        '\ufeff"source","class","note"\n"a.jpg","tench","x, ""y""\nz"\nb.jpg,goldfish,\n',
        "\n \nsource,class\na.jpg , tench\n  ,\nb.jpg,goldfish,,\n",
        "id;source;class\n1,5;a.jpg;tench\n2,5;b.jpg;goldfish\n".encode("utf-16"),
        'source;class;"a, b"\na.jpg;tench;\nb.jpg;goldfish;\n',
    ],
    ids=["plain", "semicolons, CRLF", "tabs, CR", "BOM, quotes", "blanks", "UTF-16", "comma in header"],
)
def test_forms_of_the_file(truth_csv: Path, content: str | bytes) -> None:
    assert classes(truth_csv, content, "d/b.jpg", "d/a.jpg") == [[GOLDFISH], [TENCH]]


def test_the_source_column_comes_before_others_of_its_kind(truth_csv: Path) -> None:
    assert classes(truth_csv, "path,source,class\nx,a.jpg,tench\n", "a.jpg") == [[TENCH]]
    assert "'path' and 'file' may both be" in str(error_of(truth_csv, "path,file,class\nx,a.jpg,tench\n", "a.jpg"))


def test_an_id_names_the_images_if_nothing_else_does(truth_csv: Path) -> None:
    assert classes(truth_csv, "id,label\n00a1,tench\n00b2,goldfish\n", "d/00b2.jpg", "d/00a1.jpg") == [
        [GOLDFISH],
        [TENCH],
    ]
    assert classes(truth_csv, "id,file,label\nb.jpg,a.jpg,tench\n", "a.jpg") == [[TENCH]]


# Which row


@pytest.mark.parametrize(
    ("row", "source"),
    [
        ("photos/dogs/rex.jpg", "photos/dogs/rex.jpg"),
        ("./photos/dogs/rex.jpg", "photos/dogs/rex.jpg"),
        ("dogs/rex.jpg", "photos/dogs/rex.jpg"),
        ("rex.jpg", "photos/dogs/rex.jpg"),
        ("/home/me/photos/dogs/rex.jpg", "photos/dogs/rex.jpg"),
        ("C:\\photos\\dogs\\rex.jpg", "photos/dogs/rex.jpg"),
        ("elsewhere/rex.jpg", "photos/dogs/rex.jpg"),
        ("test/rex.jpg", "photos.zip!test/rex.jpg"),
        ("photos.zip!test/rex.jpg", "d/photos.zip!test/rex.jpg"),
        ("a/rex%20.jpg", "a/rex%20.jpg"),
        ("a/rex 1.jpg", "https://host.org/a/rex%201.jpg?size=2"),
        ("https://host.org/a/rex.jpg?size=2", "https://host.org/a/rex.jpg?size=2"),
        ("rex.gif", "a/rex.gif#12"),
        ("a/rex.gif#12", "a/rex.gif#12"),
        ("ILSVRC2012_val_00000001", "val/ILSVRC2012_val_00000001.JPEG"),
        ("val/ILSVRC2012_val_00000001", "ILSVRC2012_val_00000001.JPEG"),
        ("x/ILSVRC2012_val_00000001", "y/ILSVRC2012_val_00000001.JPEG"),
        ("k\u00e4fer.jpg", "d/ka\u0308fer.jpg"),
    ],
)
def test_a_row_fits_by_name_end_or_unique_file_name(truth_csv: Path, row: str, source: str) -> None:
    content = f"source,class\nother.jpg,goldfish\n{row},tench\n"
    assert classes(truth_csv, content, source) == [[TENCH]]


@pytest.mark.parametrize(
    ("row", "source"), [("rex.jpg", "d/trex.jpg"), ("s/rex.jpg", "dogs/rex2.jpg"), ("rex.png", "d/rex.jpg")]
)
def test_only_whole_parts_of_a_path_count(truth_csv: Path, row: str, source: str) -> None:
    error = error_of(truth_csv, f"source,class\n{row},tench\n", source)
    assert f"such as {row!r}, and the images are such as {source!r}" in str(error)


def test_the_longest_end_counts(truth_csv: Path) -> None:
    content = "source,class\nrex.jpg,goldfish\ndogs/rex.jpg,tench\n"
    assert classes(truth_csv, content, "p/dogs/rex.jpg", "p/cats/rex.jpg") == [[TENCH], [GOLDFISH]]


def test_a_row_that_fits_two_images_is_an_error(truth_csv: Path) -> None:
    error = error_of(truth_csv, "source,class\n1.jpg,tench\n", "train/1.jpg", "val/1.jpg")
    assert "line 2, '1.jpg', fits both 'train/1.jpg' and 'val/1.jpg'" in str(error)
    error = error_of(truth_csv, "source,class\n1,tench\n", "d/1.jpg", "d/1.png")
    assert "fits both" in str(error)


def test_a_file_name_counts_only_if_it_is_unique(truth_csv: Path) -> None:
    two_rows = "source,class\na/1.jpg,tench\nb/1.jpg,goldfish\n"
    assert "no row" in str(error_of(truth_csv, two_rows, "c/1.jpg"))
    one_row = "source,class\na/1.jpg,tench\n"
    assert "no row" in str(error_of(truth_csv, one_row, "c/1.jpg", "d/1.jpg"))
    error = error_of(truth_csv, two_rows, "1.jpg")
    assert "lines 2 and 3" in str(error)
    assert classes(truth_csv, "source,class\na/1.jpg,tench\nb/1.jpg,0\n", "1.jpg") == [[TENCH]]


def test_frames_share_the_row_of_their_file(truth_csv: Path) -> None:
    assert classes(truth_csv, "source,class\na.gif,tench\n", "d/a.gif#1", "d/a.gif#2") == [[TENCH], [TENCH]]
    # Frames may be listed later.
    truth = find(truth_csv, "d/a.gif")
    assert truth.class_of("d/a.gif#2") == truth.class_of("d/a.gif")
    with pytest.raises(UsageError, match="none of the images"):
        truth.class_of("d/b.gif")


def test_the_same_source_twice_counts_once(truth_csv: Path) -> None:
    truth_csv.write_text("source,class\na.jpg,tench\n")
    assert find(truth_csv, "a.jpg", "a.jpg", "./a.jpg").counts == (2,)


def test_unused_and_repeated_rows(truth_csv: Path) -> None:
    truth_csv.write_text("source,class\na.jpg,tench\na.jpg,n01440764\nb.jpg,goldfish\nc.jpg,goldfish\n")
    truth = find(truth_csv, "a.jpg", "b.jpg")
    assert truth.unused_rows == 1
    assert truth.counts == (1, 1)
    assert truth.how == f"the column class of {truth_csv}"


def test_images_without_a_row(truth_csv: Path) -> None:
    sources = ["a.jpg", *(f"x{number}.jpg" for number in range(7))]
    error = error_of(truth_csv, "source,class\na.jpg,tench\n", *sources)
    assert f"7 of 8 images have no truth, because {truth_csv} has no row for them" in str(error)
    assert "'x4.jpg' and 2 more" in str(error)
    truth = find(truth_csv, *sources, ignore_unknown=True)
    assert (truth.num_images, truth.without_truth, truth.class_of("x1.jpg")) == (1, 7, None)


# Which class


def test_columns_must_agree(truth_csv: Path) -> None:
    content = "source,class_index,wnid,label\na.jpg,{},{},{}\n"
    assert classes(truth_csv, content.format(0, "n01440764", "tench"), "a.jpg") == [[TENCH]]
    assert classes(truth_csv, content.format("", "", "tench"), "a.jpg") == [[TENCH]]
    error = error_of(truth_csv, content.format(0, "n01440764", "goldfish"), "a.jpg")
    assert "line 2: '0' and 'goldfish' are different classes" in str(error)


def test_one_column_tells_which_class_of_an_ambiguous_label_is_meant(truth_csv: Path) -> None:
    content = "source,label,class_index\na.jpg,crane,{}\n"
    assert classes(truth_csv, content.format(134), "a.jpg") == [[134]]
    assert classes(truth_csv, content.format(517), "a.jpg") == [[517]]
    assert "different classes" in str(error_of(truth_csv, content.format(3), "a.jpg"))
    assert "can mean" in str(error_of(truth_csv, content.format(""), "a.jpg"))


def test_a_label_that_is_a_synonym_of_another_label_in_the_file(truth_csv: Path) -> None:
    content = "source,label\n1.jpg,crane\n2.jpg,crane bird\n"
    assert classes(truth_csv, content, "1.jpg", "2.jpg") == [[517], [134]]


def test_unknown_classes_are_listed_with_their_rows(truth_csv: Path) -> None:
    content = "source,class\n1.jpg,tensh\n2.jpg,dog\n3.jpg,dog\n4.jpg,tench\n"
    error = error_of(truth_csv, content, "4.jpg")
    assert "2 of 3 class names do not name one class of imagenet1k" in str(error)
    assert "'dog' (2 rows, such as line 3) is not one class, but a group" in str(error)
    assert "'tensh' (1 row, such as line 2) is unknown; did you mean tench" in str(error)


def test_unknown_classes_can_be_left_out(truth_csv: Path) -> None:
    truth_csv.write_text("source,class\n1.jpg,zzz\n2.jpg,tench\n3.jpg,zzz\n")
    truth = find(truth_csv, "1.jpg", "2.jpg", "3.jpg", ignore_unknown=True)
    assert truth.ignored == {"zzz": 2}
    assert truth.class_of("1.jpg") is None
    assert truth.num_images == 1


def test_a_map_serves_the_classes_of_a_file(truth_csv: Path, tmp_path: Path) -> None:
    the_map = tmp_path / "map.csv"
    the_map.write_text("dog,dog\nfish,tench\n")
    content = "source,class_index,label\n1.jpg,,dog\n2.jpg,0,fish\n"
    found = classes(truth_csv, content, "1.jpg", "2.jpg", map_file=str(the_map))
    assert found == [list(range(151, 269)), [TENCH]]


def test_a_wnid_column_has_only_wnids_and_a_label_column_only_labels(truth_csv: Path) -> None:
    assert "'tench'" in str(error_of(truth_csv, "source,wnid\n1.jpg,tench\n", "1.jpg"))
    error = error_of(truth_csv, "source,label\n1.jpg,3\n", "1.jpg")
    assert "'3'" in str(error)
    assert "call it class_index" in str(error.hint)
    for content in ("source,label\n1.jpg,3\n2.jpg,dgo\n", "source,class\n1.jpg,3000\n2.jpg,3\n"):
        assert "call it class_index" not in str(error_of(truth_csv, content, "1.jpg", "2.jpg").hint)


def test_names_that_differ_in_case_are_no_match_but_an_error_that_says_so(truth_csv: Path) -> None:
    error = error_of(truth_csv, "source,class\nC:\\x\\A.JPG,tench\n", "d/b.jpg", "d/a.jpg")
    assert "differ in case" in str(error.hint)
    assert "differ in case" not in str(error_of(truth_csv, "source,class\nc.jpg,tench\n", "d/a.jpg").hint)


# Errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"source,class\n", "has no rows"),
        (b"a/1.jpg,tench\n", "has no header: line 1 is 'a/1.jpg,tench'"),
        (
            b"number,url\n1,2\n",
            "no column for the images (source) and for the classes (class, label, wnid or class_index)",
        ),
        (
            b"source,url\n1,2\n",
            "no column for the classes (class, label, wnid or class_index): its columns are 'source', 'url'",
        ),
        (b'[{"source": "1.jpg", "class": "tench"}]', "line 1: it is JSON, not CSV"),
        (b"source|class\n1|2\n", "its columns are 'source|class'"),
        (b"source,class,class\n1.jpg,a,b\n", "two columns have the same name"),
        (
            b"source,class\n1.jpg,tench\n2.jpg,tench\n1.jpg,goldfish\n",
            "'1.jpg' is there twice with different classes, in lines 2 and 4",
        ),
        (b"source,class\n1.jpg,great,white\n", "line 2 has 3 cells, and the header has 2"),
        (b"source,class,x\n1.jpg,tench\n", "line 2 has 2 cells, and the header has 3"),
        (b"source,class\n1.jpg,\n", "line 2 has no class"),
        (b"source,class\n,tench\n", "line 2 has no source"),
        (b'source,class\n"1.jpg,tench\n', "a double quote before it is not closed"),
        (
            b"source,class_index\n1.jpg,1000\n",
            "line 2: the class index is 1000, but those of imagenet1k are 0 to 999",
        ),
        (b"source,class_index\n1.jpg,-1\n", "line 2: the class index is '-1', not a whole number"),
        (b"source,class_index\n1.jpg,tench\n", "line 2: the class index is 'tench', not a whole number"),
        ("source,class\n1.jpg,K\u00e4fer\n".encode("cp1252"), "not UTF-8: byte 0xe4 at offset 20, in line 2"),
        (b"PK\x03\x04 xl/workbook.xml", "it is an Excel file (.xlsx), not a truth file"),
        (b"\x1f\x8b\x08", "it is a gzip file, not a truth file"),
        (b"\0" * 100, "it is a binary file, not text"),
    ],
)
def test_errors_of_files(truth_csv: Path, content: bytes, message: str) -> None:
    error = error_of(truth_csv, content, "p/1.jpg")
    assert message in str(error)
    assert str(truth_csv) in str(error)
    assert "--labels" not in str(error.hint)


def test_indices_that_count_from_one(truth_csv: Path) -> None:
    labels = LabelSet("own", tuple(Label(index, None, label) for index, label in enumerate("abc")))
    content = "source,class_index\n1.jpg,1\n2.jpg,3\n3.jpg,2\n"
    error = error_of(truth_csv, content, "1.jpg", labels=labels)
    assert "line 3: the class index is 3, but those of own are 0 to 2; the column seems to count from 1" in str(
        error
    )
    assert "subtract 1" in str(error.hint)
    error = error_of(truth_csv, content.replace(",1\n", ",0\n"), "1.jpg", labels=labels)
    assert "count from 1" not in str(error)


def test_a_file_that_does_not_exist_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the truth file 'folder' does not exist") as caught:
        find(Path("folder"), "a.jpg")
    assert "folders, names or the path of a CSV file" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"Is a directory|Permission denied"):
        find(tmp_path, "a.jpg")


# Properties


@settings(max_examples=60)
@given(
    paths=st.lists(
        st.lists(st.sampled_from(["a", "b", "dogs", "rex"]), min_size=1, max_size=4).map("/".join),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    kept=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_no_order_of_rows_or_sources_changes_a_class(
    paths: list[str], kept: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows have the last parts of the paths. Either every image has its own class, or there is an error."""
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    sources = [f"{each}.jpg" for each in paths]
    rows = [("/".join(source.split("/")[-kept:]), index) for index, source in enumerate(sources)]
    shuffler = random.Random(seed)

    def run(rows: list[tuple[str, int]], sources: list[str]) -> dict[str, int] | None:
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([("source", "class_index"), *rows])
        try:
            truth = find(path, *sources)
        except UsageError:
            return None
        found = {source: truth.class_of(source) for source in sources}
        return {
            source: min(truth.classes[each].class_indices) for source, each in found.items() if each is not None
        }

    found = run(rows, sources)
    assert run(shuffler.sample(rows, len(rows)), shuffler.sample(sources, len(sources))) == found
    ends = [row for row, _ in rows]
    if len(set(ends)) < len(ends):
        assert found is None  # two rows for one name
    elif found is not None:
        assert found == dict(zip(sources, range(len(sources)), strict=True))


def test_many_images_of_the_same_file_name_take_no_quadratic_time(truth_csv: Path) -> None:
    count = 20_000  # four hundred million comparisons, if each were compared with each
    sources = [f"d/{number}/image.jpg" for number in range(count)]
    rows = "".join(f"/far/d/{number}/image.jpg,{number % 1000}\n" for number in range(count))
    truth_csv.write_text("source,class_index\n" + rows)
    truth = find(truth_csv, *sources)
    assert truth.num_images == count
    assert [min(truth.classes[truth.class_of(each) or 0].class_indices) for each in sources[:3]] == [0, 1, 2]
