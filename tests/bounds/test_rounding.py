"""Bounds on rounding errors by hand: of sums, and behind layers that only move entries."""

from __future__ import annotations

import torch
from torch import nn

from lipcert.bounds import Arithmetic, analyze
from lipcert.bounds.rounding import Rounding
from lipcert.norms import UpperNorms
from tests.networks import images

SINGLE = Arithmetic.of(torch.float32, torch.float32)


def test_errors_of_a_sum_add_up_in_length() -> None:
    """Errors (2, 0) and (3, 0) keep to both bounds; their sum is 5 long."""

    def rounding(size: float) -> Rounding:
        return Rounding(torch.full((1, 2), size).double(), torch.full((1,), size).double())

    total = rounding(2.0).plus(rounding(3.0), torch.zeros(1, 2).double(), SINGLE)
    assert (total.entries >= 5).all()
    assert 5 <= total.length.item() < 5.001


def test_rounding_behind_a_leading_flatten_is_that_without() -> None:
    """The radius of the ball is known behind a change of shape, too."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 3)).double().eval().requires_grad_(False)
    inputs, norms = images(2), UpperNorms()
    flat = analyze(dense, inputs.flatten(1), 0.3, "tight", norms, arithmetic=SINGLE)
    shaped = analyze(nn.Sequential(nn.Flatten(), *dense), inputs, 0.3, "tight", norms, arithmetic=SINGLE)
    assert flat.region.rounding is not None
    assert shaped.region.rounding is not None
    torch.testing.assert_close(shaped.region.rounding.entries, flat.region.rounding.entries)
    torch.testing.assert_close(shaped.region.rounding.length, flat.region.rounding.length)
