"""The networks for CIFAR-10 against plain torch code: initial weights, logits on both engines, and checkpoints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from conftest import noise
from networks import TutorialNet
from torch import nn

from imgclassify import Classifier, catalog
from imgclassify.engines import FEATURE_MAP, FEATURES, LOGITS
from imgclassify.engines.choice import create_engine
from imgclassify.errors import CheckpointError, UnavailableError, UsageError, WeightsError
from imgclassify.hub import architectures
from imgclassify.hub.checkpoint_fit import suggest_architectures
from imgclassify.hub.from_arch import find_architecture
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.own_models import add_model

TOLERANCE = 1e-5
"""The largest difference of logits, as a fraction of the largest."""
BLOCKS = {"cifar_resnet20": 3, "cifar_resnet32": 5, "cifar_resnet44": 7, "cifar_resnet56": 9}
ARCHITECTURES = ["cifar_net", *BLOCKS]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ReferenceBlock(nn.Module):
    """Two 3×3 convolutions, and the identity; where the map shrinks, with zeros for the channels it lacks."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        lacking = out.shape[1] - x.shape[1]
        if lacking:
            zeros = torch.zeros(len(x), lacking // 2, *out.shape[2:])
            x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
        return F.relu(out + x)


class ReferenceResNet(nn.Module):
    """He et al. 2016, section 4.2: 6n + 2 layers, option A."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (before, after) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            layers = [ReferenceBlock(before, after, after // before)]
            layers += [ReferenceBlock(after, after, 1) for _ in range(1, blocks)]
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def spatial(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))

    def seen_by_head(self, x: torch.Tensor) -> torch.Tensor:
        return self.spatial(x).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.seen_by_head(x))


def reference(name: str, classes: int = 10) -> Any:
    """The same weights in each run. Batch norm is more than the identity."""
    torch.manual_seed(sum(map(ord, name)))
    network = TutorialNet(classes) if name == "cifar_net" else ReferenceResNet(BLOCKS[name], classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def normalized(pixels: np.ndarray, name: str) -> torch.Tensor:
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name == "cifar_net" else (IMAGENET_MEAN, IMAGENET_STD)
    return torch.from_numpy((pixels / 255 - mean) / std).permute(0, 3, 1, 2).float()


def close(found: np.ndarray, wanted: torch.Tensor) -> None:
    largest = float(wanted.abs().max())
    assert largest > 0.05
    assert np.abs(found - wanted.numpy()).max() <= TOLERANCE * largest


# The networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("classes", [10, 3])
def test_a_seed_gives_the_initial_weights_of_the_original_code(name: str, classes: int) -> None:
    torch.manual_seed(42)
    wanted = TutorialNet(classes) if name == "cifar_net" else ReferenceResNet(BLOCKS[name], classes)
    afterwards = torch.rand(3)
    torch.manual_seed(42)
    found = architectures.create_network(find_architecture(name), num_classes=classes)
    assert torch.equal(torch.rand(3), afterwards)  # no other number was drawn
    assert found.training
    assert list(found.state_dict()) == list(wanted.state_dict())
    for key, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["cifar_net", "cifar_resnet20"])
def test_gradients_are_those_of_the_original_code(name: str) -> None:
    """What training sees: batch norm over the batch, and the way back."""
    wanted = reference(name, 4).train()
    found = architectures.create_network(find_architecture(name), num_classes=4)
    found.load_state_dict(wanted.state_dict())
    pixels = normalized(images(8), name)
    losses = [F.cross_entropy(network(pixels), torch.arange(8) % 4) for network in (found, wanted)]
    for loss in losses:
        loss.backward()
    assert torch.allclose(*losses, rtol=1e-5)
    for (key, one), other in zip(found.named_parameters(), wanted.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5 * float(other.grad.abs().max())), key


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("cifar_net", 62_006),  # 3·6·25 + 6 + 6·16·25 + 16 + 400·120 + 120 + 120·84 + 84 + 84·10 + 10
        ("cifar_resnet20", 0.27e6),  # He et al. 2016, table 6
        ("cifar_resnet32", 0.46e6),
        ("cifar_resnet44", 0.66e6),
        ("cifar_resnet56", 0.85e6),
    ],
)
def test_the_number_of_parameters_is_the_papers(name: str, count: float) -> None:
    network = architectures.create_network(find_architecture(name))
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == count if name == "cifar_net" else abs(found - count) < 0.005e6
    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert len(layers) == (5 if name == "cifar_net" else int(name.removeprefix("cifar_resnet")))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_cost_in_the_manifest_is_that_of_the_network(name: str) -> None:
    counted = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        counted.append(output.numel() * layer.weight[0].numel())

    network = reference(name)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network(torch.zeros(1, 3, 32, 32))
    assert catalog.find_model(name).gmacs == pytest.approx(sum(counted) / 1e9, rel=0.005)


# Checkpoints -----------------------------------------------------------------------------------------------------


def save(folder: Path, network: nn.Module, form: str = "zip") -> str:
    """As published CIFAR ResNets: DataParallel's names, in one of torch's two formats."""
    content = {
        "state_dict": {f"module.{name}": value for name, value in network.state_dict().items()},
        "best_prec1": 91.7,
    }
    torch.save(content, folder / "mine.th", _use_new_zipfile_serialization=form == "zip")
    return str(folder / "mine.th")


@pytest.mark.parametrize(
    ("name", "form", "classes"),
    [*((name, "zip", 10) for name in ARCHITECTURES), ("cifar_net", "older", 3), ("cifar_resnet20", "older", 3)],
)
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_both_engines_answer_as_the_original_code(
    name: str, form: str, classes: int, engine: str, tmp_path: Path
) -> None:
    network = reference(name, classes)
    found = load_network(save(tmp_path, network, form), LoadOptions(arch=name, with_labels=False))
    assert found.num_classes == classes
    outputs = (LOGITS, FEATURES, FEATURE_MAP)
    started = create_engine(found, engine=engine, device="cpu", dtype="float32", outputs=outputs, num_images=None)
    for count in (1, 5):
        pixels = images(count)
        answer = started.engine.infer(pixels)
        with torch.inference_mode():
            inputs = normalized(pixels, name)
            close(answer[LOGITS], network(inputs))
            close(answer[FEATURES], network.seen_by_head(inputs))
            close(answer[FEATURE_MAP], network.spatial(inputs))


def test_a_prediction_is_that_of_plain_code_and_imports_no_torch(tmp_path: Path) -> None:
    network = reference("cifar_resnet20")
    path = save(tmp_path, network, "older")
    noise(32, 32).save(tmp_path / "x.png")
    code = (
        "import sys; from imgclassify import Classifier\n"
        f"classifier = Classifier({path!r}, arch='cifar_resnet20', labels='cifar10', top_k=10, device='cpu')\n"
        f"found = classifier.predict({str(tmp_path / 'x.png')!r}).predictions\n"
        "assert 'torch' not in sys.modules\n"
        "print(*(f'{each.label} {each.probability!r}' for each in found), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = dict(line.split() for line in done.stdout.splitlines())
    with torch.inference_mode():
        wanted = network(normalized(np.asarray(noise(32, 32))[None], "cifar_resnet20"))[0].softmax(0)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert [float(found[name]) for name in names] == pytest.approx(wanted.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_architecture_of_a_checkpoint_is_suggested(name: str, tmp_path: Path) -> None:
    assert suggest_architectures(reference(name, 7).state_dict()) == [name]
    with pytest.raises(UsageError, match="does not name their architecture") as error:
        load_network(save(tmp_path, reference(name)), LoadOptions(with_labels=False))
    assert error.value.hint == f"it fits --arch {name}"


@pytest.mark.parametrize(
    ("classes", "hint"),
    [
        (10, "give --labels FILE, or --labels cifar10 if the network was trained on these classes"),
        (7, "give --labels NAME or --labels FILE"),
    ],
)
def test_labels_are_asked_for_and_not_guessed(classes: int, hint: str, tmp_path: Path) -> None:
    path = save(tmp_path, reference("cifar_net", classes))
    with pytest.raises(UsageError, match=r"mine\.th' has no class names") as error:
        Classifier(path, arch="cifar_net")
    assert error.value.hint == hint


def test_another_depth_and_other_shortcuts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the depth differs"):
        load_network(save(tmp_path, reference("cifar_resnet32")), LoadOptions(arch="cifar_resnet20"))
    with_projections = reference("cifar_resnet20")
    with_projections.layer2[0].shortcut = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32))
    with pytest.raises(CheckpointError, match=r"layer2\.0\.shortcut"):
        load_network(save(tmp_path, with_projections), LoadOptions(arch="cifar_resnet20"))


def test_a_checkpoint_can_be_given_a_name(tmp_path: Path) -> None:
    path = save(tmp_path, reference("cifar_resnet20"))
    add_model(path, "tiny", arch="cifar_resnet20", labels="cifar10")
    image = noise(40, 32)
    named, given = (
        Classifier(*arguments, device="cpu", **options).predict(image).predictions
        for arguments, options in ((["tiny"], {}), ([path], {"arch": "cifar_resnet20", "labels": "cifar10"}))
    )
    assert named == given


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_residual_network_takes_other_sizes_of_crops(engine: str, tmp_path: Path) -> None:
    path, network = save(tmp_path, reference("cifar_resnet20")), reference("cifar_resnet20")
    sizes = {"crop_size": (48, 64), "resize_size": (48, 64)}
    options = {"arch": "cifar_resnet20", "labels": "cifar10", "device": "cpu", "top_k": 10}
    image = noise(64, 48)
    found = Classifier(path, engine=engine, **options, **sizes).predict(image).predictions
    with torch.inference_mode():
        wanted = network(normalized(np.asarray(image)[None], "cifar_resnet20"))[0].softmax(0)
    assert [each.probability for each in sorted(found, key=lambda each: each.class_index)] == pytest.approx(
        wanted.tolist(), abs=1e-5
    )


# Without weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_alone_predicts_nothing(name: str) -> None:
    with pytest.raises(WeightsError, match=f"^{name} is an architecture without weights$") as error:
        Classifier(name)
    for part in (f"-m FILE --arch {name}", f"--method scratch --arch {name}"):
        assert part in str(error.value.hint)


def test_an_option_that_a_builder_lacks_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"imgclassify cannot build the architecture 'cifar_net'.*dropout"):
        architectures.create_network(find_architecture("cifar_net"), dropout=0.1)


# From scratch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet18", "timm:test_resnet.r160_in1k", "cifar_net"])
def test_an_untrained_network_is_the_builders_own(arch: str) -> None:
    import timm
    from torchvision.models import get_model

    builders = {
        "resnet18": lambda: get_model("resnet18", num_classes=4),
        "timm:test_resnet.r160_in1k": lambda: timm.create_model("test_resnet", num_classes=4),
        "cifar_net": lambda: TutorialNet(4),
    }
    torch.manual_seed(7)
    wanted = builders[arch]().state_dict()
    torch.manual_seed(7)
    found = architectures.create_untrained(find_architecture(arch), 4).state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(("arch", "side"), [("googlenet", 96), ("inception_v3", 96)])
def test_an_untrained_network_has_no_auxiliary_heads(arch: str, side: int) -> None:
    """Its logits are one tensor in training too, and its checkpoint fits."""
    torch.manual_seed(0)
    network = architectures.create_untrained(find_architecture(arch), 4)
    assert network.training
    assert network(torch.randn(2, 3, side, side)).shape == (2, 4)
    # torchvision's own initialisation: a truncated normal distribution, not the layers' uniform one.
    weight = network.fc.weight.detach()
    assert float(weight.abs().max()) > 1.1 / weight.shape[1] ** 0.5


def test_a_checkpoint_of_an_untrained_network_fits_its_architecture(tmp_path: Path) -> None:
    torch.save(architectures.create_untrained(find_architecture("googlenet"), 4).state_dict(), tmp_path / "g.pth")
    options = LoadOptions(arch="googlenet", with_labels=False, transform_input=True)
    assert load_network(str(tmp_path / "g.pth"), options).num_classes == 4


def test_what_cannot_be_trained_from_scratch_is_refused() -> None:
    with pytest.raises(UnavailableError, match=r"quantized_resnet18 cannot be trained.*a quantized network"):
        architectures.create_untrained(find_architecture("quantized_resnet18"), 4)
    program = replace(find_architecture("resnet18"), provider="onnx", architecture="onnx")
    with pytest.raises(UnavailableError, match=r"resnet18 cannot be trained.*its own network"):
        architectures.create_untrained(program, 4)
