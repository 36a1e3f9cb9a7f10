"""What the extra files of a TorchScript archive say of the model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from imgclassify.errors import CheckpointError
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, Network, PreprocessOverrides

OVERRIDES = PreprocessOverrides(8, (8, 8), "bilinear", (0.0,) * 3, (1.0,) * 3)
NAMES = ["cat", "dog", "emu"]
YOLO = {"task": "classify", "stride": 1, "imgsz": [8, 8], "names": dict(enumerate(NAMES)), "batch": 1}


class Means(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(2, 3))


def load(folder: Path, extra: dict[str, str], overrides: PreprocessOverrides = OVERRIDES) -> Network:
    path = folder / "mine.torchscript"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Means()), path, _extra_files=extra)
    return load_network(f"{folder}/{path.name}", LoadOptions(overrides=overrides, trust=True))


@pytest.mark.parametrize(
    "extra",
    [
        {"config.txt": json.dumps(YOLO)},
        {"labels.txt": "cat\ndog\nemu\n"},
        {"classes": json.dumps(NAMES)},
        {"class_to_idx.json": json.dumps({"emu": 2, "cat": 0, "dog": 1})},
        {"metadata.json": json.dumps({"classes": NAMES}), "version": "3"},
    ],
    ids=lambda extra: "+".join(extra),
)
def test_class_names_in_extra_files(extra: dict[str, Any], tmp_path: Path) -> None:
    network = load(tmp_path, extra)
    assert network.labels is not None
    assert [label.label for label in network.labels.labels] == NAMES
    assert network.origins["labels"].endswith("in mine.torchscript")


def test_ultralytics_needs_no_option(tmp_path: Path) -> None:
    spec = load(tmp_path, {"config.txt": json.dumps(YOLO)}, PreprocessOverrides()).preprocess
    assert (spec.resize_size, spec.crop_size, spec.mean, spec.std) == (8, (8, 8), (0, 0, 0), (1, 1, 1))
    with pytest.raises(CheckpointError, match="segmentation"):
        load(tmp_path, {"config.txt": json.dumps({**YOLO, "task": "segment"})})
