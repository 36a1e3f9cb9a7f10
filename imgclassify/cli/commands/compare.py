"""imgclassify compare: shows on the user's own images where two models differ, or two settings of one model."""

import json as jsonlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_message
from imgclassify.cli.inputs import SourceInputs, no_images_error
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_model, parse_number
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import LoadingOptions, Offline
from imgclassify.cli.options.output import Json
from imgclassify.cli.options.running import RunningOptions
from imgclassify.cli.options.sources import SOURCES_PANEL, SourceOptions
from imgclassify.cli.progress import SourceCount, show_progress
from imgclassify.cli.stats import RunStats, count_of
from imgclassify.cli.tables import print_table
from imgclassify.comparison import MAX_NAMED
from imgclassify.errors import ExitStatus, UnavailableError, UnknownModelError, UsageError
from imgclassify.hub.reference import FILE_SUFFIXES, ModelReference

if TYPE_CHECKING:
    from imgclassify.classifier import Classifier
    from imgclassify.comparison import Change, Comparison, Failure
    from imgclassify.results import RunInfo
    from imgclassify.sources import Source

app = CommandApp(add_completion=False)

_EXACT = "exact"
"""The name of the side with the exact setting."""


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


class _Side(NamedTuple):
    """One of the two runs that are compared."""

    name: str
    """The model as given, or the role of the setting."""
    classifier: "Classifier"


@app.command(
    examples={
        "two models": "imgclassify compare efficientnet_lite0 photos/ --with resnet50",
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
    other_model: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="REF",
            autocompletion=complete_model,
            show_default=False,
            help="Model to compare MODEL with. They need some classes in common. Default: the same model, with "
            "another setting.",
        ),
    ] = None,
    running: RunningOptions,
    loading: LoadingOptions,
    console: ConsoleOptions,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, show_default=False, help="Compare the first N images. Default: all."
        ),
    ] = None,
    max_named: Annotated[
        str,
        typer.Option(
            "--list",
            metavar="N|all",
            help="Name the first N images whose top-1 label differs, and the first N that failed.",
        ),
    ] = str(MAX_NAMED),
    json: Json = False,
    offline: Offline = False,
) -> None:
    """Compare the predictions of two models, or of a faster setting and the exact default.

    Prints how many top-1 labels are the same, which images differ, and how much probabilities change.

    --with names the other model. Both then run with the same settings, and --arch and --labels are for those of the
    two that are files or torch.hub models.

    Without --with, --dtype, --engine, --device, --fast-decode or --decode select the setting. Without any of them,
    the two engines are compared.
    """
    console.configure()
    most = parse_number("--list", max_named, "all", least=0)
    _require_repeatable(sources, model)
    inputs = SourceInputs(sources, offline=offline)

    def find_images(*, quietly: bool = True) -> "Iterator[Source]":
        """Returns the images, expanded again for each call: the two runs read them at different speeds."""
        return islice(inputs.expand_quietly() if quietly else inputs.open_sources(), limit)

    if next(find_images(), None) is None:
        next(find_images(quietly=False), None)  # says what was skipped
        raise no_images_error(inputs.selection)

    def create_classifier(ref: str, settings: RunningOptions) -> "Classifier":
        from imgclassify.classifier import Classifier

        described = _is_described(ref, [model, other_model or model])
        with download_progress() as progress:
            return Classifier(
                ref,
                **(loading if described else LoadingOptions(trust=loading.trust)).classifier_arguments(),
                top_k=sys.maxsize,  # all classes
                offline=offline,
                progress=progress,
                **settings.classifier_arguments(),
            )

    if other_model is None:
        sides = _create_settings(lambda settings: create_classifier(model, settings), running)
    else:
        sides = _create_models(lambda ref: create_classifier(ref, running), model, other_model)
    comparison = _compare(sides, find_images, most)
    if json:
        typer.echo(jsonlib.dumps(_document(sides, comparison), indent=1))
    else:
        _print_comparison(sides, comparison, with_models=other_model is not None)
    raise typer.Exit(int(ExitStatus.SOME_IMAGES_FAILED if comparison.failed else ExitStatus.OK))


def _require_repeatable(sources: RepeatableSourceOptions, model: str) -> None:
    """Rejects stdin and a second model as a source, and a command without sources."""
    names = sources.sources or []
    if "-" in (*names, sources.files_from):
        raise UsageError("stdin can be read only once", hint="give files or folders instead")
    if not names and sources.files_from is None:
        raise UsageError(
            f"only {model!r} was given, which is taken as the model",
            hint="give the model and then the images: imgclassify compare efficientnet_lite0 photos/",
        )
    if names and _is_model(names[0]):
        quoted = shlex.quote(names[0])
        if os.path.lexists(model) and not _is_model(model):
            hint = f"give the model first: imgclassify compare {quoted} {shlex.join([model, *names[1:]])}"
        else:
            images = shlex.join(names[1:]) or "photos/"
            line = f"imgclassify compare {shlex.quote(model)} {images} --with {quoted}"
            hint = f"name the other model by --with: {line}"
        raise UsageError(f"{names[0]!r} is a model, but images were expected", hint=hint)


def _is_model(name: str) -> bool:
    """Whether the name of a source means a model instead: no file has it, or one whose extension no image has."""
    if name.lower().endswith(FILE_SUFFIXES):
        return not name.lower().endswith(".tar")  # an archive of images
    if os.path.lexists(name):
        return False
    try:
        reference = ModelReference.parse(name)
        if reference.kind.in_catalog:
            reference.loader().find_architecture(reference)
    except UnknownModelError:
        return False
    return reference.kind.in_catalog or reference.kind.scheme is not None


def _is_described(ref: str, models: list[str]) -> bool:
    """Whether --arch and --labels are for this model: it is of a kind that needs them, or none of the models is."""
    takes_arch = {each: ModelReference.parse(each).kind.takes_arch for each in models}
    return takes_arch[ref] or not any(takes_arch.values())


def _compare(
    sides: tuple[_Side, _Side], find_images: "Callable[..., Iterator[Source]]", most: int | None
) -> "Comparison":
    """Runs both classifiers on the images, side by side.

    Args:
        most: at most so many images are named. None is all.

    Raises:
        UsageError: the classifiers have no class in common.
    """
    from imgclassify.comparison import Comparison, pair_results
    from imgclassify.labels.class_matching import match_classes

    reference, other = sides
    shared = match_classes(reference.classifier.labels, other.classifier.labels)
    if not shared:
        examples = " and ".join(repr(side.classifier.labels[0].label) for side in sides)
        raise UsageError(
            f"{reference.name} and {other.name} have no class in common: theirs are such as {examples}",
            hint="classes are the same by their wnid, else by their label; name those of a file with --labels",
        )
    names = [
        _describe(side.classifier.run) if reference.name == _EXACT else side.name for side in (other, reference)
    ]
    print_message(f"comparing {names[0]} with {names[1]}")
    comparison = Comparison(shared, sys.maxsize if most is None else most)
    stats = RunStats()
    pairs = pair_results(
        reference.classifier.stream(find_images(quietly=False)), other.classifier.stream(find_images())
    )
    total = SourceCount(None, lambda: sum(1 for _ in find_images()))
    with closing(pairs), show_progress(stats, total, on_terminal=False):
        for first, second in pairs:
            comparison.add(first, second)
            stats.add_record(first if first.error else second)
    return comparison


def _create_models(
    create_classifier: "Callable[[str], Classifier]", model: str, other_model: str
) -> tuple[_Side, _Side]:
    """Returns the two models.

    Raises:
        UsageError: they are the same.
    """
    sides = _Side(model, create_classifier(model)), _Side(other_model, create_classifier(other_model))
    if sides[0].classifier.run == sides[1].classifier.run:
        raise UsageError(
            f"nothing to compare: {model} and {other_model} are the same model",
            hint="name another model by --with, or leave --with out to compare settings of one model",
        )
    return sides


def _create_settings(
    create_classifier: "Callable[[RunningOptions], Classifier]", running: RunningOptions
) -> tuple[_Side, _Side]:
    """Returns the exact setting and the other one. If no setting differs, the other uses another engine.

    Raises:
        UsageError: no setting differs, and only one engine can run the model.
    """
    exact_options = RunningOptions(batch_size=running.batch_size, workers=running.workers)
    exact = create_classifier(exact_options)
    other = create_classifier(running) if running != exact_options else exact
    if _settings_of(exact.run) == _settings_of(other.run):
        engine = "torch" if exact.run.engine == "onnxruntime" else "onnxruntime"
        device = "cpu" if engine == "onnxruntime" else "auto"
        try:
            other = create_classifier(replace(exact_options, engine=engine, device=device))
        except (UsageError, UnavailableError) as error:
            raise UsageError(
                f"nothing to compare: {_describe(exact.run)} is the exact setting, and {error}",
                hint="choose another setting: --fast-decode, --dtype bfloat16, --device cuda, --decode gpu; or "
                "another model: --with REF",
            ) from error
    return _Side(_EXACT, exact), _Side("other", other)


def _settings_of(run: "RunInfo") -> dict[str, str]:
    return {"engine": run.engine, "device": run.device, "dtype": run.dtype, "decode": run.decode_mode}


def _describe(run: "RunInfo") -> str:
    return ", ".join([run.engine, run.device, run.dtype, f"{run.decode_mode} decoding"])


def _document(sides: tuple[_Side, _Side], comparison: "Comparison") -> dict[str, Any]:
    document: dict[str, Any] = {}
    for role, side in zip(("reference", "other"), sides, strict=True):
        run = side.classifier.run
        facts = {"model": run.model, "weights": run.weights, "classes": len(side.classifier.labels)}
        document[role] = facts | _settings_of(run)
    return {**document, "shared_classes": len(comparison.shared), **comparison.to_dict()}


def _print_comparison(sides: tuple[_Side, _Side], comparison: "Comparison", *, with_models: bool) -> None:
    print_table([], _rows(sides, comparison, with_models=with_models), wrapped=[1])
    names = [side.name for side in sides]
    _print_images(["changed", *names], map(_change_row, comparison.changed), comparison.num_changed)
    reasons = ([each.source, _failure_reason(each, names)] for each in comparison.failures)
    _print_images(["failed", "reason"], reasons, comparison.failed)


def _rows(sides: tuple[_Side, _Side], comparison: "Comparison", *, with_models: bool) -> Iterator[list[str]]:
    runs = [side.classifier.run for side in sides]
    if with_models:
        for role, run in zip(("model", "with"), runs, strict=True):
            yield [role, f"{run.model} ({run.weights}), {_describe(run)}"]
        numbers = " and ".join(f"{len(side.classifier.labels):,}" for side in sides)
        yield ["classes", f"{len(comparison.shared):,} in common, of {numbers}"]
    else:
        yield ["model", f"{runs[0].model} ({runs[0].weights})"]
        yield from ([side.name, _describe(side.classifier.run)] for side in sides)
    failed = f", {comparison.failed} failed" if comparison.failed else ""
    once = f" ({comparison.failed_once} of them in one of the runs only)" if comparison.failed_once else ""
    yield ["images", f"{comparison.compared} compared{failed}{once}"]
    if comparison.agreement is None or comparison.mean_change is None:
        return
    unshared = f" ({comparison.unshared} of them to or from a class not in common)" if comparison.unshared else ""
    changed = f"{comparison.num_changed} of {comparison.compared} changed{unshared}"
    yield ["same top-1", f"{100 * comparison.agreement:.2f} %, {changed}"]
    largest = comparison.largest_change_source
    yield ["largest change", f"{comparison.largest_change:.2g} in probability, {largest}"]
    yield ["mean change", f"{comparison.mean_change:.2g}, the mean of each image's largest change"]


def _print_images(head: list[str], rows: "Iterable[list[str]]", total: int) -> None:
    """Prints a table of images, and how many more there are."""
    named = list(rows)
    if named:
        typer.echo()
        print_table(head, named, wrapped=range(len(head)))
    if len(named) < total:
        print_message(f"{count_of(total, 'image')} {head[0]}, {len(named):,} named: --list all names all")


def _change_row(change: "Change") -> list[str]:
    labels = (f"{each.label} {100 * each.probability:.2f} %" for each in (change.reference, change.other))
    return [change.source, *labels]


def _failure_reason(failure: "Failure", names: list[str]) -> str:
    """Returns the error. If it is not the same in both runs, returns each with the name of its run."""
    errors = [error and f"{error.type}: {error.message}" for error in (failure.reference, failure.other)]
    if errors[0] == errors[1]:
        return errors[0] or ""
    return "; ".join(f"{error} ({name})" for name, error in zip(names, errors, strict=True) if error)
