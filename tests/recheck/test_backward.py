"""Backward bounds against points of balls and boxes, against Lipschitz margins and against those of the certifier."""

from __future__ import annotations

import itertools
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from lipcert.certificates import OTHER_STAGES, STAGES, Cascade
from lipcert.nn import Abs
from lipcert.recheck import Rechecker
from lipcert.recheck.activations import Activation
from lipcert.recheck.attack import attack
from lipcert.recheck.backward import Backward
from lipcert.recheck.ball_box import Choice, Clamp
from lipcert.recheck.bends import bends_of
from lipcert.recheck.derivation import Derivation
from lipcert.recheck.margins import backward_margins, margins
from lipcert.recheck.norms import Norms
from lipcert.recheck.program import compile_program, linear_map
from lipcert.recheck.substitution import substituted
from lipcert.recheck.trust_region import Quadratic
from lipcert.records import Row
from tests.networks import IMAGE, activation, images, network
from tests.oracles import points_in_ball
from tests.pairwise import pairwise
from tests.recheck.chains import PAIRED, narrow

KINDS = ("relu", "clipped_relu", "maxmin", "clipped_maxmin")


def _clamp(seed: int, radius: float = 0.7) -> Clamp:
    """Return a clamp of nine entries: some linear, some constant, some with one kink or two, not all in a ball."""
    draw = torch.Generator().manual_seed(seed)
    center = torch.randn(9, generator=draw, dtype=torch.float64) / 2
    ends = torch.rand(2, 9, generator=draw, dtype=torch.float64)
    low = torch.where(torch.arange(9) % 4 == 1, -torch.inf, 0.0)
    high = torch.where(torch.arange(9) % 3 == 0, torch.inf, 0.3)
    return Clamp(center - ends[0], center + ends[1], low, high, center, torch.arange(9) > 1, radius)


def _points(clamp: Clamp, count: int = 4000) -> Tensor:
    """Return points of the box whose entries that are near are in the ball, many of them on its sphere."""
    shares = torch.rand(count, 9, dtype=torch.float64).pow(3) * torch.randint(0, 2, (count, 9))
    ends = torch.where(torch.rand(count, 9) < 0.5, clamp.lower, clamp.upper)
    moved = (ends - clamp.center) * shares
    length = (moved * clamp.near).norm(dim=1, keepdim=True).clamp(min=1e-12)
    return clamp.center + torch.where(clamp.near, moved * (clamp.radius / length).clamp(max=1), moved)


@pytest.mark.parametrize("seed", range(4))
def test_over_a_box_alone_what_slopes_leave_is_the_sum_of_each_entrys_least(seed: int) -> None:
    clamp = replace(_clamp(seed), radius=torch.inf)
    rows = torch.randn(30, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = clamp.relax(rows, torch.zeros(30, dtype=torch.float64))
    points = clamp.lower + (clamp.upper - clamp.lower) * torch.linspace(0, 1, 3001, dtype=torch.float64)[:, None]
    values = torch.minimum(torch.maximum(points, clamp.low), clamp.high)
    least = (rows[:, None] * values - found.rows[:, None] * points).amin(dim=1).sum(dim=1)
    torch.testing.assert_close(found.constant, least, rtol=0, atol=1e-2)
    assert bool((found.constant <= least + 1e-12).all())
    assert not found.curvature.any()


def _bent(clamp: Clamp, points: Tensor) -> Tensor:
    """Return b at points: what comes out of a clamp, with a slope below 0 where it has one."""
    clamped = torch.minimum(torch.maximum(points, clamp.low), clamp.high)
    return clamped if clamp.turn is None else torch.where(points < 0, clamp.turn * points, clamped)


@pytest.mark.parametrize("turn", [0.0, -1.0, 0.4, -1.7])
@pytest.mark.parametrize("seed", range(4))
def test_linear_and_quadratic_bounds_are_below_clamps_everywhere_and_close_somewhere(seed: int, turn: float) -> None:
    torch.manual_seed(seed)
    clamp = _clamp(seed)
    if turn:
        low, high = torch.zeros_like(clamp.low), clamp.high + torch.inf
        clamp = replace(clamp, low=low, high=high, turn=torch.full_like(low, turn), floor=1.001 * max(1, turn**2))
    rows, arriving = torch.randn(30, 9, dtype=torch.float64), torch.rand(30, dtype=torch.float64) * 3 * (seed % 2)
    slopes = torch.rand(30, 2, len(clamp.index), dtype=torch.float64) * 2 - 0.5
    points = _points(clamp)
    values = torch.minimum(torch.maximum(points, clamp.low), clamp.high)
    moved = ((points - clamp.center) * clamp.near).square().sum(dim=1)
    turned = ((_bent(clamp, points) - _bent(clamp, clamp.center)) * clamp.near).square().sum(dim=1)
    for choice in (None, *(Choice(slopes, torch.full((30,), room).double()) for room in (-torch.inf, -3.0, 0.5))):
        found = clamp.relax(rows, arriving, choice)
        behind = rows @ values.T - arriving[:, None] / 2 * turned
        before = found.rows @ points.T + found.constant[:, None] - found.curvature[:, None] / 2 * moved
        gap = (behind - before).amin(dim=1)
        assert bool((gap >= -1e-12).all())
        assert float(gap.median()) < 2.0  # of few points in nine dimensions
        assert bool((clamp.price(found.curvature) >= found.curvature / 2 * moved.max() - 1e-12).all())


def test_ball_and_box_say_more_together_than_either_alone() -> None:
    rows, clamp = torch.randn(40, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), _clamp(3, 0.4)

    none, slopes = torch.zeros(40, dtype=torch.float64), clamp.hull.expand(40, 2, -1)

    def paid(clamp: Clamp, choice: Choice | None = None) -> Tensor:
        relaxed = clamp.relax(rows, none, choice)
        return relaxed.constant - clamp.price(relaxed.curvature)

    def best(clamp: Clamp) -> Tensor:
        rooms = torch.linspace(-8, 4, 200, dtype=torch.float64)
        return torch.stack([paid(clamp, Choice(slopes, none + room)) for room in rooms]).amax(dim=0)

    far = torch.where(clamp.near, 50.0, 0.0)
    both, box = paid(clamp), paid(replace(clamp, radius=torch.inf))
    ball = best(replace(clamp, lower=clamp.lower - far, upper=clamp.upper + far))
    assert bool((both >= torch.maximum(box, ball) - 1e-3).all())
    assert bool((both >= best(clamp) - 1e-3).all())
    assert float((both - torch.maximum(box, ball)).max()) > 0.02


@pytest.mark.parametrize("curvature", [0.0, 0.3, 4.0])
def test_rises_over_a_ball_are_the_greatest(curvature: float) -> None:
    """Against all stationary points of the sphere, from the eigenvalues of the matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 2)).double().eval()
    program = compile_program(model.requires_grad_(False), (8,))
    kept = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0, 1.0]]).double()
    matrix = (kept.T * model[1].weight).numpy()
    there = linear_map(program, 0, 2, {})
    assert there is not None
    quadratic = Quadratic(there, kept, float(np.linalg.norm(matrix, 2)), 1e-14)
    rows, radius = torch.randn(20, 8, dtype=torch.float64), 0.7
    found = quadratic.rise(rows, torch.full((20,), curvature, dtype=torch.float64), radius, 60)
    quick = quadratic.rise(rows, torch.full((20,), curvature, dtype=torch.float64), radius, 1)
    values, vectors = np.linalg.eigh(curvature * matrix.T @ matrix)
    for row, least, more in zip(rows.numpy(), found.tolist(), quick.tolist(), strict=True):
        parts = row @ vectors
        multiplier = brentq(lambda n: np.sum((parts / (n - values)) ** 2) - radius**2, values[-1] + 1e-9, 1e3)  # noqa: B023
        greatest = (multiplier * radius**2 + np.sum(parts**2 / (multiplier - values))) / 2
        assert greatest - 1e-9 <= least <= greatest + 1e-4 * (1 + greatest)
        assert least <= more + 1e-12
        assert more <= greatest + curvature * radius**2 * quadratic.norm**2 + 1e-9
    assert quadratic.absolute >= np.linalg.norm(np.abs(matrix), 2)


def test_pairs_are_in_a_ball_where_both_of_them_matter() -> None:
    """Of the first pair the larger is clipped everywhere, so that nothing bounds how far it moves."""
    activation = Activation("pairs", True, torch.tensor([0.2, 0.2]).double(), torch.tensor([-9.0, -9.0]).double())
    lower = torch.tensor([[0.5, -1.0, -0.5, -1.0]]).double()
    bends = bends_of(activation, (lower, lower + 1), lower + 0.5, 0.1, None)
    assert bends.inner.near.tolist() == [False, True]
    assert bends.inner.bends.tolist() == [1]
    assert bends.inner.lower.tolist() == pytest.approx([0.0, -(2**-0.5)])
    assert bends.outer is not None
    assert bends.outer.near.tolist() == [False, True, True, True]


def _derive(model: nn.Module, epsilon: float, clip: bool = False) -> Derivation:
    return Derivation(compile_program(model, IMAGE), images()[0], epsilon, clip, False, Norms())


def _low(model: nn.Module, image: Tensor, epsilon: float, rows: Tensor, clip: bool) -> Tensor:
    """Return low values of rows of the logits, (R,), by descents from the image and random points of its ball."""
    starts, draw = 4, torch.Generator().manual_seed(3)
    change = torch.randn(starts, len(rows), *IMAGE, generator=draw, dtype=torch.float64)
    change[0] = 0
    change, rows = change.flatten(0, 1), rows.repeat(starts, 1)
    found = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    for step in range(25):
        length = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-12)
        points = image + change * (epsilon / length).clamp(max=1)
        points = (points.clamp(0, 1) if clip else points).requires_grad_()
        values = (model(points) * rows).sum(dim=1)
        found = torch.minimum(found, values.detach())
        (gradient,) = torch.autograd.grad(values.sum(), points)
        scale = epsilon / (1 + step / 4) / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-12)
        change = points.detach() - image - gradient * scale
    return found.view(starts, -1).amin(dim=0)


@pairwise(name=("plain", "pooled", "residual"), kind=KINDS, epsilon=(0.05, 0.3), clip=(False, True))
def test_bounds_are_below_what_descents_find_and_intervals_hold(
    name: str, kind: str, epsilon: float, clip: bool
) -> None:
    model = network(name, kind)
    derived = _derive(model, epsilon, clip)
    classes = derived.logits.center.shape[1]
    rows = torch.randn(6, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, backward = _low(model, images()[0], epsilon, rows, clip), Backward(derived)
    first = backward.bound(derived.program.output, rows)
    backward.refine(2, 2**20)
    ascended = backward.bound(derived.program.output, rows, 5)
    for found in (first, ascended):
        assert bool((found <= low + 1e-12).all())
    assert bool((ascended >= first - 1e-3).all())
    draw = torch.randn(300, *IMAGE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    points = images()[0] + epsilon * draw / draw.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    values = derived.program(points.clamp(0, 1) if clip else points)
    for step in backward.activations:
        (lower, upper), bends = backward.boxes[step.source], backward.known.bends[step.target]
        assert bool(((values[step.source] >= lower) & (values[step.source] <= upper)).all())
        if bends.axis is not None:
            first_half, second_half = values[step.source].flatten(1).chunk(2, dim=1)
            between = (first_half - second_half) / 2**0.5
            assert bool(((between >= bends.inner.lower) & (between <= bends.inner.upper)).all())


def _drawn(clamp: Clamp, count: int) -> Choice:
    return Choice(3 * torch.rand(count, 2, len(clamp.index)).double() - 1, 8 * torch.rand(count).double() - 3)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "bent", "householder"])
def test_chains_of_single_neurons_hold_at_any_slopes_and_multipliers(kind: str, residual: bool) -> None:
    """There hardly anything but curvature taken too lightly stands between a bound and what it is of."""
    for seed in range(6):
        model = narrow(kind, residual, seed)
        width, epsilon, count = 2 if kind in PAIRED else 1, 0.5, 300
        derived = Derivation(
            compile_program(model, (width,)), torch.full((width,), 0.25), epsilon, False, False, Norms()
        )
        backward = Backward(derived)
        clamps = [
            each for bends in backward.known.bends.values() for each in (bends.inner, bends.outer) if each is not None
        ]
        slopes, rooms = 3 * torch.rand(count, 2, width).double() - 1, 8 * torch.rand(count).double() - 3
        choices = {
            each: Choice(slopes[..., : len(each.index)], rooms) if residual else _drawn(each, count) for each in clamps
        }
        rows = torch.randn(count, width, dtype=torch.float64)
        angle, length = (torch.linspace(0, end, 201, dtype=torch.float64) for end in (2 * torch.pi, epsilon))
        disc = torch.stack((angle.cos(), angle.sin()), dim=1)[:, None, :width] * length[:, None]
        least = (model(0.25 + disc.flatten(0, 1)) @ rows.T).amin(dim=0)
        found, _ = substituted(backward.known, derived.program.output, rows, choices, {})
        assert bool((found <= least + 1e-9).all())


@pytest.mark.parametrize(
    ("first", "pool"),
    [(nn.ReLU(), nn.MaxPool2d(2)), (nn.LeakyReLU(-0.6), nn.MaxPool2d(3, 2, 1)), (Abs(), nn.MaxPool2d((2, 1), 1))],
)
def test_bounds_of_pools_and_bends_are_below_points_and_above_lipschitz_ones(first: nn.Module, pool: nn.Module) -> None:
    torch.manual_seed(0)
    head = (nn.Flatten(), nn.LazyLinear(8), activation("householder", (8,)), nn.Linear(8, 8), nn.PReLU(8))
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), first, pool, *head, nn.Linear(8, 3))
    model(torch.zeros(1, 1, 6, 6))
    model = model.double().eval().requires_grad_(False)
    image, epsilon = torch.rand(1, 1, 6, 6).double(), 0.4
    derived, rows = (
        Derivation(compile_program(model, (1, 6, 6)), image[0], epsilon, False, False, Norms()),
        torch.randn(40, 3),
    )
    backward, rows = Backward(derived), rows.double()
    low = (model(points_in_ball(image, epsilon, 2000)[:, 0]) @ rows.T).amin(dim=0)
    steepest = max(derived.sources[number].tight for number in derived.logits.rows)
    lipschitz = (model(image) @ rows.T)[0] - (rows @ model[-1].weight).norm(dim=1) * epsilon * steepest
    for steps in (0, 5):
        found = backward.bound(derived.program.output, rows, steps)
        assert bool((found <= low).all())
        assert bool((found >= lipschitz - 1e-9).all())
        backward.refine(1, 2**20)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_near_stays_in_its_ball_and_gets_close_to_its_sphere(kind: str) -> None:
    derived = _derive(network("plain", kind), 0.3)
    backward = Backward(derived)
    for number, step in enumerate(backward.activations):
        bends = backward.known.bends[step.target]
        inner, paired = bends.inner, bends.axis is not None
        change, farthest = torch.randn(8, *IMAGE, generator=torch.Generator().manual_seed(4), dtype=torch.float64), 0.0
        for _ in range(60):
            change = 0.3 * change / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            points = (images()[0] + change).requires_grad_()
            first, second = derived.program(points)[step.source].flatten(1).chunk(2, dim=1)
            entries = (first - second) / 2**0.5 if paired else torch.cat((first, second), dim=1)
            moved = ((entries - inner.center) * inner.near).norm(dim=1)
            farthest = max(farthest, float(moved.detach().max()))
            (change,) = torch.autograd.grad(moved.sum(), points)
        assert farthest <= inner.radius
        assert farthest >= (0.95 if number == 0 and not paired else 0.2) * inner.radius


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_image_alone_bounds_are_its_value_less_the_rounding(kind: str) -> None:
    derived = _derive(network("pooled", kind), 0.0)
    rows = torch.eye(4, dtype=torch.float64)
    below = derived.logits.center[0] - Backward(derived).bound(derived.program.output, rows)
    assert bool(((below > 1e-15) & (below < 1e-9)).all())


@pytest.mark.parametrize(("name", "kind"), [*(("plain", kind) for kind in KINDS), ("residual", "relu")])
def test_margins_are_never_below_those_of_lipschitz_bounds_and_near_the_certifiers(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipcert.recheck.margins.BACKWARD_EFFORTS", ((None, 0), (None, 40), ((0, 2**25), 0)))
    model, epsilon = network(name, kind), 0.08
    image = images()[:1]
    label = int(model(image).argmax())
    derived = _derive(model, epsilon)
    start = margins(derived, label)
    bounds = [start, *backward_margins(derived, label)]
    for before, after in itertools.pairwise(bounds):
        assert after.real >= before.real
        assert after.executed >= before.executed
    lowest = attack(model, image[0], label, epsilon, False)[1]
    assert bounds[-1].real <= lowest
    theirs = Cascade(model, (STAGES[3], *OTHER_STAGES[2:]))(image, torch.tensor([label]), epsilon)
    assert float(theirs.margin) <= lowest
    assert bounds[-1].executed >= float(theirs.margin) - 0.1 * (lowest - start.real) - 1e-9


def test_a_layer_of_a_thousand_classes_is_worked_on_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 300), nn.ReLU(), nn.Linear(300, 1000)).double().eval()
    derived = _derive(model.requires_grad_(False), 0.05)
    rows = torch.eye(1000, dtype=torch.float64)
    whole = Backward(derived).bound(derived.program.output, rows)
    monkeypatch.setattr("lipcert.recheck.backward.LARGEST_CHUNK", 64_000)
    with mock.patch.object(Clamp, "relax", autospec=True, side_effect=Clamp.relax) as relax:
        chunked = Backward(derived).bound(derived.program.output, rows)
    torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-9)
    assert max(len(call.args[1]) for call in relax.call_args_list) == 64


@pytest.mark.parametrize("kind", ["maxmin", "clipped_maxmin"])
def test_certificates_that_rest_on_backward_bounds_are_confirmed_where_ours_prove_the_class(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipcert.recheck.margins.BACKWARD_EFFORTS", ((None, 0), (None, 20)))
    image = images()[0].float()
    rechecker = Rechecker(network("plain", kind).float(), IMAGE, False, backward=True)
    label = int(rechecker.model(image[None]).argmax())
    epsilon, executed = 0.04, torch.inf
    while executed > 0:
        epsilon *= 1.2
        *_, (best, _) = rechecker._derived(image, label, epsilon)
        executed = best.executed
    row = Row(0, label, label, epsilon, 1e-4, True, 1e9, epsilon, best.real - best.executed, "crown-alpha")
    assert rechecker.reason_against(row, image) is None
    assert rechecker.reason_against(replace(row, stage="crown-boxes"), image) is None
    assert rechecker.refutation(row, image) is None
    *_, found = backward_margins(rechecker.derive(image, epsilon), label)
    assert found.real - found.executed > 0.5 * row.rounding > 0
    far = replace(row, epsilon=40 * epsilon, radius=40 * epsilon)
    for other, claimed in (
        (replace(rechecker, backward=False), row),
        (rechecker, replace(row, stage="tight")),
        (rechecker, far),
    ):
        assert "the margin derived is -" in str(other.reason_against(claimed, image))
    uncertified = replace(far, certified=False, stage="", margin=-1e-3, rounding=1.0, radius=epsilon)
    assert rechecker.reason_against(uncertified, image) is None
    assert "at the radius" in str(rechecker.reason_against(replace(uncertified, radius=39 * epsilon), image))
    assert str(rechecker.refutation(replace(row, margin=5.0), image)).startswith("margin 5 is above ")
