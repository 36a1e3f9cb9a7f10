"""Videos, written by FFmpeg through PyAV: which frame is which, at which time, upright and in the right colours."""

from __future__ import annotations

import gc
import io
import itertools
import json
import struct
import sys
import weakref
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encoded
from PIL import Image
from test_frames import frame

from imgclassify import sources
from imgclassify.errors import ImageError, ImageNotFoundError
from imgclassify.images import decoding, opened_image
from imgclassify.images.frame_sources import expand_frames, list_names
from imgclassify.images.frames import FrameSelection
from imgclassify.images.isolated_listing import IsolatedListing
from imgclassify.sources import Source

av = pytest.importorskip("av")

SIZE = (64, 48)
EVERY = FrameSelection()
CODECS = {
    "mp4": "libx264",
    "mov": "mpeg4",
    "mkv": "libx264",
    "webm": "libvpx-vp9",
    "avi": "mpeg4",
    "ts": "libx264",
    "mpg": "mpeg2video",
    "flv": "libx264",
    "wmv": "wmv2",
}


def video(
    form: str,
    frames: list[Image.Image],
    *,
    rate: int = 25,
    gop: int = 8,
    times: list[int] | None = None,
    rotation: float = 0,
    aspect: Fraction | None = None,
    colors: int | None = None,
    container: dict[str, str] | None = None,
) -> bytes:
    """
    Args:
        times: the time of each frame, in units of 1/rate.
        aspect: the ratio of a pixel's sides.
        colors: FFmpeg's number of a matrix from RGB, which is used and declared.
        container: options of FFmpeg's writer for the format.
    """
    stream = io.BytesIO()
    kind = {"ts": "mpegts", "mkv": "matroska", "mpg": "mpeg", "wmv": "asf"}.get(form, form)
    with av.open(stream, "w", format=kind, options=container or {}) as file:
        track = file.add_stream(CODECS[form], rate=rate)
        track.width, track.height = frames[0].size
        track.pix_fmt = "yuv420p"
        track.bit_rate = 4_000_000
        track.codec_context.gop_size = gop
        if rotation:
            track.set_display_rotation(rotation)
        if aspect:
            track.codec_context.sample_aspect_ratio = aspect
        if colors is not None:
            track.codec_context.colorspace = colors
        for number, image in enumerate(frames):
            made = av.VideoFrame.from_image(image)
            if colors is not None:
                made = made.reformat(format="yuv420p", dst_colorspace=colors)
            made.pts = number if times is None else times[number]
            file.mux(track.encode(made))
        file.mux(track.encode())
    return stream.getvalue()


def opened(form: str, content: bytes) -> Source:
    return Source(f"clip.{form}", partial(io.BytesIO, content))


def assert_is(image: Image.Image, wanted: Image.Image, mean: float = 12) -> None:
    assert image.size == wanted.size
    assert np.abs(np.asarray(image, int) - np.asarray(wanted, int)).mean() < mean


def nearest(image: Image.Image, candidates: list[Image.Image]) -> int:
    differences = [np.abs(np.asarray(image, int) - np.asarray(each, int)).mean() for each in candidates]
    return int(np.argmin(differences))


FRAMES = [frame(number, SIZE) for number in range(30)]


@pytest.mark.parametrize("form", CODECS)
def test_each_frame_is_a_source_with_its_time(form: str) -> None:
    source = opened(form, video(form, FRAMES))
    found = list(expand_frames([source], EVERY))
    assert len(found) == len(FRAMES)
    start = float(found[0].name.partition("#")[2])
    assert start <= 2 / 25  # AVI has no times for frames that are shown later than they are stored
    for number, each in enumerate(found):
        assert each.name == f"clip.{form}#{start + number / 25:.3f}"
        assert nearest(decoding.load_image(each), FRAMES) == number


@pytest.mark.parametrize("form", CODECS)
def test_frames_are_found_in_any_order(form: str) -> None:
    """Going back, and going far ahead, starts from a key frame."""
    long = [frame(number, SIZE) for number in range(18)] * 6
    found = list(expand_frames([opened(form, video(form, long))], EVERY))
    for index in (3, 100, 60, 61, 7, 107, 0):
        assert nearest(decoding.load_image(found[index]), long[:18]) == index % 18


def test_times_are_those_of_the_video() -> None:
    """A phone writes frames at uneven times. 1/1000 s is what Matroska keeps."""
    times = [0, 40, 80, 200, 233, 700, 701, 1500]
    content = video("mkv", FRAMES[: len(times)], rate=1000, times=times)
    assert list(list_names(opened("mkv", content), EVERY)) == [f"{time / 1000:.3f}" for time in times]
    by_second = list(list_names(opened("mkv", content), FrameSelection(fps=4)))
    assert by_second == ["0.000", "0.700", "1.500"]


@pytest.mark.parametrize("fps", [1, 2.5, 5, 24, 100])
def test_fps_takes_the_first_frame_of_each_period(fps: float) -> None:
    content = video("mp4", FRAMES * 3)
    names = [float(name) for name in list_names(opened("mp4", content), FrameSelection(fps=fps))]
    times = [number / 25 for number in range(90)]
    periods = {int((time + 1e-6) * fps): time for time in reversed(times)}
    assert names == pytest.approx(sorted(periods.values()), abs=1e-3)


@pytest.mark.parametrize("form", ["mp4", "webm", "mkv", "mov"])
def test_key_frames(form: str) -> None:
    found = list(expand_frames([opened(form, video(form, FRAMES, gop=8))], FrameSelection(key_frames=True)))
    assert 3 <= len(found) <= 12
    for each in found:
        number = round(float(each.name.partition("#")[2]) * 25)
        assert nearest(decoding.load_image(each), FRAMES) == number


@pytest.mark.parametrize("form", CODECS)
def test_a_black_beginning_is_passed_over(form: str) -> None:
    black = Image.new("RGB", SIZE)
    image = decoding.load_image(opened(form, video(form, [black] * 20 + FRAMES[5:10])))
    assert nearest(image, FRAMES) == 5
    assert image.info["frame"] == 21
    assert image.info["frames"] in (25, None)


@pytest.mark.parametrize(("rotation", "turn"), [(90, "ROTATE_90"), (-90, "ROTATE_270"), (180, "ROTATE_180")])
@pytest.mark.parametrize("form", ["mp4", "mov", "mkv"])
def test_a_frame_is_upright(form: str, rotation: int, turn: str) -> None:
    image = decoding.load_image(opened(form, video(form, FRAMES[:3], rotation=rotation)))
    # FFmpeg's angle turns the stored frame anticlockwise, as ImageMagick's and Pillow's does.
    assert_is(image, FRAMES[0].transpose(Image.Transpose[turn]))


MATRICES = [
    matrix
    for signs in itertools.product((1, -1), repeat=2)
    for matrix in ((signs[0], 0, 0, signs[1]), (0, signs[0], signs[1], 0))
]


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_frame_is_turned_and_mirrored_as_the_display_matrix_says(matrix: tuple[int, int, int, int]) -> None:
    """The pixel at (x, y) is shown at (a x + c y, b x + d y) (ISO/IEC 14496-12, 6.2.2)."""
    content = bytearray(video("mp4", FRAMES[:2]))
    stored = np.asarray(decoding.load_image(opened("mp4", bytes(content))))
    a, b, c, d = matrix
    place = content.index(b"tkhd") + 44
    one = 0x10000
    content[place : place + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 0x40000000)
    y, x = np.mgrid[: stored.shape[0], : stored.shape[1]]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    wanted = np.zeros((down.max() + 1, across.max() + 1, 3), np.uint8)
    wanted[down, across] = stored
    assert np.array_equal(np.asarray(decoding.load_image(opened("mp4", bytes(content)))), wanted)


def read_all(source: Source) -> list[str]:
    """The names of the frames that --frames all answers, and the types of the errors."""
    found = []
    for each in expand_frames([source], EVERY):
        try:
            decoding.load_image(each)
            found.append(each.name)
        except ImageError as error:
            found.append(error.type)
    return found


@pytest.mark.parametrize(
    ("form", "options"), [("mkv", {}), ("webm", {}), ("avi", {}), ("mp4", {"movflags": "frag_keyframe+empty_moov"})]
)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_frames_that_are_cut_off_do_not_vanish_silently(form: str, options: dict[str, str], share: float) -> None:
    content = video(form, FRAMES, container=options)
    whole = read_all(opened(form, content))
    assert "truncated_image" not in whole
    cut = read_all(opened(form, content[: int(share * len(content))]))
    assert cut[-1] in ("truncated_image", "corrupt_image")
    names = [name for name in cut if "#" in name]
    assert names == whole[: len(names)]


def test_a_cut_video_is_closed_at_once() -> None:
    """Otherwise the threads of its decoder would stay until garbage is collected."""
    content = video("mkv", FRAMES)[:-500]
    gc.collect()
    gc.disable()
    try:
        image = opened_image.OpenedImage(io.BytesIO(content), decoding.MAX_PIXELS)
        frames = weakref.ref(image.frames)
        with pytest.raises(ImageError):
            list(image.names(EVERY))
        del image
        assert frames() is None
        read_all(opened("mkv", content))
        assert not [each for each in gc.get_objects() if type(each).__name__ == "VideoFrames"]
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_thread_of_a_decoder_stays() -> None:
    def threads() -> int:
        return int(Path("/proc/self/status").read_text().partition("Threads:")[2].split()[0])

    content = video("mp4", FRAMES, rotation=90)
    decoding.load_image(opened("mp4", content))
    gc.collect()
    gc.disable()
    try:
        before = threads()
        for _ in range(5):
            read_all(opened("mp4", content))
        assert threads() <= before
    finally:
        gc.enable()


def test_pixels_that_are_not_square_are_stretched() -> None:
    image = decoding.load_image(opened("mp4", video("mp4", FRAMES[:2], aspect=Fraction(3, 2))))
    assert image.size == (96, 48)
    assert_is(image, FRAMES[0].resize((96, 48)))


@pytest.mark.parametrize("height", [48, 720])
@pytest.mark.parametrize("colors", [None, 1, 5])
def test_colours_are_those_of_the_declared_matrix(height: int, colors: int | None) -> None:
    """Without one, large videos have BT.709's and small ones BT.601's, as players take it."""
    wanted = (200, 40, 60)
    made = Image.new("RGB", (64, height), wanted)
    made.paste((30, 30, 30), (0, 0, 8, height))  # so that it is not blank
    if colors is None:
        content = video("mp4", [made] * 2, colors=1 if height > 576 else 5)
        # What libx264 has written for the matrix becomes "unspecified" by another name of the same length.
        content = without_colours(content)
    else:
        content = video("mp4", [made] * 2, colors=colors)
    image = decoding.load_image(opened("mp4", content))
    assert np.abs(np.asarray(image)[height // 2, 40].astype(int) - wanted).max() <= 4


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_brought_to_srgb(transfer: int, name: str) -> None:
    """Grey of 203 cd/m² is white, and a grey of a quarter of the light is sRGB's 137 (BT.2408; IEC 61966-2-1)."""
    signals = {16: {203: 0.5807, 50.75: 0.4417}, 18: {203: 0.75, 50.75: 0.5002}}[transfer]
    half = np.empty((48, 64, 3), np.uint16)
    half[:, :32], half[:, 32:] = (round(65535 * signal) for signal in signals.values())
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:lossless=1"})
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p10le"
        context = track.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, transfer, 9
        for number in range(3):
            made = av.VideoFrame.from_ndarray(half, "rgb48le").reformat(format="yuv420p10le", dst_colorspace=9)
            made.pts = number
            container.mux(track.encode(made))
        container.mux(track.encode())
    image = decoding.load_image(opened("mp4", stream.getvalue()))
    white, grey = np.asarray(image)[24, 8].astype(int), np.asarray(image)[24, 56].astype(int)
    assert np.abs(white - 255).max() <= 4
    assert np.abs(grey - 137).max() <= 5
    assert name in str(image.info["colors"])


def without_colours(content: bytes) -> bytes:
    """Copies a video through a filter that takes away the declared colours (AVCOL_SPC_UNSPECIFIED is 2)."""
    source, target = io.BytesIO(content), io.BytesIO()
    with av.open(source) as before, av.open(target, "w", format="mp4") as after:
        track = after.add_stream_from_template(before.streams.video[0])
        remove = av.BitStreamFilterContext("h264_metadata=matrix_coefficients=2", before.streams.video[0], track)
        for packet in before.demux(before.streams.video[0]):
            for each in remove.filter(packet if packet.size else None):
                each.stream = track
                after.mux(each)
    return target.getvalue()


def test_a_moment_shows_the_frame_that_is_seen_then() -> None:
    content = video("mp4", FRAMES)
    for name, number in (("0.05", 1), ("0.5", 12), ("0", 0), ("1.16", 29), ("1.5", 29)):
        source = Source("x", partial(io.BytesIO, content), frame=sources.Frame(name))
        assert nearest(decoding.load_image(source), FRAMES) == number
    with pytest.raises(ImageNotFoundError, match="the video ends before"):
        decoding.load_image(Source("x", partial(io.BytesIO, content), frame=sources.Frame("77")))


@pytest.mark.parametrize("name", ["nan", "inf", "-1", "two"])
def test_a_name_that_is_no_time_is_not_found(name: str) -> None:
    source = Source("x", partial(io.BytesIO, video("mp4", FRAMES[:2])), frame=sources.Frame(name))
    with pytest.raises(ImageNotFoundError):
        decoding.load_image(source)


@pytest.mark.parametrize("form", ["mp4", "mkv"])
def test_what_is_missing_or_damaged_is_an_error_of_its_frame(form: str) -> None:
    content = bytearray(video(form, FRAMES * 4, gop=12))
    for position in range(len(content) // 2, len(content) // 2 + 3000):
        content[position] ^= 0x5A
    outcomes = []
    for source in expand_frames([opened(form, bytes(content))], EVERY):
        try:
            image = decoding.load_image(source)
        except ImageError as error:
            outcomes.append(error.type)
        else:
            outcomes.append("answered")
            assert image.size == SIZE
    assert set(outcomes) <= {"answered", "corrupt_image", "truncated_image", "not_found"}
    assert outcomes.count("answered") > 40


@pytest.mark.parametrize("form", ["mp4", "mkv", "webm"])
def test_a_truncated_video(form: str) -> None:
    """The index of an MP4 is at its end, so none of it can be read. Matroska is read up to its end."""
    content = video(form, FRAMES * 4)
    source = opened(form, content[: len(content) // 2])
    if form == "mp4":
        with pytest.raises(ImageError) as caught:
            decoding.load_image(source)
        assert caught.value.type == "truncated_image"
    else:
        assert nearest(decoding.load_image(source), FRAMES) == 0


def test_the_limit_on_pixels_holds_before_decoding() -> None:
    with pytest.raises(ImageError) as caught:
        decoding.load_image(opened("mp4", video("mp4", FRAMES[:2])), max_pixels=64 * 48 - 1)
    assert caught.value.type == "image_too_large"


def test_sound_alone_is_no_video() -> None:
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        track = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(track.encode(sound))
        container.mux(track.encode())
    with pytest.raises(ImageError) as caught:
        decoding.load_image(opened("mkv", stream.getvalue()))
    assert caught.value.type == "unsupported_image"
    assert "only sound" in str(caught.value)


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    """FFmpeg would open the files that it names."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(video("mp4", FRAMES[:2]))
    for text in (f"#EXTM3U\n#EXTINF:1,\n{secret}\n", f"ffconcat version 1.0\nfile {secret}\n"):
        with pytest.raises(ImageError) as caught:
            decoding.load_image(opened("mp4", text.encode()))
        assert caught.value.type == "not_an_image"
        disguised = video("mp4", FRAMES[:2])[:32] + text.encode()
        with pytest.raises(ImageError) as caught:
            decoding.load_image(opened("mp4", disguised))
        assert caught.value.type in ("corrupt_image", "truncated_image")


def test_a_worker_lists_and_decodes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    path = tmp_path / "clip.mp4"
    path.write_bytes(video("mp4", FRAMES * 30))
    listing = IsolatedListing()
    try:
        source = sources.file_source(str(path))
        assert list(listing(source, EVERY)) == list(list_names(source, EVERY))
        assert len(list(listing(source, EVERY))) == 900
    finally:
        listing.close()


@pytest.mark.parametrize("options", [[], ["--isolate"]])
def test_videos_of_a_folder(options: list[str], tmp_path: Path) -> None:
    from cli.conftest import process

    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(video("mp4", FRAMES * 2))
    frame(2).save(folder / "b.jpg")

    def names(*more: str) -> list[str]:
        done = process("predict", folder, "--jsonl", *more, *options)
        assert done.returncode == 0, done.stderr
        records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        return [each["source"].removeprefix(f"{folder}/") for each in records]

    assert names() == ["b.jpg"]
    assert names("--fps", "1") == ["a.mp4#0.000", "a.mp4#1.000", "a.mp4#2.000", "b.jpg"]
    assert len(names("--frames", "all")) == 61


class FailingStream(io.BytesIO):
    """A file on a disk that fails behind the first bytes."""

    good = 0

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        if self.tell() + (size or 0) > self.good:
            raise OSError(5, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("form", ["mkv", "ts"])
def test_a_disk_that_fails_costs_only_its_video(form: str, share: float) -> None:
    """No other exception than ImageError leaves the search for a first frame, or the listing of frames."""
    content = video(form, [Image.new("RGB", SIZE)] * 60 + FRAMES * 20)

    def read() -> FailingStream:
        stream = FailingStream(content)
        stream.good = int(share * len(content))
        return stream

    source = Source(f"clip.{form}", read, path="clip")
    with suppress(ImageError):
        assert decoding.load_image(source).size == SIZE
    still = opened("png", encoded(FRAMES[3], "PNG"))
    found = list(expand_frames([source, still], EVERY))
    assert found[-1].name == still.name
    assert found[0].name.startswith(f"clip.{form}")
