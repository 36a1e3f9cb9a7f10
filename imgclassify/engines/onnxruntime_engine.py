"""The onnxruntime engine: ONNX graphs, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from imgclassify.engines import LOGITS, Outputs, devices
from imgclassify.errors import CheckpointError, DeviceError, describe_error
from imgclassify.graphs.session import SessionConfig

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec

_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16"}

_MAX_CONCURRENCY = 8
"""Calls at once; where there are more processors, each call computes with several."""


class OnnxruntimeEngine:
    """An ONNX graph, fed by the form of its one input.

    (N, H, W, 3) uint8: normalisation is taken to be in the graph, and crops go in as they are.
    (N, 3, H, W) or (N, H, W, 3) float: crops are scaled and normalised first. A batch size fixed in the graph
    is kept to.
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
        num_images: int | None = None,
    ) -> None:
        """Opens the graph.

        Args:
            open_session: opens the session.
            name: names the graph in errors.
            num_images: how many images it will be asked for, if that is known.

        Raises:
            DeviceError: a device other than the CPU, or a dtype that is not the graph's.
            CheckpointError: the graph's input is not an image's, or its output not a classifier's.
        """

        if device not in ("auto", "cpu"):
            raise DeviceError(f"the onnxruntime engine runs on the CPU, not on {device!r}", hint="use --device cpu")
        self._name = name
        plan, self.concurrency = _session_config(num_images)
        self._session = open_session(plan)
        self._input = self._image_input(preprocess.crop_size)
        self.device = "cpu"
        self.dtype = _FLOATS.get(self._input.type, "float32")
        if dtype not in ("float32", self.dtype):
            raise DeviceError(
                f"the dtype of {name} is its own, {self.dtype}, not {dtype}", hint="leave out --dtype"
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
            CheckpointError: what the graph returns is not (N, classes).
        """
        import numpy as np

        images = crops if self._takes_bytes else self.normalize_crops(crops)
        size = self._batch_size or len(images)
        outputs = [self._run_batch(images[start : start + size], size) for start in range(0, len(images), size)]
        return {LOGITS: np.concatenate(outputs).astype(np.float32, copy=False)}

    def normalize_crops(self, crops: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 → the graph's float input: `(x / 255 - mean) / std`, computed in float32."""
        import numpy as np

        mean, std = np.array(self._preprocess.mean, np.float32), np.array(self._preprocess.std, np.float32)
        images = (crops.astype(np.float32) / np.float32(255) - mean) / std
        if not self._channels_last:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return images.astype(_FLOATS[self._input.type], copy=False)

    def _run_batch(self, images: NDArray[Any], size: int) -> NDArray[Any]:
        import numpy as np

        count = len(images)
        if count < size:
            images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        try:
            output = np.asarray(self._session.run(None, {self._input.name: images})[0])
        except Exception as error:  # onnxruntime's exceptions share no other base
            height, width = images.shape[1:3] if images.shape[3] == 3 else images.shape[2:4]
            raise CheckpointError(
                f"{self._name} cannot answer crops of {height}×{width}: {describe_error(error)}",
                hint="give the --crop-size that it was trained with",
            ) from error
        if output.ndim != 2 or len(output) != size:
            raise CheckpointError(
                f"{self._name} is no image classifier: for {size} images its first output is {output.shape}, "
                "not (N, classes)",
                hint="choose a model that ends in one logit per class",
            )
        return output[:count]

    def _image_input(self, crop_size: tuple[int, int]) -> Any:
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
                hint="an image classifier takes (N, 3, H, W) floats, or (N, H, W, 3) uint8",
            )
        sides = shape[1:3] if shape[3] == 3 else shape[2:4]
        for side, wanted in zip(sides, crop_size, strict=True):
            if isinstance(side, int) and side != wanted:
                raise CheckpointError(
                    f"{self._name} takes images of {sides[0]}×{sides[1]}, but the preprocessing crops to "
                    f"{crop_size[0]}×{crop_size[1]}",
                    hint=f"add --crop-size {sides[0]} (and the --resize-size it was trained with)",
                )
        return only


def _session_config(num_images: int | None) -> tuple[SessionConfig, int]:
    """(how to compute, calls at once): all processors for the one picture; else a call for each, since calls waste
    nothing on waiting for one another."""
    cores = devices.count_cores()
    if num_images == 1:
        return SessionConfig(threads=cores, single_run=True), 1
    concurrency = min(cores, _MAX_CONCURRENCY)
    return SessionConfig(threads=max(1, cores // concurrency)), concurrency
