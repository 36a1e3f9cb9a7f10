"""Learning rates by depth and by step, and the average of the weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import transformers
from tiny_transformers import MODELS
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchvision import models

from imgclassify.training.optimization import (
    create_optimizer,
    find_depths,
    find_kind,
    group_parameters,
    learning_rate,
    set_learning_rate,
)
from imgclassify.training.recipe import default_recipe
from imgclassify.training.weight_average import WeightAverage

RECIPE = replace(default_recipe("finetune", 1000), first_layer_rate=0.01, weight_decay=0.1)
TIMM = {
    "convnext_atto": ["stem.0.weight", *(f"stages.{stage}.blocks.0.gamma" for stage in range(4)), "head.fc.weight"],
    "vit_tiny_patch16_224": [
        "pos_embed",
        *(f"blocks.{block}.attn.qkv.weight" for block in range(12)),
        "head.weight",
    ],
    "tf_efficientnet_lite0": [
        "conv_stem.weight",
        *(f"blocks.{stage}.0.bn1.weight" for stage in range(7)),
        "classifier.weight",
    ],
}
"""Parameters of networks of timm, in the order in which they run."""


def depths_of(network: nn.Module, side: int = 64) -> dict[str, float]:
    return find_depths(network, torch.zeros(2, 3, side, side))


def assert_ascending(depths: dict[str, float], *names: str) -> None:
    values = [depths[name] for name in names]
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    assert values[0] == 0
    assert values[-1] == 1


class TestDepths:
    def test_of_a_residual_network(self) -> None:
        depths = depths_of(models.resnet18(num_classes=2))
        blocks = [f"layer{stage}.{block}.conv1.weight" for stage in (1, 2, 3, 4) for block in (0, 1)]
        assert_ascending(depths, "conv1.weight", "bn1.weight", *blocks, "fc.weight")
        assert depths["fc.bias"] == 1
        assert (
            depths["layer2.0.conv2.weight"]
            < depths["layer2.0.downsample.0.weight"]
            < depths["layer2.1.conv1.weight"]
        )

    def test_of_a_transformer_of_torchvision(self) -> None:
        """Multi-head attention reads the weights of its projection, and does not call it."""
        network = models.VisionTransformer(64, 16, 3, 2, 16, 32, num_classes=2)
        depths = depths_of(network)
        layers = [f"encoder.layers.encoder_layer_{number}.self_attention.out_proj.weight" for number in range(3)]
        assert_ascending(
            depths, "class_token", "conv_proj.weight", *layers, "encoder.ln.weight", "heads.head.weight"
        )

    @pytest.mark.parametrize("name", TIMM)
    def test_of_networks_of_timm(self, name: str) -> None:
        network = timm.create_model(name, num_classes=2)
        assert_ascending(depths_of(network, 224 if "vit" in name else 64), *TIMM[name])

    def test_of_a_network_of_transformers(self) -> None:
        config, _ = MODELS["ViT"]()
        network = transformers.AutoModelForImageClassification.from_config(config)
        names = [name for name, _ in network.named_parameters()]
        depths = depths_of(network, 32)
        assert depths[names[0]] == 0
        first, second = (
            next(name for name in names if f"layer.{number}." in name or f"layers.{number}." in name)
            for number in (0, 1)
        )
        assert 0 < depths[first] < depths[second] < depths["classifier.weight"] == 1

    def test_layers_count_as_they_run_and_not_as_they_are_named(self) -> None:
        class Reversed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head = nn.Linear(4, 2)
                self.body = nn.Linear(64, 4)
                self.stem = nn.Conv2d(3, 64, 64)

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.head(self.body(self.stem(images).flatten(1)))

        depths = depths_of(Reversed())
        assert (depths["stem.weight"], depths["body.weight"], depths["head.weight"]) == (0, 0.5, 1)

    def test_the_network_stays_as_it_was(self) -> None:
        network = models.resnet18(num_classes=2).train()
        torch.manual_seed(0)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        state = torch.get_rng_state()
        depths_of(network)
        assert network.training
        assert all(module.training and not module._forward_pre_hooks for module in network.modules())
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)


class TestGroups:
    def test_each_parameter_has_the_rate_of_its_depth_and_decays_unless_it_is_a_vector(self) -> None:
        network = models.resnet18(num_classes=2)
        depths = depths_of(network)
        groups = group_parameters(network, depths, RECIPE)
        found = {id(parameter): group for group in groups for parameter in group["params"]}
        assert len(found) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
        for name, parameter in network.named_parameters():
            group = found[id(parameter)]
            assert group["scale"] == pytest.approx(0.01 ** (1 - depths[name]), rel=0.16)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name
        assert found[id(network.fc.weight)]["scale"] == 1
        assert found[id(network.conv1.weight)]["scale"] == pytest.approx(0.01)
        assert len(groups) <= 34

    def test_what_a_network_of_timm_spares_does_not_decay(self) -> None:
        network = timm.create_model("vit_tiny_patch16_224", num_classes=2)
        groups = group_parameters(network, depths_of(network, 224), RECIPE)
        [group] = [each for each in groups if any(parameter is network.pos_embed for parameter in each["params"])]
        assert network.pos_embed.ndim == 3
        assert group["weight_decay"] == 0

    def test_frozen_parameters_are_left_out(self) -> None:
        network = models.resnet18(num_classes=2)
        network.conv1.requires_grad_(False)
        groups = group_parameters(network, depths_of(network), RECIPE)
        assert not any(parameter is network.conv1.weight for group in groups for parameter in group["params"])

    def test_one_rate_for_all_makes_two_groups(self) -> None:
        network = models.resnet18(num_classes=2)
        groups = group_parameters(network, depths_of(network), replace(RECIPE, first_layer_rate=1.0))
        assert [group["scale"] for group in groups] == [1, 1]

    @pytest.mark.parametrize(
        ("network", "kind"),
        [(models.resnet18(), "convolutional"), (models.VisionTransformer(64, 16, 1, 2, 16, 32), "transformer")],
        ids=["resnet", "vit"],
    )
    def test_the_kind_of_a_network(self, network: nn.Module, kind: str) -> None:
        assert find_kind(network) == kind


class TestSchedule:
    def test_the_cosine_is_torchs(self) -> None:
        recipe = replace(RECIPE, warmup_epochs=0.0, final_rate=0.0, learning_rate=0.3)
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
        scheduler = CosineAnnealingLR(optimizer, 40)
        for step in range(40):
            assert learning_rate(recipe, step, 10, step / 40) == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()

    def test_it_rises_from_above_zero_and_then_falls(self) -> None:
        recipe = replace(RECIPE, warmup_epochs=2.0, learning_rate=1.0, final_rate=0.1)
        rates = [learning_rate(recipe, step, 5, step / 50) for step in range(50)]
        assert rates[0] == pytest.approx(1 / 11)
        assert rates[:10] == sorted(rates[:10])
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert max(rates) <= 1
        assert learning_rate(recipe, 50, 5, 1.0) == pytest.approx(0.1)

    @pytest.mark.parametrize(("schedule", "wanted"), [("linear", 0.55), ("constant", 1.0)])
    def test_other_ways_to_fall(self, schedule: str, wanted: float) -> None:
        recipe = replace(RECIPE, schedule=schedule, warmup_epochs=0.0, learning_rate=1.0, final_rate=0.1)
        assert learning_rate(recipe, 25, 5, 0.5) == pytest.approx(wanted)

    def test_groups_have_their_part_of_the_rate(self) -> None:
        parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
        groups = [
            {"params": [each], "scale": scale, "weight_decay": 0.0}
            for each, scale in zip(parameters, (0.5, 1.0), strict=True)
        ]
        optimizer = create_optimizer(groups, RECIPE)
        set_learning_rate(optimizer, 0.2)
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]

    @pytest.mark.parametrize("name", ["sgd", "adamw"])
    def test_the_optimizer_is_torchs(self, name: str) -> None:
        recipe = replace(RECIPE, optimizer=name, momentum=0.8, learning_rate=0.1)
        start = torch.arange(1.0, 5).reshape(2, 2)
        ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        optimizer = create_optimizer([{"params": [ours], "scale": 1.0, "weight_decay": 0.1}], recipe)
        reference: Any = (
            torch.optim.SGD([theirs], lr=0.1, momentum=0.8, weight_decay=0.1)
            if name == "sgd"
            else torch.optim.AdamW([theirs], lr=0.1, betas=(0.8, 0.999), weight_decay=0.1)
        )
        for _ in range(5):
            for each, by in ((ours, optimizer), (theirs, reference)):
                by.zero_grad()
                (each**2).sum().backward()
                by.step()
        torch.testing.assert_close(ours, theirs)


class TestWeightAverage:
    def test_it_is_an_exponential_average_that_soon_forgets_the_beginning(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        average = WeightAverage(network, 0.5)
        wanted = {name: tensor.double().clone() for name, tensor in network.state_dict().items()}
        for step in range(1, 9):
            with torch.no_grad():
                for tensor in network.state_dict().values():
                    tensor += step
            average.update()
            decay = min(0.5, (1 + step) / (10 + step))
            for name, tensor in network.state_dict().items():
                wanted[name] = decay * wanted[name] + (1 - decay) * tensor
        assert set(average.tensors) == set(wanted) - {"1.num_batches_tracked"}
        for name, tensor in average.tensors.items():
            torch.testing.assert_close(tensor.double(), wanted[name], rtol=1e-6, atol=1e-6)

    def test_it_is_that_of_torch_once_it_is_warm(self) -> None:
        network = nn.Linear(2, 2)
        average = WeightAverage(network, 0.5)
        average.steps = 100
        reference = torch.optim.swa_utils.AveragedModel(
            network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
        )
        reference.update_parameters(network)
        for _ in range(4):
            with torch.no_grad():
                network.weight += torch.randn(2, 2)
            average.update()
            reference.update_parameters(network)
        torch.testing.assert_close(average.tensors["weight"], reference.module.weight.detach())

    def test_the_network_has_it_for_a_block_and_then_its_own_weights(self) -> None:
        network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        network[1].weight = network[0].weight  # a tensor with two names
        average = WeightAverage(network, 0.9)
        own = network[0].weight.detach().clone()
        averaged = {name: tensor.add_(1).clone() for name, tensor in average.tensors.items()}
        for _ in range(2):
            with average.applied():
                assert torch.equal(network[0].weight, averaged["0.weight"])
                assert network[0].weight is network[1].weight
            assert torch.equal(network[0].weight, own)
            assert torch.equal(average.tensors["0.weight"], averaged["0.weight"])

    def test_a_number_is_not_averaged_beyond_floats(self) -> None:
        network = nn.BatchNorm2d(1)
        average = WeightAverage(network, 0.9)
        network.num_batches_tracked += 5
        average.update()
        with average.applied():
            assert int(network.num_batches_tracked) == 5
        assert not math.isnan(float(average.tensors["running_var"]))
