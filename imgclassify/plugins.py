"""Loads the output formats and kinds of model reference that other packages add (docs/plugins.md)."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from imgclassify.errors import UnavailableError, describe_error, name_type

Row = TypeVar("Row")


@cache
def load_plugins(group: str, row: type[Row]) -> tuple[Row, ...]:
    """Returns the rows that installed packages add to one of imgclassify's tables.

    This takes some milliseconds. Call this only for a name that is not in the table, or to list all names.

    Args:
        group: the group of the entry points.
        row: the class of the rows in the table.

    Raises:
        UnavailableError: an entry point cannot be imported, or is not an instance of `row`.
    """
    from importlib.metadata import entry_points

    rows = []
    for point in entry_points(group=group):
        package = point.dist.name if point.dist else "an installed package"
        try:
            entry = point.load()
            if not isinstance(entry, row):
                raise TypeError(f"it is {name_type(entry)}; {row.__name__} is expected")
        except Exception as error:  # importing a package may raise anything
            raise UnavailableError(
                f"the plugin {point.value!r} of {package} cannot be used: {describe_error(error)}",
                hint=f"update or remove it: pip uninstall {package}; docs/plugins.md describes plugins",
            ) from error
        rows.append(entry)
    return tuple(rows)
