"""The figures of an evaluation in words: what each is, and how to read it."""

from __future__ import annotations

import math
from typing import NamedTuple

from imgclassify.evaluation.intervals import Estimate


class Figure(NamedTuple):
    """A figure of an evaluation."""

    name: str
    """As in a table on a terminal."""
    title: str
    text: str
    """One sentence or two for somebody who does not know it."""
    is_share: bool = True


FIGURES = {
    "acc1": Figure(
        "acc@1", "Accuracy (acc@1)", "The share of images whose most probable class is right. Higher is better."
    ),
    "acc5": Figure(
        "acc@5",
        "Top-5 accuracy (acc@5)",
        "The share of images whose true class is among the five most probable. Higher is better.",
    ),
    "acc1_with_failed": Figure(
        "acc@1, failed count as wrong",
        "Accuracy, failed images count as wrong",
        "As acc@1, but of all images, so that it does not help a model to fail on the hard ones.",
    ),
    "balanced_accuracy": Figure(
        "balanced accuracy",
        "Balanced accuracy",
        "The mean of the recalls of the classes: each class counts the same, however many images it has.",
    ),
    "nll": Figure(
        "NLL",
        "Negative log-likelihood (NLL)",
        "The mean of −ln of the true class's probability. Lower is better; 0 is certain and always right. "
        "Confident mistakes cost most.",
        is_share=False,
    ),
    "brier": Figure(
        "Brier score",
        "Brier score",
        "The mean squared distance of the probabilities from the truth, from 0 (perfect) to 2 (certain and wrong).",
        is_share=False,
    ),
    "ece": Figure(
        "ECE",
        "Expected calibration error (ECE)",
        "How far confidence and accuracy are apart, on average over 15 bins of confidence. 0 means that of the "
        "answers with 80 % confidence, 80 % are right.",
    ),
    "ece_equal_mass": Figure(
        "ECE, equal-mass bins",
        "ECE, bins of equal size",
        "The same over 15 bins with as many images each, which depends less on a few images.",
    ),
    "aurc": Figure(
        "AURC",
        "Area under risk and coverage (AURC)",
        "The mean share of wrong answers while more and more images are answered, the most confident first. "
        "Lower is better; 0 is perfect.",
        is_share=False,
    ),
    "coverage_at_95": Figure(
        "answered at 95 % right",
        "Answered with 95 % right",
        "The largest share of images that a threshold lets through while 95 % of the answers are right.",
    ),
    "coverage_at_99": Figure(
        "answered at 99 % right",
        "Answered with 99 % right",
        "The largest share of images that a threshold lets through while 99 % of the answers are right.",
    ),
    "hierarchical_distance": Figure(
        "height of mistakes in the tree",
        "Height of mistakes in the tree",
        "How far up the tree of classes one must go from a wrong answer to reach a node that is right, on average "
        "over the mistakes. Lower means milder mistakes.",
        is_share=False,
    ),
}
"""By the name in the document, in the order of the page."""

ANSWER_FIGURES = {
    "right": Figure(
        "answers that are right",
        "Answers that are right",
        "The share of answers, without the unsure ones, that are the true class or a node above it.",
    ),
    "leaf": Figure(
        "answers: the class itself",
        "Answered with the class itself",
        "The share of images that get the most specific answer.",
    ),
    "rollup": Figure(
        "answers: a node above it",
        "Answered with a node above it",
        "The share of images that get a wider answer, such as “dog”.",
    ),
    "unsure": Figure("answers: not sure", "Not sure", "The share of images that get no answer."),
    "bits": Figure(
        "bits in an answer",
        "Bits in an answer",
        "How specific the answers are on average: 0 says nothing.",
        is_share=False,
    ),
}
"""What `--at-least` and `--threshold` lead to, as `Evaluation.answers` has it."""

SET_FIGURES = {
    "coverage": Figure(
        "sets that hold the truth",
        "Sets that hold the truth",
        "The share of images whose set of classes (--sets) has the true one in it.",
    ),
    "size": Figure(
        "classes in a set",
        "Classes in a set",
        "How many classes a set has on average. Fewer say more.",
        is_share=False,
    ),
}
"""What `--sets` leads to, as `Evaluation.sets` has it."""


def format_value(value: float | None, *, is_share: bool) -> str:
    """Returns a share in percent, and another number with four decimals."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{100 * value:.2f} %" if is_share else f"{value:.4f}"


def format_threshold(value: float) -> str:
    """Returns a threshold with four decimals, rounded down, so that what has reached it still does."""
    floor = math.floor(value * 10_000) / 10_000
    return f"{floor:g}" if floor else f"{value:.4g}"


def format_interval(estimate: Estimate, *, is_share: bool) -> str:
    """Returns the 95 % interval, or "" if there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = (format_value(each, is_share=is_share).removesuffix(" %") for each in estimate[1:])
    return f"{low} … {high}" + (" %" if is_share else "")


def format_difference(estimate: Estimate, *, is_share: bool) -> tuple[str, str]:
    """Returns a difference and its 95 % interval, both with signs. Shares differ by percentage points."""
    if estimate.value is None or not math.isfinite(estimate.value):
        return "–", ""
    scale, digits, unit = (100, 2, " points") if is_share else (1, 4, "")
    value, *limits = (
        None if each is None else f"{scale * each:+.{digits}f}".replace("-", "−") for each in estimate
    )
    return f"{value}{unit}", " … ".join(each for each in limits if each is not None)
