"""imgclassify doctor --compare: a faster setting held against the exact one, on the user's own pictures."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli import console, options, progress
from imgclassify.cli.progress import SourceCount
from imgclassify.cli.stats import RunStats
from imgclassify.cli.tables import print_table
from imgclassify.errors import ExitStatus, NoImagesError, UnavailableError, UsageError

if TYPE_CHECKING:
    from imgclassify.classifier import Classifier
    from imgclassify.comparison import Change, Comparison
    from imgclassify.results import RunInfo
    from imgclassify.sources import Source

_PANEL = "Comparing"

Model = Annotated[
    str | None,
    typer.Option(
        "--compare",
        autocompletion=options.complete_model,
        metavar="REF",
        rich_help_panel=_PANEL,
        show_default=False,
        help="Compare a setting with the exact one, with this model, on the pictures named: how many first answers "
        "stay, how far probabilities move.",
    ),
]
Pictures = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE", show_default=False, help="With --compare: files, folders (recursive), globs, archives."
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        autocompletion=options.complete_model,
        metavar="NAME",
        rich_help_panel=_PANEL,
        show_default=False,
        help="The architecture of a file's weights.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAME|FILE",
        rich_help_panel=_PANEL,
        show_default=False,
        help="A label set or a file of labels, instead of the model's own.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="float32|bfloat16|float16",
        rich_help_panel=_PANEL,
        help="The setting to compare: what to compute in.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="auto|torch|onnxruntime",
        rich_help_panel=_PANEL,
        help="The setting to compare: what runs the network.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N|mps",
        rich_help_panel=_PANEL,
        help="The setting to compare: where to run.",
    ),
]
FastDecode = Annotated[
    bool,
    typer.Option(
        "--fast-decode",
        rich_help_panel=_PANEL,
        help="The setting to compare: large JPEGs decoded at a smaller scale.",
    ),
]
Decode = Annotated[
    str,
    typer.Option(
        "--decode",
        metavar="cpu|gpu",
        rich_help_panel=_PANEL,
        help="The setting to compare: where JPEGs are decoded.",
    ),
]
BatchSize = Annotated[
    str, typer.Option("--batch-size", metavar="N|auto", rich_help_panel=_PANEL, help="Images in a batch.")
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        rich_help_panel=_PANEL,
        show_default=False,
        help="Compare the first N pictures. Default: all.",
    ),
]


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model is run, under the names of Classifier's arguments; by default the exact way."""

    dtype: str = "float32"
    engine: str = "auto"
    device: str = "auto"
    fast_decode: bool = False
    decode: str = "cpu"


@dataclass(frozen=True, slots=True)
class Request:
    """What is compared on what."""

    model: str
    pictures: list[str]
    setting: Setting = Setting()
    arch: str | None = None
    labels: str | None = None
    batch_size: int | None = None
    limit: int | None = None


def compare(request: Request, *, json: bool) -> ExitStatus:
    """Runs both ways over the pictures, prints what differs, and says how it went.

    Raises:
        UsageError: no picture is named, or there is nothing to compare.
        NoImagesError: none is found.
        UnavailableError: the model cannot be had or not be run so, either way.
    """
    from imgclassify.comparison import Comparison, pair_results

    if not request.pictures:
        raise UsageError("--compare needs pictures", hint="name a folder or files behind the model")
    if "-" in request.pictures:
        raise UsageError("standard input can be read only once", hint="name a file or folder to compare on")
    if next(_sources(request, quietly=True), None) is None:
        raise NoImagesError("no image was found", hint="docs/images.md lists the formats that are opened")
    exact, other = _classifiers(request)
    console.print_message(f"comparing {_describe(other.run)} with {_describe(exact.run)}")
    comparison = Comparison()
    answers = pair_results(exact.stream(_sources(request)), other.stream(_sources(request, quietly=True)))
    tally = RunStats()
    total = SourceCount(None, lambda: sum(1 for _ in _sources(request, quietly=True)))
    with closing(answers), progress.show_progress(tally, total, on_terminal=False):
        for first, second in answers:
            comparison.add(first, second)
            tally.add_record(first if first.error else second)
    if json:
        typer.echo(jsonlib.dumps(_document(exact.run, other.run, comparison), indent=1))
    else:
        _print(exact.run, other.run, comparison)
    return ExitStatus.SOME_IMAGES_FAILED if comparison.failed else ExitStatus.OK


def _classifiers(request: Request) -> tuple[Classifier, Classifier]:
    """(the exact way, the other one). Where the user named no way that differs, the other is another engine.

    Raises:
        UsageError: no engine but one can run the model, so that nothing differs.
    """
    exact = _classifier(request, Setting())
    other = _classifier(request, request.setting) if request.setting != Setting() else exact
    if _way(exact.run) != _way(other.run):
        return exact, other
    engine = "torch" if exact.run.engine == "onnxruntime" else "onnxruntime"
    setting = Setting(engine=engine, device="cpu" if engine == "onnxruntime" else "auto")
    try:
        return exact, _classifier(request, setting)
    except (UsageError, UnavailableError) as error:
        raise UsageError(
            f"nothing to compare: {_describe(exact.run)} is the exact way, and {error}",
            hint="name another: --fast-decode, --dtype bfloat16, --device cuda, --decode gpu",
        ) from error


def _classifier(request: Request, setting: Setting) -> Classifier:
    from imgclassify.classifier import Classifier

    with console.download_progress() as download_progress:
        return Classifier(
            request.model,
            arch=request.arch,
            labels=request.labels,
            top_k=sys.maxsize,  # all classes
            batch_size=request.batch_size,
            progress=download_progress,
            **asdict(setting),
        )


def _sources(request: Request, *, quietly: bool = False) -> Iterator[Source]:
    """The pictures, found anew by each who asks: both ways read them at their own pace."""
    from imgclassify.sources import expand

    notice = _ignore if quietly else console.print_message
    return islice(expand(request.pictures, notice=notice), request.limit)


def _ignore(_message: str) -> None:
    pass


def _way(run: RunInfo) -> dict[str, str]:
    return {"engine": run.engine, "device": run.device, "dtype": run.dtype, "decode": run.decode}


def _describe(run: RunInfo) -> str:
    return ", ".join([run.engine, run.device, run.dtype, f"{run.decode} decoding"])


def _document(exact: RunInfo, other: RunInfo, comparison: Comparison) -> dict[str, Any]:
    return {
        "model": exact.model,
        "weights": exact.weights,
        "exact": _way(exact),
        "other": _way(other),
        **comparison.to_dict(),
    }


def _print(exact: RunInfo, other: RunInfo, comparison: Comparison) -> None:
    failed = f", {comparison.failed} failed" if comparison.failed else ""
    once = f" ({comparison.failed_once} of them one way only)" if comparison.failed_once else ""
    rows = [
        ["model", f"{exact.model} ({exact.weights})"],
        ["exact", _describe(exact)],
        ["other", _describe(other)],
        ["pictures", f"{comparison.compared} compared{failed}{once}"],
    ]
    if comparison.agreement is not None and comparison.mean_change is not None:
        largest = comparison.largest_change_source
        different = comparison.compared - comparison.agreed
        rows += [
            ["same top-1", f"{100 * comparison.agreement:.2f} %, {different} of {comparison.compared} changed"],
            ["largest change", f"{comparison.largest_change:.2g} of a probability, {largest}"],
            ["mean change", f"{comparison.mean_change:.2g}, of each picture's largest"],
        ]
    print_table([], rows)
    if comparison.changed:
        typer.echo()
        print_table(["changed", "exact", "other"], map(_row, comparison.changed))


def _row(change: Change) -> list[str]:
    answers = (f"{answer.label} {100 * answer.probability:.2f} %" for answer in (change.exact, change.other))
    return [change.source, *answers]
