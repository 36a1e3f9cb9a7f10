"""A wrong command line is answered in the form of all errors: what is wrong, and what to do next."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .conftest import Run, process


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("predict a.jpg --topk 3", "unknown option --topk", "did you mean --top-k?"),
        ("predict a.jpg --csv", "unknown option --csv", "did you mean --format csv?"),
        ("predict a.jpg --parquet", "unknown option --parquet", "did you mean --format parquet?"),
        ("embed a.jpg --npz", "unknown option --npz", "did you mean --format npz?"),
        ("embed a.jpg --csv", "unknown option --csv", "the values of --format are json, jsonl, parquet, npz"),
        ("duplicates a.jpg --csv", "unknown option --csv", "did you mean --format csv?"),
        ("predict a.jpg --zzz", "unknown option --zzz", "run `imgclassify predict --help`"),
        ("predict a.jpg -x", "unknown option -x", "run `imgclassify predict --help`"),
        ("predict a.jpg --top-k abc", "--top-k is 'abc'", "give a whole number of at least 1"),
        ("predict a.jpg -k 0", "--top-k is 0", "give a whole number of at least 1"),
        ("predict a.jpg --max-errors -2", "--max-errors is -2", "give a whole number of at least 1"),
        ("duplicates a.jpg --threshold x", "--threshold is 'x'", "give a number"),
        ("predict a.jpg --top-k", "--top-k needs a value", "write --top-k N"),
        ("predict a.jpg --json=3", "--json takes no value", "write --json alone"),
        ("search", "VECTORS is missing", "usage: imgclassify search [OPTION]... VECTORS QUERY..."),
        ("search a.npz", "QUERY is missing", "usage: imgclassify search [OPTION]... VECTORS QUERY..."),
        ("models show a b", "unexpected argument 'b'", "usage: imgclassify models show [OPTION]... REF"),
        ("pedict a.jpg", "'pedict' is not a command", "did you mean `imgclassify predict`?"),
        ("models lst", "'lst' is not a command", "did you mean `imgclassify models list`?"),
        ("cache a.jpg", "'a.jpg' is not a command", "the commands of imgclassify cache are info, clear"),
        ("a.jpg", "'a.jpg' is not a command", "imgclassify predict a.jpg"),
        ("https://host/a -k 3", "'https://host/a' is not a command", "imgclassify predict https://host/a -k 3"),
        ("*.dat", "'*.dat' is not a command", "imgclassify predict '*.dat'"),
        ("photos.zip", "'photos.zip' is not a command", "imgclassify predict photos.zip"),
    ],
)
def test_the_error_and_its_hint(line: str, error: str, hint: str, run: Run) -> None:
    outcome = run(*line.split())
    assert (outcome.status, outcome.out, outcome.err) == (2, "", f"error: {error}\nhint: {hint}\n")


def test_an_existing_file_or_folder_is_not_a_command(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    assert f"hint: imgclassify predict '{folder}'\n" in run(folder).err


def test_a_wrong_option_of_the_root_command() -> None:
    done = process("--frobnicate")
    expected = b"error: unknown option --frobnicate\nhint: run `imgclassify --help`\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", expected)


def test_a_wrong_environment_variable_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLASSIFY_OFFLINE", "maybe")
    assert run("predict", "a.jpg").err == "error: IMGCLASSIFY_OFFLINE is 'maybe'\nhint: give 1 or 0\n"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--time-limit", "nan"], "--time-limit is nan"),
        (["--std", "0"], "--std is (0.0, 0.0, 0.0), but each number must be above zero"),
        (["--std", "58"], "--std is (58.0, 58.0, 58.0), but pixels are scaled to 0..1 first"),
        (
            ["--no-transform-input"],
            "--transform-input is False, but it is for checkpoint files, not for the model 'efficientnet_lite0'",
        ),
        (["--crop-size", "0"], "--crop-size is '0'"),
        (["--resize-size", "99999"], "--resize-size is 99999"),
        (["--isolate", "--decode", "gpu"], "--isolate works only with decoding on the CPU"),
        (["--fast-decode", "--decode", "gpu"], "--fast-decode works only with decoding on the CPU"),
    ],
)
def test_arguments_of_the_python_api_are_named_as_options(
    options: list[str], error: str, run: Run, photo: Path
) -> None:
    outcome = run("predict", photo, *options)
    assert (outcome.status, outcome.err.splitlines()[0]) == (2, f"error: {error}")


def test_a_command_group_without_a_command_prints_its_help(run: Run) -> None:
    outcome = run("models")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: imgclassify models COMMAND")


@pytest.mark.parametrize("arguments", [["--engine", "torch"], ["--dtype", "float16"], ["-m", "timm:resnet18"]])
def test_what_a_slim_installation_lacks_is_told(
    arguments: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "torchvision", "timm"):
        monkeypatch.setitem(sys.modules, name, None)
    outcome = run("predict", Path(__file__).parents[2] / "examples" / "cat.jpg", *arguments)
    assert (outcome.status, outcome.out) == (3, "")
    assert re.search(r"error: this needs (torch|timm), which a slim installation does not have", outcome.err)
    assert "hint: pip install torch torchvision timm" in outcome.err
