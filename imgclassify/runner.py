"""Runs a network on images: decodes them, makes batches, and returns the output arrays in input order.

The meaning of the arrays is not known here. The classifier turns the logits into labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from imgclassify import pipeline
from imgclassify._version import __version__
from imgclassify.catalog import EMBEDDED_MODEL
from imgclassify.engines import FEATURES, LOGITS, devices
from imgclassify.engines.choice import create_engine, validate_options
from imgclassify.engines.engine import validate_outputs
from imgclassify.errors import CheckpointError, OutputError, UsageError, make_printable
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions, PreprocessOverrides
from imgclassify.images import MAX_PIXELS, TIME_LIMIT
from imgclassify.images.info import ImageInfo
from imgclassify.images.inputs import NotNeededError, as_input, as_inputs
from imgclassify.images.preprocessing import is_approximate
from imgclassify.images.workers import MAX_WORKERS, DecodingOptions, DecodingWorkers, WorkerChoice
from imgclassify.results import ImageFailure, RunInfo

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import RGB, Size
    from imgclassify.engines import Engine, LinearHead
    from imgclassify.engines.activation import Activation
    from imgclassify.engines.choice import EngineSelection
    from imgclassify.hub.network import Network
    from imgclassify.images.cropping import Outcome
    from imgclassify.images.inputs import ImageInput, ImageLike, ManyImages
    from imgclassify.images.preview import ImagePreview
    from imgclassify.weights import Progress

__all__ = ["ImageOutputs", "ModelRunner", "RunnerOptions", "load_runner"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """How to run a network. `Classifier` explains each option."""

    device: str = "auto"
    dtype: str = "float32"
    engine: str = "auto"
    batch_size: int | None = None
    workers: int | str | None = None
    decode_mode: str = "exact"
    max_pixels: int = MAX_PIXELS
    isolate: bool = False
    time_limit: float = TIME_LIMIT
    decode_damaged: bool = False
    num_images: int | None = None
    offline: bool = False
    outputs: tuple[str, ...] = (LOGITS,)
    """What the runner returns for each image: engines.LOGITS, FEATURES or FEATURE_MAP. Logits are always among
    it, unless the network has no classifier."""

    def validate(self) -> None:
        """Rejects options that no network can be run with, before a network is fetched.

        Raises:
            UsageError: an option is out of its range, or two options exclude each other.
            DeviceError: this machine does not have the device.
        """
        require_positive(
            batch_size=self.batch_size,
            num_images=self.num_images,
            max_pixels=self.max_pixels,
        )
        validate_options(self.engine, self.device, self.dtype)
        validate_outputs(self.outputs)
        self.decoding.validate()

    @property
    def decoding(self) -> DecodingOptions:
        """How images are decoded, and by what.

        Raises:
            UsageError: `workers` is not what it can be.
        """
        return DecodingOptions(
            WorkerChoice.parse(self.workers),
            self.decode_mode,
            max_pixels=self.max_pixels,
            isolate=self.isolate,
            time_limit=self.time_limit,
            decode_damaged=self.decode_damaged,
        )


def load_runner(
    model: str | os.PathLike[str] | None = None,
    *,
    outputs: tuple[str, ...] = (LOGITS,),
    with_labels: bool = True,
    arch: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    resize_size: int | Size | None = None,
    crop_size: int | Size | None = None,
    interpolation: str | None = None,
    mean: float | RGB | None = None,
    std: float | RGB | None = None,
    channel_order: str | None = None,
    crop_mode: str | None = None,
    activation: str = "auto",
    output_name: str | None = None,
    checkpoint_key: str | None = None,
    transform_input: bool | None = None,
    offline: bool | None = None,
    trust: bool = False,
    progress: Progress | None = None,
    fast_decode: bool = False,
    decode_device: str = "cpu",
    **running: Any,
) -> ModelRunner:
    """Loads a model and builds its network.

    Args:
        outputs: what the runner returns for each image (RunnerOptions.outputs).
        with_labels: whether labels are needed. If False, a model without labels can be loaded.
        running: fields of RunnerOptions: `device`, `dtype`, `engine`, `batch_size`, `workers`, `max_pixels`,
            `isolate`, `time_limit`, `decode_damaged` and `num_images`.
        crop_mode: PreprocessSpec.crop_mode. None keeps the model's, or is what `resize_size` says.

    `Classifier` explains the other arguments.

    Raises:
        UsageError: an argument is out of its range, or one that the model needs is missing.
        UnavailableError: the model, its weights, its labels or the device is unavailable, or the network does
            not have one of the outputs.
    """
    if offline is None:
        offline = os.environ.get("IMGCLASSIFY_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return ModelRunner.load(
        _require_name("model", EMBEDDED_MODEL if model is None else os.fspath(model)),
        LoadOptions(
            arch=arch,
            labels=None if labels is None else _require_name("labels", os.fspath(labels)),
            with_labels=with_labels,
            overrides=preprocess_overrides(
                resize_size=resize_size,
                crop_size=crop_size,
                interpolation=interpolation,
                mean=mean,
                std=std,
                channel_order=channel_order,
                crop_mode=crop_mode,
            ),
            activation=None if activation == "auto" else activation,
            output_name=output_name,
            checkpoint_key=checkpoint_key,
            transform_input=transform_input,
            offline=offline,
            trust=trust,
            progress=progress,
        ),
        RunnerOptions(
            **running,
            decode_mode=_decode_mode(decode_device, fast_decode),
            offline=offline,
            outputs=outputs,
        ),
    )


def preprocess_overrides(
    *,
    resize_size: int | Size | None,
    crop_size: int | Size | None,
    interpolation: str | None,
    mean: float | RGB | None,
    std: float | RGB | None,
    channel_order: str | None = None,
    crop_mode: str | None = None,
) -> PreprocessOverrides:
    """Converts the arguments of `Classifier` that change the preprocessing.

    Raises:
        UsageError: a value is out of its range.
    """
    return PreprocessOverrides(
        resize_size=resize_size,
        crop_size=(crop_size, crop_size) if isinstance(crop_size, int) else crop_size,
        interpolation=interpolation,
        mean=(mean, mean, mean) if isinstance(mean, float | int) else mean,
        std=(std, std, std) if isinstance(std, float | int) else std,
        channel_order=channel_order,
        crop_mode=crop_mode,
    )


class ImageOutputs(NamedTuple):
    """The outputs of a network for one image, or the reason why there are none."""

    source: str
    """The image's name."""
    width: int | None = None
    """Pixels, of the upright image. None if the image could not be opened."""
    height: int | None = None
    """Pixels, of the upright image, as the width."""
    frames: int | None = None
    """As in `images.info.ImageInfo`."""
    frame: int | None = None
    damaged: bool = False
    approximate: bool = False
    """Whether the image is such a long strip that its crop differs from that of the model's own pipeline
    (`preprocessing.is_approximate`)."""
    arrays: dict[str, NDArray[np.float32]] | None = None
    """The engine's outputs by name, such as "logits": what the network returns, (number of outputs,). They are not
    always logits: ModelRunner.activation turns them into probabilities. None if there is an error, or if the image
    was not needed (images.inputs.NotNeededError)."""
    error: ImageFailure | None = None
    """None if there are outputs, or none were needed."""

    def record_fields(self) -> dict[str, Any]:
        """Returns what every record says of an image, besides the model and what was computed."""
        return {
            "source": self.source,
            "width": self.width,
            "height": self.height,
            "error": self.error,
            "approximate": self.approximate,
            "frames": self.frames,
            "frame": self.frame,
            "damaged": self.damaged,
        }


class ModelRunner:
    """Runs a network on images in batches, while other threads decode further images.

    Memory use does not grow with the number of images.
    """

    def __init__(self, network: Network, options: RunnerOptions) -> None:
        """Chooses an engine and builds the network in it.

        Raises:
            UsageError: the engine that the user named cannot run the network.
            UnavailableError: the network cannot be built, or it cannot be run on the device or in the dtype, or
                it does not have one of the outputs.
        """
        selection = create_engine(
            network,
            engine=options.engine,
            device=options.device,
            dtype=options.dtype,
            num_images=options.num_images,
            outputs=options.outputs,
        )
        self.network = network
        self.engine: Engine = selection.engine
        self.num_classes: int = selection.num_outputs
        """The number of values that the network returns for an image. One value may stand for two classes."""
        self.activation: Activation | None = selection.activation
        """What turns these values into probabilities. None if there are no labels."""
        self.run_info = _describe_run(network, selection, options.decode_mode)
        """Everything that the outputs depend on, except the images."""
        self.outputs: tuple[str, ...] = options.outputs
        """The names of the outputs that each image has, besides LOGITS."""
        self.isolated: bool = options.isolate
        """Whether images are decoded in other processes."""
        self._options = options
        self._offline = options.offline
        self._spec = network.preprocess
        decoding = options.decoding
        kind, number = decoding.choice().complete(
            cores=devices.count_cores(),
            images_per_second=selection.images_per_second,
            crop_size=self._spec.crop_size,
            num_images=options.num_images,
        )
        self._decoding = DecodingWorkers.create(kind, number, decoding, self._spec, self.engine.device)
        self._batch_size = options.batch_size or self.engine.default_batch_size

    @classmethod
    def load(cls, reference: str, load_options: LoadOptions, options: RunnerOptions) -> Self:
        """Loads the network that a model reference names, and builds it.

        Raises:
            UsageError: an option is out of its range, or one that the model needs is missing.
            UnavailableError: the model, its weights, its labels or the device is unavailable. The subclasses
                show which and why.
        """
        options.validate()
        return cls(load_network(reference, load_options), options)

    def with_outputs(self, outputs: tuple[str, ...]) -> ModelRunner:
        """Builds the same network once more, with other outputs.

        Raises:
            UnavailableError: the network does not have one of the outputs.
        """
        return ModelRunner(self.network, replace(self._options, outputs=outputs))

    def describe(self) -> str:
        """Says in one line what runs the network and what decodes images, and why."""
        run, decoding = self.run_info, self._decoding
        return (
            f"{run.model} ({run.weights}) on {run.engine}, {run.device}, {run.dtype}, "
            f"{decoding.number} decoding {decoding.kind}: {run.reason}"
        )

    def run_one(self, image: ImageLike) -> ImageOutputs:
        """Runs the network on one image.

        Args:
            image: a path, a URL, the bytes of an image file, an open binary file, a PIL image, an array of
                (H, W, 3) or (H, W) uint8 in RGB, 0..255, or a Source.

        Raises:
            ImageError: the image cannot be opened or decoded.
            UsageError: the value is none of these.
        """
        crops, image_input = self._allocate(1), as_input(image, offline=self._offline)
        opened = self._to_outputs(image_input, self._decoding.preprocess(image_input, crops[0]))
        return self._infer([opened], crops)[0]

    def run(self, images: ManyImages, *, stop_event: Event | None = None) -> Generator[ImageOutputs, None, None]:
        """Runs the network on each image.

        Args:
            images: an iterable of images as in `run_one`, which is read on a separate thread, or the name of a
                folder, an archive or a glob. Folders and archives in the iterable are replaced by their images.
            stop_event: once it is set, no further image is taken. The images taken before still get their
                outputs.

        Yields:
            The outputs for each image, in order. An image that cannot be opened or decoded has an error
            instead of arrays.

        Raises:
            NoImagesError: `images` is the name of a folder, an archive or a glob without an image.
        """
        return self.map_batches(lambda batch: batch, images, stop_event=stop_event)

    def map(
        self,
        function: Callable[[ImageOutputs], Result],
        images: ManyImages,
        *,
        stop_event: Event | None = None,
    ) -> Generator[Result, None, None]:
        """Runs the network on each image and applies a function to its outputs.

        Args:
            function: called once for each image, on the threads that compute or decode.
            images: as in `run`.
            stop_event: as in `run`.

        Yields:
            What the function returns for each image, in order.

        Raises:
            NoImagesError: as in `run`.
        """
        return self.map_batches(lambda batch: [function(image) for image in batch], images, stop_event=stop_event)

    def map_batches(
        self,
        function: Callable[[list[ImageOutputs]], list[Result]],
        images: ManyImages,
        *,
        stop_event: Event | None = None,
    ) -> Generator[Result, None, None]:
        """Runs the network on each image and applies a function to the outputs of each batch.

        Args:
            function: called on the threads that compute or decode, with the outputs of one image or more. Returns
                a result for each, in order.
            images: as in `run`.
            stop_event: as in `run`.

        Yields:
            The result of each image, in order.

        Raises:
            NoImagesError: as in `run`.
        """
        inputs = as_inputs(images, offline=self._offline)
        concurrency = self.engine.concurrency
        decoding = self._decoding
        crops = self._allocate(
            pipeline.num_slots(self._batch_size, concurrency, decoding.number * decoding.group_size)
        )

        def prepare(
            group: list[ImageInput], slots: list[int]
        ) -> Iterator[ImageOutputs | pipeline.Completed[Result]]:
            outs = [crops[slot] for slot in slots]
            for image, outcome in zip(group, decoding.preprocess_group(group, outs), strict=True):
                opened = self._to_outputs(image, outcome)
                yield opened if isinstance(outcome, ImageInfo) else pipeline.Completed(function([opened])[0])

        def compute(batch: list[ImageOutputs], slots: list[int]) -> list[Result]:
            # Adjacent slots are passed as a view. Indexing with a list would copy the crops.
            contiguous = slots[-1] - slots[0] + 1 == len(slots)
            return function(self._infer(batch, crops[slots[0] : slots[-1] + 1] if contiguous else crops[slots]))

        return pipeline.run_grouped_pipeline(
            inputs,
            prepare,
            compute,
            batch_size=self._batch_size,
            workers=decoding.number,
            group_size=decoding.group_size,
            concurrency=concurrency,
            stop_event=stop_event,
        )

    def read_head(self) -> LinearHead:
        """Returns the weight and bias of the last layer: `logits = features @ weight.T + bias`.

        The runner must have been created with the output FEATURES.

        Raises:
            OutputError: the logits are not a linear function of the features, or the layer cannot be found.
        """
        return self.engine.read_head()

    def find_head_weight(self) -> NDArray[np.float32] | None:
        """Returns the weight of the last layer, (number of classes, D). None if there are no features, or if the
        logits are not a linear function of them."""
        if FEATURES not in self.outputs:
            return None
        try:
            return self.read_head().weight
        except OutputError:
            return None

    def preview(self, image: ImageLike) -> ImagePreview:
        """Returns the crop of one image, as the network gets it, and where it lies in the image.

        Args:
            image: as in `run_one`.

        Raises:
            ImageError: the image cannot be opened or decoded.
            UsageError: the value is not an image.
        """
        from imgclassify.images.preview import preview_image  # predict does not need it

        return preview_image(
            as_input(image, 0, offline=self._offline),
            self._spec,
            self._decoding.preprocess,
            max_pixels=self._options.max_pixels,
            decode_damaged=self._options.decode_damaged,
        )

    def observe_crops(self, function: Callable[[str, NDArray[np.uint8]], None]) -> None:
        """Calls a function with the name and the crop of each further image, before the network runs on it.

        Args:
            function: called on the threads that decode, with a crop of (H, W, 3) uint8, in the network's order of
                the channels, that it must not change or keep. An exception that it raises ends the run.
        """
        self._decoding = self._decoding.with_observer(function)

    def close(self) -> None:
        """Ends the worker processes, if there are any.

        They also end when this object is garbage-collected and when the program ends.
        """
        self._decoding.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _allocate(self, count: int) -> NDArray[np.uint8]:
        return self.engine.allocate((count, *self._spec.crop_size, 3))

    def _to_outputs(self, image: ImageInput, outcome: Outcome) -> ImageOutputs:
        """Returns what is known of an image before the network runs on it."""
        if isinstance(outcome, ImageInfo):
            approximate = is_approximate((outcome.height, outcome.width), self._spec)
            return ImageOutputs(image.name, *outcome, approximate=approximate)
        if isinstance(outcome, NotNeededError):
            return ImageOutputs(image.name)
        return ImageOutputs(image.name, error=ImageFailure(outcome.type, make_printable(str(outcome))))

    def _infer(self, opened: list[ImageOutputs], crops: NDArray[np.uint8]) -> list[ImageOutputs]:
        import numpy as np

        outputs = self.engine.infer(crops)
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise CheckpointError(
                f"the network returns numbers that are not finite in {self.engine.dtype}",
                hint="if this is float16, which may overflow, use bfloat16 or float32; otherwise the weights "
                "are damaged",
            )
        return [
            image._replace(arrays={name: array[index] for name, array in outputs.items()})
            for index, image in enumerate(opened)
        ]


def _decode_mode(decode_device: str, fast_decode: bool) -> str:
    """Returns one of images.DECODE_MODES."""
    if decode_device not in ("cpu", "gpu"):
        raise UsageError(f"unknown decode device {decode_device!r}", hint="use cpu or gpu")
    if decode_device == "gpu" and fast_decode:
        raise UsageError(
            "fast_decode works only with decoding on the CPU",
            hint="leave out --fast-decode or --decode gpu",
            argument="fast_decode",
        )
    return "gpu" if decode_device == "gpu" else "fast" if fast_decode else "exact"


def _require_name(what: str, name: str) -> str:
    if name == "":
        raise UsageError(f"the name given for {what} is empty", hint="give a name, or leave it out")
    return name


def default_workers() -> int:
    """Returns the number of decoding threads: one per processor, up to a limit."""
    return min(devices.count_cores(), MAX_WORKERS)


def _describe_run(network: Network, selection: EngineSelection, decode_mode: str) -> RunInfo:
    labels, activation = network.labels, selection.activation
    return RunInfo(
        version=__version__,
        model=network.model,
        architecture=network.architecture,
        weights=network.weights,
        weights_sha256=network.sha256,
        preprocess=network.preprocess.to_dict(),
        label_set=labels.name if labels else None,
        label_set_sha256=labels.digest() if labels else None,
        num_classes=len(labels) if labels and activation and activation.is_pair else selection.num_outputs,
        decode_mode=decode_mode,
        engine=selection.engine.name,
        device=selection.engine.device,
        dtype=selection.engine.dtype,
        reason=selection.reason,
        activation=activation.name if activation else None,
        multi_label=activation is not None and activation.multi_label,
        origins=dict(network.origins) or None,
        options=_chosen_options(network) or None,
    )


def _chosen_options(network: Network) -> dict[str, Any]:
    """Returns RunInfo.options, empty if there was no choice."""
    return {**network.options, **({"output_name": network.output_name} if network.output_name else {})}


def require_positive(**numbers: int | None) -> None:
    """Checks numbers that must be positive. None stands for a number that is not given.

    Raises:
        UsageError: a number is given, but is not a whole number of at least 1.
    """
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, int) or number < 1):
            raise UsageError(f"{name} is {number!r}", hint="give a whole number of at least 1", argument=name)
