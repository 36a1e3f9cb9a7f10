"""Finds and reads the files of a model folder: its configuration and its weights.

The folder may be on this machine, or a repository whose files are fetched when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify import checkpoints
from imgclassify.checkpoints import StateDict
from imgclassify.errors import CheckpointError, describe_error
from imgclassify.hub.file_kind import require_binary
from imgclassify.hub.hub_files import verified_digest

if TYPE_CHECKING:
    from imgclassify.graphs.onnx_file import OnnxFile

MANIFEST, WEIGHTS, LABELS, CALIBRATION = "imgclassify.toml", "model.safetensors", "labels.tsv", "calibration.json"
"""Files of a model folder that imgclassify has written. CALIBRATION may also be in others."""
CONFIG = "config.json"
MARK = "imgclassify"
"""The key of config.json that names MANIFEST, where it is beside it."""
PROCESSOR_CONFIGS = ("preprocessor_config.json", "processor_config.json")
"""The first holds an image processor. The second may hold one under `image_processor`, beside others."""
_INDEX_SUFFIX = ".index.json"
"""The end of the name of a file that says which of several files holds which tensor."""
_WEIGHTS = tuple(
    name + suffix for name in ("model.safetensors", "pytorch_model.bin") for suffix in ("", _INDEX_SUFFIX)
)
_GRAPHS = ("model.onnx", "onnx/model.onnx")
_LARGEST_CALIBRATION = 2**26
"""In bytes. What is longer is cut off, and so is no calibration."""
_LARGEST_JSON = 2**24
"""In bytes. The index of a network with 10,000 tensors takes one megabyte."""


FORMS_HINT = (
    "give a folder that `imgclassify train` has written, or timm or transformers: config.json and model.safetensors"
)


class ModelFiles:
    """The files of a model folder."""

    reference: str
    """Names the model in results and in errors."""

    def find_local(self, name: str) -> Path | None:
        """Returns a file that is on this machine, or None."""
        raise NotImplementedError

    def find(self, name: str) -> Path | None:
        """Returns a file, which is fetched if necessary. None if the folder does not have it.

        Raises:
            WeightsError: it cannot be fetched.
        """
        raise NotImplementedError

    def missing(self, name: str) -> Exception:
        """Returns the error for a file that `find` has not found."""
        return CheckpointError(
            f"{self.reference} has no {name}",
            hint=FORMS_HINT,
        )

    def find_first(self, names: tuple[str, ...]) -> Path | None:
        """Returns the first of the files that is on this machine, or else the first that can be fetched."""
        found = (find(name) for find in (self.find_local, self.find) for name in names)
        return next(filter(None, found), None)


class FolderFiles(ModelFiles):
    """The files of a folder on this machine."""

    def __init__(self, reference: str, folder: Path) -> None:
        self.reference = reference
        self.folder = folder

    def find_local(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() else None

    find = find_local


def read_calibration(files: ModelFiles, *, fetch: bool) -> str | None:
    """Returns the text of a model's own calibration, or None if there is none. It is parsed when it is needed.

    Args:
        fetch: whether it is fetched if necessary.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = files.find(CALIBRATION) if fetch else files.find_local(CALIBRATION)
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            return stream.read(_LARGEST_CALIBRATION + 1).decode("utf-8", "replace")
    except OSError as error:
        raise CheckpointError(
            f"cannot read {str(path)!r}: {describe_error(error)}", hint="make it readable, or remove it"
        ) from error


class Weights(NamedTuple):
    """The files that hold the weights of a network."""

    path: Path
    """The file, or the index of several."""
    parts: tuple[Path, ...]
    """The files with tensors."""

    @property
    def sha256(self) -> str | None:
        """The digest of the file. None if there are several.

        Raises:
            HashMismatchError: the file is in the Hugging Face cache, and is not the one that it should be.
        """
        digests = [verified_digest(part) for part in self.parts]
        return digests[0] if self.parts == (self.path,) else None

    def read(self) -> StateDict:
        """Reads the arrays of the state_dict. Other values in a file are left out.

        Raises:
            CheckpointError: a file is damaged, or is not a checkpoint, such as a Git LFS pointer.
        """
        import numpy as np

        state_dict: StateDict = OrderedDict()
        for part in self.parts:
            require_binary(part)
            found = checkpoints.load_arrays(part).items()
            state_dict.update((name, value) for name, value in found if isinstance(value, np.ndarray))
        return state_dict


def find_weights(files: ModelFiles) -> Weights | None:
    """Returns the weights of a model folder, or None if it has none.

    Raises:
        CheckpointError: the index of several files is malformed, or one of them is missing.
    """
    path = files.find_first(_WEIGHTS)
    if path is None:
        return None
    if not path.name.endswith(_INDEX_SUFFIX):
        return Weights(path, (path,))
    weight_map = read_json(path).get("weight_map")
    names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) and weight_map else [""]
    parts = []
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise CheckpointError(
                f"{path.name} of {files.reference} does not name the files that hold the weights",
                hint="save the model again, or fetch it again",
            )
        part = files.find(name)
        if part is None:
            raise files.missing(name)
        parts.append(part)
    return Weights(path, tuple(parts))


def find_graph(files: ModelFiles) -> OnnxFile | None:
    """Returns the ONNX graph of a model folder, as optimum writes it, or None if it has none.

    Raises:
        CheckpointError: the graph is damaged, or weights beside it are missing.
    """
    from imgclassify.graphs.onnx_file import OnnxFile  # few folders have a graph

    path = files.find_first(_GRAPHS)
    if path is None:
        return None
    require_binary(path)
    folder = "onnx/" if path.parent.name == "onnx" else ""
    # A graph names the file itself, and could name one of another folder, which OnnxFile refuses.
    return OnnxFile(path, fetch=lambda name: Path(name).name == name and files.find(folder + name))


def read_config(files: ModelFiles) -> dict[str, Any]:
    """Returns the content of config.json.

    Raises:
        CheckpointError: there is none, or it is not a JSON object.
    """
    path = files.find(CONFIG)
    if path is None:
        raise files.missing(CONFIG)
    return read_json(path)


def read_processor_config(files: ModelFiles) -> tuple[dict[str, Any], str] | None:
    """Returns the configuration of the image processor and the name of its file, or None if there is none."""
    path = files.find_first(PROCESSOR_CONFIGS)
    if path is None:
        return None
    content = read_json(path)
    found = content if path.name == PROCESSOR_CONFIGS[0] else content.get("image_processor")
    return (found, path.name) if isinstance(found, dict) else None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object.

    Raises:
        CheckpointError: it does not.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"it is larger than {_LARGEST_JSON >> 20} MiB")
        content = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"cannot read {str(path)!r}: {describe_error(error)}", hint="save the model again, or fetch it again"
        ) from error
    return content


def digest_of_configs(files: ModelFiles) -> str:
    """Returns a digest of the configuration files that are on this machine, and of which weights there are.

    It covers the content of the configurations, and the sizes and modification times of weights.
    """
    digest = hashlib.sha256()
    folder = None
    for name in (CONFIG, MANIFEST, LABELS, CALIBRATION, *PROCESSOR_CONFIGS):
        path = files.find_local(name)
        digest.update(f"{name} ".encode() + (path.read_bytes() if path else b"-"))
        folder = folder or (path.parent if path else None)
    for path in sorted(folder.iterdir()) if folder else []:
        if path.suffix in (".safetensors", ".bin"):
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns} ".encode())
    return digest.hexdigest()
