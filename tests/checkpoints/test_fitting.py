"""Names of checkpoints of every habit, fitted to a small architecture. What would change the network never fits."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from imgclassify.checkpoints.fitting import Fit, Wanted, fit_names
from imgclassify.checkpoints.misfit import Misfit

SHAPES: dict[str, tuple[int, ...]] = {
    "conv1.weight": (8, 3, 3, 3),
    "bn1.weight": (8,),
    "bn1.running_mean": (8,),
    "layer1.0.conv1.weight": (8, 8, 3, 3),
    "layer1.0.bn1.weight": (8,),
    "layer1.1.conv1.weight": (8, 8, 3, 3),
    "layer1.1.bn1.weight": (8,),
    "fc.weight": (10, 8),
    "fc.bias": (10,),
}
WANTED = Wanted(
    architecture="small",
    shapes=SHAPES,
    heads=["fc.weight", "fc.bias", "aux.fc.weight"],
    optional={"aux.fc.weight": (10, 8)},
    rename=lambda name: name.replace("older", "layer1"),
    crop_size=(32, 32),
)
HEAD = {"fc.weight", "fc.bias"}


def state(classes: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(classes, *shape[1:], generator=generator)
        if name in HEAD
        else torch.randn(shape, generator=generator)
        for name, shape in SHAPES.items()
    }


RIGHT = state()
BODY = {name: value for name, value in RIGHT.items() if name not in HEAD}


def under(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in values.items()}


def with_head(module: str, prefix: str = "") -> dict[str, Any]:
    head = {f"{module}.weight": RIGHT["fc.weight"], f"{module}.bias": RIGHT["fc.bias"]}
    return {**under(prefix, BODY), **head}


def fit(values: dict[str, Any]) -> Fit | Misfit:
    return fit_names(OrderedDict(values), WANTED)


def check_right(values: dict[str, Any], *, left_out: int = 0, wanted: dict[str, Any] = RIGHT) -> Fit:
    found = fit(values)
    assert isinstance(found, Fit), found
    assert found.state_dict.keys() >= wanted.keys()
    for name, value in wanted.items():
        assert found.state_dict[name] is value, name
    assert found.num_classes == 4
    assert len(found.left_out) == left_out
    return found


FITTING = {
    "as they are": RIGHT,
    "in another order": dict(reversed(RIGHT.items())),
    "module": under("module.", RIGHT),
    "module twice": under("module.module.", RIGHT),
    "compiled": under("_orig_mod.", RIGHT),
    "nested": under("module._orig_mod.model.net.", RIGHT),
    "FSDP": {name.replace("layer1.0.", "layer1.0._fsdp_wrapped_module."): RIGHT[name] for name in RIGHT},
    "DataParallel inside": {name.replace("layer1.", "layer1.module."): RIGHT[name] for name in RIGHT},
    "any one prefix": under("my_own.deep.attribute.", RIGHT),
    "mixed": {f"{'module.' if index % 2 else 'model.net.'}{name}": RIGHT[name] for index, name in enumerate(RIGHT)},
    "some without": {f"{'module.' if index % 3 else ''}{name}": RIGHT[name] for index, name in enumerate(RIGHT)},
    "head outside": {**under("backbone.", BODY), "fc.weight": RIGHT["fc.weight"], "fc.bias": RIGHT["fc.bias"]},
    "head halfway": with_head("model.fc", "model.encoder."),
    "head in a Sequential": with_head("fc.1"),
    "head with a name in a Sequential": with_head("fc.dropout_and_linear.linear"),
    "prefix and Sequential": with_head("net.fc.3", "net."),
    "head by another name": with_head("classifier", "backbone."),
    "head of mmpretrain": with_head("head.fc", "backbone."),
    "renamed by its publisher": {name.replace("layer1", "older"): RIGHT[name] for name in RIGHT},
    "renamed under a prefix": {f"module.{name}".replace("layer1", "older"): RIGHT[name] for name in RIGHT},
    "with counts of batches": {**RIGHT, "bn1.num_batches_tracked": torch.tensor(3)},
    "counts under a prefix": under("model.", {**RIGHT, "layer1.0.bn1.num_batches_tracked": torch.tensor(3)}),
    "numbers beside": {**RIGHT, "epoch": 3, "best": 0.7, "name": "x", "lr_steps": [1, 2]},
}


@pytest.mark.parametrize("name", FITTING)
def test_what_fits(name: str) -> None:
    check_right(FITTING[name])


STRAYS: dict[str, dict[str, Any]] = {
    "a weighted loss": {"criterion.weight": torch.ones(4)},
    "a loss of layers": {"loss_fn.conv.weight": torch.ones(4, 4, 1, 1)},
    "metrics": under("train_acc.", dict.fromkeys(("tp", "fp"), torch.zeros(3))),
    "a metric's matrix": {"val_metrics.confusion.confmat": torch.zeros(4, 4)},
    "thop": {"total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)},
    "a queue": {"queue": torch.ones(8, 100), "queue_ptr": torch.zeros(1, dtype=torch.long)},
    "an optimizer": {"optimizer.exp_avg.weight": torch.ones(8, 3)},
    "a counter": {"iteration": torch.tensor(7)},
}


@pytest.mark.parametrize("prefix", ["", "model.", "module.net."])
@pytest.mark.parametrize("name", STRAYS)
def test_what_belongs_to_nothing_is_left_out_and_counted(name: str, prefix: str) -> None:
    check_right({**under(prefix, RIGHT), **STRAYS[name]}, left_out=len(STRAYS[name]))
    check_right({**STRAYS[name], **under(prefix, RIGHT)}, left_out=len(STRAYS[name]))


def test_a_head_without_bias_has_one_of_zeros() -> None:
    found = check_right({**BODY, "fc.weight": RIGHT["fc.weight"]}, wanted={**BODY, "fc.weight": RIGHT["fc.weight"]})
    np.testing.assert_array_equal(found.state_dict["fc.bias"], np.zeros(4, np.float32))
    assert isinstance(fit({**BODY, "fc.1.weight": RIGHT["fc.weight"]}), Fit)


def test_averaged_weights_under_a_prefix_of_their_own_are_taken() -> None:
    values = {**under("model.", state(seed=1)), **under("ema_model.module.", RIGHT)}
    assert any("averaged" in note for note in check_right(values).notes)
    values = {**state(seed=1), **under("model_ema.", RIGHT)}
    assert any("averaged" in note for note in check_right(values).notes)


def test_a_module_that_is_held_twice_is_one() -> None:
    values = {**under("model.", RIGHT), **under("attack.model.", RIGHT)}
    check_right(values)


@pytest.mark.parametrize(
    "prefixes",
    [
        ("student.", "teacher."),
        ("net1.", "net2."),
        ("encoder_q.", "encoder_k."),
        ("ema.", "swa."),
        ("a.b.", "a.c."),
    ],
)
def test_two_networks_are_ambiguous(prefixes: tuple[str, str]) -> None:
    found = fit({**under(f"module.{prefixes[0]}", RIGHT), **under(f"module.{prefixes[1]}", state(seed=1))})
    assert isinstance(found, Misfit)
    assert found.rivals == tuple(f"module.{prefix}".rstrip(".") for prefix in prefixes)
    error = found.under("state_dict").to_error("it", "small")
    assert f"--checkpoint-key state_dict.module.{prefixes[0][:-1]}" in str(error.hint)


def test_two_bodies_with_one_head_are_ambiguous() -> None:
    values = {**under("student.", BODY), **under("teacher.", BODY | {"bn1.weight": torch.ones(8)})}
    values |= {"fc.weight": RIGHT["fc.weight"], "fc.bias": RIGHT["fc.bias"]}
    assert isinstance(fit(values), Misfit)


HIDDEN = torch.randn(8, 8)
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "no head": (BODY, "head is missing"),
    "a head of two layers": (
        {**BODY, "fc.0.weight": HIDDEN, "fc.0.bias": HIDDEN[0], "fc.2.weight": RIGHT["fc.weight"]},
        "head differs.* 2 layers",
    ),
    "two layers of which one is in place": ({**RIGHT, "fc.3.weight": torch.ones(3, 4)}, "head differs"),
    "batch norm in the head": (
        {
            **BODY,
            "fc.0.weight": torch.ones(8),
            "fc.0.running_var": torch.ones(8),
            "fc.1.weight": RIGHT["fc.weight"],
        },
        "head differs",
    ),
    "a head of another width": (
        {**BODY, "fc.1.weight": torch.ones(4, 9), "fc.1.bias": torch.ones(4)},
        "head differs",
    ),
    "a head of weights by another name, without bias": (
        {**under("backbone.", BODY), "classifier.weight": RIGHT["fc.weight"]},
        "head differs",
    ),
    "two heads": (
        {**under("backbone.", BODY), **with_head("head1"), **with_head("head2")},
        "",
    ),
    "a layer after the head": (
        {**under("model.", RIGHT), "classifier.weight": torch.ones(2, 4), "classifier.bias": torch.ones(2)},
        "parts that the architecture has not .classifier",
    ),
    "a norm after the body": ({**RIGHT, "neck.weight": torch.ones(8), "neck.bias": torch.ones(8)}, r"\(neck\)"),
    "a norm beside a backbone": ({**with_head("fc", "backbone."), "neck.weight": torch.ones(8)}, r"\(neck\)"),
    "squeeze and excitation": ({**RIGHT, "layer1.0.se.fc.weight": torch.ones(2, 8)}, r"\(layer1\.0\.se\.fc\)"),
    "an added bias": ({**RIGHT, "conv1.bias": torch.ones(8)}, r"\(conv1\)"),
    "an added parameter of a block": ({**RIGHT, "layer1.0.scale": torch.ones(1)}, r"\(layer1\.0\)"),
    "an added parameter": ({**RIGHT, "prompt": torch.ones(1, 4, 8)}, "prompt"),
    "a temperature": ({**under("model.", RIGHT), "temperature": torch.ones(1)}, "temperature"),
    "a block too many": ({**RIGHT, "layer1.2.conv1.weight": torch.ones(8, 8, 3, 3)}, r"more blocks \(layer1\.2"),
    "a block too few": (
        {name: value for name, value in RIGHT.items() if "layer1.1" not in name},
        r"lacks blocks \(layer1\.1",
    ),
    "no statistics": ({name: value for name, value in RIGHT.items() if ".running_" not in name}, "batch norm"),
    "another stem": ({**RIGHT, "conv1.weight": torch.ones(8, 3, 7, 7)}, "stem differs"),
    "four channels": ({**RIGHT, "conv1.weight": torch.ones(8, 4, 3, 3)}, "stem differs"),
    "another width": (
        {name: torch.ones([side * 2 for side in value.shape]) for name, value in RIGHT.items()},
        "width differs",
    ),
    "other names": ({name[::-1]: value for name, value in RIGHT.items()}, "hardly a name"),
    "no tensor in its place": ({**RIGHT, "bn1.weight": None}, "bn1.weight is not a tensor"),
    "a number in its place": ({**RIGHT, "fc.bias": 3}, "fc.bias is not a tensor"),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", OTHERS)
def test_what_holds_another_network_does_not_fit_and_is_told_where(name: str, prefix: str) -> None:
    values, words = OTHERS[name]
    found = fit(under(prefix, values))
    assert isinstance(found, Misfit), found
    assert re.search(words, found.reason), found.reason
    assert found.hint or found.rivals


def test_a_convolution_of_one_channel_becomes_one_of_three_that_uses_the_first() -> None:
    grey = torch.randn(8, 1, 3, 3)
    found = fit({**RIGHT, "conv1.weight": grey.numpy()})
    assert isinstance(found, Fit)
    assert found.is_grey
    np.testing.assert_array_equal(found.state_dict["conv1.weight"][:, :1], grey.numpy())
    assert not found.state_dict["conv1.weight"][:, 1:].any()


def test_an_auxiliary_head_may_be_there_or_not_or_be_that_of_another_training() -> None:
    for aux in ({}, {"aux.fc.weight": torch.ones(4, 8)}, {"aux.fc.weight": torch.ones(99, 8)}):
        found = check_right({**RIGHT, **aux})
        assert ("aux.fc.weight" in found.state_dict) == (aux != {} and len(aux["aux.fc.weight"]) == 4)


VIT = Wanted(
    architecture="vit",
    shapes={"cls": (1, 1, 8), "pos_embed": (1, 50, 8), "patch.weight": (8, 3, 32, 32), "head.weight": (10, 8)},
    heads=["head.weight"],
    optional={},
    rename=str,
    crop_size=(224, 224),
)


@pytest.mark.parametrize(("tokens", "size"), [(50, None), (145, 384), (17, 128), (51, "misfit"), (49, "misfit")])
def test_position_embeddings_say_the_size_of_images(tokens: int, size: Any) -> None:
    values = {name: torch.ones(shape) for name, shape in VIT.shapes.items()}
    found = fit_names(OrderedDict({**values, "pos_embed": torch.ones(1, tokens, 8)}), VIT)
    assert isinstance(found, Misfit) if size == "misfit" else found.image_size == size


def test_hostile_names_take_no_long_time() -> None:
    values = {"x" + ".a" * 50_000 + str(number): torch.ones(1) for number in range(50)}
    values |= {".".join(["model"] * 2000) + f".{number}": torch.ones(1) for number in range(200)}
    assert isinstance(fit(values), Misfit)
