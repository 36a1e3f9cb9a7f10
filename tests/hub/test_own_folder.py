"""Reading model folders that imgclassify has written: what is verified, what is refused, what may be changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import noise
from networks import seeded
from safetensors.torch import save_file
from servers import HubHandler
from taught import NAMES, write

from imgclassify import Classifier
from imgclassify.confidence.calibration import Calibration
from imgclassify.engines import FEATURES, LOGITS
from imgclassify.errors import (
    CheckpointError,
    HashMismatchError,
    ImgclassifyError,
    LabelsError,
    ManifestError,
    UsageError,
)
from imgclassify.evaluation.calibrating import LabelledLogits, learn_calibration
from imgclassify.hub.export_cache import find_prepared, prepare_model
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, PreprocessOverrides
from imgclassify.hub.reference import ModelReference
from imgclassify.training.head import find_head, require_trainable


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    write(tmp_path / "pets", load_network("efficientnet_lite0", LoadOptions(offline=True)))
    return tmp_path / "pets"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


# What is verified ------------------------------------------------------------------------------------------------


def test_weights_of_another_folder_are_refused(pets: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", load_network("efficientnet_lite0", LoadOptions(offline=True)), seed=1)
    shutil.copy(tmp_path / "other/model.safetensors", pets)
    with pytest.raises(
        HashMismatchError, match=r"^model\.safetensors of .*pets is not the file that imgclassify\.toml"
    ):
        load_network(str(pets), LoadOptions())


def test_a_changed_byte_of_the_weights_is_noticed(pets: Path) -> None:
    content = bytearray((pets / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (pets / "model.safetensors").write_bytes(content)
    with pytest.raises(HashMismatchError, match=r"model\.safetensors"):
        load_network(str(pets), LoadOptions())


def test_changed_class_names_are_noticed(pets: Path) -> None:
    edit(pets / "labels.tsv", "0\tant\n1\tbee", "0\tbee\n1\tant")
    with pytest.raises(HashMismatchError, match=r"^labels\.tsv of .*pets is not the file"):
        load_network(str(pets), LoadOptions())
    assert load_network(str(pets), LoadOptions(with_labels=False)).labels is None


def test_a_changed_configuration_of_transformers_is_noticed(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_transformers import save_model

    save_model("ViT", tmp_path / "start")
    write(tmp_path / "mine", load_network(str(tmp_path / "start"), LoadOptions()))
    edit(tmp_path / "mine/config.json", '"num_attention_heads": 4', '"num_attention_heads": 2')
    with pytest.raises(HashMismatchError, match=r"^config\.json of .*mine is not the file"):
        load_network(str(tmp_path / "mine"), LoadOptions())


def test_timms_configuration_is_not_ours(pets: Path) -> None:
    (pets / "config.json").write_text('{"architecture": "resnet18"}')
    assert load_network(str(pets), LoadOptions()).architecture == "tf_efficientnet_lite0"


@pytest.mark.parametrize("name", ["model.safetensors", "labels.tsv"])
def test_a_missing_file_is_named(name: str, pets: Path) -> None:
    (pets / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        load_network(str(pets), LoadOptions())


def test_a_pointer_in_place_of_the_weights_is_named(pets: Path) -> None:
    (pets / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(CheckpointError, match="a Git LFS pointer"):
        load_network(str(pets), LoadOptions())


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schema", "schema", ""),
        ('"imgclassify.model/1"', '"imgclassify.model/2"', "its schema is 'imgclassify.model/2'"),
        ("schema =", "scheme =", "missing key schema"),
        ("version =", "more = 1\nversion =", "unknown key more"),
        ("[[models]]", "[models]", "models must be an array"),
        ("[[models]]", "[[models]]\n[[models]]", "missing key models"),
        ('file = "model', 'file = "../other/model', r"models\[0\]\.file must be 'model\.safetensors'"),
        ('file = "model.safetensors"', 'file = "/etc/passwd"', r"models\[0\]\.file must be"),
        ('file = "model.safetensors"', 'url = "https://example.com/x"', r"models\[0\]\.file must be"),
        ('label_set = "labels.tsv"', 'label_set = "../labels.tsv"', r"models\[0\]\.label_set must be"),
        ('label_set = "labels.tsv"', 'label_set = "imagenet1k"', r"models\[0\]\.label_set must be"),
        ('provider = "timm"', 'provider = "onnx"', r"models\[0\]\.provider must be one of"),
        ('"labels.tsv" = ', '"../labels.tsv" = ', "missing key sha256"),
        ("[start]", "[begin]", "missing key start"),
        ("num_classes = 5", "num_classes = 0", "num_classes must be above zero"),
        ("mean = [0.5", "mean = [nan", "mean must be three numbers"),
        ('activation = "softmax"', "options = { checkpoint_path = 'x' }", "without checkpoint_path"),
        ('activation = "softmax"', 'activation = "argmax"', "activation must be one of"),
        ("[start]", "[start", "not TOML"),
        ("[start]", "a" + ".a" * 99 + " = 1\n[start]", "nested too deeply"),
    ],
    ids=str,
)
def test_a_damaged_manifest_is_one_clear_error(old: str, new: str, words: str, pets: Path) -> None:
    edit(pets / "imgclassify.toml", old, new)
    if not words:
        assert load_network(str(pets), LoadOptions()).num_classes == 5
        return
    with pytest.raises(ManifestError, match=words) as error:
        load_network(str(pets), LoadOptions())
    assert "imgclassify.toml" in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"\x00" * 99, b"[" * 9999, b"#" * 2**21, b"a=1\n" * 9],
    ids=["empty", "UTF-16", "zeros", "nested", "large", "other"],
)
def test_a_manifest_that_is_no_text(content: bytes, pets: Path) -> None:
    (pets / "imgclassify.toml").write_bytes(content)
    with pytest.raises(ManifestError, match=r"imgclassify\.toml"):
        load_network(str(pets), LoadOptions())


def test_cut_short_at_any_line_it_is_refused(pets: Path) -> None:
    lines = (pets / "imgclassify.toml").read_text().splitlines(keepends=True)
    for count in range(len(lines) - 2):  # the last two, gflops and preprocessing, are tried below
        (pets / "imgclassify.toml").write_text("".join(lines[:count]))
        with pytest.raises(ManifestError):
            load_network(str(pets), LoadOptions())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_classes = 5", "num_classes = 4"),
        ('architecture = "tf_efficientnet_lite0"', 'architecture = "tf_efficientnet_lite1"'),
        ('architecture = "tf_efficientnet_lite0"', 'architecture = "no_such_network"'),
        ('provider = "timm"', 'provider = "torchvision"'),
        ('provider = "timm"', 'provider = "transformers"'),
        ("options", "options"),
    ],
    ids=str,
)
def test_a_manifest_of_another_network_does_not_answer(old: str, new: str, pets: Path) -> None:
    path = pets / "imgclassify.toml"
    if old == "options":
        old, new = 'activation = "softmax"', 'options = { in_chans = 1 }\nactivation = "softmax"'
    edit(path, old, new)
    with pytest.raises(ImgclassifyError):
        Classifier(str(pets), device="cpu")


# What may be changed ---------------------------------------------------------------------------------------------


def test_what_a_run_says_of_its_model(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pets.parent)
    run = Classifier("./pets", device="cpu").run
    assert (run.model, run.architecture, run.weights) == ("./pets", "tf_efficientnet_lite0", "model.safetensors")
    assert (run.activation, run.num_classes, run.engine) == ("softmax", 5, "onnxruntime")
    assert run.origins == {
        "arch": "imgclassify.toml",
        "preprocess": "imgclassify.toml",
        "labels": "labels.tsv",
        "activation": "imgclassify.toml",
    }


def test_a_folder_is_known_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = seeded("squeezenet1_1")
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    start = load_network(
        str(tmp_path / "weights.safetensors"), LoadOptions(arch="squeezenet1_1", with_labels=False)
    )
    from imgclassify.training.head import build_trainable, to_arrays
    from imgclassify.training.model_folder import TrainedModel, write_model_folder

    model = TrainedModel(start, to_arrays(build_trainable(start, 2)), NAMES[:2], None, {}, ())
    write_model_folder(tmp_path / "mine", model, overwrite=False)
    assert not (tmp_path / "mine/config.json").exists()
    monkeypatch.chdir(tmp_path)
    assert ModelReference.parse("mine").kind.name == "folder"
    assert load_network("mine", LoadOptions()).backends.engines == ["onnxruntime", "torch"]


def test_labels_of_ones_own(pets: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("Ameise\nBiene\nHund\nStern\nRest\n", "utf-8")
    labels = load_network(str(pets), LoadOptions(labels=str(names))).labels
    assert labels is not None
    assert labels[1].label == "Biene"
    names.write_text("\n".join((NAMES[1], NAMES[0], *NAMES[2:])), "utf-8")
    with pytest.raises(LabelsError, match="in another order"):
        load_network(str(pets), LoadOptions(labels=str(names)))
    names.write_text("a\nb\n", "utf-8")
    with pytest.raises(LabelsError, match="has 2 classes, the network has 5"):
        load_network(str(pets), LoadOptions(labels=str(names)))


def test_another_crop_runs_in_torch(pets: Path) -> None:
    overrides = PreprocessOverrides(crop_size=(192, 192), mean=(0.4, 0.4, 0.4))
    network = load_network(str(pets), LoadOptions(overrides=overrides))
    assert (network.preprocess.crop_size, network.preprocess.mean) == ((192, 192), (0.4, 0.4, 0.4))
    assert network.backends.engines == ["torch"]
    image = noise(200, 200)
    found = Classifier(str(pets), device="cpu", crop_size=192, mean=0.4, top_k=5).predict(image)
    assert sum(each.probability for each in found.predictions) == pytest.approx(1, abs=1e-5)


def test_show_and_embed(pets: Path) -> None:
    command = [sys.executable, "-m", "imgclassify"]
    done = subprocess.run(
        [*command, "models", "show", str(pets), "--json"], capture_output=True, text=True, check=True
    )
    shown = json.loads(done.stdout)
    assert (shown["architecture"], shown["num_classes"], shown["features"]) == ("tf_efficientnet_lite0", 5, True)
    assert shown["engines"] == ["onnxruntime", "torch"]
    image = noise(80, 60)
    features = Classifier(str(pets), device="cpu").embed(image).embedding
    # The features are those of the network that it began with.
    wanted = Classifier("efficientnet_lite0", device="cpu").embed(image).embedding
    assert features is not None
    assert np.allclose(features, wanted, atol=1e-5)


# Calibration -----------------------------------------------------------------------------------------------------


def learn(folder: Path, belongs_to: dict[str, Any]) -> Calibration:
    """A calibration of a model from truths that are drawn from its own answers at a temperature of 0.5."""
    classifier = Classifier(str(folder), device="cpu", with_features=True)
    arrays = [classifier.runner.run_one(noise(64, 64, seed)).arrays for seed in range(60)]
    logits, features = (np.stack([each[name] for each in arrays if each]) for name in (LOGITS, FEATURES))
    sharp = np.exp(logits.astype(np.float64) / 0.5)
    generator = np.random.default_rng(2)
    truth = np.array([generator.choice(5, p=row / row.sum()) for row in sharp], np.int64)
    report = learn_calibration(
        LabelledLogits(logits, truth, features),
        belongs_to,
        {"truth": {"how": "drawn", "file": None, "map": None}, "failed": 0},
        origin="drawn",
        taxonomy=None,
        head_weight=classifier.runner.find_head_weight(),
    )
    return report.calibration


def test_predict_is_calibrated_by_the_folder(pets: Path, tmp_path: Path) -> None:
    start = load_network("efficientnet_lite0", LoadOptions(offline=True))
    # It belongs to the run of the network that training began with, until the folder is written.
    run = Classifier("efficientnet_lite0", device="cpu").run.to_dict()
    learned = learn(pets, run)
    write(pets, start, calibration=learned, overwrite=True)
    temperature = learned.temperature
    assert temperature < 0.9
    image = noise(100, 90, seed=99)
    raw = Classifier(str(pets), device="cpu", top_k=5)
    logits = raw.runner.run_one(image).arrays
    assert logits is not None
    scaled = np.exp(logits[LOGITS].astype(np.float64) / temperature)
    calibrated = Classifier(str(pets), device="cpu", top_k=5, calibration=True, unfamiliar=True)
    result = calibrated.predict(image)
    for prediction in result.predictions:
        assert prediction.probability == pytest.approx(scaled[prediction.class_index] / scaled.sum(), abs=1e-5)
    assert result.unfamiliar is not None
    assert Classifier(str(pets), device="cpu", sets=0.9, calibration=True).predict(image).prediction_set
    # That of other weights is not used.
    write(tmp_path / "other", start, seed=1)
    shutil.copy(pets / "calibration.json", tmp_path / "other")
    with pytest.raises(UsageError, match=r"no calibration of .*other is known"):
        Classifier(str(tmp_path / "other"), device="cpu", calibration=True)
    # Nor for another preprocessing.
    with pytest.raises(UsageError, match=r"no calibration of .*pets is known"):
        Classifier(str(pets), device="cpu", mean=0.4, calibration=True)
    # Without the option, a damaged one does no harm.
    (pets / "calibration.json").write_bytes(b"\xff{")
    assert Classifier(str(pets), device="cpu").predict(image).error is None
    with pytest.raises(UsageError, match="is not a calibration"):
        Classifier(str(pets), device="cpu", calibration=True)


def test_a_folder_of_timm_may_have_a_calibration(pets: Path) -> None:
    (pets / "imgclassify.toml").rename(pets.parent / "kept.toml")
    run = Classifier(str(pets), device="cpu").run.to_dict()
    shutil.copy(pets.parent / "kept.toml", pets / "imgclassify.toml")
    learned = learn(pets, run)
    learned.write(pets / "calibration.json")
    (pets / "imgclassify.toml").unlink()
    found = Classifier(str(pets), device="cpu", calibration=True).run.calibration
    assert found is not None
    assert found["temperature"] == learned.temperature


# Elsewhere -------------------------------------------------------------------------------------------------------


def publish(hub: type[HubHandler], repository: str, folder: Path) -> None:
    for path in folder.iterdir():
        for revision in ("main", "0" * 40):  # the first file tells the commit, and the others are asked for by it
            hub.files[f"/{repository}/resolve/{revision}/{path.name}"] = path.read_bytes()


def predict(*arguments: object) -> dict[str, Any]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "imgclassify",
        "predict",
        *map(str, arguments),
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize("with_config", [True, False])
def test_a_repository_on_the_hub(
    with_config: bool, pets: Path, tmp_path: Path, huggingface: type[HubHandler]
) -> None:
    learned = learn(pets, Classifier("efficientnet_lite0", device="cpu").run.to_dict())
    write(pets, load_network("efficientnet_lite0", LoadOptions(offline=True)), calibration=learned, overwrite=True)
    if not with_config:  # as that of a network of torchvision
        (pets / "config.json").unlink()
    publish(huggingface, "owner/pets", pets)
    noise(90, 80).save(tmp_path / "image.png")
    found = predict(tmp_path / "image.png", "-m", "hf:owner/pets", "--calibrated")
    wanted = predict(tmp_path / "image.png", "-m", pets, "--calibrated")
    assert found["run"]["model"] == "hf:owner/pets"
    assert found["results"][0]["predictions"] == wanted["results"][0]["predictions"]
    assert found["run"]["calibration"]["temperature"] == learned.temperature
    names = {request.rpartition("/")[2] for request in huggingface.asked}
    assert names == {"config.json", "imgclassify.toml", "model.safetensors", "labels.tsv", "calibration.json"}
    asked = len(huggingface.asked)
    again = predict(tmp_path / "image.png", "-m", "hf:owner/pets", "--calibrated", "--offline")
    assert again["results"] == found["results"]
    assert len(huggingface.asked) == asked


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_prepared_folder_keeps_its_calibration(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(4)
    plain = timm.create_model("test_efficientnet", pretrained=False, num_classes=4)
    timm.models.save_for_hf(plain, str(tmp_path / "start"), model_config={"label_names": list("abcd")})
    write(tmp_path / "mine", load_network(str(tmp_path / "start"), LoadOptions()))
    reference = ModelReference.parse(str(tmp_path / "mine"))
    (tmp_path / "mine/calibration.json").write_text("{}")
    prepare_model(reference, LoadOptions())
    network = find_prepared(reference, LoadOptions())
    assert network is not None
    assert network.own_calibration == "{}"
    assert network.backends.engines == ["onnxruntime", "torch"]
    # What is trained is the network that the graph was made of.
    assert require_trainable(network).manifest is not None
    assert find_head(network).weight == "classifier.weight"
    (tmp_path / "mine/calibration.json").write_text("[]")
    assert find_prepared(reference, LoadOptions()) is None
