"""Worker processes, and the exchange of requests and replies with them. They run worker_program.py."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify import errors
from imgclassify.errors import ImageError, UnavailableError, describe_error
from imgclassify.images.info import ImageInfo
from imgclassify.images.shared_crops import SharedCrops
from imgclassify.images.worker_frames import receive_frame, send_frame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import Size
    from imgclassify.images.inputs import ImageInput

logger = logging.getLogger("imgclassify")

_START_TRIES = 5
_START_PAUSE_S = 0.2
"""A machine may be short of processes or memory for a moment. So _START_TRIES attempts are made to start a
worker, with pauses that begin at _START_PAUSE_S and double."""

SHUTDOWN_TIMEOUT_S = 5.0
"""How long a worker that has closed its pipe may take to end before it is killed."""

# The worker searches for modules where this process does. By default `python -c` would also search the current
# folder.
_WORKER_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from imgclassify.images import worker_program; worker_program.run_worker()"
)


class WorkerEndedError(Exception):
    """The worker has ended, or its reply is invalid."""


class CropRequest(NamedTuple):
    """One of the images of a request."""

    original: ImageInput
    image: dict[str, Any]
    """What the worker must know of it."""
    content: bytes
    """The bytes of the image, unless the worker opens its file."""
    out: NDArray[np.uint8]
    """Where its crop is to be written, (H, W, 3)."""


class WorkerPool:
    """Workers, each used by one thread at a time."""

    def __init__(self, setup: dict[str, Any], *, max_images: int = 1, crop_size: Size = (0, 0)) -> None:
        """
        Args:
            setup: what each worker must know.
            max_images: the number of images of a request, at most 255.
            crop_size: (height, width) of crops. (0, 0) if the workers compute none.
        """
        self._setup = setup | {"max_images": max_images}
        self._crop_size = crop_size
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def borrow_worker(self, *, fresh: bool) -> Iterator[Worker]:
        """Yields a worker. It is a new one if `fresh` is True or no worker is idle."""
        worker = (None if fresh else self._take_idle()) or _start_worker(self._setup, self._crop_size)
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


def _start_worker(setup: dict[str, Any], crop_size: Size) -> Worker:
    pause = _START_PAUSE_S
    for tries_left in reversed(range(_START_TRIES)):
        try:
            return Worker(setup, crop_size)
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
        f"cannot start a decoding process: {reason}",
        hint="leave out --isolate, or use fewer --workers, or --workers threads",
    )


class Worker:
    """One worker process, and the exchange of frames with it."""

    def __init__(self, setup: dict[str, Any], crop_size: Size) -> None:
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
        self._crops = SharedCrops.create(setup["max_images"], crop_size)
        try:
            self._process = _start_process(self._crops.descriptor)
        finally:
            os.close(self._crops.descriptor)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._replies = self._process.stdout
        try:
            self._exchange({**setup, "shared_memory": self._crops.descriptor}, [])
        except WorkerEndedError as error:
            raise WorkerEndedError(self.terminate(SHUTDOWN_TIMEOUT_S)) from error
        except BaseException:
            self.terminate()
            raise
        self.usable = True

    @property
    def process_id(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def current_image(self) -> int:
        """Returns the number of the image of the request that the worker began last."""
        return self._crops.current()

    def preprocess(self, requests: list[CropRequest]) -> Iterator[ImageInfo | ImageError]:
        """Yields for each image what is known of it, when its crop has been written, or its error, in order.

        Raises:
            WorkerEndedError: the worker has ended, or its reply is invalid.
        """
        self.images_handled += len(requests)
        self.usable = False  # until all replies are read; an interruption would leave some of them in the pipe
        self._crops.set_current(0)
        images, contents = [], []
        for _, image, content, _ in requests:
            if (file := image.get("file")) is not None and file == self._file:
                content = b""  # the worker has it
            self._file = file
            images.append({**image, "size": len(content)})
            contents.append(content)
        reply = self._exchange({"images": images}, contents)
        count = 0
        while True:
            try:
                outcomes = [_read_outcome(each) for each in reply["replies"]]
                answered = requests[count : count + len(outcomes)]
                for outcome, request, crop in zip(outcomes, answered, self._crops.images[count:], strict=False):
                    if isinstance(outcome, ImageInfo):
                        request.out[...] = crop
                count += len(outcomes)
                if not outcomes or count > len(requests):
                    raise ValueError(count)
            except (KeyError, TypeError, ValueError) as failure:
                raise WorkerEndedError from failure
            self.usable = count == len(requests)
            yield from outcomes
            if count == len(requests):
                return
            reply = self._receive()

    def list_frames(self, image: dict[str, Any], content: bytes) -> Iterator[str]:
        """Yields the names of the frames of a file, as the worker finds them. The worker is not usable meanwhile.

        Raises:
            ImageError: the error that the worker reports for the file.
            WorkerEndedError: the worker has ended, or its reply is invalid.
        """
        self.images_handled += 1
        self.usable = False
        reply = self._exchange({"images": [{**image, "size": len(content)}]}, [content])
        while True:
            yield from map(str, reply.get("names", ()))
            if "names" not in reply or "error" in reply:
                break
            reply = self._receive()
        self.usable = True
        if "error" in reply:
            raise error_of_type(reply["error"], str(reply.get("message")))

    def _exchange(self, request: dict[str, Any], contents: list[bytes]) -> dict[str, Any]:
        try:
            send_frame(self._requests, request, contents)
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


def _start_process(descriptor: int) -> subprocess.Popen[bytes]:
    """Starts a worker that inherits an open file, besides its pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER_PROGRAM, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(descriptor,),
        # More OpenBLAS threads, and memory arenas of the decoders' threads, would use address space that images
        # need.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        # Ctrl-C must reach only the main process, which then waits for the images that are being decoded.
        start_new_session=True,
    )


def _read_outcome(reply: dict[str, Any]) -> ImageInfo | ImageError:
    """Returns what a worker replies of an image, and logs its notes.

    Raises:
        KeyError, TypeError, ValueError: it is not the reply of a worker.
    """
    for note in reply.get("notes", ()):
        logger.info("%s", note)
    if "error" in reply:
        return error_of_type(reply["error"], reply["message"])
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


def describe_exit(status: int) -> str:
    """Describes how a process with this `Popen.returncode` ended."""
    if status >= 0:
        return f"exited with status {status}"
    name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
    words = signal.strsignal(-status) or "unknown"
    perhaps = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
    return f"was terminated by {name} ({words.lower()}){perhaps}"
