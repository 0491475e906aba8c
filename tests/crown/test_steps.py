"""Activations of several steps: each clamp and each sort of pairs gets the box that is right in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, analyze
from lipcert.crown import Ball, Effort, Rows, State, bounded, proved_state, refined, split_activations, substitute
from lipcert.graph import Bend, Box, Clamp, Graph, Nonlinearity, PairSort, Step, compile_graph, register_activation
from lipcert.graph.activations import MAKERS
from tests.oracles import ExactNorms, points_in_ball

STEPS: dict[str, tuple[Step, ...]] = {
    "clamp, sort": (Clamp(0.25, 0.75), PairSort()),
    "clamp, clamp": (Clamp(-0.25), Clamp(0.0, 0.5)),
    "sort, bend": (PairSort(), Bend(0.3)),
    "bend, sort": (Bend(0.3), PairSort()),
    "sort, sort": (PairSort(), PairSort()),
    "sort, clamp, sort": (PairSort(), Clamp(0.0, 0.5), PairSort()),
    "clamp, clipped sort": (Clamp(-0.5), PairSort(*(torch.full((1, 3), end).double() for end in (0.3, -0.2)))),
}


class Several(nn.Module):
    """Applies steps one after the other."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, inputs: Tensor) -> Tensor:
        for step in self.steps:
            inputs = step.apply(inputs)
        return inputs


class Composed(Nonlinearity):
    """What bounds ask of `Several`."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.parts = steps

    def apply(self, inputs: Tensor) -> Tensor:
        for step in self.parts:
            inputs = step.apply(inputs)
        return inputs

    def range(self, lower: Tensor, upper: Tensor) -> Box:
        return self.apply(lower), self.apply(upper)

    def rounding(self, entries: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return entries.amax().expand_as(entries)

    def steps(self, shape: tuple[int, ...]) -> Sequence[Step]:
        return self.parts


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


class Masking(Composed):
    """Says which outputs of elementwise clamps vary, and leaves to bounds which inputs matter."""

    slopes = (0.0, 1.0)

    def varying(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (self.apply(lower) != self.apply(upper)).to(lower.dtype)


class CappedSort(Composed):
    """A sort of pairs capped at 3: inputs above that matter to no output that varies, whatever their pair's order."""

    def varying(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (self.apply(lower) < 3).to(lower.dtype)

    def needed(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (lower < 3).to(lower.dtype)


def _known(model: nn.Module, image: Tensor, epsilon: float) -> tuple[Graph, State, Ball]:
    """Return what the tight bound knows of a network, with balls, and boxes refined."""
    arithmetic = Arithmetic.of(torch.float64, torch.float64)
    graph, ball = compile_graph(model, (2,)), Ball(image, torch.tensor([epsilon], dtype=torch.float64))
    analysis = analyze(graph, image, epsilon, "tight", ExactNorms(), arithmetic=arithmetic)
    network = split_activations(graph)
    state, ball = proved_state(network, analysis.activations, ball)
    return network, refined(network, state, ball, 100), ball


def _linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(2, len(weight)).double().requires_grad_(False)
    layer.weight.copy_(torch.tensor(weight))
    layer.bias.copy_(torch.tensor(bias))
    return layer


def test_inputs_that_no_varying_output_depends_on_are_held_whoever_left_them_out_of_norms() -> None:
    register_activation(Several, lambda layer, shape: Masking(layer.steps))
    steps = (Clamp(0.0), Clamp(None, 0.5))
    model = nn.Sequential(_linear([[1, 0], [0, 4]], [0, 4]), Several(steps), _linear([[1, 1], [0, 0]], [0, 0]))
    image = torch.full((1, 2), 0.25, dtype=torch.float64)
    network, state, ball = _known(model, image, 0.5)
    rows = Rows.of(torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.tensor([0]))
    for slope in (-3.0, 0.5, 3.0):
        for multiplier in (1e-2, 1.0, 1e2):
            slopes = {index: torch.full_like(lower, slope) for index, (lower, _) in state.boxes.items()}
            multipliers = {index: torch.full((1,), multiplier, dtype=torch.float64) for index in state.boxes}
            found = substitute(network, rows, replace(state, slopes=slopes, multipliers=multipliers))
            assert ball.certain(found) <= 0.5  # at (0, 0.25)


def test_differences_with_a_held_input_keep_the_boxes_that_hold_for_it() -> None:
    register_activation(Several, lambda layer, shape: CappedSort(layer.steps))
    sums = _linear([[5, 0], [0.9, 1.2]], [2.5 - 50, 5.5 - 21])
    steps = (PairSort(), Clamp(None, 3.0))
    model = nn.Sequential(_linear([[1, 0], [0, 1]], [10, 10]), nn.ReLU(), sums, Several(steps), _linear([[0, 1]], [0]))
    image = torch.zeros(1, 2, dtype=torch.float64)
    network, state, ball = _known(model, image, 1.0)
    rows = Rows.of(torch.ones(1, 1, dtype=torch.float64), torch.tensor([0]))
    least = model(torch.tensor([[-1.0, 0.0]], dtype=torch.float64))[:, 0]
    for known in (state, replace(state, balls={})):
        for steps_of_slopes in (0, 30):
            assert ball.certain(bounded(network, rows, known, ball, Effort(steps_of_slopes))) <= least


def test_what_an_activation_does_not_say_is_refused() -> None:
    silent, end = Nonlinearity(), torch.zeros(1, 2)
    for asked in (lambda: silent.range(end, end), lambda: silent.rounding(end, end, end), lambda: silent.steps((2,))):
        with pytest.raises(NotImplementedError):
            asked()
