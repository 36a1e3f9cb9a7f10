"""The weights files on this machine: finds, fetches, verifies and removes them. The cache is torch.hub's own.

The transfer of bytes is in downloads.py. The digests are compared in verification.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from imgclassify import files, paths
from imgclassify.errors import DownloadError, HashMismatchError, OfflineError, WeightsError
from imgclassify.http.addresses import public_url
from imgclassify.weights.locations import cache_path, is_remote, mirrored_url, url_scheme
from imgclassify.weights.verification import (
    WeightsFile,
    hash_file,
    inspect_file,
    read_verification,
    verification_path,
    write_verification,
)

Progress = Callable[[str, int, int | None], None]
"""Called often, with the name of a file, the bytes so far, and the total (None if it is not known)."""

logger = logging.getLogger("imgclassify")


def is_cached(url: str) -> bool:
    """Whether there is a file for this URL. Use `verify_weights` to find out if it is the right one."""
    try:
        return cache_path(url).is_file()
    except (WeightsError, OSError):
        return False


def fetch_weights(url: str, sha256: str, *, offline: bool = False, progress: Progress | None = None) -> WeightsFile:
    """Returns the verified file of a URL. Downloads it if it is not in the cache, or is not the expected file.

    Args:
        sha256: the published digest or its beginning, 8 to 64 lower-case hex digits. "" if none is published: a
            download is then compared with the digest that was seen first.
        offline: whether to use only what is on this machine.
        progress: called during a download.

    Raises:
        OfflineError: the file is not in the cache, and `offline` is True.
        DownloadError: the server did not deliver the file.
        HashMismatchError: the file, downloaded or on this machine, is not the expected one.
        WeightsError: the URL cannot be used, or a folder cannot be written.
    """
    path = cache_path(url)
    found = inspect_file(url, path, sha256)
    if found and not found.wrong:
        return found.file
    wrong = found.wrong if found else None
    if not is_remote(url):
        raise wrong or _missing_error(url, path)
    source = mirrored_url(url, path.name)
    if url_scheme(source) != "file" and offline:
        raise wrong or _offline_error(url, path, sha256)
    with _lock_weights(path):
        # Another process may have fetched it while this one waited.
        found = inspect_file(url, path, sha256)
        if found and not found.wrong:
            return found.file
        if found:
            aside = path.with_name(f"{path.name}.rejected-{found.file.sha256[:8]}")
            logger.warning("%s; it is kept as %s, and the file is downloaded again", found.wrong, aside.name)
            path.replace(aside)
        try:
            return _download_verified(url, source, path, sha256, progress)
        except DownloadError as error:
            error.hint = f"{error.hint}; or put the file at {path}"
            raise


def verify_weights(url: str, sha256: str) -> WeightsFile:
    """Returns the file of a URL after reading and hashing it now, even if it was verified earlier.

    Raises:
        HashMismatchError: the file is not the expected one.
        WeightsError: the file does not exist, or cannot be read.
    """
    path = cache_path(url)
    found = inspect_file(url, path, sha256, trust_earlier=False)
    if not found:
        raise _missing_error(url, path)
    if found.wrong:
        raise found.wrong
    return found.file


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a local file, and records it so that an unchanged file is not read again.

    Raises:
        WeightsError: the file does not exist, or cannot be read.
    """
    return fetch_weights(path.absolute().as_uri(), "").sha256


def cached_files(url: str) -> list[Path]:
    """Returns the files that downloads of a URL have left on this machine.

    These are the file itself, a partial file, and files that were set aside as wrong.
    """
    if not is_remote(url):
        return []
    path = cache_path(url)
    rejected = sorted(path.parent.glob(f"{escape(path.name)}.rejected-*"))
    return [file for file in (path, _partial_path(path), *rejected) if os.path.lexists(file) and not file.is_dir()]


def remove_cached(url: str) -> bool:
    """Removes all that is cached for a URL: the file, a partial file, files set aside, and the verification.

    Returns:
        False if there was nothing to remove.

    Raises:
        WeightsError: the file is not a download but belongs to a package or the user, or it cannot be removed.
    """
    path = cache_path(url)
    if not is_remote(url):
        raise WeightsError(f"{path} is not a download", hint="only downloaded files can be removed")
    doomed = cached_files(url)
    if os.path.lexists(verification_path(url, path)):
        doomed.append(verification_path(url, path))
    if doomed:
        with _lock_weights(path) as lock:
            for file in doomed:
                file.unlink(missing_ok=True)
            # Windows refuses this while the lock is held. An empty file then remains.
            with suppress(OSError):
                lock.unlink()
    return bool(doomed)


def leftover_files() -> list[Path]:
    """Returns the lock files of downloads, and what broken downloads left beside them, of any model.

    The files of torch.hub itself have no lock.
    """
    found = []
    for lock in sorted((paths.torch_hub_folder().absolute() / "checkpoints").glob("*.lock")):
        if lock.is_file() and lock.stat().st_size == 0:
            path = lock.with_suffix("")
            rejected = sorted(path.parent.glob(f"{escape(path.name)}.rejected-*"))
            found += [file for file in (_partial_path(path), *rejected, lock) if file.is_file()]
    return found


def remove_leftover(file: Path) -> None:
    """Removes one of `leftover_files`. Waits while another process downloads that file.

    Raises:
        WeightsError: it cannot be removed.
    """
    if not file.exists():
        return
    path = file.with_suffix("")  # removes .lock, .partial or .rejected-DIGEST
    with _lock_weights(path) as lock:
        if file == lock:
            with suppress(OSError):  # Windows refuses this while the lock is held
                lock.unlink()
        else:
            file.unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _download_verified(url: str, source: str, path: Path, sha256: str, progress: Progress | None) -> WeightsFile:
    from imgclassify.weights import downloads  # imports requests

    def report(received: int, total: int | None) -> None:
        if progress:
            progress(path.name, received, total)

    earlier = read_verification(url, path)
    expected = sha256 or (earlier.sha256 if earlier and earlier.url == public_url(url) else "")
    partial = _partial_path(path)
    if not expected:
        # The file on the server may have changed since these bytes arrived, and no digest would reveal that.
        partial.unlink(missing_ok=True)
    logger.info("downloading %s to %s", public_url(source), path)
    resumed = downloads.download_file(source, partial, report)
    digest = hash_file(partial)
    if resumed and not digest.startswith(expected):
        logger.info("%s: the parts of the download do not fit together; downloading all of it again", path.name)
        partial.unlink()
        downloads.download_file(source, partial, report)
        digest = hash_file(partial)
    if not digest.startswith(expected):
        partial.unlink()
        raise HashMismatchError(
            f"{public_url(source)} has unexpected content: expected SHA-256 {expected}, found {digest}",
            hint="try again later, or set IMGCLASSIFY_MIRROR to another mirror"
            if sha256
            else "the publisher may have changed the file; run `imgclassify models remove` to forget the old one",
        )
    partial.replace(path)
    file = WeightsFile(path, digest)
    write_verification(url, file, path.stat())
    return file


@contextmanager
def _lock_weights(path: Path) -> Iterator[Path]:
    """Lets one process at a time change `path`. Yields the lock file. Errors name the file or its folder."""
    hint = "set TORCH_HOME to another folder for downloaded weights"
    with files.lock_file(path, "fetch it", hint=hint) as lock:
        try:
            yield lock
        except OSError as error:
            raise WeightsError(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error


def _missing_error(url: str, path: Path) -> WeightsError:
    return WeightsError(
        f"{path} does not exist",
        hint="run `imgclassify models pull` to download it"
        if is_remote(url)
        else "put it back, or run `imgclassify models add FILE --name NAME --overwrite` if it has moved",
    )


def _offline_error(url: str, path: Path, sha256: str) -> OfflineError:
    return OfflineError(
        f"{path.name} is not in the cache, and the network may not be used; "
        f"its address is {public_url(url)}, its SHA-256 is {sha256 or 'not published'}",
        hint=f"put the file at {path}, or run without --offline",
    )
