"""Sessions, requests, classes of failure, and retry policies for images and weights.

This module imports requests, so it is imported only when something is about to be fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from ssl import SSLEOFError
from time import monotonic
from typing import NamedTuple

import requests
from urllib3 import Retry, exceptions
from urllib3.exceptions import HTTPError

from imgclassify._version import __version__
from imgclassify.http.deadlines import DeadlineAdapter, TooSlowError

BACKOFF_SECONDS = 0.5
"""Seconds to wait before the first retry. The wait doubles with each further retry."""

_PERMANENT_SERVER_ERRORS = (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
_CUT_CONNECTIONS = (
    ConnectionError,
    SSLEOFError,
    exceptions.IncompleteRead,
    exceptions.InvalidChunkLength,
    exceptions.ProtocolError,
)


class RequestError(Exception):
    """A request that failed. If it is not of a subclass, it would fail again.

    The text is a clause that says why, without the URL.
    """

    retry_after = 0.0
    """Seconds to wait that the server requests."""


class UnreachableError(RequestError):
    """No response: the server's name, certificate or proxy failed, or the server is silent or too slow."""


class TransientError(RequestError):
    """A failure that may pass: the connection was refused or broken, or the status allows another attempt."""


class MinimumRate(NamedTuple):
    """The slowest body that is accepted: on average `bytes_per_second`, over each period of `seconds`."""

    seconds: float
    bytes_per_second: int


class FetchPolicy(NamedTuple):
    """Limits on what the client accepts from a server, and when it tries again."""

    retries: int
    """Maximum number of failures in a row after each of which the client tries again."""
    retried: tuple[type[RequestError], ...]
    """The classes of failure after which the client tries again."""
    max_retry_after: float
    """Longest wait, in seconds, that a server may request."""
    caps_retry_after: bool
    """Whether the client waits `max_retry_after` if the server requests more. If False, it gives up."""
    max_redirects: int
    minimum_rate: MinimumRate
    deadline: float = 60.0
    """Seconds that all headers of a response may take together, and that each piece of its body may take, even
    if some bytes keep arriving."""

    def delay(self, failures: int, error: RequestError) -> float | None:
        """Returns the seconds to wait before the next attempt, or None if there is none.

        Args:
            failures: number of failures in a row, at least 1.
            error: the last of them.
        """
        if failures > self.retries or not isinstance(error, self.retried):
            return None
        if error.retry_after > self.max_retry_after and not self.caps_retry_after:
            return None
        backoff: float = BACKOFF_SECONDS * 2 ** (failures - 1)
        return max(backoff, min(error.retry_after, self.max_retry_after))


# All images after this one wait, so a server that is silent, or requests a long pause, is not tried again.
IMAGES = FetchPolicy(
    retries=2,
    retried=(TransientError,),
    max_retry_after=10.0,
    caps_retry_after=False,
    max_redirects=5,
    minimum_rate=MinimumRate(30.0, 4096),
)
# Nothing can be done without the weights.
WEIGHTS = FetchPolicy(
    retries=4,
    retried=(TransientError, UnreachableError),
    max_retry_after=60.0,
    caps_retry_after=True,
    max_redirects=10,
    minimum_rate=MinimumRate(60.0, 1024),
)


def create_session(policy: FetchPolicy, *, max_connections: int = 10) -> requests.Session:
    """Creates a session for any number of threads.

    The session keeps to the policy's deadline and limit on redirects. Its caller applies the rest of the
    policy.
    """
    session = requests.Session()
    session.headers["User-Agent"] = f"imgclassify/{__version__}"  # some hosts refuse the default of a library
    # Without a content encoding, lengths and ranges count the bytes of the file. Images are compressed already.
    session.headers["Accept-Encoding"] = "identity"
    # Otherwise cookies would accumulate, and be sent with every request.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.max_redirects = policy.max_redirects
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter(policy.deadline, pool_maxsize=max_connections))
    return session


def send_get(
    session: requests.Session, url: str, *, timeout: tuple[float, float], headers: dict[str, str] | None = None
) -> requests.Response:
    """Sends a GET request and returns the response as soon as its headers have arrived.

    Args:
        timeout: seconds to connect, and seconds of silence.

    Raises:
        RequestError: there is no response.
    """
    # If the URL itself is at fault, requests' own message would repeat it, including any password.
    try:
        return session.get(url, headers=headers, stream=True, timeout=timeout)
    except requests.exceptions.InvalidSchema:
        raise RequestError("it redirects to an address that is neither http: nor https:") from None
    except requests.exceptions.TooManyRedirects:
        raise RequestError(f"more than {session.max_redirects} redirects") from None
    except ValueError:
        raise RequestError("the address, its redirect or the address of the proxy is malformed") from None
    except (requests.RequestException, HTTPError) as error:
        raise _as_request_error(error, timeout) from error
    except OSError as error:  # such as a REQUESTS_CA_BUNDLE that does not exist, which no retry helps
        raise RequestError(str(error)) from error


def check_status(response: requests.Response, *accepted: HTTPStatus) -> None:
    """Raises an error unless the status of the response is one of `accepted`.

    Raises:
        RequestError: the status is another one. TransientError if another attempt may succeed.
    """
    status = response.status_code
    if status in accepted:
        return
    error = TransientError if _may_pass(status) else RequestError
    failure = error(f"the server responded with {_describe_status(status)}")
    failure.retry_after = parse_retry_after(response.headers.get("Retry-After", ""))
    raise failure


def read_body(
    response: requests.Response,
    *,
    chunk_bytes: int,
    minimum_rate: MinimumRate,
    timeout: tuple[float, float],
    num_bytes: int | None = None,
    decode_content: bool = False,
) -> Iterator[bytes]:
    """Yields the body as it arrives, in pieces of at most `chunk_bytes`.

    Args:
        chunk_bytes: maximum size of one piece.
        minimum_rate: the slowest rate that is accepted.
        timeout: the session's timeouts, for the text of errors.
        num_bytes: number of bytes after which to stop. None: at the end of the body.
        decode_content: whether to decompress the body according to its Content-Encoding.

    Raises:
        RequestError: the body breaks off, or arrives more slowly than `minimum_rate`.
    """
    since, received, before = monotonic(), 0, 0
    while num_bytes is None or received < num_bytes:
        wanted = chunk_bytes if num_bytes is None else min(chunk_bytes, num_bytes - received)
        try:
            # read1 returns what has arrived. read would wait for all bytes, and a timeout would lose them.
            piece = response.raw.read1(wanted, decode_content=decode_content)
        except (OSError, ValueError, HTTPError) as error:
            raise _as_request_error(error, timeout) from error
        if not piece:
            return
        received += len(piece)
        yield piece
        elapsed = monotonic() - since
        if elapsed > minimum_rate.seconds:
            if received - before < minimum_rate.bytes_per_second * elapsed:
                raise UnreachableError(f"fewer than {minimum_rate.bytes_per_second} bytes per second arrived")
            since, before = monotonic(), received


def parse_retry_after(header: str) -> float:
    """Returns the seconds that a Retry-After header requests. 0.0 if it is neither a number nor a date."""
    try:
        return max(Retry().parse_retry_after(header), 0.0)
    except (exceptions.InvalidHeader, ValueError, TypeError, OverflowError):
        return 0.0


def _may_pass(status: int) -> bool:
    busy = status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    return busy or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PERMANENT_SERVER_ERRORS)


def _describe_status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _as_request_error(error: Exception, timeout: tuple[float, float]) -> RequestError:
    cause = _root_cause(error)
    if isinstance(cause, TooSlowError):
        return UnreachableError(f"the server is too slow: {cause}")
    # requests wraps the error of urllib3, which may wrap the error that made urllib3 give up.
    inner = error.args[0] if isinstance(error, requests.RequestException) and error.args else error
    reason = getattr(inner, "reason", inner)
    if isinstance(reason, exceptions.ProxyError):
        text = "the proxy could not be used"
    elif isinstance(reason, exceptions.SSLError):
        text = f"no secure connection could be made ({reason})"
    elif isinstance(reason, exceptions.NameResolutionError):
        text = "the name of the server could not be resolved"
    elif isinstance(reason, exceptions.NewConnectionError):
        text = f"could not connect ({getattr(reason.__cause__, 'strerror', None) or 'unknown reason'})"
    elif isinstance(reason, exceptions.ConnectTimeoutError):
        text = f"could not connect within {timeout[0]:g} s"
    elif isinstance(reason, exceptions.ReadTimeoutError):
        text = f"the server was silent for {timeout[1]:g} s"
    elif isinstance(reason, exceptions.DecodeError):
        return RequestError("the body is damaged: it cannot be decompressed")
    else:
        text = "the connection was broken"
    return TransientError(text) if isinstance(cause, _CUT_CONNECTIONS) else UnreachableError(text)


def _root_cause(error: BaseException) -> BaseException:
    """Returns the innermost error, or the first TooSlowError on the way to it."""
    while not isinstance(error, TooSlowError) and (inner := error.__cause__ or error.__context__):
        error = inner
    return error
