"""Where the true classes are."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgclassify.evaluation.truth import Truth
    from imgclassify.labels import LabelSet

_TRUTH = "Truth"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TruthOptions:
    """Where the true class of each image is found."""

    truth: Annotated[
        str | None,
        typer.Option(
            "--truth",
            metavar="KIND|FILE",
            rich_help_panel=_TRUTH,
            show_default=False,
            help="Where the true classes are: folders (the names of the images' folders), names (wnids at the "
            "beginning of file names), or a CSV file with the columns source and class, label, wnid or "
            "class_index. Default: folders or names.",
        ),
    ] = None
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="FILE",
            rich_help_panel=_TRUTH,
            show_default=False,
            help="CSV file of two columns: names in the data, and classes of the model that are right for them. "
            "A node of WordNet, such as dog, stands for all classes under it.",
        ),
    ] = None
    ignore_unknown: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown",
            rich_help_panel=_TRUTH,
            help="Leave out images whose class the model does not have, and count them.",
        ),
    ] = False

    def to_settings(self) -> dict[str, int | str]:
        """Returns the options that records depend on, as settings of their output."""
        from imgclassify.evaluation.truth import KINDS
        from imgclassify.files import describe_content

        values = {
            "truth": self.truth if self.truth in (None, *KINDS) else describe_content(Path(self.truth)),
            "map": self.class_map and describe_content(self.class_map),
            "ignore_unknown": "yes" if self.ignore_unknown else None,
        }
        return {name: value for name, value in values.items() if value}

    def find_truth(self, labels: "LabelSet", names: "Iterable[str]") -> "Truth":
        """Returns the true classes of images with these names.

        Raises:
            UsageError: a name stands for no class or for several, an image has no truth, or a file cannot be read.
            NoImagesError: there are no names.
        """
        from imgclassify.evaluation.truth import find_truth

        return find_truth(
            labels,
            names,
            truth=self.truth,
            map_file=None if self.class_map is None else str(self.class_map),
            ignore_unknown=self.ignore_unknown,
        )
