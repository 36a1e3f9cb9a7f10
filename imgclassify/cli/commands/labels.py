"""imgclassify labels: lists, shows and searches label sets."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify import labels
from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.main import COMMANDS
from imgclassify.cli.option_values import complete_labels
from imgclassify.cli.options.console import Debug
from imgclassify.cli.options.output import Json
from imgclassify.cli.tables import print_table
from imgclassify.errors import UnknownClassError, UsageError

if TYPE_CHECKING:
    from imgclassify.labels import Label, LabelSet

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
        str | None,
        typer.Argument(metavar="TEXT", help="Part of a label, synonym or gloss, or a wnid.", show_default=False),
    ] = None,
    under: Annotated[
        str | None,
        typer.Option(
            "--under",
            metavar="NODE",
            show_default=False,
            help="Only classes under this node of the WordNet tree: its name, such as dog, or its wnid.",
        ),
    ] = None,
    name: LabelSetName = "imagenet1k",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find classes by label, synonym, gloss or wnid, or all classes under a node of the WordNet tree.

    Exits with status 1 if there is none.
    """
    console.configure_console(be_debug=debug)
    if text is None and under is None:
        raise UsageError("neither TEXT nor --under is given", hint="imgclassify labels search --under dog")
    label_set = labels.load_labels(name)
    found = list(label_set.labels) if text is None else label_set.search(text)
    if under is not None:
        from imgclassify.labels.class_names import ClassNames

        with _no_match():
            classes = ClassNames(label_set).find(under).class_indices
        found = [label for label in found if label.class_index in classes]
    _print_labels(found, json=json)
    if not found:
        place = f" under {under}" if under else ""
        console.print_error(f"no class in {name}{place} matches {text!r}", _suggest(label_set, text or ""))
        raise typer.Exit(1)


@app.command("tree")
def show_tree(
    node: Annotated[
        str,
        typer.Argument(metavar="NODE", help="The name of a node, such as dog, or its wnid."),
    ] = "entity",
    depth: Annotated[
        int | None,
        typer.Option("--depth", metavar="N", min=1, show_default=False, help="Levels to show below the node."),
    ] = None,
    name: LabelSetName = "imagenet1k",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the WordNet tree under a node, with the number of classes under each."""
    console.configure_console(be_debug=debug)
    from imgclassify.labels.class_tree import build_class_tree

    with _no_match():
        root = build_class_tree(labels.load_labels(name), node, depth=depth)
    if json:
        typer.echo(jsonlib.dumps(root.to_dict(), indent=1, ensure_ascii=False))
        return
    print_table(
        ["classes", "wnid", "name"],
        [[str(branch.num_classes), branch.wnid, "  " * level + branch.name] for level, branch in root.walk()],
        right=[0],
    )


def _suggest(label_set: LabelSet, text: str) -> str:
    """Returns a hint for a text that no class matches."""
    from imgclassify.labels.class_names import ClassNames

    try:
        found = ClassNames(label_set).find(text)
    except UsageError:
        near = ", ".join(label_set.find_nearest(text))
        return f"the nearest labels are {near}" if near else f"`imgclassify labels show {label_set.name}` lists all"
    return (
        f"`imgclassify labels search --under {text!r}` finds {len(found.class_indices)} classes under {found.name}"
    )


@contextmanager
def _no_match() -> Iterator[None]:
    """Ends with status 1, as grep does, if a name that is searched for does not exist."""
    try:
        yield
    except UnknownClassError as error:
        console.print_error(str(error), error.hint)
        raise typer.Exit(1) from error


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
                    (label.label, "bold"),
                    ", ".join(name for name in label.synonyms if name != label.label),
                    label.gloss,
                ]
                for label in found
            ],
            right=[0],
            wrapped=[2],
            below=[3, 4],
        )


def _describe_label(label: Label) -> dict[str, Any]:
    return {
        "class_index": label.class_index,
        "wnid": label.wnid,
        "label": label.label,
        "synonyms": list(label.synonyms),
        "gloss": label.gloss,
    }
