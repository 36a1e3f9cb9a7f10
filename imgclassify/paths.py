"""Where things lie: the data shipped with the package (models/, labels/), and the user's own folders.

No other room composes such a path.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from imgclassify.errors import ResourceError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


@cache
def data_folder(name: str) -> Traversable:
    """The shipped folder `name` ("models" or "labels").

    A wheel carries it as `imgclassify/_data/<name>`. An editable install has no such folder: then the
    checkout's own is used, but only where a pyproject.toml stands beside it.

    Raises:
        ResourceError: neither is there.
    """
    from importlib.resources import files  # a command that needs no data starts without it

    package = files("imgclassify")
    packaged = package / "_data" / name
    if packaged.is_dir():
        return packaged
    checkout = Path(str(package)).parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise ResourceError(
        f"the {name}/ folder that ships with imgclassify is missing from {package}",
        hint="reinstall it: pip install --force-reinstall --no-deps imgclassify",
    )


def config_folder() -> Path:
    """The user's own settings: `$XDG_CONFIG_HOME/imgclassify`, else `~/.config/imgclassify`."""
    return _xdg_folder("XDG_CONFIG_HOME", ".config") / "imgclassify"


def cache_folder() -> Path:
    """What can be made again: `$XDG_CACHE_HOME/imgclassify`, else `~/.cache/imgclassify`."""
    return _xdg_folder("XDG_CACHE_HOME", ".cache") / "imgclassify"


def prepared_folder() -> Path:
    """The graphs that `imgclassify models prepare` has made."""
    return cache_folder() / "prepared"


def torch_hub_folder() -> Path:
    """torch.hub's folder, by its own rule: `hub` in `$TORCH_HOME`, else in `$XDG_CACHE_HOME/torch`, else in
    `~/.cache/torch`. Unlike XDG, torch takes relative folders and ~."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(os.path.expanduser(home)) / "hub"  # noqa: PTH111 - without a home, Path.expanduser raises


def _xdg_folder(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable)
    # The XDG specification has relative values ignored.
    if value and Path(value).is_absolute():
        return Path(value)
    return Path(os.path.expanduser("~")) / fallback  # noqa: PTH111 - without a home, Path.home raises
