"""Text that is cut, wrapped and padded: nothing is wider than it may be, and wrapping loses nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from imgclassify.output.text_fitting import cut_end, cut_start, pad_text, wrap_text

TEXTS = st.text(st.sampled_from("ab /-_.é漢字"), max_size=60)


@given(TEXTS, st.integers(2, 30))
def test_wrapped_lines_fit_and_have_all_of_the_text(text: str, cells: int) -> None:
    lines = wrap_text(text, cells)
    assert all(cell_len(line) <= cells for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(lines) or not text.strip()


@given(TEXTS, st.integers(2, 30))
def test_cut_text_fits_and_is_the_beginning_or_end(text: str, cells: int) -> None:
    head, tail = cut_end(text, cells), cut_start(text, cells)
    assert max(cell_len(head), cell_len(tail)) <= cells
    if cell_len(text) <= cells:
        assert head == tail == text
    else:
        assert head.endswith("…")
        assert text.startswith(head[:-1])
        assert tail.startswith("…")
        assert text.endswith(tail[1:])


@pytest.mark.parametrize(
    ("text", "cells", "lines"),
    [
        ("large American feline", 15, ["large American", "feline"]),
        ("https://example.org/models/net.pth", 22, ["https://example.org/", "models/net.pth"]),
        ("quantized_shufflenet_v2_x2_0", 20, ["quantized_", "shufflenet_v2_x2_0"]),
        ("0123456789abcdef", 10, ["0123456789", "abcdef"]),
        ("", 10, [""]),
    ],
)
def test_text_is_broken_between_words_and_parts_of_a_path(text: str, cells: int, lines: list[str]) -> None:
    assert wrap_text(text, cells) == lines


@pytest.mark.parametrize(
    ("text", "cells", "cut"),
    [
        ("damaged JPEG file: it ends too early", 20, "damaged JPEG file…"),
        ("damaged JPEG file: it ends too early", 25, "damaged JPEG file: it…"),
        ("it supercalifragilistic", 12, "it supercal…"),
    ],
)
def test_text_is_cut_between_words(text: str, cells: int, cut: str) -> None:
    assert cut_end(text, cells) == cut


def test_padding_counts_cells() -> None:
    assert pad_text("漢字", 6) == "漢字  "
    assert pad_text("too wide", 3) == "too wide"
