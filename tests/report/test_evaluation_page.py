"""The page of an evaluation, from made-up answers of which all figures are known."""

from __future__ import annotations

import builtins
import html
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import HOSTILE, Page, offline_page

from imgclassify import labels as label_sets
from imgclassify.errors import UsageError
from imgclassify.evaluation.collector import Collector
from imgclassify.evaluation.evaluation import Evaluation, evaluate
from imgclassify.evaluation.labelled import ImageScores, ImageTruth, LabelledResult
from imgclassify.evaluation.truth import Truth, TruthClass
from imgclassify.evaluation.two_models import compare_evaluations
from imgclassify.labels import Label, LabelSet
from imgclassify.labels.taxonomy import find_taxonomy
from imgclassify.report import charts
from imgclassify.report.evaluation_page import render_evaluation
from imgclassify.report.figures import ANSWER_FIGURES, FIGURES, SET_FIGURES
from imgclassify.report.pages import check_page, render_page, shorten, write_page
from imgclassify.report.provenance import describe_run
from imgclassify.results import Answer, ImageFailure, ImageResult, Prediction

Row = tuple[str, int, int, float]
"""Source, true class, predicted class, confidence."""


def label_set(names: Iterable[str]) -> LabelSet:
    return LabelSet("made up", tuple(Label(index, None, name) for index, name in enumerate(names)))


def evaluated(
    rows: Iterable[Row],
    names: Iterable[str] | LabelSet = ("ant", "bee", "cat"),
    *,
    failed: Mapping[str, int] | None = None,
    run: Mapping[str, Any] | None = None,
    answers: Iterable[Answer | None] | None = None,
    **truth: Any,
) -> Evaluation:
    labels = names if isinstance(names, LabelSet) else label_set(names)
    classes = tuple(
        TruthClass((each.label,), each.label, each.wnid, frozenset({each.class_index}), False)
        for each in labels.labels
    )
    rows = list(rows)
    counts = tuple(sum(row[1] == position for row in rows) for position in range(len(classes)))
    truths = {row[0]: row[1] for row in rows}
    found = Truth(truth.pop("how", "made up"), classes, counts, **truth, _find=lambda source: truths.get(source, 0))
    collector = Collector(found, labels)

    def add(
        source: str, right: int, predictions: tuple[Prediction, ...], scores: ImageScores | None, **more: Any
    ) -> None:
        known = ImageTruth(right, labels[right].wnid, labels[right].label)
        collector.add(LabelledResult(ImageResult(source, "made up", 4, 3, predictions, **more), known, scores))

    for (source, right, predicted, confidence), answer in zip(
        rows, answers if answers is not None else [None] * len(rows), strict=True
    ):
        second = right if right != predicted else (right + 1) % len(labels)
        known = confidence if right == predicted else 1 - confidence
        predictions = tuple(
            Prediction(rank, index, labels[index].wnid, labels[index].label, probability)
            for rank, index, probability in ((1, predicted, confidence), (2, second, 1 - confidence))
        )
        scores = ImageScores(
            1 if right == predicted else 2, known, confidence, -math.log(max(known, 1e-9)), 2 * (1 - known) ** 2
        )
        add(source, right, predictions, scores, answer=answer)
    for kind, count in (failed or {}).items():
        for number in range(count):
            add(f"{kind}{number}", 0, (), None, error=ImageFailure(kind, "broken"))
    return evaluate(collector, {"model": "made up", **(run or {})}, find_taxonomy(labels))


ROWS: list[Row] = [
    *[(f"a{number}.jpg", 0, 0, 0.95) for number in range(6)],
    *[(f"b{number}.jpg", 1, 1, 0.75) for number in range(3)],
    ("b3.jpg", 1, 2, 0.75),
    ("c0.jpg", 2, 2, 0.5),
    ("c1.jpg", 2, 0, 0.5),
]


def test_the_page_is_whole_and_refers_to_nothing_outside() -> None:
    page = offline_page(render_evaluation([evaluated(ROWS, failed={"corrupt_image": 2})]))
    assert not page.elements("img")


def test_the_numbers_are_those_of_the_document() -> None:
    evaluation = evaluated(ROWS, failed={"corrupt_image": 2, "empty": 1})
    document, page = evaluation.to_dict(), Page(render_evaluation([evaluation]))
    written = [float(found["value"] or "") for found in page.elements("data")]
    metrics = [
        document["metrics"][name]["value"] for name in FIGURES if document["metrics"][name]["value"] is not None
    ]
    thresholds = [
        value
        for row in document["thresholds"]
        for value in (row["answered"]["value"], row["accuracy"]["value"])
        if value is not None
    ]
    bins = [
        value for row in document["reliability"] if row["count"] for value in (row["confidence"], row["accuracy"])
    ]
    assert written == [*metrics, *thresholds, *bins]
    rows = {row[0]: row[1:] for row in page.rows}
    [accuracy] = [cells for title, cells in rows.items() if title.startswith("Accuracy (acc@1)")]
    # 10 of 12, and Wilson's interval of it (statsmodels.stats.proportion.proportion_confint, method="wilson").
    assert accuracy == ["83.33 %55.20 … 95.30 %"]
    assert rows["bee"] == ["4", "3", "85.71 %", "100.00 %", "75.00 %", "30.06 … 95.44 %"]
    assert ["2", "corrupt_image"] in page.rows
    assert ["1", "bee", "cat"] in page.rows


def test_the_worst_classes_come_first_and_the_others_are_folded() -> None:
    names = [f"class {number}" for number in range(30)]
    rows = [
        (f"{number}-{copy}", number, number if copy < number % 3 else (number + 3) % 30, 0.6)
        for number in range(30)
        for copy in range(2)
    ]
    page = Page(render_evaluation([evaluated(rows, names)]))
    shares = [
        float(row[3].removesuffix(" %")) for row in page.rows if len(row) == 7 and row[0].startswith("class ")
    ]
    assert len(shares) == 30
    assert shares == sorted(shares)
    assert "10 more classes" in "".join(page.text)


def test_the_coordinates_of_the_reliability_diagram() -> None:
    """The area of the upper panel is x 60..404 and y 10..250, that of the lower one y 270..330."""
    bins = evaluated(ROWS).reliability()
    [upper, lower] = charts.reliability_chart(bins).panels
    # 0.5, 0.75 and 0.95 are in the bins 7/15..8/15, 11/15..12/15 and 14/15..1; 1/2, 3/4 and 6/6 are right.
    lefts = [60 + 344 * number / 15 for number in (7, 11, 14)]
    assert [bar.x for bar in upper.bars] == pytest.approx([left + 0.5 for left in lefts], abs=0.01)
    assert [bar.width for bar in upper.bars] == pytest.approx([344 / 15 - 1] * 3, abs=0.02)
    assert [bar.y for bar in upper.bars] == [250 - 120, 250 - 180, 10]
    assert [bar.height for bar in upper.bars] == [120, 180, 240]
    assert [mark.x for mark in upper.marks] == pytest.approx([60 + 172, 60 + 258, 60 + 0.95 * 344], abs=0.01)
    assert [mark.y for mark in upper.marks] == [130, 70, 10]
    # 2, 4 and 6 images, of 6 at the top.
    assert [bar.height for bar in lower.bars] == [20, 40, 60]
    assert [bar.y for bar in lower.bars] == [310, 290, 270]
    # Wilson's interval of 6 of 6 is 0.60966..1.
    assert (
        upper.lines[-1].points == f"{60 + 0.95 * 344:g},{round(250 - 240 * 0.609666, 2):g} {60 + 0.95 * 344:g},10"
    )
    drawn = Page(render_evaluation([evaluated(ROWS)])).elements("rect", "right")
    assert [float(each["y"] or "") for each in drawn[:3]] == [130, 70, 10]


def test_a_threshold_that_is_printed_is_reached_by_the_image_that_set_it() -> None:
    html = render_evaluation([evaluated([(f"{number}", 0, 0, 0.59998) for number in range(20)])])
    printed = [float(found) for found in re.findall(r"--threshold ([0-9.]+[0-9])", html)]
    assert printed
    assert set(printed) == {0.5999}


def test_the_curve_of_risk_and_coverage_against_a_literal_one() -> None:
    generator = np.random.default_rng(3)
    confidence = generator.integers(1, 40, 300) / 40
    correct = generator.random(300) < confidence
    curve = charts.risk_curve(confidence, correct)
    expected = []
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        answered = confidence >= threshold
        if answered.sum() >= 10:
            expected.append((answered.mean(), (~correct[answered]).mean()))
    assert np.allclose(curve, expected, rtol=0, atol=1e-12)
    assert curve[-1] == (1.0, pytest.approx(float((~correct).mean())))


def test_a_long_curve_is_thinned_out_but_keeps_its_ends() -> None:
    confidence = np.linspace(0.1, 0.9, 50_000)
    correct = np.arange(50_000) % 7 > 0
    curve = charts.risk_curve(confidence, correct)
    assert len(curve) <= 400
    assert curve[0][0] == 10 / 50_000
    assert curve[-1] == (1.0, pytest.approx(1 - correct.mean()))


def test_the_points_of_95_and_99_percent() -> None:
    """99 right answers above one wrong one above 5 right and 15 wrong ones."""
    rows = [
        *[(f"{number}", 0, 0, 0.9) for number in range(99)],
        ("x", 1, 0, 0.8),
        *[(f"y{number}", 1, 1 if number < 5 else 0, 0.6) for number in range(20)],
    ]
    [panel] = charts.risk_chart([evaluated(rows)], ["made up"]).panels
    first, second = panel.marks
    assert (first.x, first.y) == (panel.x(100 / 120), panel.y(0.01))
    assert (second.x, second.y) == (first.x, first.y)
    assert [first.label, second.label] == ["", "95 %, 99 %"]
    assert panel.y_max == 0.2  # 16 of 120 are wrong


@pytest.mark.parametrize(
    ("value", "limit"), [(0, 1), (1, 1), (3, 4), (9, 10), (61, 80), (1000, 1000), (4096, 5000)]
)
def test_the_axis_of_counts_ends_at_a_round_number(value: int, limit: int) -> None:
    assert charts.nice_count(value) == limit


def test_the_histogram_counts_all_answers() -> None:
    evaluation = evaluated(ROWS)
    right, wrong = charts.histogram_chart(evaluation.arrays.confidence, evaluation.arrays.correct).panels
    tips = [bar.tip for panel in (right, wrong) for bar in panel.bars]
    assert tips == [
        "50 % to 55 %: 1 right",
        "75 % to 80 %: 3 right",
        "95 % to 100 %: 6 right",
        "50 % to 55 %: 1 wrong",
        "75 % to 80 %: 1 wrong",
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    # Two images of the first class, of which one is surely of the second: a likely label error.
    rows: list[Row] = [
        *[(f"a{number}", 0, 0, 0.6) for number in range(8)],
        *[(f"b{number}", 1, 1, 0.6) for number in range(8)],
        (name, 0, 1, 0.99),
    ]
    evaluation = evaluated(
        rows,
        [name, f"{name} 2", "cat"],
        failed={name: 1},
        run={"model": name, "weights": {"name": name}, name: name, "preprocess": {name: [name]}},
        how=name,
        file=name,
        map_file=name,
        notes=(name,),
        ignored={name: 3},
        unused_map_names=(name,),
    )
    assert [row.source for row in evaluation.label_errors] == [name]
    other = evaluated(rows, [name, f"{name} 2", "cat"], run={"model": f"{name} other"})
    for evaluations, comparison in (
        ([evaluation], None),
        ([evaluation, other], compare_evaluations(evaluation, other)),
    ):
        text = render_evaluation(evaluations, comparison)
        page = Page(text)
        assert not [tag for tag, _ in page.tags if tag in ("img", "script", "b")]
        assert len(page.elements("style")) == text.count("<style>") == 1
        assert all(character.isprintable() or character == "\n" for character in text)
        text.encode("utf-8")
        shown = name.translate({0x202E: "\\u202e", 0x1B: "\\x1b", 0: "\\x00", 10: "\\n", 0xDCE9: "\\udce9"})
        for cells in (
            [shown, shown, "1.00 %", f"{shown} 2", "99.00 %"],
            ["1", shown, f"{shown} 2"],
            ["1", shown],
            ["true class", shown],
            ["file", shown],
            ["map", shown],
            ["note", shown],
            ["left out", f"3 of the unknown class {shown}"],
            ["weights", shown],
        ):
            assert cells in page.rows


def test_long_names_are_cut_in_the_middle() -> None:
    assert shorten("x" * 300) == "x" * 300
    cut = shorten("folder/" * 100 + "name.jpg")
    assert len(cut) == 303
    assert cut.endswith("name.jpg")


def test_two_models_have_a_column_each_and_their_difference() -> None:
    first = evaluated(ROWS, run={"model": "one"})
    second = evaluated([(*row[:2], row[1], row[3]) for row in ROWS], run={"model": "two"})
    comparison = compare_evaluations(first, second)
    page = Page(render_evaluation([first, second], comparison))
    [accuracy] = [row for row in page.rows if row[0].startswith("Accuracy (acc@1)")]
    assert [cell.partition(" %")[0] for cell in accuracy[1:3]] == ["83.33", "100.00"]
    low, high = (f"{100 * (each or 0):+.2f}".replace("-", "−") for each in comparison.differences["acc1"][1:])
    assert accuracy[3] == f"−16.67 points{low} … {high}"
    assert ["figure", "one", "two", "difference"] in page.rows
    assert "McNemar's test: p = 0.5," in " ".join("".join(page.text).split())  # 2 of 2 throws: 2 * (1 / 2)**2
    assert [each["class"] for each in page.elements("polyline") if each["class"] in charts.MODELS].count(
        "second"
    ) >= 2


def test_one_model_twice_is_told_apart() -> None:
    page = Page(
        render_evaluation([evaluated(ROWS), evaluated(ROWS)], compare_evaluations(evaluated(ROWS), evaluated(ROWS)))
    )
    assert ["figure", "made up (1)", "made up (2)", "difference"] in page.rows


def test_a_page_without_any_answer() -> None:
    page = Page(render_evaluation([evaluated([], failed={"corrupt_image": 3})]))
    assert "No image has an answer, so there is nothing to draw." in "".join(page.text)
    assert ["3", "corrupt_image"] in page.rows


def test_infinite_and_unknown_figures() -> None:
    evaluation = evaluated(ROWS)
    evaluation.metrics["nll"] = evaluation.metrics["nll"]._replace(value=math.inf, low=None, high=None)
    evaluation.metrics["brier"] = evaluation.metrics["brier"]._replace(value=None, low=None, high=None)
    rows = {row[0][:5]: row[1:] for row in Page(render_evaluation([evaluation])).rows}
    assert rows["Negat"] == ["∞"]
    assert rows["Brier"] == ["–"]


def test_each_figure_is_explained() -> None:
    answers = [Answer("leaf", None, "ant", 0.9)] * len(ROWS)
    evaluation = evaluated(ROWS, answers=answers)
    assert evaluation.metrics.keys() == FIGURES.keys()
    assert evaluation.answers is not None
    assert evaluation.answers.keys() == ANSWER_FIGURES.keys()
    text = "".join(Page(render_evaluation([evaluation])).text)
    assert all(figure.title in text and figure.text in text for name, figure in ANSWER_FIGURES.items())
    assert SET_FIGURES["size"].title not in text


def test_the_run_is_told() -> None:
    facts = describe_run(
        {
            "version": "1.2",
            "preprocess": {"mean": [0.5, 0.5, 0.5], "antialias": True, "resize_size": 256},
            "weights": {"name": "IMAGENET1K", "sha256": "ab" * 32},
            "model": "made up",
            "groups": [{"label": "dog"}] * 3,
            "device": None,
            "calibration": {"temperature": 0.834, "origin": "the catalog", "source": None},
        }
    )
    assert facts == [
        ("model", "made up"),
        ("weights", "IMAGENET1K"),
        ("SHA-256 of the weights", "ab" * 32),
        ("calibration: temperature", "0.834"),
        ("calibration: from", "the catalog"),
        ("version of imgclassify", "1.2"),
        ("preprocess: mean", "0.5, 0.5, 0.5"),
        ("preprocess: antialias", "yes"),
        ("preprocess: resize_size", "256"),
        ("groups", "3 entries"),
    ]
    assert ("calibration: temperature", "none: the probabilities are those of the network") in describe_run(
        {"model": "m"}
    )


def test_fifty_thousand_images_of_a_thousand_classes_make_a_small_page() -> None:
    generator = np.random.default_rng(0)
    labels = label_sets.load_labels("imagenet1k")
    truth = np.arange(50_000) % 1000
    predicted = np.where(generator.random(50_000) < 0.8, truth, generator.integers(0, 1000, 50_000))
    confidence = generator.random(50_000).clip(0.01, 0.99)
    folder = "/data/imagenet/validation/" + "x" * 400
    rows = zip(
        [f"{folder}/{number}.JPEG" for number in range(50_000)],
        *(each.tolist() for each in (truth, predicted, confidence)),
        strict=True,
    )
    evaluation = evaluated(rows, labels)
    started = time.monotonic()
    text = render_evaluation([evaluation])
    assert time.monotonic() - started < 5
    assert len(text.encode()) < 1_000_000
    assert f"50 of {evaluation.num_label_errors:,} images are listed" in " ".join(text.split())
    assert "Only the 50 largest are listed." in text
    assert sum(len(row) == 7 and row[0] != "class" for row in Page(text).rows) == 1000


def test_without_jinja2_one_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "jinja2":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", fail)
    for call in (lambda: check_page(tmp_path / "page.html"), lambda: render_page("layout.html.jinja", {})):
        with pytest.raises(UsageError, match=r"^a page needs Jinja2, which is not installed$") as caught:
            call()
        assert caught.value.hint == 'pip install "imgclassify[report]", or pip install jinja2'


def test_a_page_replaces_none_unless_it_may(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    check_page(path)
    path.touch()
    check_page(path)  # as mktemp makes it
    path.write_text("an earlier page")
    with pytest.raises(UsageError, match="exists already") as caught:
        check_page(path)
    assert caught.value.hint == "add --overwrite to replace it, or choose another --report"
    check_page(path, overwrite=True)
    write_page(path, "<p>é</p>")
    assert path.read_text("utf-8") == "<p>é</p>"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_a_link_to_a_page_is_kept(tmp_path: Path) -> None:
    (tmp_path / "link.html").symlink_to("page.html")
    write_page(tmp_path / "link.html", "new")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text() == "new"


@pytest.mark.parametrize("name", ["-", "", "missing/page.html"])
def test_a_page_that_cannot_be_written_is_told_at_once(name: str, tmp_path: Path) -> None:
    path = Path("-") if name == "-" else tmp_path / name
    with pytest.raises(UsageError) as caught:
        check_page(path)
    assert caught.value.hint is not None
    assert "--report" in caught.value.hint


def test_the_text_of_a_page_is_escaped_once() -> None:
    text = render_evaluation([evaluated(ROWS, ["a & b", "bee", "cat"])])
    assert html.escape("a & b") in text
    assert "&amp;amp;" not in text
