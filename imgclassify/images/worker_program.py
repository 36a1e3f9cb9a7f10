"""The program of a worker process: decodes and crops images, or lists the frames of files.

It gets requests and sends replies over two pipes, and writes crops into memory that it shares with its parent.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from imgclassify import sources
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import DecoderCrashedError, ImageError, ImageTooLargeError, describe_error
from imgclassify.images.cropping import create_preprocessor
from imgclassify.images.inputs import input_from_source
from imgclassify.images.shared_crops import SharedCrops
from imgclassify.images.worker_frames import read_exactly, receive_frame, send_frame
from imgclassify.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.images.cropping import Preprocessor

logger = logging.getLogger("imgclassify")

BYTES_PER_PIXEL = 32
"""Part of a worker's memory limit: bytes for each pixel that is allowed. The decoder that needs most (JPEG
2000, four channels) takes 24."""

_BASE_BYTES = 2**30
"""Part of a worker's memory limit: Python, NumPy, a file held as a whole, the decoders' threads."""

_REPLY_SECONDS = 0.005
"""Replies are sent together, unless the images of a request take longer than this."""

NOTE_CHARACTERS = 2**12
"""The longest note about an image that a worker sends."""


def run_worker() -> NoReturn:
    """Runs a worker: handles requests until there are no more, or until nobody reads the replies."""
    with suppress(BrokenPipeError):
        _serve_requests(*_take_pipes())
    os._exit(0)  # without flushing anything into a pipe that may be broken


def _serve_requests(requests: IO[bytes], replies: IO[bytes]) -> None:
    setup = receive_frame(requests)
    if setup is None:
        return
    if "spec" not in setup:
        from imgclassify.images.isolated_listing import serve_listings

        serve_listings(setup, requests, replies)
        return
    spec = _read_spec(setup["spec"])
    preprocess = create_preprocessor(
        setup["decode"],
        spec,
        "cpu",
        max_pixels=setup["max_pixels"],
        decode_damaged=setup["decode_damaged"],
    )
    crops = SharedCrops(setup["shared_memory"], setup["max_images"], spec.crop_size)
    cropper = _Cropper(preprocess, crops, setup["time_limit"])
    for request, contents in iter_requests(setup, requests, replies):
        if not cropper.crop_images(request["images"], contents, replies):
            return


def iter_requests(
    setup: dict[str, Any], requests: IO[bytes], replies: IO[bytes]
) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """Says that the worker is ready, and yields its requests, each with the contents of its images."""
    _prefer_to_end()
    if setup["time_limit"] is not None:
        _set_limits(setup["max_pixels"])
    send_frame(replies, {})
    # From here on, stderr would only show messages of decoders, which do not name the image.
    _redirect_fd(os.devnull, 2)
    while (request := receive_frame(requests)) is not None:
        yield request, [read_exactly(requests, image["size"]) for image in request["images"]]


class _Cropper:
    """Writes the crops of images into the shared memory, and replies what is known of the images."""

    def __init__(self, preprocess: Preprocessor, crops: SharedCrops, time_limit: float | None) -> None:
        self._preprocess = preprocess
        self._crops = crops
        self._time_limit = time_limit
        self._notes = _collect_notes()
        self._frames = _OpenedFrames()
        self._fresh = True

    def crop_images(self, images: list[dict[str, Any]], contents: list[bytes], pipe: IO[bytes]) -> bool:
        """Returns False if the worker must end, because an earlier image may have used up the memory. The main
        process then tries the current image again in a new worker."""
        replies: list[dict[str, Any]] = []
        sent = time.monotonic()
        for number, (image, content) in enumerate(zip(images, contents, strict=True)):
            self._crops.set_current(number)
            reply, out_of_memory = self._crop_image(image, content, self._crops.images[number])
            if out_of_memory and not self._fresh:
                _send_replies(pipe, replies)
                return False
            self._fresh = False
            replies.append({**reply, "notes": self._notes.copy()} if self._notes else reply)
            self._notes.clear()
            if time.monotonic() > sent + _REPLY_SECONDS:
                _send_replies(pipe, replies)
                sent = time.monotonic()
        _send_replies(pipe, replies)
        return True

    def _crop_image(
        self, image: dict[str, Any], content: bytes, out: NDArray[np.uint8]
    ) -> tuple[dict[str, Any], bool]:
        """Writes a crop to `out`. Returns (the reply, whether memory ran out)."""
        if self._time_limit is not None:
            # After the time limit the kernel ends this process, whatever it is doing, even if nobody waits for it
            # any more.
            signal.setitimer(signal.ITIMER_REAL, self._time_limit)
        try:
            return self._try_to_crop(image, content, out)
        finally:
            if self._time_limit is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _try_to_crop(
        self, image: dict[str, Any], content: bytes, out: NDArray[np.uint8]
    ) -> tuple[dict[str, Any], bool]:
        try:
            source = source_of_request(image, content)
            if "frame" in image:
                source = self._frames.select(source, image["file"], image["frame"])
            else:
                self._frames.close()
            return {"info": self._preprocess(input_from_source(source), out)}, False
        except ImageError as error:
            out_of_memory = isinstance(error, ImageTooLargeError) and error.out_of_memory
            return {"error": error.type, "message": str(error)}, out_of_memory
        except Exception as error:  # noqa: BLE001 - in one process it would end the run; here it costs one image
            return describe_failure(error), False


def _send_replies(pipe: IO[bytes], replies: list[dict[str, Any]]) -> None:
    if replies:
        send_frame(pipe, {"replies": replies})
        replies.clear()


def describe_failure(error: Exception) -> dict[str, Any]:
    """Returns the reply for an image whose decoder raised something that is not an ImageError."""
    return {"error": DecoderCrashedError.type, "message": f"the decoder failed: {describe_error(error)}"}


def source_of_request(image: dict[str, Any], content: bytes) -> Source:
    """Returns the source of one of the images of a request."""
    if "path" not in image:
        return Source(image["name"], partial(BytesIO, content))
    if image["folder"] != os.getcwd():  # noqa: PTH109
        os.chdir(image["folder"])
    return sources.file_source(image["path"])


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


def _read_spec(values: dict[str, Any]) -> PreprocessSpec:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return PreprocessSpec(**fields)


def _collect_notes() -> list[str]:
    """Returns a list that receives what the decoders of this process report about an image."""
    notes: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: notes.append(record.getMessage()[:NOTE_CHARACTERS])  # type: ignore[method-assign]
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    return notes


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


def _prefer_to_end() -> None:
    """Tells the kernel's OOM killer to choose this process first, and disables core dumps."""
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _set_limits(max_pixels: int) -> None:
    """Limits this process's address space, and lets SIGALRM end it."""
    import resource

    memory = _BASE_BYTES + BYTES_PER_PIXEL * max_pixels
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    # SIGALRM may have been ignored or blocked in the parent, and this is inherited.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
