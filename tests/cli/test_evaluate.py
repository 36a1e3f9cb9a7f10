"""imgclassify evaluate, on photographs: every figure against scikit-learn or a literal formula over the logits."""

from __future__ import annotations

import csv
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import termios
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
from graphs_by_text import LOGITS, save_graph
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import stats
from sklearn import metrics

from imgclassify import Classifier, labels
from imgclassify.evaluation.hierarchy import hierarchical_distances
from imgclassify.evaluation.logits import IMAGE_LOGITS, ImageLogits
from imgclassify.labels.taxonomy import wordnet_taxonomy
from imgclassify.output.file_formats import open_file_format
from imgclassify.output.formats import find_format
from imgclassify.output.provenance import Provenance
from imgclassify.own_models import add_model
from imgclassify.report.figures import format_threshold
from imgclassify.runner import ImageOutputs
from imgclassify.sources import single_source

from .conftest import Run, process
from .test_unattended import lines, started, wait_for

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "imgclassify" / "evaluation" / "evaluation.schema.json").read_text("utf-8"))
IMAGENET = labels.load_labels("imagenet1k")
FOLDERS = {  # by label, wnid, class index and synonym; some images are of another class for the model
    "tiger cat": (282, "cat", (0, 1, 2)),
    "n02124075": (285, "cat", (3, 4)),
    "tabby cat": (281, "cat", (5,)),
    "967": (967, "coffee", (0, 1, 2, 3, 5)),
    "missile": (657, "rocket", (0, 1, 2, 3)),
    "projectile": (744, "rocket", (4, 5)),
}
TWO_SURE = [
    {"rank": 1, "class_index": 0, "wnid": "n01440764", "label": "tench", "probability": 0.6},
    {"rank": 2, "class_index": 1, "wnid": "n01443537", "label": "goldfish", "probability": 0.6},
]
ONE_BY_ONE = ("--batch-size", "1")
"""The last digits depend on the batch."""


def crop(name: str, number: int) -> Image.Image:
    """A crop of an example, another one for each number."""
    with Image.open(ROOT / "examples" / f"{name}.jpg") as opened:
        image = opened.convert("RGB")
    width, height = image.size
    box = (
        number * width // 12,
        number * height // 14,
        width - number * width // 16,
        height - number * height // 11,
    )
    return ImageOps.mirror(image.crop(box)) if number % 2 else image.crop(box)


class Data(NamedTuple):
    folder: Path
    sources: list[str]
    truth: NDArray[np.int64]
    logits: NDArray[np.float64]


def infer(sources: list[str], model: str | None = None, **options: Any) -> NDArray[np.float64]:
    """(N, C): the logits of images, each by itself."""
    with Classifier(model, batch_size=1, **options) as classifier:
        outputs: list[ImageOutputs] = list(classifier.runner.map(lambda image: image, map(single_source, sources)))
    assert all(each.arrays for each in outputs)
    return np.array([each.arrays["logits"] for each in outputs if each.arrays], np.float64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("labelled") / "photos"
    truth = {}
    for name, (index, photo, numbers) in FOLDERS.items():
        (folder / name).mkdir(parents=True)
        for number in numbers:
            path = folder / name / f"{photo}{number}.png"
            crop(photo, number).save(path)
            truth[str(path)] = index
    sources = sorted(truth)
    return Data(folder, sources, np.array([truth[source] for source in sources]), infer(sources))


@pytest.fixture
def faulty(data: Data, tmp_path: Path) -> Path:
    """The same images, a broken one, and one of a class that the model does not have."""
    folder = tmp_path / "photos"
    shutil.copytree(data.folder, folder)
    (folder / "tiger cat" / "broken.png").write_bytes((folder / "tiger cat" / "cat0.png").read_bytes()[:500])
    (folder / "flux capacitor").mkdir()
    crop("coffee", 0).save(folder / "flux capacitor" / "a.png")
    return folder


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def literal_ece(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return error


def literal_equal_mass_ece(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Rank r of N, from 1, is in the bin of its middle, (r - 1/2) / N."""
    error, count = 0.0, len(confidence)
    bins = [int((rank + 0.5) / count * 15) for rank in range(count)]
    order = np.argsort(confidence)
    for number in set(bins):
        inside = order[[rank for rank in range(count) if bins[rank] == number]]
        error += len(inside) / count * abs(correct[inside].mean() - confidence[inside].mean())
    return error


def literal_figures(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    """The figures where each image has one right class, and all confidences differ."""
    probabilities = softmax(logits)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == truth
    order = np.argsort(-confidence)
    wrong = ~correct[order]
    count = np.arange(1, len(truth) + 1)
    shares = [k / len(truth) for k in count if wrong[:k].mean() <= 0.05]
    distances = hierarchical_distances(
        [(int(t), int(p)) for t, p in zip(truth[~correct], predicted[~correct], strict=True)],
        wordnet_taxonomy(IMAGENET),
    )
    return {
        "acc1": metrics.accuracy_score(truth, predicted),
        "acc5": metrics.top_k_accuracy_score(truth, probabilities, k=5, labels=np.arange(logits.shape[1])),
        "balanced_accuracy": metrics.recall_score(
            truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
        ),
        "nll": metrics.log_loss(truth, probabilities, labels=np.arange(logits.shape[1])),
        "brier": float(((probabilities - np.eye(logits.shape[1])[truth]) ** 2).sum(axis=1).mean()),
        "ece": literal_ece(confidence, correct),
        "ece_equal_mass": literal_equal_mass_ece(confidence, correct),
        "aurc": float((np.cumsum(wrong) / count).mean()),
        "coverage_at_95": max(shares, default=0.0),
        "hierarchical_distance": float(np.mean([each.height for each in distances])),
    }


def evaluated(run: Run, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    outcome = run("evaluate", *arguments, "--json")
    assert outcome.status == status, outcome.err
    document: dict[str, Any] = json.loads(outcome.out)
    jsonschema.validate(document, SCHEMA)
    return document


def values(document: dict[str, Any]) -> dict[str, Any]:
    return {name: each["value"] for name, each in document["metrics"].items()}


FIGURES = ("metrics", "classes", "confusions", "mistakes", "reliability", "thresholds", "num_label_errors")


def assert_same(first: dict[str, Any], second: dict[str, Any], names: tuple[str, ...] = FIGURES) -> None:
    """Compares two documents to 1e-9."""

    def flatten(value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, dict | list):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            return {key: leaf for name, each in pairs for key, leaf in flatten(each, f"{path}/{name}").items()}
        return {path: value}

    one, other = ({key: leaf for name in names for key, leaf in flatten(each[name], name).items()}
                  for each in (first, second))  # fmt: skip
    assert one.keys() == other.keys()
    for path, value in one.items():
        assert value == (pytest.approx(other[path], abs=1e-9) if isinstance(value, float) else other[path]), path


# Figures ----------------------------------------------------------------------------------------------------


def test_each_figure_is_that_of_scikit_learn_or_of_its_formula(run: Run, data: Data) -> None:
    document = evaluated(run, data.folder, *ONE_BY_ONE)
    found = values(document)
    expected = literal_figures(data.logits, data.truth)
    assert 0.3 < expected["acc1"] < 0.95  # there are right answers and wrong ones
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6 if name in ("nll", "brier") else 1e-7), name
    assert (document["images"], document["failed"], document["ignored"]) == (len(data.truth), 0, 0)
    assert found["acc1_with_failed"] == found["acc1"]
    right, count = round(expected["acc1"] * len(data.truth)), len(data.truth)
    interval = stats.binomtest(right, count).proportion_ci(method="wilson")
    acc1 = document["metrics"]["acc1"]
    assert (acc1["low"], acc1["high"]) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert all(each["low"] <= each["value"] <= each["high"] for each in document["metrics"].values())


def test_each_class_has_the_figures_of_scikit_learn(run: Run, data: Data) -> None:
    document = evaluated(run, data.folder, *ONE_BY_ONE)
    predicted = data.logits.argmax(axis=1)
    indices = sorted(index for index, _, _ in FOLDERS.values())
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        data.truth, predicted, labels=indices, zero_division=np.nan
    )
    assert [row["label"] for row in document["classes"]] == [IMAGENET[index].label for index in indices]
    for number, row in enumerate(document["classes"]):
        claimed = np.count_nonzero(predicted == indices[number])
        assert (row["count"], row["predicted"], row["failed"]) == (support[number], claimed, 0)
        assert row["precision"] == (pytest.approx(precision[number]) if claimed else None)
        assert row["recall"] == pytest.approx(recall[number])
        assert row["f1"] == pytest.approx(f1[number])
    wrong = Counter(
        (IMAGENET[int(t)].label, IMAGENET[int(p)].label)
        for t, p in zip(data.truth, predicted, strict=True)
        if t != p
    )
    assert {(row["truth"], row["predicted"]): row["count"] for row in document["confusions"]} == wrong
    counts = [row["count"] for row in document["confusions"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(row["count"] for row in document["mistakes"]) == wrong.total()


def test_thresholds_and_bins_are_told_as_numpy_counts_them(run: Run, data: Data) -> None:
    document = evaluated(run, data.folder, *ONE_BY_ONE)
    probabilities = softmax(data.logits)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == data.truth
    for row in document["thresholds"]:
        answered = confidence >= row["threshold"]
        assert (row["count"], row["answered"]["value"]) == (answered.sum(), answered.mean())
        assert row["accuracy"]["value"] == (correct[answered].mean() if answered.any() else None)
    for row in document["reliability"]:
        inside = (confidence > row["low"]) & (confidence <= row["high"])
        assert row["count"] == inside.sum()
        if inside.any():
            assert (row["confidence"], row["accuracy"]) == pytest.approx(
                (confidence[inside].mean(), correct[inside].mean()), abs=1e-6
            )
    chosen = document["thresholds_for"]["coverage_at_95"]
    assert chosen is None or correct[confidence >= chosen - 1e-7].mean() >= 0.95


def test_a_wrong_label_is_listed(run: Run, data: Data, tmp_path: Path) -> None:
    """An espresso called a missile: the model is as sure of it as of the others."""
    table = tmp_path / "truth.csv"
    rows = dict(zip(data.sources, data.truth.tolist(), strict=True))
    moved = str(data.folder / "967" / "coffee0.png")
    rows[moved] = 657
    table.write_text("source,class_index\n" + "".join(f"{name},{index}\n" for name, index in rows.items()))
    document = evaluated(run, data.folder, "--truth", table, *ONE_BY_ONE)
    probabilities = softmax(data.logits)[data.sources.index(moved)]
    [found] = [row for row in document["label_errors"] if row["source"] == moved]
    assert (found["truth"], found["suggested"]) == ("missile", "espresso")
    assert found["truth_probability"] == pytest.approx(probabilities[657], rel=1e-5)
    assert found["suggested_probability"] == pytest.approx(probabilities[967], rel=1e-5)
    assert document["label_errors"][0] == found


def test_probabilities_are_calibrated_if_asked_for(run: Run, data: Data) -> None:
    document = evaluated(run, data.folder, "--calibrated", *ONE_BY_ONE)
    temperature = document["run"]["calibration"]["temperature"]
    assert temperature != 1
    expected = literal_figures(data.logits / temperature, data.truth)
    found = values(document)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


# The document -----------------------------------------------------------------------------------------------


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of each key of a document; of the items of a list, those of the first."""
    if isinstance(value, list):
        return _paths(value[0], (*path, 0)) if value else []
    if not isinstance(value, dict) or path[-1:] in (("run",), ("errors",), ("ignored",)):
        return []
    return [each for key, item in value.items() for each in ((*path, key), *_paths(item, (*path, key)))]


def test_the_schema_refuses_a_missing_and_a_misspelt_key(run: Run, faulty: Path) -> None:
    document = evaluated(run, faulty, "--ignore-unknown", "--at-least", "0.9", status=1)
    paths = _paths(document)
    assert len(paths) > 100
    for path in paths:
        for misspelt in (None, f"{path[-1]}s"):
            changed = json.loads(json.dumps(document))
            place = changed
            for step in path[:-1]:
                place = place[step]
            value = place.pop(path[-1])
            if misspelt:
                place[misspelt] = value
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(changed, SCHEMA)


def test_the_document_has_the_keys_that_are_promised(run: Run, data: Data) -> None:
    document = evaluated(run, data.folder)
    assert document["schema"] == "imgclassify.evaluation/1"
    assert {"schema", "run", "truth", "metrics", "images", "failed", "ignored", "classes", "confusions",
            "label_errors"} <= document.keys()  # fmt: skip
    assert {"acc1", "acc5", "balanced_accuracy", "nll", "brier", "ece", "ece_equal_mass", "aurc", "coverage_at_95",
            "hierarchical_distance"} <= document["metrics"].keys()  # fmt: skip
    assert document["run"]["model"] == "efficientnet_lite0"
    truth = document["truth"]
    assert truth["how"].startswith("the name of")
    assert {each["name"]: (each["class_indices"], each["count"]) for each in truth["classes"]} == {
        name: ([index], len(numbers)) for name, (index, _, numbers) in FOLDERS.items()
    }


# Truth ------------------------------------------------------------------------------------------------------


def test_an_unknown_folder_is_refused_before_an_image_is_opened(run: Run, faulty: Path, tmp_path: Path) -> None:
    outcome = run("evaluate", faulty, "-o", tmp_path / "r.jsonl")
    assert (outcome.status, outcome.out) == (2, "")
    assert "'flux capacitor'" in outcome.err
    assert not list(tmp_path.glob("r.jsonl*"))


@pytest.mark.parametrize("column", ["class", "label", "wnid", "class_index"])
def test_a_file_gives_the_truth_in_each_of_its_columns(column: str, run: Run, data: Data, tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["source", column])
        for source, index in reversed(list(zip(data.sources, data.truth.tolist(), strict=True))):
            cell = {"wnid": IMAGENET[index].wnid, "class_index": index}.get(column, IMAGENET[index].label)
            rows.writerow([Path(source).relative_to(data.folder), cell])
    document = evaluated(run, data.folder, "--truth", table, *ONE_BY_ONE)
    assert values(document)["nll"] == pytest.approx(literal_figures(data.logits, data.truth)["nll"], abs=1e-6)
    assert document["truth"]["file"] == str(table)


# Failed images ----------------------------------------------------------------------------------------------


def test_failed_images_are_counted_and_never_dropped(run: Run, data: Data, faulty: Path) -> None:
    document = evaluated(run, faulty, "--ignore-unknown", *ONE_BY_ONE, status=1)
    assert (document["images"], document["failed"], document["ignored"]) == (len(data.truth), 1, 1)
    assert document["errors"] == {"truncated_image": 1}
    [failure] = document["failures"]
    assert Path(failure["source"]).is_relative_to(faulty)
    assert (failure["type"], "ends too early" in failure["message"]) == ("truncated_image", True)
    assert {row["label"]: row["failed"] for row in document["classes"] if row["failed"]} == {"tiger cat": 1}
    right = np.count_nonzero(data.logits.argmax(axis=1) == data.truth)
    found = values(document)
    assert (found["acc1"], found["acc1_with_failed"]) == (right / len(data.truth), right / (len(data.truth) + 1))
    assert document["truth"]["ignored"] == {"flux capacitor": 1}


def test_an_evaluation_of_nothing_but_failures_has_no_figures(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos" / "tabby").mkdir(parents=True)
    (tmp_path / "photos" / "tabby" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    document = evaluated(run, tmp_path / "photos", status=1)
    assert (document["images"], document["failed"]) == (0, 1)
    assert {value for name, value in values(document).items() if name != "acc1_with_failed"} == {None}
    assert values(document)["acc1_with_failed"] == 0
    outcome = run("evaluate", tmp_path / "photos")
    assert outcome.status == 1
    assert "0 images of 1 class, 1 failed" in outcome.out


# The same figures from each form ----------------------------------------------------------------------------


def test_archives_give_the_figures_of_their_folder(run: Run, data: Data, tmp_path: Path) -> None:
    expected = evaluated(run, data.folder, *ONE_BY_ONE)
    assert_same(expected, evaluated(run, *data.sources, *ONE_BY_ONE))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for source in data.sources:
            archive.write(source, Path(source).relative_to(data.folder.parent))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(data.folder, "photos")
    for name in ("a.zip", "a.tar"):
        assert_same(expected, evaluated(run, tmp_path / name, *ONE_BY_ONE))


@pytest.mark.parametrize("extension", ["jsonl", "csv", "tsv", "parquet", "sqlite", "json"])
def test_records_give_the_figures_of_their_run(extension: str, run: Run, faulty: Path, tmp_path: Path) -> None:
    path = tmp_path / f"records.{extension}"
    expected = evaluated(run, faulty, "--ignore-unknown", "-o", path, *ONE_BY_ONE, status=1)
    document = evaluated(run, "--from", path, status=1)
    assert_same(expected, document)
    assert (document["images"], document["failed"], document["errors"]) == (17, 1, {"truncated_image": 1})
    again = evaluated(run, "--from", path, "--truth", "folders", "--ignore-unknown", status=1)
    assert_same(expected, again)


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
def test_records_without_their_sidecar_still_do(extension: str, run: Run, data: Data, tmp_path: Path) -> None:
    path = tmp_path / f"records.{extension}"
    expected = evaluated(run, data.folder, "-o", path, *ONE_BY_ONE)
    (tmp_path / f"records.{extension}.run.json").unlink()
    document = evaluated(run, "--from", path)
    assert_same(expected, document)
    assert document["run"] == {"model": "efficientnet_lite0"}


def test_logits_without_their_sidecar_say_what_is_missing(run: Run, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "logits.jsonl"
    evaluated(run, data.folder, "--save-logits", path)
    (tmp_path / "logits.jsonl.run.json").unlink()
    for command in ("evaluate", "calibrate"):
        outcome = run(command, "--from", path)
        assert outcome.status == 2
        assert "logits.jsonl.run.json, which does, is not beside it" in outcome.err


def test_indices_that_count_from_one_are_noticed(run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        crop("coffee", number % 4).save(photos / f"{number}.png")
    best = Classifier().predict(photos / "0.png").predictions[0].class_index
    for first, is_noticed in ((1, True), (0, False)):
        rows = "".join(f"{number}.png,{best + first}\n" for number in range(24))
        (tmp_path / "truth.csv").write_text(f"source,class_index\n{rows}")
        outcome = run("evaluate", photos, "--truth", tmp_path / "truth.csv", "--json")
        assert outcome.status == 0
        assert ("warning: the class indices of the truth seem to count from 1" in outcome.err) == is_noticed
        assert bool(json.loads(outcome.out)["truth"]["notes"]) == is_noticed


def test_a_resumed_run_gives_the_figures_of_a_whole_one(run: Run, data: Data, tmp_path: Path) -> None:
    many = tmp_path / "photos"
    for number in range(30):
        shutil.copytree(data.folder, many, copy_function=_copy_as(number), dirs_exist_ok=True)
    expected = evaluated(run, many, *ONE_BY_ONE)
    path, partial = tmp_path / "r.jsonl", tmp_path / "r.jsonl.partial"
    arguments = ("evaluate", many, "-o", path, "--json", *ONE_BY_ONE)
    with started(*arguments, stdout=subprocess.PIPE) as running:
        wait_for(lambda: lines(partial) > 20)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, b"")  # no report of a part
    assert 20 <= lines(partial) - 1 < expected["images"]
    outcome = run(*arguments, "--resume")
    assert outcome.status == 0
    assert_same(expected, json.loads(outcome.out))


def _copy_as(number: int) -> Callable[[str, str], None]:
    def copy(source: str, target: str) -> None:
        path = Path(target)
        shutil.copy(source, path.with_name(f"{number}{path.name}"))

    return copy


def test_earlier_records_of_another_truth_are_refused(run: Run, data: Data, tmp_path: Path) -> None:
    path, truth = tmp_path / "r.jsonl", tmp_path / "truth.csv"
    for option, rows in (
        ("--truth", ("source,class\n" + "".join(f"{each},{{}}\n" for each in data.sources))),
        ("--map", "tiger cat,{}\n"),
    ):
        truth.write_text(rows.format(*["tench"] * len(data.sources)), "utf-8")
        evaluated(run, data.folder, option, truth, "-o", path, "--overwrite")
        truth.write_text(rows.format(*["goldfish"] * len(data.sources)), "utf-8")
        outcome = run("evaluate", data.folder, option, truth, "-o", path, "--resume")
        assert (outcome.status, outcome.out) == (2, "")
        assert f"cannot resume {str(path)!r}: {option[2:]} was {str(truth) + ' (SHA-256 '!r}"[:-1] in outcome.err


@pytest.mark.parametrize("option", ["-o", "--save-logits"])
def test_earlier_records_of_other_images_are_refused(option: str, run: Run, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    evaluated(run, data.folder / "tiger cat", data.folder / "967", option, path)
    outcome = run("evaluate", data.folder / "tiger cat", option, path, "--resume")
    assert (outcome.status, outcome.out) == (2, "")
    assert "coffee0.png', which is none of the images" in outcome.err


def test_earlier_logits_of_images_that_are_left_out_do_not_count(run: Run, data: Data, tmp_path: Path) -> None:
    path, truth = tmp_path / "l.npz", tmp_path / "truth.csv"
    expected = evaluated(run, data.folder / "tiger cat", "--save-logits", path)
    rows = [f"{each},tiger cat\n" for each in data.sources if "tiger cat" in each][1:]
    truth.write_text("source,class\n" + "".join(rows), "utf-8")
    options = ("--truth", truth, "--ignore-unknown", "--save-logits", path, "--resume")
    document = evaluated(run, data.folder / "tiger cat", *options)
    assert (document["images"], document["ignored"]) == (expected["images"] - 1, 1)


def test_an_image_that_is_named_twice_counts_once(run: Run, data: Data, tmp_path: Path) -> None:
    expected = evaluated(run, data.folder, *ONE_BY_ONE)
    path = tmp_path / "r.jsonl"
    outcome = run("evaluate", data.folder, data.folder / "967", "--json", "-o", path, *ONE_BY_ONE)
    assert "left out: 5 images that came before" in outcome.err
    for document in (json.loads(outcome.out), evaluated(run, "--from", path)):
        assert_same(expected, document)
        assert document["truth"]["images"] == expected["images"]
        assert document["metrics"] == expected["metrics"]  # with their intervals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": {"confidence": 5}}, "a field has an invalid value"),
        ({"scores": {"confidence": None}}, "a field has an invalid value"),
        ({"scores": {"rank": 1.5}}, "a field has an invalid value"),
        ({"scores": {"brier": 3}}, "a field has an invalid value"),
        ({"truth": {"class_index": 1.5}}, "a field has an invalid value"),
        ({"truth": {"class_index": 5000}}, "calls class 5000 'tiger cat', and imagenet1k calls it None"),
        ({"truth": {"label": "lion"}}, "calls class 282 'lion', and imagenet1k calls it 'tiger cat'"),
        ({"answer": {"kind": "unsure", "wnid": None, "label": None, "probability": 0.1}}, "have an answer"),
        ({"set": ["tench"]}, "have a prediction set"),
        ({"predictions": TWO_SURE}, "predicts each class by itself"),
        ({"model": "other"}, "has records of 'other' and of 'efficientnet_lite0'"),
    ],
)
def test_a_record_that_cannot_be_is_refused(
    change: dict[str, Any], message: str, run: Run, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    evaluated(run, data.folder / "tiger cat", data.folder / "967", "-o", path)
    first, *others = path.read_text("utf-8").splitlines(keepends=True)
    record = json.loads(first)
    for name, value in change.items():
        record[name] = record[name] | value if name in ("scores", "truth") else value
    path.write_text("".join([json.dumps(record) + "\n", *others]), "utf-8")
    outcome = run("evaluate", "--from", path)
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err


def test_results_of_predict_give_what_they_know(run: Run, data: Data, tmp_path: Path) -> None:
    expected = evaluated(run, data.folder, *ONE_BY_ONE)
    for top_k, knows_five in ((5, True), (3, False)):
        path = tmp_path / f"top{top_k}.jsonl"
        assert run("predict", data.folder, "-k", str(top_k), "-o", path, *ONE_BY_ONE).status == 0
        document = evaluated(run, "--from", path)
        found, known = values(document), values(expected)
        same = ["acc1", "balanced_accuracy", "hierarchical_distance", "aurc", *(["acc5"] if knows_five else [])]
        assert {name: found[name] for name in same} == {name: known[name] for name in same}
        assert found["ece"] == pytest.approx(known["ece"], abs=1e-6)
        assert document["confusions"] == expected["confusions"]
        assert (found["nll"], found["brier"]) == (None, None)
        assert knows_five or found["acc5"] is None
    assert run("predict", data.folder, "-k", "1000", "-o", tmp_path / "all.jsonl", *ONE_BY_ONE).status == 0
    found = values(evaluated(run, "--from", tmp_path / "all.jsonl"))
    assert found["nll"] == pytest.approx(values(expected)["nll"], abs=1e-6)


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet", "sqlite"])
def test_records_that_a_filter_has_chosen_are_refused(extension: str, run: Run, data: Data, tmp_path: Path) -> None:
    """Those of a probability of 0.5 and more are right more often than all."""
    path = tmp_path / f"r.{extension}"
    assert run("predict", data.folder, "--min-probability", "0.5", "-o", path).status == 0
    outcome = run("evaluate", "--from", path)
    assert (outcome.status, outcome.out) == (2, "")
    assert "has only the records that --min-probability selected" in outcome.err


@pytest.mark.parametrize("extension", ["npz", "parquet", "jsonl"])
def test_saved_logits_give_the_figures_of_their_rounding(
    extension: str, run: Run, data: Data, faulty: Path, tmp_path: Path
) -> None:
    """float16 has 11 binary digits, so a logit between 8 and 16 is off by 2^-8 at most, and an NLL by twice that.
    The figures are those of the rounded logits, and those of the run that saves them are its own."""
    path = tmp_path / f"logits.{extension}"
    saving = evaluated(run, faulty, "--ignore-unknown", "--save-logits", path, *ONE_BY_ONE, status=1)
    assert_same(evaluated(run, faulty, "--ignore-unknown", *ONE_BY_ONE, status=1), saving)
    document = evaluated(run, "--from", path, "--ignore-unknown", status=1)
    assert (document["images"], document["failed"]) == (17, 1)
    assert np.abs(data.logits).max() < 16
    rounded = data.logits.astype(np.float16).astype(np.float64)
    expected = literal_figures(rounded, data.truth)
    found = values(document)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-7)
    assert found["nll"] == pytest.approx(values(saving)["nll"], abs=2**-7)
    if extension == "npz":
        with np.load(path) as arrays:
            known = arrays["error_type"] == ""
            assert [Path(name).name for name in arrays["source"][known]] == [Path(s).name for s in data.sources]
            np.testing.assert_array_equal(arrays["logits"][known], data.logits.astype(np.float16))


def test_saved_logits_are_calibrated_and_answered_by_a_named_calibration(
    run: Run, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "logits.npz"
    evaluated(run, data.folder, "--save-logits", path, *ONE_BY_ONE)
    calibration = _write_calibration(tmp_path / "c.json", path, temperature=2.0)
    document = evaluated(run, "--from", path, "--calibration", calibration, "--at-least", "0.9", "--sets", "0.9")
    rounded = data.logits.astype(np.float16).astype(np.float64)
    expected = literal_figures(rounded / 2, data.truth)
    found = values(document)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert document["run"]["calibration"]["temperature"] == 2
    from_images = evaluated(
        run, data.folder, "--calibration", calibration, "--at-least", "0.9", "--sets", "0.9", *ONE_BY_ONE
    )
    assert document["answers"] == from_images["answers"]
    assert document["sets"] == from_images["sets"]


def _write_calibration(path: Path, logits: Path, temperature: float) -> Path:
    with np.load(logits) as arrays:
        run = json.loads(str(arrays["provenance"]))["run"]
    estimate = {part: {"value": 0.1, "low": 0.05, "high": 0.2} for part in ("before", "after")}
    scores = np.linspace(0.1, 0.99, 50).tolist()
    document = {
        "schema": "imgclassify.calibration/1", "run": run, "images": 50, "temperature": temperature,
        "ece": estimate, "nll": estimate, "thresholds": [], "rollup_thresholds": [], "familiar": None,
        "sets": {"lac": scores, "raps": scores, "penalty": 0.01, "k_reg": 5},
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("made", "options", "words"),
    [
        ("logits.npz", ("-o", "x.csv"), "writes no records"),
        ("logits.npz", ("--save-logits", "x.npz"), "writes no records"),
        ("logits.npz", ("--calibrated",), "--calibration FILE"),
        ("logits.npz", ("--unfamiliar",), "evaluate the images"),
        ("logits.npz", ("--at-least", "0.9"), "add --calibration FILE"),
        ("logits.npz", ("--sets", "0.9"), "add --calibration FILE"),
        ("records.jsonl", ("--threshold", "0.5"), "a file of --save-logits"),
        ("records.jsonl", ("--calibration", "c.json"), "a file of --save-logits"),
        ("records.jsonl", ("-m", "resnet50"), "leave out the sources and --model"),
        ("records.jsonl", (ROOT / "examples",), "leave out the sources and --model"),
    ],
)
def test_what_has_no_effect_with_from_is_refused(
    made: str, options: tuple[str, ...], words: str, run: Run, data: Data, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", data.folder, "-o" if made == "records.jsonl" else "--save-logits", made).status == 0
    outcome = run("evaluate", "--from", made, *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert words in outcome.err
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.jsonl", None, "'none.jsonl' does not exist"),
        ("none.npz", None, "'none.npz' does not exist"),
        ("none.csv", None, "hint: give a file that `imgclassify predict -o`"),
        ("empty.jsonl", b"", "there are no records in 'empty.jsonl'"),
        ("damaged.npz", b"PK\x03\x04 not really", "cannot read 'damaged.npz'"),
        ("damaged.parquet", b"PAR1", "cannot read 'damaged.parquet'"),
        ("other.json", b'{"schema": "other/1"}', "its schema is 'other/1'"),
        ("notes.txt", b"hello", "'notes.txt' is not a file of evaluations, by its extension"),
        ("lines.jsonl", b'{"a": 1}\n', "cannot read 'lines.jsonl'"),
    ],
)
def test_a_file_that_cannot_be_evaluated_is_refused_by_name(
    name: str, content: bytes | None, words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    outcome = run("evaluate", "--from", name)
    assert (outcome.status, outcome.out) == (2, "")
    assert words in outcome.err


def test_memory_does_not_grow_with_the_logits(tmp_path: Path) -> None:
    """8,000 x 1000 logits are 32 MB in float32."""
    peaks = []
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((100, 1000)).astype(np.float16)
    for count in (1000, 8000):
        records = (
            ImageLogits(f"{number % 10}/{number}.png", "efficientnet_lite0", 8, 8, rows[number % 100])
            for number in range(count)
        )
        facts = {"model": "efficientnet_lite0", "label_set": "imagenet1k", "activation": "softmax"}
        provenance = Provenance(facts, {"logits_dtype": "float16"})
        path = tmp_path / f"{count}.npz"
        open_file_format(find_format("npz", IMAGE_LOGITS), IMAGE_LOGITS).save(path, provenance, records)
        code = "import resource, sys\nfrom imgclassify.cli.main import app\ntry:\n    app(sys.argv[1:])\nfinally:\n"
        code += "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
        done = subprocess.run(
            [sys.executable, "-c", code, "evaluate", "--from", str(path), "--json"],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["images"] == count
        peaks.append(int(done.stderr.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 16


# Nodes ------------------------------------------------------------------------------------------------------

CATS = (281, 282, 283, 284, 285)
"""The classes under the domestic cat: tabby, tiger cat, Persian, Siamese, Egyptian."""
NODES = "pet,domestic cat\ndrink,967\narms,missile\narms,projectile\n"


def moved(data: Data, tmp_path: Path) -> tuple[Path, list[str]]:
    """The images in folders that only a map explains; `arms` are any of two classes. Returns (folder, names)."""
    names = {"cat": "pet", "cof": "drink", "roc": "arms"}
    folder = tmp_path / "by kind"
    for source in data.sources:
        path = Path(source)
        target = folder / names[path.name[:3]] / f"{path.parent.name} {path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    (tmp_path / "map.csv").write_text(NODES)
    return folder, [names[Path(source).name[:3]] for source in data.sources]


def literal_group_figures(probabilities: NDArray[np.float64], names: list[str]) -> dict[str, float]:
    groups = {"pet": CATS, "drink": (967,), "arms": (657, 744)}
    group_of = {index: name for name, indices in groups.items() for index in indices}
    nll = brier = right = right5 = 0.0
    confidence, correct = [], []
    for row, name in zip(probabilities, names, strict=True):
        members = list(groups[name])
        total = row[members].sum()
        nll -= math.log(total)
        others = np.delete(row, members)
        brier += (1 - total) ** 2 + (others**2).sum()
        best = int(row.argmax())
        right += best in members
        right5 += bool(set(np.argsort(-row)[:5].tolist()) & set(members))
        said = groups[group_of[best]] if best in group_of else (best,)
        confidence.append(row[list(said)].sum())
        correct.append(best in members)
    count = len(names)
    return {
        "acc1": right / count,
        "acc5": right5 / count,
        "nll": nll / count,
        "brier": brier / count,
        "ece": literal_ece(np.array(confidence), np.array(correct)),
    }


def test_any_class_of_a_node_is_right_and_probabilities_are_added(run: Run, data: Data, tmp_path: Path) -> None:
    folder, names = moved(data, tmp_path)
    document = evaluated(run, folder, "--map", tmp_path / "map.csv", *ONE_BY_ONE)
    found = values(document)
    expected = literal_group_figures(softmax(data.logits), names)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert {row["label"] for row in document["classes"]} == {"domestic cat", "espresso", "arms"}


def test_records_of_a_node_give_the_same_figures(run: Run, data: Data, tmp_path: Path) -> None:
    folder, _ = moved(data, tmp_path)
    shutil.rmtree(folder / "arms")
    mapped = ("--map", tmp_path / "map.csv")
    path = tmp_path / "r.jsonl"
    expected = evaluated(run, folder, *mapped, "-o", path, *ONE_BY_ONE)
    first = json.loads(path.read_text("utf-8").splitlines()[-1])
    assert first["truth"] == {"label": "domestic cat", "wnid": "n02121808", "class_index": None}
    assert_same(expected, evaluated(run, "--from", path))
    assert_same(expected, evaluated(run, "--from", path, *mapped))


def test_records_of_several_classes_need_their_map(run: Run, data: Data, tmp_path: Path) -> None:
    """A record does not tell which classes `arms` are."""
    folder, _ = moved(data, tmp_path)
    mapped = ("--map", tmp_path / "map.csv")
    path = tmp_path / "r.csv"
    expected = evaluated(run, folder, *mapped, "-o", path, *ONE_BY_ONE)
    outcome = run("evaluate", "--from", path)
    assert outcome.status == 2
    assert "'arms' was named by a map" in outcome.err
    assert "--map" in outcome.err
    assert_same(expected, evaluated(run, "--from", path, *mapped))


# Two models -------------------------------------------------------------------------------------------------


@pytest.fixture
def by_colour(tmp_path: Path) -> tuple[Path, Path]:
    """A graph of three classes that goes by the mean colour, and its labels."""
    graph = save_graph(tmp_path / "colour.onnx", "float[N,3] y", LOGITS + "y = Softmax <axis=1> (g)")
    (tmp_path / "three.txt").write_text("missile\nespresso\ntiger cat\n")
    return graph, tmp_path / "three.txt"


COLOURS = {"missile": (250, 40, 30), "espresso": (40, 240, 30), "tiger cat": (20, 30, 230)}
PLAIN = ("--resize-size", "8", "--interpolation", "bilinear", "--mean", "0", "--std", "1")


def test_two_models_are_compared_on_the_images_that_both_answer(run: Run, data: Data, faulty: Path) -> None:
    arguments = (faulty, "--ignore-unknown", *ONE_BY_ONE)
    document = evaluated(run, *arguments, "-m", "efficientnet_lite0", "-m", "efficientnet_lite0", status=1)
    comparison = document["comparison"]
    assert document["other"]["metrics"] == document["metrics"]
    assert (comparison["images"], comparison["mcnemar"]["p_value"]) == (len(data.truth), 1)
    assert {name: each["value"] for name, each in comparison["differences"].items()} == {
        "acc1": 0, "acc5": 0, "nll": 0, "brier": 0
    }  # fmt: skip


def test_the_second_model_is_checked_before_the_first_one_runs(run: Run, data: Data, tmp_path: Path) -> None:
    for second in ("no-such-model", tmp_path / "none.onnx"):
        outcome = run("evaluate", data.folder, "-m", "efficientnet_lite0", "-m", second)
        assert (outcome.status, outcome.out) == (3, "")
        assert str(second) in outcome.err
        assert "answered" not in outcome.err


def test_options_of_two_models_are_named(run: Run, data: Data) -> None:
    models = ("-m", "efficientnet_lite0", "-m", "efficientnet_lite0")
    both = "--crop-size, --mean: for both models"
    assert both in run("evaluate", data.folder, *models, "--crop-size", "200", "--mean", "0.4").err
    assert "for both models" not in run("evaluate", data.folder, *models).err


@pytest.mark.needs_torch
def test_the_difference_of_two_models_and_mcnemars_test(run: Run, data: Data, tmp_path: Path) -> None:
    import torch
    from networks import seeded

    torch.save(seeded("shufflenet_v2_x0_5").state_dict(), tmp_path / "seeded.pth")
    add_model(str(tmp_path / "seeded.pth"), "seeded", arch="shufflenet_v2_x0_5", labels="imagenet1k")
    arguments = (data.folder, *ONE_BY_ONE, "-m", "efficientnet_lite0", "-m", "seeded")
    document = evaluated(run, *arguments)
    logits = infer(data.sources, "seeded")
    first, second = (literal_figures(each, data.truth) for each in (data.logits, logits))
    assert values(document["other"])["nll"] == pytest.approx(second["nll"], abs=1e-5)
    comparison = document["comparison"]
    for name, each in comparison["differences"].items():
        assert each["value"] == pytest.approx(first[name] - second[name], abs=1e-5)
        assert each["low"] <= each["value"] <= each["high"]
    a, b = (each.argmax(axis=1) == data.truth for each in (data.logits, logits))
    only_a, only_b = np.count_nonzero(a & ~b), np.count_nonzero(b & ~a)
    test = comparison["mcnemar"]
    assert (test["only_a"], test["only_b"], test["both"]) == (only_a, only_b, np.count_nonzero(a & b))
    assert test["p_value"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    outcome = run("evaluate", *arguments)
    assert "efficientnet_lite0 less seeded, 17 images" in outcome.out
    assert "McNemar's test: p = " in outcome.out


def test_models_of_different_classes_are_compared_on_those_they_share(
    run: Run, data: Data, by_colour: tuple[Path, Path]
) -> None:
    graph, names = by_colour
    add_model(str(graph), "colour", labels=str(names), resize_size=8, interpolation="bilinear", mean=0.0, std=1.0)
    document = evaluated(
        run, data.folder, "--ignore-unknown", "-m", "efficientnet_lite0", "-m", "colour", *ONE_BY_ONE
    )
    shared = [index for index, truth in enumerate(data.truth) if truth in (282, 967, 657)]
    assert (document["images"], document["other"]["images"]) == (len(data.truth), len(shared) - 5)
    comparison = document["comparison"]
    assert comparison["images"] == document["other"]["images"]
    known = [index for index in shared if data.truth[index] != 967]
    right = (data.logits.argmax(axis=1) == data.truth)[known].mean()
    difference = right - document["other"]["metrics"]["acc1"]["value"]
    assert comparison["differences"]["acc1"]["value"] == pytest.approx(difference)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-m", "a", "-m", "b", "-o", "x.csv"), "give one model"),
        (("-m", "a", "-m", "b", "--save-logits", "x.npz"), "give one model"),
        (("-m", "a", "-m", "b", "--summary", "x.json"), "give one model"),
        (("-m", "a", "-m", "b", "-m", "c"), "3 models"),
        (("-o", "x.csv", "--save-logits", "x.npz"), "leave out one of them"),
        (("-o", "-"), "cannot both go to stdout"),
        (("--files-from", "-"), "--files-from FILE"),
    ],
)
def test_options_that_conflict_are_refused(
    options: tuple[str, ...], words: str, run: Run, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("evaluate", data.folder, *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert words in outcome.err
    assert not list(tmp_path.glob("x.*"))


# Other models -----------------------------------------------------------------------------------------------


def coloured(folder: Path, count: int = 4) -> Path:
    for number in range(count):
        for name, colour in COLOURS.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (20, 16), tuple(min(255, each + number) for each in colour))
            image.save(folder / name / f"{number}.png")
    return folder


def test_a_model_of_other_classes_has_no_tree(run: Run, by_colour: tuple[Path, Path], tmp_path: Path) -> None:
    graph, names = by_colour
    folder = coloured(tmp_path / "photos")
    document = evaluated(run, folder, "-m", graph, "--labels", names, *PLAIN)
    assert document["images"] == 12
    assert values(document)["acc5"] is None  # of three classes, the true one is always among five
    assert (values(document)["hierarchical_distance"], document["mistakes"]) == (None, None)
    both = evaluated(run, folder, "-m", graph, "-m", graph, "--labels", names, *PLAIN)
    differences = {name: each["value"] for name, each in both["comparison"]["differences"].items()}
    assert differences == {"acc1": 0, "acc5": None, "nll": 0, "brier": 0}
    shown = run("evaluate", folder, "-m", graph, "-m", graph, "--labels", names, *PLAIN).out.partition(" less ")[2]
    assert "acc@1" in shown
    assert "acc@5" not in shown


def test_a_model_that_predicts_each_class_by_itself_is_refused(run: Run, tmp_path: Path) -> None:
    graph = save_graph(tmp_path / "many.onnx", "float[N,3] y", LOGITS + "y = Sigmoid (g)")
    (tmp_path / "three.txt").write_text("missile\nespresso\ntiger cat\n")
    folder = coloured(tmp_path / "photos", 1)
    outcome = run("evaluate", folder, "-m", graph, "--labels", tmp_path / "three.txt", *PLAIN)
    assert (outcome.status, outcome.out) == (2, "")
    assert "each class by itself" in outcome.err
    path = tmp_path / "r.jsonl"
    assert run("predict", folder, "-m", graph, "--labels", tmp_path / "three.txt", *PLAIN, "-o", path).status == 0
    outcome = run("evaluate", "--from", path, "--labels", tmp_path / "three.txt")
    assert (outcome.status, outcome.out) == (2, "")
    assert "each class by itself" in outcome.err


# Answers and sets -------------------------------------------------------------------------------------------


def test_answers_are_judged(run: Run, data: Data, tmp_path: Path) -> None:
    """Against the records of predict: an answer is right if the truth is it, or lies under it."""
    options = ("--at-least", "0.8", *ONE_BY_ONE)
    document = evaluated(run, data.folder, *options)
    assert run("predict", data.folder, "-o", tmp_path / "p.jsonl", *options).status == 0
    records = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()]
    answers = {record["source"]: record["answer"] for record in records}
    taxonomy = wordnet_taxonomy(IMAGENET)
    under = {node.wnid: set(node.class_indices) for node in taxonomy.nodes}
    kinds: Counter[str] = Counter()
    right, bits = 0, []
    for source, index in zip(data.sources, data.truth.tolist(), strict=True):
        answer = answers[source]
        kinds[answer["kind"]] += 1
        if answer["kind"] == "leaf":
            right += answer["wnid"] == IMAGENET[index].wnid
            bits.append(math.log2(1000))
        elif answer["kind"] == "rollup":
            right += index in under[answer["wnid"]]
            bits.append(math.log2(1000) - math.log2(len(under[answer["wnid"]])))
        else:
            bits.append(0.0)
    assert min(kinds["leaf"], kinds["rollup"]) > 0
    found = {name: each["value"] for name, each in document["answers"].items()}
    count = len(data.sources)
    assert found == pytest.approx(
        {
            "right": right / (count - kinds["unsure"]),
            **{kind: kinds[kind] / count for kind in ("leaf", "rollup", "unsure")},
            "bits": float(np.mean(bits)),
        }
    )


def test_records_keep_answers_and_sets(run: Run, data: Data, tmp_path: Path) -> None:
    evaluated(run, data.folder, "--save-logits", tmp_path / "l.npz", *ONE_BY_ONE)
    calibration = _write_calibration(tmp_path / "c.json", tmp_path / "l.npz", temperature=0.8)
    options = ("--calibration", calibration, "--at-least", "0.8", "--sets", "0.9", *ONE_BY_ONE)
    for name in ("r.jsonl", "r.csv", "r.parquet", "r.sqlite"):
        expected = evaluated(run, data.folder, *options, "-o", tmp_path / name)
        assert_same(expected, evaluated(run, "--from", tmp_path / name), (*FIGURES, "answers", "sets"))
    assert expected["run"]["calibration"]["temperature"] == 0.8


def test_answers_of_another_tree_are_not_judged(run: Run, data: Data, tmp_path: Path) -> None:
    tree, path = tmp_path / "tree.csv", tmp_path / "r.jsonl"
    tree.write_text("class,parent\n" + "".join(f"{index},part {index // 500}\n" for index in range(1000)), "utf-8")
    expected = evaluated(run, data.folder, "--at-least", "0.95", "--tree", tree, "-o", path)["answers"]
    assert expected["rollup"]["value"] > 0
    found = evaluated(run, "--from", path)["answers"]
    unknown = {"value": None, "low": None, "high": None}
    assert found == expected | {"right": unknown, "bits": unknown}


def test_raw_logits_are_not_called_calibrated(run: Run, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "l.npz"
    assert "calibration" in evaluated(run, data.folder, "--calibrated", "--save-logits", path)["run"]
    assert "calibration" not in evaluated(run, "--from", path)["run"]


def test_other_labels_for_saved_logits_are_told(run: Run, data: Data, tmp_path: Path) -> None:
    path, names = tmp_path / "l.npz", tmp_path / "names.txt"
    evaluated(run, data.folder, "--save-logits", path)
    names.write_text("".join(f"{label.label}\n" for label in reversed(IMAGENET.labels)), "utf-8")
    options = ("--truth", "folders", "--ignore-unknown", "--labels")
    outcome = run("evaluate", "--from", path, *options, names)
    assert f"{str(names)!r} are not the labels that {str(path)!r} was written with" in outcome.err
    assert "are not the labels" not in run("evaluate", "--from", path, *options, "imagenet1k").err


def test_each_frame_has_the_class_of_its_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos" / "tiger cat").mkdir(parents=True)
    frames = [crop("cat", 0).resize((300, 200)).crop((left, 0, left + 250, 200)) for left in (0, 20, 40)]
    frames[0].save(tmp_path / "photos" / "tiger cat" / "a.gif", save_all=True, append_images=frames[1:])
    expected = evaluated(run, tmp_path / "photos", "--frames", "all", "-o", tmp_path / "r.jsonl", *ONE_BY_ONE)
    assert [(row["label"], row["count"]) for row in expected["classes"]] == [("tiger cat", 3)]
    assert_same(expected, evaluated(run, "--from", tmp_path / "r.jsonl"))


# Unattended -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [("--fail-fast",), ("--max-errors", "1")])
def test_a_run_that_failures_stop_gives_no_figures(
    option: tuple[str, ...], run: Run, faulty: Path, tmp_path: Path
) -> None:
    summary = tmp_path / "s.json"
    for form in (("--json",), ()):
        outcome = run("evaluate", faulty, "--ignore-unknown", *option, *form, "--summary", summary)
        assert (outcome.status, outcome.out) == (1, "")
        assert "stopped because" in outcome.err
        told = json.loads(summary.read_text("utf-8"))
        assert (told["status"], told["stopped"]) == (1, "max_errors")


def test_stdout_holds_only_the_report_and_quiet_is_silent(run: Run, faulty: Path) -> None:
    outcome = run("evaluate", faulty, "--ignore-unknown")
    assert outcome.out.startswith("efficientnet_lite0 ")
    assert "acc@1, failed count as wrong" in outcome.out
    assert "left out: 1 image of unknown classes (flux capacitor)" in outcome.err
    silent = run("evaluate", faulty, "--ignore-unknown", "--quiet")
    assert (silent.out, silent.status) == (outcome.out, 1)
    assert "left out" not in silent.err


def test_a_printed_threshold_is_never_above_the_one_that_is_meant() -> None:
    """0.99998 would become 1, which no image reaches."""
    for value in [0.99998, 0.47296, 0.5, 1.0, 3e-6, 0.00019999, *np.random.default_rng(0).random(1000)]:
        printed = float(format_threshold(value))
        assert printed > 0
        assert value - 1e-4 <= printed <= value * (1 + 1e-12)


def test_a_narrow_terminal_shows_all_of_a_wrong_label(data: Data, tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    rows = dict(zip(data.sources, data.truth.tolist(), strict=True))
    rows[str(data.folder / "967" / "coffee0.png")] = 657
    table.write_text("source,class_index\n" + "".join(f"{name},{index}\n" for name, index in rows.items()))
    shown = on_terminal("evaluate", data.folder, "--truth", table, columns=80)
    assert max(map(len, shown)) <= 80
    [place] = [index for index, line in enumerate(shown) if line.startswith("labels that are")]
    text = " ".join(shown[place:])
    for part in ("missile", "espresso", "more likely", "coffee0.png"):
        assert part in text
    assert "…" not in text


def on_terminal(*arguments: str | Path, columns: int) -> list[str]:
    """The lines that a command prints to a terminal of this width."""
    primary, secondary = pty.openpty()
    termios.tcsetwinsize(secondary, (50, columns))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-m", "imgclassify", *map(str, arguments)],
        stdout=secondary,
        stderr=subprocess.DEVNULL,
        env=environment | {"TERM": "dumb", "NO_COLOR": "1"},
    ) as running:
        os.close(secondary)
        content = b""
        while True:
            try:
                part = os.read(primary, 65536)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not part:
                break
            content += part
    os.close(primary)
    assert running.returncode == 0
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", content.decode()).splitlines()]


def test_exit_statuses(run: Run, data: Data, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("evaluate", data.folder).status == 0
    assert run("evaluate", data.folder, "--no-such-option").status == 2
    assert run("evaluate", data.folder, "-m", tmp_path / "none.onnx").status == 3
    assert run("evaluate", tmp_path / "empty").status == 4


def test_offline_opens_no_socket(data: Data, tmp_path: Path) -> None:
    code = """
import os, socket
def refuse(*_):
    os._exit(77)
socket.socket.connect = socket.getaddrinfo = refuse
"""
    (tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = process("evaluate", data.folder, "--offline", env=dict(os.environ) | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr


def test_a_source_that_does_not_exist_is_not_taken_for_a_name_without_a_class(run: Run, tmp_path: Path) -> None:
    for name in ("photos", "photos/", "photos/dog.jpg", "photos.zip"):
        outcome = run("evaluate", f"{tmp_path}/{name}")
        assert outcome.status == 2
        assert "no such file or folder: " in outcome.err
        assert "--map" not in outcome.err


def test_an_image_on_stdin_has_its_truth_in_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("source,label\n-,tiger cat\n")
    crop("cat", 0).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    outcome = run("evaluate", "-", "--truth", tmp_path / "t.csv", "--json", stdin=content)
    assert outcome.status == 0, outcome.err
    assert values(json.loads(outcome.out))["acc1"] == 1
    assert "hint: give the truth in a file: --truth FILE" in run("evaluate", "-", stdin=content).err


def _records_of_another_program(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Writes records of a model that is not catalogued, with all its classes. Returns probabilities and truth."""
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "bird"]
    probabilities, truth = rng.dirichlet(np.ones(3), 60), np.arange(60) % 3
    probabilities[0] = 1, 0, 0
    with path.open("w") as stream:
        for index, row in enumerate(probabilities):
            predictions = [
                {
                    "rank": rank,
                    "class_index": int(each),
                    "wnid": None,
                    "label": names[each],
                    "probability": row[each],
                }
                for rank, each in enumerate(np.argsort(-row), 1)
            ]
            record = {"source": f"{names[truth[index]]}/{index}.jpg", "model": "mine", "width": 9, "height": 9}
            stream.write(json.dumps(record | {"predictions": predictions, "error": None}) + "\n")
    return probabilities, truth


def test_records_with_all_classes_need_no_labels(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    probabilities, truth = _records_of_another_program(path)
    found = values(evaluated(run, "--from", path))
    own = probabilities[np.arange(60), truth]
    assert found["acc1"] == pytest.approx((probabilities.argmax(axis=1) == truth).mean())
    assert found["nll"] == pytest.approx(-np.log(own).mean())
    assert found["brier"] == pytest.approx(((probabilities - np.eye(3)[truth]) ** 2).sum(axis=1).mean())


def test_records_that_may_lack_classes_need_the_labels(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    _records_of_another_program(path)
    text = path.read_text().replace('"class_index": 1', '"class_index": 7')
    path.write_text(text)
    outcome = run("evaluate", "--from", path)
    assert outcome.status == 2
    assert "--labels FILE" in outcome.err
