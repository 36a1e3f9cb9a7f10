"""What a classifier says beside its predictions, against literal loops over its outputs."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import images, learned, softmax64
from conftest import noise
from numpy.typing import NDArray
from PIL import Image

from imgclassify import Classifier, paths
from imgclassify.confidence.assessment import choose_calibration
from imgclassify.confidence.assessment_options import AssessmentOptions
from imgclassify.confidence.calibration import Calibration, user_calibration_path
from imgclassify.confidence.scoring import choose_scorer, learn_familiar
from imgclassify.engines import LOGITS
from imgclassify.errors import UsageError
from imgclassify.results import ImageResult, RunInfo

TESTS = Path(__file__).parent.parent
EXAMPLES = [Image.open(TESTS.parent / "examples" / f"{name}.jpg") for name in ("cat", "coffee", "rocket")]
PICTURES = [*EXAMPLES, *images()[:6], *(noise(300, 200, seed) for seed in range(100, 103))]
PUBLISHED = 0.834


@cache
def outputs() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The logits and the features of PICTURES, (N, 1000) and (N, 1280)."""
    classifier = Classifier()
    logits = [each.arrays[LOGITS] for each in map(classifier.runner.run_one, PICTURES)]
    features = [each.embedding for each in classifier.embed(PICTURES)]
    return np.stack(logits), np.stack(features)


@cache
def rows_of_the_tree() -> dict[str, tuple[list[str], str]]:
    """wnid → the wnids above it, and what is said of it."""
    lines = (paths.data_folder("labels") / "imagenet1k.tree.tsv").read_text("utf-8").splitlines()[1:]
    cells = [line.split("\t") for line in lines]
    return {row[0]: (row[1].split("|") if row[1] else [], row[3]) for row in cells}


@cache
def classes_under() -> dict[str, set[int]]:
    under: dict[str, set[int]] = {}
    for number, label in enumerate(Classifier().labels.labels):
        waiting = [label.wnid]
        while waiting:
            wnid = waiting.pop()
            under.setdefault(str(wnid), set()).add(number)
            waiting += rows_of_the_tree()[str(wnid)][0]
    return under


def climbed(probabilities: Iterable[float], at_least: float) -> tuple[str, str | None, float]:
    """kind, wnid and probability, by a literal climb. No sum may be too close to the threshold."""
    values = list(probabilities)
    best = max(range(1000), key=values.__getitem__)
    wnid = str(Classifier().labels[best].wnid)
    kind, total = "leaf", values[best]
    while True:
        assert abs(total - at_least) > 1e-6
        if total >= at_least:
            return kind, wnid, total
        kind = "rollup"
        while True:
            above = rows_of_the_tree()[wnid][0]
            if not above:
                return "unsure", None, values[best]
            wnid = above[0]
            under = classes_under()[wnid]
            if rows_of_the_tree()[wnid][1] and len(under) < 1000:
                total = sum(values[number] for number in under)
                break


def results_of(**options: Any) -> list[ImageResult]:
    return list(Classifier(**options).predict(PICTURES))


def probabilities_of(results: list[ImageResult]) -> NDArray[np.float64]:
    """(N, 1000), in the order of the classes."""
    found = np.zeros((len(results), 1000))
    for row, result in zip(found, results, strict=True):
        for each in result.predictions:
            row[each.class_index] = each.probability
    return found


# Probabilities


def test_probabilities_are_those_of_the_logits_divided_by_the_temperature(tmp_path: Path) -> None:
    logits, _ = outputs()
    learned().calibration.write(tmp_path / "own.json")
    own = learned().calibration.temperature
    for calibration, temperature in ((True, PUBLISHED), (tmp_path / "own.json", own), (learned().calibration, own)):
        found = probabilities_of(results_of(calibration=calibration, top_k=1000))
        np.testing.assert_allclose(found, softmax64(logits, temperature), rtol=0, atol=1e-6)
        assert abs(found - softmax64(logits)).max() > 0.01


def test_without_a_calibration_the_probabilities_stay_raw_to_the_bit(tmp_path: Path) -> None:
    before = results_of(top_k=1000)
    np.testing.assert_allclose(probabilities_of(before), softmax64(outputs()[0]), rtol=0, atol=1e-6)
    digest = Classifier().run.weights_sha256
    assert digest
    learned().calibration.write(user_calibration_path(digest))
    assert results_of(top_k=1000) == before
    classifier = Classifier()
    assert (classifier.calibration, classifier.run.calibration) == (None, None)
    user_calibration_path(digest).write_text("damaged")
    assert results_of(top_k=1000) == before


def test_unfamiliarity_alone_leaves_the_probabilities_raw() -> None:
    strange = results_of(unfamiliar=True)
    plain = results_of()
    assert [[each.class_index for each in result.predictions] for result in strange] == [
        [each.class_index for each in result.predictions] for result in plain
    ]
    np.testing.assert_allclose(probabilities_of(strange), probabilities_of(plain), rtol=0, atol=1e-6)


def test_a_temperature_changes_no_order() -> None:
    orders = [
        [[each.class_index for each in result.predictions] for result in results_of(calibration=calibration)]
        for calibration in (True, False)
    ]
    assert orders[0] == orders[1]


def test_the_users_own_temperature_is_preferred_and_the_run_says_which() -> None:
    classifier = Classifier(calibration=True)
    assert classifier.run.calibration == {
        "temperature": PUBLISHED,
        "origin": "the catalog",
        "source": "Goren, Galil and El-Yaniv, Hierarchical Selective Classification, NeurIPS 2024; "
        "ImageNet-1k validation set",
        "images": None,
        "ece_before": 0.0757,
        "ece_after": 0.0111,
    }
    assert classifier.run.weights_sha256
    path = user_calibration_path(classifier.run.weights_sha256)
    learned().calibration.write(path)
    ece = learned().calibration.figures["ece"]
    assert Classifier(calibration=True).run.calibration == {
        "temperature": learned().calibration.temperature,
        "origin": "the user's settings",
        "source": None,
        "images": 40,
        "ece_before": ece["before"]["value"],
        "ece_after": ece["after"]["value"],
    }


def test_no_temperature_is_used_for_another_preprocessing(caplog: pytest.LogCaptureFixture) -> None:
    digest = str(Classifier().run.weights_sha256)
    learned().calibration.write(user_calibration_path(digest))
    with pytest.raises(UsageError, match="no calibration of efficientnet_lite0 is known for this preprocessing"):
        Classifier(calibration=True, std=0.25)
    with pytest.raises(UsageError, match=r"preprocess was \{'std': \[0.5, 0.5, 0.5\]\} and is now"):
        Classifier(calibration=learned().calibration, std=0.25)
    caplog.clear()
    classifier = Classifier(at_least=0.5, std=0.25)
    assert classifier.calibration is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "its raw probabilities decide" in record.getMessage()
    raw = Classifier(std=0.25, top_k=1000)
    for picture in PICTURES[:4]:
        kind, wnid, probability = climbed(probabilities_of([raw.predict(picture)])[0], 0.5)
        found = classifier.predict(picture).answer
        assert found is not None
        assert (found.kind, found.wnid) == (kind, wnid)
        assert found.probability == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_no_temperature_applies_to_what_is_no_softmax(activation: str, caplog: pytest.LogCaptureFixture) -> None:
    run = replace(Classifier().run, activation=activation)
    for wanted in (True, learned().calibration):
        with pytest.raises(UsageError, match="are not those of a softmax"):
            choose_calibration(wanted, run, lambda: None, is_needed=False)
    assert not caplog.records
    assert choose_calibration(False, run, lambda: None, is_needed=True) is None
    [record] = caplog.records
    assert "no softmax" in record.getMessage()
    assert "imgclassify calibrate" not in record.getMessage()


# Answers


@pytest.mark.parametrize("at_least", [0.3, 0.5, 0.8, 0.9, 0.95, 1])
def test_an_answer_is_that_of_a_literal_climb(at_least: float) -> None:
    logits, _ = outputs()
    found = results_of(at_least=at_least)
    for result, row in zip(found, softmax64(logits, PUBLISHED), strict=True):
        assert result.answer is not None
        kind, wnid, probability = climbed(row.tolist(), at_least)
        assert (result.answer.kind, result.answer.wnid) == (kind, wnid)
        assert result.answer.probability == pytest.approx(probability, abs=1e-6)
        if kind == "leaf":
            assert result.answer.label == result.predictions[0].label
        elif kind == "rollup":
            assert result.answer.label == rows_of_the_tree()[str(wnid)][1]


def test_the_pictures_have_answers_of_each_kind() -> None:
    kinds = {result.answer.kind for result in results_of(at_least=0.5) if result.answer}
    assert kinds == {"leaf", "rollup", "unsure"}


def test_answers_climb_the_users_tree(tmp_path: Path) -> None:
    (tmp_path / "tree.csv").write_text(
        "class,parent\ntabby,pet\ntiger cat,pet\nEgyptian cat,pet\nGerman shepherd,pet\npet,\nespresso,drink\n"
    )
    found = Classifier(at_least=0.6, tree=tmp_path / "tree.csv", top_k=1000)
    result = found.predict(EXAMPLES[0])
    labels = {each.label: each.probability for each in result.predictions}
    pets = sum(labels[name] for name in ("tabby", "tiger cat", "Egyptian cat", "German shepherd"))
    assert result.answer is not None
    assert labels[result.predictions[0].label] < 0.6 <= pets
    assert (result.answer.kind, result.answer.label, result.answer.wnid) == ("rollup", "pet", None)
    assert result.answer.probability == pytest.approx(pets, abs=1e-6)
    for picture in PICTURES[3:6]:
        answer = found.predict(picture).answer
        assert answer is not None
        assert answer.kind == "unsure"


@pytest.mark.parametrize("threshold", [0.15, 0.5, 0.9])
def test_a_threshold_is_answered_or_not(threshold: float) -> None:
    logits, _ = outputs()
    kinds = set()
    for result, row in zip(results_of(threshold=threshold), softmax64(logits, PUBLISHED), strict=True):
        assert result.answer is not None
        best = result.predictions[0]
        assert abs(row.max() - threshold) > 1e-6
        kinds.add(result.answer.kind)
        assert result.answer.probability == best.probability
        if row.max() >= threshold:
            assert result.answer.kind == "leaf"
            assert (result.answer.label, result.answer.wnid) == (best.label, best.wnid)
        else:
            assert (result.answer.kind, result.answer.label, result.answer.wnid) == ("unsure", None, None)
    assert kinds == {"leaf", "unsure"}


# Sets


def literal_set(method: str, calibration: Calibration, row: list[float], coverage: float) -> set[int]:
    assert calibration.sets is not None
    scores = getattr(calibration.sets, method)
    quantile = sorted(scores)[math.ceil(round((len(scores) + 1) * coverage, 9)) - 1]
    found, total = set(), 0.0
    for rank, number in enumerate(sorted(range(len(row)), key=lambda each: -row[each]), start=1):
        total += row[number]
        penalty = calibration.sets.penalty * max(rank - calibration.sets.k_reg, 0)
        score = 1 - row[number] if method == "lac" else total + penalty
        if score <= quantile:
            found.add(number)
    return found


@pytest.mark.parametrize("method", ["raps", "lac"])
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_a_set_is_that_of_a_literal_loop(method: str, coverage: float) -> None:
    calibration = learned().calibration
    classifier = Classifier(calibration=calibration, sets=coverage, set_method=method, top_k=1000)
    sizes = set()
    for picture in PICTURES:
        result = classifier.predict(picture)
        row = probabilities_of([result])[0].tolist()
        wanted = literal_set(method, calibration, row, coverage) or {result.predictions[0].class_index}
        assert result.prediction_set is not None
        ordered = [each.label for each in result.predictions if each.class_index in wanted]
        assert list(result.prediction_set) == ordered
        sizes.add(len(ordered))
    assert len(sizes) > 1


@pytest.mark.parametrize("method", ["raps", "lac"])
@pytest.mark.parametrize("coverage", [0.3, 0.7, 0.9])
def test_a_set_holds_the_truth_of_each_calibration_image_whose_score_is_small_enough(
    method: str, coverage: float
) -> None:
    calibration, data, _ = learned()
    classifier = Classifier(calibration=calibration, sets=coverage, set_method=method)
    held = 0
    for image, truth in zip(images(), data.truth, strict=True):
        found = classifier.predict(image).prediction_set
        assert found is not None
        held += classifier.labels[int(truth)].label in found
    rank = math.ceil(round(41 * coverage, 9))
    assert held >= rank
    # Each image beyond the quantile has at most the most probable class, which is then not the truth; labels that
    # two classes share may add one.
    assert held <= rank + 1


def test_a_coverage_that_needs_more_images_says_how_many() -> None:
    for coverage, needed in ((0.999, "999"), (0.98, "49"), (0.9999, "9,999")):
        with pytest.raises(UsageError, match=f"at least {needed} images, and this one has 40"):
            Classifier(calibration=learned().calibration, sets=coverage)
    assert Classifier(calibration=learned().calibration, sets=0.975).predict(PICTURES[0]).prediction_set


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99, 0.07, 1 / 3])
def test_so_many_images_are_enough_as_are_asked_for(coverage: float) -> None:
    calibration = learned().calibration
    assert calibration.sets is not None

    def with_images(count: int) -> Calibration:
        scores = tuple(np.linspace(0.5, 0.6, count).tolist())
        return replace(calibration, sets=calibration.sets._replace(raps=scores, lac=scores))  # type: ignore[union-attr]

    with pytest.raises(UsageError, match="needs a calibration of at least") as caught:
        Classifier(calibration=with_images(1), sets=coverage if coverage > 0.5 else 0.6)
    if coverage > 0.5:
        needed = int(str(caught.value).partition("at least ")[2].split()[0].replace(",", ""))
        assert Classifier(calibration=with_images(needed), sets=coverage)
        with pytest.raises(UsageError):
            Classifier(calibration=with_images(needed - 1), sets=coverage)


def test_sets_without_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="the calibration of the catalog has none"):
        Classifier(sets=0.9)
    with pytest.raises(UsageError, match=r"the calibration of drawn\.json has none"):
        Classifier(calibration=replace(learned().calibration, sets=None), sets=0.9)
    with pytest.raises(UsageError, match=r"need the scores of labelled images$"):
        Classifier(sets=0.9, std=0.25)


# Unfamiliarity


def nci(features: NDArray[Any], weight: NDArray[Any], mean: NDArray[Any], scale: float) -> float:
    h, w = features.astype(np.float64), weight.astype(np.float64)
    offset = h - mean
    return float(-(sum(w * offset) / math.sqrt(sum(offset**2)) + scale * sum(abs(h))))


def test_the_embedded_model_is_measured_by_nci() -> None:
    logits, features = outputs()
    classifier = Classifier(unfamiliar=True)
    assert classifier.run.unfamiliar == "nci"
    text = (paths.data_folder("models") / "features" / "efficientnet_lite0.json").read_text("utf-8")
    mean = np.array(json.loads(text)["mean"])
    head = classifier.runner.read_head().weight
    for picture, row, feature in zip(PICTURES, logits, features, strict=True):
        found = classifier.predict(picture).unfamiliar
        assert found is not None
        assert found.score == pytest.approx(nci(feature, head[row.argmax()], mean, 0.002), abs=1e-4)
        assert found.percentile is None


def test_a_calibration_with_familiar_images_is_measured_by_their_neighbours() -> None:
    calibration, data, head = learned()
    logits, features = outputs()
    assert data.features is not None
    known = data.features.astype(np.float16).astype(np.float64)
    mean = known.mean(axis=0)
    answers = np.array([nci(h, head[row.argmax()], mean, 0.0) for h, row in zip(known, data.logits, strict=True)])
    units = known / np.linalg.norm(known, axis=1, keepdims=True)
    nearest = np.array(
        [-sorted((float(one @ other) for j, other in enumerate(units) if j != i), reverse=True)[9]
         for i, one in enumerate(units)]
    )  # fmt: skip
    own = (answers - answers.mean()) / answers.std() + (nearest - nearest.mean()) / nearest.std()

    classifier = Classifier(unfamiliar=True, calibration=calibration)
    assert classifier.run.unfamiliar == "nci+neighbours"
    for picture, row, feature in zip(PICTURES, logits, features, strict=True):
        answer = nci(feature, head[row.argmax()], mean, 0.0)
        unit = feature.astype(np.float64) / np.linalg.norm(feature.astype(np.float64))
        tenth = -sorted((float(unit @ other) for other in units), reverse=True)[9]
        score = (answer - answers.mean()) / answers.std() + (tenth - nearest.mean()) / nearest.std()
        found = classifier.predict(picture).unfamiliar
        assert found is not None
        assert found.score == pytest.approx(score, abs=1e-3)
        assert found.percentile == pytest.approx(100 * (own < score).mean(), abs=2.5 + 1e-9)


def test_a_known_calibration_serves_unfamiliarity_without_a_change_of_the_probabilities() -> None:
    plain = Classifier(unfamiliar=True)
    assert plain.run.weights_sha256
    learned().calibration.write(user_calibration_path(plain.run.weights_sha256))
    classifier = Classifier(unfamiliar=True)
    assert (classifier.run.unfamiliar, classifier.run.calibration) == ("nci+neighbours", None)
    assert classifier.run.familiar is not None
    assert classifier.run.familiar["origin"] == "the user's settings"
    assert plain.run.familiar is None
    assert classifier.predict(PICTURES[0]).predictions == plain.predict(PICTURES[0]).predictions
    calibrated = Classifier(unfamiliar=True, calibration=True).predict(PICTURES[0])
    assert calibrated.predictions != plain.predict(PICTURES[0]).predictions
    assert calibrated.unfamiliar == classifier.predict(PICTURES[0]).unfamiliar


def test_a_calibration_without_familiar_images_leaves_nci() -> None:
    bare = replace(learned().calibration, familiar=None)
    assert Classifier(unfamiliar=True, calibration=bare).run.unfamiliar == "nci"


def gen(row: NDArray[np.float64]) -> float:
    return sum((p * (1 - p)) ** 0.1 for p in sorted(row.tolist(), reverse=True)[:100])


def test_a_calibration_by_gen_is_measured_by_gen() -> None:
    logits, _ = outputs()
    calibration, data, _ = learned()
    bare = replace(calibration, familiar=learn_familiar(softmax64(data.logits).astype(np.float32), None, None))
    classifier = Classifier(unfamiliar=True, calibration=bare)
    assert classifier.run.unfamiliar == "gen"
    known = [gen(row) for row in softmax64(data.logits)]
    for picture, row in zip(PICTURES, softmax64(logits), strict=True):
        found = classifier.predict(picture).unfamiliar
        assert found is not None
        assert found.score == pytest.approx(gen(row), rel=1e-4)
        assert found.percentile == pytest.approx(100 * sum(each < gen(row) for each in known) / 40, abs=2.5 + 1e-9)


def test_an_engine_without_the_features_that_a_calibration_needs_is_refused() -> None:
    calibration, _, head = learned()
    for has_features, weight in ((False, None), (False, head), (True, None)):
        with pytest.raises(UsageError, match=r"'drawn\.json' measures unfamiliarity by features"):
            choose_scorer(calibration, has_features=has_features, head_weight=weight, mean=None)
    assert choose_scorer(None, has_features=True, head_weight=head, mean=None).method == "gen"
    assert choose_scorer(None, has_features=False, head_weight=None, mean=np.zeros(1280)).method == "gen"


def test_features_of_another_length_are_refused() -> None:
    calibration, _, head = learned()
    with pytest.raises(UsageError, match=r"have 1,280 values, and those of this model have 1,279"):
        choose_scorer(calibration, has_features=True, head_weight=head[:, 1:], mean=None)


def test_features_without_a_linear_head_are_measured_by_gen_and_neighbours() -> None:
    calibration, data, _ = learned()
    probabilities = softmax64(data.logits).astype(np.float32)
    familiar = learn_familiar(probabilities, data.features, None)
    assert familiar.method == "gen+neighbours"
    scorer = choose_scorer(replace(calibration, familiar=familiar), has_features=True, head_weight=None, mean=None)
    assert data.features is not None
    found = [scorer.score(row, feature).score for row, feature in zip(probabilities, data.features, strict=True)]
    # Each familiar image is its own nearest neighbour here, which the ninth of the others makes up for.
    assert np.mean(found) < np.mean(familiar.scores)
    answers = np.array([gen(row) for row in softmax64(data.logits)])
    assert familiar.answer_scores == pytest.approx(answers.tolist(), rel=1e-4)


@pytest.mark.needs_torch
def test_a_model_without_a_mean_feature_is_measured_by_gen(tmp_path: Path) -> None:
    import torch
    from networks import seeded

    torch.save(seeded("squeezenet1_1").state_dict(), tmp_path / "mine.pth")
    classifier = Classifier(tmp_path / "mine.pth", arch="squeezenet1_1", unfamiliar=True, top_k=1000)
    assert classifier.run.unfamiliar == "gen"
    result = classifier.predict(PICTURES[0])
    assert result.unfamiliar is not None
    assert result.unfamiliar.score == pytest.approx(gen(probabilities_of([result])[0]), rel=1e-4)
    assert result.unfamiliar.percentile is None


# Options


@pytest.mark.parametrize("name", ["at_least", "threshold", "sets"])
@pytest.mark.parametrize(
    "value", [0, -0.1, 1.0001, math.nan, math.inf, True, "0.9", b"1", [0.9], 10**400, np.float32("nan")], ids=repr
)
def test_shares_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name} is ") as caught:
        AssessmentOptions(**{name: value})  # type: ignore[arg-type]
    assert caught.value.argument == name
    assert "such as 0.9" in caught.value.hint


@pytest.mark.parametrize("value", [np.float64(0.9), np.float32(0.9), 0.9])
def test_numbers_of_numpy_are_shares(value: Any) -> None:
    assert AssessmentOptions(at_least=value).to_settings() == {"at_least": repr(float(value))}
    answers = [Classifier(at_least=number).predict(PICTURES[0]).answer for number in (value, 0.9)]
    assert answers[0] == answers[1]


def test_the_most_is_1_and_for_sets_below() -> None:
    assert AssessmentOptions(at_least=1).to_settings() == {"at_least": "1"}
    assert AssessmentOptions(threshold=1.0).to_settings() == {"threshold": "1"}
    with pytest.raises(UsageError) as caught:
        AssessmentOptions(sets=1)
    assert "below 1" in caught.value.hint


def test_settings_tell_numbers_apart_to_the_last_digit() -> None:
    one, other = (AssessmentOptions(sets=value, at_least=value) for value in (0.90000001, 0.90000002))
    assert one.to_settings() != other.to_settings()
    assert one.to_settings() == {"at_least": "0.90000001", "sets": "0.90000001 (lac)"}
    assert AssessmentOptions(unfamiliar=True).to_settings() == {}


def test_settings_tell_trees_apart_by_their_content(tmp_path: Path) -> None:
    tree = tmp_path / "tree.csv"
    found = []
    for text in ("class,parent\ntabby,cat\n", "class,parent\ntabby,pet\n"):
        tree.write_text(text)
        found.append(AssessmentOptions(at_least=0.5, tree=tree).to_settings()["tree"])
        assert found[-1] == f"{tree} (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]}…)"
    assert found[0] != found[1]
    os.mkfifo(tmp_path / "pipe")
    assert AssessmentOptions(at_least=0.5, tree=tmp_path / "pipe").to_settings()["tree"] == str(tmp_path / "pipe")


def test_options_that_exclude_each_other_are_refused() -> None:
    for options, name in (
        ({"at_least": 0.9, "threshold": 0.5}, "at_least"),
        ({"tree": "x.csv"}, "tree"),
        ({"tree": "x.csv", "threshold": 0.5}, "tree"),
        ({"set_method": "aps"}, "set_method"),
    ):
        with pytest.raises(UsageError, match=f"^{name} ") as caught:
            Classifier(**options)  # type: ignore[arg-type]
        assert caught.value.argument == name
    for options in ({"at_least": 0.9}, {"threshold": 0.5}, {"unfamiliar": True}):
        with pytest.raises(UsageError, match="groups are answers above the classes already"):
            Classifier(groups="dog,cat", **options)  # type: ignore[arg-type]


def test_groups_may_be_calibrated() -> None:
    logits, _ = outputs()
    classifier = Classifier(groups="cat", calibration=True)
    cats = [number for number in range(1000) if number in classes_under()["n02121808"]]
    result = classifier.predict(PICTURES[0])
    [found] = [each.probability for each in result.predictions if each.label == "cat"]
    [group] = [each for each in classifier.run.groups or () if each["label"] == "cat"]
    row = softmax64(logits, PUBLISHED)[0]
    assert set(cats) <= set(group["class_indices"])
    assert found == pytest.approx(float(row[group["class_indices"]].sum()), abs=1e-6)


def test_rows_for_pandas_have_the_columns_of_what_is_wanted() -> None:
    classifier = Classifier(at_least=0.5, sets=0.5, unfamiliar=True, calibration=learned().calibration, top_k=1)
    result = classifier.predict(PICTURES[0])
    [row] = classifier.to_rows(result)
    assert list(row)[11:] == [
        *("answer_kind", "answer_wnid", "answer_label", "answer_probability", "set"),
        *("unfamiliar_score", "unfamiliar_percentile", "error_type", "error_message"),
    ]
    assert result.answer is not None
    assert result.unfamiliar is not None
    assert (row["answer_label"], row["set"]) == (result.answer.label, list(result.prediction_set or ()))
    assert row["unfamiliar_score"] == result.unfamiliar.score
    plain = Classifier(top_k=1)
    [row] = plain.to_rows(plain.predict(PICTURES[0]))
    assert not any(name.startswith(("answer", "set", "unfamiliar")) for name in row)


def test_a_damaged_calibration_fails_only_what_needs_it() -> None:
    run: RunInfo = Classifier().run
    assert run.weights_sha256
    path = user_calibration_path(run.weights_sha256)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert Classifier().predict(PICTURES[0])
    for options in ({"calibration": True}, {"at_least": 0.9}, {"unfamiliar": True}):
        with pytest.raises(UsageError, match="is not a calibration") as caught:
            Classifier(**options)  # type: ignore[arg-type]
        assert str(path) in str(caught.value)
