"""Python objects beside the weights: none is built, nothing runs, and the weights are read as torch saved them."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import functools
import os
import pickle
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgclassify import checkpoints
from imgclassify.checkpoints.candidates import entries_of
from imgclassify.errors import CheckpointError

FORMATS = ["zip", "older"]


class Meter:
    def __init__(self) -> None:
        self.average, self.history = 1.5, [1.0]


@dataclass
class Settings:
    rate: float = 0.1


class Slotted:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 0.1


class Table(dict[str, int]):
    pass


class Rows(list[int]):
    pass


class Point(collections.namedtuple("Point", [f"side{index}" for index in range(20)])):
    pass


class Stage(enum.Enum):
    WARM = "warm"


class Keyword:
    """Pickled as a call of its class with keyword arguments."""

    def __getnewargs_ex__(self) -> Any:
        return (), {"rate": 1}

    def __new__(cls, rate: int = 0) -> Any:
        return super().__new__(cls)


def cyclic() -> Any:
    inner: list[Any] = []
    inner.append((inner,))
    return inner


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is to lose these types
        return torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 0, torch.qint8)


OBJECTS: dict[str, Any] = {
    "namespace": argparse.Namespace(model="x", mean=None, sizes=[1, 2]),
    "nested namespaces": argparse.Namespace(inner=argparse.Namespace(inner=argparse.Namespace(lr=1))),
    "numpy scalar": np.float64(81.2),
    "numpy array": np.arange(5.0),
    "array of objects": np.array([None, "x"], dtype=object),
    "random state": np.random.RandomState(1).get_state(legacy=True),
    "counter": collections.Counter([10, 20, 10]),
    "defaultdict": collections.defaultdict(list, loss=[1.0]),
    "deque": collections.deque([1, 2], 3),
    "path": Path("runs/first"),
    "sets": [{1, 2}, frozenset({(1, 2), "x"})],
    "datetime": datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC),
    "timedelta": datetime.timedelta(seconds=3),
    "decimal": decimal.Decimal("0.1"),
    "uuid": uuid.UUID(int=3),
    "enum": Stage.WARM,
    "partial": functools.partial(sorted, reverse=True),
    "function": len,
    "class": Meter,
    "own class": Meter(),
    "dataclass": Settings(),
    "slots": Slotted(),
    "keywords": Keyword(),
    "subclass of dict": Table(a=1),
    "subclass of list": Rows([1, 2]),
    "twenty arguments": Point(*range(20)),
    "keys of any type": {(1, 2): 3, Stage.WARM: 4, frozenset({5}): 6, None: 7},
    "long number": -(2**3000),
    "bytearray": bytearray(b"x" * 300),
    "complex": 1 + 2j,
    "ellipsis and slice": [..., slice(1, 2), NotImplemented, range(3)],
    "itself": cyclic(),
    "torch version": torch.torch_version.TorchVersion("2.6.0"),
    "torch dtype": torch.qint8,
    "quantized": quantized(),
    "complex tensor": torch.randn(3, dtype=torch.complex64),
    "sparse": torch.eye(3).to_sparse(),
    "float8": torch.ones(4).to(torch.float8_e4m3fn),
    "storage": torch.ones(3).untyped_storage(),
    "module": torch.nn.Linear(2, 2),
    "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1).state_dict(),
    "generator": torch.Generator().get_state(),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.filterwarnings("ignore")
def test_the_weights_beside_any_object_are_read(name: str, form: str, protocol: int, tmp_path: Path) -> None:
    weights = {"a.weight": torch.randn(3, 4), "a.count": torch.arange(5)}
    content = {"first": OBJECTS[name], "state_dict": weights, "last": [OBJECTS[name]]}
    path = tmp_path / "it.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    found = checkpoints.load_arrays(path)
    for key, tensor in weights.items():
        np.testing.assert_array_equal(found[key], tensor.numpy())


@pytest.mark.parametrize("form", FORMATS)
def test_attributes_and_entries_are_kept_as_plain_values(form: str, tmp_path: Path) -> None:
    content = {
        "args": argparse.Namespace(model="resnet18", crop_pct=0.9, inner=argparse.Namespace(lr=0.1)),
        "table": Table(a=1),
        "counter": collections.Counter({"x": 2}),
        "weights": {"a": torch.ones(2)},
    }
    torch.save(content, tmp_path / "it.pth", _use_new_zipfile_serialization=form == "zip")
    found = checkpoints.open_checkpoint(tmp_path / "it.pth").content
    args = entries_of(found["args"])
    assert args is not None
    assert (args["model"], args["crop_pct"]) == ("resnet18", 0.9)
    assert entries_of(args["inner"]) == {"lr": 0.1}
    assert entries_of(found["table"]) == {"a": 1}
    assert entries_of(found["counter"]) == {"x": 2}
    assert repr(found["args"]) == "<argparse.Namespace>"


class Evil:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


RUN = "open('ran', 'w').close()"
EVILS: dict[str, Callable[[], Any]] = {
    "call": lambda: Evil(exec, (RUN,)),
    "shell": lambda: Evil(os.system, ("touch ran",)),
    "state": lambda: Evil(functools.partial, (exec,), (Evil(exec, (RUN,)), (), {}, None)),
    "items": lambda: Evil(list, (), None, iter([Evil(exec, (RUN,))])),
    "entries": lambda: Evil(dict, (), None, None, iter([("x", Evil(exec, (RUN,)))])),
    "key": lambda: {Evil(exec, (RUN,)): 3},
    "load": lambda: Evil(pickle.loads, (pickle.dumps(Evil(exec, (RUN,))),)),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", EVILS)
def test_no_object_runs_code(name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"note": EVILS[name](), "state_dict": {"a": torch.ones(2)}}
    torch.save(content, "it.pth", _use_new_zipfile_serialization=form == "zip")
    np.testing.assert_array_equal(checkpoints.load_arrays(Path("it.pth"))["a"], [1, 1])
    assert not Path("ran").exists()
    with suppress(Exception):
        torch.load("it.pth", weights_only=False)
    assert Path("ran").exists()  # so that this test says something


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("key", [None, "model", "ema"])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source")
def test_a_whole_module_is_refused_and_its_owner_told_what_to_type(
    key: str | None, form: str, tmp_path: Path
) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    content = network if key is None else {"epoch": 3, key: network, "optimizer": None}
    torch.save(content, tmp_path / "whole.pth", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        CheckpointError, match=r"whole pickled module, a torch\.nn\.modules\.container\.Seq"
    ) as error:
        checkpoints.load_arrays(tmp_path / "whole.pth")
    assert "no option" in str(error.value)
    assert "torch.save(model.state_dict()" in str(error.value.hint)
    assert "--trust" not in str(error.value.hint)


@pytest.mark.parametrize("form", FORMATS)
def test_a_state_dict_beside_a_whole_module_is_read(form: str, tmp_path: Path) -> None:
    content = {"model": torch.nn.Linear(2, 2), "state_dict": {"a": torch.ones(2)}}
    torch.save(content, tmp_path / "both.pth", _use_new_zipfile_serialization=form == "zip")
    assert list(checkpoints.load_arrays(tmp_path / "both.pth")) == ["a"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_parameter_with_attributes_is_a_tensor(form: str, tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.arange(3.0))
    parameter.decay = 0.1  # type: ignore[attr-defined]
    tensor = torch.arange(4.0)
    tensor.tag = "x"  # type: ignore[attr-defined]
    torch.save({"a": parameter, "b": tensor}, tmp_path / "it.pth", _use_new_zipfile_serialization=form == "zip")
    found = checkpoints.load_arrays(tmp_path / "it.pth")
    np.testing.assert_array_equal(found["a"], [0, 1, 2])
    np.testing.assert_array_equal(found["b"], [0, 1, 2, 3])
