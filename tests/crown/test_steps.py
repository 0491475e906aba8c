"""Activations of several steps: each clamp and each sort of pairs gets the box that is right in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import analyze
from lipcert.crown import Ball, Rows, bounded, proved_state, split_activations
from lipcert.graph import Box, Clamp, Nonlinearity, PairSort, compile_graph, register_activation
from lipcert.graph.activations import MAKERS
from tests.oracles import ExactNorms, points_in_ball

STEPS: dict[str, tuple[Clamp | PairSort, ...]] = {
    "clamp, sort": (Clamp(0.25, 0.75), PairSort()),
    "clamp, clamp": (Clamp(-0.25), Clamp(0.0, 0.5)),
    "sort, sort": (PairSort(), PairSort()),
    "sort, clamp, sort": (PairSort(), Clamp(0.0, 0.5), PairSort()),
    "clamp, clipped sort": (Clamp(-0.5), PairSort(*(torch.full((1, 3), end).double() for end in (0.3, -0.2)))),
}


class Several(nn.Module):
    """Applies steps one after the other."""

    def __init__(self, steps: Sequence[Clamp | PairSort]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, inputs: Tensor) -> Tensor:
        for step in self.steps:
            inputs = step.apply(inputs)
        return inputs


class Composed(Nonlinearity):
    """What bounds ask of `Several`."""

    def __init__(self, steps: Sequence[Clamp | PairSort]) -> None:
        self.steps = steps

    def apply(self, inputs: Tensor) -> Tensor:
        for step in self.steps:
            inputs = step.apply(inputs)
        return inputs

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        return self.apply(lower), self.apply(upper)

    def clamps(self, shape: tuple[int, ...]) -> Sequence[Clamp | PairSort]:
        return self.steps


@pytest.fixture(autouse=True)
def fixture_table() -> Iterator[None]:
    register_activation(Several, lambda layer, shape: Composed(layer.steps))
    yield
    del MAKERS[Several]


@pytest.mark.parametrize("name", STEPS)
def test_no_point_of_the_ball_falls_below_the_bound(name: str) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        layers = (nn.Linear(4, 6), Several(STEPS[name]), nn.Linear(6, 6), Several(STEPS[name]), nn.Linear(6, 3))
        model = nn.Sequential(*layers).double().eval().requires_grad_(False)
        images, epsilon = torch.rand(3, 4, dtype=torch.float64), 0.5
        graph = compile_graph(model, (4,))
        ball = Ball(images, torch.full((3,), epsilon, dtype=torch.float64))
        network = split_activations(graph)
        state, ball = proved_state(network, analyze(graph, images, epsilon, "tight", ExactNorms()).activations, ball)
        units = torch.eye(3, dtype=torch.float64).repeat(3, 1)
        image = torch.arange(3).repeat_interleave(3)
        least = ball.certain(bounded(network, Rows.of(units, image), state, ball)).view(3, 3)
        for points in points_in_ball(images, epsilon, 200, seed):
            assert (model(points) >= least - 1e-9).all()


def test_what_an_activation_does_not_say_is_refused() -> None:
    silent, end = Nonlinearity(), torch.zeros(1, 2)
    for asked in (lambda: silent.range(end, end), lambda: silent.rounding(end, end, end), lambda: silent.clamps((2,))):
        with pytest.raises(NotImplementedError):
            asked()
