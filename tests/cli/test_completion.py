"""Shell completion, asked as bash asks."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgclassify.catalog import INTERPOLATIONS, SORT_KEYS
from imgclassify.embedding import EMBEDDINGS
from imgclassify.engines.engine import DTYPES, ENGINES
from imgclassify.labels import list_label_sets
from imgclassify.output.formats import FORMATS
from imgclassify.output.records import PREDICTIONS
from imgclassify.output.vectors import VECTOR_DTYPES
from imgclassify.similarity.duplicates import STAGES

from .test_help import all_commands


def completions(line: str, cwd: Path | None = None) -> list[str]:
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_IMGCLASSIFY_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify"],
        capture_output=True,
        text=True,
        env=os.environ | asked,
        check=False,
        cwd=cwd,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("imgclassify mod", ["models"]),
        ("imgclassify models l", ["list"]),
        ("imgclassify models show resnet15", ["resnet152"]),
        ("imgclassify models pull resnet50@", ["resnet50@IMAGENET1K_V1", "resnet50@IMAGENET1K_V2"]),
        ("imgclassify predict -m vit_b", ["vit_b_16", "vit_b_32"]),
        ("imgclassify predict -m cifar_n", []),
        ("imgclassify predict --arch cifar_n", ["cifar_net"]),
        ("imgclassify models show cifar_n", ["cifar_net"]),
        ("imgclassify predict --off", ["--offline"]),
    ],
)
def test_the_shell_completes(line: str, expected: list[str]) -> None:
    assert completions(line) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify"],
        capture_output=True,
        text=True,
        env=os.environ | {"_IMGCLASSIFY_COMPLETE": f"source_{shell}"},
        check=False,
    )
    assert "_IMGCLASSIFY_COMPLETE" in done.stdout


CLOSED = {
    "predict": {
        "--engine": set(ENGINES),
        "--device": {"auto", "cpu", "cuda", "mps"},
        "--dtype": {"auto", *DTYPES},
        "--decode": {"cpu", "gpu"},
        "--interpolation": set(INTERPOLATIONS),
        "--format": {each.name for each in FORMATS if each.supports(PREDICTIONS)},
    },
    "embed": {
        "--dtype": set(VECTOR_DTYPES),
        "--compute-dtype": {"auto", *DTYPES},
        "--format": {each.name for each in FORMATS if each.supports(EMBEDDINGS)},
    },
    "duplicates": {"--stage": set(STAGES), "--format": {"table", "jsonl", "csv"}},
    "models list": {"--sort": set(SORT_KEYS)},
}


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [(command, option, values) for command, options in CLOSED.items() for option, values in options.items()],
)
def test_all_values_of_an_option_are_offered_and_in_its_help(command: str, option: str, values: set[str]) -> None:
    parameters = all_commands()[command].params
    [parameter] = [each for each in parameters if option in each.opts]
    assert {item.value for item in parameter.shell_complete(None, "")} == values
    assert all(re.search(rf"\b{value}\b", parameter.help) for value in values)


def test_label_sets_are_offered_together_with_files(tmp_path: Path) -> None:
    (tmp_path / "images.txt").touch()
    (tmp_path / "folder").mkdir()
    both = completions("imgclassify predict --labels ", cwd=tmp_path)
    assert both == [*list_label_sets(), "folder/", "images.txt"]
    # Nothing, so that the shell offers its files.
    assert completions("imgclassify predict --labels fold", cwd=tmp_path) == []


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Types a line in a real bash that has the completion, and returns the arguments that the command then gets."""
    program = tmp_path / "imgclassify"
    run = f'exec "{sys.executable}" -m imgclassify "$@"'
    program.write_text(f'#!/bin/sh\n[ -n "$_IMGCLASSIFY_COMPLETE" ] && {run}\nprintf "<%s>" "$@"; echo " END"\n')
    program.chmod(0o755)
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ "},
    )
    os.close(follower)

    def read_until(words: bytes) -> str:
        text = b""
        deadline = time.monotonic() + 60
        while words not in text and time.monotonic() < deadline:
            if select.select([leader], [], [], 0.2)[0]:
                text += os.read(leader, 65536)
        assert words in text, text
        return text.decode()

    def type_line(line: str) -> str:
        os.write(leader, f"{line}\n".encode())
        return read_until(b" END")

    os.write(leader, b"source <(_IMGCLASSIFY_COMPLETE=source_bash imgclassify); echo rea''dy\n")
    read_until(b"ready\r\n")
    yield type_line
    process.kill()
    process.wait()
    os.close(leader)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_words_that_bash_splits_are_completed(bash: Callable[[str], str]) -> None:
    expected = {
        "imgclassify models path alexnet@\t": "<models><path><alexnet@IMAGENET1K_V1> END",
        "imgclassify models path alexnet@IMA\t": "<models><path><alexnet@IMAGENET1K_V1> END",
        "imgclassify predict --model=alexnet@\t": "<predict><--model=alexnet@IMAGENET1K_V1> END",
        "imgclassify predict --engine=to\t": "<predict><--engine=torch> END",
        "imgclassify predict -m alexnet@IMAGENET1K_V1 --engine to\t": "<--engine><torch> END",
        "imgclassify predict http://host/a@b --inter\tbox": "<http://host/a@b><--interpolation><box> END",
    }
    for line, arguments in expected.items():
        assert arguments in bash(line), line


def test_other_wordbreaks_of_bash_make_no_difference() -> None:
    assert completions("imgclassify models path alexnet@") == ["alexnet@IMAGENET1K_V1"]
    assert completions("imgclassify models path alexnet @ IMA") == ["@IMAGENET1K_V1"]
