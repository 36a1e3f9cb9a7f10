"""Values in place of a model's own preprocessing: what they mean, which cannot be, and what `--arch` lends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from imgclassify import Classifier, catalog
from imgclassify.catalog import PreprocessSpec
from imgclassify.catalog.pixel_scale import UnitScale, to_unit_scale
from imgclassify.errors import ManifestError, UsageError
from imgclassify.hub.file_config import FileConfig
from imgclassify.hub.network import PreprocessOverrides
from imgclassify.images import preprocessing

OWN = catalog.find_model("efficientnet_lite0").preprocess
COMPLETE: dict[str, Any] = {
    "resize_size": 40,
    "crop_size": (32, 32),
    "interpolation": "bilinear",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
}


def spec(resize_size: Any, crop_mode: str) -> PreprocessSpec:
    return PreprocessSpec(resize_size, (32, 32), "bilinear", True, (0.5,) * 3, (0.5,) * 3, crop_mode)


# The size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (64, 48), (48, 64), (7, 500)])
@pytest.mark.parametrize("own", [spec(40, "center"), spec((40, 50), "center"), spec((40, 40), "squash")])
def test_height_and_width_are_those_of_the_resized_image(size: tuple[int, int], own: PreprocessSpec) -> None:
    """As torchvision.transforms.Resize((48, 64)), followed by CenterCrop(32)."""
    image = noise(*size)
    found = preprocessing.resize_and_crop(image, PreprocessOverrides(resize_size=(48, 64)).apply_to(own))
    whole = image.resize((64, 48), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(whole.crop((16, 8, 48, 40))))


@pytest.mark.parametrize("own", [spec(40, "center"), spec((40, 40), "squash"), spec((32, 32), "border")])
def test_one_number_is_the_short_side(own: PreprocessSpec) -> None:
    image = noise(100, 50)
    found = preprocessing.resize_and_crop(image, PreprocessOverrides(resize_size=40).apply_to(own))
    whole = image.resize((80, 40), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(whole.crop((24, 4, 56, 36))))


@pytest.mark.parametrize("own", [spec((40, 50), "center"), spec((40, 40), "squash"), spec((32, 32), "border")])
def test_without_a_size_the_way_to_resize_is_kept(own: PreprocessSpec) -> None:
    changed = PreprocessOverrides(interpolation="lanczos", crop_size=(30, 30)).apply_to(own)
    assert (changed.resize_size, changed.crop_mode) == (own.resize_size, own.crop_mode)


def test_the_size_of_the_user_comes_before_that_of_the_files() -> None:
    files = FileConfig(
        preprocess=PreprocessOverrides(**COMPLETE | {"resize_size": (40, 50), "crop_mode": "center"})
    )
    assert files.create_preprocess(PreprocessOverrides(), "x").crop_mode == "center"
    assert files.create_preprocess(PreprocessOverrides(mean=(0.0, 0.0, 0.0)), "x").crop_mode == "center"
    assert files.create_preprocess(PreprocessOverrides(resize_size=(64, 48)), "x").crop_mode == "squash"
    files = FileConfig(preprocess=PreprocessOverrides(resize_size=(40, 50)))
    assert files.adapt_preprocess(OWN, PreprocessOverrides()).crop_mode == "squash"
    assert files.adapt_preprocess(OWN, PreprocessOverrides(resize_size=40)).crop_mode == "center"


@pytest.mark.parametrize(("resize_size", "warned"), [((224, 200), True), ((200, 224), True), ((224, 224), False)])
def test_padding_is_warned_of(resize_size: tuple[int, int], warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    PreprocessOverrides(resize_size=resize_size, crop_size=(224, 224)).apply_to(OWN)
    assert ("padded with black" in caplog.text) == warned


# The scale of mean and std ----------------------------------------------------------------------------------

BYTES_AND_UNIT = {
    "both, of ImageNet": (
        {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
        "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
    ),
    "a mean alone": ({"mean": (123.675, 116.28, 103.53)}, "--mean 0.485,0.456,0.406"),
    "a std alone": ({"std": 58.395}, "--std 0.229"),
    "Caffe's, which does not divide": (
        {"mean": (104, 117, 123), "std": 1},
        "--mean 0.407843,0.458824,0.482353 --std 0.00392157",
    ),
    "to -1..1": ({"mean": 127.5, "std": 127.5}, "--mean 0.5 --std 0.5"),
    "to 0..1": ({"mean": 0, "std": 255}, "--mean 0 --std 1"),
    "a std that is right already": ({"mean": 127.5, "std": 0.5}, "--mean 0.5 --std 0.5"),
    "1/255 that is right already": ({"mean": 104, "std": 0.00392157}, "--mean 0.407843 --std 0.00392157"),
    "a mean that is right already": ({"mean": 0.5, "std": 127.5}, "--mean 0.5 --std 0.5"),
    "Caffe's factor": ({"mean": 127.5, "std": 0.007843}, "--mean 0.5 --std 0.500009, if 0.007843 multiplies"),
    "negative": ({"mean": -127.5}, "--mean -0.5"),
    "one channel": ({"mean": (0.485, 116.28, 0.406)}, "--mean 0.00190196,0.456,0.00159216"),
}


@pytest.mark.parametrize("case", BYTES_AND_UNIT)
def test_numbers_for_bytes_are_refused_with_those_for_0_to_1(case: str) -> None:
    given_values, wanted = BYTES_AND_UNIT[case]
    with pytest.raises(UsageError, match=r"^(mean|std) is .*, but pixels are scaled to 0\.\.1 first$") as error:
        Classifier(**given_values)
    assert str(error.value.hint).endswith(f"divided by 255: {wanted}")


def test_numbers_of_no_scale_are_refused_without_a_proposal() -> None:
    with pytest.raises(UsageError) as error:
        Classifier(mean=32768.0, std=65535.0)
    assert error.value.hint == "give the mean and std of pixels in 0..1"


@pytest.mark.parametrize(
    "values", [{"mean": 1.0, "std": 1.0}, {"mean": -1.0}, {"mean": 0, "std": 1 / 255}, {"mean": 0, "std": 1e-9}]
)
def test_what_can_be_meant_is_not_refused(values: dict[str, float]) -> None:
    PreprocessOverrides(**{name: (value,) * 3 for name, value in values.items()})  # type: ignore[arg-type]


BYTE = st.floats(1.01, 255)


@given(level=st.integers(0, 255), mean=BYTE, std=st.one_of(BYTE, st.just(1.0)))
def test_the_numbers_for_0_to_1_do_what_the_others_do(level: int, mean: float, std: float) -> None:
    scaled = to_unit_scale((mean,) * 3, (std,) * 3)
    assert scaled.mean is not None
    assert scaled.std is not None
    assert (scaled.certain, scaled.fits) == (True, True)
    assert (level / 255 - scaled.mean[1]) / scaled.std[1] == pytest.approx((level - mean) / std)


@given(level=st.integers(0, 255), mean=BYTE, factor=st.sampled_from([0.017, 0.0078125, 0.00784314]))
def test_a_factor_multiplies(level: int, mean: float, factor: float) -> None:
    scaled = to_unit_scale((mean,) * 3, (factor,) * 3)
    assert scaled.mean is not None
    assert scaled.std is not None
    assert (level / 255 - scaled.mean[0]) / scaled.std[0] == pytest.approx((level - mean) * factor)


def test_what_is_in_0_to_1_stays_and_a_mixture_is_not_certain() -> None:
    mean, std = OWN.mean, OWN.std
    assert to_unit_scale(mean, std) == UnitScale(mean, std, certain=True)
    assert to_unit_scale((0.0,) * 3, (255.0,) * 3) == UnitScale((0.0,) * 3, (1.0,) * 3, certain=True)
    assert not to_unit_scale((0.5,) * 3, (58.0,) * 3).certain
    assert not to_unit_scale((127.5,) * 3, (0.5,) * 3).certain
    assert not to_unit_scale((127.5,) * 3, None).certain
    assert not to_unit_scale((32768.0,) * 3, (65535.0,) * 3).fits


MANIFEST = """
[[models]]
name = "mine"
weights = "V1"
default = true
architecture = "resnet18"
provider = "torchvision"
url = "https://example.org/mine-0123abcd.pth"
sha256 = "0123abcd"
num_classes = 10
label_set = "imagenet1k"
preprocess = { resize_size = 256, crop_size = 224, interpolation = "bicubic", antialias = true, \
mean = MEAN, std = STD }
"""


@pytest.mark.parametrize(
    ("mean", "std", "complaint"),
    [
        (
            "[123.675, 116.28, 103.53]",
            "[58.395, 57.12, 57.375]",
            r"mean must be for pixels scaled to 0..1; divided by 255: [0.485, 0.456, 0.406]",
        ),
        (
            "[0, 0, 0]",
            "[255, 255, 255]",
            "std must be for pixels scaled to 0..1; divided by 255: [1, 1, 1]",
        ),
        ("[0, 0, 0]", "[65535, 65535, 65535]", "std must be for pixels scaled to 0..1"),
    ],
)
def test_a_manifest_has_numbers_for_0_to_1(mean: str, std: str, complaint: str) -> None:
    text = MANIFEST.replace("MEAN", mean).replace("STD", std)
    with pytest.raises(ManifestError, match=rf"preprocess\.{re.escape(complaint)}$"):
        catalog.parse_manifests(text, "mine.toml")


# What --arch lends ------------------------------------------------------------------------------------------


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """An ONNX graph of three classes, which are the means of the channels."""
    built = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    onnx.save(
        helper.make_model(built, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), tmp_path / "mine.onnx"
    )
    (tmp_path / "three.txt").write_text("red\ngreen\nblue\n")
    return tmp_path / "mine.onnx"


def test_arch_lends_its_preprocessing_with_a_word(graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = str(graph.with_name("three.txt"))
    Classifier(str(graph), arch="resnet50", labels=labels)
    assert (
        f"{str(graph)!r} does not say how its images are prepared; what is not given is taken from resnet50 "
        "(IMAGENET1K_V2): resize_size 232, crop_size 224, interpolation bilinear, mean 0.485,0.456,0.406, "
        "std 0.229,0.224,0.225"
    ) in caplog.text
    caplog.clear()
    Classifier(str(graph), arch="resnet50", labels=labels, resize_size=256, mean=0.5, std=0.5)
    assert caplog.text.strip().endswith("(IMAGENET1K_V2): crop_size 224, interpolation bilinear")
    caplog.clear()
    Classifier(str(graph), arch="resnet50", labels=labels, **COMPLETE)
    assert caplog.text == ""


def test_a_bgr_graph_gets_bgr(graph: Path) -> None:
    """With the mean and std in that order."""
    labels = str(graph.with_name("three.txt"))
    image = Image.new("RGB", (50, 50), (250, 100, 20))
    found = Classifier(str(graph), labels=labels, channel_order="bgr", **COMPLETE).predict(image)
    logits = (np.array([20, 100, 250]) / 255 - COMPLETE["mean"]) / COMPLETE["std"]
    wanted = np.exp(logits) / np.exp(logits).sum()
    for prediction in found.predictions:
        assert prediction.probability == pytest.approx(wanted[prediction.class_index], abs=1e-5)
