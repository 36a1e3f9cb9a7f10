"""Image processors of transformers: the crops of our PreprocessSpec against those of the processors themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise
from PIL import Image

from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import CheckpointError
from imgclassify.hub import image_processor
from imgclassify.hub.network import PreprocessOverrides
from imgclassify.images.preprocessing import crop_box, resize_and_crop, resize_and_crop_fast

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = [(97, 64), (64, 64), (63, 101), (200, 133), (31, 90), (30, 29), (29, 30), (1, 50), (257, 256), (320, 240)]
"""Odd and even, larger and smaller than the crops, squares, and a strip."""
SQUARE, SHORT = {"height": 32, "width": 32}, {"shortest_edge": 35}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

CASES: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {"size": SQUARE}),
    ("ViT", {"size": 33, "resample": 3}),
    ("ViT", {"size": [33, 47], "resample": 0}),
    ("ViT", {"size": SQUARE, "do_rescale": False, "do_normalize": False}),
    ("ViT", {"size": SQUARE, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [64.0] * 3}),
    ("ViT", {"size": SQUARE, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    ("ViT", {"size": SQUARE, "do_normalize": False, "resample": 4}),
    ("ViT", {"size": SHORT, "do_center_crop": True, "crop_size": SQUARE, "resample": 1}),
    ("DeiT", {"size": {"height": 39, "width": 39}, "crop_size": 32, **IMAGENET}),
    ("DeiT", {"size": 35, "crop_size": {"height": 32, "width": 24}}),
    ("Beit", {"size": 32, "crop_size": 32, "do_reduce_labels": True}),
    ("Beit", {"size": 36, "crop_size": 33, "do_center_crop": True, "resample": 5}),
    ("ConvNext", {"size": 56, **IMAGENET}),
    ("ConvNext", {"size": {"shortest_edge": 63}, "crop_pct": 0.95}),
    ("ConvNext", {"size": {"shortest_edge": 384}, "resample": 2}),
    ("Bit", {"size": SHORT, "crop_size": SQUARE, **IMAGENET}),
    ("Bit", {"size": 34, "crop_size": 31}),
    ("Bit", {"size": {"shortest_edge": 28}, "crop_size": 35}),
    ("CLIP", {"size": 35, "crop_size": 32}),
    ("MobileNetV1", {"size": SHORT, "crop_size": SQUARE}),
    ("MobileNetV2", {"size": {"shortest_edge": 39}, "crop_size": SQUARE}),
    ("EfficientNet", {"size": SQUARE, "resample": 0, **IMAGENET}),
    ("EfficientNet", {"size": SQUARE, "rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False}),
    ("EfficientNet", {"size": 40, "do_center_crop": True, "crop_size": 33, "do_normalize": False}),
    ("Siglip", {"size": SQUARE}),
    ("Levit", {"size": 56, "crop_size": 56}),
    ("Levit", {"size": {"height": 40, "width": 43}, "crop_size": 35}),
    ("PoolFormer", {"size": 56, "crop_size": 56, "crop_pct": 0.93}),
    ("PoolFormer", {"size": SQUARE, "crop_size": 32}),
    ("PoolFormer", {"size": {"height": 30, "width": 40}, "crop_size": 32}),
    ("Pvt", {"size": 32}),
    ("Segformer", {"size": 48, "do_center_crop": True, "crop_size": 40}),
]


def to_spec(config: dict[str, Any], model_type: str = "", channels: int = 3, **given: Any) -> PreprocessSpec:
    return image_processor.to_spec(
        config,
        PreprocessOverrides(**given),
        model_type=model_type,
        num_channels=channels,
        source="preprocessor_config.json",
    )


def processor_of(name: str, config: dict[str, Any]) -> Any:
    return getattr(transformers, f"{name}ImageProcessorPil").from_dict(config)


def crop_of(processor: Any, image: Image.Image) -> np.ndarray:
    """The bytes of the processor before it scales them, (H, W, 3)."""
    more = {"include_top": False} if hasattr(processor, "include_top") else {}
    pixels = processor(images=image, do_rescale=False, do_normalize=False, **more)["pixel_values"][0]
    return np.moveaxis(np.asarray(pixels), 0, -1)


@pytest.mark.parametrize(("name", "config"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_crops_are_those_of_the_processor_to_the_bit(name: str, config: dict[str, Any]) -> None:
    processor = processor_of(name, config)
    spec = to_spec({"image_processor_type": f"{name}ImageProcessor", **config})
    for seed, size in enumerate(SIZES):
        image = noise(*size, seed=seed)
        wanted = crop_of(processor, image)
        crop = resize_and_crop(image, spec)
        assert crop.shape == wanted.shape
        assert np.array_equal(crop, wanted), f"{size}: {np.abs(crop - wanted).max()}"
        # What follows is a straight line for each channel.
        given = np.moveaxis(np.asarray(processor(images=image)["pixel_values"][0]), 0, -1)
        ours = (crop / 255 - np.array(spec.mean)) / np.array(spec.std)
        assert np.abs(ours - given).max() <= 1e-5 * max(1, np.abs(given).max())


@pytest.mark.parametrize("name", [name.removesuffix("ImageProcessor") for name in image_processor._PROCESSORS])
def test_defaults_are_those_of_the_class(name: str) -> None:
    ours = image_processor._PROCESSORS[f"{name}ImageProcessor"]
    module = getattr(transformers, f"{name}ImageProcessor" + ("" if name == "PPLCNet" else "Pil"))
    for field in (
        "resample",
        "size",
        "crop_size",
        "crop_pct",
        "default_to_square",
        "do_center_crop",
        "image_mean",
        "image_std",
        "rescale_offset",
        "include_top",
        "resize_short",
        "size_divisor",
    ):
        wanted = getattr(module, field, None)
        found = {**image_processor._ALL_STEPS, **ours.defaults}.get(field)
        if field in ("size", "crop_size", "image_mean", "image_std") and found is None:
            continue  # it is not used: segformer's crop_size is None, and PP-LCNet's size is resize_short
        if field == "crop_size" and isinstance(wanted, int):
            wanted = {"height": wanted, "width": wanted}
        assert (found or None) == (list(wanted) if isinstance(wanted, tuple) else wanted or None), field
    for field in ("do_resize", "do_rescale", "do_normalize"):
        assert getattr(module, field) is True or field in ours.ignores


def test_each_type_of_classifier_has_the_processor_that_transformers_takes() -> None:
    from transformers.models.auto import image_processing_auto, modeling_auto

    by_type = {kind: name for name, kinds in image_processor._BY_MODEL_TYPE.items() for kind in kinds}
    # Their processors are for text beside images, and for models of timm.
    other = {"shieldgemma2", "timm_wrapper"}
    for kind in set(modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) - other:
        names = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(kind)
        wanted = names and (names.get("pil") or names["torchvision"]).removesuffix("Pil")
        assert by_type.get(kind) == wanted, kind


@pytest.mark.parametrize(
    ("config", "model_type"),
    [
        ({"image_processor_type": "ViTImageProcessorFast"}, ""),
        ({"image_processor_type": "ViTImageProcessorPil"}, ""),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, ""),
        ({"image_processor_type": None}, "swinv2"),
        ({}, "vit"),
    ],
)
def test_the_processor_is_named_in_several_ways(config: dict[str, Any], model_type: str) -> None:
    assert to_spec(config, model_type) == to_spec({"image_processor_type": "ViTImageProcessor"})


def test_a_file_of_an_old_release_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    config = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "resample": 2, "size": 32}
    config["feature_extractor_type"] = "ViTFeatureExtractor"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    image = noise(90, 61)
    assert np.array_equal(resize_and_crop(image, to_spec(config)), crop_of(processor, image))


def test_mobilevit_takes_blue_first_and_is_not_normalised() -> None:
    config = {"size": 288, "crop_size": 256, "image_mean": [0.1] * 3, "do_normalize": True}
    spec = to_spec({"image_processor_type": "MobileViTImageProcessor", **config})
    assert (spec.channel_order, spec.mean, spec.std) == ("bgr", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    spec = to_spec({"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": False, **config})
    assert spec.channel_order == "rgb"


def test_pplcnet_turns_mean_and_std_round_with_the_channels() -> None:
    spec = to_spec({"image_processor_type": "PPLCNetImageProcessor"})
    assert spec.channel_order == "bgr"
    assert spec.mean == (0.485, 0.456, 0.406)
    processor = transformers.PPLCNetImageProcessor()
    image = noise(301, 250)
    given = processor(images=image, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0).numpy()
    ours = (resize_and_crop(image, spec) / 255 - np.array(spec.mean)) / np.array(spec.std)
    assert np.abs(ours - given).max() < 1.5 / 255 / 0.224  # transformers has no processor for PIL images here


def test_grey_networks_have_one_mean() -> None:
    spec = to_spec({"image_processor_type": "ViTImageProcessor", "image_mean": [0.2], "image_std": 0.3}, channels=1)
    assert (spec.channel_order, spec.mean, spec.std) == ("grey", (0.2, 0.2, 0.2), (0.3, 0.3, 0.3))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image_processor_type": "PerceiverImageProcessor"}, "PerceiverImageProcessor, crops images before"),
        ({"image_processor_type": "ImageGPTImageProcessor"}, "palette"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "patches"),
        ({"image_processor_type": "OwnImageProcessor"}, "OwnImageProcessor, is not one of those"),
        ({}, "has no name"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 40}}, "differ in size"),
        ({"image_processor_type": "BitImageProcessor", "size": {"longest_edge": 40}}, "longest_edge"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "do_resize is false"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": SQUARE}, "shortest_edge"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad"),
        ({"image_processor_type": "ViTImageProcessor", "size": "224"}, "size is '224'"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 10**9, "width": 1}}, "size is"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "resample is 9"),
        ({"image_processor_type": "ViTImageProcessor", "image_mean": [1, 2]}, r"image_mean is \[1, 2\]"),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [0.5, 0, 0.5]}, "above zero"),
        ({"image_processor_type": "ViTImageProcessor", "do_normalize": "yes"}, "do_normalize is 'yes'"),
        ({"image_processor_type": "ViTImageProcessor", "rescale_factor": 0}, "rescale_factor is 0"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 64, "do_center_crop": True, "crop_size": 32},
            "twice",
        ),
    ],
)
def test_what_a_spec_cannot_say_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as error:
        to_spec(config)
    assert "preprocessor_config.json" in str(error.value)


def test_the_user_can_say_what_the_file_leaves_open() -> None:
    config = {"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 40}}
    spec = to_spec(config, crop_size=(32, 32))
    assert (spec.resize_size, spec.crop_size, spec.crop_mode) == (40, (32, 32), "center")
    given = {
        "resize_size": 40,
        "crop_size": (32, 32),
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert to_spec({"image_processor_type": "OwnImageProcessor"}, **given).resize_size == 40


@pytest.mark.parametrize("size", SIZES)
def test_fast_crops_and_crop_boxes_lie_where_the_crop_lies(size: tuple[int, int]) -> None:
    spec = to_spec({"image_processor_type": "BitImageProcessor", "size": 35, "crop_size": 32, "resample": 2})
    image = noise(*size, seed=1)
    box = crop_box((image.height, image.width), spec)
    for side, first, last in zip(size, box[:2], box[2:], strict=True):
        resized = int(35 * side / min(size))
        begin = (resized - 32) // 2
        assert (first, last) == pytest.approx((begin * side / resized, (begin + 32) * side / resized))
    exact = resize_and_crop(image, spec).astype(int)
    fast = resize_and_crop_fast(image, image.size, spec).astype(int)
    if min(size) > 1:
        assert np.abs(exact - fast).max() <= 2
