"""imgclassify calibrate, on images of one colour, whose logits and right classes are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from graphs_by_text import LOGITS, logits, save_graph
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import minimize_scalar

from imgclassify.confidence.calibration import user_calibration_path

from .conftest import Run
from .test_evaluate import literal_ece, softmax
from .test_unattended import started

NAMES = ("red", "green", "blue")
PLAIN = ("--resize-size", "8", "--interpolation", "bilinear", "--mean", "0", "--std", "1")
COUNT = 240


class Data(NamedTuple):
    folder: Path
    logits: NDArray[np.float64]
    """(N, 3), in the order of the run."""
    truth: NDArray[np.int64]


def make_images(folder: Path, temperature: float, *, seed: int = 0, count: int = COUNT, hit: bool = False) -> Data:
    """Images whose right class is drawn from the probabilities at a temperature, or is the best one."""
    generator = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        red, green, blue = (int(each) for each in generator.integers(0, 256, 3))
        scores = logits((red, green, blue))
        probabilities = softmax(scores[None] / temperature)[0]
        truth = int(scores.argmax()) if hit else int(generator.choice(3, p=probabilities))
        path = folder / NAMES[truth] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (red, green, blue)).save(path)
        found[str(path)] = (scores, truth)
    ordered = [found[source] for source in sorted(found)]
    return Data(folder, np.array([each for each, _ in ordered]), np.array([truth for _, truth in ordered]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """Options that name a graph of three classes, which goes by the mean colour."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "three.txt").write_text("\n".join(NAMES))
    graph = save_graph(folder / "colour.onnx", "float[N,3] g", LOGITS)
    return ("-m", graph, "--labels", folder / "three.txt", *PLAIN)


@pytest.fixture(scope="module")
def unsure(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Images for which the model is too sure: their temperature is about 3."""
    return make_images(tmp_path_factory.mktemp("unsure") / "photos", 3.0)


def nll_of(data: Data, temperatures: NDArray[np.float64] | float) -> NDArray[np.float64]:
    scaled = data.logits / np.broadcast_to(temperatures, len(data.truth))[:, None]
    return -np.log(softmax(scaled)[np.arange(len(data.truth)), data.truth])


def best_temperature(data: Data) -> float:
    found = minimize_scalar(
        lambda inverse: nll_of(data, 1 / inverse).mean(),
        bounds=(0.01, 20),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(1 / found.x)


def cross_validated(data: Data) -> NDArray[np.float64]:
    """The temperature of each image: that of the four fifths that it is not in."""
    order = np.random.default_rng(0).permutation(len(data.truth))
    temperatures = np.empty(len(order))
    for part in range(5):
        inside = np.zeros(len(order), bool)
        inside[order[part::5]] = True
        temperatures[inside] = best_temperature(Data(data.folder, data.logits[~inside], data.truth[~inside]))
    return temperatures


def ece_of(data: Data, temperatures: NDArray[np.float64] | float) -> float:
    scaled = data.logits / np.broadcast_to(temperatures, len(data.truth))[:, None]
    return literal_ece(softmax(scaled).max(axis=1), data.logits.argmax(axis=1) == data.truth)


def calibrated(run: Run, *arguments: str | Path) -> dict[str, Any]:
    outcome = run("calibrate", *arguments, "--json")
    assert outcome.status == 0, outcome.err
    report: dict[str, Any] = json.loads(outcome.out)
    return report


# What is learned --------------------------------------------------------------------------------------------


def test_the_temperature_is_that_of_scipy_and_its_worth_that_of_five_parts(
    run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path
) -> None:
    report = calibrated(run, unsure.folder, *model, "-o", tmp_path / "c.json")
    assert report["temperature"]["value"] == pytest.approx(best_temperature(unsure), rel=1e-5)
    assert report["temperature"]["low"] < 3 < report["temperature"]["high"]
    assert (report["images"], report["helps"], report["file"]) == (COUNT, True, str(tmp_path / "c.json"))
    after = cross_validated(unsure)
    for name, function in (("nll", lambda t: nll_of(unsure, t).mean()), ("ece", lambda t: ece_of(unsure, t))):
        assert report[name]["before"]["value"] == pytest.approx(function(1.0), abs=1e-5)
        assert report[name]["after"]["value"] == pytest.approx(function(after), abs=1e-5)
    gain = nll_of(unsure, 1.0) - nll_of(unsure, after)
    half = 1.97 * gain.std(ddof=1) / len(gain) ** 0.5  # Student's quantile for 239 degrees is 1.9699
    improvement = report["improvement"]
    assert improvement["value"] == pytest.approx(gain.mean(), abs=1e-5)
    assert (improvement["low"], improvement["high"]) == pytest.approx(
        (gain.mean() - half, gain.mean() + half), abs=1e-3
    )


def test_the_file_holds_what_it_belongs_to_and_what_it_was_learned_from(
    run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    outcome = run("calibrate", unsure.folder, *model, "-o", path)
    assert outcome.status == 0
    assert outcome.out.splitlines()[-1] == str(path)
    found = json.loads(path.read_text("utf-8"))
    assert found["schema"] == "imgclassify.calibration/1"
    assert run("predict", unsure.folder, *model, "--json").status == 0
    predicted = json.loads(run("predict", unsure.folder, *model, "--json").out)["run"]
    for name in ("weights", "preprocess", "num_classes", "activation", "label_set", "label_set_sha256"):
        assert found["run"][name] == predicted[name]
    assert (found["images"], found["classes"], found["failed"]) == (COUNT, 3, 0)
    assert found["truth"]["how"] == "the name of each image's folder"
    temperature = found["temperature"]
    probabilities = softmax(unsure.logits / temperature)
    own = probabilities[np.arange(COUNT), unsure.truth]
    np.testing.assert_allclose(found["sets"]["lac"], np.sort(1 - own), atol=1e-5)
    confidence, correct = probabilities.max(axis=1), unsure.logits.argmax(axis=1) == unsure.truth
    for row in found["thresholds"]:
        answered = confidence >= row["threshold"] - 1e-6
        assert row["answered"] == answered.mean()
        assert correct[answered].mean() >= row["accuracy"]


def test_predict_uses_it_and_refuses_it_for_another_preprocessing(
    run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    report = calibrated(run, unsure.folder, *model, "-o", path)
    document = json.loads(run("predict", unsure.folder, *model, "--calibration", path, "-k", "3", "--json").out)
    expected = softmax(unsure.logits / report["temperature"]["value"])
    for record, row in zip(document["results"], expected, strict=True):
        found = {each["class_index"]: each["probability"] for each in record["predictions"]}
        assert [found[index] for index in range(3)] == pytest.approx(row.tolist(), abs=1e-5)
    other = [*model[:-1], "0.5"]
    outcome = run("predict", unsure.folder, *other, "--calibration", path)
    assert outcome.status == 2
    assert "its preprocess was" in outcome.err


def test_without_a_file_it_is_found_by_the_digest_of_the_weights(
    run: Run, model: tuple[str, ...], unsure: Data
) -> None:
    report = calibrated(run, unsure.folder, *model)
    path = Path(report["file"])
    run_of_file = json.loads(path.read_text("utf-8"))["run"]
    assert path == user_calibration_path(run_of_file["weights"]["sha256"])
    document = json.loads(run("predict", unsure.folder, *model, "--calibrated", "--json").out)
    assert document["run"]["calibration"]["temperature"] == report["temperature"]["value"]
    again = run("calibrate", unsure.folder, *model)
    assert again.status == 2
    assert "an earlier calibration of these weights" in again.err
    assert "images in" not in again.err  # no image was run for nothing
    assert run("calibrate", unsure.folder, *model, "--overwrite").status == 0


def test_an_earlier_file_is_kept_unless_it_may_be_replaced(
    run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    path.write_text("mine")
    outcome = run("calibrate", unsure.folder, *model, "-o", path)
    assert (outcome.status, outcome.out, path.read_text()) == (2, "", "mine")
    assert "--overwrite" in outcome.err
    assert run("calibrate", unsure.folder, *model, "-o", path, "--overwrite").status == 0
    assert json.loads(path.read_text("utf-8"))["images"] == COUNT


def test_what_is_no_file_is_refused_before_an_image_is_opened(
    run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        outcome = run("calibrate", unsure.folder, *model, "-o", path)
        assert (outcome.status, outcome.out) == (2, "")
        assert f"{str(path)!r} is not a file" in outcome.err
        assert "answered" not in outcome.err


def test_an_image_that_is_named_twice_is_not_on_both_sides(
    run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path
) -> None:
    once = calibrated(run, unsure.folder, *model, "-o", tmp_path / "once.json")
    twice = calibrated(run, unsure.folder, unsure.folder, *model, "-o", tmp_path / "twice.json")
    assert twice == once | {"file": str(tmp_path / "twice.json")}


@pytest.mark.parametrize("extension", ["npz", "parquet", "jsonl"])
def test_saved_logits_serve_as_well(
    extension: str, run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path
) -> None:
    path = tmp_path / f"logits.{extension}"
    assert run("evaluate", unsure.folder, *model, "--save-logits", path).status == 0
    labels_option = model[2:4]
    report = calibrated(run, "--from", path, *labels_option, "-o", tmp_path / "c.json")
    rounded = unsure._replace(logits=unsure.logits.astype(np.float16).astype(np.float64))
    assert report["temperature"]["value"] == pytest.approx(best_temperature(rounded), rel=2e-4)
    outcome = run("predict", unsure.folder, *model, "--calibration", tmp_path / "c.json")
    assert outcome.status == 0


def test_failed_images_are_left_out_and_told(run: Run, model: tuple[str, ...], tmp_path: Path) -> None:
    data = make_images(tmp_path / "photos", 3.0, count=60)
    (data.folder / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    outcome = run("calibrate", data.folder, *model, "-o", tmp_path / "c.json")
    assert outcome.status == 1
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert (found["images"], found["failed"]) == (60, 1)
    assert found["temperature"] == pytest.approx(best_temperature(data), rel=1e-5)


# What is refused --------------------------------------------------------------------------------------------


def refused(run: Run, folder: Path, *arguments: str | Path) -> str:
    """Runs a calibration that must write nothing. Returns what it says."""
    output = folder.parent / "c.json"
    outcome = run("calibrate", folder, *arguments, "-o", output)
    assert outcome.status == 2
    assert not [path for path in folder.parent.iterdir() if "c.json" in path.name]
    assert str(output) not in outcome.out
    return outcome.err


def test_what_does_not_help_is_not_saved(run: Run, model: tuple[str, ...], tmp_path: Path) -> None:
    """The classes are drawn from the model's own probabilities, so whether a temperature helps is chance."""
    helped = []
    for seed in range(6):
        data = make_images(tmp_path / str(seed) / "photos", 1.0, seed=seed, count=100)
        after = cross_validated(data)
        helps = nll_of(data, after).mean() < nll_of(data, 1.0).mean() and ece_of(data, after) < ece_of(data, 1.0)
        helped.append(helps)
        if helps:
            assert run("calibrate", data.folder, *model, "-o", tmp_path / "c.json", "--overwrite").status == 0
        else:
            assert "does not make the probabilities of other images better" in refused(run, data.folder, *model)
    assert helped.count(False) >= 3


def test_labels_at_random_are_refused(run: Run, model: tuple[str, ...], tmp_path: Path) -> None:
    data = make_images(tmp_path / "photos", 1.0, hit=True, count=60)
    generator = np.random.default_rng(3)
    for number, path in enumerate(sorted(data.folder.rglob("*.png"))):
        worst = NAMES[int(data.logits[number].argmin())]
        target = data.folder / (worst if generator.random() < 0.7 else path.parent.name) / f"x{path.name}"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    assert "no better than chance" in refused(run, data.folder, *model)


def test_right_answers_alone_are_refused(run: Run, model: tuple[str, ...], tmp_path: Path) -> None:
    data = make_images(tmp_path / "photos", 1.0, hit=True, count=40)
    assert "every answer is right" in refused(run, data.folder, *model)


def test_few_images_are_refused(run: Run, model: tuple[str, ...], tmp_path: Path) -> None:
    data = make_images(tmp_path / "photos", 3.0, count=19)
    assert "19 labelled images are too few" in refused(run, data.folder, *model)


def test_a_node_that_stands_for_several_classes_is_refused(run: Run, tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "photos" / "pet" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (number, 0, 0)).save(path)
    (tmp_path / "map.csv").write_text("pet,dog\n")
    said = refused(run, tmp_path / "photos", "--map", tmp_path / "map.csv")
    assert "'pet' stands for several classes" in said


@pytest.mark.parametrize("activation", ["Sigmoid (g)", "Softmax <axis=1> (g)"])
def test_outputs_that_are_no_logits_of_a_softmax_are_refused(
    activation: str, run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path
) -> None:
    graph = save_graph(tmp_path / "other.onnx", "float[N,3] y", LOGITS + f"y = {activation}")
    outcome = run("calibrate", unsure.folder, "-m", graph, *model[2:], "-o", tmp_path / "c.json")
    assert outcome.status == 2
    assert "softmax" in outcome.err
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--resume",), "--resume"),
        (("--files-from", "-"), "--files-from FILE"),
        (("--from", "l.npz"), "leave out the sources"),
    ],
)
def test_options_that_conflict_are_refused(
    options: tuple[str, ...], words: str, run: Run, model: tuple[str, ...], tmp_path: Path
) -> None:
    data = make_images(tmp_path / "photos", 3.0, count=20)
    assert words in refused(run, data.folder, *model, *options)


def test_a_calibration_does_not_go_to_a_file_called_minus(run: Run, tmp_path: Path) -> None:
    outcome = run("calibrate", tmp_path, "-o", "-")
    assert outcome.status == 2
    assert "hint: name a file" in outcome.err


def test_records_without_logits_are_refused(run: Run, model: tuple[str, ...], unsure: Data, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert run("evaluate", unsure.folder, *model, "-o", path).status == 0
    outcome = run("calibrate", "--from", path, *model[2:4], "-o", tmp_path / "c.json")
    assert outcome.status == 2
    assert "needs logits" in outcome.err


# Unattended -------------------------------------------------------------------------------------------------


def test_a_run_that_a_failure_stops_writes_nothing(run: Run, model: tuple[str, ...], tmp_path: Path) -> None:
    data = make_images(tmp_path / "photos", 3.0, count=60)
    (data.folder / "red" / "zzz.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    outcome = run("calibrate", data.folder, *model, "--fail-fast", "-o", tmp_path / "c.json")
    assert (outcome.status, outcome.out) == (1, "")
    assert "stopped because" in outcome.err
    assert not list(tmp_path.glob("*c.json*"))


def test_a_run_that_is_terminated_writes_nothing(tmp_path: Path) -> None:
    """SIGTERM while the images are run: the embedded model takes seconds for them."""
    folder = tmp_path / "photos"
    for number in range(400):
        path = folder / ("tabby" if number % 2 else "espresso") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, 300), (number % 256, 80, 20)).save(path)
    with started("calibrate", folder, "-o", tmp_path / "c.json", "-v", stdout=subprocess.PIPE) as running:
        assert running.stderr
        while b"the true class" not in running.stderr.readline():
            pass
        time.sleep(0.5)
        running.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (143, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
