"""The page of an evaluation: `evaluate --report`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify._version import __version__
from imgclassify.report import charts
from imgclassify.report.figures import (
    ANSWER_FIGURES,
    FIGURES,
    SET_FIGURES,
    Figure,
    format_difference,
    format_interval,
    format_threshold,
    format_value,
)
from imgclassify.report.pages import render_page, shorten
from imgclassify.report.provenance import describe_run

if TYPE_CHECKING:
    from imgclassify.evaluation.evaluation import ClassRow, Evaluation
    from imgclassify.evaluation.intervals import Estimate
    from imgclassify.evaluation.two_models import ModelComparison

__all__ = ["render_evaluation"]

MAX_CLASSES = 1000
"""At most so many classes are listed, the worst ones."""
MAX_NAMES = 50
"""At most so many confusions, kinds of mistakes, label errors, notes and ignored names are listed."""
SHOWN_CLASSES = 20
"""The others are folded."""
_CARDS = {"acc1": "right (acc@1)", "acc5": "true class in the top 5", "ece": "calibration error (ECE)"}
"""The figures that stand at the top."""


class Value(NamedTuple):
    """A cell with a figure."""

    exact: float | None
    """As in the document."""
    text: str
    interval: str
    note: str = ""


class FigureRow(NamedTuple):
    figure: Figure
    values: tuple[Value, ...]
    """Of each model, and then their difference if there are two."""


class Listing(NamedTuple):
    """The first of some rows, and how many there are."""

    rows: Sequence[Any]
    total: int


def render_evaluation(evaluations: Sequence[Evaluation], comparison: ModelComparison | None = None) -> str:
    """Returns the page of one evaluation, or of two with their comparison: HTML without any other file.

    Raises:
        UsageError: Jinja2 is not installed.
    """
    return render_page("evaluation.html.jinja", evaluation_values(evaluations, comparison))


def evaluation_values(
    evaluations: Sequence[Evaluation], comparison: ModelComparison | None = None
) -> dict[str, Any]:
    """Returns what evaluation.html.jinja needs, and a template that extends it."""
    names = [shorten(str(each.run.get("model"))) for each in evaluations]
    if len(set(names)) < len(names):  # such as one model with other weights
        names = [f"{name} ({position})" for position, name in enumerate(names, 1)]
    return {
        "version": __version__,
        "shown_classes": SHOWN_CLASSES,
        "names": names,
        "figures": _figure_rows(evaluations, comparison),
        "comparison": comparison,
        "charts": _draw(evaluations, names),
        "models": [_describe(each, name) for each, name in zip(evaluations, names, strict=True)],
        "run_title": "Run and truth",
        "more": "--json",
    }


def _figure_rows(evaluations: Sequence[Evaluation], comparison: ModelComparison | None) -> list[FigureRow]:
    """Returns the figures that a model has, each with the values of all models."""
    differences = comparison.differences if comparison else {}
    columns = [_all_figures(each) for each in evaluations]
    rows = []
    for name, figure in [*FIGURES.items(), *ANSWER_FIGURES.items(), *SET_FIGURES.items()]:
        found = [column.get(name) for column in columns]
        is_repeated = name == "acc1_with_failed" and not any(each.failed for each in evaluations)
        if is_repeated or all(each is None for each in found):
            continue
        values = [
            _value(estimate, figure, evaluation.thresholds_for.get(name))
            for estimate, evaluation in zip(found, evaluations, strict=True)
        ]
        if comparison:
            values.append(_difference(differences.get(name), figure))
        rows.append(FigureRow(figure, tuple(values)))
    return rows


def _all_figures(evaluation: Evaluation) -> Mapping[str, Estimate]:
    return {**evaluation.metrics, **(evaluation.answers or {}), **(evaluation.sets or {})}


def _value(estimate: Estimate | None, figure: Figure, threshold: float | None) -> Value:
    if estimate is None:
        return Value(None, "–", "")
    note = "" if threshold is None else f"--threshold {format_threshold(threshold)}"
    text = format_value(estimate.value, is_share=figure.is_share)
    return Value(estimate.value, text, format_interval(estimate, is_share=figure.is_share), note)


def _difference(estimate: Estimate | None, figure: Figure) -> Value:
    if estimate is None:
        return Value(None, "", "")
    return Value(estimate.value, *format_difference(estimate, is_share=figure.is_share))


def _draw(evaluations: Sequence[Evaluation], names: Sequence[str]) -> list[charts.Chart]:
    shown = [(each, name) for each, name in zip(evaluations, names, strict=True) if each.images]
    if not shown:
        return []
    titles = [name if len(names) > 1 else "" for _, name in shown]
    models, labels = [each for each, _ in shown], [name for _, name in shown]
    reliability = [
        charts.reliability_chart(each.reliability(), title) for each, title in zip(models, titles, strict=True)
    ]
    histograms = [
        charts.histogram_chart(each.arrays.confidence, each.arrays.correct, title)
        for each, title in zip(models, titles, strict=True)
    ]
    return [
        *_told_once(reliability),
        charts.risk_chart(models, labels),
        charts.threshold_chart(models, labels),
        *_told_once(histograms),
    ]


def _told_once(drawn: list[charts.Chart]) -> list[charts.Chart]:
    """Returns charts of one kind, of which the first is explained."""
    return [*drawn[:1], *(each._replace(text="") for each in drawn[1:])]


def _describe(evaluation: Evaluation, name: str) -> dict[str, Any]:
    truth = evaluation.truth
    classes = sorted((each for each in evaluation.classes if each.count), key=_by_f1)
    failed_only = [each for each in evaluation.classes if not each.count]
    mistakes = evaluation.mistakes or ()
    return {
        "name": name,
        "cards": [
            (title, _share(evaluation.metrics[key])) for key, title in _CARDS.items() if key in evaluation.metrics
        ],
        "images": evaluation.images,
        "failed": evaluation.failed,
        "ignored": evaluation.ignored,
        "errors": sorted(evaluation.error_types.items(), key=lambda pair: (-pair[1], pair[0])),
        "calibrated": bool(evaluation.run.get("calibration")),
        "num_classes": len(truth.classes),
        "above": [
            (row.threshold, row.count, _share(row.answered), _share(row.accuracy)) for row in evaluation.above
        ],
        "bins": evaluation.reliability() if evaluation.images else [],
        "classes": first_of([_class_cells(each) for each in classes], limit=MAX_CLASSES),
        "without_predictions": len(failed_only),
        "confusions": first_of(evaluation.confusions),
        "mistakes": first_of([row for row in mistakes if row.label]),
        "num_mistakes": sum(row.count for row in mistakes),
        "label_errors": first_of(evaluation.label_errors, total=evaluation.num_label_errors),
        "run": [(title, shorten(text)) for title, text in describe_run(evaluation.run)],
        "truth": truth,
        "notes": first_of(truth.notes),
        "ignored_names": first_of(sorted(truth.ignored.items(), key=lambda pair: (-pair[1], pair[0]))),
        "unused_map_names": first_of(truth.unused_map_names),
    }


def _by_f1(row: ClassRow) -> tuple[float, int]:
    """The worst first, and of equally bad ones those with more images."""
    return row.f1.value or 0.0, -row.count


def _class_cells(row: ClassRow) -> tuple[str, ...]:
    return (
        row.label,
        f"{row.count:,}",
        f"{row.predicted:,}",
        *(format_value(value, is_share=True) for value in (row.f1.value, row.precision.value, row.recall.value)),
        format_interval(row.recall, is_share=True),
    )


def _share(estimate: Estimate) -> Value:
    return Value(
        estimate.value, format_value(estimate.value, is_share=True), format_interval(estimate, is_share=True)
    )


def first_of(rows: Collection[Any], *, total: int | None = None, limit: int = MAX_NAMES) -> Listing:
    """Returns the first rows. `total` is given if the rows are themselves the first of more."""
    return Listing([*islice(rows, limit)], len(rows) if total is None else total)
