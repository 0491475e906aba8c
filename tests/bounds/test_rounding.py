"""Bounds on rounding errors by hand: of sums, and behind layers that only move entries."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import reduce

import pytest
import torch
from torch import Tensor, nn

from lipcert.bounds import Arithmetic, analyze
from lipcert.bounds.rounding import Reach, Rounding, after_activation, after_affine
from lipcert.graph import operator
from lipcert.graph.operators import Dense
from lipcert.norms import UpperNorms
from tests.networks import images
from tests.oracles import dense_matrix

SINGLE = Arithmetic.of(torch.float32, torch.float32)


def test_errors_of_a_sum_add_up_in_length() -> None:
    """Errors (2, 0) and (3, 0) keep to both bounds; their sum is 5 long."""

    def rounding(size: float) -> Rounding:
        return Rounding(torch.full((1, 2), size).double(), torch.full((1,), size).double())

    total = rounding(2.0).plus(rounding(3.0), torch.zeros(1, 2).double(), SINGLE)
    assert (total.entries >= 5).all()
    assert 5 <= total.length.item() < 5.001


def test_rounding_behind_a_leading_flatten_is_that_without() -> None:
    """The radius of the ball is known behind a change of shape, too."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 3)).double().eval().requires_grad_(False)
    inputs, norms = images(2), UpperNorms()
    flat = analyze(dense, inputs.flatten(1), 0.3, "tight", norms, arithmetic=SINGLE)
    shaped = analyze(nn.Sequential(nn.Flatten(), *dense), inputs, 0.3, "tight", norms, arithmetic=SINGLE)
    assert flat.region.rounding is not None
    assert shaped.region.rounding is not None
    torch.testing.assert_close(shaped.region.rounding.entries, flat.region.rounding.entries)
    torch.testing.assert_close(shaped.region.rounding.length, flat.region.rounding.length)


def test_sums_in_any_order_stay_within_the_bound_of_their_terms() -> None:
    """Sums of three products and a bias, some of them zero: every order in float32, against exact ones."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator)
        return values * (torch.rand(shape, generator=generator) < 0.7)

    weight, bias, inputs = drawn(4000, 3), drawn(4000), drawn(8, 3)
    layer = Dense((3,), (4000,), weight.double(), bias.double())
    exact = layer.affine(inputs.double())  # products of float32 are exact in float64, sums of four nearly
    before, behind = (Reach(each.double().abs(), torch.zeros_like(each).double(), None) for each in (inputs, exact))
    bound = after_affine(Rounding.of(torch.zeros(8, 3).double()), layer, before, behind, None, SINGLE).entries
    terms = [*(inputs[:, None] * weight).unbind(2), bias.expand(8, -1)]
    worst = torch.zeros_like(bound)
    for order in itertools.permutations(terms):
        executed = reduce(torch.add, order)
        worst = torch.maximum(worst, (executed.double() - exact).abs())
    assert (worst <= bound).all()
    assert (worst / bound.clamp_min(1e-30)).max() > 0.5
    zeros = ((inputs[:, None] * weight == 0).all(2)) & (bias == 0)
    assert (bound[zeros] == 0).all()


@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear(72, 9), (72,)), (nn.Conv2d(2, 3, 3, 2, 1), (2, 6, 6))])
def test_errors_of_sums_all_over_a_ball_are_no_longer_than_stated(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """At points where rounding may be largest: along the vector that |W| stretches most, and others of its signs."""
    torch.manual_seed(0)
    layer.reset_parameters()  # type: ignore[operator]
    layer = layer.double().requires_grad_(False)
    found, center, radius = operator(layer, shape), torch.randn(1, *shape).double(), torch.tensor([30.0]).double()
    terms, unit = dense_matrix(layer, shape), SINGLE.unit
    deviation = radius.view(1, *(1 for _ in shape)).expand_as(center)
    outputs, rows = layer(center), found.row_norms()
    assert rows is not None
    before, behind = Reach(center.abs(), deviation, radius), Reach(outputs.abs(), rows * radius, None)
    bound = after_affine(Rounding.of(torch.zeros_like(center)), found, before, behind, None, SINGLE)
    assert bound.fresh_length is not None
    stretched, drawn = torch.linalg.svd(terms.abs()).Vh[:1].abs(), torch.randn(500, terms.shape[1]).double()
    moves = torch.cat([stretched * center.flatten().sign(), stretched * drawn.sign(), drawn])
    points = center.flatten() + radius * moves / moves.norm(dim=1, keepdim=True)
    bias = layer.bias.view(-1, *(1 for _ in outputs.shape[2:])).expand_as(outputs[0]).flatten()  # type: ignore[union-attr]
    sums, sizes = points @ terms.T + bias, points.abs() @ terms.abs().T + bias.abs()
    additions = (terms != 0).sum(dim=1)
    largest = (sizes + sums.abs()) / 2
    errors = unit * (additions * torch.exp2(largest.log2().floor()) + sizes)
    assert (errors.norm(dim=1) <= bound.fresh_length).all()
    assert errors.norm(dim=1).max() > 0.5 * bound.fresh_length


@pytest.mark.parametrize("masked", [False, True])
def test_errors_behind_an_activation_are_no_longer_than_stated(masked: bool) -> None:
    """Errors in and beside what varies, through a matrix, where some outputs are constant but for their own error."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    for _ in range(50):
        matrix, before, fresh = 2 * drawn(5, 6) - 1, drawn(1, 6), 0.1 * drawn(1, 5)
        varying, rows = (drawn(1, 6) < 0.6).double(), (drawn(1, 5) < 0.6).double()
        source = replace(Rounding.of(before), stray=(before * (1 - varying)).norm(dim=1))
        entries = torch.where(rows > 0, before @ matrix.abs().T + fresh, 0.01)
        known = Rounding(
            before @ matrix.abs().T + fresh,
            torch.full((1,), torch.inf).double(),
            None,
            fresh,
            fresh.norm(dim=1),
            source,
        )
        used = matrix * varying * rows.T if masked else matrix * varying
        norms = [torch.linalg.matrix_norm(each, 2).view(1) for each in (used, matrix)]
        behind = after_activation(known, entries, None, (norms[0], norms[1]), rows if masked else None)
        signs = torch.sign(drawn(2000, 6) - 0.5)
        errors = (signs * before) @ matrix.T + fresh * torch.sign(drawn(2000, 5) - 0.5)
        left = torch.maximum(torch.minimum(errors, entries), -entries)
        assert (left.norm(dim=1) <= behind.length * (1 + 1e-12)).all()


def test_errors_at_what_does_not_vary_are_told_apart() -> None:
    errors, varying = torch.tensor([[3.0, 4.0, 12.0]]).double(), torch.tensor([[1.0, 0.0, 0.0]]).double()
    behind = after_activation(Rounding.of(errors), errors, varying)
    assert behind.length.item() == pytest.approx(13)
    assert behind.stray is not None
    assert behind.stray.item() == pytest.approx(160**0.5)
