"""imgclassify labels: lists, shows and searches label sets."""

from __future__ import annotations

import json as jsonlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify import labels
from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.main import COMMANDS
from imgclassify.cli.option_values import complete_labels
from imgclassify.cli.options import Debug, Json
from imgclassify.cli.tables import print_table

if TYPE_CHECKING:
    from imgclassify.labels import Label

app = CommandApp(no_args_is_help=True, add_completion=False, help=COMMANDS["labels"])
LabelSetName = Annotated[
    str,
    typer.Option(
        "--labels",
        autocompletion=complete_labels,
        metavar="NAME|FILE",
        help="Name of a label set, or a label file.",
    ),
]


@app.command("list")
def list_label_sets(json: Json = False, debug: Debug = False) -> None:
    """List the label sets that come with imgclassify."""
    console.configure_console(be_debug=debug)
    sets = [(name, len(labels.load_labels(name))) for name in labels.list_label_sets()]
    if json:
        typer.echo(jsonlib.dumps([{"name": name, "num_classes": count} for name, count in sets], indent=1))
        return
    print_table(["label set", "classes"], [[name, str(count)] for name, count in sets], right=[1])


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE", autocompletion=complete_labels, help="Name of a label set, or a label file."
        ),
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show all labels of a set, in order of class index."""
    console.configure_console(be_debug=debug)
    _print_labels(list(labels.load_labels(name).labels), json=json)


@app.command()
def search(
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT", help="Part of a label, synonym or gloss, or a wnid.", show_default=False),
    ],
    name: LabelSetName = "imagenet1k",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find classes by label, synonym, gloss or wnid."""
    console.configure_console(be_debug=debug)
    found = labels.load_labels(name).search(text)
    if not found:
        console.print_message(f"no class in {name} matches {text!r}")
    _print_labels(found, json=json)


def _print_labels(found: list[Label], *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps([_describe_label(label) for label in found], indent=1, ensure_ascii=False))
    elif found:
        print_table(
            ["index", "wnid", "label", "synonyms", "gloss"],
            [
                [
                    str(label.class_index),
                    label.wnid or "",
                    label.label,
                    ", ".join(label.synonyms),
                    label.gloss,
                ]
                for label in found
            ],
            right=[0],
        )


def _describe_label(label: Label) -> dict[str, Any]:
    return {
        "class_index": label.class_index,
        "wnid": label.wnid,
        "label": label.label,
        "synonyms": list(label.synonyms),
        "gloss": label.gloss,
    }
