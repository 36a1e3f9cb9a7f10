"""What a person at a terminal sees: widths, colours, progress, Ctrl-C; on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from calibrations import learned
from servers import FileServer, trickled

from .conftest import ALBUM, process

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command on a pseudo-terminal of a given width; its stdout may go elsewhere."""

    def __init__(
        self, *arguments: str | Path, width: int = 80, stdout: Path | None = None, **environment: str
    ) -> None:
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        inherited = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")
        }
        elsewhere = stdout.open("wb") if stdout else None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "imgclassify", *map(str, arguments)],
            stdin=follower,
            stdout=elsewhere or follower,
            stderr=follower,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=inherited | {"TERM": "xterm-256color"} | environment,
        )
        os.close(follower)
        if elsewhere:
            elsewhere.close()
        self.text = ""

    def close(self) -> None:
        os.close(self._leader)

    def press_ctrl_c(self) -> None:
        os.write(self._leader, b"\x03")

    def read_until(self, words: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.text and time.monotonic() < deadline:
            self.text += self._read()
        assert words in self.text

    def end(self, seconds: float = 60) -> int:
        """Reads to the end; gives the exit status."""
        while chunk := self._read():
            self.text += chunk
        os.close(self._leader)
        return self.process.wait(seconds)

    def lines(self) -> list[str]:
        return ESCAPE.sub("", self.text).replace("\r", "").splitlines()

    def _read(self) -> str:
        try:
            return os.read(self._leader, 65536).decode(errors="replace")
        except OSError:  # what Linux says when the last process has closed the other side
            return ""


@pytest.mark.parametrize("width", [40, 80, 120])
def test_rows_keep_to_the_width_and_show_label_and_percentage(width: int, album: Path) -> None:
    terminal = Terminal("predict", album, width=width)
    assert terminal.end() == 1
    rows = [line for line in terminal.lines() if line.startswith("  ")]
    assert len(rows) == len(ALBUM)
    assert all(len(row) <= width for row in rows), rows
    assert sum(bool(re.search(r"\d+\.\d %", row)) for row in rows) == len(ALBUM) - 1
    assert any("✗ truncated_image" in row for row in rows)


CONFIDENT = ["--at-least", "0.5", "--sets", "0.9", "--unfamiliar"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_confidence_keeps_to_the_width(width: int, album: Path, tmp_path: Path) -> None:
    learned().calibration.write(tmp_path / "own.json")
    options = [*CONFIDENT, "--calibration", tmp_path / "own.json"]
    terminal = Terminal("predict", album, *options, "--quiet", width=width)
    assert terminal.end() == 1
    rows = [line for line in terminal.lines() if line.startswith("  ")]
    assert len(rows) == len(ALBUM)
    assert all(len(row) <= width for row in rows), rows
    assert sum("animal" in row or "not sure" in row for row in rows) == len(ALBUM) - 1
    notes = [re.search(r"unfamiliar \d+ %  set of \d+", row) for row in rows]
    assert sum(map(bool, notes)) == len(ALBUM) - 1 or width < 120

    terminal = Terminal("predict", album / "a.jpg", *options, "--quiet", width=width)
    assert terminal.end() == 0
    lines = terminal.lines()
    assert all(len(line) <= width for line in lines if str(album) not in line), lines
    [answer] = [line for line in lines if line.startswith("    answer  ")]
    assert lines.index(answer) < lines.index(next(line for line in lines if line.startswith(" 1  ")))
    assert any(line.startswith("unfamiliar  score") for line in lines)


def test_that_a_calibration_is_known_is_said_below_the_table(photo: Path) -> None:
    terminal = Terminal("predict", photo)
    assert terminal.end() == 0
    assert "--calibrated applies a published temperature" in " ".join(terminal.lines()[6:])
    terminal = Terminal("predict", photo, "--quiet")
    assert terminal.end() == 0
    assert "--calibrated" not in terminal.text


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_list_of_models_keeps_to_the_width_and_says_what_is_cached(width: int) -> None:
    terminal = Terminal("models", "list", width=width)
    assert terminal.end() == 0
    head, *rows = terminal.lines()
    assert all(len(row) <= width for row in rows)
    assert "…" not in "".join(rows)
    titles = head.split()
    assert titles[:2] == ["model", "weights"]
    assert titles[-1] == "cached"
    assert ("acc@5" in titles) == (width == 120)
    assert [row.split()[0] for row in rows if row.endswith("yes")] == ["efficientnet_lite0"]


@pytest.mark.parametrize("width", [50, 80])
def test_details_of_a_model_are_wrapped_and_whole(width: int) -> None:
    terminal = Terminal("models", "show", "resnet50", width=width)
    assert terminal.end() == 0
    lines = terminal.lines()
    assert all(len(line) <= width for line in lines)
    text = "".join(line[15:].strip() for line in lines)
    assert "https://download.pytorch.org/models/resnet50-11ad3fa6.pth" in text
    assert "https://github.com/pytorch/vision/issues/3995#issuecomment-1013906621" in text


def test_a_class_has_its_synonyms_and_gloss_below_it() -> None:
    terminal = Terminal("labels", "search", "cougar", width=50)
    assert terminal.end() == 0
    assert terminal.lines() == [
        "index  wnid       label",
        "  286  n02125311  cougar",
        "       synonyms: puma, catamount, mountain lion,",
        "         painter, panther, Felis concolor",
        "       gloss: large American feline resembling a",
        "         lion",
    ]


@pytest.mark.needs_torch
def test_doctor_says_what_it_is_checking_and_marks_its_findings_in_colour() -> None:
    terminal = Terminal("doctor")
    assert terminal.end() == 0
    assert "checking torch" in terminal.text
    assert "\x1b[32m✓" in terminal.text
    assert "\x1b[33m–" in terminal.text  # the folder of own models, which is absent


def test_colour_is_for_terminals_and_no_color_is_heeded(photo: Path, tmp_path: Path) -> None:
    coloured = Terminal("predict", photo)
    coloured.end()
    assert "\x1b[" in coloured.text
    plain = Terminal("predict", photo, NO_COLOR="1")
    plain.end()
    assert "\x1b[3" not in plain.text
    # A file is a file, whatever FORCE_COLOR asks for.
    forced = Terminal("predict", photo, "-o", tmp_path / "table.txt", FORCE_COLOR="1")
    assert forced.end() == 0
    assert "\x1b" not in (tmp_path / "table.txt").read_text("utf-8")


@pytest.mark.parametrize("width", [40, 80])
def test_messages_break_between_words_and_keep_long_ones_whole(width: int, tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30 + ".pth")
    line = ["predict", "a.jpg", "-m", path]
    terminal = Terminal(*line, width=width)
    assert terminal.end() == 3
    plain = process(*line).stderr.decode()
    assert plain.count("\n") == 2
    assert " ".join(terminal.lines()) == " ".join(plain.splitlines())
    assert any(repr(str(path)) in shown for shown in terminal.lines())
    assert all(len(shown) <= width for shown in terminal.lines() if str(path) not in shown)
    # What to do next is as bright as what went wrong.
    assert re.search(r"\x1b\[1;31merror: ", terminal.text)
    assert re.search(r"\x1b\[1;36mhint: ", terminal.text)
    assert "\x1b[2m" not in terminal.text


@pytest.mark.parametrize("flags", [[], ["--no-progress"], ["-q"]])
def test_progress_is_drawn_where_results_go_elsewhere_unless_told_not_to(
    flags: list[str], album: Path, tmp_path: Path
) -> None:
    terminal = Terminal("predict", album, "-o", tmp_path / "out.jsonl", *flags)
    assert terminal.end() == 1
    assert ("of 5 images" in terminal.text) == (flags == [])
    assert ("4 answered, 1 failed (truncated_image 1)" in terminal.text) == (flags != ["-q"])


def test_a_terminal_that_is_closed_ends_a_run_that_can_be_resumed(album: Path, tmp_path: Path) -> None:
    for index in range(100):
        shutil.copy(album / "a.jpg", album / f"{index:03}.jpg")
    terminal = Terminal("predict", album, "-o", tmp_path / "out.jsonl", "--batch-size", "1")
    partial = tmp_path / "out.jsonl.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 2000) and time.monotonic() < deadline:
        time.sleep(0.01)
    terminal.close()
    assert terminal.process.wait(timeout=30) == 129
    assert partial.read_bytes().count(b"\n") > 1


def test_ctrl_c_while_stdin_is_awaited_ends_at_once() -> None:
    terminal = Terminal("predict", "-", "-v")
    terminal.read_until("efficientnet_lite0")  # loaded, and waiting for the image
    time.sleep(0.3)
    terminal.press_ctrl_c()
    started = time.monotonic()
    assert terminal.end() == 130
    assert time.monotonic() - started < 10
    assert "interrupted" in terminal.text
    assert "Traceback" not in terminal.text
    assert "Fatal" not in terminal.text


def test_ctrl_c_does_not_wait_for_a_slow_server() -> None:
    with FileServer(files={"a.jpg": bytes(5000)}) as server:
        server.always = trickled(1, 0.5)
        terminal = Terminal("predict", server.url("a.jpg"), "-v")
        terminal.read_until("efficientnet_lite0")
        time.sleep(0.3)
        terminal.press_ctrl_c()
        started = time.monotonic()
        assert terminal.end() == 130
        assert time.monotonic() - started < 10
    assert "Traceback" not in terminal.text


@pytest.mark.needs_torch
def test_an_interrupt_during_start_up_is_quiet(photo: Path) -> None:
    running = subprocess.Popen(
        # Importing torch takes long enough to be interrupted in.
        [sys.executable, "-m", "imgclassify", "predict", str(photo), "--engine", "torch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # A library's bare except may swallow one while it is imported.
    while running.poll() is None:
        time.sleep(0.7)
        running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out == b""
    assert b"Traceback" not in err
