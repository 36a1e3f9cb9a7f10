"""Fine-tunes a network as `imgclassify train --method finetune` does: `python -m benchmarks.finetune FOLDER`.

Prints the images per second of the epochs after the first. benchmarks/references/finetune.py is the plain loop that
it is compared with; --device cuda is for a machine with a GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from imgclassify.catalog import PreprocessSpec, find_model
from imgclassify.hub.architectures import create_network
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.sources import expand
from imgclassify.training.dataset import LabelledSource
from imgclassify.training.fitting import fit_network
from imgclassify.training.recipe import default_recipe

CLASSES = 2


def _build(model: str) -> tuple[torch.nn.Module, PreprocessSpec, str]:
    """Returns a network for two classes, its preprocessing, and what its batch norms do.

    Statistics can only be frozen if they are those of a network that has been trained.
    """
    manifest = find_model(model)
    network = create_network(manifest, num_classes=CLASSES)
    if not manifest.url.startswith("package:"):
        return network, manifest.preprocess, "updated"
    loaded = load_network(model, LoadOptions(offline=True)).backends.build_torch
    assert loaded is not None
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    weights = {name: tensor for name, tensor in loaded().state_dict().items() if tensor.shape == shapes[name]}
    network.load_state_dict(weights, strict=False)
    return network, manifest.preprocess, "frozen"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="efficientnet_lite0", help="without weights, unless it is embedded")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    sources = expand([str(arguments.folder)], notice=lambda _: None, offline=True)
    images = [LabelledSource(source, number % CLASSES) for number, source in enumerate(sources)]
    torch.manual_seed(0)
    network, preprocess, batch_norm = _build(arguments.model)
    recipe = replace(
        default_recipe("finetune", len(images)),
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        last_batch="drop",
        dtype=arguments.dtype,
        batch_norm=batch_norm,
    )
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit_network(
            network,
            images,
            [],
            recipe,
            num_classes=CLASSES,
            preprocess=preprocess,
            folder=Path(folder),
            device=arguments.device,
        )
    speeds = [record.images_per_second or 0.0 for record in fitted.history[2:]]
    print(json.dumps({"images_per_second": sum(speeds) / len(speeds), "dtype": fitted.dtype}))


if __name__ == "__main__":
    main()
