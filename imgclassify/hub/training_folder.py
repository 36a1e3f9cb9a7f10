"""Reads class names from the folder of images that a network was trained on, if it is on this machine.

The training scripts of torchvision and timm save no class names. They save their options, which name the folder.
Its subfolders are the classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from imgclassify.checkpoints import entries_of
from imgclassify.hub.class_names import name_classes
from imgclassify.hub.file_config import FileConfig
from imgclassify.labels import LabelSet

_TORCHVISION, _TIMM = "data_path", ("data_dir", "data")
"""The options of the folder: of references/classification/train.py, and of timm's train.py."""
_MAX_ENTRIES = 100_000


def read_training_folder(content: Any, file_name: str, *, num_classes: Collection[int]) -> FileConfig:
    """Returns the class names of the folder that the options in a checkpoint name. Nothing if it is not there.

    Args:
        content: the content of the checkpoint.
        file_name: names the checkpoint.
        num_classes: how many classes the network may have. Another number of subfolders is not theirs.
    """
    entries = entries_of(content) or {}
    options = entries_of(entries.get("args")) or {}
    for key in (_TORCHVISION, *_TIMM):
        root = options.get(key)
        if not isinstance(root, str) or not root:
            continue
        with suppress(OSError, ValueError):  # ValueError for a path with a NUL
            classes, place = _list_classes(Path(root), key, options)
            if len(classes) in num_classes:
                labels = LabelSet(f"{place} in {file_name}", name_classes(classes))
                return FileConfig(labels=labels, origins={"labels": labels.name})
    return FileConfig()


def _list_classes(root: Path, key: str, options: Mapping[str, Any]) -> tuple[list[str], str]:
    """Returns (the class names in class-index order, where they are, and by which option).

    Raises:
        OSError: the folder, or a file that it should have, cannot be read.
    """
    if key == _TORCHVISION:
        folder = root / "train"
        classes = sorted(_subfolders(folder))  # as torchvision.datasets.folder.find_classes
    elif class_map := options.get("class_map"):
        file = Path(str(class_map))
        file = file if file.exists() else root / file
        # One name per line, as timm.data.readers.class_map.load_class_map reads it.
        return [line.strip() for line in file.read_text("utf-8").splitlines()], f"{file}, from args.class_map"
    else:
        split = root / str(options.get("train_split") or "train")
        folder = split if split.is_dir() else root
        classes = sorted(_subfolders(folder), key=_natural_key)
    return classes, f"the folders in {folder}, from args.{key}"


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, _MAX_ENTRIES) if entry.is_dir()]


def _natural_key(name: str) -> list[int | str]:
    """Returns a sort key in which numbers count by their value, as timm.utils.misc.natural_key."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]
