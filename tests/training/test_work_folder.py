"""The folder of an unfinished training: only the files of a training are removed from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgclassify.errors import UsageError
from imgclassify.training.work_folder import open_work_folder, remove_work_folder

OURS = ("state.safetensors", ".state.safetensors.draft", "training.jsonl", "train.pixels", "train.json")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """What a killed training leaves of a model `pets`."""
    work = tmp_path / "pets.partial"
    work.mkdir()
    for name in OURS:
        (work / name).write_bytes(b"x")
    return work


def test_a_finished_training_leaves_nothing(work: Path) -> None:
    remove_work_folder(work)
    assert not work.exists()


def test_the_files_of_others_are_kept(work: Path) -> None:
    (work / "thesis.txt").write_text("years of work")
    remove_work_folder(work)
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match=r"pets\.partial.*other files, such as 'thesis\.txt'"):
        open_work_folder(work.with_name("pets"), resume=False, overwrite=True)
    assert (work / "thesis.txt").read_text() == "years of work"


def test_an_unfinished_training_is_kept_until_something_is_said(work: Path) -> None:
    folder = work.with_name("pets")
    with pytest.raises(UsageError, match="not finished") as error:
        open_work_folder(folder, resume=False, overwrite=False)
    assert "--resume" in str(error.value.hint)
    assert open_work_folder(folder, resume=True, overwrite=False) == work
    assert sorted(path.name for path in work.iterdir()) == sorted(OURS)
    assert open_work_folder(folder, resume=False, overwrite=True) == work
    assert not list(work.iterdir())
