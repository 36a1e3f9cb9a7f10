"""Writes a recipe as TOML, with a comment for each setting, and reads it again."""

from __future__ import annotations

import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgclassify.errors import UsageError, describe_error
from imgclassify.training.recipe import Recipe, check_setting, settings_of

__all__ = ["format_recipe", "parse_recipe", "read_recipe"]

_WIDTH = 98
"""Characters of a line of a comment, without the # before it."""
_MAX_BYTES = 2**20
_HINT = "`imgclassify train --recipe print` prints a recipe to start from"


def format_recipe(recipe: Recipe) -> str:
    """Returns a recipe as the text of a TOML file, with a comment before each setting."""
    lines = ["# Recipe of `imgclassify train`. A setting that is left out has its default."]
    for name, setting in settings_of().items():
        comment = textwrap.wrap(f"{setting.comment} ({setting.describe()})", _WIDTH)
        lines += ["", *(f"# {line}" for line in comment), f"{name} = {_format_value(getattr(recipe, name))}"]
    return "\n".join(lines) + "\n"


def parse_recipe(text: str, origin: str, defaults: Recipe) -> Recipe:
    """Returns the recipe in the text of a TOML file.

    Args:
        origin: names the file in errors.
        defaults: has the settings that the file leaves out.

    Raises:
        UsageError: the text is not TOML, or a key is unknown, or a value of another type or out of its range.
    """
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{origin}: not TOML: {describe_error(error)}", hint=_HINT) from error
    settings = settings_of()
    for name, value in values.items():
        if name not in settings:
            raise UsageError(f"{origin}: unknown setting {name!r}", hint=_suggest(name, list(settings)))
        if isinstance(value, list):
            values[name] = tuple(value)
        elif isinstance(value, int) and not isinstance(value, bool) and settings[name].kind is float:
            values[name] = float(value)
        check_setting(name, values[name], settings[name], origin)
    try:
        return replace(defaults, **values)
    except UsageError as error:  # two settings that exclude each other
        raise UsageError(f"{origin}: {str(error).removeprefix('recipe: ')}", hint=error.hint) from error


def read_recipe(path: Path, defaults: Recipe) -> Recipe:
    """Reads the recipe in a TOML file.

    Raises:
        UsageError: the file cannot be read, or as `parse_recipe`.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {str(path)!r}: {describe_error(error)}", hint=_HINT, argument="recipe") from error
    return parse_recipe(text, str(path), defaults)


def _suggest(name: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=3, cutoff=0.5)
    if near:
        return f"the nearest settings are {', '.join(near)}"
    return f"settings are {', '.join(names)}"


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_format_value, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)  # a repr of Python is a number of TOML
