"""Turns images into vectors: the features that a network computes before its last layer."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, overload

from imgclassify.engines import FEATURES
from imgclassify.errors import UsageError
from imgclassify.images.inputs import is_batch
from imgclassify.output.records import ERROR, IMAGE_FIELDS, RecordType, Vector
from imgclassify.output.vectors import VECTOR_DTYPES, describe_vector, halve, is_sound_vector, parse_vector

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.images.inputs import ImageLike, ManyImages
    from imgclassify.results import ImageFailure, RunInfo
    from imgclassify.runner import ImageOutputs, ModelRunner

__all__ = ["EMBEDDINGS", "Embedder", "ImageEmbedding"]


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """The record of one image. It has either an embedding or an error."""

    source: str
    """The name that stands for the image: a path, a URL, `archive!member`, or "-"."""
    model: str
    width: int | None
    """Pixels, after EXIF orientation. None if the image could not be opened."""
    height: int | None
    embedding: NDArray[np.floating[Any]] | None
    """(D,) float32 or float16."""
    error: ImageFailure | None = None
    approximate: bool = False
    """Whether the image is a strip so long that resizing it only approximates the model's own pipeline."""
    frames: int | None = None
    """How many frames or pages the file has. None if there is an error, or if the image was in memory."""
    frame: int | None = None
    """Which of them was embedded, from 1. None as for `frames`."""
    damaged: bool = False
    """Whether a part of the image is missing, and `decode_damaged` was set."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as all formats contain it (docs/embed.md). The embedding stays an array."""
        return describe_vector(self, "embedding", self.embedding)

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """Creates an embedding from its record, the inverse of `to_dict`. A list becomes a float32 array.

        Raises:
            ValueError: the record is incomplete or invalid.
        """
        result = cls(**parse_vector(record, "embedding"))
        if not is_sound_vector(result, result.embedding):
            raise ValueError("a field has an invalid value")
        return result


EMBEDDINGS: RecordType[ImageEmbedding] = RecordType(
    name="embeddings",
    schema="imgclassify.embeddings/1",
    from_dict=ImageEmbedding.from_dict,
    fields=(*IMAGE_FIELDS, Vector("embedding", dtype="embedding_dtype"), ERROR),
    setting_names=("embedding_dtype", "norm"),
    # Engine and device are left out: like the batch, they change only the last digits.
    must_match=("model", "architecture", "weights", "weights_sha256", "preprocess", "decode", "dtype", "options"),
    optional_settings=("frames", "fps", "decode_damaged"),
)
"""The records that the command `embed` writes."""


class Embedder:
    """Embeds images with a runner that computes features.

        embedder = Embedder(load_runner("resnet50", outputs=("features",), with_labels=False))
        vector = embedder.embed("dog.jpg").embedding

    Attributes:
        run: a RunInfo with everything that the embeddings depend on, except the images and `settings`.
        settings: the dtype of the embeddings, and their norm: "l2" or "none".
    """

    def __init__(self, runner: ModelRunner, *, dtype: str = "float32", normalize: bool = False) -> None:
        """
        Args:
            runner: created with the output "features".
            dtype: "float32" or "float16": the type of the embeddings.
            normalize: scale each embedding to a Euclidean norm of 1. An embedding of zeros stays as it is.

        Raises:
            UsageError: the dtype is neither of the two.
        """
        if dtype not in VECTOR_DTYPES:
            raise UsageError(f"unknown dtype {dtype!r} of embeddings", hint="use float32 or float16")
        self.runner = runner
        self.run: RunInfo = runner.run_info
        self.settings: dict[str, int | str] = {"embedding_dtype": dtype, "norm": "l2" if normalize else "none"}
        self._dtype = dtype
        self._normalize = normalize

    @overload
    def embed(self, images: ImageLike) -> ImageEmbedding: ...  # type: ignore[overload-overlap]

    @overload
    def embed(self, images: Iterable[ImageLike]) -> Iterator[ImageEmbedding]: ...

    def embed(self, images: Any) -> ImageEmbedding | Iterator[ImageEmbedding]:
        """Embeds an image, or each of many images.

        Args:
            images: as in `Classifier.predict`.

        Returns:
            An ImageEmbedding for a single image. For many images, an iterator with one ImageEmbedding for each
            of them, in the same order.

        Raises:
            ImageError: the single image cannot be opened or decoded. Among many, such an image has its error in
                its ImageEmbedding, and the other images are still embedded.
            NoImagesError: there is no image in the folder or archive, or no file matches the glob.
            UsageError: a value is of a type that cannot be an image.
            UnavailableError: the network cannot process the images.
        """
        if is_batch(images):
            return self.runner.map(self._to_embedding, images)
        return self._to_embedding(self.runner.run_one(images))

    def stream(
        self, sources: ManyImages, *, stop_event: Event | None = None
    ) -> Generator[ImageEmbedding, None, None]:
        """Embeds images, as `Classifier.stream` classifies them."""
        return self.runner.map(self._to_embedding, sources, stop_event=stop_event)

    def _to_embedding(self, image: ImageOutputs) -> ImageEmbedding:
        return ImageEmbedding(
            model=self.run.model,
            embedding=None if image.arrays is None else self._to_vector(image.arrays[FEATURES]),
            **image.record_fields(),
        )

    def _to_vector(self, features: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        import numpy as np

        if self._normalize:
            norm = np.linalg.norm(features)
            features = features / norm if norm > 0 else features
        if self._dtype == "float32":
            # A copy, so that the array does not keep the features of the whole batch in memory.
            return features.copy()
        return halve(features, "the features", "use --dtype float32, or --normalize")
