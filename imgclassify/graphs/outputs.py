"""Adds outputs to an ONNX graph: what its last linear layer sees, its last spatial map, and that layer's weights.

The layer is found by walking back from the logits. Nothing is exported anew, and no parameter is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from imgclassify.errors import OutputError
from imgclassify.graphs import protobuf
from imgclassify.graphs.protobuf import encode_field
from imgclassify.graphs.session import (
    FEATURE_MAP,
    FEATURES,
    HEAD_BIAS,
    HEAD_WEIGHT,
    find_features,
    find_logits,
    value_name,
)

# onnx.proto: the numbers of the fields of ModelProto, GraphProto, NodeProto, AttributeProto and TensorProto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR = 1, 2, 3, 5
_ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 8, 20
_TYPE_INT, _TYPE_INTS = 2, 7
_ONE = struct.pack("<f", 1.0)
_TENSOR_DIMS, _TENSOR_INT64_DATA, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 7, 8, 9
_VALUE_NAME = 1

_AFTER_HEAD = {
    *("Softmax", "LogSoftmax", "Sigmoid", "Identity", "Dropout", "Cast", "Relu"),
    *("Flatten", "Reshape", "Squeeze", "QuantizeLinear", "DequantizeLinear"),
}
"""Operators between the last linear layer and the network's output."""
_KEEPS_LINEAR = _AFTER_HEAD - {"Relu", "Sigmoid"}
"""After these, `features @ weight.T + bias` still gives the logits, or what softmax makes probabilities of."""
_BEFORE_HEAD = {
    *(
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Gelu",
        "Erf",
        "Mish",
        "Swish",
        "HardSwish",
        "HardSigmoid",
        "Sigmoid",
        "Tanh",
    ),
    *("Softplus", "Clip", "PRelu", "Identity", "Dropout", "Cast", "BatchNormalization", "LayerNormalization"),
    *(
        "InstanceNormalization",
        "GroupNormalization",
        "LpNormalization",
        "Gemm",
        "MatMul",
        "Add",
        "Sub",
        "Mul",
        "Div",
    ),
    *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "QuantizeLinear", "DequantizeLinear"),
    "Gather",  # torch's exporter copies strided tensors with it
}
"""Operators between the pooling and the last linear layer. Of several inputs that depend on the images, the first
is followed."""
_POOLING = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "AveragePool"}
_SPATIAL = {"Conv", "MaxPool", "Add", "Concat"}
"""Operators whose output is a spatial map, if it is flattened next."""


class Node(NamedTuple):
    """A node of a graph."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: list[memoryview]


class Head(NamedTuple):
    """The last linear layer of a graph, a Gemm, MatMul or Conv."""

    node: Node
    bias: str
    """The name of the bias; empty if there is none."""
    linear: bool
    """Whether the outputs follow from `weight @ features + bias` by softmax at most."""

    @property
    def is_convolution(self) -> bool:
        return self.node.operator == "Conv"


class GraphOutputs:
    """The values of a graph that can become outputs."""

    def __init__(
        self, graph: memoryview, logits: str | None = None, *, name_output: Callable[[str], str] = value_name
    ) -> None:
        """
        Args:
            graph: a GraphProto.
            logits: the output that holds the logits. None if its name or its place tells.
            name_output: returns the name that an added output has in the graph.

        Raises:
            ValueError: the bytes are not a message.
        """
        self.names: list[str] = []
        """The graph's own outputs, in order."""
        self._logits = logits
        self._name_output = name_output
        self._initializers: dict[str, memoryview] = {}
        self._producers: dict[str, Node] = {}
        inputs = set()
        for field in protobuf.iter_fields(graph):
            if isinstance(field.value, int):
                continue
            if field.number == _GRAPH_NODE:
                node = parse_node(field.value)
                self._producers |= dict.fromkeys(node.outputs, node)
            elif field.number == _GRAPH_INITIALIZER:
                self._initializers[_text_field(field.value, _TENSOR_NAME)] = field.value
            elif field.number == _GRAPH_INPUT:
                inputs.add(_text_field(field.value, _VALUE_NAME))
            elif field.number == _GRAPH_OUTPUT:
                self.names.append(_text_field(field.value, _VALUE_NAME))
        self._image_values = inputs - self._initializers.keys()
        """The values that depend on the pixels, and not only on the shape, of the images."""
        for name, node in self._producers.items():  # ONNX sorts nodes so that each follows those it depends on
            if node.operator not in ("Shape", "Size") and not self._image_values.isdisjoint(node.inputs):
                self._image_values.add(name)

    def encode(self, outputs: Iterable[str]) -> bytes:
        """Returns the fields of a GraphProto that add these outputs.

        Args:
            outputs: some of FEATURES, FEATURE_MAP, HEAD_WEIGHT and HEAD_BIAS.

        Raises:
            OutputError: the graph does not have such a value, or it cannot be found.
        """
        encode = {
            FEATURES: self._encode_features,
            FEATURE_MAP: self._encode_feature_map,
            HEAD_WEIGHT: self._encode_head_weight,
            HEAD_BIAS: self._encode_head_bias,
        }
        return b"".join(
            encode[output](self._name_output(output))
            + encode_field(_GRAPH_OUTPUT, encode_field(_VALUE_NAME, self._name_output(output).encode()))
            for output in outputs
        )

    def find_head(self) -> Head | None:
        """Returns the last linear layer, found by walking back from the logits. None if there is no single one."""
        value, linear, pooled, bias = self._logits or find_logits(self.names) or "", True, False, ""
        while node := self._producers.get(value):
            data = self._data_inputs(node)
            if node.operator in ("Gemm", "MatMul") and data[:1] == node.inputs[:1] and len(data) == 1:
                return _create_head(node, bias, linear=linear and not pooled and not _is_scaled(node))
            if node.operator == "Conv" and len(data) == 1 and self._is_pointwise_convolution(node):
                return _create_head(node, bias, linear=linear)
            if len(data) != 1:
                return None
            if node.operator == "Add" and not bias:
                [bias] = [name for name in node.inputs if name != data[0]]
            elif self._is_pooling(node):
                pooled = True
            elif node.operator in ("Mul", "Div", "Add", "Sub"):
                linear = False
            elif node.operator in _AFTER_HEAD:
                linear = linear and node.operator in _KEEPS_LINEAR
            else:
                return None
            value = data[0]
        return None

    # The outputs -------------------------------------------------------------------------------------------

    def _encode_features(self, output: str) -> bytes:
        if name := find_features(self.names):
            return encode_node("Identity", [name], output)
        if head := self.find_head():
            seen = head.node.inputs[0]
            if not head.is_convolution:
                return encode_node("Identity", [seen], output)
            pooled = f"{output}.pooled"
            return encode_node("GlobalAveragePool", [seen], pooled) + encode_node("Flatten", [pooled], output)
        raise OutputError(
            "its features cannot be found: no single linear layer computes its logits",
            hint=f"export it with a second output named {FEATURES!r}",
        )

    def _encode_feature_map(self, output: str) -> bytes:
        if FEATURE_MAP in self.names:
            return encode_node("Identity", [FEATURE_MAP], output)
        head = self.find_head()
        name, channels_last = self._find_feature_map(head.node.inputs[0], head) if head else ("", False)
        if not name:
            raise OutputError(
                "it has no spatial map before a pooling layer, or the map cannot be found",
                hint=f"use a convolutional network, or export this one with an output named {FEATURE_MAP!r}",
            )
        if channels_last:
            return encode_node("Transpose", [name], output, perm=[0, 3, 1, 2])
        return encode_node("Identity", [name], output)

    def _encode_head_weight(self, output: str) -> bytes:
        head = self._linear_head()
        weight = head.node.inputs[1]
        if head.is_convolution:
            return encode_node("Flatten", [weight], output)
        if head.node.operator == "Gemm" and _int_attribute(head.node, "transB") == 1:
            return encode_node("Identity", [weight], output)
        return encode_node("Transpose", [weight], output)

    def _encode_head_bias(self, output: str) -> bytes:
        head = self._linear_head()
        if not head.bias:
            raise OutputError("its last layer has no bias", hint="use zeros")
        return encode_node("Identity", [head.bias], output)

    def _linear_head(self) -> Head:
        head = self.find_head()
        if head is None or not head.linear:
            raise OutputError(
                "its logits are not a linear function of its features",
                hint="use a network that ends in a linear layer",
            )
        return head

    # The walk ----------------------------------------------------------------------------------------------

    def _find_feature_map(self, value: str, head: Head) -> tuple[str, bool]:
        """Returns (name of the last spatial map, whether its channels are last). No map has an empty name."""
        if head.is_convolution and not self._reaches_pooling(value):
            return value, False
        flattened = ""
        while node := self._producers.get(value):
            if self._is_pooling(node):
                return node.inputs[0], node.operator == "ReduceMean" and self._axes(node) == (1, 2)
            data = self._data_inputs(node)
            if flattened and (node.operator in _SPATIAL or len(data) != 1):
                if node.operator == "Conv" and self._reaches_pooling(value):
                    value = data[0]
                    continue
                return (flattened, False) if node.operator in _SPATIAL else ("", False)
            if node.operator not in _BEFORE_HEAD or not data or (node.operator == "Add" and len(data) != 1):
                return "", False
            if node.operator == "Gather" and _int_attribute(node, "axis") not in (None, 0):
                return "", False  # it picks one token, such as the class token
            if node.operator in ("Flatten", "Reshape"):
                flattened = flattened or node.inputs[0]
            value = data[0]
        return "", False

    def _reaches_pooling(self, value: str) -> bool:
        """Whether only 1×1 convolutions and operators without weights are between the value and a pooling layer."""
        while node := self._producers.get(value):
            if self._is_pooling(node):
                return True
            data = self._data_inputs(node)
            if not data or not (
                (node.operator in _BEFORE_HEAD and len(data) == 1)
                or (node.operator in ("Mul", "Div"))
                or (node.operator == "Conv" and self._is_pointwise_convolution(node))
            ):
                return False
            value = data[0]
        return False

    def _is_pooling(self, node: Node) -> bool:
        """Whether the node averages over the two spatial dimensions. A norm averages over one."""
        if node.operator == "ReduceMean":
            return self._axes(node) in ((2, 3), (1, 2))
        return node.operator in _POOLING

    def _axes(self, node: Node) -> tuple[int, ...]:
        """Returns the axes of a ReduceMean over four dimensions, ascending; empty if they are not known."""
        if len(node.inputs) > 1:
            axes = self._constant_ints(node.inputs[1])
        else:
            axes = [each for field in node.attributes for each in _ints_attribute(field, "axes")]
        return tuple(sorted(axis % 4 for axis in axes if -4 <= axis < 4))

    def _constant_ints(self, name: str) -> list[int]:
        tensor = self._initializers.get(name)
        if tensor is None and (node := self._producers.get(name)) and node.operator == "Constant":
            for attribute in node.attributes:
                if found := _ints_attribute(attribute, "value_ints"):
                    return found
                tensor = next(iter(_bytes_fields(attribute, _ATTRIBUTE_TENSOR)), tensor)
        return _parse_int64(tensor) if tensor is not None else []

    def _is_pointwise_convolution(self, node: Node) -> bool:
        """Whether a Conv has a kernel of 1×1, by the shape of its weight."""
        weight = self._initializers.get(node.inputs[1])
        if weight is None:
            return False
        dims: list[int] = []
        for field in protobuf.iter_fields(weight):
            if field.number == _TENSOR_DIMS:
                dims += protobuf.parse_numbers(field.value if isinstance(field.value, int) else bytes(field.value))
        return dims[2:] == [1, 1]

    def _data_inputs(self, node: Node) -> list[str]:
        """Returns the inputs of a node that depend on the pixels of the images."""
        return [name for name in node.inputs if name in self._image_values]


def add_outputs(model: bytes, outputs: Iterable[str], name: str, *, logits: str | None = None) -> bytes:
    """Adds outputs to a ModelProto. In a session they have the names that `value_name` returns.

    Args:
        outputs: as in `GraphOutputs.encode`.
        name: names the model in errors.
        logits: as for `GraphOutputs`.

    Raises:
        OutputError: the graph does not have such a value, or it cannot be found.
        ValueError: the bytes are not a message.
    """
    try:
        return protobuf.replace_fields(
            model, _MODEL_GRAPH, lambda graph: graph + GraphOutputs(memoryview(graph), logits).encode(outputs)
        )
    except OutputError as error:
        raise OutputError(f"{name}: {error}", hint=error.hint) from error


def parse_node(message: memoryview) -> Node:
    operator, inputs, outputs, attributes = "", [], [], []
    for field in protobuf.iter_fields(message):
        if isinstance(field.value, int):
            continue
        if field.number == _NODE_INPUT:
            inputs.append(str(field.value, "utf-8"))
        elif field.number == _NODE_OUTPUT:
            outputs.append(str(field.value, "utf-8"))
        elif field.number == _NODE_OPERATOR:
            operator = str(field.value, "utf-8")
        elif field.number == _NODE_ATTRIBUTE:
            attributes.append(field.value)
    return Node(operator, inputs, outputs, attributes)


def encode_node(operator: str, inputs: list[str], output: str, **attributes: int | list[int]) -> bytes:
    """Encodes a node of a GraphProto, with attributes that are integers or lists of them."""
    fields = [encode_field(_NODE_INPUT, name.encode()) for name in inputs]
    fields += [encode_field(_NODE_OUTPUT, output.encode())]
    fields += [encode_field(_NODE_OPERATOR, operator.encode())]
    for name, value in attributes.items():
        attribute = encode_field(_ATTRIBUTE_NAME, name.encode())
        if isinstance(value, int):
            attribute += encode_field(_ATTRIBUTE_INT, value) + encode_field(_ATTRIBUTE_TYPE, _TYPE_INT)
        else:
            attribute += encode_field(_ATTRIBUTE_TYPE, _TYPE_INTS)
            attribute += b"".join(encode_field(_ATTRIBUTE_INTS, each) for each in value)
        fields.append(encode_field(_NODE_ATTRIBUTE, attribute))
    return encode_field(_GRAPH_NODE, b"".join(fields))


def _create_head(node: Node, added: str, *, linear: bool) -> Head:
    """
    Args:
        added: the bias that a separate node adds; empty if there is none.
    """
    own = node.inputs[2] if len(node.inputs) > 2 else ""
    return Head(node, own or added, linear and not (own and added))


def _is_scaled(node: Node) -> bool:
    """Whether a Gemm has factors, or a transposed input."""
    return _int_attribute(node, "transA") == 1 or any(
        value != _ONE
        for attribute in node.attributes
        if _text_field(attribute, _ATTRIBUTE_NAME) in ("alpha", "beta")
        for value in _bytes_fields(attribute, _ATTRIBUTE_FLOAT)
    )


def _int_attribute(node: Node, name: str) -> int | None:
    for attribute in node.attributes:
        if _text_field(attribute, _ATTRIBUTE_NAME) == name:
            for field in protobuf.iter_fields(attribute):
                if field.number == _ATTRIBUTE_INT and isinstance(field.value, int):
                    return field.value
    return None


def _ints_attribute(attribute: memoryview, name: str) -> list[int]:
    if _text_field(attribute, _ATTRIBUTE_NAME) != name:
        return []
    found = []
    for field in protobuf.iter_fields(attribute):
        if field.number == _ATTRIBUTE_INTS:
            found += protobuf.parse_numbers(field.value if isinstance(field.value, int) else bytes(field.value))
    return [_as_signed(number) for number in found]


def _parse_int64(tensor: memoryview) -> list[int]:
    """Returns the numbers of a small TensorProto of int64."""
    found = []
    for field in protobuf.iter_fields(tensor):
        if field.number == _TENSOR_INT64_DATA:
            found += protobuf.parse_numbers(field.value if isinstance(field.value, int) else bytes(field.value))
        elif field.number == _TENSOR_RAW_DATA and not isinstance(field.value, int):
            raw = bytes(field.value)
            found += [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
    return [_as_signed(number) for number in found]


def _as_signed(number: int) -> int:
    """Protobuf encodes a negative int64 as a large number."""
    return number - 2**64 if number >= 2**63 else number


def _bytes_fields(message: memoryview, number: int) -> Iterator[memoryview]:
    for field in protobuf.iter_fields(message):
        if field.number == number and not isinstance(field.value, int):
            yield field.value


def _text_field(message: memoryview, number: int) -> str:
    return next((str(value, "utf-8") for value in _bytes_fields(message, number)), "")
