"""imgclassify sort: puts image files into folders by their predictions."""

import io
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import print_error, print_message, print_verbose
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_from
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.shutdown import GracefulShutdown
from imgclassify.cli.stats import count_of, format_size
from imgclassify.cli.tables import print_table
from imgclassify.errors import ExitStatus, UsageError, describe_error

if TYPE_CHECKING:
    from imgclassify.results import ImageResult
    from imgclassify.sorting import SortPlan

app = CommandApp(add_completion=False)

logger = logging.getLogger("imgclassify")

_ACTIONS = "Action"
_NAMES_SHOWN = 3
"""Number of names to show of files that are left out. -v shows all."""


class _Outcome(NamedTuple):
    """What became of the files of a plan."""

    done: Counter[str]
    """The number of sorted files, by folder."""
    failed: int
    status: ExitStatus | None
    """The status of the signal that stopped it; None if none did."""


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
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Otherwise, only show what would be done.")] = False,
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

    outcome = _carry_out(plan) if yes and plan.transfers else None
    files = outcome.done if outcome else Counter(transfer.target.parent.name for transfer in plan.transfers)
    _print_folders(plan, files)
    _print_left_out(plan)
    if not plan.transfers:
        print_message(f"nothing to do: there is no file to {plan.action} into {str(plan.folder)!r}")
    else:
        _warn_of_later_runs(plan)
    if outcome:
        print_message(_describe(outcome, plan))
    elif plan.transfers:
        size = f" ({format_size(plan.num_bytes)})" if plan.action == "copy" else ""
        print_message(f"would {plan.action} {_count_files(len(plan.transfers))}{size} into {str(plan.folder)!r}")
        print_message("nothing was changed: add --yes")
    if not yes:
        return ExitStatus.OK
    if outcome and outcome.status is not None:
        return outcome.status
    incomplete = plan.left_out.get(MISSING) or (outcome and outcome.done.total() < len(plan.transfers))
    return ExitStatus.SOME_IMAGES_FAILED if incomplete else ExitStatus.OK


def _carry_out(plan: "SortPlan") -> _Outcome:
    from imgclassify.sorting import UndoList, sort_files

    done: Counter[str] = Counter()
    failed = 0

    def progress() -> str:
        return f"{done.total() + failed:,} of {_count_files(len(plan.transfers))}"

    with UndoList(plan.folder) as undo_list, GracefulShutdown() as shutdown:
        try:
            with _show(progress):
                for (source, target), error in sort_files(plan, undo_list):
                    if error is None:
                        done[target.parent.name] += 1
                    else:
                        failed += 1
                        print_error(f"{str(source)!r} cannot be sorted: {_describe_os_error(error)}", None)
                    if shutdown.stop_requested.is_set():
                        break
        finally:
            if undo_list.path:
                print_message(f"to undo: imgclassify sort --undo {shlex.quote(str(undo_list.path))}")
    return _Outcome(done, failed, shutdown.status)


def _describe(outcome: _Outcome, plan: "SortPlan") -> str:
    """Accounts for each file of the plan."""
    past = {"copy": "copied", "link": "linked", "move": "moved"}[plan.action]
    account = f"{past} {_count_files(outcome.done.total())} into {str(plan.folder)!r}"
    if outcome.failed:
        account += f", {outcome.failed:,} failed"
    not_reached = len(plan.transfers) - outcome.done.total() - outcome.failed
    if not_reached:
        account += f", {not_reached:,} not reached: run the same command again to go on"
    return account


def _describe_os_error(error: OSError) -> str:
    words = describe_error(error)
    if isinstance(error, FileExistsError):  # it is not about the source
        words += f": {str(error.filename2 or error.filename)!r}"
    return words


def _warn_of_later_runs(plan: "SortPlan") -> None:
    """Warns if a later run over the same folder will classify what is put into the folder."""
    # The results do not tell which folder was classified, or which globs, so this is no error.
    sources = plan.sources_folder
    if sources is None or not plan.folder.is_relative_to(sources):
        return
    what = {"copy": "the copies too", "link": "the links too", "move": "the moved files again"}[plan.action]
    within = "is" if plan.folder == sources else "lies within"
    logger.warning(
        "%r %s the folder of the images; a later run over %r classifies %s%s",
        *(str(plan.folder), within, str(sources), what),
        ""
        if plan.folder == sources
        else f", unless --exclude /{plan.folder.relative_to(sources).as_posix()}/ is given",
    )


def _undo(undo_list: Path, *, yes: bool) -> ExitStatus:
    from imgclassify.sorting import undo_sort

    outcomes: Counter[str] = Counter()
    kept = False
    with GracefulShutdown() as shutdown, _show(lambda: _count_files(outcomes.total())):
        for result in undo_sort(undo_list, dry_run=not yes):
            outcomes[result.outcome] += 1
            if not result.reverted:
                kept = True
                reason = result.outcome if result.error is None else describe_error(result.error)
                print_message(f"{str(result.target)!r}: {reason}")
            if shutdown.stop_requested.is_set():
                break
    if outcomes:
        print_table(
            ["outcome", "files"], [[name, f"{n:,}"] for name, n in sorted(outcomes.items())], right=[1], wrapped=[0]
        )
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
        print_table(["folder", "files", "already there"], rows, right=[1, 2], wrapped=[0])


def _print_left_out(plan: "SortPlan") -> None:
    for reason, names in plan.left_out.items():
        examples = ", ".join(map(repr, names[:_NAMES_SHOWN]))
        print_message(f"left out: {len(names):,} {reason}: {examples}{', …' if len(names) > _NAMES_SHOWN else ''}")
        for name in names[_NAMES_SHOWN:]:
            print_verbose(f"  {name!r}")


def _count_files(number: int) -> str:
    return count_of(number, "file")
