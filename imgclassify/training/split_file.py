"""Placeholder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class SplitRow(NamedTuple):
    source: str
    label: str
    part: str
    sha256: str
    reason: str


def write_split(path: Path, rows: Iterable[SplitRow]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
