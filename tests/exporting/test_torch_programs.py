"""Programs of torch: opened by torch alone, and by predict with --trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise
from exported import NAMES, SIZES, crops, export_hub, hub_model, photos, softmax

from imgclassify import Classifier
from imgclassify.errors import CheckpointError, DeviceError, UntrustedCodeError
from imgclassify.exporting.exporting import ExportReport, export_model
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.own_models import add_model
from imgclassify.runner import load_runner

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning"),
]
EXTENSIONS = ["pt2", "torchscript"]
Open = Callable[[Path], tuple[Callable[[torch.Tensor], Any], dict[str, Any]]]


def open_alone(path: Path) -> tuple[Callable[[torch.Tensor], Any], dict[str, Any]]:
    """Returns the program and its metadata, as torch itself reads them."""
    keys = ("schema", "labels", "preprocess", "activation", "outputs", "input", "test_vector", "provenance")
    texts = {f"imgclassify.{key}": "" for key in keys}
    if path.suffix == ".pt2":
        program: Any = torch.export.load(path, extra_files=texts).module()
    else:
        program = torch.jit.load(path, _extra_files=texts)
    values = {key.removeprefix("imgclassify."): text for key, text in texts.items()}
    words = ("schema", "activation")
    decoded = {key: text if isinstance(text, str) else text.decode() for key, text in values.items()}
    return program, {key: text if key in words else json.loads(text) for key, text in decoded.items()}


def expected(reference: str, loading: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    """What the network itself returns for crops that torch normalises."""
    build = load_network(reference, LoadOptions(trust=True, with_labels=False, overrides=_overrides())).backends
    assert build.build_torch is not None
    network = build.build_torch().eval()
    with torch.inference_mode():
        logits: np.ndarray = network((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.4) / 0.3).numpy()
    return logits


def _overrides() -> Any:
    from imgclassify.runner import preprocess_overrides

    return preprocess_overrides(**SIZES)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_program_alone_takes_any_number_of_crops(extension: str, tmp_path: Path) -> None:
    reference, loading = hub_model(tmp_path)
    report = export_model(reference, tmp_path / f"x.{extension}", **loading)
    program, metadata = open_alone(report.path)
    for count in (1, 2, 5):
        pixels = crops(count, 16, 16, seed=count)
        found = program(torch.from_numpy(pixels)).numpy()
        assert found.shape == (count, 3)
        assert np.abs(found - expected(reference, loading, pixels)).max() < 1e-5
    assert [label["label"] for label in metadata["labels"]] == NAMES
    assert metadata["input"]["shape"] == ["n", 16, 16, 3]
    assert metadata["outputs"] == [{"name": "logits", "dtype": "float32", "size": 3}]
    assert metadata["activation"] == "softmax"
    crop = np.fromfunction(lambda y, x, c: (7 * x + 11 * y + 85 * c + x * y // 16) % 256, (16, 16, 3), dtype=int)
    logits = program(torch.from_numpy(crop.astype(np.uint8))[None]).numpy()[0]
    assert np.abs(logits - metadata["test_vector"]["logits"]).max() < 1e-5


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_further_outputs_are_parts_of_a_tuple(extension: str, tmp_path: Path) -> None:
    report = export_hub(tmp_path, f"x.{extension}", probabilities=True, features=True)
    assert report.outputs == {"logits": 3, "probabilities": 3, "features": 8}
    program, metadata = open_alone(report.path)
    assert [each["name"] for each in metadata["outputs"]] == list(report.outputs)
    logits, probabilities, features = program(torch.from_numpy(crops(2, 16, 16)))
    assert np.abs(probabilities.numpy() - softmax(logits.numpy())).max() < 1e-6
    assert features.shape == (2, 8)
    reference, loading = hub_model(tmp_path)
    classifier, source = Classifier(report.path, trust=True, device="cpu"), Classifier(reference, **loading)
    image = noise(40, 30)
    assert np.abs(np.subtract(classifier.embed(image).embedding, source.embed(image).embedding)).max() < 1e-5
    assert classifier.predict(image).predictions[0].label == source.predict(image).predictions[0].label


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_predict_gives_the_same_answers_without_an_option(extension: str, tmp_path: Path) -> None:
    report = export_hub(tmp_path, f"x.{extension}")
    reference, loading = hub_model(tmp_path)
    images = photos(tmp_path / "photos")
    classifier = Classifier(report.path, trust=True, device="cpu")
    assert classifier.run.weights_sha256 == report.sha256
    for found, wanted in zip(
        classifier.stream(images), Classifier(reference, **loading, device="cpu").stream(images), strict=True
    ):
        assert (found.width, found.height, found.source) == (wanted.width, wanted.height, wanted.source)
        for one, other in zip(found.predictions, wanted.predictions, strict=True):
            assert (one.label, one.class_index) == (other.label, other.class_index)
            assert one.probability == pytest.approx(other.probability, abs=1e-6)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_program_is_opened_only_with_trust(extension: str, tmp_path: Path) -> None:
    path = export_hub(tmp_path, f"x.{extension}").path
    with pytest.raises(
        UntrustedCodeError, match="pickle" if extension == "pt2" else "read and write the files"
    ) as error:
        load_network(str(path), LoadOptions())
    assert "imgclassify export" in str(error.value.hint)
    with pytest.raises(DeviceError, match="computes in its own type"):
        load_runner(path, trust=True, dtype="bfloat16")
    (tmp_path / "cut.pt2").write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(CheckpointError):
        load_runner(tmp_path / "cut.pt2", trust=True)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_program_can_have_a_name_of_ones_own(extension: str, tmp_path: Path) -> None:
    path = export_hub(tmp_path, f"x.{extension}").path
    manifest = add_model(str(path), "mine", trust=True)
    assert (manifest.provider, manifest.num_classes) == (extension, 3)
    image = noise(40, 30)
    found, wanted = Classifier("mine", trust=True).predict(image), Classifier(path, trust=True).predict(image)
    assert found.predictions == wanted.predictions


def test_a_program_of_somebody_else_is_run_as_a_network(tmp_path: Path) -> None:
    class Means(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3)) * 5

    program = torch.export.export(
        Means(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},), strict=False
    )
    torch.export.save(program, tmp_path / "theirs.pt2")
    (tmp_path / "theirs.pt2").rename(tmp_path / "theirs.bin")  # its content tells what it is
    labels = tmp_path / "names.txt"
    labels.write_text("red\ngreen\nblue\n")
    classifier = Classifier(
        f"{tmp_path}/theirs.bin", trust=True, labels=labels, resize_size=8, crop_size=8, interpolation="bilinear",
        mean=0.0, std=1.0, device="cpu",
    )  # fmt: skip
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[..., 1] = 255
    best = classifier.predict(picture).predictions[0]
    assert (best.label, best.probability) == ("green", pytest.approx(np.exp(5) / (np.exp(5) + 2), abs=1e-6))


def test_a_program_that_creates_tensors_moves_to_another_device(tmp_path: Path) -> None:
    """Traced on the CPU, it would go on to create them there. The device "meta" refuses a mix."""
    report = export_hub(tmp_path, "x.pt2", "created")
    network = load_network(str(report.path), LoadOptions(trust=True)).backends.build_torch
    assert network is not None
    moved = network().eval().to(torch.device("meta"), torch.float32)
    logits = moved(torch.zeros(3, 16, 16, 3, dtype=torch.uint8, device="meta"))["logits"]
    assert (logits.device.type, tuple(logits.shape)) == ("meta", (3, 3))


def test_torchscript_is_said_to_be_deprecated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export_hub(tmp_path, "x.torchscript")
    assert "TorchScript is deprecated in PyTorch" in caplog.text


@pytest.mark.parametrize(
    ("model", "extension", "words"),
    [
        ("branches", "pt2", "torch.export"),
        ("branches", "onnx", "cannot be exported as a graph"),
        ("branches", "torchscript", "not right"),
        ("batch", "torchscript", "not right"),
    ],
)
def test_a_network_that_cannot_be_exported(model: str, extension: str, words: str, tmp_path: Path) -> None:
    reference, loading = hub_model(tmp_path, model)
    with pytest.raises(CheckpointError, match=words) as error:
        export_model(reference, tmp_path / f"x.{extension}", **loading)
    assert error.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names.txt", "repository"]


def test_the_network_of_the_report_is_that_of_the_reference(tmp_path: Path) -> None:
    report: ExportReport = export_hub(tmp_path, "x.pt2")
    assert report.model == hub_model(tmp_path)[0]
    assert report.to_dict()["crop_size"] == [16, 16]
