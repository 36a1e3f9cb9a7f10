"""Files of calibrations of any content: one that is read is sound and serves an image, all others are refused."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import harness
from fuzz.harness import FindingError, Input, Target
from fuzz.mutations import mutated
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from imgclassify.confidence.assessment import Assessor
from imgclassify.confidence.assessment_options import AssessmentOptions
from imgclassify.confidence.calibration import Calibration, Familiar, SetScores, Threshold
from imgclassify.confidence.scoring import choose_scorer, learn_familiar
from imgclassify.errors import UsageError
from imgclassify.labels import Label, LabelSet

CLASSES, LENGTH, IMAGES = 3, 4, 12
LABELS = LabelSet("three", tuple(Label(number, None, name) for number, name in enumerate(("a", "b", "c"))))
PROBABILITIES = np.array([0.7, 0.2, 0.1], np.float32)
HEAD = np.arange(CLASSES * LENGTH, dtype=np.float32).reshape(CLASSES, LENGTH)
RUN = {"model": "tiny", "weights": {"name": "x", "sha256": "ab" * 32}, "preprocess": {}, "num_classes": CLASSES}


def _valid() -> dict[str, Calibration]:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1] * CLASSES, IMAGES).astype(np.float32)
    features = generator.random((IMAGES, LENGTH)).astype(np.float32)
    scores = tuple(np.sort(generator.random(IMAGES)).tolist())
    figure = {"before": {"value": 0.2, "low": 0.1, "high": 0.3}, "after": {"value": 0.1, "low": None, "high": None}}

    def made(familiar: Familiar | None) -> Calibration:
        return Calibration(
            origin="x.json",
            temperature=0.8,
            images=IMAGES,
            figures={"ece": figure, "nll": figure},
            belongs_to=RUN,
            thresholds=(Threshold(0.9, 0.5, 0.3),),
            rollup_thresholds=(Threshold(0.9, 0.4, 0.6),),
            sets=SetScores(scores, scores, 0.01, 5),
            familiar=familiar,
            details={"version": "1.2.3", "truth": {"file": None}},
        )

    return {
        "nci+neighbours": made(learn_familiar(probabilities, features, HEAD)),
        "gen+neighbours": made(learn_familiar(probabilities, features, None)),
        "gen": made(learn_familiar(probabilities, None, None)),
        "bare": replace(made(None), sets=None, thresholds=(), rollup_thresholds=()),
    }


@cache
def seeds() -> dict[str, bytes]:
    return {name: json.dumps(each.to_dict(), indent=1).encode() for name, each in _valid().items()}


def _places(value: Any, *keys: Any) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value of a document."""
    yield keys
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(each, *keys, key)


def _look_up(value: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value


_VALUES = st.one_of(
    st.sampled_from([None, True, "", "gen", "nci", [], {}, 0, -1, 1, 2**31, 10**400]),
    st.floats(allow_nan=True),
    st.integers(-5, 50),
    st.text(max_size=3),
)


@st.composite
def exchanged(draw: DrawFn) -> Input:
    """A file that is JSON, with one to three values in place of others: of the same file, or any."""
    name = draw(st.sampled_from(sorted(seeds())))
    document = json.loads(seeds()[name])
    for _ in range(draw(st.integers(1, 3))):
        places = [keys for keys in _places(document) if keys]
        *before, last = draw(st.sampled_from(places))
        other = _look_up(document, draw(st.sampled_from(places))) if draw(st.booleans()) else draw(_VALUES)
        _look_up(document, tuple(before))[last] = copy.deepcopy(other)
    return Input(name, json.dumps(document).encode())


def attempt(given_input: Input) -> str:
    """What becomes of it: "read" or "refused"."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(given_input.content)
        try:
            calibration = Calibration.read(path)
        except UsageError as error:
            if not error.hint or len(str(error)) > 400:
                raise FindingError("an error without a hint, or too long to read") from error
            return "refused"
        _check_serves(calibration)
        again = path.with_name("again.json")
        calibration.write(again)
        if Calibration.read(again).to_dict() != calibration.to_dict():
            raise FindingError("it reads back as another one")
    return "read"


def _check_serves(calibration: Calibration) -> None:
    """An image is assessed with it."""
    calibration.describe()
    calibration.differences(RUN)
    calibration.to_run()
    if not np.isfinite(PROBABILITIES / np.float32(calibration.temperature)).all():
        raise FindingError("its temperature leaves no numbers")
    for method in ("raps", "lac"):
        try:
            scorer = choose_scorer(calibration, has_features=True, head_weight=HEAD, mean=None)
            options = AssessmentOptions(sets=0.5, set_method=method, unfamiliar=True)
            found = Assessor(options, LABELS, calibration, scorer).assess(
                PROBABILITIES, PROBABILITIES, HEAD[0] / LENGTH
            )
        except UsageError:
            continue
        if not found.prediction_set or found.unfamiliar is None or not found.unfamiliar.is_sound():
            raise FindingError("it gives no sound answer")


def target() -> Target:
    return Target("calibrations", st.one_of(mutated(seeds()), exchanged()), attempt)


if __name__ == "__main__":
    harness.main(target())
