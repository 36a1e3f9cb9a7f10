"""imgclassify sort: puts image files into folders by their predictions."""

import io
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import print_error, print_message, print_verbose
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_from
from imgclassify.cli.options import ConsoleOptions
from imgclassify.cli.shutdown import GracefulShutdown
from imgclassify.cli.tables import print_table
from imgclassify.errors import ExitStatus, UsageError, describe_error

if TYPE_CHECKING:
    from imgclassify.results import ImageResult
    from imgclassify.sorting import SortPlan

app = CommandApp(add_completion=False)

_ACTIONS = "Action"
_NAMES_SHOWN = 3
"""Number of names to show of files that are left out. -v shows all."""


@app.command(
    epilog="Exit status: 0 done or shown, 1 some files are missing or failed, 2 wrong usage, 4 no file found, "
    "130 interrupted (129 by SIGHUP, 143 by SIGTERM).",
    examples={
        "what would be copied where": "imgclassify sort labels.csv --into sorted/",
        "do it, with links": "imgclassify sort labels.csv --into sorted/ --link --yes",
        "undo it": "imgclassify sort --undo sorted/imgclassify-undo-*.jsonl --yes",
    },
)
@with_option_groups
def sort(
    *,
    results: Annotated[
        Path | None,
        typer.Argument(
            metavar="RESULTS",
            show_default=False,
            help="A file that `predict -o` wrote, in any format but the table. Use - for JSON Lines on stdin.",
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into", metavar="FOLDER", show_default=False, help="Folder in which a folder for each class is made."
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="NAME",
            autocompletion=complete_from(["label", "group", "wnid"]),
            help="What folders are named after: label, wnid or group. In results of `predict --group`, group is "
            "the same as label.",
        ),
    ] = "label",
    min_probability: Annotated[
        float,
        typer.Option(
            "--min-probability",
            metavar="P",
            min=0.0,
            max=1.0,
            help="Leave out files whose best prediction is less probable, 0 to 1.",
        ),
    ] = 0.0,
    copy: Annotated[
        bool, typer.Option("--copy", rich_help_panel=_ACTIONS, help="Copy the files. This is the default.")
    ] = False,
    link: Annotated[
        bool,
        typer.Option("--link", rich_help_panel=_ACTIONS, help="Make symbolic links to the files, with full paths."),
    ] = False,
    move: Annotated[bool, typer.Option("--move", rich_help_panel=_ACTIONS, help="Move the files.")] = False,
    undo: Annotated[
        Path | None,
        typer.Option(
            "--undo",
            metavar="LIST",
            rich_help_panel=_ACTIONS,
            show_default=False,
            help="Undo an earlier sort. LIST is the undo list that it made in FOLDER.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Otherwise, only show what would be done.")] = (False),
    console_options: ConsoleOptions,
) -> None:
    """Put image files into folders by their most probable predictions.

    Only shows what would be done, unless --yes is given. Running the same command again does nothing twice.
    No file is ever replaced: if a name is taken, the file gets a number.

    An undo list in FOLDER records each step, and --undo reverts them.
    """
    console_options.configure()
    chosen = [name for name, wanted in (("copy", copy), ("link", link), ("move", move)) if wanted]
    if undo is not None:
        if results or into or chosen:
            raise UsageError(
                "--undo takes one list and no other argument",
                hint="give --undo LIST and --yes; of several lists, undo the newest first",
            )
        raise typer.Exit(int(_undo(undo, yes=yes)))
    if len(chosen) > 1:
        raise UsageError(f"--{' and --'.join(chosen)} exclude each other", hint="choose one of them")
    if results is None or into is None:
        missing = "RESULTS" if results is None else "--into FOLDER"
        raise UsageError(f"{missing} is missing", hint="for example: imgclassify sort labels.csv --into sorted")
    from imgclassify.sorting import plan_sort

    action = chosen[0] if chosen else "copy"
    by = "label" if by == "group" else by
    plan = plan_sort(_read_results(results), into, action=action, by=by, min_probability=min_probability)
    raise typer.Exit(int(_sort(plan, yes=yes)))


def _read_results(path: Path) -> "Iterator[ImageResult]":
    from imgclassify.output.reading import read_record_lines, read_records
    from imgclassify.output.records import PREDICTIONS

    if str(path) != "-":
        return read_records(path, PREDICTIONS)
    stdin = getattr(sys.stdin, "buffer", None) or io.BytesIO()  # None if it was closed
    return read_record_lines(io.TextIOWrapper(stdin, encoding="utf-8", errors="surrogateescape"), PREDICTIONS)


def _sort(plan: "SortPlan", *, yes: bool) -> ExitStatus:
    from imgclassify.sorting.plan import MISSING

    if not yes:
        _print_folders(plan, Counter(transfer.target.parent.name for transfer in plan.transfers))
        _print_left_out(plan)
        size = f" ({_format_size(plan.num_bytes)})" if plan.action == "copy" else ""
        print_message(f"would {plan.action} {_count(len(plan.transfers), 'file')}{size} into {str(plan.folder)!r}")
        print_message("nothing was changed: add --yes")
        return ExitStatus.OK
    status, done, failed = _carry_out(plan)
    _print_folders(plan, done)
    _print_left_out(plan)
    past = {"copy": "copied", "link": "linked", "move": "moved"}[plan.action]
    failures = f", {failed:,} failed" if failed else ""
    print_message(f"{past} {_count(done.total(), 'file')} into {str(plan.folder)!r}{failures}")
    if status is not None:
        return status
    return ExitStatus.SOME_IMAGES_FAILED if failed or plan.left_out.get(MISSING) else ExitStatus.OK


def _carry_out(plan: "SortPlan") -> tuple[ExitStatus | None, Counter[str], int]:
    """Returns the status of a signal that stopped it, the number of sorted files by folder, and of failed ones."""
    from imgclassify.sorting import UndoList, sort_files

    done: Counter[str] = Counter()
    failed = 0

    def progress() -> str:
        return f"{done.total() + failed:,} of {_count(len(plan.transfers), 'file')}"

    with UndoList(plan.folder) as undo_list, GracefulShutdown() as shutdown:
        try:
            with _show(progress):
                for (source, target), error in sort_files(plan, undo_list):
                    if error is None:
                        done[target.parent.name] += 1
                    else:
                        failed += 1
                        print_error(f"{str(source)!r} cannot be sorted: {describe_error(error)}", None)
                    if shutdown.stop_requested.is_set():
                        break
        finally:
            if undo_list.path:
                print_message(f"to undo: imgclassify sort --undo {shlex.quote(str(undo_list.path))}")
    not_reached = len(plan.transfers) - done.total() - failed
    if not_reached:
        print_message(f"stopped; {_count(not_reached, 'file')} not reached: run the same command again to go on")
    return shutdown.status, done, failed + (0 if shutdown.status else not_reached)


def _undo(undo_list: Path, *, yes: bool) -> ExitStatus:
    from imgclassify.sorting import undo_sort

    outcomes: Counter[str] = Counter()
    kept = False
    with GracefulShutdown() as shutdown, _show(lambda: _count(outcomes.total(), "file")):
        for result in undo_sort(undo_list, dry_run=not yes):
            outcomes[result.outcome] += 1
            if not result.reverted:
                kept = True
                reason = result.outcome if result.error is None else describe_error(result.error)
                print_message(f"{str(result.target)!r}: {reason}")
            if shutdown.stop_requested.is_set():
                break
    if outcomes:
        print_table(["outcome", "files"], [[name, f"{n:,}"] for name, n in sorted(outcomes.items())], right=[1])
    if not yes:
        print_message("nothing was changed: add --yes")
        return ExitStatus.OK
    return shutdown.status or (ExitStatus.SOME_IMAGES_FAILED if kept else ExitStatus.OK)


def _show(line: Callable[[], str]) -> AbstractContextManager[None]:
    shown = console.shows_progress and console.is_terminal()
    return console.draw_line(line) if shown else nullcontext()


def _print_folders(plan: "SortPlan", files: Counter[str]) -> None:
    names = sorted(files.keys() | plan.already_there.keys(), key=str.casefold)
    rows = [[name + os.sep, f"{files[name]:,}", f"{plan.already_there[name]:,}"] for name in names]
    if rows:
        print_table(["folder", "files", "already there"], rows, right=[1, 2])


def _print_left_out(plan: "SortPlan") -> None:
    for reason, names in plan.left_out.items():
        examples = ", ".join(map(repr, names[:_NAMES_SHOWN]))
        print_message(f"left out: {len(names):,} {reason}: {examples}{', …' if len(names) > _NAMES_SHOWN else ''}")
        for name in names[_NAMES_SHOWN:]:
            print_verbose(f"  {name!r}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _format_size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
