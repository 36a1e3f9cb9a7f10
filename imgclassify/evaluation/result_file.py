"""Reads what an earlier run wrote: predictions, records of an evaluation, or logits."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from imgclassify import catalog, labels
from imgclassify.confidence.assessment import Assessor
from imgclassify.confidence.assessment_options import AssessmentOptions
from imgclassify.confidence.calibration import Calibration
from imgclassify.engines.activation import Activation
from imgclassify.errors import LabelsError, UnknownModelError, UsageError, describe_error
from imgclassify.evaluation.collector import TOP_CLASSES, truth_of
from imgclassify.evaluation.evaluator import group_classes, label_outputs, require_one_class, score_predictions
from imgclassify.evaluation.labelled import EVALUATIONS, ImageTruth, LabelledResult
from imgclassify.evaluation.logits import IMAGE_LOGITS, ImageLogits
from imgclassify.evaluation.truth import Truth, TruthClass
from imgclassify.labels import Label, LabelSet
from imgclassify.labels.class_names import ClassNames
from imgclassify.output.file_formats import open_file_format
from imgclassify.output.formats import OutputFormat, list_formats
from imgclassify.output.reading import read_records
from imgclassify.output.records import PREDICTIONS, RecordType
from imgclassify.postprocessing import Postprocessor
from imgclassify.results import ImageResult, Prediction

__all__ = ["ResultFile", "create_postprocessor", "label_records", "read_result_file", "stored_truth"]

logger = logging.getLogger("imgclassify")

Record: TypeAlias = ImageResult | LabelledResult | ImageLogits


def _parse_record(record: Any) -> ImageResult | LabelledResult:
    has_truth = isinstance(record, dict) and record.get("truth") is not None
    return LabelledResult.from_dict(record) if has_truth else ImageResult.from_dict(record)


_EVALUATIONS: RecordType[Any] = EVALUATIONS
_RESULTS = replace(_EVALUATIONS, from_dict=_parse_record)
"""The records of `predict` and of `evaluate`."""
_HINT = "give a file that `imgclassify predict -o`, `evaluate -o` or `evaluate --save-logits` wrote"

_MOST_OF_ALL = 1.001
"""Probabilities of classes that exclude each other have no larger sum."""


class ResultFile(NamedTuple):
    """What an earlier run wrote."""

    run: Mapping[str, Any]
    """RunInfo.to_dict of the run. Only its model is known if the file does not tell more."""
    labels: LabelSet
    records: Iterable[Record]
    """All of one type. They are read again each time that they are iterated over."""
    has_logits: bool
    """Whether these are ImageLogits, and not predictions."""


class _Records:
    """The records of a file, checked against the labels of the model."""

    def __init__(self, path: Path, record_type: RecordType[Any], model: str, label_set: LabelSet) -> None:
        self.path = path
        self.record_type = record_type
        self.model = model
        self.label_set = label_set

    def __iter__(self) -> Iterator[Any]:
        for record in read_records(self.path, self.record_type):
            if record.model != self.model:
                raise UsageError(
                    f"{str(self.path)!r} has records of {self.model!r} and of {record.model!r}",
                    hint="evaluate the records of one model at a time",
                )
            if not isinstance(record, ImageLogits):
                _check_record(record, self.label_set, self.path)
            elif record.logits is not None and len(record.logits) != len(self.label_set):
                raise UsageError(
                    f"{str(self.path)!r} has {len(record.logits)} logits an image, and {self.label_set.name} has "
                    f"{len(self.label_set)} labels",
                    hint="give the labels of the model with --labels FILE",
                )
            yield record


def read_result_file(path: Path, labels_name: str | None = None) -> ResultFile:
    """Opens a file of an earlier run.

    Args:
        labels_name: the name of a label set or a labels file, if the file does not tell it.

    Raises:
        UsageError: it cannot be read, holds no record or not all of a run, does not fit the labels, or its model
            predicts each class by itself.
        LabelsError: the labels cannot be read.
    """
    if not path.exists():
        raise UsageError(f"{str(path)!r} does not exist", hint=_HINT)
    run, record_type = _read_run(path)
    first = next(read_records(path, record_type), None)
    if first is None:
        raise UsageError(f"there are no records in {str(path)!r}", hint=_HINT)
    run = run or {"model": first.model}
    if isinstance(first, ImageLogits) and "activation" not in run:
        raise UsageError(
            f"{str(path)!r} does not say how its logits become probabilities: {path.name}.run.json, which does, is "
            "not beside it, or is damaged",
            hint="put it back, or evaluate the images themselves; .npz and .parquet hold it in the file",
        )
    require_one_class(str(run.get("model")), multi_label=bool(run.get("multi_label")))
    label_set = _find_labels(run, labels_name, path, record_type)
    return ResultFile(
        run, label_set, _Records(path, record_type, first.model, label_set), isinstance(first, ImageLogits)
    )


def stored_truth(file: ResultFile) -> Truth | None:
    """Returns the true classes that the records themselves name. None if they do not.

    Raises:
        UsageError: a class is several that a map has named, which records do not tell, or two records of a source
            differ.
    """
    truth_by_source: dict[str, ImageTruth] = {}
    for record in file.records:
        if not isinstance(record, LabelledResult):
            return None
        truth = truth_by_source.setdefault(record.source, record.truth)
        if truth != record.truth:
            raise UsageError(
                f"the true class of {record.source!r} is {truth.label!r} in one record and {record.truth.label!r} "
                "in another",
                hint="evaluate the records of one run, or give the --truth",
            )
    counts = Counter(truth_by_source.values())
    names = ClassNames(file.labels)
    found = sorted(
        ((truth, _classes_of(truth, names, file.labels)) for truth in counts),
        key=lambda each: (min(each[1], default=-1), each[0].label),
    )
    positions = {truth: position for position, (truth, _) in enumerate(found)}
    return Truth(
        how="the one in its record",
        classes=tuple(
            TruthClass((truth.label,), truth.label, truth.wnid, indices, truth.class_index is None)
            for truth, indices in found
        ),
        counts=tuple(counts[truth] for truth, _ in found),
        _find=lambda source: positions[truth_by_source[source]],
    )


def _classes_of(truth: ImageTruth, names: ClassNames, label_set: LabelSet) -> frozenset[int]:
    """Returns the classes that are right."""
    if truth.class_index is not None:
        return frozenset([truth.class_index])
    if truth.wnid is not None:
        return names.find(truth.wnid).class_indices
    same = [label for label in label_set.labels if label.wnid is None and label.label == truth.label]
    if len(same) < 2:  # a name of the map. A class or a node may have it too, but need not mean the same
        raise UsageError(
            f"the true class {truth.label!r} was named by a map, and the records do not say which classes it has",
            hint="give the --truth and the --map of the run that wrote them",
        )
    return frozenset(label.class_index for label in same)


def label_records(file: ResultFile, truth: Truth, postprocessor: Postprocessor | None) -> Iterator[LabelledResult]:
    """Yields the record of each image that has a truth.

    Args:
        postprocessor: turns logits into results. None if the file has no logits.
    """
    groups = group_classes(truth.classes)
    for record in file.records:
        number = truth.class_of(record.source)
        if number is None:
            continue
        right = truth.classes[number]
        if isinstance(record, ImageLogits):
            assert postprocessor is not None
            yield label_outputs(record.to_outputs(), postprocessor, right, groups)
            continue
        if isinstance(record, LabelledResult) and record.truth == truth_of(right):
            yield record
            continue
        result = record.result if isinstance(record, LabelledResult) else record
        scores = None if result.error else score_predictions(result, right.class_indices, groups, len(file.labels))
        yield LabelledResult(result, truth_of(right), scores)


def create_postprocessor(
    file: ResultFile, calibration: Calibration | None, assessment: AssessmentOptions
) -> Postprocessor:
    """Returns what turns the logits of a file into results.

    Args:
        calibration: what they are calibrated with. None for the raw probabilities.
        assessment: what is wanted beside the predictions.

    Raises:
        UsageError: they are not those of a softmax, or the calibration is of another model or has not what is
            wanted.
    """
    name = file.run.get("activation")
    if name != "softmax":
        raise UsageError(
            f"the activation of these logits is {name!r}, and only softmax can be evaluated from a file",
            hint="evaluate the images themselves",
        )
    if calibration:
        calibration.require_run(file.run)
    return Postprocessor(
        str(file.run.get("model")),
        file.labels,
        Activation("softmax"),
        top_k=min(TOP_CLASSES, len(file.labels)),
        temperature=calibration.temperature if calibration else None,
        assessor=Assessor(assessment, file.labels, calibration, None) if assessment.fields else None,
    )


def _read_run(path: Path) -> tuple[dict[str, Any], RecordType[Any]]:
    """Returns RunInfo.to_dict of the run that wrote a file, empty if it is unknown, and the type of its records."""
    if path.suffix.lower() == ".json":
        document = _read_json(path)
        schema, run = document.get("schema"), document.get("run")
        if isinstance(run, dict) and schema == IMAGE_LOGITS.schema:
            return run, IMAGE_LOGITS
        if isinstance(run, dict) and schema in (EVALUATIONS.schema, PREDICTIONS.schema):
            return run, replace(_RESULTS, schema=schema)
        raise UsageError(f"{str(path)!r} is not a document of predictions: its schema is {schema!r}", hint=_HINT)
    kinds: tuple[RecordType[Any], ...] = (IMAGE_LOGITS, _RESULTS)
    for record_type in kinds:
        found = _find_format(path, record_type)
        if found is None:
            continue
        try:
            provenance = open_file_format(found, record_type).load(path)[0]
        except UsageError:  # no sidecar
            return {}, IMAGE_LOGITS if _first_line_has_logits(path) else _RESULTS
        except Exception as error:  # noqa: BLE001 - another type of record, or damage that shows later
            logger.debug("%s has no %s: %s", path, record_type.name, error)
            continue
        _require_all(provenance.settings, path)
        return dict(provenance.run), record_type
    only_logits = _find_format(path, IMAGE_LOGITS) and not _find_format(path, _RESULTS)
    return {}, IMAGE_LOGITS if only_logits else _RESULTS


def _require_all(settings: Mapping[str, int | str], path: Path) -> None:
    """Checks that no record was left out by what it says, which would make any figure too good, or too bad."""
    names = [f"--{name.replace('_', '-')}" for name in PREDICTIONS.filter_settings if name in settings]
    if names:
        raise UsageError(
            f"{str(path)!r} has only the records that {' and '.join(names)} selected",
            hint="evaluate the records of all images, and look at the thresholds of the report",
        )


def _find_format(path: Path, record_type: RecordType[Any]) -> OutputFormat | None:
    extension = path.suffix.lower().removeprefix(".")
    formats = (each for each in list_formats(record_type) if each.resumable)
    return next((each for each in formats if extension in each.extensions), None)


def _first_line_has_logits(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return re.search(rb'"logits": ?\[', stream.readline(2**20)) is not None
    except OSError:
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {str(path)!r}: {describe_error(error)}", hint=_HINT) from error
    return document


def _find_labels(run: Mapping[str, Any], name: str | None, path: Path, record_type: RecordType[Any]) -> LabelSet:
    """Returns the labels of the model that wrote a file."""
    if groups := run.get("groups"):
        return LabelSet(
            str(run.get("label_set")),
            tuple(Label(index, group["wnid"], group["label"]) for index, group in enumerate(groups)),
        )
    known = name or run.get("label_set") or _catalogued_labels(run)
    if known is None:
        if record_type is not IMAGE_LOGITS and (found := _predicted_labels(path, record_type)):
            return found
        raise UsageError(
            f"it is not known which classes the model of {str(path)!r} has",
            hint="give its labels with --labels NAME or --labels FILE",
        )
    try:
        label_set = labels.load_labels(known)
    except LabelsError as error:
        if name:
            raise
        raise UsageError(
            f"the labels of the model of {str(path)!r} cannot be read: {error}", hint="give --labels FILE"
        ) from error
    digest = run.get("label_set_sha256")
    if name and digest and digest != label_set.digest():
        logger.warning(
            "%r are not the labels that %r was written with; their order must be the same", name, str(path)
        )
    elif digest and digest != label_set.digest():
        raise UsageError(
            f"{known!r} is not as it was when {str(path)!r} was written", hint="give the labels with --labels FILE"
        )
    return label_set


def _predicted_labels(path: Path, record_type: RecordType[Any]) -> LabelSet | None:
    """Returns the labels in the predictions of a file. None if a class index is missing among them."""
    found: dict[int, Label] = {}
    for record in read_records(path, record_type):
        result = record.result if isinstance(record, LabelledResult) else record
        for each in result.predictions:
            found.setdefault(each.class_index, Label(each.class_index, each.wnid, each.label))
    if not found or len(found) != max(found) + 1:
        return None
    return LabelSet(f"the labels in {path}", tuple(found[index] for index in sorted(found)))


def _catalogued_labels(run: Mapping[str, Any]) -> str | None:
    """Returns the label set of a model that only its name is known of."""
    name, at, weights = str(run.get("model")).partition("@")
    try:
        label_set = catalog.find_model(name, weights if at else None).label_set
    except UnknownModelError:
        return None
    return label_set if label_set in labels.list_label_sets() else None


def _check_record(record: ImageResult | LabelledResult, label_set: LabelSet, path: Path) -> None:
    """Checks that the classes of a record are those of the model, and that its probabilities are shares of one."""
    predictions = (record.result if isinstance(record, LabelledResult) else record).predictions
    named: list[Prediction | ImageTruth] = [*predictions]
    if isinstance(record, LabelledResult) and record.truth.class_index is not None:
        named.append(record.truth)
    for each in named:
        index = each.class_index or 0
        known = label_set[index].label if index < len(label_set) else None
        if known != each.label:
            raise UsageError(
                f"{str(path)!r} calls class {index} {each.label!r}, and {label_set.name} calls it {known!r}",
                hint="give the labels of the model with --labels FILE",
            )
    require_one_class(record.model, multi_label=sum(each.probability for each in predictions) > _MOST_OF_ALL)
