"""The loop of a training: steps, epochs, and the state between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from imgclassify.errors import TrainingError
from imgclassify.training.augmentation import Mixture, mix_images, random_generator
from imgclassify.training.batches import BatchMaker, draw_order
from imgclassify.training.epoch_sums import EpochSums
from imgclassify.training.optimization import (
    clip_gradients,
    create_optimizer,
    find_depths,
    group_parameters,
    learning_rate,
    set_learning_rate,
)
from imgclassify.training.progress import EpochRecord, Progress, StoppedError, write_history
from imgclassify.training.random_state import get_random_state, set_random_state
from imgclassify.training.recipe import AUTO
from imgclassify.training.training_state import TrainingState
from imgclassify.training.validation import Measured, compute_logits, measure
from imgclassify.training.weight_average import WeightAverage
from imgclassify.training.work_folder import HISTORY, STATE

if TYPE_CHECKING:
    from imgclassify.training.recipe import Recipe
    from imgclassify.training.trained_network import TrainedNetwork
    from imgclassify.training.training_data import TrainingData

SAVE_SECONDS = 30.0
"""Least time between two saves of the state."""
SAVE_SHARE = 0.02
"""The share of the time that saving may take: a state of gigabytes is saved less often."""
REPORT_SECONDS = 0.2
"""Least time between two reports. Each waits for the device."""
_MIXING = 1
"""The purpose of random numbers that mix images."""


class Trainer:
    """Trains a network. Everything that the next step depends on can be saved and restored."""

    def __init__(
        self,
        network: TrainedNetwork,
        data: TrainingData,
        recipe: Recipe,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        seed: int,
        stop_event: Event,
        report: Callable[[Progress], None],
    ) -> None:
        """
        Args:
            folder: where the state and the history are saved.
            identity: TrainingState.identity.
        """
        self._network, self._data, self._recipe = network, data, recipe
        self._folder, self._identity, self._seed = folder, dict(identity), seed
        self._stop_event, self._report = stop_event, report
        self._classes = torch.from_numpy(data.train.class_indices).to(network.device)
        self._parameters = [each for each in network.module.parameters() if each.requires_grad]
        depths = find_depths(network.module, network.to_images(torch.from_numpy(data.train.sample())))
        self._optimizer = create_optimizer(group_parameters(network.module, depths, recipe), recipe)
        self._average = WeightAverage(network.module, recipe.ema_decay) if recipe.ema_decay else None
        self._drops_last = recipe.last_batch == "drop"
        self._steps_per_epoch = self._count_steps()
        self.history: list[EpochRecord] = []
        self.best_epoch = 0
        """The epoch with the least score, or the last one without a validation part."""
        self.finished = ""
        """Why training has ended: "epochs", "early" or "time". Empty while it has not."""
        self._best: dict[str, torch.Tensor] = {}
        """The weights of the best epoch, on the CPU, if they are to be kept."""
        self._best_score = math.inf
        self._rate: float | None = None
        """The learning rate of the last step."""
        self._epoch = self._batches = 0
        """The epochs that are complete, and the batches of the next one that are."""
        self._sums = EpochSums(network.device)
        self._random = get_random_state(network.device)
        """As it was before the order of this epoch was drawn."""
        self._random_now = self._random
        self._seconds = self._epoch_seconds = 0.0
        """Of training, and of the steps of this epoch, until `_noted`."""
        self._noted = self._saved = time.monotonic()
        self._save_seconds = 0.0
        self._reported = -math.inf

    # The loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Trains until the recipe says that it is done.

        Raises:
            StoppedError: `stop_event` was set. The state is saved.
            TrainingError: a loss or a logit is not finite.
        """
        self._noted = time.monotonic()
        if not self.history:
            self._end_epoch()
        write_history(self._folder / HISTORY, self.history)
        pinned = self._network.device.type == "cuda"
        with self._network.mixed_precision(), BatchMaker(self._data.train.crop_shape, pinned=pinned) as maker:
            while not self.finished:
                self._run_epoch(maker)
        self._save()

    def result(self) -> dict[str, torch.Tensor]:
        """Gives the network the weights that are the result, and returns its state_dict."""
        module = self._network.module
        if self._best:
            module.load_state_dict(self._best)
        elif self._average is not None:
            module.load_state_dict(self._average.tensors, strict=False)
        weights: dict[str, torch.Tensor] = module.eval().state_dict()
        return weights

    def _run_epoch(self, maker: BatchMaker) -> None:
        self._network.start_training()
        write_crop = partial(self._data.train.write_crop, self._epoch + 1)
        batches = self._order()[self._batches :]
        with closing(maker.make(write_crop, batches)) as made:
            for positions, crops in zip(batches, made, strict=False):
                self._step(positions, crops)
                self._batches += 1
                self._note_time(is_step=True)
                self._after_step()
                if self._is_time_over():
                    break
        self._end_epoch()

    def _order(self) -> list[list[int]]:
        """Returns the batches of this epoch. In the middle of one, the order is drawn once more."""
        set_random_state(self._random, self._network.device)
        order = draw_order(len(self._data.train), self._recipe.batch_size, drop_last=self._drops_last)
        if self._batches:
            set_random_state(self._random_now, self._network.device)
        return order[: self._steps_per_epoch]

    def _count_steps(self) -> int:
        """Returns the batches of an epoch."""
        whole, rest = divmod(len(self._data.train), self._recipe.batch_size)
        # Batch norm cannot be computed of a single image, unless it is frozen.
        least = 2 if self._network.needs_pairs else 1
        return whole + (rest >= least and (not self._drops_last or not whole))

    def _step(self, positions: list[int], crops: torch.Tensor) -> None:
        recipe, network = self._recipe, self._network
        step = self._epoch * self._steps_per_epoch + self._batches
        self._rate = learning_rate(recipe, step, self._steps_per_epoch, self._progress())
        set_learning_rate(self._optimizer, self._rate)
        classes = self._classes[positions]
        images = network.to_images(crops)
        random = random_generator(self._seed, self._epoch + 1, self._batches, _MIXING)
        mixture = mix_images(random, images, classes, recipe)
        logits = network.training_logits(images if mixture is None else mixture.images)
        loss = self._loss(logits, classes, mixture)
        if network.device.type == "cpu":  # elsewhere this would wait for the device
            self._require_finite(loss.item())
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(self._parameters, recipe.clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update()
        self._sums.add(loss, logits, classes)

    def _loss(self, logits: torch.Tensor, classes: torch.Tensor, mixture: Mixture | None) -> torch.Tensor:
        smoothing = self._recipe.label_smoothing
        loss = cross_entropy(logits, classes, label_smoothing=smoothing)
        if mixture is None:
            return loss
        partners = cross_entropy(logits, mixture.partner_classes, label_smoothing=smoothing)
        return torch.lerp(loss, partners, mixture.share)

    def _after_step(self) -> None:
        """Reports, saves and stops, where it is time for it."""
        every = self._recipe.loss_every
        if every and self._batches % every == 0:
            self._report_progress(running_loss=self._sums.take_running_loss())
        elif time.monotonic() - self._reported >= REPORT_SECONDS:
            self._report_progress()
        if self._stop_event.is_set():
            self._save()
            raise StoppedError
        if self._is_save_due():
            self._save()

    def _end_epoch(self) -> None:
        """Measures the network, and decides whether it is the best and whether training goes on."""
        record = self._measure()
        self.history.append(record)
        if record.epoch:
            self._epoch += 1
        self._choose(record)
        self.finished = self._find_end()
        self._batches, self._epoch_seconds = 0, 0.0
        self._sums.clear()
        self._random = get_random_state(self._network.device)
        if self.finished or not record.epoch or self._is_save_due():
            self._save()
        write_history(self._folder / HISTORY, self.history)
        self._report_progress(record=record)

    def _measure(self) -> EpochRecord:
        """Returns the record of the epoch that ends, or of epoch 0."""
        loss, accuracy, images = self._sums.read()
        self._require_finite(loss)
        is_first = not self.history
        measured = self._measure_validation()
        self._note_time()
        return EpochRecord(
            epoch=0 if is_first else self._epoch + 1,
            train_loss=None if is_first else loss,
            train_accuracy=None if is_first else accuracy,
            val_loss=measured and measured.loss,
            val_accuracy=measured and measured.accuracy,
            val_score=measured and measured.score,
            learning_rate=None if is_first else self._rate,
            images_per_second=self._speed(images),
            seconds=round(self._seconds, 3),
        )

    def _measure_validation(self) -> Measured | None:
        if not len(self._data.val):
            return None
        self._network.module.eval()
        with self._averaged():
            logits = compute_logits(self._data.val, self._network.logits, self._network.device)
        measured = measure(logits, self._data.val.class_indices)
        if measured is None:
            raise self._not_finite("a logit of the validation part")
        return measured

    def _averaged(self) -> AbstractContextManager[None]:
        """Gives the network the weights that would be the result now, for as long as the block runs."""
        return self._average.applied() if self._average is not None else nullcontext()

    def _choose(self, record: EpochRecord) -> None:
        """Keeps the weights of an epoch if it is the best."""
        if record.val_score is None:
            self.best_epoch = self._epoch
        elif record.val_score < self._best_score:
            self.best_epoch, self._best_score = record.epoch, record.val_score
            if self._recipe.keep == "best":
                with self._averaged():
                    weights = self._network.module.state_dict()
                    self._best = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def _find_end(self) -> str:
        """Returns why training ends now, or an empty text."""
        recipe = self._recipe
        if self._epoch >= recipe.last_epoch:
            return "epochs"
        if self._is_time_over():
            return "time"
        waited = self._epoch - self.best_epoch
        return "early" if recipe.epochs == AUTO and recipe.patience and waited >= recipe.patience else ""

    # Time ----------------------------------------------------------------------------------------------------

    def _note_time(self, *, is_step: bool = False) -> None:
        now = time.monotonic()
        self._seconds += now - self._noted
        if is_step:
            self._epoch_seconds += now - self._noted
        self._noted = now

    def _progress(self) -> float:
        """Returns the part of the training that is done, 0..1: of its steps or, if that is more, of its time."""
        steps = self._epoch * self._steps_per_epoch + self._batches
        by_steps = steps / (self._recipe.last_epoch * self._steps_per_epoch)
        limit = self._recipe.time_limit
        return min(1.0, max(by_steps, self._seconds / limit)) if limit else by_steps

    def _is_time_over(self) -> bool:
        return 0 < self._recipe.time_limit <= self._seconds

    def _is_save_due(self) -> bool:
        return time.monotonic() - self._saved >= max(SAVE_SECONDS, self._save_seconds / SAVE_SHARE)

    def _report_progress(self, running_loss: float | None = None, record: EpochRecord | None = None) -> None:
        loss, _, images = self._sums.read()
        self._require_finite(loss)
        progress = self._progress()
        self._report(
            Progress(
                stage="training",
                done=self._epoch * self._steps_per_epoch + self._batches,
                total=self._recipe.last_epoch * self._steps_per_epoch,
                epoch=record.epoch if record else self._epoch + 1,
                epochs=self._recipe.last_epoch,
                batch=self._batches,
                loss=record.train_loss if record else loss,
                accuracy=self.history[-1].val_accuracy,
                learning_rate=self._rate,
                images_per_second=record.images_per_second if record else self._speed(images),
                seconds_left=self._seconds * (1 - progress) / progress if progress else None,
                running_loss=running_loss,
                record=record,
            )
        )
        self._reported = time.monotonic()

    def _speed(self, images: int) -> float | None:
        return images / self._epoch_seconds if self._epoch_seconds else None

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._not_finite("the loss")

    def _not_finite(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} is not a finite number in epoch {self._epoch + 1}, after {self._batches} batches",
            hint="lower learning_rate in the recipe, raise warmup_epochs, or set clip_norm = 1.0",
        )

    # State ---------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        started = time.monotonic()
        self._capture().save(self._folder / STATE)
        self._saved = time.monotonic()
        self._save_seconds = self._saved - started

    def _capture(self) -> TrainingState:
        values = {
            "epoch": self._epoch,
            "batches": self._batches,
            "rate": self._rate,
            "seconds": self._seconds,
            "epoch_seconds": self._epoch_seconds,
            "best_epoch": self.best_epoch,
            "best_score": self._best_score if math.isfinite(self._best_score) else None,
            "average_steps": self._average.steps if self._average is not None else 0,
            "finished": self.finished,
            "threads": torch.get_num_threads(),
            "history": [asdict(record) for record in self.history],
        }
        groups = {
            "network": self._network.module.state_dict(),
            "average": self._average.tensors if self._average is not None else {},
            "best": self._best,
            "optimizer": {
                f"{number}/{name}": value
                for number, parameter in enumerate(self._parameters)
                for name, value in self._optimizer.state[parameter].items()
                if value is not None
            },
            "random": self._random,
            "random_now": get_random_state(self._network.device),
            "sums": {"": self._sums.values},
        }
        tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
        return TrainingState(self._identity, values, tensors)

    def restore(self, state: TrainingState) -> None:
        """Goes back to a state that was saved."""
        values = state.values
        self._epoch, self._batches = values["epoch"], values["batches"]
        self._rate = values["rate"]
        self._seconds, self._epoch_seconds = values["seconds"], values["epoch_seconds"]
        self.best_epoch = values["best_epoch"]
        self._best_score = math.inf if values["best_score"] is None else values["best_score"]
        self.finished = values["finished"]
        self.history = [EpochRecord(**record) for record in values["history"]]
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in state.tensors.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = tensor
        self._network.module.load_state_dict(groups["network"])
        self._best = groups.get("best", {})
        self._random, self._random_now = groups["random"], groups["random_now"]
        self._sums.values.copy_(groups["sums"][""])
        if self._average is not None:
            self._average.steps = values["average_steps"]
            for name, tensor in groups["average"].items():
                self._average.tensors[name].copy_(tensor)
        for name, tensor in groups.get("optimizer", {}).items():
            number, _, key = name.partition("/")
            parameter = self._parameters[int(number)]
            # In the parameter's order in memory, which a fused step relies on.
            same = tensor.shape == parameter.shape
            value = torch.empty_like(parameter).copy_(tensor) if same else tensor.to(parameter.device)
            self._optimizer.state[parameter][key] = value
