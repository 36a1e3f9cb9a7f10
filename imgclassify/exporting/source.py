"""The classifier that is exported, as `predict` runs it on the CPU, and what it returns for some crops."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify.catalog import PROGRAMS
from imgclassify.confidence.calibration import Calibration, find_calibration
from imgclassify.engines import FEATURES, LOGITS
from imgclassify.errors import CheckpointError
from imgclassify.exporting.test_vector import make_crop
from imgclassify.graphs.session import PROBABILITIES
from imgclassify.hub.file_kind import CHECKPOINT, find_format
from imgclassify.hub.reference import FILE, ModelReference
from imgclassify.runner import load_runner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.engines.activation import Activation
    from imgclassify.hub.network import Network
    from imgclassify.labels import LabelSet
    from imgclassify.runner import ModelRunner


class ExportSource:
    """A loaded classifier.

    Attributes:
        reference: the model reference, as it was given.
        runner: runs it on the CPU, with the engine that predict takes there.
        labels: the names of its classes.
        activation: what turns its outputs into probabilities.
        wants_probabilities: whether the file gets the output PROBABILITIES.
    """

    def __init__(self, model: str, *, probabilities: bool, features: bool, **loading: Any) -> None:
        """Loads the classifier.

        Args:
            probabilities, features: whether the file gets these outputs.
            loading: as for Classifier.

        Raises:
            UsageError, UnavailableError: as for Classifier, or the features cannot be found.
            CheckpointError: the network cannot be exported.
        """
        _require_no_program(model)
        self.reference = model
        outputs = (LOGITS, FEATURES) if features else (LOGITS,)
        self.runner: ModelRunner = load_runner(model, outputs=outputs, device="cpu", **loading)
        _require_exportable(self.network)
        labels, activation = self.network.labels, self.runner.activation
        if labels is None or activation is None:
            raise CheckpointError(f"{self.network.model} has no classes", hint="choose a model with a classifier")
        labels.require_num_classes(self.runner.num_classes)
        self.labels: LabelSet = labels
        self.activation: Activation = activation
        self.wants_probabilities = probabilities

    @property
    def network(self) -> Network:
        return self.runner.network

    @property
    def score_name(self) -> str:
        """The first output of the file: LOGITS, or PROBABILITIES if the network itself returns these."""
        return PROBABILITIES if self.activation.name == "none" else LOGITS

    @property
    def output_sizes(self) -> dict[str, int]:
        """The outputs of the file → the number of values of each for an image, in order."""
        return {name: array.shape[1] for name, array in self.expected.items()}

    @cached_property
    def crops(self) -> NDArray[np.uint8]:
        """(4, H, W, 3) made-up crops: the test vector, fine noise, coarse noise, and nearly black."""
        import numpy as np

        height, width = self.network.preprocess.crop_size
        generator = np.random.default_rng(0)
        fine = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        coarse = generator.integers(0, 256, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
        coarse = coarse.repeat(32, axis=0).repeat(32, axis=1)[:height, :width]
        found = np.stack([make_crop((height, width)), fine, coarse, fine // 16])
        if self.network.preprocess.channel_order == "grey":
            found[...] = found[..., :1]
        return found

    @cached_property
    def expected(self) -> dict[str, NDArray[np.float32]]:
        """The outputs of the file for the crops, as predict computes them."""
        import numpy as np

        outputs = self.runner.engine.infer(self.crops)
        scores = outputs[LOGITS]
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise CheckpointError(
                f"{self.network.model} returns numbers that are not finite", hint="its weights are damaged"
            )
        probabilities = self.activation.apply(scores)
        found = {self.score_name: probabilities if self.score_name == PROBABILITIES else scores}
        if self.wants_probabilities:
            found[PROBABILITIES] = probabilities
        if FEATURES in self.runner.outputs:
            found[FEATURES] = outputs[FEATURES]
        return found

    @cached_property
    def calibration(self) -> Calibration | None:
        """What is known of the model, as `predict --calibrated` finds it."""
        if self.activation.name != "softmax":
            return None
        return find_calibration(self.runner.run_info, self.network.calibration, self.network.own_calibration)


def _require_no_program(model: str) -> None:
    """Checks that a model is not a file that contains its own network, before the file is loaded.

    Raises:
        CheckpointError: it is one.
    """
    reference = ModelReference.parse(model)
    path = Path(os.path.expanduser(reference.value))  # noqa: PTH111 - Path.expanduser raises for unknown users
    if reference.kind is FILE and path.is_file():
        found = find_format(path, model)
        if found != CHECKPOINT:
            raise _program_error(repr(model), found)


def _require_exportable(network: Network) -> None:
    """
    Raises:
        CheckpointError: the network is quantized, or is a program already.
    """
    if network.quantized:
        raise CheckpointError(
            f"{network.model} is quantized, and its operators cannot be exported",
            hint="export the network from before it was quantized",
        )
    if network.architecture in PROGRAMS:
        raise _program_error(network.model, network.architecture)


def _program_error(name: str, kind: str) -> CheckpointError:
    words = {"onnx": "an .onnx graph", "torchscript": "a TorchScript program", "pt2": "a program of torch.export"}
    return CheckpointError(
        f"{name} is {words[kind]} already", hint="use it as it is, or export the model that it was made from"
    )
