"""Backward linear bounds against the linear program of the same relaxation: below it, on it with the best slopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipcert.crown import Ball, Effort, Rows, State, bounded, split_activations
from lipcert.graph import Graph, compile_graph
from tests.crown.relaxed import Program, least_in_ball, relax, tiny

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
CENTER = torch.tensor([[0.3, 0.6, 0.5]], dtype=torch.float64)


def _state(network: Graph, boxes: list[tuple[np.ndarray, np.ndarray]]) -> State:
    ends = [tuple(torch.from_numpy(end)[None] for end in box) for box in boxes]
    return State(dict(zip((bend.index for bend in network.activations), ends, strict=True)))  # type: ignore[arg-type]


def _bounds(model: nn.Module, boxes: list[tuple[np.ndarray, np.ndarray]], ball: Ball, steps: int) -> Tensor:
    """Return bounds of z_0 - z_1 and z_0 - z_2."""
    network = split_activations(compile_graph(model, ball.images.shape[1:]))
    directions = torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
    rows = Rows.of(directions, torch.zeros(2, dtype=torch.long))
    return ball.certain(bounded(network, rows, _state(network, boxes), ball, Effort(steps)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_over_a_box(kind: str, seed: int) -> None:
    """All pixels in [0, 1]: the ball is larger."""
    network, program = tiny(kind, seed), Program()
    logits, boxes = relax(network, program, program.variables(3, 0, 1), (np.zeros(3), np.ones(3)))
    exact = [program.least(logits[0] - logits[j])[0] for j in (1, 2)]
    ball = Ball(CENTER, torch.tensor([2.0], dtype=torch.float64), clip_input=True)
    closest, best = (_bounds(network, boxes, ball, steps) for steps in (0, 250))
    for value, first, second in zip(exact, closest.tolist(), best.tolist(), strict=True):
        assert first <= value + 1e-6
        assert first <= second <= value + 1e-6
        assert second >= value - 0.01 * (1 + abs(value))


@pytest.mark.parametrize("kind", KINDS)
def test_over_a_ball(kind: str) -> None:
    network, program, epsilon = tiny(kind, 7), Program(), 0.4
    variables = program.variables(3, -1, 2)
    center = CENTER[0].numpy()
    logits, boxes = relax(network, program, variables, (center - epsilon, center + epsilon))
    exact = []
    for j in (1, 2):
        program.cuts.clear()
        exact.append(least_in_ball(program, logits[0] - logits[j], center, epsilon))
    ball = Ball(CENTER, torch.tensor([epsilon], dtype=torch.float64))
    closest, best = (_bounds(network, boxes, ball, steps) for steps in (0, 120))
    for value, first, second in zip(exact, closest.tolist(), best.tolist(), strict=True):
        assert first <= second <= value + 1e-4 * (1 + abs(value))
        assert second >= value - 0.01 * (1 + abs(value))
