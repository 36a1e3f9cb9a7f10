"""Decoding and cropping in processes of their own, so that a decoder that crashes, hangs or devours memory costs
one picture, and neither the run nor its neighbours.

A worker is this module run as a program. It and its pool exchange frames over two pipes: a length, a JSON object,
and as many bytes as that says. Nothing that a worker sends is ever executed here.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from imgclassify import errors, sources
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import (
    DecoderCrashedError,
    DecoderTimeoutError,
    ImageError,
    ImageTooLargeError,
    UnavailableError,
    UsageError,
    describe_error,
)
from imgclassify.images import MAX_PIXELS, TIME_LIMIT
from imgclassify.images.cropping import create_preprocessor
from imgclassify.images.inputs import input_from_source
from imgclassify.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.images.cropping import Preprocessor
    from imgclassify.images.inputs import ImageInput

_BYTES_PER_PIXEL = 32
"""A worker's memory for each pixel that is allowed; the hungriest decoder (JPEG 2000, four channels) takes 24."""

_BASE_BYTES = 2**30
"""A worker's memory besides: Python, NumPy, a file held whole, decoders' threads."""

_START_TRIES = 5
_START_PAUSE_S = 0.2
"""A machine may be short of processes or memory for a moment: a worker's start is tried so often, after pauses that
double."""

_SHUTDOWN_TIMEOUT_S = 5.0
"""How long a worker that has closed its pipe may take to end, before it is killed."""

_HEADER_BYTES = 2**16
_LENGTH = struct.Struct(">I")

# It searches for modules where this process does: not in the folder that it is started in.
_WORKER_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; from imgclassify.images import isolation; isolation.run_worker()"
)


class IsolatedPreprocessor:
    """A `cropping.Preprocessor` that lets worker processes do the work, one for each thread that calls it.

    The crops are the same as without workers.

    An image is blamed for a crash, or for a lack of memory, only by a worker that has had no other image: else an
    earlier one may have caused it.
    """

    def __init__(
        self,
        decode_mode: str,
        spec: PreprocessSpec,
        *,
        max_pixels: int = MAX_PIXELS,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        """Starts no worker yet.

        Args:
            decode_mode: "exact" or "fast".
            max_pixels: as in `decoding.decode_image`. A worker's memory is limited in proportion to it.
            time_limit: seconds for one image, from when a worker has its request.

        Raises:
            UsageError: this system is neither Linux nor macOS.
        """
        if not hasattr(signal, "setitimer"):
            raise UsageError("isolate is for Linux and macOS", hint="leave out --isolate")
        self._time_limit = time_limit
        self._here = create_preprocessor(decode_mode, spec, "cpu", max_pixels=max_pixels)
        self._pool = _WorkerPool(
            {"decode": decode_mode, "spec": asdict(spec), "max_pixels": max_pixels, "time_limit": time_limit}
        )
        self.close = weakref.finalize(self, self._pool.close)
        """Ends the workers: at once, or after the picture that they are at. So do forgetting this, and the end of
        the process, however it comes."""

    def __call__(self, picture: ImageInput, out: NDArray[np.uint8]) -> tuple[int, int]:
        """Writes the picture's crop into `out`, (H, W, 3) uint8, C-contiguous; its upright (width, height).

        Raises:
            ImageError: as without isolation; DecoderCrashedError, DecoderTimeoutError.
            UnavailableError: no worker can be started.
        """
        if picture.source is None:
            return self._here(picture, out)
        request, content = _make_request(picture.source)
        again = False
        while True:
            with self._pool.borrow_worker(fresh=again) as worker:
                fresh = worker.pictures == 0
                try:
                    return worker.preprocess(request, content, out.data.cast("B"))
                except _WorkerEndedError:
                    status = worker.terminate(_SHUTDOWN_TIMEOUT_S)
            if status == -signal.SIGALRM:
                raise DecoderTimeoutError(f"not decoded within {self._time_limit:g} seconds")
            if fresh:
                raise DecoderCrashedError(f"its decoder {_describe_exit(status)}")
            again = True

    def idle_workers(self) -> list[int]:
        """The process ids of the workers that wait for a picture."""
        return self._pool.idle_pids()


def _make_request(source: Source) -> tuple[dict[str, Any], bytes]:
    """A file on disk by its path, and where that starts from; anything else by its bytes."""
    if source.path is not None:
        with suppress(OSError):  # there may be no such folder any more
            return {"path": source.path, "folder": os.getcwd()}, b""  # noqa: PTH109
    with source.open() as stream:
        return {}, stream.read()


def _describe_exit(status: int) -> str:
    """What befell a process that ended with this `Popen.returncode`."""
    if status >= 0:
        return f"ended with status {status}"
    name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
    words = signal.strsignal(-status) or "unknown"
    perhaps = ", perhaps for want of memory" if status == -signal.SIGKILL else ""
    return f"was ended by {name} ({words.lower()}){perhaps}"


# Here -------------------------------------------------------------------------------------------------------


class _WorkerEndedError(Exception):
    """It has, or what it says makes no sense."""


class _WorkerPool:
    """Workers, each lent to one thread at a time."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def borrow_worker(self, *, fresh: bool) -> Iterator[_Worker]:
        """A new one where it is to be fresh, or where none is idle."""
        worker = (None if fresh else self._take_idle()) or _start_worker(self._setup)
        try:
            yield worker
        finally:
            with self._lock:
                kept = worker.usable and not self._closed
                if kept:
                    self._idle.append(worker)
            if not kept:
                worker.terminate()

    def idle_pids(self) -> list[int]:
        with self._lock:
            return [worker.process_id for worker in self._idle]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.terminate()

    def _take_idle(self) -> _Worker | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                worker = self._idle.pop()
            if worker.is_alive():
                return worker
            worker.terminate()


def _start_worker(setup: dict[str, Any]) -> _Worker:
    pause = _START_PAUSE_S
    for tries_left in reversed(range(_START_TRIES)):
        try:
            return _Worker(setup)
        except OSError as error:
            reason, status = describe_error(error), -1
        except _WorkerEndedError as error:
            (status,) = error.args
            reason = f"it {_describe_exit(status)}"
        # With a status of its own it would end again: it has said why on stderr.
        if not tries_left or status >= 0:
            break
        time.sleep(pause)
        pause *= 2
    raise UnavailableError(
        f"no process can be started to decode in: {reason}", hint="leave out --isolate, or use fewer --workers"
    )


class _Worker:
    """One process, and what is exchanged with it."""

    def __init__(self, setup: dict[str, Any]) -> None:
        """
        Raises:
            OSError: it cannot be started.
            _WorkerEndedError: it has ended since, with this status.
        """
        self.pictures = 0
        """How many it was given."""
        self.usable = False
        """Whether it waits for a picture."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER_PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Of one thread: more take address space from pictures, and have nothing to do.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            # Ctrl-C is for the process that then waits for what is at work.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._replies = self._process.stdout
        try:
            self._exchange(setup, b"")
        except _WorkerEndedError as error:
            raise _WorkerEndedError(self.terminate(_SHUTDOWN_TIMEOUT_S)) from error
        except BaseException:
            self.terminate()
            raise
        self.usable = True

    @property
    def process_id(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def preprocess(self, request: dict[str, Any], content: bytes, out: memoryview) -> tuple[int, int]:
        """The picture's upright (width, height); its crop is in `out`, of bytes.

        Raises:
            ImageError: what the worker says of the picture.
            _WorkerEndedError: it says nothing.
        """
        self.pictures += 1
        self.usable = False  # until all is said, whatever interrupts it
        answer = self._exchange(request, content)
        try:
            if "error" in answer:
                error = error_of_type(answer["error"], answer["message"])
            else:
                error = None
                size = int(answer["width"]), int(answer["height"])
                if answer["bytes"] != len(out):
                    raise ValueError(answer["bytes"])
                _read_into(self._replies, out)
        except (OSError, EOFError, KeyError, TypeError, ValueError) as failure:
            raise _WorkerEndedError from failure
        self.usable = True
        if error is not None:
            raise error
        return size

    def _exchange(self, request: dict[str, Any], content: bytes) -> dict[str, Any]:
        try:
            _send_frame(self._requests, request, content)
            answer = _receive_frame(self._replies)
        except (OSError, EOFError, ValueError) as error:
            raise _WorkerEndedError from error
        if answer is None:
            raise _WorkerEndedError
        return answer

    def terminate(self, patience: float = 0.0) -> int:
        """Its `Popen.returncode`; it is killed if it does not end by itself in `patience` seconds."""
        self.usable = False
        for pipe in (self._requests, self._replies):
            with suppress(OSError):  # of what was written and not read
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(patience)
        self._process.kill()
        return self._process.wait()


def error_of_type(kind: str, message: str) -> ImageError:
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, ImageError) and getattr(error, "type", None) == kind:
            return error(str(message))
    raise ValueError(f"no error is called {kind!r}")


# In the worker ----------------------------------------------------------------------------------------------


def run_worker() -> NoReturn:
    """Answers requests until there are no more, or nobody to answer: the program of a worker."""
    with suppress(BrokenPipeError):
        _serve_requests(*_take_pipes())
    os._exit(0)  # with nothing left to flush into a pipe that may be broken


def _serve_requests(requests: IO[bytes], answers: IO[bytes]) -> None:
    import numpy as np

    setup = _receive_frame(requests)
    if setup is None:
        return
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in setup["spec"].items()
    }
    spec = PreprocessSpec(**fields)
    crop = create_preprocessor(setup["decode"], spec, "cpu", max_pixels=setup["max_pixels"])
    out = np.empty((*spec.crop_size, 3), np.uint8)
    _set_limits(setup["max_pixels"])
    _send_frame(answers, {}, b"")
    # Decoders' own remarks name no picture.
    _redirect_fd(os.devnull, 2)
    fresh = True
    while (request := _receive_frame(requests)) is not None:
        content = _read_exactly(requests, request["bytes"])
        # Past it the kernel ends this process, whatever it is at, and also where nobody waits for it any more.
        signal.setitimer(signal.ITIMER_REAL, setup["time_limit"])
        answer = _handle_request(crop, request, content, out)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not fresh and _ran_out_of_memory(answer):
            return
        fresh = False
        _send_frame(answers, answer, b"" if "error" in answer else out.data.cast("B"))


def _handle_request(
    crop: Preprocessor, request: dict[str, Any], content: bytes, out: NDArray[np.uint8]
) -> dict[str, Any]:
    try:
        width, height = crop(input_from_source(_source_of_request(request, content)), out)
    except ImageError as error:
        return {"error": error.type, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - what would end the run elsewhere ends one picture here
        return {"error": DecoderCrashedError.type, "message": f"its decoder failed: {describe_error(error)}"}
    return {"width": width, "height": height}


def _ran_out_of_memory(answer: dict[str, Any]) -> bool:
    return answer.get("error") == ImageTooLargeError.type and "memory" in answer["message"]


def _source_of_request(request: dict[str, Any], content: bytes) -> Source:
    if "path" not in request:
        return Source("", partial(BytesIO, content))
    if request["folder"] != os.getcwd():  # noqa: PTH109
        os.chdir(request["folder"])
    return sources.file_source(request["path"])


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Where requests come from and answers go to, out of the way of C libraries that read or write as they like."""
    requests, answers = os.dup(0), os.dup(1)
    _redirect_fd(os.devnull, 0)
    _redirect_fd(os.devnull, 1)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def _redirect_fd(path: str, descriptor: int) -> None:
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, descriptor)
    os.close(opened)


def _set_limits(max_pixels: int) -> None:
    """Limits this process's memory, has the system that runs out of it all the same end this process first, and
    leaves no image of it behind."""
    import resource

    memory = _BASE_BYTES + _BYTES_PER_PIXEL * max_pixels
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        with suppress(OSError, ValueError):
            _, most = resource.getrlimit(limit)
            resource.setrlimit(limit, (value if most == resource.RLIM_INFINITY else min(value, most), most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # As it was inherited it might be ignored.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})


# Frames -----------------------------------------------------------------------------------------------------


def _send_frame(pipe: IO[bytes], header: dict[str, Any], content: bytes | memoryview) -> None:
    # Names that are no text survive: JSON escapes them.
    packed = json.dumps({**header, "bytes": len(content)}).encode()
    pipe.write(_LENGTH.pack(len(packed)) + packed)
    pipe.write(content)
    pipe.flush()


def _receive_frame(pipe: IO[bytes]) -> dict[str, Any] | None:
    """A frame's header, behind which follow as many bytes as its "bytes" says; None at the end.

    Raises:
        EOFError: the end comes in the middle.
        ValueError: it is no frame.
    """
    start = pipe.read(_LENGTH.size)
    if not start:
        return None
    if len(start) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(start)
    if length > _HEADER_BYTES:
        raise ValueError(length)
    header = json.loads(_read_exactly(pipe, length))
    if not isinstance(header, dict):
        raise ValueError(header)
    return header


def _read_exactly(pipe: IO[bytes], count: int) -> bytes:
    content = pipe.read(count)
    if len(content) < count:
        raise EOFError
    return content


def _read_into(pipe: IO[bytes], out: memoryview) -> None:
    while out:
        count: int = pipe.readinto(out)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        out = out[count:]
