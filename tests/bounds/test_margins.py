"""Worst margins against a convex solver, against feasible points, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from lipcert.bounds import robust_margin
from lipcert.bounds.margins import support


def _draw(seed: int, size: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(1, 2, size, generator=generator, dtype=torch.float64)
    lower = -scale * torch.rand(1, size, generator=generator, dtype=torch.float64)
    upper = scale * torch.rand(1, size, generator=generator, dtype=torch.float64)
    fixed = torch.rand(1, size, generator=generator) < 0.3
    return directions, torch.where(fixed, 0.0, lower), torch.where(fixed, 0.0, upper), torch.tensor([0.7]).double()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 7), scale=st.sampled_from([0.05, 0.3, 1.0, 10.0]))
def test_equals_a_convex_solver(seed: int, size: int, scale: float) -> None:
    directions, lower, upper, radius = _draw(seed, size, scale)
    values = support(directions, radius, lower, upper)
    for direction, value in zip(directions[0].numpy(), values[0], strict=True):
        result = minimize(
            lambda delta, d=direction: -d @ delta,
            np.zeros(size),
            jac=lambda delta, d=direction: -d,
            bounds=list(zip(lower[0].tolist(), upper[0].tolist(), strict=True)),
            constraints={
                "type": "ineq",
                "fun": lambda delta: radius.item() ** 2 - delta @ delta,
                "jac": lambda delta: -2 * delta,
            },
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-13},
        )
        assert value.item() == pytest.approx(-result.fun, rel=1e-5, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rounds=st.integers(0, 4))
def test_any_number_of_rounds_is_an_upper_bound(seed: int, rounds: int) -> None:
    directions, lower, upper, radius = _draw(seed, 12, 0.4)
    exact = support(directions, radius, lower, upper)
    early = support(directions, radius, lower, upper, rounds=rounds)
    assert (early >= exact - 1e-12).all()
    generator = torch.Generator().manual_seed(seed)
    points = lower + (upper - lower) * torch.rand(500, 12, generator=generator, dtype=torch.float64)
    points = points * (radius / points.norm(dim=1, keepdim=True).clamp_min(1e-300)).clamp_max(1)
    assert ((points @ directions[0].T) <= exact + 1e-9).all()


def test_without_a_box_it_is_the_norm_times_the_radius() -> None:
    directions = torch.tensor([[[3.0, 4.0]]])
    assert support(directions, torch.tensor([2.0]), None, None).item() == pytest.approx(10.0)


def test_a_box_inside_the_ball_gives_its_corner() -> None:
    directions = torch.tensor([[[3.0, -4.0, 0.0]]])
    low, high = torch.tensor([[-1.0, -2.0, -5.0]]), torch.tensor([[0.5, 1.0, 5.0]])
    assert support(directions, torch.tensor([100.0]), low, high).item() == pytest.approx(1.5 + 8.0)


@pytest.mark.parametrize("direction", [[0.0, 0.0], [0.0, 1.0]])
def test_zero_directions_and_empty_boxes(direction: list[float]) -> None:
    directions = torch.tensor([[direction]])
    zero = torch.zeros(1, 2)
    assert support(directions, torch.tensor([1.0]), zero, zero).item() == 0
    assert support(torch.zeros(1, 1, 2), torch.tensor([1.0]), zero - 1, zero + 1).item() == 0
    assert support(directions, torch.tensor([0.0]), zero - 1, zero + 1).item() == pytest.approx(0)


def test_gradients() -> None:
    directions, lower, upper, radius = _draw(5, 6, 0.4)
    arguments = [each.clone().requires_grad_() for each in (directions, radius, lower - 0.01, upper + 0.01)]
    assert torch.autograd.gradcheck(lambda *each: support(*each), arguments)


def test_nan_stays_nan() -> None:
    directions = torch.tensor([[[1.0, torch.nan]]])
    box = torch.ones(1, 2)
    assert support(directions, torch.tensor([1.0]), -box, box).isnan().all()
    assert support(torch.ones(1, 1, 2), torch.tensor([torch.nan]), -box, box).isnan().all()


def test_robust_margin_leaves_the_label_out() -> None:
    worst = torch.tensor([[1.0, 3.0, 2.5], [0.0, 0.0, -1.0], [torch.nan, 1.0, 0.0]])
    margins = robust_margin(worst, torch.tensor([1, 0, 1]))
    assert margins[0] == pytest.approx(0.5)
    assert margins[1] == 0
    assert margins[2].isnan()
