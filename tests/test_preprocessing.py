"""Preprocessing bit for bit against torchvision's presets and timm's transforms."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import encoded, noise
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.models import get_model_weights
from torchvision.transforms import InterpolationMode, functional

from imgclassify import catalog
from imgclassify.catalog import PreprocessSpec
from imgclassify.engines.torch_engine import TorchEngine
from imgclassify.hub.timm_registry import preprocess_spec
from imgclassify.images import decoding, preprocessing

MANIFESTS = [manifest for manifest in catalog.load_manifests() if manifest.provider == "torchvision"]
SPECS = {str(manifest.preprocess): manifest for manifest in MANIFESTS}

# Odd, tiny, one pixel, portrait, landscape, square, exactly the resize, and extreme ratios.
SIZES = [
    (1, 1),
    (2, 3),
    (333, 251),
    (251, 333),
    (256, 256),
    (257, 255),
    (640, 480),
    (224, 1031),
    (900, 3),
    (5, 300),
]


def preset(manifest: catalog.ModelManifest) -> Any:
    return get_model_weights(manifest.name)[manifest.weights].transforms()


def normalized(image: Image.Image, spec: PreprocessSpec) -> torch.Tensor:
    """What the torch engine gives the network for one image."""
    engine = TorchEngine(lambda: torch.nn.Identity(), spec, device="cpu")
    return engine.normalize_crops(torch.from_numpy(preprocessing.resize_and_crop(image, spec)[None]))[0]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest.reference)
def test_every_entry_is_its_preset_bit_for_bit(manifest: catalog.ModelManifest) -> None:
    theirs = preset(manifest)
    seed = MANIFESTS.index(manifest)
    for width, height in [SIZES[seed % len(SIZES)], SIZES[(seed + 5) % len(SIZES)], (379 + seed, 500 - seed)]:
        image = noise(width, height, seed)
        assert torch.equal(normalized(image, manifest.preprocess), theirs(image)), (width, height)


@pytest.mark.parametrize("manifest", SPECS.values(), ids=lambda manifest: manifest.reference)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(width=st.integers(1, 700), height=st.integers(1, 700), seed=st.integers(0, 999))
@example(width=1, height=97, seed=1)
@example(width=97, height=1, seed=2)
@example(width=255, height=255, seed=3)
@example(width=341, height=256, seed=4)
def test_every_preset_holds_on_any_size(
    manifest: catalog.ModelManifest, width: int, height: int, seed: int
) -> None:
    image = noise(width, height, seed)
    found, wanted = normalized(image, manifest.preprocess), preset(manifest)(image)
    if preprocessing.is_approximate((height, width), manifest.preprocess):
        assert (found - wanted).abs().max() <= 2.001 / 255 / min(manifest.preprocess.std)
    else:
        assert torch.equal(found, wanted)


TIMM = tuple(int(part) for part in timm.__version__.split(".")[:3])
TIMM_MODELS = [
    "tf_efficientnet_lite0.in1k",
    "resnet18.a1_in1k",
    "vit_base_patch16_clip_224.openai_ft_in1k",
    "beitv2_base_patch16_224.in1k_ft_in22k_in1k",
    "convnextv2_tiny.fcmae_ft_in1k",
    "deit3_small_patch16_384.fb_in1k",
    "eva02_base_patch14_448.mim_in22k_ft_in1k",  # squash
    "vit_so400m_patch14_siglip_378.webli_ft_in1k",  # squash, where timm has it
]


@pytest.mark.parametrize("name", [name for name in TIMM_MODELS if timm.is_model(name.split(".")[0])])
def test_timm_models_are_preprocessed_as_timm_does(name: str) -> None:
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    against_timm(config.to_dict())


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("input_size", [(3, 224, 224), (3, 192, 256), (3, 320, 160)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_crop_mode_of_timm(
    crop_mode: str, input_size: tuple[int, int, int], crop_pct: float, interpolation: str
) -> None:
    square = input_size[1] == input_size[2]
    if crop_mode == "center" and not square and interpolation != "bilinear" and TIMM < (1, 0, 31):
        pytest.skip("timm before 1.0.31 resizes so with bilinear, whatever its configuration says")
    against_timm(
        {
            "input_size": input_size,
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            "interpolation": interpolation,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        }
    )


def against_timm(config: dict[str, Any]) -> None:
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=config), is_training=False)
    spec = preprocess_spec(config)
    for width, height in [(333, 251), (251, 333), (224, 224), (640, 480), (61, 200)]:
        image = noise(width, height, width)
        assert torch.equal(normalized(image, spec), theirs(image)), (width, height)


@pytest.mark.parametrize("size", [(300, 200), (50, 40), (50, 400), (225, 223)])
def test_a_crop_larger_than_the_image_is_padded_as_torchvision_pads(size: tuple[int, int]) -> None:
    from torchvision.transforms._presets import ImageClassification

    spec = PreprocessSpec(40, (225, 225), "bilinear", True, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    theirs = ImageClassification(
        crop_size=225, resize_size=40, mean=spec.mean, std=spec.std, interpolation=InterpolationMode.BILINEAR
    )
    image = noise(*size)
    assert torch.equal(normalized(image, spec), theirs(image))


def test_the_crop_is_contiguous_bytes_of_the_stated_shape() -> None:
    spec = PreprocessSpec(256, (192, 224), "bilinear", True, (0.5,) * 3, (0.5,) * 3)
    crop = preprocessing.resize_and_crop(noise(300, 280), spec)
    assert (crop.shape, crop.dtype, crop.flags.c_contiguous) == ((192, 224, 3), np.uint8, True)


def plainly(image: Image.Image, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Resized as a whole, then cropped, by torchvision."""
    mode = getattr(InterpolationMode, spec.interpolation.upper())
    size = spec.resize_size if isinstance(spec.resize_size, int) else list(spec.resize_size)
    return np.asarray(functional.center_crop(functional.resize(image, size, mode), list(spec.crop_size)))


FILTERS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@pytest.mark.parametrize("size", [(500, 375), (300, 1200), (61, 200)])
def test_a_crop_is_written_where_it_is_wanted(size: tuple[int, int]) -> None:
    spec = catalog.find_model("resnet50").preprocess
    batch = np.full((3, 224, 224, 3), 77, np.uint8)
    image = noise(*size)
    for make in (preprocessing.resize_and_crop, partial(preprocessing.resize_and_crop_fast, full_size=size)):
        batch[:] = 77
        out = batch[1]
        assert make(image, spec=spec, out=out) is out
        np.testing.assert_array_equal(out, make(image, spec=spec))
        assert (batch[[0, 2]] == 77).all()


@settings(max_examples=150, deadline=None)
@given(
    long=st.integers(1, 900),
    short=st.integers(1, 40),
    tall=st.booleans(),
    resize_size=st.integers(41, 200),
    crop_size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    interpolation=st.sampled_from(FILTERS),
)
def test_computing_only_what_the_crop_keeps_is_nearly_the_whole_resize(
    long: int, short: int, tall: bool, resize_size: int, crop_size: tuple[int, int], interpolation: str
) -> None:
    spec = PreprocessSpec(resize_size, crop_size, interpolation, True, (0.5,) * 3, (0.5,) * 3)
    shape = (max(long, short), min(long, short)) if tall else (min(long, short), max(long, short))
    pixels = np.random.default_rng(long).integers(0, 256, (*shape, 3), dtype=np.uint8)
    if interpolation in ("nearest", "box"):
        # They choose a pixel, and where two are as near, rounding chooses. Neighbours that differ little show it.
        ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))
        pixels = np.abs(ramp % 510 - 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    image = Image.fromarray(pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "LARGE_RESIZE", 0)
        window = preprocessing.resize_and_crop(image, spec)
    differences = np.abs(window.astype(int) - plainly(image, spec))
    assert differences.max() <= 2


def test_only_an_enlarged_strip_is_approximate() -> None:
    spec = catalog.find_model("resnet50").preprocess
    for size in ((1, 100_000), (100_000, 1), (3, 2000)):
        assert preprocessing.is_approximate(size, spec)
    for size in ((1, 200), (12_000, 16_000), (232, 70_000), (2000, 3000)):
        assert not preprocessing.is_approximate(size, spec)


# Other channels ---------------------------------------------------------------------------------------------


def in_grey(content: bytes, resize: tuple[int, int], crop: tuple[int, int]) -> NDArray[np.uint8]:
    """The grey crop, computed by Pillow alone from the file: (H, W)."""
    grey = Image.open(io.BytesIO(content)).convert("L").resize(resize[::-1], Image.Resampling.BICUBIC)
    top, left = (resize[0] - crop[0]) // 2, (resize[1] - crop[1]) // 2
    return np.asarray(grey.crop((left, top, left + crop[1], top + crop[0])))


@pytest.mark.parametrize(
    ("mode", "format_name"),
    [(mode, "PNG") for mode in ("RGB", "L", "P", "1")] + [(mode, "JPEG") for mode in ("RGB", "L", "CMYK", "YCbCr")],
)
@pytest.mark.parametrize("fast_decode", [False, True])
def test_grey_is_pillow_s_grey_of_the_file(mode: str, format_name: str, fast_decode: bool) -> None:
    content = encoded(noise(90, 70).convert(mode), format_name)
    spec = PreprocessSpec((40, 60), (30, 44), "bicubic", True, (0.5,) * 3, (0.5,) * 3, "squash", "grey")
    image = decoding.decode_image(io.BytesIO(content))
    crop = (
        preprocessing.resize_and_crop_fast(image, image.size, spec)
        if fast_decode
        else preprocessing.resize_and_crop(image, spec)
    )
    wanted = in_grey(content, (40, 60), (30, 44))
    assert (crop == crop[..., :1]).all()
    if fast_decode:
        near(crop[..., 0], wanted, 1.0)
    else:
        np.testing.assert_array_equal(crop[..., 0], wanted)
    assert (crop.shape, crop.flags.c_contiguous) == ((30, 44, 3), True)


def test_grey_of_a_grey_file_is_its_own_bytes() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    spec = PreprocessSpec(16, (16, 16), "bilinear", True, (0.5,) * 3, (0.5,) * 3, channel_order="grey")
    crop = preprocessing.resize_and_crop(decoding.image_from_memory(pixels), spec)
    np.testing.assert_array_equal(crop, np.stack([pixels] * 3, axis=2))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    resize_size=st.one_of(st.integers(1, 80), st.tuples(st.integers(1, 80), st.integers(1, 80))),
    crop_mode=st.sampled_from(catalog.CROP_MODES),
    interpolation=st.sampled_from(FILTERS),
    fast_decode=st.booleans(),
)
def test_bgr_is_rgb_in_the_other_order(
    width: int,
    height: int,
    resize_size: int | tuple[int, int],
    crop_mode: str,
    interpolation: str,
    fast_decode: bool,
) -> None:
    """The padding too, of which the mean is in the order of the channels."""
    crops = []
    for order, mean in (("rgb", (0.1, 0.2, 0.9)), ("bgr", (0.9, 0.2, 0.1))):
        spec = PreprocessSpec(resize_size, (50, 60), interpolation, True, mean, (0.5,) * 3, crop_mode, order)
        image = noise(width, height)
        crops.append(
            preprocessing.resize_and_crop_fast(image, image.size, spec)
            if fast_decode
            else preprocessing.resize_and_crop(image, spec)
        )
    np.testing.assert_array_equal(crops[0], crops[1][..., ::-1])
    assert crops[1].flags.c_contiguous


def test_a_grey_border_has_the_mean() -> None:
    spec = PreprocessSpec(40, (40, 40), "bilinear", True, (0.2,) * 3, (0.5,) * 3, "border", "grey")
    crop = preprocessing.resize_and_crop(noise(80, 40), spec)
    assert (crop[:10] == 51).all()
    assert (crop[-10:] == 51).all()


@pytest.mark.parametrize("order", ["grey", "bgr"])
def test_an_extremely_long_image_has_other_channels_too(order: str) -> None:
    spec = PreprocessSpec(256, (224, 224), "bilinear", True, (0.5,) * 3, (0.5,) * 3, channel_order=order)
    strip = noise(1, 70_000)
    assert preprocessing.is_approximate((70_000, 1), spec)
    wanted = preprocessing.resize_and_crop(strip, replace(spec, channel_order="rgb"))
    wanted = wanted[..., ::-1] if order == "bgr" else np.asarray(Image.fromarray(wanted).convert("L"))[..., None]
    assert np.abs(preprocessing.resize_and_crop(strip, spec).astype(int) - wanted).max() <= 1


# The fast way -----------------------------------------------------------------------------------------------


def fast(content: bytes, spec: PreprocessSpec) -> tuple[NDArray[np.uint8], int]:
    """(the fast crop of a JPEG, the scale that it was decoded at)."""
    image, whole = decoding.decode_reduced_image(
        io.BytesIO(content), partial(preprocessing.resized_size, spec=spec)
    )
    return preprocessing.resize_and_crop_fast(image, whole, spec), round(whole[0] / image.width)


def exact(content: bytes, spec: PreprocessSpec) -> NDArray[np.uint8]:
    return preprocessing.resize_and_crop(decoding.decode_image(io.BytesIO(content)), spec)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=100, subsampling=0)
    return stream.getvalue()


def near(fast: NDArray[np.uint8], exact: NDArray[np.uint8], most: float) -> None:
    assert fast.shape == exact.shape
    assert np.abs(fast.astype(float) - exact).mean() < most


@pytest.mark.parametrize(
    ("resize_size", "crop_mode"),
    [(64, "center"), ((64, 80), "center"), ((64, 64), "squash"), ((64, 64), "border")],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "scale"), [((1203, 901), 4), ((901, 1203), 4), ((333, 261), 2), ((150, 131), 1)])
def test_the_fast_crop_resembles_the_exact_one(
    size: tuple[int, int], scale: int, resize_size: int | tuple[int, int], crop_mode: str, interpolation: str
) -> None:
    spec = PreprocessSpec(resize_size, (56, 64), interpolation, True, (0.5,) * 3, (0.5,) * 3, crop_mode)
    smooth = noise(size[0] // 4, size[1] // 4).resize(size, Image.Resampling.BICUBIC)
    content = jpeg(np.asarray(smooth))
    crop, taken = fast(content, spec)
    assert taken == scale or crop_mode != "center" or resize_size != 64
    near(crop, exact(content, spec), 1.0)


def ramps(width: int, height: int) -> NDArray[np.uint8]:
    """Red grows from left to right, and green from top to bottom."""
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    return np.rint(255 * np.stack([x, y, np.full_like(x, 0.5)], axis=2)).astype(np.uint8)


@pytest.mark.parametrize("size", [(131, 137), (137, 131), (131, 1001), (259, 263), (300, 130)])
def test_nothing_is_shifted_or_stretched(size: tuple[int, int]) -> None:
    """A pixel of the crop is 16 levels wide here, so that a crop off by one is off by 16, and taking a reduced
    image's rounded size for the true one up to 4."""
    spec = PreprocessSpec(16, (14, 14), "bilinear", True, (0.5,) * 3, (0.5,) * 3)
    content = jpeg(ramps(*size))
    crop, scale = fast(content, spec)
    assert scale >= 2
    difference = crop.astype(float) - exact(content, spec)
    assert np.abs(difference[..., 0].mean(axis=0)).max() < 1.3  # each column
    assert np.abs(difference[..., 1].mean(axis=1)).max() < 1.3  # each row


@pytest.mark.parametrize("size", [(4032, 3024), (500, 375), (61, 200), (1, 1), (1, 100_000), (3, 700)])
def test_the_fast_crop_of_a_whole_image_is_near(size: tuple[int, int]) -> None:
    spec = catalog.find_model("efficientnet_lite0").preprocess
    image = noise(*size)
    near(preprocessing.resize_and_crop_fast(image, size, spec), preprocessing.resize_and_crop(image, spec), 0.3)


@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    resize_size=st.one_of(st.integers(1, 100), st.tuples(st.integers(1, 100), st.integers(1, 100))),
    crop_size=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from([*FILTERS, "nearest"]),
)
def test_any_image_has_a_fast_crop(
    width: int,
    height: int,
    resize_size: int | tuple[int, int],
    crop_size: tuple[int, int],
    crop_mode: str,
    interpolation: str,
) -> None:
    spec = PreprocessSpec(resize_size, crop_size, interpolation, True, (0.5,) * 3, (0.5,) * 3, crop_mode)
    colour = np.full((height, width, 3), (200, 100, 50), np.uint8)
    content = jpeg(colour)
    crop = fast(content, spec)[0]
    assert (crop.shape, crop.dtype, crop.flags.c_contiguous) == ((*crop_size, 3), np.uint8, True)
    # The border too is where it is in the exact crop.
    assert np.abs(crop.astype(int) - exact(content, spec)).max() <= 1


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_a_strip_is_answered_without_gigabytes(size: tuple[int, int]) -> None:
    """Resized as a whole it would be 20 GB. Each pixel becomes 256, so the crop shows the two in the middle."""
    import tracemalloc

    spec = catalog.find_model("resnet50").preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    tracemalloc.start()
    found = preprocessing.resize_and_crop(image, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (224, 224, 3)
    assert peak < 50_000_000
    # The crop's middle lies between the two middle pixels of the strip, at equal distance from both.
    line = pixels.reshape(-1, 3).astype(float)
    across = found[:, 0] if size[1] > size[0] else found[0]
    np.testing.assert_allclose(across[111:113].mean(axis=0), line[49_999:50_001].mean(axis=0), atol=1)


def test_a_strip_is_resized_with_nearest_in_little_memory() -> None:
    spec = PreprocessSpec(256, (224, 224), "nearest", True, (0.5,) * 3, (0.5,) * 3)
    values = np.random.default_rng(0).integers(0, 256, (100_000, 1, 3), dtype=np.uint8)
    crop = preprocessing.resize_and_crop(Image.fromarray(values), spec)
    top = round((256 * 100_000 - 224) / 2)
    wanted = [int((top + row + 0.5) / 256) for row in range(224)]
    np.testing.assert_array_equal(crop, values[wanted].repeat(224, axis=1))
