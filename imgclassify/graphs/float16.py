"""Converts an ONNX graph to compute in float16: its weights and what it computes inside, but not its outer edges.

Images stay uint8 and are normalised in float32, and the outputs stay float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgclassify.errors import CheckpointError
from imgclassify.graphs import protobuf
from imgclassify.graphs.graph import BIAS, SCALE, parse_tensor
from imgclassify.graphs.outputs import Node, encode_node, parse_node
from imgclassify.graphs.protobuf import encode_field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# onnx.proto: the numbers of the fields of GraphProto, NodeProto, AttributeProto and TensorProto that are used here.
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_OUTPUT, _NODE_ATTRIBUTE = 2, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TENSOR, _ATTRIBUTE_TYPE = 1, 3, 5, 20
_TYPE_TENSOR = 4
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_VALUE_NAME = 1
_FLOAT, _FLOAT16 = 1, 10

_LARGEST = 65504.0
"""The largest number in float16."""
_HINT = "leave out --dtype: the file is then in float32"


def to_float16(graph: bytes) -> bytes:
    """Returns a GraphProto that computes in float16 between the normalisation and the outputs.

    Parameters, which are external data, become float16 as well: `halve` converts their numbers.

    Raises:
        CheckpointError: a part of the graph cannot be converted.
    """
    nodes = [parse_node(memoryview(each)) for each in _messages(graph, _GRAPH_NODE)]
    outputs = [_text(each, _VALUE_NAME) for each in _messages(graph, _GRAPH_OUTPUT)]
    edge = _find_edge(nodes)
    normalized = next((node.outputs[0] for node in nodes if BIAS in node.inputs), None)
    if normalized is None:
        raise _cannot_convert("it does not normalise its images")
    wide = {normalized: f"{normalized}:float32"} | {name: f"{name}:float16" for name in outputs}

    def convert_node(message: bytes) -> bytes:
        node = parse_node(memoryview(message))
        renamed = protobuf.replace_fields(
            message, _NODE_OUTPUT, lambda name: wide.get(name.decode(), name.decode()).encode()
        )
        return renamed if node.outputs[0] in edge else _convert_constants(node, renamed)

    graph = protobuf.replace_fields(graph, _GRAPH_INITIALIZER, _convert_tensor)
    parts = []
    for field in protobuf.iter_fields(graph):
        if field.number != _GRAPH_NODE or not isinstance(field.value, bytes):
            parts.append(field.raw)
            continue
        parts.append(encode_field(_GRAPH_NODE, convert_node(field.value)))
        if normalized in parse_node(memoryview(field.value)).outputs:
            # ONNX wants each node after those whose values it takes.
            parts.append(encode_node("Cast", [wide[normalized]], normalized, to=_FLOAT16))
    return b"".join([*parts, *(encode_node("Cast", [wide[name]], name, to=_FLOAT) for name in outputs)])


def halve(array: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    """Returns a parameter in float16.

    Raises:
        CheckpointError: a number is too large.
    """
    import numpy as np

    largest = float(np.abs(array).max(initial=0))
    if largest > _LARGEST:
        raise CheckpointError(
            f"{name} has the number {largest:.4g}, and float16 ends at {_LARGEST:.0f}", hint=_HINT
        )
    return array.astype(np.float16)


def _find_edge(nodes: list[Node]) -> set[str]:
    """Returns the values that the normalisation consists of, which stay float32."""
    producers = {output: node for node in nodes for output in node.outputs}
    edge: set[str] = set()
    pending = [output for node in nodes if BIAS in node.inputs for output in node.outputs]
    while pending:
        value = pending.pop()
        if value in producers and value not in edge:
            edge.add(value)
            pending += producers[value].inputs
    return edge


def _convert_constants(node: Node, message: bytes) -> bytes:
    """Returns a NodeProto whose constants and casts to float32 are of float16 instead."""
    if node.operator == "ConstantOfShape" and not node.attributes:
        zero = _encode_tensor(b"", [1], b"\0\0")
        attribute = _encode_attribute(b"value", _ATTRIBUTE_TENSOR, _TYPE_TENSOR, zero)
        return message + encode_field(_NODE_ATTRIBUTE, attribute)
    if node.operator == "Constant" and not any(
        _messages(bytes(each), _ATTRIBUTE_TENSOR) for each in node.attributes
    ):
        raise _cannot_convert("it has constants in an unusual form")

    def convert(attribute: bytes) -> bytes:
        if node.operator == "Cast" and _text(attribute, _ATTRIBUTE_NAME) == "to":
            return _replace_int(attribute, _ATTRIBUTE_INT, _FLOAT, _FLOAT16)
        return protobuf.replace_fields(attribute, _ATTRIBUTE_TENSOR, _convert_tensor)

    return protobuf.replace_fields(message, _NODE_ATTRIBUTE, convert)


def _convert_tensor(message: bytes) -> bytes:
    """Returns a TensorProto of float16, if it is one of float32 and not of the normalisation."""
    import numpy as np

    name, parameter, external = parse_tensor(message)
    if parameter.dtype != "float32" or name in (SCALE, BIAS):
        return message
    if external:
        return _replace_int(message, _TENSOR_DATA_TYPE, _FLOAT, _FLOAT16)
    raw = _messages(message, _TENSOR_RAW_DATA)
    if not raw:
        raise _cannot_convert("it has constants in an unusual form")
    # Large constants, such as those that a mask adds to logits, stand for infinity.
    values = np.clip(np.frombuffer(raw[0], "<f4"), -_LARGEST, _LARGEST).astype("<f2")
    return _encode_tensor(name.encode(), list(parameter.shape), values.tobytes())


def _encode_tensor(name: bytes, shape: list[int], raw: bytes) -> bytes:
    return (
        b"".join(encode_field(_TENSOR_DIMS, side) for side in shape)
        + encode_field(_TENSOR_DATA_TYPE, _FLOAT16)
        + encode_field(_TENSOR_NAME, name)
        + encode_field(_TENSOR_RAW_DATA, raw)
    )


def _encode_attribute(name: bytes, number: int, kind: int, value: int | bytes) -> bytes:
    return encode_field(_ATTRIBUTE_NAME, name) + encode_field(number, value) + encode_field(_ATTRIBUTE_TYPE, kind)


def _replace_int(message: bytes, number: int, old: int, new: int) -> bytes:
    return b"".join(
        encode_field(number, new) if field.number == number and field.value == old else field.raw
        for field in protobuf.iter_fields(message)
    )


def _messages(message: bytes, number: int) -> list[bytes]:
    return [
        field.value
        for field in protobuf.iter_fields(message)
        if field.number == number and isinstance(field.value, bytes)
    ]


def _text(message: bytes, number: int) -> str:
    return next(iter(_messages(message, number)), b"").decode()


def _cannot_convert(reason: str) -> CheckpointError:
    return CheckpointError(f"the graph cannot be converted to float16: {reason}", hint=_HINT)
