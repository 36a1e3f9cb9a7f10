"""Writes a trained model as a model folder. timm and transformers can open it too, if the network is theirs.

hub/own_folder.py reads it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify import files, weights
from imgclassify import labels as label_sets
from imgclassify.catalog import ModelManifest
from imgclassify.confidence.calibration import Calibration
from imgclassify.errors import UsageError, describe_error, make_printable
from imgclassify.hub.model_files import (
    CALIBRATION,
    CONFIG,
    LABELS,
    MANIFEST,
    PROCESSOR_CONFIGS,
    WEIGHTS,
    FolderFiles,
)
from imgclassify.hub.model_folder import load_folder
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.own_manifest import TRANSFORMERS, OwnManifest, Start
from imgclassify.hub.reference import is_path
from imgclassify.labels import Label
from imgclassify.training.folder_configs import describe_for_others
from imgclassify.training.head import find_shipped_graph, find_weight, require_trainable
from imgclassify.training.model_card import CardFacts, format_card
from imgclassify.training.split_file import SplitRow, write_split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

TRAINING_SCHEMA = "imgclassify.training/1"
"""Identifies the structure of training.json. A breaking change increases the number."""
TRAINING, SPLIT, CARD = "training.json", "split.tsv", "README.md"
FILES = (WEIGHTS, CONFIG, PROCESSOR_CONFIGS[0], MANIFEST, LABELS, CALIBRATION, TRAINING, SPLIT, CARD)
"""The files that are written. Other files of a folder that is replaced are kept."""


class TrainedModel(NamedTuple):
    """What a training has made."""

    network: Network
    """The one that it began with, with its preprocessing. It has no weights if they were random."""
    state_dict: Mapping[str, NDArray[Any]]
    """With the names of the architecture, as `head.replace_head` and `head.build_trainable` give them."""
    labels: tuple[str, ...]
    """The names of the classes, in class-index order."""
    calibration: Calibration | None
    """What it belongs to is set here, as the digest of the weights is known only now."""
    training: Mapping[str, Any]
    """The content of training.json, in plain values. model_card.py says which keys it shows."""
    split: tuple[SplitRow, ...]
    files: Mapping[str, bytes] = {}
    """Further files, by name, such as training.jsonl."""


def require_writable(folder: Path, *, overwrite: bool) -> None:
    """Checks before the work that a model folder may be written.

    Args:
        overwrite: whether a model folder that imgclassify has written may be replaced.

    Raises:
        UsageError: there is a file, or a folder that is not empty and may not be replaced.
    """
    try:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
        if not (folder / MANIFEST).is_file():
            what = "is a folder with other files" if folder.is_dir() else "is a file"
            raise UsageError(f"output {str(folder)!r} {what}", hint="give a new folder", argument="output")
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not overwrite:
        raise UsageError(
            f"output {str(folder)!r} has a model already",
            hint="give another folder, or replace the model with --overwrite",
            argument="output",
        )


def write_model_folder(folder: Path, model: TrainedModel, *, overwrite: bool) -> None:
    """Writes a model folder, whole or not at all.

    It is written beside its place, read back, and then takes the place of an older one.

    Raises:
        UsageError: as for `require_writable`, or the folder cannot be written.
        UnavailableError: the state_dict does not fit the network.
    """
    require_writable(folder, overwrite=overwrite)
    labels = tuple(map(clean_label, model.labels))
    model = model._replace(network=require_trainable(model.network))
    with _explained_errors(folder), files.atomic_folder(folder, owned=(*FILES, *model.files)) as draft:
        _write_files(draft, make_printable(folder.resolve().name), model, labels)
        _require_readable(draft, model, labels)


def clean_label(name: str) -> str:
    """Returns the name of a class as a label file can hold it: valid text without white space around it."""
    text = name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text.strip() or repr(text)


def _write_files(draft: Path, name: str, model: TrainedModel, labels: tuple[str, ...]) -> None:
    network = model.network
    (draft / WEIGHTS).touch()
    mode = (draft / WEIGHTS).stat().st_mode
    _write_weights(draft / WEIGHTS, model.state_dict)
    (draft / WEIGHTS).chmod(mode)  # safetensors lets only the owner read it
    (draft / LABELS).write_text(_format_labels(labels), "utf-8", newline="")
    head = find_weight(network, model.state_dict)
    configs = describe_for_others(network, labels, head)
    for file, content in configs.items():
        (draft / file).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    manifest = _describe(network, name, draft, len(labels), calibrated=model.calibration is not None)
    if model.calibration is not None:
        (draft / CALIBRATION).write_text(_bind(model.calibration, manifest.model), "utf-8")
    training = {"schema": TRAINING_SCHEMA, **_to_json(model.training)}
    (draft / TRAINING).write_text(json.dumps(training, indent=1) + "\n", "utf-8")
    write_split(draft / SPLIT, model.split)
    (draft / MANIFEST).write_text(manifest.format(), "utf-8")
    split = [row._replace(label=clean_label(row.label)) for row in model.split]
    facts = CardFacts(name, manifest, labels, training, split, frozenset(configs))
    (draft / CARD).write_text(format_card(facts), "utf-8", "backslashreplace")
    for file, data in model.files.items():
        (draft / file).write_bytes(data)


def _write_weights(path: Path, state_dict: Mapping[str, NDArray[Any]]) -> None:
    """Writes a .safetensors file, with floating-point numbers in float32."""
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {}
    for name, value in state_dict.items():
        dtype = np.float32 if value.dtype.kind == "f" else value.dtype
        # ascontiguousarray makes a number an array of one dimension.
        arrays[name] = np.ascontiguousarray(value, dtype).reshape(value.shape)
    save_file(arrays, path, {"format": "pt"})


def _format_labels(labels: Sequence[str]) -> str:
    """Returns the text of a label file: a table with tabs, whose cells are quoted where they must be."""
    rows = (f"{index}\t{_quote(label)}\n" for index, label in enumerate(labels))
    return "class_index\tlabel\n" + "".join(rows)


def _quote(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[\t\r\n"]', cell) else cell


def _describe(network: Network, name: str, draft: Path, num_classes: int, *, calibrated: bool) -> OwnManifest:
    sha256 = weights.sha256_of(draft / WEIGHTS)
    architecture = network.manifest
    described = [LABELS] if architecture else [LABELS, CONFIG]
    model = ModelManifest(
        # Only this reader sees the name, and a folder may have any.
        name=re.sub(r"[^A-Za-z0-9_.+-]+|^[^A-Za-z0-9]+", "-", name).strip("-") or "model",
        weights=sha256[:8],
        default=True,
        architecture=network.architecture,
        provider=architecture.provider if architecture else TRANSFORMERS,
        url="",
        sha256=sha256,
        num_classes=num_classes,
        label_set=LABELS,
        preprocess=network.preprocess,
        activation="softmax",
        options=architecture.options if architecture else {},
        layers=network.layers,
        gflops=network.gmacs,
        file=WEIGHTS,
    )
    digests = {file: weights.sha256_of(draft / file) for file in described}
    return OwnManifest(model, digests, calibrated, _describe_start(network))


def _describe_start(network: Network) -> Start:
    if network.path is None:
        return Start("", "", "", "")
    name = network.model
    # Where a file was on this machine is nobody's concern.
    name = os.path.basename(name.rstrip("/\\")) if is_path(name) else name  # noqa: PTH119
    return Start(
        make_printable(name), make_printable(network.weights), network.sha256 or "", make_printable(network.license)
    )


def _bind(calibration: Calibration, model: ModelManifest) -> str:
    """Returns the text of a calibration that belongs to the written model."""
    run = dict(calibration.belongs_to or {})
    known = run.get("weights")
    run |= {
        "model": model.name,
        "architecture": model.architecture,
        "weights": {**(known if isinstance(known, dict) else {}), "name": WEIGHTS, "sha256": model.sha256},
        "preprocess": model.preprocess.to_dict(),
        "num_classes": model.num_classes,
        "activation": model.activation,
        "options": None,
    }
    return json.dumps(replace(calibration, belongs_to=run).to_dict(), indent=1) + "\n"


def _to_json(value: Any) -> Any:
    """Returns a value of JSON. What has no number there, such as infinity, becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(each) for each in value]
    if hasattr(value, "tolist"):  # of NumPy
        return _to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _require_readable(draft: Path, model: TrainedModel, labels: tuple[str, ...]) -> None:
    """Reads the folder back. A network of which there is no graph is built in torch.

    Raises:
        UnavailableError: the state_dict does not fit the network.
    """
    network = load_folder(FolderFiles(str(draft), draft), LoadOptions(offline=True))
    assert label_sets.load_labels(draft / LABELS).labels == tuple(
        Label(index, None, label) for index, label in enumerate(labels)
    )
    assert network.preprocess == model.network.preprocess
    source = find_shipped_graph(network)
    if source is not None:
        source.graph.check_parameters(source.read(), source_name="the trained state_dict", num_classes=len(labels))
    elif network.backends.build_torch is not None:
        network.backends.build_torch()


@contextmanager
def _explained_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"output {str(folder)!r} cannot be written: {describe_error(error)}",
        hint="give another folder, or make room",
        argument="output",
    )
