"""imgclassify evaluate: measures how good a model is on labelled images."""

import json as jsonlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import print_message
from imgclassify.cli.labelled_run import LabelledImages, LabelledRun, discarded, report_repeated, report_truth
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_model
from imgclassify.cli.options.confidence import ConfidenceOptions
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import MODEL_PANEL, LoadingOptions, Offline
from imgclassify.cli.options.output import OUTPUT_PANEL, OutputOptions, Report
from imgclassify.cli.options.preprocessing import PreprocessingOptions
from imgclassify.cli.options.running import RunningOptions
from imgclassify.cli.options.sources import FrameOptions, SourceOptions
from imgclassify.cli.options.truth import TruthOptions
from imgclassify.cli.options.unattended import DecodingOptions, UnattendedOptions
from imgclassify.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from imgclassify.evaluation.collector import Collector
    from imgclassify.evaluation.evaluation import Evaluation
    from imgclassify.evaluation.evaluator import Evaluator
    from imgclassify.evaluation.logits import ImageLogits
    from imgclassify.evaluation.result_file import ResultFile
    from imgclassify.evaluation.truth import Truth
    from imgclassify.evaluation.two_models import ModelComparison
    from imgclassify.postprocessing import Postprocessor

app = CommandApp(add_completion=False)

TOP_K = 10
"""Predictions in each record: more than predict has, so that --from can find wrong labels in them."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReportOptions:
    """What is written of an evaluation, and where."""

    json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT_PANEL, help="Print one JSON document.")] = (
        False
    )
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help="Also write a record per image, with its truth: jsonl, csv, tsv, parquet, sqlite or json.",
        ),
    ] = None
    save_logits: Annotated[
        Path | None,
        typer.Option(
            "--save-logits",
            metavar="FILE",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help="Also write the logits of each image in float16: npz, parquet or jsonl. --from reads them.",
        ),
    ] = None
    report: Report = None
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            rich_help_panel=OUTPUT_PANEL,
            help="Replace the file of --output, --save-logits or --report.",
        ),
    ] = False

    def records(self) -> OutputOptions:
        """Returns where the records of the run go.

        Raises:
            UsageError: there are two files, or one is stdout.
        """
        if self.output is not None and self.save_logits is not None:
            raise UsageError(
                "--output and --save-logits are two files for the records of one run",
                hint="leave out one of them: --from evaluates either file",
            )
        path = self.save_logits if self.save_logits is not None else self.output
        if path is None:
            return discarded()
        if str(path) == "-":
            raise UsageError("the figures and the records cannot both go to stdout", hint="name a file")
        return OutputOptions(output=path, overwrite=self.overwrite)

    def check_report(self, *, resumes: bool) -> None:
        """Checks that the page can be written.

        Args:
            resumes: whether the records of an earlier run are kept, which --overwrite would not do.

        Raises:
            UsageError: it cannot, or is the file of the records too.
        """
        if self.report is None:
            return
        from imgclassify.files import has_content
        from imgclassify.report.pages import check_page

        for option, path in (("--output", self.output), ("--save-logits", self.save_logits)):
            if path is not None and path.resolve() == self.report.resolve():
                raise UsageError(f"--report and {option} name the same file", hint="give each a name of its own")
        if resumes and not self.overwrite and has_content(self.report):
            raise UsageError(
                f"{str(self.report)!r} exists already",
                hint="choose another --report, or remove it: --overwrite would replace the records too",
            )
        check_page(self.report, overwrite=self.overwrite)


@app.command(
    epilog="Exit status: 0 every image classified, 1 some failed, 2 wrong usage, 3 model, labels or device "
    "unavailable, 4 no image found, 130 interrupted (129 by SIGHUP, 143 by SIGTERM).",
    examples={
        "a folder for each class": "imgclassify evaluate photos/",
        "true classes in a file": "imgclassify evaluate photos/ --truth truth.csv",
        "two models": "imgclassify evaluate photos/ -m resnet50 -m vit_b_16",
        "results of an earlier run": "imgclassify evaluate --from labels.csv",
        "as a page": "imgclassify evaluate photos/ --report page.html",
        "for a program": "imgclassify evaluate photos/ --json | jq .metrics.acc1",
    },
)
@with_option_groups
def evaluate(
    *,
    sources: SourceOptions,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            metavar="REF",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Model to evaluate. Give two to compare them on the same images. Default: efficientnet_lite0.",
        ),
    ] = None,
    loading: LoadingOptions,
    truth: TruthOptions,
    results: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            show_default=False,
            help="Evaluate the results or the logits of an earlier run instead of images.",
        ),
    ] = None,
    confidence: ConfidenceOptions,
    output: ReportOptions,
    unattended: UnattendedOptions,
    frames: FrameOptions,
    decoding: DecodingOptions,
    running: RunningOptions,
    preprocessing: PreprocessingOptions,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Measure how good a model is on labelled images: accuracy, calibration, and what is worth answering.

    Each figure has a 95 % confidence interval. Images that failed are counted apart.

    The true class of an image is the name of its folder, or is in a file. Names are matched with the model's
    labels, never by their order.
    """
    console.configure()
    images = LabelledImages(sources, truth, loading, unattended, frames, decoding, running, preprocessing, offline)
    models: list[str | None] = [*model] if model else [None]
    if len(models) > 2:
        raise UsageError(f"{len(models)} models are given", hint="give one or two")
    if len(models) == 2 and (output.output or output.save_logits or results or unattended.summary):
        raise UsageError(
            "two models are compared on the images themselves, without files of one run",
            hint="leave out --from, --output, --save-logits and --summary, or give one model",
        )
    if len(models) == 2 and (common := _options_of_both(loading, preprocessing)):
        print_message(
            f"{', '.join(common)}: for both models; `imgclassify models add` gives a model options of its own"
        )
    output.check_report(resumes=unattended.resume or unattended.retry_errors)
    if results is not None:
        if output.output or output.save_logits:
            raise UsageError(
                "--from prints the figures of an earlier run, and writes no records",
                hint="leave out --output and --save-logits",
            )
        if sources.sources or sources.files_from or model:
            raise UsageError(
                "--from evaluates what an earlier run wrote, without images and models",
                hint="leave out the sources and --model",
            )
        found = [_evaluate_file(results, images, confidence)]
    else:
        for each in models[1:]:
            images.check(each, **confidence.classifier_arguments())
        found = [_evaluate_images(images, each, confidence, output) for each in models]
    evaluations = [evaluation for evaluation, _ in found]
    comparison = None
    if len(evaluations) == 2:
        from imgclassify.evaluation.two_models import compare_evaluations

        comparison = compare_evaluations(*evaluations)
    if output.report is not None:
        from imgclassify.report.evaluation_page import render_evaluation
        from imgclassify.report.pages import write_page

        write_page(output.report, render_evaluation(evaluations, comparison))
    _print_report(evaluations, comparison, as_json=output.json)
    raise typer.Exit(int(max((status for _, status in found), key=int)))


def _options_of_both(loading: LoadingOptions, preprocessing: PreprocessingOptions) -> list[str]:
    """Returns the options that are given and change what a model is."""
    given = (
        (each.name, getattr(options, each.name) != getattr(default, each.name))
        for options, default in ((loading, LoadingOptions()), (preprocessing, PreprocessingOptions()))
        for each in fields(options)
    )
    return [f"--{name.replace('_', '-')}" for name, is_given in given if is_given and name != "trust"]


def _evaluate_images(
    images: LabelledImages, model: str | None, confidence: ConfidenceOptions, output: ReportOptions
) -> "tuple[Evaluation, ExitStatus]":
    """Runs a model on labelled images.

    Returns:
        The figures, and the exit status of the run.
    """
    from imgclassify.evaluation.collector import Collector
    from imgclassify.evaluation.evaluation import evaluate as compute
    from imgclassify.evaluation.evaluator import Evaluator
    from imgclassify.evaluation.labelled import EVALUATIONS
    from imgclassify.evaluation.logits import IMAGE_LOGITS
    from imgclassify.labels.taxonomy import find_taxonomy
    from imgclassify.output.records import OPTIONAL_FIELDS

    record_type = EVALUATIONS.without(set(OPTIONAL_FIELDS) - confidence.fields)
    with images.open(
        IMAGE_LOGITS if output.save_logits else record_type,
        output.records(),
        model,
        top_k=TOP_K,
        **confidence.classifier_arguments(),
    ) as opened:
        classifier = opened.classifier
        evaluator = Evaluator(classifier.run, classifier.runner, classifier.postprocessor, opened.truth)
        collector = Collector(opened.truth, classifier.labels)
        if output.save_logits:
            status = _save_logits(opened, evaluator, collector)
        else:
            settings = {"top_k": classifier.top_k, **confidence.to_settings(), **images.truth.to_settings()}
            status = opened.write_records(evaluator, settings, collector.add)
    report_repeated(collector.num_repeated)
    taxonomy = classifier.postprocessor.taxonomy or find_taxonomy(classifier.labels)
    evaluation = compute(collector, classifier.run.to_dict(), taxonomy)
    _warn_of_truth(evaluation, opened.truth)
    return evaluation, status


def _warn_of_truth(evaluation: "Evaluation", truth: "Truth") -> None:
    """Prints what only the predictions tell of the truth."""
    for note in evaluation.truth.notes[len(truth.notes) :]:
        print_message(f"warning: {note}")


def _save_logits(opened: LabelledRun, evaluator: "Evaluator", collector: "Collector") -> ExitStatus:
    """Writes the logits of the images, and collects what they say."""
    from imgclassify.evaluation.logits import LogitsProducer

    producer = LogitsProducer(opened.classifier.runner, opened.truth.has, dtype="float16")

    def collect(record: "ImageLogits") -> None:
        if opened.truth.has(record.source):  # an earlier record may be of an image that is left out now
            collector.add(evaluator.label(record.to_outputs()))

    return opened.write_records(producer, {"logits_dtype": "float16"}, collect)


def _evaluate_file(
    path: Path, images: LabelledImages, confidence: ConfidenceOptions
) -> "tuple[Evaluation, ExitStatus]":
    """Evaluates what an earlier run wrote."""
    from imgclassify.evaluation.collector import Collector
    from imgclassify.evaluation.evaluation import evaluate as compute
    from imgclassify.evaluation.result_file import label_records, read_result_file, stored_truth
    from imgclassify.labels.taxonomy import find_taxonomy

    found = read_result_file(path, images.loading.labels)
    postprocessor, run = _assess_file(found, confidence)
    truth_options = images.truth
    is_asked = truth_options.truth is not None or truth_options.class_map is not None
    truth = None if is_asked else stored_truth(found)
    if truth is None:
        truth = truth_options.find_truth(found.labels, (record.source for record in found.records))
        report_truth(truth)
    collector = Collector(truth, found.labels)
    for record in label_records(found, truth, postprocessor):
        collector.add(record)
    report_repeated(collector.num_repeated)
    failed = bool(collector.error_types)
    climbed = postprocessor.taxonomy if postprocessor else None
    evaluation = compute(collector, run, climbed or find_taxonomy(found.labels))
    _warn_of_truth(evaluation, truth)
    return evaluation, ExitStatus.SOME_IMAGES_FAILED if failed else ExitStatus.OK


def _assess_file(
    file: "ResultFile", confidence: ConfidenceOptions
) -> "tuple[Postprocessor | None, Mapping[str, Any]]":
    """Returns what turns the logits of a file into results, None if it has none, and the run that they are of.

    Raises:
        UsageError: what is wanted needs images, or logits.
    """
    from imgclassify.confidence.calibration import Calibration
    from imgclassify.evaluation.result_file import create_postprocessor

    assessment = confidence.assessment
    if confidence.calibrated or assessment.unfamiliar:
        raise UsageError(
            "--calibrated and --unfamiliar need the model, and --from evaluates without it",
            hint="name the calibration with --calibration FILE, or evaluate the images",
        )
    if not file.has_logits:
        if confidence.calibration or assessment.fields:
            raise UsageError(
                "calibrations, answers and sets are computed from logits, and this file has predictions",
                hint="give a file of --save-logits, or evaluate the images",
            )
        return None, file.run
    if confidence.calibration is None:
        if assessment.fields:
            raise UsageError(
                "--at-least, --threshold and --sets depend on a calibration, and with --from it must be named",
                hint="add --calibration FILE",
            )
        return create_postprocessor(file, None, assessment), file.run
    calibration = Calibration.read(confidence.calibration)
    return create_postprocessor(file, calibration, assessment), {**file.run, "calibration": calibration.to_run()}


def _print_report(evaluations: "list[Evaluation]", comparison: "ModelComparison | None", *, as_json: bool) -> None:
    from imgclassify.cli.evaluation_report import print_comparison, print_evaluation

    if as_json:
        document = evaluations[0].to_dict()
        if comparison:
            document |= {"other": evaluations[1].to_dict(), "comparison": comparison.to_dict()}
        typer.echo(jsonlib.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return
    for number, evaluation in enumerate(evaluations):
        if number:
            typer.echo()
        print_evaluation(evaluation)
    if comparison:
        typer.echo()
        print_comparison(comparison)
