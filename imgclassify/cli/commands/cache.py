"""imgclassify cache: shows and removes the cached weights and graphs."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imgclassify import catalog, paths, weights
from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.main import COMMANDS
from imgclassify.cli.options import Debug, Json, Quiet
from imgclassify.cli.tables import print_table
from imgclassify.errors import WeightsError

if TYPE_CHECKING:
    from imgclassify.catalog import ModelManifest
    from imgclassify.hub.export_cache import PreparedModel

app = CommandApp(no_args_is_help=True, add_completion=False, help=COMMANDS["cache"])


@app.command()
def info(json: Json = False, debug: Debug = False) -> None:
    """Show the cache folders, the cached weights of catalogued models, the prepared graphs, and their sizes."""
    console.configure_console(be_debug=debug)
    entries = [
        (file, file.lstat().st_size, manifest.reference)
        for manifest, files in _cached_weights().values()
        for file in files
    ]
    entries += [(entry.folder, entry.bytes, _describe_prepared(entry)) for entry in _list_prepared()]
    total = sum(size for _, size, _ in entries)
    if json:
        files = [{"path": str(file), "bytes": size, "model": model} for file, size, model in entries]
        described = {name: str(folder) for name, folder in _cache_folders().items()}
        typer.echo(jsonlib.dumps({"folders": described, "files": files, "bytes": total}, indent=1))
        return
    print_table([], [[name, str(folder)] for name, folder in _cache_folders().items()], wrapped=[1])
    if entries:
        typer.echo()
        rows = [[file.name, model, f"{size / 2**20:.1f}"] for file, size, model in entries]
        print_table(
            ["file", "model", "MiB"], [*rows, ["total", "", f"{total / 2**20:.1f}"]], right=[2], wrapped=[0, 1]
        )
    else:
        console.print_message("no downloaded weights and no prepared graphs")


@app.command()
def clear(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove all downloaded weights of catalogued models, remains of broken downloads, and all prepared graphs.

    The weights are in torch.hub's folder. Files there that belong to no catalogued model are kept.
    """
    console.configure_console(be_quiet=quiet, be_debug=debug)
    freed = 0
    for manifest, files in _cached_weights().values():
        freed += sum(file.lstat().st_size for file in files)
        for file in files:
            typer.echo(str(file))
        if not dry_run:
            weights.remove_cached(manifest.url)
    for entry in _list_prepared():
        freed += entry.bytes
        typer.echo(str(entry.folder))
        if not dry_run:
            _remove_prepared(entry)
    console.print_message(f"{'would free' if dry_run else 'freed'} {freed / 2**20:.1f} MiB")


def _cache_folders() -> dict[str, Path]:
    return {
        "weights": paths.torch_hub_folder() / "checkpoints",
        "records": paths.cache_folder(),
        "prepared": paths.prepared_folder(),
        "own models": catalog.user_models_folder(),
    }


def _list_prepared() -> list[PreparedModel]:
    if not paths.prepared_folder().is_dir():
        return []
    from imgclassify.hub import export_cache

    return list(export_cache.list_prepared())


def _describe_prepared(entry: PreparedModel) -> str:
    name = " ".join(filter(None, [entry.reference or "prepared", entry.arch and f"--arch {entry.arch}"]))
    return name if entry.valid else f"{name} (no longer usable)"


def _remove_prepared(entry: PreparedModel) -> None:
    from imgclassify.hub import export_cache

    export_cache.remove_prepared(entry)


def _cached_weights() -> dict[Path, tuple[ModelManifest, list[Path]]]:
    """Finds the files that downloads for catalogued models left.

    Returns:
        (model, files) by the path of the weights, which two models may share. The files are the weights, a
        partial download, and files set aside as wrong.
    """
    found = {}
    for manifest in catalog.load_manifests():
        try:
            files = weights.cached_files(manifest.url)
        except WeightsError:
            continue  # a URL that names no file has nothing in the cache
        if files:
            found[weights.cache_path(manifest.url)] = (manifest, files)
    return found
