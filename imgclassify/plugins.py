"""What other packages add by entry points: output formats, and kinds of model reference (docs/plugins.md)."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from imgclassify.errors import UnavailableError, describe_error

Row = TypeVar("Row")


@cache
def load_plugins(group: str, row: type[Row]) -> tuple[Row, ...]:
    """The rows that installed packages add to a table of imgclassify's.

    The search takes some milliseconds. It is for a name that is not in the table, and for lists of all names.

    Args:
        group: the entry points' group.
        row: the class of the table's rows.

    Raises:
        UnavailableError: an entry point cannot be imported, or names something else.
    """
    from importlib.metadata import entry_points

    rows = []
    for point in entry_points(group=group):
        package = point.dist.name if point.dist else "an installed package"
        try:
            entry = point.load()
            if not isinstance(entry, row):
                raise TypeError(f"it is a {type(entry).__name__}; {row.__name__} is expected")
        except Exception as error:  # importing a package may raise anything
            raise UnavailableError(
                f"the plugin {point.value!r} of {package} cannot be used: {describe_error(error)}",
                hint=f"update or remove it: pip uninstall {package}; docs/plugins.md says what it must be",
            ) from error
        rows.append(entry)
    return tuple(rows)
