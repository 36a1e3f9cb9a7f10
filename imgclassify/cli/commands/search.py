"""imgclassify search: finds the images nearest to an image, among the vectors of `embed`."""

import json as jsonlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_message
from imgclassify.cli.inputs import no_images_error
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_model
from imgclassify.cli.options.console import ConsoleOptions
from imgclassify.cli.options.model import ArchitectureOptions, Offline
from imgclassify.cli.options.output import Json
from imgclassify.cli.tables import print_table
from imgclassify.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from imgclassify.embedding import Embedder
    from imgclassify.similarity.vector_file import VectorFile

app = CommandApp(add_completion=False)

_OVERRIDES = ("resize_size", "crop_size", "crop_mode", "interpolation", "mean", "std", "channel_order")


@app.command(
    epilog="Exit status: 0 every query answered, 1 some failed, 2 wrong usage or vectors of another model, 3 model "
    "unavailable, 4 no image found.",
    examples={
        "make vectors first": "imgclassify embed photos/ -o photos.npz",
        "the ten nearest images": "imgclassify search photos.npz dog.jpg",
        "only the nearest": "imgclassify search photos.npz dog.jpg -k 1",
    },
)
@with_option_groups
def search(
    *,
    vectors: Annotated[
        Path,
        typer.Argument(metavar="VECTORS", show_default=False, help="A .parquet, .npz or .jsonl file of `embed`."),
    ],
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            show_default=False,
            help="Images to search for: files, folders, globs, URLs or archives.",
        ),
    ],
    count: Annotated[
        int, typer.Option("--count", "-k", metavar="N", min=1, help="Number of images to find for each query.")
    ] = 10,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            metavar="REF",
            show_default=False,
            help="Model that the vectors were made with. Default: the one that the file names.",
        ),
    ] = None,
    loading: ArchitectureOptions,
    json: Json = False,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Find the images nearest to an image, among vectors of `embed`.

    The nearest have the largest cosine. The search is exact.

    Vectors of another model, other weights or another preprocessing are refused.
    """
    console.configure()
    from imgclassify.similarity.vector_file import read_vectors

    stored = read_vectors(vectors)
    embedder = _create_embedder(stored, model, loading, offline=offline)
    stored.require_model(embedder.run)
    documents = _search_all(stored, embedder, queries, count, offline=offline)
    if json:
        typer.echo(jsonlib.dumps(documents, indent=1))
    else:
        _print_matches(documents)
    failed = any(each["error"] for each in documents)
    raise typer.Exit(int(ExitStatus.SOME_IMAGES_FAILED if failed else ExitStatus.OK))


def _create_embedder(
    stored: "VectorFile", model: str | None, loading: ArchitectureOptions, *, offline: bool
) -> "Embedder":
    from imgclassify.embedding import Embedder
    from imgclassify.engines import FEATURES
    from imgclassify.runner import load_runner

    run = stored.provenance.run
    preprocess = run.get("preprocess")
    if not isinstance(preprocess, dict):
        raise UsageError(
            f"{str(stored.path)!r} does not name its preprocessing", hint="run `imgclassify embed` again"
        )

    def as_tuple(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    # The preprocessing of the vectors. Whether anything else differs is checked afterwards.
    overrides = {name: as_tuple(preprocess.get(name)) for name in _OVERRIDES}
    with download_progress() as progress:
        runner = load_runner(
            model or str(run.get("model")),
            outputs=(FEATURES,),
            with_labels=False,
            **loading.classifier_arguments(),
            dtype=str(run.get("dtype")),
            fast_decode=run.get("decode") == "fast",
            offline=offline,
            progress=progress,
            **overrides,
        )
    return Embedder(runner)


def _search_all(
    stored: "VectorFile", embedder: "Embedder", queries: list[str], count: int, *, offline: bool
) -> list[dict[str, Any]]:
    """Returns for each query its matches, the nearest first, or its error.

    Raises:
        NoImagesError: the queries stand for no image.
    """
    import numpy as np

    from imgclassify.similarity.neighbours import find_nearest, unit_vectors
    from imgclassify.sources import Selection, expand

    documents = []
    selection = Selection()
    sources = expand(queries, notice=print_message, selection=selection, offline=offline)
    with closing(embedder.stream(sources)) as records:
        for record in records:
            matches = []
            if record.embedding is not None:
                query = unit_vectors(record.embedding[None])
                indices, cosines = find_nearest(stored.vectors, query, min(count, len(stored.sources)))
                matches = [
                    {"rank": rank, "source": stored.sources[index], "similarity": float(str(np.float32(cosine)))}
                    for rank, (index, cosine) in enumerate(zip(indices[0].tolist(), cosines[0], strict=True), 1)
                ]
            error = record.error.to_dict() if record.error else None
            documents.append({"query": record.source, "matches": matches, "error": error})
    if not documents:
        raise no_images_error(selection)
    return documents


def _print_matches(documents: list[dict[str, Any]]) -> None:
    rows = []
    for document in documents:
        if document["error"]:
            print_message(f"{document['query']}: {document['error']['type']}: {document['error']['message']}")
        rows += [
            [document["query"], str(match["rank"]), f"{match['similarity']:.4f}", match["source"]]
            for match in document["matches"]
        ]
    if rows:
        print_table(["query", "rank", "similarity", "source"], rows, right=(1, 2), wrapped=(0, 3))
