"""Collector: what it makes of records that tell less than they seem to."""

from __future__ import annotations

import pytest

from imgclassify.evaluation.collector import Collector, truth_of
from imgclassify.evaluation.evaluation import evaluate
from imgclassify.evaluation.labelled import ImageScores, LabelledResult
from imgclassify.evaluation.truth import Truth, TruthClass
from imgclassify.labels import Label, LabelSet
from imgclassify.results import ImageResult, Prediction


@pytest.mark.parametrize(
    ("members", "holds"), [(("tench",), False), (("tench", "crane"), None), (("crane", "crane"), True)]
)
def test_a_set_is_not_judged_by_a_label_of_two_classes(members: tuple[str, ...], holds: bool | None) -> None:
    labels = LabelSet(
        "made up", tuple(Label(index, None, name) for index, name in enumerate(["tench", "crane", "crane"]))
    )
    crane = TruthClass(("crane",), "crane", None, frozenset({1}), is_node=False)
    collector = Collector(Truth("made up", (crane,), (1,), _find=lambda _: 0), labels)
    result = ImageResult("a", "m", 4, 3, (Prediction(1, 1, None, "crane", 0.9),), prediction_set=members)
    collector.add(LabelledResult(result, truth_of(crane), ImageScores(1, 0.9, 0.9, 0.1, 0.02)))
    assert collector.sets == [(len(members), holds)]
    coverage = evaluate(collector, {"model": "m"}, None).to_dict()["sets"]["coverage"]["value"]
    assert coverage == (None if holds is None else float(holds))
