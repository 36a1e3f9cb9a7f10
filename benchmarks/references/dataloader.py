"""A good engineer's loop: torchvision's transforms in a DataLoader of two workers, the network channels_last under
inference_mode, batches of 64; in float32, or all in bfloat16.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("predictions", type=Path)
parser.add_argument("--checkpoint", required=True)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--batch-size", type=int, default=64)


class Folder(Dataset[torch.Tensor]):
    """The folder's images as network inputs, in sorted order."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())
        self.transform = transforms.Compose(
            [
                transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels: torch.Tensor = self.transform(Image.open(self.paths[index]).convert("RGB"))
        return pixels


def main() -> None:
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    model = timm.create_model("tf_efficientnet_lite0", checkpoint_path=arguments.checkpoint)
    model = model.eval().to(dtype=dtype, memory_format=torch.channels_last)

    folder = Folder(arguments.folder)
    loader = DataLoader(folder, batch_size=arguments.batch_size, num_workers=arguments.workers)
    probabilities, indices = [], []
    with torch.inference_mode():
        for batch in loader:
            logits = model(batch.to(dtype=dtype, memory_format=torch.channels_last))
            most, index = logits.float().softmax(1).max(1)
            probabilities += most.tolist()
            indices += index.tolist()

    with arguments.predictions.open("w", newline="") as file:
        names = (path.name for path in folder.paths)
        csv.writer(file).writerows(zip(names, indices, probabilities, strict=True))


if __name__ == "__main__":
    main()
