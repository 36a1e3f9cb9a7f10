"""The classes of all commands: their help, their errors and their suggestions are in one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from imgclassify.errors import UsageError

_FrameworkUsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""It is click's, or of the copy of click inside typer, by the release of typer."""


class CommandApp(typer.Typer):
    """A Typer app whose commands are of the classes below."""

    def __init__(self, *, cls: type[TyperGroup] | None = None, **settings: Any) -> None:
        # The imports that rich needs for help would double its time.
        super().__init__(cls=cls or CommandGroup, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)

    def command(
        self, name: str | None = None, *, examples: Mapping[str, str] | None = None, **settings: Any
    ) -> Callable[[Any], Any]:
        """Returns a decorator that adds a function as a command.

        Args:
            examples: what an example does → its command line. They are shown at the beginning of the help.
        """
        # Typer only calls `cls`, so it need not be a class.
        cls: Any = partial(Command, examples=examples or {})
        return super().command(name, cls=cls, **settings)


class _WithUsageErrors:
    """Raises errors of the framework's parser as UsageError."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except _FrameworkUsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                raise
            from imgclassify.cli.usage_errors import translate_error

            raise translate_error(error, ctx, given) from error
        return rest


class Command(_WithUsageErrors, TyperCommand):
    """A command that classifies, lists and so on."""

    def __init__(self, *args: Any, examples: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = examples or {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True  # so that the error below is raised instead of the framework's
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            from imgclassify.cli import help_text

            raise UsageError(
                f"unexpected argument {rest[0]!r}", hint=f"usage: {help_text.usage_line(self, ctx.command_path)}"
            )
        return rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            from imgclassify.cli import help_text

            for parameter in self.params:
                if parameter.name == error.argument:
                    error.rename_argument(help_text.name_of(parameter))
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from imgclassify.cli import help_text

        formatter.write(help_text.command_help(self, ctx))


class CommandGroup(_WithUsageErrors, TyperGroup):
    """A command that consists of commands, such as `models`."""

    examples: ClassVar[Mapping[str, str]] = {}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            from imgclassify.cli.usage_errors import unknown_command

            raise unknown_command(ctx, args)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from imgclassify.cli import help_text

        formatter.write(help_text.group_help(self, ctx))
