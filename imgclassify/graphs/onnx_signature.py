"""Reads the inputs and outputs of an ONNX graph, and which operators compute its outputs, without onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from imgclassify.errors import CheckpointError
from imgclassify.graphs import protobuf

# onnx.proto: the numbers of the fields that are used here.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS, _ATTRIBUTE_STRINGS = 1, 8, 9
_GRAPH_FIELDS = (_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT)
_TENSOR_DIMS, _TENSOR_NAME = 1, 8
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIM = 1
_DIM_VALUE, _DIM_NAME = 1, 2
_ELEMENTS = (
    *("", "float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "double"),
    *("uint32", "uint64", "complex64", "complex128", "bfloat16"),
)
"""The types of TensorProto.DataType, by their numbers."""

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
_PER_PIXEL = {"Cast", "Identity", *_BINARY, "QuantizeLinear", "DequantizeLinear"}
"""Operators that change each number of an image by itself."""
_CHANNELS_FIRST = [0, 3, 1, 2]
"""The permutation from (N, H, W, C) to (N, C, H, W)."""
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
    """In onnxruntime's words, such as "tensor(float)". Empty if it is no tensor."""
    shape: Sequence[Side]


class Layout(NamedTuple):
    """What the nodes behind the input of a graph tell of its images. None where they do not tell."""

    channels_last: bool | None = None
    channels: int | None = None


class Signature(NamedTuple):
    """What a graph says of itself before it runs."""

    inputs: list[Value]
    """Without those that have a value in the graph."""
    outputs: list[Value]
    operators: dict[str, str]
    """Output → the operator that computes its values, such as "Softmax". Those that only change a shape, a type or
    a constant factor do not count. Empty if it is not known."""
    layout: Layout
    class_names: list[str]
    """The classes that ZipMap names, in order. Empty if there are none, or if they are numbers."""


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


def no_image_input(name: str, inputs: Sequence[Value]) -> CheckpointError:
    """Returns the error for a graph that `find_image_input` finds no image input of.

    Args:
        name: names the graph.
    """
    listed = ", ".join(f"{each.name} ({each.type or 'of another type'} {list(each.shape)})" for each in inputs)
    return CheckpointError(
        f"{name} does not take one batch of images, but {listed or 'nothing'}",
        hint="use a graph that takes (N, C, H, W) or (N, H, W, C), float or uint8, with 3 channels or 1"
        + (", and nothing else: make the other inputs constants when you export it" if len(inputs) > 1 else ""),
    )


def find_image_input(inputs: Sequence[Value], layout: Layout) -> ImageInput | None:
    """Returns the only input, if it is a batch of images: (N, C, H, W) or (N, H, W, C), with one or three channels.

    Any side may be symbolic. If both sides that can be the channels are, their names decide, or the nodes behind
    the input, or else the channels are first.

    Args:
        inputs: those of the graph, or of a session of it.
        layout: Signature.layout.
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
    told = [index for index in possible if index == 2] if layout.channels_last else []
    channel = (named or told or possible)[0]
    channels = sides.pop(channel)
    if not isinstance(channels, int):
        channels = layout.channels
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
    found: dict[int, list[memoryview]] = {number: [] for number in _GRAPH_FIELDS}
    for graph in _messages([model], _MODEL_GRAPH):
        for field in protobuf.iter_fields(graph):
            if field.number in found and not isinstance(field.value, int):
                found[field.number].append(field.value)
    initializers = {_text(tensor, _TENSOR_NAME): tensor for tensor in found[_GRAPH_INITIALIZER]}
    values = [_parse_value(value) for value in found[_GRAPH_INPUT]]
    inputs = [value for value in values if value.name not in initializers]
    nodes = _Nodes(found[_GRAPH_NODE], initializers)
    outputs = [_parse_value(value) for value in found[_GRAPH_OUTPUT]]
    return Signature(
        inputs,
        outputs,
        {value.name: nodes.find_operator(value.name) for value in outputs},
        nodes.find_layout(inputs[0].name) if inputs else Layout(),
        nodes.class_names,
    )


class _Nodes:
    """The nodes of a graph, by the values that they compute and that they take."""

    def __init__(self, nodes: Iterable[memoryview], initializers: Mapping[str, memoryview]) -> None:
        self._initializers = initializers
        self._constants = set(initializers)
        self._producers: dict[str, tuple[str, list[str]]] = {}
        self._users: dict[str, tuple[str, list[str], list[str], memoryview]] = {}
        """Value → (operator, inputs, outputs, node) of the first node that takes it."""
        self.class_names: list[str] = []
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
            if operator == "ZipMap":
                self.class_names = _find_texts(node, "classlabels_strings")
            if operator == "Constant":
                self._constants.update(outputs)
            elif domain in _KNOWN_DOMAINS:
                self._producers |= dict.fromkeys(outputs, (operator, inputs))
                for name in inputs:
                    self._users.setdefault(name, (operator, inputs, outputs, node))

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
            if operator == "Div" and inputs[0] in self._constants:  # such as 1 / (1 + exp(-x))
                return found or operator
            if operator in _PROBABILITY:
                found = found or operator
            elif operator not in _RESHAPING and operator not in _SCALING:
                return found or operator
            value = data[0]
        return found

    def find_layout(self, value: str) -> Layout:
        """Walks from the input to the first convolution, whose weight has the number of channels."""
        channels_last = None
        while value in self._users:
            operator, inputs, outputs, node = self._users[value]
            if operator == "Transpose":
                if _find_perm(node) != _CHANNELS_FIRST:
                    break
                channels_last = True
            elif operator == "Conv" and len(inputs) > 1 and inputs[1] in self._initializers:
                dims = _find_numbers(self._initializers[inputs[1]], _TENSOR_DIMS)
                return Layout(channels_last or False, dims[1] if dims[1:2] in ([1], [3]) else None)
            elif operator not in _PER_PIXEL:
                break
            value = outputs[0]
        return Layout(channels_last)


def _find_perm(node: memoryview) -> list[int]:
    for attribute in _messages([node], _NODE_ATTRIBUTE):
        if _text(attribute, _ATTRIBUTE_NAME) == "perm":
            return _find_numbers(attribute, _ATTRIBUTE_INTS)
    return []


def _find_texts(node: memoryview, attribute: str) -> list[str]:
    found = (each for each in _messages([node], _NODE_ATTRIBUTE) if _text(each, _ATTRIBUTE_NAME) == attribute)
    return [text for each in found for text in _texts(each, _ATTRIBUTE_STRINGS)]


def _find_numbers(message: memoryview, number: int) -> list[int]:
    values = (field.value for field in protobuf.iter_fields(message) if field.number == number)
    return [each for value in values for each in protobuf.parse_numbers(_as_plain(value))]


def _as_plain(value: int | memoryview) -> int | bytes:
    return value if isinstance(value, int) else bytes(value)


def _parse_value(message: memoryview) -> Value:
    kind, shape = "", []
    for tensor in _messages(_messages([message], _VALUE_TYPE), _TYPE_TENSOR):
        kind = f"tensor({_element_name(_number(tensor, _TENSOR_ELEMENT) or 0)})"
        shape = [
            _text(dim, _DIM_NAME) or _number(dim, _DIM_VALUE)
            for dim in _messages(_messages([tensor], _TENSOR_SHAPE), _SHAPE_DIM)
        ]
    return Value(_text(message, _VALUE_NAME), kind, shape)


def _element_name(number: int) -> str:
    return _ELEMENTS[number] if number < len(_ELEMENTS) else ""


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
