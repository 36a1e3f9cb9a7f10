"""Chooses what decodes and crops images: threads of this process, or worker processes, and how many."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.errors import UsageError
from imgclassify.images import DECODE_MODES
from imgclassify.images.cropping import (
    GroupPreprocessor,
    Outcome,
    Preprocessor,
    create_preprocessor,
    preprocess_each,
)
from imgclassify.images.info import ImageInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec, Size
    from imgclassify.images.inputs import ImageInput

MAX_WORKERS = 32
"""The most workers, unless the user wants more."""

THREADS, PROCESSES = "threads", "processes"

_THREADS_RATE = 1000
"""Images per second from which on the threads of one process hinder each other. Each image needs the interpreter
for about 0.3 ms, and only one thread at a time has it."""

_PROCESSES_MIN_IMAGES = 1500
"""Below this, threads are done before worker processes have made up for their start, which takes each 0.2 s."""

_DECODE_S, _DECODE_S_PER_PIXEL = 0.4e-3, 3.6e-3 / 224**2
"""Seconds on one core to decode, resize and crop an image, roughly: for any, and for each pixel of the crop, up to
224×224. Photographs of 500×375 pixels for crops of 224×224 take 4 ms, images of 32×32 half a millisecond."""

_WORKERS = re.compile(rf"(?:({THREADS}|{PROCESSES})(?::([1-9]\d*))?|([1-9]\d*))")


class WorkerChoice(NamedTuple):
    """What a user says of workers. None leaves it open."""

    kind: str | None = None
    """THREADS or PROCESSES."""
    number: int | None = None

    @classmethod
    def parse(cls, workers: int | str | None) -> WorkerChoice:
        """
        Args:
            workers: a number, "threads", "processes", "threads:N" or "processes:N".

        Raises:
            UsageError: it is none of these.
        """
        if workers is None:
            return cls()
        found = _WORKERS.fullmatch(str(workers)) if type(workers) in (int, str) else None
        if found is None:
            raise UsageError(
                f"workers is {workers!r}",
                hint="give a whole number of at least 1, threads, processes, threads:N or processes:N",
                argument="workers",
            )
        kind, number, alone = found.groups()
        return cls(kind, int(number or alone) if number or alone else None)

    def complete(
        self, *, cores: int, images_per_second: float, crop_size: Size, num_images: int | None
    ) -> tuple[str, int]:
        """Decides what the user leaves open: worker processes, if threads would not keep up.

        Args:
            cores: number of processor cores.
            images_per_second: how many the network computes.
            crop_size: (height, width).
            num_images: None if it is unknown, and counts as many.

        Returns:
            (THREADS or PROCESSES, number of workers).
        """
        number = self.number or min(cores, MAX_WORKERS)
        if self.kind:
            return self.kind, number
        pixels = min(crop_size[0] * crop_size[1], 224**2)
        rate = 1 / (1 / images_per_second + (_DECODE_S + _DECODE_S_PER_PIXEL * pixels) / number)
        many = num_images is None or num_images >= _PROCESSES_MIN_IMAGES
        return PROCESSES if many and rate > _THREADS_RATE and has_worker_processes() else THREADS, number


class DecodingOptions(NamedTuple):
    """How images are decoded, and by what. `Classifier` explains each option."""

    workers: WorkerChoice
    decode_mode: str
    """One of images.DECODE_MODES."""
    max_pixels: int
    isolate: bool
    time_limit: float
    decode_damaged: bool

    def choice(self) -> WorkerChoice:
        """Returns what the user, or another option, says of workers."""
        if self.isolate:
            return self.workers._replace(kind=PROCESSES)
        return self.workers._replace(kind=THREADS) if self.decode_mode == "gpu" else self.workers

    def validate(self) -> None:
        """
        Raises:
            UsageError: an option is out of its range, two exclude each other, or this system has no worker
                processes.
        """
        if self.decode_mode not in DECODE_MODES:
            raise UsageError(f"unknown decode mode {self.decode_mode!r}", hint=f"use {', '.join(DECODE_MODES)}")
        if not (isinstance(self.time_limit, int | float) and 0 < self.time_limit < math.inf):
            raise UsageError(
                f"time_limit is {self.time_limit!r}",
                hint="give a finite number of seconds above 0",
                argument="time_limit",
            )
        if not self.isolate and self.workers.kind != PROCESSES:
            return
        argument, said, option = "workers", 'workers="processes"', "--workers processes"
        if self.isolate:
            argument, said, option = "isolate", "isolate", "--isolate"
        for is_so, reason, other in (
            (not has_worker_processes(), "needs Linux or macOS", ""),
            (self.decode_mode == "gpu", "works only with decoding on the CPU", " or --decode gpu"),
            (self.workers.kind == THREADS, "works only with worker processes", " or --workers threads"),
        ):
            if is_so:
                raise UsageError(f"{said} {reason}", hint=f"leave out {option}{other}", argument=argument)


class DecodingWorkers(NamedTuple):
    """The workers that decode and crop images."""

    kind: str
    """THREADS or PROCESSES."""
    number: int
    group_size: int
    """The most images that a worker takes at a time."""
    preprocess: Preprocessor
    """For a single image, for which no process is started, unless it must be isolated."""
    preprocess_group: GroupPreprocessor
    close: Callable[[], object]
    """Ends the worker processes, if there are any."""

    @classmethod
    def create(
        cls, kind: str, number: int, options: DecodingOptions, spec: PreprocessSpec, device: str
    ) -> DecodingWorkers:
        """
        Args:
            kind: THREADS or PROCESSES. Worker processes decode on the CPU only.
            device: as in `cropping.create_preprocessor`.

        Raises:
            DeviceError: as in `cropping.create_preprocessor`.
        """
        limits: dict[str, Any] = {"max_pixels": options.max_pixels, "decode_damaged": options.decode_damaged}
        if kind == THREADS:
            preprocess = create_preprocessor(options.decode_mode, spec, device, **limits)
            return cls(kind, number, 1, preprocess, partial(preprocess_each, preprocess), lambda: None)
        from imgclassify.images.isolation import GROUP_SIZE, IsolatedPreprocessor  # most runs do not need it

        time_limit = options.time_limit if options.isolate else None
        isolated = IsolatedPreprocessor(options.decode_mode, spec, time_limit=time_limit, **limits)
        single = isolated if options.isolate else isolated.preprocess_in_process
        return cls(kind, number, GROUP_SIZE, single, isolated.preprocess_group, isolated.close)

    def with_observer(self, function: Callable[[str, NDArray[np.uint8]], None]) -> DecodingWorkers:
        """Returns the same workers, but calls a function with the name and the crop of each image."""

        def preprocess(image: ImageInput, out: NDArray[np.uint8]) -> ImageInfo:
            info = self.preprocess(image, out)
            function(image.name, out)
            return info

        def preprocess_group(images: Sequence[ImageInput], outs: Sequence[NDArray[np.uint8]]) -> Iterator[Outcome]:
            for image, out, outcome in zip(images, outs, self.preprocess_group(images, outs), strict=True):
                if isinstance(outcome, ImageInfo):
                    function(image.name, out)
                yield outcome

        return self._replace(preprocess=preprocess, preprocess_group=preprocess_group)


def has_worker_processes() -> bool:
    """Whether this system has what worker processes need: it is Linux or macOS."""
    return hasattr(signal, "setitimer")
