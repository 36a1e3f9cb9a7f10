"""The library's front door: a model, ready to name what is in pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, overload

import imgclassify
from imgclassify import hub, images, pipeline, preprocess, sources
from imgclassify.catalog import EMBEDDED_MODEL
from imgclassify.engines import Engine, choice
from imgclassify.errors import CheckpointError, ImageError, ImageTooLargeError, UsageError, printable
from imgclassify.hub import LoadOptions, Network, PreprocessOverrides
from imgclassify.labels import LabelSet
from imgclassify.results import ImageFailure, ImageResult, Prediction, RunInfo
from imgclassify.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from imgclassify.weights import Progress

    Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Source"

DEFAULT_TOP_K = 5


@dataclass(frozen=True, slots=True)
class _Picture:
    name: str
    load: Callable[[], Image.Image]


@dataclass(frozen=True, slots=True)
class _Prepared:
    name: str
    width: int
    height: int
    crop: NDArray[np.uint8]
    """(H, W, 3) uint8, 0..255."""


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
            resize_size, crop_size: pixels; the short side or (height, width), and a square or (height, width).
            interpolation: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".
            mean, std: for red, green and blue, of pixels scaled to 0..1; one number serves all three.
            offline: never open a socket; None asks the environment variable IMGCLASSIFY_OFFLINE.
            trust: let torch.hub run a repository's own code.
            progress: called with (file name, bytes so far, total bytes or None) during a download.

        Raises:
            UsageError: an argument is out of its range, or one that the model needs is missing.
            UnavailableError: model, weights, labels or device cannot be had; its subclasses say which and why.
        """
        _require_positive(top_k=top_k, batch_size=batch_size, workers=workers)
        choice.check(engine, device, dtype)
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
        if engine == "onnxruntime" and not reference.lower().endswith(".onnx"):
            choice.require(engine, "torch", reference)
        network = hub.load(reference, options)
        self._engine, num_classes = choice.start(network, engine=engine, device=device, dtype=dtype)
        network.labels.require_num_classes(num_classes)
        self.labels: LabelSet = network.labels
        self.top_k: int = min(top_k, num_classes)
        self.run: RunInfo = _describe(network, self._engine, num_classes)
        """All that this classifier's answers depend on."""
        self._preprocess = network.preprocess
        self._offline = offline
        self._batch_size = batch_size or self._engine.default_batch_size
        self._workers = workers or pipeline.default_workers()

    @overload
    def predict(self, picture: Picture) -> ImageResult: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, picture: Iterable[Picture]) -> Iterator[ImageResult]: ...

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
        if _is_many(picture):
            return self._stream(_named(one, index, offline=self._offline) for index, one in enumerate(picture))
        return self._answer([self._open(_named(picture, 0, offline=self._offline))])[0]

    def stream(self, pictures: Iterable[Source]) -> Iterator[ImageResult]:
        """One ImageResult for each source, in order, in memory that does not grow with their number."""
        return self._stream(map(_from_source, pictures))

    def _stream(self, pictures: Iterable[_Picture]) -> Iterator[ImageResult]:
        return pipeline.stream(
            pictures, self._prepare, self._answer, batch_size=self._batch_size, workers=self._workers
        )

    def _open(self, picture: _Picture) -> _Prepared:
        image = picture.load()
        try:
            crop = preprocess.crop(image, self._preprocess)
        except MemoryError as error:
            raise ImageTooLargeError(
                f"too large for this machine's memory: {image.width}×{image.height}"
            ) from error
        return _Prepared(picture.name, image.width, image.height, crop)

    def _prepare(self, picture: _Picture) -> _Prepared | pipeline.Done[ImageResult]:
        try:
            return self._open(picture)
        except ImageError as error:
            failure = ImageFailure(error.type, printable(str(error)))
            return pipeline.Done(ImageResult(picture.name, self.run.model, None, None, (), failure))

    def _answer(self, batch: list[_Prepared]) -> list[ImageResult]:
        import numpy as np

        logits = self._engine.logits(np.stack([prepared.crop for prepared in batch]))
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


def _describe(network: Network, engine: Engine, num_classes: int) -> RunInfo:
    return RunInfo(
        version=imgclassify.__version__,
        model=network.model,
        architecture=network.architecture,
        weights=network.weights,
        weights_sha256=network.sha256,
        preprocess=network.preprocess.to_dict(),
        label_set=network.labels.name,
        num_classes=num_classes,
        engine=engine.name,
        device=engine.device,
        dtype=engine.dtype,
    )


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


_ONE_BY_ATTRIBUTE = ("read", "__array__", "__array_interface__")
"""What files, arrays and PIL images have; all of them can be iterated, and are one picture all the same."""


def _is_many(picture: Any) -> bool:
    one = isinstance(picture, str | os.PathLike | bytes | bytearray | memoryview | Source)
    one = one or any(hasattr(type(picture), attribute) for attribute in _ONE_BY_ATTRIBUTE)
    return not one and isinstance(picture, Iterable)


def _named(picture: Any, index: int, *, offline: bool) -> _Picture:
    """A picture to be loaded on another thread; what its owner may change meanwhile is copied now."""
    if isinstance(picture, str | os.PathLike):
        return _from_source(sources.only(os.fspath(picture), offline=offline))
    if isinstance(picture, Source):
        return _from_source(picture)
    if hasattr(type(picture), "read"):
        picture = picture.read()
    if isinstance(picture, bytes | bytearray | memoryview):
        return _from_source(Source(f"bytes:{index}", partial(BytesIO, bytes(picture))))
    if not any(hasattr(type(picture), attribute) for attribute in _ONE_BY_ATTRIBUTE):
        raise UsageError(
            f"a picture cannot be a {type(picture).__name__}",
            hint="give a path, bytes, a PIL image, an (H, W, 3) uint8 array, or an iterable of these",
        )
    try:
        image = images.from_memory(picture)
    except ImageError as error:
        return _Picture(f"image:{index}", partial(_fail, error))
    copied = image.copy() if image is picture else image
    return _Picture(f"image:{index}", lambda: copied)


def _from_source(source: Source) -> _Picture:
    return _Picture(source.name, partial(images.load, source))


def _fail(error: ImageError) -> NoReturn:
    raise error


def _require_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, int) or number < 1):
            raise UsageError(
                f"{name} is {number!r}, and must be a whole number from 1 on", hint=f"give another {name}"
            )
