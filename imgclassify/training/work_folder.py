"""The folder of a training that is not finished: its state, its decoded images and its epochs.

It lies beside the model folder. Only the files of a training are ever removed from it.
"""

from __future__ import annotations

from pathlib import Path

from imgclassify.errors import UsageError, describe_error
from imgclassify.files import temp_path
from imgclassify.training.layout import TRAIN, VAL

STATE, HISTORY = "state.safetensors", "training.jsonl"
PIXELS, INDEX = ".pixels", ".json"
"""The suffixes of the decoded images of a part, and of what says where each of them is."""
PARTS = (TRAIN, VAL)
_FILES = (STATE, HISTORY, *(f"{part}{suffix}" for part in PARTS for suffix in (PIXELS, INDEX)))


def work_folder(folder: Path) -> Path:
    """Returns the work folder of a model folder."""
    return folder.with_name(f"{folder.name}.partial")


def open_work_folder(folder: Path, *, resume: bool, overwrite: bool) -> Path:
    """Creates the work folder of a model folder. Empties it first, unless the training in it goes on.

    Raises:
        UsageError: there is an unfinished training, and nothing says what shall become of it; or the folder has
            other files, or cannot be written.
    """
    work = work_folder(folder)
    try:
        if work.exists() and not resume:
            if not overwrite and any(work.iterdir()):
                raise UsageError(
                    f"{str(work)!r} has a training that is not finished",
                    hint="go on with it: --resume; or begin again: --overwrite",
                )
            _remove_files(work)
            if others := sorted(path.name for path in work.iterdir()):
                raise UsageError(
                    f"{str(work)!r}, where a training is kept until it is finished, has other files, such as "
                    f"{others[0]!r}",
                    hint="choose another --output, or move them",
                )
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{str(work)!r}, where a training is kept until it is finished, cannot be written: "
            f"{describe_error(error)}",
            hint="choose another --output",
        ) from error
    return work


def remove_work_folder(work: Path) -> None:
    """Removes the files of a finished training, and the folder if nothing else is in it."""
    try:
        _remove_files(work)
        work.rmdir()
    except OSError:
        return  # what is left harms nobody, and the model is written


def _remove_files(work: Path) -> None:
    for name in _FILES:
        path = work / name
        for each in (path, temp_path(path)):  # a killed process leaves the draft
            each.unlink(missing_ok=True)
