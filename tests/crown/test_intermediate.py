"""Boxes of layers with many neurons: by boxes alone, for images of which that halves the widths of a few."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.bounds import Bound
from lipcert.certificates.float64 import Float64Model
from lipcert.crown import Ball, State, proved_state, refined, split_activations

EPSILON, PIXELS, LOUD, SECOND = 0.1, 8, 6, 24


def _network() -> nn.Sequential:
    """Return a network whose loud neurons, awake in bright images, are alike and cancel in the second layer."""
    torch.manual_seed(0)
    sizes = (PIXELS, LOUD + PIXELS), (LOUD + PIXELS, SECOND), (SECOND, 3)
    first, second, last = (nn.Linear(*size, dtype=torch.float64) for size in sizes)
    with torch.no_grad():
        first.weight.copy_(torch.cat((torch.full((LOUD, PIXELS), 4.0), torch.eye(PIXELS))))
        first.bias.copy_(torch.cat((torch.full((LOUD,), -2.0 * PIXELS), torch.ones(PIXELS))))
        parts = second.weight.split((LOUD, PIXELS), dim=1)
        second.weight.copy_(torch.cat([part - part.mean(dim=1, keepdim=True) for part in parts], dim=1))
        second.bias.zero_()
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last).eval().requires_grad_(False)


def _states(images: Tensor, most: int) -> tuple[nn.Sequential, State, State, int]:
    """Return the network, what the tight bound knows, the same refined, and the index of its second activation."""
    model, epsilon = _network(), torch.full((len(images),), EPSILON, dtype=torch.float64)
    analysis = Float64Model(model).analyze(images, epsilon, Bound.TIGHT, 40)
    graph = split_activations(analysis.graph)
    state, ball = proved_state(graph, analysis.activations, Ball(images, epsilon))
    return model, state, refined(graph, state, ball, most), graph.activations[1].index


def test_images_follow_where_a_few_neurons_shrink_by_half_and_no_others() -> None:
    bright, dark = torch.full((1, PIXELS), 0.8).double(), torch.full((1, PIXELS), 0.2).double()
    model, before, after, index = _states(torch.cat((dark, bright, dark, bright)), 0)
    (lower, upper), (least, greatest) = before.boxes[index], after.boxes[index]
    exact = EPSILON * (model[2].weight[:, LOUD:]).norm(dim=1)  # what is loud cancels, all else is linear
    for image in (1, 3):
        torch.testing.assert_close(greatest[image], exact, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(least[image], -exact, rtol=1e-6, atol=1e-9)
        assert bool((greatest[image] >= exact).all())
        assert bool((upper[image] > 2 * exact).all())
    for image in (0, 2):
        torch.testing.assert_close(greatest[image], upper[image], rtol=1e-6, atol=1e-9)
        assert bool(((least[image] > lower[image]) | (greatest[image] < upper[image])).sum() <= 8)


def test_layers_of_few_neurons_follow_balls_and_boxes() -> None:
    bright = torch.full((2, PIXELS), 0.8).double()
    _, _, after, index = _states(bright, SECOND)
    _, _, alone, _ = _states(bright, 0)
    torch.testing.assert_close(after.boxes[index], alone.boxes[index], rtol=1e-6, atol=1e-9)
