"""Writes table, the format for people: one row per prediction of a single image, or one row per image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self, TextIO

from rich.cells import cell_len

from imgclassify.errors import make_printable
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import RecordType
from imgclassify.output.terminal import Line, LinePrinter
from imgclassify.output.text_fitting import cut_end, cut_start, pad_text, wrap_text
from imgclassify.results import ImageResult, Prediction, Unfamiliarity

_BAR_CELLS = 30
_EIGHTHS = " ▏▎▍▌▋▊▉"
_NARROWEST_LABEL = 8
_NOT_SURE = "not sure"
_RUNNERS_UP = 2
_WIDTH_FOR_RUNNERS_UP = 70
"""The width in cells from which on a terminal's rows show predictions besides the best one."""
_PIPE_WIDTH = 100
"""The width in cells that the bars are based on if there is no terminal."""
_PIPE_CELLS = (33, 26)
"""The least widths in cells of the columns for names and labels in a pipe."""
_FACT_CELLS = 10
_SHOWN_OF_SET = 20
"""So many labels of a prediction set are shown. A network that is quite unsure has sets of hundreds."""
_WIDEST_PIPE_CELLS = 80
"""A wider cell does not widen its column."""


class TableWriter:
    """Writes a table; see formats.Writer.

    From the second image on, rows are printed at once. In a pipe, each row is whole and has the image's full name.
    On a terminal, rows keep to its width, and the folder is printed above the rows of its images.

    If each class is predicted by itself, there are no bars: they would look like shares of a whole.
    """

    def __init__(self, stream: TextIO, provenance: Provenance, record_type: RecordType[ImageResult]) -> None:
        self._stream = stream
        self._multi_label = provenance.run.get("multi_label") is True
        self._calibrated = bool(provenance.run.get("calibration"))
        self._printer = LinePrinter(stream)
        self._terminal = self._printer.width is not None
        self._width = self._printer.width or _PIPE_WIDTH
        self._first: ImageResult | None = None
        self._count = 0
        self._folder = ""
        """The folder of the row before."""
        self._pipe_cells = _PIPE_CELLS
        """The widths of the columns so far. A wider cell widens its column for all rows after it."""

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
        self._print_heading(result)
        if result.error:
            self._print_failure(result)
            return
        if result.answer:
            self._print_fact("answer", _describe_answer(result), "bold")
        labels = [make_printable(prediction.label) for prediction in result.predictions]
        cells = max(map(cell_len, labels))
        room = self._width - len(" 1  ") - len("  100.00 %  ")
        if self._terminal:
            cells = min(cells, max(room, _NARROWEST_LABEL))
            labels = [cut_end(label, cells) for label in labels]
        colour = _confidence_colour(result.predictions[0].probability)
        for prediction, label in zip(result.predictions, labels, strict=True):
            percent = f"{_format_percent(prediction, 2):>8}"
            line = Line()
            line.append(f"{prediction.rank:>2}  ", style="dim")
            if self._multi_label:
                line.append(f"{pad_text(label, cells)}  ", style="bold" if prediction.probability >= 0.5 else "")
                line.append(percent, style=_confidence_colour(prediction.probability))
            else:
                line.append(f"{pad_text(label, cells)}  {percent}  ", style="bold" if prediction.rank == 1 else "")
                line.append(_draw_bar(prediction.probability, min(_BAR_CELLS, max(room - cells, 0))), style=colour)
            self._print(line)
        if result.prediction_set is not None:
            self._print_fact("set", _describe_set(result.prediction_set))
        if result.unfamiliar:
            self._print_fact("unfamiliar", _describe_unfamiliarity(result.unfamiliar))

    def _print_fact(self, name: str, text: str, style: str = "") -> None:
        """Prints a fact of a single image, on a terminal on as many lines as it takes."""
        line = Line()
        line.append(f"{name:>{_FACT_CELLS}}  ", style="dim")
        room = max(self._width - _FACT_CELLS - len("  "), _NARROWEST_LABEL)
        for number, part in enumerate(wrap_text(text, room) if self._terminal else [text]):
            if number:
                self._print(line)
                line = Line(" " * (_FACT_CELLS + len("  ")))
            line.append(part, style=style)
        self._print(line)

    def _print_heading(self, result: ImageResult) -> None:
        """Prints the name and the facts of a single image. Facts that do not fit beside the name are below it."""
        text = make_printable(result.source)
        line, used = Line(text, style="bold"), cell_len(text)
        facts = [f"{result.width}×{result.height}"] if result.width else []
        facts.append(make_printable(result.model))
        if (result.frames or 1) > 1:
            facts.append(f"frame {result.frame} of {result.frames}")
        if result.damaged:
            facts.append("damaged")
        if self._calibrated and not result.error:
            facts.append("calibrated")
        if self._multi_label and not result.error:
            facts.append("each class by itself")
        for fact in facts:
            if self._terminal and used + len("  ") + cell_len(fact) > self._width:
                self._print(line)
                line, used = Line(), len("  ")
            line.append(f"  {fact}", style="dim not bold")
            used += len("  ") + cell_len(fact)
        self._print(line)

    def _print_failure(self, result: ImageResult) -> None:
        text = _describe_failure(result)
        lines = wrap_text(text, max(self._width - len("  "), _NARROWEST_LABEL)) if self._terminal else [text]
        for index, part in enumerate(lines):
            self._print(Line(f"  {part}" if index else part, style="red"))

    def _print_row(self, result: ImageResult) -> None:
        if self._terminal:
            self._print(_terminal_row(self._print_folder(result.source), result, self._width), cut=True)
        else:
            self._print(self._pipe_row(result))

    def _pipe_row(self, result: ImageResult) -> Line:
        source = make_printable(result.source)
        headline = _find_headline(result)
        label = make_printable(headline.label)
        first, second = (
            max(cells, cell_len(text)) if cell_len(text) <= _WIDEST_PIPE_CELLS else cells
            for cells, text in zip(self._pipe_cells, (source, label), strict=True)
        )
        self._pipe_cells = first, second
        line = Line(pad_text(source, first) + "  ")
        if result.error:
            line.append(_describe_failure(result))
            return line
        line.append(f"{pad_text(label, second)} {headline.percent():>8}  ")
        runners = (
            f"{make_printable(other.label)} {_format_percent(other, 1)}" for other in headline.others[:_RUNNERS_UP]
        )
        line.append(" · ".join([*_describe_confidence(result), *runners]))
        return line

    def _print_folder(self, source: str) -> tuple[str, str]:
        """Prints the folder of a source, unless it is that of the row before.

        Returns:
            The indent of the row, and the rest of the source's name. Only rows below a folder are indented.
        """
        end = max(source.rfind("/"), source.rfind(os.sep)) + 1
        if end == len(source):  # such as https://example.org/
            end = 0
        folder, name = source[:end], source[end:]
        if folder and folder != self._folder:
            self._print(Line(make_printable(folder), style="dim"))
        self._folder = folder
        return "  " if folder else "", make_printable(name)


def _terminal_row(name: tuple[str, str], result: ImageResult, width: int) -> Line:
    """Returns a row of `width` cells: name, percentage and label of the best prediction, and the runners-up.

    The percentage comes before the label. So labels need no column as wide as the widest of them.
    """
    indent, text = name
    cells = max(width // 3, _NARROWEST_LABEL)
    line = Line(pad_text(indent + cut_start(text, cells - len(indent)), cells) + "  ")
    room = max(width - cells - len("  "), _NARROWEST_LABEL)
    if result.error:
        line.append(cut_end(_describe_failure(result), room), style="red")
        return line
    headline = _find_headline(result)
    line.append(f"{headline.percent():>7}  ", style=_confidence_colour(headline.probability or 0))
    room = max(room - len("100.0 %  "), _NARROWEST_LABEL)
    label = cut_end(make_printable(headline.label), room)
    line.append(label, style="bold")
    used = cell_len(label)
    # The most probable class is shown before all else if it is not the answer.
    unsaid = headline.others[: headline.is_above]
    notes = _join_notes(_describe_confidence(result), room - used - cell_len(_join_fitting(unsaid, room - used)))
    line.append(notes, style="yellow")
    used += cell_len(notes)
    others = headline.others if width >= _WIDTH_FOR_RUNNERS_UP else unsaid
    line.append(_join_runners_up(others, width // 5 - used, room - used), style="dim")
    return line


def _describe_answer(result: ImageResult) -> str:
    headline = _find_headline(result)
    return f"{make_printable(headline.label)}  {headline.percent()}".rstrip()


def _describe_set(labels: Sequence[str]) -> str:
    text = ", ".join(map(make_printable, labels[:_SHOWN_OF_SET]))
    return text + (f", and {len(labels) - _SHOWN_OF_SET:,} more" if len(labels) > _SHOWN_OF_SET else "")


def _describe_unfamiliarity(unfamiliar: Unfamiliarity) -> str:
    text = f"score {unfamiliar.score:.4g}"
    if unfamiliar.percentile is not None:
        text += f", stranger than {unfamiliar.percentile:.1f} % of the familiar images"
    return text


class _Headline(NamedTuple):
    """What a row shows first."""

    label: str
    probability: float | None
    """None if there is no answer."""
    others: Sequence[Prediction]
    """The predictions besides it. The most probable class is the first of them if it is not the answer itself."""
    is_above: bool
    """Whether the answer is not the most probable class."""

    def percent(self) -> str:
        return "" if self.probability is None else f"{100 * self.probability:.1f} %"


def _find_headline(result: ImageResult) -> _Headline:
    """Returns what to show first: the answer if there is one, else the most probable class."""
    answer = result.answer
    if result.error:
        return _Headline("", None, (), is_above=False)
    if answer is None or answer.kind == "leaf":
        best, *others = result.predictions
        return _Headline(best.label, best.probability, others, is_above=False)
    return _Headline(
        answer.label or _NOT_SURE, answer.probability if answer.label else None, result.predictions, is_above=True
    )


def _describe_confidence(result: ImageResult) -> list[str]:
    """Returns how unfamiliar the image is, and how many classes are in its prediction set, as short texts."""
    notes = [f"unfamiliar {_format_unfamiliarity(result.unfamiliar)}"] if result.unfamiliar else []
    return notes + ([f"set of {len(result.prediction_set)}"] if result.prediction_set is not None else [])


def _format_unfamiliarity(unfamiliar: Unfamiliarity) -> str:
    # Rounded down: at 100 %, no familiar image is as strange.
    return f"{unfamiliar.score:.3g}" if unfamiliar.percentile is None else f"{int(unfamiliar.percentile)} %"


def _join_runners_up(others: Sequence[Prediction], margin: int, cells: int) -> str:
    """Returns as many of the runners-up as fit as a whole into `cells` cells.

    Args:
        margin: number of blanks before them, which align them with those of other rows. There are fewer if the
            first runner-up would not fit otherwise.
    """
    margin = max(margin, 0)
    text = _join_fitting(others, cells - margin) or _join_fitting(others, cells)
    return " " * min(margin, cells - cell_len(text)) + text


def _join_notes(notes: Sequence[str], cells: int) -> str:
    """Returns as many of the notes as fit as a whole into `cells` cells."""
    text = ""
    for note in notes:
        if cell_len(f"{text}  {note}") > cells:
            break
        text += f"  {note}"
    return text


def _join_fitting(others: Sequence[Prediction], cells: int) -> str:
    text = ""
    for other in others[:_RUNNERS_UP]:
        percent = _format_percent(other, 1)
        longer = f"{text} · {percent}" if text else f"  {percent:>6}"
        longer += f" {make_printable(other.label)}"
        if cell_len(longer) > cells:
            break
        text = longer
    return text


def _describe_failure(result: ImageResult) -> str:
    assert result.error is not None
    return f"✗ {result.error.type}: {make_printable(result.error.message)}"


def _confidence_colour(probability: float) -> str:
    """Returns the colour of a prediction: green if it is probably right, yellow if it may be, else magenta."""
    if probability >= 0.8:
        return "green"
    return "yellow" if probability >= 0.5 else "magenta"


def _format_percent(prediction: Prediction, digits: int) -> str:
    return f"{100 * prediction.probability:.{digits}f} %"


def _draw_bar(probability: float, cells: int) -> str:
    """Draws a bar of up to `cells` characters, rounded to an eighth of a character."""
    eighths = round(probability * cells * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
