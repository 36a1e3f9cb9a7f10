"""Checkpoints without torch: every format and layout against torch's own reader, and every way to be none."""

from __future__ import annotations

import mmap
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from imgclassify import catalog, checkpoints, weights
from imgclassify.errors import CheckpointError

FORMATS = ["zip", "older", "safetensors"]
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def saved(folder: Path, content: Any, form: str) -> Path:
    path = folder / ("mine.safetensors" if form == "safetensors" else "mine.pth")
    if form == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def same(found: Any, expected: torch.Tensor) -> None:
    expected = expected.float() if expected.dtype == torch.bfloat16 else expected
    assert found.flags.c_contiguous
    assert found.flags.aligned
    assert found.dtype == expected.numpy().dtype
    assert found.shape == tuple(expected.shape)
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read_as_torch_reads_it(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    content = {
        "matrix": (torch.randn(5, 7) * 50).to(dtype),
        "scalar": torch.tensor(3).to(dtype),
        "empty": torch.zeros(0, 3).to(dtype),
    }
    found = checkpoints.load_arrays(saved(tmp_path, content, form))
    assert list(found) == sorted(content) if form == "safetensors" else list(content)
    for name, tensor in content.items():
        same(found[name], tensor)


@pytest.mark.parametrize("form", ["zip", "older"])
def test_strided_views_and_shared_storages(form: str, tmp_path: Path) -> None:
    base = torch.arange(120.0).reshape(4, 5, 6)
    content = {
        "base": base,
        "permuted": base.permute(2, 0, 1),
        "part": base[1:3, 2],
        "stepped": base[:, ::2, 1::3],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "tied": base,
    }
    path = saved(tmp_path, content, form)
    theirs = torch.load(path, weights_only=True)
    assert theirs["base"].data_ptr() == theirs["tied"].data_ptr()
    for name, array in checkpoints.load_arrays(path).items():
        same(array, theirs[name])


@pytest.mark.parametrize("form", ["zip", "older"])
def test_parameters_and_the_metadata_of_a_state_dict(form: str, tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = saved(tmp_path, network.state_dict(keep_vars=True), form)
    found = checkpoints.load_arrays(path)
    for name, tensor in network.state_dict().items():
        same(found[name], tensor)
    assert found._metadata["1"] == {"version": 2}  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["zip", "older"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_saves_in(protocol: int, form: str, tmp_path: Path) -> None:
    content = {
        "state_dict": OrderedDict({f"{number}.weight": torch.randn(2, 3) for number in range(300)}),
        "notes": [
            "é" * 300,
            -1,
            2**15,
            2**31,
            -(2**40),
            0.5,
            None,
            True,
            (1, 2, 3, 4),
            torch.Size([2, 3]),
        ],
    }
    if protocol > 2:  # which has no bytes, but calls of a function that makes them
        content["notes"] += [b"x", b"x" * 300]
    zipped = form == "zip"
    torch.save(content, tmp_path / "it.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = checkpoints.load_arrays(tmp_path / "it.pth")
    assert list(found) == list(content["state_dict"])
    for name, tensor in content["state_dict"].items():
        same(found[name], tensor)


def test_an_archive_without_checksums_is_read_and_one_whose_checksum_differs_is_not(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        bare = saved(tmp_path, {"alpha": torch.ones(3)}, "zip")
        same(checkpoints.load_arrays(bare)["alpha"], torch.ones(3))
    finally:
        torch.serialization.set_crc32_options(True)
    whole = saved(tmp_path, {"alpha": torch.ones(3)}, "zip")
    assert whole.read_bytes().count(b"alpha") == 1
    whole.write_bytes(whole.read_bytes().replace(b"alpha", b"alphb"))
    with pytest.raises(CheckpointError, match=r"data\.pkl is damaged"):
        checkpoints.load_arrays(whole)


def test_a_dictionary_as_python_2_pickled_it(tmp_path: Path) -> None:
    """As a call with a list of pairs, its texts as bytes."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x01K\x03\x85K\x01\x85tR"
    content = b"\x80\x02ccollections\nOrderedDict\n](](U\x01a" + tensor + b"ee\x85R."
    with zipfile.ZipFile(tmp_path / "old.pth", "w") as archive:
        archive.writestr("old/data.pkl", content)
        archive.writestr("old/data/0", np.arange(4, dtype=np.float32).tobytes())
    same(checkpoints.load_arrays(tmp_path / "old.pth")["a"], torch.arange(1.0, 4.0))


@given(
    st.lists(st.integers(0, 4), max_size=4).flatmap(
        lambda shape: st.tuples(st.just(shape), st.permutations(range(len(shape))), st.integers(0, 3))
    ),
    st.booleans(),
)
def test_any_view_of_any_storage(drawn: tuple[list[int], list[int], int], zipped: bool) -> None:
    shape, order, offset = drawn
    count = int(np.prod(shape))
    tensor = torch.arange(float(count + offset))[offset:].reshape(shape).permute(order)
    stream = BytesIO()
    torch.save({"view": tensor, "whole": torch.arange(3)}, stream, _use_new_zipfile_serialization=zipped)
    path = Path(FOLDER.name) / "view.pth"
    path.write_bytes(stream.getvalue())
    index = checkpoints.open_lazy(path)
    same(checkpoints.materialize(index, source_name="it")["view"], tensor)
    # Where it claims to lie in the file as it is, it does.
    place = index["view"].file_location()
    assert (place is not None) == (bool(count) and tensor.is_contiguous())
    if place:
        begin, size = place[1:]
        assert path.read_bytes()[begin : begin + size] == tensor.numpy().tobytes()


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    FOLDER.name = str(tmp_path_factory.mktemp("views"))


class FOLDER:
    """Hypothesis takes no fixture of a test's own scope."""

    name = ""


def test_the_embedded_checkpoint_with_its_permuted_convolutions() -> None:
    path = weights.cache_path(catalog.find_model(catalog.EMBEDDED_MODEL).url)
    theirs = torch.load(path, weights_only=True)
    assert sum(not tensor.is_contiguous() for tensor in theirs.values()) == 50
    found = checkpoints.load_arrays(path)
    assert list(found) == list(theirs)
    for name, array in found.items():
        same(array, theirs[name])


def test_arrays_are_the_files_own_memory(tmp_path: Path) -> None:
    path = saved(tmp_path, {"big": torch.ones(100, 100)}, "zip")
    array = checkpoints.load_arrays(path)["big"]
    assert isinstance(array.base, mmap.mmap)
    array[:] = 2  # a private map: the file stays as it is
    assert checkpoints.load_arrays(path)["big"].max() == 1


def test_torch_is_not_imported(tmp_path: Path) -> None:
    paths = [saved(tmp_path, {"a": torch.ones(3)}, form).rename(tmp_path / form) for form in ("zip", "older")]
    paths.append(saved(tmp_path, {"a": torch.ones(3)}, "safetensors"))
    code = (
        "import sys; from pathlib import Path; from imgclassify import checkpoints\n"
        "for path in sys.argv[1:]: assert checkpoints.load_arrays(Path(path))['a'].sum() == 3\n"
        "assert not {'torch', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)


# ------------------------------------------------------------------------------------------- what is refused


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("form", ["zip", "older"])
@pytest.mark.parametrize(
    ("evil", "named"),
    [
        (Calls(open, "ran", "w"), r"io\.open"),
        (Calls(eval, "open('ran', 'w')"), r"\.eval\b"),
        (Calls(getattr, OrderedDict, "fromkeys"), r"\.getattr\b"),
        (Calls(torch.load, "other.pth"), "torch.serialization.load"),
        (np.datetime64("2024-01-01"), "numpy"),
    ],
    ids=["open", "eval", "getattr", "torch.load", "numpy"],
)
def test_a_pickle_that_would_run_code_does_not_run_and_the_weights_beside_it_are_read(
    evil: Any, named: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, {"state_dict": {"fc.weight": torch.ones(2)}, "config": evil}, form)
    same(checkpoints.load_arrays(path)["fc.weight"], torch.ones(2))
    with pytest.raises(CheckpointError, match=named) as error:
        checkpoints.load_arrays(saved(tmp_path, evil, form))
    assert "state_dict" in str(error.value.hint)
    assert not (tmp_path / "ran").exists()


def test_what_a_pickle_does_to_what_it_names_does_not_outlast_it(tmp_path: Path) -> None:
    """BUILD sets attributes of whatever is on the stack; no later file may be read by what an earlier one left."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    evil = b"\x80\x02" + rebuild + b"(N}X\x0c\x00\x00\x00__defaults__)stb."
    (tmp_path / "evil.pth").write_bytes(evil)
    with pytest.raises(CheckpointError):
        checkpoints.load_arrays(tmp_path / "evil.pth")
    same(checkpoints.load_arrays(saved(tmp_path, {"a": torch.ones(3)}, "zip"))["a"], torch.ones(3))


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_is_refused_wherever_it_ends(form: str, tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(300), "b": torch.zeros(7, 9)}, form)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="cannot read"):
            checkpoints.load_arrays(path)


def forged(folder: Path, storage_count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Path:
    """A zip archive whose pickle claims such a view of a storage of four float32."""

    class Forge(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", storage_count) if thing is storage else None

    storage = object()

    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, stride, False, OrderedDict())

    stream = BytesIO()
    Forge(stream, protocol=2).dump({"a": Tensor()})
    path = folder / "forged.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("forged/data.pkl", stream.getvalue())
        archive.writestr("forged/data/0", np.arange(4, dtype=np.float32).tobytes())
    return path


def test_a_forged_view_that_is_honest_is_read(tmp_path: Path) -> None:
    found = checkpoints.load_arrays(forged(tmp_path, 4, 1, (3,), (1,)))["a"]
    np.testing.assert_array_equal(found, [1, 2, 3])


@pytest.mark.parametrize(
    ("count", "offset", "shape", "stride"),
    [
        (4, 0, (5,), (1,)),
        (4, 2, (3,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (2,), (2**60,)),
        (4, 3, (2,), (-1,)),
        (4, -1, (2,), (1,)),
        (2**40, 0, (2**40,), (1,)),
        (400, 0, (400,), (1,)),
        (4, 0, (2**40, 2**40), (0, 0)),
        (4, 0, (-2,), (1,)),
    ],
)
def test_a_view_that_reaches_beyond_its_storage_is_refused(
    count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    path = forged(tmp_path, count, offset, shape, stride)
    with pytest.raises(CheckpointError):
        checkpoints.load_arrays(path)
    with pytest.raises((CheckpointError, ValueError)):
        checkpoints.open_lazy(path)["a"].file_location() or checkpoints.load_arrays(path)


BUILD_STORAGE = b"(N}(X\x05\x00\x00\x00dtypeX\x06\x00\x00\x00objectutb"
"""(None, {"dtype": "object"}) set as the state of what is on the stack."""


@pytest.mark.parametrize("form", ["storage", "tensor"])
def test_a_pickle_sets_nothing_of_a_tensor(form: str, tmp_path: Path) -> None:
    """With a dtype of its own choice, bytes of the file would be taken for the addresses of Python objects."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"  # the pair
    )
    if form == "storage":
        # What hands a parameter on hands on its first argument, here the storage itself.
        evil = b"ctorch._utils\n_rebuild_parameter\n" + storage + b"R" + BUILD_STORAGE
    else:
        evil = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(K\x04t(K\x01ttR" + BUILD_STORAGE
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", b"\x80\x02}X\x01\x00\x00\x00a" + evil + b"s.")
        archive.writestr("evil/data/0", bytes(16))
    with pytest.raises(CheckpointError, match="that no state_dict has"):
        checkpoints.load_arrays(path)


@pytest.mark.parametrize("storage", ["('x', 0)", "3", "None", "('x',)"])
def test_a_tensor_of_no_storage_is_refused(storage: str, tmp_path: Path) -> None:
    literals = {
        "('x', 0)": b"(X\x01\x00\x00\x00xK\x00t",
        "3": b"K\x03",
        "None": b"N",
        "('x',)": b"(X\x01\x00\x00\x00xt",
    }
    content = b"ctorch._utils\n_rebuild_tensor_v2\n(" + literals[storage] + b"K\x00(K\x04t(K\x01ttR"
    path = tmp_path / "odd.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("odd/data.pkl", b"\x80\x02}X\x01\x00\x00\x00a" + content + b"s.")
    with pytest.raises(CheckpointError):
        checkpoints.load_arrays(path)


@pytest.mark.parametrize("record", ["data.pkl", "byteorder", "data/0"])
def test_a_compressed_record_is_refused(record: str, tmp_path: Path) -> None:
    """torch compresses nothing; a few bytes may become gigabytes."""
    path = saved(tmp_path, {"a": torch.ones(300)}, "zip")
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            kind = zipfile.ZIP_DEFLATED if name.endswith(f"/{record}") else zipfile.ZIP_STORED
            archive.writestr(name, content, kind)
    with pytest.raises(CheckpointError, match=record.replace("data/0", "tensor data 0")):
        checkpoints.load_arrays(path)


def test_a_tensor_that_repeats_its_numbers_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="repeats"):
        checkpoints.load_arrays(forged(tmp_path, 4, 0, (2**20, 2), (0, 0)))
    assert checkpoints.load_arrays(forged(tmp_path, 4, 0, (2**10, 2**10), (0, 0)))["a"].shape == (1024, 1024)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]},
        {"dtype": "F32", "shape": [4]},
        {"dtype": "F32", "shape": [10**4000] * 3, "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 4]},
        [],
    ],
)
def test_a_safetensors_index_that_lies_is_refused(entry: Any, tmp_path: Path) -> None:
    import json

    index = json.dumps({"a": entry}).encode()
    path = tmp_path / "lies.safetensors"
    path.write_bytes(len(index).to_bytes(8, "little") + index + bytes(16))
    with pytest.raises(CheckpointError, match=r"lies\.safetensors"):
        checkpoints.load_arrays(path)


def test_a_dtype_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_file({"a": torch.ones(16).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(CheckpointError, match="has tensors of the dtype 'F8_E4M3'") as error:
        checkpoints.load_arrays(path)
    assert "float16" in str(error.value.hint)


def test_a_big_endian_archive_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(3)}, "zip")
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, b"big" if name.endswith("byteorder") else content)
    with pytest.raises(CheckpointError, match="big-endian"):
        checkpoints.load_arrays(path)
