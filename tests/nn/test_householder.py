"""Householder pairs: reflections, what bounds and the re-check say of them, and MaxMin as one of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import lipcert
from lipcert.graph import Reflection, UnsupportedLayerError, compile_graph
from lipcert.graph.activations import nonlinearity
from lipcert.nn import Householder, MaxMin
from lipcert.recheck.activations import describe_activation

ANGLES = torch.tensor([0.0, 0.3, 1.0, math.pi / 2, 2.0, 3.0, math.pi, 3.9, 4.5, 3 * math.pi / 2, 5.0, 6.1]).double()


def _layer(lengths: float = 1.0) -> Householder:
    layer = Householder(2 * len(ANGLES)).double()
    layer.directions.data = lengths * torch.stack((ANGLES.cos(), ANGLES.sin()))
    return layer.requires_grad_(False)


def _reflected(first: Tensor, second: Tensor) -> Tensor:
    """Return the pairs by dense 2 x 2 matrices, (N, 2 K)."""
    points = torch.stack((first, second), dim=2)
    v = torch.stack((ANGLES.cos(), ANGLES.sin()), dim=1)
    matrices = torch.eye(2).double() - 2 * v[:, :, None] * v[:, None, :]
    behind = torch.einsum("kij,nkj->nki", matrices, points)
    return torch.where((points * v).sum(dim=2, keepdim=True) > 0, points, behind).transpose(1, 2).flatten(1)


@pytest.mark.parametrize("lengths", [1.0, 0.4, 30.0])
def test_pairs_are_reflected_whatever_the_lengths_of_directions(lengths: float) -> None:
    points = torch.randn(200, 2 * len(ANGLES)).double()
    found = _layer(lengths)(points)
    torch.testing.assert_close(found, _reflected(*points.chunk(2, dim=1)))
    torch.testing.assert_close(describe_activation(_layer(lengths), "a")(points), found)
    moved = (found[1:] - found[:-1]).unflatten(1, (2, -1)).norm(dim=1)
    assert (moved <= (points[1:] - points[:-1]).unflatten(1, (2, -1)).norm(dim=1) + 1e-12).all()


def test_it_starts_as_max_min() -> None:
    images = torch.randn(3, 6, 4, 4)
    torch.testing.assert_close(Householder(6)(images), MaxMin()(images))


def test_boxes_are_as_small_as_grids_say() -> None:
    layer, pairs = _layer(), len(ANGLES)
    function, other = nonlinearity(layer, (2 * pairs,)), describe_activation(layer, "a")
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(40, 2 * pairs, generator=generator).double()
    half = torch.rand(40, 2 * pairs, generator=generator).double() * 2
    lower, upper = middle - half, middle + half
    (least, greatest), again = function.range(lower, upper), other.box(lower, upper)
    torch.testing.assert_close(again, (least, greatest))
    grid = torch.linspace(-1, 1, 41).double()
    first, second = (each.flatten()[:, None, None] for each in torch.meshgrid(grid, grid, indexing="ij"))
    points = torch.cat((first.expand(-1, 40, pairs), second.expand(-1, 40, pairs)), dim=2) * half + middle
    values = layer(points.flatten(0, 1)).view_as(points)
    assert ((values >= least - 1e-12) & (values <= greatest + 1e-12)).all()
    assert (values.amin(dim=0) - least <= 0.2).all()
    assert (greatest - values.amax(dim=0) <= 0.2).all()
    assert isinstance(function, Reflection)
    seen, (low, high) = function.seen(points.flatten(0, 1)).view(-1, 40, pairs), function.seen_box(lower, upper)
    assert ((seen >= low) & (seen <= high)).all()
    torch.testing.assert_close(seen.amin(dim=0), low)  # at a corner


def test_what_float32_rounds_is_within_the_bound() -> None:
    layer = _layer(0.7)
    function, executed = nonlinearity(layer, (2 * len(ANGLES),)), _layer(0.7).float()
    points = 10 ** (4 * torch.rand(20_000, 2 * len(ANGLES)) - 2) * torch.randn(20_000, 2 * len(ANGLES)).sign()
    layer.directions.copy_(executed.directions)
    errors = (executed(points).double() - layer(points.double())).abs()
    size, unit = function.magnitude(points.double(), points.double()), 2.0**-24
    assert (errors <= function.operations * unit * size).all()
    assert (errors > 0.05 * function.operations * unit * size).any()
    recheck = describe_activation(layer, "a").evaluated(points.double(), points.double())
    torch.testing.assert_close(recheck, size)
    assert torch.isinf(function.magnitude(points.double() * 1e38, points.double() * 1e38)).any()


def test_networks_are_certified_and_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), Householder(12), nn.Linear(12, 3)).eval()
    nn.init.normal_(model[2].directions)
    images = torch.rand(4, 1, 4, 4)
    labels = model(images).argmax(dim=1)
    radii = lipcert.certified_radius(model, images, labels, largest=1.0, rounds=6)
    assert (radii > 0).all()
    model[2].directions.data[:, 2] = 0
    with pytest.raises(UnsupportedLayerError, match=r"Layer '2': a Householder needs directions of lengths"):
        compile_graph(model, (1, 4, 4))
    with pytest.raises(ValueError, match="even number"):
        Householder(5)
    with pytest.raises(UnsupportedLayerError, match=r"Layer '2': .* does not fit \(12,\)"):
        compile_graph(nn.Sequential(nn.Flatten(), nn.Linear(16, 12), Householder(10)).eval(), (1, 4, 4))
