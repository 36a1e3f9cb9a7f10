"""imgclassify calibrate: learns from labelled images how far a model's probabilities can be trusted."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import print_message
from imgclassify.cli.labelled_run import LabelledImages, discarded, report_repeated, report_truth
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import LoadingOptions, Model, Offline
from imgclassify.cli.options.output import OUTPUT_PANEL
from imgclassify.cli.options.preprocessing import PreprocessingOptions
from imgclassify.cli.options.running import RunningOptions
from imgclassify.cli.options.sources import FrameOptions, SourceOptions
from imgclassify.cli.options.truth import TruthOptions
from imgclassify.cli.options.unattended import DecodingOptions, FailureOptions
from imgclassify.cli.tables import print_table
from imgclassify.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.evaluation.calibrating import CalibrationReport, LogitsCollector
    from imgclassify.evaluation.truth import Truth
    from imgclassify.labels import LabelSet

app = CommandApp(add_completion=False)


@app.command(
    epilog="Exit status: 0 every image classified, 1 some failed, 2 wrong usage or no improvement, 3 model, labels "
    "or device unavailable, 4 no image found, 130 interrupted (129 by SIGHUP, 143 by SIGTERM).",
    examples={
        "a folder for each class": "imgclassify calibrate photos/",
        "to a file": "imgclassify calibrate photos/ -o photos.calibration.json",
        "and use it": "imgclassify predict dog.jpg --calibrated",
    },
)
@with_option_groups
def calibrate(
    *,
    sources: SourceOptions,
    model: Model = None,
    loading: LoadingOptions,
    truth: TruthOptions,
    logits: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            show_default=False,
            help="Use the logits that imgclassify evaluate --save-logits wrote, instead of images.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help="File to write to. Default: the user's settings, where predict --calibrated finds it.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUTPUT_PANEL, help="Replace an earlier calibration.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", rich_help_panel=OUTPUT_PANEL, help="Print the figures as JSON.")
    ] = False,
    failures: FailureOptions,
    frames: FrameOptions,
    decoding: DecodingOptions,
    running: RunningOptions,
    preprocessing: PreprocessingOptions,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Learn from labelled images how far a model's probabilities can be trusted.

    Fits a temperature, and measures by cross-validation whether it helps. Also keeps what prediction sets and
    unfamiliarity need. A temperature that does not help is not saved.

    Prints the path of the file.
    """
    console.configure()
    from imgclassify.report.figures import format_interval, format_value

    unattended = failures.to_unattended()
    if str(output) == "-":
        raise UsageError("a calibration goes to a file, not to stdout", hint="name a file, or leave out --output")
    images = LabelledImages(sources, truth, loading, unattended, frames, decoding, running, preprocessing, offline)
    destination = _Destination(output, overwrite)
    if logits is None:
        report, status = _learn_from_images(images, model, destination)
    else:
        if sources.sources or sources.files_from or model:
            raise UsageError("--from needs neither images nor a model", hint="leave out the sources and --model")
        report, status = _learn_from_file(logits, images, destination)
    _print_report(report, as_json=json)
    if not report.helps:
        raise UsageError(
            "the temperature is not saved, because it does not make the probabilities of other images better",
            hint="use the model's own probabilities, or calibrate on more images",
        )
    if report.improvement.low is None or report.improvement.low <= 0:
        print_message(
            f"the NLL falls by {format_value(report.improvement.value, is_share=False)} "
            f"({format_interval(report.improvement, is_share=False)}), which may be chance; more images would tell"
        )
    path = Path(report.calibration.origin)
    report.calibration.write(path)
    if not json:
        typer.echo(str(path))
    use = "--calibrated" if output is None else f"--calibration {path}"
    print_message(f"use it with `imgclassify predict IMAGE {use}`")
    raise typer.Exit(int(status))


def _learn_from_images(
    images: LabelledImages, model: str | None, destination: "_Destination"
) -> "tuple[CalibrationReport, ExitStatus]":
    """Runs a model on labelled images, and learns from its outputs."""
    from imgclassify.evaluation.calibrating import LogitsCollector
    from imgclassify.evaluation.logits import IMAGE_LOGITS, LogitsProducer

    with images.open(IMAGE_LOGITS, discarded(), model, with_features=True) as opened:
        classifier = opened.classifier
        _require_softmax(classifier.run.activation)
        path = destination.find_path(classifier.run.weights_sha256)
        collector = LogitsCollector(opened.truth)
        producer = LogitsProducer(classifier.runner, opened.truth.has, dtype="float32")
        status = opened.write_records(
            producer, {"logits_dtype": "float32"}, lambda record: collector.add(record.to_outputs())
        )
    report = _learn(
        collector,
        classifier.run.to_dict(),
        opened.truth,
        classifier.labels,
        path,
        head_weight=classifier.runner.find_head_weight(),
    )
    return report, status


def _learn_from_file(
    file: Path, images: LabelledImages, destination: "_Destination"
) -> "tuple[CalibrationReport, ExitStatus]":
    """Learns from the logits that an evaluation has saved. Unfamiliarity is then measured without features."""
    from imgclassify.evaluation.calibrating import LogitsCollector
    from imgclassify.evaluation.logits import ImageLogits
    from imgclassify.evaluation.result_file import read_result_file

    found = read_result_file(file, images.loading.labels)
    if not found.has_logits:
        raise UsageError(
            f"{str(file)!r} has predictions, and a calibration needs logits",
            hint="give a file of `imgclassify evaluate --save-logits`",
        )
    _require_softmax(found.run.get("activation"))
    weights = found.run.get("weights")
    path = destination.find_path(weights.get("sha256") if isinstance(weights, dict) else None)
    truth = images.truth.find_truth(found.labels, (record.source for record in found.records))
    report_truth(truth)
    collector = LogitsCollector(truth)
    for record in found.records:
        assert isinstance(record, ImageLogits)
        collector.add(record.to_outputs())
    status = ExitStatus.SOME_IMAGES_FAILED if collector.num_failed else ExitStatus.OK
    return _learn(collector, dict(found.run), truth, found.labels, path, head_weight=None), status


def _learn(
    collector: "LogitsCollector",
    run: dict[str, Any],
    truth: "Truth",
    labels: "LabelSet",
    path: Path,
    *,
    head_weight: "NDArray[np.float32] | None",
) -> "CalibrationReport":
    from imgclassify.evaluation.calibrating import learn_calibration
    from imgclassify.evaluation.index_shift import describe_index_shift
    from imgclassify.labels.taxonomy import find_taxonomy

    report_repeated(collector.num_repeated)
    facts, data = truth.to_dict(), collector.to_arrays()
    if note := describe_index_shift(data.logits.argmax(axis=1), data.truth, truth, data.logits.shape[1]):
        print_message(f"warning: {note}")
    return learn_calibration(
        data,
        run,
        {
            "truth": {name: facts[name] for name in ("how", "file", "map")},
            "classes": len(truth.classes),
            "failed": collector.num_failed,
        },
        origin=str(path),
        taxonomy=find_taxonomy(labels),
        head_weight=head_weight,
    )


def _require_softmax(activation: object) -> None:
    if activation != "softmax":
        raise UsageError(
            f"a temperature applies to the logits of a softmax, and the activation of this model is {activation!r}",
            hint="calibrate a model whose classes exclude each other and that returns logits",
        )


class _Destination(NamedTuple):
    """Where the calibration goes."""

    output: Path | None
    """None for the user's settings."""
    overwrite: bool

    def find_path(self, weights_sha256: str | None) -> Path:
        """Returns the path of the file.

        Raises:
            UsageError: an earlier calibration is there, something that is no file, or the weights have no digest to
                bind it to.
        """
        from imgclassify.confidence.calibration import user_calibration_path
        from imgclassify.files import has_content, is_replaceable

        if weights_sha256 is None:
            raise UsageError(
                "the weights of this model have no SHA-256, so a calibration cannot be bound to them",
                hint="calibrate a model file, or a catalogued model",
            )
        path = user_calibration_path(weights_sha256) if self.output is None else self.output
        if not is_replaceable(path):
            raise UsageError(f"{str(path)!r} is not a file", hint="choose another --output")
        if has_content(path) and not self.overwrite:
            kind = ", an earlier calibration of these weights" if self.output is None else ""
            raise UsageError(
                f"{str(path)!r} exists already{kind}",
                hint="add --overwrite to replace it, or choose another --output",
            )
        return path


def _print_report(report: "CalibrationReport", *, as_json: bool) -> None:
    """Prints what the calibration does."""
    from imgclassify.evaluation.intervals import Estimate
    from imgclassify.report.figures import format_interval, format_threshold, format_value

    calibration = report.calibration
    if as_json:
        document = {
            "schema": "imgclassify.calibration_report/1",
            "file": calibration.origin if report.helps else None,
            "helps": report.helps,
            "images": calibration.images,
            "temperature": report.temperature.to_dict(),
            **calibration.figures,
            "improvement": report.improvement.to_dict(),
            "thresholds": [each._asdict() for each in calibration.thresholds],
            "rollup_thresholds": [each._asdict() for each in calibration.rollup_thresholds],
            "rollups": [each._asdict() for each in report.rollups],
            "areas": report.areas._asdict() if report.areas else None,
        }
        typer.echo(jsonlib.dumps(document, indent=1))
        return
    rows = [
        ["temperature", "", f"{calibration.temperature:.4f}", format_interval(report.temperature, is_share=False)]
    ]
    for name, title in (("nll", "NLL"), ("ece", "ECE")):
        before, after = (Estimate(**calibration.figures[name][part]) for part in ("before", "after"))
        is_share = name == "ece"
        rows.append(
            [title, format_value(before.value, is_share=is_share), format_value(after.value, is_share=is_share),
             format_interval(after, is_share=is_share)]
        )  # fmt: skip
    print_table(
        [f"{calibration.images:,} images", "before", "cross-validated", "95 % interval"], rows, right=(1, 2)
    )
    for title, thresholds in (
        ("--threshold", calibration.thresholds),
        ("--at-least", calibration.rollup_thresholds),
    ):
        if thresholds:
            typer.echo()
            rows = [
                [
                    f"{100 * each.accuracy:g} %",
                    format_threshold(each.threshold) if each.threshold else "any",
                    f"{100 * each.answered:.1f} %",
                ]
                for each in thresholds
            ]
            print_table(["for right answers in", title, "answered"], rows, right=(0, 1, 2))
    _print_rollups(report)


def _print_rollups(report: "CalibrationReport") -> None:
    """Prints what --at-least leads to on these images."""
    if report.areas is None:
        return
    rows = []
    for each in report.rollups:
        num_answers = each.num_images - each.num_unsure
        right = f"{100 * (1 - each.num_wrong / num_answers):.1f} %" if num_answers else "–"
        shares = (f"{100 * count / each.num_images:.1f} %" for count in (each.num_leaves, each.num_unsure))
        rows.append([f"{each.at_least:g}", right, *shares, f"{each.bits:.2f}"])
    typer.echo()
    print_table(["with --at-least", "right answers", "a class", "not sure", "bits"], rows, right=range(5))
    change = report.areas.rollup / report.areas.refusal - 1 if report.areas.refusal else 0.0
    typer.echo(
        f"area under hierarchical risk and coverage: {report.areas.rollup:.4f}, with a class or no answer "
        f"{report.areas.refusal:.4f} ({100 * change:+.1f} %)"
    )
