"""The metadata that `imgclassify export` writes, read from files that somebody has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import encoded, noise
from exported import metadata_of

from imgclassify import Classifier
from imgclassify.errors import CheckpointError, UsageError
from imgclassify.exporting.exporting import export_model
from imgclassify.hub.exported_config import read_exported
from imgclassify.labels import load_labels
from imgclassify.runner import load_runner

GOOD: dict[str, Any] = {
    "labels": [
        {"label": "ant"}, {"label": "bee", "wnid": "n02206856", "synonyms": ["bee", "hum"], "gloss": "buzzes"}
    ],
    "label_set": {"name": "mine", "sha256": "0"},
    "preprocess": {
        "resize_size": 9, "crop_size": 8, "crop_mode": "center", "interpolation": "bilinear", "antialias": True,
        "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "crop_rounding": "down",
    },
    "outputs": [{"name": "logits", "dtype": "float32", "size": 2}],
    "provenance": {"weights": {"name": "x.pth", "sha256": "ab" * 32}},
}  # fmt: skip


def texts(**changes: Any) -> dict[str, str]:
    values = {key: json.dumps(value) for key, value in GOOD.items()}
    values |= {"schema": "imgclassify.export/1", "activation": "softmax"}
    values |= {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
    return {f"imgclassify.{key}": value for key, value in values.items() if value != "null"}


def test_what_was_written_is_read() -> None:
    found = read_exported(texts(), "x.onnx")
    assert found is not None
    bee = found.labels[1]
    assert (bee.label, bee.wnid, bee.synonyms, bee.gloss) == ("bee", "n02206856", ("bee", "hum"), "buzzes")
    assert found.labels.name == "imgclassify.labels in x.onnx"
    assert (found.preprocess.crop_rounding, found.activation, found.outputs) == ("down", "softmax", {"logits": 2})
    assert found.weights_sha256 == "ab" * 32
    assert read_exported({"imgclassify.labels": "[]"}, "x.onnx") is None
    for unknown in ({}, {"weights": 3}, {"weights": {"sha256": "../x"}}):
        again = read_exported(texts(provenance=unknown), "x.onnx")
        assert again is not None
        assert again.weights_sha256 is None


def test_the_name_of_a_shipped_label_set_counts_only_for_its_labels() -> None:
    labels = load_labels("imagenet1k").labels
    entries = [
        {"label": each.label, "wnid": each.wnid, "synonyms": list(each.synonyms), "gloss": each.gloss}
        for each in labels
    ]
    own = {"name": "imagenet1k", "sha256": ""}
    found = read_exported(texts(labels=entries, label_set=own), "x.onnx")
    assert found is not None
    assert (found.labels.name, found.labels.labels) == ("imagenet1k", labels)
    entries[0]["label"] = "something else"
    changed = read_exported(texts(labels=entries, label_set=own), "x.onnx")
    assert changed is not None
    assert changed.labels.name == "imgclassify.labels in x.onnx"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "imgclassify.export/9"}, "export/9"),
        ({"labels": None}, "imgclassify.labels is missing"),
        ({"labels": "{"}, "is missing or no JSON"),
        ({"labels": "[" * 100_000}, "is missing or no JSON"),
        ({"labels": {}}, "is a dict"),
        ({"labels": []}, "is empty"),
        ({"labels": ["ant"]}, "entry 0 of imgclassify.labels is a str"),
        ({"labels": [{"label": ""}]}, "entry 0"),
        ({"labels": [{"label": 3}]}, "entry 0"),
        ({"labels": [{"label": "a", "wnid": 3}]}, "entry 0"),
        ({"labels": [{"label": "a", "synonyms": "b"}]}, "entry 0"),
        ({"labels": [{"label": "a", "synonyms": [1]}]}, "entry 0"),
        ({"label_set": None}, "label_set is missing"),
        ({"preprocess": None}, "preprocess is missing"),
        ({"preprocess": {**GOOD["preprocess"], "crop_size": 0}}, "crop_size"),
        ({"preprocess": {**GOOD["preprocess"], "mean": [123, 0, 0]}}, "mean"),
        ({"preprocess": {**GOOD["preprocess"], "more": 1}}, "unknown key"),
        ({"provenance": None}, "provenance is missing"),
        ({"activation": "relu"}, "imgclassify.activation is 'relu'"),
        ({"activation": None}, "imgclassify.activation is None"),
        ({"outputs": []}, "outputs is empty"),
        ({"outputs": [{"name": "logits", "size": 0}]}, "outputs has the entry"),
        ({"outputs": [{"name": "logits", "size": True}]}, "outputs has the entry"),
        ({"outputs": ["logits"]}, "outputs has the entry"),
        ({"temperature": {"temperature": 0, "ece_before": 0, "ece_after": 0, "source": ""}}, "temperature"),
        ({"temperature": []}, "temperature is a list"),
        ({"calibration": {}}, "does not say which run"),
        ({"calibration": {"run": []}}, "does not say which run"),
        ({"data": {"file": 3}}, "does not name a file"),
    ],
)
def test_damaged_metadata_are_an_error(changes: dict[str, Any], words: str) -> None:
    given = {key: "null" if value is None else value for key, value in changes.items()}
    with pytest.raises(CheckpointError, match=words) as error:
        read_exported(texts(**given), "x.onnx")
    assert error.value.hint
    assert "x.onnx" in str(error.value)


@pytest.fixture
def edited(tmp_path: Path) -> Any:
    """Exports the embedded model, and changes its metadata."""

    def edit(**changes: Any) -> Path:
        path = export_model("efficientnet_lite0", tmp_path / "x.onnx").path
        model = onnx.load(path)
        metadata = metadata_of(path)
        metadata |= {f"imgclassify.{key}": json.dumps(value) for key, value in changes.items()}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, path)
        return path

    return edit


def test_an_output_that_has_another_size_than_is_said_is_an_error(edited: Any) -> None:
    path = edited(
        outputs=[{"name": "logits", "dtype": "float32", "size": 2}], labels=GOOD["labels"], label_set={"name": "x"}
    )
    runner = load_runner(path)
    with pytest.raises(
        CheckpointError, match=r"is not an image classifier: it returns logits \(float32 \(1, 1000\)\)"
    ):
        runner.run_one(encoded(noise(40, 30), "PNG"))


def test_a_damaged_calibration_is_an_error_only_if_it_is_used(edited: Any) -> None:
    path = edited(calibration={"run": {"weights": {"sha256": "0"}}, "schema": "imgclassify.calibration/1"})
    assert Classifier(path).predict(noise(40, 30)).predictions
    with pytest.raises(UsageError, match="is not a calibration"):
        Classifier(path, calibration=True)
