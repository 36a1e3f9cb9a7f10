"""Checks an .onnx file before onnxruntime opens it: where it reads weights from, and how many nodes it has."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from imgclassify.checkpoints.storage import MappedFile
from imgclassify.errors import CheckpointError, describe_error, make_printable
from imgclassify.graphs import protobuf
from imgclassify.graphs.onnx_metadata import read_metadata
from imgclassify.graphs.onnx_signature import read_signature

MAX_NODES = 50_000
"""Nodes in a graph after its functions are expanded. Swin's, the largest of torchvision's, has 1,810."""
_MAX_FIELDS = 2**20
"""Protobuf fields in a file. Swin's has 17,755."""
_SHOWN = 100
"""The number of characters of a name that an error shows."""

# onnx.proto: the fields of each message that may contain tensors or nodes, and the fields that hold names.
_WITHIN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
    "StringStringEntryProto": {},
}
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_IN_MEMORY = "_ORT_MEM_ADDR_"
"""onnxruntime uses this location internally: the offset is then an address in its own memory."""

_Function = tuple[bytes, bytes]
"""(domain, name). _MAIN is the graph itself."""
_MAIN: _Function = (b"", b"")


class OnnxFile:
    """An .onnx file that was checked. onnxruntime opens it by its path."""

    def __init__(self, path: Path, *, fetch: Callable[[str], object] | None = None) -> None:
        """
        Args:
            fetch: called with the relative path of each file that holds weights, before it is looked for.

        Raises:
            CheckpointError: the file is damaged, reads weights from outside its own folder, or has more than
                MAX_NODES nodes.
        """
        self.path = path
        try:
            self._file = MappedFile(path)
            locations, calls = _scan_model(self._file.view(0, len(self._file)))
            self.external = {location.decode() for location in locations}
            """Relative paths of the files that hold weights. Empty if all weights are in the graph itself."""
            _check_size(calls)
            self.signature = read_signature(self._file.view(0, len(self._file)))
            """What the graph says of its inputs and outputs."""
            self.metadata = read_metadata(self._file.view(0, len(self._file)))
            """What the exporter wrote about the model, by key."""
            for name in sorted(self.external):
                if fetch is not None:
                    fetch(name)
                _check_location(path, name)
        except (OSError, ValueError) as error:
            raise unreadable_onnx(path, describe_error(error)) from error

    def check_unchanged(self) -> None:
        """Checks that the file has not changed. Call it after onnxruntime has read the file.

        Raises:
            CheckpointError: the file is not the one that was checked.
        """
        if self._file.has_changed:
            raise CheckpointError(
                f"{str(self.path)!r} changed while it was read", hint="run again when it is completely written"
            )


_UPDATE_HINT = "update it with `pip install -U onnxruntime`, or export the graph for an older version"
_OPERATOR_HINT = "export the graph with ONNX's own operators alone: libraries with others are never loaded"
_REFUSALS = (
    (
        r"model IR version: (\d+), max supported IR version: (\d+)",
        "it has IR version {}, and the installed onnxruntime reads versions up to {}",
        _UPDATE_HINT,
    ),
    (
        r"Opset (\d+) is under development.*official support for domain (\S+) is till opset (\d+)",
        "it needs opset {} of {}, and the installed onnxruntime has opsets up to {}",
        _UPDATE_HINT,
    ),
    (r"(\S+)\(-?\d+\) is not a registered function/op", "onnxruntime has no operator {}", _OPERATOR_HINT),
    (
        r"No Op registered for (\S+) with domain_version of (\d+)",
        "onnxruntime has no operator {} in opset {}",
        _OPERATOR_HINT,
    ),
    (r"No opset import for domain '(.*?)'", "it uses operators of {!r} without their version", _OPERATOR_HINT),
    (
        r"External initializer: (\S+) offset.*out of bounds",
        "the file with its weights ends before {}",
        "fetch that file again: it is not complete",
    ),
    (
        r"Could not find an implementation for (\S+?)\(",
        "onnxruntime cannot compute its operator {}",
        _OPERATOR_HINT,
    ),
)
"""What onnxruntime says of graphs that it does not open: (pattern, reason, hint)."""


def unreadable_onnx(path: Path, reason: str) -> CheckpointError:
    """Returns the error for an .onnx file that cannot be read.

    Args:
        reason: the words of onnxruntime, or of this module.
    """
    hint = "export or fetch the file again"
    for pattern, words, next_step in _REFUSALS:
        if found := re.search(pattern, reason, re.DOTALL):
            reason, hint = words.format(*found.groups()), next_step
            break
    return CheckpointError(f"cannot read {str(path)!r} as .onnx: {reason}", hint=hint)


def _scan_model(model: memoryview) -> tuple[set[bytes], dict[_Function, Counter[_Function]]]:
    """Reads all locations of external data in a model, and how often each function calls which others.

    All fields that may contain a tensor are searched. Operators count as functions without content.

    Returns:
        The locations, and for each function the number of its calls by callee.

    Raises:
        ValueError: the model is not a protobuf message, or has too many fields.
    """
    locations: set[bytes] = set()
    calls: dict[_Function, Counter[_Function]] = defaultdict(Counter)
    pending = [("ModelProto", model, _MAIN)]
    count = 0
    while pending:
        kind, message, function = pending.pop()
        inner: list[tuple[str, memoryview]] = []
        names: dict[int, memoryview] = {}
        for field in protobuf.iter_fields(message):
            count += 1
            if count > _MAX_FIELDS:
                raise ValueError(f"it has more than {_MAX_FIELDS:,} fields")
            if not isinstance(field.value, int):
                names[field.number] = field.value
                if field.number in _WITHIN[kind]:
                    inner.append((_WITHIN[kind][field.number], field.value))
        if kind == "FunctionProto":
            function = _function_name(names, _FUNCTION_DOMAIN, _FUNCTION_NAME)
        elif kind == "NodeProto":
            calls[function][_function_name(names, _NODE_DOMAIN, _NODE_OPERATOR)] += 1
        elif kind == "StringStringEntryProto" and bytes(names.get(_ENTRY_KEY, b"")) == b"location":
            locations.add(bytes(names.get(_ENTRY_VALUE, b"")))
        pending += [(kind, value, function) for kind, value in inner]
    return locations, calls


def _function_name(names: dict[int, memoryview], domain: int, name: int) -> _Function:
    return bytes(names.get(domain, b"")), bytes(names.get(name, b""))


def _check_size(calls: dict[_Function, Counter[_Function]]) -> None:
    """Checks the number of nodes that a graph has after its functions are expanded.

    The number can be exponential in the size of the file: each function may call another one twice.

    Raises:
        ValueError: there are more than MAX_NODES.
    """
    sizes: dict[_Function, int] = {}

    def size(function: _Function) -> int:
        if function not in calls:
            return 1
        if function not in sizes:
            sizes[function] = MAX_NODES + 1  # used only if the function calls itself
            sizes[function] = sum(count * size(callee) for callee, count in calls[function].items())
        return sizes[function]

    try:
        nodes = size(_MAIN)
    except RecursionError:
        nodes = MAX_NODES + 1
    if nodes > MAX_NODES:
        raise ValueError(f"its functions expand to more than {MAX_NODES:,} nodes")


def _check_location(path: Path, name: str) -> None:
    """Checks one location of external data.

    Raises:
        CheckpointError: the location is outside the graph's folder, or is not a file.
    """
    shown = repr(make_printable(name, _SHOWN))
    # Paths that lead elsewhere in POSIX or Windows notation are refused on every system.
    elsewhere = PureWindowsPath(name)
    if (
        elsewhere.anchor
        or ".." in elsewhere.parts
        or "\0" in name
        or _IN_MEMORY in name
        or not _is_within_folder(path, name)
    ):
        raise CheckpointError(
            f"{str(path)!r} reads its weights from {shown}, outside its own folder",
            hint="export the graph again, with the weights in its own folder",
        )
    if not (path.parent / name).is_file():
        raise CheckpointError(
            f"{str(path)!r} reads its weights from {shown}, which is not a file in its folder",
            hint="fetch or export that file too",
        )


def _is_within_folder(path: Path, name: str) -> bool:
    """Whether a location leads to the folder of the graph.

    If the graph itself is a link, as in the cache of the Hugging Face hub, its folder is that of its target too.
    """
    target = (path.parent / name).resolve()
    return any(target.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent))
