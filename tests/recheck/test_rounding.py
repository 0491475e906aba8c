"""Rounding bounds against networks executed in float32."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from lipcert.nn import MaxMin
from lipcert.recheck.activations import describe_activation, masks
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.margins import margins
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import compile_program
from lipcert.recheck.rounding import Error, after_activation
from tests.networks import IMAGE, images, network
from tests.oracles import points_in_ball


def _cancelling(model: nn.Module, by: float) -> nn.Module:
    """Raise the biases of hidden layers and take the same off again in the next: large terms that cancel."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer, following in itertools.pairwise(layers):
            if layer.bias is not None and isinstance(following, nn.Linear) and isinstance(layer, nn.Linear):
                layer.bias.add_(by)
                following.bias.sub_(following.weight.sum(dim=1) * by)
    return model


def _errors(model: nn.Module, epsilon: float) -> tuple[float, float]:
    """Return the largest ratio of a logit's error at points of the ball to its bound, and the largest error."""
    image = images()[0].float()
    derived = Derivation(compile_program(model, IMAGE), image, epsilon, False, False, Norms())
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(300, *IMAGE, generator=generator)
    points = image + change * (epsilon * 0.99 / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    with torch.no_grad():
        error = (model(points).double() - copy.deepcopy(model).double()(points.double())).abs()
    return float((error / derived.logits.executed.entries).max()), float(error.max())


@pytest.mark.parametrize("name", ["plain", "pooled", "residual"])
@pytest.mark.parametrize("kind", ["relu", "clipped_relu", "maxmin", "clipped_maxmin"])
def test_float32_stays_within_the_bound(name: str, kind: str) -> None:
    ratio, error = _errors(network(name, kind).float(), 0.3)
    assert error > 0
    assert 1e-4 < ratio <= 1


@pytest.mark.parametrize("by", [1e2, 1e5])
def test_cancelling_biases_are_seen(by: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4))
    ratio, error = _errors(_cancelling(model, by).eval(), 0.1)
    assert error > by * 1e-8
    assert 1e-4 < ratio <= 1


def test_a_margin_smaller_than_rounding_is_not_executed() -> None:
    """In float32 a bias of 2^24 swallows half a unit that real arithmetic keeps."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[:, 0] = torch.tensor([0.5, 0.0])
        model[1].bias.fill_(2.0**24)
        model[3].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        model[3].bias.copy_(torch.tensor([0.0, 0.1]))
    image = torch.ones(IMAGE)
    derived = Derivation(compile_program(model.eval(), IMAGE), image, 0.01, False, False, Norms())
    assert margins(derived, 0).real > 0.3
    assert int(model(image[None]).argmax()) == 1
    assert margins(derived, 0).executed < 0


def test_networks_in_float64_lose_far_less() -> None:
    losses = []
    for model in (network("plain", "relu").float(), network("plain", "relu")):
        found = margins(Derivation(compile_program(model, IMAGE), images()[0], 0.1, False, False, Norms()), 0)
        losses.append(found.real - found.executed)
    assert 0 < losses[1] < losses[0] * 1e-8


def test_overflow_is_not_confirmed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.fill_(1e30)
        model[3].weight.fill_(1e30)
    with pytest.raises(ArithmeticError, match="'3' may overflow"):
        Derivation(compile_program(model.eval(), IMAGE), images()[0], 0.1, False, False, Norms())


def test_dead_neurons_carry_no_error() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[1].bias.fill_(-100)
    derived = Derivation(compile_program(model.eval(), IMAGE), images()[0], 0.1, False, False, Norms())
    assert derived.reaches[3].executed.norm == 0
    assert float(derived.logits.executed.entries.max()) < 1e-6


def test_a_pair_carries_the_larger_error_of_its_two() -> None:
    """Errors of at most 1 and 3 in a and b: either output moves by up to 3, as a grid of them shows."""
    grid = torch.linspace(-5, 5, 21, dtype=torch.float64)
    steps = torch.linspace(-1, 1, 5, dtype=torch.float64)
    a, b, first, second = torch.meshgrid(grid, grid, steps, 3 * steps, indexing="ij")
    larger = torch.maximum(a + first, b + second) - torch.maximum(a, b)
    smaller = torch.minimum(a + first, b + second) - torch.minimum(a, b)
    moved = torch.stack((larger.abs().amax(), smaller.abs().amax()))
    entries = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    end = torch.full_like(entries, 5)
    before = Error(entries, 100.0, torch.zeros_like(entries), 0.0)
    pairs = describe_activation(MaxMin(), "pairs")
    after = after_activation(before, pairs, -end, end, masks(pairs, -end, end))
    assert moved.tolist() == [3.0, 3.0]
    assert (after.entries[0] >= moved - 1e-12).all()


def test_errors_that_both_logits_inherit_cancel() -> None:
    """The logits h_0 and h_0 + h_1 / 1000 of large hidden values share nearly all of their error."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 2), nn.ReLU(), nn.Linear(2, 2)).eval().requires_grad_(False)
    model[1].bias.fill_(2.0**20)
    model[3].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1e-3]]))
    image = images(1).float()
    derived = Derivation(compile_program(model, IMAGE), image[0], 0.1, False, False, Norms())
    found, entries = margins(derived, 0), derived.logits.executed.entries
    stated = found.real - found.executed
    points = points_in_ball(image, 0.099, 300)[:, 0]
    error = model(points).double() - copy.deepcopy(model).double()(points.double())
    largest = (error[:, 1] - error[:, 0]).abs().max().item()
    assert 0 < largest <= stated < 0.75 * entries.sum().item()
