"""imgclassify models: lists models, and manages weights and graphs on this machine."""

import json as jsonlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgclassify import catalog, weights
from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.main import COMMANDS
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.option_values import complete_catalogued, complete_from, complete_model, parse_size
from imgclassify.cli.options.console import Debug, NoProgress, Quiet
from imgclassify.cli.options.model import LoadingOptions, Offline
from imgclassify.cli.options.output import Json
from imgclassify.cli.options.preprocessing import PreprocessingOptions
from imgclassify.cli.tables import print_table
from imgclassify.errors import HashMismatchError, UnavailableError, UsageError, WeightsError
from imgclassify.hub.reference import ModelReference

if TYPE_CHECKING:
    from imgclassify.catalog import ModelManifest

app = CommandApp(no_args_is_help=True, add_completion=False, help=COMMANDS["models"])

_COLUMNS = ("model", "weights", "", "acc@1 %", "acc@5 %", "params M", "GFLOPS", "MiB", "cached")
_OPTIONAL = ("acc@5 %", "GFLOPS", "MiB", "params M", "acc@1 %", "")
"""The columns that a narrow terminal leaves out, the first one first."""

_NO_WEIGHTS = "none"
"""In place of the weights of an architecture without weights."""
_LOADED = ("Hugging Face", "folder", "file")
"""The kinds of reference that `models show` loads."""

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
    cached: Annotated[
        bool, typer.Option("--cached", help="Only models whose weights are on this machine.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the catalogued models. A star marks the default weights of an architecture.

    Architectures without weights are listed too: for --arch, and for training.
    """
    console.configure_console(be_debug=debug)
    if sort not in catalog.SORT_KEYS:
        raise UsageError(f"unknown sort key {sort!r}", hint=f"use one of {', '.join(catalog.SORT_KEYS)}")
    found = catalog.load_manifests()
    if pattern is not None:
        found = catalog.filter_models(found, pattern)
        if not found:
            catalog.find_model(pattern)  # raises an error that lists the nearest names
    if cached:
        num_found = len(found)
        found = [manifest for manifest in found if weights.is_cached(manifest.url)]
        if not found:
            console.print_message(
                f"the weights of none of these {num_found} models are in the cache; "
                "run `imgclassify models pull` to fetch them"
            )
    found.sort(key=catalog.SORT_KEYS[sort])
    if json:
        typer.echo(jsonlib.dumps([_describe_manifest(manifest) for manifest in found], indent=1))
    elif found:
        print_table(
            list(_COLUMNS),
            [_table_row(manifest) for manifest in found],
            right=range(3, 8),
            optional=[_COLUMNS.index(title) for title in _OPTIONAL],
            wrapped=[0, 1],
        )


@app.command()
@with_option_groups
def show(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            autocompletion=complete_catalogued,
            help="Model: NAME, NAME@WEIGHTS, timm:NAME, hf:OWNER/REPO, a folder, or a file.",
            show_default=False,
        ),
    ],
    loading: LoadingOptions,
    preprocessing: PreprocessingOptions,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show all details of a model: weights, preprocessing, labels, accuracy, licence. Fetches nothing.

    A file or folder is loaded as `imgclassify predict` loads it, with the same options.
    """
    console.configure_console(be_debug=debug)
    model = ModelReference.parse(reference)
    if model.kind.name not in _LOADED and (
        asdict(loading) != asdict(LoadingOptions()) or asdict(preprocessing) != asdict(PreprocessingOptions())
    ):
        raise UsageError(
            f"these options are for files and folders, and {reference!r} has values of its own",
            hint=f"run `imgclassify models show {reference}`",
        )
    if model.kind.in_catalog:
        _show_manifest(_find_manifest(reference), json=json)
        return
    from imgclassify import model_details

    if model.kind.name in _LOADED:
        described = model_details.describe_file(
            reference,
            offline=True,
            **loading.classifier_arguments(),
            **preprocessing.classifier_arguments(),
        )
    elif model.kind.name == "timm":
        described = model_details.describe_timm(model)
    else:
        raise UsageError(
            f"{reference!r} cannot be shown: only its own code knows what it is",
            hint="read the code of the repository, or run `imgclassify predict -v` with the model",
        )
    if json:
        typer.echo(jsonlib.dumps(described, indent=1))
    else:
        print_table([], _fact_rows(described), wrapped=[1])


def _show_manifest(manifest: "ModelManifest", *, json: bool) -> None:
    from imgclassify.hub.backends import find_engines

    engines = find_engines(manifest)
    path = weights.cache_path(manifest.url) if manifest.has_weights else None
    described = _describe_manifest(manifest) | {
        "path": str(path) if path else None,
        "bytes": path.stat().st_size if path and path.is_file() else None,
        "changed": _is_changed(manifest),
        "engines": engines,
    }
    if json:
        typer.echo(jsonlib.dumps(described, indent=1))
        return
    others = [
        other.weights
        for other in catalog.load_manifests()
        if other.name == manifest.name and other.weights != manifest.weights
    ]
    print_table([], [*_detail_rows(manifest, others), ["engines", _format_engines(engines)]], wrapped=[1])


@app.command()
@with_option_groups
def add(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Model file: a checkpoint, an .onnx graph, or a TorchScript program.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str,
        typer.Option("--name", metavar="NAME", help="Name to use the model by: -m NAME.", show_default=False),
    ],
    loading: LoadingOptions,
    preprocessing: PreprocessingOptions,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier model that was added under this name.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Give a name to a model file of your own. Prints the path of the manifest that is written.

    The model is loaded once, so that one that does not work is not added.

    The file stays where it is, and its SHA-256 is recorded. The labels are copied.
    """
    console.configure_console(be_quiet=quiet, be_debug=debug)
    from imgclassify.own_models import add_model

    manifest = add_model(
        file,
        name,
        **loading.classifier_arguments(),
        overwrite=overwrite,
        **preprocessing.classifier_arguments(),
    )
    typer.echo(manifest.origin)
    console.print_message(
        f"added {name}: {manifest.architecture}, {manifest.num_classes} classes; "
        f"use it with `imgclassify predict IMAGE -m {name}`"
    )


@app.command()
def pull(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="REF",
            autocompletion=complete_model,
            help="Models: NAME, NAME@WEIGHTS, timm:NAME, or hf:OWNER/REPO.",
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
            raise UsageError(
                f"{model.text!r} has no weights to pull", hint="give a catalogued model, timm:NAME or hf:OWNER/REPO"
            )
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
            help="Model that runs in torch: timm:NAME, hf:OWNER/REPO, hub:REPO/ENTRYPOINT, a folder, a file, or "
            "NAME with --crop-size.",
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
    arguments = loading.classifier_arguments()
    activation = arguments.pop("activation")
    with console.download_progress() as progress:
        folder = prepare_model(
            ModelReference.parse(reference),
            LoadOptions(
                **arguments,
                activation=None if activation == "auto" else activation,
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
    manifests = [_find_weights(reference) for reference in references or []]
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
            f"weights absent or not as published: {bad}",
            hint="run `imgclassify models pull` to fetch downloads again",
        )


@app.command()
def remove(references: References, debug: Debug = False) -> None:
    """Remove weights from the cache, or the names of your own files that `models add` has added.

    Your own files are kept.
    """
    console.configure_console(be_debug=debug)
    for manifest in [_find_weights(reference) for reference in references]:
        if manifest.file:
            from imgclassify.own_models import remove_model

            removed_file = remove_model(manifest)
            console.print_message(f"{manifest.name}: removed {removed_file}; {manifest.file} is kept")
            continue
        removed = weights.remove_cached(manifest.url)
        console.print_message(f"{manifest.reference}: {'removed' if removed else 'was not in the cache'}")


@app.command()
def path(references: References, debug: Debug = False) -> None:
    """Print the path of weights, whether or not they are in the cache. Fetches nothing."""
    console.configure_console(be_debug=debug)
    for manifest in [_find_weights(reference) for reference in references]:
        typer.echo(str(weights.cache_path(manifest.url)))
        if manifest.file and not weights.is_cached(manifest.url):
            console.print_message(f"the file of {manifest.reference} does not exist")
        elif not weights.is_cached(manifest.url):
            console.print_message(
                f"{manifest.reference} is not in the cache; run `imgclassify models pull` to fetch it"
            )


def _find_manifest(reference: str) -> "ModelManifest":
    model = ModelReference.parse(reference)
    if not model.kind.in_catalog:
        raise UsageError(
            f"{reference!r} is not in the catalog",
            hint="look in the Hugging Face cache (HF_HOME) for timm: and hf:, in torch's cache for torch.hub",
        )
    return model.loader().find_architecture(model)


def _find_weights(reference: str) -> "ModelManifest":
    manifest = _find_manifest(reference)
    catalog.require_weights(manifest)
    return manifest


def _describe_manifest(manifest: "ModelManifest") -> dict[str, Any]:
    return manifest.to_dict() | {"url": weights.public_url(manifest.url), "cached": weights.is_cached(manifest.url)}


def _is_changed(manifest: "ModelManifest") -> bool:
    """Whether the user's own file of a model is no longer the one that was added."""
    if not (manifest.file and weights.is_cached(manifest.url)):
        return False
    try:
        weights.fetch_weights(manifest.url, manifest.sha256)
    except HashMismatchError:
        return True
    return False


def _describe_path(manifest: "ModelManifest") -> str:
    path = weights.cache_path(manifest.url)
    if not weights.is_cached(manifest.url):
        return f"{path} ({'does not exist' if manifest.file else 'not fetched yet'})"
    state = f"{path.stat().st_size / 2**20:.1f} MiB"
    return f"{path} ({state}{', has changed since `models add`' if _is_changed(manifest) else ''})"


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
    star = "*" if manifest.default and manifest.has_weights else ""
    name = manifest.weights or _NO_WEIGHTS
    return [manifest.name, name, star, *numbers, "yes" if weights.is_cached(manifest.url) else ""]


def _detail_rows(manifest: "ModelManifest", others: list[str]) -> list[list[str]]:
    rows = [["model", manifest.name], *_weights_rows(manifest, others)]
    rows += [[name, _format_value(value)] for name, value in manifest.preprocess.to_dict().items()]
    own = _own_calibration_rows(manifest)
    if manifest.calibration:
        calibration = manifest.calibration
        use = "used with --calibrated where your own does not fit" if own else "used with --calibrated"
        rows += [
            ["temperature", f"{calibration.temperature}, {use}"],
            ["ECE", f"{100 * calibration.ece_before:.2f} %, with it {100 * calibration.ece_after:.2f} %"],
            ["measured by", calibration.source],
        ]
    rows += own
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


def _weights_rows(manifest: "ModelManifest", others: list[str]) -> list[list[str]]:
    architecture = ["architecture", f"{manifest.architecture} ({manifest.provider})"]
    if not manifest.has_weights:
        return [["weights", _NO_WEIGHTS], architecture, ["labels", "those of the weights that it gets"]]
    return [
        ["weights", manifest.weights + (" (default)" if manifest.default else "")],
        ["other weights", ", ".join(others) or "none"],
        architecture,
        ["labels", f"{manifest.label_set}, {manifest.num_classes} classes"],
        *([] if manifest.file else [["url", weights.public_url(manifest.url)]]),
        ["sha256", f"{manifest.sha256}{'…' if len(manifest.sha256) < 64 else ''}"],
        ["file", _describe_path(manifest)],
    ]


def _own_calibration_rows(manifest: "ModelManifest") -> list[list[str]]:
    """Returns the row of the user's own calibration of the weights, which comes before the published one."""
    from imgclassify.confidence.calibration import Calibration, user_calibration_path

    path = user_calibration_path(manifest.sha256) if manifest.has_weights else None
    if path is None or not path.is_file():
        return []
    try:
        text = f"{Calibration.read(path).describe()}; used with --calibrated"
    except UsageError as error:
        text = str(error)
    return [["your own", text]]


def _fact_rows(described: dict[str, Any]) -> list[list[str]]:
    """Returns the rows for a model that is not in the catalog. `described` is as model_details returns it."""
    facts = {"model" if key == "name" else key: value for key, value in described.items()}
    size, engines = facts.pop("bytes"), facts.pop("engines")
    spec, features, path = facts.pop("preprocess"), facts.pop("features"), facts.pop("path")
    facts.pop("cached", None)
    origins = facts.pop("origins", {})
    if "license" in facts:
        facts["licence"] = facts.pop("license") or "none stated by the publisher"
    classes = facts.pop("num_classes")
    facts["labels"] = f"{facts.pop('label_set') or 'none of its own'}, {classes} classes"
    return [
        *([name, str(value)] for name, value in facts.items() if value is not None),
        ["file", f"{path} ({size / 2**20:.1f} MiB)" if path else "not fetched yet"],
        *([name, _format_value(value)] for name, value in spec.items()),
        *([["of its files", console.format_origins(origins)]] if origins else []),
        ["engines", _format_engines(engines)],
        ["features", "yes" if features else "cannot be found"],
    ]


def _format_engines(engines: list[str]) -> str:
    return "onnxruntime; torch on a GPU" if len(engines) > 1 else engines[0]


def _format_value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
