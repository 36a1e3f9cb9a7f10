"""Reads the metadata of an ONNX graph: texts by key, which its exporter wrote, without onnxruntime."""

from __future__ import annotations

from imgclassify.graphs import protobuf

# onnx.proto: the fields of ModelProto and StringStringEntryProto that are used here.
_MODEL_DOC_STRING, _MODEL_METADATA = 6, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

DOC_STRING = "doc_string"
"""The key of the description of the model, which is not among the metadata in the file."""
_MAX_BYTES = 2**23
"""Longer texts are left out."""
_OWN, _MAX_OWN_BYTES = b"imgclassify.", 2**26
"""The same limit for the keys of imgclassify. A calibration may have the features of a thousand images."""


def read_metadata(model: memoryview) -> dict[str, str]:
    """Returns the metadata of a ModelProto, and its description under DOC_STRING, if they have a text.

    Raises:
        ValueError: the bytes are not a message.
    """
    found: dict[str, str] = {}
    for field in protobuf.iter_fields(model):
        if isinstance(field.value, int) or not 0 < len(field.value) <= _MAX_OWN_BYTES:
            continue
        if field.number == _MODEL_DOC_STRING and len(field.value) <= _MAX_BYTES:
            found.setdefault(DOC_STRING, _decode(field.value))
        elif field.number == _MODEL_METADATA:
            entry = {part.number: part.value for part in protobuf.iter_fields(field.value)}
            key, value = entry.get(_ENTRY_KEY), entry.get(_ENTRY_VALUE)
            if not (isinstance(key, memoryview) and isinstance(value, memoryview)):
                continue
            if len(field.value) <= _MAX_BYTES or key[: len(_OWN)] == _OWN:
                found[_decode(key)] = _decode(value)
    return found


def _decode(text: memoryview) -> str:
    return str(text, "utf-8", "replace")
