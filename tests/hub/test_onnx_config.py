"""What the metadata of ONNX graphs say: class names, ultralytics' preprocessing, image properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs_by_text import CONSTANTS, LOGITS, save_graph, softmax
from PIL import Image

from imgclassify import Classifier
from imgclassify.errors import CheckpointError, LabelsError, UsageError
from imgclassify.graphs.onnx_file import OnnxFile
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides

WHOLE: dict[str, Any] = {"resize_size": 8, "crop_size": 8, "interpolation": "bilinear", "mean": 0.0, "std": 1.0}
OVERRIDES = PreprocessOverrides(8, (8, 8), "bilinear", (0.0,) * 3, (1.0,) * 3)
SIZES = PreprocessOverrides(8, (8, 8), "bilinear")
NAMES = ["rot", "grün", "blau"]


def save(folder: Path, metadata: dict[str, str], *, outputs: str = "float[N,3] y", **options: Any) -> str:
    return str(save_graph(folder / "g.onnx", outputs, LOGITS + "y = Identity (g)", metadata=metadata, **options))


def load(folder: Path, metadata: dict[str, str], overrides: PreprocessOverrides = OVERRIDES) -> Network:
    return load_network(save(folder, metadata), LoadOptions(overrides=overrides))


def names_of(network: Network) -> list[str]:
    assert network.labels is not None
    return [label.label for label in network.labels.labels]


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "{0: 'rot', 1: 'grün', 2: 'blau'}"},
        {"classes": json.dumps(NAMES)},
        {"class_to_idx": json.dumps({"blau": 2, "rot": 0, "grün": 1})},
        {"id2label": json.dumps(dict(enumerate(NAMES)))},
        {"labels": "rot,grün,blau"},
        {"class_names": "rot\ngrün\nblau"},
        {"class_names": "rot\tgrün\tblau"},
        {"imgclassify.labels": json.dumps(NAMES)},
        {"config": json.dumps({"model_type": "vit", "id2label": dict(enumerate(NAMES))})},
        {"labels": "other,names", "names": "['a']", "classes": json.dumps(NAMES)},
        {"classes": "[1, 2, 3]", "names": "{0: 'rot', 1: 'grün', 2: 'blau'}"},
    ],
    ids=lambda metadata: "+".join(metadata),
)
def test_class_names_are_the_labels(metadata: dict[str, str], tmp_path: Path) -> None:
    network = load(tmp_path, metadata)
    assert names_of(network) == NAMES
    assert network.origins["labels"].endswith(" in g.onnx")


def test_the_description_of_a_graph_may_have_the_class_names(tmp_path: Path) -> None:
    path = save(tmp_path, {})
    model = onnx.load(path)
    model.doc_string = json.dumps({"labels": NAMES})
    onnx.save(model, path)
    network = load_network(path, LoadOptions(overrides=OVERRIDES))
    assert (names_of(network), network.origins["labels"]) == (NAMES, "doc_string.labels in g.onnx")


def test_class_names_of_another_number_are_an_error_and_labels_help(tmp_path: Path) -> None:
    path = save(tmp_path, {"names": "['rot', 'blau']"})
    with pytest.raises(LabelsError, match=r"names in g\.onnx has 2 classes, the network has 3") as error:
        Classifier(path, **WHOLE)
    assert "--labels FILE" in str(error.value.hint)
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    assert len(Classifier(path, labels=tmp_path / "three.txt", **WHOLE).labels) == 3


def test_the_same_names_in_another_order_are_refused_and_others_are_not(tmp_path: Path) -> None:
    path = save(tmp_path, {"names": json.dumps(NAMES)})
    (tmp_path / "turned.txt").write_text("Blau\ngrün\nrot\n")
    with pytest.raises(LabelsError, match=r"another order"):
        load_network(path, LoadOptions(overrides=OVERRIDES, labels=str(tmp_path / "turned.txt")))
    (tmp_path / "english.txt").write_text("red\ngreen\nblue\n")
    network = load_network(path, LoadOptions(overrides=OVERRIDES, labels=str(tmp_path / "english.txt")))
    assert names_of(network) == ["red", "green", "blue"]
    assert "labels" not in network.origins


def test_metadata_that_say_nothing_are_no_obstacle(tmp_path: Path) -> None:
    metadata = {
        "": "x",
        "names": "",
        "classes": "resnet18",
        "author": "x" * 2**23 + "y",
        "mean": "nan",
        "config": "[",
    }
    with pytest.raises(UsageError, match="has no class names"):
        load(tmp_path, metadata)
    assert "author" not in OnnxFile(tmp_path / "g.onnx").metadata


# ultralytics -----------------------------------------------------------------------------------------------------

YOLO = {
    "description": "Ultralytics YOLO11n-cls model",
    "stride": "1",
    "task": "classify",
    "batch": "1",
    "imgsz": "[8, 8]",
    "names": "{0: 'rot', 1: 'grün', 2: 'blau'}",
}


def photo() -> Image.Image:
    patches = np.random.default_rng(3).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((61, 33), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("imgsz", ["[8, 8]", "8", None])
def test_ultralytics_needs_no_option(imgsz: str | None, tmp_path: Path) -> None:
    """Compared with its classify_transforms: the short side, a centre crop, bilinear, and 0..1."""
    metadata = {key: value for key, value in YOLO.items() if key != "imgsz"} | ({"imgsz": imgsz} if imgsz else {})
    [result] = Classifier(save(tmp_path, metadata)).predict([photo()])
    resized = photo().resize((int(8 * 61 / 33), 8), Image.Resampling.BILINEAR)
    left = round((resized.width - 8) / 2)
    means = np.asarray(resized.crop((left, 0, left + 8, 8)), float).mean((0, 1)) / 255
    wanted = softmax(means @ CONSTANTS["w"].astype(float) + CONSTANTS["bias"])
    found = {each.label: each.probability for each in result.predictions}
    np.testing.assert_allclose([found[name] for name in NAMES], wanted, atol=1e-5)


def test_ultralytics_squashes_images_for_sides_that_differ(tmp_path: Path) -> None:
    spec = load(tmp_path, {**YOLO, "imgsz": "[8, 16]"}, PreprocessOverrides(crop_size=(8, 16))).preprocess
    assert (spec.resize_size, spec.crop_size, spec.crop_mode) == ((8, 16), (8, 16), "squash")


def test_a_detector_is_refused_by_its_task(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"g\.onnx is a model for detection, not for classification"):
        load(tmp_path, {**YOLO, "task": "detect"})


def test_yolov5_says_nothing_of_its_preprocessing(tmp_path: Path) -> None:
    metadata = {key: YOLO[key] for key in ("stride", "names")}
    with pytest.raises(UsageError, match="no preprocessing"):
        load(tmp_path, metadata, PreprocessOverrides())
    assert names_of(load(tmp_path, metadata)) == NAMES


# Image properties ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "black", "white"),
    [
        ("NominalRange_0_255", 0, 255),
        ("Normalized_0_1", 0, 1),
        ("normalized_1_1", -1, 1),
        ("NominalRange_16_235", 16, 235),
    ],
)
def test_the_range_of_pixels_becomes_mean_and_std(values: str, black: float, white: float, tmp_path: Path) -> None:
    spec = load(tmp_path, {"image.nominalPixelRange": values, "names": json.dumps(NAMES)}, SIZES).preprocess
    for level in (0, 128, 255):
        wanted = black + (white - black) * level / 255
        assert (level / 255 - spec.mean[0]) / spec.std[0] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("values", "order"), [("Bgr8", "bgr"), ("RGB8", "rgb"), ("Gray8", "grey"), ("x", "rgb")])
def test_the_format_of_pixels_is_the_channel_order(values: str, order: str, tmp_path: Path) -> None:
    network = load(tmp_path, {"Image.BitmapPixelFormat": values, "names": json.dumps(NAMES)})
    assert network.preprocess.channel_order == order
    assert ("preprocess" in network.origins) == (order not in ("rgb",))


def test_the_user_counts_before_the_file(tmp_path: Path) -> None:
    metadata = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_1_1", **YOLO}
    given = PreprocessOverrides(mean=(0.1, 0.2, 0.3), resize_size=16, channel_order="rgb")
    spec = load(tmp_path, metadata, given).preprocess
    assert (spec.mean, spec.resize_size, spec.channel_order) == ((0.1, 0.2, 0.3), 16, "rgb")
    assert (spec.std, spec.crop_size) == ((0.5, 0.5, 0.5), (8, 8))


def test_the_range_does_not_count_for_bytes(tmp_path: Path) -> None:
    nodes = "c = Cast <to = 1> (given)  x = Mul (c, byte)  " + LOGITS + "y = Identity (g)"
    metadata = {"Image.NominalPixelRange": "NominalRange_0_255", "names": json.dumps(NAMES)}
    path = save_graph(tmp_path / "g.onnx", "float[N,3] y", nodes, given="uint8[N,3,8,8] given", metadata=metadata)
    spec = load_network(str(path), LoadOptions(overrides=SIZES)).preprocess
    assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))


def test_values_of_other_exporters(tmp_path: Path) -> None:
    config = {"input_size": [3, 8, 8], "crop_pct": 0.8, "interpolation": "bicubic", "crop_mode": "center"}
    metadata = {
        "pretrained_cfg": json.dumps({**config, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}),
        "label_names": json.dumps(NAMES),
    }
    spec = load(tmp_path, metadata, PreprocessOverrides()).preprocess
    assert (spec.resize_size, spec.crop_size, spec.interpolation) == (10, (8, 8), "bicubic")
    assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))


def test_what_imgclassify_writes_is_read_back(tmp_path: Path) -> None:
    spec = load(tmp_path, {"names": json.dumps(NAMES)}).preprocess
    metadata = {"imgclassify.labels": json.dumps(NAMES), "imgclassify.preprocess": json.dumps(spec.to_dict())}
    network = load(tmp_path, metadata, PreprocessOverrides())
    assert (network.preprocess, names_of(network)) == (spec, NAMES)
    assert network.origins["preprocess"] == "preprocess in g.onnx"


@pytest.mark.parametrize(
    ("metadata", "origin"),
    [
        ({"activation": "sigmoid"}, "activation"),
        ({"problem_type": "multi_label_classification"}, "problem_type"),
        ({"config": json.dumps({"problem_type": "multi_label_classification"})}, "config.problem_type"),
        ({"hyper_parameters": json.dumps({"output_activation": "sigmoid"})}, "hyper_parameters.output_activation"),
    ],
)
def test_the_activation_is_that_of_the_file(metadata: dict[str, str], origin: str, tmp_path: Path) -> None:
    names = {"names": json.dumps(["a", "b", "c"])}
    classifier = Classifier(save(tmp_path, metadata | names), **WHOLE)
    assert classifier.run.activation == "sigmoid"
    assert classifier.run.origins is not None
    assert classifier.run.origins["activation"] == f"{origin} in g.onnx"


def test_the_activation_of_inner_layers_is_not_that_of_the_outputs(tmp_path: Path) -> None:
    network = load(tmp_path, {"config": json.dumps({"activation": "sigmoid"}), "names": '["a", "b", "c"]'})
    assert network.activation is None


def test_names_that_differ_in_underscores_are_compared_without_them(tmp_path: Path) -> None:
    path = save(tmp_path, {"names": json.dumps(["great_white", "blue shark", "ray"])})
    (tmp_path / "turned.txt").write_text("blue_shark\ngreat white\nray\n")
    with pytest.raises(LabelsError, match="in another order"):
        load_network(path, LoadOptions(labels=str(tmp_path / "turned.txt"), overrides=OVERRIDES))
