"""A real HTTP server on this machine: it serves files, fails as it is told, and remembers what it was asked.

    with FileServer(files={"a.bin": content}) as server:
        server.faults = [status(503), truncated(1000)]
        ...
        assert server.ranges() == [None, None, "bytes=1000-"]

One fault spoils one request, in order; then the server behaves.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    """By lower-case name."""


class FileServer:
    """Serves `files`, by name, and what lies in `folder`. Use it in a with statement."""

    def __init__(self, folder: Path | None = None, *, files: dict[str, bytes] | None = None) -> None:
        self.folder = folder
        self.files = files or {}
        self.faults: list[Fault] = []
        """What goes wrong with the next requests, in order; None is an answer as it should be."""
        self.always: Fault | None = None
        """What goes wrong with every request for which `faults` holds none."""
        self.requests: list[Request] = []
        self.connections = 0
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def close(self) -> None:
        """Gives the port back, also where the server never started."""
        self._http.server_close()

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def ranges(self) -> list[str | None]:
        """The Range header of every request so far."""
        return [request.headers.get("range") for request in self.requests]

    def content(self, name: str) -> bytes | None:
        if name in self.files:
            return self.files[name]
        if self.folder is not None and (self.folder / name).is_file():
            return (self.folder / name).read_bytes()
        return None

    def note(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            return self.faults.pop(0) if self.faults else self.always


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: FileServer

    def get_request(self) -> tuple[socket.socket, object]:
        self.owner.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that has gone away is what many a test is about.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.server.owner.note(Request(self.path, headers))
        if fault is None:
            self.give(self.answer())
        else:
            fault(self)

    def answer(self, *, ranges: bool = True) -> Answer:
        """What a good server would say; without `ranges`, one that knows no Range."""
        content = self.server.owner.content(unquote(urlsplit(self.path).path).lstrip("/"))
        if content is None:
            return Answer(404, {}, b"not here")
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not ranges or wanted is None or self.headers.get("If-Range", tag) != tag:
            return Answer(200, {"ETag": tag}, content)
        start, size = int(wanted[1]), len(content)
        if start >= size:
            return Answer(416, {"Content-Range": f"bytes */{size}"}, b"")
        end = min(int(wanted[2] or size), size - 1)
        return Answer(206, {"ETag": tag, "Content-Range": f"bytes {start}-{end}/{size}"}, content[start : end + 1])

    def give(self, answer: Answer) -> None:
        self.begin(answer)
        self.wfile.write(answer.body)

    def begin(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


Fault = Callable[[_Handler], None]


def status(code: int, headers: dict[str, str] | None = None) -> Fault:
    """Answers with this status and these headers."""
    return lambda handler: handler.give(Answer(code, headers or {}, b"sorry"))


def redirected(url: str) -> Fault:
    return status(302, {"Location": url})


def truncated(after: int, *, ranges: bool = True) -> Fault:
    """Closes the connection when so many bytes of the body are sent."""

    def fault(handler: _Handler) -> None:
        answer = handler.answer(ranges=ranges)
        handler.begin(answer)
        handler.wfile.write(answer.body[:after])
        handler.close_connection = True

    return fault


def hung_up() -> Fault:
    """Closes the connection without a word."""

    def fault(handler: _Handler) -> None:
        handler.close_connection = True

    return fault


def trickled(piece: int, seconds: float) -> Fault:
    """Sends the body piece by piece, with pauses."""

    def fault(handler: _Handler) -> None:
        answer = handler.answer()
        handler.begin(answer)
        for start in range(0, len(answer.body), piece):
            handler.wfile.write(answer.body[start : start + piece])
            time.sleep(seconds)

    return fault


def held(release: threading.Event, *, after: int = 0) -> Fault:
    """Sends so many bytes of the body, and the rest when `release` is set, or after half a minute."""

    def fault(handler: _Handler) -> None:
        answer = handler.answer()
        handler.begin(answer)
        handler.wfile.write(answer.body[:after])
        release.wait(30)
        handler.wfile.write(answer.body[after:])

    return fault


def without_range() -> Fault:
    """Sends all of the file, whatever part of it was asked for."""
    return lambda handler: handler.give(handler.answer(ranges=False))


def wrong_range() -> Fault:
    """Sends the file's beginning as the part that was asked for."""

    def fault(handler: _Handler) -> None:
        body = handler.answer(ranges=False).body
        handler.give(Answer(206, {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}, body))

    return fault


def capped(most: int) -> Fault:
    """Sends at most so many bytes of the part that was asked for, and says so."""

    def fault(handler: _Handler) -> None:
        answer = handler.answer()
        start, _, size = re.findall(r"\d+", answer.headers["Content-Range"])
        body = answer.body[:most]
        span = f"bytes {start}-{int(start) + len(body) - 1}/{size}"
        handler.give(Answer(206, {**answer.headers, "Content-Range": span}, body))

    return fault


def endless() -> Fault:
    """Sends the body, and goes on sending until the client hangs up."""

    def fault(handler: _Handler) -> None:
        handler.give(handler.answer())
        while True:
            handler.wfile.write(b"more" * 4096)

    return fault


def endless_chunks() -> Fault:
    """The same in chunks, which announce no length: only Content-Range tells the end."""

    def fault(handler: _Handler) -> None:
        answer = handler.answer()
        handler.send_response(answer.status)
        for name, value in {**answer.headers, "Transfer-Encoding": "chunked"}.items():
            handler.send_header(name, value)
        handler.end_headers()
        body = answer.body + b"more"
        while True:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            body = b"more" * 4096

    return fault


def unannounced() -> Fault:
    """Sends the body in chunks, without its length."""

    def fault(handler: _Handler) -> None:
        answer = handler.answer()
        handler.send_response(answer.status)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body))

    return fault


def reset() -> Fault:
    """Resets the connection without a word."""

    def fault(handler: _Handler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True

    return fault


def announced(size: int) -> Fault:
    """Sends the body under a length that is not its own."""

    def fault(handler: _Handler) -> None:
        answer = handler.answer()
        handler.give(Answer(200, {"Content-Length": str(size)}, answer.body))
        handler.close_connection = size > len(answer.body)

    return fault


def encoded(encoding: str) -> Fault:
    """Sends the file as it is, and says that it is encoded so."""

    def fault(handler: _Handler) -> None:
        handler.give(Answer(200, {"Content-Encoding": encoding}, handler.answer().body))

    return fault


def raw(*pieces: bytes, seconds: float = 0.0, then: bytes = b"") -> Fault:
    """Sends these bytes, status line and all, with pauses; then others, as long as they are taken."""

    def fault(handler: _Handler) -> None:
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)
            time.sleep(seconds)
        while then:
            handler.wfile.write(then)
            time.sleep(seconds)

    return fault


class HubHandler(BaseHTTPRequestHandler):
    """What the Hugging Face client asks for: HEAD and GET of /OWNER/REPO/resolve/REVISION/FILE."""

    files: dict[str, bytes]
    refusals: dict[str, tuple[int, str]]
    """The beginning of a path → the status and the error code that its requests get."""
    asked: list[str]
    agents: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.agents.append(self.headers["User-Agent"])
        content = self.files.get(self.path)
        if content is None:
            refusals = (refusal for start, refusal in self.refusals.items() if self.path.startswith(start))
            status, code = next(refusals, (404, "EntryNotFound"))
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
