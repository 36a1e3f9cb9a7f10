"""The onnxruntime engine: .onnx files, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify.errors import CheckpointError, DeviceError, first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec

_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16"}


class OnnxruntimeEngine:
    """An .onnx file, fed by the form of its one input.

    (N, H, W, 3) uint8: normalisation is taken to be in the graph, and crops go in as they are.
    (N, 3, H, W) or (N, H, W, 3) float: crops are scaled and normalised first. A batch size fixed in the graph
    is kept to. A graph that ends in softmax is read as its logarithm, whose softmax it is again.
    """

    name = "onnxruntime"
    default_batch_size = 8

    def __init__(
        self, path: Path, preprocess: PreprocessSpec, *, device: str = "auto", dtype: str = "float32"
    ) -> None:
        """Opens the file.

        Raises:
            DeviceError: a device other than the CPU, or a dtype that is not the file's.
            CheckpointError: the file is damaged, or its input is not an image's.
        """
        import numpy as np
        import onnxruntime

        if device not in ("auto", "cpu"):
            raise DeviceError(f"the onnxruntime engine runs on the CPU, not on {device!r}", hint="use --device cpu")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CheckpointError(
                f"cannot read {str(path)!r} as .onnx: {first_line(error)}",
                hint="export or fetch the file again",
            ) from error
        self._path = path
        self._input = self._only_input(preprocess.crop_size)
        self.device = "cpu"
        self.dtype = "float32"
        if dtype != self.dtype:
            raise DeviceError(
                f"the dtype of {str(path)!r} is its own, not {dtype}", hint="leave --dtype at float32"
            )
        self._batch_size = self._input.shape[0] if isinstance(self._input.shape[0], int) else None
        self._channels_last = self._input.shape[3] == 3
        self._raw = self._input.type == "tensor(uint8)"
        self._mean = np.array(preprocess.mean, np.float32)
        self._std = np.array(preprocess.std, np.float32)

    def logits(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Engine.logits.

        Raises:
            CheckpointError: what the graph returns is not (N, classes).
        """
        import numpy as np

        images = crops if self._raw else self.normalize(crops)
        size = self._batch_size or len(images)
        outputs = [self._run(images[start : start + size], size) for start in range(0, len(images), size)]
        logits = np.concatenate(outputs).astype(np.float32)
        if logits.ndim != 2 or len(logits) != len(crops):
            raise CheckpointError(
                f"{str(self._path)!r} is no image classifier: for {len(crops)} images its first output is "
                f"{logits.shape}, not (N, classes)",
                hint="choose a model that ends in one logit per class",
            )
        return _undo_softmax(logits)

    def normalize(self, crops: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, H, W, 3) uint8 → the graph's float input: `(x / 255 - mean) / std`, computed in float32."""
        import numpy as np

        images = (crops.astype(np.float32) / np.float32(255) - self._mean) / self._std
        if not self._channels_last:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return images.astype(_FLOATS[self._input.type], copy=False)

    def _run(self, images: NDArray[Any], size: int) -> NDArray[Any]:
        import numpy as np

        count = len(images)
        if count < size:
            images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        output = np.asarray(self._session.run(None, {self._input.name: images})[0])
        return output[:count]

    def _only_input(self, crop_size: tuple[int, int]) -> Any:
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
                f"{str(self._path)!r} takes {len(inputs)} inputs, the first {form}, not one batch of images",
                hint="an image classifier takes (N, 3, H, W) floats, or (N, H, W, 3) uint8",
            )
        sides = shape[1:3] if shape[3] == 3 else shape[2:4]
        for side, wanted in zip(sides, crop_size, strict=True):
            if isinstance(side, int) and side != wanted:
                raise CheckpointError(
                    f"{str(self._path)!r} takes images of {sides[0]}×{sides[1]}, but the preprocessing crops to "
                    f"{crop_size[0]}×{crop_size[1]}",
                    hint=f"add --crop-size {sides[0]} (and the --resize-size it was trained with)",
                )
        return only


def _undo_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    if logits.shape[1] > 1 and (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        return np.log(np.maximum(logits, np.finfo(np.float32).tiny))
    return logits
