"""The charts of a training: the curves over its epochs, and how the strength of a probe was chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.evaluation.intervals import wilson
from imgclassify.report.charts import (
    Chart,
    Key,
    Line,
    Mark,
    Panel,
    Tick,
    in_percent,
    nice_steps,
)

if TYPE_CHECKING:
    from imgclassify.training.progress import EpochRecord

TRAIN, VAL = "first", "second"
"""The styles of the two parts."""
_MAX_MARKS = 15
"""The points of longer curves are not marked."""
_MAX_EPOCH_TICKS = 8
_MAX_STRENGTH_TICKS = 7
_MIN_SHARES = 0.05

Pairs = list[tuple[float, float]]
"""(epoch, value)."""


class _Curve(NamedTuple):
    """A value over the epochs."""

    name: str
    style: str
    pairs: Pairs


def loss_chart(history: Sequence[EpochRecord], kept: int | None) -> Chart | None:
    """The losses of both parts, and the learning rate below them. None if there is nothing to draw.

    Args:
        kept: the epoch whose weights are the result.
    """
    curves = [
        _curve("training", TRAIN, history, lambda each: each.train_loss),
        _curve("validation", VAL, history, lambda each: each.val_loss),
        _curve("validation, with its best temperature", f"{VAL} dashed", history, lambda each: each.val_score),
    ]
    rates = _curve("learning rate", "rate", history, lambda each: each.learning_rate)
    values = [value for curve in curves for _, value in curve.pairs]
    if len(history) < 2 or not values:
        return None
    last = history[-1].epoch
    steps = nice_steps(min(values) if min(values) > max(values) / 2 else 0, max(values))
    panels = [_curve_panel(curves, last, steps, kept, _number)]
    if rates.pairs:
        highest = nice_steps(0, max(rate for _, rate in rates.pairs))[-1]
        panels[0] = _without_epochs(panels[0])
        panels.append(_curve_panel([rates], last, [0, highest], kept, _number, top=276, height=60))
    return Chart(
        "Loss",
        "",
        "How wrong the network is on average, epoch by epoch; less is better. That of training is of the images as "
        "they were augmented, with all that the recipe adds to it, so it may lie above that of validation. If "
        "validation rises while training still falls, the network learns its images by heart. Dashed: the epoch "
        f"where this is lowest is the best.{_about_axis(steps, _number)}",
        panels[-1].bottom + 52,
        tuple(each._replace(y_title=title) for each, title in zip(panels, ("loss", "rate"), strict=False)),
        (*_keys([*curves, rates]), *_kept_key(kept)),
    )


def accuracy_chart(history: Sequence[EpochRecord], kept: int | None, num_val: int) -> Chart | None:
    """The accuracies of both parts. None if there is nothing to draw.

    Args:
        kept: the epoch whose weights are the result.
        num_val: how many images the validation part has.
    """
    curves = [
        _curve("training", TRAIN, history, lambda each: each.train_accuracy),
        _curve("validation", VAL, history, lambda each: each.val_accuracy),
    ]
    if len(history) < 2 or not any(curve.pairs for curve in curves):
        return None
    limits = [(x, *_interval(y, num_val)) for x, y in curves[1].pairs]
    steps = _share_steps(
        [*(y for curve in curves for _, y in curve.pairs), *(y for _, *ends in limits for y in ends)]
    )
    panel = _curve_panel(curves, history[-1].epoch, steps, kept, in_percent)
    band = [*((x, high) for x, _, high in limits), *((x, low) for x, low, _ in reversed(limits))]
    lines = (Line(panel.points(band), VAL, is_area=True), *panel.lines) if len(limits) > 1 else panel.lines
    return Chart(
        "Accuracy",
        "",
        "The share of images that are right: of training as they were augmented, and of validation as they are. "
        "The shaded band is the 95 % interval: differences within it may be chance."
        f"{_about_axis(steps, in_percent)}",
        302,
        (panel._replace(lines=lines, y_title="accuracy"),),
        (*_keys(curves), *_kept_key(kept)),
    )


def strength_chart(accuracies: Mapping[float, float], chosen: float, num_train: int) -> Chart | None:
    """The cross-validated accuracy of a probe by its strength C. None if fewer than two were tried.

    Args:
        num_train: how many images the cross-validation was on.
    """
    if len(accuracies) < 2:
        return None
    tried = sorted(accuracies)
    limits = {each: _interval(accuracies[each], num_train) for each in tried}
    steps = _share_steps(value for ends in limits.values() for value in ends)
    low, high = math.log10(tried[0]), math.log10(tried[-1])
    margin = (high - low) / 12
    panel = Panel(10, 240, high + margin, steps[-1], x_min=low - margin, y_min=steps[0])
    pairs = [(math.log10(each), accuracies[each]) for each in tried]
    every = -(-len(tried) // _MAX_STRENGTH_TICKS)
    panel = panel._replace(
        x_title="C",
        y_title="accuracy",
        x_ticks=tuple(
            Tick(panel.x(math.log10(each)), f"{each:g}" if position % every == 0 else "")
            for position, each in enumerate(tried)
        ),
        y_ticks=_ticks(panel, steps, in_percent),
        lines=(
            *(Line(panel.points([(math.log10(each), end) for end in limits[each]]), "whisker") for each in tried),
            Line(panel.points(pairs), TRAIN),
        ),
        marks=tuple(
            Mark(panel.x(x), panel.y(y), VAL if each == chosen else TRAIN, f"C = {each:g}: {in_percent(y)}")
            for each, (x, y) in zip(tried, pairs, strict=True)
        ),
    )
    return Chart(
        "Accuracy by strength",
        "",
        "The last layer was fitted with several values of C: the smaller, the more it is kept from learning single "
        "images by heart. Each was tried by cross-validation: on images to train on that it was not fitted to. The "
        "one with the least loss is used. The whiskers are 95 % intervals: differences within them may be "
        f"chance.{_about_axis(steps, in_percent)}",
        302,
        (panel,),
        (Key(TRAIN, "line", "accuracy in the cross-validation"), Key(VAL, "dot", f"C = {chosen:g}, which is used")),
    )


def _curve(
    name: str, style: str, history: Iterable[EpochRecord], value_of: Callable[[EpochRecord], float | None]
) -> _Curve:
    """Returns a curve of those epochs that have a value."""
    values = ((float(each.epoch), value_of(each)) for each in history)
    return _Curve(name, style, [(x, y) for x, y in values if y is not None and math.isfinite(y)])


def _curve_panel(
    curves: Sequence[_Curve],
    last: int,
    steps: Sequence[float],
    kept: int | None,
    in_words: Callable[[float], str],
    *,
    top: float = 10,
    height: float = 240,
) -> Panel:
    panel = Panel(top, height, last, steps[-1], y_min=steps[0])
    lines = [Line(panel.points(curve.pairs), curve.style) for curve in curves if curve.pairs]
    guide = [] if kept is None else [_guide(panel, kept)]
    marks = [
        Mark(panel.x(x), panel.y(y), curve.style, f"{curve.name}, epoch {x:g}: {in_words(y)}")
        for curve in curves
        for x, y in curve.pairs
        if last <= _MAX_MARKS
    ]
    return panel._replace(
        x_title="epoch",
        x_ticks=tuple(Tick(panel.x(epoch), f"{epoch}") for epoch in _epoch_steps(last)),
        y_ticks=_ticks(panel, steps, in_words),
        lines=(*guide, *lines),
        marks=tuple(marks),
    )


def _without_epochs(panel: Panel) -> Panel:
    """For a panel above another one, which has the numbers of the epochs."""
    return panel._replace(x_title="", x_ticks=tuple(tick._replace(text="") for tick in panel.x_ticks))


def _epoch_steps(last: int) -> range:
    """Returns the epochs that are written at the axis."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if last / (digit * power) <= _MAX_EPOCH_TICKS:
                return range(0, last + 1, digit * power)
        power *= 10


def _share_steps(values: Iterable[float]) -> list[float]:
    """Returns the numbers at an axis of shares, which is not shorter than _MIN_SHARES."""
    known = list(values)
    high = max(known)
    low = max(0.0, min(*known, high - _MIN_SHARES))
    return [step for step in nice_steps(low, high) if 0 <= step <= 1]


def _interval(share: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share. That of no images is the share itself."""
    if not count:
        return share, share
    estimate = wilson(round(share * count), count)
    return estimate.low or 0.0, share if estimate.high is None else estimate.high


def _guide(panel: Panel, x: float) -> Line:
    return Line(panel.points([(x, panel.y_min), (x, panel.y_max)]), "guide")


def _ticks(panel: Panel, steps: Iterable[float], in_words: Callable[[float], str]) -> tuple[Tick, ...]:
    return tuple(Tick(panel.y(step), in_words(step)) for step in steps)


def _keys(curves: Iterable[_Curve]) -> list[Key]:
    return [Key(curve.style, "line", curve.name) for curve in curves if curve.pairs]


def _kept_key(kept: int | None) -> list[Key]:
    return [] if kept is None else [Key("guide", "line", f"epoch {kept}, whose weights are the model's")]


def _about_axis(steps: Sequence[float], in_words: Callable[[float], str]) -> str:
    return f" The axis begins at {in_words(steps[0])}." if steps[0] else ""


def _number(value: float) -> str:
    return f"{value:.4g}"
