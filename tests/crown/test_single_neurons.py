"""Networks of one neuron a layer, in which norms lose nothing: whatever is priced too low shows at some point."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, Bound, analyze
from lipcert.crown import Ball, Rows, State, proved_state, split_activations, substitute
from lipcert.crown.substitution import Found
from lipcert.graph import Graph
from lipcert.nn import ClippedReLU, Residual
from tests.oracles import ExactNorms

ROWS, POINTS, NETWORKS, EPSILON = 150, 81, 4, 0.8


def _activation(name: str) -> nn.Module:
    """Return a clamp, or what bends by any slope below 0."""
    if name == "smooth":
        return nn.Tanh()
    if name != "bent":
        return ClippedReLU((1,), 0.6) if name == "clipped" else nn.ReLU()
    layer = nn.PReLU(1)
    nn.init.uniform_(layer.weight, -1.6, 1.4)
    return layer


def _branch(name: str) -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, 1), _activation(name), nn.Linear(1, 1))


def _network(kind: str, name: str, rising: bool) -> nn.Sequential:
    """Return a chain, or branches behind one activation that end before another: of neurons both, or of one.

    Where `rising`, both branches go the same way: what they add up to is as far from the center as a ball says.
    """
    middle: dict[str, nn.Module] = {
        "chain": _branch(name),
        "branches": Residual(_branch(name), _branch(name)),
        "skipped": Residual(_branch(name), nn.Linear(1, 1)),
    }
    outer = "bent" if name == "bent" else "relu"
    ends = (nn.Linear(1, 1), _activation(outer)), (_activation(outer), nn.Linear(1, 1))
    model = nn.Sequential(*ends[0], middle[kind], *ends[1]).double().eval()
    for layer in model.requires_grad_(False).modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_((0.5 + torch.rand(1, 1)) * (1 if rising else torch.randn(1, 1).sign()))
            layer.bias.uniform_(-0.2, 0.8)
    return model


class Case:
    """A network, one image, and rows with drawn slopes and multipliers; `points`: all over the ball, (N, 1)."""

    def __init__(self, kind: str, name: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.model, self.image = _network(kind, name, seed % 2 == 0), torch.rand(1, 1, dtype=torch.float64)
        self.model[0].bias.copy_(0.3 - self.model[0](self.image)[0] + self.model[0].bias)  # the first neuron bends
        arithmetic = Arithmetic.of(torch.float64, torch.float64)
        ball = Ball(self.image, torch.full((1,), EPSILON, dtype=torch.float64))
        analysis = analyze(self.model, self.image, EPSILON, Bound.TIGHT, ExactNorms(), arithmetic=arithmetic)
        network = split_activations(analysis.graph)
        state, self.ball = proved_state(network, analysis.activations, ball)
        directions = torch.randn(ROWS, 1, dtype=torch.float64)
        rows = Rows.of(directions, torch.zeros(ROWS, dtype=torch.long))
        self.found = substitute(network, rows, _drawn(network, rows, state))
        self.offsets = torch.linspace(-EPSILON, EPSILON, POINTS, dtype=torch.float64).unsqueeze(1)
        self.reached = self.model(self.image + self.offsets) @ directions.T

    def bounds(self, offsets: Tensor) -> Tensor:
        """Return the rows' bounds, linear and quadratic parts, at offsets (N, 1) or (N, R), (N, R)."""
        linear = (self.image + offsets) * self.found.coefficients[:, 0] + self.found.constant
        return linear - self.found.curvature / 2 * (offsets * self.model[0].weight).square()


def _drawn(network: Graph, rows: Rows, state: State) -> State:
    """Return the state with slopes around the closest ones, and any multipliers."""
    found: dict[int, Found] = {}
    substitute(network, rows, state, found=found)
    slopes = {index: each.slopes * (1.6 * torch.rand(ROWS, 1)) for index, each in found.items()}
    multipliers = {index: 10 ** (2.5 * torch.rand(ROWS).double() - 1.5) for index in found}
    return replace(state, slopes=slopes, multipliers=multipliers)


@pytest.mark.parametrize("name", ["relu", "clipped", "bent", "smooth"])
@pytest.mark.parametrize("kind", ["chain", "branches", "skipped"])
def test_rows_and_what_is_made_of_them_hold_at_every_point(kind: str, name: str) -> None:
    for seed in range(4 * NETWORKS if (kind, name) == ("chain", "bent") else NETWORKS):  # few have what floors are for
        case = Case(kind, name, seed)
        bounds = case.bounds(case.offsets)
        assert (bounds <= case.reached + 1e-9).all()
        assert (case.found.stops <= case.reached.amin(dim=0) + 1e-9).all()
        _check_ball(case, bounds.amin(dim=0))


def _check_ball(case: Case, lowest: Tensor) -> None:
    """Bounds are least at an end of the ball, `lowest`, (R,), and what is required is lost at the radius."""
    without = case.found._replace(stops=torch.full_like(lowest, -torch.inf))
    certain = case.ball.certain(without)
    assert (certain <= lowest + 1e-12).all()
    assert (certain >= lowest - 1e-6).all()
    at_image = case.bounds(torch.zeros(1, 1, dtype=torch.float64))[0]
    required = lowest + torch.rand(ROWS, dtype=torch.float64) * (at_image - lowest)
    radius = case.ball.radius(without, required)
    for factor, holds in ((1 - 1e-6, True), (1 + 1e-6, False)):
        ends = torch.stack((-radius, radius)) * factor
        assert ((case.bounds(ends).amin(dim=0) >= required) == holds).all()
