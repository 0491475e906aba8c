"""Rows at the image are below what they bound at every point of the ball, whatever the slopes and multipliers.

Layers are orthogonal, so that nothing is lost to norms: curvatures and prices that are too small show.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, Bound, analyze
from lipcert.crown import Ball, Rows, proved_state, split_activations, substitute
from lipcert.crown.substitution import Found
from lipcert.graph import compile_graph
from lipcert.nn import MaxMin, Residual
from tests.oracles import ExactNorms, points_in_ball

SIZE, ROWS, RADIUS = 4, 120, 0.8
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "maxmin": MaxMin}


def _linear(outputs: int = SIZE) -> nn.Linear:
    layer = nn.Linear(SIZE, outputs)
    nn.init.orthogonal_(layer.weight)
    nn.init.uniform_(layer.bias, 0, 0.5)
    return layer


def _network(kind: str, activation: type[nn.Module]) -> nn.Module:
    """Return layers in a row, or in two branches that start at one activation."""
    first, last = (_linear(), activation()), (_linear(), activation(), _linear(2))
    branch = nn.Sequential(_linear(), activation(), _linear())
    middle = {
        "plain": (_linear(), activation()),
        "parallel": (Residual(branch, nn.Sequential(_linear(), activation(), _linear())),),
    }
    return nn.Sequential(*first, *middle[kind], *last).double().eval().requires_grad_(False)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["plain", "parallel"])
def test_rows_are_below_the_network_all_over_the_ball(kind: str, activation: str) -> None:
    for seed in range(2, 5):
        torch.manual_seed(seed)
        model, images = _network(kind, ACTIVATIONS[activation]), torch.rand(1, SIZE).double()
        assert (_gaps(model, images) >= -1e-9).all()


def _gaps(model: nn.Module, images: Tensor) -> Tensor:
    """Return how far rows with random slopes and multipliers stay below the network, at least, (R,)."""
    arithmetic = Arithmetic.of(torch.float64, torch.float64)
    analysis = analyze(compile_graph(model, (SIZE,)), images, RADIUS, Bound.TIGHT, ExactNorms(), arithmetic=arithmetic)
    network = split_activations(analysis.graph)
    state, ball = proved_state(network, analysis.activations, Ball(images, torch.tensor([RADIUS]).double()))
    directions = torch.randn(ROWS, 2).double()
    rows, found = Rows.of(directions, torch.zeros(ROWS, dtype=torch.long)), dict[int, Found]()
    substitute(network, rows, state, found=found)
    slopes = {index: each.slopes + 0.3 * torch.randn_like(each.slopes) for index, each in found.items()}
    multipliers = {index: 10 ** (2 * torch.rand(ROWS).double() - 1.5) for index in found}
    below = substitute(network, rows, replace(state, slopes=slopes, multipliers=multipliers))
    least = torch.full((ROWS,), torch.inf).double()
    moved = (points_in_ball(images, RADIUS, 16)[:, 0] - images).unsqueeze(1).repeat(1, ROWS, 1)
    for _ in range(40):
        moved = moved.detach().requires_grad_(True)
        bound = (below.coefficients * (images + moved)).sum(dim=2) + below.constant
        if ball.quadratic is not None:
            seen = ball.quadratic.apply(moved.flatten(0, 1), rows.image.repeat(len(moved))).unflatten(
                0, moved.shape[:2]
            )
            bound = bound - below.curvature / 2 * seen.square().sum(dim=2)
        gap = (model((images + moved).flatten(0, 1)).unflatten(0, moved.shape[:2]) * directions).sum(dim=2) - bound
        (gradient,) = torch.autograd.grad(gap.sum(), moved)
        least = torch.minimum(least, gap.detach().amin(dim=0))
        moved = moved - 0.1 * gradient / gradient.norm(dim=2, keepdim=True).clamp_min(1e-12)
        moved = moved * (RADIUS / moved.norm(dim=2, keepdim=True)).clamp_max(1)
    return least
