"""Compares an exported file with the classifier that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify.comparison import Comparison, pair_results
from imgclassify.engines import FEATURES
from imgclassify.errors import CheckpointError, ImgclassifyError, NoImagesError, describe_error
from imgclassify.graphs.session import LOGITS, SessionConfig
from imgclassify.hub.export_cache import MAX_DIFFERENCE
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
from imgclassify.hub.reference import FILE, ModelReference
from imgclassify.postprocessing import Postprocessor
from imgclassify.runner import ModelRunner, RunnerOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.exporting.source import ExportSource
    from imgclassify.hub.network import Network
    from imgclassify.images.inputs import ImageLike
    from imgclassify.results import ImageResult

MAX_DIFFERENCES = {"float32": MAX_DIFFERENCE, "float16": 5e-2}
"""By what the file computes in: how far a probability may be from that of the classifier."""
_MAX_FEATURE_DIFFERENCES = {"float32": 1e-3, "float16": 5e-2}
"""The same for features, as a fraction of the largest."""


class ExportedFile:
    """An exported file that `predict` has opened, before it has its name."""

    def __init__(self, path: Path, source: ExportSource, *, dtype: str) -> None:
        """
        Raises:
            CheckpointError: it cannot be opened, or says something else of its model than the classifier.
        """
        self._source = source
        self._dtype = dtype
        reference = ModelReference(str(path), FILE, str(path))
        try:
            self._network: Network = load_network(reference, LoadOptions(trust=True))
        except ImgclassifyError as error:
            raise self._refuse(str(error)) from error
        network = source.network
        for what, own, theirs in (
            ("preprocessing", self._network.preprocess, network.preprocess),
            ("class names", self._network.labels and self._network.labels.labels, source.labels.labels),
            ("activation", self._network.activation, source.activation.name),
        ):
            if own != theirs:
                raise self._refuse(f"its {what} are not read as they were written")

    @property
    def sha256(self) -> str:
        """The digest of the file."""
        assert self._network.sha256 is not None
        return self._network.sha256

    def compare_outputs(self) -> float:
        """Compares its outputs for made-up crops with those of the classifier, for one and for several images.

        Returns:
            The largest difference of a probability, 0..1.

        Raises:
            CheckpointError: it does not run, or an output differs too much.
        """
        import numpy as np

        expected, crops = self._source.expected, self._source.crops
        try:
            run = self._open()
            parts = [run(crops[:1]), run(crops[1:])]
        except ImgclassifyError as error:
            raise self._refuse(str(error)) from error
        except Exception as error:  # onnxruntime's and torch's exceptions have no other common base
            raise self._refuse(describe_error(error)) from error
        found = {name: np.concatenate([part[name] for part in parts]) for name in expected}
        for name, array in found.items():
            if array.shape != expected[name].shape:
                raise self._refuse(f"its output {name} is {array.shape}, not {expected[name].shape}")
            if not np.isfinite(array).all():
                raise self._refuse(f"its output {name} has numbers that are not finite in {self._dtype}")
        if FEATURES in found:
            self._compare_features(found[FEATURES], expected[FEATURES])
        difference = max(self._differences(found, expected))
        if not difference <= MAX_DIFFERENCES[self._dtype]:
            raise self._refuse(f"a probability differs by {difference:.2g}")
        return difference

    def compare_images(
        self, find_images: Callable[[], Iterable[ImageLike]], on_result: Callable[[ImageResult], object]
    ) -> Comparison:
        """Classifies images with the file and with the classifier.

        Args:
            find_images: returns the images, once for each of the two.
            on_result: called with each result.

        Raises:
            CheckpointError: the file gives another class for an image.
            NoImagesError: no image could be classified.
            UnavailableError: the images have changed in between.
        """
        count = len(self._source.labels)
        comparison = Comparison({index: index for index in range(count)})
        streams = []
        for runner in (self._source.runner, ModelRunner(self._network, RunnerOptions(device="cpu"))):
            assert runner.activation is not None  # there are labels
            to_results = Postprocessor("", self._source.labels, runner.activation, top_k=count).to_results
            streams.append(runner.map_batches(to_results, find_images()))
        with closing(streams[0]), closing(streams[1]):
            for first, second in pair_results(*streams):
                comparison.add(first, second)
                on_result(second)
        if not comparison.compared:
            failures = [each.other for each in comparison.failures if each.other]
            raise NoImagesError(
                "no image could be classified that the file was to be checked on",
                hint=f"{comparison.failures[0].source}: {failures[0].message}" if failures else "give other images",
            )
        if comparison.num_changed:
            names = ", ".join(repr(change.source) for change in comparison.changed[:3])
            raise self._refuse(
                f"{comparison.num_changed} of {comparison.compared} images have another class, such as {names}; "
                f"the largest difference of a probability is {comparison.largest_change:.2g}"
            )
        return comparison

    def _open(self) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
        """Returns a function from crops to all outputs of the file."""
        backends = self._network.backends
        if backends.open_session is not None:
            session = backends.open_session(SessionConfig(threads=2))
            names = [output.name for output in session.get_outputs()]
            return lambda crops: dict(zip(names, session.run(names, {"crops": crops}), strict=True))
        import torch

        assert backends.build_torch is not None
        program = backends.build_torch().eval()

        def run(crops: NDArray[np.uint8]) -> dict[str, Any]:
            with torch.inference_mode():
                return {name: value.numpy() for name, value in program(torch.from_numpy(crops)).items()}

        return run

    def _differences(
        self, found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]
    ) -> list[float]:
        """Returns the largest difference of a probability: of those that follow from logits, and of the file's."""
        import numpy as np

        activation = self._source.activation
        return [
            float(np.abs(activation.apply(array) - activation.apply(expected[name])).max())
            if name == LOGITS
            else float(np.abs(array - expected[name]).max())
            for name, array in found.items()
            if name != FEATURES
        ]

    def _compare_features(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        import numpy as np

        difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
        if not difference <= _MAX_FEATURE_DIFFERENCES[self._dtype]:
            raise self._refuse(f"its features differ by {difference:.2g} of the largest")

    def _refuse(self, reason: str) -> CheckpointError:
        hint = "please report the error; another format may work"
        if self._dtype != "float32":
            hint = f"leave out --dtype: this network needs more than {self._dtype}"
        return CheckpointError(f"the exported file is not written, since it is not right: {reason}", hint=hint)
