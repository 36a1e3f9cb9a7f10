"""Networks that `imgclassify models prepare` has made graphs of: exported once, checked against torch, and kept in
the cache with their parameters and all else that a Network needs. Nothing of torch or of a repository's code is
needed any more to run one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import __version__, checkpoints, files, paths, weights
from imgclassify import labels as label_sets
from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import CheckpointError, UnavailableError, UsageError, WeightsError, first_line
from imgclassify.graphs import graph as graphs
from imgclassify.graphs.graph import SessionConfig
from imgclassify.hub import catalogued
from imgclassify.hub import reference as references
from imgclassify.hub.backends import Backends
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.labels import Label, LabelSet
from imgclassify.telemetry import disable_telemetry

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    import torch
    from numpy.typing import NDArray

_FORMAT = 1
"""Raised when what is written here changes."""
_BUILDERS = ("torch", "torchvision", "timm")
"""The packages whose version may change what a network computes."""
_GRAPH, _PARAMETERS, _RECORD = "graph.onnx", "parameters.safetensors", "network.json"

MAX_DIFFERENCE = 1e-4
"""The largest difference of a probability between a graph and torch with which the graph is kept."""
_PROBES = 3
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, WeightsError)
"""What reading a record leads to that is not as it was written."""

logger = logging.getLogger("imgclassify")


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A network in the cache."""

    folder: Path
    reference: str
    arch: str | None
    bytes: int
    valid: bool
    """Whether its files are as they were written, and by the packages that are installed now."""


def find_prepared(reference: str, options: LoadOptions) -> Network | None:
    """The prepared network of a model reference, or None. One that is damaged, or whose weights have changed since,
    is passed over with a warning."""
    place = paths.prepared_folder() / _cache_key(reference, options)
    if not place.is_dir():
        return None
    try:
        return _read_network(place, reference, options)
    except _DAMAGE as error:
        logger.warning(
            "what was prepared of %s is not used: %s; `imgclassify models prepare` makes it anew", reference, error
        )
        return None


def prepare_model(reference: str, options: LoadOptions) -> Path:
    """Makes a graph of what a model reference means, and gives the folder it is kept in.

    One that is there and whole is left as it is. Two processes that prepare the same do it one after the other; one
    that is stopped leaves nothing that another would take for whole.

    Raises:
        UsageError: the network needs none: it runs without torch already.
        CheckpointError: it cannot be a graph, or its graph does not answer as torch does.
        UnavailableError: it cannot be loaded, the exporter is not installed, or the cache cannot be written.
    """
    disable_telemetry()
    # Where another process is at the same, its result will do.
    place = paths.prepared_folder() / _cache_key(reference, options)
    with files.lock_file(place, "prepare it", hint="set XDG_CACHE_HOME to another folder"):
        if find_prepared(reference, options):
            return place
        network = references.load_reference(reference, options)
        if network.backends.open_session is not None:
            raise UsageError(f"{reference} needs no preparing: it runs without torch", hint="predict with it")
        if network.quantized:
            raise CheckpointError(
                f"{reference} is quantized, and has operators that no graph has", hint="it runs in torch as it is"
            )
        draft = place.with_name(f"{place.name}.{os.getpid()}.partial")
        for left in (*paths.prepared_folder().glob(f"{place.name}.*.partial"), draft):
            shutil.rmtree(left, ignore_errors=True)
        try:
            draft.mkdir()
            _write_files(draft, reference, options, network)
            shutil.rmtree(place, ignore_errors=True)
            draft.rename(place)
        except OSError as error:
            raise UnavailableError(
                f"cannot write {draft}: {error.strerror or error}", hint="make room, or set XDG_CACHE_HOME"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return place


def list_prepared() -> Iterator[PreparedModel]:
    """All that is in the cache, what no longer serves among it."""
    for place in sorted(path for path in paths.prepared_folder().glob("*") if path.is_dir()):
        size = sum(file.stat().st_size for file in place.iterdir() if file.is_file())
        try:
            record = json.loads((place / _RECORD).read_bytes())
            asked = record["asked"]
            whole = asked["versions"] == _package_versions() and bool(_check_files(place, record))
            yield PreparedModel(place, asked["reference"], asked["arch"], size, whole)
        except _DAMAGE:
            yield PreparedModel(place, "", None, size, valid=False)


def remove_prepared(entry: PreparedModel) -> None:
    """Removes one from the cache.

    Raises:
        WeightsError: it cannot be.
    """
    try:
        shutil.rmtree(entry.folder)
        entry.folder.with_name(f"{entry.folder.name}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot remove {entry.folder}: {error.strerror}", hint="remove it by hand") from error


# What is asked for ------------------------------------------------------------------------------------------


def _cache_key(reference: str, options: LoadOptions) -> str:
    """A folder's name for all that the graph depends on but the weights, which the record tells."""
    text = json.dumps(_key_fields(reference, options), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _key_fields(reference: str, options: LoadOptions) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "reference": str(Path(reference).absolute()) if references.is_file(reference) else reference,
        "arch": options.arch,
        "crop_size": list(options.overrides.crop_size) if options.overrides.crop_size else None,
        "code": _code_digest(reference),
        "manifests": [_manifest_text(name) for name in (reference, options.arch) if name],
        "versions": _package_versions(),
    }


def _manifest_text(name: str) -> str:
    """All that the catalog says of a model that it knows."""
    return repr(catalogued.find_manifest(name)) if references.is_catalogued(name) else ""


def _code_digest(reference: str) -> str:
    """The digest of a torch.hub repository's code, on which everything depends; nothing of another reference."""
    from imgclassify.hub import torch_hub

    scheme, _, rest = reference.partition(":")
    return torch_hub.code_digest(rest) if scheme == "hub" else ""


def _package_versions() -> dict[str, str]:
    found = {"imgclassify": __version__}
    for package in _BUILDERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


# Reading ----------------------------------------------------------------------------------------------------


def _read_network(place: Path, reference: str, options: LoadOptions) -> Network:
    record = json.loads((place / _RECORD).read_bytes())
    _check_files(place, record)
    described = record["network"]
    path = Path(described["path"]) if described["path"] else None
    if path and weights.sha256_of(path) != described["sha256"]:
        raise ValueError(f"{path} has changed since")
    spec: dict[str, Any] = described["preprocess"]
    tuples = {name: tuple(value) for name, value in spec.items() if isinstance(value, list)}
    preprocess = options.overrides.apply_to(PreprocessSpec(**(spec | tuples)))
    names = [Label(**{**label, "synonyms": tuple(label["synonyms"])}) for label in described["labels"]["labels"]]
    own_labels = LabelSet(described["labels"]["name"], tuple(names))
    num_classes = described["num_classes"]
    labels = label_sets.load_labels(options.labels, num_classes=num_classes) if options.labels else own_labels
    return Network(
        model=described["model"],
        architecture=described["architecture"],
        weights=described["weights"],
        path=path,
        sha256=described["sha256"],
        preprocess=preprocess,
        labels=labels,
        num_classes=num_classes,
        backends=Backends(
            partial(_build_torch, reference, options), partial(_open_session, place, preprocess, record["outputs"])
        ),
        gmacs=described["gmacs"],
    )


def _check_files(place: Path, record: dict[str, Any]) -> dict[str, str]:
    digests: dict[str, str] = record["sha256"]
    for name, digest in digests.items():
        if weights.sha256_of(place / name) != digest:
            raise ValueError(f"{place / name} is damaged")
    return digests


def _build_torch(reference: str, options: LoadOptions) -> torch.nn.Module:
    build = references.load_reference(reference, options).backends.build_torch
    assert build is not None
    return build()


def _open_session(
    place: Path, preprocess: PreprocessSpec, outputs: int, plan: SessionConfig
) -> onnxruntime.InferenceSession:
    graph = graphs.read_graph(place / _GRAPH)
    parameters = checkpoints.open_lazy(place / _PARAMETERS)
    return graph.open_session(
        parameters, preprocess, source_name=str(place / _PARAMETERS), num_classes=outputs, config=plan
    )


# Writing ----------------------------------------------------------------------------------------------------


def _write_files(draft: Path, reference: str, options: LoadOptions, network: Network) -> None:
    """The files of a network, the record of them last."""
    from safetensors.numpy import save_file

    from imgclassify.graphs.export import export_graph

    height, width = network.preprocess.crop_size
    if height != width:
        raise UsageError(
            f"graphs are of square crops, and {reference} takes {height}×{width}", hint="use --engine torch"
        )
    assert network.backends.build_torch is not None
    module = network.backends.build_torch().float().eval()
    metadata = {"architecture": network.architecture, "provider": "prepared", "options": {}}
    (draft / _GRAPH).write_bytes(export_graph(module, crop_size=height, file_name=_GRAPH, metadata=metadata))
    wanted = graphs.read_graph(draft / _GRAPH).parameters
    parameters = {name: tensor.numpy() for name, tensor in module.state_dict().items() if name in wanted}
    save_file({name: _as_contiguous(array) for name, array in parameters.items()}, draft / _PARAMETERS)
    outputs = _compare_with_torch(draft, network, module)
    record = {
        "asked": _key_fields(reference, options),
        "network": _describe_network(network),
        "outputs": outputs,
        "sha256": {name: hashlib.sha256((draft / name).read_bytes()).hexdigest() for name in (_GRAPH, _PARAMETERS)},
    }
    for name in (_GRAPH, _PARAMETERS):
        _sync_file(draft / name)
    (draft / _RECORD).write_text(json.dumps(record), "utf-8")
    _sync_file(draft / _RECORD)


def _compare_with_torch(draft: Path, network: Network, module: torch.nn.Module) -> int:
    """Holds the graph's answers against the network's own; gives the number of its outputs.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    import numpy as np
    import torch

    height, width = network.preprocess.crop_size
    crops = np.random.default_rng(0).integers(0, 256, (_PROBES, height, width, 3), dtype=np.uint8)
    crops[0] = 128
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (network.preprocess.mean, network.preprocess.std)
    )
    with torch.inference_mode():
        output = module((torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - mean) / std)
    expected = getattr(output, "logits", output).numpy()
    outputs: int = expected.shape[1]
    found = _run_graph(_open_session(draft, network.preprocess, outputs, SessionConfig(threads=1)), crops)
    difference = float(np.abs(_softmax(found) - _softmax(expected)).max()) if found.shape == expected.shape else 1.0
    if not difference <= MAX_DIFFERENCE:
        raise CheckpointError(
            f"the graph of {network.model} does not answer as torch does: probabilities differ by {difference:.2g}",
            hint="it runs in torch as it is",
        )
    return outputs


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _run_graph(session: onnxruntime.InferenceSession, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    import numpy as np

    # In batches of two sizes, so that one that was fixed in the export shows.
    try:
        return np.concatenate([session.run(None, {"crops": part})[0] for part in (crops[:1], crops[1:])])
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise CheckpointError(
            f"the graph does not run: {first_line(error)}", hint="it runs in torch as it is"
        ) from error


def _describe_network(network: Network) -> dict[str, Any]:
    return {
        "model": network.model,
        "architecture": network.architecture,
        "weights": network.weights,
        "path": str(network.path) if network.path else None,
        "sha256": network.sha256,
        "preprocess": asdict(network.preprocess),
        "labels": asdict(network.labels),
        "num_classes": network.num_classes,
        "gmacs": network.gmacs,
    }


def _as_contiguous(array: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.ascontiguousarray(array).reshape(array.shape)


def _sync_file(path: Path) -> None:
    with path.open("r+b") as stream:  # Windows syncs only what can be written
        os.fsync(stream.fileno())
