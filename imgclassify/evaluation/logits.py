"""The logits of images, kept in a file, so that a later question needs no image."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from imgclassify.engines import LOGITS
from imgclassify.output.records import ERROR, IMAGE_FIELDS, RecordType, Vector
from imgclassify.output.vectors import describe_vector, halve, is_sound_vector, parse_vector

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.results import ImageFailure
    from imgclassify.runner import ImageOutputs, ModelRunner
    from imgclassify.sources import Source

__all__ = ["IMAGE_LOGITS", "ImageLogits", "LogitsProducer"]


@dataclass(frozen=True, slots=True, eq=False)
class ImageLogits:
    """The record of one image. It has either logits or an error."""

    source: str
    """The name that stands for the image: a path, a URL, `archive!member`, or "-"."""
    model: str
    width: int | None
    """Pixels, after EXIF orientation. None if the image could not be opened."""
    height: int | None
    logits: NDArray[np.floating[Any]] | None
    """(number of outputs,) float32 or float16."""
    error: ImageFailure | None = None
    approximate: bool = False
    """As in ImageResult, and so are the next ones."""
    frames: int | None = None
    frame: int | None = None
    damaged: bool = False
    outputs: ImageOutputs | None = None
    """What the runner returned, in full precision. It is not written to a file."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as all formats contain it (docs/evaluation.md). The logits stay an array."""
        return describe_vector(self, "logits", self.logits)

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """Creates a record from its dictionary, the inverse of `to_dict`. A list becomes a float32 array.

        Raises:
            ValueError: the record is incomplete or invalid.
        """
        result = cls(**parse_vector(record, "logits"))
        if not is_sound_vector(result, result.logits):
            raise ValueError("a field has an invalid value")
        return result

    def to_outputs(self) -> ImageOutputs:
        """Returns what the runner returned. If the record was read from a file, its logits in float32."""
        import numpy as np

        from imgclassify.runner import ImageOutputs

        if self.outputs is not None:
            return self.outputs
        return ImageOutputs(
            source=self.source,
            width=self.width,
            height=self.height,
            frames=self.frames,
            frame=self.frame,
            damaged=self.damaged,
            approximate=self.approximate,
            arrays=None if self.logits is None else {LOGITS: self.logits.astype(np.float32)},
            error=self.error,
        )


IMAGE_LOGITS: RecordType[ImageLogits] = RecordType(
    name="logits",
    schema="imgclassify.logits/1",
    from_dict=ImageLogits.from_dict,
    fields=(*IMAGE_FIELDS, Vector("logits", dtype="logits_dtype"), ERROR),
    setting_names=("logits_dtype",),
    must_match=("model", "architecture", "weights", "preprocess", "num_classes", "decode", "dtype", "options"),
    optional_settings=("frames", "fps", "decode_damaged"),
)
"""The records of `evaluate --save-logits`."""


class LogitsProducer:
    """Produces an ImageLogits for each image.

    Attributes:
        run: the RunInfo of the runner. It names no calibration, as logits do not depend on one.
    """

    def __init__(
        self,
        runner: ModelRunner,
        selects: Callable[[str], bool],
        *,
        dtype: str,
    ) -> None:
        """
        Args:
            selects: returns whether the source of this name is wanted.
            dtype: "float32" or "float16": the type of the logits.
        """
        self.run = runner.run_info
        self._runner = runner
        self._selects = selects
        self._dtype = dtype

    def stream(
        self, sources: Iterable[Source], *, stop_event: Event | None = None
    ) -> Generator[ImageLogits, None, None]:
        """Computes the logits of images, as `Classifier.stream` classifies them."""
        wanted = (source for source in sources if self._selects(source.name))
        return self._runner.map(self._to_logits, wanted, stop_event=stop_event)

    def _to_logits(self, image: ImageOutputs) -> ImageLogits:
        logits: NDArray[Any] | None = None
        if image.arrays is not None:
            outputs = image.arrays[LOGITS]
            logits = (
                halve(outputs, "the logits", "leave out --save-logits") if self._dtype == "float16" else outputs
            )
        return ImageLogits(model=self.run.model, logits=logits, outputs=image, **image.record_fields())
