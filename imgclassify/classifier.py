"""The library's front door: a model, ready to name what is in pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, overload

import imgclassify
from imgclassify import hub, pipeline
from imgclassify.catalog import EMBEDDED_MODEL
from imgclassify.engines import choice, devices
from imgclassify.errors import CheckpointError, ImageError, UsageError, make_printable
from imgclassify.hub import LoadOptions, Network, PreprocessOverrides
from imgclassify.images import cropping
from imgclassify.images.cropping import TIME_LIMIT, ImageInput
from imgclassify.images.decoding import MAX_PIXELS
from imgclassify.labels import LabelSet
from imgclassify.results import ImageFailure, ImageResult, Prediction, RunInfo
from imgclassify.sources import Source

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.engines.choice import EngineSelection
    from imgclassify.images.cropping import Anything, Preprocessor
    from imgclassify.weights import Progress

DEFAULT_TOP_K = 5


@dataclass(frozen=True, slots=True)
class _Prepared:
    name: str
    width: int
    height: int


class Classifier:
    """A pretrained model with its preprocessing and its labels.

    classifier = Classifier("resnet50")
    classifier.predict("dog.jpg").predictions[0].label
    for result in classifier.predict(["a.jpg", "b.jpg"]):
        print(result.source, result.error or result.predictions[0])
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        arch: str | None = None,
        labels: str | os.PathLike[str] | None = None,
        top_k: int = DEFAULT_TOP_K,
        device: str = "auto",
        dtype: str = "float32",
        engine: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        fast_decode: bool = False,
        decode: str = "cpu",
        max_pixels: int = MAX_PIXELS,
        isolate: bool = False,
        time_limit: float = TIME_LIMIT,
        num_images: int | None = None,
        resize_size: int | tuple[int, int] | None = None,
        crop_size: int | tuple[int, int] | None = None,
        interpolation: str | None = None,
        mean: float | tuple[float, float, float] | None = None,
        std: float | tuple[float, float, float] | None = None,
        offline: bool | None = None,
        trust: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Loads a model; downloads its weights if they are not in the cache.

        Args:
            model: a model reference (docs/models.md); None is the embedded efficientnet_lite0.
            arch: the architecture, for a file that does not name its own.
            labels: a label set's name, or a file of labels, in place of the model's own.
            top_k: predictions per image, 1 or more; no more than there are classes are given.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            dtype: "float32", "bfloat16" or "float16": what the network computes in.
            engine: "auto", "torch" or "onnxruntime".
            batch_size: images in a batch; None chooses by device.
            workers: decoding threads; None is one a processor.
            fast_decode: decode large JPEGs at a smaller scale, and resize and crop in one pass: quicker, and not to
                the bit what the model was trained with (docs/preprocessing.md).
            decode: "cpu", or "gpu" for JPEGs decoded and resized by nvJPEG on a CUDA device.
            max_pixels: width × height beyond which a picture is not decoded but has the error "image_too_large"; no
                limit on PIL images and arrays.
            isolate: decode in processes of their own, so that a decoder that crashes, hangs or devours memory costs
                one picture (docs/images.md).
            time_limit: seconds for one picture, under `isolate`.
            images: how many pictures there will be, where that is known: a hint for "auto".
            resize_size, crop_size: pixels; the short side or (height, width), and a square or (height, width).
            interpolation: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".
            mean, std: for red, green and blue, of pixels scaled to 0..1; one number serves all three.
            offline: never open a socket; None asks the environment variable IMGCLASSIFY_OFFLINE.
            trust: let a torch.hub repository, or a TorchScript file, run its own code.
            progress: called with (file name, bytes so far, total bytes or None) during a download.

        Raises:
            UsageError: an argument is out of its range, or one that the model needs is missing.
            UnavailableError: model, weights, labels or device cannot be had; its subclasses say which and why.
        """
        _require_positive(
            top_k=top_k, batch_size=batch_size, workers=workers, images=num_images, max_pixels=max_pixels
        )
        choice.validate_options(engine, device, dtype)
        how = _decode(decode, fast_decode)
        _check_isolation(isolate, time_limit, how)
        if offline is None:
            offline = os.environ.get("IMGCLASSIFY_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        options = LoadOptions(
            arch=arch,
            labels=None if labels is None else os.fspath(labels),
            overrides=PreprocessOverrides(
                resize_size=resize_size,
                crop_size=(crop_size, crop_size) if isinstance(crop_size, int) else crop_size,
                interpolation=interpolation,
                mean=(mean, mean, mean) if isinstance(mean, float | int) else mean,
                std=(std, std, std) if isinstance(std, float | int) else std,
            ),
            offline=offline,
            trust=trust,
            progress=progress,
        )
        reference = EMBEDDED_MODEL if model is None else os.fspath(model)
        for what, name in (("model", reference), ("labels", options.labels)):
            if name == "":
                raise UsageError(f"the name given for {what} is empty", hint="leave it out, or name one")
        network = hub.load_network(reference, options)
        started = choice.create_engine(network, engine=engine, device=device, dtype=dtype, num_images=num_images)
        network.labels.require_num_classes(started.num_classes)
        self.labels: LabelSet = network.labels
        self.top_k: int = min(top_k, started.num_classes)
        self.run: RunInfo = _describe(network, started, how)
        """All that this classifier's answers depend on."""
        self._engine = started.engine
        self._preprocess = network.preprocess
        self._crop: Preprocessor
        self._end_workers: Callable[[], object] = lambda: None
        if isolate:
            from imgclassify.images.isolation import (
                IsolatedPreprocessor,  # no picture that is quickly answered needs it
            )

            isolated = IsolatedPreprocessor(how, self._preprocess, max_pixels=max_pixels, time_limit=time_limit)
            self._crop, self._end_workers = isolated, isolated.close
        else:
            self._crop = cropping.create_preprocessor(
                how, self._preprocess, self._engine.device, max_pixels=max_pixels
            )
        self._offline = offline
        self._batch_size = batch_size or self._engine.default_batch_size
        self._workers = workers or min(devices.count_cores(), pipeline.MAX_WORKERS)

    @overload
    def predict(self, picture: Anything) -> ImageResult: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, picture: Iterable[Anything]) -> Iterator[ImageResult]: ...

    def predict(self, picture: Any) -> ImageResult | Iterator[ImageResult]:
        """Names what is in a picture, or in each of many.

        Args:
            picture: a path or URL, the bytes of an image file or a binary file open for reading, a PIL image, an
                array of (H, W, 3) or (H, W) uint8 in RGB, 0..255, or a Source; or an iterable of any of these,
                which is read as it is answered, on a thread of its own.

        Returns:
            One ImageResult for one picture. For an iterable, an iterator of one ImageResult each, in order.

        Raises:
            ImageError: the one picture cannot be answered. Among many, it has its error in its ImageResult and
                the rest goes on.
        """
        if cropping.is_batch(picture):
            many = enumerate(picture)
            return self._stream(cropping.as_input(one, index, offline=self._offline) for index, one in many)
        room = self._room(1)
        prepared = self._open(cropping.as_input(picture, 0, offline=self._offline), room[0])
        return self._answer([prepared], room)[0]

    def stream(
        self, sources: Iterable[Source], *, stop_event: Event | None = None
    ) -> Generator[ImageResult, None, None]:
        """One ImageResult for each source, in order, in memory that does not grow with their number.

        Args:
            ending: once it is set no further source is taken; those that were have their results.
        """
        return self._stream(map(cropping.input_from_source, sources), stop_event)

    def _stream(
        self, many: Iterable[ImageInput], ending: Event | None = None
    ) -> Generator[ImageResult, None, None]:
        concurrency = self._engine.concurrency
        room = self._room(pipeline.num_slots(self._batch_size, concurrency, self._workers))

        def answer(batch: list[_Prepared], rows: list[int]) -> list[ImageResult]:
            # Without gaps they are answered where they lie.
            whole = rows[-1] - rows[0] + 1 == len(rows)
            return self._answer(batch, room[rows[0] : rows[-1] + 1] if whole else room[rows])

        return pipeline.run_pipeline(
            many,
            lambda picture, row: self._prepare(picture, room[row]),
            answer,
            batch_size=self._batch_size,
            workers=self._workers,
            concurrency=concurrency,
            stop_event=ending,
        )

    def close(self) -> None:
        """Ends the processes of `isolate`, which else end with this object or with the program."""
        self._end_workers()

    def _room(self, count: int) -> NDArray[np.uint8]:
        return self._engine.allocate((count, *self._preprocess.crop_size, 3))

    def _open(self, picture: ImageInput, out: NDArray[np.uint8]) -> _Prepared:
        width, height = self._crop(picture, out)
        return _Prepared(picture.name, width, height)

    def _prepare(self, picture: ImageInput, out: NDArray[np.uint8]) -> _Prepared | pipeline.Completed[ImageResult]:
        try:
            return self._open(picture, out)
        except ImageError as error:
            failure = ImageFailure(error.type, make_printable(str(error)))
            return pipeline.Completed(ImageResult(picture.name, self.run.model, None, None, (), failure))

    def _answer(self, batch: list[_Prepared], crops: NDArray[np.uint8]) -> list[ImageResult]:
        import numpy as np

        logits = self._engine.logits(crops)
        if not np.isfinite(logits).all():
            raise CheckpointError(
                f"the network answers with numbers that are not finite, in {self._engine.dtype}",
                hint="a float16 network may overflow: use bfloat16 or float32; else its weights are damaged",
            )
        return [
            ImageResult(
                source=prepared.name,
                model=self.run.model,
                width=prepared.width,
                height=prepared.height,
                predictions=self._top(row),
            )
            for prepared, row in zip(batch, softmax(logits), strict=True)
        ]

    def _top(self, probabilities: NDArray[np.float32]) -> tuple[Prediction, ...]:
        predictions = []
        for rank, class_index in enumerate(top_k(probabilities, self.top_k), start=1):
            label = self.labels[class_index]
            # By way of its text a float32 keeps the digits it has, without the further ones of a float64.
            probability = float(str(probabilities[class_index]))
            predictions.append(Prediction(rank, class_index, label.wnid, label.label, probability))
        return tuple(predictions)


def _decode(decode: str, fast_decode: bool) -> str:
    """The one of pictures.DECODES that is meant."""
    if decode not in ("cpu", "gpu"):
        raise UsageError(f"unknown decode {decode!r}", hint="use cpu or gpu")
    if decode == "gpu" and fast_decode:
        raise UsageError(
            "fast_decode is of the CPU's decoding", hint="leave out one of --fast-decode, --decode gpu"
        )
    return "gpu" if decode == "gpu" else "fast" if fast_decode else "exact"


def _check_isolation(isolate: bool, time_limit: float, decode: str) -> None:
    if isolate and decode == "gpu":
        raise UsageError("isolate is of the CPU's decoding", hint="leave out one of --isolate, --decode gpu")
    if not (isinstance(time_limit, int | float) and 0 < time_limit < math.inf):
        raise UsageError(
            f"time_limit is {time_limit!r}, and must be a number of seconds above 0", hint="give another time_limit"
        )


def _describe(network: Network, started: EngineSelection, decode: str) -> RunInfo:
    return RunInfo(
        version=imgclassify.__version__,
        model=network.model,
        architecture=network.architecture,
        weights=network.weights,
        weights_sha256=network.sha256,
        preprocess=network.preprocess.to_dict(),
        label_set=network.labels.name,
        label_set_sha256=_digest(network.labels),
        num_classes=started.num_classes,
        decode=decode,
        engine=started.engine.name,
        device=started.engine.device,
        dtype=started.engine.dtype,
        reason=started.reason,
    )


def _digest(labels: LabelSet) -> str:
    lines = "\n".join(f"{labels[index].wnid or ''}\t{labels[index].label}" for index in range(len(labels)))
    return sha256(lines.encode(errors="surrogatepass")).hexdigest()


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, classes) logits → probabilities in float32, each row summing to 1; stable for logits of any size."""
    import numpy as np

    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def top_k(probabilities: NDArray[np.float32], count: int) -> list[int]:
    """Class indices of the `count` largest, largest first; of equals, the lower index first."""
    import numpy as np

    return [int(index) for index in np.argsort(-probabilities, kind="stable")[:count]]


def _require_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, int) or number < 1):
            raise UsageError(
                f"{name} is {number!r}, and must be a whole number from 1 on", hint=f"give another {name}"
            )
