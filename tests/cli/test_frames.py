"""--frames on the command line: names, records, resume, isolation, folders with videos."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_frames import MAKERS, frame

from .conftest import Run, process

FORMS = ("gif", "png", "tif", "webp")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for form in FORMS:
        (folder / f"a.{form}").write_bytes(MAKERS[form]([frame(number) for number in range(6)]))
    frame(3).save(folder / "still.jpg")
    return folder


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def answers(found: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The names and first labels; probabilities depend on the batch in their last digits."""
    return [(each["source"], each["frames"], each["frame"], each["predictions"][0]["label"]) for each in found]


def test_each_frame_has_a_record(album: Path, run: Run) -> None:
    found = records(run("predict", album, "--frames", "all", "--jsonl").out)
    wanted = [(f"{album}/a.{form}#{number}", 6, number) for form in FORMS for number in range(1, 7)]
    assert [(each["source"], each["frames"], each["frame"]) for each in found] == [
        *wanted,
        (f"{album}/still.jpg", 1, 1),
    ]
    first = records(run("predict", album, "--jsonl").out)
    assert [(each["source"], each["frames"], each["frame"]) for each in first] == [
        *((f"{album}/a.{form}", 6, 1) for form in FORMS),
        (f"{album}/still.jpg", 1, 1),
    ]


def test_a_record_of_a_frame_is_that_of_its_image(album: Path, run: Run, tmp_path: Path) -> None:
    plain = tmp_path / "frames"
    plain.mkdir()
    for number in range(6):
        frame(number).save(plain / f"{number}.png")
    of_frames = records(run("predict", album / "a.webp", "--frames", "all", "--jsonl").out)
    of_images = records(run("predict", plain, "--jsonl").out)
    for one, other in zip(of_frames, of_images, strict=True):
        assert [each["label"] for each in one["predictions"]] == [each["label"] for each in other["predictions"]]
        probabilities = [[each["probability"] for each in record["predictions"]] for record in (one, other)]
        np.testing.assert_allclose(*probabilities, atol=1e-6)


@pytest.mark.parametrize("option", ["--isolate", "--fast-decode"])
def test_the_way_to_decode_changes_nothing(option: str, album: Path, run: Run) -> None:
    plain, other = (run("predict", album, "--frames", "all", "--jsonl", *more) for more in ((), (option,)))
    assert answers(records(other.out)) == answers(records(plain.out))


def test_frames_of_a_member_and_of_stdin(album: Path, run: Run, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "x"), "zip", album)
    found = records(run("predict", archive, "--frames", "all", "--jsonl").out)
    assert {each["source"] for each in found} == {
        *(f"{archive}!a.{form}#{number}" for form in FORMS for number in range(1, 7)),
        f"{archive}!still.jpg",
    }
    done = run("predict", "-", "--frames", "all", "--jsonl", stdin=(album / "a.gif").read_bytes())
    assert [each["source"] for each in records(done.out)] == [f"-#{number}" for number in range(1, 7)]


def test_a_frame_is_named_again(album: Path, run: Run) -> None:
    every = records(run("predict", album / "a.gif", "--frames", "all", "--jsonl").out)
    [one] = records(run("predict", f"{album}/a.gif#4", "--jsonl").out)
    assert answers([one]) == answers([every[3]])


def test_a_run_is_resumed_in_the_middle_of_a_file(album: Path, run: Run, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert run("predict", album, "--frames", "all", "-o", whole).status == 0
    assert run("predict", album, "--frames", "all", "-o", cut).status == 0
    lines = cut.read_text().splitlines(keepends=True)
    kept = lines[:3] + lines[5:9]
    cut.write_text("".join(kept))
    done = run("predict", album, "--frames", "all", "-o", cut, "--resume")
    assert done.status == 0, done.err
    assert sorted(answers(records(cut.read_text()))) == sorted(answers(records(whole.read_text())))
    assert cut.read_text().splitlines(keepends=True)[: len(kept)] == kept


@pytest.mark.parametrize("other", [[], ["--frames", "key"], ["--fps", "2"]])
def test_a_run_of_other_frames_is_not_resumed(other: list[str], album: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    assert run("predict", album / "a.gif", "--frames", "all", "-o", path).status == 0
    done = run("predict", album / "a.gif", "-o", path, "--resume", *other)
    assert done.status == 2
    assert "frames was 'all'" in done.err or "fps was not given" in done.err


@pytest.mark.slow
def test_a_killed_run_of_frames_loses_and_doubles_none(tmp_path: Path) -> None:
    path, output = tmp_path / "long.gif", tmp_path / "x.jsonl"
    path.write_bytes(MAKERS["gif"]([frame(number) for number in range(400)]))
    command = [sys.executable, "-m", "imgclassify", "predict", str(path), "--frames", "all", "-o", str(output)]
    for _ in range(3):
        with subprocess.Popen([*command, "--resume"], stderr=subprocess.DEVNULL) as running:
            time.sleep(1.0)
            running.send_signal(signal.SIGKILL)
    done = process("predict", path, "--frames", "all", "-o", output, "--resume")
    assert done.returncode == 0, done.stderr
    names = [each["source"] for each in records(output.read_text())]
    assert sorted(names) == sorted(f"{path}#{number}" for number in range(1, 401))


def test_embed_takes_frames_too(album: Path, run: Run) -> None:
    found = records(run("embed", album / "a.tif", "--frames", "all").out)
    assert [(each["source"], each["frame"]) for each in found] == [
        (f"{album}/a.tif#{number}", number) for number in range(1, 7)
    ]


def test_frames_are_not_sorted_as_files(album: Path, run: Run, tmp_path: Path) -> None:
    run("predict", album, "--frames", "all", "-o", tmp_path / "x.csv")
    done = run("sort", tmp_path / "x.csv", "--into", tmp_path / "sorted", "--yes")
    assert done.status == 0, done.err
    assert "24 not on disk as a file" in done.err + done.out
    assert [path.name for path in (tmp_path / "sorted").rglob("*.*") if path.is_file()].count("still.jpg") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--frames", "some"], "--frames is 'some'"),
        (["--fps", "0"], "--fps is 0.0"),
        (["--frames", "key", "--fps", "1"], "--fps is not for key frames"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: list[str], words: str, album: Path, run: Run) -> None:
    done = run("predict", album, *options)
    assert done.status == 2
    assert words in done.err


def test_the_table_says_which_frame_it_is_about(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(MAKERS["gif"]([Image.new("RGB", (48, 32)), frame(1), frame(2)]))
    assert "frame 2 of 3" in run("predict", path).out
    still = tmp_path / "b.png"
    frame(1).save(still)
    assert "frame" not in run("predict", still).out.partition("\n")[0].removeprefix(str(still))
