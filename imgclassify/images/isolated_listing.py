"""Lists the frames of files in a worker process, so that a crash there costs only one file (isolation.py)."""

from __future__ import annotations

import signal
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

from imgclassify.errors import DecoderCrashedError, DecoderTimeoutError, ImageError
from imgclassify.images import MAX_PIXELS, TIME_LIMIT
from imgclassify.images.frame_sources import list_names
from imgclassify.images.frames import FrameSelection
from imgclassify.images.isolation import make_request
from imgclassify.images.worker_frames import send_frame
from imgclassify.images.worker_pool import WorkerEndedError, WorkerPool, describe_exit
from imgclassify.images.worker_program import describe_failure, iter_requests, source_of_request
from imgclassify.sources import Source

_NAMES_PER_REPLY = 500


class IsolatedListing:
    """A `frame_sources.ListFrames` that opens files in a worker process."""

    def __init__(self, *, max_pixels: int = MAX_PIXELS, time_limit: float = TIME_LIMIT) -> None:
        """
        Args:
            max_pixels: the memory limit of the worker grows with it.
            time_limit: seconds to find the first frames of a file, and the next ones.
        """
        self._time_limit = time_limit
        self._pool = WorkerPool({"max_pixels": max_pixels, "time_limit": time_limit})
        self.close = weakref.finalize(self, self._pool.close)
        """Ends the worker. It also ends when this object is garbage-collected."""

    def __call__(self, source: Source, selection: FrameSelection) -> Iterator[str]:
        image, content = make_request(source)
        image["selection"] = selection
        with self._pool.borrow_worker(fresh=False) as worker:
            try:
                yield from worker.list_frames(image, content)
            except WorkerEndedError as error:
                status = worker.terminate(1.0)
                if status == -signal.SIGALRM:
                    raise DecoderTimeoutError(f"its frames were not found within {self._time_limit:g} s") from error
                raise DecoderCrashedError(f"the decoder {describe_exit(status)}") from error


def serve_listings(setup: dict[str, Any], requests: IO[bytes], replies: IO[bytes]) -> None:
    """Handles the requests of an IsolatedListing, in its worker."""
    for request, [content] in iter_requests(setup, requests, replies):
        [image] = request["images"]
        names = list_names(source_of_request(image, content), FrameSelection(*image["selection"]))
        while True:
            # After the time limit the kernel ends this process. Waiting for the main process does not count.
            signal.setitimer(signal.ITIMER_REAL, setup["time_limit"])
            reply = _next_names(names)
            signal.setitimer(signal.ITIMER_REAL, 0)
            send_frame(replies, reply)
            if not reply or "error" in reply:
                break


def _next_names(names: Iterator[str]) -> dict[str, Any]:
    """Returns the next names, and an error if one ends them. At the end the reply is empty."""
    found: list[str] = []
    reply: dict[str, Any] = {"names": found}
    try:
        found.extend(islice(names, _NAMES_PER_REPLY))
    except ImageError as error:
        reply |= {"error": error.type, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - without isolation it would end the run; here it costs one file
        reply |= describe_failure(error)
    return reply if found or "error" in reply else {}
