"""Normalisation and residual blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lipcert.nn import Normalize, Residual


def test_normalize_each_channel() -> None:
    mean, std = [0.1, 0.5, 0.9], [0.5, 1.0, 2.0]
    images = torch.rand(4, 3, 5, 6)
    expected = (images.numpy() - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(Normalize(mean, std)(images).numpy(), expected, rtol=1e-6, atol=1e-6)


def test_normalize_flat_features() -> None:
    outputs = Normalize([1.0, 2.0], [2.0, 4.0])(torch.tensor([[3.0, 4.0]]))
    assert outputs.tolist() == [[1.0, 0.5]]


def test_normalize_is_saved_and_never_trained() -> None:
    layer = Normalize([0.5], [0.25])
    assert set(layer.state_dict()) == {"mean", "std"}
    assert list(layer.parameters()) == []


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [0.5, 0.5]), ([], []), ([0.5], [0.0]), ([0.5], [-1.0]), ([0.5], [float("nan")])]
)
def test_normalize_refuses(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        Normalize(mean, std)


def test_residual_adds_the_identity() -> None:
    branch = nn.Linear(3, 3)
    inputs = torch.rand(2, 3)
    expected = inputs.numpy() @ branch.weight.detach().numpy().T + branch.bias.detach().numpy() + inputs.numpy()
    np.testing.assert_allclose(Residual(branch)(inputs).detach().numpy(), expected, rtol=1e-5)


def test_residual_adds_a_shortcut() -> None:
    double, triple = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(double.weight, 2.0)
    nn.init.constant_(triple.weight, 3.0)
    block = Residual(double, triple)
    assert block(torch.ones(1, 1)).item() == 5.0
    assert len(list(block.parameters())) == 2
