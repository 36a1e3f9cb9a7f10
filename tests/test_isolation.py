"""Decoding in worker processes: the same crops, and decoders that really crash, hang and devour memory.

The hostile decoder is a `pillow_heif` of our own, found before the real one by the workers alone: it does what the
image says.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import AVAILABLE_FORMATS, encoded, noise
from PIL import Image

from imgclassify import Classifier, catalog, sources
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import (
    DecoderCrashedError,
    DecoderTimeoutError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImgclassifyError,
    NotAnImageError,
    TruncatedImageError,
    UnavailableError,
    UsageError,
)
from imgclassify.hub.network import LoadOptions
from imgclassify.images import cropping, inputs, worker_pool, workers
from imgclassify.images.inputs import ImageInput
from imgclassify.images.isolation import IsolatedPreprocessor
from imgclassify.runner import ModelRunner, RunnerOptions
from imgclassify.sources import Source

HOSTILE = """
import ctypes, itertools, os, time
from PIL import Image, ImageFile, JpegImagePlugin

def devour():
    kept = []
    while True:
        kept.append(bytes(2**24))

def leak():
    for size in (2**24, 2**20):
        try:
            while True:
                KEPT.append(bytes(size))
        except MemoryError:
            pass
    del KEPT[-4:]

KEPT = []

def poison():
    JpegImagePlugin.JpegImageFile._open = lambda self: os.abort()

ACTIONS = {
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), 9),
    "exit": lambda: os._exit(7),
    "sleep": lambda: time.sleep(1000),
    "spin": lambda: sum(itertools.repeat(0)),  # in C, and never lets go of the interpreter's lock
    "devour": devour,
    "leak": leak,
    "poison": poison,
    "shout": lambda: [os.write(1, b"noise" * 10_000), os.write(2, b"noise\\n"), os.read(0, 100)],
    "unheard of": lambda: exit("a decoder that ends Python"),
    "raise": lambda: {}["no such key"],
}

class HeifImageFile(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self):
        self.fp.seek(16)
        ACTIONS[self.fp.read().decode()]()
        self._size, self._mode = (8, 8), "RGB"
        self.im = Image.core.fill("RGB", (8, 8), (10, 20, 30))
        self.tile = []
"""

SPEC = PreprocessSpec(
    resize_size=40,
    crop_size=(32, 36),
    interpolation="bicubic",
    antialias=True,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the workers that are started from now on find the hostile decoder."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "pillow_heif.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def cropper() -> Iterator[IsolatedPreprocessor]:
    cropper = IsolatedPreprocessor("exact", SPEC, time_limit=60)
    yield cropper
    cropper.close()
    assert children(os.getpid()) == []


def children(parent: int) -> list[int]:
    """Those that run Python and are children of the process; a zombie is one too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def running(pid: int) -> bool:
    """Whether it is there and no zombie, which in a container nobody may ever bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(running, pids))


def doing(action: str) -> bytes:
    return b"\0\0\0\x10ftypheic\0\0\0\0" + action.encode()


def held(content: bytes) -> ImageInput:
    return inputs.input_from_source(Source("held", partial(io.BytesIO, content)))


def on_disk(path: Path | str) -> ImageInput:
    return inputs.input_from_source(sources.file_source(str(path)))


def crop_of(cropper: cropping.Preprocessor, picture: ImageInput) -> tuple[tuple[int, int], np.ndarray]:
    out = np.zeros((*SPEC.crop_size, 3), np.uint8)
    return cropper(picture, out)[:2], out


def assert_same(isolated: cropping.Preprocessor, plain: cropping.Preprocessor, picture: ImageInput) -> None:
    size, out = crop_of(isolated, picture)
    expected_size, expected = crop_of(plain, picture)
    assert size == expected_size
    assert expected.any()
    assert (out == expected).all()


# The same ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["bgr", "grey"])
def test_the_channels_are_in_the_same_order(order: str) -> None:
    picture, spec = held(encoded(noise(90, 70), "PNG")), replace(SPEC, channel_order=order)
    isolated = IsolatedPreprocessor("exact", spec, time_limit=60)
    assert_same(isolated, cropping.create_preprocessor("exact", spec, "cpu"), picture)
    isolated.close()


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_every_format_is_cropped_to_the_same_bytes(decode: str, tmp_path: Path) -> None:
    isolated = IsolatedPreprocessor(decode, SPEC)
    plain = cropping.create_preprocessor(decode, SPEC, "cpu")
    image = noise(500, 333)
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = {name: encoded(image, name) for name in AVAILABLE_FORMATS}
    contents |= {"turned": encoded(image, "JPEG", exif=exif), "small": encoded(image.resize((7, 5)), "PNG")}
    contents |= {"transparent": encoded(image.convert("RGBA"), "PNG")}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert_same(isolated, plain, on_disk(path))
        assert_same(isolated, plain, held(content))
    assert_same(isolated, plain, ImageInput("image", image=image))
    isolated.close()


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_every_part_of_the_preprocessing_reaches_the_worker(mode: str) -> None:
    spec = PreprocessSpec((30, 50), (32, 36), "lanczos", False, (0.1, 0.2, 1 / 3), (0.3, 0.2, 0.1), mode)
    isolated = IsolatedPreprocessor("exact", spec)
    assert_same(isolated, cropping.create_preprocessor("exact", spec, "cpu"), held(encoded(noise(200, 90), "PNG")))
    isolated.close()


def test_every_failure_has_the_same_type_and_words(tmp_path: Path, cropper: IsolatedPreprocessor) -> None:
    plain = cropping.create_preprocessor("exact", SPEC, "cpu")
    png = encoded(noise(64, 48), "PNG")
    paths = {name: tmp_path / name for name in ("empty", "text", "cut", "damaged")}
    paths["empty"].write_bytes(b"")
    paths["text"].write_bytes(b"no picture \x1b[31m \xff")
    paths["cut"].write_bytes(png[: len(png) // 2])
    paths["damaged"].write_bytes(png[:60] + b"\0\0\0\0" + png[64:])
    types = set()
    for path in [*paths.values(), tmp_path / "missing", tmp_path, f"{tmp_path}/\udcff\0"]:
        failures = []
        for crop in (cropper, plain):
            with pytest.raises(ImageError) as caught:
                crop_of(crop, on_disk(path))
            failures.append((caught.type, str(caught.value)))
        assert failures[0] == failures[1]
        types.add(failures[0][0])
    assert {ImageNotFoundError, NotAnImageError, TruncatedImageError} < types
    assert len(types) >= 6


def test_the_limit_on_pixels_is_the_workers_too() -> None:
    content = encoded(noise(64, 48), "PNG")
    isolated = IsolatedPreprocessor("exact", SPEC, max_pixels=64 * 48 - 1)
    with pytest.raises(ImageTooLargeError, match=r"^64 × 48 is 3072 pixels, and the limit is 3071$"):
        crop_of(isolated, held(content))
    isolated.close()


def test_a_name_that_is_no_text_and_a_folder_that_is_left_are_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cropper: IsolatedPreprocessor
) -> None:
    plain = cropping.create_preprocessor("exact", SPEC, "cpu")
    name = os.fsdecode(b"caf\xe9\n.png")
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        noise(50, 60, seed=len(folder)).save(name, "PNG")
        assert_same(cropper, plain, on_disk(name))
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    (tmp_path / "third").rmdir()
    assert_same(cropper, plain, on_disk(tmp_path / "first" / name))
    with pytest.raises(ImageNotFoundError):
        crop_of(cropper, on_disk(name))
    monkeypatch.chdir(tmp_path)


def test_a_file_that_cannot_be_opened_as_its_path_says_is_read_here(cropper: IsolatedPreprocessor) -> None:
    """What an archive or a server holds has no path, and goes over the pipe whole: here, more than a pipe holds."""
    content = encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (900, 900, 3), np.uint8)), "BMP")
    assert len(content) > 2**21
    assert_same(cropper, cropping.create_preprocessor("exact", SPEC, "cpu"), held(content))


# Crashes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("abort", r"^the decoder was terminated by SIGABRT \(aborted\)$"),
        ("segfault", r"^the decoder was terminated by SIGSEGV \(segmentation fault\)$"),
        ("kill", r"^the decoder was terminated by SIGKILL \(killed\), perhaps because memory ran out$"),
        ("exit", r"^the decoder exited with status 7$"),
        ("unheard of", r"^the decoder exited with status 1$"),
    ],
)
@pytest.mark.usefixtures("hostile")
def test_a_crash_is_one_images_error_and_the_next_is_answered(
    action: str, words: str, cropper: IsolatedPreprocessor
) -> None:
    plain = cropping.create_preprocessor("exact", SPEC, "cpu")
    good = held(encoded(noise(64, 48), "JPEG"))
    for _ in range(2):
        assert_same(cropper, plain, good)
        with pytest.raises(DecoderCrashedError, match=words) as caught:
            crop_of(cropper, held(doing(action)))
        assert caught.value.type == "decoder_crashed"
        assert_same(cropper, plain, good)


@pytest.mark.usefixtures("hostile")
def test_a_crash_that_an_earlier_image_brought_about_is_not_the_next_ones(cropper: IsolatedPreprocessor) -> None:
    plain = cropping.create_preprocessor("exact", SPEC, "cpu")
    size, out = crop_of(cropper, held(doing("poison")))
    assert size == (8, 8)
    assert (out[16, 18] == (10, 20, 30)).all()
    (poisoned,) = children(os.getpid())
    assert_same(cropper, plain, held(encoded(noise(64, 48), "JPEG")))
    assert not running(poisoned)


def test_a_worker_that_is_killed_while_it_waits_is_replaced(cropper: IsolatedPreprocessor) -> None:
    plain = cropping.create_preprocessor("exact", SPEC, "cpu")
    good = held(encoded(noise(64, 48), "PNG"))
    assert_same(cropper, plain, good)
    (idle,) = children(os.getpid())
    os.kill(idle, signal.SIGKILL)
    assert_same(cropper, plain, good)
    assert children(os.getpid()) != [idle]


@pytest.mark.usefixtures("hostile")
def test_what_a_decoder_raises_or_writes_is_not_taken_for_an_answer(
    cropper: IsolatedPreprocessor, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert crop_of(cropper, held(doing("shout")))[0] == (8, 8)
    with pytest.raises(ImageError, match="damaged HEIF file"):
        crop_of(cropper, held(doing("raise")))
    assert len(children(os.getpid())) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("action", ["sleep", "spin"])
@pytest.mark.usefixtures("hostile")
def test_an_image_that_takes_too_long_has_its_own_error(action: str) -> None:
    isolated = IsolatedPreprocessor("exact", SPEC, time_limit=0.75)
    before = time.monotonic()
    with pytest.raises(DecoderTimeoutError, match=r"^not decoded within 0\.75 seconds$") as caught:
        crop_of(isolated, held(doing(action)))
    assert caught.value.type == "decoder_timeout"
    assert time.monotonic() - before >= 0.75
    isolated.close()


def test_the_time_is_one_images_and_not_all_images() -> None:
    isolated = IsolatedPreprocessor("exact", SPEC, time_limit=5)
    good = held(encoded(noise(64, 48), "PNG"))
    crop_of(isolated, good)
    first = children(os.getpid())
    time.sleep(5.5)
    crop_of(isolated, good)
    assert children(os.getpid()) == first
    isolated.close()


@pytest.mark.usefixtures("hostile")
def test_memory_without_end_meets_a_limit_in_proportion_to_the_pixels_allowed() -> None:
    isolated = IsolatedPreprocessor("exact", SPEC, max_pixels=10**6)
    with pytest.raises(ImageTooLargeError, match="not enough memory"):
        crop_of(isolated, held(doing("devour")))
    (worker,) = children(os.getpid())
    limits = Path(f"/proc/{worker}/limits").read_text()
    assert f"Max address space         {2**30 + 32 * 10**6} " in limits
    assert Path(f"/proc/{worker}/oom_score_adj").read_text().strip() == "1000"
    assert crop_of(isolated, held(encoded(noise(64, 48), "PNG")))[0] == (64, 48)
    isolated.close()


@pytest.mark.usefixtures("hostile")
def test_memory_that_an_earlier_image_kept_is_not_the_next_ones_fault() -> None:
    isolated = IsolatedPreprocessor("exact", SPEC, max_pixels=4 * 10**6)
    crop_of(isolated, held(doing("leak")))
    (leaking,) = children(os.getpid())
    large = held(encoded(Image.new("RGBA", (2000, 2000), "red"), "PNG"))
    assert_same(isolated, cropping.create_preprocessor("exact", SPEC, "cpu"), large)
    assert not running(leaking)
    isolated.close()


@pytest.mark.usefixtures("hostile")
def test_many_threads_neither_lose_nor_mix_an_image() -> None:
    isolated = IsolatedPreprocessor("exact", SPEC, time_limit=60)
    plain = cropping.create_preprocessor("exact", SPEC, "cpu")
    expected: list[object] = []
    made = []
    for index in range(120):
        action = ("abort", "kill", "exit")[index % 3] if index % 6 == 0 else None
        content = doing(action) if action else encoded(noise(30 + index, 40, seed=index), "PNG")
        made.append(held(content))
        expected.append(DecoderCrashedError if action else crop_of(plain, made[-1]))

    def answer(picture: ImageInput) -> object:
        try:
            return crop_of(isolated, picture)
        except ImageError as error:
            return type(error)

    with ThreadPoolExecutor(6) as executor:
        answers = list(executor.map(answer, made))
    for answered, right in zip(answers, expected, strict=True):
        if isinstance(right, tuple):
            assert isinstance(answered, tuple)
            assert answered[0] == right[0]
            assert (answered[1] == right[1]).all()
        else:
            assert answered is right
    assert 1 <= len(children(os.getpid())) <= 6
    isolated.close()
    assert children(os.getpid()) == []


# Groups -----------------------------------------------------------------------------------------------------


def outcomes_of(cropper: IsolatedPreprocessor, pictures: list[ImageInput]) -> list[object]:
    """What a group of images gives: a crop as bytes, or the type of an error."""
    outs = np.zeros((len(pictures), *SPEC.crop_size, 3), np.uint8)
    found = cropper.preprocess_group(pictures, list(outs))
    return [
        type(outcome) if isinstance(outcome, ImageError) else out.tobytes()
        for outcome, out in zip(found, outs, strict=True)
    ]


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize(
    ("action", "kind"),
    [("segfault", DecoderCrashedError), ("exit", DecoderCrashedError), ("sleep", DecoderTimeoutError)],
)
def test_an_image_that_ends_its_worker_costs_none_of_its_group(
    action: str, kind: type[ImageError], place: int, used: bool
) -> None:
    plain = cropping.create_preprocessor("exact", SPEC, "cpu")
    isolated = IsolatedPreprocessor("exact", SPEC, time_limit=1.5)
    pictures = [held(encoded(noise(40 + index, 48, seed=index), "PNG")) for index in range(8)]
    expected: list[object] = [crop_of(plain, picture)[1].tobytes() for picture in pictures]
    pictures[place], expected[place] = held(doing(action)), kind
    if used:
        crop_of(isolated, pictures[1 if place != 1 else 2])
    assert outcomes_of(isolated, pictures) == expected
    isolated.close()


@pytest.mark.usefixtures("hostile")
def test_several_failures_and_images_of_this_process_keep_their_places(cropper: IsolatedPreprocessor) -> None:
    plain = cropping.create_preprocessor("exact", SPEC, "cpu")
    good = [held(encoded(noise(40 + index, 48, seed=index), "PNG")) for index in range(3)]
    here = ImageInput("image", image=noise(70, 60))
    missing = on_disk("/no/such/file.png")
    crops = [crop_of(plain, picture)[1].tobytes() for picture in (*good, here)]

    def fail() -> io.BytesIO:
        raise ImageNotFoundError("gone")

    unreadable = inputs.input_from_source(Source("gone", fail))  # it fails before a worker gets it
    crash, large = held(doing("abort")), held(encoded(Image.new("RGB", (700, 700), "red"), "BMP"))
    pictures = [good[0], crash, here, missing, crash, good[1], unreadable, good[2]]
    assert outcomes_of(cropper, pictures) == [
        *(crops[0], DecoderCrashedError, crops[3], ImageNotFoundError, DecoderCrashedError, crops[1]),
        *(ImageNotFoundError, crops[2]),
    ]
    red = crop_of(plain, large)[1].tobytes()
    assert outcomes_of(cropper, [large, good[0], large, large]) == [red, crops[0], red, red]
    assert outcomes_of(cropper, []) == []


@pytest.mark.usefixtures("hostile")
def test_without_a_time_limit_a_worker_has_no_limits_but_its_crashes_are_one_images() -> None:
    """As for workers that are there for speed. An image has the same outcome as on a thread, unless it crashes."""
    unlimited = IsolatedPreprocessor("exact", SPEC, time_limit=None, max_pixels=10**6)
    good = held(encoded(noise(64, 48), "PNG"))
    crop = crop_of(cropping.create_preprocessor("exact", SPEC, "cpu"), good)[1].tobytes()
    assert outcomes_of(unlimited, [good, held(doing("segfault")), good]) == [crop, DecoderCrashedError, crop]
    (worker,) = children(os.getpid())
    assert "Max address space         unlimited" in Path(f"/proc/{worker}/limits").read_text()
    assert Path(f"/proc/{worker}/oom_score_adj").read_text().strip() == "1000"
    unlimited.close()


# Processes --------------------------------------------------------------------------------------------------


def test_nothing_is_started_before_it_is_needed_and_nothing_is_left_behind() -> None:
    isolated = IsolatedPreprocessor("exact", SPEC)
    assert children(os.getpid()) == []
    crop_of(isolated, held(encoded(noise(64, 48), "PNG")))
    (worker,) = children(os.getpid())
    assert os.getsid(worker) == worker  # Ctrl-C at a terminal is not for it
    del isolated
    assert children(os.getpid()) == []
    assert not running(worker)


@pytest.mark.usefixtures("hostile")
def test_an_interrupted_image_is_not_the_answer_to_the_next(cropper: IsolatedPreprocessor) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            crop_of(cropper, held(doing("sleep")))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert children(os.getpid()) == []
    assert crop_of(cropper, held(encoded(noise(64, 48), "PNG")))[0] == (64, 48)


PROGRAM = """
import io, sys, threading
from functools import partial
import numpy as np
from imgclassify.images import isolation
from imgclassify.images import cropping, inputs
from imgclassify.catalog import PreprocessSpec
from imgclassify.sources import Source
sys.path.insert(0, sys.argv[1])
spec = PreprocessSpec(40, (32, 32), "bicubic", True, (0.5,) * 3, (0.5,) * 3)
cropper = isolation.IsolatedPreprocessor("exact", spec, time_limit=4)
def crop(action):
    content = b"\\0\\0\\0\\x10ftypheic\\0\\0\\0\\0" + action
    source = Source("held", partial(io.BytesIO, content))
    cropper(inputs.input_from_source(source), np.zeros((32, 32, 3), np.uint8))
threading.Thread(target=crop, args=(b"spin",), daemon=True).start()
crop(b"shout")
print("ready", flush=True)
sys.stdin.read()
import os
os._exit(3)
"""


@pytest.mark.parametrize("end", ["SIGKILL", "os._exit"])
@pytest.mark.usefixtures("hostile")
def test_workers_end_with_their_parent_however_it_ends(end: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "hostile")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        assert parent.stdout.readline() == b"ready\n"
        workers = children(parent.pid)
        assert len(workers) == 2
        if end == "SIGKILL":
            parent.kill()
    assert parent.wait() == (-signal.SIGKILL if end == "SIGKILL" else 3)
    # One waits and sees its pipe close; the other is at an image without end, which has a limit of 4 seconds.
    assert gone(workers, 30)


def test_a_worker_imports_nothing_that_takes_seconds() -> None:
    code = "import sys\nfrom imgclassify.images import worker_program\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "torchvision", "timm", "onnxruntime", "typer", "rich", "requests", "huggingface_hub"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("/no/such/python", "No such file"),
        ("/bin/false", "it exited with status 1"),
        ("", "cannot start a decoding process"),
    ],
)
def test_a_worker_that_cannot_be_started_is_no_images_fault(
    program: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(worker_pool, "_START_PAUSE_S", 0.001)
    isolated = IsolatedPreprocessor("exact", SPEC)
    with pytest.raises(UnavailableError, match=words) as caught:
        crop_of(isolated, held(b"\xff\xd8\xff"))
    assert caught.value.hint
    assert children(os.getpid()) == []


def test_workers_for_speed_that_cannot_be_started_are_replaced_by_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(20):
        noise(64 + index, 48, seed=index).save(tmp_path / f"{index:02}.png")
    (tmp_path / "03.png").write_bytes(b"")
    expected = list(Classifier(device="cpu", workers="threads").predict(str(tmp_path)))
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setattr(worker_pool, "_START_PAUSE_S", 0.001)
    with Classifier(device="cpu", workers="processes:3") as classifier:
        assert list(classifier.predict(str(tmp_path))) == expected
    [warning] = caplog.messages
    assert warning.startswith("images are decoded by threads: cannot start a decoding process: No such file")
    with Classifier(device="cpu", isolate=True) as isolated, pytest.raises(UnavailableError):
        list(isolated.predict(str(tmp_path)))


def test_a_start_that_fails_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system is short of processes for a moment, or ends a new one for want of memory."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -9 $$; }}\n")
    with program.open("a") as script:
        script.write(f'exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    isolated = IsolatedPreprocessor("exact", SPEC)
    assert crop_of(isolated, held(encoded(noise(64, 48), "PNG")))[0] == (64, 48)
    assert (tmp_path / "once").exists()
    isolated.close()


def test_a_module_in_the_folder_it_is_started_in_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cropper: IsolatedPreprocessor
) -> None:
    (tmp_path / "numpy.py").write_text("import os; os._exit(9)")
    monkeypatch.chdir(tmp_path)
    assert crop_of(cropper, held(encoded(noise(64, 48), "PNG")))[0] == (64, 48)


def framed(reply: dict[str, object]) -> str:
    """A frame, as printf takes it."""
    packed = json.dumps(reply)
    return rf"\0\0\0\{len(packed):03o}" + packed.replace('"', r"\"").replace("%", "%%")


def test_a_worker_that_answers_nonsense_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was taken over by its image may say anything."""
    program = tmp_path / "python"
    ready = r"\0\0\0\2{}"
    isolated = IsolatedPreprocessor("exact", SPEC)
    monkeypatch.setattr(sys, "executable", str(program))
    answers = [
        r"\0\0\0\2[]",
        r"\377\377\377\377",
        r"\0\0\0\2{}",
        r"\0\0\0\5{\"a\"",
        *map(
            framed,
            [
                {"replies": []},
                {"replies": {}},
                {"replies": [{}]},
                {"replies": [{"error": "SystemExit", "message": "!"}]},
                {"replies": [{"info": [1, 1]}]},
                {"replies": [{"info": [1, "x", 1, 1, False]}]},
                {"replies": [{"info": [1, 1, 1, 1, False]}] * 2},
            ],
        ),
    ]
    for answer in answers:
        program.write_text(f'#!/bin/sh\nhead -c 100 >/dev/null\nprintf "{ready}"\nprintf "{answer}"\n')
        program.chmod(0o755)
        with pytest.raises(DecoderCrashedError):
            crop_of(isolated, held(encoded(noise(64, 48), "PNG")))
    isolated.close()


# Through the classifier -------------------------------------------------------------------------------------


def test_a_run_with_isolation_has_the_records_of_one_without(tmp_path: Path) -> None:
    for index in range(12):
        noise(64 + index, 48, seed=index).save(tmp_path / f"{index:02}.png")
    (tmp_path / "03.png").write_bytes(b"")
    (tmp_path / "07.png").write_bytes((tmp_path / "07.png").read_bytes()[:300])
    results = []
    for isolate in (False, True):
        classifier = Classifier(device="cpu", isolate=isolate, batch_size=4)
        results.append(list(classifier.stream(sources.expand([str(tmp_path)]))))
        classifier.close()
    assert results[0] == results[1]
    assert [result.error and result.error.type for result in results[1]][3:8:4] == ["empty", "truncated_image"]
    assert children(os.getpid()) == []


def test_worker_processes_and_threads_give_the_same_records(tmp_path: Path) -> None:
    """Of files, frames of a file, members of an archive, and images in memory, some of them broken."""
    for index in range(30):
        noise(64 + index, 48, seed=index).save(tmp_path / f"{index:02}.png")
    (tmp_path / "03.png").write_bytes(b"")
    frames = [noise(50, 40, seed=seed) for seed in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for index in range(20):
            archive.writestr(f"{index:02}.jpg", encoded(noise(60, 50 + index, seed=index), "JPEG"))
        archive.writestr("text.jpg", "no picture")
    named = list(sources.expand([str(tmp_path), str(tmp_path / "more.zip"), str(tmp_path / "moving.gif#2")]))
    results = []
    images = [*named, noise(64, 48), "missing.jpg"]
    for kind in ("threads", "processes"):
        with Classifier(device="cpu", workers=f"{kind}:2", batch_size=4) as classifier:
            assert f"2 decoding {kind}" in classifier.runner.describe()
            results.append([*classifier.predict(images), classifier.predict(named[5])])
    assert results[0] == results[1]
    assert len(results[0]) == len(named) + 3 == 56
    assert [result.error.type for result in results[0] if result.error] == ["empty", "not_an_image", "not_found"]
    assert children(os.getpid()) == []


@pytest.mark.usefixtures("hostile")
def test_crashes_and_timeouts_have_their_records_in_their_places(tmp_path: Path) -> None:
    for index in range(9):
        noise(64 + index, 48, seed=index).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes(doing("segfault"))
    (tmp_path / "5.png").write_bytes(doing("sleep"))
    classifier = Classifier(device="cpu", isolate=True, time_limit=8, workers=2)
    results = list(classifier.stream(sources.expand([str(tmp_path)])))
    classifier.close()
    assert [result.error and result.error.type for result in results] == [
        *(None, None, "decoder_crashed", None, None, "decoder_timeout", None, None, None)
    ]
    assert [result.width for result in results] == [64, 65, None, 67, 68, None, 70, 71, 72]
    with pytest.raises(DecoderCrashedError):
        classifier.predict(tmp_path / "2.png")
    classifier.close()


def test_the_end_of_a_with_block_ends_the_workers(photo: Path) -> None:
    with Classifier(device="cpu", isolate=True) as classifier:
        assert classifier.predict(photo).predictions
        assert classifier.embed(photo).embedding is not None
        assert len(children(os.getpid())) == 2
    assert children(os.getpid()) == []
    runner = ModelRunner.load(catalog.EMBEDDED_MODEL, LoadOptions(), RunnerOptions(device="cpu", isolate=True))
    with pytest.raises(ImageError), runner:
        runner.run_one(b"no image")
    assert children(os.getpid()) == []


def test_a_classifier_that_was_closed_answers_and_leaves_nothing_behind() -> None:
    classifier = Classifier(device="cpu", isolate=True)
    classifier.close()
    assert classifier.predict(encoded(noise(64, 48), "PNG")).predictions
    assert children(os.getpid()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"isolate": True, "decode_device": "gpu"},
        {"isolate": True, "time_limit": 0},
        {"isolate": True, "time_limit": float("nan")},
        {"isolate": True, "time_limit": float("inf")},
        {"isolate": True, "time_limit": "30"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Classifier(**options)  # type: ignore[arg-type]
    assert caught.value.hint


def test_a_system_without_the_means_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "has_worker_processes", lambda: False)
    for options in ({"isolate": True}, {"workers": "processes"}):
        with pytest.raises(UsageError, match="Linux or macOS"):
            Classifier(device="cpu", **options)  # type: ignore[arg-type]
    assert "40 decoding threads" in Classifier(device="cpu", workers=40).runner.describe()


def test_the_embedded_models_preprocessing_fits_the_pipe() -> None:
    spec = catalog.find_model(catalog.EMBEDDED_MODEL).preprocess
    isolated = IsolatedPreprocessor("exact", spec)
    out = np.zeros((2, *spec.crop_size, 3), np.uint8)
    isolated(held(encoded(noise(640, 480), "JPEG")), out[1])
    assert out[1].any()
    assert not out[0].any()
    isolated.close()


def test_no_error_of_ours_is_unknown_to_the_pipe() -> None:
    kinds: list[type[ImgclassifyError]] = [ImageError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    for kind in kinds[1:]:
        assert type(worker_pool.error_of_type(kind.type, "words")) is kind  # type: ignore[attr-defined]
