"""Model files by their content: what can be loaded, whatever the file is called, and what is named and refused."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import sys
import tarfile
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from imgclassify import checkpoints
from imgclassify.errors import CheckpointError, UntrustedCodeError
from imgclassify.hub.file_kind import CHECKPOINT, ONNX, TORCHSCRIPT, find_folder_kind, find_format
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions

STATE = {"layer.weight": torch.ones(3, 2), "layer.bias": torch.zeros(3)}


def save_onnx(path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [value("x", TensorProto.FLOAT, [1, 3])],
        [value("y", TensorProto.FLOAT, [1, 3])],
    )
    # Without a suffix that it knows, onnx writes the binary format.
    path.write_bytes(helper.make_model(graph).SerializeToString())


def save_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 3)).save(str(path))


def save_legacy(path: Path) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=False)


SAVERS = {
    ONNX: save_onnx,
    TORCHSCRIPT: save_script,
    CHECKPOINT: lambda path: torch.save(STATE, path),
    "legacy": save_legacy,
    "safetensors": lambda path: save_file(STATE, path),
}


@pytest.mark.parametrize("suffix", [".onnx", ".pth", ".safetensors", ".model", ""])
@pytest.mark.parametrize("saved", SAVERS)
def test_the_content_decides_of_the_format(saved: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine{suffix}"
    SAVERS[saved](path)
    wanted = saved if saved in (ONNX, TORCHSCRIPT) else CHECKPOINT
    assert find_format(path, path.name) == wanted
    if wanted == CHECKPOINT:
        assert {name: array.shape for name, array in checkpoints.load_arrays(path).items()} == {
            "layer.weight": (3, 2),
            "layer.bias": (3,),
        }


def archive(*members: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for member in members:
            file.writestr(member, b"content")
    return content.getvalue()


def tar(member: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        file.addfile(tarfile.TarInfo(member))
    return content.getvalue()


def npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, weight=np.ones(3))
    return content.getvalue()


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message. Numbers and lengths are below 128."""
    key = number << 3 | (0 if isinstance(value, int) else 2)
    head = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
    return head + (bytes([value]) if isinstance(value, int) else bytes([len(value)]) + value)


PAGE = b"\n <!-- saved -->\n<html lang=en><body>Sign in</body></html>"
FOREIGN = [
    (
        "pointer.pth",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "Git LFS",
        "git lfs pull",
    ),
    ("pointer.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS", "git lfs pull"),
    ("annexed.pt", b"/annex/objects/SHA256E-s5--00.pt\n", "git-annex", "git annex get"),
    ("page.safetensors", b"<!DOCTYPE html>\n<title>x</title>", "HTML page", "again"),
    ("page.onnx", b"\xef\xbb\xbf" + PAGE, "HTML page", "again"),
    ("denied.pth", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML", "again"),
    ("error.pth", b'{"error": "Repository not found"}', "JSON", "again"),
    ("error.safetensors", b'[{"message": "no"}]', "JSON", "again"),
    ("none.pth", b"Entry not found", "'Entry not found'", "again"),
    ("config.yaml", b"model: resnet\n", "'model: resnet'", "give the file with the weights"),
    ("conflict.pth", b"<<<<<<< HEAD\nversion https://git-lfs\n", "'<<<<<<< HEAD'", "again"),
    ("program.pth", b"\x7fELF" + bytes(99), "no format", "again"),
    ("config.pth", b'{"architecture": "resnet18", "num_classes": 3}', "configuration", "folder"),
    ("model.safetensors.index.json", b'{"metadata": {}, "weight_map": {}}', "several files", "folder"),
    ("empty.pth", b"", "empty", "again"),
    ("zeros.safetensors", bytes(5000), "zeros", "again"),
    ("best.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "Keras", "onnx"),
    ("tf_model.pth", b"\x89HDF\r\n\x1a\n" + bytes(99), "Keras", "onnx"),
    ("best.keras", archive("metadata.json", "config.json", "model.weights.h5"), "Keras", "onnx"),
    ("saved.zip", archive("m/saved_model.pb", "m/variables/variables.index"), "SavedModel", "tf2onnx"),
    ("saved_model.pb", field(1, 1) + field(2, b"meta"), "SavedModel", "tf2onnx"),
    ("frozen.pb", field(1, field(1, b"input") + field(2, b"Placeholder")) * 99, "TensorFlow graph", "--graphdef"),
    ("lite.tflite", b"\x1c\0\0\0TFL3" + bytes(99), "TensorFlow Lite", "--arch"),
    ("a.gguf", b"GGUF\3\0\0\0" + bytes(99), "GGUF", "--arch"),
    (
        "mine.ckpt",
        field(1, field(1, b"fc") + field(2, field(1, 3) + field(2, b"Float32"))),
        "MindSpore",
        "mindspore",
    ),
    ("mine.mlmodel", field(1, 4) + field(2, b"") + field(403, b"layers"), "Core ML", "--arch"),
    ("pkg.zip", archive("m.mlpackage/Data/com.apple.CoreML/model.mlmodel"), "Core ML", "--arch"),
    ("mine.engine", b"ftrt" + bytes(99), "TensorRT", "--arch"),
    ("yolo.engine", struct.pack("<i", 20) + b'{"description": "x"}ftrt', "TensorRT", "--arch"),
    ("flax_model.msgpack", b"\x82\xa6paramsx\xa4fc", "Flax", "--arch"),
    ("weights.npz", npz(), "NumPy", "state_dict"),
    ("mine.pdparams", pickle.dumps({"StructuredToParameterName@@": {}}, 2), "PaddlePaddle", "paddle2onnx"),
    ("mine.pkl", pickle.dumps({"a": 1}, 4), "pickle", "state_dict"),
    ("mine.xml", b'<?xml version="1.0"?>\n<net name="x" version="11">', "OpenVINO", "--arch"),
    ("weights.pth.gz", gzip.compress(b"x" * 99), "gzip", "gunzip"),
    ("weights.pth.xz", b"\xfd7zXZ\0" + bytes(9), "xz", "unxz"),
    ("weights.zst", b"\x28\xb5\x2f\xfd" + bytes(9), "zstd", "unzstd"),
    ("models.7z", b"7z\xbc\xaf\x27\x1c" + bytes(9), "7z", "7z x"),
    ("models.tar", tar("m/weights.pth"), "tar archive", "tar -xf"),
    ("models.zip", archive("m/readme.md", "m/best.onnx"), "'m/best.onnx'", "unzip"),
    ("photo.pth", b"\xff\xd8\xff\xe0" + bytes(99), "JPEG", "-m MODEL"),
]


@pytest.mark.parametrize(("name", "content", "word", "hint"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_what_is_no_model_is_named(
    name: str, content: bytes, word: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as error:
        load_network(name, LoadOptions(arch="resnet18"))
    said = str(error.value).replace(repr(name), "FILE")
    assert word in said
    assert "damaged at byte" not in said
    assert hint in str(error.value.hint)


def test_a_program_of_torch_export_is_known_by_its_content(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),))
        torch.export.save(program, tmp_path / "mine.pt2")
    (tmp_path / "mine.pt2").rename(tmp_path / "mine.pt")
    assert find_format(tmp_path / "mine.pt", "mine.pt") == "pt2"
    with pytest.raises(UntrustedCodeError, match=r"torch\.export"):
        load_network(str(tmp_path / "mine.pt"), LoadOptions())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_learner_of_fastai_is_named(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("fastai.learner")
    monkeypatch.setitem(sys.modules, "fastai", types.ModuleType("fastai"))
    monkeypatch.setitem(sys.modules, "fastai.learner", module)
    module.Learner = type("Learner", (), {"__module__": "fastai.learner"})  # type: ignore[attr-defined]
    learner = module.Learner()
    learner.model = torch.nn.Linear(2, 3)
    torch.save(learner, tmp_path / "export.pkl", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="fastai") as error:
        find_format(tmp_path / "export.pkl", "export.pkl")
    assert "learn.model.state_dict()" in str(error.value.hint)


@pytest.mark.parametrize("saved", [CHECKPOINT, "legacy", "safetensors", TORCHSCRIPT])
def test_a_truncated_file_is_never_called_a_damaged_pickle(saved: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    SAVERS[saved](path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError) as error:
        load_network(str(path), LoadOptions(arch="resnet18"))
    assert "fetch or save the file again" in str(error.value.hint)
    assert "pickle" not in str(error.value)


def test_one_file_of_several_is_named(tmp_path: Path) -> None:
    for name in ("model-00001-of-00002.safetensors", "pytorch_model-00002-of-00002.bin"):
        SAVERS["safetensors" if name.endswith("safetensors") else CHECKPOINT](tmp_path / name)
        with pytest.raises(CheckpointError, match="one of 2 files"):
            find_format(tmp_path / name, name)
    SAVERS["safetensors"](tmp_path / "model-00001-of-00001.safetensors")
    assert find_format(tmp_path / "model-00001-of-00001.safetensors", "") == CHECKPOINT


def test_a_file_beside_its_description_belongs_to_openvino(tmp_path: Path) -> None:
    path = tmp_path / "mine.bin"
    path.write_bytes(b"\x99\x01\xfe" * 999)
    with pytest.raises(CheckpointError, match="in no format of a model that is known") as error:
        find_format(path, "mine.bin")
    assert "give the file with the weights" in str(error.value.hint)
    path.with_suffix(".xml").write_text("<net/>")
    with pytest.raises(CheckpointError, match="OpenVINO"):
        find_format(path, "mine.bin")


def test_the_folder_of_a_saved_model_is_named(tmp_path: Path) -> None:
    assert find_folder_kind(tmp_path) is None
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(CheckpointError, match="SavedModel"):
        load_network(f"{tmp_path}/", LoadOptions())


def test_json_in_safetensors_is_no_json(tmp_path: Path) -> None:
    """The length before the index may be any bytes, also printable ones."""
    index = json.dumps({"__metadata__": {"x": "y" * 0x2020}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(index).to_bytes(8, "little") + index)
    assert find_format(path, "x") == CHECKPOINT


@pytest.mark.parametrize("description", ['{"a": 1}', "GGUF", "TFL3", "\x1f\x0b", "x" * 250 + "ustar"])
def test_onnx_with_any_description_is_onnx(description: str, tmp_path: Path) -> None:
    save_onnx(tmp_path / "mine.onnx")
    model = onnx.load(tmp_path / "mine.onnx")
    model.producer_name, model.doc_string = "", description
    onnx.save(model, tmp_path / "mine.onnx")
    assert find_format(tmp_path / "mine.onnx", "mine.onnx") == ONNX


def test_onnx_with_a_long_producer_is_onnx(tmp_path: Path) -> None:
    save_onnx(tmp_path / "mine.onnx")
    model = onnx.load(tmp_path / "mine.onnx")
    model.producer_name = "x" * 9000
    (tmp_path / "mine.bin").write_bytes(model.SerializeToString())
    assert find_format(tmp_path / "mine.bin", "mine.bin") == ONNX
