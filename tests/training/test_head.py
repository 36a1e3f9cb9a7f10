"""Other heads: logits against plain torch code, for torchvision, timm and transformers."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from networks import seeded
from safetensors.torch import save_file
from taught import crops_for, features_of, logits_of_head, normalized, probe
from torch import nn
from torchvision.models import get_model

from imgclassify import catalog
from imgclassify.engines import FEATURES, LOGITS
from imgclassify.errors import OutputError, UsageError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides
from imgclassify.runner import ModelRunner, RunnerOptions
from imgclassify.training.head import build_trainable, find_head, replace_head, to_arrays
from imgclassify.training.scratch import create_scratch_network

FLOAT = sorted(torchvision.models.list_models(module=torchvision.models))
QUICK = ("resnet18", "googlenet", "mobilenet_v3_small", "vit_b_32")
NOT_LINEAR = ("squeezenet1_0", "squeezenet1_1")
WITHOUT_BIAS = ("maxvit_t",)
FIXED_SIZE = ("vit", "maxvit")
"""Beginnings of the names of architectures that take images of one size."""
CLASSES = 3


def load(folder: Path, architecture: str, state_dict: dict[str, torch.Tensor], arch: str = "") -> Network:
    save_file({name: value.contiguous() for name, value in state_dict.items()}, folder / "weights.safetensors")
    options = LoadOptions(arch=arch or architecture, with_labels=False, transform_input=None)
    return load_network(str(folder / "weights.safetensors"), options)


def torchvision_network(architecture: str) -> nn.Module:
    manifest = catalog.find_model(architecture)
    return seeded(architecture, **manifest.options)


def images(side: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(7))


def logits_of(network: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return network.eval()(pixels).numpy()


def to_tensors(state_dict: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in state_dict.items()}


# A probe ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in FLOAT
        if name not in NOT_LINEAR
    ],
)
def test_torchvision_computes_the_logits_of_a_probe(architecture: str, tmp_path: Path) -> None:
    network = torchvision_network(architecture)
    manifest = catalog.find_model(architecture)
    loaded = load(tmp_path, architecture, network.state_dict())
    assert loaded.backends.find_graph is not None
    pixels = images(manifest.preprocess.crop_size[0] if architecture.startswith(FIXED_SIZE) else 96)
    features = features_of(network, pixels)
    head = find_head(loaded)
    assert head.shape == (1000, features.shape[1])
    assert (head.bias == "") == (architecture in WITHOUT_BIAS)
    weight, bias = probe(features.shape[1], CLASSES, has_bias=bool(head.bias))
    state_dict = replace_head(loaded, weight, bias)
    options: dict[str, Any] = {**manifest.options, "num_classes": CLASSES}
    if "aux_logits" in options:
        options["aux_logits"] = False
    taught = get_model(architecture, weights=None, **options)
    tensors = OrderedDict(to_tensors(state_dict))
    tensors._metadata = taught.state_dict()._metadata  # type: ignore[attr-defined] # MNASNet wants its version
    taught.load_state_dict(tensors)  # strictly: each parameter is there, and nothing else
    wanted = logits_of_head(features, weight, bias)
    assert np.abs(logits_of(taught, pixels) - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("architecture", NOT_LINEAR)
def test_a_network_that_is_not_linear_in_its_features_is_refused(architecture: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, architecture, torchvision_network(architecture).state_dict())
    weight, bias = probe(512, CLASSES)
    for refused in (lambda: find_head(loaded), lambda: replace_head(loaded, weight, bias)):
        with pytest.raises(OutputError, match="a probe cannot become the head") as error:
            refused()
        assert "finetune" in str(error.value.hint)
    with pytest.raises(OutputError, match="cannot become the head"):
        build_trainable(loaded, CLASSES, (weight, bias))
    # So it is found in torch, too.
    with pytest.raises(OutputError, match="cannot become the head"):
        find_head(replace(loaded, backends=loaded.backends._replace(find_graph=None)))


def test_a_head_without_bias_takes_no_bias(tmp_path: Path) -> None:
    loaded = load(tmp_path, "maxvit_t", torchvision_network("maxvit_t").state_dict())
    weight, bias = probe(512, CLASSES)
    with pytest.raises(OutputError, match="has no bias") as error:
        replace_head(loaded, weight, bias)
    assert error.value.hint == "fit the probe without an intercept"


def test_a_probe_of_other_features_is_a_mistake(tmp_path: Path) -> None:
    loaded = load(tmp_path, "resnet18", torchvision_network("resnet18").state_dict())
    weight, bias = probe(511, CLASSES)
    with pytest.raises(ValueError, match="do not fit 512 features"):
        replace_head(loaded, weight, bias)


def test_the_embedded_model_gets_timms_names_without_torch() -> None:
    code = """
import sys
import numpy as np
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.training.head import replace_head
network = load_network("efficientnet_lite0", LoadOptions(offline=True))
state_dict = replace_head(network, np.ones((2, 1280), np.float32), np.ones(2, np.float32))
assert not sys.modules.keys() & {"torch", "timm", "torchvision"}
print(*state_dict)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wanted = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=2).state_dict()
    assert set(done.stdout.split()) == set(wanted)


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "test_resnet", "test_efficientnet", "resnetv2_18"])
def test_timm_computes_the_logits_of_a_probe(name: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    network = timm.create_model(name, pretrained=False).eval()
    arch = next(each for each in timm.list_pretrained(name) if each.partition(".")[0] == name)
    loaded = load(tmp_path, name, network.state_dict(), arch=f"timm:{arch}")
    assert loaded.backends.find_graph is None
    pixels = images(loaded.preprocess.crop_size[0])
    with torch.inference_mode():
        features = network.forward_head(network.forward_features(pixels), pre_logits=True)
    weight, bias = probe(features.shape[1], CLASSES)
    taught = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    taught.load_state_dict(to_tensors(replace_head(loaded, weight, bias)))
    assert np.abs(logits_of(taught, pixels) - logits_of_head(features, weight, bias)).max() < 1e-5


def test_a_network_without_a_classifier_gets_one(tmp_path: Path) -> None:
    torch.manual_seed(4)
    network = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    timm.models.save_for_hf(network, str(tmp_path / "start"))
    loaded = load_network(str(tmp_path / "start"), LoadOptions(with_labels=False))
    pixels = images(160)
    with torch.inference_mode():
        features = network(pixels)
    state = torch.get_rng_state()
    weight, bias = probe(features.shape[1], CLASSES)
    taught = timm.create_model("test_vit", pretrained=False, num_classes=CLASSES)
    taught.load_state_dict(to_tensors(replace_head(loaded, weight, bias)))
    wanted = logits_of_head(features, weight, bias)
    assert np.abs(logits_of(taught, pixels) - wanted).max() < 1e-5
    assert np.abs(logits_of(build_trainable(loaded, CLASSES, (weight, bias)), pixels) - wanted).max() < 1e-5
    torch.set_rng_state(state)
    find_head(loaded)
    assert torch.equal(torch.get_rng_state(), state)


def test_two_heads_take_no_probe(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    network = timm.create_model(name, pretrained=False)
    loaded = load(tmp_path, name, network.state_dict(), arch=f"timm:{name}.fb_in1k")
    with pytest.raises(OutputError, match="cannot become the head"):
        find_head(loaded)
    module = build_trainable(loaded, CLASSES)
    heads = [name for name, value in module.named_parameters() if value.shape[0] == CLASSES]
    assert heads == ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]


@pytest.mark.parametrize("name", ["ViT", "Swin", "ConvNeXT", "LeViT", "MobileNetV2"])
def test_transformers_computes_the_logits_of_a_probe(name: str, tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers")
    from tiny_transformers import save_model

    save_model(name, tmp_path)
    loaded = load_network(str(tmp_path), LoadOptions())
    runner = ModelRunner(loaded, RunnerOptions(device="cpu", outputs=(LOGITS, FEATURES)))
    crops = crops_for(loaded)
    features = torch.from_numpy(runner.engine.infer(crops)[FEATURES])
    weight, bias = probe(features.shape[1], CLASSES)
    state_dict = replace_head(loaded, weight, bias)
    config = hf.AutoConfig.from_pretrained(tmp_path, num_labels=CLASSES)
    taught = hf.AutoModelForImageClassification.from_config(config).eval()
    taught.load_state_dict(to_tensors(state_dict))
    with torch.inference_mode():
        logits = taught(pixel_values=normalized(crops, loaded)).logits.numpy()
    wanted = logits_of_head(features, weight, bias)
    assert np.abs(logits - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


# A module --------------------------------------------------------------------------------------------------------


def test_a_module_begins_with_the_weights_and_a_random_head(tmp_path: Path) -> None:
    network = torchvision_network("resnet18")
    loaded = load(tmp_path, "resnet18", network.state_dict())
    torch.manual_seed(5)
    module = build_trainable(loaded, 5)
    assert module.training
    state_dict = module.state_dict()
    assert state_dict.keys() == get_model("resnet18", num_classes=5).state_dict().keys()
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    for name, value in network.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(state_dict[name], value), name
    # As torch.nn.Linear: uniform, up to 1 / sqrt(512).
    weight, bias = state_dict["fc.weight"], state_dict["fc.bias"]
    assert weight.shape == (5, 512)
    assert 0.95 * 512**-0.5 < weight.abs().max() <= 512**-0.5
    assert abs(float(weight.std()) - 512**-0.5 / 3**0.5) < 0.002
    assert 0 < bias.abs().max() <= 512**-0.5
    torch.manual_seed(5)
    assert torch.equal(build_trainable(loaded, 5).fc.weight, weight)
    torch.manual_seed(6)
    assert not torch.equal(build_trainable(loaded, 5).fc.weight, weight)


@pytest.mark.parametrize("architecture", ["googlenet", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_module_learns(architecture: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, architecture, torchvision_network(architecture).state_dict())
    torch.manual_seed(1)
    module = build_trainable(loaded, CLASSES)
    assert not any(name.lower().startswith("aux") for name in module.state_dict())
    before = {name: value.clone() for name, value in module.named_parameters()}
    logits = module(images(64, 4))
    assert logits.shape == (4, CLASSES)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    changed = [name for name, value in module.named_parameters() if not torch.equal(value, before[name])]
    assert len(changed) > 0.9 * len(before)
    # The file that the weights were mapped from stays as it was.
    again = build_trainable(loaded, CLASSES).state_dict()
    assert all(torch.equal(again[name], value) for name, value in before.items() if again[name].shape[0] != CLASSES)


def test_a_module_begins_with_the_head_of_a_probe(tmp_path: Path) -> None:
    network = torchvision_network("resnet18")
    loaded = load(tmp_path, "resnet18", network.state_dict())
    weight, bias = probe(512, CLASSES)
    module = build_trainable(loaded, CLASSES, (weight, bias))
    pixels = images(96)
    wanted = logits_of_head(features_of(network, pixels), weight, bias)
    assert np.abs(logits_of(module, pixels) - wanted).max() < 1e-5
    probed = replace_head(loaded, weight, bias)
    arrays = to_arrays(module)
    assert arrays.keys() == probed.keys()
    assert all(np.array_equal(arrays[name], value) for name, value in probed.items())


def test_a_module_of_timm_and_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_transformers import save_model

    save_model("ViT", tmp_path / "vit")
    vit = load_network(str(tmp_path / "vit"), LoadOptions())
    network = timm.create_model("test_vit", pretrained=False, num_classes=4)
    timm.models.save_for_hf(network, str(tmp_path / "timm"), model_config={"label_names": list("abcd")})
    for loaded in (vit, load_network(str(tmp_path / "timm"), LoadOptions())):
        assert loaded.backends.build_torch is not None
        module = build_trainable(loaded, 6)
        source = loaded.backends.build_torch().state_dict()
        assert module.state_dict().keys() == source.keys()
        same = [name for name, value in module.state_dict().items() if torch.equal(value, source[name])]
        assert {name.rpartition(".")[0] for name in source.keys() - same} <= {"classifier", "head"}
        side = loaded.preprocess.crop_size[0]
        logits = module(images(side))
        assert logits.shape == (2, 6)
        logits.sum().backward()
        unused = [name for name, value in module.named_parameters() if value.grad is None]
        assert not unused


def test_a_network_of_one_channel_learns_from_grey_images(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", pretrained=False, num_classes=4, in_chans=1)
    timm.models.save_for_hf(network, str(tmp_path / "timm"), model_config={"label_names": list("abcd")})
    loaded = load_network(str(tmp_path / "timm"), LoadOptions())
    module = build_trainable(loaded, 2).eval()
    pixels = images(160)
    assert module(pixels).shape == (2, 2)
    assert torch.equal(module(pixels), module(pixels[:, :1].repeat(1, 3, 1, 1)))


def test_from_scratch_all_weights_are_random() -> None:
    network = create_scratch_network("resnet18", PreprocessOverrides())
    torch.manual_seed(2)
    module = build_trainable(network, 4)
    torch.manual_seed(2)
    wanted = get_model("resnet18", num_classes=4).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_what_cannot_be_trained_says_so(tmp_path: Path) -> None:
    loaded = load(tmp_path, "resnet18", torchvision_network("resnet18").state_dict())
    quantized = replace(loaded, quantized=True, architecture="quantized_resnet18")
    torch.jit.script(get_model("squeezenet1_1")).save(tmp_path / "script.pt")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(map(str, range(1000))))
    options = LoadOptions(arch="squeezenet1_1", trust=True)
    for network, words in (
        (quantized, "is quantized"),
        (load_network(str(tmp_path / "script.pt"), options), "contains the network"),
    ):
        for refused in (lambda: build_trainable(network, 2), lambda: find_head(network)):  # noqa: B023
            with pytest.raises(UsageError, match=words) as error:
                refused()
            assert error.value.hint
