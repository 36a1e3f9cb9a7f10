"""An output whose records are seen as they come, and which no later run can go on with."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from imgclassify.output import open_writer
from imgclassify.output.atomic import open_text
from imgclassify.results import ImageResult, RunInfo


class StreamedOutput:
    """See output.Output. stdout or a device; or, of a table or a document, a file that is put in its place whatever
    ends the run."""

    unfinished = None
    resumed_device = None

    def __init__(self, path: Path | None, format_name: str) -> None:
        self._path = path
        self._format = format_name
        self._stack = ExitStack()
        self._stream: TextIO | None = None
        self.resumed = self.resumed_failed = 0
        self.count = self.failed = 0

    @property
    def on_terminal(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def claim_record(self, source: str) -> bool:
        return False

    def begin(self, run: RunInfo, top_k: int) -> None:
        self._stream = self._stack.enter_context(open_text(self._path))
        self._writer = self._stack.enter_context(open_writer(self._format, self._stream, run, top_k=top_k))

    def write(self, result: ImageResult) -> None:
        self._writer.write(result)
        self.count += 1
        self.failed += result.error is not None

    def complete(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
