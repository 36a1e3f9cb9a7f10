"""Finds out by its content what a model file is, and names the kinds of file that imgclassify cannot run.

The first bytes are read. Of a zip archive, the list of contents is read too, and of a protobuf message the numbers
of its outermost fields. The file's name decides only if the content does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from imgclassify.checkpoints import is_safetensors, list_archive
from imgclassify.checkpoints.storage import MappedFile
from imgclassify.errors import CheckpointError, describe_error, short_repr
from imgclassify.graphs import protobuf

ONNX, TORCHSCRIPT, PT2, CHECKPOINT = "onnx", "torchscript", "pt2", "checkpoint"
"""The formats that can be loaded. PT2 is what torch.export saves."""

_HEAD_BYTES = 4096
_SHOWN = 60
"""The number of characters of a text that an error shows."""


class FileKind(NamedTuple):
    """A kind of file that imgclassify cannot run."""

    name: str
    """What the file is, with its article."""
    hint: str


_TO_ONNX = "{} Then give the .onnx file"
_KERAS = _TO_ONNX.format(
    "export it to ONNX with Keras, model.export('model.onnx', format='onnx'), or with "
    "`python -m tf2onnx.convert --keras FILE --output model.onnx`."
)
_TENSORFLOW = _TO_ONNX.format(
    "export it to ONNX: `python -m tf2onnx.convert --saved-model FOLDER --output model.onnx`."
)
_ORIGINAL = "use the model from which it was made: a checkpoint with --arch NAME, or an .onnx file"
_FETCH = "fetch the file itself again, and compare its size with that on the server"
_OTHER_FILE = (
    "give the file with the weights; if this one was downloaded, fetch it again, and compare its size with that on "
    "the server"
)
_UNPACK = "unpack it, and give the file in it: {}"
_STATE_DICT = "save its state_dict with torch: torch.save(model.state_dict(), 'weights.pth')"
_PADDLE = _TO_ONNX.format("export it to ONNX: `paddle2onnx --model_dir FOLDER --save_file model.onnx`.")
_OPENVINO = FileKind("part of an OpenVINO model", _ORIGINAL)
_TENSORRT = FileKind("a TensorRT engine, which runs on one kind of GPU", _ORIGINAL)
_COREML = FileKind("a Core ML model", _ORIGINAL)
_SAVED_MODEL = FileKind("part of a TensorFlow SavedModel", _TENSORFLOW)
_FROZEN_GRAPH = FileKind(
    "a frozen TensorFlow graph",
    _TO_ONNX.format("export it to ONNX: `python -m tf2onnx.convert --graphdef FILE --output model.onnx`."),
)
_MINDSPORE = FileKind("a checkpoint of MindSpore", _TO_ONNX.format("export it to ONNX with mindspore.export."))
_IMAGE = "give images without -m, and a model with it: imgclassify predict IMAGE -m MODEL"
_FASTAI = FileKind(
    "a Learner that fastai exported, which is Python code and data",
    "save the state_dict of its network: torch.save(learn.model.state_dict(), 'weights.pth')",
)

_MAGIC = (
    (0, b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file, such as Keras writes", _KERAS)),
    (4, b"TFL3", FileKind("a TensorFlow Lite model", _ORIGINAL)),
    (0, b"GGUF", FileKind("a GGUF file, which holds weights for llama.cpp and its kind", _ORIGINAL)),
    (0, b"lmgg", FileKind("a GGML file, which holds weights for llama.cpp and its kind", _ORIGINAL)),
    (0, b"ftrt", _TENSORRT),
    (0, b"ptrt", _TENSORRT),
    (2, b'\0\0{"', _TENSORRT),  # as ultralytics writes it: a length, a description in JSON
    (0, b"\x1f\x8b", FileKind("a gzip file, which is compressed", _UNPACK.format("gunzip FILE"))),
    (0, b"BZh", FileKind("a bzip2 file, which is compressed", _UNPACK.format("bunzip2 FILE"))),
    (0, b"\xfd7zXZ\x00", FileKind("an xz file, which is compressed", _UNPACK.format("unxz FILE"))),
    (0, b"\x28\xb5\x2f\xfd", FileKind("a zstd file, which is compressed", _UNPACK.format("unzstd FILE"))),
    (0, b"\x04\x22\x4d\x18", FileKind("an lz4 file, which is compressed", _UNPACK.format("unlz4 FILE"))),
    (0, b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", _UNPACK.format("7z x FILE"))),
    (0, b"Rar!\x1a\x07", FileKind("a RAR archive", _UNPACK.format("unrar x FILE"))),
    (257, b"ustar", FileKind("a tar archive", _UNPACK.format("tar -xf FILE"))),
    (0, b"\x93NUMPY", FileKind("a NumPy array", _STATE_DICT)),
    (0, b"\x12\x01\x00\x00\x00\x00\x00\x00", FileKind("a file of MXNet parameters", _ORIGINAL)),
    (0, b"\xff\xd8\xff", FileKind("a JPEG image", _IMAGE)),
    (0, b"\x89PNG\r\n", FileKind("a PNG image", _IMAGE)),
    (0, b"%PDF", FileKind("a PDF document", _FETCH)),
)
"""(offset, bytes there, kind)."""

_ARCHIVES: tuple[tuple[str, str | FileKind], ...] = (
    (r"(^|.*/)(serialized_exported_program\.json|archive_format)", PT2),
    (r"model\.weights\.h5", FileKind("a Keras model", _KERAS)),
    (r"(^|.*/)saved_model\.pb", FileKind("a zip archive with a TensorFlow SavedModel", _TENSORFLOW)),
    (r".*com\.apple\.CoreML/.*", FileKind("a zip archive with a Core ML model", _ORIGINAL)),
    (r"MAR-INF/.*", FileKind("an archive for TorchServe", _UNPACK.format("unzip FILE"))),
    (r".*\.npy", FileKind("an archive of NumPy arrays", _STATE_DICT)),
)
"""(pattern of a member's whole name, format or kind of a zip archive with such a member)."""
_MODEL_SUFFIXES = (".onnx", ".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".h5", ".tflite")

_TEXTS: tuple[tuple[str, FileKind], ...] = (
    (
        r"version https://git-lfs\.github\.com/",
        FileKind("a Git LFS pointer, not the file that it stands for", "fetch the file: `git lfs pull`"),
    ),
    (
        r"/annex/objects/|\.git/annex/",
        FileKind("a git-annex pointer, not the file that it stands for", "fetch the file: `git annex get FILE`"),
    ),
    (
        r"(outs|md5):",
        FileKind("a DVC pointer, not the file that it stands for", "fetch the file: `dvc pull`, and give its path"),
    ),
    (
        r"(?s)<.*?<?(!doctype )?html\b",
        FileKind("an HTML page, such as a login page or an error page that was saved in place of a file", _FETCH),
    ),
    (r"(?s)<.*<net\b", _OPENVINO),
    (r"<[?!\w]", FileKind("an XML document, such as a server's error message", _FETCH)),
    (
        r'(?s)\{.*"weight_map"',
        FileKind("the index of a checkpoint in several files", "give the folder of the checkpoint: -m ./FOLDER"),
    ),
    (r'(?s)\{.*"modelTopology"', FileKind("a TensorFlow.js model", _ORIGINAL)),
    (
        r'(?s)\{.*"(model_type|architectures?)"',
        FileKind("the configuration of a model, without weights", "give the folder that it is in: -m ./FOLDER"),
    ),
    (r'[\[{]\s*["\[{}\]]', FileKind("a JSON document, such as a server's error message", _FETCH)),
    (r"7767517\s", FileKind("part of an ncnn model", _ORIGINAL)),
)
"""(pattern at the beginning of a text, kind)."""

_LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
"""The number with which torch's older format begins (torch_files.py), as a pickle has it."""
_LEARNER = b"\x80\x02cfastai."
"""The beginning of a pickle that is an object of fastai."""
_PICKLES = (
    (b"fastai", _FASTAI),
    (b"sklearn", FileKind("a pickled model of scikit-learn", "export it to ONNX with skl2onnx")),
    (b"StructuredToParameterName@@", FileKind("a checkpoint of PaddlePaddle", _PADDLE)),
    (b"", FileKind("a Python pickle that torch did not write", _STATE_DICT)),
)
"""(bytes near the beginning, kind of a pickle that torch did not write)."""

_BY_NAME = (
    (r".*\.data-\d{5}-of-\d{5}", FileKind("part of a TensorFlow checkpoint", _TENSORFLOW)),
    (r".*\.ckpt\.(index|meta)", FileKind("part of a TensorFlow checkpoint", _TENSORFLOW)),
    (r".*\.(pdiparams|pdmodel)", FileKind("part of a PaddlePaddle model", _PADDLE)),
    (r".*\.(msgpack|flax)", FileKind("a checkpoint of Flax", _ORIGINAL)),
    (r".*\.weights", FileKind("no checkpoint of torch, but perhaps weights of Darknet", _ORIGINAL)),
    (r".*\.(caffemodel|prototxt)", FileKind("a Caffe model", _ORIGINAL)),
)
"""(pattern of a file's whole name, kind), for content that tells nothing."""
_SHARD = re.compile(r".*-\d{5}-of-(\d{5})\.(safetensors|bin)")

_FOLDERS = (
    ("saved_model.pb", FileKind("a TensorFlow SavedModel", _TENSORFLOW)),
    ("Data/com.apple.CoreML", _COREML),
    ("keras_metadata.pb", FileKind("a Keras model", _KERAS)),
)
"""(path in a folder, kind of such a folder)."""

# onnx.proto: the fields of a ModelProto.
_ONNX_FIELDS = {*range(1, 9), 14, 20, 25, 26}
_ONNX_GRAPH = 7
_COREML_TYPES = range(200, 4000)
"""Model.proto of Core ML: each type of model is a field with a number like this."""
_GRAPH_DEF_FIELDS = {1, 2, 3, 4}
"""graph.proto of TensorFlow: the fields of a GraphDef."""
_MAX_FIELDS = 64
"""Outermost fields that are looked at."""


def find_format(path: Path, name: str) -> str:
    """Returns the format of a model file: ONNX, TORCHSCRIPT, PT2 or CHECKPOINT.

    A file whose content tells nothing, such as a damaged one, has the format that its name says.

    Args:
        name: names the file in errors.

    Raises:
        CheckpointError: the file is of another kind, which the message names, or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        found = _identify(path, head)
    except OSError as error:
        raise CheckpointError(
            f"cannot read {name!r}: {describe_error(error)}", hint="give a file that can be read"
        ) from error
    if isinstance(found, FileKind):
        raise CheckpointError(f"{name!r} is {found.name}", hint=found.hint)
    return found


def require_binary(path: Path) -> None:
    """Checks that a file that should hold weights is not a text, such as a Git LFS pointer.

    Raises:
        CheckpointError: it is a text, or empty.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    kind = _text_kind(head) if head else FileKind("an empty file", _FETCH)
    if kind:
        raise CheckpointError(f"{str(path)!r} is {kind.name}", hint=kind.hint)


def find_folder_kind(path: Path) -> FileKind | None:
    """Returns the kind of a folder that is a model which imgclassify cannot run, or None."""
    return next((kind for member, kind in _FOLDERS if (path / member).exists()), None)


def _identify(path: Path, head: bytes) -> str | FileKind:
    if not head.strip(b"\0"):
        return FileKind("an empty file" if not head else "a file that begins with nothing but zeros", _FETCH)
    if is_safetensors(head):
        return _shard_kind(path) or CHECKPOINT
    if head.startswith(b"PK\3\4"):
        return _identify_archive(path, head)
    if _LEGACY_MAGIC in head[:64]:
        return _FASTAI if _LEARNER in head else CHECKPOINT
    # A description at the beginning of a graph may look like anything else.
    message = _identify_protobuf(path)
    if message == ONNX:
        return ONNX
    for identify in (_magic_kind, _pickle_kind, _msgpack_kind, _text_kind):
        if kind := identify(head):
            return kind
    found = message or _identify_name(path)
    # Each pickle of torch begins with its protocol. What a damaged .safetensors file lacks, its reader says.
    if found == CHECKPOINT and not head.startswith(b"\x80") and path.suffix.lower() != ".safetensors":
        return FileKind("in no format of a model that is known", _OTHER_FILE)
    return found


def _identify_name(path: Path) -> str | FileKind:
    """Tells files apart whose content tells nothing."""
    if path.suffix.lower() == ".onnx":
        return ONNX
    for pattern, kind in _BY_NAME:
        if re.fullmatch(pattern, path.name.lower()):
            return kind
    if path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file():
        return _OPENVINO
    return CHECKPOINT


def _shard_kind(path: Path) -> FileKind | None:
    found = _SHARD.fullmatch(path.name)
    if found is None or int(found[1]) < 2:
        return None
    return FileKind(
        f"one of {int(found[1])} files of a checkpoint", "give the folder of the checkpoint: -m ./FOLDER"
    )


def _magic_kind(head: bytes) -> FileKind | None:
    return next((kind for offset, magic, kind in _MAGIC if head.startswith(magic, offset)), None)


def _pickle_kind(head: bytes) -> FileKind | None:
    if head[0] != 0x80 or head[1:2] not in (b"\2", b"\3", b"\4", b"\5"):
        return None
    return next(kind for mark, kind in _PICKLES if mark in head)


def _msgpack_kind(head: bytes) -> FileKind | None:
    """A dictionary of up to 15 entries, whose first key is a short text: how Flax saves parameters."""
    key = re.match(rb"[\x81-\x8f][\xa1-\xbf]([!-~]+)", head)
    if key and len(key[1]) >= head[1] & 0x1F:
        return FileKind("a msgpack file, such as Flax writes", _ORIGINAL)
    return None


def _text_kind(head: bytes) -> FileKind | None:
    # The last character may be cut off.
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").removesuffix("\ufffd").strip()
    if not text or any(not character.isprintable() and character not in "\t\n\r\f" for character in text):
        return None
    for pattern, kind in _TEXTS:
        if re.match(pattern, text, re.IGNORECASE):
            return kind
    return FileKind(f"a text file, which begins with {text.splitlines()[0][:_SHOWN]!r}", _OTHER_FILE)


def _identify_archive(path: Path, head: bytes) -> str | FileKind:
    from zipfile import BadZipFile

    try:
        names = [record.filename for record in list_archive(path)]
    except BadZipFile:
        return FileKind(
            "an incomplete or damaged zip archive, as a checkpoint of torch is after a broken download",
            "fetch or save the file again",
        )
    except Exception:  # noqa: BLE001 - zipfile raises many kinds of exception. The reader of checkpoints names it.
        return CHECKPOINT
    for pattern, kind in _ARCHIVES:
        if any(re.fullmatch(pattern, name) for name in names):
            return kind
    if any(name.split("/")[1:2] == ["code"] for name in names):
        return TORCHSCRIPT
    if any(name.endswith("/data.pkl") for name in names):
        # The pickle is the first member.
        return _shard_kind(path) or (_FASTAI if _LEARNER in head else CHECKPOINT)
    models = [name for name in names if name.lower().endswith(_MODEL_SUFFIXES)]
    shown = ", ".join(map(short_repr, (models or names)[:3]))
    return FileKind(f"a zip archive with {shown or 'nothing in it'}", _UNPACK.format("unzip FILE"))


def _identify_protobuf(path: Path) -> str | FileKind | None:
    """Tells models apart that are protobuf messages, by the numbers of their outermost fields."""
    file = MappedFile(path)
    fields = list(_fields(file.view(0, len(file))))
    numbers = {field.number for field in fields}
    first = next((field.value for field in fields if field.number == 1), None)
    if isinstance(first, memoryview):
        return _repeated_kind(first) if numbers <= _GRAPH_DEF_FIELDS else None
    if first is not None and _ONNX_GRAPH in numbers and numbers <= _ONNX_FIELDS:
        return ONNX
    if first is not None and any(number in _COREML_TYPES for number in numbers):
        return _COREML
    return _SAVED_MODEL if first is not None and numbers == {1, 2} else None


def _repeated_kind(item: memoryview) -> FileKind | None:
    """Returns the kind of a message, given the first of its repeated items."""
    second = next((field.value for field in _fields(item) if field.number == 2), None)
    if not isinstance(second, memoryview):
        return None
    if re.fullmatch(rb"[A-Z]\w{2,}", second[:_SHOWN]):  # a node: its name, its operator
        return _FROZEN_GRAPH
    inner = [bytes(field.value[:_SHOWN]) for field in _fields(second) if isinstance(field.value, memoryview)]
    # A value: its name, and a tensor with the name of its type.
    return _MINDSPORE if any(re.fullmatch(rb"B?Float\d+|U?Int\d+|Bool", text) for text in inner) else None


def _fields(message: memoryview) -> Iterator[protobuf.Field[memoryview]]:
    """Yields the first fields of a message, as far as they can be read."""
    try:
        yield from islice(protobuf.iter_fields(message), _MAX_FIELDS)
    except ValueError:
        return
