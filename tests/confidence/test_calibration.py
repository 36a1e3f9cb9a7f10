"""The file of a calibration: what is written reads back, what is damaged is refused, and to whom it belongs."""

from __future__ import annotations

import base64
import copy
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrations import learned

from imgclassify.catalog import PublishedTemperature
from imgclassify.confidence.calibration import (
    MAX_FILE_BYTES,
    Calibration,
    find_calibration,
    user_calibration_path,
)
from imgclassify.errors import UsageError

PUBLISHED = PublishedTemperature(0.834, 0.0757, 0.0111, "an article")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.calibration.json"


def content() -> dict[str, Any]:
    return copy.deepcopy(json.loads(json.dumps(learned().calibration.to_dict())))


def refusal(path: Path, value: object) -> str:
    """Writes a value as JSON, and returns why it is refused."""
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(UsageError) as caught:
        Calibration.read(path)
    assert "imgclassify calibrate" in caught.value.hint
    return str(caught.value)


def test_what_is_written_reads_back_equal(path: Path) -> None:
    calibration = learned().calibration
    calibration.write(path)
    read = Calibration.read(path)
    assert read.origin == str(path)
    assert read.familiar is not None
    assert calibration.familiar is not None
    np.testing.assert_array_equal(read.familiar.features, calibration.familiar.features)
    assert read.familiar._replace(features=None) == calibration.familiar._replace(features=None)
    for name in ("temperature", "images", "figures", "belongs_to", "thresholds", "rollup_thresholds", "sets"):
        assert getattr(read, name) == getattr(calibration, name), name
    assert read.details == calibration.details
    again = path.with_name("again.json")
    read.write(again)
    assert again.read_bytes() == path.read_bytes()


def test_the_features_are_kept_in_float16(path: Path) -> None:
    calibration, data, _ = learned()
    calibration.write(path)
    read = Calibration.read(path).familiar
    assert read is not None
    np.testing.assert_array_equal(read.features, data.features.astype(np.float16).astype(np.float32))


def test_the_file_of_a_model_without_features_and_trees_reads_back(path: Path) -> None:
    full = learned().calibration
    assert full.familiar is not None
    gen = full.familiar._replace(method="gen", features=None, answer_scores=None)
    for familiar in (gen, None):
        bare = replace(full, familiar=familiar, sets=None, thresholds=(), rollup_thresholds=())
        bare.write(path)
        read = Calibration.read(path)
        assert (read.familiar, read.sets, read.thresholds, read.rollup_thresholds) == (familiar, None, (), ())


def test_a_file_name_that_is_not_utf8_is_kept(path: Path) -> None:
    details = {"truth": {"file": os.fsdecode(b"caf\xe9/\xc3\xbc.csv")}}
    replace(learned().calibration, details=details).write(path)
    assert Calibration.read(path).details == details


def test_a_folder_for_the_file_is_made_and_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    calibration = learned().calibration
    calibration.write(tmp_path / "a" / "b.json")
    assert Calibration.read(tmp_path / "a" / "b.json").temperature == calibration.temperature
    with pytest.raises(UsageError, match="cannot write"):
        calibration.write(tmp_path / "a" / "b.json" / "c.json")
    with pytest.raises(UsageError, match="cannot write"):
        calibration.write(tmp_path / "a")


def test_features_beyond_float16_are_not_written(path: Path) -> None:
    calibration = learned().calibration
    assert calibration.familiar is not None
    large = calibration.familiar._replace(features=np.full((2, 3), 1e6, np.float32))
    with np.errstate(over="ignore"), pytest.raises(UsageError, match="too large"):
        replace(calibration, familiar=large).write(path)
    assert not path.exists()


NUMBERS = [None, "0.8", True, math.nan, math.inf, -math.inf, [], {}, 10**400]
DAMAGES = [
    *((("temperature",), value) for value in [*NUMBERS, 0, -1, 1e-40, 1e40]),
    *((("images",), value) for value in [*NUMBERS, 0, -3, 2.5]),
    *((("run",), value) for value in [None, [], "x", {}, {"weights": None}, {"weights": {"sha256": None}}]),
    *((("ece",), value) for value in [None, [], {}, {"before": 0.1, "after": 0.1}]),
    *((("nll", "after", "value"), value) for value in ["0.1", math.nan, [], True]),
    *((("ece", "before", "low"), value) for value in ["0.1", math.inf, {}]),
    *((("thresholds",), value) for value in [None, 3, [3], [{"accuracy": 0.9}], {"accuracy": 1}]),
    *((("rollup_thresholds", 0, "threshold"), value) for value in [None, "0.9", math.nan, -0.1]),
    *((("sets",), value) for value in [3, [], "x", {}]),
    *((("sets", "lac"), value) for value in [None, [], [2, 1], ["1"], [math.nan], {}, 5]),
    *((("sets", "raps"), value) for value in [None, [], [2, 1], [math.inf]]),
    *((("sets", "penalty"), value) for value in [*NUMBERS, -0.01]),
    *((("sets", "k_reg"), value) for value in [*NUMBERS, -1, 1.5]),
    *((("familiar",), value) for value in [3, [], {}]),
    *((("familiar", "method"), value) for value in [None, "nci", "energy", [], 3]),
    *((("familiar", "scores"), value) for value in [None, [], [2, 1], ["1"], [math.nan]]),
    *((("familiar", "answer_scores"), value) for value in [None, [], [1.0], [math.nan] * 40, "x"]),
    *((("familiar", "features"), value) for value in [None, [], "x", {}]),
    *((("familiar", "features", "dtype"), value) for value in [None, "float32"]),
    *(
        (("familiar", "features", "shape"), value)
        for value in [
            *(None, [], [40], [40, 1281], [-1, 1280], [40, -1280], [0, 0], [10**18, 10**18], ["40", "1280"]),
            *([40.0, 1280.0], [40, 1280, 1], [20, 2560]),
        ]
    ),
    *(
        (("familiar", "features", "base64"), value)
        for value in [None, "", "x", "é", "AAAA", "A" * 136_536 + "=", 3]
    ),
]


@pytest.mark.parametrize(("keys", "value"), DAMAGES, ids=lambda each: str(each)[:40])
def test_a_damaged_field_is_one_error_that_names_it(path: Path, keys: tuple[Any, ...], value: object) -> None:
    damaged = content()
    *before, last = keys
    place: Any = damaged
    for key in before:
        place = place[key]
    place[last] = value
    message = refusal(path, damaged)
    assert message.startswith(f"{str(path)!r} is not a calibration: ")
    assert keys[0] in message
    assert len(message) < 200 + len(str(path))


@pytest.mark.parametrize("key", sorted(set(learned().calibration.to_dict()) - set(learned().calibration.details)))
def test_a_missing_field_is_an_error(path: Path, key: str) -> None:
    damaged = content()
    del damaged[key]
    assert key in refusal(path, damaged)


def test_features_that_are_not_numbers_are_refused(path: Path) -> None:
    damaged = content()
    values = np.zeros((40, 1280), "<f2")
    values[3, 5] = np.nan
    damaged["familiar"]["features"]["base64"] = base64.b64encode(values.tobytes()).decode()
    assert "features are not numbers" in refusal(path, damaged)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", '"x"', "{}", '{"schema": "imgclassify.calibration/2"}']
)
def test_what_is_no_calibration_is_an_error(path: Path, text: str) -> None:
    assert "is not a calibration" in refusal(path, text)


def test_hostile_files_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\xff" * 10)
    with pytest.raises(UsageError, match="is not a calibration"):
        Calibration.read(path)
    assert "nested too deeply" in refusal(path, '{"schema": ' + "[" * 1_000_000)
    with path.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(UsageError, match="more than 67,108,864 bytes"):
        Calibration.read(path)
    number = content() | {"temperature": 1}
    text = json.dumps(number).replace('"temperature": 1', '"temperature": ' + "1" * 5000)
    assert "is not a calibration" in refusal(path, text)


def test_places_that_are_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Calibration.read(tmp_path / "missing.json")
    with pytest.raises(UsageError, match="is not a calibration: Is a directory"):
        Calibration.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="it is a pipe or a device"):
            Calibration.read(place)


def changed_run(**changes: Any) -> dict[str, Any]:
    return {**(learned().calibration.belongs_to or {}), **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": {"name": "x", "sha256": "ab" * 32}}, ["SHA-256 of its weights", "abababababab…"]),
        ({"weights": {"name": "x", "sha256": None}}, ["SHA-256 of its weights", "of these none"]),
        ({"num_classes": 999}, ["num_classes was 1000 and is now 999"]),
        ({"activation": "sigmoid"}, ["activation was 'softmax' and is now 'sigmoid'"]),
        ({"activation": None}, ["activation was 'softmax' and is now not given"]),
        ({"options": {"output_name": "y"}}, ["options was not given and is now {'output_name': 'y'}"]),
        ({"preprocess": None}, ["preprocess"]),
    ],
)
def test_the_calibration_of_another_model_is_refused_by_what_differs(
    changes: dict[str, Any], words: list[str]
) -> None:
    calibration = learned().calibration
    with pytest.raises(UsageError) as caught:
        calibration.require_run(changed_run(**changes))
    for each in ("'drawn.json' does not belong to efficientnet_lite0", *words):
        assert each in str(caught.value)
    assert "imgclassify calibrate" in caught.value.hint


def test_only_the_part_of_the_preprocessing_that_differs_is_said() -> None:
    run = changed_run()
    run["preprocess"] = run["preprocess"] | {"crop_size": 192}
    [text] = learned().calibration.differences(run)
    assert text == "its preprocess was {'crop_size': 224} and is now {'crop_size': 192}"


def test_engine_device_labels_and_version_may_be_others() -> None:
    others = {"engine": "torch", "device": "cuda:0", "dtype": "float16", "label_set": "mine", "version": "9.9"}
    run = changed_run(**others, label_set_sha256="0" * 64, decode="fast", reason="x")
    weights = run["weights"] | {"name": "a copy"}
    assert learned().calibration.differences(run | {"weights": weights}) == []


def test_the_calibration_of_values_in_lists_holds_after_it_was_read(path: Path) -> None:
    from imgclassify import Classifier

    sizes = {"mean": (0.1, 0.2, 0.3), "resize_size": (250, 260)}
    run = Classifier(**sizes).run.to_dict()
    replace(learned().calibration, belongs_to=run).write(path)
    assert Calibration.read(path).differences(run) == []
    assert Classifier(**sizes, calibration=path).calibration is not None


def test_the_users_own_is_found_by_the_digest_and_preferred() -> None:
    from imgclassify import Classifier

    run = Classifier().run
    assert run.weights_sha256
    found = find_calibration(run, PUBLISHED)
    assert found is not None
    assert (found.temperature, found.origin, found.images) == (0.834, "the catalog", None)
    assert find_calibration(run, None) is None

    own = user_calibration_path(run.weights_sha256)
    assert own.is_relative_to(os.environ["XDG_CONFIG_HOME"])
    assert own.name == f"{run.weights_sha256}.json"
    learned().calibration.write(own)
    found = find_calibration(run, PUBLISHED)
    assert found is not None
    assert (found.temperature, found.origin) == (learned().calibration.temperature, "the user's settings")

    other = replace(run, preprocess=run.preprocess | {"crop_size": 192})
    found = find_calibration(other, PUBLISHED)
    assert found is not None
    assert found.origin == "the catalog"
    assert find_calibration(other, None) is None
    assert find_calibration(replace(run, weights_sha256="0" * 64), None) is None
    assert find_calibration(replace(run, weights_sha256=None), None) is None

    own.write_text("{")
    with pytest.raises(UsageError, match="is not a calibration"):
        find_calibration(run, PUBLISHED)


def test_it_is_described_in_words() -> None:
    published = Calibration.from_published(PUBLISHED)
    assert published.describe() == ("temperature 0.834 of the catalog, which brings the ECE from 7.57 to 1.11 %")
    figures: dict[str, Any] = {}
    assert replace(published, figures=figures, images=1234, origin="x.json").describe() == (
        "temperature 0.834 of x.json, from 1,234 images"
    )
    assert published.to_run() == {
        "temperature": 0.834,
        "origin": "the catalog",
        "source": "an article",
        "images": None,
        "ece_before": 0.0757,
        "ece_after": 0.0111,
    }
