"""Which results are written."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from imgclassify.labels import LabelSet
    from imgclassify.result_filter import ResultFilter

_RESULTS = "Results"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResultOptions:
    """Which results are written, and whether classes are grouped or counted."""

    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            rich_help_panel=_RESULTS,
            show_default=False,
            help="Write only images whose best class is NAME or lies under it in WordNet: a label, a wnid, "
            "or a node such as dog or vehicle. Repeatable.",
        ),
    ] = None
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="NAME",
            rich_help_panel=_RESULTS,
            show_default=False,
            help="Leave out images whose best class is NAME or lies under it. Repeatable.",
        ),
    ] = None
    min_probability: Annotated[
        float | None,
        typer.Option(
            "--min-probability",
            metavar="P",
            min=0,
            max=1,
            rich_help_panel=_RESULTS,
            show_default=False,
            help="Write only images whose best prediction has at least this probability, 0..1.",
        ),
    ] = None
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="NAMES|FILE",
            rich_help_panel=_RESULTS,
            show_default=False,
            help="Predict groups of classes: dog,cat,bird=n01503061,pet=dog+cat, or a file with two columns, "
            "class and group. Probabilities are added. The rest is the group other. Repeatable.",
        ),
    ] = None
    count: Annotated[
        bool,
        typer.Option(
            "--count",
            rich_help_panel=_RESULTS,
            help="Print how many images have each label. Without --output, no records are written.",
        ),
    ] = False

    @property
    def groups(self) -> str | None:
        """All groups, as the argument of Classifier."""
        return ",".join(self.group) if self.group else None

    def create_filter(self, labels: "LabelSet") -> "ResultFilter | None":
        """Returns the filter of these options; None if they select all results.

        Raises:
            UsageError: a name is not known or has several meanings, or no class is left.
        """
        if not self.only and not self.without and self.min_probability is None:
            return None
        from imgclassify.result_filter import ResultFilter

        return ResultFilter.create(
            labels, only=self.only or (), without=self.without or (), min_probability=self.min_probability
        )
