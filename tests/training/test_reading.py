"""Reading for a training: timm's own features, of an image and its views, once, and then from the cache."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from conftest import encoded, noise
from PIL import Image

from imgclassify.engines import FEATURES
from imgclassify.errors import UsageError
from imgclassify.images import decoding
from imgclassify.runner import ModelRunner, load_runner
from imgclassify.sources import Source, expand
from imgclassify.training import reading
from imgclassify.training.feature_cache import FeatureCache
from imgclassify.training.near_duplicates import compute_fingerprint
from imgclassify.training.reading import ReadImage, _Views, read_images


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return load_runner(outputs=(FEATURES,), with_labels=False)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Six images, of which the second is broken and the last is the first again."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(5):
        noise(260 + 40 * number, 240, seed=number).save(folder / f"{number}.png")
    (folder / "1.png").write_bytes(b"no image")
    (folder / "5.png").write_bytes((folder / "0.png").read_bytes())
    return folder


def sources(folder: Path) -> list[Source]:
    return list(expand([str(folder)]))


def open_cache(runner: ModelRunner, **views: int) -> FeatureCache:
    cache = FeatureCache.open(runner.run_info, **views)
    assert cache is not None
    return cache


def values(read: list[ReadImage]) -> list[tuple[Any, ...]]:
    """What can be compared."""
    return [each._replace(features=None if each.features is None else each.features.tobytes()) for each in read]


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on every image that is decoded is an error of the test."""

    def refuse(source: Source, **_limits: object) -> Image.Image:
        raise AssertionError(f"{source.name} is decoded")

    return lambda: monkeypatch.setattr(decoding, "load_image", refuse)


# What is read -------------------------------------------------------------------------------------------------


@pytest.mark.needs_torch
def test_features_are_those_of_timm(album: Path, runner: ModelRunner) -> None:
    import torch
    from torchvision.transforms import v2

    build = runner.network.backends.build_torch
    assert build is not None
    network = build().eval()
    prepare = v2.Compose([v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224), v2.PILToTensor()])
    seen: list[ReadImage] = []
    read = read_images(sources(album), runner=runner, on_image=seen.append)
    assert values(read) == values(seen)
    assert [each.name for each in read] == [str(album / f"{number}.png") for number in range(6)]
    for each in read:
        assert each.sha256 == hashlib.sha256(Path(each.name).read_bytes()).digest()
        if each.error is None:
            image = Image.open(each.name).convert("RGB")
            with torch.inference_mode():
                last = network.forward_features(((prepare(image) / 255 - 0.5) / 0.5)[None])
                expected = network.forward_head(last, pre_logits=True).numpy()
            assert each.features is not None
            assert (each.features.dtype, each.features.shape) == (np.float32, (1, 1280))
            np.testing.assert_allclose(each.features, expected, atol=1e-4)
            assert each.fingerprint == compute_fingerprint(image)


def test_a_broken_image_has_the_error_of_predict(album: Path, runner: ModelRunner) -> None:
    (album / "2.png").unlink()
    listed = [*sources(album), next(expand([str(album / "2.png")]))]
    read = read_images(listed, runner=runner)
    of_predict = {each.source: each.error for each in runner.run(listed)}
    assert {each.name: each.error for each in read} == of_predict
    broken, missing = read[1], read[-1]
    assert (broken.error and broken.error.type, broken.features, broken.fingerprint) == ("not_an_image", None, None)
    assert broken.sha256 == hashlib.sha256(b"no image").digest()
    assert (missing.error and missing.error.type, missing.sha256) == ("not_found", None)


def test_members_of_an_archive_are_read(album: Path, tmp_path: Path, runner: ModelRunner) -> None:
    archive = tmp_path / "album.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in sorted(album.iterdir()):
            stream.write(path, path.name)
    read = read_images(sources(archive), runner=runner)
    plain = read_images(sources(album), runner=runner)
    assert [each.sha256 for each in read] == [each.sha256 for each in plain]
    assert [each.error is None for each in read] == [each.error is None for each in plain]


def test_without_a_network_there_are_no_features(album: Path) -> None:
    seen: list[ReadImage] = []
    read = read_images(sources(album), runner=None, on_image=seen.append)
    assert read == seen
    assert [each.error and each.error.type for each in read] == [None, "not_an_image", None, None, None, None]
    for each in read:
        assert each.features is None
        assert each.sha256 == hashlib.sha256(Path(each.name).read_bytes()).digest()
        if each.error is None:
            assert each.fingerprint == compute_fingerprint(Image.open(each.name).convert("RGB"))


def test_without_a_network_the_limits_are_those_given(album: Path) -> None:
    read = read_images(sources(album), runner=None, max_pixels=300 * 240)
    assert [each.error and each.error.type for each in read] == [
        None,
        "not_an_image",
        "image_too_large",
        "image_too_large",
        "image_too_large",
        None,
    ]
    whole = encoded(noise(300, 300), "JPEG")
    (album / "1.png").write_bytes(whole[: len(whole) // 2])
    [_, torn, *_] = read_images(sources(album), runner=None)
    [_, mended, *_] = read_images(sources(album), runner=None, decode_damaged=True)
    assert torn.error is not None
    assert torn.error.type == "truncated_image"
    assert (mended.error, mended.fingerprint is None) == (None, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"isolate": True}, "isolate is not possible"), ({"fast_decode": True}, "decode mode 'fast'")],
    ids=["isolate", "fast"],
)
def test_what_does_not_decode_here_is_refused(options: dict[str, bool], message: str, album: Path) -> None:
    with (
        load_runner(outputs=(FEATURES,), with_labels=False, **options) as runner,
        pytest.raises(UsageError, match=message),
    ):
        read_images(sources(album), runner=runner)


# The cache ----------------------------------------------------------------------------------------------------


def test_what_is_known_is_not_decoded_again_and_is_the_same(
    album: Path, runner: ModelRunner, no_decoder: Callable[[], None]
) -> None:
    first = read_images(sources(album), runner=runner, cache=open_cache(runner))
    cache = open_cache(runner)
    assert cache.num_images == 4  # of six, one is broken and one is there twice
    (album / "1.png").unlink()
    no_decoder()
    again = read_images(sources(album), runner=runner, cache=cache)
    assert values(again) == values([first[0], *first[2:5], first[0]._replace(name=str(album / "5.png"))])


def test_only_what_is_new_is_decoded(album: Path, runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    read_images(sources(album)[:3], runner=runner, cache=open_cache(runner))
    decoded = []
    load = decoding.load_image
    monkeypatch.setattr(
        decoding,
        "load_image",
        lambda source, **limits: decoded.append(Path(source.name).name) or load(source, **limits),
    )
    read = read_images(sources(album), runner=runner, cache=open_cache(runner))
    assert sorted(decoded) == ["1.png", "3.png", "4.png"]  # the broken one is tried again
    plain = read_images(sources(album), runner=runner)
    assert [each.name for each in read] == [each.name for each in plain]
    for one, other in zip(read, plain, strict=True):
        assert (one.features is None) == (other.features is None)
        if one.features is not None:
            np.testing.assert_allclose(one.features, other.features, atol=1e-4)


def test_damaged_images_are_not_kept(album: Path) -> None:
    whole = encoded(noise(300, 300), "JPEG")
    (album / "1.png").write_bytes(whole[: len(whole) // 2])
    with load_runner(outputs=(FEATURES,), with_labels=False, decode_damaged=True) as runner:
        [mended] = read_images(sources(album)[1:2], runner=runner, cache=open_cache(runner))
        assert mended.features is not None
        assert open_cache(runner).num_images == 0
    with load_runner(outputs=(FEATURES,), with_labels=False) as runner:
        [torn] = read_images(sources(album)[1:2], runner=runner, cache=open_cache(runner))
        assert torn.error is not None
        assert torn.error.type == "truncated_image"


def test_a_stop_keeps_what_was_computed(album: Path, runner: ModelRunner) -> None:
    stop = Event()
    endless = (source for _ in range(10**6) for source in sources(album)[2:])
    read = read_images(
        endless, runner=runner, cache=open_cache(runner), on_image=lambda _: stop.set(), stop_event=stop
    )
    assert 1 <= len(read) < 200
    assert open_cache(runner).num_images == len({each.sha256 for each in read})


def test_an_interrupt_keeps_what_was_computed(album: Path, runner: ModelRunner) -> None:
    seen: list[ReadImage] = []

    def interrupt(image: ReadImage) -> None:
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_images(sources(album), runner=runner, cache=open_cache(runner), on_image=interrupt)
    assert open_cache(runner).num_images == 2  # the second of the three is broken


# Views --------------------------------------------------------------------------------------------------------


def gradient(width: int, height: int) -> Image.Image:
    """Red is the column of a pixel, and green its row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, rows * 0], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", [(200, 100), (90, 240), (1, 1), (1, 200), (2, 3)], ids=str)
def test_a_view_is_a_part_of_its_image_and_each_second_is_mirrored(size: tuple[int, int]) -> None:
    image = gradient(*size)
    for number in range(1, 41):
        view = np.asarray(_Views(40, 0).make(image, b"digest", number)).astype(int)
        if number % 2:
            view = view[:, ::-1]
        height, width = view.shape[:2]
        (left, top), (right, bottom) = view[0, 0, :2], view[-1, -1, :2]
        # Each pixel of the part is there, once.
        np.testing.assert_array_equal(view, np.asarray(image)[top : bottom + 1, left : right + 1])
        assert (width, height) == (right - left + 1, bottom - top + 1)
        if min(size) > 50:
            assert 0.43 < width * height / (size[0] * size[1]) <= 1
            assert 0.74 < (width / size[0]) / (height / size[1]) < 1.35


def test_views_differ_by_number_seed_and_file_and_are_the_same_again() -> None:
    image = gradient(200, 200)

    def view(digest: bytes, seed: int, number: int) -> bytes:
        return _Views(9, seed).make(image, digest, number).tobytes()

    cases = [(digest, seed, number) for digest in (b"one", b"other") for seed in (0, 1) for number in (1, 3, 11)]
    assert len({view(*case) for case in cases}) == len(cases)
    assert [view(*case) for case in cases] == [view(*case) for case in cases]
    # Over many views, every part of the image is shown, and the corners too.
    shown = np.zeros((200, 200), int)
    for number in range(2, 400, 2):
        part = np.asarray(_Views(9, 0).make(image, b"one", number))
        shown[part[0, 0, 1] : part[-1, -1, 1] + 1, part[0, 0, 0] : part[-1, -1, 0] + 1] += 1
    assert shown.min() > 0
    assert shown[100, 100] > 190


def test_features_of_views_follow_those_of_the_image(
    album: Path, runner: ModelRunner, no_decoder: Callable[[], None]
) -> None:
    plain = read_images(sources(album), runner=runner)
    how = {"views": 3, "seed": 5}
    read = read_images(sources(album), runner=runner, cache=open_cache(runner, **how), **how)
    assert [each[:3] for each in read] == [each[:3] for each in plain]
    for each, alone in zip(read, plain, strict=True):
        if each.error:
            assert each == alone
            continue
        assert each.features is not None
        assert each.features.shape == (4, 1280)
        image = Image.open(each.name).convert("RGB")
        for number in range(1, 4):
            view = _Views(3, 5).make(image, each.sha256 or b"", number)
            arrays = runner.run_one(view).arrays
            assert arrays is not None
            np.testing.assert_allclose(each.features[number], arrays[FEATURES], atol=1e-4)
        assert alone.features is not None
        np.testing.assert_allclose(each.features[0], alone.features[0], atol=1e-4)
    (album / "1.png").unlink()
    no_decoder()
    again = read_images(sources(album), runner=runner, cache=open_cache(runner, **how), **how)
    assert values(again) == values([*read[:1], *read[2:5], read[0]._replace(name=str(album / "5.png"))])


def test_each_image_is_decoded_once_for_all_its_views(
    album: Path, runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    load = reading._decode
    monkeypatch.setattr(
        reading,
        "_decode",
        lambda source, *how, **limits: decoded.append(source.name) or load(source, *how, **limits),
    )
    read_images(sources(album), runner=runner, views=4)
    assert sorted(decoded) == [source.name for source in sources(album)]


def test_a_stop_between_the_views_of_an_image_leaves_it_out(album: Path, runner: ModelRunner) -> None:
    stop = Event()
    endless = (source for _ in range(10**6) for source in sources(album)[2:])
    read = read_images(endless, runner=runner, views=6, on_image=lambda _: stop.set(), stop_event=stop)
    assert len(read) >= 1
    assert all(each.features is not None and each.features.shape == (7, 1280) for each in read)
