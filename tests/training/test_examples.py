"""The images of a training: which are read with augmented views, and what is known of them afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import noise
from PIL import Image

from imgclassify.runner import load_runner
from imgclassify.sources import expand
from imgclassify.training.dataset import LabelledSource, find_dataset
from imgclassify.training.examples import Examples, collect_examples
from imgclassify.training.reading import ReadImage, default_views, read_images


def collect(root: Path, views: int) -> tuple[Examples, list[tuple[int, int]]]:
    """Returns the examples, and the number of images and of views of each reading."""
    runner = load_runner(outputs=("features",), with_labels=False)
    readings: list[tuple[int, int]] = []

    def read(sources: Sequence[LabelledSource], views: int) -> list[ReadImage]:
        readings.append((len(sources), views))
        return read_images((each.source for each in sources), runner=runner, views=views)

    dataset = find_dataset(expand([str(root)]), roots=[str(root)])
    return collect_examples(dataset, read, views=views, fraction=0.4, seed=0), readings


def write_images(root: Path, folders: Sequence[str], count: int, *, scale: int = 1) -> Path:
    for seed, (folder, number) in enumerate((folder, number) for folder in folders for number in range(count)):
        path = root / folder / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(40 * scale, 30 * scale, seed=seed).save(path)
    return root


PARTS = ("train/cat", "train/dog", "val/cat", "val/dog")


def test_a_given_validation_part_has_no_views(tmp_path: Path) -> None:
    root = write_images(tmp_path, PARTS, 3)
    examples, readings = collect(root, views=2)
    assert readings == [(6, 2), (6, 0)]
    assert [len(each.read.features) for each in examples.train if each.read.features is not None] == [3] * 6
    plain, readings = collect(root, views=0)
    assert readings == [(12, 0)]
    for part, same in ((examples.train, plain.train), (examples.val, plain.val)):
        assert [each.source.source.name for each in part] == [each.source.source.name for each in same]
        for one, other in zip(part, same, strict=True):
            assert one.read.features is not None
            assert other.read.features is not None
            assert np.allclose(one.read.features[0], other.read.features[0], atol=1e-5)


def test_images_that_are_still_to_be_split_have_views(tmp_path: Path) -> None:
    examples, readings = collect(write_images(tmp_path, ("cat", "dog"), 5), views=1)
    assert readings == [(10, 1)]
    assert examples.is_split
    assert (len(examples.train), len(examples.val)) == (6, 4)


def test_an_image_in_two_classes_is_told(tmp_path: Path) -> None:
    root = write_images(tmp_path, ("cat", "dog"), 5, scale=8)
    assert collect(root, views=0)[0].notes == ()
    shutil.copyfile(root / "cat/3.png", root / "dog/copy.png")
    with Image.open(root / "dog/1.png") as image:
        image.resize((400, 300)).save(root / "cat/larger.png")
    [note] = collect(root, views=0)[0].notes
    assert note.startswith("near duplicates in different classes: 2 images, the first are ")
    assert note.endswith(f"{str(root / 'cat/larger.png')!r} (cat) and {str(root / 'dog/1.png')!r} (dog)")


@pytest.mark.parametrize(
    ("method", "num_images", "expected"),
    [("probe", 244, 0), ("scratch", 244, 0), ("finetune", 244, 8), ("finetune", 1000, 2), ("finetune", 50_000, 0)],
)
def test_the_probe_of_fine_tuning_has_views_where_images_are_few(
    method: str, num_images: int, expected: int
) -> None:
    assert default_views(method, num_images) == expected
