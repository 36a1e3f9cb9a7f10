"""The download of one file from one URL: resuming broken transfers, retrying, and giving up.

This module does not check the contents of the file. It imports requests.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from time import sleep
from typing import NoReturn
from urllib.parse import urlsplit

import requests

from imgclassify.errors import DownloadError, WeightsError
from imgclassify.files import is_pipe_or_device
from imgclassify.http import client
from imgclassify.http.addresses import public_url
from imgclassify.weights.locations import file_path

CONNECT_TIMEOUT = 10.0
"""Seconds within which a server must accept the connection."""
READ_TIMEOUT = 30.0
"""Longest silence, in seconds, of a server that has more bytes to send."""
MAX_FILE_BYTES = 2**35
"""Maximum size of a file, whether the server announces its size or not. The largest checkpoints of image
classifiers have a tenth of it."""
CHUNK_SIZE = 1 << 20
"""Maximum number of bytes held in memory at once. A transfer of fewer bytes does not count as progress."""
MAX_REQUESTS = 100
"""Maximum number of requests for one file, whatever their progress."""
Report = Callable[[int, int | None], None]
"""Called with the bytes so far and the total (None if the server does not announce it)."""

_HINT = "check the address and the network, or set IMGCLASSIFY_MIRROR to another address to download from"

logger = logging.getLogger("imgclassify")


def download_file(url: str, partial: Path, report: Report) -> bool:
    """Completes `partial` from an http:, https: or file: URL, starting with the bytes that it already has.

    This function cannot know whether those bytes belong to the same file.

    Returns:
        Whether the file contains bytes of more than one response. If such a file proves wrong, a download from
        the beginning may still be right.

    Raises:
        DownloadError: the server did not deliver the file, or it announces or sends too many bytes.
        WeightsError: the disk has no room for the file.
        OSError: `partial` cannot be written.
    """
    if urlsplit(url).scheme == "file":
        _copy_file(file_path(url), partial, report)
        return False
    with client.create_session(client.WEIGHTS) as session:
        return _Transfer(session, url, partial, report).run_to_end()


class _Transfer:
    """The requests that are needed until one file is complete."""

    def __init__(self, session: requests.Session, url: str, partial: Path, report: Report) -> None:
        self.session = session
        self.url = url
        self.partial = partial
        self.report = report
        self.validator: str | None = None
        self.resumed = False

    def run_to_end(self) -> bool:
        """Sends requests until the file is complete. Returns and raises what `download_file` does."""
        furthest = self._partial_size()
        failures = 0
        reason = ""
        for _ in range(MAX_REQUESTS):
            try:
                self._send_and_receive()
            except client.RequestError as error:
                size = self._partial_size()
                # A transfer that makes progress may fail any number of times, up to MAX_REQUESTS.
                if size >= furthest + CHUNK_SIZE:
                    furthest, failures = size, 0
                failures += 1
                reason = f"{error} after {size} bytes" if size else str(error)
                delay = client.WEIGHTS.delay(failures, error)
                if delay is None:
                    break
                logger.warning("%s: %s; trying again in %.1f s", public_url(self.url), reason, delay)
                sleep(delay)
            else:
                return self.resumed
        raise self._download_error(reason)

    def _send_and_receive(self) -> None:
        offset = self._partial_size()
        headers = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.validator:
                headers["If-Range"] = self.validator
        timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
        with client.send_get(self.session, self.url, headers=headers, timeout=timeout) as response:
            self._check_response(response, offset)

    def _check_response(self, response: requests.Response, offset: int) -> None:
        status = response.status_code
        content_range = response.headers.get("Content-Range", "")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            if content_range == f"bytes */{offset}":
                # The file has as many bytes as `partial`, so it is complete already.
                self.resumed = True
                return
            self._start_over("the server cannot resume where the last transfer ended")
        client.check_status(response, HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
        total: int | None
        if status == HTTPStatus.PARTIAL_CONTENT:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
            if found is None or int(found[1]) != offset:
                self._start_over("the server sent a part of the file that was not requested")
            total = None if found[2] == "*" else int(found[2])
        else:
            offset = 0
            total = response.raw.length_remaining
        self.resumed = offset > 0
        etag = response.headers.get("ETag", "W/")
        # A weak ETag, which begins with W/, does not guarantee that the bytes are the same.
        self.validator = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
        self._receive_body(response, offset, total)

    def _receive_body(self, response: requests.Response, received: int, total: int | None) -> None:
        most = self._max_bytes(received, total)
        body = client.read_body(
            response,
            chunk_bytes=CHUNK_SIZE,
            minimum_rate=client.WEIGHTS.minimum_rate,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            num_bytes=None if total is None else total - received,
        )
        with self.partial.open("ab" if received else "wb") as stream:
            for piece in body:
                stream.write(piece)
                received += len(piece)
                if received > most:
                    self.partial.unlink()
                    raise self._download_error(
                        f"the server announces no length, and has sent more than {most:,} bytes"
                    )
                self.report(received, total)
            stream.flush()
            os.fsync(stream.fileno())
        if total is not None and received < total:
            raise client.TransientError("the connection ended early")

    def _max_bytes(self, received: int, total: int | None) -> int:
        """Returns the maximum number of bytes that the file may have in total.

        Raises:
            DownloadError: the server announces more than MAX_FILE_BYTES.
            WeightsError: the server announces more than the disk has room for.
        """
        room = received + shutil.disk_usage(self.partial.parent).free
        if total is not None and total > MAX_FILE_BYTES:
            raise self._download_error(f"the server announces {total:,} bytes, more than any checkpoint has")
        if total is not None and total > room:
            raise WeightsError(
                f"{self.partial.parent} has no room for {public_url(self.url)}: the file has {total:,} bytes, and "
                f"{room:,} are free",
                hint="make room there, or set TORCH_HOME to another folder",
            )
        return min(MAX_FILE_BYTES, room)

    def _start_over(self, reason: str) -> NoReturn:
        self.partial.unlink(missing_ok=True)
        raise client.TransientError(reason)

    def _download_error(self, reason: str) -> DownloadError:
        return DownloadError(f"{public_url(self.url)} could not be downloaded: {reason}", hint=_HINT)

    def _partial_size(self) -> int:
        try:
            return self.partial.stat().st_size
        except FileNotFoundError:
            return 0


def _copy_file(source: Path, partial: Path, report: Report) -> None:
    try:
        if is_pipe_or_device(source):
            raise DownloadError(f"{source} is a pipe or a device, not a file", hint=_HINT)
        original = source.open("rb")
    except OSError as error:
        raise DownloadError(f"{source} cannot be read: {error.strerror}", hint=_HINT) from error
    with original, partial.open("wb") as stream:
        total = os.fstat(original.fileno()).st_size
        while piece := original.read(CHUNK_SIZE):
            stream.write(piece)
            report(stream.tell(), total)
        stream.flush()
        os.fsync(stream.fileno())
