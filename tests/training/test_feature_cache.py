"""Kept features: the same bytes again, whatever kills or disturbs the process that keeps them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgclassify import paths
from imgclassify.results import RunInfo
from imgclassify.training import feature_cache
from imgclassify.training.feature_cache import CachedImage, FeatureCache

RUN = RunInfo(
    version="1.0",
    model="mine",
    architecture="resnet18",
    weights="V1",
    weights_sha256="ab" * 32,
    preprocess={"resize_size": 256, "crop_size": 224},
    label_set=None,
    label_set_sha256=None,
    num_classes=10,
    decode_mode="exact",
    engine="onnxruntime",
    device="cpu",
    dtype="float32",
    reason="",
    activation=None,
    multi_label=False,
)


def make_image(number: int, *, views: int = 1, dimension: int = 20) -> tuple[bytes, CachedImage]:
    """A digest, and what is kept of an image: features of all bits, and bytes that end in zeros."""
    generator = np.random.default_rng(number)
    features = generator.normal(size=(views, dimension)).astype(np.float32)
    features[0, :3] = [0.0, -0.0, np.float32(1e-42)]
    return sha256(str(number).encode()).digest()[:-1] + b"\0", CachedImage(generator.bytes(14) + b"\0\0", features)


def open_cache(run: RunInfo = RUN, **views: int) -> FeatureCache:
    cache = FeatureCache.open(run, **views)
    assert cache is not None
    return cache


def fill(numbers: range, run: RunInfo = RUN) -> Path:
    """Keeps images, and returns the file that they are in."""
    with open_cache(run) as cache:
        for number in numbers:
            digest, image = make_image(number)
            cache.add(digest, *image)
    [file] = paths.features_folder().glob("*.features")
    return file


def kept(numbers: range) -> list[int]:
    """The images among these that the cache has. Each must be exactly what was kept."""
    cache, found = open_cache(), []
    for number in numbers:
        digest, image = make_image(number)
        if (known := cache.get(digest)) is not None:
            assert known.fingerprint == image.fingerprint
            assert known.features.tobytes() == image.features.tobytes()
            assert (known.features.dtype, known.features.shape) == (np.float32, image.features.shape)
            found.append(number)
    return found


def test_features_come_back_as_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "_BLOCK", 3)  # records are read in several blocks
    assert open_cache().num_images == 0
    fill(range(10))
    fill(range(10, 14))
    assert open_cache().num_images == 14
    assert kept(range(20)) == list(range(14))


def test_views_and_seed_have_features_of_their_own() -> None:
    digest, image = make_image(1, views=5)
    with open_cache(views=4, seed=7) as cache:
        cache.add(digest, *image)
    again = open_cache(views=4, seed=7).get(digest)
    assert again is not None
    assert again.features.tobytes() == image.features.tobytes()
    for others in ({}, {"views": 4, "seed": 8}, {"views": 3, "seed": 7}):
        assert open_cache(**others).get(digest) is None
    # Without views, the seed makes no difference.
    with open_cache(seed=1) as cache:
        cache.add(digest, *image)
    assert open_cache(seed=2).get(digest) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.1"},
        {"architecture": "resnet34"},
        {"weights_sha256": "cd" * 32},
        {"preprocess": {"resize_size": 255, "crop_size": 224}},
        {"decode_mode": "fast"},
        {"engine": "torch"},
        {"device": "cuda:0"},
        {"dtype": "bfloat16"},
        {"options": {"checkpoint_key": "ema"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_network_or_way_to_run_it_has_features_of_its_own(change: dict[str, Any]) -> None:
    fill(range(1))
    assert open_cache(replace(RUN, **change)).num_images == 0


def test_the_number_of_a_gpu_and_the_labels_make_no_difference() -> None:
    fill(range(1), replace(RUN, device="cuda:0"))
    assert open_cache(replace(RUN, device="cuda:1", label_set="imagenet1k", reason="x")).num_images == 1


def test_weights_of_unknown_content_have_no_cache() -> None:
    assert FeatureCache.open(replace(RUN, weights_sha256=None)) is None


def test_a_torn_last_record_is_dropped() -> None:
    file = fill(range(3))
    whole = file.read_bytes()
    record = (len(whole) - whole.index(b"\n") - 1) // 3
    for missing in (1, 3, 4, 5, record - 1):
        file.write_bytes(whole[:-missing])
        assert kept(range(3)) == [0, 1]
        fill(range(3, 5))
        assert kept(range(5)) == [0, 1, 3, 4]


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_torn_header_is_begun_again(length: int) -> None:
    file = fill(range(2))
    header = file.read_bytes().partition(b"\n")[0] + b"\n"
    file.write_bytes(header[:length])
    assert kept(range(2)) == []
    fill(range(2))
    assert kept(range(2)) == [0, 1]


def test_a_damaged_record_is_as_good_as_absent_and_is_kept_anew() -> None:
    file = fill(range(3))
    content = bytearray(file.read_bytes())
    record = (len(content) - content.index(b"\n") - 1) // 3
    content[-record - 20] ^= 1  # in the features of the second image
    file.write_bytes(content)
    assert kept(range(3)) == [0, 2]
    fill(range(1, 2))
    assert kept(range(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"{}\n", b"[1]\n", b'{"layout": {}}\n', b"\xff\xfe\n", b"["]
)
def test_what_is_no_cache_is_replaced(content: bytes) -> None:
    file = fill(range(1))
    file.write_bytes(content)
    assert kept(range(1)) == []
    fill(range(2))
    assert kept(range(2)) == [0, 1]


def test_many_threads_can_ask_at_once() -> None:
    fill(range(50))
    cache = open_cache()

    def ask(number: int) -> bool:
        digest, image = make_image(number)
        known = cache.get(digest)
        return known is not None and known.features.tobytes() == image.features.tobytes()

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(ask, list(range(50)) * 20))


def test_a_cache_that_cannot_be_written_is_said_and_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    paths.cache_folder().mkdir(parents=True)
    paths.features_folder().write_bytes(b"")
    with open_cache() as cache:
        digest, image = make_image(0)
        cache.add(digest, *image)
    assert len(caplog.messages) == 2
    assert all(message.startswith(("features are", "kept features")) for message in caplog.messages)


# Several processes --------------------------------------------------------------------------------------------

PROGRAM = """
import sys
sys.path[:0] = [{tests!r}, {training!r}]
from imgclassify.training import feature_cache
from test_feature_cache import make_image, open_cache
feature_cache._FLUSH_SECONDS = 0.0
with open_cache() as cache:
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        digest, image = make_image(number)
        cache.add(digest, *image)
        print(number, flush=True)
"""


@pytest.fixture
def start() -> Callable[[int, int], subprocess.Popen[str]]:
    """Starts a process that keeps images one by one, and prints the number of each."""
    here = Path(__file__).parent
    program = PROGRAM.format(tests=str(here.parent), training=str(here))

    def start_process(first: int, end: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(first), str(end)], stdout=subprocess.PIPE, text=True
        )

    return start_process


def test_two_processes_can_write_at_once(start: Callable[[int, int], subprocess.Popen[str]]) -> None:
    processes = [start(0, 150), start(100, 250)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert kept(range(250)) == list(range(250))


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_at_any_moment_it_has_what_was_written(
    start: Callable[[int, int], subprocess.Popen[str]],
) -> None:
    first = 0
    for pause in (0.0, 0.003, 0.011):
        process = start(first, first + 10**6)
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        printed = [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        last = printed[-1] if printed else first + 19
        assert kept(range(first, last + 1)) == list(range(first, last + 1))
        first = last + 3
    assert kept(range(20)) == list(range(20))
