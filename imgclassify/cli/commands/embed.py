"""imgclassify embed: turns images into vectors."""

from dataclasses import dataclass
from typing import Annotated

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_verbose
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_dtype, complete_from
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import ArchitectureOptions, Model, Offline
from imgclassify.cli.options.output import OUTPUT_PANEL, OutputOptions
from imgclassify.cli.options.preprocessing import PreprocessingOptions
from imgclassify.cli.options.running import DTYPE_HELP, RUNNING_PANEL, RunningOptions
from imgclassify.cli.options.sources import FrameOptions, SourceOptions
from imgclassify.cli.options.unattended import DecodingOptions, UnattendedOptions
from imgclassify.cli.run import open_run
from imgclassify.output.formats import format_names

app = CommandApp(add_completion=False)

_FORMATS = format_names("embeddings", has_vectors=True)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EmbeddingOptions:
    """The form of the vectors."""

    vector_dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            autocompletion=complete_from(["float32", "float16"]),
            metavar="DTYPE",
            rich_help_panel=OUTPUT_PANEL,
            help="Data type of the vectors that are written: float32 or float16.",
        ),
    ] = "float32"
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize", rich_help_panel=OUTPUT_PANEL, help="Scale each vector to a Euclidean (L2) norm of 1."
        ),
    ] = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EmbeddingOutputOptions(OutputOptions):
    """Where vectors are written, and in which format."""

    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            autocompletion=complete_from(_FORMATS.split(", ")),
            metavar="FORMAT",
            rich_help_panel=OUTPUT_PANEL,
            show_default=False,
            help=f"Output format: {_FORMATS}. Default: from the extension of --output, else jsonl.",
        ),
    ] = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ComputingOptions(RunningOptions):
    """How the network is run. Its data type has another name here, because --dtype is that of the vectors."""

    dtype: Annotated[
        str,
        typer.Option(
            "--compute-dtype",
            autocompletion=complete_dtype,
            metavar="DTYPE",
            rich_help_panel=RUNNING_PANEL,
            help=DTYPE_HELP,
        ),
    ] = "float32"


@app.command(
    epilog="Exit status: 0 every image embedded, 1 some failed, 2 wrong usage, 3 model or device unavailable, "
    "4 no image found, 130 interrupted (129 by SIGHUP, 143 by SIGTERM).",
    examples={
        "vectors of a folder": "imgclassify embed photos/ -o photos.npz",
        "of another model": "imgclassify embed photos/ -m vit_b_16 -o photos.parquet",
        "JSON for jq": "imgclassify embed dog.jpg | jq .embedding",
    },
)
@with_option_groups
def embed(
    *,
    sources: SourceOptions,
    model: Model = None,
    loading: ArchitectureOptions,
    embedding: EmbeddingOptions,
    output: EmbeddingOutputOptions,
    unattended: UnattendedOptions,
    frames: FrameOptions,
    decoding: DecodingOptions,
    running: ComputingOptions,
    preprocessing: PreprocessingOptions,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Turn images into vectors: the features that a network computes before its last layer.

    Writes one record per image, in input order. A broken file gets an error record, and the run continues.

    Labels are not needed, and a network without a classifier can be used.
    """
    console.configure()
    from imgclassify.embedding import EMBEDDINGS

    with open_run(
        EMBEDDINGS, sources, output, unattended, frames, decoding, offline=offline, default_format="jsonl"
    ) as run:
        from imgclassify.embedding import Embedder
        from imgclassify.engines import FEATURES
        from imgclassify.runner import load_runner

        with download_progress() as progress:
            runner = load_runner(
                model,
                outputs=(FEATURES,),
                with_labels=False,
                **loading.classifier_arguments(),
                num_images=run.num_images,
                offline=offline,
                progress=progress,
                **decoding.classifier_arguments(),
                **running.classifier_arguments(),
                **preprocessing.classifier_arguments(),
            )
        embedder = Embedder(runner, dtype=embedding.vector_dtype, normalize=embedding.normalize)
        print_verbose(runner.describe())
        run.write_records(embedder, embedder.settings)
    raise typer.Exit(int(run.stats.status))
