"""Describes a kind of record: its fields, and which values of two runs must match to write to the same file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from imgclassify.results import SCHEMA, ImageFailure, ImageResult

__all__ = [
    "ERROR",
    "IMAGE_FIELDS",
    "MODEL",
    "OPTIONAL_FIELDS",
    "PREDICTIONS",
    "SOURCE",
    "Field",
    "R",
    "Ranked",
    "Record",
    "RecordType",
    "Scalar",
    "Struct",
    "Texts",
    "Vector",
    "predictions_with",
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
    """Whether files may lack it: those of earlier versions, or of runs without it."""


class Struct(NamedTuple):
    """A field with named parts. Its value may be null. Then its first part is null in formats without structs."""

    name: str
    fields: tuple[Scalar, ...]
    added: bool = False
    """Whether files may lack it: those of earlier versions, or of runs without it."""


class Texts(NamedTuple):
    """A field that is a list of texts, or null. Formats without lists hold it as JSON."""

    name: str
    added: bool = False
    """Whether files may lack it: those of earlier versions, or of runs without it."""


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


Field: TypeAlias = Scalar | Struct | Texts | Ranked | Vector


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
    all_fields: tuple[Field, ...] = ()
    """All fields that records of this kind may have, if `fields` are fewer."""

    def fields_in(self, names: Collection[str]) -> tuple[Field, ...]:
        """Returns the fields of a file that may lack some of them, or have those of a run with other options.

        Args:
            names: of its columns.
        """
        return tuple(
            field
            for field in self.all_fields or self.fields
            if not (
                isinstance(field, Scalar | Struct | Texts) and field.added and _first_column(field) not in names
            )
        )

    def without(self, names: Collection[str]) -> RecordType[R]:
        """Returns the record type of a run whose records have no such fields."""
        kept = tuple(field for field in self.fields if field.name not in names)
        return replace(self, fields=kept, all_fields=self.fields)

    @property
    def ranked(self) -> tuple[Ranked, ...]:
        return tuple(field for field in self.fields if isinstance(field, Ranked))

    @property
    def has_vectors(self) -> bool:
        return any(isinstance(field, Vector) for field in self.fields)


def _first_column(field: Scalar | Struct | Texts) -> str:
    return f"{field.name}_{field.fields[0].name}" if isinstance(field, Struct) else field.name


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
        Struct(
            "answer",
            (
                Scalar("kind", "text", nullable=True, comment="leaf, rollup or unsure"),
                Scalar("wnid", "text", nullable=True),
                Scalar("label", "text", nullable=True),
                Scalar("probability", "real", nullable=True),
            ),
            added=True,
        ),
        Texts("set", added=True),
        Struct(
            "unfamiliar",
            (
                Scalar("score", "real", nullable=True, comment="the higher, the stranger"),
                Scalar("percentile", "real", nullable=True, comment="among familiar images, 0..100"),
            ),
            added=True,
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
        "calibration",
        "unfamiliar",
        "familiar",
    ),
    optional_settings=(
        *("only", "not", "min_probability", "frames", "fps", "decode_damaged"),
        *("at_least", "tree", "threshold", "sets"),
    ),
    filter_settings=("only", "not", "min_probability"),
    added_keys=("activation",),
)
"""The records that the command `predict` writes, with all fields that they may have."""

OPTIONAL_FIELDS = ("answer", "set", "unfamiliar")
"""The fields of PREDICTIONS that only the records of some runs have."""


def predictions_with(names: Collection[str]) -> RecordType[ImageResult]:
    """Returns the record type of a run whose records have these of OPTIONAL_FIELDS."""
    return PREDICTIONS.without(set(OPTIONAL_FIELDS) - set(names))
