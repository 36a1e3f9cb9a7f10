"""The main class of the Python API: a pretrained model that predicts what images show."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, overload

from imgclassify.engines import FEATURES, LOGITS
from imgclassify.errors import OutputError, UsageError
from imgclassify.images import MAX_PIXELS, TIME_LIMIT
from imgclassify.images.inputs import is_batch
from imgclassify.postprocessing import Postprocessor
from imgclassify.results import ImageResult
from imgclassify.runner import load_runner, require_positive

if TYPE_CHECKING:
    from threading import Event

    from imgclassify.confidence.assessment import Assessor
    from imgclassify.confidence.assessment_options import AssessmentOptions
    from imgclassify.confidence.calibration import Calibration
    from imgclassify.confidence.scoring import UnfamiliarityScorer
    from imgclassify.embedding import ImageEmbedding
    from imgclassify.engines.activation import Activation
    from imgclassify.images.inputs import ImageLike, ManyImages
    from imgclassify.labels import LabelSet
    from imgclassify.labels.grouping import Grouping
    from imgclassify.results import RunInfo
    from imgclassify.runner import ModelRunner
    from imgclassify.weights import Progress

DEFAULT_TOP_K = 5

logger = logging.getLogger("imgclassify")


class Classifier:
    """Classifies images with a pretrained model and the preprocessing and labels that belong to it.

    A single image gives a single result:

        classifier = Classifier("resnet50")
        result = classifier.predict("dog.jpg")
        print(result.predictions[0].label, result.predictions[0].probability)

    An iterable of images gives an iterator of results, in the same order, and so does a folder, an archive or a
    glob:

        for result in classifier.predict(["a.jpg", "b.jpg"]):
            print(result.source, result.error or result.predictions[0])

    A `with` block closes the classifier.

    Attributes:
        labels: the LabelSet that names the classes, or the groups of `groups`.
        top_k: predictions per image. It is at most the number of classes or groups.
        run: a RunInfo with everything that the predictions depend on, except the images.
        runner: the ModelRunner that decodes the images and runs the network.
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
        workers: int | str | None = None,
        fast_decode: bool = False,
        decode_device: str = "cpu",
        max_pixels: int = MAX_PIXELS,
        isolate: bool = False,
        time_limit: float = TIME_LIMIT,
        decode_damaged: bool = False,
        num_images: int | None = None,
        resize_size: int | tuple[int, int] | None = None,
        crop_size: int | tuple[int, int] | None = None,
        interpolation: str | None = None,
        mean: float | tuple[float, float, float] | None = None,
        std: float | tuple[float, float, float] | None = None,
        channel_order: str | None = None,
        activation: str = "auto",
        output_name: str | None = None,
        checkpoint_key: str | None = None,
        transform_input: bool | None = None,
        offline: bool | None = None,
        trust: bool = False,
        groups: str | os.PathLike[str] | Mapping[str, Iterable[str]] | None = None,
        calibration: bool | str | os.PathLike[str] | Calibration = False,
        at_least: float | None = None,
        tree: str | os.PathLike[str] | None = None,
        threshold: float | None = None,
        sets: float | None = None,
        set_method: str = "lac",
        unfamiliar: bool = False,
        with_features: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Loads a model. Downloads its weights if they are not in the cache.

        The arguments `resize_size`, `crop_size`, `interpolation`, `mean`, `std` and `channel_order` replace values
        of the model's own preprocessing. None keeps the model's value (docs/preprocessing.md).

        Args:
            model: a model reference (docs/models.md). None is the embedded model, efficientnet_lite0.
            arch: the architecture, for a file that does not name its own.
            labels: the name of a label set, or the path of a labels file, instead of the model's own labels.
            top_k: predictions per image, 1 or more. An image never has more predictions than there are
                classes.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps". With "auto", the device and the engine are those
                that finish first (docs/engines.md).
            dtype: "float32", "bfloat16" or "float16": the type that the network computes in; or "auto": bfloat16
                where that is faster, otherwise float32.
            engine: "auto", "torch", "onnxruntime" or "openvino".
            batch_size: images in a batch. None chooses by engine and device.
            workers: what decodes images, and how many: a number, "threads", "processes", "threads:N" or
                "processes:N". Without a kind, processes are used where threads would not keep up. They need Linux
                or macOS. Without a number, there is one for each processor, but at most 32.
            fast_decode: decode large JPEGs at a smaller scale, and resize and crop in one pass. This is
                faster, but the pixels are not exactly those that the model was trained with
                (docs/preprocessing.md).
            decode_device: "cpu", or "gpu" to decode and resize JPEGs on a CUDA device with nvJPEG.
            max_pixels: limit on width × height. A larger image is not decoded and gets the error
                "image_too_large". PIL images and arrays have no limit.
            isolate: decode in separate processes, so that a decoder that crashes, hangs or takes all memory
                costs only one image (docs/images.md).
            time_limit: seconds for one image, used only with `isolate`.
            decode_damaged: classify what there is of a damaged JPEG, PNG, WebP or GIF. Its result is marked as
                damaged (docs/images.md).
            num_images: expected number of images, if known. It helps "auto" to choose the engine and the
                device.
            resize_size: pixels of the short side, or (height, width), whatever the aspect ratio.
            crop_size: pixels of a square, or (height, width).
            interpolation: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".
            mean, std: for the channels in `channel_order`, of pixels scaled to 0..1. One number is used for all
                three.
            channel_order: "rgb", "bgr" or "grey": the order in which the network takes the channels. "grey" is for
                networks of one channel.
            activation: what turns the outputs of the network into probabilities: "softmax", "sigmoid" or "none".
                "auto" is what the model's files say, or else what its outputs show (docs/models.md).
            output_name: the output to use, of a network with several.
            checkpoint_key: the key of the state_dict in a checkpoint with several, such as "state_dict_ema". Dots
                lead deeper: "ema.module".
            transform_input: torchvision's argument of this name, for a checkpoint of googlenet or inception_v3.
                None means True, as for the published weights. Networks trained from scratch usually have False.
            offline: never open a socket. None reads the environment variable IMGCLASSIFY_OFFLINE.
            trust: let a torch.hub repository or a TorchScript file run its own code.
            groups: add the probabilities of the classes of each group, and predict groups instead of classes; not
                for models whose classes are independent:
                names such as "dog,cat,bird=n01503061", the path of a file with the columns class and group, or
                a mapping from the name of each group to its classes (docs/labels.md).
            calibration: True to divide the logits by the temperature that is known for these weights, from
                `imgclassify calibrate` or from the catalog; or a Calibration, or the path of its file. False keeps
                the raw softmax, unless `at_least`, `threshold` or `sets` need calibrated probabilities
                (docs/confidence.md).
            at_least: answer with the most specific class or node of the WordNet tree whose probability is at least
                this, 0..1 (`ImageResult.answer`).
            tree: the path of a file with a tree of the classes, instead of WordNet's (docs/confidence.md).
            threshold: answer only if the most probable class has at least this probability, 0..1.
            sets: the share of images, 0..1, whose prediction set holds the true class
                (`ImageResult.prediction_set`). It needs a calibration from labelled images.
            set_method: "lac", whose sets are the smallest on average, or "raps", whose sets are larger for hard
                images.
            unfamiliar: measure how unlike the images of known classes each image is (`ImageResult.unfamiliar`).
            with_features: let `runner` return features too, if the network hands them out.
            progress: called with (file name, bytes so far, total bytes or None) during a download.

        Raises:
            UsageError: an argument is out of its range, or one that the model needs is missing, or the calibration
                is of another model.
            UnavailableError: the model, its weights, its labels or the device is unavailable. The subclasses
                show which and why.
        """
        require_positive(top_k=top_k)
        wanted: dict[str, Any] = {"at_least": at_least, "tree": tree, "threshold": threshold, "sets": sets}
        assessment = None
        if unfamiliar or set_method != "lac" or any(value is not None for value in wanted.values()):
            from imgclassify.confidence.assessment_options import AssessmentOptions  # most runs do not need it

            assessment = AssessmentOptions(**wanted, set_method=set_method, unfamiliar=unfamiliar)
        self._fields = assessment.fields if assessment else set()
        load = partial(
            load_runner,
            model,
            arch=arch,
            labels=labels,
            device=device,
            dtype=dtype,
            engine=engine,
            batch_size=batch_size,
            workers=workers,
            fast_decode=fast_decode,
            decode_device=decode_device,
            max_pixels=max_pixels,
            isolate=isolate,
            time_limit=time_limit,
            decode_damaged=decode_damaged,
            num_images=num_images,
            resize_size=resize_size,
            crop_size=crop_size,
            interpolation=interpolation,
            mean=mean,
            std=std,
            channel_order=channel_order,
            activation=activation,
            output_name=output_name,
            checkpoint_key=checkpoint_key,
            transform_input=transform_input,
            offline=offline,
            trust=trust,
            progress=progress,
        )
        self.runner = _load_with_features(load) if unfamiliar or with_features else load()
        self._features_runner: ModelRunner | None = None
        labels_found = self.runner.network.labels
        assert labels_found is not None  # LoadOptions.with_labels is True
        labels_found.require_num_classes(self.runner.num_classes)
        self.labels: LabelSet = labels_found
        self.run: RunInfo = self.runner.run_info
        """Everything that this classifier's predictions depend on, except the images."""
        assert self.runner.activation is not None  # there are labels, and one output or more
        self._activation = self.runner.activation
        grouping: Grouping | None = None
        if groups is not None:
            if self._activation.multi_label:
                raise UsageError(
                    "groups add probabilities, but this model predicts each class by itself",
                    hint="leave out --group",
                    argument="groups",
                )
            from imgclassify.labels.grouping import group_classes  # few runs need it

            grouping = group_classes(labels_found, groups)
            self.labels = grouping.labels
            self.run = replace(self.run, groups=grouping.to_list())
        self.calibration: Calibration | None = None
        """What the probabilities are calibrated with. None if they are raw."""
        assessor = None
        if self._fields:
            _require_plain_classes(self._activation, grouped=grouping is not None)
        if self._fields or calibration is not False:
            assessor = self._calibrate(calibration, assessment)
        self.top_k: int = min(top_k, len(self.labels))
        self.postprocessor = Postprocessor(
            self.run.model,
            self.labels,
            self._activation,
            top_k=self.top_k,
            temperature=self.calibration.temperature if self.calibration else None,
            grouping=grouping,
            assessor=assessor,
        )
        """Turns the outputs of the runner into results."""

    @overload
    def predict(self, images: ImageLike) -> ImageResult: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Iterable[ImageLike]) -> Iterator[ImageResult]: ...

    def predict(self, images: Any) -> ImageResult | Iterator[ImageResult]:
        """Predicts what an image shows, or what each of many images shows.

        An image is one of these:

        - a path or a URL
        - the bytes of an image file, or a binary file that is open for reading
        - a PIL image
        - a uint8 array of shape (H, W, 3) in RGB or (H, W) in grey, 0..255
        - a Source

        Many images are an iterable, or the name of a folder, an archive or a glob, as on the command line. In an
        iterable, a folder or an archive stands for its images. A name in an iterable is never a glob.

        For type checkers, a name is one image. `stream` has the type of many.

        Args:
            images: one image, or many. An iterable is read on a thread of its own while its images are
                classified.

        Returns:
            An ImageResult for a single image. For many images, an iterator with one ImageResult for each of
            them, in the same order.

        Raises:
            ImageError: the single image cannot be opened or decoded. Among many, such an image has its error in
                its ImageResult, and the other images are still classified.
            NoImagesError: there is no image in the folder or archive, or no file matches the glob.
            UsageError: a value is of a type that cannot be an image.
            UnavailableError: the network cannot process the images, or under `isolate` no worker process can
                be started.
        """
        if is_batch(images):
            return self.runner.map_batches(self.postprocessor.to_results, images)
        return self.postprocessor.to_result(self.runner.run_one(images))

    def stream(self, sources: ManyImages, *, stop_event: Event | None = None) -> Generator[ImageResult, None, None]:
        """Classifies many images, such as the sources that `imgclassify.sources.expand` finds.

        Memory use does not grow with the number of images.

        Args:
            sources: many images, as in `predict`. The name of a file is an iterable of one image here.
            stop_event: once it is set, no further image is taken. The images taken before still get their
                results.

        Yields:
            One ImageResult for each image, in order. An image that cannot be opened or decoded has an error in
            its result.

        Raises:
            NoImagesError, UsageError, UnavailableError: as in `predict`.
        """
        return self.runner.map_batches(self.postprocessor.to_results, sources, stop_event=stop_event)

    def to_rows(self, results: ImageResult | Iterable[ImageResult]) -> Iterator[dict[str, Any]]:
        """Flattens results to rows that `pandas.DataFrame` takes, with the columns of CSV (docs/output.md).

        Args:
            results: results of this classifier.

        Yields:
            A dictionary for each result. Each has the same keys: "source", "model", "width", "height", "frames",
            "frame", "damaged", then "class_index_1", "wnid_1", "label_1", "probability_1" and so on up to `top_k`,
            then the columns of "answer", "set" and "unfamiliar" if the classifier has them, then "error_type" and
            "error_message". A value that a result lacks is None.

        Raises:
            UsageError: a result has more than `top_k` predictions.
        """
        from imgclassify.output.records import predictions_with  # predict does not need these
        from imgclassify.output.rows import column_names, row_values

        lengths, record_type = {"top_k": self.top_k}, predictions_with(self._fields)
        columns = column_names(record_type.fields, lengths)
        for result in [results] if isinstance(results, ImageResult) else results:
            if len(result.predictions) > self.top_k:
                raise UsageError(
                    f"the result of {result.source!r} has {len(result.predictions)} predictions, but top_k is "
                    f"{self.top_k}",
                    hint="call to_rows of the classifier that returned it",
                )
            yield dict(zip(columns, row_values(result, record_type, lengths), strict=True))

    @overload
    def embed(self, images: ImageLike, *, normalize: bool = ...) -> ImageEmbedding: ...  # type: ignore[overload-overlap]

    @overload
    def embed(self, images: Iterable[ImageLike], *, normalize: bool = ...) -> Iterator[ImageEmbedding]: ...

    def embed(self, images: Any, *, normalize: bool = False) -> ImageEmbedding | Iterator[ImageEmbedding]:
        """Computes the features of an image, or of each of many images: what the last linear layer sees.

        The first call builds the network once more, with this output.

        Args:
            images: as in `predict`.
            normalize: scale each embedding to a Euclidean norm of 1.

        Returns:
            An ImageEmbedding for a single image. For many images, an iterator with one ImageEmbedding for each
            of them, in the same order.

        Raises:
            ImageError, NoImagesError: as in `predict`.
            UsageError: a value is of a type that cannot be an image.
            UnavailableError: the network's features cannot be found, or as in `predict`.
        """
        from imgclassify.embedding import Embedder  # predict does not need it

        if self._features_runner is None:
            self._features_runner = self.runner.with_outputs((FEATURES,))
        embedder = Embedder(self._features_runner, normalize=normalize)
        embeddings: ImageEmbedding | Iterator[ImageEmbedding] = embedder.embed(images)
        return embeddings

    def close(self) -> None:
        """Ends the worker processes of `isolate`.

        They also end when this object is garbage-collected and when the program ends. A closed classifier can
        still be used.
        """
        self.runner.close()
        if self._features_runner is not None:
            self._features_runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _calibrate(
        self, calibration: bool | str | os.PathLike[str] | Calibration, assessment: AssessmentOptions | None
    ) -> Assessor | None:
        """Finds the calibration, and what says more of an image than its predictions, if that is wanted."""
        from imgclassify.confidence.assessment import Assessor, choose_calibration  # few runs need them

        self.calibration = choose_calibration(
            calibration,
            self.runner.run_info,
            self._find_known_calibration,
            is_needed=assessment is not None and (assessment.answers or assessment.sets is not None),
        )
        if self.calibration:
            self.run = replace(self.run, calibration=self.calibration.to_run())
        if assessment is None:
            return None
        scorer = None
        if assessment.unfamiliar:
            known = self.find_calibration()
            scorer = self._choose_scorer(known)
            familiar = known.to_run() if known and known.familiar else None
            self.run = replace(self.run, unfamiliar=scorer.method, familiar=familiar)
        return Assessor(assessment, self.labels, self.calibration, scorer)

    def _choose_scorer(self, calibration: Calibration | None) -> UnfamiliarityScorer:
        from imgclassify.confidence.feature_statistics import find_feature_mean
        from imgclassify.confidence.scoring import choose_scorer

        digest = self.runner.network.source_sha256 or self.runner.run_info.weights_sha256
        return choose_scorer(
            calibration,
            has_features=FEATURES in self.runner.outputs,
            head_weight=self.runner.find_head_weight(),
            mean=find_feature_mean(digest) if digest else None,
        )

    def find_calibration(self) -> Calibration | None:
        """Returns the calibration that is known for this model, whether or not the classifier uses it.

        Raises:
            UsageError: the user's own is damaged.
        """
        if self._activation.name != "softmax":
            return None
        return self.calibration or self._find_known_calibration()

    def _find_known_calibration(self) -> Calibration | None:
        from imgclassify.confidence.calibration import find_calibration

        network = self.runner.network
        return find_calibration(self.runner.run_info, network.calibration, network.own_calibration)


def _load_with_features(load: Callable[..., ModelRunner]) -> ModelRunner:
    """Loads a runner that also returns features, unless the network hands out none."""
    try:
        return load(outputs=(LOGITS, FEATURES))
    except OutputError as error:
        logger.info("unfamiliarity is measured without features: %s", error)
        return load()


def _require_plain_classes(activation: Activation, *, grouped: bool) -> None:
    if activation.multi_label:
        raise UsageError(
            "this model predicts each class by itself, so its probabilities are not shares of one answer",
            hint="leave out --at-least, --threshold, --sets and --unfamiliar",
        )
    if grouped:
        raise UsageError(
            "groups are answers above the classes already",
            hint="leave out --group, or --at-least, --threshold, --sets and --unfamiliar",
        )
