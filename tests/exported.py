"""Exported classifiers for tests: the embedded model, and tiny torch networks of a torch.hub repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from imgclassify.exporting.exporting import ExportReport, export_model

NAMES = ["ant", "bee", "cow"]
SIZES: dict[str, Any] = {"resize_size": 20, "crop_size": 16, "interpolation": "bilinear", "mean": 0.4, "std": 0.3}

HUBCONF = """
dependencies = ["torch"]
import torch

class Tiny(torch.nn.Module):
    def __init__(self, count=3):
        super().__init__()
        torch.manual_seed(5)
        self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.head = torch.nn.Linear(8, count)
        torch.nn.init.normal_(self.head.weight, std=3)

    def forward(self, images):
        return self.head(self.convolution(images).relu().mean(dim=(2, 3)))

class Softmax(Tiny):
    def forward(self, images):
        return super().forward(images).softmax(1)

class Percent(Tiny):
    def forward(self, images):
        return 100 * super().forward(images).softmax(1)

class Both(Tiny):
    def forward(self, images):
        logits = super().forward(images)
        return {"scores": logits, "map": self.convolution(images)}

class Huge(Tiny):
    def forward(self, images):
        return super().forward(images * 1e6) * 1e-6

class Batch(Tiny):
    def forward(self, images):
        return super().forward(images - images.mean())

class Branches(Tiny):
    def forward(self, images):
        return super().forward(images) * (2 if images.mean() > 0.1 else 1)

class Created(Tiny):
    def forward(self, images):
        return super().forward(images) + torch.arange(3, device=images.device)

def tiny(): return Tiny()
def created(): return Created()
def one(): return Tiny(1)
def probabilities(): return Softmax()
def percent(): return Percent()
def both(): return Both()
def huge(): return Huge()
def batch(): return Batch()
def branches(): return Branches()
"""


def hub_model(folder: Path, name: str = "tiny", names: list[str] = NAMES) -> tuple[str, dict[str, Any]]:
    """A tiny torch network of 16×16 crops: (model reference, its arguments of Classifier)."""
    repository = folder / "repository"
    repository.mkdir(exist_ok=True)
    (repository / "hubconf.py").write_text(HUBCONF)
    labels = folder / "names.txt"
    labels.write_text("\n".join(names) + "\n")
    return f"hub:{repository}/{name}", {"trust": True, "labels": labels, **SIZES}


def export_hub(
    folder: Path, file: str, name: str = "tiny", names: list[str] = NAMES, **options: Any
) -> ExportReport:
    reference, loading = hub_model(folder, name, names)
    return export_model(reference, folder / file, **{**loading, **options})


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of an .onnx file, as onnxruntime reads them."""
    metadata: dict[str, str] = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    return metadata


def json_of(path: Path, key: str) -> Any:
    return json.loads(metadata_of(path)[f"imgclassify.{key}"])


def crops(count: int, height: int = 224, width: int = 224, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def load_script(path: Path) -> dict[str, Any]:
    """The names that the script beside an exported file defines, without a run on an image."""
    names: dict[str, Any] = {"__file__": str(path)}
    exec(compile(path.read_text("utf-8").replace("sys.argv[1:]", "[]"), path, "exec"), names)
    return names


def photos(folder: Path) -> list[Path]:
    """Ordinary images of several forms: sizes, formats, colour modes, EXIF orientations, transparency."""
    generator = np.random.default_rng(8)
    folder.mkdir(exist_ok=True)
    found = []

    def save(name: str, image: Image.Image, **options: Any) -> None:
        image.save(folder / name, **options)
        found.append(folder / name)

    def picture(width: int, height: int) -> Image.Image:
        coarse = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    for width, height in ((320, 240), (241, 333), (57, 500), (801, 31), (16, 16), (5, 3), (1, 40)):
        save(f"{width}x{height}.jpg", picture(width, height), quality=88)
        save(f"{width}x{height}.png", picture(width, height))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"turned{orientation}.jpg", picture(90, 61), exif=exif)
        save(f"turned{orientation}.png", picture(61, 90), exif=exif)
    save("grey.jpg", picture(100, 80).convert("L"))
    save("grey.png", picture(100, 80).convert("L"))
    save("ink.jpg", picture(100, 80).convert("CMYK"))
    save("palette.png", picture(100, 80).quantize(16))
    clear = picture(100, 80)
    clear.putalpha(picture(100, 80).convert("L"))
    save("clear.png", clear)
    save("clear.webp", clear, lossless=True)
    save("clear_palette.png", clear.quantize(16))
    save("clear_grey.png", clear.convert("LA"))
    return found
