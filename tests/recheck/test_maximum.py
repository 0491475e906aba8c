"""The largest value over ball and box against a constrained optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lipcert.recheck.reach import maximum_over


def _problem(seed: int, size: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(3, size, generator=generator, dtype=torch.float64)
    gradients[0, :2] = 0
    lower = -torch.rand(size, generator=generator, dtype=torch.float64)
    upper = torch.rand(size, generator=generator, dtype=torch.float64)
    lower[0], upper[1] = 0, 0
    return gradients, lower, upper


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [0.05, 0.5, 0.9, 5.0])
def test_it_is_the_maximum_that_slsqp_finds(seed: int, radius: float) -> None:
    gradients, lower, upper = _problem(seed)
    found = maximum_over(gradients, radius, lower, upper)
    for gradient, value in zip(gradients.numpy(), found, strict=True):
        solved = minimize(
            lambda x, d=gradient: -d @ x,
            np.zeros(len(gradient)),
            jac=lambda x, d=gradient: -d,
            bounds=list(zip(lower.numpy(), upper.numpy(), strict=True)),
            constraints={"type": "ineq", "fun": lambda x: radius**2 - x @ x, "jac": lambda x: -2 * x},
            options={"ftol": 1e-12, "maxiter": 300},
        )
        assert solved.status in (0, 8)  # 8: no further descent at this precision
        assert float(value) == pytest.approx(-solved.fun, rel=1e-6)
        assert float(value) >= -solved.fun - 1e-9


def test_no_point_of_ball_and_box_exceeds_it_with_few_iterations() -> None:
    gradients, lower, upper = _problem(9, 40)
    points = torch.rand(20000, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = lower + points * (upper - lower)
    points = points * (0.7 / points.norm(dim=1, keepdim=True)).clamp(max=1)
    for iterations in (1, 5, 60):
        assert bool((points @ gradients.T <= maximum_over(gradients, 0.7, lower, upper, iterations)).all())


def test_degenerate_cases() -> None:
    gradients, lower, upper = _problem(1)
    assert not maximum_over(gradients, 0.0, lower, upper).any()
    assert not maximum_over(torch.zeros_like(gradients), 1.0, lower, upper).any()
    assert not maximum_over(gradients, 1.0, torch.zeros_like(lower), torch.zeros_like(upper)).any()
    wide = torch.full_like(upper, 1e9)
    torch.testing.assert_close(maximum_over(gradients, 2.0, -wide, wide), 2 * gradients.norm(dim=1))
