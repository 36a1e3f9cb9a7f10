"""imgclassify models: lists models, and manages weights and graphs on this machine."""

import json as jsonlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify import catalog, weights
from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.main import COMMANDS
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_from, complete_model, parse_size
from imgclassify.cli.options import Debug, Json, LoadingOptions, NoProgress, Offline, Quiet
from imgclassify.cli.tables import print_table
from imgclassify.errors import HashMismatchError, UnavailableError, UsageError, WeightsError
from imgclassify.hub.reference import ModelReference

if TYPE_CHECKING:
    from imgclassify.catalog import ModelManifest

app = CommandApp(no_args_is_help=True, add_completion=False, help=COMMANDS["models"])


References = Annotated[
    list[str],
    typer.Argument(
        metavar="REF", autocompletion=complete_model, help="Models: NAME or NAME@WEIGHTS.", show_default=False
    ),
]


@app.command("list")
def list_models(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="PATTERN", help="Part of a name, or a glob such as 'resnet*'.", show_default=False),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="KEY",
            autocompletion=complete_from(catalog.SORT_KEYS),
            help=f"Sort key: {', '.join(catalog.SORT_KEYS)}. Accuracies are sorted in descending order, "
            "all others in ascending order.",
        ),
    ] = "name",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the catalogued models. A star marks the default weights of an architecture."""
    console.configure_console(be_debug=debug)
    if sort not in catalog.SORT_KEYS:
        raise UsageError(f"unknown sort key {sort!r}", hint=f"use one of {', '.join(catalog.SORT_KEYS)}")
    found = catalog.load_manifests()
    if pattern is not None:
        found = catalog.filter_models(found, pattern)
        if not found:
            catalog.find_model(pattern)  # raises an error that lists the nearest names
    found.sort(key=catalog.SORT_KEYS[sort])
    if json:
        typer.echo(jsonlib.dumps([_describe_manifest(manifest) for manifest in found], indent=1))
        return
    print_table(
        ["model", "weights", "", "acc@1 %", "acc@5 %", "params M", "GFLOPS", "MiB", "cached"],
        [_table_row(manifest) for manifest in found],
        right=range(3, 8),
    )


@app.command()
def show(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF", autocompletion=complete_model, help="Model: NAME or NAME@WEIGHTS.", show_default=False
        ),
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show all details of a catalogued model: weights, preprocessing, labels, accuracy, licence."""
    console.configure_console(be_debug=debug)
    manifest = _find_manifest(reference)
    described = _describe_manifest(manifest)
    if json:
        typer.echo(jsonlib.dumps(described, indent=1))
        return
    others = [
        other.weights
        for other in catalog.load_manifests()
        if other.name == manifest.name and other.weights != manifest.weights
    ]
    print_table([], _detail_rows(manifest, others))


@app.command()
def pull(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="REF",
            autocompletion=complete_model,
            help="Models: NAME, NAME@WEIGHTS, or timm:NAME.",
            show_default=False,
        ),
    ],
    offline: Offline = False,
    no_progress: NoProgress = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch and verify weights, and print the path of each file."""
    console.configure_console(be_quiet=quiet, be_debug=debug, show_progress=not no_progress)
    from imgclassify.hub.loader import load_network
    from imgclassify.hub.network import LoadOptions

    models = [ModelReference.parse(reference) for reference in references]
    for model in models:
        if not model.kind.has_cached_weights:
            raise UsageError(f"{model.text!r} has no weights to pull", hint="give a catalogued model or timm:NAME")
    failed = 0
    for model in models:
        try:
            with console.download_progress() as progress:
                network = load_network(model, LoadOptions(offline=offline, progress=progress))
        except UnavailableError as error:
            if len(references) == 1:
                raise
            failed += 1
            console.print_error(str(error), error.hint)
        else:
            typer.echo(str(network.path))
    if failed:
        raise WeightsError(f"{failed} of {len(references)} models could not be pulled", hint="see the errors above")


@app.command()
@with_option_groups
def prepare(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            autocompletion=complete_model,
            help="Model that runs in torch: timm:NAME, hub:REPO/ENTRYPOINT, a file, or NAME with --crop-size.",
            show_default=False,
        ),
    ],
    loading: LoadingOptions,
    crop_size: Annotated[
        str | None,
        typer.Option(
            "--crop-size", metavar="N", help="Crop size in pixels, if not the model's own.", show_default=False
        ),
    ] = None,
    offline: Offline = False,
    no_progress: NoProgress = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export a model to a graph once, so that it starts without torch. Prints the graph's folder.

    The graph is kept only if its probabilities match those of torch.

    Needs the "export" extra of imgclassify.
    """
    console.configure_console(be_quiet=quiet, be_debug=debug, show_progress=not no_progress)
    from imgclassify.hub.export_cache import prepare_model
    from imgclassify.hub.network import LoadOptions, PreprocessOverrides

    side = parse_size("--crop-size", crop_size)
    overrides = PreprocessOverrides(crop_size=(side, side) if isinstance(side, int) else side)
    with console.download_progress() as progress:
        folder = prepare_model(
            ModelReference.parse(reference),
            LoadOptions(
                arch=loading.arch,
                labels=loading.labels,
                trust=loading.trust,
                overrides=overrides,
                offline=offline,
                progress=progress,
            ),
        )
    typer.echo(str(folder))


@app.command()
def verify(
    references: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REF",
            autocompletion=complete_model,
            help="Models to verify. Default: every model in the cache.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Hash cached weights again and compare them with their published SHA-256."""
    console.configure_console(be_debug=debug)
    manifests = [_find_manifest(reference) for reference in references or []]
    bad = 0
    for manifest in (
        manifests if references else (each for each in catalog.load_manifests() if weights.is_cached(each.url))
    ):
        try:
            file = weights.verify_weights(manifest.url, manifest.sha256)
        except WeightsError as error:
            bad += 1
            console.print_error(str(error), error.hint)
            state = "wrong" if isinstance(error, HashMismatchError) else "absent"
            typer.echo(f"{state}\t{manifest.reference}")
        else:
            typer.echo(f"ok\t{manifest.reference}\t{file.sha256}")
    if bad:
        raise WeightsError(
            f"weights absent or not as published: {bad}", hint="run `imgclassify models pull` to fetch them again"
        )


@app.command()
def remove(references: References, debug: Debug = False) -> None:
    """Remove weights from the cache."""
    console.configure_console(be_debug=debug)
    for manifest in [_find_manifest(reference) for reference in references]:
        removed = weights.remove_cached(manifest.url)
        console.print_message(f"{manifest.reference}: {'removed' if removed else 'was not in the cache'}")


@app.command()
def path(references: References, debug: Debug = False) -> None:
    """Print the path of weights, whether or not they are in the cache. Fetches nothing."""
    console.configure_console(be_debug=debug)
    for manifest in [_find_manifest(reference) for reference in references]:
        typer.echo(str(weights.cache_path(manifest.url)))
        if not weights.is_cached(manifest.url):
            console.print_message(
                f"{manifest.reference} is not in the cache; run `imgclassify models pull` to fetch it"
            )


def _find_manifest(reference: str) -> "ModelManifest":
    model = ModelReference.parse(reference)
    if not model.kind.in_catalog:
        raise UsageError(
            f"{reference!r} is not in the catalog",
            hint="look in the Hugging Face cache (HF_HOME) for timm, in torch's cache for torch.hub",
        )
    return model.loader().find_architecture(model)


def _describe_manifest(manifest: "ModelManifest") -> dict[str, Any]:
    return manifest.to_dict() | {"url": weights.public_url(manifest.url), "cached": weights.is_cached(manifest.url)}


def _table_row(manifest: "ModelManifest") -> list[str]:
    metadata = manifest.metadata
    numbers = ["", "", "", "", ""]
    if metadata:
        numbers = [
            f"{metadata.acc1:.2f}",
            f"{metadata.acc5:.2f}",
            f"{metadata.num_params / 1e6:.1f}",
            f"{metadata.gflops:.2f}",
            f"{metadata.file_size_mib:.1f}",
        ]
    star = "*" if manifest.default else ""
    return [manifest.name, manifest.weights, star, *numbers, "yes" if weights.is_cached(manifest.url) else ""]


def _detail_rows(manifest: "ModelManifest", others: list[str]) -> list[list[str]]:
    rows = [
        ["model", manifest.name],
        ["weights", manifest.weights + (" (default)" if manifest.default else "")],
        ["other weights", ", ".join(others) or "none"],
        ["architecture", f"{manifest.architecture} ({manifest.provider})"],
        ["labels", f"{manifest.label_set}, {manifest.num_classes} classes"],
        ["url", weights.public_url(manifest.url)],
        ["sha256", f"{manifest.sha256}{'…' if len(manifest.sha256) < 64 else ''}"],
        [
            "file",
            f"{weights.cache_path(manifest.url)}{'' if weights.is_cached(manifest.url) else ' (not fetched yet)'}",
        ],
    ]
    rows += [[name, _format_value(value)] for name, value in manifest.preprocess.to_dict().items()]
    if manifest.metadata:
        metadata = manifest.metadata
        rows += [
            ["acc@1, acc@5", f"{metadata.acc1} %, {metadata.acc5} %"],
            ["parameters", f"{metadata.num_params:,}"],
            ["GFLOPS", f"{metadata.gflops}"],
            ["minimum size", "×".join(map(str, metadata.min_size))],
            ["file size", f"{metadata.file_size_mib} MiB"],
            ["licence", metadata.license or "none stated by the publisher"],
            ["recipe", metadata.recipe or "none stated by the publisher"],
        ]
    return rows


def _format_value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
