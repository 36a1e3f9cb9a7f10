"""The Python API on the embedded model, and the arithmetic of its answers."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
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
from imgclassify import Classifier, ImageFailure, ImageResult, Prediction, catalog, checkpoints, weights
from imgclassify.engines.activation import softmax
from imgclassify.errors import (
    CheckpointError,
    DeviceError,
    ImageError,
    LabelsError,
    NoImagesError,
    UsageError,
    with_article,
)
from imgclassify.postprocessing import Postprocessor, top_k, top_k_of_rows
from imgclassify.results import Answer, Unfamiliarity
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


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with two images, one in a folder below, and files that are no images; and its images in a zip."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    names = ["a.png", "b.jpg", "more/c.png"]
    for seed, name in enumerate(names):
        noise(60 + seed, 50, seed).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes((folder / "a.png").read_bytes())
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
    return folder


def widths(results: object) -> list[int | None]:
    assert isinstance(results, Iterator)
    return [result.width for result in results]


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_folder_a_glob_or_an_archive_gives_what_the_command_line_finds(
    classifier: Classifier, album: Path, as_path: type
) -> None:
    for name, expected in [(album, [60, 61, 62]), (album / "*.png", [60]), (f"{album}.zip", [60, 61, 62])]:
        for method in (classifier.predict, classifier.stream, classifier.embed):
            assert widths(method(as_path(name))) == expected
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify", "predict", "--jsonl", str(album)],
        capture_output=True,
        text=True,
        check=True,
    )
    sources = [result.source for result in classifier.predict(str(album))]  # type: ignore[attr-defined]
    assert sources == [json.loads(line)["source"] for line in done.stdout.splitlines()]


def test_a_name_that_stands_for_one_image_gives_one_result(classifier: Classifier, album: Path) -> None:
    (album / "a.png").rename(album / "a[1]*.png")  # this would match itself as no glob
    for name in (album / "a[1]*.png", f"{album}.zip!a.png"):
        assert classifier.predict(name).width == 60
    assert widths(classifier.stream(album / "b.jpg")) == [61]


def test_a_folder_among_many_images_is_replaced_by_its_own(
    classifier: Classifier, album: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    images = [noise(30, 30), f"{album}.zip", album, tmp_path / "empty", b"", album / "a.png"]
    assert widths(classifier.predict(images)) == [30, 60, 61, 62, 60, 61, 62, None, 60]
    assert [record.getMessage() for record in caplog.records] == [f"no image in {str(tmp_path / 'empty')!r}"]
    names = [result.source for result in classifier.predict(images)]
    assert (names[0], names[7]) == ("image:0", "bytes:4")  # positions in the iterable


def test_a_name_among_many_images_is_no_glob(classifier: Classifier, tmp_path: Path) -> None:
    """A file that is gone must not become another one whose name matches."""
    noise(9, 9).save(tmp_path / "gone1.png")
    [result] = classifier.predict([tmp_path / "gone[1].png"])
    assert result.error is not None
    assert result.error.type == "not_found"
    assert "not expanded as a glob" in result.error.message


@pytest.mark.parametrize("name", ["empty", "empty/*.jpg", "none.zip", "empty*"])
def test_a_collection_without_images_is_an_error_that_names_it(
    classifier: Classifier, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    zipfile.ZipFile(tmp_path / "none.zip", "w").close()
    for method in (classifier.predict, classifier.embed, classifier.stream):
        with pytest.raises(NoImagesError, match=r"empty|none\.zip") as error:  # at once, not when it is iterated
            method(str(tmp_path / name))
        assert error.value.hint


def test_only_what_exists_decides_between_a_file_and_a_folder(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        classifier.predict(f"{tmp_path}/nowhere/")
    with pytest.raises(ImageError, match="offline"):
        Classifier(device="cpu", offline=True).predict("https://localhost/a.jpg?size=[1]*2")


# Rows and notebooks ------------------------------------------------------------------------------------------


def test_rows_have_the_columns_and_the_values_of_csv(classifier: Classifier, album: Path, tmp_path: Path) -> None:
    (album / "0.png").write_bytes(b"broken")  # the first, so that it must have all columns too
    command = [sys.executable, "-m", "imgclassify", "predict", "--device", "cpu", str(album)]
    subprocess.run([*command, "-o", str(tmp_path / "labels.csv")], check=False, stderr=subprocess.DEVNULL)
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    rows = list(classifier.to_rows(classifier.predict(str(album))))  # type: ignore[arg-type]
    assert len(rows) == len(written) == 4
    for row, line in zip(rows, written, strict=True):
        assert list(row) == list(line)
        for column, value in row.items():
            if column.startswith("probability") and value is not None:
                assert value == pytest.approx(float(line[column]), abs=1e-6)
            else:
                assert line[column] == ("" if value is None else str(value))
    assert rows[0]["error_type"] == "not_an_image"
    assert type(rows[1]["width"]) is int
    [row] = classifier.to_rows(classifier.predict(album / "a.png"))
    assert row["label_1"] == rows[1]["label_1"]


def test_rows_are_a_data_frame_as_they_are(classifier: Classifier, album: Path) -> None:
    pandas = pytest.importorskip("pandas")
    results = list(classifier.predict([album / "gone.png", album / "a.png"]))
    frame = pandas.DataFrame(classifier.to_rows(results))
    assert list(frame.columns) == list(next(classifier.to_rows(results)))
    assert frame.error_type[0] == "not_found"
    assert frame.label_1[1] == results[1].predictions[0].label


def test_rows_never_drop_a_prediction(classifier: Classifier) -> None:
    result = Classifier(device="cpu", top_k=6).predict(noise(30, 30))
    with pytest.raises(UsageError, match="6 predictions, but top_k is 5"):
        list(classifier.to_rows(result))


class Page(HTMLParser):
    """The texts, tags and styles of a page, which must be well-formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert {name for name, _ in attributes} <= {"style"}
        self.styles += [value or "" for _, value in attributes]
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


HOSTILE = "<script>alert('&')</script>\udce9\x1b.jpg"
SHOWN = "<script>alert('&')</script>\\udce9\\x1b.jpg"


def test_a_notebook_shows_the_predictions_with_bars() -> None:
    predictions = (Prediction(1, 3, None, HOSTILE, 0.9381), Prediction(2, 0, None, "cat", 0.02))
    page = Page(ImageResult(HOSTILE, "tiny", 640, 480, predictions)._repr_html_())
    assert set(page.tags) == {"div", "b", "br", "table", "tr", "td"}
    assert page.texts == [SHOWN, "640 × 480, tiny", SHOWN, "93.81 %", "cat", "2.00 %"]
    bars = [style for style in page.styles if "background" in style]
    assert [bar.partition(";")[0] for bar in bars] == ["width:93.8%", "width:2.0%"]
    # No colour of its own: the text's is visible on light and on dark.
    assert not re.search(r"#[0-9a-f]{3}|rgb|white(?!-space)|black", "".join(page.styles))
    assert all("background:currentColor" in bar for bar in bars)


def test_a_notebook_shows_the_error_of_a_failed_image() -> None:
    failed = ImageResult(HOSTILE, "tiny", None, None, (), ImageFailure("corrupt_image", HOSTILE))
    page = Page(failed._repr_html_())
    assert page.texts == [SHOWN, "tiny", f"✗ corrupt_image: {SHOWN}"]
    assert "table" not in page.tags


def test_a_notebook_says_how_many_predictions_it_leaves_out() -> None:
    predictions = tuple(Prediction(rank, rank, None, "x", 0.01) for rank in range(1, 101))
    page = Page(ImageResult("a.jpg", "tiny", 9, 9, predictions)._repr_html_())
    assert page.texts.count("x") == 20
    assert page.texts[-1] == "and 80 more"


def test_a_notebook_shows_the_answer_the_set_and_how_strange_an_image_is() -> None:
    predictions = (Prediction(1, 200, "n02097474", "Tibetan terrier", 0.64),)
    said = ImageResult(
        "a.jpg",
        "tiny",
        9,
        9,
        predictions,
        answer=Answer("rollup", "n02092468", "<b>terrier", 0.97),
        prediction_set=("Tibetan terrier", "<i>Lhasa"),
        unfamiliar=Unfamiliarity(-1.25, 99.0),
    )
    page = Page(said._repr_html_())
    assert page.texts[2:5] == [
        "answer: <b>terrier 97.00 %",
        "set: Tibetan terrier, <i>Lhasa",
        "unfamiliar: score -1.25, stranger than 99.0 % of the familiar images",
    ]
    unsure = replace(said, answer=Answer("unsure", None, None, 0.64), prediction_set=None, unfamiliar=None)
    assert Page(unsure._repr_html_()).texts[2] == "answer: not sure"


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
        Classifier(std=1e-40).predict(noise(9, 9))
    assert "float32" in str(error.value)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_probabilities_that_are_no_numbers_are_never_an_answer(classifier: Classifier) -> None:
    """A temperature so small that the logits overflow."""
    overflowing = Postprocessor("tiny", classifier.labels, classifier.runner.activation, top_k=5, temperature=1e-44)
    outputs = classifier.runner.run_one(noise(300, 200))
    with pytest.raises(CheckpointError, match="the probabilities of tiny are not numbers"):
        overflowing.to_result(outputs)


@pytest.mark.parametrize(
    ("thing", "words"),
    [(3, "an int: 3"), (None, "None"), (2.5, "a float: 2.5")],
)
def test_what_cannot_be_an_image_is_named(classifier: Classifier, thing: object, words: str) -> None:
    for method in (classifier.predict, classifier.embed, classifier.stream):
        with pytest.raises(UsageError) as error:
            method(thing)
        assert str(error.value) == f"images is {words}"
        assert "an iterable" in str(error.value.hint)
    with pytest.raises(UsageError) as error:
        list(classifier.predict([noise(9, 9), thing]))
    assert str(error.value) == f"images[1] is {words}"
    assert str(error.value.hint).startswith("give a path")


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("int", "an int"), ("str", "a str"), ("OrderedDict", "an OrderedDict"), ("ndarray", "an ndarray"),
     ("UUID", "a UUID"), ("NoneType", "a NoneType"), ("AVIF", "an AVIF")],
)  # fmt: skip
def test_the_article_is_that_of_speech(noun: str, expected: str) -> None:
    assert with_article(noun) == expected


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
    others = np.stack([probabilities, probabilities[::-1], np.zeros_like(probabilities)])
    assert [top_k(row, count) for row in others] == top_k_of_rows(others, count).tolist()


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
