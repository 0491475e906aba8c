"""The greatest rise of linear and quadratic parts over a ball: never below the truth, and next to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipcert.crown.trust_region import Quadratic, greatest_rise
from lipcert.graph import compile_graph, map_of

ROWS, PIXELS = 12, 9


def _exact(matrix: Tensor, direction: Tensor, curvature: float, radius: float) -> float:
    """Return max { q·δ + (d / 2) |A δ|² : |δ| <= r } by the secular equation, in the eigenvectors of AᵀA."""
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    parts, values = (vectors.T @ direction).square(), curvature * values
    low, high = float(values[-1]) + 1e-12, float(values[-1] + direction.norm() / radius + 1)
    for _ in range(200):
        middle = (low + high) / 2
        longer = float((parts / (middle - values).square()).sum()) > radius**2
        low, high = (middle, high) if longer else (low, middle)
    return high * radius**2 / 2 + float((parts / (high - values)).sum()) / 2


def _quadratic(mask: Tensor | None) -> tuple[Quadratic, list[Tensor]]:
    """Return a quadratic part of two images and its dense matrices."""
    torch.manual_seed(3)
    layer = nn.Linear(PIXELS, 7).double().requires_grad_(False)
    operator = compile_graph(nn.Sequential(layer), (PIXELS,)).operators()[1]
    dense = [layer.weight if mask is None else layer.weight * each.unsqueeze(1) for each in mask_of(mask)]
    norms = torch.stack([torch.linalg.matrix_norm(each, 2) for each in dense])
    return Quadratic.of(map_of(operator, layer.weight), mask, norms * (1 + 1e-12)), dense


def mask_of(mask: Tensor | None) -> Tensor:
    return torch.ones(2, 7).double() if mask is None else mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("curvature", [0.0, 1e-3, 0.5, 20.0])
@pytest.mark.parametrize("radius", [1e-3, 0.7, 30.0])
def test_no_rise_is_above_and_many_dimensions_meet_it(masked: bool, curvature: float, radius: float) -> None:
    mask = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 0]]).double() if masked else None
    quadratic, dense = _quadratic(mask)
    directions, image = torch.randn(ROWS, PIXELS).double(), torch.arange(ROWS) % 2
    curvatures, radii = (
        torch.full((ROWS,), curvature, dtype=torch.float64),
        torch.full((ROWS,), radius, dtype=torch.float64),
    )
    exact = torch.tensor(
        [_exact(dense[i % 2], directions[i], curvature, radius) for i in range(ROWS)], dtype=torch.float64
    )
    before = torch.full_like(exact, torch.inf)
    for steps, excess in ((1, 1.0), (3, 0.2), (PIXELS, 0.01)):
        found = greatest_rise(quadratic, directions, curvatures, radii, image, steps)
        assert (found >= exact * (1 - 1e-9)).all()
        assert (found <= exact * (1 + excess)).all()
        assert (found <= before * 1.05).all()
        before = found


def test_rows_of_zeros_rise_by_curvature_alone_and_garbage_says_nothing() -> None:
    quadratic, dense = _quadratic(None)
    directions = torch.zeros(3, PIXELS).double()
    directions[2] = torch.nan
    curvatures, radii = torch.tensor([0.0, 2.0, 1.0]).double(), torch.ones(3).double()
    found = greatest_rise(quadratic, directions, curvatures, radii, torch.zeros(3, dtype=torch.long), 4)
    assert not found[0] < 0
    assert not found[1] < torch.linalg.matrix_norm(dense[0], 2).square()
    assert found[2].isnan()
