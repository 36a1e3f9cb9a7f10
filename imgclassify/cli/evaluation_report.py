"""Prints an evaluation as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from imgclassify.cli.stats import count_of
from imgclassify.cli.tables import print_table
from imgclassify.errors import make_printable
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

if TYPE_CHECKING:
    from imgclassify.evaluation.evaluation import Evaluation
    from imgclassify.evaluation.intervals import Estimate
    from imgclassify.evaluation.two_models import ModelComparison


_LISTED = 10
"""So many classes, confusions and likely label errors are printed."""


def print_evaluation(evaluation: Evaluation) -> None:
    """Prints the figures of a model: a table of figures, one of thresholds, one of classes, and what is wrong."""
    _print_heading(evaluation)
    _print_metrics(evaluation)
    _print_thresholds(evaluation)
    _print_classes(evaluation)
    _print_mistakes(evaluation)
    _print_label_errors(evaluation)
    _print_failures(evaluation)


def print_comparison(comparison: ModelComparison) -> None:
    """Prints how two models differ."""
    first, second = map(make_printable, comparison.models)
    typer.echo(f"{first} less {second}, {count_of(comparison.images, 'image')}")
    rows = []
    for name, estimate in comparison.differences.items():
        if estimate.value is None:
            continue
        figure = FIGURES[name]
        rows.append([figure.name, *format_difference(estimate, is_share=figure.is_share)])
    print_table(["figure", "difference", "95 % interval"], rows, right=(1,))
    test = comparison.test
    typer.echo(
        f"only {first} is right: {test.only_a:,}; only {second}: {test.only_b:,}; "
        f"McNemar's test: p = {test.p_value:.3g}"
    )


def _print_heading(evaluation: Evaluation) -> None:
    run, num_classes = evaluation.run, len(evaluation.truth.classes)
    parts = [
        f"{count_of(evaluation.images, 'image')} of {num_classes:,} class{'es' * (num_classes != 1)}",
        f"{evaluation.failed:,} failed",
    ]
    parts += [f"{evaluation.ignored:,} left out"] if evaluation.ignored else []
    parts += ["calibrated"] if run.get("calibration") else []
    typer.echo(f"{make_printable(str(run.get('model')))}  {', '.join(parts)}")


def _print_metrics(evaluation: Evaluation) -> None:
    rows = []
    for name, estimate in evaluation.metrics.items():
        if name == "acc1_with_failed" and not evaluation.failed:
            continue
        threshold = evaluation.thresholds_for.get(name)
        note = "" if threshold is None else f"--threshold {format_threshold(threshold)}"
        rows.append([*_figure_row(FIGURES[name], estimate), note])
    for figures, known in ((evaluation.answers, ANSWER_FIGURES), (evaluation.sets, SET_FIGURES)):
        rows += [[*_figure_row(known[name], estimate), ""] for name, estimate in (figures or {}).items()]
    print_table(["figure", "value", "95 % interval", ""], rows, right=(1,))


def _figure_row(figure: Figure, estimate: Estimate) -> list[str]:
    is_share = figure.is_share
    return [
        figure.name,
        format_value(estimate.value, is_share=is_share),
        format_interval(estimate, is_share=is_share),
    ]


def _print_thresholds(evaluation: Evaluation) -> None:
    rows = [
        [
            f"{row.threshold:g}",
            format_value(row.answered.value, is_share=True),
            format_value(row.accuracy.value, is_share=True),
            format_interval(row.accuracy, is_share=True),
        ]
        for row in evaluation.above
    ]
    typer.echo()
    print_table(["--threshold", "answered", "right", "95 % interval"], rows, right=(0, 1, 2))


def _print_classes(evaluation: Evaluation) -> None:
    ordered = sorted(
        (row for row in evaluation.classes if row.count), key=lambda row: (row.f1.value or 0, -row.count)
    )
    if not ordered:
        return
    typer.echo()
    title = "class" if len(ordered) <= _LISTED else f"worst {_LISTED} of {len(ordered):,} classes"
    rows = [
        [
            make_printable(row.label),
            f"{row.count:,}",
            *(
                format_value(value, is_share=True)
                for value in (row.precision.value, row.recall.value, row.f1.value)
            ),
        ]
        for row in ordered[:_LISTED]
    ]
    print_table([title, "images", "precision", "recall", "F1"], rows, right=(1, 2, 3, 4), wrapped=(0,))


def _print_mistakes(evaluation: Evaluation) -> None:
    if evaluation.confusions:
        typer.echo()
        print_table(
            ["images", "truth", "taken for"],
            [
                [f"{row.count:,}", make_printable(row.truth), make_printable(row.predicted)]
                for row in evaluation.confusions[:_LISTED]
            ],
            right=(0,),
            wrapped=(1, 2),
        )
    named = [row for row in evaluation.mistakes or () if row.label]
    if named:
        total = sum(row.count for row in evaluation.mistakes or ())
        share = f"{sum(row.count for row in named):,} of {count_of(total, 'mistake')}"
        typer.echo()
        print_table(
            ["images", f"wrong, but the kind of thing is right: {share}"],
            [[f"{row.count:,}", make_printable(row.label or "")] for row in named[:_LISTED]],
            right=(0,),
        )


def _print_failures(evaluation: Evaluation) -> None:
    if not evaluation.failures:
        return
    typer.echo()
    rows = [
        [make_printable(row.source), row.type, make_printable(row.message)] for row in evaluation.failures[:_LISTED]
    ]
    print_table([f"failed images: {evaluation.failed:,}", "error", ""], rows, wrapped=(0, 2))


def _print_label_errors(evaluation: Evaluation) -> None:
    if not evaluation.label_errors:
        return
    typer.echo()
    rows = [
        [
            make_printable(row.source),
            make_printable(row.truth),
            format_value(row.truth_probability, is_share=True),
            make_printable(row.suggested),
            format_value(row.suggested_probability, is_share=True),
        ]
        for row in evaluation.label_errors[:_LISTED]
    ]
    title = f"labels that are likely wrong: {evaluation.num_label_errors:,}"
    print_table([title, "label", "", "more likely", ""], rows, right=(2, 4), wrapped=(0,))
