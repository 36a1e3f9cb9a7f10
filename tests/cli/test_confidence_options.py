"""How far the answers of predict can be trusted, as a user asks for it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import jsonschema
import pytest
from calibrations import learned
from conftest import noise
from graphs_by_text import LOGITS, save_graph
from PIL import Image
from test_output import SCHEMA_FILE

from imgclassify import Classifier
from imgclassify.confidence.calibration import user_calibration_path
from imgclassify.output.reading import read_records
from imgclassify.output.records import PREDICTIONS

from .conftest import ALBUM, Run

SCHEMA = json.loads(SCHEMA_FILE.read_text("utf-8"))
CAT = Path(__file__).parent.parent.parent / "examples" / "cat.jpg"
KNOWN = (
    "these are the network's own probabilities; --calibrated applies a published temperature (calibration error "
    "7.6 → 1.1 %)\n"
)
USED = (
    "the probabilities are calibrated: temperature 0.834 of the catalog, which brings the ECE from 7.57 to 1.11 %\n"
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A calibration of the embedded model."""
    path = tmp_path / "own.json"
    learned().calibration.write(path)
    return path


@pytest.fixture
def users_own() -> Path:
    """The same, where it is found by the digest of the weights."""
    path = user_calibration_path(str(Classifier().run.weights_sha256))
    learned().calibration.write(path)
    return path


# The line below a table


def test_a_table_says_that_there_is_a_calibration(run: Run, photo: Path) -> None:
    for arguments in ([photo], [photo, "-f", "table"], [photo, "--unfamiliar"], [photo, "--group", "dog,cat"]):
        assert run("predict", *arguments).err == KNOWN


def test_the_line_comes_last_and_once(run: Run, photo: Path) -> None:
    lines = run("predict", photo, CAT).err.splitlines(keepends=True)
    assert lines.count(KNOWN) == 1
    assert lines[-1] == KNOWN
    assert run("predict", photo, CAT).out.count("\n") == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--quiet"],
        ["-q"],
        ["--json"],
        ["--jsonl"],
        *(["-f", name] for name in ("csv", "tsv", "json", "jsonl")),
        *(["-o", f"{{}}/out.{name}"] for name in ("csv", "json", "jsonl", "sqlite", "parquet", "txt")),
        ["--count"],
    ],
    ids=" ".join,
)
def test_no_line_without_a_table_on_stdout(options: list[str], run: Run, photo: Path, tmp_path: Path) -> None:
    if options[-1].endswith(".txt"):
        options = [*options, "-f", "table"]
    outcome = run("predict", photo, *(option.format(tmp_path) for option in options))
    assert (outcome.status, outcome.err) == (0, "")


def test_no_line_where_no_calibration_is_known_or_nothing_is_answered(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    assert run("predict", photo, "--std", "0.25").err == ""
    (tmp_path / "bad.jpg").write_bytes(photo.read_bytes()[:200])
    assert "--calibrated" not in run("predict", tmp_path / "bad.jpg").err


def test_the_line_names_the_users_own(run: Run, photo: Path, users_own: Path) -> None:
    err = run("predict", photo).err
    assert "--calibrated applies the temperature 0.7184 of the user's settings, from 40 images" in err
    users_own.write_text("{}")
    outcome = run("predict", photo)
    assert outcome.status == 0
    assert len(outcome.out.splitlines()) == 6
    assert "is not a calibration" in outcome.err
    assert "Traceback" not in outcome.err
    assert "or replace it: `imgclassify calibrate FOLDER --overwrite`" in run("predict", photo, "--calibrated").err


def test_models_show_names_the_users_own(run: Run, users_own: Path) -> None:
    shown = run("models", "show", "efficientnet_lite0").out
    assert re.search(rf"your own +temperature 0.7184 of {users_own}, from 40 images", shown)
    assert re.search(r"temperature +0.834, used with --calibrated where your own does not fit", shown)
    users_own.unlink()
    assert "your own" not in run("models", "show", "efficientnet_lite0").out


# Calibrated


def test_the_run_says_which_calibration_was_used(run: Run, photo: Path, own: Path) -> None:
    outcome = run("predict", photo, "--calibrated")
    assert outcome.err == USED
    assert outcome.out.splitlines()[0] == f"{photo}  320×240  efficientnet_lite0  calibrated"
    document = json.loads(run("predict", photo, "--calibration", own, "--json").out)
    jsonschema.validate(document, SCHEMA)
    ece = learned().calibration.figures["ece"]
    assert document["run"]["calibration"] == {
        "temperature": learned().calibration.temperature,
        "origin": str(own),
        "source": None,
        "images": 40,
        "ece_before": ece["before"]["value"],
        "ece_after": ece["after"]["value"],
    }
    assert run("predict", photo, "--calibration", own, "--json", "--quiet").err == ""
    plain = json.loads(run("predict", photo, "--json").out)
    assert "calibration" not in plain["run"]
    assert plain["results"][0]["predictions"] != document["results"][0]["predictions"]


def test_the_same_in_python(run: Run, photo: Path, own: Path) -> None:
    options = ["--calibration", own, "--at-least", "0.5", "--sets", "0.5", "--set-method", "lac", "--unfamiliar"]
    document = json.loads(run("predict", photo, *options, "--json").out)
    jsonschema.validate(document, SCHEMA)
    classifier = Classifier(
        calibration=own, at_least=0.5, sets=0.5, set_method="lac", unfamiliar=True, num_images=1
    )
    assert document["results"] == [classifier.predict(photo).to_dict()]
    assert {"answer", "set", "unfamiliar"} <= document["results"][0].keys()
    assert document["run"]["unfamiliar"] == "nci+neighbours"


@pytest.mark.needs_torch
def test_another_preprocessing_has_no_calibration(run: Run, photo: Path, own: Path, users_own: Path) -> None:
    assert users_own.exists()
    crop = ["--crop-size", "192"]
    refused = run("predict", photo, *crop, "--calibrated")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.splitlines()[0] == (
        "error: no calibration of efficientnet_lite0 is known for this preprocessing"
    )
    refused = run("predict", photo, *crop, "--calibration", own)
    assert refused.status == 2
    assert "its preprocess was {'crop_size': 224} and is now {'crop_size': 192}" in refused.err
    warned = run("predict", photo, CAT, *crop, "--at-least", "0.5", "--json")
    assert warned.status == 0
    assert warned.err.count("warning: no calibration of efficientnet_lite0 is known") == 1
    document = json.loads(warned.out)
    assert "calibration" not in document["run"]
    assert all("answer" in record for record in document["results"])


# Wrong options


@pytest.mark.parametrize("option", ["--at-least", "--threshold", "--sets"])
@pytest.mark.parametrize("value", ["0", "1.5", "nan", "-1", "inf"])
def test_a_share_out_of_range_is_refused_by_its_option(option: str, value: str, run: Run, photo: Path) -> None:
    outcome = run("predict", photo, option, value)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {option} is {float(value)!r}\n")
    assert "such as 0.9" in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--at-least", "x"], ["--at-least is 'x'", "a number"]),
        (["--sets", "1"], ["--sets is 1.0", "below 1"]),
        (["--at-least", "0.9", "--threshold", "0.5"], ["--at-least is another way to answer", "--threshold"]),
        (["--tree", "x.csv"], ["--tree has no use here", "--at-least"]),
        (["--tree", "x.csv", "--threshold", "0.5"], ["--tree has no use here", "--at-least"]),
        (["--at-least", "0.9", "--tree", "x.csv"], ["the tree 'x.csv' does not exist", "class,parent"]),
        (["--set-method", "raps"], ["--set-method has no use here", "--sets"]),
        (["--set-method", "aps"], ["--set-method is 'aps'", "lac or raps"]),
        (["--calibration", "x.json"], ["the calibration 'x.json' does not exist", "imgclassify calibrate"]),
        (["--calibration", "."], ["'.' is not a calibration: Is a directory", "imgclassify calibrate"]),
        (["--sets", "0.9"], ["the calibration of the catalog has none", "imgclassify calibrate"]),
        (["--sets", "0.9", "--calibrated"], ["the calibration of the catalog has none", "--calibration FILE"]),
        *(
            ([*options, "--group", "dog"], ["groups are answers above the classes", "--group", options[0]])
            for options in (["--at-least", "0.9"], ["--threshold", "0.9"], ["--sets", "0.9"], ["--unfamiliar"])
        ),
    ],
    ids=str,
)
def test_wrong_options_are_one_clear_error(options: list[str], words: list[str], run: Run, photo: Path) -> None:
    outcome = run("predict", photo, *options)
    assert (outcome.status, outcome.out) == (2, "")
    message, hint = outcome.err.splitlines()
    assert message.startswith("error: ")
    assert hint.startswith("hint: ")
    for each in words:
        assert each in outcome.err
    assert not any(name in outcome.err for name in ("at_least", "set_method"))


def test_a_coverage_beyond_the_calibration_is_refused(run: Run, photo: Path, own: Path) -> None:
    outcome = run("predict", photo, "--calibration", own, "--sets", "0.999")
    assert outcome.status == 2
    assert "a coverage of 0.999 needs a calibration of at least 999 images, and this one has 40" in outcome.err


@pytest.mark.parametrize(
    "options",
    [["--at-least", "0.9"], ["--threshold", "0.9"], ["--sets", "0.9"], ["--unfamiliar"], ["--calibrated"]],
    ids=" ".join,
)
def test_a_model_of_independent_classes_refuses_them(options: list[str], run: Run, tmp_path: Path) -> None:
    graph = save_graph(tmp_path / "tags.onnx", "float[N,3] y", LOGITS + "y = Sigmoid (g)")
    (tmp_path / "tags.txt").write_text("red\ngreen\nblue\n")
    Image.new("RGB", (9, 9), (250, 140, 20)).save(tmp_path / "i.png")
    model = ["-m", graph, "--labels", tmp_path / "tags.txt", "--resize-size", "8", "--mean", "0", "--std", "1"]
    outcome = run("predict", tmp_path / "i.png", *model, "--interpolation", "bilinear", *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert options[0] in outcome.err
    assert "imgclassify calibrate" not in outcome.err


# Formats


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "tsv", "parquet", "sqlite"])
def test_each_format_holds_the_confidence_of_each_image(
    name: str, run: Run, album: Path, own: Path, tmp_path: Path
) -> None:
    options = ["--calibration", own, "--at-least", "0.5", "--sets", "0.5", "--unfamiliar"]
    path = tmp_path / f"out.{name}"
    assert run("predict", album, *options, "-o", path).status == 1
    classifier = Classifier(calibration=own, at_least=0.5, sets=0.5, unfamiliar=True)
    for record, member in zip(read_records(path, PREDICTIONS), ALBUM, strict=True):
        assert record.source == str(album / member)
        if member == "m.jpg":
            assert (record.answer, record.prediction_set, record.unfamiliar) == (None, None, None)
            continue
        alone = classifier.predict(album / member)
        assert record.answer is not None
        assert alone.answer is not None
        assert record.unfamiliar is not None
        assert alone.unfamiliar is not None
        assert (record.answer.kind, record.answer.label) == (alone.answer.kind, alone.answer.label)
        assert record.answer.probability == pytest.approx(alone.answer.probability, abs=1e-5)
        assert record.prediction_set == alone.prediction_set
        assert record.unfamiliar.score == pytest.approx(alone.unfamiliar.score, abs=1e-3)


@pytest.mark.parametrize("name", ["jsonl", "csv", "parquet", "sqlite"])
def test_a_run_is_gone_on_with_only_by_one_of_the_same_confidence(
    name: str, run: Run, album: Path, own: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"out.{name}"
    options = ["--at-least", "0.5", "--unfamiliar"]
    assert run("predict", album / "a.jpg", album / "b.png", *options, "-o", path).status == 0
    for others, words in (
        (["--at-least", "0.6", "--unfamiliar"], "at_least was '0.5' and is now '0.6'"),
        (["--at-least", "0.5"], "unfamiliar was 'nci' and is now not given"),
        (["--unfamiliar"], "at_least was '0.5' and is now not given"),
        (["--threshold", "0.5", "--unfamiliar"], "threshold was not given and is now '0.5'"),
        ([*options, "--calibration", own], "calibration.temperature was 0.834 and is now 0.718"),
        ([], "calibration.temperature was 0.834 and is now not given"),
    ):
        outcome = run("predict", album, *others, "-o", path, "--resume")
        assert outcome.status == 2
        assert f"cannot resume {str(path)!r}" in outcome.err
        assert words in outcome.err
    assert run("predict", album, *options, "-o", path, "--resume").status == 1
    records = list(read_records(path, PREDICTIONS))
    assert sorted(record.source for record in records) == [str(album / member) for member in ALBUM]
    assert all((record.answer is None) == (record.error is not None) for record in records)


def test_a_run_with_another_tree_is_not_gone_on_with(run: Run, photo: Path, tmp_path: Path) -> None:
    tree, path = tmp_path / "tree.csv", tmp_path / "out.csv"
    options = ["--at-least", "0.5", "--tree", tree, "-o", path]
    tree.write_text("class,parent\ntabby,cat\ntiger cat,cat\n")
    assert run("predict", CAT, *options).status == 0
    assert run("predict", CAT, photo, *options, "--resume").status == 0
    tree.write_text("class,parent\ntabby,pet\ntiger cat,pet\n")
    refused = run("predict", CAT, photo, photo, *options, "--resume")
    assert refused.status == 2
    assert f"tree was '{tree} (SHA-256 " in refused.err
    assert [record.source for record in read_records(path, PREDICTIONS)] == [str(CAT), str(photo)]


def test_a_filter_and_counts_look_at_the_best_class(run: Run, album: Path, tmp_path: Path) -> None:
    confident = ["--at-least", "0.5", "--unfamiliar"]
    shown = run("predict", CAT, album / "a.jpg", "--only", "cat", *confident, "-o", tmp_path / "cats.csv")
    assert shown.status == 0
    [record] = read_records(tmp_path / "cats.csv", PREDICTIONS)
    assert record.source == str(CAT)
    assert record.answer is not None
    assert run(
        *("predict", CAT, album / "a.jpg", album / "b.png", "--only", "cat", *confident),
        *("-o", tmp_path / "cats.csv", "--resume"),
    ).status == 0  # fmt: skip
    counted = run("predict", CAT, album / "a.jpg", "--count", *confident)
    plain = run("predict", CAT, album / "a.jpg", "--count", "--calibrated")
    assert counted.out == plain.out


@pytest.mark.parametrize("name", ["jsonl", "csv", "parquet", "sqlite"])
def test_files_with_confidence_are_sorted(name: str, run: Run, tmp_path: Path, own: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(CAT.read_bytes())
    noise(60, 60).save(folder / "n.png")
    out = tmp_path / f"out.{name}"
    options = ["--calibration", own, "--at-least", "0.5", "--sets", "0.5", "--unfamiliar"]
    assert run("predict", folder, *options, "-o", out).status == 0
    best = {Path(each.source).name: each.predictions[0].label for each in read_records(out, PREDICTIONS)}
    outcome = run("sort", out, "--into", tmp_path / "sorted", "--yes")
    assert outcome.status == 0
    for file, label in best.items():
        assert (tmp_path / "sorted" / label / file).exists()


def test_csv_on_stdout_has_the_columns_of_what_is_asked_for(run: Run, photo: Path, own: Path) -> None:
    plain = run("predict", photo, "-f", "csv", "-k", "1").out.splitlines()[0].split(",")
    assert plain == [
        *("source", "model", "width", "height", "frames", "frame", "damaged"),
        *("class_index_1", "wnid_1", "label_1", "probability_1", "error_type", "error_message"),
    ]
    assert run("predict", photo, "-f", "csv", "-k", "1", "--calibrated").out.splitlines()[0].split(",") == plain
    added = {
        ("--at-least", "0.5"): ["answer_kind", "answer_wnid", "answer_label", "answer_probability"],
        ("--threshold", "0.5"): ["answer_kind", "answer_wnid", "answer_label", "answer_probability"],
        ("--sets", "0.5", "--calibration", str(own)): ["set"],
        ("--unfamiliar",): ["unfamiliar_score", "unfamiliar_percentile"],
    }
    for options, columns in added.items():
        text = run("predict", photo, "-f", "csv", "-k", "1", *options).out
        [row] = csv.DictReader(io.StringIO(text))
        assert list(row) == [*plain[:-2], *columns, *plain[-2:]]
        assert row[columns[0]]


def test_help_names_the_options(run: Run) -> None:
    text = run("predict", "--help").out
    for option in (
        *("--calibrated", "--calibration", "--at-least", "--tree", "--threshold", "--sets", "--set-method"),
        "--unfamiliar",
    ):
        assert option in text
