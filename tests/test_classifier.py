"""The Python API on the embedded model, and the arithmetic of its answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_data_config

import imgclassify
from imgclassify import Classifier, ImageResult, catalog, checkpoints, weights
from imgclassify.classifier import softmax, top_k
from imgclassify.errors import DeviceError, ImageError, LabelsError, UsageError
from imgclassify.sources import expand


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(device="cpu")


@pytest.fixture(scope="module")
def reference() -> torch.nn.Module:
    """timm's own network with the same weights, named by position: a second way to the same parameters."""
    manifest = catalog.find_model(catalog.EMBEDDED_MODEL)
    theirs = checkpoints.load_arrays(weights.cache_path(manifest.url))
    network = timm.create_model("tf_efficientnet_lite0").eval()
    parameters = map(torch.from_numpy, theirs.values())
    network.load_state_dict(dict(zip(network.state_dict(), parameters, strict=True)))
    return network


def test_the_embedded_model_answers_as_timms_own_pipeline(
    classifier: Classifier, reference: torch.nn.Module
) -> None:
    transform = create_transform(**resolve_data_config({}, model=reference))
    everything = Classifier(top_k=1000, device="cpu")
    for seed, size in enumerate([(640, 480), (333, 251), (90, 700)]):
        image = noise(*size, seed)
        with torch.inference_mode():
            expected = reference(transform(image)[None]).softmax(dim=1)[0]
        found = everything.predict(image)
        assert [p.class_index for p in classifier.predict(image).predictions] == [
            p.class_index for p in found.predictions[:5]
        ]
        for prediction in found.predictions:
            assert prediction.probability == pytest.approx(float(expected[prediction.class_index]), abs=1e-5)


def same(result: ImageResult, other: ImageResult) -> bool:
    return result.predictions == other.predictions and (result.width, result.height) == (other.width, other.height)


def test_every_form_of_an_image_gives_the_same_answer(classifier: Classifier, tmp_path: Path) -> None:
    image = noise(200, 150, seed=7)
    path = tmp_path / "picture.png"
    image.save(path)
    result = classifier.predict(str(path))
    assert result.source == str(path)
    assert (result.width, result.height) == (200, 150)
    assert [prediction.rank for prediction in result.predictions] == [1, 2, 3, 4, 5]
    with Image.open(path) as opened:
        forms = [path, path.read_bytes(), bytearray(path.read_bytes()), image, np.asarray(image), opened]
        for form in forms:
            assert same(classifier.predict(form), result), type(form)
        many = list(classifier.predict(forms))
    assert len(many) == len(forms)
    # A batch may differ from one image in the last bit of the float32 arithmetic.
    for one in many:
        assert [p.label for p in one.predictions] == [p.label for p in result.predictions]
        assert one.predictions[0].probability == pytest.approx(result.predictions[0].probability, abs=1e-6)


def test_a_grey_array_is_an_image_too(classifier: Classifier) -> None:
    grey = np.asarray(noise(64, 48).convert("L"))
    assert same(classifier.predict(grey), classifier.predict(Image.fromarray(grey)))


def test_many_are_streamed_in_order_with_each_failure_in_its_place(classifier: Classifier, tmp_path: Path) -> None:
    names = []
    for number in range(20):
        path = tmp_path / f"{number:02}.png"
        if number % 3 == 1:
            path.write_bytes(b"broken")
        else:
            noise(40 + number, 40, seed=number).save(path)
        names.append(str(path))
    alone = {name: classifier.predict(name) for name in names[::3]}
    taken = []

    def giving() -> object:
        for name in names:
            taken.append(name)
            yield name

    results = classifier.predict(giving())
    first = next(results)
    assert first.source == names[0]
    assert taken != []
    rest = list(results)
    assert [result.source for result in (first, *rest)] == names
    for number, result in enumerate((first, *rest)):
        assert (result.error is not None) == (number % 3 == 1)
        if result.error:
            assert (result.predictions, result.error.type) == ((), "not_an_image")
        elif result.source in alone:
            assert result.predictions[0].label == alone[result.source].predictions[0].label
            assert result.predictions[0].probability == pytest.approx(
                alone[result.source].predictions[0].probability, abs=1e-6
            )


def test_one_broken_image_raises(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ImageError):
        classifier.predict(tmp_path / "broken.jpg")
    with pytest.raises(ImageError, match="no such file"):
        classifier.predict(tmp_path / "missing.jpg")


def test_sources_are_streamed(classifier: Classifier, tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        noise(50, 50).save(tmp_path / name)
    assert [Path(result.source).name for result in classifier.stream(expand([str(tmp_path)]))] == [
        "a.png",
        "b.png",
    ]


def test_a_folder_is_not_one_image(classifier: Classifier, tmp_path: Path) -> None:
    noise(9, 9).save(tmp_path / "only.png")
    with pytest.raises(ImageError, match="is a folder"):
        classifier.predict(tmp_path)
    noise(9, 9).save(tmp_path / "a[1].png")
    names = [str(tmp_path / "only.png"), str(tmp_path), str(tmp_path / "a[1].png"), str(tmp_path / "gone[1].png")]
    kinds = [result.error and result.error.type for result in classifier.predict(names)]
    assert kinds == [None, "unreadable", None, "not_found"]


def test_a_buffer_that_its_owner_fills_again_is_answered_as_it_was(classifier: Classifier) -> None:
    frames = [np.asarray(noise(60, 50, seed)) for seed in range(12)]
    buffer = np.empty_like(frames[0])

    def video() -> Iterator[np.ndarray]:
        for frame in frames:
            buffer[:] = frame
            yield buffer

    for result, frame in zip(classifier.predict(video()), frames, strict=True):
        alone = classifier.predict(frame).predictions[0]
        assert result.predictions[0].label == alone.label
        assert result.predictions[0].probability == pytest.approx(alone.probability, abs=1e-5)


def test_an_open_file_is_an_image(classifier: Classifier, tmp_path: Path) -> None:
    noise(50, 40).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        assert same(classifier.predict(file), classifier.predict(tmp_path / "a.png"))


def test_images_that_cannot_be_read_are_image_errors(classifier: Classifier) -> None:
    closed = noise(9, 9)
    closed.close()
    tensor = torch.zeros(4, 4, 3, requires_grad=True)
    for thing in (Image.new("RGB", (0, 0)), closed, tensor):
        with pytest.raises(ImageError):
            classifier.predict(thing)


def test_logits_that_are_not_finite_are_never_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(imgclassify.ImgclassifyError, match="not finite") as error:
        Classifier(mean=1e39).predict(noise(9, 9))
    assert "float32" in str(error.value)


@pytest.mark.parametrize("thing", [3, None, 2.5])
def test_what_cannot_be_an_image_is_named(classifier: Classifier, thing: object) -> None:
    with pytest.raises(UsageError, match=type(thing).__name__):
        classifier.predict(thing)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("array", "complaint"),
    [(np.zeros((4, 4, 3), np.float32), "float32"), (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)")],
)
def test_arrays_of_another_kind_are_refused(classifier: Classifier, array: np.ndarray, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        classifier.predict(array)


def test_top_k_is_kept_within_the_number_of_classes() -> None:
    assert len(Classifier(top_k=3).predict(noise(30, 30)).predictions) == 3
    result = Classifier(top_k=5000).predict(noise(30, 30))
    assert len(result.predictions) == 1000
    assert sum(prediction.probability for prediction in result.predictions) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"top_k": 0}, UsageError),
        ({"batch_size": 0}, UsageError),
        ({"workers": -1}, UsageError),
        ({"dtype": "int8"}, UsageError),
        ({"engine": "tensorrt"}, UsageError),
        ({"engine": "onnxruntime", "crop_size": 256}, UsageError),
        ({"interpolation": "cubic"}, UsageError),
        ({"crop_size": 0}, UsageError),
        ({"std": (0.2, 0, 0.2)}, UsageError),
        ({"std": -1.0}, UsageError),
        ({"mean": (0.5, 0.5)}, UsageError),
        ({"mean": float("nan")}, UsageError),
        ({"resize_size": 256.0}, UsageError),
        ({"crop_size": (224,)}, UsageError),
        ({"crop_size": "224"}, UsageError),
        ({"crop_size": 10**20}, UsageError),
        ({"model": ""}, UsageError),
        ({"labels": ""}, UsageError),
        ({"top_k": 2.5}, UsageError),
        ({"batch_size": "8"}, UsageError),
        ({"max_pixels": 0}, UsageError),
        ({"max_pixels": 1.5}, UsageError),
        ({"device": "cuda:99"}, DeviceError),
        ({"labels": "no such set"}, LabelsError),
    ],
)
def test_options_out_of_range_are_refused_with_a_hint(
    options: dict[str, object], kind: type[imgclassify.ImgclassifyError]
) -> None:
    with pytest.raises(kind) as error:
        Classifier(**options)  # type: ignore[arg-type]
    assert error.value.hint


@pytest.mark.parametrize("options", [{}, {"fast_decode": True}, {"isolate": True}])
def test_the_limit_on_pixels_is_the_callers(options: dict[str, bool], tmp_path: Path) -> None:
    noise(40, 25).save(tmp_path / "larger.jpg")
    noise(40, 24).save(tmp_path / "smaller.jpg")
    classifier = Classifier(device="cpu", max_pixels=40 * 24, **options)  # type: ignore[arg-type]
    larger, smaller = classifier.predict([tmp_path / "larger.jpg", tmp_path / "smaller.jpg"])
    assert larger.error is not None
    assert (larger.error.type, larger.error.message) == (
        "image_too_large",
        "40 × 25 is 1000 pixels, and the limit is 960",
    )
    assert smaller.predictions
    # What is decoded already is not limited.
    assert classifier.predict(noise(50, 50)).predictions
    classifier.close()


def test_overrides_change_the_preprocessing_and_show_in_the_run() -> None:
    classifier = Classifier(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), resize_size=300, crop_size=(240, 200))
    preprocess = classifier.run.preprocess
    assert (preprocess["resize_size"], preprocess["crop_size"]) == (300, [240, 200])
    assert (preprocess["std"], preprocess["interpolation"]) == ([0.2, 0.2, 0.2], "bicubic")
    assert len(classifier.predict(noise(320, 320)).predictions) == 5


def test_the_run_names_everything_the_answers_depend_on(classifier: Classifier) -> None:
    run = classifier.run.to_dict()
    assert run["version"] == imgclassify.__version__
    assert run["model"] == "efficientnet_lite0"
    assert run["weights"]["sha256"] == catalog.find_model("efficientnet_lite0").sha256
    assert (run["engine"], run["device"], run["dtype"]) == ("onnxruntime", "cpu", "float32")
    assert (run["decode"], run["reason"]) == ("exact", "--device cpu was requested")
    assert (run["label_set"], run["num_classes"]) == ("imagenet1k", 1000)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=50))
def test_softmax_is_float64s_to_float32_precision(logits: list[float]) -> None:
    row = np.array([logits], np.float32)
    exact = np.exp(row.astype(np.float64) - row.max())
    np.testing.assert_allclose(softmax(row), exact / exact.sum(), rtol=1e-4, atol=1e-7)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 50))
def test_top_k_is_pythons_stable_sort(values: list[int], count: int) -> None:
    probabilities = np.array(values, np.float32) / 5
    expected = sorted(range(len(values)), key=lambda index: -values[index])[:count]
    assert top_k(probabilities, count) == expected


def test_the_public_names_are_these_and_importing_them_is_lazy() -> None:
    code = (
        "import sys, imgclassify\n"
        "heavy = {'torch', 'numpy', 'PIL', 'rich', 'typer', 'requests'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in imgclassify.__all__: getattr(imgclassify, name)\n"
        "assert not {'torch', 'timm', 'torchvision', 'onnxruntime', 'rich'} & set(sys.modules)\n"
        "print(*imgclassify.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "Classifier",
        "ExitStatus",
        "ImageEmbedding",
        "ImageError",
        "ImageFailure",
        "ImageResult",
        "ImgclassifyError",
        "LabelSet",
        "ModelManifest",
        "Prediction",
        "PreprocessSpec",
        "RunInfo",
        "__version__",
    ]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        imgclassify.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"top_k": 0}, "top_k"), ({"workers": -1}, "workers"), ({"crop_size": 0}, "crop_size"), ({"std": 0}, "std")],
)
def test_in_python_a_wrong_argument_has_its_own_name(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is ") as error:
        Classifier(**arguments)
    assert error.value.argument == name
    assert str(error.value.hint).startswith("give ")


def test_what_is_not_an_image_is_named_by_its_type() -> None:
    with pytest.raises(UsageError, match="a value of type int is not an image"):
        Classifier().predict(3)  # type: ignore[arg-type]
