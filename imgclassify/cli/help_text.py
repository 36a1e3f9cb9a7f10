"""The text of --help, in one look for all commands. It does without rich, whose import would double its time."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import typer

from imgclassify.cli.option_groups import OTHER_PANEL

MAX_WIDTH = 100
"""Longer lines are harder to read."""

_NARROW = 70
"""On a narrower terminal, what an option does is below its name."""
_MAX_COLUMN = 28
"""Longer names have a line of their own."""


class Section(NamedTuple):
    """Options, arguments or commands under a title."""

    title: str
    rows: list[tuple[str, str]]
    """Each name, and what it does."""


def command_help(command: Any, ctx: Any) -> str:
    """Returns the help of a command: usage, description, examples, options and exit statuses."""
    return _render(command, usage_line(command, ctx.command_path), list_sections(command.get_params(ctx)))


def group_help(group: Any, ctx: Any) -> str:
    """Returns the help of a command group: its commands, and its own options."""
    commands = [(name, group.get_command(ctx, name)) for name in group.list_commands(ctx)]
    listed = Section("Commands", [(name, _first_sentence(each.help)) for name, each in commands])
    sections = [listed, *list_sections(group.get_params(ctx))]
    return _render(group, f"{ctx.command_path} COMMAND [ARGUMENT]...", sections)


def list_sections(parameters: Iterable[Any]) -> list[Section]:
    """Returns arguments, options without a panel, options by panel in the order of declaration, and rare ones."""
    parameters = [each for each in parameters if not each.hidden]
    # The framework's --help is without a panel.
    rare = OTHER_PANEL if any(_panel_of(each) == OTHER_PANEL for each in parameters) else "Options"
    rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    last: list[tuple[str, str]] = []
    for each in parameters:
        is_argument = each.param_type_name == "argument"
        panel = "Arguments" if is_argument else rare if each.name == "help" else _panel_of(each) or "Options"
        (last if panel == OTHER_PANEL else rows.setdefault(panel, [])).append((form_of(each), describe(each)))
    rows[OTHER_PANEL] = last
    return [Section(title, found) for title, found in rows.items() if found]


def usage_line(command: Any, path: str) -> str:
    """Returns how a command is written, such as "imgclassify models show [OPTION]... REF"."""
    arguments = (each for each in command.params if each.param_type_name == "argument")
    forms = (form_of(each) if each.required else f"[{form_of(each)}]" for each in arguments)
    return " ".join([path, "[OPTION]...", *forms])


def form_of(parameter: Any) -> str:
    """Returns how a parameter is written, such as "-k, --top-k N" or "SOURCE..."."""
    if parameter.param_type_name == "argument":
        return name_of(parameter) + ("..." if parameter.nargs == -1 else "")
    names = ", ".join([*sorted(parameter.opts, key=len), *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {metavar_of(parameter)}"


def name_of(parameter: Any) -> str:
    """Returns the name by which messages call a parameter, such as "--top-k" or "SOURCE"."""
    if parameter.param_type_name == "argument":
        return metavar_of(parameter)
    return str(max(parameter.opts, key=len))


def metavar_of(parameter: Any) -> str:
    """Returns the word that stands for a parameter's value, such as "FILE"."""
    return str(parameter.metavar or parameter.name.upper())


def describe(parameter: Any) -> str:
    """Returns what a parameter does, with its default value and its environment variable."""
    text = str(parameter.help or "")
    default = parameter.default
    if parameter.show_default and default not in (None, False):
        text += f" Default: {default.value if isinstance(default, Enum) else default}."
    return text + (f" Environment: {parameter.envvar}." if parameter.envvar else "")


def _panel_of(parameter: Any) -> str | None:
    # With some releases of typer, --help is an option of click itself, which has no panels.
    return getattr(parameter, "rich_help_panel", None)


def _render(command: Any, usage: str, sections: list[Section]) -> str:
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH) - 1
    lines = [*_wrap(f"Usage: {usage}", width, hanging="    "), ""]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [*_wrap(paragraph, width), ""]
    if command.examples:
        lines += [typer.style("Examples", bold=True), *_example_lines(command.examples, width), ""]
    names = [name for section in sections for name, _ in section.rows if len(name) <= _MAX_COLUMN]
    column = max(map(len, names), default=0)
    for title, rows in sections:
        lines += [typer.style(title, bold=True)]
        for name, text in rows:
            lines += _row_lines(name, text, column, width)
        lines += [""]
    if command.epilog:
        lines += _wrap(command.epilog, width)
    return "\n".join(lines).rstrip("\n")


def _row_lines(name: str, text: str, column: int, width: int) -> Iterator[str]:
    indent = " " * (6 if width < _NARROW else column + 4)
    wrapped = [indent + line for line in _wrap(text, width - len(indent))]
    head = f"  {name}"
    if wrapped and len(head) + 2 <= len(indent):
        head += wrapped.pop(0)[len(head) :]
    yield from (head, *wrapped)


def _example_lines(examples: dict[str, str], width: int) -> Iterator[str]:
    column = max(map(len, examples))
    for what, command in examples.items():
        if column + 4 + max(map(len, examples.values())) <= width:
            yield f"  {what:{column}}  {command}"
        else:
            yield f"  {what}"
            # A shell continues a line that ends in a backslash.
            yield " \\\n".join(_wrap(command, width - 2, indent="    ", hanging="      "))


def _wrap(text: str, width: int, *, indent: str = "", hanging: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _first_sentence(text: str | None) -> str:
    return re.split(r"(?<=[.])\s", text or "", maxsplit=1)[0]
