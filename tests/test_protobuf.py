"""The wire format, against Google's own implementation."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from imgclassify.graphs import protobuf

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(
    dims=st.lists(INT64, max_size=5),
    name=st.text(max_size=300),
    data=st.binary(max_size=300),
    kind=st.integers(0, 20),
)
def test_fields_are_googles(dims: list[int], name: str, data: bytes, kind: int) -> None:
    tensor = TensorProto(dims=dims, name=name, raw_data=data, data_type=kind)
    message = tensor.SerializeToString()
    found = list(protobuf.iter_fields(message))
    assert b"".join(field.raw for field in found) == message
    read = [number for field in found if field.number == 1 for number in protobuf.parse_numbers(field.value)]
    assert [number - 2**64 if number >= 2**63 else number for number in read] == dims
    assert [field.value for field in found if field.number == 8] == [name.encode()]
    assert [field.value for field in found if field.number == 9] == [data]


@given(number=st.integers(0, 2**63 - 1), text=st.binary(max_size=300))
def test_what_is_encoded_is_read_by_google(number: int, text: bytes) -> None:
    message = protobuf.encode_field(1, number) + protobuf.encode_field(9, text)
    tensor = TensorProto.FromString(message)
    assert list(tensor.dims) == [number]
    assert tensor.raw_data == text


def test_packed_numbers() -> None:
    packed = b"".join(protobuf.encode_field(1, number)[1:] for number in (1, 300, 2**40))
    assert protobuf.parse_numbers(packed) == [1, 300, 2**40]


def test_numbers_of_fixed_size_are_passed_over() -> None:
    attribute = onnx.helper.make_attribute("alpha", 0.5)
    message = attribute.SerializeToString()
    assert b"".join(field.raw for field in protobuf.iter_fields(message)) == message
    wide = b"\x09" + bytes(range(8)) + protobuf.encode_field(2, 7)
    assert [field.value for field in protobuf.iter_fields(wide)] == [bytes(range(8)), 7]


def test_only_the_fields_asked_for_are_changed() -> None:
    model = onnx.helper.make_model(onnx.helper.make_graph([], "before", [], []), producer_name="me")
    changed = protobuf.replace_fields(
        model.SerializeToString(),
        7,
        lambda graph: protobuf.replace_fields(graph, 2, lambda name: name + b" and after"),
    )
    model.graph.name = "before and after"
    assert onnx.ModelProto.FromString(changed) == model


@pytest.mark.parametrize("message", [b"\x08", b"\x0a\x05abc", b"\x09abc", b"\x0b", b"\x80"])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match="a message"):
        list(protobuf.iter_fields(message))
