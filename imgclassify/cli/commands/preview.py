"""imgclassify preview: shows what the network sees of an image."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import ArchitectureOptions, Model, Offline
from imgclassify.cli.options.output import OUTPUT_PANEL, Json, Overwrite
from imgclassify.cli.options.preprocessing import PreprocessingOptions
from imgclassify.cli.tables import print_table
from imgclassify.errors import ImageError, UsageError
from imgclassify.output import require_no_result

if TYPE_CHECKING:
    from PIL import Image

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.images.preview import ImagePreview

app = CommandApp(add_completion=False)

_SCHEMA = "imgclassify.preview/1"
_BOX_COLOR = (255, 0, 0)


@app.command(
    epilog="Exit status: 0 the image was read, 1 it could not be read, 2 wrong usage, 3 model unavailable, "
    "130 interrupted.",
    examples={
        "what the network sees, and where it lies": "imgclassify preview dog.jpg",
        "save the crop": "imgclassify preview dog.jpg -m resnet50 -o crop.png",
    },
)
@with_option_groups
def preview(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="A file, a URL, a member of an archive, or - for an image on stdin.",
        ),
    ],
    model: Model = None,
    loading: ArchitectureOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help="Save the crop as a PNG file, bit for bit.",
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            "--overlay",
            metavar="FILE",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help="Save the upright image as a PNG file, with a rectangle around the crop.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    fast_decode: Annotated[bool, typer.Option("--fast-decode", help="Crop as with `predict --fast-decode`.")] = (
        False
    ),
    decode_damaged: Annotated[
        bool, typer.Option("--decode-damaged", help="Show what there is of a damaged image.")
    ] = False,
    preprocessing: PreprocessingOptions,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Show which part of an image the network sees, and save it.

    The crop is bit for bit what the network gets, before its values are scaled and normalised. Of catalogued and
    timm: models, the weights are not needed.
    """
    console.configure()
    for option, path in (("--output", output), ("--overlay", overlay)):
        if path and path.suffix.lower() != ".png":
            raise UsageError(f"{option} is {str(path)!r}, but only PNG keeps every bit", hint="give a name in .png")
        if not overwrite:
            require_no_result(path, option=option)
    if output and overlay and output.resolve() == overlay.resolve():
        raise UsageError(f"--output and --overlay are both {str(output)!r}", hint="give two names")
    spec = _find_preprocessing(model, loading, preprocessing, offline=offline)
    from imgclassify.catalog import EMBEDDED_MODEL
    from imgclassify.images.cropping import create_preprocessor
    from imgclassify.images.inputs import input_from_source
    from imgclassify.images.preview import buffer_source, preview_image
    from imgclassify.sources import single_source

    image = input_from_source(single_source(source, offline=offline))
    if overlay and image.source and image.source.path is None:
        image = image._replace(source=buffer_source(image.source))
    mode = "fast" if fast_decode else "exact"
    try:
        preprocess = create_preprocessor(mode, spec, "cpu", decode_damaged=decode_damaged)
        shown = preview_image(image, spec, preprocess, decode_damaged=decode_damaged)
    except ImageError as error:
        raise type(error)(f"{source}: {error}", hint=error.hint) from error
    if output:
        _save(shown.crop, output, "--output")
    if overlay:
        whole = image.load_image(decode_damaged=decode_damaged)
        _save(_draw_box(whole.copy(), shown), overlay, "--overlay")
    facts = {"model": model or EMBEDDED_MODEL, "decode": mode, "preprocess": spec.to_dict()}
    if json:
        typer.echo(jsonlib.dumps({"schema": _SCHEMA, **shown.to_dict(), **facts}, indent=1))
    else:
        print_table([], _rows(shown, facts), wrapped=[1])


def _find_preprocessing(
    model: str | None, loading: ArchitectureOptions, preprocessing: PreprocessingOptions, *, offline: bool
) -> "PreprocessSpec":
    from imgclassify.catalog import EMBEDDED_MODEL
    from imgclassify.hub.loader import find_preprocessing
    from imgclassify.hub.network import LoadOptions
    from imgclassify.runner import preprocess_overrides

    with download_progress() as progress:
        return find_preprocessing(
            model or EMBEDDED_MODEL,
            LoadOptions(
                **loading.classifier_arguments(),
                with_labels=False,
                overrides=preprocess_overrides(**preprocessing.classifier_arguments()),
                offline=offline,
                progress=progress,
            ),
        )


def _save(pixels: Any, path: Path, option: str) -> None:
    from imgclassify.files import atomic_write
    from imgclassify.images.crop_files import encode_png
    from imgclassify.output.text_stream import report_io_errors

    with report_io_errors(path, option=option), atomic_write(path) as draft:
        draft.write_bytes(encode_png(pixels))


def _draw_box(image: "Image.Image", shown: "ImagePreview") -> "Image.Image":
    from PIL import ImageDraw

    x0, y0, x1, y1 = shown.box
    line = max(2, round(max(image.size) / 300))
    corners = (max(x0, 0), max(y0, 0), min(x1, image.width) - 1, min(y1, image.height) - 1)
    ImageDraw.Draw(image).rectangle(corners, outline=_BOX_COLOR, width=line)
    return image


def _rows(shown: "ImagePreview", facts: dict[str, Any]) -> list[list[str]]:
    spec = facts["preprocess"]
    x0, y0, x1, y1 = shown.box
    height, width = shown.resized
    crop_height, crop_width, _ = shown.crop.shape
    turned = f", turned upright (EXIF orientation {shown.orientation})" if shown.orientation != 1 else ""
    rows = [
        ["source", shown.source],
        ["model", facts["model"]],
        ["image", f"{shown.width}×{shown.height}{turned}"],
        ["resized to", f"{width}×{height}, {spec['interpolation']}"],
        ["crop", f"{crop_width}×{crop_height}, {spec['crop_mode']}"],
        *([["channels", spec["channel_order"]]] if "channel_order" in spec else []),
        ["crop in image", f"x {x0:.1f} to {x1:.1f}, y {y0:.1f} to {y1:.1f}: {_describe_part(shown)}"],
        ["mean", ", ".join(f"{value:g}" for value in spec["mean"])],
        ["std", ", ".join(f"{value:g}" for value in spec["std"])],
    ]
    if shown.damaged:
        rows.append(["damaged", "a part of the image is missing, and grey: docs/images.md"])
    if shown.approximate:
        rows.append(["approximate", "an extremely long image: docs/preprocessing.md"])
    return rows


def _describe_part(shown: "ImagePreview") -> str:
    """Returns how much of the image the crop shows, and whether it is padded."""
    x0, y0, x1, y1 = shown.box
    seen = max(0.0, min(x1, shown.width) - max(x0, 0)) * max(0.0, min(y1, shown.height) - max(y0, 0))
    padded = x0 < 0 or y0 < 0 or x1 > shown.width or y1 > shown.height
    part = f"{100 * seen / (shown.width * shown.height):.1f} % of the image"
    return f"{part}, padded" if padded else part
