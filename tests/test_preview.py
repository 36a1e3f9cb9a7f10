"""The preview of an image is what the network gets, and its box is where that lies in the image."""

from __future__ import annotations

import csv
import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision import transforms

from imgclassify import Classifier, catalog
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import ImageError, UsageError
from imgclassify.hub.loader import find_preprocessing, load_network
from imgclassify.hub.network import LoadOptions, PreprocessOverrides
from imgclassify.images.crop_files import CropFolder
from imgclassify.images.preprocessing import crop_box, resize_and_crop
from imgclassify.runner import ModelRunner, load_runner

EMBEDDED = catalog.find_model("efficientnet_lite0").preprocess


def fed_crops(runner: ModelRunner, images: list[Any]) -> list[NDArray[np.uint8]]:
    """What the engine is given for each image."""
    crops: list[NDArray[np.uint8]] = []
    infer = runner.engine.infer

    def watched(batch: NDArray[np.uint8]) -> Any:
        crops.extend(batch.copy())
        return infer(batch)

    runner.engine.infer = watched  # type: ignore[method-assign]
    try:
        assert [each.error for each in runner.run(images)] == [None] * len(images)
    finally:
        runner.engine.infer = infer  # type: ignore[method-assign]
    return crops


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """A large JPEG that its EXIF data turns, a small PNG with transparency, a grey one, and a member of a zip."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(1400, 900).save(tmp_path / "turned.jpg", exif=exif)
    small = noise(90, 40, seed=1)
    small.putalpha(Image.linear_gradient("L").resize(small.size))
    small.save(tmp_path / "small.png")
    noise(301, 300, seed=2).convert("L").save(tmp_path / "grey.png")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tmp_path / "grey.png", "in/grey.png")
    return [str(tmp_path / name) for name in ("turned.jpg", "small.png", "grey.png", "more.zip!in/grey.png")]


@pytest.mark.parametrize(
    "options",
    [{}, {"fast_decode": True}, {"isolate": True}, {"crop_size": 300, "resize_size": 180}],
    ids=["exact", "fast", "isolate", "padded"],
)
def test_the_preview_is_what_the_engine_gets(images: list[str], options: dict[str, Any]) -> None:
    runner = load_runner(batch_size=3, **options)
    previews = [runner.preview(name) for name in images]
    assert [preview.source for preview in previews] == images
    # Batches are computed in parallel, in any order.
    fed = sorted(crop.tobytes() for crop in fed_crops(runner, images))
    assert sorted(preview.crop.tobytes() for preview in previews) == fed
    assert len(set(fed)) == 3
    runner.close()


def test_the_preview_is_torchvisions_crop(images: list[str]) -> None:
    theirs = transforms.Compose(
        [
            transforms.Resize(EMBEDDED.resize_size, transforms.InterpolationMode(EMBEDDED.interpolation)),
            transforms.CenterCrop(EMBEDDED.crop_size),
        ]
    )
    runner = load_runner()
    for name in (images[0], images[2]):
        with Image.open(name) as image:
            wanted = theirs(ImageOps.exif_transpose(image).convert("RGB"))
        assert np.array_equal(runner.preview(name).crop, np.asarray(wanted))


def test_an_image_in_memory_has_a_preview_too() -> None:
    array = np.asarray(noise(300, 200))
    preview = Classifier().runner.preview(array)
    assert (preview.source, preview.width, preview.height, preview.orientation) == ("image:0", 300, 200, None)
    assert np.array_equal(preview.crop, resize_and_crop(Image.fromarray(array), EMBEDDED))


def spec(resize: Any, crop: tuple[int, int], mode: str = "center") -> PreprocessSpec:
    return PreprocessSpec(resize, crop, "bilinear", True, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), mode)


@pytest.mark.parametrize("size", [(700, 500), (500, 700), (431, 430), (90, 60), (1000, 120)])
@pytest.mark.parametrize(
    "spec",
    [
        spec(256, (224, 224)),
        spec(100, (100, 60)),
        spec(120, (201, 180)),  # padded
        spec((300, 200), (224, 160)),
        spec((200, 160), (200, 160), "squash"),
        spec((200, 160), (200, 160), "border"),
        spec((201, 301), (224, 224), "border"),
    ],
    ids=str,
)
def test_the_box_is_where_the_crop_comes_from(size: tuple[int, int], spec: PreprocessSpec) -> None:
    """Red tells where a pixel of the crop comes from, from left to right, and green from top to bottom."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = np.rint(np.stack([55 + 200 * x, 55 + 200 * y, np.full_like(x, 255)], -1)).astype(np.uint8)
    crop = resize_and_crop(Image.fromarray(pixels), spec).astype(float)
    box = crop_box((height, width), spec)
    for axis, (side, begin, end) in enumerate([(width, box[0], box[2]), (height, box[1], box[3])]):
        lines = np.ma.masked_array(crop[..., axis], crop[..., 2] < 250).mean(axis=axis)  # without the padding
        places = (lines.filled(np.nan) - 55) / 200 * side
        positions = np.arange(len(places)) + 0.5
        # Towards the edges of the image, the filter is cut off.
        inner = np.isfinite(places) & (places > 0.05 * side) & (places < 0.95 * side)
        slope, start = np.polyfit(positions[inner], places[inner], 1)
        tolerance = max(0.01 * side, 1)
        assert start == pytest.approx(begin, abs=tolerance)
        assert start + slope * len(places) == pytest.approx(end, abs=tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_the_exif_orientation_is_told(tmp_path: Path, orientation: int, extension: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(80, 60).save(tmp_path / f"x.{extension}", exif=exif)
    preview = load_runner().preview(tmp_path / f"x.{extension}")
    assert preview.orientation == orientation
    assert (preview.width, preview.height) == ((60, 80) if orientation > 4 else (80, 60))
    assert json.loads(json.dumps(preview.to_dict()))["box"] == list(preview.box)


def test_what_cannot_be_read_raises(tmp_path: Path) -> None:
    runner = load_runner()
    with pytest.raises(ImageError):
        runner.preview(tmp_path / "none.jpg")
    with pytest.raises(UsageError):
        runner.preview(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("reference", ["efficientnet_lite0", "timm:tf_efficientnet_lite0.in1k"])
def test_the_preprocessing_is_found_without_the_weights(reference: str) -> None:
    overrides = PreprocessOverrides(crop_size=(200, 180))
    found = find_preprocessing(reference, LoadOptions(offline=True, overrides=overrides))
    assert found.crop_size == (200, 180)
    assert (found.resize_size, found.mean) == (EMBEDDED.resize_size, EMBEDDED.mean)


def test_the_preprocessing_of_other_models_is_that_of_the_loaded_one(tmp_path: Path, photo: Path) -> None:
    embedded = load_network("efficientnet_lite0", LoadOptions()).path
    assert embedded is not None
    options = LoadOptions(arch="efficientnet_lite0", with_labels=False)
    (tmp_path / "mine.pth").symlink_to(embedded)
    assert find_preprocessing(str(tmp_path / "mine.pth"), options) == EMBEDDED
    with pytest.raises(UsageError, match="--arch is for files"):
        find_preprocessing("efficientnet_lite0", options)


# Crops of a run


def read_table(folder: Path) -> list[list[str]]:
    with (folder / "inputs.tsv").open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.reader(stream, delimiter="\t"))


def read_crops(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """The pixels by the source that the table names."""
    header, *rows = read_table(folder)
    assert header == ["file", "model", "source"]
    assert sorted(row[0] for row in rows) == sorted(path.name for path in folder.glob("*.png"))
    return {source: np.asarray(Image.open(folder / file)) for file, _, source in rows}


@pytest.mark.parametrize("options", [{}, {"isolate": True}], ids=["threads", "isolate"])
def test_each_crop_of_a_run_is_saved(images: list[str], tmp_path: Path, options: dict[str, Any]) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    runner = load_runner(batch_size=2, **options)
    with CropFolder(tmp_path / "new" / "crops", model="net") as folder:
        runner.observe_crops(folder.save)
        results = list(runner.run([*images, broken, images[0]]))
    assert [result.error is None for result in results] == [True, True, True, True, False, True]
    saved = read_crops(folder.path)
    plain = load_runner()
    assert saved.keys() == set(images)
    for name, crop in saved.items():
        assert np.array_equal(crop, plain.preview(name).crop)
    runner.close()


def test_an_observer_that_fails_ends_the_run(images: list[str]) -> None:
    def fail(name: str, crop: NDArray[np.uint8]) -> None:
        raise UsageError("no space", hint="none")

    runner = load_runner()
    runner.observe_crops(fail)
    with pytest.raises(UsageError, match="no space"):
        list(runner.run(images))


@pytest.fixture
def crops() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    return np.full((4, 5, 3), 7, np.uint8), np.full((4, 5, 3), 9, np.uint8)  # type: ignore[return-value]


def test_no_file_is_replaced_and_none_is_written_twice(tmp_path: Path, crops: Any) -> None:
    first, second = crops
    for crop in (first, first, second, second, first):
        with CropFolder(tmp_path, model="net") as folder:
            folder.save("a/dog.jpg", crop)
    rows = read_table(tmp_path)[1:]
    assert [row[1:] for row in rows] == [["net", "a/dog.jpg"]] * 2
    pixels = [np.asarray(Image.open(tmp_path / row[0])) for row in rows]
    assert np.array_equal(pixels[0], first)
    assert np.array_equal(pixels[1], second)
    assert len(list(tmp_path.iterdir())) == 3


NAMES = [
    "dog.jpg",
    "a/dog.jpg",
    "b/dog.jpg",
    "DOG.jpg",
    "caf\udce9.jpg",
    "tab\t\n.jpg",
    "-",
    "x" * 300,
    "a.zip!b/dog.png",
]
NAMES += ["https://example.org/dog.jpg?size=1", "https://example.org/dog.jpg?size=2", "..", "C:\\con.jpg", "/"]


def test_every_name_has_a_file_of_its_own(tmp_path: Path, crops: Any) -> None:
    with CropFolder(tmp_path, model="net") as folder:
        for name in NAMES:
            folder.save(name, crops[0])
    files = {source: file for file, _, source in read_table(tmp_path)[1:]}
    assert list(files) == NAMES
    assert len({file.casefold() for file in files.values()}) == len(NAMES)
    assert all((tmp_path / file).is_file() and file.isprintable() for file in files.values())
    assert all(file.startswith("dog-") for source, file in files.items() if "dog" in source)


def test_threads_that_save_the_same_image_write_one_file(tmp_path: Path, crops: Any) -> None:
    with CropFolder(tmp_path, model="net") as folder:
        threads = [threading.Thread(target=folder.save, args=("dog.jpg", crops[0])) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_table(tmp_path)) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_row_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path, crops: Any) -> None:
    (tmp_path / "inputs.tsv").write_text("file\tmodel\tsource\nhalf")
    with CropFolder(tmp_path, model="net") as folder:
        folder.save("dog.jpg", crops[0])
    assert [row[-1] for row in read_table(tmp_path)] == ["source", "half", "dog.jpg"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, crops: Any) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "file/x", "nul\0"):
        with pytest.raises(UsageError, match="cannot write to the folder"):
            CropFolder(tmp_path / name, model="net")
    folder = CropFolder(tmp_path / "crops", model="net")
    (tmp_path / "crops" / "inputs.tsv").unlink()
    (tmp_path / "crops").rmdir()
    with pytest.raises(UsageError, match="cannot write to the folder"):
        folder.save("dog.jpg", crops[0])
    folder.close()


def test_the_crop_of_stdin_is_named_so(tmp_path: Path) -> None:
    with CropFolder(tmp_path, model="net") as folder:
        folder.save("-", np.zeros((4, 4, 3), np.uint8))
    [crop] = tmp_path.glob("*.png")
    digest = hashlib.sha256(b"-").hexdigest()[:16]
    assert crop.name == f"stdin-{digest}.png"
