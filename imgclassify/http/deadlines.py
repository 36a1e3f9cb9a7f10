"""Deadlines for the response of a server. requests itself only limits each silence."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from time import monotonic
from typing import TYPE_CHECKING, Any

from requests import Response
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from urllib3 import PoolManager, ProxyManager

_REDIRECT_BYTES = 4096


class TooSlowError(TimeoutError):
    """The server kept sending, but not fast enough. The text is a clause that says what took too long."""


class DeadlineAdapter(HTTPAdapter):
    """The adapter of requests, with a deadline for the headers and for each read of the body.

    One limit in seconds applies to all headers of a response together, and to each call of
    `response.raw.read1`. The timeouts of requests limit each silence only, so a server that sends a byte now
    and then never exceeds them. What takes longer fails with an error that has a TooSlowError at its root.

    The reader of the body limits its rate and length. The body of a redirect is dropped; requests would read
    all of it.
    """

    def __init__(self, seconds: float, **options: Any) -> None:
        """Creates an adapter.

        Args:
            seconds: the limit.
            options: those of HTTPAdapter.
        """
        self._seconds = seconds
        super().__init__(**options)

    def send(self, *arguments: Any, **options: Any) -> Response:
        response = super().send(*arguments, **options)
        if response.is_redirect:
            # The connection can be used again if this reads the whole body.
            with suppress(HTTPError):
                response.raw.read1(_REDIRECT_BYTES, decode_content=False)
            response._content = b""
            response.close()
        return response

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self._use_deadline_responses(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> ProxyManager:
        known = proxy in self.proxy_manager
        manager: ProxyManager = super().proxy_manager_for(proxy, **options)
        if not known:
            self._use_deadline_responses(manager)
        return manager

    def _use_deadline_responses(self, manager: PoolManager) -> None:
        class DeadlineResponse(_Response):
            seconds = self._seconds

        # Derived from the classes in use, because a SOCKS proxy has connection classes of its own.
        def limited(pool: Any) -> Any:
            connection = type("Connection", (pool.ConnectionCls,), {"response_class": DeadlineResponse})
            return type("Pool", (pool,), {"ConnectionCls": connection})

        manager.pool_classes_by_scheme = {
            scheme: limited(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }


class _Response(HTTPResponse):
    """One HTTP response, timed from its first byte."""

    seconds: float

    def __init__(self, connection: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(connection, *arguments, **options)
        self._stream = _DeadlineStream(self.fp.detach(), connection, self.seconds)
        self.fp = io.BufferedReader(self._stream)

    def begin(self) -> None:
        with self._stream.within("the headers"):
            super().begin()

    def read1(self, n: int = -1) -> bytes:
        with self._stream.within("the next bytes"):
            return super().read1(n)


class _DeadlineStream(io.RawIOBase):
    """The bytes that arrive on a connection before a deadline."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, seconds: float) -> None:
        self._raw = raw
        self._connection = connection
        self._seconds = seconds
        # The response of a proxy to CONNECT is read without `begin`, so its time runs from here.
        self._what = "the proxy's response"
        self._deadline: float | None = monotonic() + seconds

    @contextmanager
    def within(self, what: str) -> Iterator[None]:
        """Limits the time of all reads in the block. `what` is what they read, for the text of the error."""
        self._what, self._deadline = what, monotonic() + self._seconds
        try:
            yield
        finally:
            self._deadline = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._deadline is None:
            return self._raw.readinto(buffer)
        silence, left = self._connection.gettimeout(), self._deadline - monotonic()
        if left <= 0:
            raise self._too_slow()
        if silence is not None and silence <= left:
            return self._raw.readinto(buffer)
        self._connection.settimeout(left)
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            raise self._too_slow() from None
        finally:
            with suppress(OSError):  # the connection may have been closed meanwhile
                self._connection.settimeout(silence)

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _too_slow(self) -> TooSlowError:
        return TooSlowError(f"{self._what} took more than {self._seconds:g} s")
