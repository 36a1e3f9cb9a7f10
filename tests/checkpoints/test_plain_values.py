"""Values of NumPy and OmegaConf beside the weights, compared with NumPy's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgclassify import checkpoints
from imgclassify.checkpoints import entries_of, to_plain
from imgclassify.checkpoints.unpickler import Placeholder
from imgclassify.errors import CheckpointError

DTYPES = [*"?bhiqBHIQefd", ">i4", ">f8", "U5", ">U3"]


def read(folder: Path, content: Any, **options: Any) -> Any:
    torch.save({"value": content}, folder / "it.pth", **options)
    return checkpoints.open_checkpoint(folder / "it.pth").content["value"]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_and_scalars_are_read_as_numpy_has_them(
    dtype: str, zipped: bool, protocol: int, tmp_path: Path
) -> None:
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    array = np.array([[1, 0], [97, 100]]).astype(dtype)
    assert to_plain(read(tmp_path, array, **options)) == array.ravel().tolist()
    scalar = array[1, 1]
    found = read(tmp_path, scalar, **options)
    assert found == scalar.item()
    assert type(found) is type(scalar.item())
    if array.dtype.kind in "iu":
        assert list(read(tmp_path, {scalar: 3}, **options)) == [scalar.item()]


def test_arrays_of_objects_and_what_is_no_plain_value(tmp_path: Path) -> None:
    assert to_plain(read(tmp_path, np.array(["a", "b", None], dtype=object))) == ["a", "b", None]
    for value in (np.datetime64("2024-01-01"), np.zeros(2, [("a", "i4")]), np.zeros(2, complex)):
        assert type(to_plain(read(tmp_path, value))) is Placeholder
    assert type(read(tmp_path, np.str_("x" * 1000))) is Placeholder  # too long


@pytest.mark.parametrize(
    ("dtype", "data"),
    [("i8", b"123"), ("U0", b""), ("U-1", b"1234"), ("U9999999999", b"1234"), (3, b"x"), ("i8", None), ("", b"")],
)
def test_malformed_values_of_numpy_are_left_alone(dtype: Any, data: Any) -> None:
    described = Placeholder("numpy.dtype", (dtype, False, True))
    array = Placeholder("numpy.core.multiarray._reconstruct")
    array.state = (1, (1,), described, False, data)
    assert to_plain(array) is array
    for state in ((), (1,), None, "x"):
        array.state = state
        assert to_plain(array) is array


def of_omegaconf(name: str, **state: Any) -> Placeholder:
    value = Placeholder(f"omegaconf.{name}")
    value.state = {"_metadata": None, "_parent": None, **state}
    return value


def test_options_of_omegaconf_are_read_as_those_of_python() -> None:
    def node(value: Any) -> Placeholder:
        return of_omegaconf("nodes.AnyNode", _val=value)

    names = of_omegaconf("listconfig.ListConfig", _content=[node("cat"), node("dog")])
    options = of_omegaconf("dictconfig.DictConfig", _content={"lr": node(0.1), "names": names})
    assert entries_of(options) == {"lr": 0.1, "names": ["cat", "dog"]}


def test_a_tensor_whose_numbers_are_stored_with_the_other_sign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="other sign"):
        read(tmp_path, torch._neg_view(torch.ones(3)))
