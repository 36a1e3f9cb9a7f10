"""What an output needs to know of a kind of record: its fields, and what runs must agree in to add to one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from imgclassify.results import SCHEMA, ImageFailure, ImageResult

__all__ = [
    "ERROR",
    "HEIGHT",
    "MODEL",
    "PREDICTIONS",
    "SOURCE",
    "WIDTH",
    "Field",
    "R",
    "Ranked",
    "Record",
    "RecordType",
    "Scalar",
    "Struct",
    "Vector",
]


class Record(Protocol):
    """One source's record: its answer, or its error."""

    @property
    def source(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def error(self) -> ImageFailure | None: ...

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON has it. A Vector is a numpy array."""
        ...


R = TypeVar("R", bound=Record)


class Scalar(NamedTuple):
    """A field with one value."""

    name: str
    kind: str
    """"text", "integer" or "real"."""
    nullable: bool = False
    comment: str = ""
    """What a reader of a table's definition should know."""


class Struct(NamedTuple):
    """A field with named parts, or null."""

    name: str
    fields: tuple[Scalar, ...]


class Ranked(NamedTuple):
    """A field that is a list of structs, the best first. Each also has its `rank`, from 1 on."""

    name: str
    fields: tuple[Scalar, ...]
    length: str
    """The setting of the run that says how many there are at most."""


class Vector(NamedTuple):
    """A field that is an array (N,) of float32, or null."""

    name: str
    length: str
    """The setting of the run that says how many numbers it has."""


Field: TypeAlias = Scalar | Struct | Ranked | Vector


@dataclass(frozen=True, slots=True)
class RecordType(Generic[R]):
    """A kind of record."""

    name: str
    """What its records hold, in the plural."""
    schema: str
    """Names the shape of a JSON document of such records. A breaking change raises its number."""
    from_dict: Callable[[Any], R]
    """The record of a dictionary that `to_dict` gave. Raises ValueError where it is none."""
    fields: tuple[Field, ...]
    """In the order of a table's columns. The first is "source"."""
    settings: tuple[str, ...]
    """Whole numbers above zero that a run has besides its RunInfo, such as "top_k"."""
    compared: tuple[str, ...]
    """Keys of RunInfo.to_dict that change records. A run that differs in one, or in a setting, is not resumed."""

    @property
    def ranked(self) -> tuple[Ranked, ...]:
        return tuple(field for field in self.fields if isinstance(field, Ranked))

    @property
    def has_vectors(self) -> bool:
        return any(isinstance(field, Vector) for field in self.fields)


SOURCE = Scalar("source", "text", comment="a BLOB of the name's bytes where they are not UTF-8")
MODEL = Scalar("model", "text")
WIDTH = Scalar("width", "integer", nullable=True, comment="pixels of the upright image")
HEIGHT = Scalar("height", "integer", nullable=True)
ERROR = Struct(
    "error",
    (
        Scalar("type", "text", nullable=True, comment="NULL where it was answered"),
        Scalar("message", "text", nullable=True),
    ),
)

PREDICTIONS: RecordType[ImageResult] = RecordType(
    name="predictions",
    schema=SCHEMA,
    from_dict=ImageResult.from_dict,
    fields=(
        SOURCE,
        MODEL,
        WIDTH,
        HEIGHT,
        Ranked(
            "predictions",
            (
                Scalar("class_index", "integer"),
                Scalar("wnid", "text", nullable=True),
                Scalar("label", "text"),
                Scalar("probability", "real"),
            ),
            length="top_k",
        ),
        ERROR,
    ),
    settings=("top_k",),
    # Engine and device change the last digits, as the batch does.
    compared=(
        "model",
        "architecture",
        "weights",
        "preprocess",
        "label_set",
        "label_set_sha256",
        "num_classes",
        "decode",
        "dtype",
    ),
)
"""What `predict` writes."""
