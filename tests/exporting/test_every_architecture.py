"""Every float architecture of the catalog, exported in every format, against the same network in torch.

The full table takes hours, and is slow. One small network of each kind of head is always exported.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from imgclassify import catalog
from imgclassify.catalog import ModelManifest
from imgclassify.exporting.exporting import export_model
from imgclassify.hub import architectures

EXTENSIONS = {"onnx": ".onnx", "float16": ".onnx", "pt2": ".pt2", "torchscript": ".torchscript"}
LARGEST = {"onnx": 1e-5, "float16": 5e-2, "pt2": 1e-5, "torchscript": 1e-5}
"""By format: the largest difference of a probability."""
HEADS = ["squeezenet1_1-224", "mobilenet_v3_small-224", "shufflenet_v2_x0_5-224"]
"""A convolution before the pooling, two linear layers, and one after a mean over two axes."""


def float_models() -> dict[str, ModelManifest]:
    """Architecture and crop size → a model with them."""
    found: dict[str, ModelManifest] = {}
    for manifest in catalog.load_manifests():
        if not architectures.is_quantized(manifest):
            found.setdefault(f"{manifest.architecture}-{manifest.preprocess.crop_size[0]}", manifest)
    return dict(sorted(found.items()))


MODELS = float_models()


def seeded(manifest: ModelManifest) -> torch.nn.Module:
    """The architecture with random weights, whose logits differ by class."""
    torch.manual_seed(sum(map(ord, manifest.architecture)))
    network = architectures.create_network(manifest).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    layers = [(name, each) for name, each in network.named_modules() if hasattr(each, "weight")]
    kinds = torch.nn.Linear | torch.nn.Conv2d
    head = [each for name, each in layers if isinstance(each, kinds) and not name.lower().startswith("aux")][-1]
    torch.nn.init.normal_(head.weight, std=0.05)
    head.weight *= 2 / network(torch.randn(2, 3, *manifest.preprocess.crop_size)).std()
    return network


def open_alone(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return lambda crops: session.run(["logits"], {"crops": crops})[0]
    program: Any = torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)
    return lambda crops: program(torch.from_numpy(crops)).numpy()


def check(name: str, form: str, folder: Path) -> None:
    manifest = MODELS[name]
    network = seeded(manifest)
    torch.save(network.state_dict(), folder / "weights.pth")
    spec = manifest.preprocess
    crops = np.random.default_rng(1).integers(0, 256, (3, *spec.crop_size, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        wanted = network((torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - mean) / std)
    del network
    gc.collect()
    report = export_model(
        str(folder / "weights.pth"),
        folder / f"x{EXTENSIONS[form]}",
        arch=manifest.reference,
        labels=None if manifest.label_set else "cifar10",
        transform_input=manifest.options.get("transform_input"),
        dtype="float16" if form == "float16" else "float32",
    )
    run = open_alone(report.path)
    with torch.inference_mode():
        found = torch.from_numpy(np.concatenate([run(crops[:1]), run(crops[1:])]))
    difference = float((found.softmax(1) - wanted.softmax(1)).abs().max())
    print(f"{name}\t{form}\t{difference:.2g}\t{report.bytes}")
    assert difference <= LARGEST[form]
    if form != "float16":
        assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())
        assert found.argmax(1).tolist() == wanted.argmax(1).tolist()


@pytest.mark.parametrize("form", ["onnx", "float16"])
@pytest.mark.parametrize("name", HEADS)
def test_one_network_of_each_kind(name: str, form: str, tmp_path: Path) -> None:
    check(name, form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", EXTENSIONS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_every_architecture(name: str, form: str, tmp_path: Path) -> None:
    check(name, form, tmp_path)
