"""hf:OWNER/REPO: model folders from a local stand-in for the Hugging Face hub, with the real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise
from PIL import Image

pytest.importorskip("transformers")

from servers import HubHandler
from tiny_transformers import save_model

from imgclassify.errors import UsageError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.hub.reference import ModelReference

LOAD = """
import json, sys
from imgclassify.errors import ImgclassifyError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
for reference in sys.argv[2:]:
    try:
        network = load_network(reference, LoadOptions(offline=sys.argv[1] == "offline"))
        found = {"path": str(network.path), "sha256": network.sha256, "model": network.model}
    except ImgclassifyError as error:
        found = {"kind": type(error).__name__, "error": str(error), "hint": error.hint}
    print(json.dumps(found))
"""


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the Hugging Face client reads its environment when it is imported."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def load(*references: str, offline: bool = False, **environment: str) -> list[dict[str, Any]]:
    done = run("-c", LOAD, "offline" if offline else "online", *references, **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def publish(hub: type[HubHandler], repository: str, folder: Path, revision: str = "main") -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            hub.files[f"/{repository}/resolve/{revision}/{name}"] = path.read_bytes()
            # The first file tells the commit, and the others are asked for by it.
            hub.files[f"/{repository}/resolve/{'0' * 40}/{name}"] = path.read_bytes()


def test_a_repository_answers_as_its_network(huggingface: type[HubHandler], tmp_path: Path) -> None:
    network, processor = save_model("ViT", tmp_path / "model")
    (tmp_path / "model/pytorch_model.bin").write_bytes(b"not asked for")
    publish(huggingface, "owner/pets", tmp_path / "model")
    image = noise(101, 70, seed=2)
    image.save(tmp_path / "image.png")
    command = ["-m", "imgclassify", "predict", tmp_path / "image.png", "-m", "hf:owner/pets", "--format", "json"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["run"]["model"] == "hf:owner/pets"
    with torch.inference_mode():
        wanted = network(**processor(images=image, return_tensors="pt")).logits.softmax(dim=1)[0].numpy()
    predictions = sorted(document["results"][0]["predictions"], key=lambda each: each["class_index"])
    assert [each["label"] for each in predictions] == ["cat", "dog", "emu"]
    assert np.abs(np.array([each["probability"] for each in predictions]) - wanted).max() < 1e-5
    names = {request.rpartition("/")[2] for request in huggingface.asked}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors"}
    # What is in the cache is not asked for again.
    asked = len(huggingface.asked)
    again = run(*command, "--offline")
    assert json.loads(again.stdout)["results"] == document["results"], again.stderr
    assert len(huggingface.asked) == asked


def test_a_revision_and_timms_spelling(huggingface: type[HubHandler], tmp_path: Path) -> None:
    save_model("ViT", tmp_path / "model")
    publish(huggingface, "owner/pets", tmp_path / "model", revision="v1.0")
    one, two, three, four = load(
        "hf:owner/pets@v1.0", "timm:hf-hub:owner/pets@v1.0", "hf:owner/pets", "hf:owner/pets@v2"
    )
    assert one["sha256"] == two["sha256"]
    assert one["path"] == two["path"]
    assert two["model"] == "timm:hf-hub:owner/pets@v1.0"
    assert "has no config.json" in three["error"]
    assert "has no config.json" in four["error"]


def test_pull_prints_the_path(huggingface: type[HubHandler], tmp_path: Path) -> None:
    save_model("ViT", tmp_path / "model")
    publish(huggingface, "owner/pets", tmp_path / "model")
    done = run("-m", "imgclassify", "models", "pull", "hf:owner/pets")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()
    shown = run("-m", "imgclassify", "models", "show", "hf:owner/pets", "--json")
    assert json.loads(shown.stdout)["label_set"] == "config.json of hf:owner/pets"


def test_a_repository_of_pickles_and_one_of_parts(huggingface: type[HubHandler], tmp_path: Path) -> None:
    network, _ = save_model("ViT", tmp_path / "model")
    network.save_pretrained(tmp_path / "parts", max_shard_size="40KB")
    (tmp_path / "parts/preprocessor_config.json").write_bytes(
        (tmp_path / "model/preprocessor_config.json").read_bytes()
    )
    (tmp_path / "model/model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "model/pytorch_model.bin")
    publish(huggingface, "owner/pickle", tmp_path / "model")
    publish(huggingface, "owner/parts", tmp_path / "parts")
    pickle, parts = load("hf:owner/pickle", "hf:owner/parts")
    assert pickle["path"].endswith("pytorch_model.bin")
    assert parts["path"].endswith("model.safetensors.index.json")
    assert parts["sha256"] is None
    assert load("hf:owner/pickle", "hf:owner/parts", offline=True) == [pickle, parts]


def test_a_graph_with_weights_in_another_file(huggingface: type[HubHandler], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx.parser")
    save_model("ViT", tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    weights = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        means (float[N, 3, 32, 32] pixel_values) => (float[N, 3] logits)
        {
            m = ReduceMean <axes = [2, 3], keepdims = 0> (pixel_values)
            logits = MatMul (m, weights)
        }
    """)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    (tmp_path / "model/onnx").mkdir()
    onnx.save_model(
        graph, tmp_path / "model/onnx/model.onnx", save_as_external_data=True, location="model.onnx_data",
        size_threshold=0,
    )  # fmt: skip
    publish(huggingface, "owner/graph", tmp_path / "model")
    image = noise(101, 70, seed=2)
    image.save(tmp_path / "image.png")
    command = ["-m", "imgclassify", "predict", tmp_path / "image.png", "-m", "hf:owner/graph", "--format", "json"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["run"]["engine"] == "onnxruntime"
    crop = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)) / 255
    logits = ((crop - 0.5) / 0.5).mean(axis=(0, 1)) @ weights
    wanted = np.exp(logits) / np.exp(logits).sum()
    found = sorted(document["results"][0]["predictions"], key=lambda each: each["class_index"])
    assert np.abs(np.array([each["probability"] for each in found]) - wanted).max() < 1e-5
    assert "model.onnx_data" in {request.rpartition("/")[2] for request in huggingface.asked}


def test_what_the_hub_refuses_is_said_in_words(huggingface: type[HubHandler]) -> None:
    huggingface.refusals = {
        "/owner/gated": (403, "GatedRepo"),
        "/owner/none": (404, "RepoNotFound"),
        "/owner/old": (404, "RevisionNotFound"),
    }
    gated, none, old, empty = load("hf:owner/gated", "hf:owner/none", "hf:owner/old@v7", "hf:owner/empty")
    assert "owner/gated is gated" in gated["error"]
    assert "HF_TOKEN" in gated["hint"]
    assert "no repository owner/none" in none["error"]
    assert "has no revision 'v7'" in old["error"]
    assert "has no config.json" in empty["error"]
    assert empty["kind"] == "CheckpointError"
    assert {gated["kind"], none["kind"], old["kind"]} == {"DownloadError"}


def test_without_a_network(huggingface: type[HubHandler]) -> None:
    offline = load("hf:owner/pets", offline=True)[0]
    assert offline["kind"] == "OfflineError"
    assert "imgclassify models pull hf:owner/pets" in offline["hint"]
    (switched,) = load("hf:owner/pets", HF_HUB_OFFLINE="1")
    assert switched["kind"] == "OfflineError"
    assert "HF_HUB_OFFLINE" in switched["error"]
    assert huggingface.asked == []


@pytest.mark.parametrize("text", ["hf:pets", "hf:", "hf:owner/pets@", "hf:a/b/c", "hf:../x", "timm:hf-hub:pets"])
def test_a_malformed_reference(text: str) -> None:
    with pytest.raises(UsageError, match="malformed"):
        load_network(text, LoadOptions(offline=True))


def test_timms_names_for_sources_are_kinds() -> None:
    assert ModelReference.parse("timm:hf_hub:owner/pets").kind.name == "Hugging Face"
    assert ModelReference.parse("timm:resnet18.a1_in1k").kind.name == "timm"
