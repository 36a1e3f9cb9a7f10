"""Writes the weights that all programs in a benchmark read: `python -m benchmarks.weights FOLDER`.

This is a separate process because it needs torch, and the process that measures must stay small.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet50_Weights, resnet50

from benchmarks import layout
from imgclassify import catalog


def write_all(folder: Path) -> None:
    """Writes the embedded model for timm and transformers, and a ResNet-50 with random weights for torchvision.

    A manifest for imgclassify refers to the same ResNet-50.
    """
    write_embedded(folder)
    write_resnet50(folder)


def write_embedded(folder: Path) -> None:
    """Writes the installed checkpoint with timm's names.

    It is read with torch alone, so that the references do not depend on how imgclassify reads weights.
    """
    manifest = catalog.find_model(catalog.EMBEDDED_MODEL)
    package, _, path = manifest.url.removeprefix("package:").partition("/")
    published = torch.load(str(files(package).joinpath(path)), weights_only=True)
    state_dict = OrderedDict()
    for name, tensor in published.items():
        for pattern, replacement in manifest.rename:
            name = re.sub(pattern, replacement, name)
        state_dict[name] = tensor.contiguous()
    network = timm.create_model(manifest.architecture)
    network.load_state_dict(state_dict)
    torch.save(state_dict, folder / layout.EMBEDDED_CHECKPOINT)
    save_file(state_dict, folder / layout.EMBEDDED_SAFETENSORS)
    timm.models.save_for_hf(network, str(folder / layout.HUGGING_FACE_MODEL), safe_serialization=True)
    description = folder / layout.HUGGING_FACE_MODEL / "config.json"
    config = json.loads(description.read_text("utf-8"))
    config.pop("model_args", None)  # transformers would pass the number of classes to timm twice
    config["label_names"] = timm.data.ImageNetInfo().label_names()  # wnids: some descriptions occur twice
    description.write_text(json.dumps(config, indent=2), encoding="utf-8")


def write_resnet50(folder: Path) -> None:
    """Writes a ResNet-50 with random weights.

    The published weights are a download of 98 MiB. Random weights take the same time to read and to multiply.
    """
    torch.manual_seed(0)
    network = resnet50().eval()
    with torch.inference_mode():
        network.fc.weight *= 2 / network(torch.randn(1, 3, 224, 224)).std()  # logits like a trained network's
    weights = ResNet50_Weights.DEFAULT
    checkpoint = folder / layout.TORCH_HOME / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), checkpoint)
    transforms = weights.transforms()
    manifest = folder / layout.MANIFEST
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(
        "[[models]]\n"
        f'name = "{layout.RESNET50}"\n'
        'weights = "SEEDED"\n'
        "default = true\n"
        'architecture = "resnet50"\n'
        'provider = "torchvision"\n'
        f'url = "{checkpoint.resolve().as_uri()}"\n'
        f'sha256 = "{hashlib.sha256(checkpoint.read_bytes()).hexdigest()}"\n'
        "num_classes = 1000\n"
        'label_set = "imagenet1k"\n'
        f"preprocess = {{ resize_size = {transforms.resize_size[0]}, crop_size = {transforms.crop_size[0]}, "
        f'interpolation = "{transforms.interpolation.value}", antialias = true, mean = {transforms.mean}, '
        f"std = {transforms.std} }}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    write_all(Path(sys.argv[1]))
