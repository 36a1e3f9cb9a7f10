"""Prints an evaluation as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from imgclassify.cli.stats import count_of
from imgclassify.cli.tables import print_table
from imgclassify.errors import make_printable

if TYPE_CHECKING:
    from imgclassify.evaluation.evaluation import Evaluation
    from imgclassify.evaluation.intervals import Estimate
    from imgclassify.evaluation.two_models import ModelComparison

__all__ = ["print_comparison", "print_evaluation"]

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
"""Figures that are shares, with their names."""
_NUMBERS = {
    "nll": "NLL",
    "brier": "Brier score",
    "aurc": "AURC",
    "hierarchical_distance": "distance of mistakes",
}


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
        title = (_SHARES | _NUMBERS)[name]
        rows.append(
            [title, _format_points(estimate.value, is_share), _format_range(estimate, is_share, points=True)]
        )
    print_table(["figure", "difference", "95 % interval"], rows, right=(1,))
    test = comparison.test
    typer.echo(
        f"only {first} is right: {test.only_a:,}; only {second}: {test.only_b:,}; McNemar's test: p = {test.p_value:.3g}"
    )


def _print_heading(evaluation: Evaluation) -> None:
    run = evaluation.run
    parts = [
        count_of(evaluation.images, "image") + f" of {len(evaluation.truth.classes):,} classes",
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
        is_share = name in _SHARES
        note = "" if estimate.value is not None else "not known"
        threshold = evaluation.thresholds_for.get(name)
        if threshold is not None:
            note = f"--threshold {threshold:.4g}"
        title = (_SHARES | _NUMBERS)[name]
        rows.append([title, _format_value(estimate.value, is_share), _format_range(estimate, is_share), note])
    rows += _answer_rows(evaluation)
    print_table(["figure", "value", "95 % interval", ""], rows, right=(1,))


def _answer_rows(evaluation: Evaluation) -> list[list[str]]:
    """Returns the rows of what --at-least, --threshold and --sets lead to."""
    rows = []
    titles = {
        "right": "answers that are right",
        "leaf": "answers: the class itself",
        "rollup": "answers: a node above it",
        "unsure": "answers: not sure",
    }
    for name, estimate in (evaluation.answers or {}).items():
        if name == "bits":
            rows.append(
                ["bits in an answer", _format_value(estimate.value, False), _format_range(estimate, False), ""]
            )
        else:
            rows.append([titles[name], _format_value(estimate.value, True), _format_range(estimate, True), ""])
    if evaluation.sets:
        coverage, size = evaluation.sets["coverage"], evaluation.sets["size"]
        rows.append(
            ["sets that hold the truth", _format_value(coverage.value, True), _format_range(coverage, True), ""]
        )
        rows.append(["classes in a set", _format_value(size.value, False), _format_range(size, False), ""])
    return rows


def _print_thresholds(evaluation: Evaluation) -> None:
    rows = [
        [f"{row.threshold:g}", _format_value(row.answered.value, True), _format_value(row.accuracy.value, True),
         _format_range(row.accuracy, True)]
        for row in evaluation.above
    ]  # fmt: skip
    typer.echo()
    print_table(["--threshold", "answered", "right", "95 % interval"], rows, right=(0, 1, 2))


def _print_classes(evaluation: Evaluation) -> None:
    ordered = sorted(
        (row for row in evaluation.classes if row.count),
        key=lambda row: (row.f1 if row.f1 is not None else 0, -row.count),
    )
    if not ordered:
        return
    typer.echo()
    print_table(
        ["class" if len(ordered) <= _LISTED else f"worst {_LISTED} of {len(ordered):,} classes",
         "images", "precision", "recall", "F1"],
        [
            [make_printable(row.label), f"{row.count:,}", _format_value(row.precision, True),
             _format_value(row.recall.value, True), _format_value(row.f1, True)]
            for row in ordered[:_LISTED]
        ],
        right=(1, 2, 3, 4),
    )  # fmt: skip


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
        )
    named = [row for row in evaluation.mistakes or () if row.label]
    if named:
        total = sum(row.count for row in evaluation.mistakes or ())
        kinds = ", ".join(f"{make_printable(row.label or '')} {row.count:,}" for row in named[:_LISTED])
        typer.echo()
        typer.echo(f"wrong, but right about what kind of thing it is, of {count_of(total, 'mistake')}: {kinds}")


def _print_label_errors(evaluation: Evaluation) -> None:
    if not evaluation.label_errors:
        return
    typer.echo()
    print_table(
        [f"labels that are likely wrong: {evaluation.num_label_errors:,}", "label", "", "more likely", ""],
        [
            [make_printable(row.source), make_printable(row.truth), _format_value(row.truth_probability, True),
             make_printable(row.suggested), _format_value(row.suggested_probability, True)]
            for row in evaluation.label_errors[:_LISTED]
        ],
        right=(2, 4),
    )  # fmt: skip


def _format_value(value: float | None, is_share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if is_share else f"{value:.4f}"


def _format_points(value: float | None, is_share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:+.2f} points" if is_share else f"{value:+.4f}"


def _format_range(estimate: Estimate, is_share: bool, *, points: bool = False) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    scale, digits = (100, 2) if is_share else (1, 4)
    sign = "+" if points else ""
    unit = " %" if is_share and not points else ""
    return f"{scale * estimate.low:{sign}.{digits}f} … {scale * estimate.high:{sign}.{digits}f}{unit}"
