"""What replaces the model's own preprocessing."""

# No `from __future__ import annotations`: option_groups.py needs the annotations as objects.

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from imgclassify.cli.option_values import complete_from, complete_interpolation, parse_channels, parse_size

_PREPROCESSING = "Preprocessing (instead of the model's own)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PreprocessingOptions:
    """Values that replace the model's own preprocessing."""

    resize_size: Annotated[
        str | None,
        typer.Option(
            "--resize-size",
            metavar="N|HxW",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Pixels of the short side after resizing, or height and width, whatever the aspect ratio.",
        ),
    ] = None
    crop_size: Annotated[
        str | None,
        typer.Option(
            "--crop-size",
            metavar="N|HxW",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Side of a square crop, or height and width of the crop, in pixels.",
        ),
    ] = None
    interpolation: Annotated[
        str | None,
        typer.Option(
            "--interpolation",
            autocompletion=complete_interpolation,
            metavar="NAME",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Interpolation: nearest, box, bilinear, hamming, bicubic or lanczos.",
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="R,G,B",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Mean to subtract, for pixels scaled to 0..1. One number applies to all three channels.",
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            "--std",
            metavar="R,G,B",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Standard deviation to divide by, for pixels scaled to 0..1. "
            "One number applies to all three channels.",
        ),
    ] = None
    channel_order: Annotated[
        str | None,
        typer.Option(
            "--channel-order",
            autocompletion=complete_from(["rgb", "bgr", "grey"]),
            metavar="ORDER",
            rich_help_panel=_PREPROCESSING,
            show_default=False,
            help="Order of the channels that the network takes, and of --mean and --std: rgb, bgr or grey.",
        ),
    ] = None

    def classifier_arguments(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of Classifier.

        Raises:
            UsageError: a value cannot be parsed.
        """
        return {
            "resize_size": parse_size("--resize-size", self.resize_size),
            "crop_size": parse_size("--crop-size", self.crop_size),
            "interpolation": self.interpolation,
            "mean": parse_channels("--mean", self.mean),
            "std": parse_channels("--std", self.std),
            "channel_order": self.channel_order,
        }
