"""imgclassify train: teaches a network one's own classes."""

import json as jsonlib
import shlex
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_message, print_verbose
from imgclassify.cli.inputs import SourceInputs, no_images_error
from imgclassify.cli.option_groups import is_from_environment, with_option_groups
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import ArchitectureOptions, Model, Offline
from imgclassify.cli.options.preprocessing import PreprocessingOptions
from imgclassify.cli.options.sources import SourceOptions
from imgclassify.cli.progress import SourceCount, show_progress
from imgclassify.cli.shutdown import GracefulShutdown
from imgclassify.cli.stats import RunStats, count_of
from imgclassify.cli.training_options import (
    DataOptions,
    LearningOptions,
    ProcessorOptions,
    TrainingDecodingOptions,
    TrainingOutputOptions,
)
from imgclassify.errors import ExitStatus, OutputError, UsageError

if TYPE_CHECKING:
    from threading import Event

    from imgclassify.hub.network import Network
    from imgclassify.runner import ModelRunner
    from imgclassify.sources import Source
    from imgclassify.training.dataset import Dataset, LabelledSource
    from imgclassify.training.reading import ReadImage
    from imgclassify.training.training import TrainingResult

app = CommandApp(add_completion=False)


@app.command(
    epilog="Exit status: 0 trained on every image, 1 some images could not be used, 2 wrong usage or unusable "
    "images, 3 model, package or device unavailable, 4 no image found, 130 interrupted (129 by SIGHUP, 143 by "
    "SIGTERM).",
    examples={
        "a folder for each class": "imgclassify train pets/ -o pets-model",
        "and use it": "imgclassify predict -m pets-model dog.jpg",
        "all layers, with torch": "imgclassify train pets/ -o pets-model --method finetune -m resnet50",
        "a small network from scratch": "imgclassify train cifar10.zip -o net --method scratch --arch cifar_net "
        "--recipe tutorial",
    },
)
@with_option_groups
def train(
    context: typer.Context,
    *,
    sources: SourceOptions,
    output: TrainingOutputOptions,
    model: Model = None,
    loading: ArchitectureOptions,
    data: DataOptions,
    learning: LearningOptions,
    decoding: TrainingDecodingOptions,
    processor: ProcessorOptions,
    preprocessing: PreprocessingOptions,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Teach a network your own classes, from images in a folder for each class.

    Writes a folder with weights, labels, preprocessing, calibration and figures. `imgclassify predict -m FOLDER`
    needs nothing else.

    Part of the images is kept for validation. The figures are measured on it.
    """
    console.configure()
    learning.check()
    output.check()
    from imgclassify.cli.training_progress import ConsoleListener
    from imgclassify.training.probe import require_sklearn
    from imgclassify.training.progress import StoppedError
    from imgclassify.training.training import TrainingOptions
    from imgclassify.training.training import train as run_training

    if learning.method == "scratch" and is_from_environment(context, "model"):
        model = None  # it is a default for all commands, and this one needs none
    start = _Start(model, loading, learning, decoding, processor, preprocessing, offline)
    dataset = _find_dataset(sources, data, offline=offline)
    network, runner = start.load(len(dataset.train) + len(dataset.val))
    if learning.prints_recipe:
        _print_recipe(learning, network, len(dataset.train))
        return
    if runner is not None:
        require_sklearn()
    options = TrainingOptions(
        method=learning.method,
        fraction=data.fraction or 0.0,
        data_name=Path((sources.sources or [""])[0]).resolve().stem,
        seed=learning.seed,
        views=learning.find_views(len(dataset.train)),
        find_recipe=learning.find_recipe,
        device=processor.device,
        max_pixels=decoding.max_pixels,
        decode_damaged=decoding.decode_damaged,
        overwrite=output.overwrite,
        resume=learning.resume,
    )
    with GracefulShutdown() as shutdown, ConsoleListener() as listener:
        reader = _Reader(runner, start, len(dataset.train) + len(dataset.val), shutdown.stop_requested)
        del runner  # the reader drops it
        try:
            result = run_training(
                dataset,
                network,
                output.output,
                options,
                read=reader.read,
                listener=listener,
                stop_event=shutdown.stop_requested,
            )
        except StoppedError:
            _mention_resume(output.output)
            raise typer.Exit(int(shutdown.status or ExitStatus.INTERRUPTED)) from None
    _report(result, output, decoding)
    raise typer.Exit(int(ExitStatus.SOME_IMAGES_FAILED if result.failed else ExitStatus.OK))


class _Start(NamedTuple):
    """What the training starts from, and how images are read."""

    model: str | None
    loading: ArchitectureOptions
    learning: LearningOptions
    decoding: TrainingDecodingOptions
    processor: ProcessorOptions
    preprocessing: PreprocessingOptions
    offline: bool

    def load(self, num_images: int) -> "tuple[Network, ModelRunner | None]":
        """Returns the network, and what computes its features: None from scratch, and for one that hands out none.

        Raises:
            UsageError: options conflict.
            UnavailableError: the model cannot be used.
        """
        if self.learning.method == "scratch":
            return self._create_network(), None
        from imgclassify.engines import FEATURES, LOGITS

        try:
            runner = self._load_runner((FEATURES,), num_images)
        except OutputError:
            if self.learning.method == "probe":
                raise
            return self._load_runner((LOGITS,), num_images).network, None
        print_verbose(runner.describe())
        return runner.network, runner

    def _load_runner(self, outputs: tuple[str, ...], num_images: int) -> "ModelRunner":
        from imgclassify.runner import load_runner

        with download_progress() as progress:
            return load_runner(
                self.model,
                outputs=outputs,
                with_labels=False,
                **self.loading.classifier_arguments(),
                num_images=num_images,
                offline=self.offline,
                progress=progress,
                **self.decoding.classifier_arguments(),
                **self.processor.classifier_arguments(),
                **self.preprocessing.classifier_arguments(),
            )

    def _create_network(self) -> "Network":
        from imgclassify.runner import preprocess_overrides
        from imgclassify.training.scratch import create_scratch_network

        if self.loading.arch is None:
            raise UsageError(
                "--method scratch needs --arch NAME, the architecture of the network",
                hint="give one such as cifar_net, cifar_resnet20, resnet18 or timm:NAME",
            )
        if self.model is not None:
            raise UsageError(
                "--model names weights, and --method scratch starts without any",
                hint="leave out --model, or choose --method finetune",
            )
        return create_scratch_network(
            self.loading.arch,
            preprocess_overrides(**self.preprocessing.classifier_arguments()),
            transform_input=self.loading.transform_input,
        )


def _print_recipe(learning: LearningOptions, network: "Network", num_images: int) -> None:
    from imgclassify.training.head import build_trainable
    from imgclassify.training.optimization import recipe_for
    from imgclassify.training.recipe_file import format_recipe

    module, crop_size = build_trainable(network, 2), network.preprocess.crop_size
    default = recipe_for(module, learning.method, num_images=num_images, crop_size=crop_size)
    typer.echo(format_recipe(learning.find_recipe(default)), nl=False)


def _find_dataset(sources: SourceOptions, data: DataOptions, *, offline: bool) -> "Dataset":
    """Finds the classes and the images of both parts, before one is opened."""
    from dataclasses import replace

    from imgclassify.sources.path_expansion import is_archive
    from imgclassify.training.dataset import find_dataset
    from imgclassify.training.spool import Spool

    spool = Spool()

    def expand(options: SourceOptions) -> "Iterator[Source]":
        inputs = SourceInputs(options, offline=offline)
        found = spool.keep(inputs.open_sources())
        first = next(found, None)
        if first is None:
            raise no_images_error(inputs.selection)
        return chain([first], found)

    roots = sources.sources or []
    is_whole = data.truth is None and not (sources.include or sources.exclude or sources.no_recursive)
    val_roots = [] if data.fraction is not None else [data.val]
    dataset = find_dataset(
        expand(sources),
        roots=roots,
        val=expand(replace(sources, sources=val_roots, files_from=None)) if val_roots else None,
        val_roots=val_roots,
        truth=data.truth,
        folders=[root for root in roots if is_whole and (Path(root).is_dir() or is_archive(root))],
    )
    parts = [f"{count_of(len(dataset.train), 'image')} of {len(dataset.classes):,} classes"]
    parts += [f"{len(dataset.val):,} more for validation"] if dataset.val else []
    print_message(f"{', '.join(parts)}; the class of each is {dataset.how}")
    for note in dataset.notes:
        print_message(note)
    return dataset


class _Reader:
    """Reads the images, and shows how far it is. After the last one it drops the network: memory is needed."""

    def __init__(self, runner: "ModelRunner | None", start: _Start, num_images: int, stop_event: "Event") -> None:
        self._runner = runner
        self._start = start
        self._left = num_images
        self._stop_event = stop_event

    def read(self, sources: "Sequence[LabelledSource]", views: int) -> "list[ReadImage]":
        """Reads images, with augmented views of each. Prints those that failed.

        Raises:
            StoppedError: the stop event was set.
        """
        from imgclassify.training.feature_cache import FeatureCache
        from imgclassify.training.probe import start_import
        from imgclassify.training.progress import StoppedError
        from imgclassify.training.reading import read_images

        stats, learning, decoding = RunStats(), self._start.learning, self._start.decoding
        self._left -= len(sources)
        runner = self._runner
        if not self._left:
            self._runner = None
        cache = None
        if runner is not None:
            cache = FeatureCache.open(runner.run_info, views=views, seed=learning.seed)
            # While features are computed, it would take the network's time, and memory beside the network's. And
            # torch, which the other methods import, cannot be imported on two threads at once.
            is_probe = learning.method == "probe"
            if is_probe and cache is not None and cache.num_images >= len(sources):
                start_import()

        def count(image: "ReadImage") -> None:
            stats.add_record(image)
            if image.error:
                print_message(f"left out: {image.name}: {image.error.type}: {image.error.message}")

        with show_progress(stats, SourceCount(len(sources), lambda: None), on_terminal=False):
            read = read_images(
                (each.source for each in sources),
                runner=runner,
                cache=cache,
                views=views,
                seed=learning.seed,
                max_pixels=decoding.max_pixels,
                decode_damaged=decoding.decode_damaged,
                on_image=count,
                stop_event=self._stop_event,
            )
        if self._stop_event.is_set():
            raise StoppedError
        return read


def _mention_resume(folder: Path) -> None:
    from imgclassify.training.work_folder import work_folder

    if (work := work_folder(folder)).exists():
        print_message(f"the training so far is in {str(work)!r}; run the same command with --resume to go on")


def _report(result: "TrainingResult", output: TrainingOutputOptions, decoding: TrainingDecodingOptions) -> None:
    """Prints the figures, and writes the page."""
    from imgclassify.cli.evaluation_report import print_evaluation

    if output.report is not None:
        from imgclassify.report.pages import write_page
        from imgclassify.report.training_page import render_training

        page = render_training(result, max_pixels=decoding.max_pixels, decode_damaged=decoding.decode_damaged)
        write_page(output.report, page)
    if output.json:
        typer.echo(jsonlib.dumps({**result.training, "folder": str(result.folder)}, indent=1))
    else:
        print_evaluation(result.measured.evaluation)
    calibration = result.measured.calibration
    if calibration is None:
        print_message(f"no calibration is in the folder: {result.measured.no_calibration_reason}")
    print_message(f"use it with `imgclassify predict -m {shlex.quote(str(result.folder))} IMAGE`")
