"""Commands whose parameters are dataclasses of options."""

# Without `from __future__ import annotations`: Typer needs the annotations themselves.

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from imgclassify.cli.option_groups import with_option_groups


@dataclass
class Weights:
    arch: Annotated[str | None, typer.Option("--arch", help="The architecture.")] = None
    trust: Annotated[bool, typer.Option("--trust")] = False


@dataclass
class Batches:
    size: Annotated[int, typer.Option("--batch-size", min=1)] = 8


app = typer.Typer()
calls: list[object] = []


@app.command()
@with_option_groups
def record(
    names: Annotated[list[str], typer.Argument()],
    weights: Weights,
    batches: Batches,
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
) -> None:
    """Records its options."""
    calls.append((names, weights, batches, quiet))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a"], (["a"], Weights(), Batches(), False)),
        (
            ["--arch", "x", "a", "--quiet", "b", "--batch-size", "3", "--trust"],
            (["a", "b"], Weights("x", True), Batches(3), True),
        ),
    ],
)
def test_options_arrive_in_their_groups(arguments: list[str], expected: object) -> None:
    calls.clear()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert calls == [expected]


def test_options_of_groups_are_checked_and_shown_in_the_help() -> None:
    assert CliRunner().invoke(app, ["a", "--batch-size", "0"]).exit_code == 2
    output = CliRunner().invoke(app, ["--help"]).output
    assert "--arch" in output
    assert "The architecture." in output
    assert "Records its options." in output
