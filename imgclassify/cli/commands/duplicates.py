"""imgclassify duplicates: groups images that are the same. It never deletes one."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_message
from imgclassify.cli.inputs import SourceInputs, no_images_error
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_from
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import ArchitectureOptions, Model, Offline
from imgclassify.cli.options.output import OUTPUT_PANEL, Output, Overwrite
from imgclassify.cli.options.sources import SourceOptions
from imgclassify.cli.progress import SourceCount, show_progress
from imgclassify.cli.shutdown import GracefulShutdown
from imgclassify.cli.stats import RunStats, count_of
from imgclassify.cli.tables import print_table
from imgclassify.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from imgclassify.similarity.duplicates import DuplicateFinder, DuplicateGroup, GroupMember

app = CommandApp(add_completion=False)

_FORMATS = ("table", "jsonl", "csv")
_COLUMNS = ("group", "keep", "relation", "agreement", "width", "height", "bytes", "source", "reason")


@app.command(
    epilog="Exit status: 0 every image read, 1 some failed, 2 wrong usage, 3 model unavailable or OpenCV missing, "
    "4 no image found, 130 interrupted (129 by SIGHUP, 143 by SIGTERM).",
    examples={
        "a folder": "imgclassify duplicates photos/",
        "only equal files": "imgclassify duplicates photos/ --stage bytes",
        "as a table": "imgclassify duplicates photos/ -f csv -o duplicates.csv",
    },
)
@with_option_groups
def duplicates(
    *,
    sources: SourceOptions,
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            autocompletion=complete_from(["bytes", "pixels", "vector"]),
            metavar="STAGE",
            help="What counts as the same: equal files (bytes), equal pixels (pixels), or also a changed image "
            "(vector). Each includes those before it.",
        ),
    ] = "vector",
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="T",
            show_default=False,
            help="Least share of two images that must look alike after one is laid over the other, 0 to 1. "
            "Default: 0.7.",
        ),
    ] = None,
    model: Model = None,
    loading: ArchitectureOptions,
    output_format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            autocompletion=complete_from(_FORMATS),
            metavar="FORMAT",
            rich_help_panel=OUTPUT_PANEL,
            help=f"Output format: {', '.join(_FORMATS)}.",
        ),
    ] = "table",
    output: Output = None,
    overwrite: Overwrite = False,
    offline: Offline = False,
    console_options: ConsoleOptions,
) -> None:
    """Find images that are the same file, the same pixels, or the same image changed.

    A changed image is resized, recompressed, cropped, mirrored or turned. The network only proposes pairs. Two
    images count as the same if one can be laid over the other.

    Each group has an image to keep: the largest, else the sharpest, the oldest, or the first. Nothing is deleted.
    """
    console_options.configure()
    if output_format not in _FORMATS:
        raise UsageError(f"unknown format {output_format!r}", hint=f"use one of {', '.join(_FORMATS)}")
    if threshold is not None and stage != "vector":
        raise UsageError("--threshold is for --stage vector", hint="leave out --threshold")
    if not overwrite:
        from imgclassify.output import require_no_result

        require_no_result(output)
    inputs = SourceInputs(sources, offline=offline)
    finder = _create_finder(stage, threshold, model, loading, offline=offline)
    stats = RunStats(skipped=inputs.selection.skipped, skipped_extensions=inputs.selection.skipped_extensions)
    with GracefulShutdown() as shutdown:
        _read_images(finder, inputs, stats, shutdown)
        if shutdown.status:
            raise typer.Exit(int(shutdown.status))
    if not stats.images:
        raise no_images_error(inputs.selection)
    with _show_comparing(finder):
        groups = finder.find_groups()
    stats.stop_clock()
    _write_groups(groups, output_format, output)
    copies = sum(len(group.members) - 1 for group in groups)
    found = f"{count_of(len(groups), 'group')}, {count_of(copies, 'image')} besides those to keep"
    print_message(f"{stats.summary_line()}; {found}")
    raise typer.Exit(int(ExitStatus.SOME_IMAGES_FAILED if stats.failures else ExitStatus.OK))


def _create_finder(
    stage: str, threshold: float | None, model: str | None, loading: ArchitectureOptions, *, offline: bool
) -> "DuplicateFinder":
    from imgclassify.similarity.duplicates import DuplicateFinder

    if stage != "vector":
        return DuplicateFinder(stage, threshold=threshold)
    from imgclassify.engines import FEATURES
    from imgclassify.runner import load_runner
    from imgclassify.similarity.alignment import require_opencv

    require_opencv()
    with download_progress() as progress:
        runner = load_runner(
            model,
            outputs=(FEATURES,),
            with_labels=False,
            **loading.classifier_arguments(),
            offline=offline,
            progress=progress,
        )
    return DuplicateFinder(stage, runner=runner, threshold=threshold)


def _read_images(
    finder: "DuplicateFinder", inputs: SourceInputs, stats: RunStats, shutdown: GracefulShutdown
) -> None:
    """Reads all images. Prints the failed ones on stderr."""
    total = SourceCount(None, inputs.count_sources)
    records = finder.stream(inputs.open_sources(), stop_event=shutdown.stop_requested)
    with closing(records), show_progress(stats, total, on_terminal=False):
        for facts in records:
            stats.add_record(facts)
            if facts.error:
                print_message(f"{facts.source}: {facts.error.type}: {facts.error.message}")


def _show_comparing(finder: "DuplicateFinder") -> AbstractContextManager[None]:
    """Shows on a terminal how many pairs have been compared in detail."""
    if not (console.shows_progress and console.is_terminal()):
        return nullcontext()
    return console.draw_line(lambda: f"{finder.num_compared:,} of {count_of(finder.num_pairs, 'pair')} compared")


def _write_groups(groups: "list[DuplicateGroup]", output_format: str, output: Path | None) -> None:
    if output_format == "table" and (output is None or str(output) == "-"):
        rows = [[row[name] for name in _COLUMNS] for row in map(_as_text, _rows(groups))]
        if rows:
            print_table(list(_COLUMNS), rows, right=(0, 3, 4, 5, 6), optional=(6, 5, 4), wrapped=(7, 8))
        return
    if output_format == "jsonl":
        text = "".join(json.dumps(_document(number, group)) + "\n" for number, group in enumerate(groups, 1))
    else:
        text = _to_csv(groups, "," if output_format == "csv" else "\t")
    from imgclassify.output.text_stream import open_text

    with open_text(output) as stream:
        stream.write(text)


def _rows(groups: "list[DuplicateGroup]") -> Iterator[dict[str, Any]]:
    """Yields one row per image."""
    for number, group in enumerate(groups, 1):
        for member in group.members:
            keep = member.relation == "keeper"
            yield {"group": number, "keep": "yes" if keep else "no", **_describe(member)} | {
                "reason": group.reason if keep else None
            }


def _describe(member: "GroupMember") -> dict[str, Any]:
    return {
        "source": member.facts.source,
        "relation": member.relation,
        "agreement": None if member.agreement is None else round(member.agreement, 4),
        "width": member.facts.width,
        "height": member.facts.height,
        "bytes": member.facts.num_bytes,
    }


def _document(number: int, group: "DuplicateGroup") -> dict[str, Any]:
    keeper = group.members[0].facts.source
    return {
        "group": number,
        "keeper": keeper,
        "reason": group.reason,
        "images": [_describe(member) for member in group.members],
    }


def _as_text(row: dict[str, Any]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in row.items()}


def _to_csv(groups: "list[DuplicateGroup]", delimiter: str) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(groups))
    return stream.getvalue()
