"""Runs ONNX graphs with onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imgclassify.engines import devices
from imgclassify.engines.engine import LinearHead, Outputs, check_form
from imgclassify.errors import CheckpointError, DeviceError, OutputError, describe_error
from imgclassify.graphs.session import HEAD_BIAS, HEAD_WEIGHT, LOGITS, SessionConfig, find_logits, value_name

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec

_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16"}

_MAX_CONCURRENCY = 8
"""The most calls at the same time. From twice as many processors on, each call computes with several
threads."""


class OnnxruntimeEngine:
    """Runs an ONNX graph, and passes crops in the form that its single input takes.

    - (N, H, W, 3) uint8: crops are passed unchanged. The graph is assumed to normalise them.
    - (N, 3, H, W) or (N, H, W, 3) float: crops are scaled and normalised first.

    If the graph has a fixed batch size, it is run with batches of that size.
    """

    name = "onnxruntime"
    default_batch_size = 4

    def __init__(
        self,
        open_session: Callable[[SessionConfig], onnxruntime.InferenceSession],
        preprocess: PreprocessSpec,
        *,
        name: str,
        device: str = "auto",
        dtype: str = "float32",
        outputs: tuple[str, ...] = (LOGITS,),
        num_images: int | None = None,
    ) -> None:
        """Opens the graph.

        Args:
            open_session: opens the onnxruntime session.
            name: the name of the graph in errors.
            outputs: some of engine.OUTPUTS.
            num_images: expected number of images, if known.

        Raises:
            DeviceError: the device is not the CPU, or the dtype is not that of the graph.
            CheckpointError: the graph's input is not a batch of images of the crop size.
            OutputError: the graph does not have one of the outputs.
        """

        if device not in ("auto", "cpu"):
            raise DeviceError(
                f"the onnxruntime engine runs on the CPU only, not on {device!r}", hint="use --device cpu"
            )
        self._name = name
        plan, self.concurrency = _session_config(num_images)
        extra = tuple(output for output in outputs if output != LOGITS)
        self._open_session = open_session
        self._session = open_session(plan._replace(extra_outputs=extra))
        self._values = _session_values(self._session, extra)
        self._input = self._image_input(preprocess.crop_size)
        self.device = "cpu"
        self.dtype = _FLOATS.get(self._input.type, "float32")
        # float32 is the default, and so it does not mean that the user chose it.
        if dtype not in ("float32", self.dtype):
            raise DeviceError(
                f"{name} computes in its own dtype, {self.dtype}, not in {dtype}", hint="leave out --dtype"
            )
        self._batch_size = self._input.shape[0] if isinstance(self._input.shape[0], int) else None
        self._channels_last = self._input.shape[3] == 3
        self._takes_bytes = self._input.type == "tensor(uint8)"
        self._preprocess = preprocess

    def allocate(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """See Engine.allocate."""
        import numpy as np

        return np.empty(shape, np.uint8)

    def infer(self, crops: NDArray[np.uint8]) -> Outputs:
        """See Engine.infer.

        Raises:
            CheckpointError: the graph cannot process the crops, or does not return (N, classes).
        """
        import numpy as np

        images = crops if self._takes_bytes else self.normalize_crops(crops)
        size = self._batch_size or len(images)
        batches = [self._run_batch(images[start : start + size], size) for start in range(0, len(images), size)]
        return {
            name: np.concatenate([batch[name] for batch in batches]).astype(np.float32, copy=False)
            for name in self._values
        }

    def read_head(self) -> LinearHead:
        """See Engine.read_head."""
        import numpy as np

        weight = self._compute_constant(HEAD_WEIGHT)
        try:
            return LinearHead(weight, self._compute_constant(HEAD_BIAS))
        except OutputError:
            return LinearHead(weight, np.zeros(len(weight), np.float32))

    def _compute_constant(self, name: str) -> NDArray[np.float32]:
        """Computes a value that does not depend on the images, in a session of its own."""
        import numpy as np

        session = self._open_session(SessionConfig(threads=1, single_run=True, extra_outputs=(name,)))
        height, width = self._preprocess.crop_size
        crops = np.zeros((self._batch_size or 1, height, width, 3), np.uint8)
        images = crops if self._takes_bytes else self.normalize_crops(crops)
        return np.asarray(session.run([value_name(name)], {self._input.name: images})[0], np.float32)

    def normalize_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """Scales and normalises crops: `(x / 255 - mean) / std`, computed in float32.

        Args:
            crops: (N, H, W, 3) uint8.

        Returns:
            The graph's input, in its layout and its float type.
        """
        import numpy as np

        mean, std = np.array(self._preprocess.mean, np.float32), np.array(self._preprocess.std, np.float32)
        images = (crops.astype(np.float32) / np.float32(255) - mean) / std
        if not self._channels_last:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return images.astype(_FLOATS[self._input.type], copy=False)

    def _run_batch(self, images: NDArray[Any], size: int) -> dict[str, NDArray[Any]]:
        import numpy as np

        count = len(images)
        if count < size:
            images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        try:
            arrays = self._session.run(list(self._values.values()), {self._input.name: images})
        except Exception as error:  # onnxruntime's exceptions have no other base class in common
            height, width = images.shape[1:3] if images.shape[3] == 3 else images.shape[2:4]
            raise CheckpointError(
                f"{self._name} cannot process crops of {height}×{width}: {describe_error(error)}",
                hint="give the --crop-size that the model was trained with",
            ) from error
        outputs = dict(zip(self._values, map(np.asarray, arrays), strict=True))
        for name, output in outputs.items():
            check_form(name, output.shape, size, self._name)
        return {name: output[:count] for name, output in outputs.items()}

    def _image_input(self, crop_size: tuple[int, int]) -> Any:
        """Returns the graph's only input.

        Raises:
            CheckpointError: it is not a batch of images, or the images are not of the crop size.
        """
        inputs = self._session.get_inputs()
        only = inputs[0]
        shape = only.shape
        form = f"{only.type} {shape}"
        image = (
            len(inputs) == 1
            and len(shape) == 4
            and (
                (only.type == "tensor(uint8)" and shape[3] == 3)
                or (only.type in _FLOATS and 3 in (shape[1], shape[3]))
            )
        )
        if not image:
            raise CheckpointError(
                f"{self._name} takes {len(inputs)} inputs, the first {form}, not one batch of images",
                hint="use a graph that takes (N, 3, H, W) or (N, H, W, 3) floats, or (N, H, W, 3) uint8",
            )
        sides = shape[1:3] if shape[3] == 3 else shape[2:4]
        for side, wanted in zip(sides, crop_size, strict=True):
            if isinstance(side, int) and side != wanted:
                raise CheckpointError(
                    f"{self._name} takes images of {sides[0]}×{sides[1]}, but the preprocessing crops to "
                    f"{crop_size[0]}×{crop_size[1]}",
                    hint=f"add --crop-size {sides[0]}, and the --resize-size that the model was trained with",
                )
        return only


def _session_values(session: onnxruntime.InferenceSession, extra: tuple[str, ...]) -> dict[str, str]:
    """Returns the names in the session of the outputs to compute, by their names in `engine.OUTPUTS`."""
    added = {output: value_name(output) for output in extra}
    own = [output.name for output in session.get_outputs() if output.name not in added.values()]
    logits = find_logits(own) or ("" if extra else own[0])
    return ({LOGITS: logits} if logits else {}) | added


def _session_config(num_images: int | None) -> tuple[SessionConfig, int]:
    """Returns (how to compute, number of calls at the same time).

    A single image is computed on all processors. Otherwise there is one call for each processor, at most
    _MAX_CONCURRENCY. Separate calls lose no time waiting for one another.
    """
    cores = devices.count_cores()
    if num_images == 1:
        return SessionConfig(threads=cores, single_run=True), 1
    concurrency = min(cores, _MAX_CONCURRENCY)
    return SessionConfig(threads=max(1, cores // concurrency)), concurrency
