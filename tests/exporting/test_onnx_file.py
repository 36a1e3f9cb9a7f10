"""An exported .onnx file: opened by onnxruntime alone, and read by predict without any option."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from calibrations import learned
from conftest import noise
from exported import NAMES, crops, export_hub, hub_model, json_of, metadata_of, photos, softmax
from safetensors.numpy import save_file

from imgclassify import Classifier
from imgclassify.errors import CheckpointError, HashMismatchError, UsageError
from imgclassify.exporting import onnx_file
from imgclassify.exporting.exporting import ExportReport, export_model
from imgclassify.graphs import onnx_model
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, PreprocessOverrides
from imgclassify.labels import load_labels
from imgclassify.own_models import add_model
from imgclassify.runner import load_runner

LITE = "efficientnet_lite0"


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExportReport]:
    """The embedded model with all outputs."""
    folder = tmp_path_factory.mktemp("lite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        yield export_model(LITE, folder / "lite.onnx", probabilities=True, features=True)


def records(model: str | Path, images: list[Path], **options: Any) -> list[dict[str, Any]]:
    """The records without the model's name."""
    found = [result.to_dict() for result in Classifier(model, device="cpu", **options).stream(images)]
    return [{name: value for name, value in record.items() if name != "model"} for record in found]


# The file alone --------------------------------------------------------------------------------------------------


def test_onnx_itself_finds_the_file_valid(lite: ExportReport) -> None:
    onnx.checker.check_model(lite.path, full_check=True)
    model = onnx.load(lite.path)
    assert (model.producer_name, [entry.version for entry in model.opset_import]) == ("imgclassify", [20])
    assert hashlib.sha256(lite.path.read_bytes()).hexdigest() == lite.sha256


@pytest.mark.needs_torch
def test_the_outputs_are_those_of_timms_network(lite: ExportReport) -> None:
    """An independent build of the network, fed with crops that torch normalises."""
    import timm
    import torch

    network = load_network(LITE, LoadOptions())
    assert network.path is not None
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    own = torch.load(network.path, weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), own.values(), strict=True)))
    session = onnxruntime.InferenceSession(lite.path)
    assert [output.name for output in session.get_outputs()] == ["logits", "probabilities", "features"]
    for count in (1, 3):
        pixels = crops(count, seed=count)
        with torch.inference_mode():
            images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
            features = theirs.forward_head(theirs.forward_features(images), pre_logits=True).numpy()
            logits = theirs(images).numpy()
        found = session.run(None, {"crops": pixels})
        for array, wanted in zip(found, (logits, softmax(logits), features), strict=True):
            assert np.abs(array - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


def test_the_metadata_say_all_of_the_model(lite: ExportReport) -> None:
    source = load_network(LITE, LoadOptions())
    metadata = metadata_of(lite.path)
    assert metadata["imgclassify.schema"] == "imgclassify.export/1"
    assert metadata["imgclassify.activation"] == "softmax"
    assert metadata["imgclassify.license"] == "Apache-2.0"
    assert json_of(lite.path, "preprocess") == source.preprocess.to_dict()
    assert json_of(lite.path, "input") == {
        "name": "crops", "dtype": "uint8", "shape": ["n", 224, 224, 3], "channels": "rgb"
    }  # fmt: skip
    assert [(each["name"], each["size"]) for each in json_of(lite.path, "outputs")] == [
        ("logits", 1000), ("probabilities", 1000), ("features", 1280)
    ]  # fmt: skip
    labels = json_of(lite.path, "labels")
    assert labels[207] == {
        "label": "golden retriever", "wnid": "n02099601", "synonyms": ["golden retriever"],
        "gloss": load_labels("imagenet1k")[207].gloss,
    }  # fmt: skip
    assert json_of(lite.path, "label_set") == {"name": "imagenet1k", "sha256": load_labels("imagenet1k").digest()}
    provenance = json_of(lite.path, "provenance")
    assert (provenance["reference"], provenance["weights"]["sha256"]) == (LITE, source.sha256)
    assert provenance["versions"].keys() == {"imgclassify"}  # neither torch nor an exporter took part
    assert json_of(lite.path, "temperature")["temperature"] == 0.834


def test_the_test_vector_can_be_made_again(lite: ExportReport) -> None:
    vector = json_of(lite.path, "test_vector")
    crop = np.zeros((224, 224, 3), np.uint8)
    assert vector["crop"] == "crop[y, x, c] = (7 * x + 11 * y + 85 * c + x * y // 16) % 256"
    for y in range(224):
        for x in range(224):
            for c in range(3):
                crop[y, x, c] = (7 * x + 11 * y + 85 * c + x * y // 16) % 256
    assert hashlib.sha256(crop.tobytes()).hexdigest() == vector["sha256"]
    [logits] = onnxruntime.InferenceSession(lite.path).run(["logits"], {"crops": crop[None]})
    assert np.abs(logits[0] - vector["logits"]).max() < 1e-4


def test_the_same_model_gives_the_same_bytes(lite: ExportReport, tmp_path: Path) -> None:
    again = export_model(LITE, tmp_path / "again.onnx", probabilities=True, features=True)
    assert again.sha256 == lite.sha256


# Read by predict -------------------------------------------------------------------------------------------------


def test_predict_gives_the_same_records_without_an_option(lite: ExportReport, tmp_path: Path) -> None:
    images = photos(tmp_path / "photos")
    assert records(lite.path, images) == records(LITE, images)
    assert all(each["predictions"][0]["wnid"] for each in records(lite.path, images[:2]))


def test_the_facts_of_the_run_are_those_of_the_model(lite: ExportReport) -> None:
    run, own = Classifier(lite.path, device="cpu").run, Classifier(LITE, device="cpu").run
    assert run.weights_sha256 == lite.sha256
    assert own == replace(
        run, model=own.model, architecture=own.architecture, weights=own.weights, weights_sha256=own.weights_sha256,
        reason=own.reason,
    )  # fmt: skip


def test_embed_finds_the_features_with_and_without_an_output(lite: ExportReport, tmp_path: Path) -> None:
    image = noise(300, 200)
    wanted = Classifier(LITE, device="cpu").embed(image).embedding
    plain = export_model(LITE, tmp_path / "plain.onnx")
    assert plain.outputs == {"logits": 1000}
    for path in (lite.path, plain.path):
        np.testing.assert_array_equal(Classifier(path, device="cpu").embed(image).embedding, wanted)
    runner = load_runner(lite.path, outputs=("logits", "features"))
    assert runner.read_head().weight.shape == (1000, 1280)


def test_its_published_temperature_is_used_with_its_own_preprocessing_alone(lite: ExportReport) -> None:
    image = noise(300, 200)
    calibrated = Classifier(lite.path, calibration=True).predict(image)
    wanted = Classifier(LITE, calibration=True).predict(image)
    assert calibrated.predictions == wanted.predictions
    with pytest.raises(UsageError, match="no calibration"):
        Classifier(lite.path, calibration=True, resize_size=300)


def test_unfamiliar_images_have_the_scores_that_the_model_gives_them(lite: ExportReport) -> None:
    """The mean feature that they need comes with imgclassify, and is found by the weights of the model."""
    image = noise(300, 200)
    found, wanted = (Classifier(model, device="cpu", unfamiliar=True) for model in (lite.path, LITE))
    assert found.run.unfamiliar == wanted.run.unfamiliar == "nci"
    assert found.predict(image).unfamiliar == wanted.predict(image).unfamiliar


def test_a_calibration_of_ones_own_travels_with_the_file(tmp_path: Path) -> None:
    calibration = learned().calibration
    source = Classifier(LITE)
    digest = source.run.weights_sha256
    assert digest is not None
    from imgclassify.confidence.calibration import user_calibration_path

    calibration.write(user_calibration_path(digest))
    path = export_model(LITE, tmp_path / "mine.onnx").path
    user_calibration_path(digest).unlink()
    image = noise(200, 150, seed=4)
    options: dict[str, Any] = {"sets": 0.8, "unfamiliar": True, "at_least": 0.5}
    found = Classifier(path, **options)
    wanted = Classifier(LITE, calibration=calibration, **options)
    assert found.predict(image).to_dict() | {"model": ""} == wanted.predict(image).to_dict() | {"model": ""}
    assert found.calibration is not None
    assert found.calibration.temperature == calibration.temperature != 0.834
    with pytest.raises(UsageError, match="no calibration"):
        Classifier(path, calibration=True, crop_size=224, resize_size=240)
    # Its file names another digest, which `calibrate` would write for this file.
    assert json_of(path, "calibration")["run"]["weights"]["sha256"] == digest != found.run.weights_sha256


def test_it_can_have_a_name_of_ones_own(lite: ExportReport) -> None:
    manifest = add_model(str(lite.path), "mine")
    assert (manifest.provider, manifest.num_classes, manifest.label_set) == ("onnx", 1000, "imagenet1k")
    image = noise(300, 200)
    assert Classifier("mine").predict(image).predictions == Classifier(LITE).predict(image).predictions


def test_options_for_the_preprocessing_still_count(lite: ExportReport, caplog: pytest.LogCaptureFixture) -> None:
    overrides = PreprocessOverrides(resize_size=300, mean=(0.1,) * 3, interpolation="bilinear")
    network = load_network(str(lite.path), LoadOptions(overrides=overrides))
    spec = network.preprocess
    assert (spec.resize_size, spec.interpolation, spec.mean) == (300, "bilinear", (0.5, 0.5, 0.5))
    assert "--mean is not used" in caplog.text


def test_files_beside_it_are_not_read(lite: ExportReport, tmp_path: Path) -> None:
    path = tmp_path / "lite.onnx"
    path.write_bytes(lite.path.read_bytes())
    (tmp_path / "labels.txt").write_text("\n".join(f"wrong {index}" for index in range(1000)))
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "x", "crop_pct": 0.5, "input_size": [3, 9, 9]})
    )
    network = load_network(str(path), LoadOptions())
    assert network.labels == load_labels("imagenet1k")
    assert network.preprocess == load_network(LITE, LoadOptions()).preprocess


# Other networks --------------------------------------------------------------------------------------------------


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    ("model", "names", "outputs"),
    [
        ("tiny", NAMES, {"logits": 3, "probabilities": 3}),
        ("one", ["no", "yes"], {"logits": 1, "probabilities": 2}),
        ("probabilities", NAMES, {"probabilities": 3}),
        ("percent", NAMES, {"probabilities": 3}),
        ("both", NAMES, {"logits": 3, "probabilities": 3}),
    ],
)
def test_what_a_network_returns_is_what_the_file_returns(
    model: str, names: list[str], outputs: dict[str, int], tmp_path: Path
) -> None:
    report = export_hub(tmp_path, "x.onnx", model, names, probabilities=True)
    assert report.outputs == outputs
    reference, loading = hub_model(tmp_path, model, names)
    images = photos(tmp_path / "photos")[:4]
    for found, wanted in zip(records(report.path, images), records(reference, images, **loading), strict=True):
        assert found["predictions"] == [
            {**each, "probability": pytest.approx(each["probability"], abs=1e-6)} for each in wanted["predictions"]
        ]
    [session] = [onnxruntime.InferenceSession(report.path)]
    probabilities = session.run(["probabilities"], {"crops": crops(2, 16, 16)})[0]
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-5


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    "changes",
    [{"crop_size": (16, 24)}, {"channel_order": "bgr"}, {"resize_size": (20, 30)}],
    ids=["not square", "bgr", "squash"],
)
def test_other_preprocessing_is_part_of_the_file(changes: dict[str, Any], tmp_path: Path) -> None:
    reference, loading = hub_model(tmp_path)
    loading |= changes
    report = export_model(reference, tmp_path / "x.onnx", **loading)
    images = photos(tmp_path / "photos")[:6]
    for found, wanted in zip(records(report.path, images), records(reference, images, **loading), strict=True):
        assert [each["label"] for each in found["predictions"]] == [each["label"] for each in wanted["predictions"]]
    expected = load_network(reference, LoadOptions(arch=None, trust=True, labels=str(loading["labels"]), overrides=
        PreprocessOverrides(20, (16, 16), "bilinear", (0.4,) * 3, (0.3,) * 3)))  # fmt: skip
    assert load_network(str(report.path), LoadOptions()).preprocess != expected.preprocess


def test_labels_and_activation_of_the_user_are_part_of_the_file(tmp_path: Path) -> None:
    labels = tmp_path / "own.txt"
    labels.write_text("\n".join(f" Klasse {index} (ü)" for index in range(1000)) + "\n")
    path = export_model(LITE, tmp_path / "x.onnx", labels=labels, activation="sigmoid").path
    classifier = Classifier(path)
    assert classifier.labels[3].label == "Klasse 3 (ü)"
    assert (classifier.run.activation, classifier.run.multi_label) == ("sigmoid", True)
    assert (
        classifier.predict(noise(64, 64)).predictions
        == Classifier(LITE, labels=labels, activation="sigmoid").predict(noise(64, 64)).predictions
    )
    assert "imgclassify.temperature" not in metadata_of(path)  # it is for a softmax


# Parameters in a file of their own -------------------------------------------------------------------------------


@pytest.fixture
def external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExportReport:
    """The embedded model, as one that is too large for a file."""
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 10_000_000)
    assert onnx_model.MAX_BYTES == 2**31 - 1
    return export_model(LITE, tmp_path / "big.onnx")


def test_parameters_in_a_file_of_their_own(external: ExportReport, tmp_path: Path) -> None:
    assert external.data is not None
    digest = hashlib.sha256(external.data.read_bytes()).hexdigest()
    assert external.data.name == f"big.onnx.{digest[:16]}.data"
    assert json_of(external.path, "data") == {"file": external.data.name, "sha256": digest}
    onnx.checker.check_model(external.path, full_check=True)
    images = photos(tmp_path / "photos")[:3]
    assert records(external.path, images) == records(LITE, images)
    assert load_network(str(external.path), LoadOptions()).sha256 == external.sha256
    assert Classifier(external.path, calibration=True).predict(images[0]).predictions


def test_other_parameters_are_refused(external: ExportReport) -> None:
    assert external.data is not None
    content = bytearray(external.data.read_bytes())
    content[-1] ^= 1
    external.data.write_bytes(content)
    with pytest.raises(HashMismatchError, match=r"does not belong to big\.onnx"):
        load_network(str(external.path), LoadOptions())
    external.data.unlink()
    with pytest.raises(CheckpointError, match="is not a file in its folder"):
        load_network(str(external.path), LoadOptions())


def test_the_parameters_of_a_replaced_file_are_removed(
    external: ExportReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big.onnx.0123456789abcdef.dat").touch()  # is nobody's
    again = export_model(LITE, external.path, dtype="float16", overwrite=True)
    assert again.data is None
    assert external.data is not None
    assert not external.data.exists()
    assert (tmp_path / "big.onnx.0123456789abcdef.dat").exists()
    assert Classifier(again.path).predict(noise(64, 64)).predictions


# Float16 ---------------------------------------------------------------------------------------------------------


def test_float16_halves_the_file_and_hardly_changes_it(tmp_path: Path) -> None:
    report = export_model(LITE, tmp_path / "half.onnx", dtype="float16", features=True, probabilities=True)
    whole = export_model(LITE, tmp_path / "whole.onnx")
    assert report.bytes < 0.55 * whole.bytes
    assert 0 < report.difference < 2e-2
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT} == {
        "normalize.scale", "normalize.bias"
    }  # fmt: skip
    assert onnx.TensorProto.FLOAT16 in kinds.values()
    session = onnxruntime.InferenceSession(report.path)
    assert [output.type for output in session.get_outputs()] == ["tensor(float)"] * 3
    pixels = crops(3)
    half = session.run(None, {"crops": pixels})
    [logits] = onnxruntime.InferenceSession(whole.path).run(None, {"crops": pixels})
    assert np.abs(softmax(half[0]) - softmax(logits)).max() < 5e-2
    assert np.abs(half[1] - softmax(half[0])).max() < 1e-6
    assert Classifier(report.path).embed(noise(64, 64)).embedding is not None


def test_float16_that_overflows_is_refused(tmp_path: Path) -> None:
    network = load_network(LITE, LoadOptions())
    assert network.backends.find_graph is not None
    source = network.backends.find_graph()
    arrays = {name: np.array(tensor.to_array()) for name, tensor in source.read().items()}
    head = "classifier.weight"
    save_file({**arrays, head: arrays[head] * 1e6}, tmp_path / "large.safetensors")
    words = r"classifier\.weight has the number .*, and float16 ends at 65504"
    with pytest.raises(CheckpointError, match=words) as error:
        export_model(str(tmp_path / "large.safetensors"), tmp_path / "x.onnx", arch=LITE, dtype="float16")
    assert "--dtype" in str(error.value.hint)
    # No weight is too large, but a sum is.
    stem = next(name for name, array in arrays.items() if array.ndim == 4)
    large = arrays[stem] * np.float32(6e4 / np.abs(arrays[stem]).max())
    save_file({**arrays, stem: large}, tmp_path / "sums.safetensors")
    with pytest.raises(CheckpointError, match="output logits has numbers that are not finite in float16"):
        export_model(str(tmp_path / "sums.safetensors"), tmp_path / "x.onnx", arch=LITE, dtype="float16")
    assert not (tmp_path / "x.onnx").exists()
    export_model(str(tmp_path / "large.safetensors"), tmp_path / "x.onnx", arch=LITE)
