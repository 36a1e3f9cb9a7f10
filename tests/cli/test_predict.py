"""imgclassify predict as a user types it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from inspect import signature
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from conftest import noise
from graphs_by_text import LOGITS, logits, save_graph, sigmoid
from networks import add_manifest, publish, seeded
from PIL import Image
from servers import FileServer

from imgclassify import Classifier

from .conftest import ALBUM, Run, process

SCHEMA = json.loads((Path(__file__).parents[2] / "imgclassify" / "output" / "run.schema.json").read_text("utf-8"))


def records(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_image_is_a_table_of_five_labels(run: Run, photo: Path) -> None:
    outcome = run("predict", photo)
    lines = outcome.out.splitlines()
    assert outcome.status == 0
    assert outcome.err == (
        "these are the network's own probabilities; --calibrated applies a published temperature "
        "(calibration error 7.6 → 1.1 %)\n"
    )
    assert lines[0].startswith(f"{photo}  320×240  efficientnet_lite0")
    best = Classifier().predict(photo).predictions
    assert len(lines) == 6
    for line, prediction in zip(lines[1:], best, strict=True):
        assert prediction.label in line
        assert f"{100 * prediction.probability:.2f} %" in line


def test_json_is_the_documented_document(run: Run, photo: Path) -> None:
    outcome = run("predict", photo, "--json", "-k", "3")
    document = json.loads(outcome.out)
    jsonschema.validate(document, SCHEMA)
    assert document["run"]["model"] == "efficientnet_lite0"
    assert [prediction["rank"] for prediction in document["results"][0]["predictions"]] == [1, 2, 3]


def test_a_folder_is_a_record_per_image_in_sorted_order_whatever_is_broken(run: Run, album: Path) -> None:
    outcome = run("predict", album, "--jsonl", "--batch-size", "2")
    found = records(outcome.out)
    assert outcome.status == 1
    assert [record["source"] for record in found] == [str(album / name) for name in ALBUM]
    broken = [record for record in found if record["error"]]
    assert [record["source"] for record in broken] == [str(album / "m.jpg")]
    assert broken[0]["error"]["type"] == "truncated_image"
    assert broken[0]["predictions"] == []
    assert "4 answered, 1 failed (truncated_image 1)" in outcome.err


def test_each_record_is_the_answer_to_its_own_image(run: Run, album: Path) -> None:
    together = {record["source"]: record for record in records(run("predict", album, "--jsonl").out)}
    for name in ("a.jpg", "sub/c.webp"):
        [alone] = records(run("predict", album / name, "--jsonl").out)
        one, other = alone["predictions"][0], together[str(album / name)]["predictions"][0]
        assert (one["label"], one["wnid"]) == (other["label"], other["wnid"])
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


@pytest.mark.parametrize(("name", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_output_has_a_row_per_image(name: str, delimiter: str, run: Run, album: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("predict", album, "-f", name).out), delimiter=delimiter))
    assert [Path(row["source"]).name for row in rows] == [Path(entry).name for entry in ALBUM]
    assert [row["error_type"] for row in rows] == ["", "", "truncated_image", "", ""]


def test_bytes_on_stdin_are_an_image(run: Run, photo: Path) -> None:
    outcome = run("predict", "-", "--jsonl", stdin=photo.read_bytes())
    [record] = records(outcome.out)
    assert (outcome.status, record["source"]) == (0, "-")
    [by_name] = records(run("predict", photo, "--jsonl").out)
    assert record["predictions"] == by_name["predictions"]


def test_the_limits_that_help_tells_are_those_of_the_library() -> None:
    from imgclassify import Classifier
    from imgclassify.cli.commands.predict import predict

    given, library = (signature(function).parameters for function in (predict, Classifier.__init__))
    for name in ("max_pixels", "time_limit", "isolate", "top_k"):
        assert given[name].default == library[name].default


def test_globs_urls_and_archives_are_sources(run: Run, album: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(album / "a.jpg", "dogs/rex.jpg")
    with FileServer(album) as server:
        url = server.url("a.jpg")
        outcome = run("predict", f"{album}/[ab].*", url, tmp_path / "photos.zip", "--jsonl")
    found = records(outcome.out)
    assert [record["source"] for record in found] == [
        str(album / "a.jpg"),
        str(album / "b.png"),
        url,
        f"{tmp_path / 'photos.zip'}!dogs/rex.jpg",
    ]
    assert found[0]["predictions"][0]["label"] == found[2]["predictions"][0]["label"]
    assert found[0]["predictions"][0]["label"] == found[3]["predictions"][0]["label"]


@pytest.mark.parametrize("null", [False, True])
def test_a_list_of_paths_from_a_file_or_stdin(null: bool, run: Run, album: Path, tmp_path: Path) -> None:
    names = [str(album / name) for name in ("z.gif", "a.jpg", "z.gif")]
    text = ("\0" if null else "\n").join(names).encode()
    (tmp_path / "list").write_bytes(text)
    flags = ["--null"] if null else []
    by_file = run("predict", "--files-from", tmp_path / "list", "--jsonl", *flags)
    by_stdin = run("predict", "--files-from", "-", "--jsonl", *flags, stdin=text)
    assert [record["source"] for record in records(by_file.out)] == names
    assert by_stdin.out == by_file.out


def test_output_goes_to_a_file_in_the_format_of_its_ending(run: Run, album: Path, tmp_path: Path) -> None:
    outcome = run("predict", album, "-o", tmp_path / "out.csv")
    assert outcome.out == ""
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))
    assert len(rows) == 5


def test_the_models_preprocessing_can_be_overridden(run: Run, photo: Path) -> None:
    options = ["--resize-size", "300", "--crop-size", "240x200", "--interpolation", "bilinear"]
    outcome = run("predict", photo, "--json", *options, "--mean", "0.5", "--std", "0.2,0.2,0.2")
    document = json.loads(outcome.out)
    assert document["run"]["preprocess"] == {
        "resize_size": 300,
        "crop_size": [240, 200],
        "crop_mode": "center",
        "interpolation": "bilinear",
        "antialias": True,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
    }
    plain = json.loads(run("predict", photo, "--json").out)
    assert plain["results"][0]["predictions"] != document["results"][0]["predictions"]


def test_the_network_sees_the_image_squashed_and_in_its_order_of_channels(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    options = ["--resize-size", "240x250", "--channel-order", "bgr", "--save-input", tmp_path / "inputs"]
    document = json.loads(run("predict", photo, "--json", *options).out)
    jsonschema.validate(document, SCHEMA)
    preprocess = document["run"]["preprocess"]
    assert (preprocess["resize_size"], preprocess["crop_mode"]) == ([240, 250], "squash")
    assert preprocess["channel_order"] == "bgr"
    [saved] = (tmp_path / "inputs").glob("*.png")
    whole = Image.open(photo).resize((250, 240), Image.Resampling.BICUBIC)
    crop = np.asarray(whole.crop((13, 8, 13 + 224, 8 + 224)))
    np.testing.assert_array_equal(np.asarray(Image.open(saved)), crop[..., ::-1])
    preview = run("preview", photo, *options[:4], "-o", tmp_path / "crop.png")
    assert "channels" in preview.out
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "crop.png")), crop[..., ::-1])


def test_a_crop_larger_than_the_resize_is_warned_of(run: Run, photo: Path) -> None:
    assert "padded with black" in run("predict", photo, "--crop-size", "288").err
    assert run("predict", photo, "--crop-size", "288", "--resize-size", "300").err == ""


def test_labels_of_ones_own(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("".join(f"class number {index}\n" for index in range(1000)))
    [record] = records(run("predict", photo, "--jsonl", "--labels", tmp_path / "mine.txt").out)
    best = record["predictions"][0]
    assert best["label"] == f"class number {best['class_index']}"
    assert best["wnid"] is None


def test_the_environment_names_the_default_model(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, digest = publish(tmp_path, seeded("squeezenet1_1"), "mine")
    add_manifest("squeezenet1_1", "mine", file.as_uri(), digest)
    monkeypatch.setenv("IMGCLASSIFY_MODEL", "mine")
    assert json.loads(run("predict", photo, "--json").out)["run"]["model"] == "mine"
    document = json.loads(run("predict", photo, "--json", "-m", "efficientnet_lite0").out)
    assert document["run"]["model"] == "efficientnet_lite0"


def test_verbose_says_what_runs_where_on_stderr(run: Run, photo: Path) -> None:
    outcome = run("predict", photo, "-v", "--json")
    assert "efficientnet_lite0 (IMAGENET1K) on onnxruntime, cpu, float32" in outcome.err
    json.loads(outcome.out)


# ------------------------------------------------------------------------------------------- exit statuses


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["predict"], 2, "no source was given"),
        (["predict", "PHOTO", "--top-k", "0"], 2, "error: --top-k is 0"),
        (["predict", "PHOTO", "--batch-size", "many"], 2, "--batch-size is 'many'"),
        (["predict", "PHOTO", "--mean", "1,2"], 2, "--mean is '1,2'"),
        (["predict", "PHOTO", "--crop-size", "1x2x3"], 2, "--crop-size is '1x2x3'"),
        (["predict", "PHOTO", "--json", "--jsonl"], 2, "several formats"),
        (["predict", "PHOTO", "-o", "out.xyz"], 2, "is not a known output format"),
        (["predict", "PHOTO", "-0"], 2, "--files-from"),
        (["predict", "-", "--files-from", "-"], 2, "stdin cannot be both"),
        (["predict", "--files-from", "/no/such/list"], 2, "/no/such/list"),
        (["predict", "PHOTO", "--format", "docx"], 2, "docx"),
        (["predict", "PHOTO", "--no-such-option"], 2, "--no-such-option"),
        (["predict", "PHOTO", "-m", "resnet5O"], 3, "unknown model 'resnet5O'"),
        (["predict", "PHOTO", "-m", "resnet50", "--offline"], 3, "resnet50-11ad3fa6.pth"),
        (["predict", "PHOTO", "-m", "hub:owner/repo/x", "--arch", "resnet18"], 3, "runs Python code"),
        (["predict", "PHOTO", "--labels", "/no/such/labels"], 3, "/no/such/labels"),
        (["predict", "PHOTO", "--device", "cuda:99"], 3, "cuda:99"),
        (["predict", "FOLDER"], 4, "no image was found"),
        (["predict", "FOLDER/*.jpg"], 4, "no file matches"),
    ],
)
def test_each_error_has_its_status_one_sentence_and_a_hint(
    arguments: list[str], status: int, complaint: str, run: Run, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"PHOTO": str(photo), "FOLDER": str(tmp_path / "empty")}
    filled = [places.get(argument, argument.replace("FOLDER/", places["FOLDER"] + "/")) for argument in arguments]
    outcome = run(*filled)
    assert outcome.status == status, outcome.err
    assert complaint in outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


def test_a_missing_file_is_a_record_and_status_1(run: Run) -> None:
    outcome = run("predict", "missing.jpg", "--jsonl")
    [record] = records(outcome.out)
    assert (outcome.status, record["error"]["type"]) == (1, "not_found")


def test_debug_shows_the_traceback_and_nothing_else_does(run: Run, photo: Path) -> None:
    assert "Traceback" not in run("predict", photo, "-m", "nothing").err
    assert "Traceback" in run("predict", photo, "-m", "nothing", "--debug").err


def test_an_unforeseen_fault_is_one_sentence_too(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(Classifier, "__init__", fail)
    outcome = run("predict", photo)
    assert outcome.status == 3
    assert "unexpected ZeroDivisionError: by accident" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_interrupt_that_a_library_turned_into_another_error_is_an_interrupt(
    run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_import(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            raise ImportError("partially initialized module") from None

    monkeypatch.setattr(Classifier, "__init__", fail_import)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcome = run("predict", photo)
    finally:
        signal.signal(signal.SIGINT, former)
    assert outcome.status == 130
    assert outcome.err.strip() == "interrupted"


# ------------------------------------------------------------------------------------ processes and pipes


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    noise(60, 40).save(tmp_path / "a.png")
    (tmp_path / "list").write_text(f"{tmp_path / 'a.png'}\n" * 2000)
    command = f'"{sys.executable}" -m imgclassify predict --files-from list --jsonl -k 50 | head -1'
    done = subprocess.run(
        ["bash", "-c", command + '; echo "${PIPESTATUS[0]}"'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    first, status = done.stdout.splitlines()
    assert json.loads(first)["source"].endswith("a.png")
    assert (status, done.stderr) == ("0", "")


@pytest.mark.parametrize("command", ["models list", "labels show imagenet1k", "predict --files-from list"])
def test_a_closed_pipe_ends_tables_quietly_too(command: str, photo: Path) -> None:
    (photo.parent / "list").write_text("photo.jpg\n" * 3000)
    done = shell(f"imgclassify {command} | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}", photo.parent)
    assert (done.stdout, done.stderr) == ("0\n", "")


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = command.replace("imgclassify", f'"{sys.executable}" -m imgclassify', 1)
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=folder, check=False)


def test_closed_streams_are_no_fault(photo: Path) -> None:
    done = shell("imgclassify predict photo.jpg -o out.json >&-", photo.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads((photo.parent / "out.json").read_text())["results"]) == 1
    closed = shell("imgclassify predict photo.jpg >&-", photo.parent)
    assert (closed.returncode, "stdout is closed" in closed.stderr) == (3, True)
    listed = shell("imgclassify models list >&-", photo.parent)
    assert (listed.returncode, "stdout is closed" in listed.stderr) == (3, True)
    deaf = shell("imgclassify predict photo.jpg missing.jpg --jsonl 2>&-", photo.parent)
    assert (deaf.returncode, len(deaf.stdout.splitlines())) == (1, 2)
    mute = shell("imgclassify predict - --jsonl <&-", photo.parent)
    assert (mute.returncode, json.loads(mute.stdout)["error"]["type"]) == (1, "empty")


def test_a_full_disk_behind_stdout_is_told(photo: Path) -> None:
    done = shell("imgclassify predict photo.jpg > /dev/full", photo.parent)
    assert done.returncode == 3
    assert "cannot write to stdout: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_fetches_no_image(run: Run, photo: Path) -> None:
    with FileServer(photo.parent) as server:
        outcome = run("predict", server.url("photo.jpg"), "--offline", "--jsonl")
        assert server.requests == []
    [record] = records(outcome.out)
    assert (outcome.status, record["error"]["type"]) == (1, "unreadable")
    assert "--offline" in record["error"]["message"]


def test_a_folder_without_images_is_found_before_a_model_is_fetched(run: Run, tmp_path: Path) -> None:
    with FileServer(tmp_path) as server:
        add_manifest("resnet18", "mine", server.url("mine.pth"), "0" * 64)
        assert run("predict", tmp_path, "-m", "mine").status == 4
        assert run("predict", tmp_path / "x.jpg", "-m", "mine", "--device", "cuda:99").status == 3
        assert server.requests == []


def test_an_interrupt_leaves_a_valid_document_and_status_130(tmp_path: Path) -> None:
    for index in range(300):
        noise(640, 480, seed=index % 3).save(tmp_path / f"{index:03}.png", compress_level=1)
    with subprocess.Popen(
        [sys.executable, "-m", "imgclassify", "predict", str(tmp_path), "--json", "--batch-size", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # communicate() would lose what readline() had read ahead
    ) as running:
        assert running.stdout
        head = b"".join(running.stdout.readline() for _ in range(3))
        head += running.stdout.readline()  # the first record
        running.send_signal(signal.SIGINT)
        rest, err = running.communicate(timeout=60)
    assert running.returncode == 130
    document = json.loads(head + rest)
    jsonschema.validate(document, SCHEMA)
    assert 1 <= len(document["results"]) < 300
    assert b"Traceback" not in err
    assert b"interrupted" in err


def test_stdout_is_results_and_nothing_else_when_weights_are_downloaded(photo: Path, tmp_path: Path) -> None:
    file, digest = publish(tmp_path, seeded("squeezenet1_1"), "mine")
    with FileServer(tmp_path) as server:
        add_manifest("squeezenet1_1", "mine", server.url(file.name), digest)
        done = process("predict", photo, "-m", "mine", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["run"]["weights"]["sha256"] == digest
    assert done.stderr == b""


def test_a_name_of_any_bytes_comes_back_as_it_was(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9 [red]\x1b[31m\n.png"
    noise(40, 40).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(os.fsdecode(name))
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify", "predict", name, "--jsonl"], capture_output=True, check=False
    )
    assert os.fsencode(json.loads(done.stdout)["source"]) == name
    table = subprocess.run([sys.executable, "-m", "imgclassify", "predict", name], capture_output=True, check=False)
    assert b"\x1b" not in table.stdout
    assert b"[red]" in table.stdout


def test_offline_by_environment_opens_no_socket(photo: Path) -> None:
    environment = dict(os.environ) | {"IMGCLASSIFY_OFFLINE": "1"}
    done = process("predict", photo, "-m", "resnet18", env=environment)
    assert done.returncode == 3
    assert b"resnet18-f37072fd.pth" in done.stderr
    assert b"put the file at" in done.stderr


def test_classes_by_themselves_are_written_as_such(run: Run, tmp_path: Path) -> None:
    graph = save_graph(tmp_path / "tags.onnx", "float[N,3] y", LOGITS + "y = Sigmoid (g)")
    (tmp_path / "tags.txt").write_text("red\ngreen\nblue\n")
    Image.new("RGB", (9, 9), (250, 140, 20)).save(tmp_path / "i.png")
    sizes = ["--resize-size", "8", "--interpolation", "bilinear", "--mean", "0", "--std", "1"]
    model = ["-m", graph, "--labels", tmp_path / "tags.txt", *sizes]
    found = run("predict", tmp_path / "i.png", *model, "--json")
    document = json.loads(found.out)
    jsonschema.validate(document, SCHEMA)
    assert (document["run"]["activation"], document["run"]["multi_label"]) == ("none", True)
    by_label = {each["label"]: each["probability"] for each in document["results"][0]["predictions"]}
    assert list(by_label.values()) == sorted(by_label.values(), reverse=True)
    for label, wanted in zip(("red", "green", "blue"), sigmoid(logits((250, 140, 20))), strict=True):
        assert by_label[label] == pytest.approx(wanted, abs=1e-6)
    assert "each class by itself" in run("predict", tmp_path / "i.png", *model).out
    refused = run("predict", tmp_path / "i.png", *model, "--group", "red")
    assert refused.status == 2
    assert "--group" in refused.err
