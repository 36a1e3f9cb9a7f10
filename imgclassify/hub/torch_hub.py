"""Loads models from torch.hub repositories: hub:owner/repo[:ref]/entrypoint, hub:./folder/entrypoint.

Loading a model runs the repository's own Python code, so nothing is loaded without `--trust`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import paths
from imgclassify.errors import (
    CheckpointError,
    DownloadError,
    OfflineError,
    UnknownModelError,
    UntrustedCodeError,
    UsageError,
    name_type,
)
from imgclassify.hub import from_arch
from imgclassify.hub.backends import PREPARE_HINT, Backends
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.reference import ModelReference, ReferenceLoader

if TYPE_CHECKING:
    import torch

_TIMEOUT_S = 30.0
"""Limit for each operation of a socket. torch.hub sets none."""


class TorchHubLoader(ReferenceLoader):
    """Loads torch.hub models; see ReferenceLoader. The repository's own code loads the weights."""

    def load_network(self, reference: ModelReference, options: LoadOptions) -> Network:
        repository, entrypoint = _split_reference(reference)
        if not options.trust:
            raise UntrustedCodeError(
                f"{reference.text} runs Python code of {repository!r} on this machine",
                hint="read that code; if you trust it, give --trust",
            )
        preprocess, labels = from_arch.preprocess_and_labels(reference.text, options)
        local = _is_local(repository)
        folder = _local_folder(repository) if local else _cached_folder(repository, options.offline)
        build = partial(
            _build_network,
            str(folder or repository),
            entrypoint,
            "local" if folder else "github",
            offline=options.offline,
        )
        return Network(
            model=reference.text,
            architecture=entrypoint,
            weights=entrypoint,
            path=None,
            sha256=None,
            preprocess=preprocess,
            labels=labels,
            num_classes=None,
            backends=Backends(build, None, "torch.hub models run in torch", PREPARE_HINT),
        )

    def cache_key(self, reference: ModelReference) -> dict[str, Any]:
        return super().cache_key(reference) | {"code": _code_digest(reference.value.rpartition("/")[0])}


def _split_reference(reference: ModelReference) -> tuple[str, str]:
    """Splits a reference into (repository, entrypoint).

    Raises:
        UsageError: the reference is malformed.
    """
    repository, slash, entrypoint = reference.value.rpartition("/")
    if not (slash and repository and entrypoint):
        raise UsageError(
            f"malformed model reference {reference.text!r}",
            hint="write hub:owner/repo/entrypoint, hub:owner/repo:ref/entrypoint, or hub:./folder/entrypoint",
        )
    if not _is_local(repository) and len(repository.split(":")[0].split("/")) != 2:
        raise UsageError(
            f"malformed model reference {reference.text!r}: {repository!r} is not of the form owner/repo",
            hint="write hub:owner/repo/entrypoint, or hub:./folder/entrypoint for a folder",
        )
    return repository, entrypoint


def _code_digest(repository: str) -> str:
    """Returns a digest of the repository's files on this machine.

    It covers the content of Python files, and the sizes and modification times of others, such as weights.
    """
    folders = [_absolute_path(repository)] if _is_local(repository) else _cache_folders(repository)
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in folder.rglob("*") if file.is_file()):
        if {"__pycache__", ".git"}.isdisjoint(file.parts):
            status = file.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns}".encode()
            content = file.read_bytes() if file.suffix == ".py" else stamp
            digest.update(os.fsencode(file) + b"\0" + content)
    return digest.hexdigest()


def _absolute_path(repository: str) -> Path:
    return Path(os.path.expanduser(repository)).absolute()  # noqa: PTH111 - Path's own raises for unknown users


def _is_local(repository: str) -> bool:
    return repository.startswith((".", "/", "~")) or Path(repository).is_absolute()


def _cache_folders(repository: str) -> list[Path]:
    """Returns the folders in which torch.hub keeps the repository, or may keep it."""
    name, _, ref = repository.partition(":")
    hub = paths.torch_hub_folder()
    return [hub / f"{name}_{branch}".replace("/", "_") for branch in ([ref] if ref else ["main", "master"])]


def _local_folder(repository: str) -> Path:
    folder = _absolute_path(repository)
    if not (folder / "hubconf.py").is_file():
        raise UnknownModelError(
            f"no torch.hub repository in {str(folder)!r}", hint="give a folder that contains a hubconf.py"
        )
    return folder


def _cached_folder(repository: str, offline: bool) -> Path | None:
    """Returns the repository's folder in torch.hub's cache, or None if torch.hub is to find or fetch it.

    Raises:
        OfflineError: `offline` is set, and the repository is not in the cache.
    """
    folders = _cache_folders(repository)
    for folder in folders:
        if folder.is_dir() and (":" in repository or offline):
            return folder
    if offline:
        raise OfflineError(
            f"the repository {repository} is not in {folders[0].parent}, and --offline forbids fetching it",
            hint=f"run once without --offline, or put the repository in {folders[0]}",
        )
    return None


def _build_network(repository: str, entrypoint: str, source: str, *, offline: bool) -> torch.nn.Module:
    from urllib.error import URLError

    import torch

    try:
        with _guarded_environment(offline=offline):
            try:
                network = _call_entrypoint(repository, entrypoint, source, pretrained=True)
            except TypeError as error:
                # Not every entrypoint has the argument. One without it returns a network with its weights.
                if "pretrained" not in str(error):
                    raise
                network = _call_entrypoint(repository, entrypoint, source)
    except (URLError, TimeoutError) as error:
        raise DownloadError(
            f"cannot fetch {repository} for torch.hub: {error}",
            hint="check the network and the name, or give a folder: hub:./folder/entrypoint",
        ) from error
    except OfflineError:  # from _guarded_environment
        raise
    except RuntimeError as error:
        if "Cannot find callable" not in str(error):
            raise _entrypoint_error(repository, entrypoint, error) from error
        raise UnknownModelError(
            f"{repository} has no entrypoint {entrypoint!r}", hint="give one that its hubconf.py defines"
        ) from error
    except (Exception, SystemExit) as error:
        raise _entrypoint_error(repository, entrypoint, error) from error
    if not isinstance(network, torch.nn.Module):
        raise CheckpointError(
            f"the entrypoint {entrypoint!r} of {repository} returns {name_type(network)}, not a network",
            hint="choose an entrypoint that returns a torch.nn.Module",
        )
    return network


def _call_entrypoint(repository: str, entrypoint: str, source: str, **arguments: Any) -> Any:
    import torch

    return torch.hub.load(  # type: ignore[no-untyped-call]
        repository, entrypoint, source=source, trust_repo=True, verbose=False, **arguments
    )


def _entrypoint_error(repository: str, entrypoint: str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"the entrypoint {entrypoint!r} of {repository} failed: {type(error).__name__}: {error}",
        hint="look for the fault in the repository's code or in a package it needs, with --debug",
    )


@contextlib.contextmanager
def _guarded_environment(*, offline: bool) -> Iterator[None]:
    """Restricts torch.hub's and the repository's code in the `with` block.

    Its stdout goes to stderr, and its sockets have a time limit. If `offline` is set, connecting a socket
    raises OfflineError.
    """
    timeout, connect = socket.getdefaulttimeout(), socket.socket.connect

    def refuse(connection: socket.socket, address: Any) -> None:
        connection.close()
        raise OfflineError(
            f"the repository's code would connect to {address!r}, and --offline forbids it",
            hint="run once without --offline, so that what it fetches is cached",
        )

    socket.setdefaulttimeout(_TIMEOUT_S)
    if offline:
        socket.socket.connect = refuse  # type: ignore[method-assign, assignment]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(timeout)
        socket.socket.connect = connect  # type: ignore[method-assign]
