"""Decoded images that are kept: the pixels of predict and of torchvision, once decoded, in a file or not."""

from __future__ import annotations

import logging
from collections import namedtuple
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from conftest import noise
from labelled_images import as_sources, made_pixels, tiny_spec
from PIL import Image

from imgclassify.catalog import PreprocessSpec
from imgclassify.sources import Source, expand
from imgclassify.training import image_store
from imgclassify.training.image_store import (
    DecodeOptions,
    crop_decoder,
    image_decoder,
    open_store,
    reduced_size,
)

OPTIONS = DecodeOptions()
LARGE = tiny_spec(64, resize_size=72, interpolation="bicubic")


def sources(*paths: Path) -> list[Source]:
    return [source for path in paths for source in as_sources(path)]


@pytest.fixture
def photos(tmp_path: Path) -> list[Source]:
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        noise(320 + number, 200, seed=number).save(path, quality=95)
    return sources(*paths)


def counting(decode: Any) -> tuple[Any, list[str]]:
    names: list[str] = []

    def decode_and_count(source: Source) -> np.ndarray:
        names.append(source.name)
        return decode(source)

    return decode_and_count, names


class TestReducing:
    def test_the_smallest_part_still_fills_the_crop(self) -> None:
        assert reduced_size((1000, 3000), (224, 224), 0.25) == (448, 1344)
        assert reduced_size((3000, 1000), (224, 224), 0.25) == (1344, 448)
        assert reduced_size((4000, 4000), (100, 224), 1.0) == (224, 224)

    def test_small_images_stay_as_they_are(self, tmp_path: Path) -> None:
        assert reduced_size((32, 32), (32, 32), 0.25) == (32, 32)
        assert reduced_size((300, 9000), (224, 224), 0.25) == (300, 9000)
        Image.fromarray(made_pixels(0, 0)).save(tmp_path / "tiny.png")
        decoded = image_decoder((32, 32), 0.25, OPTIONS)(sources(tmp_path / "tiny.png")[0])
        assert np.array_equal(decoded, made_pixels(0, 0))

    def test_a_large_image_is_nearly_what_pillow_makes_of_it(self, tmp_path: Path) -> None:
        photo = noise(1200, 900, seed=3)
        photo.save(tmp_path / "large.png")
        photo.save(tmp_path / "large.jpg", quality=95)
        for name in ("large.png", "large.jpg"):
            decoded = image_decoder((64, 64), 0.25, OPTIONS)(sources(tmp_path / name)[0])
            wanted = np.asarray(photo.resize((171, 128), Image.Resampling.BICUBIC), int)
            assert decoded.shape == (128, 171, 3)
            assert abs(decoded - wanted).mean() < (0.01 if name == "large.png" else 2)

    def test_a_rotated_photograph_is_upright(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        noise(300, 200).save(tmp_path / "turned.jpg", exif=exif)
        [source] = sources(tmp_path / "turned.jpg")
        assert image_decoder((64, 64), 1.0, OPTIONS)(source).shape[:2] == (96, 64)


class TestCrops:
    def test_they_are_torchvisions(self, photos: list[Source], tmp_path: Path) -> None:
        from torchvision import transforms

        transform = transforms.Compose(
            [transforms.Resize(72, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(64)]
        )
        store = open_store(tmp_path / "val.pixels", photos, crop_decoder(LARGE, OPTIONS), "key")
        assert store is not None
        for number, source in enumerate(photos):
            assert np.array_equal(store.read(number), np.asarray(transform(Image.open(source.name).convert("RGB"))))

    @pytest.mark.parametrize("order", ["rgb", "bgr", "grey"])
    def test_they_are_predicts(self, photos: list[Source], order: str) -> None:
        from imgclassify.images.cropping import create_preprocessor
        from imgclassify.images.inputs import as_input

        spec = tiny_spec(64, resize_size=72, interpolation="bicubic", channel_order=order)
        wanted = np.empty((64, 64, 3), np.uint8)
        create_preprocessor("exact", spec, "cpu")(as_input(photos[0].name, offline=True), wanted)
        assert np.array_equal(crop_decoder(spec, OPTIONS)(photos[0]), wanted)

    def test_the_limit_on_pixels_applies(self, photos: list[Source], tmp_path: Path) -> None:
        decode = crop_decoder(LARGE, DecodeOptions(max_pixels=321 * 200))
        store = open_store(tmp_path / "val.pixels", photos, decode, "key")
        assert store is not None
        assert [failure.type for failure in store.failures.values()] == ["image_too_large"]
        assert list(store.failures) == [2]


class TestStore:
    def test_images_are_decoded_once(self, photos: list[Source], tmp_path: Path) -> None:
        decode, decoded = counting(image_decoder((64, 64), 0.25, OPTIONS))
        path = tmp_path / "train.pixels"
        first = open_store(path, photos, decode, "key")
        again = open_store(path, photos, decode, "key")
        assert first is not None
        assert again is not None
        assert sorted(decoded) == sorted(source.name for source in photos)
        for number, source in enumerate(photos):
            assert np.array_equal(first.read(number), decode(source))
            assert np.array_equal(again.read(number), first.read(number))

    @pytest.mark.parametrize("change", ["key", "cut", "index"])
    def test_another_or_a_damaged_file_is_replaced(self, photos: list[Source], tmp_path: Path, change: str) -> None:
        path = tmp_path / "train.pixels"
        decode, decoded = counting(image_decoder((64, 64), 0.25, OPTIONS))
        open_store(path, photos, decode, "key")
        if change == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        if change == "index":
            path.with_suffix(".json").write_text("{")
        store = open_store(path, photos, decode, "other" if change == "key" else "key")
        assert len(decoded) == 6
        assert store is not None
        assert np.array_equal(store.read(2), decode(photos[2]))

    def test_what_does_not_fit_the_disk_is_decoded_each_time(
        self, photos: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decode, decoded = counting(image_decoder((64, 64), 0.25, OPTIONS))
        usage = namedtuple("usage", "free")
        size = decode(photos[0]).nbytes
        monkeypatch.setattr(image_store.shutil, "disk_usage", lambda _: usage(int(2.5 * 2 * size)))
        store = open_store(tmp_path / "train.pixels", photos, decode, "key")
        assert store is not None
        assert (tmp_path / "train.pixels").stat().st_size <= 2.5 * size
        decoded.clear()
        pixels = [store.read(number) for number in (0, 1, 2, 2)]
        assert decoded == [photos[2].name] * 2
        assert all(np.array_equal(pixels[number], decode(source)) for number, source in enumerate(photos))

    def test_a_broken_image_is_left_out_with_a_warning(
        self, photos: list[Source], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(Path(photos[0].name).read_bytes()[:2000])
        several = [photos[0], *sources(broken), photos[1]]
        with caplog.at_level(logging.WARNING):
            for _ in range(2):  # also when it is known from an earlier run
                store = open_store(tmp_path / "t.pixels", several, image_decoder((64, 64), 1.0, OPTIONS), "key")
                assert store is not None
                assert {number: failure.type for number, failure in store.failures.items()} == {
                    1: "truncated_image"
                }
        assert sum("broken.jpg is left out" in record.message for record in caplog.records) == 2
        assert np.array_equal(store.read(2), image_decoder((64, 64), 1.0, OPTIONS)(photos[1]))

    def test_a_stop_leaves_no_file_that_looks_whole(self, photos: list[Source], tmp_path: Path) -> None:
        event = Event()
        decode = image_decoder((64, 64), 1.0, OPTIONS)
        path = tmp_path / "train.pixels"
        many = photos * 20
        assert open_store(path, many, decode, "key", on_image=event.set, stop_event=event) is None
        assert open_store(path, many, decode, "key") is not None

    def test_members_of_archives_are_read(self, photos: list[Source], tmp_path: Path) -> None:
        import tarfile
        import zipfile

        with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed, tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
            for source in photos:
                packed.write(source.name, Path(source.name).name)
                tar.add(source.name, Path(source.name).name)
        decode = crop_decoder(LARGE, OPTIONS)
        for archive in ("a.zip", "a.tar.gz"):
            members = list(expand([str(tmp_path / archive)], notice=lambda _: None, offline=True))
            store = open_store(tmp_path / f"{archive}.pixels", members, decode, "key")
            assert store is not None
            assert all(np.array_equal(store.read(number), decode(photos[number])) for number in range(3))

    def test_no_image_makes_an_empty_store(self, tmp_path: Path) -> None:
        store = open_store(tmp_path / "val.pixels", [], crop_decoder(LARGE, OPTIONS), "key")
        assert store is not None
        assert not store.failures


def test_a_crop_with_padding_is_predicts(tmp_path: Path) -> None:
    spec: PreprocessSpec = tiny_spec(48, resize_size=32)
    Image.fromarray(made_pixels(1, 1)).save(tmp_path / "a.png")
    crop = crop_decoder(spec, OPTIONS)(sources(tmp_path / "a.png")[0])
    assert np.array_equal(crop[8:40, 8:40], made_pixels(1, 1))
    assert not crop[:8].any()
