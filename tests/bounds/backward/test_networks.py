"""Backward linear bounds of convolutional, pooled and residual networks: nothing inside the ball goes below them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Analysis, UnsupportedLayerError, analyze
from lipcert.bounds.backward import Ball, Rows, bounded, clamps, nodes_of, proved_state, refined
from lipcert.bounds.lazy import Lazy
from tests.networks import images, network
from tests.oracles import ExactNorms, points_in_ball

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
NAMES = ("plain", "pooled", "residual")
EPSILON = 0.15


def _all_pairs(logits: Tensor) -> tuple[Tensor, Tensor, Rows]:
    """Return the image and class of rows z_0 - z_j, j > 0."""
    count, classes = logits.shape
    image = torch.arange(count).repeat_interleave(classes - 1)
    other = torch.arange(1, classes).repeat(count)
    units = torch.eye(classes, dtype=logits.dtype)
    return image, other, Rows.of(units[:1] - units[other], image)


def _ball(inputs: Tensor, clip_input: bool = False) -> Ball:
    return Ball(inputs, torch.full((len(inputs),), EPSILON, dtype=inputs.dtype), clip_input)


def _analysis(model: nn.Module, inputs: Tensor) -> Analysis:
    with torch.no_grad():
        return analyze(model, inputs, EPSILON, "tight", ExactNorms())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_point_of_the_ball_goes_below(name: str, kind: str) -> None:
    model, inputs = network(name, kind, scale=1.2).requires_grad_(False), images(2)
    ball, nodes = _ball(inputs), nodes_of(model, inputs)
    known = proved_state(nodes, _analysis(model, inputs).activations, ball)
    state = refined(nodes, known, ball, 10**6)
    image, other, rows = _all_pairs(model(inputs))
    coarse = ball.certain(bounded(nodes, rows, known, ball))
    closest = ball.certain(bounded(nodes, rows, state, ball))
    best = bounded(nodes, rows, state, ball, steps=10)
    assert (best.slack > 0).all()
    assert (best.slack < 1e-8).all()
    assert (closest >= coarse - 1e-9).float().mean() > 0.7  # lines over smaller boxes are rarely worse
    assert (ball.certain(best) >= closest).all()
    assert (ball.certain(best) > closest).any()
    reached = torch.full_like(closest, torch.inf)
    for points in (points_in_ball(inputs, EPSILON, 100), _descended(model, inputs, image, other)):
        for point in points:
            logits = model(point)
            reached = torch.minimum(reached, (logits[image, 0] - logits[image, other]))
            linear = (best.coefficients * point[image]).flatten(1).sum(dim=1) + best.constant
            assert (linear <= logits[image, 0] - logits[image, other] + 1e-9).all()
    assert (ball.certain(best) <= reached).all()


def _descended(model: nn.Module, inputs: Tensor, image: Tensor, other: Tensor) -> list[Tensor]:
    """Return points that gradient descent finds for each class, one list entry a class."""
    found = []
    for j in other.unique().tolist():
        offset = torch.zeros_like(inputs)
        for _ in range(10):
            point = (inputs + offset).requires_grad_(True)
            logits = model(point)
            (gradient,) = torch.autograd.grad((logits[:, 0] - logits[:, j]).sum(), point)
            offset = offset - EPSILON * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            offset = offset * (EPSILON / offset.flatten(1).norm(dim=1).clamp_min(EPSILON)).view(-1, 1, 1, 1)
        found.append((inputs + offset).detach())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_refined_boxes_hold_what_the_network_computes(name: str, kind: str) -> None:
    model, inputs = network(name, kind, scale=1.2).requires_grad_(False), images(2)
    ball, nodes = _ball(inputs), nodes_of(model, inputs)
    known = proved_state(nodes, _analysis(model, inputs).activations, ball)
    state = refined(nodes, known, ball, 10**6)
    met: dict[str, list[Tensor]] = {}
    for layer_name, layer in model.named_modules():
        if any(clamp.activation == layer_name for clamp in clamps(nodes)):
            layer.register_forward_hook(lambda _, given, __, key=layer_name: met.setdefault(key, []).append(given[0]))
    for point in points_in_ball(inputs, EPSILON, 100):
        model(point)
    narrower = False
    for clamp in clamps(nodes):
        (lower, upper), (before, after) = state.boxes[clamp], known.boxes[clamp]
        assert (lower >= before).all()
        assert (upper <= after).all()
        narrower |= bool((upper - lower < 0.99 * (after - before)).any())
        for values in met[clamp.activation]:
            inside = clamp.box_of((values, values))[0]
            assert (lower - 1e-9 <= inside).all()
            assert (inside <= upper + 1e-9).all()
    assert narrower


def test_layers_with_too_many_open_neurons_keep_their_boxes() -> None:
    model, inputs = network("plain", "relu").requires_grad_(False), images(2)
    ball, nodes = _ball(inputs), nodes_of(model, inputs)
    known = proved_state(nodes, _analysis(model, inputs).activations, ball)
    state = refined(nodes, known, ball, 0)
    assert all(torch.equal(state.boxes[clamp][0], known.boxes[clamp][0]) for clamp in clamps(nodes))


def test_pixels_in_0_1_only_help() -> None:
    model, inputs = network("plain", "relu", scale=1.2).requires_grad_(False), images(2)
    inputs[0] = inputs[0].round()
    nodes = nodes_of(model, inputs)
    state = proved_state(nodes, _analysis(model, inputs).activations, _ball(inputs))
    _, _, rows = _all_pairs(model(inputs))
    free, clipped = _ball(inputs), _ball(inputs, clip_input=True)
    first, second = (ball.certain(bounded(nodes, rows, state, ball)) for ball in (free, clipped))
    assert (second >= first - 1e-9).all()
    assert (second > first + 1e-3).any()


def test_within_the_radius_of_a_row_its_bound_holds_and_not_much_further() -> None:
    model, inputs = network("plain", "relu", scale=1.2).requires_grad_(False), images(2)
    ball, nodes = _ball(inputs), nodes_of(model, inputs)
    state = proved_state(nodes, _analysis(model, inputs).activations, ball)
    image, _, rows = _all_pairs(model(inputs))
    found = bounded(nodes, rows, state, ball)
    at_images = (found.coefficients * inputs[image]).flatten(1).sum(dim=1) + found.constant
    middle = (ball.certain(found) + at_images) / 2
    radius = ball.radius(found, middle)
    assert ((radius > 0) & (radius < EPSILON)).all()
    for row in range(len(radius)):
        for factor, holds in ((1 - 1e-6, True), (1 + 1e-3, False)):
            smaller = replace(ball, epsilon=ball.epsilon * 0 + radius[row] * factor)
            assert bool(smaller.certain(found)[row] >= middle[row]) == holds


@pytest.mark.parametrize("place", ["box", "coefficients"])
def test_nan_raises_no_bound(place: str) -> None:
    model, inputs = network("plain", "relu").requires_grad_(False), images(1)
    ball, nodes = _ball(inputs), nodes_of(model, inputs)
    state = proved_state(nodes, _analysis(model, inputs).activations, ball)
    _, _, rows = _all_pairs(model(inputs))
    if place == "box":
        next(iter(state.boxes.values()))[1][0, 0, 0, 0] = torch.nan
    else:
        rows.coefficients[:, 2] = torch.nan
    for steps in (0, 3):
        found = bounded(nodes, rows, state, ball, steps)
        assert not (ball.certain(found) > -torch.inf).any()
        assert (ball.radius(found, torch.zeros(len(found.image))) == 0).all()


def test_slack_covers_what_single_precision_loses() -> None:
    """Boxes so small that nothing bends: bounds are the network's own values, but for rounding."""
    model, inputs = network("residual", "clipped_maxmin", scale=2.0).requires_grad_(False), images(8)
    single = network("residual", "clipped_maxmin", scale=2.0).float().requires_grad_(False)
    model.load_state_dict({name: each.double() for name, each in single.state_dict().items()})
    inputs = inputs.float().double()
    with torch.no_grad():
        analysis = analyze(model, inputs, 1e-5, "tight", ExactNorms())
    activations = [
        replace(each, box=Lazy.of((each.lower.float(), each.upper.float()))) for each in analysis.activations
    ]
    ball = Ball(inputs.float(), torch.full((8,), 1e-5))
    nodes = nodes_of(single, ball.images)
    state = proved_state(nodes, activations, ball)
    image, other, rows = _all_pairs(single(ball.images))
    found = bounded(nodes, rows, state, ball)
    logits = model(inputs)
    stated = (found.coefficients * ball.images[image]).flatten(1).sum(dim=1).double() + found.constant.double()
    excess = stated - (logits[image, 0] - logits[image, other])
    assert (excess <= found.slack.double()).all()
    assert (excess > 0).any()


def test_unsupported_layers_are_named() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"'1' is a GELU"):
        nodes_of(nn.Sequential(nn.Linear(3, 3), nn.GELU()), torch.zeros(1, 3))
