"""Near duplicates: images made by known changes, images that only look plain, and brute force in float64."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from imgclassify.results import ImageFailure
from imgclassify.training import near_duplicates
from imgclassify.training.near_duplicates import compute_fingerprint, group_images
from imgclassify.training.reading import ReadImage

PHOTOS = sorted((Path(__file__).parents[2] / "examples").glob("*.jpg"))
ORIGINALS = [Image.open(path).convert("RGB") for path in PHOTOS] + [noise(320, 240, seed) for seed in range(8)]

Change = Callable[[Image.Image], Image.Image]


def recompress(image: Image.Image, quality: int = 50) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")


def scale(image: Image.Image, width: float, height: float) -> Image.Image:
    return image.resize((round(image.width * width), round(image.height * height)), Image.Resampling.BICUBIC)


def crop(image: Image.Image, share: float) -> Image.Image:
    """Cuts off a share of the width and the height, in equal parts on both sides."""
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: dict[str, Change] = {
    "recompressed": recompress,
    "half": lambda image: scale(image, 0.5, 0.5),
    "double": lambda image: scale(image, 2, 2),
    "squeezed": lambda image: scale(image, 0.7, 1),
    "mirrored": ImageOps.mirror,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "paler": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "cropped a little": lambda image: crop(image, 0.02),
    "mirrored, half, recompressed": lambda image: recompress(scale(ImageOps.mirror(image), 0.5, 0.5)),
}


def read(image: Image.Image, features: np.ndarray | None = None) -> ReadImage:
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
    return ReadImage("", digest, compute_fingerprint(image), None if features is None else features[None])


def groups(images: Sequence[Image.Image]) -> list[int]:
    return group_images([read(image) for image in images])


def text_page(generator: np.random.Generator) -> Image.Image:
    page = Image.new("RGB", (300, 400), "white")
    for line in range(20):
        letters = generator.choice(list("abcdefgh ijkl mnop"), generator.integers(20, 42))
        ImageDraw.Draw(page).text((20, 15 + 18 * line), "".join(letters), fill="black")
    return page


def digits(count: int) -> list[Image.Image]:
    from sklearn.datasets import load_digits

    pixels = (load_digits().images[:count] * 15.9).astype(np.uint8)
    return [Image.fromarray(each).resize((28, 28), Image.Resampling.BICUBIC).convert("RGB") for each in pixels]


# What is a near duplicate


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_image_is_in_the_group_of_the_image(change: str) -> None:
    numbers = groups([*ORIGINALS, *map(CHANGES[change], ORIGINALS)])
    assert numbers == [*range(len(ORIGINALS))] * 2


def test_groups_are_counted_in_the_order_of_their_first_images() -> None:
    one, other, third = ORIGINALS[:3]
    assert groups([one, other, recompress(one), third, recompress(other)]) == [0, 1, 0, 2, 1]


def test_copies_of_a_file_are_in_one_group_whatever_they_show() -> None:
    flat = Image.new("RGB", (64, 64), "grey")
    assert groups([flat, ORIGINALS[0], flat]) == [0, 1, 0]


def test_flat_images_are_not_in_one_group() -> None:
    generator = np.random.default_rng(0)
    flat = [Image.new("RGB", (64, 64), (grey, grey, grey)) for grey in (0, 128, 255)]
    grain = [
        Image.fromarray((128 + generator.normal(0, 2, (99, 99, 3))).astype(np.uint8), "RGB") for _ in range(20)
    ]
    assert groups([*flat, *grain]) == [*range(23)]


def test_a_broken_image_has_a_group_of_its_own() -> None:
    image = read(ORIGINALS[0])
    broken = image._replace(fingerprint=None, error=ImageFailure("corrupt_image", ""))
    unread = broken._replace(sha256=None)
    assert group_images([image, broken, image, broken, unread, unread]) == [0, 1, 0, 2, 3, 4]


def test_few_images() -> None:
    assert group_images([]) == []
    assert groups(ORIGINALS[:1]) == [0]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_images_of_any_size_have_a_fingerprint(size: tuple[int, int]) -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert len(compute_fingerprint(Image.fromarray(noisy))) == 144
    assert compute_fingerprint(Image.new("RGB", size, "red")) == bytes(144)


def test_a_fingerprint_is_a_cosine_transform_times_the_frequency() -> None:
    from scipy.fft import dctn

    image = ORIGINALS[0].convert("L").resize((32, 32), Image.Resampling.BILINEAR).convert("RGB")
    transform = dctn(np.asarray(image.convert("L"), np.float64), norm="ortho")[:12, :12]
    expected = transform * np.hypot(*np.mgrid[:12, :12])
    actual = np.frombuffer(compute_fingerprint(image), np.int8).reshape(12, 12)
    np.testing.assert_allclose(actual / 127, expected / np.abs(expected).max(), atol=0.5 / 127 + 1e-5)


# Crops, by features


def features_like(vector: np.ndarray, cosine: float, generator: np.random.Generator) -> np.ndarray:
    """A vector with this cosine to another one, and of any length."""
    other = generator.standard_normal(len(vector))
    other -= vector * (other @ vector) / (vector @ vector)
    near = cosine * vector / np.linalg.norm(vector) + (1 - cosine**2) ** 0.5 * other / np.linalg.norm(other)
    return (3 * near).astype(np.float32)


def crops_and_features(usual: float, cosine: float) -> list[ReadImage]:
    """Images whose features have the cosine `usual` with each other, and a crop of each, with features near its."""
    generator = np.random.default_rng(0)
    shared = generator.standard_normal(512)
    vectors = [features_like(shared, usual**0.5, generator) for _ in ORIGINALS]
    images = [read(image, vector) for image, vector in zip(ORIGINALS, vectors, strict=True)]
    cropped = [
        read(crop(image, 0.1), features_like(vector, cosine, generator))
        for image, vector in zip(ORIGINALS, vectors, strict=True)
    ]
    return [*images, *cropped]


@pytest.mark.parametrize(("usual", "cosine", "found"), [(0.2, 0.85, True), (0.8, 0.85, False), (0.8, 0.98, True)])
def test_a_crop_is_found_by_features_that_are_nearer_than_usual(usual: float, cosine: float, found: bool) -> None:
    images = crops_and_features(usual, cosine)
    alone = group_images([image._replace(features=None) for image in images])
    together = group_images(images)
    count = len(ORIGINALS)
    assert sum(alone[index] == alone[index + count] for index in range(count)) <= 1
    # The crop of an image whose fingerprint changes very much is not found.
    assert (sum(together[index] == together[index + count] for index in range(count)) > 0.7 * count) is found
    assert len(set(together[:count])) == count


def test_equal_features_alone_do_not_make_a_near_duplicate() -> None:
    vector = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    assert len(set(group_images([read(image, vector) for image in ORIGINALS]))) == len(ORIGINALS)


def test_features_of_views_do_not_count() -> None:
    images = crops_and_features(0.2, 0.85)
    views = np.random.default_rng(1).standard_normal((len(images), 3, 512)).astype(np.float32)
    with_views = [
        image._replace(features=np.concatenate([image.features, more]))  # type: ignore[list-item]
        for image, more in zip(images, views, strict=True)
    ]
    assert group_images(with_views) == group_images(images)


# Groups that would be too large


def test_pages_of_text_and_their_copies_are_not_one_group() -> None:
    generator = np.random.default_rng(0)
    pages = [text_page(generator) for _ in range(80)]
    numbers = groups([*pages, *map(recompress, pages)])
    assert numbers == [*range(80)] * 2


def test_digits_are_not_one_group_and_their_copies_are_found() -> None:
    images = digits(1000)
    numbers = groups([*images, *(scale(image, 2, 2) for image in images)])
    assert numbers[:1000] == numbers[1000:]
    assert Counter(numbers).most_common(1)[0][1] < 60  # images and copies; a digit has 200 of them


def test_a_long_series_is_one_group() -> None:
    """A camera pans slowly, so that only successive images are near duplicates."""
    wide = noise(3200, 240, 99)
    frames = [wide.crop((4 * step, 0, 4 * step + 320, 240)) for step in range(200)]
    numbers = groups([*ORIGINALS, *frames])
    assert numbers[: len(ORIGINALS)] == [*range(len(ORIGINALS))]
    assert set(numbers[len(ORIGINALS) :]) == {len(ORIGINALS)}


def test_many_near_duplicates_of_one_image_are_one_group() -> None:
    generator = np.random.default_rng(0)
    copies = [
        Image.fromarray(np.clip(np.asarray(ORIGINALS[0]) + generator.normal(0, 8, (1, 1, 3)), 0, 255).astype("u1"))
        for _ in range(5 * near_duplicates._MOST_PAIRS)
    ]
    numbers = groups([*copies, ORIGINALS[1]])
    assert numbers == [0] * len(copies) + [1]


# Against brute force


def brute_force(images: Sequence[ReadImage]) -> list[int]:
    """The groups by the fingerprints alone, each image compared with each other one in float64."""
    count = len(images)
    vectors = np.array([np.frombuffer(image.fingerprint or b"", np.int8) for image in images], np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mirrored = (vectors.reshape(count, 12, 12) * (-1.0) ** np.arange(12)).reshape(count, -1)
    cosines = np.maximum(vectors @ vectors.T, vectors @ mirrored.T)
    least = np.full(count, 0.88)
    for row in range(count):
        if (cosines[row] >= 0.64).sum() > 4 * (cosines[row] >= 0.88).sum() + 5:
            least[row] = 0.96
            if (cosines[row] >= 0.88).sum() > 4 * (cosines[row] >= 0.96).sum() + 5:
                least[row] = 1 - 0.04 / 3
    linked = cosines >= np.maximum(least, least[:, None])
    numbers = list(range(count))
    for row in range(count):  # all that are linked to a row, directly or through others
        reached, new = {row}, {row}
        while new:
            new = {int(each) for row in new for each in np.flatnonzero(linked[row])} - reached
            reached |= new
        numbers[row] = min(reached)
    order = sorted(set(numbers))
    return [order.index(number) for number in numbers]


@settings(max_examples=30)
@given(
    st.integers(1, 90),
    st.sampled_from([0.05, 0.2, 0.4, 1.0]),
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_groups_are_those_of_brute_force(count: int, spread: float, seed: int, rows: int, columns: int) -> None:
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((3, 144))
    terms = centres[generator.integers(0, 3, count)] + spread * generator.standard_normal((count, 144))
    contents = [np.rint(each / np.abs(each).max() * 127).astype(np.int8).tobytes() for each in terms]
    images = [ReadImage("", index.to_bytes(32, "big"), content, None) for index, content in enumerate(contents)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_ROWS", rows)
        patch.setattr(near_duplicates, "_COLUMNS", columns)
        assert group_images(images) == brute_force(images)


def test_the_order_of_images_does_not_change_the_groups() -> None:
    images = digits(300)
    order = np.random.default_rng(0).permutation(300)
    one, other = groups(images), groups([images[index] for index in order])
    assert len(set(zip([one[index] for index in order], other, strict=True))) == len(set(one)) == len(set(other))
