"""A small training with everything that is random in it, also as a program that kills it at random moments.

As a program: DATA WORK KILLS. It trains once undisturbed, and once with KILLS SIGKILLs, and prints what came of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from labelled_images import tiny_spec
from torch import nn

from imgclassify.sources import expand
from imgclassify.training import trainer
from imgclassify.training.dataset import LabelledSource
from imgclassify.training.fitting import FittedNetwork, Progress, fit_network
from imgclassify.training.recipe import Recipe, default_recipe
from imgclassify.training.training_state import TrainingState

RECIPE = replace(
    default_recipe("finetune", 100),
    epochs=4,
    batch_size=4,
    mixup=0.2,
    cutmix=1.0,
    batch_norm="updated",
    dtype="float32",
    crop_scale=(0.5, 1.0),
)


class Net(nn.Module):
    """A small network with batch norm and dropout: statistics and random numbers that must be restored too."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def read_folder(folder: Path) -> list[LabelledSource]:
    """The images that labelled_images.make_images wrote."""
    sources = expand([str(folder)], notice=lambda _: None, offline=True)
    return [LabelledSource(source, int(Path(source.name).name.split("-")[0])) for source in sources]


def fit(
    data: Path, work: Path, *, recipe: Recipe = RECIPE, seed: int = 5, network_seed: int = 5, **more: Any
) -> FittedNetwork:
    work.mkdir(exist_ok=True)
    torch.manual_seed(network_seed)
    options = {"num_classes": 3, "preprocess": tiny_spec(), "folder": work, "seed": seed, "device": "cpu", **more}
    return fit_network(Net(), read_folder(data / "train"), read_folder(data / "val"), recipe, **options)


def digest(fitted: FittedNetwork) -> str:
    """SHA-256 of the weights with their names, and of the logits."""
    sha256 = hashlib.sha256(fitted.val_logits)
    for name, array in fitted.state_dict.items():
        sha256.update(name.encode() + array.tobytes())
    return sha256.hexdigest()


def main(data: Path, work: Path, kills: int) -> None:
    # A child is forked, since importing torch takes longer than the training. No thread has been started.
    torch.set_num_threads(1)
    trainer.SAVE_SECONDS, trainer.SAVE_SHARE, trainer.REPORT_SECONDS = 0.0, float("inf"), 0.0
    undisturbed = _train(data, work / "undisturbed", None)
    places = []
    for number in range(kills):
        # Some are killed while they start, and most after a few steps: in the middle of one, or of a save.
        steps = 0 if number % 5 == 0 else random.randint(1, 5)
        assert _train(data, work / "killed", steps) is None
        places.append(_place(work / "killed" / trainer.STATE))
    killed = _train(data, work / "killed", None)
    print(json.dumps({"undisturbed": undisturbed, "killed": killed, "places": places}))


def _train(data: Path, work: Path, kill_after: int | None) -> str | None:
    """Trains in a child, which is killed after a number of steps. Returns the digest that it gives, if any."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:

        def report(progress: Progress) -> None:
            if progress.stage == "training":
                os.write(writer, b".")

        os.write(writer, b"!" + digest(fit(data, work, resume=True, report=report)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb", buffering=0) as pipe:  # noqa: PTH123
        if kill_after is not None:
            for _ in range(kill_after):
                pipe.read(1)
            time.sleep(random.uniform(0, 0.02 if kill_after else 0.3))
            os.kill(child, signal.SIGKILL)
        written = b"".join(iter(lambda: pipe.read(1000), b""))
    os.waitpid(child, 0)
    return written.partition(b"!")[2].decode() or None


def _place(state: Path) -> tuple[int, int]:
    """(epoch, batches) of a saved state."""
    if not state.exists():
        return 0, 0
    values = TrainingState.load(state).values
    return values["epoch"], values["batches"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
