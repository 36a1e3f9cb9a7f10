"""Fits text into a number of terminal cells: pads it, cuts it with an ellipsis, or wraps it."""

from __future__ import annotations

import re

from rich.cells import cell_len

_PIECE = re.compile(r"[^ /]*[ /]+|[^ /]+")
"""Text up to a place where it may be broken: after spaces, and after the slashes of a path or URL."""


def pad_text(text: str, cells: int) -> str:
    """Appends spaces to text that is narrower than `cells` cells."""
    return text + " " * (cells - cell_len(text))


def cut_start(text: str, cells: int) -> str:
    """Cuts text to `cells` cells. Its end is kept, because the end of a path says more."""
    if cell_len(text) <= cells:
        return text
    return "…" + text[len(text) - _fitting_length(text[::-1], cells - 1) :]


def cut_end(text: str, cells: int) -> str:
    """Cuts text to `cells` cells. It is cut between words, unless that leaves less than half."""
    if cell_len(text) <= cells:
        return text
    length = _fitting_length(text, cells - 1)
    word_end = text.rfind(" ", 0, length + 1)
    if 2 * word_end >= length:
        length = word_end
    return text[:length].rstrip(" ,;:") + "…"


def wrap_text(text: str, cells: int) -> list[str]:
    """Breaks text into lines of at most `cells` cells, at least one.

    It is broken after spaces and slashes. Only a word that is wider than a line is broken elsewhere.
    """
    lines = [""]
    for piece in _PIECE.findall(text):
        if lines[-1] and cell_len((lines[-1] + piece).rstrip()) > cells:
            lines.append("")
        while cell_len(piece.rstrip()) > cells:
            length = _breaking_length(piece, cells)
            lines[-1:] = [piece[:length], ""]
            piece = piece[length:]
        lines[-1] += piece
    return [line.rstrip() for line in lines if line.strip()] or [""]


def _breaking_length(word: str, cells: int) -> int:
    """Returns how many characters of a word go on a line: up to a separator, unless that leaves less than half."""
    length = max(_fitting_length(word, cells), 1)
    separator_end = max(word.rfind(separator, 0, length) for separator in "_-.@") + 1
    return separator_end if 2 * separator_end >= length else length


def _fitting_length(text: str, cells: int) -> int:
    """Returns the number of characters of the longest beginning of `text` that fits `cells` cells."""
    used = 0
    for index, character in enumerate(text):
        used += cell_len(character)
        if used > cells:
            return index
    return len(text)
