"""Class names from the folder of images that a training script's options name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from imgclassify import checkpoints
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.training_folder import read_training_folder

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.needs_torch

CLASSES = ["class10", "class2", "Class1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in CLASSES:
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
    (tmp_path / "data" / "train" / "notes.txt").write_text("no class")
    return tmp_path / "data"


def read(folder: Path, num_classes: int = 3, **options: Any) -> FileConfig:
    """Saves the options as torchvision's and timm's scripts do, and reads the class names that they lead to."""
    path = folder / "model.pth"
    torch.save({"model": {"weight": torch.zeros(1)}, "args": argparse.Namespace(**options)}, path)
    content = checkpoints.open_checkpoint(path).content
    return read_training_folder(content, path.name, num_classes=[num_classes])


def names(config: FileConfig) -> list[str]:
    assert config.labels is not None
    return [label.label for label in config.labels.labels]


def test_torchvision_sorts_folders_as_text(data: Path) -> None:
    from torchvision.datasets.folder import find_classes

    config = read(data, data_path=str(data))
    assert names(config) == find_classes(data / "train")[0]
    assert config.origins["labels"] == f"the folders in {data / 'train'}, from args.data_path in model.pth"


def test_timm_sorts_folders_by_their_numbers(data: Path) -> None:
    from timm.utils.misc import natural_key

    found = names(read(data, data_dir=str(data), train_split="train", class_map=""))
    assert found == sorted(CLASSES, key=natural_key) == ["Class1", "class2", "class10"]


def test_timm_reads_the_first_form_of_its_option(data: Path) -> None:
    assert names(read(data, data=None, data_dir=str(data / "train"))) == ["Class1", "class2", "class10"]


@pytest.mark.parametrize("beside_the_data", [True, False])
def test_a_class_map_has_the_order_of_its_lines(data: Path, beside_the_data: bool) -> None:
    from timm.data.readers.class_map import load_class_map

    (data / "map.txt").write_text("class2\nclass10\nClass1\n")
    given = "map.txt" if beside_the_data else str(data / "map.txt")
    config = read(data, data_dir=str(data), class_map=given)
    assert names(config) == list(load_class_map(given, str(data))) == ["class2", "class10", "Class1"]
    assert "args.class_map" in config.origins["labels"]


@pytest.mark.parametrize(
    "options",
    [
        {"data_path": "gone"},
        {"data_path": ""},
        {"data_path": "a\0b"},
        {"data_path": 3},
        {"data_dir": None},
        {"data_dir": "gone", "class_map": "map.txt"},
        {"epochs": 3},
    ],
    ids=str,
)
def test_what_is_not_there_says_nothing(data: Path, options: dict[str, Any]) -> None:
    assert read(data, **options) == FileConfig()


def test_another_number_of_folders_is_not_that_of_the_classes(data: Path) -> None:
    assert read(data, num_classes=2, data_path=str(data)) == FileConfig()
