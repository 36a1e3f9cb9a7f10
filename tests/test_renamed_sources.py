"""Why no source of a resumed run has a record."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from imgclassify.output.renamed_sources import find_mismatch


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("now", "earlier"),
    [
        ("./photos/a.jpg", "photos/a.jpg"),
        ("photos/a.jpg", "./photos/a.jpg"),
        ("photos//a.jpg", "photos/a.jpg"),
        ("photos/../photos/a.jpg", "photos/a.jpg"),
        ("photos/a.jpg", "HERE/photos/a.jpg"),
        ("HERE/photos/a.jpg", "photos/a.jpg"),
        ("./p.zip!x/a.jpg", "p.zip!x/a.jpg"),
    ],
)
def test_two_names_of_one_path_are_found(now: str, earlier: str, folder: Path) -> None:
    now, earlier = (name.replace("HERE", str(folder)) for name in (now, earlier))
    found = find_mismatch(["other.jpg", now], ["z.jpg", earlier, "y.jpg"])
    assert found == (earlier, now, True, False)


@pytest.mark.parametrize(
    ("now", "earlier"),
    [
        ("a.jpg", "photos/a.jpg"),
        ("./a.jpg", "photos/a.jpg"),
        ("photos/a.jpg", "a.jpg"),
        ("/elsewhere/photos/a.jpg", "photos/a.jpg"),
    ],
)
def test_names_from_another_working_folder_are_found(now: str, earlier: str, folder: Path) -> None:
    assert find_mismatch([now], ["z.jpg", earlier]) == (earlier, now, False, True)


def test_one_path_says_more_than_a_like_ending(folder: Path) -> None:
    assert find_mismatch(["./b/a.jpg"], ["a.jpg", "b/a.jpg"]) == ("b/a.jpg", "./b/a.jpg", True, False)


def test_other_images_are_no_likely_reason(folder: Path) -> None:
    """Cameras give the same names again and again."""
    found = find_mismatch(["june/IMG_1.jpg"], ["may/IMG_1.jpg", "may/IMG_2.jpg"])
    assert found == ("may/IMG_1.jpg", "june/IMG_1.jpg", False, False)


def test_a_name_that_is_in_both_is_no_mismatch(folder: Path) -> None:
    assert find_mismatch(["./a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]) is None
    assert find_mismatch([], ["a.jpg"]) is None
    assert find_mismatch(["a.jpg"], []) is None


def test_a_working_folder_that_was_deleted_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    shutil.rmtree(gone)
    with pytest.raises(FileNotFoundError):
        os.getcwd()  # noqa: PTH109
    assert find_mismatch(["./a.jpg"], ["a.jpg"]) == ("a.jpg", "./a.jpg", True, False)
