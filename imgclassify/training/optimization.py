"""Settings by the kind of network: the default recipe, parameters grouped by depth, and the rate of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from imgclassify.training.recipe import Recipe, default_recipe

if TYPE_CHECKING:
    from imgclassify.catalog import Size

_LEVELS = 16
"""Layers are put into so many groups by their depth, since an optimizer is slow with hundreds of groups."""


def recipe_for(network: torch.nn.Module, method: str, *, num_images: int, crop_size: Size) -> Recipe:
    """Returns the default settings for training a network.

    Args:
        method: one of recipe.METHODS.
        num_images: how many there are to learn from.
        crop_size: (height, width) of the network's crops.
    """
    return default_recipe(method, num_images, kind=find_kind(network), crop_side=max(crop_size))


def find_kind(network: torch.nn.Module) -> str:
    """Returns one of recipe.NETWORK_KINDS."""
    return "convolutional" if any(map(is_batch_norm, network.modules())) else "transformer"


def is_batch_norm(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.modules.batchnorm._BatchNorm)


def find_depths(network: torch.nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Returns how deep each parameter lies in the network: from 0 for the first layer to 1 for the last.

    Layers count in the order in which they run, so no name needs to be known. A parameter of a module that is not
    called, such as the projection that multi-head attention only reads, has the depth of the module around it.

    Args:
        images: a batch that the network takes.
    """
    order: dict[str, int] = {}
    handles = []
    names = {module: name for name, module in network.named_modules()}

    def remember(module: torch.nn.Module, *_: Any) -> None:
        order.setdefault(names[module], len(order))

    owners = {name: name.rpartition(".")[0] for name, _ in network.named_parameters()}
    wanted = {around for owner in owners.values() for around in _and_around(owner)}
    training = network.training
    try:
        handles += [module.register_forward_pre_hook(remember) for module, name in names.items() if name in wanted]
        with torch.no_grad():
            network.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        network.train(training)
    calls = {
        name: order[next(around for around in _and_around(owner) if around in order)]
        for name, owner in owners.items()
    }
    places = {call: place for place, call in enumerate(sorted(set(calls.values())))}
    return {name: places[call] / max(1, len(places) - 1) for name, call in calls.items()}


def _and_around(owner: str) -> Iterator[str]:
    """Yields the name of a module and those of the modules around it, up to the network."""
    yield owner
    while owner:
        owner = owner.rpartition(".")[0]
        yield owner


def group_parameters(network: torch.nn.Module, depths: dict[str, float], recipe: Recipe) -> list[dict[str, Any]]:
    """Returns the groups of parameters of an optimizer. The scale of a group multiplies the learning rate.

    Vectors are not decayed: biases, and the weights of norms. Neither is what timm's networks name so, such as the
    embeddings of positions.
    """
    spared = _spared_names(network)
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            level = round(depths[name] * _LEVELS) if recipe.first_layer_rate != 1 else _LEVELS
            decayed = recipe.weight_decay > 0 and parameter.ndim > 1 and name not in spared
            groups.setdefault((level, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
            "scale": recipe.first_layer_rate ** (1 - level / _LEVELS),
        }
        for (level, decayed), parameters in groups.items()
    ]


def _spared_names(network: Any) -> set[str]:
    return set(network.no_weight_decay()) if hasattr(network, "no_weight_decay") else set()


def create_optimizer(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    rate = recipe.learning_rate
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
    return torch.optim.AdamW(groups, lr=rate, betas=(recipe.momentum, 0.999), fused=True)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, progress: float) -> float:
    """Returns the learning rate of the last layer for a step.

    Args:
        step: counts from 0.
        progress: the part of the training that is done before the step, 0..1.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    falling = 1 - progress if recipe.schedule == "linear" else (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * falling)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def clip_gradients(parameters: Iterable[torch.nn.Parameter], longest: float) -> None:
    if longest:
        torch.nn.utils.clip_grad_norm_(parameters, longest)
