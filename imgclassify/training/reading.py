"""Reads the images of a training once: what they hold, and the features that a network computes of them."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify import pipeline
from imgclassify.engines import FEATURES
from imgclassify.errors import ImageError, UsageError, make_printable
from imgclassify.images import MAX_PIXELS, decoding
from imgclassify.images.inputs import ImageInput, NotNeededError
from imgclassify.results import ImageFailure
from imgclassify.runner import default_workers
from imgclassify.sources.source import read_all
from imgclassify.training.near_duplicates import compute_fingerprint

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from imgclassify.runner import ImageOutputs, ModelRunner
    from imgclassify.sources import Source
    from imgclassify.training.feature_cache import CachedImage, FeatureCache

__all__ = ["ReadImage", "default_views", "read_images"]

_MIN_AREA = 0.5
"""The smallest part of an image that an augmented view shows."""
_MAX_STRETCH = 4 / 3
"""How much a view is wider or higher than its image, at the most."""


_MOST_VIEWS = 8
_AUGMENTED_IMAGES = 2048
"""So many images, with their augmented views, are enough for the probe that fine-tuning begins with."""


class ReadImage(NamedTuple):
    """What is known of an image after it was read."""

    name: str
    """The name of its source."""
    sha256: bytes | None
    """Digest of the bytes of the file. None if it could not be read."""
    fingerprint: bytes | None
    """near_duplicates.compute_fingerprint of the upright image. None if there is an error."""
    features: NDArray[np.float32] | None
    """(V, D): of the image, and after it of its augmented views. None if there is an error, or without a
    network."""
    error: ImageFailure | None = None


def default_views(method: str, num_images: int) -> int:
    """Returns how many augmented views of each image are best.

    A probe by itself has none. One that fine-tuning begins with has up to 8 where images are few: it must hold for
    the changed images that all layers are then trained on.

    Args:
        method: one of training.METHODS.
        num_images: how many there are to learn from.
    """
    return min(_MOST_VIEWS, _AUGMENTED_IMAGES // max(num_images, 1)) if method == "finetune" else 0


def read_images(
    sources: Iterable[Source],
    *,
    runner: ModelRunner | None,
    cache: FeatureCache | None = None,
    views: int = 0,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
    on_image: Callable[[ReadImage], None] | None = None,
    stop_event: Event | None = None,
) -> list[ReadImage]:
    """Reads and decodes each image once.

    An image that the cache has is only read, not decoded. What is computed is in the cache even if this function
    is interrupted.

    Args:
        runner: created with the output "features". None computes no features.
        cache: opened for this runner, and these `views` and this `seed`.
        views: how many augmented views of each image are computed, besides the image itself.
        seed: of the augmented views. Equal files with an equal seed have equal views.
        max_pixels: without a runner, the limit on width × height. A runner has its own.
        decode_damaged: without a runner, as in `decoding.load_image`. A runner has its own.
        on_image: called with each image, in order.
        stop_event: once it is set, no further image is taken.

    Returns:
        The images in the order of their sources. If `stop_event` was set, the last ones are missing.

    Raises:
        UsageError: the runner decodes in other processes, at a smaller scale or on a GPU.
        UnavailableError: the network cannot process the images.
    """
    if runner is None:
        images = _read_without_network(sources, max_pixels, decode_damaged, stop_event)
    else:
        _require_plain_decoding(runner)
        images = _read_with_network(sources, runner, cache, _Views(views, seed), stop_event)
    found = []
    with nullcontext() if cache is None else cache, closing(images):
        for image in images:
            found.append(image)
            if on_image is not None:
                on_image(image)
    return found


def _require_plain_decoding(runner: ModelRunner) -> None:
    """
    Raises:
        UsageError: the decoded image would not be seen in this process.
    """
    if runner.isolated:
        raise UsageError(
            "isolate is not possible here, because near duplicates are found by the decoded images",
            hint="leave out --isolate, and first try the images: imgclassify predict --isolate",
            argument="isolate",
        )
    if (mode := runner.run_info.decode_mode) != "exact":
        raise UsageError(
            f"images cannot be read in the decode mode {mode!r}, because features are kept for exact crops",
            hint="leave out --fast-decode and --decode gpu",
        )


class _Views(NamedTuple):
    """Which augmented views are made of each image."""

    per_image: int
    seed: int

    def make(self, image: Image.Image, sha256: bytes, number: int) -> Image.Image:
        """Returns a view: a part of the image, a little stretched. Each second view is mirrored.

        As torchvision's RandomResizedCrop, with a scale of _MIN_AREA to 1. The preprocessing then resizes it.

        Args:
            number: of the view, from 1.
        """
        from PIL import ImageOps

        area, stretch, left, top = self._draw(sha256, number)
        ratio = math.sqrt(_MIN_AREA + (1 - _MIN_AREA) * area)
        stretch = math.exp((2 * stretch - 1) * math.log(_MAX_STRETCH) / 2)
        width = max(1, min(image.width, round(image.width * ratio * stretch)))
        height = max(1, min(image.height, round(image.height * ratio / stretch)))
        x, y = int(left * (image.width - width + 1)), int(top * (image.height - height + 1))
        view = image.crop((x, y, x + width, y + height))
        return ImageOps.mirror(view) if number % 2 else view

    def _draw(self, sha256: bytes, number: int) -> list[float]:
        """Returns four numbers from 0 to below 1, which are the same on each machine."""
        digest = hashlib.sha256(b"%d %d " % (self.seed, number) + sha256).digest()
        return [int.from_bytes(digest[at : at + 6], "big") / 2**48 for at in range(0, 24, 6)]


# With a network ---------------------------------------------------------------------------------------------


def _read_with_network(
    sources: Iterable[Source],
    runner: ModelRunner,
    cache: FeatureCache | None,
    views: _Views,
    stop_event: Event | None,
) -> Generator[ReadImage, None, None]:
    pending: deque[_SharedImage] = deque()

    def inputs() -> Iterator[ImageInput]:
        for source in sources:
            shared = _SharedImage(source, cache, views)
            pending.append(shared)
            for number in range(1 + views.per_image):
                view = _View(source.name, source)
                view.shared, view.number = shared, number
                yield view

    with closing(runner.run(inputs(), stop_event=stop_event)) as outputs:
        for first in outputs:
            others = list(islice(outputs, views.per_image))
            if len(others) == views.per_image:  # fewer if it was stopped between them
                yield pending.popleft().complete([first, *others])


class _View(ImageInput):
    """The image of a source, or an augmented view of it."""

    shared: _SharedImage
    number: int
    """0 is the image itself."""

    def load_image(self, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> Image.Image:
        """See ImageInput.load_image."""
        return self.shared.view(self.number, max_pixels=max_pixels, decode_damaged=decode_damaged)


class _SharedImage:
    """An image that is read and decoded once, for itself and for its views, which other threads may ask for."""

    def __init__(self, source: Source, cache: FeatureCache | None, views: _Views) -> None:
        self._source = source
        self._cache = cache
        self._views = views
        self._lock = Lock()
        self._views_left = 1 + views.per_image
        self._image: Image.Image | None = None
        self._error: ImageError | NotNeededError | None = None
        self._sha256: bytes | None = None
        self._fingerprint: bytes | None = None
        self._known: CachedImage | None = None

    def view(self, number: int, **limits: Any) -> Image.Image:
        """Returns the image itself (0) or one of its views.

        Args:
            limits: of `decoding.load_image`.

        Raises:
            ImageError: it cannot be decoded.
            NotNeededError: the cache has the features of it and of its views.
        """
        with self._lock:
            if self._image is None and self._error is None:
                try:
                    self._image = self._load(**limits)
                except (ImageError, NotNeededError) as error:
                    self._error = error
            image, sha256 = self._image, self._sha256
            self._views_left -= 1
            if not self._views_left:
                self._image = None
        if image is None or sha256 is None:
            assert self._error is not None
            raise self._error
        return self._views.make(image, sha256, number) if number else image

    def complete(self, outputs: list[ImageOutputs]) -> ReadImage:
        """Returns what is known of the image once there are the outputs of all its views, and keeps it."""
        import numpy as np

        if self._known is not None:
            return ReadImage(self._source.name, self._sha256, *self._known)
        if failure := next((each.error for each in outputs if each.error), None):
            return ReadImage(self._source.name, self._sha256, None, None, failure)
        features = np.stack([each.arrays[FEATURES] for each in outputs if each.arrays])
        assert self._sha256 is not None
        assert self._fingerprint is not None
        # What was decoded of a damaged image is kept only for those who want such images.
        if self._cache is not None and not outputs[0].damaged:
            self._cache.add(self._sha256, self._fingerprint, features)
        return ReadImage(self._source.name, self._sha256, self._fingerprint, features)

    def _load(self, **limits: Any) -> Image.Image:
        content = _read_file(self._source)
        self._sha256 = hashlib.sha256(content).digest()
        if self._cache is not None:
            self._known = self._cache.get(self._sha256)
            if self._known is not None:
                raise NotNeededError
        image = _decode(self._source, content, **limits)
        self._fingerprint = compute_fingerprint(image)
        return image


# Without a network ------------------------------------------------------------------------------------------


def _read_without_network(
    sources: Iterable[Source], max_pixels: int, decode_damaged: bool, stop_event: Event | None
) -> Generator[ReadImage, None, None]:
    def prepare(source: Source, _slot: int) -> pipeline.Completed[ReadImage]:
        return pipeline.Completed(_inspect(source, max_pixels=max_pixels, decode_damaged=decode_damaged))

    def compute(_prepared: list[ReadImage], _slots: list[int]) -> list[ReadImage]:
        return []  # every item is completed when it is prepared

    return pipeline.run_pipeline(
        sources, prepare, compute, batch_size=1, workers=default_workers(), stop_event=stop_event
    )


def _inspect(source: Source, **limits: Any) -> ReadImage:
    sha256 = None
    try:
        content = _read_file(source)
        sha256 = hashlib.sha256(content).digest()
        return ReadImage(source.name, sha256, compute_fingerprint(_decode(source, content, **limits)), None)
    except ImageError as error:
        return ReadImage(source.name, sha256, None, None, ImageFailure(error.type, make_printable(str(error))))


def _read_file(source: Source) -> bytes:
    with source.open() as stream:
        return read_all(stream, source.name)


def _decode(source: Source, content: bytes, **limits: Any) -> Image.Image:
    return decoding.load_image(replace(source, open=partial(BytesIO, content)), **limits)
