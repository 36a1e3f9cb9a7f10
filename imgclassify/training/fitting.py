"""Trains all layers of a network on one's own images: `fit_network`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from imgclassify.engines.torch_engine import find_device, is_out_of_memory
from imgclassify.errors import DeviceError
from imgclassify.images import MAX_PIXELS
from imgclassify.training.image_store import DecodeOptions
from imgclassify.training.progress import EpochRecord, Progress, StoppedError
from imgclassify.training.recipe import Recipe
from imgclassify.training.trained_network import TrainedNetwork
from imgclassify.training.trainer import Trainer
from imgclassify.training.training_data import TrainingData, open_data
from imgclassify.training.training_state import TrainingState
from imgclassify.training.validation import compute_logits
from imgclassify.training.work_folder import STATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.results import ImageFailure
    from imgclassify.training.dataset import LabelledSource

__all__ = ["FittedNetwork", "Progress", "StoppedError", "fit_network"]


@dataclass(frozen=True, slots=True, eq=False)
class FittedNetwork:
    """What a training came to."""

    state_dict: dict[str, NDArray[Any]]
    """The weights, by the names of the network."""
    epochs: int
    """How many were run."""
    best_epoch: int
    """The epoch with the least validation loss; 0 is the network as it was before. With `keep = "best"` in the
    recipe, the weights are of this epoch."""
    history: tuple[EpochRecord, ...]
    """Epoch 0 first."""
    val_logits: NDArray[np.float32]
    """(N, classes): of the weights, for the images of the validation part that could be decoded."""
    val_class_indices: NDArray[np.int64]
    """(N,): their classes."""
    val_positions: tuple[int, ...]
    """(N,): their positions in the validation part."""
    failures: dict[str, ImageFailure]
    """Why images of either part were left out, by the names of their sources."""
    stopped: str
    """Why training ended: "epochs", "early" (no better validation loss for a while) or "time"."""
    dtype: str
    """The dtype that layers computed in, and "auto" stood for."""


def fit_network(
    network: torch.nn.Module,
    train: Sequence[LabelledSource],
    val: Sequence[LabelledSource],
    recipe: Recipe,
    *,
    num_classes: int,
    preprocess: PreprocessSpec,
    folder: Path,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    stop_event: Event | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    data_digest: str | None = None,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
) -> FittedNetwork:
    """Trains a network, and chooses its weights by the validation part.

    The order of the images, and dropout, come from torch's global generator, as in a plain loop around a
    DataLoader. So call `torch.manual_seed` before the network is built: then the same seed gives the same weights,
    on the CPU with the same number of threads and without a time limit. Augmentation depends on `seed` alone.

    Args:
        network: on the CPU in float32. It is trained in place.
        train: the images to learn from.
        val: the images of the validation part. Without any, the last epoch's weights are the result.
        folder: exists, and is used by this training alone. Its state, its decoded images and training.jsonl are
            written there. They stay for the caller to remove.
        seed: for the augmentation.
        device: as torch names it, or "auto".
        resume: go on from the state in `folder`, if there is one. The weights then are those of a training that was
            never interrupted.
        stop_event: once it is set, the step is finished and the state is saved.
        report: called between steps, from this thread.
        data_digest: a text that changes with the content of any image and with its class, if the caller knows one.
            None reads all files once to compute it.
        max_pixels, decode_damaged: as in RunnerOptions.

    Raises:
        StoppedError: `stop_event` was set.
        UsageError: the state in `folder` is of another training.
        NoImagesError: no image to learn from can be decoded.
        TrainingError: the loss is not finite.
        DeviceError: this machine does not have the device, or it does not have enough memory.
    """
    torch_device = find_device(device)
    stop_event = stop_event or Event()
    state_path = folder / STATE
    state = TrainingState.load(state_path) if resume and state_path.exists() else None
    data = open_data(
        train,
        val,
        recipe,
        preprocess,
        folder,
        seed=seed,
        options=DecodeOptions(max_pixels, decode_damaged),
        digest=data_digest,
        report=report,
        stop_event=stop_event,
    )
    with _memory_errors(torch_device, recipe), _threads(state):
        trained = TrainedNetwork(network, recipe, preprocess, torch_device)
        identity = _identify(trained, data, recipe, preprocess, seed=seed, num_classes=num_classes)
        if state is not None:
            state.require_same(identity, state_path)
        trainer = Trainer(
            trained, data, recipe, folder, identity=identity, seed=seed, stop_event=stop_event, report=report
        )
        if state is not None:
            trainer.restore(state)
        trainer.run()
        return _collect(trainer, trained, data, num_classes)


def _identify(
    trained: TrainedNetwork,
    data: TrainingData,
    recipe: Recipe,
    preprocess: PreprocessSpec,
    *,
    seed: int,
    num_classes: int,
) -> dict[str, Any]:
    """Returns what must be the same for a training to go on: TrainingState.identity."""
    return {
        **asdict(recipe),
        "seed": seed,
        "the images": data.digest,
        "the initial weights": trained.initial_digest,
        "the number of classes": num_classes,
        "the preprocessing": preprocess.to_dict(),
        "the device": trained.device.type,
        "dtype": trained.dtype_name,
    }


def _collect(trainer: Trainer, trained: TrainedNetwork, data: TrainingData, num_classes: int) -> FittedNetwork:
    weights = trainer.result()
    val_logits = np.empty((0, num_classes), np.float32)
    if len(data.val):
        val_logits = compute_logits(data.val, trained.logits, trained.device)
    return FittedNetwork(
        # Copies, in the usual order in memory.
        state_dict={name: np.array(tensor.cpu().numpy(), order="C") for name, tensor in weights.items()},
        epochs=trainer.history[-1].epoch,
        best_epoch=trainer.best_epoch,
        history=tuple(trainer.history),
        val_logits=val_logits,
        val_class_indices=data.val.class_indices,
        val_positions=tuple(data.val.kept),
        failures=data.failures,
        stopped=trainer.finished,
        dtype=trained.dtype_name,
    )


@contextmanager
def _threads(state: TrainingState | None) -> Iterator[None]:
    """Has torch compute with as many threads as the process that saved a state. Sums of other parts are rounded
    differently."""
    former = torch.get_num_threads()
    if state is not None:
        torch.set_num_threads(state.values["threads"])
    try:
        yield
    finally:
        torch.set_num_threads(former)


@contextmanager
def _memory_errors(device: torch.device, recipe: Recipe) -> Iterator[None]:
    """Turns the errors of a full memory into a DeviceError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # The last is what torch says on the CPU.
        is_full = isinstance(error, MemoryError) or is_out_of_memory(error) or "can't allocate" in str(error)
        if not is_full:
            raise
        raise DeviceError(
            f"not enough free memory on {device} to train with batches of {recipe.batch_size}",
            hint=f"set batch_size = {max(1, recipe.batch_size // 2)} in the recipe, or use a smaller model",
        ) from error
