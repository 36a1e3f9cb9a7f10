"""The images and classes of a training, by names alone, and every bad input before an image is opened."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclassify.errors import ExitStatus, ImageUnreadableError, NoImagesError, UsageError
from imgclassify.results import ImageFailure
from imgclassify.sources import Source, expand
from imgclassify.training.dataset import Dataset, check_readable, find_dataset
from imgclassify.training.reading import ReadImage
from imgclassify.training.spool import Spool

PETS = "d/cat/1.jpg d/cat/2.jpg d/dog/1.jpg d/dog/2.jpg"
PARTS = "d/train/cat/1.jpg d/train/cat/2.jpg d/train/dog/1.jpg d/train/dog/2.jpg"


def sources(names: str | list[str]) -> Iterator[Source]:
    """Sources that must not be opened."""

    def refuse() -> BinaryIO:
        raise AssertionError("an image was opened")

    for name in names.split() if isinstance(names, str) else names:
        yield Source(name, refuse, path=name)


def find(names: str | list[str], val: str | None = None, **options: object) -> Dataset:
    given_val = None if val is None else sources(val)
    return find_dataset(sources(names), **{"roots": ["d"], "val": given_val, **options})  # type: ignore[arg-type]


def listed(part: object) -> list[tuple[str, int]]:
    return [(each.source.name, each.class_index) for each in part]  # type: ignore[attr-defined]


def error_of(names: str | list[str], val: str | None = None, **options: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        find(names, val, **options)
    assert caught.value.exit_status is ExitStatus.USAGE
    assert caught.value.hint
    return caught.value


# Classes and parts


def test_classes_are_sorted_and_images_keep_their_order() -> None:
    found = find("d/dog/2.jpg d/cat/1.jpg d/Zebra/1.jpg d/dog/1.jpg d/Zebra/2.jpg d/cat/2.jpg")
    assert found.classes == ("Zebra", "cat", "dog")
    assert listed(found.train) == [
        ("d/dog/2.jpg", 2),
        ("d/cat/1.jpg", 1),
        ("d/Zebra/1.jpg", 0),
        ("d/dog/1.jpg", 2),
        ("d/Zebra/2.jpg", 0),
        ("d/cat/2.jpg", 1),
    ]
    assert found.val == ()
    assert found.how == "the name of its folder"
    assert found.notes == ()


def test_a_validation_part_in_a_folder() -> None:
    found = find(f"{PARTS} d/val/cat/3.jpg d/val/dog/3.jpg")
    assert listed(found.val) == [("d/val/cat/3.jpg", 0), ("d/val/dog/3.jpg", 1)]
    assert len(found.train) == 4
    assert found.notes == ()


def test_test_is_for_validation_if_there_is_no_val() -> None:
    found = find(f"{PARTS} d/test/cat/3.jpg d/test/dog/3.jpg")
    assert listed(found.val) == [("d/test/cat/3.jpg", 0), ("d/test/dog/3.jpg", 1)]
    assert found.notes == ("the part test is used for validation: 2 images",)


def test_test_is_left_out_beside_val() -> None:
    names = f"{PARTS} d/val/cat/3.jpg d/val/dog/3.jpg d/test/cat/4.jpg d/test/bird/5.jpg"
    found = find(names)
    assert listed(found.val) == [("d/val/cat/3.jpg", 0), ("d/val/dog/3.jpg", 1)]
    assert found.classes == ("cat", "dog")
    assert found.notes == ("left out: 2 images of the part test; measure them with `imgclassify evaluate`",)


def test_val_may_be_another_folder() -> None:
    found = find(PETS, "v/dog/1.jpg v/cat/2.jpg", val_roots=["v"])
    assert listed(found.val) == [("v/dog/1.jpg", 1), ("v/cat/2.jpg", 0)]
    assert found.notes == ()


def test_val_may_lack_a_class() -> None:
    found = find(PETS, "v/dog/1.jpg v/dog/2.jpg", val_roots=["v"])
    assert [index for _, index in listed(found.val)] == [1, 1]
    assert found.notes == ("no image for validation is of cat",)


def test_test_is_left_out_beside_another_folder() -> None:
    found = find(f"{PARTS} d/test/cat/3.jpg", "v/dog/1.jpg v/cat/2.jpg", val_roots=["v"])
    assert [name for name, _ in listed(found.val)] == ["v/dog/1.jpg", "v/cat/2.jpg"]
    assert "left out: 1 images of the part test" in found.notes[0]


def test_classes_that_are_numbers_are_in_the_order_of_text() -> None:
    found = find([f"d/{number}/{image}.jpg" for number in range(11) for image in range(2)])
    assert found.classes[:3] == ("0", "1", "10")
    assert found.notes == ("the classes are in the order of their names as text: 0, 1, 10, 2, 3, …",)
    assert find([f"d/{number}/{image}.jpg" for number in range(10) for image in range(2)]).notes == ()


def test_an_image_that_is_named_twice_counts_once() -> None:
    found = find(f"{PETS} d/cat/1.jpg ./d/cat/1.jpg")
    assert len(found.train) == 4
    assert found.notes == ("left out: 2 images named twice",)


# A truth file


def test_a_truth_file_tells_the_classes(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("source,class\n1.jpg,dog\n2.jpg,cat\n3.jpg,dog\n4.jpg,cat\n")
    found = find("d/1.jpg d/2.jpg d/3.jpg d/4.jpg", truth=truth)
    assert found.classes == ("cat", "dog")
    assert [index for _, index in listed(found.train)] == [1, 0, 1, 0]
    assert found.how == f"the column class of {truth}"


def test_a_truth_file_tells_the_parts(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    rows = "1,dog,train\n2,cat,train\n3,dog,train\n4,cat,train\n5,dog,val\n6,cat,test\n"
    truth.write_text("id,class,split\n" + rows)
    found = find([f"d/{number}.jpg" for number in range(1, 7)], truth=truth)
    assert listed(found.val) == [("d/5.jpg", 1)]
    assert [note[:8] for note in found.notes] == ["left out", "no image"]
    assert "has a column that says" in str(error_of("d/1.jpg", "v/2.jpg", truth=truth))


def test_folders_tell_the_parts_if_a_truth_file_does_not(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("id,class\n1,dog\n2,cat\n3,dog\n4,cat\n5,dog\n6,cat\n")
    names = "d/train/1.jpg d/train/2.jpg d/train/3.jpg d/train/4.jpg d/val/5.jpg d/val/6.jpg"
    assert listed(find(names, truth=truth).val) == [("d/val/5.jpg", 1), ("d/val/6.jpg", 0)]
    given_val = find("d/1.jpg d/2.jpg d/3.jpg d/4.jpg", "v/5.jpg v/6.jpg", truth=truth, val_roots=["v"])
    assert listed(given_val.val) == [("v/5.jpg", 1), ("v/6.jpg", 0)]


# Bad inputs


def test_no_images() -> None:
    for names, val in (("", None), ("", "v/cat/1.jpg"), (PETS, "")):
        with pytest.raises(NoImagesError) as caught:
            find(names, val)
        assert caught.value.hint


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("d/cat/1.jpg d/cat/2.jpg", "all images have one class: 'cat'"),
        ("d/train/cat/1.jpg d/train/cat/2.jpg d/val/cat/3.jpg", "all images have one class: 'cat'"),
        ("d/1.jpg d/2.jpg", "are in no class folders"),
        (f"{PETS} d/bird/1.jpg", "the class 'bird' has 1 image, and a class needs 2"),
        (f"{PETS} d/bird/1.jpg d/fox/1.jpg d/owl/1.jpg", "'bird' has 1 image, and a class needs 2; so do 2 more"),
        (f"{PETS} d/Cat/1.jpg d/Cat/2.jpg", "nearly the same name: 'Cat' and 'cat'"),
        (f"{PARTS} d/val/Cat/1.jpg d/val/dog/2.jpg", "nearly the same name: 'Cat' and 'cat'"),
        (f"{PARTS} d/val/bird/1.jpg", "the images for validation have the class 'bird'"),
    ],
)
def test_what_cannot_be_learned_is_an_error(names: str, words: str) -> None:
    assert words in str(error_of(names))


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat", "CAT"), ("cat", "cat "), ("a b", "a  b"), ("straße", "STRASSE"), ("ﬁsh", "fish"), ("Ⅳ", "iv")],
)
def test_names_of_classes_differ_in_more_than_case_and_blanks(one: str, other: str) -> None:
    names = [f"d/{name}/{number}.jpg" for name in (one, other) for number in range(2)]
    message = str(error_of(names))
    assert repr(one) in message
    assert repr(other) in message


def test_names_of_classes_differ_in_more_than_their_unicode_form() -> None:
    names = [f"d/{name}/{number}.jpg" for name in ("caf\u00e9", "cafe\u0301", "bar") for number in range(2)]
    message = str(error_of(names))
    assert r"'caf\xe9'" in message
    assert r"'cafe\u0301'" in message
    assert find([name for name in names if "\u00e9" not in name]).classes == ("bar", "caf\u00e9")


@pytest.mark.parametrize("name", [" ", "a\x1bb", "a\nb", "\udcff", "\u202e"])
def test_names_of_classes_are_printable(name: str) -> None:
    error = error_of([f"d/{each}/{number}.jpg" for each in (name, "cat") for number in range(2)])
    assert "cannot be the name of a class" in str(error)
    assert str(error).isprintable()


def test_names_of_classes_have_no_blanks_around_them() -> None:
    error = error_of([f"d/{name}/{number}.jpg" for name in (" cat", "dog") for number in range(2)])
    assert str(error) == "the class ' cat' has a blank at the beginning or the end"


@pytest.mark.parametrize(
    ("names", "val", "words"),
    [
        (f"{PARTS} d/val/cat/3.jpg", "v/cat/4.jpg", "val is given, but 1 of the other images are for validation"),
        (PETS, "v/train/cat/1.jpg v/val/cat/2.jpg", "val has folders that are parts themselves"),
        (f"{PETS} d/held/cat/3.jpg", "d/held/cat/3.jpg", "val has 1 image that are to train on too"),
    ],
)
def test_a_validation_part_that_contradicts_the_images_is_an_error(names: str, val: str, words: str) -> None:
    error = error_of(names, val, val_roots=["v"])
    assert words in str(error)
    error.rename_argument("--val")
    assert str(error).startswith("--val ")


def test_an_empty_class_folder_is_an_error_that_says_what_is_in_it(tmp_path: Path) -> None:
    for name in ("cat", "dog", "bird"):
        (tmp_path / name).mkdir()
    (tmp_path / "bird/notes.txt").touch()
    root = str(tmp_path)
    names = [f"{root}/{name}/{number}.jpg" for name in ("cat", "dog") for number in range(2)]
    error = error_of(names, roots=[root], folders=[root])
    assert f"{root}/bird" in str(error)
    assert "(.txt 1)" in str(error)
    assert len(find(names, roots=[root]).classes) == 2


def found_on_disk(*roots: str) -> Dataset:
    return find_dataset(Spool().keep(expand(roots)), roots=roots, folders=roots)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: '.*petz'"):
        found_on_disk(str(tmp_path / "petz"))


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(UsageError, match="cannot read archive"):
        found_on_disk(str(path))


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    def refuse() -> BinaryIO:
        raise ImageUnreadableError("cannot read folder 'cat': Permission denied")

    (tmp_path / "cat").mkdir()
    found = [*sources(PETS), Source(str(tmp_path / "cat"), refuse)]  # as expand yields it
    with pytest.raises(UsageError, match="cannot read folder 'cat': Permission denied"):
        find_dataset(found, roots=["d"])


def test_members_of_a_tar_are_found(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (
            "pets/train/cat/1.png",
            "pets/train/cat/2.png",
            "pets/train/dog/1.png",
            "pets/train/dog/2.png",
        ):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    found = found_on_disk(str(path))
    assert found.classes == ("cat", "dog")
    assert found.train[0].source.name == f"{path}!pets/train/cat/1.png"


names_of_classes = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@given(st.dictionaries(names_of_classes, st.integers(2, 4), min_size=2, max_size=8), st.randoms())
def test_the_order_of_images_does_not_change_the_classes(counts: dict[str, int], random: object) -> None:
    names = [f"d/{name}/{number}.jpg" for name, count in counts.items() for number in range(count)]
    random.shuffle(names)  # type: ignore[attr-defined]
    found = find(names)
    assert found.classes == tuple(sorted(counts))
    assert [found.classes[index] for _, index in listed(found.train)] == [name.split("/")[1] for name in names]


# After the images were read


def read(*states: str) -> list[ReadImage]:
    """What is known of images: "x" for one that is broken, else the first letter of its content."""
    failure = ImageFailure("corrupt_image", "")
    return [ReadImage("", each.encode().ljust(32), None, None, failure if each == "x" else None) for each in states]


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        ("abxd", "ef", "only 1 of 2 images of the class 'dog' can be read, and a class needs 2"),
        ("xxcd", "ef", "only 0 of 2 images of the class 'cat' can be read"),
        ("abcd", "xx", "none of the images for validation can be read"),
        ("abab", "ef", "the classes 'cat' and 'dog' have the same images"),
        ("aabb", "xe", ""),
        ("abac", "ef", ""),
    ],
)
def test_what_is_left_to_learn_from_after_broken_images(train: str, val: str, words: str) -> None:
    dataset = find(PETS, "v/dog/1.jpg v/cat/2.jpg", val_roots=["v"])
    if not words:
        check_readable(dataset, read(*train), read(*val))
        return
    with pytest.raises(UsageError) as caught:
        check_readable(dataset, read(*train), read(*val))
    assert words in str(caught.value)
    assert caught.value.hint


def test_a_dataset_without_a_validation_part_is_checked_too() -> None:
    dataset = find(PETS)
    check_readable(dataset, read(*"abcd"), [])
    with pytest.raises(UsageError, match="class 'cat'"):
        check_readable(dataset, read(*"xbcd"), [])
