"""What the files beside a model file say, when they are believed, and when not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from graphs_by_text import LOGITS, save_graph
from PIL import Image

from imgclassify import Classifier, model_details, own_models
from imgclassify.catalog import find_model
from imgclassify.errors import LabelsError, UsageError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides

OVERRIDES = PreprocessOverrides(8, (8, 8), "bilinear", (0.0,) * 3, (1.0,) * 3)
WHOLE: dict[str, Any] = {"resize_size": 8, "crop_size": 8, "interpolation": "bilinear", "mean": 0.0, "std": 1.0}
NAMES = ["cat", "dog", "emu"]
LINES = "cat\ndog\nemu\n"


def save(folder: Path, name: str = "birds.onnx", outputs: str = "float[N,3] y", **options: Any) -> Path:
    return save_graph(folder / name, outputs, LOGITS + "y = Identity (g)", **options)


def load(path: Path, **options: Any) -> Network:
    return load_network(str(path), LoadOptions(**({"overrides": OVERRIDES} | options)))


def names_of(network: Network) -> list[str]:
    assert network.labels is not None
    return [label.label for label in network.labels.labels]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", LINES),
        ("classes.txt", LINES),
        ("classes.txt", "\n".join(f"{index},{name}" for index, name in enumerate(NAMES))),
        ("class_to_idx.json", json.dumps({"emu": 2, "cat": 0, "dog": 1})),
        ("class_indices.json", json.dumps({"0": "cat", "1": "dog", "2": "emu"})),
        ("labels.json", json.dumps(NAMES)),
        ("label_names.txt", LINES),
        ("idx_to_class.json", json.dumps({"0": "cat", "1": "dog", "2": "emu"})),
        ("classes.csv", "id,name\n1,dog\n0,cat\n2,emu\n"),
        ("birds_labels.csv", "name,id\ndog,1\ncat,0\nemu,2\n"),
        ("birds.labels.txt", LINES),
        ("birds_classes.txt", LINES),
        ("birds-class_to_idx.json", json.dumps({"emu": 2, "cat": 0, "dog": 1})),
        ("config.json", json.dumps({"id2label": dict(enumerate(NAMES))})),
        ("config.json", json.dumps({"label2id": {"emu": 2, "cat": 0, "dog": 1}})),
        ("config.json", json.dumps({"architecture": "resnet18", "label_names": NAMES, "pretrained_cfg": {}})),
    ],
)
def test_class_names_beside_the_model_are_the_labels(name: str, content: str, tmp_path: Path) -> None:
    path = save(tmp_path)
    (tmp_path / name).write_text(content)
    network = load(path)
    assert names_of(network) == NAMES
    assert name in network.origins["labels"]


def test_the_names_in_the_model_count_first_then_those_of_its_own_file(tmp_path: Path) -> None:
    for name in ("labels.txt", "config.json", "birds.labels.txt"):
        word = name.partition(".")[0]
        names = [f"{word} {index}" for index in range(3)]
        (tmp_path / name).write_text(
            json.dumps({"id2label": dict(enumerate(names))}) if name.endswith("json") else "\n".join(names)
        )
    assert names_of(load(save(tmp_path, metadata={"names": json.dumps(NAMES)}))) == NAMES
    path = save(tmp_path)
    for word in ("birds", "config", "labels"):
        assert names_of(load(path))[2] == f"{word} 2"
        (tmp_path / {"birds": "birds.labels.txt", "config": "config.json", "labels": "labels.txt"}[word]).unlink()
    with pytest.raises(UsageError, match="has no class names"):
        load(path)


def test_a_file_with_another_number_of_names_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "classes.txt").write_text(LINES)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0"}}))
    assert names_of(load(path)) == NAMES
    assert "labels.txt, which is beside the model, has 2 class names, and the network has 3 classes" in caplog.text


def test_files_that_are_not_needed_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    assert names_of(load(save(tmp_path, metadata={"names": json.dumps(NAMES)}))) == NAMES
    (tmp_path / "config.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}))
    assert names_of(load(save(tmp_path))) == NAMES
    assert not caplog.records


def test_a_graph_that_does_not_say_its_number_of_classes_is_checked_when_it_runs(tmp_path: Path) -> None:
    path = save(tmp_path, outputs="float[N,M] y")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(LabelsError, match=r"labels\.txt has 2 classes, the network has 3"):
        Classifier(str(path), **WHOLE)


def test_other_models_in_the_folder_are_a_reason_to_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path)
    (tmp_path / "labels.txt").write_text(LINES)
    (tmp_path / "birds.pth").touch()  # the same model, in another format
    load(path)
    assert not caplog.records
    save(tmp_path, "cars.onnx")
    load(path)
    assert "labels.txt, although its folder has 1 other model" in caplog.text


@pytest.mark.parametrize("content", ["", "\0\1", "[1, 2", "x" * (9 * 2**20)])
def test_a_file_that_is_no_label_file_is_left_out(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path)
    for name in ("labels.txt", "config.json", "preprocessor_config.json", "labels.json"):
        (tmp_path / name).write_text(content)
    (tmp_path / "classes.json").mkdir()
    (tmp_path / "classes.txt").write_text(LINES)
    assert names_of(load(path)) == NAMES
    assert len(caplog.records) >= 3


def test_labels_of_the_user_count_and_nothing_is_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "mine.txt").write_text(LINES)
    network = load(path, labels=str(tmp_path / "mine.txt"))
    assert (names_of(network), dict(network.origins)) == (NAMES, {})
    assert not caplog.records
    assert load(path, with_labels=False).labels is None


def test_a_model_may_have_a_name_of_the_greatest_length(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(LINES)
    assert names_of(load(save(tmp_path, "x" * 250 + ".onnx"))) == NAMES


def test_wordnet_ids_beside_the_model_get_names(tmp_path: Path) -> None:
    (tmp_path / "synset.txt").write_text("n01440764\nn01443537\nn01484850\n")
    network = load(save(tmp_path))
    assert names_of(network)[0] == "tench"
    assert network.labels is not None
    assert network.labels[0].wnid == "n01440764"


# Preprocessing and activation ------------------------------------------------------------------------------------


def save_transformers(folder: Path, **changes: Any) -> None:
    config = {"model_type": "vit", "image_size": 999, "id2label": dict(enumerate(NAMES)), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "ViTImageProcessor",
                "do_resize": True,
                "size": {"height": 8, "width": 8},
                "resample": 3,
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.25, 0.25, 0.25],
            }
        )
    )


def test_a_graph_in_a_folder_of_transformers_needs_no_option(tmp_path: Path) -> None:
    save_transformers(tmp_path, problem_type="multi_label_classification")
    network = load(save(tmp_path, "model.onnx"), overrides=PreprocessOverrides())
    spec = network.preprocess
    assert (spec.resize_size, spec.crop_size, spec.crop_mode) == ((8, 8), (8, 8), "squash")
    assert (spec.interpolation, spec.mean, spec.std) == ("bicubic", (0.5,) * 3, (0.25,) * 3)
    assert (network.activation, names_of(network)) == ("sigmoid", NAMES)
    assert dict(network.origins) == {
        "labels": "id2label in config.json",
        "preprocess": "preprocessor_config.json",
        "activation": "problem_type in config.json",
    }
    changed = load(tmp_path / "model.onnx", overrides=PreprocessOverrides(mean=(0.1, 0.1, 0.1))).preprocess
    assert (changed.mean, changed.std) == ((0.1,) * 3, (0.25,) * 3)


def test_an_image_processor_that_is_not_known_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_transformers(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "MyImageProcessor"}))
    path = save(tmp_path, "model.onnx")
    with pytest.raises(UsageError, match="no preprocessing"):
        load(path, overrides=PreprocessOverrides())
    assert "MyImageProcessor" in caplog.text


def test_a_configuration_of_timm_gives_the_preprocessing(tmp_path: Path) -> None:
    config = {"input_size": [3, 8, 8], "crop_pct": 0.5, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3]}
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"architecture": "x", "label_names": NAMES, "pretrained_cfg": {**config, "std": [0.3, 0.2, 0.1]}}
        )
    )
    spec = load(save(tmp_path), overrides=PreprocessOverrides()).preprocess
    assert (spec.resize_size, spec.crop_size, spec.mean) == (16, (8, 8), (0.1, 0.2, 0.3))


# The commands ----------------------------------------------------------------------------------------------------


def test_show_and_add_keep_what_the_files_say(tmp_path: Path) -> None:
    path = save(tmp_path)
    (tmp_path / "labels.txt").write_text(LINES)
    described = model_details.describe_file(str(path), **WHOLE)
    assert described["label_set"] == str(tmp_path / "labels.txt")
    assert described["origins"] == {"labels": str(tmp_path / "labels.txt")}
    own_models.add_model(str(path), "birds", **WHOLE)
    (tmp_path / "labels.txt").write_text("x\ny\nz\n")
    assert [label.label for label in Classifier("birds").labels.labels] == NAMES
    assert find_model("birds").num_classes == 3


def test_show_without_labels(tmp_path: Path) -> None:
    described = model_details.describe_file(str(save(tmp_path)), **WHOLE)
    assert (described["label_set"], described["origins"], described["num_classes"]) == (None, {}, 3)


def test_the_run_says_where_the_names_are_from(tmp_path: Path) -> None:
    path = save(tmp_path, metadata={"names": json.dumps(NAMES)})
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    sizes = ["--resize-size", "8", "--crop-size", "8", "--interpolation", "bilinear"]
    options = [*sizes, "--mean", "0", "--std", "1", "--json"]
    for quiet in ([], ["-q"]):
        command = [sys.executable, "-m", "imgclassify", "predict", str(tmp_path / "a.png"), "-m", str(path)]
        done = subprocess.run([*command, *options, *quiet], capture_output=True, text=True, check=True)
        out, err = done.stdout, done.stderr
        assert json.loads(out)["run"]["origins"] == {"labels": "names in birds.onnx"}
        assert ("class names (names in birds.onnx)" in err) == (not quiet)
        assert bool(err) == (not quiet)
