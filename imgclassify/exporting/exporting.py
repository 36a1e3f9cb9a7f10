"""Exports a classifier: writes the file, checks it, and gives it its name only then."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.errors import UnavailableError, UsageError
from imgclassify.exporting.checking import ExportedFile
from imgclassify.exporting.metadata import describe_model
from imgclassify.exporting.onnx_file import data_pattern, write_onnx
from imgclassify.exporting.run_script import format_script, script_name
from imgclassify.exporting.source import ExportSource
from imgclassify.files import has_content, sync_file

if TYPE_CHECKING:
    from imgclassify.comparison import Comparison
    from imgclassify.images.inputs import ImageLike
    from imgclassify.results import ImageResult

__all__ = ["DTYPES", "FORMATS", "ExportReport", "export_model"]

logger = logging.getLogger("imgclassify")

FORMATS = {".onnx": "onnx", ".pt2": "pt2", ".torchscript": "torchscript"}
"""File extension → format."""
DTYPES = ("float32", "float16")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was exported, and how far it differs from the classifier."""

    model: str
    path: Path
    format: str
    """One of the values of FORMATS."""
    bytes: int
    """The size of the file, with that of its parameters in another one."""
    sha256: str
    """The digest of the file."""
    script: Path
    """The Python script that classifies images with the file."""
    data: Path | None
    """The file with its parameters, if they are not in the file itself."""
    crop_size: tuple[int, int]
    """(height, width) of its input."""
    outputs: dict[str, int]
    """Output → number of values per image."""
    dtype: str
    """One of DTYPES: what it computes in."""
    difference: float
    """The largest difference of a probability for made-up crops, 0..1."""
    comparison: Comparison | None
    """For the images of `check`. None without them."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "model": self.model,
            "path": str(self.path),
            "format": self.format,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "script": str(self.script),
            "data": str(self.data) if self.data else None,
            "crop_size": list(self.crop_size),
            "outputs": self.outputs,
            "dtype": self.dtype,
            "difference": self.difference,
            "check": self.comparison.to_dict() if self.comparison else None,
        }


def export_model(
    model: str,
    path: str | os.PathLike[str],
    *,
    probabilities: bool = False,
    features: bool = False,
    dtype: str = "float32",
    overwrite: bool = False,
    check: Callable[[], Iterable[ImageLike]] | None = None,
    on_result: Callable[[ImageResult], object] = lambda _result: None,
    **loading: Any,
) -> ExportReport:
    """Writes a whole classifier into one file, and a script beside it that classifies images with it.

    The file takes crops, uint8 (N, H, W, 3) for any N, and normalises them. Labels, preprocessing, calibration and
    more are in its metadata (docs/export.md). It gets its name only when its outputs are those of the classifier.

    Args:
        model: a model reference, but not a file that contains its own network.
        path: its extension selects the format: one of FORMATS.
        probabilities: whether the file has the output "probabilities" too, besides "logits".
        features: whether it has the output "features" too: what the last linear layer sees.
        dtype: one of DTYPES. "float16" is for .onnx: the weights and what is computed inside are float16.
        overwrite: whether an earlier file is replaced.
        check: returns images, on which the file must give the same class as the classifier. It is called twice.
        on_result: called with the result of each of them.
        loading: as for Classifier: `labels`, `arch`, `trust`, `activation`, values of the preprocessing, …

    Raises:
        UsageError: an argument is wrong, or the file exists already; or as for Classifier.
        UnavailableError: the model cannot be loaded, or as for `export_source`.
    """
    target = find_target(Path(path), dtype=dtype, overwrite=overwrite)
    source = ExportSource(model, probabilities=probabilities, features=features, **loading)
    return export_source(source, target, check=check, on_result=on_result)


def export_source(
    source: ExportSource,
    target: ExportTarget,
    *,
    check: Callable[[], Iterable[ImageLike]] | None = None,
    on_result: Callable[[ImageResult], object] = lambda _result: None,
) -> ExportReport:
    """Does what `export_model` does after the classifier is loaded.

    Raises:
        UnavailableError: the model cannot be exported, the file is not right, or it cannot be written.
        NoImagesError: no image of `check` could be classified.
    """
    path, network = target.path, source.network
    texts = describe_model(source, file_format=target.format, dtype=target.dtype)
    with _draft_folder(path) as folder:
        draft = folder / path.name
        data = _write_file(source, target, draft, texts)
        exported = ExportedFile(draft, source, dtype=target.dtype)
        difference = exported.compare_outputs()
        comparison = exported.compare_images(check, on_result) if check else None
        script = folder / script_name(path.name)
        names = list(source.output_sizes)
        script.write_text(
            format_script(target.format, path.name, network.preprocess, source.activation, names), "utf-8"
        )
        report = ExportReport(
            model=network.model,
            path=path,
            format=target.format,
            bytes=sum(file.stat().st_size for file in (draft, data) if file),
            sha256=exported.sha256,
            script=path.with_name(script.name),
            data=path.with_name(data.name) if data else None,
            crop_size=network.preprocess.crop_size,
            outputs=source.output_sizes,
            dtype=target.dtype,
            difference=difference,
            comparison=comparison,
        )
        del exported  # Windows does not move a file that is open
        _place_files(draft, path, data, script)
    return report


# Before anything is loaded ---------------------------------------------------------------------------------------


class ExportTarget(NamedTuple):
    """A file that can be written."""

    path: Path
    format: str
    """One of the values of FORMATS."""
    dtype: str
    """One of DTYPES."""


def find_target(path: Path, *, dtype: str, overwrite: bool) -> ExportTarget:
    """Checks everything that is known before a classifier is loaded.

    Raises:
        UsageError: the file cannot be written in this dtype, or exists already.
    """
    file_format = _find_format(path)
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}", hint=f"use one of {', '.join(DTYPES)}", argument="dtype")
    if dtype != "float32" and file_format != "onnx":
        raise UsageError(
            f"dtype is {dtype!r}, but only .onnx files are written in it",
            hint="give a name in .onnx; a program of torch becomes float16 where it is run: program.half()",
            argument="dtype",
        )
    if not path.parent.is_dir():
        raise UsageError(
            f"{str(path)!r} is in a folder that does not exist", hint="create it, or choose another --output"
        )
    for each in (path, path.with_name(script_name(path.name))):
        if each.is_dir():
            raise UsageError(f"{str(each)!r} is a folder", hint="give the name of a file")
        if has_content(each) and not overwrite:
            raise UsageError(
                f"{str(each)!r} exists already", hint="add --overwrite to replace it, or choose another --output"
            )
    return ExportTarget(path, file_format, dtype)


def _find_format(path: Path) -> str:
    listed = ", ".join(FORMATS)
    if str(path) == "-":
        raise UsageError("a model goes to a file, not to stdout", hint=f"give a name in {listed}")
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{str(path)!r} has no file extension that selects a format", hint=f"give a name in {listed}"
        ) from None


# Writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def _draft_folder(target: Path) -> Generator[Path, None, None]:
    """Yields a folder beside the target, which is removed at the end."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", suffix=".draft", dir=target.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot write {str(target)!r}: {error.strerror or error}",
            hint="free some space there, or choose another folder",
        ) from error


def _write_file(source: ExportSource, target: ExportTarget, draft: Path, texts: dict[str, str]) -> Path | None:
    """Writes a file of the format. Returns the file with its parameters, if they are not in it."""
    if target.format == "onnx":
        return write_onnx(source, draft, texts, dtype=target.dtype)
    import torch

    from imgclassify.exporting import torch_program

    if target.format == "torchscript":
        logger.warning(
            "TorchScript is deprecated in PyTorch: .pt2 and .onnx are the formats with a future; "
            "this one is for C++ and mobile programs that load TorchScript"
        )
    write = {"pt2": torch_program.write_pt2, "torchscript": torch_program.write_torchscript}[target.format]
    with draft.open("wb") as stream:
        write(torch_program.build_program(source), torch.from_numpy(source.crops[:2]), stream, texts)
    return None


def _place_files(draft: Path, target: Path, data: Path | None, script: Path) -> None:
    """Moves the files to their names, the model last. Then removes the parameters of the one that it replaces."""
    final_data = target.with_name(data.name) if data else None
    for file in filter(None, (data, script, draft)):
        sync_file(file)
    if target.exists():
        draft.chmod(target.stat().st_mode)
    if data and final_data:
        data.replace(final_data)
    script.replace(target.with_name(script.name))
    draft.replace(target)
    for old in target.parent.glob(data_pattern(target.name)):
        if old != final_data:
            old.unlink(missing_ok=True)
