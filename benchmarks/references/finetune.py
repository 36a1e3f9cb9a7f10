"""A plain loop that fine-tunes a network: torchvision's transforms in a DataLoader of two workers, AdamW, float32.

Prints the images per second of the epochs after the first.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import InterpolationMode, v2

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--checkpoint", help="of tf_efficientnet_lite0; without it, a ResNet-18 is trained")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--workers", type=int, default=2)


class Folder(Dataset[tuple[torch.Tensor, int]]):
    """The folder's images in sorted order. Every other one is of the second class."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(224, (0.35, 1.0), interpolation=InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels: torch.Tensor = self.transform(Image.open(self.paths[index]).convert("RGB"))
        return pixels, index % 2


def main() -> None:
    arguments = parser.parse_args()
    if arguments.checkpoint:
        model = timm.create_model("tf_efficientnet_lite0", checkpoint_path=arguments.checkpoint)
        model.reset_classifier(2)
    else:
        model = resnet18(num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    loader = DataLoader(
        Folder(arguments.folder), arguments.batch_size, shuffle=True, num_workers=arguments.workers, drop_last=True
    )
    model.train()
    speeds = []
    for _ in range(arguments.epochs):
        started, images = time.perf_counter(), 0
        for pixels, classes in loader:
            optimizer.zero_grad()
            criterion(model(pixels), classes).backward()
            optimizer.step()
            images += len(pixels)
        speeds.append(images / (time.perf_counter() - started))
    print(json.dumps({"images_per_second": sum(speeds[1:]) / (len(speeds) - 1)}))


if __name__ == "__main__":
    main()
