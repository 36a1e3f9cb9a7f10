"""Images at http: and https: addresses.

Importing this imports requests, so it is imported when the first of them is opened.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from io import BytesIO
from time import sleep
from typing import BinaryIO

import requests

from imgclassify.errors import ImageUnreadableError
from imgclassify.http import client
from imgclassify.sources.source import join_chunks

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""Those of which a little can be unpacked at a time, whatever version of urllib3 does it."""
_CHUNK_BYTES = 64 * 1024
_MAX_CONNECTIONS = 64


def open_url(url: str, timeout: tuple[float, float]) -> BinaryIO:
    """
    Raises:
        ImageUnreadableError, ImageTooLargeError: it could not be fetched.
    """
    failures = 0
    while True:
        try:
            return BytesIO(_fetch_bytes(url, timeout))
        except client.RequestError as error:
            failures += 1
            delay = client.IMAGES.delay(failures, error)
            if delay is None:
                raise ImageUnreadableError(f"cannot fetch {url}: {error}") from error
            sleep(delay)


def _fetch_bytes(url: str, timeout: tuple[float, float]) -> bytes:
    with client.send_get(shared_session(), url, timeout=timeout) as response:
        client.check_status(response, HTTPStatus.OK)
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise client.RequestError(f"the body has an encoding that was not asked for: {encoding!r}")
        body = client.read_body(
            response,
            chunk_bytes=_CHUNK_BYTES,
            minimum_rate=client.IMAGES.minimum_rate,
            timeout=timeout,
            decode_content=True,
        )
        return join_chunks(body, url)


@cache
def shared_session() -> requests.Session:
    """One pool of connections for all threads."""
    return client.create_session(client.IMAGES, max_connections=_MAX_CONNECTIONS)
