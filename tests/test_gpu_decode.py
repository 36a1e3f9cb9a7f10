"""Decoding on the GPU, with torchvision's decoder for the CPU in nvJPEG's place; and what goes the exact way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from conftest import noise
from networks import needs_gpu
from PIL import ExifTags, Image

from benchmarks import color_spaces
from imgclassify import Classifier, sources
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import (
    CorruptImageError,
    DeviceError,
    ImageEmptyError,
    ImageNotFoundError,
    ImageTooLargeError,
    NotAnImageError,
)
from imgclassify.images import decoding, gpu_decoding, preprocessing
from imgclassify.images.gpu_decoding import GpuDecoder
from imgclassify.sources import Source

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.jpg"))
HALF = (0.5, 0.5, 0.5)


def spec(
    interpolation: str = "bilinear", *, resize: int = 64, crop: int = 56, mode: str = "center"
) -> PreprocessSpec:
    return PreprocessSpec(resize, (crop, crop), interpolation, True, HALF, HALF, mode)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def source(content: bytes, name: str = "photo.jpg") -> Source:
    return Source(name, partial(BytesIO, content))


class Decoder:
    """libjpeg, counting; what nvJPEG would do."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
        self.sizes.append(len(jpegs))
        return gpu_decoding.decode_jpegs(jpegs, "cpu")


def exactly(content: bytes, how: PreprocessSpec) -> np.ndarray:
    return preprocessing.resize_and_crop(decoding.load_image(source(content)), how)


def assert_close(crop: np.ndarray, expected: np.ndarray) -> None:
    assert (crop.shape, crop.dtype, crop.flags.c_contiguous) == (expected.shape, np.uint8, True)
    difference = np.abs(crop.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.02


def pictures() -> dict[str, Image.Image]:
    random = np.random.default_rng(0)
    black_and_white = np.repeat(random.integers(0, 2, (150, 200, 1), dtype=np.uint8) * 255, 3, axis=2)
    return {
        "smooth": noise(320, 240),
        "edges": Image.fromarray(black_and_white),
        "tall": Image.fromarray(black_and_white).resize((90, 1400), Image.Resampling.NEAREST),
        "wide": Image.fromarray(black_and_white).resize((700, 80), Image.Resampling.NEAREST),
        "enlarged": noise(40, 30),
        "as large as it shall be": noise(64, 64),
    }


@pytest.mark.parametrize("interpolation", gpu_decoding.INTERPOLATIONS)
@pytest.mark.parametrize("name", pictures())
def test_a_crop_is_within_a_level_of_the_exact_one(name: str, interpolation: str) -> None:
    decode, how = Decoder(), spec(interpolation)
    content = jpeg(pictures()[name])
    crop, info = GpuDecoder(how, "cpu", decode_batch=decode).load_crop(source(content))
    assert_close(crop, exactly(content, how))
    assert (info.width, info.height) == pictures()[name].size
    assert decode.sizes == [1]


@pytest.mark.parametrize("interpolation", gpu_decoding.INTERPOLATIONS)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_so_it_is_with_photographs_at_the_usual_sizes(path: Path, interpolation: str) -> None:
    how = spec(interpolation, resize=256, crop=224)
    crop, _ = GpuDecoder(how, "cpu", decode_batch=Decoder()).load_crop(sources.single_source(str(path)))
    assert_close(crop, exactly(path.read_bytes(), how))


def test_squashed_and_progressive_images_are_decoded_there_too() -> None:
    decode, how = Decoder(), spec(resize=56, mode="squash")
    content = jpeg(noise(200, 90), progressive=True)
    assert_close(GpuDecoder(how, "cpu", decode_batch=decode).load_crop(source(content))[0], exactly(content, how))
    assert decode.sizes == [1]


@pytest.mark.parametrize("order", ["bgr", "grey"])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_the_channels_are_those_of_the_network(order: str, mode: str) -> None:
    decode, how = Decoder(), replace(spec(mode=mode), channel_order=order)
    content = jpeg(noise(160, 100))
    assert_close(GpuDecoder(how, "cpu", decode_batch=decode).load_crop(source(content))[0], exactly(content, how))
    assert decode.sizes == [1]


def test_grey_is_pillow_s() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    how = replace(spec(resize=64, crop=64), channel_order="grey")
    crop = gpu_decoding.resized_crop(torch.from_numpy(colours).permute(2, 0, 1), (64, 64), how)
    np.testing.assert_array_equal(crop[..., 1], np.asarray(Image.fromarray(colours).convert("L")))


@pytest.mark.parametrize("orientation", range(10))
def test_the_crop_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content, how, decode = jpeg(noise(160, 100), exif=exif), spec(), Decoder()
    crop, info = GpuDecoder(how, "cpu", decode_batch=decode).load_crop(source(content))
    assert_close(crop, exactly(content, how))
    assert (info.width, info.height) == ((100, 160) if orientation in (5, 6, 7, 8) else (160, 100))
    assert decode.sizes == [1]


@pytest.mark.parametrize("transposition", [None, *Image.Transpose])
def test_turning_is_pillow_s(transposition: Image.Transpose | None) -> None:
    image = noise(7, 5)
    turned = gpu_decoding.transpose_pixels(torch.from_numpy(np.array(image)).permute(2, 0, 1), transposition)
    expected = image if transposition is None else image.transpose(transposition)
    np.testing.assert_array_equal(turned.permute(1, 2, 0).numpy(), np.asarray(expected))


# The exact way ----------------------------------------------------------------------------------------------


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def without_adobe(content: bytes) -> bytes:
    """Without Adobe's marker, which says how colours are stored; what is left to tell are the channels' names."""
    start = content.index(b"\xff\xee")
    return content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4], "big") :]


EXCHANGED = color_spaces.rgb_profile("sRGB", color_spaces.SRGB_CURVE, order="bgr")
DISPLAY_P3 = color_spaces.rgb_profile("Display P3", color_spaces.SRGB_CURVE)

NOT_FOR_THE_GPU = {
    "png": (png(noise(160, 100)), spec()),
    "grey": (jpeg(noise(160, 100).convert("L")), spec()),
    "CMYK": (jpeg(noise(160, 100).convert("CMYK")), spec()),
    "stored as RGB": (jpeg(noise(160, 100), keep_rgb=True), spec()),
    "stored as RGB without a word": (without_adobe(jpeg(noise(160, 100), keep_rgb=True)), spec()),
    "lanczos": (jpeg(noise(160, 100)), spec("lanczos")),
    "crop beyond the picture": (jpeg(noise(160, 100)), spec(resize=40)),
    "border": (jpeg(noise(160, 100)), spec(mode="border")),
    "channels exchanged by a profile": (jpeg(noise(160, 100), icc_profile=EXCHANGED), spec()),
}


@pytest.mark.parametrize("name", NOT_FOR_THE_GPU)
def test_what_the_gpu_is_not_for_is_cropped_to_the_bit(name: str) -> None:
    content, how = NOT_FOR_THE_GPU[name]
    decode = Decoder()
    crop, info = GpuDecoder(how, "cpu", decode_batch=decode).load_crop(source(content))
    np.testing.assert_array_equal(crop, exactly(content, how))
    assert (info.width, info.height) == (160, 100)
    assert decode.sizes == []


def test_a_profile_that_is_not_applied_is_no_hindrance() -> None:
    content, decode = jpeg(noise(160, 100), icc_profile=DISPLAY_P3), Decoder()
    assert_close(
        GpuDecoder(spec(), "cpu", decode_batch=decode).load_crop(source(content))[0], exactly(content, spec())
    )
    assert len(decode.sizes) == 1


def raising(jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
    raise RuntimeError("Error while decoding JPEG images: 8")


def of_another_size(jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [picture[:, 1:] for picture in gpu_decoding.decode_jpegs(jpegs, "cpu")]


def too_few(jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
    return []


@pytest.mark.parametrize("decode", [raising, of_another_size, too_few])
def test_what_the_decoder_fails_at_is_cropped_to_the_bit(decode: gpu_decoding.BatchDecoder) -> None:
    content = jpeg(noise(160, 100))
    crop, info = GpuDecoder(spec(), "cpu", decode_batch=decode).load_crop(source(content))
    np.testing.assert_array_equal(crop, exactly(content, spec()))
    assert (info.width, info.height) == (160, 100)


def test_an_image_too_large_for_the_gpu_goes_the_exact_way(monkeypatch: pytest.MonkeyPatch) -> None:
    content, decode = jpeg(noise(160, 100)), Decoder()
    decoder = GpuDecoder(spec(), "cpu", decode_batch=decode)
    monkeypatch.setattr(gpu_decoding, "MAX_PIXELS", 160 * 100 - 1)
    np.testing.assert_array_equal(decoder.load_crop(source(content))[0], exactly(content, spec()))
    monkeypatch.undo()
    monkeypatch.setattr(gpu_decoding, "MAX_BYTES", len(content) - 4)
    np.testing.assert_array_equal(decoder.load_crop(source(content))[0], exactly(content, spec()))
    assert decode.sizes == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", ImageEmptyError),
        (b"hello", NotAnImageError),
        (b"\xff\xd8\xff", CorruptImageError),
        (jpeg(noise(160, 100))[:60], CorruptImageError),
        (jpeg(noise(160, 100))[:-900], CorruptImageError),
        # An end before the image's data, as that of a thumbnail, is not the image's.
        (jpeg(noise(160, 100), comment=b"\xff\xd9")[:-900], CorruptImageError),
    ],
    ids=["empty", "text", "start", "header", "cut short", "cut short with a thumbnail"],
)
def test_a_broken_file_has_the_error_it_always_has(content: bytes, error: type[Exception]) -> None:
    def grey(jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.full((3, 100, 160), 128, dtype=torch.uint8)]

    decoder = GpuDecoder(spec(), "cpu", decode_batch=grey)
    with pytest.raises(error) as found:
        decoder.load_crop(source(content))
    with pytest.raises(error) as expected:
        decoding.load_image(source(content))
    assert str(found.value) == str(expected.value)


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError):
        GpuDecoder(spec(), "cpu", decode_batch=Decoder()).load_crop(
            sources.single_source(str(tmp_path / "none.jpg"))
        )


def test_memory_that_does_not_suffice_is_that_image_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def crop(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(preprocessing, "center_crop", crop)
    with pytest.raises(ImageTooLargeError, match="160×100"):
        GpuDecoder(spec(), "cpu", decode_batch=raising).load_crop(source(jpeg(noise(160, 100))))


@pytest.mark.parametrize("content", [jpeg(noise(160, 100)), png(noise(160, 100)), b"hello"])
def test_a_source_is_opened_once_and_closed(content: bytes) -> None:
    streams: list[BinaryIO] = []

    def open_it() -> BinaryIO:
        streams.append(BytesIO(content))
        return streams[-1]

    decoder = GpuDecoder(spec(), "cpu", decode_batch=Decoder())
    try:
        decoder.load_crop(Source("photo.jpg", open_it))
    except NotAnImageError:
        assert content == b"hello"
    assert [stream.closed for stream in streams] == [True]


# Threads ----------------------------------------------------------------------------------------------------


def test_what_threads_want_at_the_same_time_is_decoded_at_once() -> None:
    """The first decoding waits until seven more threads have an image to be decoded."""
    decode, started, go_on = Decoder(), threading.Event(), threading.Event()

    def slow(jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
        started.set()
        assert go_on.wait(20)
        return decode(jpegs)

    decoder = GpuDecoder(spec(), "cpu", decode_batch=slow)
    contents = [jpeg(noise(160, 100, seed=index)) for index in range(8)]
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(decoder.load_crop, source(contents[0]))
        assert started.wait(20)
        others = [threads.submit(decoder.load_crop, source(content)) for content in contents[1:]]
        _until(lambda: len(decoder._decode._waiting) == 7)
        go_on.set()
        crops = [future.result()[0] for future in (first, *others)]
    for crop, content in zip(crops, contents, strict=True):
        assert_close(crop, exactly(content, spec()))
    assert decode.sizes == [1, 7]


def test_an_image_that_fails_its_batch_fails_alone() -> None:
    """nvJPEG gives nothing of a batch that holds one it cannot decode; the others are then decoded one by one."""
    decode, started, go_on = Decoder(), threading.Event(), threading.Event()
    bad = jpeg(noise(160, 100, seed=99))

    def picky(jpegs: list[torch.Tensor]) -> list[torch.Tensor]:
        started.set()
        assert go_on.wait(20)
        pictures = decode(jpegs)
        if any(bytes(content.numpy()) == bad for content in jpegs):
            raise RuntimeError("8")
        return pictures

    decoder = GpuDecoder(spec(), "cpu", decode_batch=picky)
    contents = [jpeg(noise(160, 100)), bad, jpeg(noise(100, 160))]
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(decoder.load_crop, source(contents[0]))
        assert started.wait(20)
        others = [threads.submit(decoder.load_crop, source(content)) for content in contents]
        _until(lambda: len(decoder._decode._waiting) == 3)
        go_on.set()
        crops = [future.result()[0] for future in (first, *others)][1:]
    assert decode.sizes == [1, 3, 1, 1, 1]
    assert_close(crops[0], exactly(contents[0], spec()))
    np.testing.assert_array_equal(crops[1], exactly(bad, spec()))
    assert_close(crops[2], exactly(contents[2], spec()))


def test_many_threads_crop_as_one() -> None:
    decoder = GpuDecoder(spec(), "cpu", decode_batch=Decoder())
    contents = [jpeg(noise(90 + index, 150 - index, seed=index)) for index in range(30)]
    contents[7], contents[19] = png(noise(90, 80)), contents[19][:-900] + b"\xff\xd9"
    alone = [decoder.load_crop(source(content)) for content in contents]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(decoder.load_crop, map(source, contents * 4)))
    for (crop, size), (expected, expected_size) in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(crop, expected)
        assert size == expected_size


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError


# Devices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_only_cuda_decodes(device: str) -> None:
    with pytest.raises(DeviceError, match=f"not on '{device}'") as error:
        GpuDecoder(spec(), device)
    assert "--device cuda" in str(error.value.hint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no GPU")
def test_a_gpu_that_cannot_decode_is_told_before_any_image() -> None:
    with pytest.raises(DeviceError, match="cannot be decoded on cuda:0") as error:
        GpuDecoder(spec(), "cuda:0")
    assert "--decode gpu" in str(error.value.hint)


@needs_gpu
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_nvjpeg_s_crops_look_the_same(path: Path) -> None:
    how = spec("bicubic", resize=256, crop=224)
    decoder = GpuDecoder(how, "cuda")
    expected = exactly(path.read_bytes(), how).astype(int)
    with ThreadPoolExecutor(8) as threads:
        crops = [crop for crop, _ in threads.map(decoder.load_crop, [sources.single_source(str(path))] * 64)]
    for crop in crops:
        np.testing.assert_array_equal(crop, crops[0])
    assert np.abs(crops[0] - expected).mean() < 2
    # Enlarging colours otherwise than libjpeg changes some value somewhere: it was the GPU that decoded.
    assert np.abs(crops[0] - expected).max() > 0


@needs_gpu
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_nvjpeg_s_crop_is_upright(
    orientation: int, subsampling: str, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = jpeg(noise(161, 101), exif=exif, subsampling=subsampling, **options)
    expected = exactly(content, spec())

    def decode_image(*_: object, **__: object) -> None:
        raise AssertionError("decoded on the CPU")

    monkeypatch.setattr(decoding, "decode_image", decode_image)
    crop, info = GpuDecoder(spec(), "cuda").load_crop(source(content))
    assert np.abs(crop.astype(int) - expected).mean() < 2
    assert (info.width, info.height) == ((101, 161) if orientation >= 5 else (161, 101))


@needs_gpu
def test_files_that_nvjpeg_fails_at_do_not_change_the_others() -> None:
    contents = [jpeg(noise(90 + index, 150 - index, seed=index)) for index in range(30)]
    alone = [GpuDecoder(spec(), "cuda").load_crop(source(content))[0] for content in contents]
    broken = [content[:700] + bytes(200) + content[900:] for content in contents[::3]]  # their data
    broken += [content[:-900] + b"\xff\xd9" for content in contents[::3]]
    decoder = GpuDecoder(spec(), "cuda", decode_damaged=True)
    with ThreadPoolExecutor(16) as threads:
        mixed = [each for pair in zip(contents, broken * 2, strict=False) for each in pair] * 4
        found = list(threads.map(decoder.load_crop, map(source, mixed)))
    for (crop, _), expected in zip(found[::2], alone[: len(broken * 2)] * 4, strict=True):
        np.testing.assert_array_equal(crop, expected)


@needs_gpu
@pytest.mark.parametrize("name", NOT_FOR_THE_GPU)
def test_beside_nvjpeg_what_the_gpu_is_not_for_is_cropped_to_the_bit(name: str) -> None:
    content, how = NOT_FOR_THE_GPU[name]
    crop, _ = GpuDecoder(how, "cuda").load_crop(source(content))
    np.testing.assert_array_equal(crop, exactly(content, how))


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_run_with_nvjpeg_predicts_as_one_on_the_cpu(dtype: str) -> None:
    images = EXAMPLES * 30
    gpu = Classifier(device="cuda", dtype=dtype, decode_device="gpu", top_k=1000)
    assert (gpu.run.engine, gpu.run.device, gpu.run.decode_mode) == ("torch", "cuda:0", "gpu")
    expected = {each.source: each.predictions for each in Classifier(device="cpu", top_k=1000).predict(EXAMPLES)}
    for found in gpu.predict(images):
        wanted = expected[found.source]
        assert found.predictions[0].class_index == wanted[0].class_index
        probabilities = {each.class_index: each.probability for each in wanted}
        for each in found.predictions:
            assert each.probability == pytest.approx(probabilities[each.class_index], abs=0.1)
