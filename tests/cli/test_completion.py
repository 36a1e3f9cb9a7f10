"""Shell completion, asked as bash asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def completions(line: str) -> list[str]:
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_IMGCLASSIFY_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify"], capture_output=True, text=True, env=os.environ | asked, check=False
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
