"""timm: models against timm's own pipeline, their weights from a local stand-in for the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import noise
from safetensors.torch import save_file
from servers import HubHandler
from timm.data import create_transform, resolve_data_config

from imgclassify.errors import CheckpointError, LabelsError, OfflineError, UnknownModelError, UsageError
from imgclassify.hub import timm_registry
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions

NAME = "test_efficientnet.r160_in1k"
ANSWER = """
import json, sys
from imgclassify import Classifier
classifier = Classifier(sys.argv[1], top_k=1000, offline=len(sys.argv) > 3, device="cpu")
result = classifier.predict(sys.argv[2])
print(json.dumps({"run": classifier.run.to_dict(), "result": result.to_dict()}))
"""


def seeded() -> torch.nn.Module:
    torch.manual_seed(11)
    network = timm.create_model(NAME, pretrained=False).eval()
    torch.nn.init.normal_(network.get_classifier().weight, std=0.5)
    return network


def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh process: the Hugging Face client reads its environment when it is imported."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ANSWER, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


@pytest.mark.parametrize("file_name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pulled_model_answers_as_timms_own_pipeline(
    file_name: str, huggingface: type[HubHandler], tmp_path: Path
) -> None:
    network = seeded()
    file = tmp_path / file_name
    if file.suffix == ".safetensors":
        save_file(network.state_dict(), file)
    else:
        torch.save(network.state_dict(), file)
    huggingface.files[f"/timm/{NAME}/resolve/main/{file_name}"] = file.read_bytes()
    image = noise(333, 251, seed=2)
    image.save(tmp_path / "image.png")

    done = answer(f"timm:{NAME}", str(tmp_path / "image.png"))
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout)
    assert answered["run"]["weights"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert answered["run"]["model"] == f"timm:{NAME}"

    config = resolve_data_config({}, model=network)
    with torch.inference_mode():
        expected = network(create_transform(**config)(image)[None]).softmax(dim=1)[0]
    assert expected.std() > 1e-5
    for prediction in answered["result"]["predictions"]:
        assert prediction["probability"] == pytest.approx(float(expected[prediction["class_index"]]), abs=1e-5)
    assert answered["result"]["predictions"][0]["wnid"].startswith("n")

    # Nothing is asked but the file, and nothing is told of this machine's packages.
    assert all(f"/timm/{NAME}/resolve/main/" in request for request in huggingface.asked)
    assert not any("torch/" in agent for agent in huggingface.agents)

    # Once fetched, it needs the hub no more, and asks it nothing.
    asked = len(huggingface.asked)
    again = answer(f"timm:{NAME}", str(tmp_path / "image.png"), "offline")
    assert json.loads(again.stdout)["result"] == answered["result"], again.stderr
    assert len(huggingface.asked) == asked


def test_offline_says_which_file_of_which_repository_is_needed() -> None:
    with pytest.raises(OfflineError, match=NAME) as error:
        load_network(f"timm:{NAME}", LoadOptions(offline=True))
    assert f"model.safetensors of timm/{NAME}" in str(error.value.hint)


def test_weights_missing_from_the_repository_are_an_error_of_one_line(huggingface: type[HubHandler]) -> None:
    done = answer(f"timm:{NAME}", "any.png")
    assert "DownloadError" in done.stderr
    assert f"timm/{NAME} has none of model.safetensors, pytorch_model.bin" in done.stderr


def test_a_cached_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    from imgclassify.errors import HashMismatchError

    blob = tmp_path / ("a" * 64)
    blob.write_bytes(b"tampered")
    (tmp_path / "model.safetensors").symlink_to(blob)
    with pytest.raises(HashMismatchError, match=f"{'a' * 64}, found {hashlib.sha256(b'tampered').hexdigest()}"):
        timm_registry.verified_digest(tmp_path / "model.safetensors")


def test_a_thousand_features_are_not_taken_for_imagenets_classes() -> None:
    config = timm.get_pretrained_cfg("resmlp_12_224.fb_dino").to_dict()
    assert config["num_classes"] == 1000
    with pytest.raises(LabelsError, match="1000 classes of 'resmlp_12_224'"):
        timm_registry.timm_labels(config)


def test_the_names_read_from_timms_source_are_those_of_its_registry() -> None:
    assert timm_registry.registered_names() == set(timm.list_models())


def test_a_name_of_timm_without_its_prefix_is_suggested(tmp_path: Path) -> None:
    code = """
import sys
from imgclassify.errors import UnknownModelError
from imgclassify.hub.from_arch import find_architecture
for name in ("tf_efficientnet_lite0", "resnet18.a1_in1k", "resnet5O"):
    try:
        find_architecture(name)
    except UnknownModelError as error:
        print(error.hint)
print("torch" in sys.modules or "timm" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, third, imported = done.stdout.splitlines()
    assert "timm:tf_efficientnet_lite0" in first
    assert "timm:resnet18.a1_in1k" in second
    assert "timm" not in third
    assert "resnet50" in third
    assert imported == "False"


def test_arch_beside_a_timm_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="has its own"):
        load_network(f"timm:{NAME}", LoadOptions(arch="resnet50"))


def test_an_unknown_model_lists_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="timm:resnet18x") as error:
        load_network("timm:resnet18x", LoadOptions())
    assert "timm:resnet18" in str(error.value.hint)


def test_a_name_of_nothing_in_timm_is_refused_without_importing_it() -> None:
    code = """
import sys
from imgclassify.errors import UnknownModelError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
for name in ("nonsense", "resnet18x.a1_in1k"):
    try:
        load_network(f"timm:{name}", LoadOptions())
    except UnknownModelError as error:
        print(error, "|", error.hint)
print("timm" in sys.modules or "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, imported = done.stdout.splitlines()
    assert first.startswith("unknown model 'timm:nonsense' | ")
    assert "timm:resnet18" in second
    assert imported == "False"


def test_each_name_that_timm_takes_is_mentioned_in_its_source() -> None:
    from timm.models import _registry

    assert len(_registry._deprecated_models) > 100
    text = "\n".join(timm_registry._source_texts())
    for name in (*timm.list_models(pretrained=True), *_registry._deprecated_models):
        assert name.partition(".")[0] in text
    timm_registry._require_mentioned("tf_efficientnet_b0_ns")  # renamed


def test_a_feature_extractor_is_refused_as_no_classifier() -> None:
    with pytest.raises(CheckpointError, match="has no classes"):
        load_network("timm:vit_small_patch14_dinov2.lvd142m", LoadOptions(offline=True))


def test_a_feature_extractor_can_be_embedded(huggingface: type[HubHandler], tmp_path: Path) -> None:
    name = "vit_small_patch16_224.dino"
    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False).eval()
    assert network.num_classes == 0
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    huggingface.files[f"/timm/{name}/resolve/main/model.safetensors"] = content
    image = noise(333, 251, seed=2)
    image.save(tmp_path / "image.png")
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify", "embed", tmp_path / "image.png", "-m", f"timm:{name}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    transform = create_transform(**resolve_data_config({}, model=network))
    with torch.inference_mode():
        wanted = network(transform(image)[None])[0].numpy()
    assert np.abs(np.array(record["embedding"]) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert record["model"] == f"timm:{name}"


def test_labels_of_larger_sets_come_from_timms_metadata() -> None:
    config = timm.get_pretrained_cfg("vit_base_patch16_224.augreg_in21k").to_dict()
    labels = timm_registry.timm_labels(config)
    assert len(labels) == config["num_classes"] == 21843
    known = next(label for label in labels.labels if label.wnid == "n02099601")
    assert known.label == "golden retriever"
    assert known.gloss
