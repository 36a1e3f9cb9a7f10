"""Files of weights and networks whose makers mean harm: no code of theirs runs, and they take no more time and
memory than an honest file of their size."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import seeded
from onnx import TensorProto, helper, numpy_helper

from imgclassify import Classifier, catalog, checkpoints
from imgclassify.errors import CheckpointError, ManifestError, UnavailableError, UntrustedCodeError
from imgclassify.graphs import onnx_file
from imgclassify.graphs.onnx_file import OnnxFile
from imgclassify.graphs.session import SessionConfig
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions

# -------------------------------------------------------------------------------------------------- code that runs


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Sets:
    """Pickles as a function whose attributes are set, and which is then called."""

    def __reduce__(self) -> Any:
        return (
            torch._utils._rebuild_parameter,
            (Calls(os.system, "touch ran"), False, {}),
            {"x": Calls(exec, RUN)},
        )


RUN = "open('ran', 'w').close()"
EVIL: dict[str, Callable[[int], bytes]] = {
    "system": lambda protocol: pickle.dumps(Calls(os.system, "touch ran"), protocol),
    "exec": lambda protocol: pickle.dumps(
        {"state_dict": {"a": torch.ones(1).numpy(), "b": Calls(exec, RUN)}}, protocol
    ),
    "build": lambda protocol: pickle.dumps(Sets(), protocol),
    "through torch": lambda protocol: (
        b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93\x8c\x09touch ran\x85R."
    ),
    "nested": lambda protocol: pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(exec, RUN))), protocol),
}


def archive(path: Path, records: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as into:
        for name, content in records.items():
            into.writestr(f"archive/{name}", content)


def as_tar(content: bytes) -> bytes:
    """The format of torch 0.1."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as into:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            into.addfile(member, io.BytesIO(content))
    return stream.getvalue()


WRAPPINGS = ["raw", "zip", "zip in zip", "tar", "older", "torchscript data", "torchscript constants"]


def wrap(path: Path, content: bytes, how: str) -> None:
    match how:
        case "raw":
            path.write_bytes(content)
        case "zip":
            archive(path, {"data.pkl": content, "byteorder": b"little", "version": b"3\n", "data/0": bytes(16)})
        case "zip in zip":
            archive(path, {"data.pkl": content})
            archive(path, {"data.pkl": path.read_bytes(), "inner.pth": path.read_bytes()})
        case "tar":
            path.write_bytes(as_tar(content))
        case "older":
            head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001}]
            path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + content + pickle.dumps([], 2))
        case _:
            evil = how.removeprefix("torchscript ") + ".pkl"
            records = scripted_records()
            archive(path, {**records, evil: content})


def scripted_records() -> dict[str, bytes]:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    with zipfile.ZipFile(stream) as archived:
        return {name.partition("/")[2]: archived.read(name) for name in archived.namelist()}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("evil", EVIL)
def test_the_pickles_of_these_tests_run_code_where_they_are_let(
    evil: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with suppress(Exception):
        pickle.loads(EVIL[evil](protocol))  # noqa: S301
    assert (tmp_path / "ran").exists()


def opened(reference: str, **options: Any) -> Any:
    """The network of a file, in torch or in onnxruntime."""
    ways = load_network(reference, LoadOptions(**options)).backends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        return ways.build_torch() if ways.build_torch else ways.open_session(SessionConfig(threads=1))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".onnx"])
@pytest.mark.parametrize("how", WRAPPINGS)
def test_no_file_of_any_name_runs_code(
    how: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"evil{suffix}"
    for evil in EVIL.values():
        for protocol in (0, 2, 4):
            wrap(path, evil(protocol), how)
            for arch in ("resnet18", "quantized_resnet18"):
                # Trusted, so that what is taken for a TorchScript program is read too.
                with pytest.raises(UnavailableError):
                    opened(str(path), arch=arch, trust=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
@pytest.mark.parametrize("how", ["zip", "older", "raw"])
def test_neither_engine_runs_code(engine: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state_dict is whole, and beside it is what a trainer may have left there."""
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": {"fc.weight": torch.ones(10, 512)}, "config": Calls(os.system, "touch ran")}
    if how == "raw":
        wrap(tmp_path / "evil.pth", pickle.dumps(content, 2), how)
    else:
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        Classifier("./evil.pth", arch="resnet18", engine=engine, device="cpu")
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------ time and memory


def pickled(*steps: bytes) -> bytes:
    return b"\x80\x02" + b"".join(steps) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def listed(*steps: bytes) -> bytes:
    return pickled(b"](", *steps, b"e")


MANY = 200_000
NONES = b"(" + b"N" * MANY + b"tq\x01"
"""A tuple of MANY, remembered as 1, as are those that follow."""
LIST = b"](" + b"K\x01" * MANY + b"eq\x01"
PAIRS = b"](" + b"K\x01K\x01\x86" * 20_000 + b"eq\x01"
STATE = b"}(" + b"".join(text(f"{number:07}") + b"N" for number in range(MANY // 2)) + b"uq\x01"
DOUBLED = b")q\x01" + b"h\x01\x86q\x01" * 60
"""A pair of pairs of pairs: two to the power of 60 to whoever walks through it."""
ORDERED = b"ccollections\nOrderedDict\nq\x02"
SIZE = b"ctorch\nSize\nq\x02"
DEVICE = b"ctorch\ndevice\nq\x02"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\nq\x02"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\nq\x02"
FLOATS = b"ctorch\nFloatStorage\n"
STORAGE = b"(" + text("storage") + FLOATS + text("0") + text("cpu") + b"K\x04tQq\x03"
BOMBS = {
    "a memo of 4 billion": pickled(b"}Nr\xf0\xff\xff\xff"),
    "a memo's index as text": pickled(b"}Np4000000000\n"),
    "bytes of 8 exabytes": pickled(b"}\x8e", struct.pack("<Q", 2**63 - 1)),
    "text of 4 gigabytes": pickled(b"}X\xff\xff\xff\xffabc"),
    "a frame of 8 exabytes": b"\x80\x04\x95" + struct.pack("<Q", 2**63 - 1) + b"}.",
    "a number of a gigabyte": pickled(b"}\x8b\x00\x00\x00\x40abc"),
    "a number of 4 MB in decimal": pickled(b"}L", b"9" * 2**22, b"L\n"),
    "a key that doubles": pickled(b"}", DOUBLED, b"Ns"),
    "keys of one hash": pickled(
        b"}(",
        b"".join(b"\x8a\x0b" + (key * (2**61 - 1)).to_bytes(11, "little") + b"N" for key in range(1, 120_000)),
        b"u",
    ),
    "keys that double": pickled(b"}(", DOUBLED, b"Nu"),
    "a set of what doubles": b"\x80\x04\x8f(" + DOUBLED + b"\x90.",
    "a key nested a million deep": pickled(b"})", b"\x85" * 10**6, b"Ns"),
    "a storage's key that doubles": listed(b"(", text("storage"), FLOATS, DOUBLED, text("cpu"), b"K\x01tQ"),
    "a storage's type that doubles": listed(b"(", text("storage"), DOUBLED, text("0"), text("cpu"), b"K\x01tQ"),
    "a storage's kind that doubles": listed(b"(", DOUBLED, FLOATS, text("0"), text("cpu"), b"K\x01tQ"),
    "a key that doubles in pairs": listed(ORDERED, b"](", DOUBLED, b"N\x86e\x85R"),
    "a list made into many dictionaries": listed(PAIRS, ORDERED, b"h\x02h\x01\x85R" * MANY),
    "a list made into many shapes": listed(LIST, SIZE, b"h\x02h\x01\x85R" * MANY),
    "a device's name that doubles": listed(DEVICE, text("x"), b"q\x01", b"h\x02h\x01h\x01\x86Rq\x01" * 60),
    "a parameter of many arguments": listed(NONES, PARAMETER, STORAGE, b"h\x02h\x01R" * MANY),
    "a storage of many parts": listed(
        b"(", text("storage"), FLOATS, text("0"), text("cpu"), b"K\x04", b"N" * MANY, b"tq\x01", b"h\x01Q" * MANY
    ),
    "a dictionary's attributes set many times": listed(STATE, ORDERED, b")R", b"h\x01b" * MANY),
    "a tensor of many sides": listed(LIST, TENSOR, STORAGE, b"h\x02(h\x03K\x00h\x01h\x01tR" * MANY),
    "a tensor of long sides": pickled(
        b"}", text("a"), TENSOR, b"(", STORAGE, b"K\x00(", (b"\x8a\xff" + b"\x7f" * 255) * 20_000, b"tq\x01h\x01tRs"
    ),
    "steps without end": pickled(b"]", b"Na" * 2**23),
    "four million dictionaries": listed(b"}" * (2**22 - 9)),
    "four million texts": listed(text("ab") * (2**22 - 9)),
    "a name of a megabyte": pickled(b"c", b"\x1b[2J" * 2**18, b"\nx\n"),
    "only marks": pickled(b"(" * 10**6),
}
READ = """
import sys
from pathlib import Path
from imgclassify import checkpoints
from imgclassify.errors import CheckpointError
try:
    checkpoints.load_arrays(Path(sys.argv[1]))
except CheckpointError as error:
    print("refused", len(str(error)), str(error).isprintable())
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
READ_BY_TORCH = """
import sys, torch
from pathlib import Path
from imgclassify.errors import CheckpointError
from imgclassify.hub import architectures
def peak(): return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
for path in sys.argv[1:]:
    try:
        architectures.read_quantized(Path(path))
    except CheckpointError:
        print("refused", peak() - before, path, flush=True)
"""
GIBIBYTE = 2**30
SECONDS = 30
"""Ten times what the slowest takes."""


def confined(program: str, *arguments: Any, memory: int = GIBIBYTE, seconds: float = SECONDS) -> list[str]:
    """What a Python program of so much address space prints, as lines."""
    import resource

    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        # numpy's linear algebra would reserve address space for each core.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


confinable = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs limits on address space")


@confinable
@pytest.mark.parametrize("how", ["zip", "older"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_pickle_takes_little_time_and_memory(bomb: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    wrap(path, BOMBS[bomb], how)
    refused, kibibytes = confined(READ, path)
    word, length, printable = refused.split()
    assert (word, printable) == ("refused", "True")
    assert int(length) < 1000
    assert int(kibibytes) < 600 * 1024


@confinable
def test_torchs_own_reader_is_given_no_such_pickle(tmp_path: Path) -> None:
    # Over these it takes ten seconds, as it would over an honest file of so many parts.
    quick = {name: bomb for name, bomb in BOMBS.items() if not name.startswith("four million")}
    paths = [tmp_path / f"{name}.pth" for name in quick]
    for path, bomb in zip(paths, quick.values(), strict=True):
        wrap(path, bomb, "zip")
    lines = confined(READ_BY_TORCH, *paths, memory=16 * GIBIBYTE, seconds=120)
    assert [line.split()[0] for line in lines] == ["refused"] * len(quick)
    assert int(lines[-1].split()[1]) < 600 * 1024


# --------------------------------------------------------------------------------------------- what is not a pickle


def sparse(path: Path, size: int, parts: dict[int, bytes]) -> Path:
    """A file of zeros that takes no room on the disk, with these parts at their places."""
    with path.open("wb") as stream:
        stream.truncate(size)
        for place, content in parts.items():
            stream.seek(place)
            stream.write(content)
    return path


@confinable
def test_a_zip_archive_that_lists_gigabytes_is_refused(tmp_path: Path) -> None:
    listing = 2**32 - 2**20
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, listing, 4, 0)
    path = sparse(tmp_path / "list.pth", listing + 4 + len(end), {0: b"PK\3\4", listing + 4: end})
    refused, kibibytes = confined(READ, path, memory=16 * GIBIBYTE)
    assert refused.startswith("refused")
    assert int(kibibytes) < 100 * 1024


@confinable
@pytest.mark.parametrize(
    "index",
    [
        "[" * 2**20,
        '{"a":' * 2**18,
        '{"__metadata__":' + "[" * 2**20,
        "[]",
        '"a"',
        "1e999",
        "",
        "\x00",
        '{"a":{"dtype":[]}}',
    ],
    ids=lambda index: f"{index[:20]!r} of {len(index)}",
)
def test_a_safetensors_index_of_any_json_is_refused(index: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(len(index).to_bytes(8, "little") + index.encode())
    refused, kibibytes = confined(READ, path)
    assert refused.startswith("refused")
    assert int(kibibytes) < 100 * 1024


@confinable
def test_a_safetensors_index_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = sparse(tmp_path / "bomb.safetensors", 2 * GIBIBYTE, {0: struct.pack("<Q", GIBIBYTE)})
    refused, kibibytes = confined(READ, path, memory=8 * GIBIBYTE)
    assert refused.startswith("refused")
    assert int(kibibytes) < 100 * 1024


@confinable
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_many_views_of_the_same_numbers_are_not_all_copied(form: str, tmp_path: Path) -> None:
    side = 2000
    path = tmp_path / f"views.{form}"
    if form == "pth":
        matrix = torch.zeros(side, side)
        torch.save({f"{number}.weight": matrix.T for number in range(1000)}, path)
    else:
        shape = {"dtype": "BF16", "shape": [side, side], "data_offsets": [0, side * side * 2]}
        index = json.dumps({f"{number}.weight": shape for number in range(1000)}).encode()
        path.write_bytes(len(index).to_bytes(8, "little") + index + bytes(side * side * 2))
    refused, kibibytes = confined(READ, path, memory=4 * GIBIBYTE)
    assert refused.startswith("refused")
    assert int(kibibytes) < 200 * 1024


def test_a_matrix_that_two_layers_share_is_read(tmp_path: Path) -> None:
    matrix = torch.randn(1500, 1200)
    torch.save({"embed.weight": matrix.T, "head.weight": matrix.T}, tmp_path / "tied.pth")
    for array in checkpoints.load_arrays(tmp_path / "tied.pth").values():
        np.testing.assert_array_equal(array, matrix.T.numpy())


# -------------------------------------------------------------------------- programs and repositories, which do run


class Writes(torch.nn.Module):
    """What TorchScript may do where it is loaded: it has a function that writes files."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.training = True

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))

    @torch.jit.export
    def __getstate__(self):  # type: ignore[no-untyped-def]
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]
        torch.save([self.weight], "ran")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writes()), "program.pt")
    return "./program.pt"


def test_a_torchscript_program_is_not_loaded_without_trust(program: str) -> None:
    with pytest.raises(UntrustedCodeError, match="TorchScript") as error:
        opened(program, arch="resnet18")
    assert "--trust" in str(error.value.hint)
    assert not Path("ran").exists()


def test_a_trusted_torchscript_program_may_write_files(program: str) -> None:
    """So that the test above says something."""
    opened(program, arch="resnet18", trust=True)
    assert Path("ran").exists()


@pytest.mark.parametrize("engine", ["auto", "torch", "onnxruntime"])
def test_nothing_of_a_repository_is_imported_without_trust(engine: str, tmp_path: Path) -> None:
    """Neither its hubconf.py, nor a package of its own, nor one that is called like one of ours."""
    names = ("hubconf", "models/__init__", "torch", "numpy", "onnxruntime", "sitecustomize")
    for name in names:
        file = tmp_path / "repository" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndependencies = ['models']\n")
    program = (
        "import sys; from imgclassify import Classifier; from imgclassify.errors import UntrustedCodeError\n"
        "before = list(sys.path)\n"
        "try: Classifier(sys.argv[1], arch='resnet18', engine=sys.argv[2])\n"
        "except UntrustedCodeError: print(sys.path == before, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "hub:./repository/x", engine],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True False\n"
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "repository").rglob("*.pyc"))


OWN = """\
[[models]]
name = "birds"
weights = "V1"
default = true
architecture = "resnet18"
provider = "timm"
url = "https://models.example.org/birds-0123abcd.pth"
sha256 = "0123abcd"
num_classes = 200
label_set = "/data/birds/labels.txt"
preprocess = { resize_size = 256, crop_size = 224, interpolation = "bilinear", antialias = true, \
mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }
options = { drop_rate = 0.1 }
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architecture", '"local-dir:/tmp/x"'),
        ("architecture", '"hf-hub:owner/name"'),
        ("options", '{ checkpoint_path = "evil.pth" }'),
        ("options", "{ pretrained = true }"),
        ("options", '{ pretrained_cfg_overlay = { file = "evil.pth" } }'),
        ("options", '{ weights = "DEFAULT" }'),
    ],
)
def test_a_manifest_names_no_other_place_for_weights(key: str, value: str) -> None:
    """timm.create_model would read what is named here, past the reader and the digest."""
    [like] = [line for line in OWN.splitlines() if line.startswith(f"{key} =")]
    assert len(catalog.parse_manifests(OWN, "own.toml")) == 1
    with pytest.raises(ManifestError, match=rf"own\.toml: models\[0\]\.{key} must be"):
        catalog.parse_manifests(OWN.replace(like, f"{key} = {value}"), "own.toml")


# ------------------------------------------------------------------------------------ a file that changes meanwhile


def replaced(path: Path, content: bytes) -> None:
    draft = path.with_name("draft")
    draft.write_bytes(content)
    draft.replace(path)


@pytest.mark.parametrize("form", ["zip", "older", "onnx"])
def test_a_file_replaced_before_onnxruntime_opens_it_is_noticed(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens the file by its name, and would read another's bytes from this one's places."""
    path = tmp_path / ("net.onnx" if form == "onnx" else "net.pth")
    if form == "onnx":
        graph(path)
    else:
        torch.save(seeded("squeezenet1_1").state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    real = onnxruntime.InferenceSession

    def late(*arguments: Any, **options: Any) -> Any:
        replaced(path, path.read_bytes())
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(onnxruntime, "InferenceSession", late)
        with pytest.raises(CheckpointError, match=r"net\.\w+' changed while it was read"):
            session(path)
    assert session(path) is not None


def session(path: Path) -> Any:
    ways = load_network(str(path), LoadOptions(arch="squeezenet1_1")).backends
    assert ways.open_session is not None
    return ways.open_session(SessionConfig(threads=1))


@pytest.mark.parametrize("how", ["replaced", "cut", "gone"])
def test_a_file_that_changed_before_torch_was_given_it_is_noticed(how: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(seeded("squeezenet1_1").state_dict(), path)
    index = checkpoints.open_lazy(path)
    if how == "replaced":
        replaced(path, path.read_bytes())
    elif how == "cut":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match="it changed while it was read"):
        checkpoints.materialize(index, source_name="it")


# ------------------------------------------------------------------------------------------------------------ .onnx


def graph(path: Path, *inner: TensorProto, nodes: Any = (), functions: Any = (), **fields: Any) -> onnx.ModelProto:
    """A classifier of three classes, with further initializers, nodes and functions in it."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    built = helper.make_graph(
        [helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0), *nodes],
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        inner,
        **fields,
    )
    model = helper.make_model(built, opset_imports=opsets, ir_version=9, functions=functions)
    path.write_bytes(model.SerializeToString())
    return model


def external(location: str | bytes, *, value_first: bool = False, name: str = "far") -> TensorProto:
    """Four float32 in another file. By hand, since Google's writer puts the key first, and writes no odd bytes."""
    head = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    value = location if isinstance(location, bytes) else location.encode()
    parts = [b"\x0a\x08location", b"\x12" + varint(len(value)) + value]
    entry = b"".join(parts[::-1] if value_first else parts)
    return TensorProto.FromString(head.SerializeToString() + b"\x6a" + varint(len(entry)) + entry)


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def holding(tensor: TensorProto, place: str) -> onnx.ModelProto:
    """A model with the tensor in that place."""
    model = onnx.ModelProto(ir_version=9)
    PLACES[place](model, tensor)
    return model


def attribute(nodes: Any) -> onnx.AttributeProto:
    """That of a new node."""
    return nodes.add(op_type="Constant").attribute.add(name="value")


PLACES: dict[str, Callable[[onnx.ModelProto, TensorProto], object]] = {
    "initializer": lambda model, tensor: model.graph.initializer.append(tensor),
    "sparse values": lambda model, tensor: model.graph.sparse_initializer.add().values.CopyFrom(tensor),
    "sparse indices": lambda model, tensor: model.graph.sparse_initializer.add().indices.CopyFrom(tensor),
    "attribute": lambda model, tensor: attribute(model.graph.node).t.CopyFrom(tensor),
    "attributes": lambda model, tensor: attribute(model.graph.node).tensors.append(tensor),
    "sparse attribute": lambda model, tensor: attribute(model.graph.node).sparse_tensor.values.CopyFrom(tensor),
    "sparse attributes": lambda model, tensor: (
        attribute(model.graph.node).sparse_tensors.add().values.CopyFrom(tensor)
    ),
    "subgraph": lambda model, tensor: attribute(model.graph.node).g.initializer.append(tensor),
    "subgraphs": lambda model, tensor: attribute(attribute(model.graph.node).graphs.add().node).t.CopyFrom(tensor),
    "function": lambda model, tensor: attribute(model.functions.add(name="f").node).t.CopyFrom(tensor),
    "function's default": lambda model, tensor: (
        model.functions.add(name="f").attribute_proto.add().t.CopyFrom(tensor)
    ),
    "training": lambda model, tensor: model.training_info.add().algorithm.initializer.append(tensor),
    "initialization": lambda model, tensor: attribute(model.training_info.add().initialization.node).t.CopyFrom(
        tensor
    ),
}


@pytest.mark.parametrize("value_first", [False, True], ids=["key first", "value first"])
@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_may_stand(place: str, value_first: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for name in ("beside.bin", "x" * 200):
        (tmp_path / name).write_bytes(bytes(16))
        path.write_bytes(holding(external(name, value_first=value_first), place).SerializeToString())
        assert OnnxFile(path).external == {name}
    for name in ("../outside.bin", "a/" * 100 + "../" * 101 + "x"):
        path.write_bytes(holding(external(name, value_first=value_first), place).SerializeToString())
        with pytest.raises(CheckpointError, match="outside its own folder"):
            OnnxFile(path)


def test_the_places_of_tensors_and_nodes_are_all_that_onnx_has() -> None:
    for name, places in onnx_file._WITHIN.items():
        found = {
            field.number: field.message_type.name
            for field in getattr(onnx, name).DESCRIPTOR.fields
            if field.message_type is not None
            and field.message_type.name in onnx_file._WITHIN
            and (field.message_type.name != "StringStringEntryProto" or field.name == "external_data")
        }
        assert places == found, name
    numbers = {field.name: field.number for field in onnx.FunctionProto.DESCRIPTOR.fields}
    assert (numbers["name"], numbers["domain"]) == (onnx_file._FUNCTION_NAME, onnx_file._FUNCTION_DOMAIN)
    numbers = {field.name: field.number for field in onnx.NodeProto.DESCRIPTOR.fields}
    assert (numbers["op_type"], numbers["domain"]) == (onnx_file._NODE_OPERATOR, onnx_file._NODE_DOMAIN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights in it, and weights beside it that links lead to."""
    inside = tmp_path / "folder"
    (inside / "in").mkdir(parents=True)
    for place in (inside, inside / "in", tmp_path):
        (place / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (inside / "near").symlink_to("w.bin")
    (inside / "far").symlink_to(tmp_path / "w.bin")
    (inside / "up").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    return inside


HONEST = ["w.bin", "./w.bin", "in/w.bin", "near"]
DISHONEST = [
    "../w.bin",
    "in/../../w.bin",
    "far",
    "up/w.bin",
    "/etc/passwd",
    "C:\\w.bin",
    "C:w.bin",
    "\\\\host\\w.bin",
]
DISHONEST += ["..\\w.bin", "in/../w.bin", "w.bin\0x", "*/_ORT_MEM_ADDR_/*", "in", "none", "pipe", "/dev/zero", "."]


@pytest.mark.parametrize("location", HONEST)
def test_weights_in_the_graphs_own_folder_are_read(location: str, folder: Path) -> None:
    uses_it = helper.make_node("ReduceSum", ["far"], ["sum"], keepdims=0)
    graph(folder / "net.onnx", external(location), nodes=[uses_it])
    loaded = load_network(str(folder / "net.onnx"), LoadOptions(arch="resnet18"))
    assert loaded.sha256 is None
    assert opened(str(folder / "net.onnx"), arch="resnet18") is not None


@pytest.mark.parametrize("location", DISHONEST)
def test_weights_anywhere_else_are_not(location: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    graph(folder / "net.onnx", external(location))
    with pytest.raises(
        CheckpointError, match=r"net\.onnx' reads its weights from .*(outside its own|not a file)"
    ) as error:
        opened(str(folder / "net.onnx"), arch="resnet18")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("location", ["", b"\xff\xfe", "x" * 5000])
def test_a_location_that_is_no_name_is_refused(location: str | bytes, folder: Path) -> None:
    (folder / "net.onnx").write_bytes(holding(external("here"), "initializer").SerializeToString())
    content = (folder / "net.onnx").read_bytes()
    value = location if isinstance(location, bytes) else location.encode()
    assert content.count(b"\x12\x04here") == 1
    entry = b"\x0a\x08location\x12" + varint(len(value)) + value
    tensor = b"\x10\x01\x70\x01\x6a" + varint(len(entry)) + entry
    inner = b"\x2a" + varint(len(tensor)) + tensor
    (folder / "net.onnx").write_bytes(b"\x3a" + varint(len(inner)) + inner)
    with pytest.raises(CheckpointError, match=r"net\.onnx"):
        OnnxFile(folder / "net.onnx")


def functions(depth: int, *, calls: int = 2) -> list[onnx.FunctionProto]:
    """Each calls the one before it so many times."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    found = [helper.make_function("own", "f0", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], opsets)]
    for number in range(1, depth):
        nodes = [
            helper.make_node(f"f{number - 1}", ["a"], ["b" if last else f"c{call}"], domain="own")
            for call in range(calls)
            for last in [call == calls - 1]
        ]
        found.append(helper.make_function("own", f"f{number}", ["a"], ["b"], nodes, opsets))
    return found


def called(path: Path, made: list[onnx.FunctionProto]) -> Path:
    call = helper.make_node(made[-1].name, ["images"], ["unused"], domain="own")
    graph(path, nodes=[call], functions=made)
    return path


@pytest.mark.parametrize(("depth", "calls"), [(18, 2), (40, 2), (3, 1000), (3000, 1)])
def test_functions_that_unfold_without_end_are_refused(depth: int, calls: int, tmp_path: Path) -> None:
    path = called(tmp_path / "net.onnx", functions(depth, calls=calls))
    with pytest.raises(CheckpointError, match="expand to more than"):
        OnnxFile(path)


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    [first, second] = functions(2)
    first.node[0].op_type, first.node[0].domain = "f1", "own"
    with pytest.raises(CheckpointError, match="expand to more than"):
        OnnxFile(called(tmp_path / "net.onnx", [first, second]))


def test_functions_of_an_honest_size_are_not(tmp_path: Path) -> None:
    path = called(tmp_path / "net.onnx", functions(8))
    assert opened(str(path), arch="resnet18") is not None


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    found = b""
    for _ in range(depth):
        found = message(1, message(5, message(6, found)))
    return message(7, found)


GRAPHS = {
    "deep": lambda: nested(2000),
    "deeper": lambda: nested(20_000),
    "many fields": lambda: message(7, b"\x0a\x00" * 2**22),
    "many small numbers": lambda: message(7, message(5, b"\x08\x01" * 2**22)),
    "a number without end": lambda: b"\x08" + b"\xff" * 2**23 + b"\x01",
    "a length of 8 exabytes": lambda: b"\x3a" + b"\xff" * 8 + b"\x7f",
    "a length beyond the end": lambda: b"\x3a\x7fabc",
    "an initializer of a terabyte": lambda: _of(TensorProto(name="w", data_type=1, dims=[2**38])),
    "dimensions whose product is none": lambda: _of(TensorProto(name="w", data_type=1, dims=[2**40, 2**40])),
    "dimensions below zero": lambda: _of(TensorProto(name="w", data_type=1, dims=[-4], raw_data=bytes(16))),
    "an operator of nobody": lambda: _of(nodes=[helper.make_node("Own", ["images"], ["x"], domain="own")]),
    "nothing": lambda: b"",
    "a pickle": lambda: pickle.dumps({"a": 1}),
}
OPEN = """
import sys
from pathlib import Path
from imgclassify.errors import CheckpointError
from imgclassify.graphs.session import SessionConfig
from imgclassify.hub.loader import load_network
from imgclassify.hub.network import LoadOptions
import onnxruntime
try:
    load_network(sys.argv[1], LoadOptions(arch="resnet18")).backends.open_session(SessionConfig(threads=1))
except CheckpointError as error:
    print("refused", len(str(error)), str(error).isprintable())
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def _of(*inner: TensorProto, nodes: Any = ()) -> bytes:
    used = [helper.make_node("ReduceSum", [tensor.name], ["sum"], keepdims=0) for tensor in inner]
    return graph(Path(os.devnull), *inner, nodes=[*used, *nodes]).SerializeToString()


@confinable
@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_that_is_none_is_refused_in_little_time_and_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(GRAPHS[kind]())
    refused, kibibytes = confined(OPEN, path, memory=4 * GIBIBYTE)
    word, length, printable = refused.split()
    assert (word, printable) == ("refused", "True")
    assert int(length) < 1000
    assert int(kibibytes) < 500 * 1024


def test_large_weights_in_a_graph_are_passed_over_and_not_copied(tmp_path: Path) -> None:
    import tracemalloc

    weights = numpy_helper.from_array(np.zeros((64, 2**16), np.float32), "w")
    graph(tmp_path / "net.onnx", weights)
    tracemalloc.start()
    OnnxFile(tmp_path / "net.onnx")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
