"""Commands run in this process, which spares each test the seconds that importing torch takes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import noise

from imgclassify.cli.main import app


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs a command line. `stdin` is what it reads there."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="imgclassify")
        captured = capsysbinary.readouterr()
        return Outcome(
            int(ended.value.code or 0),
            captured.out.decode(errors="surrogateescape"),
            captured.err.decode(errors="surrogateescape"),
        )

    return run


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs a command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "imgclassify", *map(str, arguments)],
        capture_output=True,
        check=False,
        **({"env": dict(os.environ)} | options),
    )


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with spaces in its name: five images, one of them broken, one in a subfolder, and a text file."""
    folder = tmp_path / "my album"
    (folder / "sub").mkdir(parents=True)
    for index, name in enumerate(["b.png", "a.jpg", "sub/c.webp", "z.gif"]):
        noise(80 + index, 60, seed=index).save(folder / name)
    (folder / "m.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("no picture")
    return folder


ALBUM = ["a.jpg", "b.png", "m.jpg", "sub/c.webp", "z.gif"]
"""Its images in sorted order; m.jpg is the broken one."""
