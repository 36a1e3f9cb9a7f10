"""Decodes and crops images in worker processes, so that a crash of a decoder costs only one image.

The same is true of a decoder that hangs or exhausts the memory, if there are limits. The run and the other images
are not affected. Worker processes also use more processor cores than the threads of one Python process can.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import DecoderCrashedError, DecoderTimeoutError, ImageError, UnavailableError
from imgclassify.images import MAX_PIXELS, TIME_LIMIT
from imgclassify.images.cropping import Outcome, Preprocessor, create_preprocessor, preprocess_each
from imgclassify.images.info import ImageInfo
from imgclassify.images.inputs import ImageInput
from imgclassify.images.worker_pool import (
    SHUTDOWN_TIMEOUT_S,
    CropRequest,
    Worker,
    WorkerEndedError,
    WorkerPool,
    describe_exit,
)
from imgclassify.images.worker_program import NOTE_CHARACTERS
from imgclassify.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger("imgclassify")

GROUP_SIZE = 8
"""The most images of one request. Each request takes as long as the answer of a small image."""

_GROUP_BYTES = 2**20
"""A request whose contents are larger gets no further image."""


class _Trial(NamedTuple):
    """Images that a worker is to be given."""

    requests: Sequence[CropRequest]
    fresh: bool = False
    """Whether the worker must not have had another image."""


class IsolatedPreprocessor:
    """A `cropping.Preprocessor` that uses worker processes, one for each thread that calls it.

    It needs Linux or macOS.

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
        time_limit: float | None = TIME_LIMIT,
        decode_damaged: bool = False,
    ) -> None:
        """Prepares the workers, but starts none yet.

        Args:
            decode_mode: "exact" or "fast".
            max_pixels: as in `decoding.decode_image`. The memory limit of a worker grows with it.
            time_limit: seconds for one image, from the moment when a worker has begun with it. None if there is
                neither a limit on time nor one on memory.
            decode_damaged: as in `decoding.load_image`.
        """
        self._time_limit = time_limit
        self.preprocess_in_process: Preprocessor = create_preprocessor(
            decode_mode, spec, "cpu", max_pixels=max_pixels, decode_damaged=decode_damaged
        )
        setup = {
            "decode": decode_mode,
            "spec": asdict(spec),
            "max_pixels": max_pixels,
            "time_limit": time_limit,
            "decode_damaged": decode_damaged,
        }
        self._can_start_workers = True
        self._lock = threading.Lock()
        self._pool = WorkerPool(setup, max_images=GROUP_SIZE, crop_size=spec.crop_size)
        self.close = weakref.finalize(self, self._pool.close)
        """Ends the workers. Idle workers end at once, busy ones after their current images. The workers also
        end when this object is garbage-collected, and when the process ends in any way."""

    def __call__(self, image: ImageInput, out: NDArray[np.uint8]) -> ImageInfo:
        """Writes the image's crop into `out` and returns what is known of the image.

        Args:
            out: (H, W, 3) uint8.

        Raises:
            ImageError: as without isolation, or DecoderCrashedError or DecoderTimeoutError.
            UnavailableError: no worker can be started.
        """
        [outcome] = self.preprocess_group([image], [out])
        if isinstance(outcome, ImageInfo):
            return outcome
        raise outcome

    def preprocess_group(
        self, images: Sequence[ImageInput], outs: Sequence[NDArray[np.uint8]]
    ) -> Iterator[Outcome]:
        """A `cropping.GroupPreprocessor` of groups of at most GROUP_SIZE images.

        Raises:
            UnavailableError: no worker can be started, and there are limits on time and memory.
        """
        waiting: list[CropRequest] = []
        num_bytes = 0
        for image, out in zip(images, outs, strict=True):
            # Subclasses know by themselves what their images are.
            source = image.source if type(image) is ImageInput else None
            if source is None or num_bytes > _GROUP_BYTES:
                yield from self._answer(waiting)
                waiting, num_bytes = [], 0
            if source is None:
                yield from preprocess_each(self.preprocess_in_process, [image], [out])
                continue
            try:
                waiting.append(CropRequest(image, *make_request(source), out))
                num_bytes += len(waiting[-1].content)
            except ImageError as error:
                yield from self._answer(waiting)
                waiting, num_bytes = [], 0
                yield error
        yield from self._answer(waiting)

    def idle_workers(self) -> list[int]:
        """Returns the process ids of the workers that wait for an image."""
        return self._pool.idle_pids()

    def _answer(self, requests: Sequence[CropRequest]) -> Iterator[Outcome]:
        """Has workers preprocess the images, and tries those again that a worker did not finish."""
        left: deque[_Trial | ImageError] = deque([_Trial(requests)] if requests else [])
        while left:
            trial = left.popleft()
            if isinstance(trial, ImageError):
                yield trial
                continue
            with ExitStack() as stack:
                worker = self._borrow_worker(stack, trial)
                if worker is None:
                    images, outs = [each.original for each in trial.requests], [each.out for each in trial.requests]
                    yield from preprocess_each(self.preprocess_in_process, images, outs)
                    continue
                fresh, answered = worker.images_handled == 0, 0
                try:
                    for outcome in worker.preprocess(list(trial.requests)):
                        yield outcome
                        answered += 1
                except WorkerEndedError:
                    current = min(max(worker.current_image(), answered), len(trial.requests) - 1)
                    status = worker.terminate(SHUTDOWN_TIMEOUT_S)
                    left.extendleft(
                        reversed(self._next_trials(trial.requests, answered, current, status, fresh=fresh))
                    )

    def _borrow_worker(self, stack: ExitStack, trial: _Trial) -> Worker | None:
        """Returns a worker until the stack is left. None if the images are to be decoded in this process, because
        workers are there for speed only and cannot be started.

        Raises:
            UnavailableError: no worker can be started.
        """
        may_be_here = self._time_limit is None and not trial.fresh  # otherwise it may crash this process
        if may_be_here and not self._can_start_workers:
            return None
        try:
            return stack.enter_context(self._pool.borrow_worker(fresh=trial.fresh))
        except UnavailableError as error:
            if not may_be_here:
                raise
            with self._lock:  # several threads may have tried
                if self._can_start_workers:
                    logger.warning("images are decoded by threads: %s", error)
                self._can_start_workers = False
            return None

    def _next_trials(
        self, requests: Sequence[CropRequest], answered: int, current: int, status: int, *, fresh: bool
    ) -> list[_Trial | ImageError]:
        """Returns what is to be done about images when their worker has ended.

        Args:
            answered: how many have an answer.
            current: the number of the image that the worker was at.
            status: Popen.returncode of the worker.
            fresh: whether the worker had no image before these.
        """
        verdict: _Trial | ImageError = _Trial(requests[current : current + 1], fresh=True)
        if status == -signal.SIGALRM:
            verdict = DecoderTimeoutError(f"not decoded within {self._time_limit:g} seconds")
        elif fresh and current == 0:
            verdict = DecoderCrashedError(f"the decoder {describe_exit(status)}")
        before, after = requests[answered:current], requests[current + 1 :]
        return [*([_Trial(before)] if before else []), verdict, *([_Trial(after)] if after else [])]


def make_request(source: Source) -> tuple[dict[str, Any], bytes]:
    """Returns what a worker must know of an image, and its content.

    A file on disk is sent as its path and the folder that a relative path starts from. Anything else is sent as its
    bytes.

    Raises:
        ImageError: it cannot be read.
    """
    image: dict[str, Any] = {}
    if (frame := source.frame) is not None:
        image |= {"frame": frame.name, "file": frame.reader and frame.reader.number}
    if source.path is not None:
        with suppress(OSError):  # the current folder may have been deleted
            return image | {"path": source.path, "folder": os.getcwd()}, b""  # noqa: PTH109
    with source.open() as stream:
        return image | {"name": source.name[:NOTE_CHARACTERS]}, stream.read()
