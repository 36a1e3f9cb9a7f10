"""How far answers can be trusted."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli.option_values import complete_from

if TYPE_CHECKING:
    from imgclassify.confidence.assessment_options import AssessmentOptions

_CONFIDENCE = "Confidence"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CalibrationOptions:
    """Whether probabilities are calibrated."""

    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrated",
            rich_help_panel=_CONFIDENCE,
            help="Calibrate the probabilities with what is known of these weights: from imgclassify calibrate, or "
            "published.",
        ),
    ] = False
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Calibrate the probabilities with a file of imgclassify calibrate.",
        ),
    ] = None

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier."""
        return {"calibration": self.calibrated if self.calibration is None else self.calibration}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConfidenceOptions(CalibrationOptions):
    """How far answers can be trusted."""

    at_least: Annotated[
        float | None,
        typer.Option(
            "--at-least",
            metavar="P",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Answer with the most specific class or node of WordNet, such as dog, whose probability is at "
            "least P, 0..1.",
        ),
    ] = None
    tree: Annotated[
        Path | None,
        typer.Option(
            "--tree",
            metavar="FILE",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Tree of the classes for --at-least, instead of WordNet: a file with the columns class and "
            "parent, or class and ranks.",
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="P",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Answer only if the best class has at least probability P, 0..1, and else not sure.",
        ),
    ] = None
    sets: Annotated[
        float | None,
        typer.Option(
            "--sets",
            metavar="COVERAGE",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Add a set of classes that holds the true class with this probability, 0..1. Needs a calibration.",
        ),
    ] = None
    set_method: Annotated[
        str,
        typer.Option(
            "--set-method",
            autocompletion=complete_from(["lac", "raps"]),
            metavar="NAME",
            rich_help_panel=_CONFIDENCE,
            help="Kind of the sets: lac, which are smallest on average, or raps, which are larger for hard images.",
        ),
    ] = "lac"
    unfamiliar: Annotated[
        bool,
        typer.Option(
            "--unfamiliar",
            rich_help_panel=_CONFIDENCE,
            help="Add a score of how unlike the images of known classes an image is.",
        ),
    ] = False

    @property
    def fields(self) -> set[str]:
        """The fields of a record that are wanted, of records.OPTIONAL_FIELDS.

        Raises:
            UsageError: a value is out of its range, or two options exclude each other.
        """
        assessment = self._check()
        return assessment.fields if assessment else set()

    def to_settings(self) -> dict[str, int | str]:
        """Returns the options that records depend on, as settings of their output."""
        assessment = self._check()
        return assessment.to_settings() if assessment else {}

    @property
    def assessment(self) -> "AssessmentOptions":
        """The options, checked. Raises as `fields` does."""
        from imgclassify.confidence.assessment_options import AssessmentOptions

        return AssessmentOptions(**self._assessment_arguments())

    def _check(self) -> "AssessmentOptions | None":
        """Returns the options, checked. None if none is given: then nothing is imported."""
        is_given = self._assessment_arguments() != ConfidenceOptions()._assessment_arguments()
        return self.assessment if is_given else None

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier."""
        return {**CalibrationOptions.classifier_arguments(self), **self._assessment_arguments()}

    def _assessment_arguments(self) -> dict[str, Any]:
        names = ("at_least", "tree", "threshold", "sets", "set_method", "unfamiliar")
        return {name: getattr(self, name) for name in names}
