"""The attack stays inside, finds what is there and nothing that is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipcert.recheck.attack import attack


def _linear() -> nn.Sequential:
    """z_0 - z_1 = x_0 - 0.5 + x_1: the nearest counterexample of (0.7, 0, 0, 0) is 0.2 / sqrt(2) away."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        model[1].bias.copy_(torch.tensor([-0.5, 0.0]))
    return model.eval()


IMAGE = torch.tensor([0.7, 0.0, 0.0, 0.0]).view(1, 2, 2)
NEAREST = 0.2 / 2**0.5


def test_it_finds_a_counterexample_just_beyond_the_margin_and_none_just_before() -> None:
    found, margin = attack(_linear(), IMAGE, 0, NEAREST * 1.01, False)
    assert margin <= 0
    assert NEAREST * 0.999 <= float((found.double() - IMAGE.double()).norm()) <= NEAREST * 1.01
    assert int(_linear()(found[None]).argmax()) == 1 or float(_linear()(found[None]).diff()) == 0
    assert attack(_linear(), IMAGE, 0, NEAREST * 0.99, False)[1] > 0


@pytest.mark.parametrize(("epsilon", "expected"), [(0.19, False), (0.21, True)])
def test_with_clipped_pixels_it_stays_among_them(epsilon: float, expected: bool) -> None:
    """Pixel 1 is 0 already, so that clipping leaves only pixel 0: 0.2 are needed."""
    found, margin = attack(_linear(), IMAGE, 0, epsilon, True)
    assert (margin <= 0) == expected
    assert bool(((found >= 0) & (found <= 1)).all())


def test_an_image_that_is_misclassified_is_its_own_counterexample() -> None:
    assert attack(_linear(), IMAGE, 1, 0.01, False)[1] <= 0
