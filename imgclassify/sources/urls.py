"""Pictures at http: and https: addresses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from io import BytesIO
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin

from imgclassify.errors import ImageUnreadableError
from imgclassify.sources.source import describe_error, join_chunks

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
"""Seconds without a byte from the server before a download is given up."""
DEADLINE = 60.0
"""Seconds that a server's headers may take in all, and what stands between two pieces of a body."""
SLOW_AFTER, SLOW_RATE = 30.0, 4096
"""A server that after these seconds has sent fewer bytes a second is given up, since all behind it waits."""
MAX_REDIRECTS = 5
BACK_OFF = (0.5, 1.5)
"""Seconds to wait before each new attempt, where the failure may pass."""
MAX_RETRY_AFTER = 10.0
"""Seconds. A server that asks for a longer wait has refused: everything behind it would wait too."""

_PASSING = frozenset({429, 500, 502, 503, 504})
_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""Those of which a little can be unpacked at a time, whatever version of urllib3 does it."""
_PIECE_BYTES = 64 * 1024
_MAX_CONNECTIONS = 64


class _PassingError(Exception):
    """A failure that may have passed when the request is repeated."""

    def __init__(self, cause: str, retry_after: float = 0.0) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


def open_url(url: str, timeout: tuple[float, float] | None) -> BinaryIO:
    if timeout is None:
        raise ImageUnreadableError(f"cannot fetch {url}: --offline forbids it")
    for delay in (*BACK_OFF, None):
        try:
            return BytesIO(_fetch_bytes(url, timeout))
        except _PassingError as error:
            if delay is None or error.retry_after > MAX_RETRY_AFTER:
                raise ImageUnreadableError(str(error)) from error
            sleep(max(delay, error.retry_after))
    raise AssertionError  # the last attempt answers or fails


def _fetch_bytes(url: str, timeout: tuple[float, float]) -> bytes:
    from urllib3.exceptions import HTTPError

    from imgclassify.http import too_slow

    address = url
    try:
        for _ in range(MAX_REDIRECTS + 1):
            # requests itself would read a redirect's body whole, however large.
            with _shared_session().get(address, stream=True, timeout=timeout, allow_redirects=False) as response:
                target = _shared_session().get_redirect_target(response)
                if target is None:
                    return _read_body(response, url)
            address = urljoin(address, target)
            if not address.lower().startswith(("http://", "https://")):
                raise ImageUnreadableError(f"{url} redirects to {address!r}, which is neither http: nor https:")
    except (OSError, ValueError, HTTPError) as error:  # ValueError: over some malformed host names
        cause = too_slow(error) or _root_cause(error)
        message = f"cannot fetch {url}: {describe_error(cause)}"
        raise (_PassingError(message) if _is_transient(cause) else ImageUnreadableError(message)) from error
    raise ImageUnreadableError(f"cannot fetch {url}: more than {MAX_REDIRECTS} redirects")


def _read_body(response: requests.Response, url: str) -> bytes:
    if response.status_code != HTTPStatus.OK:
        message = f"{url} answered {response.status_code} {response.reason or ''}".rstrip()
        if response.status_code in _PASSING:
            raise _PassingError(message, _seconds(response.headers.get("Retry-After", "")))
        raise ImageUnreadableError(message)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise ImageUnreadableError(f"{url} answered in an encoding that was not asked for: {encoding!r}")
    return join_chunks(_enforce_min_rate(response, url), url)


def _enforce_min_rate(response: requests.Response, url: str) -> Iterator[bytes]:
    """The body as it arrives, given up when it comes too slowly: each packet alone would be in time."""
    started = monotonic()
    received = 0
    # read1 hands over what has arrived; iter_content would wait for a full chunk.
    while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
        received += len(piece)
        yield piece
        seconds = monotonic() - started
        if seconds > SLOW_AFTER and received < seconds * SLOW_RATE:
            raise ImageUnreadableError(f"cannot fetch {url}: only {received} bytes in {seconds:.0f} seconds")


@cache
def _shared_session() -> requests.Session:
    """One pool of connections for all threads."""
    from http.cookiejar import DefaultCookiePolicy

    import requests

    from imgclassify.http import DeadlineAdapter

    session = requests.Session()
    session.headers["User-Agent"] = "imgclassify"  # some hosts refuse a library's own
    session.headers["Accept-Encoding"] = "identity"  # pictures are compressed already
    # Else they would add up, and go with every request.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter(DEADLINE, pool_maxsize=_MAX_CONNECTIONS))
    return session


def _is_transient(cause: BaseException) -> bool:
    """Whether it is a connection that was refused, reset or cut."""
    from ssl import SSLEOFError

    from urllib3.exceptions import IncompleteRead, InvalidChunkLength, ProtocolError

    return isinstance(cause, ConnectionError | SSLEOFError | IncompleteRead | InvalidChunkLength | ProtocolError)


def _seconds(retry_after: str) -> float:
    """How long a Retry-After header asks to wait, which holds seconds or a date; 0 where it holds neither."""
    from email.utils import parsedate_to_datetime

    try:
        if retry_after.isdecimal():
            return float(retry_after)
        return parsedate_to_datetime(retry_after).timestamp() - time()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _root_cause(error: BaseException) -> BaseException:
    """The innermost error: requests wraps "Connection refused" in several layers of its own."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error
