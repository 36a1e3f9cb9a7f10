"""imgclassify predict: pictures in, labels out."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, redirect_stdout
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from imgclassify.cli import console, interrupts, options
from imgclassify.cli.options import Debug, Format, NoProgress, Offline, Quiet, Verbose
from imgclassify.errors import ExitStatus, NoImagesError, UsageError, first_line

if TYPE_CHECKING:
    from imgclassify.classifier import Classifier
    from imgclassify.results import ImageResult
    from imgclassify.sources import Source

_LOOK_AHEAD = 4096
"""Pictures counted before the first is answered; where there are more, there are many."""

_SOURCES_PANEL = "Sources"
_MODEL_PANEL = "Model"
_OUTPUT_PANEL = "Output"
_RUNNING_PANEL = "Running"
_PREPROCESSING_PANEL = "Preprocessing (instead of the model's own)"


_Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        help="Files, folders (recursive), globs, URLs, archives, or - for one image's bytes on stdin.",
        show_default=False,
    ),
]
_Model = Annotated[
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
_Arch = Annotated[
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
_Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAME|FILE",
        rich_help_panel=_MODEL_PANEL,
        show_default=False,
        help="A label set or a file of labels, instead of the model's own.",
    ),
]
_Trust = Annotated[
    bool,
    typer.Option("--trust", rich_help_panel=_MODEL_PANEL, help="Let torch.hub run the repository's own code."),
]
_TopK = Annotated[
    int,
    typer.Option("--top-k", "-k", metavar="N", rich_help_panel=_OUTPUT_PANEL, help="Predictions per image."),
]
_OutputFormat = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        rich_help_panel=_OUTPUT_PANEL,
        show_default=False,
        help="Default: by the ending of --output, else table.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT_PANEL, help="Short for --format json.")]
_Jsonl = Annotated[bool, typer.Option("--jsonl", rich_help_panel=_OUTPUT_PANEL, help="Short for --format jsonl.")]
_Output = Annotated[
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
_FilesFrom = Annotated[
    str | None,
    typer.Option(
        "--files-from",
        metavar="FILE|-",
        rich_help_panel=_SOURCES_PANEL,
        show_default=False,
        help="Sources listed in a file or on stdin, one a line.",
    ),
]
_Null = Annotated[
    bool,
    typer.Option("--null", "-0", rich_help_panel=_SOURCES_PANEL, help="The list is NUL-separated (find -print0)."),
]
_Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda|cuda:N|mps", rich_help_panel=_RUNNING_PANEL, help="Where to run."
    ),
]
_Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="float32|bfloat16|float16",
        rich_help_panel=_RUNNING_PANEL,
        help="What to compute in.",
    ),
]
_Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="auto|torch|onnxruntime",
        rich_help_panel=_RUNNING_PANEL,
        help="What runs the network.",
    ),
]
_BatchSize = Annotated[
    str,
    typer.Option("--batch-size", metavar="N|auto", rich_help_panel=_RUNNING_PANEL, help="Images in a batch."),
]
_Workers = Annotated[
    str, typer.Option("--workers", metavar="N|auto", rich_help_panel=_RUNNING_PANEL, help="Decoding threads.")
]
_FastDecode = Annotated[
    bool,
    typer.Option(
        "--fast-decode",
        rich_help_panel=_RUNNING_PANEL,
        help="Decode large JPEGs at a smaller scale: quicker, and close to the exact answer.",
    ),
]
_Decode = Annotated[
    str,
    typer.Option(
        "--decode",
        metavar="cpu|gpu",
        rich_help_panel=_RUNNING_PANEL,
        help="Where JPEGs are decoded; gpu is nvJPEG on a CUDA device, and close to the exact answer.",
    ),
]
_ResizeSize = Annotated[
    str | None,
    typer.Option(
        "--resize-size",
        metavar="N|HxW",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="The short side after resizing, or height and width; pixels.",
    ),
]
_CropSize = Annotated[
    str | None,
    typer.Option(
        "--crop-size",
        metavar="N|HxW",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="The centre crop, pixels.",
    ),
]
_Interpolation = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        metavar="NAME",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="nearest, box, bilinear, hamming, bicubic or lanczos.",
    ),
]
_Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="R,G,B",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="Of pixels scaled to 0..1; one number serves all three.",
    ),
]
_Std = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="R,G,B",
        rich_help_panel=_PREPROCESSING_PANEL,
        show_default=False,
        help="Of pixels scaled to 0..1; one number serves all three.",
    ),
]


app = typer.Typer(add_completion=False)


@app.command(
    epilog="Exit status: 0 every image answered, 1 some failed, 2 wrong usage, 3 model or labels unavailable, "
    "4 no image found, 130 interrupted."
)
def predict(
    sources: _Sources = None,
    model: _Model = None,
    arch: _Arch = None,
    labels: _Labels = None,
    trust: _Trust = False,
    top_k: _TopK = 5,
    output_format: _OutputFormat = None,
    json: _Json = False,
    jsonl: _Jsonl = False,
    output: _Output = None,
    files_from: _FilesFrom = None,
    null: _Null = False,
    device: _Device = "auto",
    dtype: _Dtype = "float32",
    engine: _Engine = "auto",
    batch_size: _BatchSize = "auto",
    workers: _Workers = "auto",
    fast_decode: _FastDecode = False,
    decode: _Decode = "cpu",
    offline: Offline = False,
    resize_size: _ResizeSize = None,
    crop_size: _CropSize = None,
    interpolation: _Interpolation = None,
    mean: _Mean = None,
    std: _Std = None,
    no_progress: NoProgress = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Name what is in pictures: the most probable labels, with softmax percentages.

    One record per image, in input order. A broken file gets its error record, and the rest goes on.
    """
    console.configure(be_quiet=quiet, be_verbose=verbose, be_debug=debug, progress=not no_progress)
    chosen_format = _format(output_format, json, jsonl, output)
    pictures = _pictures(sources or [], files_from, null=null, offline=offline)
    # Whoever writes a list into a pipe may still be at it.
    written = files_from is None or Path(files_from).is_file()
    ahead, ended = _look_ahead(pictures, _LOOK_AHEAD if written else 1)
    if not ahead:
        raise NoImagesError("no image was found", hint="docs/images.md lists the formats that are opened")
    from imgclassify.classifier import Classifier

    with console.download_progress() as progress:
        classifier = Classifier(
            model,
            arch=arch,
            labels=labels,
            top_k=top_k,
            device=device,
            dtype=dtype,
            engine=engine,
            batch_size=options.number_or_auto("--batch-size", batch_size),
            workers=options.number_or_auto("--workers", workers),
            fast_decode=fast_decode,
            decode=decode,
            images=len(ahead) if ended else None,
            resize_size=options.size("--resize-size", resize_size),
            crop_size=options.size("--crop-size", crop_size),
            interpolation=interpolation,
            mean=options.channels("--mean", mean),
            std=options.channels("--std", std),
            offline=offline,
            trust=trust,
            progress=progress,
        )
    run = classifier.run
    console.say_verbosely(f"{run.model} ({run.weights}) on {run.engine}, {run.device}, {run.dtype}: {run.reason}")
    raise typer.Exit(int(_write(classifier, chain(ahead, pictures), chosen_format, output)))


def _look_ahead(pictures: Iterator[Source], limit: int) -> tuple[list[Source], bool]:
    """The first pictures, one more than `limit` at most; and whether they are all."""
    ahead: list[Source] = []
    for picture in pictures:
        ahead.append(picture)
        if len(ahead) > limit or picture.held:
            return ahead, False
    return ahead, True


def _format(output_format: Format | None, json: bool, jsonl: bool, output: Path | None) -> str:
    from imgclassify.output import format_of

    wanted = {name for name, given in (("json", json), ("jsonl", jsonl)) if given}
    wanted |= {output_format.value} if output_format else set()
    if len(wanted) > 1:
        raise UsageError(f"several formats at once: {', '.join(sorted(wanted))}", hint="choose one")
    if wanted:
        return wanted.pop()
    return "table" if output is None or str(output) == "-" else format_of(output)


def _pictures(names: list[str], files_from: str | None, *, null: bool, offline: bool) -> Iterator[Source]:
    from imgclassify.sources import expand, read_names

    if not names and files_from is None:
        raise UsageError(
            "no picture was named", hint="name files, folders or URLs, - for stdin, or --files-from LIST"
        )
    if null and files_from is None:
        raise UsageError("-0/--null goes with --files-from", hint="add --files-from FILE, or - for stdin")
    if names.count("-") > 1:
        raise UsageError("stdin is named twice, and holds one picture", hint="leave one - out")
    named = expand(names, notice=console.say, stdin=_stdin(), offline=offline)
    if files_from is None:
        return named
    if files_from == "-" and "-" in names:
        raise UsageError("stdin cannot be both a picture and the list of files", hint="leave one of the two out")
    try:
        listed = _stdin() if files_from == "-" else Path(files_from).open("rb")  # noqa: SIM115 - read while it lasts
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the list {files_from!r}: {first_line(error)}", hint="check --files-from"
        ) from error
    # Where the list is on stdin, a "-" in it can mean no picture there.
    stdin = BytesIO() if files_from == "-" else _stdin()
    entries = read_names(listed, null=null)
    return chain(named, expand(entries, notice=console.say, stdin=stdin, globs=False, offline=offline))


def _stdin() -> BinaryIO:
    # A process may have been started without one (`<&-`).
    if sys.stdin is None:
        return BytesIO()
    try:
        # A reader of our own: the interpreter's could not be closed at exit while a thread still waits on it.
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    except (OSError, ValueError):
        return sys.stdin.buffer


def _write(
    classifier: Classifier, pictures: Iterable[Source], chosen_format: str, output: Path | None
) -> ExitStatus:
    """Answers every picture, and says how it went."""
    from imgclassify.output import open_writer
    from imgclassify.output.destination import destination

    started = time.monotonic()
    answered = failed = 0

    def is_failure(result: ImageResult) -> bool:
        return result.error is not None

    with ExitStack() as stack:
        stream = stack.enter_context(destination(output))
        # A foreign network may print while it computes, and stdout carries results alone.
        stack.enter_context(redirect_stdout(sys.stderr))
        writer = stack.enter_context(open_writer(chosen_format, stream, classifier.run, top_k=classifier.top_k))
        counted = console.counted(
            classifier.stream(pictures), failed=is_failure, shown_as_they_come=stream.isatty()
        )
        results = stack.enter_context(closing(counted))
        for result in results:
            with interrupts.whole():
                writer.write(result)
            failed += is_failure(result)
            answered += not is_failure(result)
    _summarise(answered, failed, time.monotonic() - started)
    return ExitStatus.SOME_IMAGES_FAILED if failed else ExitStatus.OK


def _summarise(answered: int, failed: int, seconds: float) -> None:
    total = answered + failed
    if failed and total > 1:
        console.say(f"{failed} of {total} images failed; each has its record")
    console.say_verbosely(f"{total} images in {seconds:.1f} s, {total / max(seconds, 1e-9):.1f} images/s")
