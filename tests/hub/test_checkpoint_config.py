"""What checkpoints say beside their weights: class names, preprocessing and architecture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import noise
from networks import seeded
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torchvision.models import get_model_weights
from torchvision.transforms.functional import pil_to_tensor

from imgclassify import Classifier, catalog
from imgclassify.errors import LabelsError, UsageError
from imgclassify.hub.class_names import parse_class_names
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, Network

ARCH = "shufflenet_v2_x0_5"
ANIMALS = ["cat", "dog", "emu"]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return seeded(ARCH, num_classes=3)


def load(folder: Path, content: Any, **options: Any) -> Network:
    torch.save(content, folder / "mine.pth")
    return load_network(str(folder / "mine.pth"), LoadOptions(**{"arch": ARCH, **options}))


def names_of(network: Network) -> list[str]:
    assert network.labels is not None
    return [label.label for label in network.labels.labels]


class Bundle(dict[str, Any]):
    """As Lightning's AttributeDict."""


@pytest.mark.parametrize(
    ("beside", "place"),
    [
        ({"class_to_idx": {"emu": 2, "cat": 0, "dog": 1}}, "class_to_idx"),
        ({"classes": ANIMALS}, "classes"),
        ({"classes": tuple(ANIMALS)}, "classes"),
        ({"names": {0: "cat", 1: "dog", 2: "emu"}}, "names"),
        ({"id2label": {"2": "emu", "0": "cat", "1": "dog"}}, "id2label"),
        ({"label_names": ANIMALS}, "label_names"),
        ({"idx_to_class": {2: "emu", 1: "dog", 0: "cat"}}, "idx_to_class"),
        ({"meta": {"CLASSES": ANIMALS}}, "meta.CLASSES"),
        ({"meta": {"dataset_meta": {"classes": ANIMALS}}}, "meta.dataset_meta.classes"),
        ({"hyper_parameters": Bundle(lr=0.1, class_names=ANIMALS)}, "hyper_parameters.class_names"),
        ({"args": argparse.Namespace(lr=0.1, class_names=ANIMALS)}, "args.class_names"),
        ({"config": {"data": {"label2id": {"cat": 0, "dog": 1, "emu": 2}}}}, "config.data.label2id"),
        ({"labels": [0, 1, 2], "names": ["a", "b"], "classes": ANIMALS}, "classes"),
        ({"idx2cls": {"0": "cat", "1": "dog", "2": "emu"}}, "idx2cls"),
        ({"name_to_index": {"cat": 0, "dog": 1, "emu": 2}}, "name_to_index"),
        ({"target_names": ANIMALS, "cat_to_name": {"0": "x", "1": "y", "2": "z"}}, "target_names"),
        ({"class_to_idx": {name: np.int64(index) for index, name in enumerate(ANIMALS)}}, "class_to_idx"),
        ({"idx_to_class": {np.int32(index): np.str_(name) for index, name in enumerate(ANIMALS)}}, "idx_to_class"),
        ({"classes": np.array(ANIMALS)}, "classes"),
        ({"classes": np.array(ANIMALS, dtype=object)}, "classes"),
        ({"label_encoder": argparse.Namespace(classes_=np.array(ANIMALS))}, "label_encoder.classes_"),
        ({"hyper_parameters": {"cfg": {"data": {"classes": ANIMALS}}}}, "hyper_parameters.cfg.data.classes"),
        ({"train_dataset": argparse.Namespace(root="x", classes=ANIMALS)}, "train_dataset.classes"),
    ],
)
def test_class_names_in_a_checkpoint(beside: dict[str, Any], place: str, small: nn.Module, tmp_path: Path) -> None:
    found = load(tmp_path, {"state_dict": small.state_dict(), **beside})
    assert names_of(found) == ANIMALS
    assert found.origins["labels"] == f"{place} in mine.pth"


@pytest.mark.parametrize(
    "value",
    [
        3,
        None,
        [],
        ["a", 3],
        ["a", ""],
        {"a": 0, "b": 2},
        {"a": 0, "b": 0},
        {"a": True, "b": False},
        {"a": 1, "b": 2},
        {"a": "b"},
        {0: "a", 10**9: "b"},
        {"a": {"b": 0}},
        "cat dog",
        torch.ones(3),
        float("nan"),
    ],
)
def test_values_that_are_no_class_names(value: Any) -> None:
    assert parse_class_names(value) is None


def test_names_of_another_number_of_classes_are_not_the_networks(small: nn.Module, tmp_path: Path) -> None:
    content = {"state_dict": small.state_dict(), "classes": [*ANIMALS, "fox"]}
    with pytest.raises(LabelsError, match="1000 classes, the network has 3"):
        load(tmp_path, content)


def test_folders_of_imagenet_are_given_their_names(small: nn.Module, tmp_path: Path) -> None:
    wnids = {"n01440764": 0, "n03000684": 1, "n03888257": 2}
    found = load(tmp_path, {"state_dict": small.state_dict(), "class_to_idx": wnids})
    assert names_of(found) == ["tench", "chain saw", "parachute"]
    assert found.labels is not None
    assert [label.wnid for label in found.labels.labels] == list(wnids)


def test_labels_of_the_user_count_first_unless_they_are_the_same_in_another_order(
    small: nn.Module, tmp_path: Path
) -> None:
    content = {"state_dict": small.state_dict(), "classes": ANIMALS}
    (tmp_path / "french.txt").write_text("chat\nchien\némeu\n", "utf-8")
    assert names_of(load(tmp_path, content, labels=str(tmp_path / "french.txt"))) == ["chat", "chien", "émeu"]
    (tmp_path / "turned.txt").write_text("emu\ndog\ncat\n")
    with pytest.raises(LabelsError, match="another order"):
        load(tmp_path, content, labels=str(tmp_path / "turned.txt"))
    (tmp_path / "misspelt.txt").write_text("Dog\nCAT\nmeu\n")
    with pytest.raises(LabelsError, match="class 0 is 'Dog' there, but 'cat' in classes"):
        load(tmp_path, content, labels=str(tmp_path / "misspelt.txt"))
    content["classes"] = ["polar bear", "sea_lion", "emu"]
    (tmp_path / "spelt.txt").write_text("Sea Lion\nPolar_Bear\nemu\n")
    with pytest.raises(LabelsError, match="another order"):
        load(tmp_path, content, labels=str(tmp_path / "spelt.txt"))


def test_metadata_of_safetensors(small: nn.Module, tmp_path: Path) -> None:
    metadata = {"format": "pt", "class_names": json.dumps(ANIMALS), "arch": ARCH, "img_size": "128"}
    save_file(small.state_dict(), tmp_path / "mine.safetensors", metadata=metadata)
    found = load_network(str(tmp_path / "mine.safetensors"), LoadOptions())
    assert names_of(found) == ANIMALS
    assert found.architecture == ARCH
    assert (found.preprocess.resize_size, found.preprocess.crop_size) == (146, (128, 128))


@pytest.mark.parametrize(
    ("beside", "wanted"),
    [
        ({"args": argparse.Namespace(val_crop_size=176, val_resize_size=232)}, {"resize": 232, "crop": 176}),
        ({"hyper_parameters": {"image_size": 112}}, {"resize": 128, "crop": 112}),
        ({"config": {"input_size": [3, 96, 96], "crop_pct": 0.875}}, {"resize": 109, "crop": 96}),
        ({"args": {"crop_pct": 1.0}}, {"resize": 224}),
        ({"args": {"interpolation": "bicubic"}}, {"interpolation": "bicubic"}),
        ({"args": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}}, {"mean": (0.5, 0.4, 0.3)}),
        ({"args": {"mean": [127.5, 127.5, 127.5], "std": [51, 51, 51]}}, {"mean": (0.5, 0.5, 0.5)}),
        ({"args": {"mean": np.float32([0.5, 0.4, 0.3]), "std": [np.float64(0.2)] * 3}}, {"mean": (0.5, 0.4, 0.3)}),
        (
            {"cfg": {"mean": torch.tensor([0.5, 0.4, 0.3]), "std": np.full((3, 1, 1), 0.2)}},
            {"mean": (0.5, 0.4, 0.3)},
        ),
        ({"args": {"crop_pct": np.float64(1)}, "mean": torch.ones(3, device="meta")}, {"resize": 224}),
        ({"args": {"img_size": None, "mean": None, "std": None, "crop_pct": None, "interpolation": ""}}, {}),
        ({"args": {"img_size": "large", "mean": "x", "std": [0, 0, 0], "crop_pct": 87.5}}, {}),
        ({"args": {"img_size": 10**9, "mean": [1], "std": [float("nan")]}}, {}),
        ({"args": {"image_size": [224, 112]}}, {}),
    ],
)
def test_preprocessing_in_a_checkpoint(
    beside: dict[str, Any], wanted: dict[str, Any], small: nn.Module, tmp_path: Path
) -> None:
    found = load(tmp_path, {"state_dict": small.state_dict(), **beside}, with_labels=False)
    own = catalog.find_model(ARCH).preprocess
    spec = found.preprocess
    assert spec.resize_size == wanted.get("resize", own.resize_size)
    assert spec.crop_size[0] == wanted.get("crop", own.crop_size[0])
    assert spec.interpolation == wanted.get("interpolation", own.interpolation)
    assert spec.mean == pytest.approx(wanted.get("mean", own.mean))
    assert ("preprocess" in found.origins) == bool(wanted)


def test_an_architecture_that_is_not_known_or_does_not_fit_is_passed_over(small: nn.Module, tmp_path: Path) -> None:
    names = small.state_dict()
    content = {"arch": "shufflenetv2", "state_dict": names, "args": {"model_name": ARCH, "model": "resume.pth"}}
    assert load(tmp_path, content, arch=None, with_labels=False).architecture == ARCH
    with pytest.raises(UsageError, match="does not name their architecture") as error:
        load(tmp_path, {"arch": "mine", "state_dict": names}, arch=None, with_labels=False)
    assert f"--arch {ARCH}" in str(error.value.hint)


# Checkpoints as two training programs save them -------------------------------------------------------------------


def expected(network: nn.Module, image: torch.Tensor) -> list[float]:
    with torch.inference_mode():
        return [float(value) for value in network.eval()(image[None])[0].softmax(0)]


def check_answer(classifier: Classifier, wanted: list[float]) -> None:
    [result] = classifier.predict([noise(300, 200, seed=5)])
    for prediction in result.predictions:
        assert prediction.probability == pytest.approx(wanted[prediction.class_index], abs=1e-5)


@pytest.mark.parametrize("ema", [False, True])
def test_timms_train_py(ema: bool, tmp_path: Path) -> None:
    """Saved by timm's own CheckpointSaver, with the options that train.py gives it."""
    torch.manual_seed(0)
    network, averaged = (timm.create_model("test_vit", num_classes=3) for _ in range(2))
    for each in (network, averaged):
        nn.init.normal_(each.head.weight, std=0.2)
    args = argparse.Namespace(
        data_dir="x",
        model="test_vit",
        pretrained=False,
        num_classes=3,
        gp=None,
        crop_pct=0.9,
        img_size=None,
        in_chans=None,
        input_size=None,
        mean=[0.4, 0.5, 0.6],
        std=None,
        lr=0.1,
        interpolation="bilinear",
        train_interpolation="random",
        train_crop_mode=None,
        opt="sgd",
        model_ema=ema,
        class_map="",
        drop=0.0,
        crop_mode=None,
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(2, 3, 160, 160)).sum().backward()
    optimizer.step()
    saver = CheckpointSaver(
        network, optimizer, args=args, model_ema=ModelEmaV3(averaged) if ema else None, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(3, metric=71.5)
    (tmp_path / "animals.txt").write_text("\n".join(ANIMALS))
    classifier = Classifier(
        str(tmp_path / "model_best.pth.tar"), labels=str(tmp_path / "animals.txt"), device="cpu", top_k=3
    )
    # train.py evaluates so.
    config = resolve_data_config(vars(args), model=network)
    transform = create_transform(**config)
    answering = averaged if ema else network
    check_answer(classifier, expected(answering, transform(noise(300, 200, seed=5))))
    assert classifier.runner.network.origins["arch"].endswith(": timm:test_vit")


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("with_arch", [False, True])
def test_torchvisions_references(with_arch: bool, ema: bool, small: nn.Module, tmp_path: Path) -> None:
    """Saved as references/classification/train.py does it."""
    other = seeded(ARCH, num_classes=3)
    nn.init.normal_(other.fc.weight)
    averaged = torch.optim.swa_utils.AveragedModel(small, device="cpu", use_buffers=True)
    args = argparse.Namespace(
        data_path="x",
        model=ARCH,
        device="cuda",
        batch_size=32,
        epochs=90,
        workers=16,
        lr=0.1,
        weights=None,
        interpolation="bicubic",
        val_resize_size=236,
        val_crop_size=208,
        train_crop_size=176,
        model_ema=ema,
        backend="PIL",
        use_v2=False,
        world_size=1,
        gpu=0,
    )
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    checkpoint = {
        "model": (other if ema else small).state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
        "epoch": 3,
        "args": args,
    }
    if ema:
        checkpoint["model_ema"] = averaged.state_dict()
        checkpoint["scaler"] = torch.amp.GradScaler("cpu").state_dict()
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    (tmp_path / "animals.txt").write_text("\n".join(ANIMALS))
    classifier = Classifier(
        str(tmp_path / "checkpoint.pth"),
        arch=ARCH if with_arch else None,
        labels=str(tmp_path / "animals.txt"),
        device="cpu",
        top_k=3,
    )
    # Its presets.ClassificationPresetEval.
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    steps = Compose([Resize(236, InterpolationMode.BICUBIC), CenterCrop(208)])
    published = get_model_weights(ARCH).DEFAULT.transforms()
    pixels = pil_to_tensor(steps(noise(300, 200, seed=5))) / 255
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (published.mean, published.std))
    check_answer(classifier, expected(small, (pixels - mean) / std))
