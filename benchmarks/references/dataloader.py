"""A good engineer's loop: torchvision's transforms in a DataLoader of two workers, the network channels_last under
inference_mode, batches of 64; in float32, or all in bfloat16 or float16. On a GPU, batches are in pinned memory.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode


class Preprocessing(NamedTuple):
    resize_size: int
    interpolation: InterpolationMode
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PREPROCESSING = {
    "tf_efficientnet_lite0": Preprocessing(256, InterpolationMode.BICUBIC, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "resnet50": Preprocessing(232, InterpolationMode.BILINEAR, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""By timm's name of the architecture."""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("predictions", type=Path)
parser.add_argument("--checkpoint", required=True)
parser.add_argument("--arch", choices=PREPROCESSING, default="tf_efficientnet_lite0")
parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
parser.add_argument("--device", default="cpu")
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--batch-size", type=int, default=64)


class Folder(Dataset[torch.Tensor]):
    """The folder's images as network inputs, in sorted order."""

    def __init__(self, folder: Path, preprocessing: Preprocessing) -> None:
        self.paths = sorted(folder.iterdir())
        self.transform = transforms.Compose(
            [
                transforms.Resize(preprocessing.resize_size, preprocessing.interpolation),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
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
    device = torch.device(arguments.device)
    model = timm.create_model(arguments.arch, checkpoint_path=arguments.checkpoint)
    model = model.eval().to(device, dtype=dtype, memory_format=torch.channels_last)

    folder = Folder(arguments.folder, PREPROCESSING[arguments.arch])
    loader = DataLoader(
        folder,
        batch_size=arguments.batch_size,
        num_workers=arguments.workers,
        pin_memory=device.type == "cuda",
    )
    probabilities, indices = [], []
    with torch.inference_mode():
        for batch in loader:
            batch = batch.to(device, non_blocking=True)
            logits = model(batch.to(dtype=dtype, memory_format=torch.channels_last))
            most, index = logits.float().softmax(1).max(1)
            probabilities += most.tolist()
            indices += index.tolist()

    with arguments.predictions.open("w", newline="") as file:
        names = (path.name for path in folder.paths)
        csv.writer(file).writerows(zip(names, indices, probabilities, strict=True))


if __name__ == "__main__":
    main()
