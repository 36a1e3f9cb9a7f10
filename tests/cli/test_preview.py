"""imgclassify preview, and predict --save-input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli.conftest import Run
from conftest import noise
from PIL import Image

from imgclassify.runner import load_runner


def test_the_facts_are_printed(run: Run, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    noise(1024, 768).save(tmp_path / "x.jpg", exif=exif)
    outcome = run("preview", tmp_path / "x.jpg", "--resize-size", "256", "--crop-size", "224")
    assert (outcome.status, outcome.err) == (0, "")
    facts = dict(line.split("  ", 1) for line in outcome.out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["image"] == "768×1024, turned upright (EXIF orientation 8)"
    assert facts["resized to"] == "256×341, bicubic"
    assert facts["crop"] == "224×224, center"
    # 224 of 256 pixels at 3 pixels each, from 16 on; from 58 of 341 on, at 1024 / 341 pixels each.
    assert facts["crop in image"] == "x 48.0 to 720.0, y 174.2 to 846.8: 57.5 % of the image"
    assert facts["model"] == "efficientnet_lite0"


def test_json_and_the_crop_and_the_overlay(run: Run, photo: Path, tmp_path: Path) -> None:
    crop, overlay = tmp_path / "crop.png", tmp_path / "overlay.png"
    outcome = run("preview", "-", "--json", "-o", crop, "--overlay", overlay, stdin=photo.read_bytes())
    document = json.loads(outcome.out)
    wanted = load_runner().preview(photo)
    assert np.array_equal(np.asarray(Image.open(crop)), wanted.crop)
    assert document["schema"] == "imgclassify.preview/1"
    assert document["source"] == "-"
    assert (document["width"], document["height"], document["orientation"]) == (320, 240, 1)
    assert document["resized"] == list(wanted.resized)
    assert document["box"] == list(wanted.box)
    assert document["preprocess"] == load_runner().run_info.preprocess
    assert (document["model"], document["decode"]) == ("efficientnet_lite0", "exact")
    drawn, plain = np.asarray(Image.open(overlay)).astype(int), np.asarray(Image.open(photo)).astype(int)
    changed = np.argwhere((drawn != plain).any(axis=2))
    left, top = changed.min(axis=0)[::-1]
    right, bottom = changed.max(axis=0)[::-1] + 1
    assert np.allclose([left, top, right, bottom], wanted.box, atol=1)
    middle = (slice(top + 4, bottom - 4), slice(left + 4, right - 4))
    assert (drawn[middle] == plain[middle]).all()


@pytest.mark.parametrize("option", ["-o", "--overlay"])
def test_a_file_is_replaced_only_if_that_is_asked_for(option: str, run: Run, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.png"
    target.write_bytes(b"a photograph of the user")
    refused = run("preview", photo, option, target)
    assert (refused.status, target.read_bytes()) == (2, b"a photograph of the user")
    assert "--overwrite" in refused.err
    assert run("preview", photo, option, target, "--overwrite").status == 0
    Image.open(target).verify()


def test_a_padded_crop_is_told_and_drawn(run: Run, photo: Path, tmp_path: Path) -> None:
    outcome = run("preview", photo, "--crop-size", "500", "--overlay", tmp_path / "o.png")
    assert "100.0 % of the image, padded" in outcome.out
    assert Image.open(tmp_path / "o.png").size == (320, 240)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["PHOTO", "-o", "crop.jpg"], 2, ".png"),
        (["PHOTO", "--overlay", "o"], 2, ".png"),
        (["PHOTO", "-o", "no/such/crop.png"], 2, "cannot write"),
        (["none.jpg"], 1, "none.jpg"),
        (["."], 1, "is a folder"),
        (["PHOTO", "-m", "no_such_model"], 3, "no_such_model"),
        (["PHOTO", "--crop-size", "0"], 2, "--crop-size"),
        ([], 2, "SOURCE"),
    ],
)
def test_wrong_usage_is_told(run: Run, photo: Path, arguments: list[str], status: int, words: str) -> None:
    outcome = run("preview", *(str(photo) if argument == "PHOTO" else argument for argument in arguments))
    assert outcome.status == status
    assert words in outcome.err
    assert outcome.out == ""


def test_predict_saves_what_the_network_sees(run: Run, album: Path, tmp_path: Path) -> None:
    plain = run("predict", album, "--jsonl")
    outcome = run("predict", album, "--jsonl", "--save-input", tmp_path / "crops")
    assert (outcome.status, outcome.out) == (1, plain.out)
    rows = [line.split("\t") for line in (tmp_path / "crops" / "inputs.tsv").read_text("utf-8").splitlines()[1:]]
    good = [record["source"] for record in map(json.loads, plain.out.splitlines()) if not record["error"]]
    assert sorted(row[2] for row in rows) == sorted(good)
    runner = load_runner()
    for file, model, source in rows:
        assert model == "efficientnet_lite0"
        assert np.array_equal(np.asarray(Image.open(tmp_path / "crops" / file)), runner.preview(source).crop)


def test_a_resumed_run_saves_only_the_new_ones(run: Run, album: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    run("predict", album / "a.jpg", "-o", tmp_path / "labels.csv")
    resumed = run("predict", album, "-o", tmp_path / "labels.csv", "--resume", "--save-input", crops)
    assert resumed.status == 1
    assert len(list(crops.glob("*.png"))) == 3
    assert not list(crops.glob("a-*.png"))


def test_a_folder_that_cannot_be_made_is_told(run: Run, photo: Path) -> None:
    outcome = run("predict", photo, "--save-input", photo)
    assert outcome.status == 2
    assert "--save-input" in outcome.err
    assert outcome.out == ""


def test_crops_are_not_saved_where_a_later_run_would_classify_them(run: Run, photo: Path) -> None:
    inside = run("predict", photo.parent, "--save-input", photo.parent / "crops", "--jsonl")
    assert (inside.status, inside.out) == (2, "")
    assert "lies within the source" in inside.err
    assert not (photo.parent / "crops").exists()


def test_two_files_have_two_names(run: Run, photo: Path, tmp_path: Path) -> None:
    same = run("preview", photo, "-o", tmp_path / "a.png", "--overlay", tmp_path / "." / "a.png")
    assert same.status == 2
    assert not (tmp_path / "a.png").exists()


def test_an_image_that_is_damaged_is_named(run: Run, photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:500])
    assert f"error: {photo}: " in run("preview", photo).err
