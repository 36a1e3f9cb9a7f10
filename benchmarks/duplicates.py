"""Measures how many changed images `imgclassify duplicates` finds: `python -m benchmarks.duplicates FOLDER`.

Each photograph of the folder is changed in several ways, as the benchmark of imagededup does: cropped, mirrored,
turned by 25°, recompressed and resized. All pairs of versions of one photograph are duplicates, and no other pair
is. Two photographs of the folder that show the same must be named with `--same`, one pair per line.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from json import loads
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks import machine, report
from benchmarks.layout import ROOT
from benchmarks.workspace import IMAGE_SUFFIXES, imgclassify

MODULE = "benchmarks.duplicates"
PAGE = ROOT / "docs" / "duplicates.md"
PRECISION = 0.99
"""The precision at which a cosine alone is compared."""

Rng = np.random.Generator


def _crop(image: Image.Image, rng: Rng, least: float, most: float) -> Image.Image:
    width, height = (round(side * rng.uniform(least, most)) for side in image.size)
    left, top = int(rng.integers(0, image.width - width + 1)), int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _turn(image: Image.Image, rng: Rng, degrees: float) -> Image.Image:
    return image.rotate(degrees * int(rng.choice((-1, 1))), Image.Resampling.BICUBIC)


def _resize(image: Image.Image, rng: Rng) -> Image.Image:
    scale = rng.uniform(0.3, 0.7)
    return image.resize((max(16, round(image.width * scale)), max(16, round(image.height * scale))))


CHANGES: dict[str, dict[str, Callable[[Image.Image, Rng], Image.Image]]] = {
    "usual": {
        "crop to 60..90 % of each side": lambda image, rng: _crop(image, rng, 0.6, 0.9),
        "mirrored": lambda image, _: ImageOps.mirror(image),
        "upside down": lambda image, _: ImageOps.flip(image),
        "turned by 25°": lambda image, rng: _turn(image, rng, 25),
        "JPEG quality 20..60": lambda image, _: image,
        "resized to 30..70 %": _resize,
    },
    "hard": {
        "crop to 50..60 % of each side": lambda image, rng: _crop(image, rng, 0.5, 0.6),
        "turned by 30°": lambda image, rng: _turn(image, rng, 30),
        "mirrored, JPEG quality 20..60": lambda image, _: ImageOps.mirror(image),
        "crop to 60..80 %, upside down": lambda image, rng: ImageOps.flip(_crop(image, rng, 0.6, 0.8)),
        "turned by 10..25° and resized": lambda image, rng: _resize(_turn(image, rng, rng.uniform(10, 25)), rng),
        "other tones": lambda image, rng: image.point(
            _tone_curve(rng.uniform(0.6, 1.6), rng.uniform(0.7, 1.0)) * 3
        ),
    },
}


def _tone_curve(gamma: float, scale: float) -> list[int]:
    return [round(255 * (value / 255) ** gamma * scale) for value in range(256)]


def make_versions(photographs: Sequence[Path], folder: Path, changes: str, seed: int) -> None:
    """Writes each photograph and its changed versions to `folder`, as NUMBER-VERSION.jpg."""
    for number, path in enumerate(photographs):
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        for version, (name, change) in enumerate([("", lambda image, _: image), *CHANGES[changes].items()]):
            rng = np.random.default_rng([seed, number, version])
            quality = int(rng.integers(20, 61)) if "JPEG" in name else 90
            change(image, rng).save(folder / f"{number:05}-{version}.jpg", quality=quality)


def find_groups(folder: Path) -> list[list[str]]:
    """Runs `imgclassify duplicates`. Returns the names in each group."""
    command = [*imgclassify(), "duplicates", str(folder), "-f", "jsonl", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    groups = [loads(line)["images"] for line in done.stdout.splitlines()]
    return [[Path(image["source"]).name for image in group] for group in groups]


def score(groups: Sequence[Sequence[str]], originals: dict[str, int]) -> tuple[float, float, dict[int, float]]:
    """Compares groups with the truth.

    Args:
        originals: file name → number of its photograph, or of the first one that shows the same.

    Returns:
        Precision and recall over pairs, and for each version the share that is in the group of its original.
    """
    true = Counter(originals.values())
    wanted = sum(count * (count - 1) // 2 for count in true.values())
    found = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    right = sum(
        count * (count - 1) // 2
        for group in groups
        for count in Counter(originals[name] for name in group).values()
    )
    group_of = {name: index for index, group in enumerate(groups) for name in group}
    together: dict[int, list[bool]] = {}
    for name in originals:
        number, _, version = Path(name).stem.partition("-")
        if version != "0":
            original = group_of.get(f"{number}-0.jpg", -1)
            together.setdefault(int(version), []).append(original >= 0 and group_of.get(name, -2) == original)
    shares = {version: sum(each) / len(each) for version, each in together.items()}
    return right / max(found, 1), right / wanted, shares


def cosine_recall(vectors: NDArray[np.float32], numbers: NDArray[np.int64]) -> float:
    """Returns the recall of a threshold on the cosine alone, at PRECISION over pairs."""
    first, second = np.triu_indices(len(vectors), 1)
    cosines = np.concatenate([row @ vectors[index + 1 :].T for index, row in enumerate(vectors)])
    truth = numbers[first] == numbers[second]
    order = np.argsort(-cosines, kind="stable")
    precision = np.cumsum(truth[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(precision >= PRECISION)
    return float(truth[order[: enough[-1] + 1]].sum() / truth.sum()) if len(enough) else 0.0


def measure(photographs: Sequence[Path], same: dict[int, int], changes: str, seed: int) -> list[list[str]]:
    """Returns the rows of the table for one set of changes."""
    from imgclassify.engines import FEATURES
    from imgclassify.runner import load_runner
    from imgclassify.similarity.neighbours import unit_vectors

    with tempfile.TemporaryDirectory(prefix="duplicates-") as name:
        folder = Path(name)
        make_versions(photographs, folder, changes, seed)
        files = sorted(folder.iterdir())
        numbers = [int(path.name[:5]) for path in files]
        originals = {path.name: same.get(number, number) for path, number in zip(files, numbers, strict=True)}
        groups = find_groups(folder)
        runner = load_runner(outputs=(FEATURES,), with_labels=False)
        rows = [image.arrays[FEATURES] for image in runner.run(files) if image.arrays]
    recall_of_cosine = cosine_recall(unit_vectors(np.stack(rows)), np.array(list(originals.values())))
    precision, recall, shares = score(groups, originals)
    shown = f"{len(files)} images of {len(photographs)} photographs"
    table = [[f"**{changes}** changes ({shown})", f"{precision:.4f}", f"{recall:.4f}"]]
    table += [
        [f"– {change}", report.NONE, f"{shares[version]:.3f}"] for version, change in enumerate(CHANGES[changes], 1)
    ]
    table += [["– a threshold on the cosine of the features alone", f"{PRECISION}", f"{recall_of_cosine:.4f}"]]
    return table


def exact_copies(photographs: Sequence[Path]) -> list[str]:
    """Returns the row for exact copies: each photograph twice."""
    with tempfile.TemporaryDirectory(prefix="duplicates-") as name:
        folder = Path(name)
        originals: dict[str, int] = {}
        content: dict[bytes, int] = {}
        for number, path in enumerate(photographs):
            for version in (0, 1):
                file = folder / f"{number:05}-{version}.jpg"
                file.write_bytes(path.read_bytes())
                originals[file.name] = content.setdefault(path.read_bytes(), number)
        command = [*imgclassify(), "duplicates", str(folder), "-f", "jsonl", "--stage", "bytes"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        groups = [
            [Path(each["source"]).name for each in loads(line)["images"]] for line in done.stdout.splitlines()
        ]
        precision, recall, _ = score(groups, originals)
    return [f"exact copies ({2 * len(photographs)} files), `--stage bytes`", f"{precision:.4f}", f"{recall:.4f}"]


def _photographs(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                yield path


def _same_photographs(photographs: Sequence[Path], path: Path | None) -> dict[int, int]:
    """Returns the numbers of photographs that show the same as an earlier one, with that one's number."""
    names = {photograph.name: number for number, photograph in enumerate(photographs)}
    lines = path.read_text("utf-8").splitlines() if path else []
    pairs = [sorted(names[name] for name in line.split()) for line in lines if line.strip()]
    return {second: first for first, second in pairs}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="photographs, all of them different"
    )
    parser.add_argument("--same", type=Path, metavar="FILE", help="pairs of file names that show the same")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    chosen = parser.parse_args(arguments)
    photographs = list(_photographs(chosen.folders))
    same = _same_photographs(photographs, chosen.same)
    rows = [exact_copies(photographs)]
    for changes in CHANGES:
        print(changes, file=sys.stderr, flush=True)
        rows += measure(photographs, same, changes, chosen.seed)
    described = machine.describe()
    lines = [f"- {key}: {described[key]}" for key in ("Processor", "Cores", "Python")]
    text = "\n".join([*lines, "", *report.table(["", "precision", "recall"], rows)]) + "\n"
    sys.stdout.write(text)
    if chosen.write:
        report.insert(PAGE, text, MODULE)


if __name__ == "__main__":
    main()
