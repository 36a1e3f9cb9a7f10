"""Files of several frames or pages: which is answered by default, and each as SOURCE#N with --frames all."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import dicom_dataset
from PIL import Image, ImageDraw

from imgclassify import sources
from imgclassify.errors import ImageError, ImageNotFoundError, UsageError
from imgclassify.images import decoding, opened_image
from imgclassify.images.frame_sources import expand_frames, list_names
from imgclassify.images.frames import FrameSelection, select_frames
from imgclassify.images.isolated_listing import IsolatedListing
from imgclassify.sources import Source

ALL = FrameSelection()
SIZE = (48, 32)


def frame(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image of which no two numbers look alike: a square at another place, in another colour."""
    image = Image.new("RGB", size, (230, 230 - 9 * number % 200, 40))
    place = 3 * number % 24
    ImageDraw.Draw(image).rectangle((place, 4, place + 12, 20), (20, 11 * number % 250, 200))
    return image


def animation(form: str, frames: list[Image.Image], **options: Any) -> bytes:
    stream = io.BytesIO()
    frames[0].save(stream, form, save_all=True, append_images=frames[1:], **options)
    return stream.getvalue()


MAKERS: dict[str, Callable[[list[Image.Image]], bytes]] = {
    "gif": partial(animation, "GIF", duration=50),
    "png": partial(animation, "PNG"),
    "webp": partial(animation, "WEBP", lossless=True),
    "avif": partial(animation, "AVIF", quality=95, subsampling="4:4:4"),
    "tif": partial(animation, "TIFF"),
    "lzw.tif": partial(animation, "TIFF", compression="tiff_lzw"),
    "jpeg.tif": partial(animation, "TIFF", compression="jpeg", quality=95),
}


def tiff_of_16_bits(frames: list[Image.Image]) -> bytes:
    """Planar pages of 16 bits, which Pillow does not read."""
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for each in frames:
            values = np.asarray(each).astype(np.uint16) * 257
            writer.write(values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", metadata=None)
    return stream.getvalue()


def dicom(frames: list[Image.Image]) -> bytes:
    pixels = np.stack([np.asarray(each) for each in frames])
    dataset = dicom_dataset(pixels[0])
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = pixels.tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def heic(frames: list[Image.Image]) -> bytes:
    heif = pytest.importorskip("pillow_heif")
    file = heif.HeifFile()
    for each in frames:
        file.add_from_pillow(each)
    stream = io.BytesIO()
    file.save(stream, quality=95, chroma=444, primary_index=1)
    return stream.getvalue()


def stack(frames: list[Image.Image], **options: Any) -> bytes:
    """A TIFF with one directory for all images."""
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    pixels = np.stack([np.asarray(each) for each in frames])
    tifffile.imwrite(stream, pixels, photometric="rgb", truncate=True, **options)
    return stream.getvalue()


MAKERS |= {"16.tif": tiff_of_16_bits, "dcm": dicom, "heic": heic}
MAKERS |= {"stack.tif": stack, "imagej.tif": partial(stack, imagej=True)}
TOLERANCE = {"gif": 6, "avif": 24, "jpeg.tif": 24, "heic": 8}


def made(form: str, frames: list[Image.Image]) -> Source:
    return Source(f"a.{form}", partial(io.BytesIO, MAKERS[form](frames)))


def assert_is(image: Image.Image, wanted: Image.Image, form: str) -> None:
    difference = np.abs(np.asarray(image, int) - np.asarray(wanted, int))
    assert difference.mean() <= TOLERANCE.get(form, 0) / 4
    assert np.quantile(difference, 0.99) <= 4 * TOLERANCE.get(form, 0)


@pytest.mark.parametrize("form", MAKERS)
def test_each_frame_is_a_source(form: str) -> None:
    frames = [frame(number) for number in range(5)]
    found = list(expand_frames([made(form, frames)], ALL))
    assert [each.name for each in found] == [f"a.{form}#{number}" for number in range(1, 6)]
    for number, (source, wanted) in enumerate(zip(found, frames, strict=True), 1):
        image = decoding.load_image(source)
        assert_is(image, wanted, form)
        assert (image.info["frames"], image.info["frame"]) == (5, number)


@pytest.mark.parametrize("form", MAKERS)
def test_frames_are_read_in_any_order(form: str) -> None:
    frames = [frame(number) for number in range(5)]
    found = list(expand_frames([made(form, frames)], ALL))
    for index in (3, 1, 4, 4, 0, 2):
        assert_is(decoding.load_image(found[index]), frames[index], form)


@pytest.mark.parametrize("form", MAKERS)
def test_a_frame_that_was_decoded_does_not_change_with_the_next(form: str) -> None:
    frames = [frame(number) for number in range(3)]
    images = [decoding.load_image(source) for source in expand_frames([made(form, frames)], ALL)]
    for image, wanted in zip(images, frames, strict=True):
        assert_is(image, wanted, form)


@pytest.mark.parametrize("form", [form for form in MAKERS if form != "heic"])
@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (10, 120, 60)])
def test_blank_frames_at_the_start_are_passed_over(form: str, color: tuple[int, int, int]) -> None:
    blank = Image.new("RGB", SIZE, color)
    # A frame that is equal to the one before would be joined with it.
    other = Image.new("RGB", SIZE, (color[0] ^ 1, color[1], color[2]))
    image = decoding.load_image(made(form, [blank, other, frame(7), frame(8)]))
    assert_is(image, frame(7), form)
    assert (image.info["frames"], image.info["frame"]) == (4, 3)


@pytest.mark.parametrize("form", [form for form in MAKERS if form != "heic"])
def test_if_all_frames_are_blank_the_first_is_answered(form: str) -> None:
    blanks = [Image.new("RGB", SIZE, (40 * number, 0, 0)) for number in range(4)]
    image = decoding.load_image(made(form, blanks))
    assert_is(image, blanks[0], form)
    assert (image.info["frames"], image.info["frame"]) == (4, 1)


def test_a_first_frame_of_little_contrast_is_not_blank() -> None:
    faint = Image.new("RGB", SIZE, (100, 100, 100))
    faint.paste((109, 100, 100), (0, 0, 24, 32))
    assert decoding.load_image(made("webp", [faint, frame(1)])).info["frame"] == 1
    fainter = Image.new("RGB", SIZE, (100, 100, 100))
    fainter.paste((108, 100, 100), (0, 0, 24, 32))
    assert decoding.load_image(made("webp", [fainter, frame(1)])).info["frame"] == 2


def test_the_main_image_of_a_heic_comes_first() -> None:
    image = decoding.load_image(made("heic", [frame(number) for number in range(3)]))
    assert_is(image, frame(1), "heic")
    assert (image.info["frames"], image.info["frame"]) == (3, 2)


def test_a_transparent_first_frame_is_blank() -> None:
    clear = Image.new("RGBA", SIZE, (200, 30, 90, 0))
    image = decoding.load_image(made("webp", [clear, frame(3).convert("RGBA")]))
    assert_is(image, frame(3), "webp")


@pytest.mark.parametrize("form", ["png", "gif", "webp", "tif", "dcm", "avif"])
def test_a_file_of_one_frame_keeps_its_name(form: str) -> None:
    source = made(form, [frame(2)])
    [found] = expand_frames([source], ALL)
    assert found.name == f"a.{form}"
    assert found.frame is None
    assert "frames" not in decoding.load_image(found).info


def test_pages_that_are_reduced_or_masks_do_not_count() -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    small = np.asarray(frame(1).resize((12, 8)))
    with tifffile.TiffWriter(stream) as writer:
        for number in (2, 5):
            writer.write(np.asarray(frame(number)), photometric="rgb", metadata=None)
            writer.write(small, photometric="rgb", subfiletype=1, metadata=None)
        writer.write(np.zeros((32, 48), bool), photometric=4, subfiletype=4, metadata=None)
    found = list(expand_frames([Source("x.tif", partial(io.BytesIO, stream.getvalue()))], ALL))
    assert [each.name for each in found] == ["x.tif#1", "x.tif#2"]
    assert_is(decoding.load_image(found[0]), frame(2), "tif")
    assert_is(decoding.load_image(found[1]), frame(5), "tif")


def test_a_stack_is_not_believed_where_there_is_no_room_for_it() -> None:
    """A program may copy the description of a stack to a single image."""
    content = stack([frame(1), frame(2)], imagej=True)
    alone = content[: len(content) - SIZE[0] * SIZE[1] * 3]
    assert list(list_names(Source("a", partial(io.BytesIO, alone)), ALL)) == ["1"]
    assert_is(decoding.decode_image(io.BytesIO(alone)), frame(1), "tif")


def test_pages_of_other_sizes_and_orientations_are_upright() -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(np.asarray(frame(2)), photometric="rgb", metadata=None)
        turned = np.asarray(frame(5, (64, 40)).transpose(Image.Transpose.ROTATE_90))
        writer.write(turned, photometric="rgb", metadata=None, extratags=[(274, 3, 1, 6, True)])
    second = list(expand_frames([Source("x.tif", partial(io.BytesIO, stream.getvalue()))], ALL))[1]
    assert_is(decoding.load_image(second), frame(5, (64, 40)), "tif")


def test_the_limit_on_pixels_is_that_of_a_page() -> None:
    stream = io.BytesIO()
    frame(1).save(stream, "TIFF", save_all=True, append_images=[frame(2, (480, 320)), frame(3)])
    outcomes = []
    for source in expand_frames([Source("x.tif", partial(io.BytesIO, stream.getvalue()))], ALL):
        try:
            outcomes.append(decoding.load_image(source, max_pixels=10_000).size)
        except ImageError as error:
            outcomes.append(error.type)
    assert outcomes == [SIZE, "image_too_large", SIZE]


def test_a_damaged_frame_costs_only_itself() -> None:
    content = bytearray(MAKERS["lzw.tif"]([frame(number) for number in range(4)]))
    image = Image.open(io.BytesIO(content))
    image.seek(2)
    [start] = image.tag_v2[273]  # type: ignore[attr-defined]
    content[start : start + 40] = b"\xff" * 40
    outcomes = []
    for source in expand_frames([Source("x.tif", partial(io.BytesIO, bytes(content)))], ALL):
        try:
            outcomes.append(decoding.load_image(source).info["frame"])
        except ImageError as error:
            outcomes.append(error.type)
    assert outcomes == [1, 2, "corrupt_image", 4]


@pytest.mark.parametrize("form", ["gif", "png"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.95])
def test_a_truncated_animation_answers_the_frames_that_are_whole(form: str, share: float) -> None:
    content = MAKERS[form]([frame(number) for number in range(5)])
    outcomes = []
    for source in expand_frames([Source("x", partial(io.BytesIO, content[: int(share * len(content))]))], ALL):
        try:
            image = decoding.load_image(source)
        except ImageError as error:
            outcomes.append(error.type)
        else:
            assert_is(image, frame(len(outcomes)), form)
            outcomes.append("answered")
    assert outcomes[0] == "answered"
    assert set(outcomes) <= {"answered", "truncated_image", "corrupt_image"}
    assert outcomes == sorted(outcomes)  # the whole ones come first


@pytest.mark.parametrize("form", MAKERS)
def test_frames_that_are_cut_off_do_not_vanish_silently(form: str) -> None:
    """Wherever a file is cut: the frames that are answered are right, and there is an error if some are not."""
    content = MAKERS[form]([frame(number) for number in range(5)])

    def read(part: bytes) -> list[bytes | str]:
        found: list[bytes | str] = []
        for each in expand_frames([Source("a", partial(io.BytesIO, part), in_memory=True)], ALL):
            try:
                found.append(decoding.load_image(each).tobytes())
            except ImageError as error:
                found.append(error.type)
        return found

    whole = read(content)
    assert len(set(whole)) == 5
    answered = set()
    for end in (*range(16, len(content), len(content) // 50), *range(len(content) - 10, len(content))):
        cut = read(content[:end])
        images = [each for each in cut if isinstance(each, bytes)]
        assert images == whole[: len(images)], end
        assert len(images) == 5 or len(images) < len(cut), end
        answered.add(len(images))
    assert answered >= {0, 2, 3, 4} or form == "avif"  # libavif reads no sequence that is cut


def test_what_cannot_be_opened_is_passed_on_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "no.gif").write_bytes(b"GIF89a")
    names = [str(tmp_path / "no.gif"), str(tmp_path / "missing.gif"), "-"]
    found = list(expand_frames(sources.expand(names, stdin=io.BytesIO(b"text")), ALL))
    assert [each.name for each in found] == names
    kinds = []
    for source in found:
        with pytest.raises(ImageError) as caught:
            decoding.load_image(source)
        kinds.append(caught.value.type)
    assert kinds == ["truncated_image", "not_found", "not_an_image"]


def test_a_source_without_a_path_is_read_once() -> None:
    opened = []
    content = MAKERS["gif"]([frame(number) for number in range(4)])

    def read() -> io.BytesIO:
        opened.append(1)
        return io.BytesIO(content)

    for source in expand_frames([Source("https://example.org/a.gif", read)], ALL):
        decoding.load_image(source)
    assert opened == [1]


def test_each_frame_is_decoded_once_by_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads take the frames in order, but reach the file in any order."""
    frames = [frame(number) for number in range(60)]
    source = made("gif", frames)
    decoded: list[int] = []
    decode = opened_image.OpenedImage.decode

    def count(self: Any, key: int) -> Image.Image:
        decoded.append(key)
        return decode(self, key)

    monkeypatch.setattr(opened_image.OpenedImage, "decode", count)
    random = np.random.default_rng(1)
    waits = random.uniform(0, 0.004, 60).tolist()

    def load(index: int, each: Source) -> Image.Image:
        threading.Event().wait(waits[index])
        return decoding.load_image(each)

    with ThreadPoolExecutor(6) as pool:
        images = list(pool.map(load, range(60), expand_frames([source], ALL)))
    for image, wanted in zip(images, frames, strict=True):
        assert_is(image, wanted, "gif")
    assert len(decoded) == 60
    assert decoded == sorted(decoded)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("form", ["gif", "webp", "lzw.tif"])
def test_memory_does_not_grow_with_the_frames(form: str, tmp_path: Path) -> None:
    """Each frame takes 1 MB when it is decoded."""
    code = (
        "import sys\n"
        "from imgclassify import sources\n"
        "from imgclassify.images import decoding, frame_sources, frames\n"
        "found = frame_sources.expand_frames(sources.expand(sys.argv[1:]), frames.FrameSelection())\n"
        "print(sum(decoding.load_image(source).width == 640 for source in found))\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])\n"
    )
    peaks = []
    for number in (20, 200):
        path = tmp_path / f"{number}.{form}"
        path.write_bytes(MAKERS[form]([frame(each, (640, 480)) for each in range(number)]))
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        decoded, peak = map(int, done.stdout.split())
        assert decoded == number
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 30 * 1024  # KiB


@pytest.mark.parametrize(("name", "found"), [("a.gif#2", True), ("a.gif#4", False), ("a.gif#0", False)])
def test_a_frame_can_be_named(name: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(MAKERS["gif"]([frame(number) for number in range(3)]))
    source = sources.single_source(str(tmp_path / name))
    assert source.name == str(tmp_path / name)
    if found:
        assert_is(decoding.load_image(source), frame(1), "gif")
    else:
        with pytest.raises(ImageNotFoundError, match="the file has 3 frames"):
            decoding.load_image(source)


def test_a_frame_of_a_member_and_of_a_url_can_be_named(tmp_path: Path) -> None:
    content = MAKERS["gif"]([frame(number) for number in range(3)])
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("in/a.gif", content)
    source = sources.single_source(f"{tmp_path / 'x.zip'}!in/a.gif#3")
    assert_is(decoding.load_image(source), frame(2), "gif")
    [of_url] = sources.expand(["https://example.org/a.gif#3"])
    assert of_url.frame is not None
    assert of_url.frame.name == "3"


def test_a_file_of_that_name_comes_before_a_frame(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(MAKERS["gif"]([frame(number) for number in range(3)]))
    frame(9).save(tmp_path / "a.gif#2", "PNG")
    assert_is(decoding.load_image(sources.single_source(str(tmp_path / "a.gif#2"))), frame(9), "png")


def test_the_texts_of_a_png_are_not_taken_for_frames() -> None:
    from PIL import PngImagePlugin

    texts = PngImagePlugin.PngInfo()
    for key in ("frames", "frame", "damaged", "levels"):
        texts.add_text(key, "7")
    stream = io.BytesIO()
    frame(1).save(stream, "PNG", pnginfo=texts)
    assert decoding.load_image(Source("a.png", partial(io.BytesIO, stream.getvalue()))).info == {}


@pytest.mark.parametrize("form", ["gif", "webp", "tif", "avif"])
def test_a_worker_lists_the_same_frames(form: str, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    (tmp_path / f"a.{form}").write_bytes(MAKERS[form]([frame(number) for number in range(5)]))
    listing = IsolatedListing()
    try:
        for source in (sources.file_source(str(tmp_path / f"a.{form}")), made(form, [frame(1), frame(2)])):
            assert list(listing(source, ALL)) == list(list_names(source, ALL))
        with pytest.raises(ImageNotFoundError):
            list(listing(sources.file_source(str(tmp_path / "missing")), ALL))
    finally:
        listing.close()


def test_a_listing_that_is_given_up_leaves_a_worker_that_works(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    path = tmp_path / "a.tif"
    tiny = [Image.new("L", (1, 1), number % 256) for number in range(2000)]
    tiny[0].save(path, save_all=True, append_images=tiny[1:])
    listing = IsolatedListing()
    try:
        names = listing(sources.file_source(str(path)), ALL)
        assert next(names) == "1"
        names.close()  # type: ignore[attr-defined]
        assert len(list(listing(sources.file_source(str(path)), ALL))) == 2000
    finally:
        listing.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("some",), "frames is 'some'"),
        (("all", 0.0), "fps is 0.0"),
        (("all", float("inf")), "fps is inf"),
        (("all", float("nan")), "fps is nan"),
        (("key", 2.0), "fps is not for key frames"),
    ],
)
def test_a_selection_that_means_nothing_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        select_frames(*arguments)
