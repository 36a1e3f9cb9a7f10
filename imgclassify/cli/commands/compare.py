"""imgclassify compare: shows how a faster setting changes a model's predictions, on the user's own images."""

import json as jsonlib
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_message
from imgclassify.cli.inputs import SourceInputs, no_images_error
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_model
from imgclassify.cli.options import (
    SOURCES_PANEL,
    ConsoleOptions,
    Json,
    LoadingOptions,
    Offline,
    RunningOptions,
    SourceOptions,
)
from imgclassify.cli.progress import SourceCount, show_progress
from imgclassify.cli.stats import RunStats
from imgclassify.cli.tables import print_table
from imgclassify.errors import ExitStatus, UnavailableError, UsageError

if TYPE_CHECKING:
    from imgclassify.classifier import Classifier
    from imgclassify.comparison import Change, Comparison
    from imgclassify.results import RunInfo
    from imgclassify.sources import Source

app = CommandApp(add_completion=False)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RepeatableSourceOptions(SourceOptions):
    """Sources that can be read twice, which stdin cannot."""

    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE", help="Files, folders (recursive), globs, URLs or archives.", show_default=False
        ),
    ] = None
    files_from: Annotated[
        str | None,
        typer.Option(
            "--files-from",
            metavar="FILE",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="Read sources from a file, one per line.",
        ),
    ] = None


@app.command(
    examples={
        "fast decoding": "imgclassify compare resnet50 photos/ --fast-decode",
        "the two engines": "imgclassify compare efficientnet_lite0 photos/",
    }
)
@with_option_groups
def compare(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            show_default=False,
            help="Model, as for predict --model.",
        ),
    ],
    sources: RepeatableSourceOptions,
    running: RunningOptions,
    loading: LoadingOptions,
    console: ConsoleOptions,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, show_default=False, help="Compare the first N images. Default: all."
        ),
    ] = None,
    json: Json = False,
    offline: Offline = False,
) -> None:
    """Compare the predictions of a faster setting with those of the exact default.

    Prints how many top-1 labels are the same, and how much probabilities change.

    Select the setting with --dtype, --engine, --device, --fast-decode or --decode.

    Without any of them, the two engines are compared.
    """
    console.configure()
    _require_repeatable(sources, model)
    inputs = SourceInputs(sources, offline=offline)

    def find_images(*, quietly: bool = True) -> "Iterator[Source]":
        """Returns the images, expanded again for each call: the two settings read them at different speeds."""
        return islice(inputs.expand_quietly() if quietly else inputs.open_sources(), limit)

    if next(find_images(), None) is None:
        next(find_images(quietly=False), None)  # says what was skipped
        raise no_images_error(inputs.selection)

    def create_classifier(settings: RunningOptions) -> "Classifier":
        from imgclassify.classifier import Classifier

        with download_progress() as progress:
            return Classifier(
                model,
                **loading.classifier_arguments(),
                top_k=sys.maxsize,  # all classes
                offline=offline,
                progress=progress,
                **settings.classifier_arguments(),
            )

    exact, other = _create_both(create_classifier, running)
    comparison = _compare(exact, other, find_images)
    if json:
        typer.echo(jsonlib.dumps(_document(exact.run, other.run, comparison), indent=1))
    else:
        _print_comparison(exact.run, other.run, comparison)
    raise typer.Exit(int(ExitStatus.SOME_IMAGES_FAILED if comparison.failed else ExitStatus.OK))


def _require_repeatable(sources: RepeatableSourceOptions, model: str) -> None:
    """Rejects stdin as a source, and a command without sources."""
    if "-" in (*(sources.sources or []), sources.files_from):
        raise UsageError("stdin can be read only once", hint="give files or folders instead")
    if not sources.sources and sources.files_from is None:
        raise UsageError(
            f"only {model!r} was given, which is taken as the model",
            hint="give the model and then the images: imgclassify compare efficientnet_lite0 photos/",
        )


def _compare(
    exact: "Classifier", other: "Classifier", find_images: "Callable[..., Iterator[Source]]"
) -> "Comparison":
    """Runs both classifiers on the images, side by side."""
    from imgclassify.comparison import Comparison, pair_results

    print_message(f"comparing {_describe(other.run)} with {_describe(exact.run)}")
    comparison = Comparison()
    stats = RunStats()
    pairs = pair_results(exact.stream(find_images(quietly=False)), other.stream(find_images()))
    total = SourceCount(None, lambda: sum(1 for _ in find_images()))
    with closing(pairs), show_progress(stats, total, on_terminal=False):
        for first, second in pairs:
            comparison.add(first, second)
            stats.add_record(first if first.error else second)
    return comparison


def _create_both(create_classifier: Any, running: RunningOptions) -> "tuple[Classifier, Classifier]":
    """Returns (the exact classifier, the other one). If no setting differs, the other uses another engine.

    Raises:
        UsageError: no setting differs, and only one engine can run the model.
    """
    exact_options = RunningOptions(batch_size=running.batch_size, workers=running.workers)
    exact = create_classifier(exact_options)
    other = create_classifier(running) if running != exact_options else exact
    if _settings_of(exact.run) != _settings_of(other.run):
        return exact, other
    engine = "torch" if exact.run.engine == "onnxruntime" else "onnxruntime"
    device = "cpu" if engine == "onnxruntime" else "auto"
    try:
        return exact, create_classifier(replace(exact_options, engine=engine, device=device))
    except (UsageError, UnavailableError) as error:
        raise UsageError(
            f"nothing to compare: {_describe(exact.run)} is the exact setting, and {error}",
            hint="choose another setting: --fast-decode, --dtype bfloat16, --device cuda, --decode gpu",
        ) from error


def _settings_of(run: "RunInfo") -> dict[str, str]:
    return {"engine": run.engine, "device": run.device, "dtype": run.dtype, "decode": run.decode_mode}


def _describe(run: "RunInfo") -> str:
    return ", ".join([run.engine, run.device, run.dtype, f"{run.decode_mode} decoding"])


def _document(exact: "RunInfo", other: "RunInfo", comparison: "Comparison") -> dict[str, Any]:
    return {
        "model": exact.model,
        "weights": exact.weights,
        "exact": _settings_of(exact),
        "other": _settings_of(other),
        **comparison.to_dict(),
    }


def _print_comparison(exact: "RunInfo", other: "RunInfo", comparison: "Comparison") -> None:
    failed = f", {comparison.failed} failed" if comparison.failed else ""
    once = f" ({comparison.failed_once} of them with one setting only)" if comparison.failed_once else ""
    rows = [
        ["model", f"{exact.model} ({exact.weights})"],
        ["exact", _describe(exact)],
        ["other", _describe(other)],
        ["images", f"{comparison.compared} compared{failed}{once}"],
    ]
    if comparison.agreement is not None and comparison.mean_change is not None:
        largest = comparison.largest_change_source
        different = comparison.compared - comparison.agreed
        rows += [
            ["same top-1", f"{100 * comparison.agreement:.2f} %, {different} of {comparison.compared} changed"],
            ["largest change", f"{comparison.largest_change:.2g} in probability, {largest}"],
            ["mean change", f"{comparison.mean_change:.2g}, the mean of each image's largest change"],
        ]
    print_table([], rows, wrapped=[1])
    if comparison.changed:
        typer.echo()
        print_table(["changed", "exact", "other"], map(_change_row, comparison.changed), wrapped=[0, 1, 2])


def _change_row(change: "Change") -> list[str]:
    labels = (f"{each.label} {100 * each.probability:.2f} %" for each in (change.exact, change.other))
    return [change.source, *labels]
