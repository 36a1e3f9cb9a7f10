"""Writes records to an output that cannot be resumed: stdout, a device, or a file in a format without a reader.

Each record is written as soon as it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TextIO

from imgclassify.output.formats import OutputFormat
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, RecordType
from imgclassify.output.text_stream import open_text
from imgclassify.results import RunInfo


class StreamedOutput(Generic[R]):
    """An output that cannot be resumed; see output.Output."""

    unfinished = None
    resumed_device = None

    def __init__(self, path: Path | None, output_format: OutputFormat, record_type: RecordType[R]) -> None:
        """
        Args:
            output_format: a streamable format.
        """
        assert output_format.writer is not None
        self._path = path
        self._record_type = record_type
        self._create_writer = output_format.load(output_format.writer)
        self._stack = ExitStack()
        self._stream: TextIO | None = None
        self._writer: Any = None
        self._selects: Callable[[R], bool] | None = None
        self.resumed = self.resumed_failed = 0
        self.count = self.failed = 0

    @property
    def on_terminal(self) -> bool:
        """See output.Output."""
        return self._stream is not None and self._stream.isatty()

    def earlier_sources(self) -> Iterator[str]:
        """See output.Output."""
        return iter(())

    @property
    def unseen(self) -> bool:
        """See output.Output."""
        return self._path is not None and str(self._path) != "-"

    def claim_record(self, source: str) -> bool:
        """See output.Output."""
        return False

    def earlier_records(self) -> Iterator[R]:
        """See output.Output."""
        return iter(())

    def begin(
        self, run: RunInfo, settings: dict[str, int | str], selects: Callable[[R], bool] | None = None
    ) -> None:
        """See output.Output."""
        self._selects = selects
        self._stream = self._stack.enter_context(open_text(self._path))
        provenance = Provenance.from_run(run, settings)
        self._writer = self._stack.enter_context(self._create_writer(self._stream, provenance, self._record_type))

    def write(self, record: R) -> bool:
        """See output.Output."""
        selected = self._selects is None or self._selects(record)
        if selected:
            self._writer.write(record)
        self.count += 1
        self.failed += record.error is not None
        return selected

    def complete(self) -> None:
        """See output.Output."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
