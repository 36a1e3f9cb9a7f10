"""A training: the tutorial's loop to the bit, what comes out of it, and what it says when it cannot go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from labelled_images import make_images, tiny_spec
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from imgclassify.training.dataset import LabelledSource
from imgclassify.training.fitting import FittedNetwork, Progress, fit_network
from imgclassify.training.recipe import Recipe, default_recipe, named_recipe

TUTORIAL = named_recipe("tutorial")


class Net(nn.Module):
    """The network of PyTorch's tutorial "Training a Classifier"."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(nnf.relu(self.conv1(x)))
        x = self.pool(nnf.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = nnf.relu(self.fc1(x))
        x = nnf.relu(self.fc2(x))
        return self.fc3(x)


class NormNet(nn.Module):
    """A small network with batch norm and dropout."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


class Folder(Dataset[tuple[torch.Tensor, int]]):
    """Images as the tutorial reads them."""

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])

    def __init__(self, images: list[LabelledSource]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        source, class_index = self.images[index]
        return self.transform(Image.open(source.name)), class_index


def plain_loop(
    images: list[LabelledSource], num_classes: int, seed: int, every: int
) -> tuple[nn.Module, list[float]]:
    """The tutorial's loop. Returns the network and the running losses that it prints."""
    torch.manual_seed(seed)
    net = Net(num_classes)
    loader = DataLoader(Folder(images), batch_size=4, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    printed = []
    for _ in range(2):
        running_loss = 0.0
        for i, (inputs, labels) in enumerate(loader):
            optimizer.zero_grad()
            loss = criterion(net(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if i % every == every - 1:
                printed.append(running_loss / every)
                running_loss = 0.0
    return net, printed


def fit(
    network: nn.Module,
    train: list[LabelledSource],
    val: list[LabelledSource],
    recipe: Recipe,
    folder: Path,
    **more: Any,
) -> FittedNetwork:
    folder.mkdir(exist_ok=True)
    options = {"num_classes": 3, "preprocess": tiny_spec(), "folder": folder, "device": "cpu", **more}
    return fit_network(network, train, val, recipe, **options)


def quick(**changes: Any) -> Recipe:
    """A recipe of two epochs with everything that is random in it."""
    recipe = default_recipe("finetune", 24, crop_side=32)
    return replace(recipe, **{"epochs": 2, "batch_size": 8, "dtype": "float32", **changes})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[LabelledSource], list[LabelledSource]]:
    folder = tmp_path_factory.mktemp("images")
    return make_images(folder / "train", 3, 9), make_images(folder / "val", 3, 4)


class TestTutorial:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_weights_are_those_of_a_plain_loop_to_the_bit(
        self, images: tuple[list[LabelledSource], list[LabelledSource]], tmp_path: Path, seed: int
    ) -> None:
        train, val = images
        wanted, printed = plain_loop(train, 3, seed, every=3)
        reported: list[Progress] = []
        torch.manual_seed(seed)
        recipe = replace(TUTORIAL, loss_every=3)
        fitted = fit(Net(3), train, val, recipe, tmp_path / "work", report=reported.append)
        for name, tensor in wanted.state_dict().items():
            assert np.array_equal(fitted.state_dict[name], tensor.numpy()), name
        assert [each.running_loss for each in reported if each.running_loss is not None] == printed
        with torch.no_grad():
            logits = torch.cat([wanted(Folder(val)[index][0][None]) for index in range(len(val))])
        np.testing.assert_allclose(fitted.val_logits, logits.numpy(), rtol=0, atol=1e-6)
        assert fitted.val_class_indices.tolist() == [each.class_index for each in val]
        assert (fitted.epochs, fitted.stopped, fitted.dtype) == (2, "epochs", "float32")

    def test_the_plain_loop_depends_on_the_seed(
        self, images: tuple[list[LabelledSource], list[LabelledSource]]
    ) -> None:
        """So the test above could fail."""
        assert plain_loop(images[0], 3, 0, 3)[1] != plain_loop(images[0], 3, 1, 3)[1]
