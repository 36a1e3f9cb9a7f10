"""Files made from real ones: bits, runs, cuts, splices, and numbers where a format has its lengths and sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fuzz.harness import Input
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy


class Field(NamedTuple):
    """Where a file has a number that its reader counts on."""

    position: int
    width: int
    order: str
    """As `int.to_bytes` calls it."""


Fields = Callable[[bytes], list[Field]]
Repair = Callable[[bytes], bytes]

_NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, *(2**bits + more for bits in (7, 8, 15, 16, 24, 31, 32) for more in (-1, 0))]),
    st.integers(0, 70_000),
)


@st.composite
def mutated(
    draw: DrawFn,
    seeds: Mapping[str, bytes],
    *,
    fields: Fields = lambda content: [],
    repair: Repair = lambda content: content,
    most: int = 6,
) -> Input:
    """One of the seeds, changed in 1 to `most` ways.

    Args:
        seeds: by name, whose first word is the kind.
        fields: the places of a file's lengths and sizes.
        repair: puts right what a reader checks before it reads on, such as checksums; done to every second file.
    """
    name = draw(st.sampled_from(sorted(seeds)))
    content = seeds[name]
    for _ in range(draw(st.integers(1, most))):
        change = draw(st.sampled_from(_CHANGES))
        content = change(draw, content, seeds, fields)
    if draw(st.booleans()):
        content = repair(content)
    return Input(name.partition(" ")[0], content)


def _place(draw: DrawFn, content: bytes) -> int:
    """Mostly near the beginning, where headers are, but seldom in the signature."""
    end = len(content)
    near, far, last = (min(end, 8), min(end, 120)), (0, end), (max(0, end - 40), end)
    # Not one_of: it takes equal strategies for one, so that what is drawn would depend on more than what was drawn.
    return draw(st.integers(*(near, near, far, last)[draw(st.integers(0, 3))]))


def _flip(draw: DrawFn, content: bytes, *_: object) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = _place(draw, content)
        if place < len(changed):
            changed[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _overwrite(draw: DrawFn, content: bytes, *_: object) -> bytes:
    place = _place(draw, content)
    run = draw(_runs())
    return content[:place] + run + content[place + len(run) :]


def _insert(draw: DrawFn, content: bytes, *_: object) -> bytes:
    place = _place(draw, content)
    return content[:place] + draw(_runs()) + content[place:]


def _runs() -> SearchStrategy[bytes]:
    """Random bytes, or one byte repeated, up to more than a decoder's buffer."""
    byte = st.sampled_from([b"\0", b"\xff", b"\x80", b" ", b"9"])
    times = st.sampled_from([1, 4, 64, 5000, 70_000])
    return st.one_of(st.binary(min_size=1, max_size=32), st.builds(operator.mul, byte, times))


def _cut(draw: DrawFn, content: bytes, *_: object) -> bytes:
    return content[: _place(draw, content)]


def _remove(draw: DrawFn, content: bytes, *_: object) -> bytes:
    place = _place(draw, content)
    return content[:place] + content[place + draw(st.integers(1, 300)) :]


def _repeat(draw: DrawFn, content: bytes, *_: object) -> bytes:
    start, end = sorted((_place(draw, content), _place(draw, content)))
    times = draw(st.sampled_from([1, 2, 100]))
    return content[:end] + content[start:end][:2000] * times + content[end:]


def _splice(draw: DrawFn, content: bytes, seeds: Mapping[str, bytes], _: Fields) -> bytes:
    """The beginning of one file and the end of another, or all of another in the middle."""
    other = seeds[draw(st.sampled_from(sorted(seeds)))]
    start, end = _place(draw, content), _place(draw, other)
    return content[:start] + other[end:] + (content[start:] if draw(st.booleans()) else b"")


def _renumber(draw: DrawFn, content: bytes, _: Mapping[str, bytes], fields: Fields) -> bytes:
    """Another number where one counts."""
    places = fields(content)
    if not places:
        return _flip(draw, content)
    field = draw(st.sampled_from(places))
    old = int.from_bytes(content[field.position : field.position + field.width], field.order)  # type: ignore[arg-type]
    number = draw(st.one_of(_NUMBERS, st.integers(-16, 16).map(lambda more: old + more)))
    packed = (number % 256**field.width).to_bytes(field.width, field.order)  # type: ignore[arg-type]
    return content[: field.position] + packed + content[field.position + field.width :]


# Numbers and flips leave the most of a file to be read, and come most often.
_CHANGES = (
    _renumber,
    _renumber,
    _renumber,
    _renumber,
    _flip,
    _flip,
    _flip,
    _overwrite,
    _insert,
    _cut,
    _remove,
    _repeat,
    _splice,
)
