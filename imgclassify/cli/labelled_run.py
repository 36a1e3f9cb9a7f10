"""A run over labelled images, without records on stdout: what `evaluate` and `calibrate` have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from imgclassify.cli.console import download_progress, print_message, print_verbose
from imgclassify.cli.inputs import SourceInputs
from imgclassify.cli.options.output import OutputOptions
from imgclassify.cli.run import RecordProducer, RecordRun, open_run
from imgclassify.cli.stats import count_of
from imgclassify.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from imgclassify.classifier import Classifier
    from imgclassify.cli.options.model import LoadingOptions
    from imgclassify.cli.options.preprocessing import PreprocessingOptions
    from imgclassify.cli.options.running import RunningOptions
    from imgclassify.cli.options.sources import FrameOptions, SourceOptions
    from imgclassify.cli.options.truth import TruthOptions
    from imgclassify.cli.options.unattended import DecodingOptions, UnattendedOptions
    from imgclassify.evaluation.truth import Truth
    from imgclassify.output.records import RecordType


class LabelledImages(NamedTuple):
    """Which images are run, with which model and settings."""

    sources: SourceOptions
    truth: TruthOptions
    loading: LoadingOptions
    unattended: UnattendedOptions
    frames: FrameOptions
    decoding: DecodingOptions
    running: RunningOptions
    preprocessing: PreprocessingOptions
    offline: bool

    @contextmanager
    def open(
        self, record_type: RecordType[Any], output: OutputOptions, model: str | None, **classifier_arguments: Any
    ) -> Iterator[LabelledRun]:
        """Opens a run, loads the model, and finds the true class of each image, before one is opened.

        If the run is stopped, the process ends after the block, since figures of some of the images would mislead.

        Args:
            output: where records go: see `discarded`.
            classifier_arguments: further arguments of Classifier.

        Raises:
            UsageError: an image has no truth, or options conflict.
            UnavailableError: the model cannot be used.
            NoImagesError: there are no images.
        """
        if self.sources.files_from == "-":
            raise UsageError(
                "the list of images is read twice, and stdin cannot be",
                hint="write it to a file: --files-from FILE",
            )
        with open_run(
            record_type,
            self.sources,
            output,
            self.unattended,
            self.frames,
            self.decoding,
            offline=self.offline,
            default_format="jsonl",
        ) as run:
            classifier = self._load(model, num_images=run.num_images, **classifier_arguments)
            print_verbose(classifier.runner.describe())
            truth = self._find_truth(classifier)
            report_truth(truth)
            yield LabelledRun(run, classifier, truth)
        if run.stats.stopped:
            raise typer.Exit(int(run.stats.status))

    def check(self, model: str | None, **classifier_arguments: Any) -> None:
        """Checks that a model can be used and has the true classes, as `open` does, before another one runs."""
        self._find_truth(self._load(model, num_images=1, **classifier_arguments))

    def _load(self, model: str | None, **classifier_arguments: Any) -> Classifier:
        from imgclassify.classifier import Classifier

        with download_progress() as progress:
            return Classifier(
                model,
                **self.loading.classifier_arguments(),
                offline=self.offline,
                progress=progress,
                **self.decoding.classifier_arguments(),
                **self.running.classifier_arguments(),
                **self.preprocessing.classifier_arguments(),
                **classifier_arguments,
            )

    def _find_truth(self, classifier: Classifier) -> Truth:
        inputs = SourceInputs(self.sources, offline=self.offline)
        try:
            return self.truth.find_truth(classifier.labels, (each.name for each in inputs.expand_quietly()))
        except UsageError:
            _require_files(self.sources.sources or [])
            raise


class LabelledRun(NamedTuple):
    """A run that is open."""

    run: RecordRun
    classifier: Classifier
    truth: Truth

    def write_records(
        self, producer: RecordProducer, settings: dict[str, int | str], collect: Callable[[Any], None]
    ) -> ExitStatus:
        """Computes the record of each image, writes it, and collects it.

        Returns:
            The exit status of the run.
        """
        self.run.write_records(producer, settings, count=collect)
        return self.run.stats.status


def discarded() -> OutputOptions:
    """Returns the options for records that nobody reads."""
    return OutputOptions(output=Path(os.devnull), output_format="jsonl")


def report_repeated(count: int) -> None:
    """Prints how many images are left out because they came before."""
    if count:
        print_message(f"left out: {count_of(count, 'image')} that came before, since each counts once")


def _require_files(names: Iterable[str]) -> None:
    """Raises UsageError if a source is no file or folder. Then it is no wonder that its name tells no class."""
    for name in names:
        is_path = name != "-" and "://" not in name and "!" not in name
        if is_path and not os.path.lexists(name):
            raise UsageError(f"no such file or folder: {name!r}", hint="correct its name")


def report_truth(truth: Truth) -> None:
    """Prints how the true classes were found, and what is left out."""
    print_message(f"the true class of each image is {truth.how}")
    for note in truth.notes:
        print_message(note)
    if truth.ignored:
        names = ", ".join(sorted(truth.ignored)[:5]) + (", …" if len(truth.ignored) > 5 else "")
        print_message(f"left out: {count_of(sum(truth.ignored.values()), 'image')} of unknown classes ({names})")
    if truth.without_truth:
        print_message(f"left out: {count_of(truth.without_truth, 'image')} without a true class")
