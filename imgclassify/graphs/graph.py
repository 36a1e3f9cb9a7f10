"""Reads ONNX graphs without weights, and opens them in onnxruntime with the parameters of a checkpoint.

A graph is an architecture at one crop size. models/graphs/ holds the graphs of the catalogued architectures,
which tools/make_graphs.py makes; `models prepare` makes others. A graph takes uint8 crops (N, H, W, 3) and
outputs logits (N, classes). It includes the normalisation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify import checkpoints, paths
from imgclassify.checkpoints import BATCH_COUNTER_SUFFIX, Tensor
from imgclassify.errors import CheckpointError, OutputError, ResourceError, describe_error
from imgclassify.graphs import protobuf
from imgclassify.graphs.session import GraphSession, SessionConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgclassify.catalog import ModelManifest, PreprocessSpec
    from imgclassify.checkpoints import StateDict
    from imgclassify.graphs.openvino_session import OpenvinoSession

METADATA_KEY = "imgclassify"
"""The entry of the graph's metadata that holds its description, as JSON."""
SCALE, BIAS = "normalize.scale", "normalize.bias"
"""The parameters of the normalisation: float32, (1, 3, 1, 1)."""
TRANSFORM_INPUT = "transform_input"
"""torchvision's option of GoogLeNet and Inception."""
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_METADATA_KEYS = {"architecture", "provider", "crop_size", "options", "heads", "unused"}

# onnx.proto: the numbers of the fields of ModelProto, GraphProto and TensorProto that are used here.
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_KEY, _VALUE = 1, 2
_EXTERNAL = 1
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}


class Parameter(NamedTuple):
    """The shape and dtype of a parameter in a graph."""

    shape: tuple[int, ...]
    dtype: str


class Graph:
    """A graph, as it is stored in a file."""

    def __init__(self, path: Path, content: bytes) -> None:
        """
        Raises:
            ValueError: the file is not a graph made by imgclassify.
        """
        self._path = path
        self._content = content
        described = [
            json.loads(entry[2])
            for entry in (_string_fields(value) for value in _field_values(content, _MODEL_METADATA))
            if entry.get(1) == METADATA_KEY.encode()
        ]
        if len(described) != 1 or not described[0].keys() >= _METADATA_KEYS:
            raise ValueError(f"{path.name} is not a graph made by imgclassify")
        self.description: dict[str, Any] = described[0]
        """The metadata, with at least _METADATA_KEYS."""

    @property
    def content(self) -> bytes:
        """The bytes of the file: a ModelProto whose parameters are external data without a place."""
        return self._content

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters that the graph needs, including the two of the normalisation, by name."""
        [graph] = _field_values(self._content, _MODEL_GRAPH)
        found = {}
        for tensor in _field_values(graph, _GRAPH_INITIALIZER):
            name, parameter, external = parse_tensor(tensor)
            if external:
                found[name] = parameter
        return found

    def requirements(self) -> tuple[dict[str, tuple[int, ...]], list[str], dict[str, tuple[int, ...]]]:
        """Returns what a checkpoint must have for this graph.

        Returns:
            (shapes of the parameters by name, the names of those of the heads, shapes of those that are not
            needed). The shapes of the last are not known: they are ().
        """
        shapes = {name: found.shape for name, found in self.parameters.items() if name not in (SCALE, BIAS)}
        heads = [name for name in self.description["heads"] if name in shapes]
        return shapes, heads, dict.fromkeys(self.description["unused"], ())

    @property
    def has_linear_head(self) -> bool:
        """Whether the logits are `features @ weight.T + bias`, with what the last linear layer sees."""
        from imgclassify.graphs.outputs import GraphOutputs  # predict does not need it

        [graph] = _field_values(self._content, _MODEL_GRAPH)
        head = GraphOutputs(memoryview(graph)).find_head()
        return head is not None and head.linear

    def check_parameters(self, state_dict: StateDict, *, source_name: str, num_classes: int | None = None) -> None:
        """Compares a checkpoint's names and shapes with the graph's.

        Raises:
            CheckpointError: names or shapes differ; the first differences are listed.
        """
        wanted = {
            name: self.parameter_shape(name, parameter, num_classes)
            for name, parameter in self.parameters.items()
            if name not in (SCALE, BIAS)
        }
        unused = set(self.description["unused"])
        given = {
            name: shape
            for name, shape in checkpoints.parameter_shapes(state_dict).items()
            if name in wanted or not (name in unused or name.endswith(BATCH_COUNTER_SUFFIX))
        }
        checkpoints.check_matches(
            given, wanted, source_name=source_name, architecture=self.description["architecture"]
        )

    def open_session(
        self,
        state_dict: StateDict,
        preprocess: PreprocessSpec,
        *,
        source_name: str,
        num_classes: int,
        config: SessionConfig,
    ) -> GraphSession:
        """Opens a session of the graph with the parameters of a checkpoint.

        onnxruntime maps the parameters that are stored in the file as the graph needs them. It gets the others
        as arrays.

        Args:
            source_name: names the checkpoint in errors.

        Raises:
            CheckpointError: names, shapes or kinds of numbers differ; the first differences are listed.
        """
        if config.engine == "openvino":
            return self._open_openvino(
                state_dict, preprocess, source_name=source_name, num_classes=num_classes, config=config
            )
        import onnxruntime

        self.check_parameters(state_dict, source_name=source_name, num_classes=num_classes)
        settings = config.session_options()
        given = self._locate_parameters(normalization_parameters(preprocess) | state_dict, source_name)
        folder = (given.file or self._path).parent
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        arrays = list(given.arrays.values())
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
        settings.add_external_initializers(list(given.arrays), values)
        try:
            model = self._with_outputs(self._with_parameters(given, num_classes), config)
            session = onnxruntime.InferenceSession(model, settings, providers=config.providers())
        except OutputError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no other common base
            # If the file has changed, report that as the cause.
            checkpoints.check_unchanged(state_dict, source_name=source_name)
            raise CheckpointError(
                f"onnxruntime cannot run {self._path.name} with {source_name}: {describe_error(error)}",
                hint="use --engine torch, and please report the error",
            ) from error
        # onnxruntime has opened the file by its path, and has read at offsets of the version that was indexed.
        checkpoints.check_unchanged(state_dict, source_name=source_name)
        session.held = arrays  # the session computes with this memory but does not keep it alive
        opened: GraphSession = session
        return opened

    def _open_openvino(
        self,
        state_dict: StateDict,
        preprocess: PreprocessSpec,
        *,
        source_name: str,
        num_classes: int,
        config: SessionConfig,
    ) -> OpenvinoSession:
        """Opens a session of OpenVINO's, which takes a graph with all its parameters in memory."""
        from imgclassify.graphs.onnx_model import MAX_BYTES, OnnxModel
        from imgclassify.graphs.openvino_session import OpenvinoSession

        model = OnnxModel(self, state_dict, preprocess, num_classes=num_classes, source_name=source_name)
        if model.count_bytes({}) > MAX_BYTES:
            raise OutputError(
                f"OpenVINO cannot run {source_name}: its weights are larger than 2 GB",
                hint="use --engine onnxruntime",
            )
        stream = BytesIO()
        model.write(stream, {})
        return OpenvinoSession(self._with_outputs(stream.getvalue(), config), config, name=source_name)

    def _locate_parameters(self, values: Mapping[str, Any], source_name: str) -> _ParameterSources:
        """Finds a source for the numbers of each parameter.

        Raises:
            CheckpointError: the numbers are of another kind than the graph's, or the file ends before them.
        """
        given = _ParameterSources()
        for name, wanted in self.parameters.items():
            value = values[name]
            if isinstance(value, Tensor):
                try:
                    place = value.file_location() if value.dtype == wanted.dtype else None
                    if place and given.add_place(name, *place):
                        continue
                    value = value.to_array()
                except (ValueError, TypeError) as error:
                    raise checkpoints.unreadable_checkpoint(source_name, describe_error(error)) from error
            array = as_dtype(value, wanted.dtype, name, source_name)
            if name in (SCALE, BIAS):
                given.inline[name] = array.tobytes()
            else:
                given.arrays[name] = array
        return given

    def parameter_shape(self, name: str, parameter: Parameter, num_classes: int | None) -> tuple[int, ...]:
        """Returns a parameter's shape for a number of classes, which only the shapes of the heads contain."""
        if num_classes is None or name not in self.description["heads"]:
            return parameter.shape
        return (num_classes, *parameter.shape[1:])

    def _with_outputs(self, model: bytes, config: SessionConfig) -> bytes:
        """Returns the bytes of this graph with the extra outputs."""
        if not config.extra_outputs:
            return model
        from imgclassify.graphs.outputs import add_outputs  # predict does not need it

        return add_outputs(model, config.extra_outputs, self.description["architecture"])

    def _with_parameters(self, given: _ParameterSources, num_classes: int) -> bytes:
        """Returns the graph's bytes, with the number of classes and the sources of its parameters."""

        def fill(tensor: bytes) -> bytes:
            name, parameter, external = parse_tensor(tensor)
            if not external:
                return tensor
            kept = (_TENSOR_NAME, _TENSOR_DATA_TYPE)
            parts = [entry.raw for entry in protobuf.iter_fields(tensor) if entry.number in kept]
            shape = self.parameter_shape(name, parameter, num_classes)
            parts += [protobuf.encode_field(_TENSOR_DIMS, side) for side in shape]
            return b"".join(parts) + given.encode_source(name, self._path)

        return protobuf.replace_fields(
            self._content, _MODEL_GRAPH, lambda graph: protobuf.replace_fields(graph, _GRAPH_INITIALIZER, fill)
        )


@dataclass(slots=True)
class _ParameterSources:
    """The sources of a graph's parameters: a file, the graph's own bytes, or memory."""

    file: Path | None = None
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name → (offset, size) in the file, in bytes."""
    inline: dict[str, bytes] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add_place(self, name: str, path: Path, begin: int, size: int) -> bool:
        """Adds a parameter that is stored in a file. Returns False if onnxruntime cannot name that file."""
        # onnxruntime refuses symbolic links that lead out of the folder, and names that are not valid text.
        file = self.file or path.resolve()
        try:
            str(file).encode()
        except UnicodeEncodeError:
            return False
        self.file = file
        self.places[name] = (begin, size)
        return True

    def encode_source(self, name: str, graph: Path) -> bytes:
        """Returns the fields of a TensorProto that contain the parameter's numbers or name their source."""
        if name in self.inline:
            return protobuf.encode_field(_TENSOR_RAW_DATA, self.inline[name])
        # A parameter in memory must name a file too, although nothing is read from it.
        entries = {"location": (self.file or graph).name}
        if name in self.places:
            begin, size = self.places[name]
            entries |= {"offset": str(begin), "length": str(size)}
        return b"".join(
            protobuf.encode_field(
                _TENSOR_EXTERNAL,
                protobuf.encode_field(_KEY, key.encode()) + protobuf.encode_field(_VALUE, value.encode()),
            )
            for key, value in entries.items()
        ) + protobuf.encode_field(_TENSOR_LOCATION, _EXTERNAL)


def find_graph(manifest: ModelManifest, preprocess: PreprocessSpec) -> Graph | None:
    """Returns the shipped graph of a manifest's architecture with the same options and crop size, or None.

    A graph with `transform_input` also serves a network without: see `undo_transform_input`.
    """
    height, width = preprocess.crop_size
    if height != width:
        return None
    with suppress(ResourceError):
        file = paths.data_folder("models") / "graphs" / f"{manifest.architecture}-{height}.onnx"
        # A name with a slash would lead to a file in another folder.
        if "/" not in manifest.architecture and file.is_file():
            graph = read_graph(Path(str(file)))
            description = graph.description
            wanted = dict(manifest.options)
            if TRANSFORM_INPUT in wanted:
                wanted[TRANSFORM_INPUT] = True
            if (description["provider"], description["options"]) == (manifest.provider, wanted):
                return graph
    return None


def read_graph(path: Path) -> Graph:
    """Reads the graph in a file.

    Raises:
        ResourceError: the file is missing or damaged.
    """
    try:
        return Graph(path, path.read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise ResourceError(
            f"cannot read the graph {path}: {describe_error(error)}",
            hint="reinstall imgclassify: pip install --force-reinstall --no-deps imgclassify",
        ) from error


def undo_transform_input(preprocess: PreprocessSpec) -> PreprocessSpec:
    """Returns a preprocessing whose result is that of the given one after a graph's `transform_input`.

    With this option, torchvision's GoogLeNet and Inception begin with `a * x + b` for each channel, where a is
    std / 0.5 and b is (mean - 0.5) / 0.5 for ImageNet's mean and std.
    """
    factors = [std / 0.5 for std in _IMAGENET_STD]
    terms = [(mean - 0.5) / 0.5 for mean in _IMAGENET_MEAN]
    channels = list(zip(preprocess.mean, preprocess.std, factors, terms, strict=True))
    # (p - mean) / std = a * x + b, solved for x = (p - other_mean) / other_std.
    red, green, blue = ((mean + std * b, std * a) for mean, std, a, b in channels)
    return replace(preprocess, mean=(red[0], green[0], blue[0]), std=(red[1], green[1], blue[1]))


def normalization_parameters(preprocess: PreprocessSpec) -> dict[str, Any]:
    """Returns scale and bias, both (1, 3, 1, 1) float32, so that x * scale + bias = (x / 255 - mean) / std."""
    import numpy as np

    std = np.array(preprocess.std, np.float64).reshape(1, 3, 1, 1)
    mean = np.array(preprocess.mean, np.float64).reshape(1, 3, 1, 1)
    with np.errstate(over="ignore"):  # a user's own mean may be any number; the logits are checked later
        return {SCALE: (1 / (255 * std)).astype(np.float32), BIAS: (-mean / std).astype(np.float32)}


def as_dtype(value: Any, dtype: str, name: str, source_name: str) -> NDArray[Any]:
    """Returns the array in the graph's dtype and in C order, without a copy if it has them already.

    Raises:
        CheckpointError: only one of the two dtypes is a floating-point dtype, or the value is not an array.
    """
    import numpy as np

    if not isinstance(value, np.ndarray) or (value.dtype.kind == "f") != dtype.startswith("float"):
        found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise CheckpointError(
            f"{name} of {source_name} is {found}, but the network computes with {dtype}",
            hint="save the checkpoint of a floating-point network",
        )
    return np.ascontiguousarray(value, dtype).reshape(value.shape)


def parse_tensor(tensor: bytes) -> tuple[str, Parameter, bool]:
    """Returns (name, parameter, whether its numbers are external) of a TensorProto."""
    name, shape, dtype, external = "", [], 0, False
    for entry in protobuf.iter_fields(tensor):
        if entry.number == _TENSOR_DIMS:
            shape += protobuf.parse_numbers(entry.value)
        elif entry.number == _TENSOR_NAME and isinstance(entry.value, bytes):
            name = entry.value.decode()
        elif entry.number == _TENSOR_DATA_TYPE and isinstance(entry.value, int):
            dtype = entry.value
        elif entry.number == _TENSOR_LOCATION:
            external = entry.value == _EXTERNAL
    return name, Parameter(tuple(shape), _DTYPES.get(dtype, f"onnx type {dtype}")), external


def _field_values(message: bytes, number: int) -> list[bytes]:
    return [
        entry.value
        for entry in protobuf.iter_fields(message)
        if entry.number == number and isinstance(entry.value, bytes)
    ]


def _string_fields(message: bytes) -> dict[int, bytes]:
    return {entry.number: entry.value for entry in protobuf.iter_fields(message) if isinstance(entry.value, bytes)}
