"""What a command imports: nothing heavy before it is needed, on any of these ways."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "onnxruntime", "onnx", "numpy", "PIL", "requests", "safetensors", "pandas"}


def imported(*arguments: str) -> tuple[set[str], int]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "imgclassify", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert lines
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}, done.returncode


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["predict", "--help"],
        ["models", "list"],
        ["models", "list", "resnet*", "--json"],
        ["models", "show", "resnet50"],
        ["models", "path", "resnet50"],
        ["models", "verify", "efficientnet_lite0"],
        ["labels", "search", "dog"],
        ["cache", "info"],
    ],
    ids=" ".join,
)
def test_no_heavy_module_is_imported(arguments: list[str]) -> None:
    modules, status = imported(*arguments)
    assert status == 0
    assert not modules & HEAVY


def test_a_usage_error_is_found_before_torch_is_imported() -> None:
    modules, status = imported("predict", "x.jpg", "-m", "no_such_model")
    assert status == 3
    assert "torch" not in modules


def test_the_check_would_notice() -> None:
    modules, _ = imported("doctor", "--json")
    assert "torch" in modules
