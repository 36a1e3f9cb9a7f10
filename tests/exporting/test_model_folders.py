"""Model folders of transformers and timm, exported in every format: the same answers as those of the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from exported import photos
from tiny_transformers import MODELS, save_model

from imgclassify import Classifier
from imgclassify.exporting.exporting import export_model
from imgclassify.hub.export_cache import prepare_model
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.hub.reference import ModelReference

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning"
)
EXTENSIONS = ["onnx", "pt2", "torchscript"]


def probabilities(model: str | Path, images: list[Path], **options: Any) -> np.ndarray:
    classifier = Classifier(model, device="cpu", top_k=99, **options)
    return np.array(
        [
            [each.probability for each in sorted(result.predictions, key=lambda each: each.class_index)]
            for result in classifier.stream(images)
        ]
    )


def compare(model: Path, extension: str, folder: Path, **options: Any) -> None:
    report = export_model(str(model), folder / f"x.{extension}", **options)
    images = photos(folder / "photos")[:5]
    found, wanted = probabilities(report.path, images, trust=True), probabilities(model, images)
    assert wanted.std() > 1e-3
    assert np.abs(found - wanted).max() < 1e-5
    own, theirs = (load_network(str(path), LoadOptions(trust=True)) for path in (report.path, model))
    assert own.preprocess == theirs.preprocess
    assert own.labels is not None
    assert theirs.labels is not None
    assert own.labels.labels == theirs.labels.labels


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_folder_of_transformers(extension: str, tmp_path: Path) -> None:
    save_model("ViT", tmp_path / "model")
    compare(tmp_path / "model", extension, tmp_path, features=True)


@pytest.mark.slow
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("name", MODELS)
def test_each_network_of_transformers(name: str, extension: str, tmp_path: Path) -> None:
    save_model(name, tmp_path / "model")
    compare(tmp_path / "model", extension, tmp_path)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("channels", [3, 1])
def test_a_folder_of_timm(channels: int, extension: str, tmp_path: Path) -> None:
    torch.manual_seed(11)
    network = timm.create_model("test_efficientnet", pretrained=False, num_classes=3, in_chans=channels).eval()
    torch.nn.init.normal_(network.get_classifier().weight, std=0.5)
    timm.models.save_for_hf(
        network, str(tmp_path / "model"), model_config={"label_names": ["a", "b", "c"]}, safe_serialization=True
    )
    compare(tmp_path / "model", extension, tmp_path, features=channels == 3)


def test_a_prepared_model_is_exported_from_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model("ResNet", tmp_path / "model")
    reference = str(tmp_path / "model")
    images = photos(tmp_path / "photos")[:5]
    wanted = probabilities(reference, images)
    prepare_model(ModelReference.parse(reference), LoadOptions())
    network = load_network(reference, LoadOptions())
    assert network.backends.find_graph is not None
    from imgclassify.hub import export_cache

    monkeypatch.setattr(export_cache, "_build_torch", None)  # torch is not asked
    path = export_model(reference, tmp_path / "x.onnx").path
    assert np.abs(probabilities(path, images) - wanted).max() < 1e-5
