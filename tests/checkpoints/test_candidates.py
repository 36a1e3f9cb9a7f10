"""Which mapping of a file is the state_dict, and how a user names another one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from imgclassify.checkpoints import open_checkpoint
from imgclassify.checkpoints.candidates import find_candidates, is_averaged
from imgclassify.errors import CheckpointError


def keys(folder: Path, content: Any, key: str | None = None) -> list[str]:
    torch.save(content, folder / "it.pth")
    checkpoint = open_checkpoint(folder / "it.pth")
    return [each.key for each in find_candidates(checkpoint.content, checkpoint.path, key)]


def weights(number: float = 0) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.full((2, 2), number), "a.bias": torch.full((2,), number)}


def test_averaged_weights_come_first_in_timms_order(tmp_path: Path) -> None:
    content = {
        "net": weights(1),
        "model": weights(2),
        "state_dict": weights(3),
        "swa_state_dict": weights(4),
        "model_ema": weights(5),
        "state_dict_ema": weights(6),
    }
    found = keys(tmp_path, content)
    assert found == ["state_dict_ema", "model_ema", "swa_state_dict", "state_dict", "model", "net"]


@pytest.mark.parametrize("key", ["ema", "model_ema", "ema_state_dict", "swa_model", "modelEMA", "averaged", "EMA"])
def test_keys_of_averaged_weights(key: str) -> None:
    assert is_averaged(key)
    assert is_averaged(f"runs.{key}.module")


@pytest.mark.parametrize("key", ["", "model", "schema", "emanuel", "swap", "average_pooling", "remap", "thema"])
def test_keys_that_only_look_so(key: str) -> None:
    assert not is_averaged(key)


def test_nested_mappings_lists_and_objects_are_searched_and_modules_are_not(tmp_path: Path) -> None:
    content = {
        "runs": [{"best": {"weights": weights(1)}}],
        "args": argparse.Namespace(held=weights(2)),
        "whole": torch.nn.Linear(2, 2),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    }
    assert keys(tmp_path, content) == ["runs.0.best.weights", "args.held"]


def test_a_mapping_in_two_places_is_one(tmp_path: Path) -> None:
    once = weights()
    assert keys(tmp_path, {"model": once, "copy": once, "again": {"deep": once}}) == ["model"]


def test_a_mapping_that_contains_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {"model": weights()}
    content["self"] = content
    assert keys(tmp_path, content) == ["model"]


def test_dots_lead_deeper_and_may_be_part_of_a_key(tmp_path: Path) -> None:
    content = {"best": {"epoch.3": {"ema": weights(1), "raw": weights(2)}}, "model": weights(3)}
    assert keys(tmp_path, content, "best.epoch.3.raw") == ["best.epoch.3.raw"]
    assert keys(tmp_path, content, "best") == ["best.epoch.3.ema", "best.epoch.3.raw"]


def test_a_key_may_be_what_names_begin_with(tmp_path: Path) -> None:
    content = {
        "state_dict": {f"{net}.{name}": value for net in ("one", "two") for name, value in weights().items()}
    }
    torch.save(content, tmp_path / "it.pth")
    checkpoint = open_checkpoint(tmp_path / "it.pth")
    [found] = find_candidates(checkpoint.content, checkpoint.path, "state_dict.two")
    assert list(found.state_dict) == ["a.weight", "a.bias"]


@pytest.mark.parametrize("key", ["none", "model.none", "model.a.weight.x", ".", "model.", "epoch.x", "\x1b[2J"])
def test_an_unknown_key_lists_those_that_are_there(key: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no key") as error:
        keys(tmp_path, {"model": weights(), "deep": {"ema": weights(1)}, "epoch": 3}, key)
    assert "'model', 'deep.ema'" in str(error.value.hint)
    assert str(error.value).isprintable()


def test_an_unknown_key_of_a_bare_state_dict_lists_what_names_begin_with(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        keys(tmp_path, {"net1.weight": torch.ones(2), "net2.weight": torch.ones(2)}, "net3")
    assert "'net1', 'net2'" in str(error.value.hint)


def test_a_key_of_something_else_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not contain a state_dict, but an int"):
        keys(tmp_path, {"model": weights(), "epoch": 3}, "epoch")
