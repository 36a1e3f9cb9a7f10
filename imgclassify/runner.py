"""A network, its engine and its preprocessing: images in, arrays out, in order.

What the arrays mean is not known here. The classifier makes labels of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from imgclassify import pipeline
from imgclassify._version import __version__
from imgclassify.engines import devices
from imgclassify.engines.choice import create_engine, validate_options
from imgclassify.errors import CheckpointError, ImageError, UsageError, make_printable
from imgclassify.hub.loader import load_network
from imgclassify.images import DECODE_MODES, MAX_PIXELS, TIME_LIMIT
from imgclassify.images.cropping import create_preprocessor
from imgclassify.images.preprocessing import is_approximate
from imgclassify.results import ImageFailure, RunInfo

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.engines import Engine
    from imgclassify.engines.choice import EngineSelection
    from imgclassify.hub.network import LoadOptions, Network
    from imgclassify.images.cropping import Preprocessor
    from imgclassify.images.inputs import ImageInput

__all__ = ["ImageOutputs", "ModelRunner", "RunnerOptions"]


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """How a network is run. `Classifier` explains each."""

    device: str = "auto"
    dtype: str = "float32"
    engine: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    decode_mode: str = "exact"
    max_pixels: int = MAX_PIXELS
    isolate: bool = False
    time_limit: float = TIME_LIMIT
    num_images: int | None = None

    def validate(self) -> None:
        """Refuses what no network can be run with, before one is fetched.

        Raises:
            UsageError: an option is out of its range, or two do not go together.
            DeviceError: this machine lacks the device.
        """
        require_positive(
            batch_size=self.batch_size,
            workers=self.workers,
            num_images=self.num_images,
            max_pixels=self.max_pixels,
        )
        validate_options(self.engine, self.device, self.dtype)
        if self.decode_mode not in DECODE_MODES:
            raise UsageError(f"unknown decode mode {self.decode_mode!r}", hint=f"use {', '.join(DECODE_MODES)}")
        if self.isolate and self.decode_mode == "gpu":
            raise UsageError("isolate is of the CPU's decoding", hint="leave out one of --isolate, --decode gpu")
        if not (isinstance(self.time_limit, int | float) and 0 < self.time_limit < math.inf):
            raise UsageError(
                f"time_limit is {self.time_limit!r}, and must be a number of seconds above 0",
                hint="give another time_limit",
            )


@dataclass(frozen=True, slots=True)
class ImageOutputs:
    """What a network computed for one image, or why the image has no outputs."""

    source: str
    """The image's name."""
    width: int | None = None
    """Pixels, upright; None where the image could not be opened."""
    height: int | None = None
    approximate: bool = False
    """Whether the crop is not exactly that of the model's own pipeline (`preprocessing.is_approximate`)."""
    arrays: dict[str, NDArray[np.float32]] | None = None
    """The engine's outputs by name, such as "logits": (number of classes,). None where there is an error."""
    error: ImageFailure | None = None


class ModelRunner:
    """Runs a network on images, in batches, while further images are decoded on other threads.

    Memory does not grow with the number of images.
    """

    def __init__(self, network: Network, options: RunnerOptions) -> None:
        """Builds the network in its engine.

        Raises:
            UsageError: the engine that the user named cannot run the network.
            UnavailableError: the network cannot be built, or not run on the device or in the dtype.
        """
        selection = create_engine(
            network,
            engine=options.engine,
            device=options.device,
            dtype=options.dtype,
            num_images=options.num_images,
        )
        self.network = network
        self.engine: Engine = selection.engine
        self.num_classes: int = selection.num_classes
        self.run_info = _describe_run(network, selection, options.decode_mode)
        """Everything that the outputs depend on."""
        self._spec = network.preprocess
        self._preprocess, self._close = self._create_preprocessor(options)
        self._batch_size = options.batch_size or self.engine.default_batch_size
        self._workers = options.workers or min(devices.count_cores(), pipeline.MAX_WORKERS)

    @classmethod
    def load(cls, reference: str, load_options: LoadOptions, options: RunnerOptions) -> Self:
        """Loads the network that a model reference names, and builds it.

        Raises:
            UsageError: an option is out of its range, or one that the model needs is missing.
            UnavailableError: model, weights, labels or device cannot be had; its subclasses say which and why.
        """
        options.validate()
        return cls(load_network(reference, load_options), options)

    def run_one(self, image: ImageInput) -> ImageOutputs:
        """The outputs for one image.

        Raises:
            ImageError: it cannot be decoded.
        """
        crops = self._allocate(1)
        opened = self._open(image, crops[0])
        return self._infer([opened], crops)[0]

    def run(
        self, images: Iterable[ImageInput], *, stop_event: Event | None = None
    ) -> Generator[ImageOutputs, None, None]:
        """The outputs for each image, in order. One that cannot be decoded has its error.

        Args:
            images: iterated on a thread of its own.
            stop_event: once it is set no further image is taken. Those that were taken have their outputs.
        """
        concurrency = self.engine.concurrency
        crops = self._allocate(pipeline.num_slots(self._batch_size, concurrency, self._workers))

        def compute(batch: list[ImageOutputs], slots: list[int]) -> list[ImageOutputs]:
            # Slots without gaps are computed where they are, without a copy.
            contiguous = slots[-1] - slots[0] + 1 == len(slots)
            return self._infer(batch, crops[slots[0] : slots[-1] + 1] if contiguous else crops[slots])

        return pipeline.run_pipeline(
            images,
            lambda image, slot: self._try_open(image, crops[slot]),
            compute,
            batch_size=self._batch_size,
            workers=self._workers,
            concurrency=concurrency,
            stop_event=stop_event,
        )

    def close(self) -> None:
        """Ends the processes that decode under `isolate`. They also end with this object, and with the program."""
        self._close()

    def _create_preprocessor(self, options: RunnerOptions) -> tuple[Preprocessor, Callable[[], object]]:
        """(what decodes and crops, what ends its processes)."""
        if options.isolate:
            from imgclassify.images.isolation import IsolatedPreprocessor  # a quick answer does without it

            isolated = IsolatedPreprocessor(
                options.decode_mode, self._spec, max_pixels=options.max_pixels, time_limit=options.time_limit
            )
            return isolated, isolated.close
        preprocess = create_preprocessor(
            options.decode_mode, self._spec, self.engine.device, max_pixels=options.max_pixels
        )
        return preprocess, lambda: None

    def _allocate(self, count: int) -> NDArray[np.uint8]:
        return self.engine.allocate((count, *self._spec.crop_size, 3))

    def _open(self, image: ImageInput, out: NDArray[np.uint8]) -> ImageOutputs:
        """Writes the image's crop to `out`. The outputs are still missing."""
        width, height = self._preprocess(image, out)
        return ImageOutputs(image.name, width, height, is_approximate((height, width), self._spec))

    def _try_open(
        self, image: ImageInput, out: NDArray[np.uint8]
    ) -> ImageOutputs | pipeline.Completed[ImageOutputs]:
        try:
            return self._open(image, out)
        except ImageError as error:
            failure = ImageFailure(error.type, make_printable(str(error)))
            return pipeline.Completed(ImageOutputs(image.name, error=failure))

    def _infer(self, opened: list[ImageOutputs], crops: NDArray[np.uint8]) -> list[ImageOutputs]:
        import numpy as np

        outputs = self.engine.infer(crops)
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise CheckpointError(
                f"the network answers with numbers that are not finite, in {self.engine.dtype}",
                hint="a float16 network may overflow: use bfloat16 or float32; else its weights are damaged",
            )
        return [
            ImageOutputs(
                source=image.source,
                width=image.width,
                height=image.height,
                approximate=image.approximate,
                arrays={name: array[index] for name, array in outputs.items()},
            )
            for index, image in enumerate(opened)
        ]


def _describe_run(network: Network, selection: EngineSelection, decode_mode: str) -> RunInfo:
    labels = network.labels
    return RunInfo(
        version=__version__,
        model=network.model,
        architecture=network.architecture,
        weights=network.weights,
        weights_sha256=network.sha256,
        preprocess=network.preprocess.to_dict(),
        label_set=labels.name if labels else None,
        label_set_sha256=labels.digest() if labels else None,
        num_classes=selection.num_classes,
        decode_mode=decode_mode,
        engine=selection.engine.name,
        device=selection.engine.device,
        dtype=selection.engine.dtype,
        reason=selection.reason,
    )


def require_positive(**numbers: int | None) -> None:
    """
    Raises:
        UsageError: one of them is given, and is not a whole number of at least 1.
    """
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, int) or number < 1):
            raise UsageError(
                f"{name} is {number!r}, and must be a whole number from 1 on", hint=f"give another {name}"
            )
