"""What lines leave of clamps over ball and box: no point goes below it, and its limits are those of the literature."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, Bound, analyze, worst_increase
from lipcert.crown import Ball, Effort, Rows, State, bounded, proved_state, refined, split_activations, substitute
from lipcert.crown.ball_box import Pieces, least_remainder
from lipcert.crown.lines import Interval
from lipcert.crown.substitution import ERROR_SHARE, Found
from lipcert.graph import compile_graph
from tests import networks
from tests.oracles import ExactNorms, points_in_ball
from tests.pairwise import pairwise

CLAMPS = {"relu": (0.0, None), "clipped": (0.0, 0.4), "from above": (None, 0.2), "crossed": (0.5, -0.1)}
ROWS, ENTRIES = 40, 6


def _pieces(kind: str, seed: int = 0, wide: float = 1.0) -> tuple[Pieces, Tensor]:
    """Return pieces of random rows around centers inside their boxes, and what the boxes alone give."""
    torch.manual_seed(seed)
    lower, upper = -wide * torch.rand(ROWS, ENTRIES).double(), wide * torch.rand(ROWS, ENTRIES).double()
    center = lower + (upper - lower) * torch.rand(ROWS, ENTRIES).double()
    interval = Interval.of(lower, upper, *CLAMPS[kind])
    coefficients = torch.randn(ROWS, ENTRIES).double()
    lines = interval.lines(interval.closest())
    below = coefficients >= 0
    slopes = coefficients * torch.where(below, lines.lower_slope, lines.upper_slope)
    gaps = coefficients * torch.where(below, lines.lower_intercept, lines.upper_intercept)
    return Pieces(coefficients, slopes, center, _clamped(kind, center), interval), gaps.sum(dim=1)


def _clamped(kind: str, points: Tensor) -> Tensor:
    low, high = CLAMPS[kind]
    clamped = points if low is None else points.clamp_min(low)
    return clamped if high is None else clamped.clamp_max(high)


def _exact(kind: str, pieces: Pieces, points: Tensor) -> Tensor:
    """Return a·σ(z) - g·z at points, (..., R, n)."""
    return (pieces.coefficients * _clamped(kind, points) - pieces.slopes * points).sum(dim=-1)


@pytest.mark.parametrize("kind", CLAMPS)
@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_no_point_of_ball_and_box_goes_below(kind: str, share: float) -> None:
    pieces, box = _pieces(kind)
    radius = torch.full((ROWS,), share).double()
    rest = least_remainder(pieces, radius, box)
    found = rest.value - rest.curvature / 2 * radius.square()
    offsets = torch.randn(4_000, ROWS, ENTRIES).double()
    offsets = offsets / offsets.norm(dim=-1, keepdim=True) * share * torch.rand(4_000, 1, 1).double() ** 0.2
    lower, upper = pieces.interval.points[:2]
    points = (pieces.center + offsets).clamp(lower, upper)  # the center lies inside: nothing moves away from it
    lowest = _exact(kind, pieces, points).amin(dim=0)
    assert (found <= lowest + 1e-12).all()
    assert (found >= box).all()
    if share < 1 and kind != "crossed":
        assert (found > box + 1e-3).any()


@pytest.mark.parametrize("arriving", [0.0, 0.3, 5.0])
@pytest.mark.parametrize(
    ("kind", "turn"), [*((kind, 0.0) for kind in CLAMPS), *(("relu", s) for s in (-1.0, 0.3, -1.6))]
)
def test_minima_of_one_entry_are_those_of_a_fine_grid(kind: str, arriving: float, turn: float) -> None:
    """Whatever curvature arrives, in the clamp or in what has a slope below it: |t|, say; some centers lie outside."""
    pieces, _ = _pieces(kind, seed=1)
    center = torch.where(torch.rand(ROWS, ENTRIES) < 0.5, 2 * pieces.center, pieces.center)
    anchor = torch.where(center < 0, turn * center, _clamped(kind, center)) if turn else _clamped(kind, center)
    curvature = torch.full((ROWS,), arriving).double() if arriving else None
    floor = None if curvature is None or not turn else 1.01 * curvature
    pieces = replace(pieces, center=center, anchor=anchor, arriving=curvature, turn=turn, floor=floor)
    multiplier = torch.logspace(-3, 3, ROWS).double()
    points, terms = pieces.minima(multiplier)
    lower, upper = pieces.interval.points[:2]
    assert ((points >= lower) & (points <= upper)).all()

    def values(points: Tensor) -> Tensor:
        linear = pieces.coefficients * _clamped(kind, points) - pieces.slopes * points
        bent = _clamped(kind, points) + turn * points.clamp(max=0) - anchor
        curved = pieces.curvature(multiplier).unsqueeze(1) * (points - center).square()
        return linear + curved / 2 - arriving / 2 * bent.square()

    grid = torch.linspace(0, 1, 1001).double().view(-1, 1, 1) * (upper - lower) + lower
    assert (values(points) <= values(grid).amin(dim=0) + 1e-12).all()
    torch.testing.assert_close(terms, values(points))
    torch.testing.assert_close(pieces.remainder(points, multiplier).value, values(points).sum(dim=1))


def test_a_wide_ball_leaves_the_box_alone() -> None:
    pieces, box = _pieces("clipped")
    found = least_remainder(pieces, torch.full((ROWS,), 10.0).double(), box)
    torch.testing.assert_close(found.value, box)


def test_an_infinite_box_leaves_the_ball_alone() -> None:
    """SDP-CROWN at its best multiplier, by a fine search."""
    pieces, _ = _pieces("relu")
    infinite = torch.full_like(pieces.center, torch.inf)
    pieces = replace(pieces, interval=Interval.of(-infinite, infinite, 0.0, None))
    radius = torch.full((ROWS,), 0.7).double()
    found = least_remainder(pieces, radius, torch.full((ROWS,), -torch.inf).double())
    a, g, c = pieces.coefficients, pieces.slopes, pieces.center
    best = torch.full((ROWS,), -torch.inf).double()
    for multiplier in torch.logspace(-4, 4, 4000).double():
        left, right = torch.clamp(c + g / multiplier, max=0), torch.clamp(c + (g - a) / multiplier, min=0)
        costs = [-g * left, (a - g) * right]
        costs = [cost + multiplier / 2 * (t - c) ** 2 for cost, t in zip(costs, (left, right), strict=True)]
        best = torch.maximum(best, torch.minimum(*costs).sum(dim=1) - multiplier * 0.7**2 / 2)
    assert ((found.value - found.curvature * 0.7**2 / 2 - best).abs() <= 1e-3).all()


@pytest.mark.parametrize("radius", [0.0, torch.inf, torch.nan])
def test_odd_radii_give_a_bound_or_none(radius: float) -> None:
    pieces, box = _pieces("relu")
    found = least_remainder(pieces, torch.full((ROWS,), radius).double(), box)
    if radius == 0:
        assert (found.value <= _exact("relu", pieces, pieces.center) + 1e-12).all()
    else:
        assert torch.equal(found.value, box)


def test_rows_of_zeros_and_nan_stay_what_they_are() -> None:
    pieces, box = _pieces("relu")
    pieces.coefficients[0] = pieces.slopes[0] = box[0] = 0
    pieces.center[1, 2] = torch.nan
    box[2] = torch.nan
    found = least_remainder(pieces, torch.full((ROWS,), 0.3).double(), box)
    assert found.value[0] == 0
    assert found.value[1] == box[1]
    assert found.value[2].isnan()
    bent = least_remainder(replace(pieces, arriving=torch.full((ROWS,), torch.nan).double()), found.multiplier + 1, box)
    assert bent.value.isnan().all()


def _lowest(model: nn.Module, inputs: Tensor, epsilon: float, image: Tensor, other: Tensor) -> Tensor:
    """Return the least margins of rows that gradient descent from random points of the ball meets, (R,)."""
    starts = points_in_ball(inputs, epsilon, 8)[:, image] - inputs[image]
    lowest = torch.full(starts.shape[:2], torch.inf).double().flatten()
    own, others = inputs[image].repeat(8, 1, 1, 1), other.repeat(8).unsqueeze(1)
    moved = starts.flatten(0, 1)
    for _ in range(40):
        moved = moved.requires_grad_(True)
        logits = model(own + moved)
        margins = logits[:, 0] - logits.gather(1, others)[:, 0]
        lowest = torch.minimum(lowest, margins.detach())
        (gradient,) = torch.autograd.grad(margins.sum(), moved)
        moved = (moved - epsilon * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) / 4).detach()
        lengths = moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        moved = moved * (epsilon / lengths).clamp_max(1)
    return lowest.view(8, -1).amin(dim=0)


@pairwise(
    name=("plain", "pooled", "residual"),
    kind=("relu", "clipped_relu", "maxmin", "clipped_maxmin"),
    bound=("tight", "global", "liplt"),
    epsilon=(0.2, 0.6),
    clip_input=(False, True),
)
def test_balls_raise_bounds_of_networks_and_no_point_goes_below(
    name: str, kind: str, bound: str, epsilon: float, clip_input: bool
) -> None:
    model, inputs = networks.network(name, kind, scale=1.2).requires_grad_(False), networks.images(2)
    graph = compile_graph(model, inputs.shape[1:])
    arithmetic = Arithmetic.of(torch.float64, torch.float64)
    analysis = analyze(graph, inputs, epsilon, bound, ExactNorms(), clip_input, arithmetic=arithmetic)
    network = split_activations(graph)
    state, ball = proved_state(
        network, analysis.activations, Ball(inputs, torch.full((2,), epsilon).double(), clip_input)
    )
    state = refined(network, state, ball, 30)
    classes = analysis.logits.shape[1]
    image = torch.arange(2).repeat_interleave(classes - 1)
    other = torch.arange(1, classes).repeat(2)
    units = torch.eye(classes).double()
    rows = Rows.of(units[:1] - units[other], image)
    boxes = ball.certain(bounded(network, rows, replace(state, balls={}), ball))
    closest = ball.certain(bounded(network, rows, state, ball))
    best = ball.certain(bounded(network, rows, state, ball, Effort(30)))
    assert (best >= closest).all()
    assert (best > torch.maximum(boxes, closest) + 1e-6).any()
    labels = torch.zeros(2, dtype=torch.long)
    by_balls = analysis.logits[:, :1] - analysis.logits - worst_increase(analysis, labels, box="maxmin" not in kind)
    assert (closest >= by_balls[image, other] - 1e-5).all()
    if clip_input:
        return
    lowest = _lowest(model, inputs, epsilon, image, other)
    assert (best <= lowest).all()


@pytest.mark.parametrize("bound", list(Bound))
def test_inputs_of_activations_stay_in_the_balls_of_every_bound(bound: Bound) -> None:
    """Those that a varying output depends on; a bound that leaves linear neurons out has no ball."""
    model, images = networks.network("plain", "relu"), networks.images(2)
    arithmetic = Arithmetic.of(torch.float64, torch.float64)
    analysis = analyze(model, images, 1.0, bound, ExactNorms(), arithmetic=arithmetic)
    assert all((bounds.ball is None) is (bound is Bound.LINEAR_SPLIT) for bounds in analysis.activations)
    points, image = points_in_ball(images, 1.0, 200).flatten(0, 1), torch.arange(2).repeat(200)
    for bounds in analysis.activations:
        place = [name for name, _ in model.named_children()].index(bounds.name)
        moved = (model[:place](points) - model[:place](images)[image]).flatten(1)
        if bounds.ball is not None:
            needed = bounds.node.function.needed(bounds.lower, bounds.upper)
            kept = moved if needed is None else moved * needed.flatten(1)[image]
            assert (kept.norm(dim=1) <= bounds.ball.radius[image]).all()


@pytest.mark.parametrize("kind", ["relu", "clipped_maxmin"])
def test_errors_of_centers_are_paid_for(kind: str) -> None:
    """(u + e)² exceeds (1 + s) u² by up to (1 + 1 / s) e²: that much, d / 2 times, at every link."""
    model, inputs = networks.network("plain", kind, scale=1.2).requires_grad_(False), networks.images(2)
    graph, radius = compile_graph(model, inputs.shape[1:]), torch.full((2,), 0.3).double()
    arithmetic = Arithmetic.of(torch.float64, torch.float64)
    analysis = analyze(graph, inputs, 0.3, Bound.TIGHT, ExactNorms(), arithmetic=arithmetic)
    network = split_activations(graph)
    state, _ = proved_state(network, analysis.activations, Ball(inputs, radius))
    units = torch.eye(analysis.logits.shape[1]).double()
    rows, found = Rows.of(units[:1] - units[1:3], torch.arange(2)), dict[int, Found]()
    substitute(network, rows, state, found=found)
    multipliers = {index: each.multiplier for index, each in found.items() if each.multiplier is not None}
    constants, size = [], 1e-6
    for error in (0.0, size):
        links = {index: step.link._replace(error=torch.full((2,), error).double()) for index, step in _linked(state)}
        balls = {index: step._replace(link=links.get(index)) for index, step in state.balls.items()}
        constants.append(substitute(network, rows, replace(state, balls=balls, multipliers=multipliers)).constant)
    least = sum(multipliers[index] for index, _ in _linked(state)) / 2 * size**2 / ERROR_SHARE
    assert (least > 0).all()
    assert (constants[0] - constants[1] >= least * (1 - 1e-6)).all()


def _linked(state: State) -> list[tuple[int, Any]]:
    return [(index, step) for index, step in state.balls.items() if step.link is not None]
