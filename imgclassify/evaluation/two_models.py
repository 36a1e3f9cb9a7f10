"""Compares the evaluations of two models on the same images."""

from __future__ import annotations

from typing import Any, NamedTuple

from imgclassify.errors import UsageError
from imgclassify.evaluation.agreement import McNemar, accuracy_difference, mcnemar
from imgclassify.evaluation.evaluation import Evaluation
from imgclassify.evaluation.intervals import Estimate, mean

__all__ = ["ModelComparison", "compare_evaluations"]


class ModelComparison(NamedTuple):
    """How two models differ on the images that both have predictions for."""

    models: tuple[str, str]
    images: int
    differences: dict[str, Estimate]
    """The first model's figure less the second's, by name: "acc1", "acc5", "nll", "brier". Its value is None if one
    of them lacks the figure."""
    test: McNemar

    def to_dict(self) -> dict[str, Any]:
        return {
            "models": list(self.models),
            "images": self.images,
            "differences": {name: each.to_dict() for name, each in self.differences.items()},
            "mcnemar": self.test.to_dict(),
        }


def compare_evaluations(first: Evaluation, second: Evaluation) -> ModelComparison:
    """Compares two evaluations.

    Raises:
        UsageError: they have no image in common.
    """
    import numpy as np

    places = {source: index for index, source in enumerate(second.sources)}
    pairs = [(index, places[source]) for index, source in enumerate(first.sources) if source in places]
    if not pairs:
        raise UsageError("the two models have no image in common", hint="see the errors above")
    columns = np.array(pairs).T
    a, b = (
        [column[rows] for column in (each.correct, each.rank, each.nll, each.brier)]
        for each, rows in zip((first.arrays, second.arrays), columns, strict=True)
    )
    top_five = [(rank >= 1) & (rank <= 5) for rank in (a[1], b[1])]
    differences = {
        "acc1": accuracy_difference(a[0], b[0]),
        "acc5": accuracy_difference(*top_five),
        "nll": mean(a[2] - b[2]),
        "brier": mean(a[3] - b[3]),
    }
    return ModelComparison(
        models=(str(first.run.get("model")), str(second.run.get("model"))),
        images=len(pairs),
        differences={
            name: Estimate(None) if None in (first.metrics[name].value, second.metrics[name].value) else difference
            for name, difference in differences.items()
        },
        test=mcnemar(a[0], b[0]),
    )
