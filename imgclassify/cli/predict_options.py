"""The options of predict, as they are typed; what they do is predict's concern."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imgclassify.cli import options
from imgclassify.cli.options import Format

_SOURCES_PANEL = "Sources"
_MODEL_PANEL = "Model"
_OUTPUT_PANEL = "Output"
_RUNNING_PANEL = "Running"
_UNATTENDED_PANEL = "Running unattended"
_PREPROCESSING_PANEL = "Preprocessing (instead of the model's own)"


Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        help="Files, folders (recursive), globs, URLs, archives, or - for one image's bytes on stdin.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=options.complete_model,
        metavar="REF",
        envvar="IMGCLASSIFY_MODEL",
        rich_help_panel=_MODEL_PANEL,
        show_default=False,
        help="A model: resnet50, resnet50@IMAGENET1K_V1, timm:NAME, hub:REPO/ENTRYPOINT, or a file. "
        "Default: efficientnet_lite0, which needs no network.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        autocompletion=options.complete_model,
        metavar="NAME",
        rich_help_panel=_MODEL_PANEL,
        show_default=False,
        help="The architecture of a file's weights, or the model whose preprocessing and labels it has.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAME|FILE",
        rich_help_panel=_MODEL_PANEL,
        show_default=False,
        help="A label set or a file of labels, instead of the model's own.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        rich_help_panel=_MODEL_PANEL,
        help="Let a torch.hub repository or a TorchScript file run its own code.",
    ),
]
TopK = Annotated[
    int,
    typer.Option("--top-k", "-k", metavar="N", rich_help_panel=_OUTPUT_PANEL, help="Predictions per image."),
]
OutputFormat = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        rich_help_panel=_OUTPUT_PANEL,
        show_default=False,
        help="Default: by the ending of --output, else table.",
    ),
]
Json = Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT_PANEL, help="Short for --format json.")]
Jsonl = Annotated[bool, typer.Option("--jsonl", rich_help_panel=_OUTPUT_PANEL, help="Short for --format jsonl.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=_OUTPUT_PANEL,
        show_default=False,
        help="Where to write. Default: stdout.",
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        "--files-from",
        metavar="FILE|-",
        rich_help_panel=_SOURCES_PANEL,
        show_default=False,
        help="Sources listed in a file or on stdin, one a line.",
    ),
]
Null = Annotated[
    bool,
    typer.Option("--null", "-0", rich_help_panel=_SOURCES_PANEL, help="The list is NUL-separated (find -print0)."),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda|cuda:N|mps", rich_help_panel=_RUNNING_PANEL, help="Where to run."
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="float32|bfloat16|float16",
        rich_help_panel=_RUNNING_PANEL,
        help="What to compute in.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="auto|torch|onnxruntime",
        rich_help_panel=_RUNNING_PANEL,
        help="What runs the network.",
    ),
]
BatchSize = Annotated[
    str,
    typer.Option("--batch-size", metavar="N|auto", rich_help_panel=_RUNNING_PANEL, help="Images in a batch."),
]
Workers = Annotated[
    str, typer.Option("--workers", metavar="N|auto", rich_help_panel=_RUNNING_PANEL, help="Decoding threads.")
]
FastDecode = Annotated[
    bool,
    typer.Option(
        "--fast-decode",
        rich_help_panel=_RUNNING_PANEL,
        help="Decode large JPEGs at a smaller scale: quicker, and close to the exact answer.",
    ),
]
Decode = Annotated[
    str,
    typer.Option(
        "--decode",
        metavar="cpu|gpu",
        rich_help_panel=_RUNNING_PANEL,
        help="Where JPEGs are decoded; gpu is nvJPEG on a CUDA device, and close to the exact answer.",
    ),
]
ResizeSize = Annotated[
    str | None,
    typer.Option(
        "--resize-size",
        metavar="N|HxW",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="The short side after resizing, or height and width; pixels.",
    ),
]
CropSize = Annotated[
    str | None,
    typer.Option(
        "--crop-size",
        metavar="N|HxW",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="The centre crop, pixels.",
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        metavar="NAME",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="nearest, box, bilinear, hamming, bicubic or lanczos.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="R,G,B",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="Of pixels scaled to 0..1; one number serves all three.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="R,G,B",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="Of pixels scaled to 0..1; one number serves all three.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="GLOB",
        rich_help_panel=_SOURCES_PANEL,
        show_default=False,
        help="Of folders and archives only what matches, as in a .gitignore. May be repeated.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        rich_help_panel=_SOURCES_PANEL,
        show_default=False,
        help="Of folders and archives nothing that matches. May be repeated.",
    ),
]
NoRecursive = Annotated[
    bool, typer.Option("--no-recursive", rich_help_panel=_SOURCES_PANEL, help="Do not look into subfolders.")
]
Hidden = Annotated[
    bool,
    typer.Option(
        "--hidden", rich_help_panel=_SOURCES_PANEL, help="Take files and folders that begin with a dot, too."
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=_UNATTENDED_PANEL,
        help="Go on with the records that --output has; begin where there are none.",
    ),
]
RetryErrors = Annotated[
    bool,
    typer.Option(
        "--retry-errors",
        rich_help_panel=_UNATTENDED_PANEL,
        help="Like --resume, and answer the failed ones again.",
    ),
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", rich_help_panel=_UNATTENDED_PANEL, help="Stop at the first failed image.")
]
MaxErrors = Annotated[
    int | None,
    typer.Option(
        "--max-errors",
        metavar="N",
        min=1,
        rich_help_panel=_UNATTENDED_PANEL,
        show_default=False,
        help="Stop when N images have failed.",
    ),
]
SummaryFile = Annotated[
    Path | None,
    typer.Option(
        "--summary",
        metavar="FILE",
        rich_help_panel=_UNATTENDED_PANEL,
        show_default=False,
        help="Write how the run went, as JSON.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        metavar="N",
        min=1,
        rich_help_panel=_UNATTENDED_PANEL,
        help="Refuse images of more; no pixel of them is decoded.",
    ),
]
Isolate = Annotated[
    bool,
    typer.Option(
        "--isolate",
        rich_help_panel=_UNATTENDED_PANEL,
        help="Decode in processes of their own, which may crash or hang without ending the run.",
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        metavar="SECONDS",
        rich_help_panel=_UNATTENDED_PANEL,
        help="For decoding one image, with --isolate.",
    ),
]
