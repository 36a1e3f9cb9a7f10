"""Which images and which of their frames are taken."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from imgclassify.cli.option_values import complete_from

if TYPE_CHECKING:
    from imgclassify.images.frames import FrameSelection

SOURCES_PANEL = "Sources"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SourceOptions:
    """Which images to classify."""

    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Files, folders (recursive), globs, URLs or archives. Use - for one image on stdin.",
            show_default=False,
        ),
    ] = None
    files_from: Annotated[
        str | None,
        typer.Option(
            "--files-from",
            metavar="FILE|-",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="Read sources from a file, one per line. Use - for stdin.",
        ),
    ] = None
    null: Annotated[
        bool,
        typer.Option(
            "--null", "-0", rich_help_panel=SOURCES_PANEL, help="Names in the list end in NUL (find -print0)."
        ),
    ] = False
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            metavar="GLOB",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="In folders, globs and archives, take only matching files (.gitignore syntax). Repeatable.",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="In folders, globs and archives, skip matching files and folders. Repeatable.",
        ),
    ] = None
    no_recursive: Annotated[
        bool, typer.Option("--no-recursive", rich_help_panel=SOURCES_PANEL, help="Do not look into subfolders.")
    ] = False
    hidden: Annotated[
        bool,
        typer.Option(
            "--hidden",
            rich_help_panel=SOURCES_PANEL,
            help="Also take files and folders that begin with a dot, and system folders such as @eaDir.",
        ),
    ] = False
    any_name: Annotated[
        bool,
        typer.Option(
            "--any-name",
            rich_help_panel=SOURCES_PANEL,
            help="In folders and archives, also take files without the extension of an image.",
        ),
    ] = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FrameOptions:
    """Which frames are taken of files that have several."""

    frames: Annotated[
        str,
        typer.Option(
            "--frames",
            autocompletion=complete_from(["first", "all", "key"]),
            metavar="WHICH",
            rich_help_panel=SOURCES_PANEL,
            help="Of animations, pages and videos: the first that is not blank, all, or the key frames of a video.",
        ),
    ] = "first"
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="RATE",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="Like --frames all, but at most RATE frames for each second of a video.",
        ),
    ] = None

    @property
    def selection(self) -> "FrameSelection | None":
        """The frames to take. None takes the first that is not blank.

        Raises:
            UsageError: an option is out of its range, or the two exclude each other.
        """
        if self.frames == "first" and self.fps is None:
            return None
        from imgclassify.images.frames import select_frames

        return select_frames("all" if self.fps is not None and self.frames == "first" else self.frames, self.fps)

    def to_settings(self) -> dict[str, int | str]:
        """Returns the values that two runs must share to write to the same file, by the name of the option."""
        values = {
            "frames": self.frames if self.selection else "",
            "fps": "" if self.fps is None else f"{self.fps:g}",
        }
        return {name: value for name, value in values.items() if value}
