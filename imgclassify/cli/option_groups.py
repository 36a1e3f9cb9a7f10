"""Groups of options as parameters of Typer commands."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any

import typer

OTHER_PANEL = "Other options"
"""The panel of the options that are rarely needed. The help shows it last."""


def is_from_environment(context: typer.Context, parameter: str) -> bool:
    """Whether an environment variable has given the value of a parameter."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "ENVIRONMENT"


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command whose parameters may be dataclasses of options, so that Typer can use it.

    Each field of such a dataclass becomes a command-line option. The command receives the dataclass:

        @dataclass
        class ModelOptions:
            arch: Annotated[str | None, typer.Option("--arch")] = None

        @app.command()
        @with_option_groups
        def predict(model: ModelOptions) -> None: ...
    """
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if is_dataclass(parameter.annotation):
            assert isinstance(parameter.annotation, type)
            groups[parameter.name] = parameter.annotation
            parameters += [
                parameter.replace(name=field.name, annotation=field.type, default=field.default)
                for field in fields(parameter.annotation)
            ]
        else:
            parameters.append(parameter)

    @wraps(command)
    def command_of_options(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    # Typer and tools/make_docs.py read these two attributes.
    command_of_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command_of_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command_of_options
