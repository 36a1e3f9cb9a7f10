"""Teaches a network one's own classes: from labelled images to a model folder."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify._version import __version__
from imgclassify.errors import OutputError
from imgclassify.images import MAX_PIXELS
from imgclassify.training.dataset import Dataset, LabelledSource
from imgclassify.training.examples import Example, Examples, ReadAll, collect_examples
from imgclassify.training.layout import TRAIN, VAL
from imgclassify.training.measurement import FailedImage, Measured, ValidationOutputs, measure
from imgclassify.training.model_folder import TrainedModel, require_writable, write_model_folder
from imgclassify.training.progress import format_history
from imgclassify.training.split_file import LEFT_OUT
from imgclassify.training.work_folder import HISTORY, open_work_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.hub.network import Network
    from imgclassify.training.head import Head
    from imgclassify.training.probe import Probe
    from imgclassify.training.progress import EpochRecord, Progress
    from imgclassify.training.recipe import Recipe

__all__ = ["METHODS", "TrainingListener", "TrainingOptions", "TrainingResult", "train"]

METHODS = ("probe", "finetune", "scratch")
_PACKAGES = ("numpy", "Pillow", "onnxruntime", "scikit-learn", "torch", "torchvision", "timm", "transformers")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingOptions:
    """How a network is taught."""

    method: str = "probe"
    """One of METHODS."""
    fraction: float = 0.2
    """How many of the images are split off for validation, 0..1, if no validation part is given."""
    data_name: str = ""
    """What the model card calls the images."""
    seed: int = 0
    """Of all chance: the split, the folds of a probe, the order of the images, new layers."""
    views: int = 0
    """For a probe, and for the one that "finetune" begins with: how many augmented views of each image it also
    learns from. `default_views` returns what is best."""
    find_recipe: Callable[[Recipe], Recipe] = lambda default: default
    """For the other methods: returns the recipe. It is given the default for the images and the network."""
    device: str = "auto"
    """For the other methods: "auto", "cpu", "cuda", "cuda:N" or "mps"."""
    max_pixels: int = MAX_PIXELS
    """For the other methods: the limit on width × height of an image."""
    decode_damaged: bool = False
    """For the other methods: whether what there is of a damaged image is used."""
    overwrite: bool = False
    """Whether an earlier model in the folder is replaced."""
    resume: bool = False
    """Whether a training of all layers that was stopped or killed goes on."""


class TrainingListener:
    """Is told how a training goes on. These methods do nothing."""

    def on_examples(self, examples: Examples) -> None:
        """Called once all images are read."""

    def on_probe(self, probe: Probe) -> None:
        """Called when the last layer is fitted."""

    def on_progress(self, progress: Progress) -> None:
        """Called after each step of a training of all layers."""


class TrainingResult(NamedTuple):
    """A finished training."""

    folder: Path
    measured: Measured
    training: Mapping[str, Any]
    """The content of training.json."""
    failed: tuple[FailedImage, ...]
    """The images that could not be used, of both parts."""
    images: tuple[LabelledSource, ...]
    """The images of the validation part that were measured."""
    preprocess: PreprocessSpec
    """How the network sees them."""
    history: tuple[EpochRecord, ...] = ()
    """A record for each epoch: the lines of training.jsonl. Empty for a probe."""


class _Taught(NamedTuple):
    """A network that has learned."""

    state_dict: Mapping[str, NDArray[Any]]
    logits: NDArray[np.float32]
    """(N, K), of the images of the validation part that could be used."""
    positions: Sequence[int]
    """(N,): the positions of these images in the validation part."""
    features: NDArray[np.float32] | None = None
    """(N, D), of the same images, as the head of `state_dict` sees them."""
    head_weight: NDArray[np.float32] | None = None
    """(K, D)."""
    details: Mapping[str, Any] = {}
    """What training.json says of the method."""
    history: Sequence[EpochRecord] = ()
    """A record for each epoch."""


def train(
    dataset: Dataset,
    network: Network,
    folder: Path,
    options: TrainingOptions,
    *,
    read: ReadAll,
    listener: TrainingListener | None = None,
    stop_event: Event | None = None,
) -> TrainingResult:
    """Teaches a network the classes of a dataset, measures it on the validation part, and writes a model folder.

    Args:
        network: what the training starts from. For "scratch", its weights are not used.
        folder: the model folder. Nothing stands there before it is whole.
        read: reads images, with a number of augmented views of each, and returns them in order. Their features are
            those of `network`, unless the method is "scratch".
        stop_event: once it is set, the training of all layers stops after a step.

    Raises:
        UsageError: the images cannot be used, an option is wrong, or the folder cannot be written.
        UnavailableError: a package or a device is missing, or the network cannot be trained.
        ModuleNotFoundError: torch is missing, and the method needs it.
        StoppedError: `stop_event` was set. `resume` goes on.
    """
    require_writable(folder, overwrite=options.overwrite)
    if options.method != "probe":
        _require_torch()
    head = _find_head(network, options.method)
    listener = listener or TrainingListener()
    views = options.views if head is not None else 0  # they are for a probe
    with _open_work_folder(folder, options) as work:
        examples = collect_examples(dataset, read, views=views, fraction=options.fraction, seed=options.seed)
        listener.on_examples(examples)
        if work is not None:
            taught = _teach_all_layers(examples, network, head, work, options, listener, stop_event or Event())
        else:
            assert head is not None
            taught = _teach_head(examples, network, head, options, listener)
        return _finish(dataset, examples, network, folder, options, taught)


def _open_work_folder(folder: Path, options: TrainingOptions) -> AbstractContextManager[Path | None]:
    """Opens the work folder of a model folder. A probe has none, and leaves that of another training."""
    if options.method == "probe":
        return nullcontext()
    return open_work_folder(folder, resume=options.resume, overwrite=options.overwrite)


def _finish(
    dataset: Dataset,
    examples: Examples,
    network: Network,
    folder: Path,
    options: TrainingOptions,
    taught: _Taught,
) -> TrainingResult:
    """Measures the network, and writes the model folder."""
    failed = tuple(
        FailedImage(each.source.name, each.class_index, image.error)
        for each, image in examples.failed
        if image.error
    )
    measured = _measure(dataset, examples, network, folder, taught, failed)
    training = _describe(dataset, examples, network, options, taught, measured)
    _write(folder, network, examples, taught, measured, training, overwrite=options.overwrite)
    return TrainingResult(
        folder,
        measured,
        training,
        failed,
        tuple(examples.val[position].source for position in taught.positions),
        network.preprocess,
        tuple(taught.history),
    )


def _measure(
    dataset: Dataset,
    examples: Examples,
    network: Network,
    folder: Path,
    taught: _Taught,
    failed: Sequence[FailedImage],
) -> Measured:
    """Computes the figures of the network on the validation part."""
    images = [examples.val[position] for position in taught.positions]
    for_val = {each.source.name for each in dataset.val}
    outputs = ValidationOutputs(
        [each.source.source.name for each in images],
        [each.class_index for each in images],
        taught.logits,
        taught.features,
        taught.head_weight,
        [each for each in failed if each.name in for_val],
    )
    run = {
        "version": __version__,
        "model": folder.resolve().name,
        "architecture": network.architecture,
        "preprocess": network.preprocess.to_dict(),
        "num_classes": len(examples.classes),
        "activation": "softmax",
    }
    return measure(outputs, examples.classes, run, how=dataset.how)


def _require_torch() -> None:
    """Raises ModuleNotFoundError, before images are read."""
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


# Methods --------------------------------------------------------------------------------------------------------


def _find_head(network: Network, method: str) -> Head | None:
    """Returns the head that a probe replaces. None if there is to be none, or if it cannot become one.

    Raises:
        OutputError: for "probe", a probe cannot become the head.
        UsageError: the network cannot be trained.
    """
    from imgclassify.training.head import find_head

    if method == "scratch":
        return None
    try:
        return find_head(network)
    except OutputError:
        if method == "probe":
            raise
        return None


def _teach_head(
    examples: Examples, network: Network, head: Head, options: TrainingOptions, listener: TrainingListener
) -> _Taught:
    """Fits another last layer on the features of the frozen network."""
    import numpy as np

    from imgclassify.training.head import replace_head

    probe = _fit_probe(examples, head, options, listener)
    features = np.stack([_features(each)[0] for each in examples.val])
    return _Taught(
        replace_head(network, probe.weight, probe.bias, found=head),
        features @ probe.weight.T + probe.bias,
        range(len(examples.val)),
        features,
        probe.weight,
        {"probe": _describe_probe(probe, options)},
    )


def _fit_probe(examples: Examples, head: Head, options: TrainingOptions, listener: TrainingListener) -> Probe:
    import numpy as np

    from imgclassify.training.probe import fit_probe

    probe = fit_probe(
        np.stack([_features(each) for each in examples.train]),
        [each.class_index for each in examples.train],
        num_classes=len(examples.classes),
        groups=[each.group for each in examples.train],
        seed=options.seed,
        has_bias=head.bias != "",
    )
    listener.on_probe(probe)
    return probe


def _features(example: Example) -> NDArray[np.float32]:
    assert example.read.features is not None
    return example.read.features


def _describe_probe(probe: Probe, options: TrainingOptions) -> dict[str, Any]:
    return {
        "strength": probe.strength,
        "accuracies": {f"{strength:g}": accuracy for strength, accuracy in probe.accuracies.items()},
        "augmented_views": options.views,
    }


def _teach_all_layers(
    examples: Examples,
    network: Network,
    found: Head | None,
    work: Path,
    options: TrainingOptions,
    listener: TrainingListener,
    stop_event: Event,
) -> _Taught:
    """Trains all layers: from a probe's head (Kumar et al. 2022), or from random weights.

    Args:
        found: the head that the probe replaces. None if it begins with random numbers.
        work: the work folder.
    """
    import torch

    from imgclassify.training.fitting import fit_network
    from imgclassify.training.head import build_trainable
    from imgclassify.training.optimization import recipe_for

    head, details = None, {}
    if found is not None and examples.has_features:
        probe = _fit_probe(examples, found, options, listener)
        head, details = (probe.weight, probe.bias), {"probe": _describe_probe(probe, options)}
    torch.manual_seed(options.seed)
    module = build_trainable(network, len(examples.classes), head, found=found)
    recipe = options.find_recipe(
        recipe_for(module, options.method, num_images=len(examples.train), crop_size=network.preprocess.crop_size)
    )
    fitted = fit_network(
        module,
        [each.source for each in examples.train],
        [each.source for each in examples.val],
        recipe,
        num_classes=len(examples.classes),
        preprocess=network.preprocess,
        folder=work,
        seed=options.seed,
        device=options.device,
        resume=options.resume,
        stop_event=stop_event,
        report=listener.on_progress,
        data_digest=_digest(examples),
        max_pixels=options.max_pixels,
        decode_damaged=options.decode_damaged,
    )
    details |= {
        "recipe": asdict(recipe),
        "fit": {
            "epochs": fitted.epochs,
            "best_epoch": fitted.best_epoch,
            "ended": fitted.stopped,
            "dtype": fitted.dtype,
        },
    }
    return _Taught(
        fitted.state_dict,
        fitted.val_logits,
        fitted.val_positions,
        details=details,
        history=fitted.history,
    )


# training.json ----------------------------------------------------------------------------------------------------


def _describe(
    dataset: Dataset,
    examples: Examples,
    network: Network,
    options: TrainingOptions,
    taught: _Taught,
    measured: Measured,
) -> dict[str, Any]:
    """Returns the content of training.json."""
    counts = Counter((row.label, row.part) for row in examples.rows)
    calibration = measured.calibration
    return {
        "version": __version__,
        "method": options.method,
        "seed": options.seed,
        "start": None
        if options.method == "scratch"
        else {"model": network.model, "weights": network.weights, "sha256": network.sha256},
        "architecture": network.architecture,
        "preprocess": network.preprocess.to_dict(),
        "data": {
            "name": options.data_name,
            "how": dataset.how,
            "sha256": _digest(examples),
            "images": {part: sum(row.part == part for row in examples.rows) for part in (TRAIN, VAL, LEFT_OUT)},
            "failed": len(examples.failed),
            "classes": [
                {"label": label, **{part: counts[label, part] for part in (TRAIN, VAL, LEFT_OUT)}}
                for label in examples.classes
            ],
            "notes": [*dataset.notes, *examples.notes],
        },
        "split": {"kind": "stratified", "fraction": options.fraction, "seed": options.seed}
        if examples.is_split
        else {"kind": "given"},
        **taught.details,
        "metrics": {
            name: estimate.to_dict()
            for name, estimate in measured.evaluation.metrics.items()
            if estimate.value is not None
        },
        "calibration": {
            "temperature": calibration.calibration.temperature if calibration else None,
            **(calibration.calibration.figures if calibration else {}),
            "reason": measured.no_calibration_reason or None,
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _digest(examples: Examples) -> str:
    """Returns a digest of the data: of each image's part, class and content, in order, whatever their names."""
    lines = [f"{row.part}\t{row.label}\t{row.sha256}\n" for row in examples.rows if row.part != LEFT_OUT]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _write(
    folder: Path,
    network: Network,
    examples: Examples,
    taught: _Taught,
    measured: Measured,
    training: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    calibration = measured.calibration
    history = format_history(taught.history)
    model = TrainedModel(
        network=network,
        state_dict=taught.state_dict,
        labels=examples.classes,
        calibration=calibration.calibration if calibration else None,
        training=training,
        split=examples.rows,
        files={HISTORY: history.encode()} if history else {},
    )
    write_model_folder(folder, model, overwrite=overwrite)
