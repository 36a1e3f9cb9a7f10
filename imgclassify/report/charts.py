"""The charts of a page: what is drawn where, for the template to write as SVG.

All coordinates are units of the viewBox: x from the left, y from the top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.evaluation.intervals import wilson
from imgclassify.report.figures import format_threshold

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.evaluation.evaluation import Evaluation
    from imgclassify.evaluation.metrics import ReliabilityBin

WIDTH = 426
LEFT, RIGHT = 60, 22
"""The margins of the area that is drawn in. The numbers of the axis are in the left one."""
MODELS = ("first", "second")
"""The style of each model."""
_HISTOGRAM_BINS = 20
_MAX_POINTS = 400
"""A curve has about so many points: one for each unit of width."""
_LEAST_IMAGES = 10
"""The curve of risk and coverage begins at so many images, or at a twentieth of all."""
_LABEL_WIDTH, _LABEL_HEIGHT = 34, 14
_ROUNDING = 1e-9
_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Tick(NamedTuple):
    """A number at an axis."""

    place: float
    text: str


class Bar(NamedTuple):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float
    style: str
    tip: str


class Line(NamedTuple):
    """A polyline, or an area if it is closed."""

    points: str
    """As in SVG: "x,y x,y"."""
    style: str
    is_area: bool = False


class Mark(NamedTuple):
    """A point, with its label."""

    x: float
    y: float
    style: str
    tip: str
    label: str = ""


class Panel(NamedTuple):
    """A rectangle with two axes."""

    top: float
    height: float
    x_max: float = 1.0
    y_max: float = 1.0
    x_title: str = ""
    y_title: str = ""
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()
    left: float = LEFT
    width: float = WIDTH - LEFT - RIGHT
    x_min: float = 0.0
    y_min: float = 0.0

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def right(self) -> float:
        return self.left + self.width

    def x(self, value: float) -> float:
        return round(self.left + self.width * (value - self.x_min) / (self.x_max - self.x_min), 2)

    def y(self, value: float) -> float:
        return round(self.bottom - self.height * (value - self.y_min) / (self.y_max - self.y_min), 2)

    def points(self, pairs: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):g},{self.y(y):g}" for x, y in pairs)

    def bar(self, low: float, high: float, value: float, style: str, tip: str) -> Bar:
        """A bar from `low` to `high` on the x axis, and from the axis to `value`, with a gap to the next one."""
        x, y = self.x(low), self.y(value)
        return Bar(x + 0.5, y, round(self.x(high) - x - 1, 2), round(self.bottom - y, 2), style, tip)


class Key(NamedTuple):
    """An entry of a legend."""

    style: str
    shape: str
    """"line", "box" or "dot"."""
    text: str


class Chart(NamedTuple):
    """A chart, with what a reader who does not see it is told."""

    title: str
    model: str
    """The model that it is about, or "" if it shows all."""
    text: str
    """What it shows, and how to read it. "" if the chart before it says so."""
    height: float
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...]
    width: float = WIDTH


def reliability_chart(bins: Sequence[ReliabilityBin], model: str = "") -> Chart:
    """The reliability diagram of Guo et al. 2017: the accuracy of each bin of confidence, and its images below."""
    upper = _shares_panel(top=10, height=240, x_text=False)._replace(y_title="accuracy")
    lower = _count_panel(270, 60, max((each.count for each in bins), default=0))
    rows = [(each, each.confidence, each.accuracy) for each in bins]
    filled = [(each, x, y) for each, x, y in rows if x is not None and y is not None]
    intervals = [(x, wilson(round(y * each.count), each.count)) for each, x, y in filled]
    return Chart(
        "Reliability",
        model,
        "Images are put into 15 bins by their confidence. A bar is as high as the share of its images that is "
        "right. The dot is at their mean confidence, and the whisker is the 95 % interval. On the diagonal, "
        "confidence is what it says. Bars above it: the model is better than it says. Below: it is worse. "
        "Bins of few images say little: the lower bars count them.",
        374,
        (
            upper._replace(
                bars=tuple(
                    upper.bar(each.low, each.high, y, "right", _bin_tip(each, x, y)) for each, x, y in filled
                ),
                lines=(
                    Line(upper.points([(0, 0), (1, 1)]), "guide"),
                    *(
                        Line(upper.points([(x, each.low or 0), (x, each.high or 0)]), "whisker")
                        for x, each in intervals
                    ),
                ),
                marks=tuple(Mark(upper.x(x), upper.y(y), "dot", _bin_tip(each, x, y)) for each, x, y in filled),
            ),
            lower._replace(
                bars=tuple(
                    lower.bar(each.low, each.high, each.count, "count", _bin_tip(each, x, y))
                    for each, x, y in filled
                )
            ),
        ),
        (
            Key("right", "box", "accuracy"),
            Key("dot", "dot", "mean confidence and accuracy"),
            Key("guide", "line", "confidence = accuracy"),
            Key("count", "box", "images"),
        ),
    )


def risk_chart(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Chart:
    """Risk against coverage of each model, with the points of 95 and 99 % accuracy."""
    curves = [risk_curve(each.arrays.confidence, each.arrays.correct) for each in evaluations]
    highest = max([0.05, *(risk for curve in curves for _, risk in curve)])
    panel, y_max = _shares_panel(top=10, height=240), _nice_share(highest)
    panel = panel._replace(
        y_max=y_max,
        x_title="coverage: share of images that is answered",
        y_title="risk: share of answers that is wrong",
    )
    steps = 5 if y_max in (0.05, 0.5) else 4
    panel = panel._replace(
        y_ticks=tuple(Tick(panel.y(y), in_percent(y)) for y in (y_max * step / steps for step in range(steps + 1)))
    )
    lines = [Line(panel.points([(0, risk), (1, risk)]), "guide") for risk in (0.05, 0.01) if risk < y_max]
    marks: list[Mark] = []
    for evaluation, curve, style in zip(evaluations, curves, MODELS, strict=False):
        lines.append(Line(panel.points(curve), style))
        marks += _coverage_marks(evaluation, panel, style, with_labels=len(evaluations) == 1)
    return Chart(
        "Risk and coverage",
        "",
        "The most confident images are answered first. To the right more images are answered, and more answers are "
        "wrong. The lower the curve, the better does confidence tell right answers from wrong ones. Dots: the most "
        "images that can be answered with 95 % and with 99 % of the answers right (dashed: 5 % and 1 % wrong).",
        302,
        (panel._replace(lines=tuple(lines), marks=tuple(marks)),),
        (
            *(Key(style, "line", name) for style, name in zip(MODELS, names, strict=False)),
            Key("guide", "line", "5 % and 1 % wrong"),
        ),
    )


def risk_curve(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Returns (coverage, risk) by falling confidence, at most some hundred points.

    Images of equal confidence are answered together. The first images are left out, whose risk is chance.
    """
    import numpy as np

    count = len(confidence)
    if not count:
        return []
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    least = min(_LEAST_IMAGES, -(-count // 20))
    ends = ends[ends >= least - 1]
    if len(ends) > _MAX_POINTS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, _MAX_POINTS).round().astype(np.int64))]
    risk = np.cumsum(~correct[order])[ends] / (ends + 1)
    return [(float(x), float(y)) for x, y in zip((ends + 1) / count, risk, strict=True)]


def threshold_chart(evaluations: Sequence[Evaluation], names: Sequence[str]) -> Chart:
    """How much is answered above each threshold, and how much of that is right."""
    panel = _shares_panel(top=10, height=240)
    panel = panel._replace(x_title="threshold: least confidence of an answer", y_title="share")
    lines: list[Line] = []
    marks: list[Mark] = []
    legend: list[Key] = []
    for evaluation, style, name in zip(evaluations, MODELS, names, strict=False):
        right = [(row.threshold, row.accuracy) for row in evaluation.above if row.accuracy.value is not None]
        low = [(x, each.low or 0) for x, each in right]
        high = [(x, each.high or 0) for x, each in right]
        lines.append(Line(panel.points([*high, *reversed(low)]), style, is_area=True))
        lines.append(Line(panel.points([(x, each.value or 0) for x, each in right]), style))
        answered = [(row.threshold, row.answered.value or 0) for row in evaluation.above]
        lines.append(Line(panel.points(answered), f"{style} dashed"))
        for row in evaluation.above:
            tip = f"{name}, {in_percent(row.threshold)} or more: {in_percent(row.answered.value)} answered, "
            tip += f"{in_percent(row.accuracy.value)} of them right"
            if row.accuracy.value is not None:
                marks.append(Mark(panel.x(row.threshold), panel.y(row.accuracy.value), style, tip))
        prefix = f"{name}: " if len(evaluations) > 1 else ""
        legend += [
            Key(style, "line", f"{prefix}right, of what is answered"),
            Key(f"{style} dashed", "line", f"{prefix}answered, of all"),
        ]
    return Chart(
        "Accuracy above a threshold",
        "",
        "If only images with at least this confidence are answered (--threshold), so many are answered, and "
        "so many of the answers are right. The shaded band is the 95 % interval: it is wide where few are left.",
        302,
        (panel._replace(lines=tuple(lines), marks=tuple(marks)),),
        tuple(legend),
    )


def histogram_chart(confidence: NDArray[np.float64], correct: NDArray[np.bool_], model: str = "") -> Chart:
    """How many right and how many wrong answers have which confidence."""
    import numpy as np

    edges = np.arange(_HISTOGRAM_BINS + 1) / _HISTOGRAM_BINS
    panels = []
    for chosen, style, top in ((correct, "right", 24), (~correct, "wrong", 176)):
        counts = np.histogram(confidence[chosen].clip(0, 1), edges)[0].tolist()
        panel = _count_panel(top, 116, max(counts), x_text=style == "wrong")
        bars = [
            panel.bar(low, high, count, style, f"{in_percent(low)} to {in_percent(high)}: {count:,} {style}")
            for low, high, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts, strict=True)
            if count
        ]
        panels.append(panel._replace(bars=tuple(bars), y_title=f"{style} answers"))
    return Chart(
        "Confidence of right and of wrong answers",
        model,
        "How many answers have which confidence: right ones above, wrong ones below. The two have scales of their "
        "own. The further the wrong ones are to the left, the better does a threshold keep them out.",
        336,
        tuple(panels),
        (Key("right", "box", "right"), Key("wrong", "box", "wrong")),
    )


def _shares_panel(*, top: float, height: float, x_text: bool = True) -> Panel:
    panel = Panel(top, height)
    return panel._replace(
        x_ticks=tuple(Tick(panel.x(share), in_percent(share) if x_text else "") for share in _SHARES),
        y_ticks=tuple(Tick(panel.y(share), in_percent(share)) for share in _SHARES),
    )


def _count_panel(top: float, height: float, largest: int, *, x_text: bool = True) -> Panel:
    panel = Panel(top, height, y_max=nice_count(largest))
    return panel._replace(
        x_title="confidence" if x_text else "",
        y_title="images",
        x_ticks=tuple(Tick(panel.x(share), in_percent(share) if x_text else "") for share in _SHARES),
        y_ticks=tuple(Tick(panel.y(count), f"{count:,.0f}") for count in (0, panel.y_max)),
    )


def _coverage_marks(evaluation: Evaluation, panel: Panel, style: str, *, with_labels: bool) -> list[Mark]:
    marks: list[Mark] = []
    confidence, correct = evaluation.arrays.confidence, evaluation.arrays.correct
    for percent in (99, 95):
        threshold = evaluation.thresholds_for[f"coverage_at_{percent}"]
        share = evaluation.metrics[f"coverage_at_{percent}"].value
        if threshold is None or share is None:
            continue
        risk = 1 - float(correct[confidence >= threshold].mean())
        tip = f"{in_percent(share)} answered with {percent} % right: --threshold {format_threshold(threshold)}"
        x, y, label = panel.x(share), panel.y(risk), f"{percent} %" if with_labels else ""
        if marks and abs(marks[0].x - x) < _LABEL_WIDTH and abs(marks[0].y - y) < _LABEL_HEIGHT:
            marks[0] = marks[0]._replace(label="")
            label = label and "95 %, 99 %"
        marks.append(Mark(x, y, style, tip, label))
    return marks


def _bin_tip(each: ReliabilityBin, confidence: float, accuracy: float) -> str:
    images = f"{each.count:,} image" + ("s" if each.count != 1 else "")
    return f"{images}: {in_percent(accuracy)} right, at {in_percent(confidence)} mean confidence"


def _nice_share(value: float) -> float:
    return next(limit for limit in (0.05, 0.08, 0.12, 0.2, 0.4, 0.5, 0.8, 1.0) if value <= limit or limit == 1)


def in_percent(share: float | None) -> str:
    """Returns a share in percent, without zeros at its end."""
    return "–" if share is None else f"{round(100 * share, 2):g} %"


def nice_count(value: int) -> int:
    """Returns the next round number: 1, 2, 4, 5, 6 or 8 times a power of ten."""
    power = 1
    while True:
        for digit in (1, 2, 4, 5, 6, 8):
            if value <= digit * power:
                return digit * power
        power *= 10


def nice_steps(low: float, high: float) -> list[float]:
    """Returns up to nine round numbers at equal distances, of which the first and the last enclose a range."""
    least = (high - low or abs(high) or 1) / 6
    power = 10.0 ** math.floor(math.log10(least))
    step = next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= least * (1 - _ROUNDING))
    first = math.floor(low / step + _ROUNDING)
    last = max(math.ceil(high / step - _ROUNDING), first + 1)
    digits = 2 - math.floor(math.log10(step))
    return [round(step * number, digits) for number in range(first, last + 1)]
