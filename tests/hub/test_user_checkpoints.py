"""Users' checkpoints, run by both engines, against the networks that they were saved from."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import noise
from graphs_by_text import LOGITS, save_graph
from networks import seeded
from torch import nn
from torchvision.models import get_model

from imgclassify.errors import CheckpointError, UsageError
from imgclassify.graphs.session import SessionConfig
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.own_models import add_model

ARCH = "shufflenet_v2_x0_5"
TIMM = "timm:test_vit.r160_in1k"


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return seeded(ARCH, num_classes=5)


def load(folder: Path, content: Any, arch: str | None = ARCH, **options: Any) -> Network:
    torch.save(content, folder / "mine.pth")
    return load_network(str(folder / "mine.pth"), LoadOptions(arch=arch, with_labels=False, **options))


def under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in values.items()}


def check_same(found: Network, network: nn.Module, *, grey: bool = False) -> None:
    """Compares the logits of both engines with the network's own, for random crops."""
    side = found.preprocess.crop_size[0]
    pixels = np.random.default_rng(3).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    if grey:
        pixels = np.repeat(pixels[..., :1], 3, axis=3)
    normal = (pixels / 255 - found.preprocess.mean) / found.preprocess.std
    images = torch.from_numpy(normal).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        wanted = network.eval()(images[:, :1] if grey else images).numpy()
        assert found.backends.build_torch is not None
        answer = found.backends.build_torch().float().eval()(images)
        np.testing.assert_allclose(getattr(answer, "logits", answer).numpy(), wanted, atol=1e-4)
    if found.backends.open_session is not None:
        session = found.backends.open_session(SessionConfig(threads=1))
        np.testing.assert_allclose(session.run(None, {"crops": pixels})[0], wanted, atol=1e-4)


def test_both_engines_fit_names_alike(small: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = {**under("model.net.", small.state_dict()), "loss.weight": torch.ones(5)}
    found = load(tmp_path, {"state_dict": names})
    assert found.backends.engines == ["onnxruntime", "torch"]
    assert found.num_classes == 5
    check_same(found, small)
    assert "1 tensor that belongs to no layer is left out: loss.weight" in caplog.text


HEADS = {
    "alexnet": ("classifier.6", nn.Linear(4096, 6)),
    "efficientnet_b0": ("classifier", nn.Linear(1280, 6)),
    "mobilenet_v3_small": ("classifier.3", nn.Linear(1024, 6, bias=False)),
    "squeezenet1_1": ("classifier.1", nn.Conv2d(512, 6, 1, bias=False)),
    "vit_b_32": ("heads", nn.Linear(768, 6)),
}


@pytest.mark.parametrize("arch", HEADS)
def test_heads_that_users_replace(arch: str, tmp_path: Path) -> None:
    network, (place, layer) = get_model(arch), HEADS[arch]
    nn.init.normal_(layer.weight, std=0.05)
    network.set_submodule(place, nn.Sequential(nn.Dropout(0.3), layer))
    check_same(load(tmp_path, network.state_dict(), arch), network)


def test_data_parallel_inside_a_network_as_the_imagenet_example_saves_it(tmp_path: Path) -> None:
    network = seeded("vgg11", num_classes=6)
    names = {name.replace("features.", "features.module."): value for name, value in network.state_dict().items()}
    content = {"epoch": 3, "arch": "vgg11", "state_dict": names, "best_acc1": torch.tensor(71.2), "scheduler": {}}
    found = load(tmp_path, content, arch=None)
    assert found.architecture == "vgg11"
    assert found.origins == {"arch": "arch in mine.pth: vgg11"}
    check_same(found, network)


def test_densenets_older_names_under_a_prefix(tmp_path: Path) -> None:
    network = seeded("densenet121", num_classes=4)
    older = {
        name.replace("norm1.", "norm.1.").replace("conv1.", "conv.1."): value
        for name, value in network.state_dict().items()
    }
    assert older.keys() != network.state_dict().keys()
    check_same(load(tmp_path, under("module.", older), "densenet121"), network)


@pytest.mark.parametrize("key", ["model_ema", "ema", "swa_model", "averaged"])
def test_averaged_weights_are_taken_and_named(
    key: str, small: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = seeded(ARCH, num_classes=5)
    nn.init.normal_(raw.fc.weight)
    averaged = torch.optim.swa_utils.AveragedModel(small).state_dict()
    content = {"model": raw.state_dict(), key: averaged, "epoch": 3}
    check_same(load(tmp_path, content), small)
    assert f"the averaged weights under '{key}' are used; --checkpoint-key model takes the others" in caplog.text
    caplog.clear()
    check_same(load(tmp_path, content, checkpoint_key="model"), raw)
    assert not caplog.text


def test_averages_of_parameters_alone_are_not_taken_and_that_is_said(
    small: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    averages = {name: torch.zeros_like(value) for name, value in small.named_parameters()}
    check_same(load(tmp_path, {"model": small.state_dict(), "ema": averages}), small)
    assert "the averaged weights under 'ema' do not fit, and are not used" in caplog.text


def test_of_two_networks_one_must_be_chosen(small: nn.Module, tmp_path: Path) -> None:
    other = seeded(ARCH, num_classes=5)
    nn.init.normal_(other.fc.weight)
    content = {"fold0": other.state_dict(), "fold1": small.state_dict()}
    with pytest.raises(CheckpointError, match=r"ambiguous.*'fold0' and 'fold1'") as error:
        load(tmp_path, content)
    assert "--checkpoint-key fold0" in str(error.value.hint)
    check_same(load(tmp_path, content, checkpoint_key="fold1"), small)


def test_the_mapping_that_fits_wins_whatever_stands_before_it(small: nn.Module, tmp_path: Path) -> None:
    content = {
        "model": {"name": "x", "mean": torch.zeros(3)},
        "state_dict": get_model("squeezenet1_1").state_dict(),
        "classifier": small.state_dict(),
    }
    check_same(load(tmp_path, content), small)


def test_parts_in_mappings_of_their_own(small: nn.Module, tmp_path: Path) -> None:
    names = small.state_dict()
    body = {name: value for name, value in names.items() if not name.startswith("fc.")}
    head = {"weight": names["fc.weight"], "bias": names["fc.bias"]}
    check_same(load(tmp_path, {"backbone": body, "fc": head, "epoch": 3}), small)
    check_same(load(tmp_path, {"encoder_state_dict": body, "head_state_dict": head, "epoch": 3}), small)


def test_a_network_of_one_channel_takes_grey_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = seeded("resnet18", num_classes=4)
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    found = load(tmp_path, network.state_dict(), "resnet18")
    assert found.preprocess.channel_order == "grey"
    assert found.preprocess.mean == pytest.approx((0.449,) * 3)
    assert found.backends.engines == ["onnxruntime", "torch"]
    check_same(found, network, grey=True)
    assert "takes one channel" in caplog.text


def test_timms_network_of_one_channel(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", in_chans=1, num_classes=4)
    found = load(tmp_path, network.state_dict(), TIMM)
    assert found.preprocess.channel_order == "grey"
    check_same(found, network, grey=True)


def test_position_embeddings_of_another_size_run_at_that_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = get_model("vit_b_32", image_size=384, num_classes=3)
    nn.init.normal_(network.heads.head.weight, std=0.05)
    found = load(tmp_path, under("module.", network.state_dict()), "vit_b_32")
    assert (found.preprocess.resize_size, found.preprocess.crop_size) == (439, (384, 384))
    assert "images of 384×384" in caplog.text
    check_same(found, network)
    network = timm.create_model("test_vit", img_size=96, num_classes=4)
    found = load(tmp_path, network.state_dict(), TIMM)
    assert found.preprocess.crop_size == (96, 96)
    check_same(found, network)


def test_the_layer_that_normalises_images_gives_mean_and_std(small: nn.Module, tmp_path: Path) -> None:
    """As in the library `robustness`, whose checkpoints also hold the network twice."""
    names = small.state_dict()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.3, 0.4, 0.5])
    content = {
        "model": {
            **under("module.model.", names),
            **under("module.attacker.model.", names),
            "module.normalizer.new_mean": mean.reshape(3, 1, 1),
            "module.normalizer.new_std": std.reshape(3, 1, 1),
        }
    }
    found = load(tmp_path, content)
    assert found.preprocess.mean == pytest.approx((0.1, 0.2, 0.3))
    assert found.preprocess.std == pytest.approx((0.3, 0.4, 0.5))
    check_same(found, small)


@pytest.mark.parametrize(
    ("saved", "asked", "part", "hint"),
    [
        ("resnet18", "resnet34", "the depth differs: it lacks blocks", "--arch resnet18"),
        ("resnet34", "resnet18", "the depth differs: it has more blocks", "--arch resnet34"),
        ("resnet50", "wide_resnet50_2", "the width differs", "--arch resnet50"),
        ("squeezenet1_1", "resnet18", "hardly a name is the same", "--arch squeezenet1_1"),
    ],
)
def test_the_architecture_that_fits_is_named(saved: str, asked: str, part: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=part) as error:
        load(tmp_path, {"state_dict": under("module.", get_model(saved, num_classes=7).state_dict())}, asked)
    assert hint in str(error.value.hint)
    with pytest.raises(UsageError, match="does not name their architecture") as unnamed:
        load(tmp_path, get_model(saved, num_classes=7).state_dict(), None)
    assert hint in str(unnamed.value.hint)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"classifier.0.weight": torch.ones(3, 576), "classifier.0.bias": torch.ones(3)}, "the head differs"),
        ({"features.0.0.bias": torch.ones(16)}, r"parts that the architecture has not \(features\.0\.0\)"),
        ({"features.13.block.0.0.weight": torch.ones(16, 96, 1, 1)}, r"more blocks \(features\.13"),
        ({"features.12.0.weight": None}, "not tensors"),
    ],
)
def test_the_part_that_differs_is_named(changes: dict[str, Any], part: str, tmp_path: Path) -> None:
    names = get_model("mobilenet_v3_small").state_dict()
    with pytest.raises(CheckpointError, match=part):
        load(tmp_path, {**names, **changes}, "mobilenet_v3_small")
    del names["features.12.0.weight"]
    with pytest.raises(CheckpointError, match=r"its layers are others; missing: features\.12\.0\.weight"):
        load(tmp_path, names, "mobilenet_v3_small")


def test_what_holds_no_tensors_is_named(small: nn.Module, tmp_path: Path) -> None:
    arrays = {name: value.numpy() for name, value in small.state_dict().items()}
    for content in (arrays, {"epoch": 3, "state_dict": arrays}):
        with pytest.raises(CheckpointError, match="holds arrays of NumPy") as error:
            load(tmp_path, content)
        assert "torch.from_numpy" in str(error.value.hint)
    for content in ([small], {"best": {"model": small}}, {"epoch": 3, "net": nn.DataParallel(small)}):
        with pytest.raises(CheckpointError, match="is a whole pickled module"):
            load(tmp_path, content)


def test_a_network_of_no_registry_is_told_how_it_can_be_run(tmp_path: Path) -> None:
    network = seeded("resnet18", num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    with pytest.raises(CheckpointError, match="the stem differs") as error:
        load(tmp_path, network.state_dict(), "resnet18")
    assert "torch.onnx.export" in str(error.value.hint)


def test_weights_that_fit_are_not_copied_and_nothing_is_said(
    small: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = load(tmp_path, small.state_dict())
    assert found.backends.open_session is not None
    assert found.backends.open_session(SessionConfig(threads=1)).held == []
    assert not caplog.records


def test_a_key_is_for_checkpoints_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is for checkpoint files"):
        load_network("efficientnet_lite0", LoadOptions(checkpoint_key="model"))
    save_graph(tmp_path / "mine.onnx", "float[N,3] y", LOGITS + "y = Identity (g)")
    with pytest.raises(UsageError, match="checkpoint_key is for"):
        load_network(str(tmp_path / "mine.onnx"), LoadOptions(checkpoint_key="model", arch=ARCH))


def test_a_model_that_is_added_under_a_name_is_fitted_alike(small: nn.Module, tmp_path: Path) -> None:
    """Its key, its channels and the size of its images are kept in the manifest."""
    (tmp_path / "five.txt").write_text("a\nb\nc\nd\ne\n")
    other = seeded(ARCH, num_classes=5)
    nn.init.normal_(other.fc.weight)
    content = {"one": {"net": other.state_dict()}, "two": {"net": under("module.", small.state_dict())}}
    torch.save(content, tmp_path / "two.pth")
    labels = str(tmp_path / "five.txt")
    add_model(str(tmp_path / "two.pth"), "second", arch=ARCH, labels=labels, checkpoint_key="two.net")
    check_same(load_network("second", LoadOptions()), small)
    grey = seeded("resnet18", num_classes=5)
    grey.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(under("model.", grey.state_dict()), tmp_path / "grey.pth")
    add_model(str(tmp_path / "grey.pth"), "grey", arch="resnet18", labels=labels)
    check_same(load_network("grey", LoadOptions()), grey, grey=True)
    large = timm.create_model("test_vit", img_size=96, num_classes=5)
    torch.save({"arch": "test_vit", "state_dict": large.state_dict()}, tmp_path / "large.pth")
    add_model(str(tmp_path / "large.pth"), "large", labels=labels)
    check_same(load_network("large", LoadOptions()), large)


def test_a_run_is_not_resumed_with_other_weights_of_the_same_file(small: nn.Module, tmp_path: Path) -> None:
    other = seeded(ARCH, num_classes=5)
    nn.init.normal_(other.fc.weight)
    torch.save({"state_dict": small.state_dict(), "state_dict_ema": other.state_dict()}, tmp_path / "mine.pth")
    (tmp_path / "five.txt").write_text("a\nb\nc\nd\ne\n")
    for name in "xy":
        noise(60, 50, seed=ord(name)).save(tmp_path / f"{name}.png")

    def predict(*arguments: str) -> subprocess.CompletedProcess[str]:
        model = ["-m", "mine.pth", "--arch", ARCH, "--labels", "five.txt", "-o", "out.csv"]
        command = [sys.executable, "-m", "imgclassify", "predict", *model, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert predict("x.png").returncode == 0
    run = json.loads((tmp_path / "out.csv.run.json").read_text())["run"]
    assert run["options"] == {"checkpoint_key": "state_dict_ema"}
    refused = predict("x.png", "y.png", "--resume", "--checkpoint-key", "state_dict")
    assert refused.returncode == 2
    assert "options.checkpoint_key was 'state_dict_ema' and is now 'state_dict'" in " ".join(refused.stderr.split())
    assert predict("x.png", "y.png", "--resume", "--checkpoint-key", "state_dict_ema").returncode == 0
