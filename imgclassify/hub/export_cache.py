"""The cache of graphs that `imgclassify models prepare` exports once and checks against torch.

Parameters, preprocessing and labels are kept beside each graph, so that running it needs neither torch nor the
code of a torch.hub repository.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify import checkpoints, files, paths, weights
from imgclassify import labels as label_sets
from imgclassify._version import __version__
from imgclassify.catalog import PROGRAMS, PreprocessSpec
from imgclassify.errors import (
    CheckpointError,
    OutputError,
    UnavailableError,
    UsageError,
    WeightsError,
    describe_error,
)
from imgclassify.graphs.graph import read_graph
from imgclassify.graphs.session import FEATURE_MAP, FEATURES, GraphSession, SessionConfig, value_name
from imgclassify.graphs.timm_features import has_timm_methods, timm_outputs
from imgclassify.hub import from_arch
from imgclassify.hub.backends import Backends, GraphSource
from imgclassify.hub.loader import load_unprepared
from imgclassify.hub.network import LoadOptions, Network
from imgclassify.hub.reference import ModelReference
from imgclassify.labels import Label, LabelSet

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_FORMAT = 5
"""Version of the cached files. Increase it when their format or content changes."""
_BUILDERS = ("torch", "torchvision", "timm", "transformers")
"""The packages whose versions may change what a network computes."""
_GRAPH, _PARAMETERS, _RECORD = "graph.onnx", "parameters.safetensors", "network.json"

MAX_DIFFERENCE = 1e-4
"""A graph is kept only if no probability differs from torch's by more than this."""
_MAX_FEATURE_DIFFERENCE = 1e-3
"""The same for features, as a fraction of the largest."""
_PROBES = 3
"""The number of crops that are compared."""
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, WeightsError)
"""The exceptions that reading a damaged or altered record may raise."""

logger = logging.getLogger("imgclassify")


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A prepared network in the cache."""

    folder: Path
    reference: str
    arch: str | None
    bytes: int
    """The size of its files in total."""
    valid: bool
    """Whether its files are unchanged and were made with the versions of packages that are installed now."""


def find_prepared(reference: ModelReference, options: LoadOptions) -> Network | None:
    """Returns the prepared network of a model reference, or None.

    A network that is damaged, or whose weights have changed since, is not used. A warning is logged.
    """
    folder = cache_folder_of(reference, options)
    if not folder.is_dir():
        return None
    try:
        return _read_network(folder, reference, options)
    except _DAMAGE as error:
        logger.warning(
            "the prepared graph of %s is not used: %s; make it again with `imgclassify models prepare`",
            reference.text,
            error,
        )
        return None


def prepare_model(reference: ModelReference, options: LoadOptions) -> Path:
    """Makes a graph of a model, and returns the folder that holds it.

    A valid graph that exists already is kept. Two processes that prepare the same model run one after the
    other. A process that is stopped leaves nothing that another process would use.

    Args:
        options: `with_labels` must be True.

    Raises:
        UsageError: the model runs without torch already, or its crops are not square.
        CheckpointError: the network cannot be exported, or the graph's probabilities differ from torch's.
        UnavailableError: the model cannot be loaded, the exporter is not installed, or the cache cannot be
            written.
    """
    folder = cache_folder_of(reference, options)
    with files.lock_file(folder, "prepare it", hint="set XDG_CACHE_HOME to another folder"):
        # Another process may have prepared it while this one waited.
        if find_prepared(reference, options):
            return folder
        network = load_unprepared(reference, options)
        if network.backends.open_session is not None:
            raise UsageError(
                f"{reference.text} does not need to be prepared: it runs without torch",
                hint="run `imgclassify predict` with it",
            )
        if network.quantized:
            raise CheckpointError(
                f"{reference.text} is quantized, and its operators cannot be part of a graph",
                hint="use the model without preparing it; it runs in torch",
            )
        if network.backends.takes_crops:
            raise CheckpointError(
                f"{reference.text} was exported already, and normalises images itself",
                hint="export the model that it was made from to .onnx, which runs without torch",
            )
        draft = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        # Drafts that exist now are left from processes that were stopped: this process holds the lock.
        for left in (*paths.prepared_folder().glob(f"{folder.name}.*.partial"), draft):
            shutil.rmtree(left, ignore_errors=True)
        try:
            draft.mkdir()
            _write_files(draft, reference, options, network)
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        except OSError as error:
            raise UnavailableError(
                f"cannot write {draft}: {error.strerror or error}",
                hint="free disk space, or set XDG_CACHE_HOME to another folder",
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def list_prepared() -> Iterator[PreparedModel]:
    """Yields every entry of the cache, including those that can no longer be used."""
    for folder in sorted(path for path in paths.prepared_folder().glob("*") if path.is_dir()):
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        try:
            record = json.loads((folder / _RECORD).read_bytes())
            key = record["asked"]
            _check_files(folder, record)
            valid = key["versions"] == _package_versions()
            yield PreparedModel(folder, key["reference"], key["arch"], size, valid)
        except _DAMAGE:
            yield PreparedModel(folder, "", None, size, valid=False)


def remove_prepared(entry: PreparedModel) -> None:
    """Removes an entry from the cache.

    Raises:
        WeightsError: the entry cannot be removed.
    """
    try:
        shutil.rmtree(entry.folder)
        entry.folder.with_name(f"{entry.folder.name}.lock").unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"cannot remove {entry.folder}: {error.strerror}", hint="remove the folder by hand"
        ) from error


def remove_lock(lock: Path) -> None:
    """Removes a lock file of the cache. Waits while another process prepares its model.

    Raises:
        WeightsError: the folder cannot be written.
    """
    if not lock.exists():
        return
    with (
        files.lock_file(lock.with_suffix(""), "prepare it", hint="remove the file by hand") as held,
        suppress(OSError),  # Windows refuses this while the lock is held
    ):
        held.unlink()


# The key ----------------------------------------------------------------------------------------------------


def cache_folder_of(reference: ModelReference, options: LoadOptions) -> Path:
    """Returns the folder for the graph of a model.

    The folder's name is a digest of everything that the graph depends on, except the weights. The record holds
    the digest of the weights.
    """
    text = json.dumps(_key_fields(reference, options), sort_keys=True)
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return paths.prepared_folder() / digest[:32]


def _key_fields(reference: ModelReference, options: LoadOptions) -> dict[str, Any]:
    models = [reference, *([ModelReference.parse(options.arch)] if options.arch else [])]
    return {
        "format": _FORMAT,
        "arch": options.arch,
        "checkpoint_key": options.checkpoint_key,
        "crop_size": list(options.overrides.crop_size) if options.overrides.crop_size else None,
        "transform_input": options.transform_input,
        "manifests": [
            repr(model.loader().find_architecture(model)) if model.kind.in_catalog else "" for model in models
        ],
        "versions": _package_versions(),
        **reference.loader().cache_key(reference),
    }


def _package_versions() -> dict[str, str]:
    found = {"imgclassify": __version__}
    for package in _BUILDERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


# Reading ----------------------------------------------------------------------------------------------------


def _read_network(folder: Path, reference: ModelReference, options: LoadOptions) -> Network:
    record = json.loads((folder / _RECORD).read_bytes())
    _check_files(folder, record)
    described = record["network"]
    path = Path(described["path"]) if described["path"] else None
    # Without a digest, the loader's cache_key tells whether the weights are the same.
    if path and described["sha256"] and weights.sha256_of(path) != described["sha256"]:
        raise ValueError(f"{path} has changed since the graph was made")
    spec: dict[str, Any] = described["preprocess"]
    tuples = {name: tuple(value) for name, value in spec.items() if isinstance(value, list)}
    own = PreprocessSpec(**(spec | tuples))
    preprocess = options.overrides.apply_to(own)
    if options.arch and (reference.kind.name == "hub" or described["architecture"] in PROGRAMS):
        from_arch.report_lent(reference.text, options.arch, own, options.overrides)
    return Network(
        model=described["model"],
        architecture=described["architecture"],
        weights=described["weights"],
        path=path,
        sha256=described["sha256"],
        preprocess=preprocess,
        labels=_read_labels(described, options),
        num_classes=described["num_classes"],
        backends=Backends(
            lambda: _build_torch(reference, options),
            partial(_open_session, folder, preprocess, record["outputs"], record["extra_outputs"]),
            find_graph=partial(_find_graph, folder, preprocess, record["outputs"]),
        ),
        activation=described["activation"],
        output_name=described["output_name"],
        origins=described["origins"],
        options=described["options"],
        gmacs=described["gmacs"],
        own_calibration=described["own_calibration"],
        license=described["license"],
        load_unprepared=partial(load_unprepared, reference, options),
    )


def _read_labels(described: dict[str, Any], options: LoadOptions) -> LabelSet | None:
    if not options.with_labels:
        return None
    if options.labels:
        return label_sets.load_labels(options.labels, num_classes=described["num_classes"])
    own = described["labels"]
    names = [Label(**{**label, "synonyms": tuple(label["synonyms"])}) for label in own["labels"]]
    return LabelSet(own["name"], tuple(names))


def _check_files(folder: Path, record: dict[str, Any]) -> None:
    for name, digest in record["sha256"].items():
        if weights.sha256_of(folder / name) != digest:
            raise ValueError(f"{folder / name} is damaged")


def _build_torch(reference: ModelReference, options: LoadOptions) -> torch.nn.Module:
    build = load_unprepared(reference, options).backends.build_torch
    assert build is not None
    return build()


def _open_session(
    folder: Path, preprocess: PreprocessSpec, outputs: int, extra_outputs: list[str], config: SessionConfig
) -> GraphSession:
    """
    Args:
        extra_outputs: those of SessionConfig.extra_outputs that are known to be torch's.
    """
    for name in config.extra_outputs:
        if name not in extra_outputs:
            raise OutputError(
                f"the prepared graph does not compute the {name} of the torch network", hint="use --engine torch"
            )
    return _find_graph(folder, preprocess, outputs).open_session(config)


def _find_graph(folder: Path, preprocess: PreprocessSpec, outputs: int) -> GraphSource:
    return GraphSource(
        read_graph(folder / _GRAPH),
        partial(checkpoints.open_lazy, folder / _PARAMETERS),
        preprocess,
        outputs,
        str(folder / _PARAMETERS),
    )


# Writing ----------------------------------------------------------------------------------------------------


def _write_files(draft: Path, reference: ModelReference, options: LoadOptions, network: Network) -> None:
    """Writes the files of a network, and their record last."""
    from safetensors.numpy import save_file

    from imgclassify.graphs.export import export_graph

    height, width = network.preprocess.crop_size
    if height != width:
        raise UsageError(
            f"a graph takes square crops, but {reference.text} takes {height}×{width}", hint="use --engine torch"
        )
    assert network.backends.build_torch is not None
    module = network.backends.build_torch().float().eval()
    metadata = {"architecture": network.architecture, "provider": "prepared", "options": {}}
    (draft / _GRAPH).write_bytes(export_graph(module, crop_size=height, file_name=_GRAPH, metadata=metadata))
    wanted = read_graph(draft / _GRAPH).parameters
    parameters = {name: tensor.numpy() for name, tensor in module.state_dict().items() if name in wanted}
    save_file({name: _as_contiguous(array) for name, array in parameters.items()}, draft / _PARAMETERS)
    outputs = _compare_with_torch(draft, network, module)
    record = {
        "asked": _key_fields(reference, options),
        "network": _describe_network(network),
        "outputs": outputs,
        "extra_outputs": _compare_extra_outputs(draft, network, module, outputs),
        "sha256": {name: hashlib.sha256((draft / name).read_bytes()).hexdigest() for name in (_GRAPH, _PARAMETERS)},
    }
    for name in (_GRAPH, _PARAMETERS):
        files.sync_file(draft / name)
    (draft / _RECORD).write_text(json.dumps(record), "utf-8")
    files.sync_file(draft / _RECORD)


def _compare_with_torch(draft: Path, network: Network, module: torch.nn.Module) -> int:
    """Compares the probabilities of the graph with those of the torch network.

    Returns:
        The number of outputs per image.

    Raises:
        CheckpointError: the probabilities differ by more than MAX_DIFFERENCE.
    """
    import torch

    crops, images = _probe_images(network.preprocess)
    with torch.inference_mode():
        output = module(images)
    expected = getattr(output, "logits", output)
    outputs: int = expected.shape[1]
    session = _open_session(draft, network.preprocess, outputs, [], SessionConfig(threads=1))
    found = torch.from_numpy(_run_graph(session, crops, "logits"))
    difference = 1.0
    if found.shape == expected.shape:
        difference = float((found.double().softmax(dim=1) - expected.double().softmax(dim=1)).abs().max())
    if not difference <= MAX_DIFFERENCE:  # NaN fails too
        raise CheckpointError(
            f"the graph of {network.model} differs from torch: probabilities differ by {difference:.2g}",
            hint="use the model without preparing it; it runs in torch",
        )
    return outputs


def _compare_extra_outputs(draft: Path, network: Network, module: torch.nn.Module, outputs: int) -> list[str]:
    """Returns those extra outputs that the graph has, and that are the torch network's.

    They can differ from timm's own features, for example if a norm is part of timm's head. Of a network that is not
    timm's, only the graph tells what the last linear layer sees.
    """
    import torch

    crops, images = _probe_images(network.preprocess)
    with torch.inference_mode():
        expected = timm_outputs(module, images) if has_timm_methods(module) else {}
    same = []
    for name in (FEATURES, FEATURE_MAP):
        config = SessionConfig(threads=1, extra_outputs=(name,))
        try:
            session = _open_session(draft, network.preprocess, outputs, [name], config)
        except OutputError:
            continue
        found = torch.from_numpy(_run_graph(session, crops, value_name(name)))
        wanted = expected.get(name) if has_timm_methods(module) else found
        if wanted is None or wanted.shape != found.shape:
            continue
        if float((found - wanted).abs().max()) <= _MAX_FEATURE_DIFFERENCE * float(wanted.abs().max()):
            same.append(name)
    return same


def _probe_images(preprocess: PreprocessSpec) -> tuple[NDArray[np.uint8], torch.Tensor]:
    """Returns crops, (N, H, W, 3), and the normalised images that the torch network gets for them."""
    import numpy as np
    import torch

    crops = np.random.default_rng(0).integers(0, 256, (_PROBES, *preprocess.crop_size, 3), dtype=np.uint8)
    crops[0] = 128
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return crops, (torch.from_numpy(crops).permute(0, 3, 1, 2) / 255 - mean) / std


def _run_graph(session: GraphSession, crops: NDArray[np.uint8], output: str) -> NDArray[np.float32]:
    import numpy as np

    # Two batch sizes, to notice a graph whose batch size the export has fixed.
    try:
        return np.concatenate([session.run([output], {"crops": part})[0] for part in (crops[:1], crops[1:])])
    except Exception as error:  # onnxruntime's exceptions have no other common base
        raise CheckpointError(
            f"the graph does not run: {describe_error(error)}",
            hint="use the model without preparing it; it runs in torch",
        ) from error


def _describe_network(network: Network) -> dict[str, Any]:
    assert network.labels is not None  # prepare_model is called with LoadOptions.with_labels
    return {
        "model": network.model,
        "architecture": network.architecture,
        "weights": network.weights,
        "path": str(network.path) if network.path else None,
        "sha256": network.sha256,
        "preprocess": asdict(network.preprocess),
        "labels": asdict(network.labels),
        "num_classes": network.num_classes,
        "activation": network.activation,
        "output_name": network.output_name,
        "origins": dict(network.origins),
        "options": dict(network.options),
        "gmacs": network.gmacs,
        "own_calibration": network.own_calibration,
        "license": network.license,
    }


def _as_contiguous(array: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.ascontiguousarray(array).reshape(array.shape)
