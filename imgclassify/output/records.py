"""Describes a kind of record: its fields, and which values of two runs must match to write to the same file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from imgclassify.results import SCHEMA, ImageFailure, ImageResult

__all__ = [
    "ERROR",
    "IMAGE_FIELDS",
    "MODEL",
    "PREDICTIONS",
    "SOURCE",
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
    """The record of one source: its predictions or its error."""

    @property
    def source(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def error(self) -> ImageFailure | None: ...

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON values, except that a Vector is a numpy array."""
        ...


R = TypeVar("R", bound=Record)


class Scalar(NamedTuple):
    """A field with one value."""

    name: str
    kind: str
    """"text", "integer", "real" or "flag": true, or missing."""
    nullable: bool = False
    comment: str = ""
    """A comment for the column in the SQL definition of a table."""
    added: bool = False
    """Whether files of earlier versions lack it."""


class Struct(NamedTuple):
    """A field with named parts. Its value may be null."""

    name: str
    fields: tuple[Scalar, ...]


class Ranked(NamedTuple):
    """A field that is a list of structs, best first. Each struct also has a `rank`, which starts at 1."""

    name: str
    fields: tuple[Scalar, ...]
    length: str
    """The name of the run's setting that limits the number of structs."""


class Vector(NamedTuple):
    """A field that is an array of shape (N,), or null. N is the same for all records of a run."""

    name: str
    dtype: str
    """The name of the run's setting that gives the array's dtype: "float32" or "float16"."""


Field: TypeAlias = Scalar | Struct | Ranked | Vector


@dataclass(frozen=True, slots=True)
class RecordType(Generic[R]):
    """A kind of record."""

    name: str
    """What the records hold, in the plural."""
    schema: str
    """Identifies the structure of a JSON document of such records. A breaking change increases the number."""
    from_dict: Callable[[Any], R]
    """Builds a record from a dictionary that `to_dict` returned. Raises ValueError for anything else."""
    fields: tuple[Field, ...]
    """The fields, in the order of a table's columns. The first is "source"."""
    setting_names: tuple[str, ...]
    """Names of the values that every run has in addition to its RunInfo, such as "top_k": integers above zero, or
    texts."""
    must_match: tuple[str, ...]
    """Keys of RunInfo.to_dict that affect records. A run that differs in one of them, or in a setting, is not
    resumed."""
    optional_settings: tuple[str, ...] = ()
    """Names of such values that only some runs have."""
    filter_settings: tuple[str, ...] = ()
    """Those of the optional settings with which records are left out of the output."""
    added_keys: tuple[str, ...] = ()
    """Keys of `must_match` that earlier versions did not write. An output without them can be resumed."""

    def fields_in(self, names: Collection[str]) -> tuple[Field, ...]:
        """Returns the fields of a file that may be an earlier version's.

        Args:
            names: of its columns.
        """
        return tuple(
            field
            for field in self.fields
            if not (isinstance(field, Scalar) and field.added and field.name not in names)
        )

    @property
    def ranked(self) -> tuple[Ranked, ...]:
        return tuple(field for field in self.fields if isinstance(field, Ranked))

    @property
    def has_vectors(self) -> bool:
        return any(isinstance(field, Vector) for field in self.fields)


SOURCE = Scalar("source", "text", comment="a BLOB with the bytes of the name if it is not UTF-8")
MODEL = Scalar("model", "text")
IMAGE_FIELDS = (
    SOURCE,
    MODEL,
    Scalar("width", "integer", nullable=True, comment="pixels of the upright image"),
    Scalar("height", "integer", nullable=True),
    Scalar("frames", "integer", nullable=True, comment="how many the file has", added=True),
    Scalar("frame", "integer", nullable=True, comment="which one this is, from 1", added=True),
    Scalar("damaged", "flag", nullable=True, comment="1 if a part of the image is missing", added=True),
)
"""The fields that begin the record of an image."""
ERROR = Struct(
    "error",
    (
        Scalar("type", "text", nullable=True, comment="NULL if there was no error"),
        Scalar("message", "text", nullable=True),
    ),
)

PREDICTIONS: RecordType[ImageResult] = RecordType(
    name="predictions",
    schema=SCHEMA,
    from_dict=ImageResult.from_dict,
    fields=(
        *IMAGE_FIELDS,
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
    setting_names=("top_k",),
    # Engine and device are left out: like the batch, they change only the last digits.
    must_match=(
        "model",
        "architecture",
        "weights",
        "preprocess",
        "label_set",
        "label_set_sha256",
        "num_classes",
        "decode",
        "dtype",
        "activation",
        "multi_label",
        "options",
        "groups",
    ),
    optional_settings=("only", "not", "min_probability", "frames", "fps", "decode_damaged"),
    filter_settings=("only", "not", "min_probability"),
    added_keys=("activation",),
)
"""The records that the command `predict` writes."""
