"""Writes table, the format for people: one row per prediction of a single image, or one row per image."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from rich.cells import cell_len, set_cell_size

from imgclassify.errors import make_printable
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import RecordType
from imgclassify.output.terminal import Line, LinePrinter
from imgclassify.results import ImageResult, Prediction

_BAR_CELLS = 30
_EIGHTHS = " ▏▎▍▌▋▊▉"
_RUNNERS_UP = 2
_WIDEST_LABEL = 26
_PIPE_WIDTH = 100
"""The width in cells that the columns are based on if there is no terminal."""


class TableWriter:
    """Writes a table; see formats.Writer.

    From the second image on, rows are printed at once. On a terminal they are cut at its width; in a pipe they
    are whole.
    """

    def __init__(self, stream: TextIO, provenance: Provenance, record_type: RecordType[ImageResult]) -> None:
        self._stream = stream
        self._printer = LinePrinter(stream)
        self._terminal = self._printer.width is not None
        self._width = self._printer.width or _PIPE_WIDTH
        self._first: ImageResult | None = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def write(self, result: ImageResult) -> None:
        self._count += 1
        # A single image has another layout, so the first row waits for the second image or the end.
        if self._count == 1:
            self._first = result
            return
        if self._first is not None:
            self._print_row(self._first)
            self._first = None
        self._print_row(result)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first is not None:
            self._print_alone(self._first)
            self._first = None

    def _print(self, line: Line, *, cut: bool = False) -> None:
        self._printer.print(line, cut=cut)
        self._stream.flush()

    def _print_alone(self, result: ImageResult) -> None:
        head = Line(make_printable(result.source), style="bold")
        if result.width:
            head.append(f"  {result.width}×{result.height}", style="dim not bold")
        head.append(f"  {result.model}", style="dim not bold")
        self._print(head)
        if result.error:
            self._print(Line(*_describe_failure(result)))
            return
        widest = max(cell_len(make_printable(prediction.label)) for prediction in result.predictions)
        room = self._width - len(" 1  ") - len("  100.00 %  ")
        cells = min(widest, max(room - _BAR_CELLS, 10)) if self._terminal else widest
        for prediction in result.predictions:
            line = Line(f"{prediction.rank:>2}  ", style="dim")
            line.append(set_cell_size(make_printable(prediction.label), cells), style=_rank_style(prediction))
            line.append(f"  {_format_percent(prediction, 2):>8}  ", style=_rank_style(prediction))
            line.append(
                _draw_bar(prediction.probability, min(_BAR_CELLS, max(room - cells, 0))), style="green not dim"
            )
            self._print(line)

    def _print_row(self, result: ImageResult) -> None:
        third = max(self._width // 3, 8)
        line = Line(_fit_text(make_printable(result.source), third), style="bold")
        line.append("  ")
        if result.error:
            line.append(*_describe_failure(result))
        else:
            best, *others = result.predictions
            line.append(
                _fit_text(make_printable(best.label), min(third, _WIDEST_LABEL), keep="head"), style="not bold"
            )
            line.append(f" {_format_percent(best, 1):>8}", style="green not bold")
            runners = (
                f"{make_printable(other.label)} {_format_percent(other, 1)}" for other in others[:_RUNNERS_UP]
            )
            line.append("  " + " · ".join(runners), style="dim not bold")
        self._print(line, cut=True)


def _fit_text(text: str, cells: int, *, keep: str = "tail") -> str:
    """Pads or cuts text to `cells` cells. By default it keeps the tail, because the end of a path says more."""
    if cell_len(text) <= cells:
        return set_cell_size(text, cells)
    if keep == "head":
        return set_cell_size(text, cells - 1) + "…"
    text = text[-cells:]
    while cell_len(text) > cells - 1:
        text = text[1:]
    return "…" + set_cell_size(text, cells - 1)


def _describe_failure(result: ImageResult) -> tuple[str, str]:
    """Returns (text, style)."""
    assert result.error is not None
    return f"✗ {result.error.type}: {make_printable(result.error.message)}", "red not bold"


def _rank_style(prediction: Prediction) -> str:
    return "bold not dim" if prediction.rank == 1 else "not dim"


def _format_percent(prediction: Prediction, digits: int) -> str:
    return f"{100 * prediction.probability:.{digits}f} %"


def _draw_bar(probability: float, cells: int) -> str:
    """Draws a bar of up to `cells` characters, rounded to an eighth of a character."""
    eighths = round(probability * cells * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
