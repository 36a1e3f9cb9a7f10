"""What is said about a command line that cannot be parsed."""

from __future__ import annotations

import difflib
import re
import shlex
from pathlib import Path
from typing import Any

from imgclassify.cli import help_text
from imgclassify.errors import UsageError


def translate_error(error: Exception, ctx: Any, args: list[str]) -> UsageError:
    """Converts an error of the framework's parser.

    Args:
        args: the arguments of the command, as given.
    """
    # The classes are told apart by name: they are click's, or of the copy of click inside typer.
    describe = _DESCRIPTIONS.get(type(error).__name__, _describe_other)
    message, hint = describe(error, ctx, args)
    return UsageError(message, hint=hint or f"run `{ctx.command_path} --help`")


def unknown_command(ctx: Any, args: list[str]) -> UsageError:
    """Describes a first argument that is not a command of the group."""
    name, names = args[0], ctx.command.list_commands(ctx)
    near = difflib.get_close_matches(name, names, n=1)
    if ctx.parent is None and _looks_like_source(name):
        hint = shlex.join([ctx.command_path, "predict", *args])
    elif near:
        hint = f"did you mean `{ctx.command_path} {near[0]}`?"
    else:
        hint = f"the commands of {ctx.command_path} are {', '.join(names)}"
    return UsageError(f"{name!r} is not a command", hint=hint)


def _looks_like_source(name: str) -> bool:
    from imgclassify.sources import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES

    known = name.lower().endswith((*IMAGE_SUFFIXES, *ARCHIVE_SUFFIXES))
    return known or name == "-" or "://" in name or any(each in name for each in "*?[") or Path(name).exists()


def _describe_unknown_option(error: Any, ctx: Any, args: list[str]) -> tuple[str, str | None]:
    from imgclassify.output.formats import FORMATS

    name, near = error.option_name, error.possibilities  # the nearest first
    word, formats = name.removeprefix("--"), _formats_of(ctx)
    if word in formats:
        near = [f"--format {word}"]
    elif formats and any(word == each.name for each in FORMATS):
        return f"unknown option {name}", f"the values of --format are {', '.join(formats)}"
    return f"unknown option {name}", f"did you mean {near[0]}?" if near else None


def _formats_of(ctx: Any) -> list[str]:
    """Returns the values of the command's option --format, if it has one."""
    option = next((each for each in ctx.command.params if "--format" in each.opts), None)
    return [] if option is None else [item.value for item in option.shell_complete(ctx, "")]


def _describe_option_usage(error: Any, ctx: Any, args: list[str]) -> tuple[str, str | None]:
    name = error.option_name
    option = next((each for each in ctx.command.params if name in each.opts), None)
    if option is None or option.is_flag:
        return f"{name} takes no value", f"write {name} alone"
    return f"{name} needs a value", f"write {name} {help_text.metavar_of(option)}"


def _describe_missing(error: Any, ctx: Any, args: list[str]) -> tuple[str, str | None]:
    usage = help_text.usage_line(ctx.command, ctx.command_path)
    return f"{help_text.name_of(error.param)} is missing", f"usage: {usage}"


def _describe_bad_value(error: Any, ctx: Any, args: list[str]) -> tuple[str, str | None]:
    parameter = error.param
    options, _, _ = ctx.command.make_parser(ctx).parse_args(args)
    value, origin = parameter.consume_value(ctx, options)
    name = parameter.envvar if origin.name == "ENVIRONMENT" else help_text.name_of(parameter)
    shown = value if re.fullmatch(r"-?\d+(\.\d+)?", str(value)) else repr(value)
    return f"{name} is {shown}", _describe_type(parameter.type)


def _describe_type(kind: Any) -> str | None:
    # By the release of typer, the names are such as "int", "integer" or "integer range".
    if "bool" in kind.name:
        return "give 1 or 0"
    if not ("int" in kind.name or "float" in kind.name):
        return None
    noun = "a whole number" if "int" in kind.name else "a number"
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    if least is None and most is None:
        return f"give {noun}"
    if most is None:
        return f"give {noun} of at least {least}"
    return f"give {noun} of at most {most}" if least is None else f"give {noun} from {least} to {most}"


def _describe_other(error: Any, ctx: Any, args: list[str]) -> tuple[str, str | None]:
    message = str(error.format_message()).rstrip(".")
    return message[:1].lower() + message[1:], None


_DESCRIPTIONS = {
    "NoSuchOption": _describe_unknown_option,
    "BadOptionUsage": _describe_option_usage,
    "MissingParameter": _describe_missing,
    "BadParameter": _describe_bad_value,
}
