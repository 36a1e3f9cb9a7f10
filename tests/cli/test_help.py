"""The text of --help: the same form for all commands, at any width."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from imgclassify.cli import help_text
from imgclassify.cli.main import COMMANDS

from .conftest import Run


def all_commands() -> dict[str, Any]:
    found = {}
    for name in COMMANDS:
        command = get_command(import_module(f"imgclassify.cli.commands.{name}").app)
        found[name] = command
        if isinstance(command, TyperGroup):
            found |= {f"{name} {each}": own for each, own in command.commands.items()}
    return found


@pytest.mark.parametrize("width", [50, 80, 120])
def test_help_breaks_between_words_and_keeps_all_of_them(
    width: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, command in all_commands().items():
        monkeypatch.setenv("COLUMNS", str(width))
        outcome = run(*name.split(), "--help")
        assert outcome.status == 0
        assert all(len(line) <= width for line in outcome.out.splitlines()), outcome.out
        monkeypatch.setenv("COLUMNS", "1000")
        assert "…" not in outcome.out
        words = " ".join(outcome.out.split())
        for parameter in command.params:
            assert " ".join(str(parameter.help).split()) in words
            assert help_text.form_of(parameter) in words


@pytest.mark.parametrize("name", ["predict", "embed", "duplicates", "search", "compare"])
def test_help_begins_with_examples_that_the_command_accepts(name: str, run: Run) -> None:
    command = all_commands()[name]
    text = run(name, "--help").out
    assert text.index("\nExamples\n") < text.index("\nArguments\n")
    if name == "predict":
        assert len(command.examples) == 5
    for example in command.examples.values():
        assert example in " ".join(text.replace("\\\n", "").split())
        program, own_name, *arguments = example.partition(" | ")[0].split()
        assert program == "imgclassify"
        with all_commands()[own_name].make_context(own_name, arguments):
            pass


@pytest.mark.parametrize("name", ["predict", "embed", "duplicates", "search", "compare", "models pull"])
def test_rare_options_come_last(name: str, run: Run) -> None:
    text = run(*name.split(), "--help").out
    last = text[text.rindex("\nOther options\n") :]
    for option in ("--offline", "--quiet", "--debug", "--help"):
        assert len(re.findall(rf"^  .*{option}\b", text, re.MULTILINE)) == 1
        assert option in last


def test_words_that_stand_for_values_are_in_upper_case() -> None:
    for name, command in all_commands().items():
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                word = help_text.metavar_of(parameter)
                assert re.fullmatch(r"[A-Z,x]+(\|(auto|all|-|[A-Zx]+))?", word), (name, word)


def test_a_list_of_sources_is_shown_as_one(run: Run) -> None:
    assert run("predict", "--help").out.startswith("Usage: imgclassify predict [OPTION]... [SOURCE...]\n")
    assert run("models", "pull", "--help").out.startswith("Usage: imgclassify models pull [OPTION]... REF...\n")
