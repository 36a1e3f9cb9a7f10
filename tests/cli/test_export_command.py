"""`imgclassify export` on the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.conftest import Run
from conftest import noise

LITE = "efficientnet_lite0"


def test_a_table_says_what_was_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("export", LITE, "-o", "a model.onnx", "--features")
    assert (outcome.status, outcome.err) == (0, "")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in outcome.out.splitlines())
    assert rows["file"].startswith("a model.onnx (18.1 MiB)")
    assert rows["input"] == "crops: uint8 (N, 224, 224, 3)"
    assert re.findall("^output +(.*)$", outcome.out, re.M) == [
        "logits: float32 (N, 1000)", "features: float32 (N, 1280)"
    ]  # fmt: skip
    assert rows["use it"] == "imgclassify predict IMAGE -m 'a model.onnx'"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a model.onnx", "a model.onnx.run.py"]
    noise(40, 30).save("x.png")
    assert run("predict", "x.png", "-m", "a model.onnx", "--jsonl").status == 0


def test_json_and_ones_own_images(run: Run, album: Path, tmp_path: Path) -> None:
    outcome = run("export", LITE, "-o", tmp_path / "x.onnx", "--check", album, "--json", "--dtype", "float16")
    document = json.loads(outcome.out)
    assert document["schema"] == "imgclassify.export_report/1"
    assert (document["format"], document["dtype"], document["outputs"]) == ("onnx", "float16", {"logits": 1000})
    assert document["check"]["compared"] == document["check"]["agreed"] > 0
    assert outcome.status == (1 if document["check"]["failed"] else 0)
    again = run("export", LITE, "-o", tmp_path / "x.onnx", "--check", album, "--overwrite")
    assert re.search(r"^your images +\d+ images with the same class", again.out, re.M)


def test_images_that_fail_are_counted_and_the_file_is_written(run: Run, tmp_path: Path) -> None:
    noise(40, 30).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    outcome = run(
        "export", LITE, "-o", tmp_path / "x.onnx", "--check", tmp_path / "a.png", "--check", tmp_path / "b.png"
    )
    assert outcome.status == 1
    assert "1 image with the same class, 1 failed" in outcome.out
    assert re.search(r"failed: .*b\.png: ", outcome.err)
    assert (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([LITE], 2, "--output is missing"),
        ([LITE, "-o", "-"], 2, "a model goes to a file, not to stdout"),
        ([LITE, "-o", "x.pb"], 2, "give a name in .onnx, .pt2, .torchscript"),
        ([LITE, "-o", "none/x.onnx"], 2, "a folder that does not exist"),
        ([LITE, "-o", "x.pt2", "--dtype", "float16"], 2, "--dtype is 'float16', but only .onnx"),
        ([LITE, "-o", "x.onnx", "--dtype", "int8"], 2, "--dtype is 'int8'"),
        ([LITE, "-o", "x.onnx", "--check", "-"], 2, "stdin can be read only once"),
        ([LITE, "-o", "x.onnx", "--check", "empty"], 4, "no image was found"),
        ([LITE, "-o", "x.onnx", "--check", "none.jpg"], 4, "none.jpg: no such file"),
        (["no_such_model", "-o", "x.onnx"], 3, "unknown model"),
        ([LITE, "-o", "x.onnx", "--labels", "none.txt"], 3, "none.txt"),
        (["-o", "x.onnx"], 2, "REF"),
    ],
)
def test_bad_input(
    arguments: list[str], status: int, words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    outcome = run("export", *arguments)
    assert outcome.status == status
    assert words in outcome.err + outcome.out
    assert "Traceback" not in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_nothing_is_left_by_a_process_that_is_interrupted(tmp_path: Path) -> None:
    """Stopped while the images of --check are classified, long after the draft was written."""
    (tmp_path / "photos").mkdir()
    for index in range(40):
        noise(900, 700).save(tmp_path / "photos" / f"{index}.png", compress_level=0)
    listing = tmp_path / "list"
    listing.mkdir()
    command = [sys.executable, "-m", "imgclassify", "export", LITE, "-o", str(listing / "x.onnx")]
    started = subprocess.Popen(
        [*command, *(["--check", str(tmp_path / "photos")] * 50)], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not list(listing.glob(".x.onnx.*/x.onnx")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    started.send_signal(signal.SIGINT)
    started.communicate(timeout=60)
    assert started.returncode == 130
    assert list(listing.iterdir()) == []
