"""The transformers pipeline "image-classification" on a timm model in a local folder: one image, or all of a
folder in batches that worker processes prepare.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from transformers import pipeline

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("source", type=Path, help="an image, or a folder of them")
parser.add_argument("predictions", type=Path, nargs="?")
parser.add_argument("--model", required=True, help="the folder of config.json and model.safetensors")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--workers", type=int, default=2)


def main() -> None:
    arguments = parser.parse_args()
    classify = pipeline("image-classification", model=arguments.model, device="cpu", top_k=5)
    indices = classify.model.config.label2id or {}
    if not arguments.source.is_dir():
        for prediction in classify(str(arguments.source)):
            print(f"{indices[prediction['label']]}\t{prediction['score']:.6f}\t{prediction['label']}")
        return
    paths = sorted(arguments.source.iterdir())
    predicted = classify(
        [str(path) for path in paths], batch_size=arguments.batch_size, num_workers=arguments.workers
    )
    with arguments.predictions.open("w", newline="") as file:
        for path, (first, *_) in zip(paths, predicted, strict=True):
            csv.writer(file).writerow([path.name, indices[first["label"]], first["score"]])


if __name__ == "__main__":
    main()
