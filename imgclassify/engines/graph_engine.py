"""Runs ONNX graphs, in whatever opens them: onnxruntime_engine.py and openvino_engine.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

from imgclassify.engines import devices
from imgclassify.engines.engine import LinearHead, Outputs, check_form
from imgclassify.engines.onnx_outputs import as_array, as_rows, describe_array
from imgclassify.engines.output_choice import choose_output, wrong_form
from imgclassify.errors import CheckpointError, OutputError, describe_error
from imgclassify.graphs.onnx_signature import (
    FLOATS,
    ImageInput,
    Layout,
    Signature,
    Value,
    find_image_input,
    no_image_input,
)
from imgclassify.graphs.session import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    LOGITS,
    GraphSession,
    SessionConfig,
    find_logits,
    value_name,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec, Size


_MAX_CONCURRENCY = 8
"""The most calls at the same time. From twice as many processors on, each call computes with several threads."""


_BATCH_SIZE, _MAX_BATCH_SIZE = 4, 32
"""Batch sizes on the CPU, for crops of 224×224 and for tiny ones."""


class AboutGraph(TypedDict, total=False):
    """What is known of a graph, and what is wanted of it."""

    name: Required[str]
    """The name of the graph in errors."""
    outputs: tuple[str, ...]
    """Some of engine.OUTPUTS. LOGITS if it is not given."""
    output_name: str | None
    """The output of the graph that holds the logits, if the user names one."""
    label_names: Sequence[str] | None
    """The names of the classes; None if there are none, and any output will do."""
    signature: Signature | None
    """What the graph says of its inputs and outputs, if it was read."""
    num_outputs: int | None
    """The number of logits of an image, if it is known."""


class GraphEngine:
    """Runs an ONNX graph, and passes crops in the form that its single input takes (onnx_signature.ImageInput).

    - uint8: crops are passed unchanged. The graph is assumed to normalise them.
    - float: crops are scaled and normalised first.

    If the graph has a fixed batch size, it is run with batches of that size.
    """

    name: str
    device: str
    dtype: str
    default_batch_size: int
    concurrency: int

    def __init__(
        self,
        open_session: Callable[[SessionConfig], GraphSession],
        config: SessionConfig,
        preprocess: PreprocessSpec,
        **about: Unpack[AboutGraph],
    ) -> None:
        """Opens the graph.

        Args:
            open_session: opens the graph with the settings that it is given.

        Raises:
            CheckpointError: the graph's input is not a batch of images of the crop size, or no output is a row of
                numbers for each image.
            UsageError: the graph has several outputs that may be the logits.
            OutputError: the graph does not have one of the outputs.
        """
        self._name = about["name"]
        self._label_names = about.get("label_names")
        self._num_outputs = about.get("num_outputs")
        output_name, signature = about.get("output_name"), about.get("signature")
        extra = tuple(output for output in about.get("outputs", ()) if output != LOGITS)
        self._open_session = open_session
        self._session = open_session(config._replace(extra_outputs=extra, logits=output_name))
        self._preprocess = preprocess
        self._input = self._image_input(signature.layout if signature else Layout())
        self.fixed_batch = self._input.batch_size
        added = {output: value_name(output) for output in extra}
        own = [output.name for output in self._session.get_outputs() if output.name not in added.values()]
        logits = self._choose_logits(own, output_name, may_lack=bool(extra))
        self.operator = signature.operators.get(logits or "", "") if signature else ""
        self._values = ({LOGITS: logits} if logits else {}) | added

    @property
    def _own_dtype(self) -> str:
        """The dtype of the graph itself."""
        return "float16" if FLOATS.get(self._input.type) == "float16" else "float32"

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

        images = self._to_input(crops)
        size = self.fixed_batch or self._images_per_run(len(images))
        batches = [self._run_batch(images[start : start + size], size) for start in range(0, len(images), size)]
        return {
            name: np.concatenate([batch[name] for batch in batches]).astype(np.float32, copy=False)
            for name in self._values
        }

    def _images_per_run(self, batch_size: int) -> int:
        """Returns the number of images that the graph is run with at a time. It is filled up with black ones."""
        return batch_size

    def read_head(self) -> LinearHead:
        """See Engine.read_head."""
        import numpy as np

        try:
            return LinearHead(*self._compute_constants(HEAD_WEIGHT, HEAD_BIAS))
        except OutputError:
            [weight] = self._compute_constants(HEAD_WEIGHT)
            return LinearHead(weight, np.zeros(len(weight), np.float32))

    def _compute_constants(self, *names: str) -> list[NDArray[np.float32]]:
        """Computes values that do not depend on the images, in a session of onnxruntime's."""
        import numpy as np
        import onnxruntime

        session: Any = self._open_session(SessionConfig(threads=1, single_run=True, extra_outputs=names))
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True  # the rest of the network takes as long as an image
        values = session.run(
            [value_name(name) for name in names], {self._input.name: self._black_images()}, options
        )
        return [np.asarray(value, np.float32) for value in values]

    def _to_input(self, crops: NDArray[np.uint8]) -> NDArray[Any]:
        """Returns the graph's input for crops of (N, H, W, 3), in its layout and its type."""
        import numpy as np

        images: NDArray[Any] = crops[..., : self._input.channels].transpose(0, 3, 1, 2)
        if not self._input.takes_bytes:
            images = _normalize(images, self._preprocess)
        if self._input.channels_last:
            images = images.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images, FLOATS.get(self._input.type, "uint8"))

    def _black_images(self) -> NDArray[Any]:
        """Returns the graph's input for the smallest number of images that it takes, all black."""
        import numpy as np

        return self._to_input(np.zeros((self.fixed_batch or 1, *self._preprocess.crop_size, 3), np.uint8))

    def _run_batch(self, images: NDArray[Any], size: int) -> dict[str, NDArray[Any]]:
        import numpy as np

        count = len(images)
        if count < size:
            images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), images.dtype)])
        outputs = self._run_session(self._values, images)
        for name, output in outputs.items():
            if name != LOGITS:
                check_form(name, output.shape, size, self._name)
        if LOGITS in outputs:
            rows = as_rows(outputs[LOGITS], size)
            if rows is None or self._num_outputs not in (None, 0, rows.shape[1]):
                raise wrong_form({self._values[LOGITS]: describe_array(outputs[LOGITS])}, self._name)
            outputs[LOGITS] = rows
        return {name: output[:count] for name, output in outputs.items()}

    def _run_session(self, values: Mapping[str, str], images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Returns values of the session for images, under the names that they are to have."""
        try:
            found = self._session.run(list(values.values()), {self._input.name: images})
        except OutputError:
            raise
        except Exception as error:  # the exceptions of these libraries have no other base class in common
            height, width = images.shape[1:3] if self._input.channels_last else images.shape[2:4]
            raise CheckpointError(
                f"{self._name} cannot process crops of {height}×{width}: {describe_error(error)}",
                hint="give the --crop-size that the model was trained with"
                if self._input.fixed_size is None
                else "export it again for onnxruntime, with outputs in float32",
            ) from error
        names = self._label_names or ()
        return {name: as_array(value, names) for name, value in zip(values, found, strict=True)}

    def _choose_logits(self, own: list[str], wanted: str | None, *, may_lack: bool) -> str | None:
        """Returns the graph's output that holds the logits, or None if all outputs hold features.

        Args:
            own: the graph's own outputs.
            may_lack: whether the logits are not needed.
        """
        if wanted is None and (len(own) == 1 or self._label_names is None):
            return find_logits(own) or (None if may_lack else own[0])
        # Only a run shows the shapes.
        images = self._black_images()
        found = self._run_session({name: name for name in own}, images)
        return choose_output(
            {name: describe_array(array) for name, array in found.items()},
            num_images=len(images),
            wanted=wanted,
            num_labels=None if self._label_names is None else len(self._label_names),
            network=self._name,
        )

    def _image_input(self, layout: Layout) -> ImageInput:
        """Returns the graph's only input.

        Args:
            layout: Signature.layout.

        Raises:
            CheckpointError: it is not a batch of images, or the images are not of the crop size.
        """
        inputs = [Value(each.name, each.type, each.shape) for each in self._session.get_inputs()]
        image = find_image_input(inputs, layout)
        if image is None:
            raise no_image_input(self._name, inputs)
        crop_size = self._preprocess.crop_size
        for side, wanted in zip(image.size, crop_size, strict=True):
            if isinstance(side, int) and side != wanted:
                raise CheckpointError(
                    f"{self._name} takes images of {image.size[0]}×{image.size[1]}, but the preprocessing crops to "
                    f"{crop_size[0]}×{crop_size[1]}",
                    hint=f"add --crop-size {image.size[0]}, and the --resize-size that the model was trained with",
                )
        if image.channels == 1 and self._preprocess.channel_order != "grey":
            raise CheckpointError(
                f"{self._name} takes grey images, of one channel, not {self._preprocess.channel_order.upper()}",
                hint="give --channel-order grey",
            )
        return image


def _normalize(crops: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[np.float32]:
    """Scales and normalises crops: `(x / 255 - mean) / std`, computed in float32.

    Args:
        crops: (N, C, H, W) uint8, with three channels or one.

    Returns:
        (N, C, H, W).
    """
    import numpy as np

    channels = crops.shape[1]
    images = crops.astype(np.float32, order="C")
    images /= np.float32(255)
    images -= np.array(preprocess.mean[:channels], np.float32)[:, None, None]
    images /= np.array(preprocess.std[:channels], np.float32)[:, None, None]
    return images


def cpu_batch_size(crop_size: Size) -> int:
    """Returns the default batch size on the CPU: few images of a usual size, which fit into the processor's cache,
    and more if they are small, because a call takes some time whatever the size."""
    height, width = crop_size
    return max(_BATCH_SIZE, min(_BATCH_SIZE * 224 * 224 // (height * width), _MAX_BATCH_SIZE))


def divide_cores(num_images: int | None) -> tuple[int, int]:
    """Returns (number of calls at the same time, number of threads of each call) on the CPU.

    A single image is computed on all processors. Otherwise there is one call for each processor, at most
    _MAX_CONCURRENCY. Separate calls lose no time waiting for one another.
    """
    cores = devices.count_cores()
    concurrency = 1 if num_images == 1 else min(cores, _MAX_CONCURRENCY)
    return concurrency, max(1, cores // concurrency)
