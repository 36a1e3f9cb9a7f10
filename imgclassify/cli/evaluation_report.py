"""Prints an evaluation as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from imgclassify.cli.stats import count_of
from imgclassify.cli.tables import print_table
from imgclassify.errors import make_printable

if TYPE_CHECKING:
    from imgclassify.evaluation.evaluation import Evaluation
    from imgclassify.evaluation.intervals import Estimate
    from imgclassify.evaluation.two_models import ModelComparison


_LISTED = 10
"""So many classes, confusions and likely label errors are printed."""
_SHARES = {
    "acc1": "acc@1",
    "acc5": "acc@5",
    "acc1_with_failed": "acc@1, failed count as wrong",
    "balanced_accuracy": "balanced accuracy",
    "ece": "ECE",
    "ece_equal_mass": "ECE, equal-mass bins",
    "coverage_at_95": "answered at 95 % right",
    "coverage_at_99": "answered at 99 % right",
}
"""The figures that are shares, with their titles."""
_NUMBERS = {
    "nll": "NLL",
    "brier": "Brier score",
    "aurc": "AURC",
    "hierarchical_distance": "height of mistakes in the tree",
}
_TITLES = _SHARES | _NUMBERS


def print_evaluation(evaluation: Evaluation) -> None:
    """Prints the figures of a model: a table of figures, one of thresholds, one of classes, and what is wrong."""
    _print_heading(evaluation)
    _print_metrics(evaluation)
    _print_thresholds(evaluation)
    _print_classes(evaluation)
    _print_mistakes(evaluation)
    _print_label_errors(evaluation)


def print_comparison(comparison: ModelComparison) -> None:
    """Prints how two models differ."""
    first, second = map(make_printable, comparison.models)
    typer.echo(f"{first} less {second}, {count_of(comparison.images, 'image')}")
    rows = []
    for name, estimate in comparison.differences.items():
        is_share = name in _SHARES
        interval = format_range(estimate, is_share=is_share, points=True)
        rows.append([_TITLES[name], _format_points(estimate.value, is_share=is_share), interval])
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
        rows.append([*_figure_row(_TITLES[name], estimate, is_share=name in _SHARES), note])
    rows += [[*row, ""] for row in _answer_rows(evaluation)]
    print_table(["figure", "value", "95 % interval", ""], rows, right=(1,))


def _figure_row(title: str, estimate: Estimate, *, is_share: bool) -> list[str]:
    return [title, format_value(estimate.value, is_share=is_share), format_range(estimate, is_share=is_share)]


def _answer_rows(evaluation: Evaluation) -> list[list[str]]:
    """Returns the rows of what --at-least, --threshold and --sets lead to."""
    figures = {**(evaluation.answers or {}), **(evaluation.sets or {})}
    titles = {
        "right": "answers that are right",
        "leaf": "answers: the class itself",
        "rollup": "answers: a node above it",
        "unsure": "answers: not sure",
        "bits": "bits in an answer",
        "coverage": "sets that hold the truth",
        "size": "classes in a set",
    }
    return [
        _figure_row(titles[name], estimate, is_share=name not in ("bits", "size"))
        for name, estimate in figures.items()
    ]


def _print_thresholds(evaluation: Evaluation) -> None:
    rows = [
        [
            f"{row.threshold:g}",
            format_value(row.answered.value, is_share=True),
            format_value(row.accuracy.value, is_share=True),
            format_range(row.accuracy, is_share=True),
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


def format_value(value: float | None, *, is_share: bool) -> str:
    """Returns a figure as it is printed.

    Args:
        is_share: whether it is a share, 0..1, which is printed in percent.
    """
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if is_share else f"{value:.4f}"


def format_threshold(value: float) -> str:
    """Returns a threshold with four decimals, rounded down, so that what has reached it still does."""
    floor = math.floor(value * 10_000) / 10_000
    return f"{floor:g}" if floor else f"{value:.4g}"


def _format_points(value: float | None, *, is_share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:+.2f} points" if is_share else f"{value:+.4f}"


def format_range(estimate: Estimate, *, is_share: bool, points: bool = False) -> str:
    """Returns the interval of a figure as it is printed. Empty if there is none.

    Args:
        is_share: as in `format_value`.
        points: whether it is a difference of two figures, which has a sign.
    """
    if estimate.low is None or estimate.high is None:
        return ""
    scale, digits = (100, 2) if is_share else (1, 4)
    sign = "+" if points else ""
    unit = " %" if is_share and not points else ""
    return f"{scale * estimate.low:{sign}.{digits}f} … {scale * estimate.high:{sign}.{digits}f}{unit}"
