"""Model folders: those of transformers against its own network and image processor, those of timm against timm."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise
from PIL import Image

pytest.importorskip("transformers")

import timm
import timm.models
import transformers
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from tiny_transformers import MODELS, NAMES, save_model

from imgclassify import Classifier
from imgclassify.errors import CheckpointError, LabelsError, UnavailableError, UsageError
from imgclassify.hub.export_cache import find_prepared, prepare_model
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.hub.reference import ModelReference

TIMM = "test_efficientnet"


def images(folder: Path) -> dict[Path, Image.Image]:
    """Files of several sizes and modes → what they show, as transformers' pipeline opens them."""
    grey = noise(101, 70, seed=1).convert("L")
    palette = noise(64, 90, seed=2).quantize(32)
    colour = noise(151, 97, seed=3)
    found = {}
    for name, image in {"grey": grey, "palette": palette, "colour": colour}.items():
        path = folder / f"{name}.png"
        image.save(path)
        found[path] = image.convert("RGB")
    return found


def answers(reference: str, paths: list[Path], **options: Any) -> np.ndarray:
    """The probabilities of each class, (images, classes)."""
    classifier = Classifier(reference, top_k=3, device="cpu", **options)
    rows = []
    for result in map(classifier.predict, paths):
        assert result.error is None, result.error
        rows.append([each.probability for each in sorted(result.predictions, key=lambda each: each.class_index)])
    return np.array(rows)


def expected(network: Any, processor: Any, shown: list[Image.Image]) -> np.ndarray:
    with torch.inference_mode():
        pixels = torch.cat([processor(images=image, return_tensors="pt")["pixel_values"] for image in shown])
        return network(pixel_values=pixels).logits.softmax(dim=1).numpy()


def edit(path: Path, **changes: Any) -> None:
    """Changes fields of a JSON file. None removes one."""
    content = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf-8")


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    save_model("ViT", tmp_path / "vit")
    return tmp_path / "vit"


# transformers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_transformers_answers_as_transformers(name: str, tmp_path: Path) -> None:
    network, processor = save_model(name, tmp_path / "model")
    shown = images(tmp_path)
    wanted = expected(network, processor, list(shown.values()))
    assert wanted.std(axis=0).max() > 0.02  # the images tell the classes apart
    assert np.abs(answers(str(tmp_path / "model"), list(shown)) - wanted).max() < 1e-5


def test_its_own_pipeline_gives_the_same(vit: Path, tmp_path: Path) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(vit, backend="pil")
    pipeline = transformers.pipeline("image-classification", model=str(vit), image_processor=processor)
    result = None
    for path in images(tmp_path):
        result = Classifier(str(vit), top_k=3, device="cpu").predict(path)
        for ours, theirs in zip(result.predictions, pipeline(str(path)), strict=True):
            assert ours.label == theirs["label"]
            assert ours.probability == pytest.approx(theirs["score"], abs=1e-5)


def test_what_a_run_says_of_its_model(vit: Path) -> None:
    run = Classifier(f"{vit}{os.sep}", device="cpu").run
    assert run.model == f"{vit}{os.sep}"
    assert run.architecture == "ViTForImageClassification"
    assert run.weights_sha256 == hashlib.sha256((vit / "model.safetensors").read_bytes()).hexdigest()
    network = load_network(str(vit), LoadOptions())
    assert network.activation == "softmax"
    assert dict(network.origins) == {
        "arch": "config.json",
        "preprocess": "preprocessor_config.json",
        "labels": "config.json",
        "activation": "config.json",
    }


def test_a_folder_is_known_by_its_path(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(vit.parent)
    for text in ("./vit", "vit/", str(vit), f"timm:local-dir:{vit}"):
        assert ModelReference.parse(text).kind.name == "folder"
        assert load_network(text, LoadOptions()).num_classes == 3
    monkeypatch.chdir(vit)
    assert load_network(".", LoadOptions()).num_classes == 3
    assert ModelReference.parse("./model.safetensors").kind.name == "file"


@pytest.mark.parametrize(
    ("changes", "classes", "activation"),
    [
        ({}, 3, "softmax"),
        ({"problem_type": "single_label_classification"}, 3, "softmax"),
        ({"problem_type": "multi_label_classification"}, 3, "sigmoid"),
        ({"id2label": {0: "defect"}}, 1, "sigmoid"),
    ],
)
def test_the_activation_is_that_of_transformers_pipeline(
    changes: dict[str, Any], classes: int, activation: str, tmp_path: Path
) -> None:
    save_model("ViT", tmp_path / "model", **changes)
    network = load_network(str(tmp_path / "model"), LoadOptions())
    assert (network.num_classes, network.activation) == (classes, activation)
    assert load_network(str(tmp_path / "model"), LoadOptions(activation="none")).activation == "none"


def test_old_pickles_are_read_and_code_in_them_is_not_run(vit: Path, tmp_path: Path) -> None:
    paths = list(images(tmp_path))
    wanted = answers(str(vit), paths)
    state_dict = load_file(vit / "model.safetensors")
    (vit / "model.safetensors").unlink()
    torch.save(state_dict, vit / "pytorch_model.bin")
    assert np.array_equal(answers(str(vit), paths), wanted)
    evil = tmp_path / "evil"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (evil,)

    torch.save({**state_dict, "extra": Evil()}, vit / "pytorch_model.bin")
    assert np.array_equal(answers(str(vit), paths), wanted)
    assert not evil.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_in_float32(dtype: torch.dtype, vit: Path, tmp_path: Path) -> None:
    paths = images(tmp_path)
    halves = {name: value.to(dtype) for name, value in load_file(vit / "model.safetensors").items()}
    save_file(halves, vit / "model.safetensors")
    edit(vit / "config.json", dtype=str(dtype).removeprefix("torch."))
    network = transformers.AutoModelForImageClassification.from_pretrained(vit, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(vit, backend="pil")
    wanted = expected(network, processor, list(paths.values()))
    assert np.abs(answers(str(vit), list(paths)) - wanted).max() < 1e-5


def test_weights_in_several_files(vit: Path, tmp_path: Path) -> None:
    paths = list(images(tmp_path))
    wanted = answers(str(vit), paths)
    transformers.AutoModelForImageClassification.from_pretrained(vit).save_pretrained(
        tmp_path / "parts", max_shard_size="40KB"
    )
    shutil.copy(vit / "preprocessor_config.json", tmp_path / "parts")
    parts = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(parts) > 1
    assert np.array_equal(answers(str(tmp_path / "parts"), paths), wanted)
    parts[0].unlink()
    with pytest.raises(CheckpointError, match=f"has no {parts[0].name}"):
        load_network(str(tmp_path / "parts"), LoadOptions())


def test_an_index_does_not_lead_out_of_the_folder(vit: Path) -> None:
    (vit / "model.safetensors").rename(vit.parent / "other.safetensors")
    index = {"weight_map": {"classifier.weight": "../other.safetensors"}}
    (vit / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="does not name the files"):
        load_network(str(vit), LoadOptions())


def test_labels_of_ones_own(vit: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("chat\nchien\némeu\n", "utf-8")
    network = load_network(str(vit), LoadOptions(labels=str(names)))
    assert network.labels is not None
    assert [label.label for label in network.labels.labels] == ["chat", "chien", "émeu"]
    assert "labels" not in network.origins
    names.write_text("dog\ncat\nemu\n", "utf-8")
    with pytest.raises(LabelsError, match="in another order"):
        load_network(str(vit), LoadOptions(labels=str(names)))


def test_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    save_model("ViT", tmp_path / "model", id2label={index: f"class {index}" for index in range(12)})
    edit(
        tmp_path / "model/config.json",
        id2label={str(index): f"class {index}" for index in (10, 2, 0, 1, 11, *range(3, 10))},
    )
    network = load_network(str(tmp_path / "model"), LoadOptions())
    assert network.labels is not None
    assert [label.label for label in network.labels.labels] == [f"class {index}" for index in range(12)]


def test_placeholders_are_named_as_such(vit: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(vit / "config.json", id2label={str(index): f"LABEL_{index}" for index in range(3)})
    with caplog.at_level(logging.WARNING):
        network = load_network(str(vit), LoadOptions())
    assert "placeholders" in caplog.text
    assert network.labels is not None
    assert network.labels[1].label == "LABEL_1"


def test_options_come_before_the_file(vit: Path) -> None:
    from imgclassify.hub.network import PreprocessOverrides

    network = load_network(str(vit), LoadOptions(overrides=PreprocessOverrides(mean=(0.1, 0.2, 0.3))))
    assert network.preprocess.mean == (0.1, 0.2, 0.3)
    assert network.preprocess.crop_size == (32, 32)


def test_a_folder_without_a_processor_needs_options(vit: Path, tmp_path: Path) -> None:
    paths = list(images(tmp_path))
    wanted = answers(str(vit), paths)
    (vit / "preprocessor_config.json").rename(tmp_path / "kept.json")
    with pytest.raises(UsageError, match=r"lacks preprocessor_config\.json"):
        load_network(str(vit), LoadOptions())
    half = (0.5, 0.5, 0.5)
    given = {"resize_size": (32, 32), "crop_size": (32, 32), "interpolation": "bilinear", "mean": half, "std": half}
    assert answers(str(vit), paths, **given).shape == wanted.shape
    nested = {"image_processor": json.loads((tmp_path / "kept.json").read_text())}
    (vit / "processor_config.json").write_text(json.dumps(nested))
    assert np.array_equal(answers(str(vit), paths), wanted)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["ViTModel"]}, "is a ViTModel, which has no classifier"),
        ({"architectures": ["CLIPModel"], "model_type": "clip"}, "is a CLIPModel, which has no classifier"),
        ({"architectures": ["ViTForMaskedImageModeling"]}, "has no classifier"),
        ({"problem_type": "regression"}, "'regression'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "are quantized"),
        ({"num_channels": 4}, "4 channels"),
        ({"id2label": {"0": "cat", "2": "dog"}}, "does not name each class"),
        ({"id2label": ["cat", "dog", "emu"]}, "does not name each class"),
        ({"model_type": None}, "names no network"),
    ],
)
def test_what_is_no_classifier_is_refused(changes: dict[str, Any], words: str, vit: Path) -> None:
    edit(vit / "config.json", **changes)
    with pytest.raises(UnavailableError, match=words):
        load_network(str(vit), LoadOptions())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "own"}, "'own', is not in the installed transformers"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}, "Python code of its own.*never run"),
        ({"hidden_size": 48}, "does not fit"),
        ({"num_hidden_layers": 3}, r"does not fit.*layers\.2\..* is missing"),
        ({"id2label": {"0": "cat", "1": "dog"}, "label2id": None}, "does not fit.*classifier"),
        ({"hidden_size": "many"}, "cannot build"),
    ],
)
def test_a_network_that_the_weights_do_not_fit(changes: dict[str, Any], words: str, vit: Path) -> None:
    edit(vit / "config.json", **changes)
    build = load_network(str(vit), LoadOptions()).backends.build_torch
    assert build is not None
    with pytest.raises(UnavailableError, match=words):
        build()


def test_what_belongs_to_nothing_is_left_out_and_counted(
    vit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = list(images(tmp_path))
    wanted = answers(str(vit), paths)
    state_dict = load_file(vit / "model.safetensors")
    more = {"criterion.weight": torch.ones(2), "vit.pooler.dense.weight": torch.ones(32, 32)}
    save_file({**state_dict, **more}, vit / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(answers(str(vit), paths), wanted)
    assert "2 tensors that are not part of the network, such as criterion.weight" in caplog.text


def test_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    save_model("ResNet", tmp_path / "model")
    path = tmp_path / "model/model.safetensors"
    state_dict = load_file(path)
    assert any(name.endswith("num_batches_tracked") for name in state_dict)
    save_file({k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}, path)
    build = load_network(str(tmp_path / "model"), LoadOptions()).backends.build_torch
    assert build is not None
    assert build()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_weights_without_a_classifier_are_named_as_such(vit: Path) -> None:
    body = {k: v for k, v in load_file(vit / "model.safetensors").items() if not k.startswith("classifier")}
    save_file(body, vit / "model.safetensors")
    build = load_network(str(vit), LoadOptions()).backends.build_torch
    assert build is not None
    with pytest.raises(CheckpointError, match=r"has no classifier: it lacks classifier\.bias"):
        build()


def test_a_network_of_one_channel_sees_grey_images(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=8, num_channels=1, id2label=NAMES,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=0.5, image_std=0.5)
    processor.save_pretrained(tmp_path)
    network = load_network(str(tmp_path), LoadOptions())
    assert network.preprocess.channel_order == "grey"
    assert network.backends.build_torch is not None
    assert network.backends.build_torch()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("name", ["ViT", "Swin", "ConvNeXT"])
def test_a_prepared_folder_runs_in_onnxruntime(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network, processor = save_model(name, tmp_path / "model")
    reference = ModelReference.parse(str(tmp_path / "model"))
    prepare_model(reference, LoadOptions())
    assert find_prepared(reference, LoadOptions()) is not None
    shown = images(tmp_path)
    classifier = Classifier(reference.text, device="cpu")
    assert classifier.run.engine == "onnxruntime"
    wanted = expected(network, processor, list(shown.values()))
    assert np.abs(answers(reference.text, list(shown)) - wanted).max() < 1e-5
    # Another configuration is another model.
    edit(tmp_path / "model/preprocessor_config.json", image_mean=[0.1, 0.1, 0.1])
    assert find_prepared(reference, LoadOptions()) is None


def test_without_transformers_the_error_names_the_package(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    build = load_network(str(vit), LoadOptions()).backends.build_torch
    assert build is not None
    with pytest.raises(UnavailableError, match="transformers, which is not installed") as error:
        build()
    assert error.value.hint == "pip install transformers"


def test_features_of_a_folder(vit: Path, tmp_path: Path) -> None:
    path, image = next(iter(images(tmp_path).items()))
    network = transformers.AutoModelForImageClassification.from_pretrained(vit).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(vit, backend="pil")(images=image, return_tensors="pt")
    with torch.inference_mode():
        wanted = network.vit(**pixels).last_hidden_state[0, 0].numpy()
    found = Classifier(str(vit), device="cpu").embed(path).embedding
    assert np.abs(np.asarray(found) - wanted).max() < 1e-5 * np.abs(wanted).max()


# ONNX --------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph_folder(vit: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder as optimum writes it, with weights in a file of their own."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")

    def make(name: str) -> Path:
        folder = tmp_path / "graph"
        (folder / name).parent.mkdir(parents=True)
        for file in ("config.json", "preprocessor_config.json"):
            shutil.copy(vit / file, folder)
        build = load_network(str(vit), LoadOptions()).backends.build_torch
        assert build is not None
        torch.onnx.export(
            build(), (torch.zeros(2, 3, 32, 32),), tmp_path / "whole.onnx", input_names=["pixel_values"],
            output_names=["logits"], dynamo=True, verbose=False,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
        model = onnx.load(tmp_path / "whole.onnx")
        data = Path(name).name + "_data"
        onnx.save_model(
            model, folder / name, save_as_external_data=True, all_tensors_to_one_file=True, location=data,
            size_threshold=1024,
        )  # fmt: skip
        return folder

    return make


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_with_a_graph_needs_no_torch(
    name: str, graph_folder: Callable[[str], Path], vit: Path, tmp_path: Path
) -> None:
    folder = graph_folder(name)
    paths = list(images(tmp_path))
    network = load_network(str(folder), LoadOptions())
    assert network.backends.engines == ["onnxruntime"]
    assert network.sha256 is None  # the weights lie in another file
    assert np.abs(answers(str(folder), paths) - answers(str(vit), paths)).max() < 1e-5


# timm --------------------------------------------------------------------------------------------------------


def save_timm(folder: Path, *, classes: int = 4, safe: bool = True, **model_config: Any) -> torch.nn.Module:
    torch.manual_seed(11)
    network = timm.create_model(TIMM, pretrained=False, num_classes=classes).eval()
    torch.nn.init.normal_(network.get_classifier().weight, std=0.5)
    timm.models.save_for_hf(network, str(folder), model_config=model_config, safe_serialization=safe)
    return network


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_timm_answers_as_timm(safe: bool, tmp_path: Path) -> None:
    names = ["ant", "bee", "cow", "doe"]
    network = save_timm(tmp_path / "model", safe=safe, label_names=names)
    config = resolve_data_config({}, model=network)
    for path, image in images(tmp_path).items():
        with torch.inference_mode():
            wanted = network(create_transform(**config)(image)[None]).softmax(dim=1)[0]
        assert wanted.std() > 1e-3
        result = Classifier(str(tmp_path / "model"), top_k=4, device="cpu").predict(path)
        for prediction in result.predictions:
            assert prediction.label == names[prediction.class_index]
            assert prediction.probability == pytest.approx(float(wanted[prediction.class_index]), abs=1e-5)


def test_a_network_of_timm_that_sees_grey_images(tmp_path: Path) -> None:
    torch.manual_seed(11)
    network = timm.create_model(TIMM, pretrained=False, num_classes=3, in_chans=1).eval()
    torch.nn.init.normal_(network.get_classifier().weight, std=0.5)
    timm.models.save_for_hf(
        network,
        str(tmp_path / "model"),
        model_config={"label_names": list(NAMES.values())},
        safe_serialization=True,
    )
    config = resolve_data_config({}, model=network)
    mean, std = ((sum(config[key]) / len(config[key]),) for key in ("mean", "std"))
    transform = create_transform(**{**config, "mean": mean, "std": std})
    for path, image in images(tmp_path).items():
        with torch.inference_mode():
            wanted = network(transform(image.convert("L"))[None]).softmax(dim=1)[0].numpy()
        assert np.abs(answers(str(tmp_path / "model"), [path])[0] - wanted).max() < 1e-5
    assert Classifier(str(tmp_path / "model"), device="cpu").embed(path).embedding is not None


def test_the_wrapper_of_transformers_around_timm(tmp_path: Path) -> None:
    network = save_timm(tmp_path / "timm", label_names=["ant", "bee", "cow", "doe"])
    edit(tmp_path / "timm/config.json", model_args=None)  # transformers 5.24 passes num_classes twice
    transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "timm").save_pretrained(tmp_path / "hf")
    loaded = load_network(str(tmp_path / "hf"), LoadOptions())
    assert loaded.labels is not None
    assert loaded.labels[2].label == "cow"
    assert loaded.preprocess == load_network(str(tmp_path / "timm"), LoadOptions()).preprocess
    assert loaded.backends.build_torch is not None
    pixels = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        assert torch.allclose(loaded.backends.build_torch().eval()(pixels), network(pixels), atol=1e-6)


def test_timms_names_and_descriptions(tmp_path: Path) -> None:
    save_timm(
        tmp_path, classes=2, label_names=["n02099601", "lake"],
        label_descriptions={"n02099601": "golden retriever, goldie", "lake": "water"},
    )  # fmt: skip
    labels = load_network(str(tmp_path), LoadOptions()).labels
    assert labels is not None
    assert (labels[0].label, labels[0].wnid) == ("golden retriever", "n02099601")
    assert (labels[1].label, labels[1].gloss) == ("lake", "water")


def test_a_folder_of_timm_without_names_asks_for_them(tmp_path: Path) -> None:
    save_timm(tmp_path)
    with pytest.raises(UsageError, match="no class names"):
        load_network(str(tmp_path), LoadOptions())
    assert load_network(str(tmp_path), LoadOptions(with_labels=False)).num_classes == 4


def test_the_tag_of_imagenet_names_the_classes(tmp_path: Path) -> None:
    save_timm(tmp_path, classes=1000)
    content = json.loads((tmp_path / "config.json").read_text())
    edit(tmp_path / "config.json", pretrained_cfg={**content["pretrained_cfg"], "tag": "r160_in1k"})
    labels = load_network(str(tmp_path), LoadOptions()).labels
    assert labels is not None
    assert labels.name == "imagenet1k"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "own_net"}, "'own_net', which the installed timm"),
        ({"architecture": "hf-hub:other/model"}, "'hf-hub:other/model'"),
        ({"num_classes": "four"}, "num_classes is 'four'"),
        ({"label_names": [1, 2, 3, 4]}, "label_names should be"),
        ({"model_args": {"checkpoint_path": "other.pth"}}, "model_args has checkpoint_path"),
        ({"pretrained_cfg": [1]}, "should be JSON objects"),
        ({"pretrained_cfg": {"input_size": "large"}}, "config.json"),
    ],
)
def test_a_malformed_configuration_of_timm(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    save_timm(tmp_path, label_names=["ant", "bee", "cow", "doe"])
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(UnavailableError, match=words):
        load_network(str(tmp_path), LoadOptions())


def test_weights_that_do_not_fit_timms_architecture(tmp_path: Path) -> None:
    save_timm(tmp_path, label_names=["ant", "bee", "cow", "doe"])
    edit(tmp_path / "config.json", architecture="test_vit")
    build = load_network(str(tmp_path), LoadOptions()).backends.build_torch
    assert build is not None
    with pytest.raises(CheckpointError, match=r"does not fit config\.json"):
        build()


# Folders that are none ---------------------------------------------------------------------------------------


def test_a_folder_without_a_configuration_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_network(f"{tmp_path}/", LoadOptions())
    torch.save({}, tmp_path / "best.pth")
    with pytest.raises(CheckpointError) as error:
        load_network(f"{tmp_path}/", LoadOptions())
    assert str(tmp_path / "best.pth") in str(error.value.hint)


def test_a_folder_without_weights(vit: Path) -> None:
    (vit / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_network(str(vit), LoadOptions())


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe{", b'{"a":' * 9999])
def test_a_configuration_that_is_no_json(content: bytes, vit: Path) -> None:
    (vit / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        load_network(str(vit), LoadOptions())


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", b""])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_in_place_of_the_weights_is_named(name: str, content: bytes, vit: Path) -> None:
    (vit / "model.safetensors").unlink()
    (vit / name).write_bytes(content)
    network = load_network(str(vit), LoadOptions())
    assert network.backends.build_torch is not None
    with pytest.raises(CheckpointError, match="a Git LFS pointer" if content else "an empty file"):
        network.backends.build_torch()


def test_a_folder_without_an_image_processor_asks_for_what_it_takes(vit: Path) -> None:
    (vit / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"lacks preprocessor_config\.json") as error:
        load_network(str(vit), LoadOptions())
    assert str(error.value.hint).startswith("give --resize-size, ")


def test_arch_beside_a_folder_is_a_usage_error(vit: Path) -> None:
    with pytest.raises(UsageError, match="not for the folder") as error:
        load_network(str(vit), LoadOptions(arch="resnet18"))
    assert "give a file in it: -m FILE --arch resnet18" in str(error.value.hint)
