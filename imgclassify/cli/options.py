"""Options that several commands share. Options that belong together form a group (option_groups.py)."""

# No `from __future__ import annotations` here: option_groups.py needs the annotations as objects, not as text.

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli import console
from imgclassify.cli.option_groups import OTHER_PANEL
from imgclassify.cli.option_values import (
    complete_architecture,
    complete_dtype,
    complete_engine,
    complete_format,
    complete_from,
    complete_interpolation,
    complete_labels,
    complete_model,
    parse_channels,
    parse_number,
    parse_size,
)
from imgclassify.errors import UsageError
from imgclassify.hub.reference import KINDS
from imgclassify.images import MAX_PIXELS, TIME_LIMIT
from imgclassify.output.formats import format_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgclassify.confidence.assessment_options import AssessmentOptions
    from imgclassify.evaluation.truth import Truth
    from imgclassify.images.frames import FrameSelection
    from imgclassify.labels import LabelSet
    from imgclassify.output.formats import OutputFormat
    from imgclassify.output.records import RecordType
    from imgclassify.result_filter import ResultFilter

SOURCES_PANEL = "Sources"
MODEL_PANEL = "Model"
OUTPUT_PANEL = "Output"
_RESULTS = "Results"
_CONFIDENCE = "Confidence"
_TRUTH = "Truth"
RUNNING_PANEL = "Running"
_UNATTENDED = "Running unattended"
_PREPROCESSING = "Preprocessing (instead of the model's own)"

_MODEL_FORMS = ", ".join(form for kind in KINDS for form in kind.forms if kind.name != "file")

Debug = Annotated[
    bool,
    typer.Option(
        "--debug", rich_help_panel=OTHER_PANEL, help="Print the traceback of an error.", envvar="IMGCLASSIFY_DEBUG"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NoProgress = Annotated[
    bool, typer.Option("--no-progress", rich_help_panel=OTHER_PANEL, help="Do not show progress on stderr.")
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", rich_help_panel=OTHER_PANEL, help="Never open a network socket.", envvar="IMGCLASSIFY_OFFLINE"
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=OTHER_PANEL, help="Print only errors on stderr.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=complete_model,
        metavar="REF",
        envvar="IMGCLASSIFY_MODEL",
        rich_help_panel=MODEL_PANEL,
        show_default=False,
        help=f"Model to use: {_MODEL_FORMS}, or a file. Default: efficientnet_lite0, which needs no download.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=OUTPUT_PANEL,
        show_default=False,
        help="File to write to. Default: stdout.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        rich_help_panel=OUTPUT_PANEL,
        help="If --output has a result already, start again and replace it.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        rich_help_panel=OUTPUT_PANEL,
        show_default=False,
        help="Also write a page with figures, charts and mistakes: one HTML file. Needs Jinja2.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        autocompletion=complete_from(["auto", "cpu", "cuda", "mps"]),
        metavar="DEVICE",
        rich_help_panel=RUNNING_PANEL,
        help="Device to run on: auto, cpu, cuda, cuda:N or mps.",
    ),
]
Workers = Annotated[
    str,
    typer.Option("--workers", metavar="N|auto", rich_help_panel=RUNNING_PANEL, help="Number of decoding threads."),
]
TopK = Annotated[
    int,
    typer.Option(
        "--top-k", "-k", metavar="N", min=1, rich_help_panel=OUTPUT_PANEL, help="Number of predictions per image."
    ),
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", rich_help_panel=_UNATTENDED, help="Stop at the first failed image.")
]
MaxErrors = Annotated[
    int | None,
    typer.Option(
        "--max-errors",
        metavar="N",
        min=1,
        rich_help_panel=_UNATTENDED,
        show_default=False,
        help="Stop when N images have failed.",
    ),
]
Summary = Annotated[
    Path | None,
    typer.Option(
        "--summary",
        metavar="FILE",
        rich_help_panel=_UNATTENDED,
        show_default=False,
        help="Write a summary of the run to FILE as JSON.",
    ),
]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConsoleOptions:
    """How much is printed on stderr."""

    no_progress: NoProgress = False
    quiet: Quiet = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            rich_help_panel=OTHER_PANEL,
            help="Print more on stderr: model, engine and device.",
        ),
    ] = False
    debug: Debug = False

    def configure(self) -> None:
        """Applies these options to the console of this process."""
        console.configure_console(
            be_quiet=self.quiet,
            be_verbose=self.verbose,
            be_debug=self.debug,
            show_progress=not self.no_progress,
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SourceOptions:
    """Which images to classify."""

    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Files, folders (recursive), globs, URLs or archives. Use - for one image on stdin.",
            show_default=False,
        ),
    ] = None
    files_from: Annotated[
        str | None,
        typer.Option(
            "--files-from",
            metavar="FILE|-",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="Read sources from a file, one per line. Use - for stdin.",
        ),
    ] = None
    null: Annotated[
        bool,
        typer.Option(
            "--null", "-0", rich_help_panel=SOURCES_PANEL, help="Names in the list end in NUL (find -print0)."
        ),
    ] = False
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="GLOB",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="In folders, globs and archives, take only matching files (.gitignore syntax). Repeatable.",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="In folders, globs and archives, skip matching files and folders. Repeatable.",
        ),
    ] = None
    no_recursive: Annotated[
        bool, typer.Option("--no-recursive", rich_help_panel=SOURCES_PANEL, help="Do not look into subfolders.")
    ] = False
    hidden: Annotated[
        bool,
        typer.Option(
            "--hidden",
            rich_help_panel=SOURCES_PANEL,
            help="Also take files and folders that begin with a dot, and system folders such as @eaDir.",
        ),
    ] = False
    any_name: Annotated[
        bool,
        typer.Option(
            "--any-name",
            rich_help_panel=SOURCES_PANEL,
            help="In folders and archives, also take files without the extension of an image.",
        ),
    ] = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ArchitectureOptions:
    """The architecture of a model that does not state it, and whether its code may run."""

    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            autocompletion=complete_architecture,
            metavar="NAME",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Architecture of a checkpoint file: a catalogued model or timm:NAME. "
            "Preprocessing and labels of files and torch.hub models are also taken from it.",
        ),
    ] = None
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            rich_help_panel=MODEL_PANEL,
            help="Allow a torch.hub repository or a TorchScript file to run its own code.",
        ),
    ] = False
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-key",
            metavar="KEY",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Which weights of a checkpoint file to use, if it has several: state_dict_ema, ema.module, ...",
        ),
    ] = None
    transform_input: Annotated[
        bool | None,
        typer.Option(
            "--transform-input/--no-transform-input",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Whether a checkpoint of googlenet or inception_v3 was built with torchvision's transform_input. "
            "Default: as the published weights, with it.",
        ),
    ] = None

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LoadingOptions(ArchitectureOptions):
    """The architecture and labels of a model that does not state them, and whether its code may run."""

    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            autocompletion=complete_labels,
            metavar="NAME|FILE",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Label set or label file to use instead of the model's own.",
        ),
    ] = None
    activation: Annotated[
        str,
        typer.Option(
            "--activation",
            autocompletion=complete_from(["auto", "softmax", "sigmoid", "none"]),
            metavar="NAME",
            rich_help_panel=MODEL_PANEL,
            help="How the network's outputs become probabilities: auto, softmax, sigmoid (each class by itself) or "
            "none (they are probabilities).",
        ),
    ] = "auto"
    output_name: Annotated[
        str | None,
        typer.Option(
            "--output-name",
            metavar="NAME",
            rich_help_panel=MODEL_PANEL,
            show_default=False,
            help="Which output of the network to use, if it has several.",
        ),
    ] = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OutputOptions:
    """Where records are written, and in which format."""

    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            autocompletion=complete_format,
            metavar="FORMAT",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help=f"Output format: {format_names('predictions')}. "
            "Default: from the extension of --output, else table.",
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT_PANEL, help="Short for --format json.")] = (
        False
    )
    jsonl: Annotated[
        bool, typer.Option("--jsonl", rich_help_panel=OUTPUT_PANEL, help="Short for --format jsonl.")
    ] = False
    output: Output = None
    overwrite: Overwrite = False

    def find_format(self, record_type: "RecordType[Any]", *, default: str) -> "OutputFormat":
        """Returns the selected output format. Without an option for it, the extension of --output decides.

        Args:
            record_type: the kind of record that the format must hold.
            default: name of the format for stdout.

        Raises:
            UsageError: the format is unknown or cannot hold such records, or several are given.
        """
        from imgclassify.output import formats

        names = {name for name, wanted in (("json", self.json), ("jsonl", self.jsonl)) if wanted}
        names |= set() if self.output_format is None else {self.output_format}
        if len(names) > 1:
            raise UsageError(f"several formats given: {', '.join(sorted(names))}", hint="choose one of them")
        if names:
            return formats.find_format(names.pop(), record_type)
        if self.output is None or str(self.output) == "-":
            return formats.find_format(default, record_type)
        return formats.format_of_path(self.output, record_type)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResultOptions:
    """Which results are written, and whether classes are grouped or counted."""

    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            rich_help_panel=_RESULTS,
            show_default=False,
            help="Write only images whose best class is NAME or lies under it in WordNet: a label, a wnid, "
            "or a node such as dog or vehicle. Repeatable.",
        ),
    ] = None
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="NAME",
            rich_help_panel=_RESULTS,
            show_default=False,
            help="Leave out images whose best class is NAME or lies under it. Repeatable.",
        ),
    ] = None
    min_probability: Annotated[
        float | None,
        typer.Option(
            "--min-probability",
            metavar="P",
            min=0,
            max=1,
            rich_help_panel=_RESULTS,
            show_default=False,
            help="Write only images whose best prediction has at least this probability, 0..1.",
        ),
    ] = None
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="NAMES|FILE",
            rich_help_panel=_RESULTS,
            show_default=False,
            help="Predict groups of classes: dog,cat,bird=n01503061,pet=dog+cat, or a file with two columns, "
            "class and group. Probabilities are added. The rest is the group other. Repeatable.",
        ),
    ] = None
    count: Annotated[
        bool,
        typer.Option(
            "--count",
            rich_help_panel=_RESULTS,
            help="Print how many images have each label. Without --output, no records are written.",
        ),
    ] = False

    @property
    def groups(self) -> str | None:
        """All groups, as the argument of Classifier."""
        return ",".join(self.group) if self.group else None

    def create_filter(self, labels: "LabelSet") -> "ResultFilter | None":
        """Returns the filter of these options; None if they select all results.

        Raises:
            UsageError: a name is not known or has several meanings, or no class is left.
        """
        if not self.only and not self.without and self.min_probability is None:
            return None
        from imgclassify.result_filter import ResultFilter

        return ResultFilter.create(
            labels, only=self.only or (), without=self.without or (), min_probability=self.min_probability
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CalibrationOptions:
    """Whether probabilities are calibrated."""

    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrated",
            rich_help_panel=_CONFIDENCE,
            help="Calibrate the probabilities with what is known of these weights: from imgclassify calibrate, or "
            "published.",
        ),
    ] = False
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Calibrate the probabilities with a file of imgclassify calibrate.",
        ),
    ] = None

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier."""
        return {"calibration": self.calibrated if self.calibration is None else self.calibration}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConfidenceOptions(CalibrationOptions):
    """How far answers can be trusted."""

    at_least: Annotated[
        float | None,
        typer.Option(
            "--at-least",
            metavar="P",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Answer with the most specific class or node of WordNet, such as dog, whose probability is at "
            "least P, 0..1.",
        ),
    ] = None
    tree: Annotated[
        Path | None,
        typer.Option(
            "--tree",
            metavar="FILE",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Tree of the classes for --at-least, instead of WordNet: a file with the columns class and "
            "parent, or class and ranks.",
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="P",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Answer only if the best class has at least probability P, 0..1, and else not sure.",
        ),
    ] = None
    sets: Annotated[
        float | None,
        typer.Option(
            "--sets",
            metavar="COVERAGE",
            rich_help_panel=_CONFIDENCE,
            show_default=False,
            help="Add a set of classes that holds the true class with this probability, 0..1. Needs a calibration.",
        ),
    ] = None
    set_method: Annotated[
        str,
        typer.Option(
            "--set-method",
            autocompletion=complete_from(["lac", "raps"]),
            metavar="NAME",
            rich_help_panel=_CONFIDENCE,
            help="Kind of the sets: lac, which are smallest on average, or raps, which are larger for hard images.",
        ),
    ] = "lac"
    unfamiliar: Annotated[
        bool,
        typer.Option(
            "--unfamiliar",
            rich_help_panel=_CONFIDENCE,
            help="Add a score of how unlike the images of known classes an image is.",
        ),
    ] = False

    @property
    def fields(self) -> set[str]:
        """The fields of a record that are wanted, of records.OPTIONAL_FIELDS.

        Raises:
            UsageError: a value is out of its range, or two options exclude each other.
        """
        assessment = self._check()
        return assessment.fields if assessment else set()

    def to_settings(self) -> dict[str, int | str]:
        """Returns the options that records depend on, as settings of their output."""
        assessment = self._check()
        return assessment.to_settings() if assessment else {}

    @property
    def assessment(self) -> "AssessmentOptions":
        """The options, checked. Raises as `fields` does."""
        from imgclassify.confidence.assessment_options import AssessmentOptions

        return AssessmentOptions(**self._assessment_arguments())

    def _check(self) -> "AssessmentOptions | None":
        """Returns the options, checked. None if none is given: then nothing is imported."""
        is_given = self._assessment_arguments() != ConfidenceOptions()._assessment_arguments()
        return self.assessment if is_given else None

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier."""
        return {**CalibrationOptions.classifier_arguments(self), **self._assessment_arguments()}

    def _assessment_arguments(self) -> dict[str, Any]:
        names = ("at_least", "tree", "threshold", "sets", "set_method", "unfamiliar")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TruthOptions:
    """Where the true class of each image is found."""

    truth: Annotated[
        str | None,
        typer.Option(
            "--truth",
            metavar="KIND|FILE",
            rich_help_panel=_TRUTH,
            show_default=False,
            help="Where the true classes are: folders (the names of the images' folders), names (wnids at the "
            "beginning of file names), or a CSV file with the columns source and class, label, wnid or "
            "class_index. Default: folders or names.",
        ),
    ] = None
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="FILE",
            rich_help_panel=_TRUTH,
            show_default=False,
            help="CSV file of two columns: names in the data, and classes of the model that are right for them. "
            "A node of WordNet, such as dog, stands for all classes under it.",
        ),
    ] = None
    ignore_unknown: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown",
            rich_help_panel=_TRUTH,
            help="Leave out images whose class the model does not have, and count them.",
        ),
    ] = False

    def to_settings(self) -> dict[str, int | str]:
        """Returns the options that records depend on, as settings of their output."""
        from imgclassify.evaluation.truth import KINDS
        from imgclassify.files import describe_content

        values = {
            "truth": self.truth if self.truth in (None, *KINDS) else describe_content(Path(self.truth)),
            "map": self.class_map and describe_content(self.class_map),
            "ignore_unknown": "yes" if self.ignore_unknown else None,
        }
        return {name: value for name, value in values.items() if value}

    def find_truth(self, labels: "LabelSet", names: "Iterable[str]") -> "Truth":
        """Returns the true classes of images with these names.

        Raises:
            UsageError: a name stands for no class or for several, an image has no truth, or a file cannot be read.
            NoImagesError: there are no names.
        """
        from imgclassify.evaluation.truth import find_truth

        return find_truth(
            labels,
            names,
            truth=self.truth,
            map_file=None if self.class_map is None else str(self.class_map),
            ignore_unknown=self.ignore_unknown,
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnattendedOptions:
    """How an unattended run resumes, stops at failures and reports."""

    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=_UNATTENDED,
            help="Keep the records in --output and process only the other sources. "
            "If there are no records yet, a new run starts.",
        ),
    ] = False
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors",
            rich_help_panel=_UNATTENDED,
            help="Like --resume, but also process the failed sources again.",
        ),
    ] = False
    fail_fast: FailFast = False
    max_errors: MaxErrors = None
    summary: Summary = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FailureOptions:
    """How a run that cannot be resumed stops at failures and reports."""

    fail_fast: FailFast = False
    max_errors: MaxErrors = None
    summary: Summary = None

    def to_unattended(self) -> UnattendedOptions:
        """Returns the options of a run that is not resumed."""
        return UnattendedOptions(fail_fast=self.fail_fast, max_errors=self.max_errors, summary=self.summary)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FrameOptions:
    """Which frames are taken of files that have several."""

    frames: Annotated[
        str,
        typer.Option(
            "--frames",
            autocompletion=complete_from(["first", "all", "key"]),
            metavar="WHICH",
            rich_help_panel=SOURCES_PANEL,
            help="Of animations, pages and videos: the first that is not blank, all, or the key frames of a video.",
        ),
    ] = "first"
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="RATE",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="Like --frames all, but at most RATE frames for each second of a video.",
        ),
    ] = None

    @property
    def selection(self) -> "FrameSelection | None":
        """The frames to take. None takes the first that is not blank.

        Raises:
            UsageError: an option is out of its range, or the two exclude each other.
        """
        if self.frames == "first" and self.fps is None:
            return None
        from imgclassify.images.frames import select_frames

        return select_frames("all" if self.fps is not None and self.frames == "first" else self.frames, self.fps)

    def to_settings(self) -> dict[str, int | str]:
        """Returns the values that two runs must share to write to the same file, by the name of the option."""
        values = {
            "frames": self.frames if self.selection else "",
            "fps": "" if self.fps is None else f"{self.fps:g}",
        }
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DecodingOptions:
    """Limits on decoding one image, and what is done with a damaged one."""

    max_pixels: Annotated[
        int,
        typer.Option(
            "--max-pixels",
            metavar="N",
            min=1,
            rich_help_panel=_UNATTENDED,
            help="Reject images with more pixels, before decoding. Each gets an error record.",
        ),
    ] = MAX_PIXELS
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate",
            rich_help_panel=_UNATTENDED,
            help="Decode in separate processes. If a decoder crashes or hangs, only its image fails.",
        ),
    ] = False
    time_limit: Annotated[
        float,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            rich_help_panel=_UNATTENDED,
            help="Time limit for decoding one image, with --isolate.",
        ),
    ] = TIME_LIMIT
    decode_damaged: Annotated[
        bool,
        typer.Option(
            "--decode-damaged",
            rich_help_panel=_UNATTENDED,
            help="Use what there is of a damaged JPEG, PNG, WebP or GIF. Its record is marked as damaged.",
        ),
    ] = False

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier."""
        return asdict(self)

    def to_settings(self) -> dict[str, int | str]:
        """Returns the options that records depend on, as settings of their output. Without them, it is empty."""
        return {"decode_damaged": "yes"} if self.decode_damaged else {}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RunningOptions:
    """How the network is run. The defaults are the exact setting."""

    device: Device = "auto"
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            autocompletion=complete_dtype,
            metavar="DTYPE",
            rich_help_panel=RUNNING_PANEL,
            help="Data type that the network computes in: float32, bfloat16 or float16.",
        ),
    ] = "float32"
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            autocompletion=complete_engine,
            metavar="ENGINE",
            rich_help_panel=RUNNING_PANEL,
            help="Engine that runs the network: auto, torch or onnxruntime.",
        ),
    ] = "auto"
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="N|auto", rich_help_panel=RUNNING_PANEL, help="Images per batch.")
    ] = "auto"
    workers: Workers = "auto"
    fast_decode: Annotated[
        bool,
        typer.Option(
            "--fast-decode",
            rich_help_panel=RUNNING_PANEL,
            help="Decode large JPEGs at a smaller scale. Faster, with nearly the same results.",
        ),
    ] = False
    decode: Annotated[
        str,
        typer.Option(
            "--decode",
            autocompletion=complete_from(["cpu", "gpu"]),
            metavar="DEVICE",
            rich_help_panel=RUNNING_PANEL,
            help="Device that decodes JPEGs: cpu or gpu. gpu uses nvJPEG on a CUDA device, with nearly the same "
            "results.",
        ),
    ] = "cpu"

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier.

        Raises:
            UsageError: --batch-size or --workers is not a valid number.
        """
        return {
            "device": self.device,
            "dtype": self.dtype,
            "engine": self.engine,
            "batch_size": parse_number("--batch-size", self.batch_size),
            "workers": parse_number("--workers", self.workers),
            "fast_decode": self.fast_decode,
            "decode_device": self.decode,
        }


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PreprocessingOptions:
    """Values that replace the model's own preprocessing."""

    resize_size: Annotated[
        str | None,
        typer.Option(
            "--resize-size",
            metavar="N|HxW",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Pixels of the short side after resizing, or height and width, whatever the aspect ratio.",
        ),
    ] = None
    crop_size: Annotated[
        str | None,
        typer.Option(
            "--crop-size",
            metavar="N|HxW",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Side of a square crop, or height and width of the crop, in pixels.",
        ),
    ] = None
    interpolation: Annotated[
        str | None,
        typer.Option(
            "--interpolation",
            autocompletion=complete_interpolation,
            metavar="NAME",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Interpolation: nearest, box, bilinear, hamming, bicubic or lanczos.",
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="R,G,B",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Mean to subtract, for pixels scaled to 0..1. One number applies to all three channels.",
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            "--std",
            metavar="R,G,B",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Standard deviation to divide by, for pixels scaled to 0..1. "
            "One number applies to all three channels.",
        ),
    ] = None
    channel_order: Annotated[
        str | None,
        typer.Option(
            "--channel-order",
            autocompletion=complete_from(["rgb", "bgr", "grey"]),
            metavar="ORDER",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Order of the channels that the network takes, and of --mean and --std: rgb, bgr or grey.",
        ),
    ] = None

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier.

        Raises:
            UsageError: a value cannot be parsed.
        """
        return {
            "resize_size": parse_size("--resize-size", self.resize_size),
            "crop_size": parse_size("--crop-size", self.crop_size),
            "interpolation": self.interpolation,
            "mean": parse_channels("--mean", self.mean),
            "std": parse_channels("--std", self.std),
            "channel_order": self.channel_order,
        }
