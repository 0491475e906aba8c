"""The ReLU stability loss against NumPy, and what minimising it does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lipcert.bounds import Bound, analyze
from lipcert.losses import ReLUStability, Setting, Sparsity, relu_stability_loss
from lipcert.losses.adversarial import instability
from lipcert.norms import PowerNorms
from tests.networks import images, network
from tests.oracles import ExactNorms

LABELS = torch.tensor([0, 3, 4])


def test_by_hand() -> None:
    lower, upper = torch.tensor([[-1.0, 0.5], [-3.0, 0.0]]), torch.tensor([[2.0, 1.0], [-1.0, 4.0]])
    terms = [math.tanh(1 - 2), math.tanh(1 + 0.5), math.tanh(1 + 3), math.tanh(1 + 0)]
    assert instability(lower, upper).item() == pytest.approx(-sum(terms) / 2)
    about_one = [math.tanh(1 - 2), math.tanh(1 + 0), math.tanh(1 + 8), math.tanh(1 - 3)]
    assert instability(lower, upper, torch.ones(1, 2)).item() == pytest.approx(-sum(about_one) / 2)


@pytest.mark.parametrize("kind", ["relu", "clipped_relu"])
def test_summed_over_layers_neurons_and_kinks(kind: str) -> None:
    """By first-layer boxes of their own: a ball's row norms; deeper boxes are the region's."""
    model, inputs = network("plain", kind), images()
    analysis = analyze(model, inputs, 0.3, "local", ExactNorms())
    total = 0.0
    for bounds in analysis.activations:
        lower, upper = bounds.lower.detach().numpy(), bounds.upper.detach().numpy()
        kinks = [0.0] if kind == "relu" else [0.0, bounds.layer.threshold.detach().numpy()]
        for kink in kinks:
            total -= np.tanh(1 + (lower - kink) * (upper - kink)).sum() / len(inputs)
    assert relu_stability_loss(analysis).item() == pytest.approx(total)
    first = analysis.activations[0]
    center = model[0](inputs)
    reach = 0.3 * model[0].weight.flatten(1).norm(dim=1).view(1, -1, 1, 1)
    assert (first.lower >= center - reach - 1e-9).all()
    assert (first.upper <= center + reach + 1e-9).all()


def test_the_boxes_are_those_of_the_bound() -> None:
    """Global and local bounds share the global radius; the tight one is smaller and its neurons more stable."""
    model, inputs = network("plain", "clipped_relu"), images()
    losses = {
        bound: relu_stability_loss(analyze(model, inputs, 0.2, bound, ExactNorms())).item()
        for bound in ("global", "local", "tight")
    }
    assert losses["global"] == pytest.approx(losses["local"])
    assert losses["tight"] < losses["local"]


def test_the_weight_adds_it_to_adversarial_training() -> None:
    model, inputs = network("plain", "clipped_relu"), images()
    setting = Setting(0.3, 1.0, Bound.LOCAL, ExactNorms(), Sparsity())
    losses = []
    for weight in (0.0, 0.01):
        torch.manual_seed(0)
        losses.append(ReLUStability(weight, steps=2)(model, inputs, LABELS, setting).loss)
    expected = relu_stability_loss(analyze(model, inputs, 0.3, "local", ExactNorms()))
    assert (losses[1] - losses[0]).item() == pytest.approx(0.01 * expected.item())
    assert losses[0] > F.cross_entropy(model(inputs), LABELS)


def test_minimising_it_makes_neurons_stable() -> None:
    model, inputs = network("plain", "relu"), images()
    optimizer, norms = torch.optim.Adam(model.parameters(), 3e-3), PowerNorms(2)

    def unstable() -> float:
        with torch.no_grad():
            bounds = analyze(model, inputs, 0.1, "local", ExactNorms()).activations
        return sum(((each.lower < 0) & (each.upper > 0)).double().sum().item() for each in bounds)

    before = unstable()
    for _ in range(30):
        optimizer.zero_grad()
        relu_stability_loss(analyze(model, inputs, 0.1, "local", norms)).backward()
        optimizer.step()
    assert unstable() < 0.7 * before


@pytest.mark.parametrize("kind", ["maxmin", "clipped_maxmin"])
def test_activations_without_kinks_at_a_value_are_refused(kind: str) -> None:
    analysis = analyze(network("plain", kind), images(), 0.3, "local", ExactNorms())
    with pytest.raises(ValueError, match=r"MaxMin: set model\.activation=relu or clipped_relu"):
        relu_stability_loss(analysis)


@pytest.mark.parametrize("weight", [-1.0, math.nan, "1"])
def test_bad_weights_are_refused(weight: object) -> None:
    with pytest.raises(ValueError, match=r"method\.weight"):
        ReLUStability(weight)  # type: ignore[arg-type]
