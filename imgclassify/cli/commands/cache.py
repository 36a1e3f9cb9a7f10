"""imgclassify cache: shows and removes what imgclassify has stored on this machine."""

from __future__ import annotations

import json as jsonlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from imgclassify import catalog, paths, weights
from imgclassify.cli import console
from imgclassify.cli.app import CommandApp
from imgclassify.cli.main import COMMANDS
from imgclassify.cli.options.console import Debug, Quiet
from imgclassify.cli.options.output import Json
from imgclassify.cli.stats import format_size
from imgclassify.cli.tables import print_table
from imgclassify.errors import WeightsError

if TYPE_CHECKING:
    from imgclassify.hub.export_cache import PreparedModel

app = CommandApp(no_args_is_help=True, add_completion=False, help=COMMANDS["cache"])

_LOCK, _BROKEN = "lock", "broken download"


class _Entry(NamedTuple):
    """Something that imgclassify has stored, and that can be made again."""

    kind: str
    path: Path
    bytes: int
    model: str
    remove: Callable[[], object]


@app.command()
def info(json: Json = False, debug: Debug = False) -> None:
    """Show the cache folders, and what imgclassify has stored in them, by kind and with sizes."""
    console.configure_console(be_debug=debug)
    entries = list(_find_entries())
    total = sum(entry.bytes for entry in entries)
    if json:
        files = [
            {"path": str(entry.path), "kind": entry.kind, "bytes": entry.bytes, "model": entry.model or None}
            for entry in entries
        ]
        described = {name: str(folder) for name, folder in _cache_folders().items()}
        typer.echo(jsonlib.dumps({"folders": described, "files": files, "bytes": total}, indent=1))
        return
    print_table([], [[name, str(folder)] for name, folder in _cache_folders().items()], wrapped=[1])
    if entries:
        typer.echo()
        rows = [
            [entry.kind, entry.path.name, entry.model, format_size(entry.bytes)]
            for entry in entries
            if entry.kind != _LOCK
        ]
        if locks := sum(entry.kind == _LOCK for entry in entries):
            rows.append([_LOCK, f"{locks} empty", "", format_size(0)])
        print_table(["kind", "name", "model", "size"], [*rows, ["total", "", "", format_size(total)]], right=[3])
    else:
        console.print_message("nothing is stored")


@app.command()
def clear(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove all that imgclassify has stored and can make or download again.

    This is: downloaded weights of catalogued models, remains of broken downloads, prepared graphs, the features of
    images for `train`, the records of verified files, and the folder of torch's compiler.

    The weights are in torch.hub's folder. Files there that belong to no catalogued model are kept.
    """
    console.configure_console(be_quiet=quiet, be_debug=debug)
    freed = 0
    for entry in list(_find_entries()):
        freed += entry.bytes
        typer.echo(str(entry.path))
        if not dry_run:
            entry.remove()
    if not dry_run:
        for folder in (paths.prepared_folder(), paths.cache_folder()):
            with suppress(OSError):  # it does not exist, or holds something of somebody else
                folder.rmdir()
    console.print_message(f"{'would free' if dry_run else 'freed'} {format_size(freed)}")


def _cache_folders() -> dict[str, Path]:
    return {
        "weights": paths.torch_hub_folder() / "checkpoints",
        "records": paths.cache_folder(),
        "prepared": paths.prepared_folder(),
        "own models": catalog.user_models_folder(),
    }


def _find_entries() -> Iterator[_Entry]:
    """Yields what can be removed. The records of verified files come after what they are about: listing prepared
    graphs verifies their files.
    """
    yield from _find_weights()
    for prepared in _list_prepared():
        remove = partial(_remove_prepared, prepared)
        yield _Entry("prepared graph", prepared.folder, prepared.bytes, _describe_prepared(prepared), remove)
    for lock in sorted(paths.prepared_folder().glob("*.lock")):
        yield _Entry(_LOCK, lock, 0, "", partial(_remove_prepared_lock, lock))
    for kind, folder in (
        ("features", paths.features_folder()),
        ("verified files", paths.verified_folder()),
        ("torch compiler", paths.inductor_folder()),
    ):
        if folder.is_dir():
            yield _Entry(kind, folder, _folder_size(folder), "", partial(_remove_folder, folder))


def _find_weights() -> Iterator[_Entry]:
    """Yields the files that downloads left: of catalogued models first, then remains of broken downloads."""
    seen: set[Path] = set()
    for manifest in catalog.load_manifests():
        try:
            files, path = weights.cached_files(manifest.url), weights.cache_path(manifest.url)
        except WeightsError:
            continue  # a URL that names no file has nothing in the cache
        for file in files:
            if file not in seen:  # two models may share a file
                remove = partial(weights.remove_cached, manifest.url)
                kind = "weights" if file == path else _BROKEN
                yield _Entry(kind, file, file.lstat().st_size, manifest.reference, remove)
        seen.update(files)
    for file in weights.leftover_files():
        if file not in seen:
            kind = _LOCK if file.suffix == ".lock" else _BROKEN
            yield _Entry(kind, file, file.lstat().st_size, "", partial(weights.remove_leftover, file))


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


def _remove_prepared_lock(lock: Path) -> None:
    from imgclassify.hub import export_cache

    export_cache.remove_lock(lock)


def _folder_size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def _remove_folder(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise WeightsError(f"cannot remove {folder}: {error.strerror}", hint="remove the folder by hand") from error
