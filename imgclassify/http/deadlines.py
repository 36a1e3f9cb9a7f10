"""Deadlines for a server's response, which requests itself does not keep."""

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
    """The server went on sending, and not fast enough; the text says in a clause what took too long."""


class DeadlineAdapter(HTTPAdapter):
    """requests' own adapter, with a limit on the seconds that the headers of a response may take in all, and on
    those that any one call of `response.raw.read1` may take. requests' own limits are on each silence, and a server
    that sends a byte now and then keeps to them. What takes longer fails with a TooSlowError at its root.

    The body's rate and length are the reader's concern. The body of a redirect, of which requests would read all
    there is, is left out.
    """

    def __init__(self, seconds: float, **options: Any) -> None:
        """`options` are HTTPAdapter's."""
        self._seconds = seconds
        super().__init__(**options)

    def send(self, *arguments: Any, **options: Any) -> Response:
        response = super().send(*arguments, **options)
        if response.is_redirect:
            # The connection can be used again where that was all of it.
            with suppress(HTTPError):
                response.raw.read1(_REDIRECT_BYTES, decode_content=False)
            response._content = b""
            response.close()
        return response

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self._limit(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> ProxyManager:
        known = proxy in self.proxy_manager
        manager: ProxyManager = super().proxy_manager_for(proxy, **options)
        if not known:
            self._limit(manager)
        return manager

    def _limit(self, manager: PoolManager) -> None:
        class Timed(_Response):
            seconds = self._seconds

        # Derived from what is there, since a SOCKS proxy has connections of its own kind.
        def limited(pool: Any) -> Any:
            connection = type("Connection", (pool.ConnectionCls,), {"response_class": Timed})
            return type("Pool", (pool,), {"ConnectionCls": connection})

        manager.pool_classes_by_scheme = {
            scheme: limited(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }


class _Response(HTTPResponse):
    """One answer, from its first byte."""

    seconds: float

    def __init__(self, connection: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(connection, *arguments, **options)
        self._timed = _Timed(self.fp.detach(), connection, self.seconds)
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        with self._timed.within("the headers"):
            super().begin()

    def read1(self, n: int = -1) -> bytes:
        with self._timed.within("the next bytes"):
            return super().read1(n)


class _Timed(io.RawIOBase):
    """What arrives on a connection, until a deadline."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, seconds: float) -> None:
        self._raw = raw
        self._connection = connection
        self._seconds = seconds
        # A proxy's answer to CONNECT is read without `begin`, from the moment that the response is made.
        self._what = "the proxy's answer"
        self._deadline: float | None = monotonic() + seconds

    @contextmanager
    def within(self, what: str) -> Iterator[None]:
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
            with suppress(OSError):  # of a connection that has been closed meanwhile
                self._connection.settimeout(silence)

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _too_slow(self) -> TooSlowError:
        return TooSlowError(f"{self._what} took more than {self._seconds:g} s")
