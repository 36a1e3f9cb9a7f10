"""From one URL to one complete file: going on where a transfer broke off, trying again, and giving up.

What the file ought to contain is no concern of this module. Importing it imports requests.
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
from imgclassify.files import is_endless
from imgclassify.http import client
from imgclassify.weights.locations import file_path, public_url

CONNECT_TIMEOUT = 10.0
"""Seconds until a server must have taken the connection."""
READ_TIMEOUT = 30.0
"""Longest silence, in seconds, of a server that owes bytes."""
MAX_FILE_BYTES = 2**35
"""A longer file, announced or not, is no checkpoint of an image classifier; the largest have a tenth of it."""
CHUNK_SIZE = 1 << 20
"""Most bytes held in memory at once; a transfer that brought fewer has made no progress worth the name."""
MAX_REQUESTS = 100
"""Requests for one file, whatever their progress."""
Report = Callable[[int, int | None], None]
"""Called with the bytes so far and the total, None where the server does not announce it."""

_HINT = "check the address and the network; IMGCLASSIFY_MIRROR names another place to fetch files from"

logger = logging.getLogger("imgclassify")


def download_file(url: str, partial: Path, report: Report) -> bool:
    """Completes `partial` from an http:, https: or file: URL, beginning with the bytes that it already has.

    Whether those bytes belong to the same file cannot be known here. So this returns True where bytes of more
    than one response are in the file: if it then proves wrong, a download from nothing may still be right.

    Raises:
        DownloadError: the server did not hand the file over, or goes on for ever.
        WeightsError: the disk has no room for it.
        OSError: `partial` cannot be written.
    """
    if urlsplit(url).scheme == "file":
        _copy_file(file_path(url), partial, report)
        return False
    with client.create_session(client.WEIGHTS) as session:
        return _Transfer(session, url, partial, report).run_to_end()


class _Transfer:
    """The requests it takes until one file is complete."""

    def __init__(self, session: requests.Session, url: str, partial: Path, report: Report) -> None:
        self.session = session
        self.url = url
        self.partial = partial
        self.report = report
        self.validator: str | None = None
        self.resumed = False

    def run_to_end(self) -> bool:
        furthest = self._partial_size()
        failures = 0
        reason = ""
        for _ in range(MAX_REQUESTS):
            try:
                self._send_and_receive()
            except client.RequestError as error:
                size = self._partial_size()
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
                self.resumed = True
                return
            self._start_over("the server cannot go on where the last transfer ended")
        client.check_status(response, HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
        total: int | None
        if status == HTTPStatus.PARTIAL_CONTENT:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
            if found is None or int(found[1]) != offset:
                self._start_over("the server sent another part of the file than it was asked for")
            total = None if found[2] == "*" else int(found[2])
        else:
            offset = 0
            total = response.raw.length_remaining
        self.resumed = offset > 0
        etag = response.headers.get("ETag", "W/")
        # A weak tag vouches for the meaning and not for the bytes.
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
        """Bytes that the file may have in all.

        Raises:
            DownloadError, WeightsError: the server announces more.
        """
        room = received + shutil.disk_usage(self.partial.parent).free
        if total is not None and total > MAX_FILE_BYTES:
            raise self._download_error(f"the server announces {total:,} bytes, more than any checkpoint has")
        if total is not None and total > room:
            raise WeightsError(
                f"{self.partial.parent} has no room for {public_url(self.url)}: the file has {total:,} bytes, and "
                f"{room:,} are free",
                hint="make room there, or name another folder with TORCH_HOME",
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
        if is_endless(source):
            raise DownloadError(f"{source} is a pipe or a device, and no file", hint=_HINT)
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
