"""Reads the inputs and outputs of an ONNX graph, and which operators compute its outputs, without onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from imgclassify.graphs import protobuf

# onnx.proto: the numbers of the fields that are used here.
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET = 1, 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_DOMAIN = 1, 2, 4, 7
_GRAPH_FIELDS = (_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT)
_TENSOR_NAME = 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIM = 1
_DIM_VALUE, _DIM_NAME = 1, 2
_ELEMENTS = {1: "float", 2: "uint8", 10: "float16", 11: "double"}

FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
"""onnxruntime's names of the float types → numpy's."""
BYTES = "tensor(uint8)"

_RESHAPING = {
    *("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Transpose"),
    *("QuantizeLinear", "DequantizeLinear", "ZipMap"),
}
"""Operators that leave the values as they are."""
_SCALING = {"Mul", "Div"}
_BINARY = {"Add", "Sub", *_SCALING}
"""Operators that join two branches, unless one of their inputs is constant."""
_PROBABILITY = {"Softmax", "Sigmoid", "HardSigmoid"}
_RANKING = "TopK"
_KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
"""Elsewhere, a node calls a function of the model, and its name says nothing."""

_LONGEST = 2**31
"""A larger side, or one below 1, stands for any number. Some exporters write -1 or 0."""

Side = int | str | None
"""A side of a shape. A name or None stands for any number."""


class Value(NamedTuple):
    """An input or an output of a graph."""

    name: str
    type: str
    """In onnxruntime's words, such as "tensor(float)". Empty if it is of another type than images."""
    shape: Sequence[Side]


class Signature(NamedTuple):
    """What a graph says of itself before it runs."""

    inputs: list[Value]
    """Without those that have a value in the graph."""
    operators: dict[str, str]
    """Output → the operator that computes its values, such as "Softmax". Those that only change a shape, a type or
    a constant factor do not count. Empty if it is not known."""
    ir_version: int
    opsets: dict[str, int]
    """Domain → version. The domain of ONNX's own operators is empty."""


class ImageInput(NamedTuple):
    """The input of a graph that takes a batch of images."""

    name: str
    type: str
    channels_last: bool
    channels: int
    """3, or 1 for grey images."""
    batch_size: int | None
    """None if it takes any number of images."""
    size: tuple[Side, Side]
    """(height, width)."""

    @property
    def takes_bytes(self) -> bool:
        """Whether it takes uint8, 0..255. The graph then normalises the images itself."""
        return self.type == BYTES

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width), if both are fixed."""
        height, width = self.size
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def find_image_input(inputs: Sequence[Value]) -> ImageInput | None:
    """Returns the only input, if it is a batch of images: (N, C, H, W) or (N, H, W, C), with one or three channels.

    Any side may be symbolic. If both sides that can be the channels are, their names decide, or else the channels
    are first.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in {*FLOATS, BYTES}:
        return None
    [(name, kind, shape)] = inputs
    batch, *sides = (side if not isinstance(side, int) or 0 < side <= _LONGEST else None for side in shape)
    fixed = [index for index in (0, 2) if sides[index] in (1, 3)]
    possible = fixed or [index for index in (0, 2) if not isinstance(sides[index], int)]
    if not possible:
        return None
    named = [index for index in possible if _names_channels(sides[index])]
    channel = (named or possible)[0]
    channels = sides.pop(channel)
    return ImageInput(
        name=name,
        type=kind,
        channels_last=channel == 2,
        channels=1 if channels == 1 else 3,
        batch_size=batch if isinstance(batch, int) else None,
        size=(sides[0], sides[1]),
    )


def _names_channels(side: Side) -> bool:
    return isinstance(side, str) and (side.lower() == "c" or "chan" in side.lower())


def read_signature(model: memoryview) -> Signature:
    """Reads the signature of a ModelProto.

    Raises:
        ValueError: the bytes are not a message.
    """
    graph: list[protobuf.Field[memoryview]] = []
    ir_version, opsets = 0, {}
    for field in protobuf.iter_fields(model):
        if field.number == _MODEL_IR_VERSION and isinstance(field.value, int):
            ir_version = field.value
        elif field.number == _MODEL_OPSET and not isinstance(field.value, int):
            domain, version = _text(field.value, _OPSET_DOMAIN), _number(field.value, _OPSET_VERSION)
            opsets[domain] = version or 0
        elif field.number == _MODEL_GRAPH and not isinstance(field.value, int):
            graph = list(protobuf.iter_fields(field.value))
    found: dict[int, list[memoryview]] = {number: [] for number in _GRAPH_FIELDS}
    for field in graph:
        if field.number in found and not isinstance(field.value, int):
            found[field.number].append(field.value)
    initializers = {_text(tensor, _TENSOR_NAME) for tensor in found[_GRAPH_INITIALIZER]}
    inputs = [_parse_value(value) for value in found[_GRAPH_INPUT]]
    nodes = _Nodes(found[_GRAPH_NODE], initializers)
    names = [_text(value, _VALUE_NAME) for value in found[_GRAPH_OUTPUT]]
    return Signature(
        [value for value in inputs if value.name not in initializers],
        {name: nodes.find_operator(name) for name in names},
        ir_version,
        opsets,
    )


class _Nodes:
    """The nodes of a graph, by their outputs."""

    def __init__(self, nodes: Iterable[memoryview], initializers: set[str]) -> None:
        self._constants = set(initializers)
        self._producers: dict[str, tuple[str, list[str]]] = {}
        for node in nodes:
            inputs, outputs, operator, domain = [], [], "", ""
            for field in protobuf.iter_fields(node):
                if isinstance(field.value, int):
                    continue
                if field.number == _NODE_INPUT:
                    inputs.append(str(field.value, "utf-8"))
                elif field.number == _NODE_OUTPUT:
                    outputs.append(str(field.value, "utf-8"))
                elif field.number == _NODE_OPERATOR:
                    operator = str(field.value, "utf-8")
                elif field.number == _NODE_DOMAIN:
                    domain = str(field.value, "utf-8")
            if operator == "Constant":
                self._constants.update(outputs)
            elif domain in _KNOWN_DOMAINS:
                self._producers |= dict.fromkeys(outputs, (operator, inputs))

    def find_operator(self, value: str) -> str:
        """Walks back from an output to the operator that computes its values. Returns "" if it is not known."""
        found = ""
        while value in self._producers:
            operator, inputs = self._producers[value]
            data = [name for name in inputs if name not in self._constants]
            if operator == _RANKING:
                return operator  # also if its values become probabilities later
            if not data or (operator in _BINARY and len(data) > 1):
                return found
            if operator in _PROBABILITY:
                found = found or operator
            elif operator not in _RESHAPING and operator not in _SCALING:
                return found or operator
            value = data[0]
        return found


def _parse_value(message: memoryview) -> Value:
    kind, shape = "", []
    for tensor in _messages(_messages([message], _VALUE_TYPE), _TYPE_TENSOR):
        kind = f"tensor({_ELEMENTS.get(_number(tensor, _TENSOR_ELEMENT) or 0, '')})"
        shape = [
            _text(dim, _DIM_NAME) or _number(dim, _DIM_VALUE)
            for dim in _messages(_messages([tensor], _TENSOR_SHAPE), _SHAPE_DIM)
        ]
    return Value(_text(message, _VALUE_NAME), kind, shape)


def _messages(messages: Iterable[memoryview], number: int) -> Iterator[memoryview]:
    for message in messages:
        for field in protobuf.iter_fields(message):
            if field.number == number and not isinstance(field.value, int):
                yield field.value


def _texts(message: memoryview, number: int) -> Iterator[str]:
    return (str(value, "utf-8") for value in _messages([message], number))


def _text(message: memoryview, number: int) -> str:
    return next(_texts(message, number), "")


def _number(message: memoryview, number: int) -> int | None:
    values = (field.value for field in protobuf.iter_fields(message) if field.number == number)
    return next((value for value in values if isinstance(value, int)), None)
