"""An ONNX model: a graph without weights, the parameters of a checkpoint, further outputs, and metadata.

It is written in parts, so that no more than one parameter is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from imgclassify import checkpoints
from imgclassify._version import __version__
from imgclassify.checkpoints import Tensor
from imgclassify.errors import describe_error
from imgclassify.graphs import protobuf
from imgclassify.graphs.float16 import halve, to_float16
from imgclassify.graphs.graph import Graph, Parameter, as_dtype, normalization_parameters, parse_tensor
from imgclassify.graphs.outputs import GraphOutputs, encode_node
from imgclassify.graphs.protobuf import encode_field, encode_head
from imgclassify.graphs.session import FEATURES, LOGITS, PROBABILITIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.checkpoints import StateDict

# onnx.proto: the numbers of the fields of each message that are used here.
_MODEL_PRODUCER, _MODEL_PRODUCER_VERSION, _MODEL_GRAPH, _MODEL_METADATA = 2, 3, 7, 14
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_OUTPUT = 2
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE, _DIM_NAME = 1, 1, 2, 1, 1, 2
_KEY, _VALUE = 1, 2
_FLOAT, _EXTERNAL = 1, 1

MAX_BYTES = 2**31 - 1
"""The largest file. This is protobuf's limit."""
_PAGE = 4096
"""Where parameters begin in a file of their own, so that they can be mapped into memory. In bytes."""


class _Numbers(NamedTuple):
    """The numbers of a parameter, which are read when they are written."""

    name: str
    value: Any
    wanted: Parameter
    source_name: str

    @property
    def size(self) -> int:
        """In bytes."""
        import numpy as np

        return math.prod(self.wanted.shape) * np.dtype(self.wanted.dtype).itemsize

    def read(self) -> NDArray[Any]:
        """
        Raises:
            CheckpointError: they cannot be read, or are of another kind than the graph's, or too large.
        """
        value, dtype = self.value, self.wanted.dtype
        if isinstance(value, Tensor):
            try:
                value = value.to_array()
            except (ValueError, TypeError) as error:
                raise checkpoints.unreadable_checkpoint(self.source_name, describe_error(error)) from error
        if dtype != "float16":
            return as_dtype(value, dtype, self.name, self.source_name)
        return halve(as_dtype(value, "float32", self.name, self.source_name), self.name)


class OnnxModel:
    """A model that is being put together. Outputs are added before it is written."""

    def __init__(
        self,
        graph: Graph,
        state_dict: StateDict,
        preprocess: PreprocessSpec,
        *,
        num_classes: int,
        source_name: str,
    ) -> None:
        """
        Args:
            preprocess: says how the graph normalises.
            source_name: names the checkpoint in errors.

        Raises:
            CheckpointError: names or shapes differ from the graph's.
        """
        graph.check_parameters(state_dict, source_name=source_name, num_classes=num_classes)
        self._state_dict = state_dict
        self._values = normalization_parameters(preprocess) | state_dict
        self._source_name = source_name
        self._head = [
            field.raw
            for field in protobuf.iter_fields(graph.content)
            if field.number not in (_MODEL_PRODUCER, _MODEL_PRODUCER_VERSION, _MODEL_GRAPH, _MODEL_METADATA)
        ]
        [content] = [
            field.value
            for field in protobuf.iter_fields(graph.content)
            if field.number == _MODEL_GRAPH and isinstance(field.value, bytes)
        ]

        def set_shape(tensor: bytes) -> bytes:
            name, parameter, external = parse_tensor(tensor)
            if not external:
                return tensor
            return _encode_external(tensor, graph.parameter_shape(name, parameter, num_classes))

        self._graph = protobuf.replace_fields(content, _GRAPH_INITIALIZER, set_shape)

    def add_features(self) -> None:
        """Adds the output FEATURES.

        Raises:
            OutputError: the features cannot be found.
        """
        self._graph += GraphOutputs(memoryview(self._graph), name_output=lambda name: name).encode([FEATURES])

    def convert_to_float16(self) -> None:
        """Makes the model compute in float16, with weights in float16. Call it after `add_features`.

        Raises:
            CheckpointError: a part of the graph cannot be converted.
        """
        self._graph = to_float16(self._graph)

    def add_probabilities(self, activation: str, *, is_pair: bool) -> None:
        """Adds the output PROBABILITIES, which is computed from LOGITS.

        Args:
            activation: "softmax" or "sigmoid".
            is_pair: whether the network has one output for two classes. There are then two probabilities.
        """
        logits = LOGITS
        if is_pair:
            logits = f"{PROBABILITIES}.logits"
            self._graph += encode_node("Neg", [LOGITS], f"{logits}.first")
            self._graph += encode_node("Concat", [f"{logits}.first", LOGITS], logits, axis=1)
        self._graph += encode_node(activation.capitalize(), [logits], PROBABILITIES)
        self._graph += encode_field(_GRAPH_OUTPUT, encode_field(_VALUE_NAME, PROBABILITIES.encode()))

    def replace_logits(self, scale: float, *, is_pair: bool) -> None:
        """Names the output PROBABILITIES, of a network that returns these.

        Args:
            scale: what they are multiplied by first.
            is_pair: as in `add_probabilities`.
        """
        returned = f"{PROBABILITIES}.returned"

        def rename(node: bytes) -> bytes:
            return protobuf.replace_fields(
                node, _NODE_OUTPUT, lambda name: returned.encode() if name == LOGITS.encode() else name
            )

        self._graph = protobuf.replace_fields(self._graph, _GRAPH_NODE, rename)
        factor = self._add_constant("scale", scale)
        scaled = f"{PROBABILITIES}.second" if is_pair else PROBABILITIES
        self._graph += encode_node("Mul", [returned, factor], scaled)
        if is_pair:
            first, one = f"{PROBABILITIES}.first", self._add_constant("one", 1.0)
            self._graph += encode_node("Sub", [one, scaled], first)
            self._graph += encode_node("Concat", [first, scaled], PROBABILITIES, axis=1)

    def _add_constant(self, name: str, value: float) -> str:
        """Adds a number of float32. Returns its name."""
        import numpy as np

        name = f"{PROBABILITIES}.{name}"
        tensor = encode_field(_TENSOR_DATA_TYPE, _FLOAT) + encode_field(_TENSOR_NAME, name.encode())
        tensor += encode_field(_TENSOR_RAW_DATA, np.float32(value).tobytes())
        self._graph += encode_field(_GRAPH_INITIALIZER, tensor)
        return name

    def set_outputs(self, sizes: Mapping[str, int]) -> None:
        """Describes the outputs: each is (n, size) of float32.

        Args:
            sizes: output → size, in order.
        """
        kept = [field.raw for field in protobuf.iter_fields(self._graph) if field.number != _GRAPH_OUTPUT]
        outputs = (encode_field(_GRAPH_OUTPUT, _encode_output(name, size)) for name, size in sizes.items())
        self._graph = b"".join([*kept, *outputs])

    def count_bytes(self, metadata: Mapping[str, str]) -> int:
        """Returns the size of the file if its parameters are in it."""
        return sum(map(_size_of, self._list_parts(metadata, None)))

    def write(self, stream: BinaryIO, metadata: Mapping[str, str], location: str | None = None) -> None:
        """Writes the model.

        Args:
            metadata: texts by key.
            location: the name of the file that `write_data` has written. None writes the parameters too.

        Raises:
            CheckpointError: the checkpoint cannot be read, or has changed since it was opened.
        """
        for part in self._list_parts(metadata, location):
            stream.write(_to_buffer(part.read()) if isinstance(part, _Numbers) else part)
        self._check_unchanged()

    def write_data(self, stream: BinaryIO) -> None:
        """Writes the parameters alone, for a model that is larger than MAX_BYTES.

        Raises:
            CheckpointError: as for `write`.
        """
        end = 0
        for numbers, position in self._find_positions().values():
            stream.write(bytes(position - end))
            stream.write(_to_buffer(numbers.read()))
            end = position + numbers.size
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        checkpoints.check_unchanged(self._state_dict, source_name=self._source_name)

    def _find_positions(self) -> dict[str, tuple[_Numbers, int]]:
        """Returns name → (numbers, where they begin in a file of their own) for each parameter."""
        found: dict[str, tuple[_Numbers, int]] = {}
        end = 0
        for field in protobuf.iter_fields(self._graph):
            if field.number == _GRAPH_INITIALIZER and isinstance(field.value, bytes):
                name, parameter, external = parse_tensor(field.value)
                if external:
                    numbers = _Numbers(name, self._values[name], parameter, self._source_name)
                    found[name] = numbers, end + -end % _PAGE
                    end = found[name][1] + numbers.size
        return found

    def _list_parts(self, metadata: Mapping[str, str], location: str | None) -> list[bytes | _Numbers]:
        """Returns the parts of the ModelProto, in order."""
        positions = self._find_positions()
        graph: list[bytes | _Numbers] = []
        for field in protobuf.iter_fields(self._graph):
            tensor = field.value if field.number == _GRAPH_INITIALIZER else b""
            name = parse_tensor(tensor)[0] if isinstance(tensor, bytes) else ""
            if name not in positions or not isinstance(tensor, bytes):
                graph.append(field.raw)
                continue
            numbers, position = positions[name]
            if location is None:
                graph += _encode_inline(tensor, numbers)
            else:
                place = {"location": location, "offset": str(position), "length": str(numbers.size)}
                external = _encode_external(tensor, numbers.wanted.shape, **place)
                graph.append(encode_field(_GRAPH_INITIALIZER, external))
        return [
            *self._head,
            encode_field(_MODEL_PRODUCER, b"imgclassify"),
            encode_field(_MODEL_PRODUCER_VERSION, __version__.encode()),
            encode_head(_MODEL_GRAPH, sum(map(_size_of, graph))),
            *graph,
            *(encode_field(_MODEL_METADATA, _encode_entry(*entry)) for entry in metadata.items()),
        ]


def _encode_inline(tensor: bytes, numbers: _Numbers) -> list[bytes | _Numbers]:
    """Encodes a TensorProto with its numbers, as a field of a GraphProto."""
    head = _encode_kind(tensor, numbers.wanted.shape) + encode_head(_TENSOR_RAW_DATA, numbers.size)
    return [encode_head(_GRAPH_INITIALIZER, len(head) + numbers.size) + head, numbers]


def _encode_external(tensor: bytes, shape: tuple[int, ...], **place: str) -> bytes:
    """Encodes a TensorProto whose numbers are elsewhere."""
    return (
        _encode_kind(tensor, shape)
        + b"".join(encode_field(_TENSOR_EXTERNAL, _encode_entry(*entry)) for entry in place.items())
        + encode_field(_TENSOR_LOCATION, _EXTERNAL)
    )


def _encode_kind(tensor: bytes, shape: tuple[int, ...]) -> bytes:
    """Returns the name, the type and the shape of a TensorProto."""
    kept = (_TENSOR_NAME, _TENSOR_DATA_TYPE)
    fields = [entry.raw for entry in protobuf.iter_fields(tensor) if entry.number in kept]
    return b"".join([*fields, *(encode_field(_TENSOR_DIMS, side) for side in shape)])


def _encode_entry(key: str, text: str) -> bytes:
    """Encodes a StringStringEntryProto."""
    return encode_field(_KEY, key.encode()) + encode_field(_VALUE, text.encode())


def _encode_output(name: str, size: int) -> bytes:
    """Encodes a ValueInfoProto: (n, size) of float32."""
    sides = encode_field(_DIM_NAME, b"n"), encode_field(_DIM_VALUE, size)
    shape = b"".join(encode_field(_SHAPE_DIM, side) for side in sides)
    tensor = encode_field(_TENSOR_ELEMENT, _FLOAT) + encode_field(_TENSOR_SHAPE, shape)
    kind = encode_field(_TYPE_TENSOR, tensor)
    return encode_field(_VALUE_NAME, name.encode()) + encode_field(_VALUE_TYPE, kind)


def _size_of(part: bytes | _Numbers) -> int:
    return part.size if isinstance(part, _Numbers) else len(part)


def _to_buffer(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view("u1").data
