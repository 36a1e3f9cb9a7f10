"""Files of text made from real ones: words of their language put in, repeated, nested and taken out, and bytes that
are no text."""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.harness import Input
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

MOST = 200_000
"""Bytes of the longest file: enough for what grows with the square of its length to show."""


@st.composite
def mutated(draw: DrawFn, seeds: Sequence[bytes], words: Sequence[bytes]) -> Input:
    """One of the seeds, changed in 1 to 6 ways; its number is its kind."""
    number = draw(st.integers(0, len(seeds) - 1))
    content = seeds[number]
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        piece = draw(
            st.one_of(
                st.sampled_from(words),
                st.sampled_from(words),
                st.binary(max_size=4),
                st.just(content[start:end]),
                st.sampled_from(seeds),
            )
        )
        times = draw(st.sampled_from([0, 1, 1, 1, 2, 50, 20_000]))
        stays = content[start:] if draw(st.booleans()) else content[end:]
        content = (content[:start] + piece * times + stays)[:MOST]
    return Input(str(number), content)
