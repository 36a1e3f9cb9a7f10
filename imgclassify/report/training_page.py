"""The page of a training: `train --report`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.errors import ImageError
from imgclassify.images import MAX_PIXELS
from imgclassify.report.charts import Chart, in_percent
from imgclassify.report.evaluation_page import Listing, evaluation_values, first_of
from imgclassify.report.figures import format_value
from imgclassify.report.pages import render_page
from imgclassify.report.provenance import describe_settings
from imgclassify.report.training_charts import accuracy_chart, loss_chart, strength_chart

if TYPE_CHECKING:
    from imgclassify.evaluation.evaluation import Evaluation
    from imgclassify.images.thumbnails import Thumbnail
    from imgclassify.training.training import TrainingResult

__all__ = ["render_training"]

MAX_MISTAKES = 24
"""At most so many mistakes are shown as images."""
THUMBNAIL_SIDE = 160
"""The most pixels of the longer side of these images."""
MAX_MATRIX = 20
"""With more classes, there is no confusion matrix."""
MAX_EPOCHS = 500
"""At most so many epochs are in the table, the last ones."""
_OPEN_ROWS = 10
"""A table of so many rows is not folded."""
_METHODS = {
    "probe": "probe: the last layer, on features of the network, which is not changed",
    "finetune": "finetune: all layers",
    "scratch": "scratch: all layers, from random weights",
}
_ENDS = {"early": "the validation part got no better", "time": "the time was over"}
"""Why a training ended before its last epoch."""


class Cell(NamedTuple):
    """A cell of a confusion matrix."""

    count: int  # type: ignore[assignment] # hides tuple.count
    share: float
    """Of the images of the true class, 0..1."""
    is_right: bool


class MatrixRow(NamedTuple):
    """The images of a true class, by the class that they were taken for."""

    label: str
    cells: tuple[Cell, ...]


class Mistake(NamedTuple):
    """An image that was taken for another class."""

    source: str
    truth: str
    truth_probability: float
    predicted: str
    probability: float
    """Of the predicted class."""


class ShownMistake(NamedTuple):
    """A mistake with its image."""

    mistake: Mistake
    width: int
    height: int
    content: str
    """The image: a JPEG file in base64."""


def render_training(result: TrainingResult, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> str:
    """Returns the page of a training: HTML without any other file.

    The worst mistakes are opened again, to be shown. Those that cannot be opened any more are left out.

    Args:
        max_pixels: limit on width × height of an image.
        decode_damaged: whether what there is of a damaged image is shown.

    Raises:
        UsageError: Jinja2 is not installed.
    """
    evaluation, training = result.measured.evaluation, result.training
    values = evaluation_values([evaluation])
    num_classes = len(evaluation.truth.classes)
    [model] = values["models"]
    if num_classes <= 5:  # then the true class is always among the five most probable ones
        model["cards"] = [card for card in model["cards"] if not card[0].startswith("true class in the top 5")]
        values["figures"] = [row for row in values["figures"] if row.figure.name != "acc@5"]
    values["figures"] = [row for row in values["figures"] if row.values[0].exact is not None]
    mistakes = find_mistakes(evaluation, MAX_MISTAKES)
    shown = _show(mistakes, result, max_pixels=max_pixels, decode_damaged=decode_damaged)
    return render_page(
        "training.html.jinja",
        {
            **values,
            "run_title": "Recipe and versions",
            "more": "imgclassify evaluate --json",
            "facts": _describe_training(result),
            "calibration": _describe_calibration(training),
            "calibration_card": _calibration_card(training),
            "notes": training["data"]["notes"],
            "class_counts": _count_classes(training),
            "failures": first_of([_failure_cells(each, evaluation) for each in result.failed]),
            "training_charts": _draw(result),
            "epochs": _list_epochs(result),
            "open_rows": _OPEN_ROWS,
            "matrix": confusion_matrix(evaluation) if num_classes <= MAX_MATRIX else (),
            "shown_mistakes": shown,
            "num_mistakes": int((~evaluation.arrays.correct).sum()),
            "num_unreadable": len(mistakes) - len(shown),
            "settings": _list_settings(training),
        },
    )


def confusion_matrix(evaluation: Evaluation) -> tuple[MatrixRow, ...]:
    """Counts the images of each true class by the class that they were taken for, in the order of the classes.

    The classes are those of the model.
    """
    import numpy as np

    labels = [each.label for each in evaluation.truth.classes]
    arrays = evaluation.arrays
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (arrays.truth, arrays.predicted), 1)
    return tuple(
        MatrixRow(
            label,
            tuple(Cell(count, count / max(1, sum(row)), position == column) for column, count in enumerate(row)),
        )
        for position, (label, row) in enumerate(zip(labels, counts.tolist(), strict=True))
    )


def find_mistakes(evaluation: Evaluation, limit: int) -> list[Mistake]:
    """Returns the worst mistakes: those in which the network was surest of a wrong class."""
    import numpy as np

    arrays, classes = evaluation.arrays, evaluation.truth.classes
    wrong = np.flatnonzero(~arrays.correct)
    order = np.lexsort((arrays.probability[wrong], -arrays.confidence[wrong]))
    return [
        Mistake(
            evaluation.sources[index],
            classes[arrays.truth[index]].label,
            float(arrays.probability[index]),
            classes[arrays.predicted[index]].label,
            float(arrays.confidence[index]),
        )
        for index in wrong[order[:limit]].tolist()
    ]


def _show(mistakes: Sequence[Mistake], result: TrainingResult, **limits: Any) -> list[ShownMistake]:
    """Opens the images of mistakes. Those that cannot be opened are left out."""
    from imgclassify.images.thumbnails import make_thumbnail

    sources = {each.source.name: each.source for each in reversed(result.images)}
    shown = []
    for mistake in mistakes:
        try:
            thumbnail = make_thumbnail(sources[mistake.source], result.preprocess, THUMBNAIL_SIDE, **limits)
        except ImageError:  # it was moved or removed meanwhile
            continue
        shown.append(_with_image(mistake, thumbnail))
    return shown


def _with_image(mistake: Mistake, thumbnail: Thumbnail) -> ShownMistake:
    return ShownMistake(mistake, thumbnail.width, thumbnail.height, b64encode(thumbnail.content).decode("ascii"))


def _draw(result: TrainingResult) -> list[Chart]:
    training = result.training
    drawn = []
    if result.history:
        kept = _kept_epoch(training)
        drawn += [
            loss_chart(result.history, kept),
            accuracy_chart(result.history, kept, result.measured.evaluation.images),
        ]
    if probe := training.get("probe"):
        accuracies = {float(strength): accuracy for strength, accuracy in probe["accuracies"].items()}
        drawn.append(strength_chart(accuracies, probe["strength"], training["data"]["images"]["train"]))
    return [chart for chart in drawn if chart is not None]


def _kept_epoch(training: Mapping[str, Any]) -> int:
    """Returns the epoch whose weights are the model's."""
    fit = training["fit"]
    return int(fit["best_epoch"] if training["recipe"]["keep"] == "best" else fit["epochs"])


# What was trained ---------------------------------------------------------------------------------------------


def _describe_training(result: TrainingResult) -> list[tuple[str, str]]:
    """Returns names and values of what was trained, with what."""
    training = result.training
    start, data, images = training["start"], training["data"], training["data"]["images"]
    near_duplicates = images["left out"] - data["failed"]
    facts = [("method", _METHODS[training["method"]])]
    if start:
        facts.append(("start", " ".join(str(start[name]) for name in ("model", "weights") if start[name])))
    facts.append(("architecture", str(training["architecture"])))
    if "fit" in training:
        facts.append(("epochs", _describe_fit(training)))
    if probe := training.get("probe"):
        facts.append(("probe", _describe_probe(probe, is_start="fit" in training)))
    facts += [
        ("images to train on", f"{images['train']:,}"),
        ("images for validation", f"{images['val']:,}, {_describe_split(training['split'])}"),
    ]
    if near_duplicates:
        facts.append(
            ("near duplicates left out", f"{near_duplicates:,} images to train on that are like one for validation")
        )
    return [
        *facts,
        ("images that failed", f"{data['failed']:,}"),
        ("class of each image", data["how"]),
        ("model folder", str(result.folder)),
    ]


def _describe_fit(training: Mapping[str, Any]) -> str:
    fit = training["fit"]
    reason = f", and no more because {_ENDS[fit['ended']]}" if fit["ended"] in _ENDS else ""
    return f"{fit['epochs']:,}{reason}; the weights are those of epoch {_kept_epoch(training):,}"


def _describe_probe(probe: Mapping[str, Any], *, is_start: bool) -> str:
    views = f", with {probe['augmented_views']} augmented views of each image" if probe["augmented_views"] else ""
    return f"C = {probe['strength']:g}{views}" + ("; all layers were trained from it on" if is_start else "")


def _describe_split(split: Mapping[str, Any]) -> str:
    if split["kind"] == "given":
        return "as they were given"
    return f"{in_percent(split['fraction'])} of all, split off by class with seed {split['seed']}"


def _describe_calibration(training: Mapping[str, Any]) -> str:
    calibration = training["calibration"]
    if calibration["temperature"] is None:
        return f"There is no calibration in the model folder: {calibration['reason']}."
    before, after = (format_value(calibration["ece"][name]["value"], is_share=True) for name in ("before", "after"))
    return (
        f"The model folder has a calibration, with the temperature {calibration['temperature']:.3g}. On images "
        f"that it was not fitted to, it changes the calibration error (ECE) from {before} to {after}. All figures "
        "and probabilities on this page are without it."
    )


def _calibration_card(training: Mapping[str, Any]) -> tuple[str, str]:
    temperature = training["calibration"]["temperature"]
    if temperature is None:
        return "none", ""
    return f"{temperature:.3g}", "temperature; not in the figures"


def _count_classes(training: Mapping[str, Any]) -> Listing:
    """Returns (label, images to train on, for validation, left out) of the classes, the smallest first."""
    classes = training["data"]["classes"]
    rows = [(each["label"], each["train"], each["val"], each["left out"]) for each in classes]
    return first_of(sorted(rows, key=lambda row: row[1]))


def _failure_cells(failed: Any, evaluation: Evaluation) -> tuple[str, ...]:
    label = evaluation.truth.classes[failed.class_index].label
    return failed.name, label, failed.error.type, failed.error.message


def _list_epochs(result: TrainingResult) -> Listing:
    return Listing(result.history[-MAX_EPOCHS:], len(result.history))


def _list_settings(training: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Returns titles, and the settings below each of them."""
    data = {
        "seed": training["seed"],
        "SHA-256 of the images and their classes": training["data"]["sha256"],
        "SHA-256 of the weights it began with": (training["start"] or {}).get("sha256"),
    }
    if "fit" in training:
        data["dtype"] = training["fit"]["dtype"]
    groups = {
        "Recipe": training.get("recipe", {}),
        "Preprocessing": training["preprocess"],
        "Data and seed": data,
        "Versions": {"imgclassify": training["version"], **training["versions"]},
    }
    return [(title, rows) for title, group in groups.items() if (rows := describe_settings(group))]
