"""The HTTP client of images and weights: its session, which failures may pass, and when it tries again.

Importing this imports requests, so it is imported where something is about to be fetched.
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
"""Wait before the first retry; it doubles with each."""

_PERMANENT_SERVER_ERRORS = (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
_CUT_CONNECTIONS = (
    ConnectionError,
    SSLEOFError,
    exceptions.IncompleteRead,
    exceptions.InvalidChunkLength,
    exceptions.ProtocolError,
)


class RequestError(Exception):
    """A request that failed, and would fail again. The text is a clause that says why, without the URL."""

    retry_after = 0.0
    """Seconds that the server asks to wait."""


class UnreachableError(RequestError):
    """No answer: the name, the certificate, the proxy, or a server that is silent or too slow."""


class TransientError(RequestError):
    """A failure that may pass: the connection was refused or broken, or the server asks for another attempt."""


class MinimumRate(NamedTuple):
    """A server that over so many seconds sends fewer bytes a second is given up."""

    seconds: float
    bytes_per_second: int


class FetchPolicy(NamedTuple):
    """How much patience the client has with a server."""

    retries: int
    """Failures in a row after which it tries again."""
    retried: tuple[type[RequestError], ...]
    """The failures after which it does."""
    max_retry_after: float
    """Longest wait, in seconds, that a server may ask for."""
    caps_retry_after: bool
    """What a longer wish leads to: waiting that long, or giving up."""
    max_redirects: int
    minimum_rate: MinimumRate
    deadline: float = 60.0
    """Seconds that all headers of a response may take, and each piece of its body, however little comes at once."""

    def delay(self, failures: int, error: RequestError) -> float | None:
        """Seconds to wait before the next attempt, after so many failures in a row. None: there is none."""
        if failures > self.retries or not isinstance(error, self.retried):
            return None
        if error.retry_after > self.max_retry_after and not self.caps_retry_after:
            return None
        backoff: float = BACKOFF_SECONDS * 2 ** (failures - 1)
        return max(backoff, min(error.retry_after, self.max_retry_after))


# Every image behind this one waits, so a server that is silent, or asks for a long pause, has refused.
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
    """A session for any number of threads, with the policy's deadline and redirects. Its reader minds the rest."""
    session = requests.Session()
    session.headers["User-Agent"] = f"imgclassify/{__version__}"  # some hosts refuse a library's own
    # Lengths and ranges then count the file's own bytes, and images are compressed already.
    session.headers["Accept-Encoding"] = "identity"
    # Else cookies would add up, and go with every request.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.max_redirects = policy.max_redirects
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter(policy.deadline, pool_maxsize=max_connections))
    return session


def send_get(
    session: requests.Session, url: str, *, timeout: tuple[float, float], headers: dict[str, str] | None = None
) -> requests.Response:
    """The response to a GET, as soon as its headers are there.

    `timeout`: seconds to connect, and seconds of silence.

    Raises:
        RequestError: there is none.
    """
    # Where the URL itself is at fault, the library's words would repeat it, password and all.
    try:
        return session.get(url, headers=headers, stream=True, timeout=timeout)
    except requests.exceptions.InvalidSchema:
        raise RequestError("it redirects to an address that is neither http: nor https:") from None
    except requests.exceptions.TooManyRedirects:
        raise RequestError(f"more than {session.max_redirects} redirects") from None
    except ValueError:
        raise RequestError("the address, its redirect or the proxy's is malformed") from None
    except (requests.RequestException, HTTPError) as error:
        raise _as_request_error(error, timeout) from error
    except OSError as error:  # such as a REQUESTS_CA_BUNDLE that is not there: not the network's fault
        raise RequestError(str(error)) from error


def check_status(response: requests.Response, *accepted: HTTPStatus) -> None:
    """
    Raises:
        RequestError: the status is none of `accepted`.
    """
    status = response.status_code
    if status in accepted:
        return
    error = TransientError if _may_pass(status) else RequestError
    failure = error(f"the server answered {_describe_status(status)}")
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
    """The body as it arrives, in pieces of at most `chunk_bytes`, and no more than `num_bytes` of it.

    Raises:
        RequestError: it breaks off, or comes more slowly than `minimum_rate`.
    """
    since, received, before = monotonic(), 0, 0
    while num_bytes is None or received < num_bytes:
        wanted = chunk_bytes if num_bytes is None else min(chunk_bytes, num_bytes - received)
        try:
            # read1 returns what has arrived. read would wait for all of it, and lose it to a timeout.
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
                raise UnreachableError(f"less than {minimum_rate.bytes_per_second} bytes a second arrived")
            since, before = monotonic(), received


def parse_retry_after(header: str) -> float:
    """How long a Retry-After header asks to wait, in seconds; it has a number or a date. 0.0 if neither."""
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
    # requests wraps urllib3's error, which may wrap the one that made it give up.
    inner = error.args[0] if isinstance(error, requests.RequestException) and error.args else error
    reason = getattr(inner, "reason", inner)
    if isinstance(reason, exceptions.ProxyError):
        text = "the proxy could not be used"
    elif isinstance(reason, exceptions.SSLError):
        text = f"no secure connection could be made ({reason})"
    elif isinstance(reason, exceptions.NameResolutionError):
        text = "the name of the server could not be resolved"
    elif isinstance(reason, exceptions.NewConnectionError):
        text = f"no connection ({getattr(reason.__cause__, 'strerror', None) or 'unknown reason'})"
    elif isinstance(reason, exceptions.ConnectTimeoutError):
        text = f"no connection within {timeout[0]:g} s"
    elif isinstance(reason, exceptions.ReadTimeoutError):
        text = f"the server was silent for {timeout[1]:g} s"
    elif isinstance(reason, exceptions.DecodeError):
        return RequestError("the body is damaged: it does not unpack")
    else:
        text = "the connection was broken"
    return TransientError(text) if isinstance(cause, _CUT_CONNECTIONS) else UnreachableError(text)


def _root_cause(error: BaseException) -> BaseException:
    """The innermost error, or the TooSlowError on the way to it."""
    while not isinstance(error, TooSlowError) and (inner := error.__cause__ or error.__context__):
        error = inner
    return error
