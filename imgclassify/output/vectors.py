"""What records with one Vector have in common: their JSON values, and the checks when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from imgclassify.results import ImageFailure, flags_of, read_later_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTOR_DTYPES = ("float32", "float16")


class VectorRecord(Protocol):
    """A record of an image. It has either a vector or an error."""

    @property
    def source(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def width(self) -> int | None: ...

    @property
    def height(self) -> int | None: ...

    @property
    def frames(self) -> int | None: ...

    @property
    def frame(self) -> int | None: ...

    @property
    def error(self) -> ImageFailure | None: ...


def describe_vector(record: VectorRecord, name: str, vector: NDArray[Any] | None) -> dict[str, Any]:
    """Returns the record as all formats contain it. The vector stays an array.

    Args:
        name: the key of the vector.
    """
    values = {
        "source": record.source,
        "model": record.model,
        "width": record.width,
        "height": record.height,
        "frames": record.frames,
        "frame": record.frame,
        name: vector,
        "error": record.error.to_dict() if record.error else None,
    }
    return values | flags_of(record)


def parse_vector(record: Any, name: str) -> dict[str, Any]:
    """Returns the arguments that the class of a record is created with. A list becomes a float32 array.

    Raises:
        ValueError: the record is incomplete.
    """
    import numpy as np

    try:
        vector, error = record[name], record["error"]
        return {
            "source": record["source"],
            "model": record["model"],
            "width": record["width"],
            "height": record["height"],
            name: np.asarray(vector, np.float32) if isinstance(vector, list) else vector,
            "error": None if error is None else ImageFailure(**error),
            **read_later_fields(record),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("it lacks a field, or has an unknown one") from error


def is_sound_vector(record: VectorRecord, vector: NDArray[Any] | None) -> bool:
    """Whether each field of a record has a value that it can have."""
    import numpy as np

    texts: list[object] = [record.source, record.model]
    numbers: list[object] = []
    if record.error:
        texts += [record.error.type, record.error.message]
    else:
        numbers += [record.width, record.height]
    return (
        (vector is None) != (record.error is None)
        and all(type(text) is str for text in texts)
        and all(type(number) is int and number >= 0 for number in numbers)
        and (
            vector is None
            or (
                isinstance(vector, np.ndarray)
                and vector.ndim == 1
                and vector.dtype.name in VECTOR_DTYPES
                and bool(np.isfinite(vector).all())
            )
        )
    )


def halve(vector: NDArray[np.float32], what: str, hint: str) -> NDArray[np.float16]:
    """Returns the vector in float16.

    Args:
        what: names the values, in the plural, for the error.

    Raises:
        OutputError: a value is too large.
    """
    import numpy as np

    from imgclassify.errors import OutputError

    with np.errstate(over="ignore"):
        halved = vector.astype(np.float16)
    if not np.isfinite(halved).all():
        raise OutputError(f"{what} are too large for float16: up to {np.abs(vector).max():.0f}", hint=hint)
    return halved
