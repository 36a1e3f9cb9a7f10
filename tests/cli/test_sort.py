"""imgclassify sort."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.conftest import Run

from imgclassify.sorting import transfer

HEADER = "source,model,width,height,class_index_1,wnid_1,label_1,probability_1,error_type,error_message\n"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of three photographs, one of them missing, and of a broken one, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        (tmp_path / "photos" / f"{name}.jpg").write_text(name)
    rows = [
        "photos/a.jpg,net,4,3,207,n02099601,golden retriever,0.9,,",
        "photos/b.jpg,net,4,3,281,n02123045,tabby,0.6,,",
        "photos/c.jpg,net,4,3,281,n02123045,tabby,0.6,,",
        "photos/d.jpg,net,,,,,,,empty,the file is empty",
    ]
    path = tmp_path / "labels.csv"
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def test_it_is_shown_first_then_done_then_undone(run: Run, results: Path, tmp_path: Path) -> None:
    shown = run("sort", results, "--into", "sorted", "--move")
    table = "folder             files  already there\n"
    table += f"golden retriever{os.sep}      1              0\n"
    table += f"tabby{os.sep}                 1              0\n"
    assert shown.out == table
    assert "left out: 1 without a prediction: 'photos/d.jpg'" in shown.err
    assert "left out: 1 missing: 'photos/c.jpg'" in shown.err
    assert "would move 2 files" in shown.err
    assert shown.err.endswith("nothing was changed: add --yes\n")
    assert shown.status == 0
    assert not (tmp_path / "sorted").exists()

    done = run("sort", results, "--into", "sorted", "--move", "--yes")
    assert (done.status, done.out) == (1, table)  # a file is missing
    assert "moved 2 files" in done.err
    assert (tmp_path / "sorted" / "tabby" / "b.jpg").read_text() == "b"
    assert not (tmp_path / "photos" / "b.jpg").exists()

    [undo_list] = (tmp_path / "sorted").glob("*.jsonl")
    assert f"imgclassify sort --undo {shlex.quote(str(undo_list))}" in done.err
    shown = run("sort", "--undo", undo_list)
    assert shown.out == "outcome     files\nmoved back      2\n"
    assert shown.err.endswith("nothing was changed: add --yes\n")
    assert (tmp_path / "sorted" / "tabby" / "b.jpg").exists()
    undone = run("sort", "--undo", undo_list, "--yes")
    assert (undone.status, undone.out, undone.err) == (0, shown.out, "")
    assert (tmp_path / "photos" / "b.jpg").read_text() == "b"
    assert not (tmp_path / "sorted").exists()


def test_copies_by_default_and_by_wnid_and_probability(run: Run, results: Path, tmp_path: Path) -> None:
    outcome = run("sort", results, "--into", "sorted", "--by", "wnid", "--min-probability", "0.7", "--yes")
    assert outcome.status == 0  # the missing file is not probable enough
    assert "left out: 2 not probable enough" in outcome.err
    assert (tmp_path / "sorted" / "n02099601" / "a.jpg").read_text() == "a"
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_records_are_read_from_stdin(run: Run, results: Path, tmp_path: Path) -> None:
    line = b'{"source": "photos/a.jpg", "model": "net", "width": 4, "height": 3, "predictions": '
    line += b'[{"rank": 1, "class_index": 0, "wnid": null, "label": "cat", "probability": 0.9}], "error": null}\n'
    assert run("sort", "-", "--into", "sorted", "--link", "--yes", stdin=line).status == 0
    assert (tmp_path / "sorted" / "cat" / "a.jpg").readlink() == tmp_path / "photos" / "a.jpg"


def test_every_name_is_shown_with_v(run: Run, results: Path) -> None:
    rows = [f"photos/{index}.jpg,net,4,3,1,,x,0.5,," for index in range(5)]
    results.write_text(results.read_text() + "\n".join(rows) + "\n")
    brief, full = (run("sort", results, "--into", "s", *option).err for option in ([], ["-v"]))
    assert "'photos/c.jpg', 'photos/0.jpg', 'photos/1.jpg', …" in brief
    assert "4.jpg" not in brief
    assert "4.jpg" in full


def test_a_file_that_fails_is_told_and_the_rest_goes_on(
    run: Run, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = transfer.shutil.copyfile

    def some(source: Path, target: Path) -> None:
        if source.name == "a.jpg":
            raise PermissionError(errno.EACCES, "Permission denied")
        copyfile(source, target)

    monkeypatch.setattr(transfer.shutil, "copyfile", some)
    outcome = run("sort", results, "--into", "sorted", "--yes")
    assert outcome.status == 1
    assert "a.jpg' cannot be sorted: Permission denied" in outcome.err
    assert "copied 1 file into" in outcome.err
    assert "1 failed" in outcome.err
    assert (tmp_path / "sorted" / "tabby" / "b.jpg").exists()


def test_undo_tells_what_it_keeps(run: Run, results: Path, tmp_path: Path) -> None:
    run("sort", results, "--into", "sorted", "--yes")
    (tmp_path / "sorted" / "tabby" / "b.jpg").write_text("edited")
    [undo_list] = (tmp_path / "sorted").glob("*.jsonl")
    outcome = run("sort", "--undo", undo_list, "--yes")
    assert outcome.status == 1
    assert outcome.out == "outcome              files\ncopy removed             1\nkept: changed since      1\n"
    assert "b.jpg': kept: changed since" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "RESULTS is missing"),
        (["labels.csv"], 2, "--into FOLDER is missing"),
        (["labels.csv", "--into", "s", "--link", "--move"], 2, "--link and --move"),
        (["labels.csv", "--into", "s", "--by", "size"], 2, "size"),
        (["labels.csv", "--into", "s", "--min-probability", "2"], 2, "2"),
        (["labels.csv", "--into", "s", "--undo", "x"], 2, "--undo takes one list"),
        (["none.csv", "--into", "s"], 2, "does not exist"),
        (["labels.txt", "--into", "s"], 2, "by its extension"),
        (["photos", "--into", "s"], 2, "by its extension"),
        (["elsewhere/labels.csv", "--into", "s"], 2, "does not exist"),
        (["--undo", "labels.csv"], 2, "undo list"),
    ],
)
def test_wrong_usage_is_told(run: Run, results: Path, arguments: list[str], status: int, words: str) -> None:
    outcome = run("sort", *arguments, "--yes")
    assert outcome.status == status
    assert words in outcome.err
    assert outcome.out == ""


def test_a_wrong_folder_is_told(run: Run, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    outcome = run("sort", results, "--into", tmp_path / "sorted", "--yes")
    assert outcome.status == 4
    assert "in the folder where `imgclassify predict` ran" in outcome.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sort_can_be_continued_and_undone(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    names = [f"{index}.jpg" for index in range(3000)]
    for name in names:
        (tmp_path / name).write_text(name)
    (tmp_path / "r.csv").write_text(HEADER + "".join(f"{name},net,4,3,1,,cat,0.5,,\n" for name in names))
    command = [sys.executable, "-m", "imgclassify", "sort", "r.csv", "--into", "sorted", "--move", "--yes"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (tmp_path / "sorted" / "cat" / "10.jpg").exists():
        time.sleep(0.001)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert number == signal.SIGKILL or b"run the same command again" in err
    moved = len(list((tmp_path / "sorted" / "cat").iterdir()))
    assert 10 < moved < 3000
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert len(list((tmp_path / "sorted" / "cat").iterdir())) in (3000, 3001)
    for undo_list in sorted((tmp_path / "sorted").glob("*.jsonl"), reverse=True):
        assert run("sort", "--undo", undo_list, "--yes").status == 0
    assert not (tmp_path / "sorted").exists()
    assert all((tmp_path / name).read_text() == name for name in names)


def test_by_group_is_by_the_label_of_a_grouped_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = Path(__file__).parent.parent.parent / "examples"
    assert run("predict", examples, "--group", "cat,drink=espresso+cup", "-o", "groups.jsonl").status == 0
    assert run("sort", "groups.jsonl", "--into", "sorted", "--by", "group", "--copy", "--yes").status == 0
    found = {path.parent.name: path.name for path in (tmp_path / "sorted").glob("*/*.jpg")}
    assert found == {"cat": "cat.jpg", "drink": "coffee.jpg", "other": "rocket.jpg"}


def test_an_unwritable_target_fails_before_anything_is_said(run: Run, results: Path, tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("x")
    for into in ("afile", "afile/x", "afile/x/y"):
        outcome = run("sort", results, "--into", into, "--yes")
        assert (outcome.status, outcome.out) == (2, "")
        assert f"error: {str(tmp_path / 'afile')!r} is not a folder" in outcome.err


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which not even root can write")
def test_no_undo_is_offered_where_none_could_be_written(run: Run, results: Path) -> None:
    outcome = run("sort", results, "--into", "/proc/self", "--yes")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("error: cannot write the undo list in '/proc/")


def test_a_full_disk_is_accounted_for(
    run: Run, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "efgh":
        (tmp_path / "photos" / f"{name}.jpg").write_text(name)
    rows = [f"photos/{name}.jpg,net,4,3,1,,x,0.5,," for name in "efgh"]
    results.write_text(results.read_text() + "\n".join(rows) + "\n")
    copyfile = transfer.shutil.copyfile

    def until_full(source: Path, target: Path) -> None:
        if source.name == "f.jpg":
            raise OSError(errno.ENOSPC, "No space left on device")
        copyfile(source, target)

    monkeypatch.setattr(transfer.shutil, "copyfile", until_full)
    outcome = run("sort", results, "--into", "sorted", "--yes")
    assert outcome.status == 1
    # 6 files: a, b and e are copied, f fails, g and h are not reached
    assert "copied 3 files into" in outcome.err
    assert outcome.err.endswith(", 1 failed, 2 not reached: run the same command again to go on\n")
    monkeypatch.setattr(transfer.shutil, "copyfile", copyfile)
    assert "copied 3 files into" in run("sort", results, "--into", "sorted", "--yes").err


def test_where_there_is_nothing_to_do_it_says_so(run: Run, results: Path) -> None:
    for option in ([], ["--yes"]):
        outcome = run("sort", results, "--into", "sorted", "--min-probability", "1", *option)
        assert outcome.status == 0
        assert "nothing to do: there is no file to copy into" in outcome.err
        assert "--yes" not in outcome.err
    run("sort", results, "--into", "sorted", "--yes")
    again = run("sort", results, "--into", "sorted")
    assert "nothing to do" in again.err
    assert "golden retriever" in again.out


def test_a_file_in_the_place_of_a_folder_is_named(run: Run, results: Path, tmp_path: Path) -> None:
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "tabby").write_text("not a folder")
    outcome = run("sort", results, "--into", "sorted", "--yes")
    assert outcome.status == 1
    assert f"b.jpg' cannot be sorted: File exists: {str(tmp_path / 'sorted' / 'tabby')!r}" in outcome.err


@pytest.mark.parametrize(
    ("action", "words"), [("copy", "the copies too"), ("link", "the links too"), ("move", "the moved files again")]
)
def test_a_folder_within_the_images_is_warned_of(
    run: Run, results: Path, tmp_path: Path, action: str, words: str
) -> None:
    for option in ([], ["--yes"]):
        outcome = run("sort", results, "--into", "photos/by", f"--{action}", *option)
        assert (
            f"lies within the folder of the images; a later run over '{tmp_path / 'photos'}' classifies"
            in outcome.err
        )
        assert f"classifies {words}, unless --exclude /by/ is given" in outcome.err
    assert "warning" not in run("sort", results, "--into", "elsewhere", f"--{action}").err
    # The option that is named does what is said.
    example = Path(__file__).parent.parent.parent / "examples" / "cat.jpg"
    (tmp_path / "photos" / "cat.jpg").write_bytes(example.read_bytes())
    records = run("predict", "photos", "--exclude", "/by/", "--jsonl", "--exclude", "?.jpg").out
    assert [json.loads(line)["source"] for line in records.splitlines()] == [f"photos{os.sep}cat.jpg"]
