"""Defines the results of classification: predictions, errors and the facts of a run, as frozen dataclasses.

They contain no tensors. The code that writes them is in output/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from imgclassify.errors import make_printable

SCHEMA = "imgclassify.run/1"
"""Names the schema of a run document and its records. A breaking change increases the number."""

_HTML_MAX_ROWS = 20
_HTML_ROW = (
    '<tr><td style="text-align:left">{0}</td><td style="text-align:right;white-space:nowrap">{1:.2f} %</td>'
    # The bar has the colour of the text, so that it shows on a dark background too.
    '<td style="width:12em"><div style="width:{1:.1f}%;height:0.8em;background:currentColor;opacity:0.5"></div>'
    "</td></tr>"
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class that the network predicts for an image."""

    rank: int
    """1 is the most probable."""
    class_index: int
    """0-based position among the network's logits, or among the groups if classes are grouped."""
    wnid: str | None
    """WordNet id such as "n02099601". None if the label set has none."""
    label: str
    """The name of the class, for people."""
    probability: float
    """0..1. Those of all classes sum to 1, unless RunInfo.multi_label is set."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "class_index": self.class_index,
            "wnid": self.wnid,
            "label": self.label,
            "probability": self.probability,
        }


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """Why an image has no predictions."""

    type: str
    """One of the words listed in `errors`, such as "corrupt_image"."""
    message: str

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "message": self.message}


ANSWER_KINDS = ("leaf", "rollup", "unsure")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered of an image if the most probable class may be too unsure an answer."""

    kind: str
    """"leaf": the most probable class. "rollup": a node of the tree above it. "unsure": nothing."""
    wnid: str | None
    """None if "unsure", or if the node has none."""
    label: str | None
    """None if "unsure"."""
    probability: float
    """0..1: of the class, or the sum of the classes under the node. If "unsure", of the most probable class."""

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "wnid": self.wnid, "label": self.label, "probability": self.probability}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        # Formats without structs have an empty text in place of null.
        return cls(**{**values, "wnid": values["wnid"] or None, "label": values["label"] or None})

    def is_sound(self) -> bool:
        """Whether each field has a value that it can have."""
        return (
            self.kind in ANSWER_KINDS
            and (self.label is None) == (self.kind == "unsure")
            and all(type(text) is str for text in (self.wnid or "", self.label or ""))
            and type(self.probability) in (float, int)
            and 0 <= self.probability <= 1
        )


@dataclass(frozen=True, slots=True)
class Unfamiliarity:
    """How unlike the images of known classes an image is."""

    score: float
    """The higher, the stranger. Its scale depends on the model and the method (RunInfo.unfamiliar)."""
    percentile: float | None
    """0..100: how many of the familiar images of a calibration have a lower score. None without them."""

    def to_dict(self) -> dict[str, Any]:
        return {"score": self.score, "percentile": self.percentile}

    def is_sound(self) -> bool:
        """Whether each field has a value that it can have."""
        share = 0 if self.percentile is None else self.percentile
        return (
            all(type(number) in (float, int) for number in (self.score, share))
            and isfinite(self.score)
            and 0 <= share <= 100
        )


_NUMBERS, _FLAGS = ("frames", "frame"), ("approximate", "damaged")


def flags_of(record: Any) -> dict[str, bool]:
    """Returns the flags of a record that are set. A record does not have the others."""
    return {name: True for name in _FLAGS if getattr(record, name)}


def read_later_fields(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a record that it may lack: flags, and what earlier versions did not write.

    Raises:
        ValueError: one has an invalid value.
    """
    found = {name: record[name] for name in (*_NUMBERS, *_FLAGS) if record.get(name) is not None}
    for name, value in found.items():
        if type(value) is not (int if name in _NUMBERS else bool) or value < 0:
            raise ValueError(f"{name} is {value!r}")
    return found


def _read_texts(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if type(value) is not list:  # the letters of a text would be texts as well
        raise ValueError(f"{value!r} is no list")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The record of one image. It has either predictions or an error."""

    source: str
    """The name that stands for the image: a path, a URL, `archive!member`, or "-"."""
    model: str
    width: int | None
    """Pixels, after EXIF orientation. None if the image could not be opened."""
    height: int | None
    predictions: tuple[Prediction, ...]
    """Most probable first."""
    error: ImageFailure | None = None
    approximate: bool = False
    """Whether the image is a strip so long that resizing it only approximates the model's own pipeline."""
    frames: int | None = None
    """How many frames or pages the file has. None if there is an error, or if the image was in memory."""
    frame: int | None = None
    """Which of them was classified, from 1. None as for `frames`."""
    damaged: bool = False
    """Whether a part of the image is missing, and `decode_damaged` was set."""
    answer: Answer | None = None
    """None unless the run may answer with a node above the best class, or not at all (docs/confidence.md)."""
    prediction_set: tuple[str, ...] | None = None
    """Labels, the most probable first. None unless the run has prediction sets."""
    unfamiliar: Unfamiliarity | None = None
    """None unless the run measures it."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as all machine-readable formats contain it (docs/output.md)."""
        record: dict[str, Any] = {
            "source": self.source,
            "model": self.model,
            "width": self.width,
            "height": self.height,
            "frames": self.frames,
            "frame": self.frame,
            "predictions": [prediction.to_dict() for prediction in self.predictions],
            "error": self.error.to_dict() if self.error else None,
        }
        if self.answer:
            record["answer"] = self.answer.to_dict()
        if self.prediction_set is not None:
            record["set"] = list(self.prediction_set)
        if self.unfamiliar:
            record["unfamiliar"] = self.unfamiliar.to_dict()
        return record | flags_of(self)

    def _repr_html_(self) -> str:
        """Shows the result in a notebook: its predictions as a table with bars, or its error."""
        from html import escape  # only notebooks need it

        size = f"{self.width} × {self.height}, " if self.width else ""
        name = escape(make_printable(self.source))
        head = f'<b style="overflow-wrap:anywhere">{name}</b><br>{size}{escape(make_printable(self.model))}'
        if self.error:
            reason = f"{self.error.type}: {make_printable(self.error.message)}"
            return f"<div>{head}<br>✗ {escape(reason)}</div>"
        rows = [
            _HTML_ROW.format(escape(make_printable(each.label)), 100 * each.probability)
            for each in self.predictions[:_HTML_MAX_ROWS]
        ]
        if hidden := len(self.predictions) - len(rows):
            rows.append(f'<tr><td style="text-align:left">and {hidden} more</td><td></td><td></td></tr>')
        said = "".join(f"<br>{escape(make_printable(text))}" for text in self._describe_confidence())
        return f"<div>{head}{said}<table>{''.join(rows)}</table></div>"

    def _describe_confidence(self) -> Iterator[str]:
        """Yields what is said of the image beside its predictions."""
        if self.answer:
            percent = "" if self.answer.label is None else f" {100 * self.answer.probability:.2f} %"
            yield f"answer: {self.answer.label or 'not sure'}{percent}"
        if self.prediction_set is not None:
            yield f"set: {', '.join(self.prediction_set)}"
        if self.unfamiliar:
            share = self.unfamiliar.percentile
            beside = "" if share is None else f", stranger than {share:.1f} % of the familiar images"
            yield f"unfamiliar: score {self.unfamiliar.score:.4g}{beside}"

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """Creates a result from its record, the inverse of `to_dict`.

        Raises:
            ValueError: the record is incomplete or invalid.
        """
        try:
            result = cls(
                source=record["source"],
                model=record["model"],
                width=record["width"],
                height=record["height"],
                predictions=tuple(Prediction(**fields) for fields in record["predictions"]),
                error=None if record["error"] is None else ImageFailure(**record["error"]),
                **read_later_fields(record),
                answer=None if record.get("answer") is None else Answer.from_dict(record["answer"]),
                prediction_set=_read_texts(record.get("set")),
                unfamiliar=None if record.get("unfamiliar") is None else Unfamiliarity(**record["unfamiliar"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("it lacks a field, or has an unknown one") from error
        if not result._is_sound():
            raise ValueError("a field has an invalid value")
        return result

    def _is_sound(self) -> bool:
        texts: list[object] = [self.source, self.model]
        numbers: list[object] = []
        for each in self.predictions:
            texts += [each.label, each.label if each.wnid is None else each.wnid]
            numbers += [each.rank, each.class_index]
        texts += self.prediction_set or ()
        if self.error:
            texts += [self.error.type, self.error.message]
        else:
            numbers += [self.width, self.height]
        return (
            bool(self.predictions) != bool(self.error)
            and all(type(text) is str for text in texts)
            and all(type(number) is int and number >= 0 for number in numbers)
            and (self.answer is None or self.answer.is_sound())
            and self.prediction_set != ()
            and (self.unfamiliar is None or self.unfamiliar.is_sound())
            and all(
                type(each.probability) in (float, int) and 0 <= each.probability <= 1 for each in self.predictions
            )
        )


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The provenance of a run: all that its results depend on, except the images."""

    version: str
    """The version of imgclassify."""
    model: str
    architecture: str
    weights: str
    """The name of the weights, such as "IMAGENET1K_V2", or of their file."""
    weights_sha256: str | None
    """Full digest, 64 hex digits. None if the weights came with the code of a torch.hub repository."""
    preprocess: dict[str, Any]
    """The PreprocessSpec, under the field names of torchvision."""
    label_set: str | None
    """None if the run has no labels."""
    label_set_sha256: str | None
    """Digest of its wnids and labels, in order."""
    num_classes: int
    decode_mode: str
    """"exact" (to the bit), "fast" (from a smaller scale of the image) or "gpu"."""
    engine: str
    device: str
    dtype: str
    reason: str
    """Why this engine and this device were chosen."""
    activation: str | None = None
    """What turned the outputs of the network into probabilities: "softmax", "sigmoid" or "none". None if the run
    needs no probabilities."""
    multi_label: bool = False
    """Whether each class is predicted by itself, so that the probabilities of all classes do not sum to 1."""
    origins: dict[str, str] | None = None
    """Where the model's files say its labels, preprocessing, activation or architecture. None if they do not."""
    options: dict[str, Any] | None = None
    """What was chosen of what the model's file may mean, if there was a choice: `checkpoint_key`, `output_name`,
    `transform_input`."""
    groups: list[dict[str, Any]] | None = None
    """If classes are grouped: the `label`, `wnid` and `class_indices` of each group, in order."""
    calibration: dict[str, Any] | None = None
    """If probabilities are calibrated: the `temperature`, and what is known of it (Calibration.to_run)."""
    unfamiliar: str | None = None
    """If unfamiliarity is measured: the method, one of confidence.scoring.METHODS, such as "nci"."""
    familiar: dict[str, Any] | None = None
    """If it is measured against the familiar images of a calibration: which one (Calibration.to_run)."""

    def to_dict(self) -> dict[str, Any]:
        described = {
            "version": self.version,
            "model": self.model,
            "architecture": self.architecture,
            "weights": {"name": self.weights, "sha256": self.weights_sha256},
            "preprocess": self.preprocess,
            "label_set": self.label_set,
            "label_set_sha256": self.label_set_sha256,
            "num_classes": self.num_classes,
            "decode": self.decode_mode,
            "engine": self.engine,
            "device": self.device,
            "dtype": self.dtype,
            "reason": self.reason,
        }
        optional = {
            "activation": self.activation,
            "multi_label": self.multi_label or None,
            "origins": self.origins,
            "options": self.options,
            "groups": self.groups,
            "calibration": self.calibration,
            "unfamiliar": self.unfamiliar,
            "familiar": self.familiar,
        }
        return described | {name: value for name, value in optional.items() if value is not None}
