"""Shows how a training goes on: a line for each stage and epoch, and a line that changes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from imgclassify.cli.console import print_message
from imgclassify.cli.progress import show_line
from imgclassify.cli.stats import count_of, format_duration
from imgclassify.training.training import TrainingListener

if TYPE_CHECKING:
    from imgclassify.training.examples import Examples
    from imgclassify.training.probe import Probe
    from imgclassify.training.progress import EpochRecord, Progress


class ConsoleListener(TrainingListener):
    """Prints on stderr. The changing line is shown from the first step until the `with` block ends."""

    def __init__(self) -> None:
        self._line = ExitStack()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._line.close()

    def on_examples(self, examples: Examples) -> None:
        """See TrainingListener."""
        parts = [f"{count_of(len(examples.train), 'image')} to train on, {len(examples.val):,} for validation"]
        if examples.failed:
            parts.append(f"{len(examples.failed):,} failed")
        print_message(", ".join(parts))
        for note in examples.notes:
            print_message(note)

    def on_probe(self, probe: Probe) -> None:
        """See TrainingListener."""
        accuracy = probe.accuracies.get(probe.strength)
        found = "" if accuracy is None else f", right in {100 * accuracy:.1f} % of a cross-validation"
        print_message(f"probe: C = {probe.strength:.3g}{found}")

    def on_progress(self, progress: Progress) -> None:
        """See TrainingListener."""
        is_first, self._progress = self._progress is None, progress
        if is_first:
            self._line.enter_context(show_line(self._describe))
        if progress.running_loss is not None:
            print_message(f"epoch {progress.epoch}, batch {progress.batch:,}: loss {progress.running_loss:.3f}")
        if progress.record is not None:
            print_message(_describe_epoch(progress.record, progress.epochs))

    def _describe(self) -> str:
        progress = self._progress
        assert progress is not None
        if progress.stage == "images":
            return f"{progress.done:,} of {count_of(progress.total, 'image')} decoded"
        parts = [f"epoch {progress.epoch} of {progress.epochs}", f"step {progress.done:,} of {progress.total:,}"]
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        if progress.accuracy is not None:
            parts.append(f"validation {100 * progress.accuracy:.1f} %")
        if progress.images_per_second:
            parts.append(f"{progress.images_per_second:.0f} images/s")
        if progress.seconds_left is not None:
            parts.append(f"{format_duration(progress.seconds_left)} left at most")
        return ", ".join(parts)


def _describe_epoch(record: EpochRecord, epochs: int) -> str:
    parts = [] if record.train_loss is None else [f"loss {record.train_loss:.3f}"]
    if record.val_loss is not None and record.val_accuracy is not None:
        parts.append(f"validation loss {record.val_loss:.3f}, accuracy {100 * record.val_accuracy:.1f} %")
    if record.images_per_second:
        parts.append(f"{record.images_per_second:.0f} images/s")
    name = "before" if record.epoch == 0 else f"epoch {record.epoch} of {epochs}"
    return f"{name}: {', '.join(parts)}"
