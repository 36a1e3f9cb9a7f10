"""Writes pages from templates: everything that comes from outside stays text."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify.errors import UsageError, make_printable
from imgclassify.files import atomic_write, is_replaceable
from imgclassify.output.output import require_no_result
from imgclassify.output.text_stream import report_io_errors

if TYPE_CHECKING:
    from jinja2 import Environment

OPTION = "--report"
MAX_NAME = 300
"""Longer names are cut in the middle, so that a page of a hundred of them stays small."""


def check_page(path: Path, *, overwrite: bool = False) -> None:
    """Checks that a page can be written, before the work that it is about.

    Raises:
        UsageError: there is a page already, the folder cannot be written, or Jinja2 is not installed.
    """
    _create_environment()
    if str(path) == "-":
        raise UsageError("a page is not written to stdout", hint=f"name a file: {OPTION} page.html")
    with report_io_errors(path, option=OPTION):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = path.resolve().parent
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not overwrite:
        require_no_result(path, option=OPTION)


def render_page(template: str, values: dict[str, Any]) -> str:
    """Returns a page.

    Each value that is put into it is escaped, and its unprintable characters are replaced, among them those that
    change the direction of text.

    Raises:
        UsageError: Jinja2 is not installed.
    """
    return _create_environment().get_template(template).render(values)


def write_page(path: Path, page: str) -> None:
    """Writes a page. It appears when it is complete, and a link to a file is kept.

    Raises:
        UsageError: it cannot be written.
    """
    with report_io_errors(path, option=OPTION):
        target = path.resolve()
        if not is_replaceable(target):  # a device or a pipe
            target.write_text(page, "utf-8")
            return
        with atomic_write(target) as draft:
            draft.write_text(page, "utf-8")


def shorten(name: str, length: int = MAX_NAME) -> str:
    """Returns a name with its middle left out if it is longer than `length` characters."""
    half = length // 2
    return name if len(name) <= length else f"{name[:half]} … {name[-half:]}"


def _create_environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise UsageError(
            "a page needs Jinja2, which is not installed",
            hint='pip install "imgclassify[report]", or pip install jinja2',
        ) from error
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return make_printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shorten"] = shorten
    return environment
