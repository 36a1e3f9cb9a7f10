"""imgclassify predict: classifies images."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_message, print_verbose
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.options.confidence import ConfidenceOptions
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import LoadingOptions, Model, Offline
from imgclassify.cli.options.output import OUTPUT_PANEL, OutputOptions, TopK
from imgclassify.cli.options.preprocessing import PreprocessingOptions
from imgclassify.cli.options.results import ResultOptions
from imgclassify.cli.options.running import RunningOptions
from imgclassify.cli.options.sources import FrameOptions, SourceOptions
from imgclassify.cli.options.unattended import DecodingOptions, UnattendedOptions
from imgclassify.cli.run import open_run
from imgclassify.errors import UsageError

if TYPE_CHECKING:
    from imgclassify.classifier import Classifier
    from imgclassify.output.formats import OutputFormat
    from imgclassify.output.records import RecordType
    from imgclassify.results import RunInfo

app = CommandApp(add_completion=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PredictionOutputOptions(OutputOptions):
    """Where records are written, and in which format."""

    csv_bom: Annotated[
        bool,
        typer.Option(
            "--csv-bom",
            rich_help_panel=OUTPUT_PANEL,
            help="Begin CSV or TSV with a byte order mark, so that Excel shows names and labels rightly.",
        ),
    ] = False

    def find_format(self, record_type: "RecordType[Any]", *, default: str) -> "OutputFormat":
        """Returns the selected output format; see OutputOptions.find_format."""
        found = OutputOptions.find_format(self, record_type, default=default)
        return found.with_byte_order_mark() if self.csv_bom else found


@app.command(
    epilog="Exit status: 0 every image classified, 1 some failed, 2 wrong usage, 3 model, labels or device "
    "unavailable, 4 no image found, 130 interrupted (129 by SIGHUP, 143 by SIGTERM).",
    examples={
        "one image": "imgclassify predict dog.jpg",
        "a folder, as a table": "imgclassify predict photos/ -o labels.csv",
        "resume a long run": "imgclassify predict photos/ -o labels.csv --resume",
        "another model": "imgclassify predict dog.jpg -m resnet50",
        "JSON for jq": "imgclassify predict photos/ --jsonl | jq .predictions",
    },
)
@with_option_groups
def predict(
    *,
    sources: SourceOptions,
    model: Model = None,
    loading: LoadingOptions,
    top_k: TopK = 5,
    results: ResultOptions,
    confidence: ConfidenceOptions,
    output: PredictionOutputOptions,
    unattended: UnattendedOptions,
    frames: FrameOptions,
    decoding: DecodingOptions,
    running: RunningOptions,
    preprocessing: PreprocessingOptions,
    save_input: Annotated[
        Path | None,
        typer.Option(
            "--save-input",
            metavar="FOLDER",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help="Also save what the network sees of each image, as PNG files in FOLDER.",
        ),
    ] = None,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Classify images and print the most probable labels with their probabilities.

    Writes one record per image, in input order. A broken file gets an error record, and the run continues.
    """
    console.configure()
    from imgclassify.output.records import predictions_with

    record_type = predictions_with(confidence.fields)
    if save_input:
        _require_outside(save_input, sources.sources or [])
    counts, counts_as_json = None, False
    if results.count:
        from imgclassify.cli.label_counts import LabelCounts, separate_counts

        counts = LabelCounts()
        output, counts_as_json = separate_counts(output)
    with open_run(record_type, sources, output, unattended, frames, decoding, offline=offline) as run:
        from imgclassify.classifier import Classifier

        with download_progress() as progress:
            classifier = Classifier(
                model,
                **loading.classifier_arguments(),
                **confidence.classifier_arguments(),
                groups=results.groups,
                top_k=top_k,
                num_images=run.num_images,
                offline=offline,
                progress=progress,
                **decoding.classifier_arguments(),
                **running.classifier_arguments(),
                **preprocessing.classifier_arguments(),
            )
        print_verbose(classifier.runner.describe())
        if classifier.calibration:
            print_message(f"the probabilities are calibrated: {classifier.calibration.describe()}")
        selection = results.create_filter(classifier.labels)
        with _save_crops(classifier, save_input):
            run.write_records(
                classifier,
                {
                    "top_k": classifier.top_k,
                    **confidence.to_settings(),
                    **(selection.to_settings() if selection else {}),
                },
                selects=selection.selects if selection else None,
                count=counts.add if counts else None,
            )
    if counts:
        counts.print_counts(as_json=counts_as_json)
    elif _prints_table(output) and not classifier.calibration and run.stats.answered:
        _mention_calibration(classifier)
    raise typer.Exit(int(run.stats.status))


def _prints_table(output: OutputOptions) -> bool:
    """Whether the results are a table on stdout."""
    return output.output is None and output.output_format in (None, "table") and not (output.json or output.jsonl)


def _mention_calibration(classifier: "Classifier") -> None:
    """Prints a line below the table if the probabilities could be calibrated."""
    run, network = classifier.runner.run_info, classifier.runner.network
    published = network.calibration
    if network.own_calibration is not None or _has_own_calibration(run):
        try:
            found = classifier.find_calibration()
        except UsageError as error:  # the run did not need it
            print_message(str(error))
            return
        known = f"the {found.describe()}" if found else None
    elif published and run.activation == "softmax":
        before, after = 100 * published.ece_before, 100 * published.ece_after
        known = f"a published temperature (calibration error {before:.1f} → {after:.1f} %)"
    else:
        known = None
    if known:
        print_message(f"these are the network's own probabilities; --calibrated applies {known}")


def _has_own_calibration(run: "RunInfo") -> bool:
    from imgclassify.paths import calibration_path

    return run.weights_sha256 is not None and calibration_path(run.weights_sha256).is_file()


def _require_outside(folder: Path, sources: list[str]) -> None:
    """Checks that a later run over the same sources will not classify the crops."""
    for source in sources:
        if Path(source).is_dir() and folder.resolve().is_relative_to(Path(source).resolve()):
            raise UsageError(
                f"--save-input {str(folder)!r} lies within the source {source!r}; a later run would classify it",
                hint="choose a folder outside of it",
            )


def _save_crops(classifier: "Classifier", folder: Path | None) -> AbstractContextManager[object]:
    """Saves the crops of the images that are classified during the block, if there is a folder for them."""
    if folder is None:
        return nullcontext()
    from imgclassify.images.crop_files import CropFolder

    crops = CropFolder(folder, model=classifier.run.model)
    classifier.runner.observe_crops(crops.save)
    return crops
