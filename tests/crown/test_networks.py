"""Backward linear bounds of convolutional, pooled and residual networks: nothing inside the ball goes below them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Analysis, Arithmetic, analyze
from lipcert.crown import Ball, Effort, Rows, bounded, boxes_of_steps, proved_state, refined, split_activations
from lipcert.graph import Graph, UnsupportedLayerError, compile_graph
from tests import networks
from tests.networks import images
from tests.oracles import ExactNorms, points_in_ball
from tests.pairwise import pairwise

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")
NAMES = ("plain", "pooled", "residual")
EPSILON = 0.15
ARITHMETIC = Arithmetic.of(torch.float64, torch.float64)


def _all_pairs(logits: Tensor) -> tuple[Tensor, Tensor, Rows]:
    """Return the image and class of rows z_0 - z_j, j > 0."""
    count, classes = logits.shape
    image = torch.arange(count).repeat_interleave(classes - 1)
    other = torch.arange(1, classes).repeat(count)
    units = torch.eye(classes, dtype=logits.dtype)
    return image, other, Rows.of(units[:1] - units[other], image)


def _ball(inputs: Tensor, clip_input: bool = False) -> Ball:
    return Ball(inputs, torch.full((len(inputs),), EPSILON, dtype=inputs.dtype), clip_input)


def _network(model: nn.Module, inputs: Tensor) -> tuple[Graph, Analysis]:
    """Return the network of a model, and what the tight bound knows of the same graph."""
    graph = compile_graph(model, inputs.shape[1:])
    with torch.no_grad():
        analysis = analyze(graph, inputs, EPSILON, "tight", ExactNorms(), arithmetic=ARITHMETIC)
        return split_activations(graph), analysis


@pairwise(name=NAMES, kind=KINDS)
def test_no_point_of_the_ball_goes_below(name: str, kind: str) -> None:
    model, inputs = networks.network(name, kind, scale=1.2).requires_grad_(False), images(2)
    ball, (network, analysis) = _ball(inputs), _network(model, inputs)
    known, ball = proved_state(network, analysis.activations, ball)
    state = refined(network, known, ball, 10**6)
    image, other, rows = _all_pairs(model(inputs))
    coarse = ball.certain(bounded(network, rows, known, ball))
    closest = ball.certain(bounded(network, rows, state, ball))
    steps = 60 if name == "residual" and "maxmin" in kind else 30  # their first ones gain nothing
    best = bounded(network, rows, state, ball, Effort(steps))
    assert (best.slack > 0).all()
    assert (best.slack < 1e-8).all()
    assert (closest >= coarse - 1e-9).float().mean() > 0.7  # lines over smaller boxes are rarely worse
    assert (ball.certain(best) >= closest).all()
    assert (ball.certain(best) > closest).any()
    points = torch.cat((points_in_ball(inputs, EPSILON, 100), torch.stack(_descended(model, inputs, image, other))))
    logits = model(points.flatten(0, 1)).unflatten(0, points.shape[:2])[:, image]
    margins = logits[..., 0] - logits.gather(2, other.expand(len(points), -1).unsqueeze(2))[..., 0]
    linear = (best.coefficients * points[:, image]).flatten(2).sum(dim=2) + best.constant
    if ball.quadratic is not None:
        offsets = (points - inputs)[:, image]
        seen = ball.quadratic.apply(offsets.flatten(0, 1), image.repeat(len(points))).view(*margins.shape, -1)
        linear = linear - best.curvature / 2 * seen.square().sum(dim=2)
    assert (linear <= margins + 1e-9).all()
    reached = margins.amin(dim=0)
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


@pairwise(name=NAMES, kind=KINDS)
def test_refined_boxes_hold_what_the_network_computes(name: str, kind: str) -> None:
    model, inputs = networks.network(name, kind, scale=1.2).requires_grad_(False), images(2)
    ball, (network, analysis) = _ball(inputs), _network(model, inputs)
    known, ball = proved_state(network, analysis.activations, ball)
    state = refined(network, known, ball, 10**6)
    met: dict[str, list[Tensor]] = {}
    for layer_name, layer in model.named_modules():
        if any(bend.name == layer_name for bend in network.activations):
            layer.register_forward_hook(lambda _, given, __, key=layer_name: met.setdefault(key, []).append(given[0]))
    for point in points_in_ball(inputs, EPSILON, 100):
        model(point)
    reached = [
        boxes_of_steps(network, {key: (values, values) for key, values in zip(met, point, strict=True)})
        for point in zip(*met.values(), strict=True)
    ]
    narrower = False
    for bend in network.activations:
        (lower, upper), (before, after) = state.boxes[bend.index], known.boxes[bend.index]
        assert (lower >= before).all()
        assert (upper <= after).all()
        narrower |= bool((upper - lower < 0.99 * (after - before)).any())
        for boxes in reached:
            inside = boxes[bend.index][0]
            assert (lower - 1e-9 <= inside).all()
            assert (inside <= upper + 1e-9).all()
    assert narrower


def test_layers_with_too_many_open_neurons_keep_their_boxes_but_for_those_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lipcert.crown.intermediate.SHRUNK", 0.0)
    model, inputs = networks.network("plain", "relu").requires_grad_(False), images(2)
    ball, (network, analysis) = _ball(inputs), _network(model, inputs)
    known, ball = proved_state(network, analysis.activations, ball)
    state = refined(network, known, ball, 0)
    for bend in network.activations:
        changed = state.boxes[bend.index][0] != known.boxes[bend.index][0]
        assert int(changed.flatten(1).sum(dim=1).amax()) <= 8


def test_pixels_in_0_1_only_help() -> None:
    model, inputs = networks.network("plain", "relu", scale=1.2).requires_grad_(False), images(2)
    inputs[0] = inputs[0].round()
    network, analysis = _network(model, inputs)
    state, _ = proved_state(network, analysis.activations, _ball(inputs))
    _, _, rows = _all_pairs(model(inputs))
    free, clipped = _ball(inputs), _ball(inputs, clip_input=True)
    first, second = (ball.certain(bounded(network, rows, state, ball)) for ball in (free, clipped))
    assert (second >= first - 1e-9).all()
    assert (second > first + 1e-3).any()


def test_within_the_radius_of_a_row_its_bound_holds_and_not_much_further() -> None:
    model, inputs = networks.network("plain", "relu", scale=1.2).requires_grad_(False), images(2)
    ball, (network, analysis) = _ball(inputs), _network(model, inputs)
    state, ball = proved_state(network, analysis.activations, ball)
    image, _, rows = _all_pairs(model(inputs))
    found = bounded(network, rows, replace(state, balls={}), ball)
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
    model, inputs = networks.network("plain", "relu").requires_grad_(False), images(1)
    ball, (network, analysis) = _ball(inputs), _network(model, inputs)
    state, ball = proved_state(network, analysis.activations, ball)
    _, _, rows = _all_pairs(model(inputs))
    if place == "box":
        next(iter(state.boxes.values()))[1][0, 0, 0, 0] = torch.nan
    else:
        rows.coefficients[:, 2] = torch.nan
    for steps in (0, 3):
        found = bounded(network, rows, state, ball, Effort(steps))
        assert not (ball.certain(found) > -torch.inf).any()
        assert (ball.radius(found, torch.zeros(len(found.image))) == 0).all()


def test_slack_covers_what_single_precision_loses() -> None:
    """Boxes so small that nothing bends: bounds are the network's own values, but for rounding."""
    model, inputs = networks.network("residual", "clipped_maxmin", scale=2.0).requires_grad_(False), images(8)
    single = networks.network("residual", "clipped_maxmin", scale=2.0).float().requires_grad_(False)
    model.load_state_dict({name: each.double() for name, each in single.state_dict().items()})
    inputs = inputs.float().double()
    with torch.no_grad():
        analysis = analyze(model, inputs, 1e-5, "tight", ExactNorms())
    activations = [replace(each, box=(each.lower.float(), each.upper.float())) for each in analysis.activations]
    ball = Ball(inputs.float(), torch.full((8,), 1e-5))
    network = split_activations(compile_graph(single, inputs.shape[1:]))
    state, ball = proved_state(network, activations, ball)
    image, other, rows = _all_pairs(single(ball.images))
    found = bounded(network, rows, state, ball)
    logits = model(inputs)
    stated = (found.coefficients * ball.images[image]).flatten(1).sum(dim=1).double() + found.constant.double()
    excess = stated - (logits[image, 0] - logits[image, other])
    assert (excess <= found.slack.double()).all()
    assert (excess > 0).any()


def test_unsupported_layers_are_named() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"'1' is a Softsign"):
        compile_graph(nn.Sequential(nn.Linear(3, 3), nn.Softsign()), (3,))
