"""Images at http: and https: addresses.

This module imports requests, so it is imported only when the first such image is opened.
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
from imgclassify.http.addresses import public_url
from imgclassify.sources.source import join_chunks

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""Content encodings that any version of urllib3 can decompress a little at a time."""
_CHUNK_BYTES = 64 * 1024
_MAX_CONNECTIONS = 64


def open_url(url: str, timeout: tuple[float, float]) -> BinaryIO:
    """Fetches an image, with retries, and returns its bytes as a stream.

    Args:
        timeout: seconds to connect, and seconds of silence.

    Raises:
        ImageUnreadableError: the image could not be fetched.
        ImageTooLargeError: the image has more than MAX_BYTES.
    """
    failures = 0
    while True:
        try:
            return BytesIO(_fetch_bytes(url, timeout))
        except client.RequestError as error:
            failures += 1
            delay = client.IMAGES.delay(failures, error)
            if delay is None:
                raise ImageUnreadableError(f"cannot fetch {public_url(url)}: {error}") from error
            sleep(delay)


def _fetch_bytes(url: str, timeout: tuple[float, float]) -> bytes:
    with client.send_get(shared_session(), url, timeout=timeout) as response:
        client.check_status(response, HTTPStatus.OK)
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise client.RequestError(f"the body has an encoding that was not requested: {encoding!r}")
        body = client.read_body(
            response,
            chunk_bytes=_CHUNK_BYTES,
            minimum_rate=client.IMAGES.minimum_rate,
            timeout=timeout,
            decode_content=True,
        )
        return join_chunks(body, public_url(url))


@cache
def shared_session() -> requests.Session:
    """Returns the session, and with it the pool of connections, that all threads share."""
    return client.create_session(client.IMAGES, max_connections=_MAX_CONNECTIONS)
