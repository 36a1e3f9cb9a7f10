"""Finds the data shipped with the package (models/, labels/), and the user's settings and cache folders.

No other module builds the paths of these folders.
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
    """Returns the shipped folder `name` ("models" or "labels").

    A wheel contains it as `imgclassify/_data/<name>`. An editable install has no such folder. The folder of the
    checkout is then used, but only if there is a pyproject.toml beside it.

    Raises:
        ResourceError: neither folder exists.
    """
    from importlib.resources import files  # not at the top: many commands need no data

    package = files("imgclassify")
    packaged = package / "_data" / name
    if packaged.is_dir():
        return packaged
    checkout = Path(str(package)).parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise ResourceError(
        f"the {name}/ folder that ships with imgclassify is missing from {package}",
        hint=REINSTALL_HINT,
    )


REINSTALL_HINT = "reinstall it: pip install --force-reinstall --no-deps imgclassify"
"""The hint of an error about data that ships with imgclassify."""


def config_folder() -> Path:
    """Returns the user's settings folder: `$XDG_CONFIG_HOME/imgclassify`, else `~/.config/imgclassify`."""
    return _xdg_folder("XDG_CONFIG_HOME", ".config") / "imgclassify"


def calibration_path(weights_sha256: str) -> Path:
    """Returns where `imgclassify calibrate` keeps the calibration of some weights if no file is named."""
    return config_folder() / "calibrations" / f"{weights_sha256}.json"


def cache_folder() -> Path:
    """Returns the cache folder: `$XDG_CACHE_HOME/imgclassify`, else `~/.cache/imgclassify`.

    All that is in it can be made again.
    """
    return _xdg_folder("XDG_CACHE_HOME", ".cache") / "imgclassify"


def prepared_folder() -> Path:
    """Returns the folder of the graphs that `imgclassify models prepare` makes."""
    return cache_folder() / "prepared"


def features_folder() -> Path:
    """Returns the folder of the features that `imgclassify train` keeps (training/feature_cache.py)."""
    return cache_folder() / "features"


def verified_folder() -> Path:
    """Returns the folder of the records of verified files (weights/verification.py)."""
    return cache_folder() / "verified"


def inductor_folder() -> Path:
    """Returns the folder that the command line gives to torch's compiler, which would else use the folder for
    temporary files."""
    return cache_folder() / "torchinductor"


def torch_hub_folder() -> Path:
    """Returns the folder of torch.hub: `hub` in `$TORCH_HOME`, else in `$XDG_CACHE_HOME/torch`, else in
    `~/.cache/torch`.

    This is torch's own rule. Unlike the XDG specification, it allows relative folders and ~.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(os.path.expanduser(home)) / "hub"  # noqa: PTH111 - without a home, Path.expanduser raises


def _xdg_folder(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable)
    # The XDG specification says to ignore relative values.
    if value and Path(value).is_absolute():
        return Path(value)
    return Path(os.path.expanduser("~")) / fallback  # noqa: PTH111 - without a home, Path.home raises
