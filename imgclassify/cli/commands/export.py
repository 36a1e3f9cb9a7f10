"""imgclassify export: writes a whole classifier into one file, for programs without imgclassify."""

import json as jsonlib
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_message
from imgclassify.cli.inputs import SourceInputs, no_images_error
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_from, complete_model
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import LoadingOptions, Offline
from imgclassify.cli.options.output import OUTPUT_PANEL, Json
from imgclassify.cli.options.preprocessing import PreprocessingOptions
from imgclassify.cli.options.sources import SourceOptions
from imgclassify.cli.progress import SourceCount, show_progress
from imgclassify.cli.stats import RunStats, count_of
from imgclassify.cli.tables import print_table
from imgclassify.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from imgclassify.comparison import Comparison
    from imgclassify.exporting.exporting import ExportReport
    from imgclassify.sources import Source

app = CommandApp(add_completion=False)

_FORMATS = ".onnx, .pt2 (torch.export) or .torchscript"


@app.command(
    epilog="Exit status: 0 the file is written, 1 it is, but some images of --check failed, 2 wrong usage, 3 model "
    "unavailable, or the file is not right and not written, 4 no image found, 130 interrupted.",
    examples={
        "for onnxruntime": "imgclassify export resnet50 -o resnet50.onnx",
        "probabilities and features too": "imgclassify export ./pets -o pets.onnx --probabilities --features",
        "checked on your own images": "imgclassify export resnet50 -o resnet50.onnx --check photos/",
        "half the size": "imgclassify export resnet50 -o half.onnx --dtype float16 --check photos/",
        "use it": "imgclassify predict dog.jpg -m ./resnet50.onnx",
    },
)
@with_option_groups
def export(
    *,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            autocompletion=complete_model,
            show_default=False,
            help="Model, as for predict --model. Files that contain their own network are exported already.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help=f"File to write to. Its extension selects the format: {_FORMATS}.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUTPUT_PANEL, help="Replace an earlier file.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            rich_help_panel=OUTPUT_PANEL,
            help="Add the output probabilities, which are computed from the logits.",
        ),
    ] = False,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            rich_help_panel=OUTPUT_PANEL,
            help="Add the output features: what the last linear layer sees.",
        ),
    ] = False,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            autocompletion=complete_from(["float32", "float16"]),
            metavar="DTYPE",
            rich_help_panel=OUTPUT_PANEL,
            help="What an .onnx file computes in: float32, or float16, which halves its size. Its outputs stay "
            "float32.",
        ),
    ] = "float32",
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check",
            metavar="SOURCE",
            show_default=False,
            help="Images on which the file must give the same class as the model: files, folders, globs or "
            "archives. Repeatable.",
        ),
    ] = None,
    json: Json = False,
    loading: LoadingOptions,
    preprocessing: PreprocessingOptions,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Write a whole classifier into one file, for programs without imgclassify.

    The file takes crops of uint8, (N, H, W, 3), for any N, and normalises them. Labels, preprocessing, calibration
    and provenance are in its metadata, so that predict -m FILE needs no other option. A script beside it,
    FILE.run.py, classifies images without imgclassify.

    The file gets its name only when its outputs are those of the model. Of models without a graph, .onnx needs the
    "export" extra of imgclassify.
    """
    console.configure()
    if output is None:
        raise UsageError("--output is missing", hint=f"give -o FILE, in {_FORMATS}")
    from imgclassify.exporting.exporting import export_source, find_target
    from imgclassify.exporting.source import ExportSource

    target = find_target(output, dtype=dtype, overwrite=overwrite)
    images = _CheckedImages(check, offline=offline) if check else None
    with download_progress() as progress:
        source = ExportSource(
            reference,
            probabilities=probabilities,
            features=features,
            offline=offline,
            progress=progress,
            **loading.classifier_arguments(),
            **preprocessing.classifier_arguments(),
        )
    if images is None:
        report = export_source(source, target)
    else:
        with images.show_progress():
            report = export_source(source, target, check=images.find, on_result=images.stats.add_record)
    if json:
        typer.echo(jsonlib.dumps({"schema": "imgclassify.export_report/1", **report.to_dict()}, indent=1))
    else:
        print_table([], _rows(report), wrapped=[1])
    failed = report.comparison.failed if report.comparison else 0
    if failed and report.comparison:
        _name_failures(report.comparison)
    raise typer.Exit(int(ExitStatus.SOME_IMAGES_FAILED if failed else ExitStatus.OK))


class _CheckedImages:
    """The images of --check. They are read twice."""

    def __init__(self, names: list[str], *, offline: bool) -> None:
        """
        Raises:
            UsageError: stdin is among them.
            NoImagesError: there are none.
        """
        if "-" in names:
            raise UsageError("--check reads images twice, and stdin can be read only once", hint="give files")
        self._inputs = SourceInputs(SourceOptions(sources=names), offline=offline)
        self.stats = RunStats()
        if next(self._inputs.expand_quietly(), None) is None:
            next(self._inputs.open_sources(), None)  # says what was skipped
            raise no_images_error(self._inputs.selection)

    def find(self) -> "Iterator[Source]":
        return self._inputs.expand_quietly()

    def show_progress(self) -> AbstractContextManager[None]:
        total = SourceCount(None, self._inputs.count_sources)
        return show_progress(self.stats, total, on_terminal=False)


def _rows(report: "ExportReport") -> Iterator[list[str]]:
    height, width = report.crop_size
    yield ["model", report.model]
    yield ["file", f"{report.path} ({report.bytes / 2**20:.1f} MiB)"]
    if report.data:
        yield ["parameters", f"{report.data}: keep it beside the file"]
    yield ["script", str(report.script)]
    yield ["SHA-256", report.sha256]
    yield ["input", f"crops: uint8 (N, {height}, {width}, 3)"]
    yield from (["output", f"{name}: float32 (N, {size})"] for name, size in report.outputs.items())
    yield ["checked", f"made-up crops: {_describe_difference(report.difference)}"]
    if report.comparison:
        yield ["your images", _describe_comparison(report.comparison)]
    trust = "" if report.format == "onnx" else " --trust"
    yield ["use it", f"imgclassify predict IMAGE -m {shlex.quote(str(report.path))}{trust}"]


def _name_failures(comparison: "Comparison") -> None:
    for each in comparison.failures:
        failure = each.other or each.reference
        print_message(f"failed: {each.source}: {failure.message if failure else ''}")
    if comparison.failed > len(comparison.failures):
        print_message(f"and {comparison.failed - len(comparison.failures):,} more")


def _describe_comparison(comparison: "Comparison") -> str:
    failed = f", {comparison.failed:,} failed" if comparison.failed else ""
    images = count_of(comparison.compared, "image")
    return f"{images} with the same class{failed}; {_describe_difference(comparison.largest_change)}"


def _describe_difference(difference: float) -> str:
    if not difference:
        return "the same probabilities, to the bit"
    return f"probabilities differ by {difference:.2g} at most"
