"""The folder of an unfinished training: only the files of a training are removed from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imgclassify.errors import UsageError
from imgclassify.training.work_folder import open_work_folder

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
    with open_work_folder(work.with_name("pets"), resume=True, overwrite=False) as opened:
        assert opened == work
    assert not work.exists()


def test_a_training_that_fails_leaves_its_files_or_nothing(tmp_path: Path) -> None:
    work = tmp_path / "pets.partial"

    def fail(name: str | None) -> None:
        with open_work_folder(tmp_path / "pets", resume=False, overwrite=False):
            if name:
                (work / name).touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(None)
    assert not work.exists()
    with pytest.raises(ZeroDivisionError):
        fail("state.safetensors")
    assert [path.name for path in work.iterdir()] == ["state.safetensors"]


def test_the_files_of_others_are_kept(work: Path) -> None:
    (work / "thesis.txt").write_text("years of work")
    with open_work_folder(work.with_name("pets"), resume=True, overwrite=False):
        pass
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]
    with (
        pytest.raises(UsageError, match=r"pets\.partial.*other files, such as 'thesis\.txt'"),
        open_work_folder(work.with_name("pets"), resume=False, overwrite=True),
    ):
        pass
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]
    assert (work / "thesis.txt").read_text() == "years of work"


def test_an_unfinished_training_is_kept_until_something_is_said(work: Path) -> None:
    folder = work.with_name("pets")
    with (
        pytest.raises(UsageError, match="not finished") as error,
        open_work_folder(folder, resume=False, overwrite=False),
    ):
        pass
    assert "--resume" in str(error.value.hint)
    with open_work_folder(folder, resume=True, overwrite=False):
        assert {path.name for path in work.iterdir()} >= set(OURS)
        (work / "thesis.txt").touch()
    for name in (*OURS[:2], "lock"):  # a killed process leaves the lock too
        (work / name).touch()
    (work / "thesis.txt").unlink()
    with open_work_folder(folder, resume=False, overwrite=True):
        assert {path.name for path in work.iterdir()} <= {"lock"}


def test_two_processes_do_not_train_in_one_folder(work: Path) -> None:
    folder = work.with_name("pets")
    program = (
        "import sys; from pathlib import Path; from imgclassify.training.work_folder import open_work_folder\n"
        "with open_work_folder(Path(sys.argv[1]), resume=True, overwrite=False):\n"
        "    print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        for overwrite in (False, True):
            with (
                pytest.raises(UsageError, match="another process is training"),
                open_work_folder(folder, resume=not overwrite, overwrite=overwrite),
            ):
                pass
        other.kill()
    assert {path.name for path in work.iterdir()} >= set(OURS)
    with open_work_folder(folder, resume=True, overwrite=False) as opened:
        assert opened == work
