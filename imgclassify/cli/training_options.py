"""The options of `imgclassify train`."""

# No `from __future__ import annotations` here: option_groups.py needs the annotations as objects, not as text.

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli.option_values import complete_from, parse_number
from imgclassify.cli.options.output import OUTPUT_PANEL, Report
from imgclassify.cli.options.running import RUNNING_PANEL, Device
from imgclassify.cli.options.sources import SOURCES_PANEL
from imgclassify.cli.options.unattended import DecodingOptions
from imgclassify.errors import UsageError
from imgclassify.images import TIME_LIMIT

if TYPE_CHECKING:
    from imgclassify.training.recipe import Recipe

_TRAINING = "Training"
METHODS = ("probe", "finetune", "scratch")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DataOptions:
    """Where the classes and the images for validation are found."""

    val: Annotated[
        str,
        typer.Option(
            "--val",
            metavar="SHARE|FOLDER",
            rich_help_panel=SOURCES_PANEL,
            help="Share of the images that is kept for validation, or a folder with images for it. Not needed if "
            "there is a folder val beside train.",
        ),
    ] = "0.2"
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth",
            metavar="FILE",
            rich_help_panel=SOURCES_PANEL,
            show_default=False,
            help="CSV file with the columns source and label, and split if you like. Default: the folder of an "
            "image is its class.",
        ),
    ] = None

    @property
    def fraction(self) -> float | None:
        """The share of the images that is split off for validation. None if --val is a folder.

        Raises:
            UsageError: it is a number, but no share.
        """
        try:
            share = float(self.val)
        except ValueError:
            return None
        if not 0 < share < 1:
            raise UsageError(
                f"--val is {self.val!r}", hint="give a share above 0 and below 1, such as 0.2, or a folder"
            )
        return share


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LearningOptions:
    """How the network is taught."""

    method: Annotated[
        str,
        typer.Option(
            "--method",
            autocompletion=complete_from(METHODS),
            metavar="METHOD",
            rich_help_panel=_TRAINING,
            help="probe (only the last layer, in seconds), finetune (all layers) or scratch (an --arch without "
            "weights).",
        ),
    ] = "probe"
    augment: Annotated[
        int | None,
        typer.Option(
            "--augment",
            metavar="N",
            min=0,
            rich_help_panel=_TRAINING,
            show_default=False,
            help="Crops of each image, half of them mirrored, that a probe also learns from. So does that which "
            "finetune begins with. Default: 0; for finetune up to 8, the fewer the images.",
        ),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            rich_help_panel=_TRAINING,
            show_default=False,
            help="Settings of finetune and scratch: a TOML file, or tutorial. print prints those for these images, "
            "and trains nothing. Default: by the number of images and the network.",
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SETTING",
            rich_help_panel=_TRAINING,
            show_default=False,
            help="Change a setting of the recipe: NAME=VALUE, such as label_smoothing=0.1. May be given again.",
        ),
    ] = None
    epochs: Annotated[
        str | None,
        typer.Option(
            "--epochs",
            metavar="N|auto",
            rich_help_panel=_TRAINING,
            show_default=False,
            help="How many times each image is seen. auto stops when the validation part gets no better.",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            rich_help_panel=_TRAINING,
            show_default=False,
            help="Images per step.",
        ),
    ] = None
    training_time: Annotated[
        str | None,
        typer.Option(
            "--time-limit",
            metavar="DURATION",
            rich_help_panel=_TRAINING,
            show_default=False,
            help="End after this time: 90s, 10m, 2h.",
        ),
    ] = None
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, rich_help_panel=_TRAINING, help="Seed of all chance.")
    ] = 0
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", rich_help_panel=_TRAINING, help="Go on with a training that was stopped or killed."
        ),
    ] = False

    def check(self) -> None:
        """Checks what can be checked without the images.

        Raises:
            UsageError: the method is unknown, or options conflict.
        """
        if self.method not in METHODS:
            raise UsageError(f"--method is {self.method!r}", hint=f"give one of {', '.join(METHODS)}")
        if self.method == "scratch" and self.augment is not None:
            raise UsageError(
                "--augment is for a probe, and --method scratch begins without one",
                hint="leave it out: the recipe says how images are changed",
            )
        given = [option for name, option in _OF_RECIPES.items() if getattr(self, name)]
        if self.method == "probe" and given:
            raise UsageError(
                f"{', '.join(given)}: a probe has no recipe", hint="add --method finetune, or leave it out"
            )
        if given:
            from imgclassify.training.recipe import default_recipe

            self.find_recipe(default_recipe(self.method, num_images=1000))  # what is wrong is told at once

    @property
    def prints_recipe(self) -> bool:
        """Whether the recipe is printed, and nothing is trained."""
        return self.recipe == "print"

    def find_views(self, num_images: int) -> int:
        """Returns how many augmented views there are to be of each image.

        Args:
            num_images: how many there are to learn from.
        """
        from imgclassify.training.reading import default_views

        return default_views(self.method, num_images) if self.augment is None else self.augment

    def find_recipe(self, default: "Recipe") -> "Recipe":
        """Returns the settings of the training of all layers.

        Args:
            default: what is not said.

        Raises:
            UsageError: a setting is unknown or wrong, or the file cannot be read.
        """
        from imgclassify.training.recipe import RECIPES, named_recipe
        from imgclassify.training.recipe_file import parse_recipe, read_recipe

        recipe = default
        if self.recipe in RECIPES:
            recipe = named_recipe(self.recipe)
        elif self.recipe is not None and not self.prints_recipe:
            path = Path(self.recipe)
            if not path.exists():
                raise UsageError(
                    f"--recipe is {self.recipe!r}, which is neither a file nor a recipe",
                    hint=f"give a TOML file, print, or one of {', '.join(RECIPES)}",
                )
            recipe = read_recipe(path, default)
        for option, line in self._changes():
            recipe = parse_recipe(line, option, recipe)
        return recipe

    def _changes(self) -> Iterator[tuple[str, str]]:
        """Yields the option and the line of TOML of each setting that the user changes.

        Raises:
            UsageError: one of them cannot be read.
        """
        for setting in self.settings or []:
            name, equals, value = (part.strip() for part in setting.partition("="))
            if not (re.fullmatch(r"[\w-]+", name) and equals and value):
                raise UsageError(f"--set is {setting!r}", hint="give NAME=VALUE, such as label_smoothing=0.1")
            yield "--set", f"{name} = {_to_toml(value)}"
        if self.epochs is not None:
            yield "--epochs", f"epochs = {parse_number('--epochs', self.epochs) or _to_toml('auto')}"
        if self.batch_size is not None:
            yield "--batch-size", f"batch_size = {self.batch_size}"
        if self.training_time is not None:
            yield "--time-limit", f"time_limit = {parse_duration('--time-limit', self.training_time)!r}"


def _to_toml(text: str) -> str:
    """Returns a value of TOML. A word needs no quotes."""
    import json
    import tomllib

    try:
        tomllib.loads(f"value = {text}")
    except ValueError:
        return json.dumps(text)
    return text


_OF_RECIPES = {
    "recipe": "--recipe",
    "settings": "--set",
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "training_time": "--time-limit",
}
"""The options that only a training of all layers has, by their names here."""


def parse_duration(option: str, text: str) -> float:
    """Returns seconds: 600.0 for "10m".

    Raises:
        UsageError: the text is not a duration above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    seconds = float(found.group(1)) * _SECONDS[found.group(2)] if found else 0.0
    if seconds <= 0:
        raise UsageError(f"{option} is {text!r}", hint="give a duration such as 90s, 10m or 2h")
    return seconds


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainingOutputOptions:
    """Where the model goes, and what is written of it."""

    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help="Folder of the model. `imgclassify predict -m FOLDER` needs nothing else.",
        ),
    ]
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUTPUT_PANEL, help="Replace an earlier model there.")
    ] = False
    report: Report = None
    json: Annotated[
        bool, typer.Option("--json", rich_help_panel=OUTPUT_PANEL, help="Print the figures as JSON.")
    ] = False

    def check(self) -> None:
        """Checks that what is asked for can be written, before the work.

        Raises:
            UsageError: the folder or the page cannot be written.
        """
        from imgclassify.training.model_folder import require_writable

        require_writable(self.output, overwrite=self.overwrite)
        if self.report is not None:
            from imgclassify.report.pages import check_page

            check_page(self.report, overwrite=self.overwrite)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainingDecodingOptions(DecodingOptions):
    """Limits on decoding one image. Their time limit has another name here, because --time-limit is that of the
    training."""

    time_limit: Annotated[
        float,
        typer.Option(
            "--image-time-limit",
            metavar="SECONDS",
            rich_help_panel="Running unattended",
            help="Time limit for decoding one image, with --isolate.",
        ),
    ] = TIME_LIMIT


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ProcessorOptions:
    """What the network runs on."""

    device: Device = "auto"
    workers: Annotated[
        str,
        typer.Option(
            "--workers", metavar="N|auto", rich_help_panel=RUNNING_PANEL, help="Number of decoding threads."
        ),
    ] = "auto"

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier.

        Raises:
            UsageError: --workers is not a valid number.
        """
        return {**asdict(self), "workers": parse_number("--workers", self.workers)}
