"""From one URL to one complete file: timeouts, retries, and going on where a transfer broke off.

What the file ought to contain is no concern of this room; weights checks it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

from imgclassify.errors import DownloadError, WeightsError

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT = 10.0
"""Seconds until a server must have taken the connection."""
READ_TIMEOUT = 30.0
"""Longest silence, in seconds, of a server that owes bytes."""
ANSWER_SECONDS = 60.0
"""Longest that all headers of an answer, or the next piece of its body, may take, however little comes at once."""
MAX_REDIRECTS = 10
MAX_FILE_BYTES = 2**35
"""A longer file, announced or not, is no checkpoint of an image classifier; the largest have a tenth of it."""
STALL_SECONDS = 60.0
"""Over so long the average rate is taken..."""
STALL_RATE = 1024
"""...that must not fall below this many bytes a second."""
CHUNK_SIZE = 1 << 20
"""Most bytes held in memory at once; a transfer that brought fewer has made no progress worth the name."""
RETRIES = 4
"""Requests after the first that may fail in a row without progress between them."""
MAX_REQUESTS = 100
"""Requests for one file, whatever their progress."""
BACKOFF_SECONDS = 0.5
"""Wait before the first retry; it doubles with each."""
RETRY_AFTER_LIMIT = 60.0
"""Longest wait, in seconds, that a server's Retry-After can ask for."""

Report = Callable[[int, int | None], None]
"""Called with the bytes so far and the total, None where the server does not announce it."""

_HINT = "check the address and the network; IMGCLASSIFY_MIRROR names another place to fetch files from"

logger = logging.getLogger("imgclassify")


def public_url(url: str) -> str:
    """The URL as it may be shown: without user name and password."""
    return re.sub(r"(?<=//)[^/?#]*@", "", url, count=1)


def file_path(url: str) -> Path:
    """The path that a file: URL names.

    Raises:
        WeightsError: it names another machine's file, or no absolute path.
    """
    parts = urlsplit(url)
    pathname = unquote(parts.path, errors="surrogateescape")
    path = Path(pathname.lstrip("/") if os.name == "nt" else pathname)
    if parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise WeightsError(f"{public_url(url)} does not name a file here", hint="write file:///folder/file")
    return path


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

    import requests

    from imgclassify import __version__
    from imgclassify.http import DeadlineAdapter

    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, DeadlineAdapter(ANSWER_SECONDS))
        session.max_redirects = MAX_REDIRECTS
        session.headers["User-Agent"] = f"imgclassify/{__version__}"
        # Lengths and ranges then count the file's own bytes.
        session.headers["Accept-Encoding"] = "identity"
        return _Transfer(session, url, partial, report).run_to_end()


class _TransientError(Exception):
    """A request that failed in a way that may have passed when it is repeated."""

    def __init__(self, cause: str, retry_after: float = 0.0) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


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
        cause = ""
        for _ in range(MAX_REQUESTS):
            try:
                self._send_and_receive()
            except _TransientError as interruption:
                size = self._partial_size()
                if size >= furthest + CHUNK_SIZE:
                    furthest, failures = size, 0
                failures += 1
                cause = str(interruption)
                if failures > RETRIES:
                    break
                delay = max(interruption.retry_after, BACKOFF_SECONDS * 2 ** (failures - 1))
                logger.warning("%s: %s; trying again in %.1f s", public_url(self.url), cause, delay)
                sleep(delay)
            else:
                return self.resumed
        raise self._download_error(cause)

    def _send_and_receive(self) -> None:
        from urllib3.exceptions import HTTPError

        offset = self._partial_size()
        try:
            with self._send_request(offset) as response:
                self._check_response(response, offset)
        except HTTPError as error:
            raise _TransientError(f"{_describe_network_error(error)} after {self._partial_size()} bytes") from error

    def _send_request(self, offset: int) -> requests.Response:
        from requests import exceptions

        headers = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.validator:
                headers["If-Range"] = self.validator
        timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
        # Where the URL itself is at fault, the library's words would repeat it, password and all.
        try:
            return self.session.get(self.url, headers=headers, stream=True, timeout=timeout)
        except exceptions.InvalidSchema:
            raise self._download_error("it redirects to an address that is neither http: nor https:") from None
        except exceptions.TooManyRedirects:
            raise self._download_error("it redirects without end") from None
        except ValueError:
            raise self._download_error("the address, its redirect or the proxy's is malformed") from None
        except exceptions.RequestException as error:
            raise _TransientError(_describe_network_error(error)) from error
        except OSError as error:
            # Such as a REQUESTS_CA_BUNDLE that is not there: not the network's fault, and not the cache's.
            raise self._download_error(str(error)) from error

    def _check_response(self, response: requests.Response, offset: int) -> None:
        status = response.status_code
        content_range = response.headers.get("Content-Range", "")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            if content_range == f"bytes */{offset}":
                self.resumed = True
                return
            self._start_over("the server cannot go on where the last transfer ended")
        if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
            retry_after = _seconds(response.headers.get("Retry-After", ""))
            raise _TransientError(f"the server answered {_describe_status(status)}", retry_after)
        total: int | None
        if status == HTTPStatus.PARTIAL_CONTENT:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", content_range)
            if found is None or int(found[1]) != offset:
                self._start_over("the server sent another part of the file than it was asked for")
            total = None if found[2] == "*" else int(found[2])
        elif status == HTTPStatus.OK:
            offset = 0
            total = response.raw.length_remaining
        else:
            raise self._download_error(f"the server answered {_describe_status(status)}")
        self.resumed = offset > 0
        etag = response.headers.get("ETag", "W/")
        # A weak tag vouches for the meaning and not for the bytes.
        self.validator = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
        self._receive_body(response, offset, total)

    def _receive_body(self, response: requests.Response, received: int, total: int | None) -> None:
        most = self._max_bytes(received, total)
        with self.partial.open("ab" if received else "wb") as stream:
            since, before = monotonic(), received
            while total is None or received < total:
                wanted = CHUNK_SIZE if total is None else min(CHUNK_SIZE, total - received)
                # read1 hands over what has arrived. read would wait for all of it, and lose it to a timeout.
                piece = response.raw.read1(wanted, decode_content=False)
                if not piece:
                    break
                stream.write(piece)
                received += len(piece)
                if received > most:
                    self.partial.unlink()
                    raise self._download_error(
                        f"the server announces no length, and has sent more than {most:,} bytes"
                    )
                self.report(received, total)
                elapsed = monotonic() - since
                if elapsed > STALL_SECONDS:
                    if received - before < STALL_RATE * elapsed:
                        raise _TransientError(f"less than {STALL_RATE} bytes a second arrived")
                    since, before = monotonic(), received
            stream.flush()
            os.fsync(stream.fileno())
        if total is not None and received < total:
            raise _TransientError(f"the connection ended after {received} of {total} bytes")

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

    def _start_over(self, cause: str) -> NoReturn:
        self.partial.unlink(missing_ok=True)
        raise _TransientError(cause)

    def _download_error(self, cause: str) -> DownloadError:
        return DownloadError(f"{public_url(self.url)} could not be downloaded: {cause}", hint=_HINT)

    def _partial_size(self) -> int:
        try:
            return self.partial.stat().st_size
        except FileNotFoundError:
            return 0


def is_endless(path: Path) -> bool:
    """Whether what lies there is a pipe or a device, and may keep its reader waiting or reading for ever.

    Raises:
        OSError: nothing can be said of it.
    """
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


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


def _seconds(retry_after: str) -> float:
    """How long a Retry-After header asks to wait: it holds seconds or a date; 0 where it holds neither."""
    from email.utils import parsedate_to_datetime

    try:
        seconds = (
            float(retry_after)
            if retry_after.isdecimal()
            else parsedate_to_datetime(retry_after).timestamp() - time()
        )
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT)


def _describe_status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _describe_network_error(error: Exception) -> str:
    import requests
    from urllib3 import exceptions

    from imgclassify.http import too_slow

    if slow := too_slow(error):
        return f"the server is too slow: {slow}"
    # requests wraps urllib3's error, which may wrap the one that made it give up.
    inner = error.args[0] if isinstance(error, requests.RequestException) and error.args else error
    reason = getattr(inner, "reason", inner)
    if isinstance(reason, exceptions.ProxyError):
        return "the proxy could not be used"
    if isinstance(reason, exceptions.SSLError):
        return f"no secure connection could be made ({reason})"
    if isinstance(reason, exceptions.NameResolutionError):
        return "the name of the server could not be resolved"
    if isinstance(reason, exceptions.NewConnectionError):
        return f"no connection ({getattr(reason.__cause__, 'strerror', None) or 'unknown reason'})"
    if isinstance(reason, exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT:g} s"
    if isinstance(reason, exceptions.ReadTimeoutError):
        return f"the server was silent for {READ_TIMEOUT:g} s"
    return "the connection was broken"
