"""The page of a training, from made-up answers, curves and images of which everything is known."""

from __future__ import annotations

import io
import math
from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from conftest import encoded, noise
from pages import HOSTILE, Page, offline_page
from PIL import Image, ImageOps
from trainings import SPEC, Answer, epoch, made_training

from imgclassify.report import charts, training_charts
from imgclassify.report.training_page import (
    MAX_MATRIX,
    MAX_MISTAKES,
    confusion_matrix,
    find_mistakes,
    render_training,
)
from imgclassify.training.progress import EpochRecord

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
ANSWERS: list[Answer] = [
    *[(f"ant/{number}.jpg", 0, 0, 0.95) for number in range(8)],
    *[(f"bee/{number}.jpg", 1, 1, 0.75) for number in range(6)],
    *[(f"cat/{number}.jpg", 2, 2, 0.85) for number in range(5)],
    ("ant/8.jpg", 0, 1, 0.6),
    ("ant/9.jpg", 0, 1, 0.9),
    ("bee/6.jpg", 1, 2, 0.8),
    ("dog/0.jpg", 3, 3, 0.99),
    ("elk/0.jpg", 4, 4, 0.99),
    ("fox/0.jpg", 5, 0, 0.7),
]
WORST = ["ant/9.jpg", "bee/6.jpg", "fox/0.jpg", "ant/8.jpg"]
HISTORY = [epoch(number) for number in range(9)]


def plain(page: Page) -> str:
    return " ".join("".join(page.text).split())


def facts(page: Page) -> dict[str, str]:
    """The first table of facts is that of the training itself."""
    return {row[0]: row[1] for row in reversed(page.rows) if len(row) == 2}


def pictures(page: Page) -> list[Image.Image]:
    shown = []
    for found in page.elements("img"):
        content = b64decode((found["src"] or "").removeprefix("data:image/jpeg;base64,"), validate=True)
        image = Image.open(io.BytesIO(content))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert (found["width"], found["height"]) == (str(image.width), str(image.height))
        assert not image.getexif()
        shown.append(image)
    return shown


def file_of(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "PNG", **options)


def reference_crop(image: Image.Image) -> np.ndarray:
    """What SPEC makes of an upright image, in plain Pillow: the short side becomes 64, and 48×48 are cut out."""
    scale = 64 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 48) // 2, (image.height - 48) // 2
    return np.asarray(image.crop((left, top, left + 48, top + 48)), np.float64)


def distance(image: Image.Image, reference: np.ndarray) -> float:
    assert image.size == reference.shape[1::-1]
    return float(np.abs(np.asarray(image, np.float64) - reference).mean())


# The whole page -------------------------------------------------------------------------------------------------


def test_the_page_of_a_probe_is_whole_and_refers_to_nothing_outside() -> None:
    contents = {name: file_of(noise(90, 70, seed=index)) for index, name in enumerate(WORST)}
    page = offline_page(render_training(made_training(ANSWERS, CLASSES, contents=contents)))
    assert len(page.elements("img")) == 4
    assert [each["id"] for each in page.elements("section")] == [
        "training",
        "figures",
        "charts",
        "classes-1",
        "run-1",
    ]
    known = facts(page)
    assert known["method"].startswith("probe: the last layer")
    assert known["start"] == "resnet18 IMAGENET1K_V1"
    assert known["images for validation"] == "25, 20 % of all, split off by class with seed 7"
    assert known["probe"] == "C = 0.01"
    assert known["resize_size"] == "64"
    assert known["numpy"] == "2.0"
    assert "near duplicates left out" not in known
    assert not [row for row in page.rows if row and row[0] == "epoch"]
    assert "Evaluation of" not in plain(page)


def test_the_page_of_a_training_of_all_layers() -> None:
    result = made_training(
        ANSWERS,
        CLASSES,
        history=HISTORY,
        failed=[("bee/7.jpg", 1, "truncated_image", "it ends too early"), ("cat/8.jpg", 2, "empty", "no bytes")],
        near_duplicates=12,
        notes=["left out: 12 images"],
    )
    page = offline_page(render_training(result))
    known = facts(page)
    assert known["near duplicates left out"].startswith("12 images")
    assert known["images that failed"] == "2"
    assert known["crop_scale"] == "0.35, 1"
    assert known["dtype"] == "bfloat16"
    assert ["bee/7.jpg", "bee", "truncated_image", "it ends too early"] in page.rows
    assert ["cat/8.jpg", "cat", "empty", "no bytes"] in page.rows
    assert "left out: 12 images" in plain(page)
    titles = [found for found in plain(page).split("Loss")[1:] if found]
    assert titles
    assert len([1 for tag, _ in page.tags if tag == "svg"]) > 7


def test_the_figures_are_those_of_the_evaluation_and_no_figure_is_trivial() -> None:
    result = made_training(ANSWERS, CLASSES)
    metrics = result.measured.evaluation.metrics
    page = Page(render_training(result))
    written = [float(found["value"] or "") for found in page.elements("data")]
    # 21 of 25 are right. The failed ones and the tree say nothing here.
    assert written[0] == 21 / 25 == metrics["acc1"].value
    assert all(metrics[name].value in written for name in ("acc5", "nll", "brier", "ece", "aurc"))
    titles = [row[0] for row in page.rows]
    assert any(title.startswith("Top-5 accuracy") for title in titles)
    assert not any(title.startswith("Height of mistakes") for title in titles)
    few = Page(
        render_training(made_training([each for each in ANSWERS if each[1] < 3 and each[2] < 3], CLASSES[:3]))
    )
    assert "top 5" not in plain(few)
    assert not any(row[0].startswith("Top-5") for row in few.rows)


def test_the_calibration_of_the_folder_is_told() -> None:
    rng = np.random.default_rng(0)
    answers: list[Answer] = [
        (f"{number}.jpg", number % 6, number % 6 if rng.random() < 0.95 else (number + 1) % 6, 0.55)
        for number in range(400)
    ]
    result = made_training(answers, CLASSES)
    temperature = result.training["calibration"]["temperature"]
    assert temperature < 1
    text = plain(Page(render_training(result)))
    assert f"with the temperature {temperature:.3g}." in text
    before, after = (result.training["calibration"]["ece"][name]["value"] for name in ("before", "after"))
    assert f"from {100 * before:.2f} % to {100 * after:.2f} %" in text
    text = plain(Page(render_training(made_training(ANSWERS[:4], CLASSES))))
    assert "There is no calibration in the model folder: 4 labelled images are too few to learn from." in text


@pytest.mark.parametrize("kind", ["given", "scratch"])
def test_what_is_not_there_is_not_told(kind: str) -> None:
    result = made_training(ANSWERS, CLASSES, history=HISTORY, method="scratch" if kind == "scratch" else "finetune")
    if kind == "scratch":
        result.training["start"] = None  # type: ignore[index]
    else:
        result.training["split"] = {"kind": "given"}  # type: ignore[index]
    page = offline_page(render_training(result))
    known = facts(page)
    assert ("start" in known) == (kind == "given")
    assert ("SHA-256 of the weights it began with" in known) == (kind == "given")
    assert known["images for validation"].endswith("as they were given" if kind == "given" else "seed 7")
    assert "probe" not in known


# Confusions -----------------------------------------------------------------------------------------------------


def test_the_matrix_counts_each_image_once() -> None:
    counts = Counter((truth, predicted) for _, truth, predicted, _ in ANSWERS)
    totals = Counter(truth for _, truth, _, _ in ANSWERS)
    result = made_training(ANSWERS, CLASSES)
    rows = confusion_matrix(result.measured.evaluation)
    assert [row.label for row in rows] == list(CLASSES)
    for truth, row in enumerate(rows):
        assert [cell.count for cell in row.cells] == [counts[truth, predicted] for predicted in range(6)]
        assert [cell.share for cell in row.cells] == [counts[truth, each] / totals[truth] for each in range(6)]
        assert [cell.is_right for cell in row.cells] == [truth == each for each in range(6)]
    page = Page(render_training(result))
    assert ["true class", *CLASSES] in page.rows
    assert ["ant", "8", "2", "0", "0", "0", "0"] in page.rows
    assert ["fox", "1", "0", "0", "0", "0", "0"] in page.rows
    shaded = [
        (found["class"], found["style"])
        for tag, found in page.tags
        if tag == "td" and "--share" in (found.get("style") or "")
    ]
    assert shaded[:2] == [("number right", "--share: 0.800"), ("number wrong", "--share: 0.200")]
    assert len(shaded) == len(counts)


def test_a_class_without_images_has_an_empty_row() -> None:
    answers = [each for each in ANSWERS if each[1] != 3]
    rows = confusion_matrix(made_training(answers, CLASSES).measured.evaluation)
    assert [(cell.count, cell.share) for cell in rows[3].cells] == [(0, 0)] * 6


@pytest.mark.parametrize("count", [2, MAX_MATRIX, MAX_MATRIX + 1])
def test_only_few_classes_have_a_matrix(count: int) -> None:
    names = [f"class {number:02}" for number in range(count)]
    answers: list[Answer] = [(f"{number}.jpg", number % count, (number // 3) % count, 0.7) for number in range(84)]
    page = offline_page(render_training(made_training(answers, names)))
    assert len(page.elements("table", "matrix")) == (count <= MAX_MATRIX)
    assert "Largest confusions" in plain(page)


# Mistakes -------------------------------------------------------------------------------------------------------


def test_the_worst_mistakes_come_first_with_both_probabilities() -> None:
    result = made_training(ANSWERS, CLASSES, contents={name: file_of(noise(64, 64)) for name in WORST})
    found = find_mistakes(result.measured.evaluation, 3)
    assert [each.source for each in found] == WORST[:3]
    assert [(each.truth, each.predicted) for each in found] == [("ant", "bee"), ("bee", "cat"), ("fox", "ant")]
    assert [each.probability for each in found] == pytest.approx([0.9, 0.8, 0.7], abs=1e-3)
    assert [each.truth_probability for each in found] == pytest.approx([0.09, 0.18, 0.27], abs=1e-3)
    text = plain(Page(render_training(result)))
    assert "All 4 mistakes, the one first of which the network was surest." in text
    assert "taken for bee 90.00 % true class ant 9.00 % ant/9.jpg taken for cat 80.00 %" in text


def test_of_equally_sure_mistakes_the_less_probable_truth_comes_first() -> None:
    answers: list[Answer] = [("a", 0, 1, 0.5), ("b", 0, 1, 0.6), *[(f"{n}", 2, 2, 0.9) for n in range(5)]]
    evaluation = made_training(answers, CLASSES).measured.evaluation
    evaluation.arrays.confidence.setflags(write=True)
    evaluation.arrays.confidence[:2] = 0.6
    assert [each.source for each in find_mistakes(evaluation, 9)] == ["b", "a"]


def test_each_mistake_is_shown_by_its_own_image_upright_and_cropped() -> None:
    images = {name: noise(150 + 30 * index, 120, seed=index) for index, name in enumerate(WORST)}
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a secret"
    contents = {name: file_of(image, exif=exif) for name, image in images.items()}
    shown = pictures(offline_page(render_training(made_training(ANSWERS, CLASSES, contents=contents))))
    upright = {name: reference_crop(image.transpose(Image.Transpose.ROTATE_270)) for name, image in images.items()}
    assert len(shown) == 4
    for image, name in zip(shown, WORST, strict=True):
        distances = {other: distance(image, crop) for other, crop in upright.items()}
        assert min(distances, key=lambda other: distances[other]) == name
        assert distances[name] < 4 < min(distances[other] for other in WORST if other != name)
        assert distance(image, reference_crop(images[name])) > 4  # as it lies in the file


def test_a_jpeg_with_an_orientation_is_shown_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(noise(180, 140, seed=5).resize((900, 700)), "JPEG", quality=95, exif=exif)
    [shown] = pictures(Page(render_training(made_training(ANSWERS, CLASSES, contents={WORST[0]: content}))))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert distance(shown, reference_crop(upright)) < 5


def test_large_crops_are_scaled_down() -> None:
    spec = replace(SPEC, resize_size=(240, 320), crop_size=(240, 320), crop_mode="squash")
    result = made_training(ANSWERS, CLASSES, contents={WORST[0]: file_of(noise(64, 64))}, spec=spec)
    assert [image.size for image in pictures(Page(render_training(result)))] == [(160, 120)]


@pytest.mark.parametrize("order", ["rgb", "bgr", "grey"])
def test_colours_are_those_of_the_image_in_whatever_order_the_network_takes_them(order: str) -> None:
    spec = replace(SPEC, channel_order=order)
    orange = Image.new("RGB", (64, 64), (240, 120, 20))
    result = made_training(ANSWERS, CLASSES, contents={WORST[0]: file_of(orange)}, spec=spec)
    [shown] = pictures(Page(render_training(result)))
    expected = (240, 120, 20) if order != "grey" else (orange.convert("L").getpixel((0, 0)),) * 3
    assert np.allclose(np.asarray(shown).reshape(-1, 3).mean(axis=0), expected, atol=2)


def test_images_that_cannot_be_opened_any_more_are_left_out() -> None:
    contents = {WORST[0]: file_of(noise(64, 64)), WORST[2]: b"no image"}
    page = offline_page(render_training(made_training(ANSWERS, CLASSES, contents=contents)))
    assert len(pictures(page)) == 1
    assert "3 images could not be opened any more." in plain(page)
    assert ["2", "ant", "bee"] in page.rows  # the confusions are still told


def test_the_limits_of_the_training_hold_for_the_page() -> None:
    contents = {name: file_of(noise(64, 64)) for name in WORST}
    page = Page(render_training(made_training(ANSWERS, CLASSES, contents=contents), max_pixels=64 * 63))
    assert not pictures(page)
    half = file_of(noise(200, 200))[:-2000]
    result = made_training(ANSWERS, CLASSES, contents={WORST[0]: half})
    assert len(pictures(Page(render_training(result)))) == 0
    assert len(pictures(Page(render_training(result, decode_damaged=True)))) == 1


def test_many_mistakes_are_cut() -> None:
    answers: list[Answer] = [(f"{number}.jpg", 0, 1, 0.5 + number / 1000) for number in range(100)]
    content = file_of(noise(64, 64))
    contents = {name: content for name, *_ in answers}
    text = render_training(made_training(answers, CLASSES, contents=contents))
    page = offline_page(text)
    assert len(pictures(page)) == MAX_MISTAKES
    assert "The 24 of 100 mistakes of which the network was surest." in plain(page)
    assert "99.jpg" in text
    assert "true class ant" in plain(page)


def test_a_training_without_mistakes() -> None:
    answers: list[Answer] = [(f"{number}.jpg", number % 2, number % 2, 0.99) for number in range(40)]
    page = offline_page(render_training(made_training(answers, CLASSES[:2], accuracies={"0.01": 1.0, "0.03": 1.0})))
    assert "worst mistakes" not in plain(page)
    assert not page.elements("img")


# Curves ---------------------------------------------------------------------------------------------------------


def line_points(panel: charts.Panel, style: str) -> list[tuple[float, float]]:
    [line] = [line for line in panel.lines if line.style == style and not line.is_area]
    return [tuple(map(float, pair.split(","))) for pair in line.points.split()]  # type: ignore[misc]


def test_the_coordinates_of_the_losses_and_of_the_learning_rate() -> None:
    """The area is x 60..404 and y 10..250; the axis of the loss ends at 2, and that of the epochs at 8."""
    chart = training_charts.loss_chart(HISTORY, kept=5)
    assert chart is not None
    upper, lower = chart.panels

    def points(values: Sequence[tuple[int, float | None]], top: float, bottom: float, limit: float) -> list[object]:
        return [
            pytest.approx((60 + 344 * x / 8, bottom - (bottom - top) * y / limit), abs=0.01)
            for x, y in values
            if y is not None
        ]

    assert line_points(upper, "first") == points([(each.epoch, each.train_loss) for each in HISTORY], 10, 250, 2)
    assert line_points(upper, "second") == points([(each.epoch, each.val_loss) for each in HISTORY], 10, 250, 2)
    dashed = line_points(upper, "second dashed")
    assert dashed == points([(each.epoch, each.val_score) for each in HISTORY], 10, 250, 2)
    rates = line_points(lower, "rate")
    assert rates == points([(each.epoch, each.learning_rate) for each in HISTORY], 276, 336, 0.0005)
    assert line_points(upper, "guide") == [(60 + 344 * 5 / 8, 250), (60 + 344 * 5 / 8, 10)]
    assert [tick.text for tick in lower.x_ticks] == [f"{number}" for number in range(9)]
    assert [tick.text for tick in upper.x_ticks] == [""] * 9


def test_losses_that_change_little_have_an_axis_of_their_own() -> None:
    same = {"train_loss": 0.69, "val_loss": 0.68, "val_score": 0.67}
    chart = training_charts.loss_chart([epoch(0), epoch(1, **same), epoch(2, **same)], 1)
    assert chart is not None
    assert chart.panels[0].y_min == 0
    assert "The axis begins" not in chart.text
    chart = training_charts.loss_chart([epoch(0, val_loss=0.69, val_score=0.68), epoch(1, **same)], 1)
    assert chart is not None
    assert (chart.panels[0].y_min, chart.panels[0].y_max) == (0.67, 0.69)
    assert chart.text.endswith("The axis begins at 0.67.")


def test_the_coordinates_of_the_accuracies() -> None:
    """From 40 % on, with the band of Wilson's interval of 25 images."""
    chart = training_charts.accuracy_chart(HISTORY, kept=8, num_val=25)
    assert chart is not None
    [panel] = chart.panels
    assert (panel.y_min, panel.y_max) == (0.2, 1)
    values = [(each.epoch, each.val_accuracy or 0) for each in HISTORY]
    expected = [pytest.approx((60 + 43 * x, 250 - 240 * (y - 0.2) / 0.8), abs=0.01) for x, y in values]
    assert line_points(panel, "second") == expected
    [band] = [line for line in panel.lines if line.is_area]
    # Wilson's interval of 10 of 25 (statsmodels.stats.proportion.proportion_confint, method="wilson").
    low, high = 0.234034, 0.592592
    places = [tuple(map(float, pair.split(","))) for pair in band.points.split()]
    assert places[0] == pytest.approx((60, 250 - 240 * (high - 0.2) / 0.8), abs=0.02)
    assert places[-1] == pytest.approx((60, 250 - 240 * (low - 0.2) / 0.8), abs=0.02)
    assert "The axis begins at 20 %." in chart.text


def test_the_epochs_are_also_in_a_table_with_exact_numbers() -> None:
    page = Page(render_training(made_training(ANSWERS, CLASSES, history=HISTORY)))
    rows = {row[0]: row[1:] for row in page.rows if len(row) == 9}
    assert rows["0"] == ["–", "–", "1.8000", "1.7000", "40.00 %", "–", "–", "0.0"][:8]
    assert rows["3"] == ["0.5000", "82.50 %", "0.5100", "0.4550", "85.00 %", "0.00025", "98.7", "37.5"]
    written = [float(found["value"] or "") for found in page.elements("data")]
    for each in HISTORY:
        for value in (each.train_loss, each.val_loss, each.val_score, each.val_accuracy, each.learning_rate):
            assert value is None or value in written


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_epoch_whose_weights_are_kept_is_told(keep: str) -> None:
    history = [epoch(number, val_score=abs(number - 3) / 10) for number in range(9)]
    result = made_training(ANSWERS, CLASSES, history=history)
    result.training["recipe"]["keep"] = keep
    page = Page(render_training(result))
    kept = 3 if keep == "best" else 8
    expected = f"8, and no more because the validation part got no better; the weights are those of epoch {kept}"
    assert facts(page)["epochs"] == expected
    assert plain(page).count(f"epoch {kept}, whose weights are the model's") == 2


def test_long_curves_have_few_numbers_at_their_axis_and_no_marks() -> None:
    history = [epoch(number) for number in range(601)]
    result = made_training(ANSWERS, CLASSES, history=history)
    page = offline_page(render_training(result))
    chart = training_charts.accuracy_chart(history, 600, 25)
    assert chart is not None
    assert [tick.text for tick in chart.panels[0].x_ticks] == [f"{number}" for number in range(0, 601, 100)]
    assert not chart.panels[0].marks
    assert "Only the last 500 of 601 epochs are listed." in plain(page)
    assert sum(len(row) == 9 for row in page.rows) == 501


def test_epochs_without_numbers_leave_gaps() -> None:
    history = [epoch(0), epoch(1, val_loss=math.nan, val_score=None), epoch(2, train_loss=math.inf)]
    chart = training_charts.loss_chart(history, None)
    assert chart is not None
    assert len(line_points(chart.panels[0], "second")) == 2
    assert len(line_points(chart.panels[0], "first")) == 1
    nothing = dict.fromkeys(("train_loss", "val_loss", "val_score", "train_accuracy", "val_accuracy"))
    for records in ([epoch(0)], [epoch(0, **nothing), epoch(1, **nothing)]):
        assert training_charts.loss_chart(records, None) is None
        assert training_charts.accuracy_chart(records, None, 25) is None


def test_without_a_validation_loss_the_training_has_its_curve() -> None:
    nothing = dict.fromkeys(("val_loss", "val_score", "val_accuracy"))
    history: list[EpochRecord] = [epoch(number, **nothing) for number in range(3)]
    chart = training_charts.accuracy_chart(history, 2, 0)
    assert chart is not None
    assert [key.text for key in chart.legend] == ["training", "epoch 2, whose weights are the model's"]


def test_the_strengths_of_a_probe_are_in_order_on_a_logarithmic_axis() -> None:
    accuracies = {0.01: 0.9, 0.1: 0.85, 1e-05: 0.5, 0.001: 0.8}
    chart = training_charts.strength_chart(accuracies, 0.01, 1000)
    assert chart is not None
    [panel] = chart.panels
    # 10⁻⁵ to 10⁻¹, with a twelfth of these four powers at each side: one power is 344 / (4 + 2 / 3).
    power = 344 / (4 + 2 / 3)
    assert [x for x, _ in line_points(panel, "first")] == pytest.approx(
        [60 + power * each for each in (1 / 3, 7 / 3, 10 / 3, 13 / 3)], abs=0.02
    )
    assert [tick.text for tick in panel.x_ticks] == ["1e-05", "0.001", "0.01", "0.1"]
    assert [mark.style for mark in panel.marks] == ["first", "first", "second", "first"]
    ys = [y for _, y in line_points(panel, "first")]
    assert ys == pytest.approx(
        [panel.bottom - 240 * (a - panel.y_min) / (panel.y_max - panel.y_min) for a in (0.5, 0.8, 0.9, 0.85)],
        abs=0.02,
    )
    assert training_charts.strength_chart({0.01: 0.9}, 0.01, 1000) is None
    assert training_charts.strength_chart({}, 0.01, 1000) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 2.3, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0, 3e-5, [0, 5e-6, 1e-5, 1.5e-5, 2e-5, 2.5e-5, 3e-5]),
        (0.9, 0.97, [0.9, 0.92, 0.94, 0.96, 0.98]),
        (0, 1234, [0, 250, 500, 750, 1000, 1250]),
    ],
)
def test_the_numbers_at_an_axis_are_round(low: float, high: float, expected: list[float]) -> None:
    assert charts.nice_steps(low, high) == expected


@pytest.mark.parametrize("low", [0, 1e-300, 0.07, 0.1, 1, 99.9])
@pytest.mark.parametrize("span", [0, 1e-9, 0.003, 0.7, 1, 12345])
def test_the_numbers_at_an_axis_enclose_the_values(low: float, span: float) -> None:
    steps = charts.nice_steps(low, low + span)
    assert 2 <= len(steps) <= 9
    assert steps[0] <= low + 1e-9
    assert steps[-1] >= low + span - 1e-9
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_curves_that_do_not_change_can_be_drawn(share: float) -> None:
    history = [
        epoch(number, val_accuracy=share, train_accuracy=share, val_loss=0.0, train_loss=0.0, val_score=0.0)
        for number in range(3)
    ]
    result = made_training(ANSWERS, CLASSES, history=history, accuracies={"0.01": share, "0.1": share})
    offline_page(render_training(result))


# Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    classes = [name, f"{name} 2", "cat"]
    answers: list[Answer] = [
        *[(f"a{number}", 0, 0, 0.6) for number in range(8)],
        *[(f"b{number}", 1, 1, 0.6) for number in range(8)],
        (name, 0, 1, 0.99),
    ]
    result = made_training(
        answers,
        classes,
        contents={name: file_of(noise(64, 64))},
        failed=[(f"{name} failed", 1, "corrupt_image", name)],
        name=f"{name} model",
        notes=[name],
        how=name,
        history=HISTORY[:3],
    )
    result.training["architecture"] = name  # type: ignore[index]
    result.training["start"]["model"] = name
    result.training["recipe"][name] = name
    text = render_training(result)
    page = offline_page(text)
    assert len(pictures(page)) == 1
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert len(page.elements("b")) == 2
    assert len(page.elements("style")) == text.count("<style>") == 1
    assert all(character.isprintable() or character == "\n" for character in text)
    text.encode("utf-8")
    shown = name.translate({0x202E: "\\u202e", 0x1B: "\\x1b", 0: "\\x00", 10: "\\n", 0xDCE9: "\\udce9"})
    for cells in (
        ["true class", shown, f"{shown} 2", "cat"],
        [shown, "8", "1", "0"],
        [f"{shown} failed", f"{shown} 2", "corrupt_image", shown],
        ["architecture", shown],
        ["class of each image", shown],
        [shown.replace(".", ": "), shown],
    ):
        assert cells in page.rows
    assert f"taken for {' '.join(shown.split())} 2 99.00 %" in plain(page)


def test_names_in_other_directions_are_isolated_and_long_ones_cut() -> None:
    classes = ["كلب", "x" * 400, "ant"]
    answers: list[Answer] = [(f"{'folder/' * 40}{number}.jpg", 0, 1, 0.9) for number in range(3)]
    contents = {name: file_of(noise(64, 64)) for name, *_ in answers}
    text = render_training(made_training(answers, classes, contents=contents))
    page = offline_page(text)
    assert "x" * 301 not in text
    assert "<bdi>كلب</bdi>" in text
    assert [row[0] for row in page.rows if len(row) == 4 and row[0] == "كلب"] == ["كلب"] * 2
    sources = [found["title"] or "" for found in page.elements("p") if found.get("title")]
    assert len(sources) == 3
    assert all(source.endswith(".jpg") and len(source) <= 303 for source in sources)


def test_a_thousand_classes_make_a_page_of_some_hundred_kilobytes() -> None:
    rng = np.random.default_rng(0)
    classes = [f"class number {number:04}" for number in range(1000)]
    answers: list[Answer] = [
        (
            f"photos/{number:05}.jpg",
            number % 1000,
            number % 1000 if rng.random() < 0.8 else int(rng.integers(0, 1000)),
            0.5,
        )
        for number in range(2000)
    ]
    content = file_of(noise(256, 256))
    result = made_training(
        answers,
        classes,
        contents={name: content for name, *_ in answers},
        spec=replace(SPEC, resize_size=256, crop_size=(224, 224)),
        history=[epoch(number) for number in range(91)],
    )
    text = render_training(result)
    assert len(text.encode()) < 700_000
    page = offline_page(text)
    assert len(pictures(page)) == MAX_MISTAKES
    assert not page.elements("table", "matrix")
    assert "50 of 1,000 classes are listed. training.json has more." in plain(page)
