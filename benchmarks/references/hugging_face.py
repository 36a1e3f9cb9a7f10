"""The transformers pipeline "image-classification" on a timm model in a local folder: one picture, or all of a
folder in batches that worker processes prepare.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from transformers import pipeline

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("source", type=Path, help="a picture, or a folder of them")
parser.add_argument("answers", type=Path, nargs="?")
parser.add_argument("--model", required=True, help="the folder of config.json and model.safetensors")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--workers", type=int, default=2)


def main() -> None:
    arguments = parser.parse_args()
    classify = pipeline("image-classification", model=arguments.model, device="cpu", top_k=5)
    indices = classify.model.config.label2id or {}
    if not arguments.source.is_dir():
        for answer in classify(str(arguments.source)):
            print(f"{indices[answer['label']]}\t{answer['score']:.6f}\t{answer['label']}")
        return
    paths = sorted(arguments.source.iterdir())
    answered = classify(
        [str(path) for path in paths], batch_size=arguments.batch_size, num_workers=arguments.workers
    )
    with arguments.answers.open("w", newline="") as file:
        for path, (first, *_) in zip(paths, answered, strict=True):
            csv.writer(file).writerow([path.name, indices[first["label"]], first["score"]])


if __name__ == "__main__":
    main()
