"""Backward linear bounds against auto_LiRPA, where it is installed: no dependency, so nothing else needs it.

Its release 0.3 needs patches to be imported beside a current torch (`numpy.lib.arraysetops`, `_set_opset_version`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipcert.crown import Ball, Effort, Rows, State, bounded, split_activations
from lipcert.graph import Box, compile_graph
from tests.crown.relaxed import tiny
from tests.oracles import scale_weights

lirpa: Any = pytest.importorskip("auto_LiRPA", reason="auto_LiRPA is not installed", exc_type=ImportError)

EPSILON = 0.8


def _convolutional() -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    return scale_weights(nn.Sequential(*layers), 2.0).double().eval().requires_grad_(False)  # type: ignore[return-value]


CASES = {
    "one layer": (lambda: tiny("relu", 0, (3, 12, 3)), (3,)),
    "two layers": (lambda: tiny("relu", 1, (3, 6, 5, 3)), (3,)),
    "three layers": (lambda: tiny("relu", 2, (4, 6, 6, 5, 3)), (4,)),
    "convolutions": (_convolutional, (1, 8, 8)),
}


def _theirs(model: nn.Module, inputs: Tensor, method: str) -> tuple[Tensor, list[Box]]:
    """Return lower bounds of all logits, (B, K), and the boxes of all activations' inputs."""
    wrapped = lirpa.BoundedModule(model, inputs, verbose=False)
    ball = lirpa.BoundedTensor(inputs, lirpa.PerturbationLpNorm(norm=2, eps=EPSILON))
    lower, _ = wrapped.compute_bounds(x=(ball,), method=method, bound_upper=False)
    befores = [node.inputs[0] for node in wrapped.modules() if type(node).__name__ == "BoundRelu"]
    return lower.detach(), [(node.lower.detach(), node.upper.detach()) for node in befores]


def _ours(model: nn.Module, inputs: Tensor, boxes: list[Box], steps: int = 0) -> Tensor:
    """Return lower bounds of all logits, (B, K), over given boxes."""
    ball = Ball(inputs, torch.full((len(inputs),), EPSILON, dtype=inputs.dtype))
    network = split_activations(compile_graph(model, inputs.shape[1:]))
    state = State(dict(zip((bend.index for bend in network.activations), boxes, strict=True)))
    logits = model(inputs)
    image = torch.arange(len(inputs)).repeat_interleave(logits.shape[1])
    rows = Rows.of(torch.eye(logits.shape[1], dtype=inputs.dtype).repeat(len(inputs), 1), image)
    return ball.least(bounded(network, rows, state, ball, Effort(steps))).view_as(logits)


@pytest.mark.parametrize("case", CASES)
def test_the_closest_lines_give_the_same_bounds(case: str) -> None:
    build, shape = CASES[case]
    model, inputs = build(), torch.rand(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs, boxes = _theirs(model, inputs, "CROWN")
    ours = _ours(model, inputs, boxes)
    assert (ours < model(inputs) - 1e-3).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_optimised_slopes_are_no_looser() -> None:
    build, shape = CASES["one layer"]
    model, inputs = build(), torch.rand(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theirs, boxes = _theirs(model, inputs, "CROWN-Optimized")
    ours = _ours(model, inputs, boxes, steps=50)
    assert (ours >= theirs - 1e-6).all()
    assert (ours > theirs + 0.1).any()
