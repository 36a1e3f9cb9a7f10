"""Decodes and crops images in worker processes, so that a crash of a decoder costs only one image.

The same is true of a decoder that hangs or exhausts the memory. The run and the other images are not affected.

A worker is this module run as a program. It exchanges frames with its pool over two pipes. A frame is a
length, a JSON object, and as many bytes as the object says. Nothing that a worker sends is ever executed in
this process.
"""

from __future__ import annotations

import json
import logging
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
from dataclasses import asdict, replace
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
from imgclassify.images.info import ImageInfo
from imgclassify.images.inputs import input_from_source
from imgclassify.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.images.cropping import Preprocessor
    from imgclassify.images.inputs import ImageInput

logger = logging.getLogger("imgclassify")

_BYTES_PER_PIXEL = 32
"""Part of a worker's memory limit: bytes for each pixel that is allowed. The decoder that needs most (JPEG
2000, four channels) takes 24."""

_BASE_BYTES = 2**30
"""Part of a worker's memory limit: Python, NumPy, a file held as a whole, the decoders' threads."""

_START_TRIES = 5
_START_PAUSE_S = 0.2
"""A machine may be short of processes or memory for a moment. So _START_TRIES attempts are made to start a
worker, with pauses that begin at _START_PAUSE_S and double."""

_SHUTDOWN_TIMEOUT_S = 5.0
"""How long a worker that has closed its pipe may take to end before it is killed."""

_HEADER_BYTES = 2**16
"""The largest JSON object that a frame may have."""
_LENGTH = struct.Struct(">I")
_NOTE_CHARACTERS = 2**12
"""The longest note about an image that a worker sends."""

# The worker searches for modules where this process does. By default `python -c` would also search the current
# folder.
_WORKER_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; from imgclassify.images import isolation; isolation.run_worker()"
)


class IsolatedPreprocessor:
    """A `cropping.Preprocessor` that uses worker processes, one for each thread that calls it.

    The crops are the same as without workers.

    A crash or a lack of memory is attributed to an image only if the worker has had no other image. Otherwise
    an earlier image may be the cause, and the image is tried again in a new worker.
    """

    def __init__(
        self,
        decode_mode: str,
        spec: PreprocessSpec,
        *,
        max_pixels: int = MAX_PIXELS,
        time_limit: float = TIME_LIMIT,
        decode_damaged: bool = False,
    ) -> None:
        """Prepares the workers, but starts none yet.

        Args:
            decode_mode: "exact" or "fast".
            max_pixels: as in `decoding.decode_image`. The memory limit of a worker grows with it.
            time_limit: seconds for one image, from the moment when a worker has received the request.
            decode_damaged: as in `decoding.load_image`.

        Raises:
            UsageError: this system is neither Linux nor macOS.
        """
        if not hasattr(signal, "setitimer"):
            raise UsageError("isolate needs Linux or macOS", hint="leave out --isolate", argument="isolate")
        self._time_limit = time_limit
        self._preprocess_in_process = create_preprocessor(decode_mode, spec, "cpu", max_pixels=max_pixels)
        self._pool = WorkerPool(
            {
                "decode": decode_mode,
                "spec": asdict(spec),
                "max_pixels": max_pixels,
                "time_limit": time_limit,
                "decode_damaged": decode_damaged,
            }
        )
        self.close = weakref.finalize(self, self._pool.close)
        """Ends the workers. Idle workers end at once, busy ones after their current image. The workers also
        end when this object is garbage-collected, and when the process ends in any way."""

    def __call__(self, image: ImageInput, out: NDArray[np.uint8]) -> ImageInfo:
        """Writes the image's crop into `out` and returns what is known of the image.

        Args:
            out: (H, W, 3) uint8, C-contiguous.

        Raises:
            ImageError: as without isolation, or DecoderCrashedError or DecoderTimeoutError.
            UnavailableError: no worker can be started.
        """
        if image.source is None:
            return self._preprocess_in_process(image, out)
        request, content = make_request(image.source)
        if (frame := image.source.frame) is not None:
            request |= {"frame": frame.name, "file": frame.reader and frame.reader.number}
        retrying = False
        while True:
            with self._pool.borrow_worker(fresh=retrying) as worker:
                fresh = worker.images_handled == 0
                try:
                    return worker.preprocess(request, content, out.data.cast("B"))
                except WorkerEndedError:
                    status = worker.terminate(_SHUTDOWN_TIMEOUT_S)
            if status == -signal.SIGALRM:
                raise DecoderTimeoutError(f"not decoded within {self._time_limit:g} seconds")
            if fresh:
                raise DecoderCrashedError(f"the decoder {describe_exit(status)}")
            retrying = True

    def idle_workers(self) -> list[int]:
        """Returns the process ids of the workers that wait for an image."""
        return self._pool.idle_pids()


def make_request(source: Source) -> tuple[dict[str, Any], bytes]:
    """Returns a request and its content.

    A file on disk is sent as its path and the folder that a relative path starts from. Anything else is sent
    as its bytes.
    """
    if source.path is not None:
        with suppress(OSError):  # the current folder may have been deleted
            return {"path": source.path, "folder": os.getcwd()}, b""  # noqa: PTH109
    with source.open() as stream:
        return {"name": source.name[:_NOTE_CHARACTERS]}, stream.read()


def describe_exit(status: int) -> str:
    """Describes how a process with this `Popen.returncode` ended."""
    if status >= 0:
        return f"exited with status {status}"
    name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
    words = signal.strsignal(-status) or "unknown"
    perhaps = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
    return f"was terminated by {name} ({words.lower()}){perhaps}"


# In this process --------------------------------------------------------------------------------------------


class WorkerEndedError(Exception):
    """The worker has ended, or its reply is invalid."""


class WorkerPool:
    """Workers, each used by one thread at a time."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def borrow_worker(self, *, fresh: bool) -> Iterator[Worker]:
        """Yields a worker. It is a new one if `fresh` is True or no worker is idle."""
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

    def _take_idle(self) -> Worker | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                worker = self._idle.pop()
            if worker.is_alive():
                return worker
            worker.terminate()


def _start_worker(setup: dict[str, Any]) -> Worker:
    pause = _START_PAUSE_S
    for tries_left in reversed(range(_START_TRIES)):
        try:
            return Worker(setup)
        except OSError as error:
            reason, status = describe_error(error), -1
        except WorkerEndedError as error:
            (status,) = error.args
            reason = f"it {describe_exit(status)}"
        # A worker that exits by itself would do so again. It has printed the reason to stderr.
        if not tries_left or status >= 0:
            break
        time.sleep(pause)
        pause *= 2
    raise UnavailableError(
        f"cannot start a decoding process: {reason}", hint="leave out --isolate, or use fewer --workers"
    )


class Worker:
    """One worker process, and the exchange of frames with it."""

    def __init__(self, setup: dict[str, Any]) -> None:
        """Starts the process and sends it the setup.

        Raises:
            OSError: the process cannot be started.
            WorkerEndedError: the process has ended since. The argument is its status.
        """
        self.images_handled = 0
        """How many images the worker has been given."""
        self.usable = False
        """Whether the worker waits for an image."""
        self._file: int | None = None
        """The number of the file whose frames the worker has been given."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER_PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # More OpenBLAS threads, and memory arenas of the decoders' threads, would use address space that
            # images need.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
            # Ctrl-C must reach only the main process, which then waits for the images that are being decoded.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._replies = self._process.stdout
        try:
            self._exchange(setup, b"")
        except WorkerEndedError as error:
            raise WorkerEndedError(self.terminate(_SHUTDOWN_TIMEOUT_S)) from error
        except BaseException:
            self.terminate()
            raise
        self.usable = True

    @property
    def process_id(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def preprocess(self, request: dict[str, Any], content: bytes, out: memoryview) -> ImageInfo:
        """Lets the worker write an image's crop into `out`, a view of bytes. Returns what is known of the image.

        Raises:
            ImageError: the error that the worker reports for the image.
            WorkerEndedError: the worker has ended, or its reply is invalid.
        """
        self.images_handled += 1
        if (file := request.get("file")) is not None and file == self._file:
            content = b""  # the worker has it
        self._file = file
        self.usable = False  # until the whole reply is read; an interruption would leave part of it in the pipe
        reply = self._exchange(request, content)
        try:
            for note in reply.get("notes", ()):
                logger.info("%s", note)
            if "error" in reply:
                error = error_of_type(reply["error"], reply["message"])
            else:
                error = None
                info = _read_info(reply)
                if reply["bytes"] != len(out):
                    raise ValueError(reply["bytes"])
                _read_into(self._replies, out)
        except (OSError, EOFError, KeyError, TypeError, ValueError) as failure:
            raise WorkerEndedError from failure
        self.usable = True
        if error is not None:
            raise error
        return info

    def list_frames(self, request: dict[str, Any], content: bytes) -> Iterator[str]:
        """Yields the names of the frames of a file, as the worker finds them. The worker is not usable meanwhile.

        Raises:
            ImageError: the error that the worker reports for the file.
            WorkerEndedError: the worker has ended, or its reply is invalid.
        """
        self.images_handled += 1
        self.usable = False
        reply = self._exchange(request, content)
        while True:
            yield from map(str, reply.get("names", ()))
            if "names" not in reply or "error" in reply:
                break
            reply = self._receive()
        self.usable = True
        if "error" in reply:
            raise error_of_type(reply["error"], str(reply.get("message")))

    def _exchange(self, request: dict[str, Any], content: bytes) -> dict[str, Any]:
        try:
            send_frame(self._requests, request, content)
        except OSError as error:
            raise WorkerEndedError from error
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            reply = receive_frame(self._replies)
        except (OSError, EOFError, ValueError) as error:
            raise WorkerEndedError from error
        if reply is None:
            raise WorkerEndedError
        return reply

    def terminate(self, patience: float = 0.0) -> int:
        """Ends the process and returns its `Popen.returncode`.

        The process is killed if it does not end by itself within `patience` seconds.
        """
        self.usable = False
        for pipe in (self._requests, self._replies):
            with suppress(OSError):  # closing flushes bytes that the process may no longer read
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(patience)
        self._process.kill()
        return self._process.wait()


def _read_info(reply: dict[str, Any]) -> ImageInfo:
    """Raises KeyError, TypeError or ValueError if a worker's reply does not describe an image."""
    width, height, frames, frame, damaged = reply["info"]
    frames, frame = (None if number is None else int(number) for number in (frames, frame))
    return ImageInfo(int(width), int(height), frames, frame, damaged is True)


def error_of_type(kind: str, message: str) -> ImageError:
    """Creates the image error whose `type` is `kind`.

    Raises:
        ValueError: there is no such error.
    """
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, ImageError) and getattr(error, "type", None) == kind:
            return error(str(message))
    raise ValueError(f"unknown error type {kind!r}")


# In the worker ----------------------------------------------------------------------------------------------


def run_worker() -> NoReturn:
    """Runs a worker: handles requests until there are no more, or until nobody reads the replies."""
    with suppress(BrokenPipeError):
        _serve_requests(*_take_pipes())
    os._exit(0)  # without flushing anything into a pipe that may be broken


def _serve_requests(requests: IO[bytes], replies: IO[bytes]) -> None:
    import numpy as np

    setup = receive_frame(requests)
    if setup is None:
        return
    if "spec" not in setup:
        from imgclassify.images.isolated_listing import serve_listings

        serve_listings(setup, requests, replies)
        return
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in setup["spec"].items()
    }
    spec = PreprocessSpec(**fields)
    preprocess = create_preprocessor(
        setup["decode"],
        spec,
        "cpu",
        max_pixels=setup["max_pixels"],
        decode_damaged=setup["decode_damaged"],
    )
    notes, frames = _collect_notes(), _OpenedFrames()
    out = np.empty((*spec.crop_size, 3), np.uint8)
    fresh = True
    for request, content in iter_requests(setup, requests, replies):
        # After the time limit the kernel ends this process, whatever it is doing, even if nobody waits for it
        # any more.
        signal.setitimer(signal.ITIMER_REAL, setup["time_limit"])
        reply, out_of_memory = _handle_request(preprocess, frames, request, content, out)
        signal.setitimer(signal.ITIMER_REAL, 0)
        # An earlier image may have used up the memory. The main process tries this one again in a new worker.
        if out_of_memory and not fresh:
            return
        fresh = False
        send_frame(replies, {**reply, "notes": notes}, b"" if "error" in reply else out.data.cast("B"))
        notes.clear()


def iter_requests(
    setup: dict[str, Any], requests: IO[bytes], replies: IO[bytes]
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Says that the worker is ready, and yields its requests."""
    _set_limits(setup["max_pixels"])
    send_frame(replies, {}, b"")
    # From here on, stderr would only show messages of decoders, which do not name the image.
    _redirect_fd(os.devnull, 2)
    while (request := receive_frame(requests)) is not None:
        yield request, _read_exactly(requests, request["bytes"])


def _collect_notes() -> list[str]:
    """Returns a list that receives what the decoders of this process report about an image."""
    notes: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: notes.append(record.getMessage()[:_NOTE_CHARACTERS])  # type: ignore[method-assign]
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    return notes


class _OpenedFrames:
    """The file whose frames are being read. It stays open from one request to the next."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._reader: Any = None

    def select(self, source: Source, file: int | None, frame: str) -> Source:
        """Returns the source of a frame.

        Args:
            file: a number of the file. None if no other frame of it will be read.
        """
        from imgclassify.images.frame_sources import FrameReader

        if file is None or file != self._file:
            self._file, self._reader = file, FrameReader(source)
        return replace(source, frame=sources.Frame(frame, self._reader))

    def close(self) -> None:
        """Closes the file, if one is open, so that its memory is there for others."""
        self._file = self._reader = None


def _handle_request(
    preprocess: Preprocessor, frames: _OpenedFrames, request: dict[str, Any], content: bytes, out: NDArray[np.uint8]
) -> tuple[dict[str, Any], bool]:
    """Writes the crop to `out`. Returns (the reply, whether memory ran out)."""
    try:
        source = source_of_request(request, content)
        if "frame" in request:
            source = frames.select(source, request["file"], request["frame"])
        else:
            frames.close()
        info = preprocess(input_from_source(source), out)
    except ImageError as error:
        out_of_memory = isinstance(error, ImageTooLargeError) and error.out_of_memory
        return {"error": error.type, "message": str(error)}, out_of_memory
    except Exception as error:  # noqa: BLE001 - without isolation it would end the run; here it costs one image
        return {"error": DecoderCrashedError.type, "message": f"the decoder failed: {describe_error(error)}"}, False
    return {"info": info}, False


def source_of_request(request: dict[str, Any], content: bytes) -> Source:
    if "path" not in request:
        return Source(request["name"], partial(BytesIO, content))
    if request["folder"] != os.getcwd():  # noqa: PTH109
        os.chdir(request["folder"])
    return sources.file_source(request["path"])


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Returns the pipes for requests and replies, moved away from stdin and stdout.

    C libraries may read from stdin and write to stdout.
    """
    requests, replies = os.dup(0), os.dup(1)
    _redirect_fd(os.devnull, 0)
    _redirect_fd(os.devnull, 1)
    return os.fdopen(requests, "rb"), os.fdopen(replies, "wb")


def _redirect_fd(path: str, descriptor: int) -> None:
    opened = os.open(path, os.O_RDWR)
    os.dup2(opened, descriptor)
    os.close(opened)


def _set_limits(max_pixels: int) -> None:
    """Limits this process's address space and disables core dumps.

    Also tells the kernel's OOM killer to choose this process first.
    """
    import resource

    memory = _BASE_BYTES + _BYTES_PER_PIXEL * max_pixels
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        with suppress(OSError, ValueError):
            _, most = resource.getrlimit(limit)
            resource.setrlimit(limit, (value if most == resource.RLIM_INFINITY else min(value, most), most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # SIGALRM may have been ignored or blocked in the parent, and this is inherited.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})


# Frames -----------------------------------------------------------------------------------------------------


def send_frame(pipe: IO[bytes], header: dict[str, Any], content: bytes | memoryview) -> None:
    # Names that are not valid text survive, because JSON escapes their surrogates.
    packed = json.dumps({**header, "bytes": len(content)}).encode()
    pipe.write(_LENGTH.pack(len(packed)) + packed)
    pipe.write(content)
    pipe.flush()


def receive_frame(pipe: IO[bytes]) -> dict[str, Any] | None:
    """Reads the header of a frame. As many bytes as its "bytes" says follow it.

    Returns:
        The header. None at the end of the pipe.

    Raises:
        EOFError: the pipe ends in the middle of the header.
        ValueError: the data is not a frame.
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
