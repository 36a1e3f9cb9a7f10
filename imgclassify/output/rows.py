"""Flattens a record to one row of a table: a column for each value, with ranked structs side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from imgclassify.output.records import Field, Record, RecordType, Scalar, Struct, Texts, Vector


def column_names(fields: Iterable[Field], lengths: dict[str, int]) -> list[str]:
    """Returns the names of the columns of some fields, such as "source", "label_1" and "error_type".

    Args:
        lengths: the number of structs in a row, by the name that Ranked.length has.
    """
    return [name for field in fields for name in _field_columns(field, lengths)]


def row_values(record: Record, record_type: RecordType[Any], lengths: dict[str, int]) -> list[Any]:
    """Returns the values of a record, in the order of `column_names`. A value that the record lacks is None."""
    values = record.to_dict()
    row: list[Any] = []
    for field in record_type.fields:
        row += _field_values(field, values.get(field.name), lengths)
    return row


def _field_columns(field: Field, lengths: dict[str, int]) -> list[str]:
    if isinstance(field, Scalar | Texts | Vector):
        return [field.name]
    if isinstance(field, Struct):
        return [f"{field.name}_{part.name}" for part in field.fields]
    return [f"{part.name}_{rank}" for rank in range(1, lengths[field.length] + 1) for part in field.fields]


def _field_values(field: Field, value: Any, lengths: dict[str, int]) -> list[Any]:
    if isinstance(field, Scalar | Texts | Vector):
        return [value]
    if isinstance(field, Struct):
        return [value[part.name] if value else None for part in field.fields]
    row = [entry[part.name] for entry in value for part in field.fields]
    return row + [None] * (len(field.fields) * lengths[field.length] - len(row))
