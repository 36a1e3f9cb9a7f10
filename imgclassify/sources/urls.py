"""Pictures at http: and https: addresses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from imgclassify.errors import ImageUnreadableError
from imgclassify.sources.source import CHUNK_BYTES, gather, reason

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
"""Seconds without a byte from the server before a download is given up."""
MAX_REDIRECTS = 5
SLOW_AFTER, SLOW_RATE = 30.0, 4096
"""A server that after these seconds has sent fewer bytes a second is given up, since all behind it waits."""

_MAX_CONNECTIONS = 64


def open_url(url: str, timeout: tuple[float, float] | None) -> BinaryIO:
    if timeout is None:
        raise ImageUnreadableError(f"cannot fetch {url}: --offline forbids it")
    try:
        with _session().get(url, stream=True, timeout=timeout) as response:
            if response.status_code != 200:
                answer = f"{response.status_code} {response.reason or ''}".rstrip()
                raise ImageUnreadableError(f"{url} answered {answer}")
            return BytesIO(gather(_without_drips(response, url), url))
    except (OSError, ValueError) as error:  # ValueError: over some malformed host names
        raise ImageUnreadableError(f"cannot fetch {url}: {reason(_root_cause(error))}") from error


def _without_drips(response: requests.Response, url: str) -> Iterator[bytes]:
    """The body as it arrives, given up when it comes too slowly: each packet alone would be in time."""
    from urllib3.exceptions import HTTPError

    started = time.monotonic()
    received = 0
    try:
        # read1 hands over what has arrived; iter_content would wait for a full chunk.
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            received += len(chunk)
            yield chunk
            seconds = time.monotonic() - started
            if seconds > SLOW_AFTER and received < seconds * SLOW_RATE:
                raise ImageUnreadableError(f"cannot fetch {url}: only {received} bytes in {seconds:.0f} seconds")
    except HTTPError as error:
        raise OSError(reason(_root_cause(error))) from error


@cache
def _session() -> requests.Session:
    """One pool of connections for all threads."""
    import requests

    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    session.headers["User-Agent"] = "imgclassify"  # some hosts refuse a library's own
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=_MAX_CONNECTIONS))
    return session


def _root_cause(error: BaseException) -> BaseException:
    """The innermost error: requests wraps "Connection refused" in several layers of its own."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error
