"""The folder of a training that is not finished: its state, its decoded images and its epochs.

It lies beside the model folder. Only the files of a training are ever removed from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imgclassify.errors import UsageError, describe_error
from imgclassify.files import temp_path
from imgclassify.training.layout import TRAIN, VAL, WORK_SUFFIX

STATE, HISTORY = "state.safetensors", "training.jsonl"
PIXELS, INDEX = ".pixels", ".json"
"""The suffixes of the decoded images of a part, and of what says where each of them is."""
PARTS = (TRAIN, VAL)
_LOCK = "lock"
_FILES = (STATE, HISTORY, *(f"{part}{suffix}" for part in PARTS for suffix in (PIXELS, INDEX)))


def work_folder(folder: Path) -> Path:
    """Returns the work folder of a model folder."""
    return folder.with_name(f"{folder.name}{WORK_SUFFIX}")


@contextmanager
def open_work_folder(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Yields the work folder of a model folder, to one process at a time. It is empty, unless a training goes on.

    Its files are removed if the block ends without an error. If there are none in the end, so is the folder.

    Raises:
        UsageError: there is an unfinished training, and nothing says what shall become of it; or another process
            trains here; or the folder has other files, or cannot be written.
    """
    work = work_folder(folder)
    with _locked(work):
        _prepare(work, resume=resume, overwrite=overwrite)
        yield work
        with suppress(OSError):  # what is left harms nobody, and the model is written
            _remove_files(work)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(work / _LOCK, blocking=False)
    with _write_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"another process is training in {str(work)!r}", hint="wait for it, or choose another --output"
            ) from None
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            (work / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty
            work.rmdir()


def _prepare(work: Path, *, resume: bool, overwrite: bool) -> None:
    if resume:
        return
    with _write_errors(work):
        if not overwrite and _names(work):
            raise UsageError(
                f"{str(work)!r} has a training that is not finished",
                hint="go on with it: --resume; or begin again: --overwrite",
            )
        _remove_files(work)
        if others := _names(work):
            raise UsageError(
                f"{str(work)!r}, where a training is kept until it is finished, has other files, such as "
                f"{others[0]!r}",
                hint="choose another --output, or move them",
            )


def _names(work: Path) -> list[str]:
    return sorted({path.name for path in work.iterdir()} - {_LOCK})


@contextmanager
def _write_errors(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{str(work)!r}, where a training is kept until it is finished, cannot be written: "
            f"{describe_error(error)}",
            hint="choose another --output",
        ) from error


def _remove_files(work: Path) -> None:
    for name in _FILES:
        path = work / name
        for each in (path, temp_path(path)):  # a killed process leaves the draft
            each.unlink(missing_ok=True)
