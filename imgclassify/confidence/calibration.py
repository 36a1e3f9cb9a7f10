"""A calibration: what was learned from labelled images about the outputs of one model, and its file."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from imgclassify.catalog import PublishedTemperature
from imgclassify.errors import UsageError, describe_error
from imgclassify.files import atomic_write, is_pipe_or_device
from imgclassify.paths import calibration_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.results import RunInfo

__all__ = [
    "SCHEMA",
    "Calibration",
    "Familiar",
    "SetScores",
    "Threshold",
    "find_calibration",
    "user_calibration_path",
]

SCHEMA = "imgclassify.calibration/1"
"""Identifies the structure of the file. A breaking change increases the number."""
MAX_FILE_BYTES = 64 * 2**20
"""Larger files are refused. The scores of 50,000 images and the features of 1,000 take less than 10 MB."""

_HINT = "give a file that `imgclassify calibrate` wrote"
_BOUND_TO = ("weights", "preprocess", "num_classes", "activation", "options")
"""Keys of RunInfo.to_dict that must be the same for a calibration to hold. Engine, device and dtype change only the
last digits, and labels only the names."""


class SetScores(NamedTuple):
    """The conformity scores of the images of a calibration, for prediction sets (prediction_sets.py)."""

    lac: tuple[float, ...]
    """Ascending."""
    raps: tuple[float, ...]
    """Ascending."""
    penalty: float
    """Of RAPS."""
    k_reg: int
    """Of RAPS."""


class Familiar(NamedTuple):
    """How familiar images look to the network (unfamiliarity.py)."""

    method: str
    """How they are measured: one of scoring.METHODS."""
    scores: tuple[float, ...]
    """How strange they are, ascending, for percentiles."""
    features: NDArray[np.float32] | None
    """(N, D): the features of up to MAX_FEATURES of them. None if the method needs none."""
    answer_scores: tuple[float, ...] | None
    """(N,): how strange the answers of these are. None if the method needs none."""


class Threshold(NamedTuple):
    """What must be reached for an answer, so that answers are right often enough."""

    accuracy: float
    """The share of right answers, 0..1, among those that reach it."""
    threshold: float
    """0..1."""
    answered: float
    """The share of the images of the calibration that reach it, 0..1."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was learned from labelled images about the outputs of one model."""

    origin: str
    """Where it comes from, for people: the path of a file, "the catalog", or "the user's settings"."""
    temperature: float
    """The logits are divided by it before the softmax."""
    images: int | None
    """How many images it was learned from. None if the publisher does not say."""
    figures: Mapping[str, Mapping[str, Any]]
    """"ece" and "nll": each with "before" and "after", with `value`, `low` and `high`."""
    source: str = ""
    """Who measured a published temperature, and on which images."""
    belongs_to: Mapping[str, Any] | None = None
    """The run of the model that it belongs to, as RunInfo.to_dict has it. None for a published temperature: the
    catalog binds it to its weights."""
    thresholds: tuple[Threshold, ...] = ()
    """For `threshold`: the probability of the best class."""
    rollup_thresholds: tuple[Threshold, ...] = ()
    """For `at_least`: the probability of a node."""
    sets: SetScores | None = None
    familiar: Familiar | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the file says: version, truth, validation."""

    @classmethod
    def from_published(cls, published: PublishedTemperature) -> Self:
        """Returns the calibration of a catalogued model."""
        ece = {"before": {"value": published.ece_before}, "after": {"value": published.ece_after}}
        return cls("the catalog", published.temperature, None, {"ece": ece}, source=published.source)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the file that `write` wrote.

        Raises:
            UsageError: it cannot be read, or is no such file.
        """
        try:
            if is_pipe_or_device(path):
                raise ValueError("it is a pipe or a device")
            with path.open("rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError as error:
            raise UsageError(f"the calibration {str(path)!r} does not exist", hint=_HINT) from error
        except (OSError, ValueError) as error:
            raise UsageError(f"{str(path)!r} is not a calibration: {describe_error(error)}", hint=_HINT) from error
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: str | bytes, origin: str) -> Self:
        """Returns the calibration in the content of a file that `write` wrote.

        Raises:
            UsageError: it is no such content.
        """
        try:
            if len(content) > MAX_FILE_BYTES:
                raise ValueError(f"it has more than {MAX_FILE_BYTES:,} bytes")
            value = json.loads(content)
            if not isinstance(value, dict) or value.get("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            return cls(**_parse(value), origin=origin)
        except RecursionError as error:
            raise UsageError(f"{origin!r} is not a calibration: it is nested too deeply", hint=_HINT) from error
        except ValueError as error:
            raise UsageError(f"{origin!r} is not a calibration: {describe_error(error)}", hint=_HINT) from error

    def write(self, path: Path) -> None:
        """Writes the file, which replaces an earlier one only when it is whole.

        Raises:
            UsageError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as draft:
                # Escaped to ASCII, because a file name in it need not be valid UTF-8.
                draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")
        except OSError as error:
            raise UsageError(
                f"cannot write {str(path)!r}: {describe_error(error)}", hint="choose another --output"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the file (docs/confidence.md)."""
        sets, familiar = self.sets, self.familiar
        return {
            "schema": SCHEMA,
            **self.details,
            "run": self.belongs_to,
            "images": self.images,
            "temperature": self.temperature,
            **self.figures,
            "thresholds": [each._asdict() for each in self.thresholds],
            "rollup_thresholds": [each._asdict() for each in self.rollup_thresholds],
            "sets": None if sets is None else sets._asdict(),
            "familiar": None
            if familiar is None
            else {
                **familiar._asdict(),
                "features": None if familiar.features is None else _pack(familiar.features),
            },
        }

    def to_run(self) -> dict[str, Any]:
        """Returns RunInfo.calibration: what a reader of the results must know of it."""
        ece = self.figures.get("ece", {})
        return {
            "temperature": self.temperature,
            "origin": self.origin,
            "source": self.source or None,
            "images": self.images,
            "ece_before": ece.get("before", {}).get("value"),
            "ece_after": ece.get("after", {}).get("value"),
        }

    def describe(self) -> str:
        """Returns it in words: the temperature, and what it does to the calibration error."""
        before, after = (self.figures.get("ece", {}).get(name, {}).get("value") for name in ("before", "after"))
        change = (
            ""
            if None in (before, after)
            else f", which brings the ECE from {100 * before:.2f} to {100 * after:.2f} %"
        )
        learned = f", from {self.images:,} images" if self.images else ""
        return f"temperature {self.temperature:.4g} of {self.origin}{learned}{change}"

    def differences(self, run: Mapping[str, Any]) -> list[str]:
        """Returns what a run has other than the model that this calibration belongs to, a text for each.

        Args:
            run: RunInfo.to_dict.
        """
        if self.belongs_to is None:
            return []
        now, texts = run, []
        for key in _BOUND_TO:
            was, is_now = self.belongs_to.get(key), now.get(key)
            if key == "weights":
                was, is_now = (value.get("sha256") if isinstance(value, dict) else None for value in (was, is_now))
                if was is None or was != is_now:
                    texts.append(f"the SHA-256 of its weights is {_shorten(was)}, and of these {_shorten(is_now)}")
            elif was != is_now:
                texts.append(f"its {key} was {_differing(was, is_now)} and is now {_differing(is_now, was)}")
        return texts

    def require_run(self, run: Mapping[str, Any]) -> None:
        """Checks that it belongs to the model of a run.

        Args:
            run: RunInfo.to_dict.

        Raises:
            UsageError: it is of other weights, or of another preprocessing.
        """
        if differences := self.differences(run):
            raise UsageError(
                f"the calibration {self.origin!r} does not belong to {run.get('model')}: {'; '.join(differences)}",
                hint="give the model and options it was made with, or run `imgclassify calibrate` with these",
            )


def user_calibration_path(weights_sha256: str) -> Path:
    """Returns where `imgclassify calibrate` keeps the calibration of some weights if no file is named."""
    return calibration_path(weights_sha256)


def find_calibration(
    run: RunInfo, published: PublishedTemperature | None, of_model: str | None = None
) -> Calibration | None:
    """Returns the calibration that is known for the model of a run.

    The user's own comes before one in the model's files, and that before a published one.

    Args:
        published: the temperature of the model in the catalog, if there is one for this preprocessing.
        of_model: the text of a calibration that is in the model's own files.

    Raises:
        UsageError: the user's file, or the model's, is damaged.
    """
    if run.weights_sha256:
        path = user_calibration_path(run.weights_sha256)
        if path.is_file():
            try:
                own = Calibration.read(path)
            except UsageError as error:
                raise UsageError(
                    str(error), hint="remove it, or replace it: `imgclassify calibrate FOLDER --overwrite`"
                ) from error
            if not own.differences(run.to_dict()):
                return replace(own, origin="the user's settings")
    if of_model is not None:
        found = Calibration.parse(of_model, f"the calibration of {run.model}")
        if not found.differences(run.to_dict()):
            return found
    return Calibration.from_published(published) if published else None


_KEYS = (
    *("schema", "run", "images", "temperature", "ece", "nll"),
    *("thresholds", "rollup_thresholds", "sets", "familiar"),
)
_LARGEST_SCORE = 1e100
"""No network's answer has such a score. The squares of larger ones would overflow."""

_NEEDS_FEATURES = {"nci+neighbours": True, "gen+neighbours": True, "gen": False}
"""The methods of a familiar: whether they need the features of images."""


def _parse(value: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of Calibration. Raises ValueError for a wrong value, and names its field."""
    from imgclassify.confidence.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE  # a table needs no file

    parsers: dict[str, Callable[[Any], Any]] = {
        "run": _parse_run,
        "temperature": lambda each: _number(each, MIN_TEMPERATURE, MAX_TEMPERATURE),
        "images": lambda each: _integer(each, least=1),
        "ece": _parse_figure,
        "nll": _parse_figure,
        "thresholds": lambda each: tuple(map(_parse_threshold, each)),
        "rollup_thresholds": lambda each: tuple(map(_parse_threshold, each)),
        "sets": lambda each: None if each is None else _parse_sets(each),
        "familiar": lambda each: None if each is None else _parse_familiar(each),
    }
    parsed = {}
    for name, parse in parsers.items():
        try:
            parsed[name] = parse(value[name])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            reason = f": {error}" if isinstance(error, ValueError) else ""
            raise ValueError(f"its field {name} is missing or invalid{reason}") from error
    return {
        "belongs_to": parsed.pop("run"),
        "figures": {name: parsed.pop(name) for name in ("ece", "nll")},
        **parsed,
        "details": {name: each for name, each in value.items() if name not in _KEYS},
    }


def _parse_run(value: dict[str, Any]) -> dict[str, Any]:
    if type(value["weights"]["sha256"]) is not str:
        raise ValueError("it does not say which weights it is of")
    return dict(value)


def _parse_figure(value: dict[str, Any]) -> dict[str, Any]:
    for part in (value["before"], value["after"]):
        for name in ("value", "low", "high"):
            if part[name] is not None:
                _number(part[name])
    return dict(value)


def _parse_threshold(value: dict[str, Any]) -> Threshold:
    return Threshold(*(_number(value[name], 0) for name in ("accuracy", "threshold", "answered")))


def _parse_sets(value: dict[str, Any]) -> SetScores:
    lac, raps = _scores(value["lac"]), _scores(value["raps"])
    return SetScores(lac, raps, _number(value["penalty"], 0), _integer(value["k_reg"], least=0))


def _parse_familiar(value: dict[str, Any]) -> Familiar:
    method, scores = value["method"], _scores(value["scores"])
    if not _NEEDS_FEATURES[method]:
        return Familiar(method, scores, None, None)
    features, answer_scores = _unpack(value["features"]), value["answer_scores"]
    answer_scores = tuple(_number(each, -_LARGEST_SCORE, _LARGEST_SCORE) for each in answer_scores)
    if len(features) != len(answer_scores) or len(features) < 2:
        raise ValueError(f"{len(features)} features and {len(answer_scores)} scores of answers do not fit")
    return Familiar(method, scores, features, answer_scores)


def _number(value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{_abbreviate(value)} is no number" + ("" if math.isinf(least) else " in its range"))
    return float(value)


def _integer(value: Any, *, least: int) -> int:
    if type(value) is not int or not least <= value < 2**31:
        raise ValueError(f"{_abbreviate(value)} is no integer from {least} to 2^31")
    return value


def _abbreviate(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _scores(values: list[Any]) -> tuple[float, ...]:
    numbers = tuple(map(_number, values))
    if not numbers or list(numbers) != sorted(numbers):
        raise ValueError("there are no scores, or they are not in order")
    return numbers


def _pack(features: NDArray[np.float32]) -> dict[str, Any]:
    import numpy as np

    halved = features.astype("<f2")
    if not np.isfinite(halved).all():
        raise UsageError("the features are too large for a calibration in float16", hint="use another model")
    return {"dtype": "float16", "shape": list(halved.shape), "base64": base64.b64encode(halved.tobytes()).decode()}


def _unpack(value: dict[str, Any]) -> NDArray[np.float32]:
    import numpy as np

    rows, columns = (_integer(each, least=1) for each in value["shape"])
    try:
        content = base64.b64decode(value["base64"], validate=True)
    except binascii.Error as error:
        raise ValueError("its features are damaged") from error
    if value["dtype"] != "float16" or len(content) != 2 * rows * columns:
        raise ValueError("its features are not of this shape")
    features = np.frombuffer(content, "<f2").reshape(rows, columns).astype(np.float32)
    if not np.isfinite(features).all():
        raise ValueError("its features are not numbers")
    return features


def _shorten(digest: object) -> str:
    return f"{digest[:12]}…" if isinstance(digest, str) else "none"


def _differing(value: Any, other: Any) -> str:
    """Returns the part of a value that differs from another one."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {key: each for key, each in value.items() if each != other.get(key)}
    return "not given" if value is None else repr(value)
