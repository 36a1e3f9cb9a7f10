"""Selects results by their best prediction: under a node of the WordNet tree, or probable enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgclassify.errors import UsageError
from imgclassify.labels.class_names import ClassNames

if TYPE_CHECKING:
    from imgclassify.labels import LabelSet
    from imgclassify.results import ImageResult

__all__ = ["ResultFilter"]


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Selects results by their best prediction. Failed images are always selected, so that none is lost."""

    only: tuple[str, ...] = ()
    """Labels, wnids or nodes of the WordNet tree. If there are any, the best class must be or lie under one."""
    without: tuple[str, ...] = ()
    """The best class must neither be nor lie under any of these."""
    min_probability: float | None = None
    """The best probability must be at least this, 0..1."""
    class_indices: frozenset[int] = frozenset()
    """The classes that `only` and `without` select."""

    @classmethod
    def create(
        cls,
        labels: LabelSet,
        *,
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        min_probability: float | None = None,
    ) -> ResultFilter:
        """Finds the classes that `only` and `without` select.

        Args:
            labels: the labels of the classifier whose results are filtered.

        Raises:
            UsageError: a name is not known or has several meanings, no class is left, or the probability is not
                in 0..1.
        """
        if min_probability is not None and not 0 <= min_probability <= 1:
            raise UsageError(
                f"the smallest probability is {min_probability:g}", hint="give a number from 0 to 1, such as 0.8"
            )
        names = ClassNames(labels)
        selected = names.find_all(only) if only else frozenset(range(len(labels)))
        selected -= names.find_all(without)
        if not selected:
            raise UsageError(
                f"no class is left: all of {', '.join(only) or labels.name} are left out by {', '.join(without)}",
                hint="leave one of the names out",
            )
        return cls(_normalize(only), _normalize(without), min_probability, selected)

    def selects(self, result: ImageResult) -> bool:
        """Whether the result is selected."""
        if result.error:
            return True
        best = result.predictions[0]
        return best.class_index in self.class_indices and best.probability >= (self.min_probability or 0)

    def to_settings(self) -> dict[str, int | str]:
        """Returns the values that two runs must share to write to the same file, by the name of the option."""
        values = {
            "only": ", ".join(self.only),
            "not": ", ".join(self.without),
            "min_probability": "" if self.min_probability is None else f"{self.min_probability:g}",
        }
        return {name: value for name, value in values.items() if value}


def _normalize(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names as two runs compare them: case, order and repetition make no difference."""
    return tuple(sorted({name.strip().casefold() for name in names}))
