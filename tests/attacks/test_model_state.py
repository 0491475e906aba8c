"""Attacks leave networks as they were: weights, gradients, flags, modes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from lipcert.attacks import AUTO_ATTACKS, auto_attack, evaluating, pgd, random_search
from lipcert.attacks.target import without_gradients
from tests.networks import images, network

ATTACKS = {
    "pgd": partial(pgd, steps=3),
    "random": partial(random_search, queries=5),
    **{name: partial(auto_attack, name=name, steps=3, queries=5) for name in AUTO_ATTACKS},
}


def state(model: nn.Module) -> list[Any]:
    """Return everything that an attack might change."""
    values = [tensor.clone() for tensor in model.state_dict().values()]
    gradients = [None if each.grad is None else each.grad.clone() for each in model.parameters()]
    flags = [each.requires_grad for each in model.parameters()]
    return [values, gradients, flags, [module.training for module in model.modules()]]


def same(first: Any, second: Any) -> bool:
    """Compare two states to the bit."""
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("gradients", [False, True])
def test_attacks_leave_the_network_alone(name: str, gradients: bool) -> None:
    model, inputs = network("pooled", "relu", scale=1.5).float(), images(6).float()
    labels = model(inputs).argmax(dim=1)
    next(model.parameters()).requires_grad_(False)
    if gradients:
        model(inputs).sum().backward()
    before = state(model)
    ATTACKS[name](model, inputs, labels, 0.5)
    assert same(before, state(model))


def test_flags_come_back_after_an_error() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with without_gradients(model):
        assert not model.weight.requires_grad
    with pytest.raises(KeyError), without_gradients(model):
        raise KeyError
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)


def test_each_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout())).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert [module.training for module in model.modules()] == modes
