"""imgclassify predict: pictures in, labels out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from imgclassify.cli import console, options
from imgclassify.cli import predict_options as given
from imgclassify.cli.inputs import InputArgs
from imgclassify.cli.options import Debug, Format, NoProgress, Offline, Quiet, Verbose
from imgclassify.cli.progress import SourceCount
from imgclassify.cli.run import report_on_exit, run_to_output
from imgclassify.cli.stats import RunStats
from imgclassify.errors import NoImagesError, UsageError

if TYPE_CHECKING:
    from imgclassify.output import Output
    from imgclassify.sources import Source

_LOOK_AHEAD = 4096
"""Pictures counted before the first is answered; where there are more, there are many."""

_MAX_PIXELS = 2**28
"""images.MAX_PIXELS, which is imported only where pictures are."""
_TIME_LIMIT = 30.0
"""pictures.TIME_LIMIT, as above."""


app = typer.Typer(add_completion=False)


@app.command(
    epilog="Exit status: 0 every image answered, 1 some failed, 2 wrong usage, 3 model or labels unavailable, "
    "4 no image found, 130 interrupted (129 by SIGHUP, 143 by SIGTERM)."
)
def predict(
    sources: given.Sources = None,
    model: given.Model = None,
    arch: given.Arch = None,
    labels: given.Labels = None,
    trust: given.Trust = False,
    top_k: given.TopK = 5,
    output_format: given.OutputFormat = None,
    json: given.Json = False,
    jsonl: given.Jsonl = False,
    output: given.Output = None,
    files_from: given.FilesFrom = None,
    null: given.Null = False,
    include: given.Include = None,
    exclude: given.Exclude = None,
    no_recursive: given.NoRecursive = False,
    hidden: given.Hidden = False,
    resume: given.Resume = False,
    retry_errors: given.RetryErrors = False,
    fail_fast: given.FailFast = False,
    max_errors: given.MaxErrors = None,
    summary: given.SummaryFile = None,
    max_pixels: given.MaxPixels = _MAX_PIXELS,
    isolate: given.Isolate = False,
    time_limit: given.TimeLimit = _TIME_LIMIT,
    device: given.Device = "auto",
    dtype: given.Dtype = "float32",
    engine: given.Engine = "auto",
    batch_size: given.BatchSize = "auto",
    workers: given.Workers = "auto",
    fast_decode: given.FastDecode = False,
    decode: given.Decode = "cpu",
    offline: Offline = False,
    resize_size: given.ResizeSize = None,
    crop_size: given.CropSize = None,
    interpolation: given.Interpolation = None,
    mean: given.Mean = None,
    std: given.Std = None,
    no_progress: NoProgress = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Name what is in pictures: the most probable labels, with softmax percentages.

    One record per image, in input order. A broken file gets its error record, and the rest goes on.
    """
    console.configure_console(be_quiet=quiet, be_verbose=verbose, be_debug=debug, show_progress=not no_progress)
    from imgclassify.output import open_output

    chosen_format = _format(output_format, json, jsonl, output)
    named = InputArgs(
        sources or [], files_from, null, include or [], exclude or [], not no_recursive, hidden, offline
    )
    selection = named.create_selection()
    tally = RunStats(skipped=selection.skipped)
    if summary:
        from imgclassify.cli.summary import check_summary_path

        check_summary_path(summary, output)
    records = open_output(output, chosen_format, resume=resume or retry_errors, retry_errors=retry_errors)
    with report_on_exit(tally, records, summary, output), records:
        tally.resumed, tally.resumed_failed = records.resumed, records.resumed_failed
        pictures = (each for each in named.open_sources(selection) if not records.claim_record(each.name))
        ahead, ended = _look_ahead(pictures, _LOOK_AHEAD if named.is_complete else 0)
        if not ahead and not tally.resumed:
            raise NoImagesError("no image was found", hint="docs/images.md lists the formats that are opened")
        from imgclassify.classifier import Classifier

        with console.download_progress() as download_progress:
            classifier = Classifier(
                model,
                arch=arch,
                labels=labels,
                top_k=top_k,
                device=device,
                dtype=dtype,
                engine=engine,
                batch_size=options.parse_number("--batch-size", batch_size),
                workers=options.parse_number("--workers", workers),
                fast_decode=fast_decode,
                decode=decode,
                max_pixels=max_pixels,
                isolate=isolate,
                time_limit=time_limit,
                num_images=_expected_images(records, len(ahead) if ended else None),
                resize_size=options.parse_size("--resize-size", resize_size),
                crop_size=options.parse_size("--crop-size", crop_size),
                interpolation=interpolation,
                mean=options.parse_channels("--mean", mean),
                std=options.parse_channels("--std", std),
                offline=offline,
                trust=trust,
                progress=download_progress,
            )
        run = classifier.run
        console.print_verbose(
            f"{run.model} ({run.weights}) on {run.engine}, {run.device}, {run.dtype}: {run.reason}"
        )
        total = SourceCount(tally.resumed + len(ahead) if ended else None, named.count_sources)
        limit = 1 if fail_fast else max_errors
        run_to_output(classifier, chain(ahead, pictures), records, tally, total, max_errors=limit)
    raise typer.Exit(int(tally.status))


def _expected_images(records: Output, left: int | None) -> int | None:
    """How many pictures the whole run has, those of earlier runs included, or None for many: by this number engine
    and device are chosen, and a resumed run must answer as one that was never stopped.

    Args:
        left: pictures of this run; None where they were not counted.
    """
    if left is None or records.resumed + left > _LOOK_AHEAD or records.resumed_device not in (None, "cpu"):
        return None
    return max(records.resumed + left, 1)


def _look_ahead(pictures: Iterator[Source], limit: int) -> tuple[list[Source], bool]:
    """The first pictures, one more than `limit` at most; and whether they are all."""
    ahead: list[Source] = []
    for picture in pictures:
        ahead.append(picture)
        if len(ahead) > limit or picture.in_memory:
            return ahead, False
    return ahead, True


def _format(output_format: Format | None, json: bool, jsonl: bool, output: Path | None) -> str:
    from imgclassify.output import format_of

    wanted = {name for name, given in (("json", json), ("jsonl", jsonl)) if given}
    wanted |= {output_format.value} if output_format else set()
    if len(wanted) > 1:
        raise UsageError(f"several formats at once: {', '.join(sorted(wanted))}", hint="choose one")
    if wanted:
        return wanted.pop()
    return "table" if output is None or str(output) == "-" else format_of(output)
