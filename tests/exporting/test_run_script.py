"""The script beside an exported file: its crop is that of imgclassify to the bit, and its answer the same."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import hub_model, load_script, photos
from PIL import Image

from imgclassify import Classifier
from imgclassify.catalog import PreprocessSpec
from imgclassify.engines.activation import Activation
from imgclassify.exporting.exporting import export_model
from imgclassify.exporting.run_script import format_script, script_name
from imgclassify.images.cropping import create_preprocessor
from imgclassify.images.inputs import as_input
from imgclassify.sources import single_source

SPECS: dict[str, dict[str, Any]] = {
    "torchvision": {"resize_size": 256, "crop_size": (224, 224)},
    "whole": {"resize_size": 48, "crop_size": (48, 48), "interpolation": "bicubic"},
    "odd": {"resize_size": 61, "crop_size": (48, 48), "interpolation": "bilinear"},
    "transformers": {"resize_size": 61, "crop_size": (48, 48), "crop_rounding": "down"},
    "padded": {"resize_size": 41, "crop_size": (48, 54), "interpolation": "lanczos"},
    "padded, transformers": {"resize_size": 41, "crop_size": (48, 54), "crop_rounding": "down"},
    "pair": {"resize_size": (40, 70), "crop_size": (33, 61), "interpolation": "box"},
    "squash": {"resize_size": (48, 64), "crop_size": (48, 64), "crop_mode": "squash", "interpolation": "hamming"},
    "squash and crop": {
        "resize_size": 64,
        "crop_size": (41, 55),
        "crop_mode": "squash",
        "interpolation": "nearest",
    },
    "border": {"resize_size": 48, "crop_size": (48, 48), "crop_mode": "border"},
    "border of a pair": {"resize_size": (48, 64), "crop_size": (40, 70), "crop_mode": "border"},
    "bgr": {"resize_size": 61, "crop_size": (48, 48), "channel_order": "bgr"},
    "bgr with a border": {"resize_size": 48, "crop_size": (51, 48), "crop_mode": "border", "channel_order": "bgr"},
    "grey": {"resize_size": 61, "crop_size": (48, 48), "channel_order": "grey"},
    "grey with a border": {
        "resize_size": 48,
        "crop_size": (51, 48),
        "crop_mode": "border",
        "channel_order": "grey",
    },
}


def spec_of(values: dict[str, Any]) -> PreprocessSpec:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return PreprocessSpec(**{"interpolation": "bilinear", "antialias": True, "mean": mean, "std": std, **values})


def read_crop(spec: PreprocessSpec) -> Any:
    """The function of the script. Its model is not opened."""
    text = format_script("onnx", "x.onnx", spec, Activation("softmax"), ["logits"])
    names: dict[str, Any] = {}
    exec(text[text.index("import json") : text.index("FILE =")].replace("import onnxruntime", ""), names)
    exec(text[text.index("def read_crop") : text.index("for path in")], names)
    return names["read_crop"]


@pytest.mark.parametrize("name", SPECS)
def test_the_crop_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    spec = spec_of(SPECS[name])
    preprocess, script = create_preprocessor("exact", spec, "cpu"), read_crop(spec)
    for path in photos(tmp_path / "photos"):
        expected = np.empty((*spec.crop_size, 3), np.uint8)
        preprocess(as_input(single_source(str(path), offline=True), offline=True), expected)
        found = script(path)
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected, err_msg=path.name)


def test_centre_crops_of_every_margin_begin_at_the_same_pixel() -> None:
    """Halves are rounded to even above zero, and the smaller half of a padding comes first."""
    for (rounding, crop), side in itertools.product(
        [("even", 7), ("down", 7), ("even", 8), ("down", 8)], range(1, 20)
    ):
        values = {"resize_size": side, "crop_size": (crop, crop), "crop_rounding": rounding}
        spec = spec_of({**values, "interpolation": "nearest"})
        path = Path("x.png")
        image = Image.fromarray(np.arange(side * side * 3, dtype=np.uint32).astype(np.uint8).reshape(side, side, 3))
        expected = np.empty((crop, crop, 3), np.uint8)
        create_preprocessor("exact", spec, "cpu")(as_input(image, offline=True), expected)
        script = read_crop(spec)
        script.__globals__["Image"] = _Opener(image)
        np.testing.assert_array_equal(script(path), expected)


class _Opener:
    """PIL.Image, but each file is the same image."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    def open(self, _path: Path) -> Image.Image:
        return self._image

    def __getattr__(self, name: str) -> Any:
        return getattr(Image, name)


def test_the_script_needs_no_imgclassify_and_gives_the_same_answer(tmp_path: Path) -> None:
    export_model("efficientnet_lite0", tmp_path / "lite.onnx")
    script = tmp_path / script_name("lite.onnx")
    assert "import imgclassify" not in script.read_text()
    assert len(script.read_text().splitlines()) < 45
    paths = [str(path) for path in photos(tmp_path / "photos") if path.suffix == ".jpg"][:6]
    code = (
        "import runpy, sys; sys.modules['imgclassify'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            code,
            script,
            *paths,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 5 * len(paths)
    for index, result in enumerate(Classifier("efficientnet_lite0").stream(paths)):
        for (name, label, percent), prediction in zip(
            rows[5 * index : 5 * index + 5], result.predictions, strict=True
        ):
            assert (name, label) == (result.source, prediction.label)
            assert float(percent.removesuffix(" %")) == pytest.approx(100 * prediction.probability, abs=0.006)


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    ("model", "names", "options"),
    [
        ("tiny", ["ant", "bee", "cow"], {}),
        ("tiny", ["ant", "bee", "cow"], {"probabilities": True, "features": True}),
        ("tiny", ["ant", "bee", "cow"], {"activation": "sigmoid"}),
        ("one", ["no", "yes"], {}),
        ("probabilities", ["ant", "bee", "cow"], {}),
    ],
    ids=["softmax", "probabilities in it", "sigmoid", "one output", "a softmax of its own"],
)
@pytest.mark.parametrize("extension", ["onnx", "pt2", "torchscript"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_each_format_and_activation(
    extension: str, model: str, names: list[str], options: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    reference, loading = hub_model(tmp_path, model, names)
    file = tmp_path / f"x.{extension}"
    loading |= {key: value for key, value in options.items() if key == "activation"}
    export_model(reference, file, **{**loading, **options})
    path = photos(tmp_path / "photos")[0]
    script = (tmp_path / script_name(file.name)).read_text("utf-8")
    capsys.readouterr()
    arguments = {"__file__": str(tmp_path / script_name(file.name)), "__name__": "__main__"}
    exec(script.replace("sys.argv[1:]", f"[{str(path)!r}]"), arguments)
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    wanted = Classifier(reference, **loading).predict(path).predictions
    assert [label for _, label, _ in rows] == [each.label for each in wanted]
    for (_, _, percent), prediction in zip(rows, wanted, strict=True):
        assert float(percent.removesuffix(" %")) == pytest.approx(100 * prediction.probability, abs=0.006)


def test_its_functions_can_be_imported(tmp_path: Path) -> None:
    export_model("efficientnet_lite0", tmp_path / "lite.onnx")
    names = load_script(tmp_path / script_name("lite.onnx"))
    assert len(names["labels"]) == 1000
    assert names["read_crop"](photos(tmp_path / "photos")[0]).shape == (224, 224, 3)
