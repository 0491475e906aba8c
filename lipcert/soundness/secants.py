"""Pairs of points that a map moves apart: lower bounds of its Lipschitz constant, by power iteration on secants.

At a pair m - td/2, m + td/2 the gradient of |f(m + td/2) - f(m - td/2)|² after d is the adjoint of the mean Jacobian at
both ends applied to the difference: to put d in its direction is a step of power iteration where f is linear, and of
gradient ascent elsewhere. The gradient after m leads to where f bends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.bounds import Arithmetic, Bound
from lipcert.certificates.float64 import Float64Model

NEAREST, FARTHEST = 1e-3, 3.0
"""Distances of a pair in terms of the l2 norm of the inputs: those of the starts lie between."""

STRIDE = 0.05
"""How far the middle of a pair moves in a step, in terms of the pair's distance."""


NEARBY = 1e-9
"""Radius around both points at which the rounding of their values is bounded, in terms of their distance."""


@dataclass(frozen=True)
class Search:
    """How hard to search: pairs at a time, half of them at inputs that are given, steps, seed of their draw."""

    starts: int
    steps: int
    seed: int


@dataclass(frozen=True)
class Secant:
    """A pair of points, (*shape) each, float64, and how far apart their values are, in terms of their distance.

    `ratio`: as computed in float64; `proved`: what it is at least, less the rounding of the values.
    """

    first: Tensor
    second: Tensor
    ratio: float
    proved: float


def steepest_secant(network: Float64Model, inputs: Tensor, search: Search) -> Secant:
    """Return the pair that is proved steepest of those found from `inputs`, (B, *shape), and from random points.

    The rounding that `proved` leaves out is proved for all layers but those that are executed by exponentials.
    """
    middle, direction, distance = _starts(inputs.double(), search)
    best, ends = middle.new_full((search.starts,), -math.inf), torch.zeros_like(torch.stack([middle, middle]))
    for _ in range(search.steps + 1):
        with torch.enable_grad():
            middle.requires_grad_(), direction.requires_grad_()
            points = torch.cat([middle - distance * direction / 2, middle + distance * direction / 2])
            rise = torch.sub(*network.model(points.clone()).chunk(2)).flatten(1)
            to_middle, to_direction = torch.autograd.grad(rise.square().sum(), (middle, direction))
        pairs = points.detach().unflatten(0, (2, -1))
        ratios = _length(rise.detach()) / _length(pairs[0] - pairs[1])
        steeper = ratios > best
        best = torch.where(steeper, ratios, best)
        ends = torch.where(steeper.view(-1, *(1 for _ in inputs.shape[1:])), pairs, ends)
        direction = torch.where(_size(to_direction) > 0, _unit(to_direction), direction).detach()
        middle = (middle + STRIDE * distance * _unit(to_middle)).detach()
    proved = _proved(network, ends)
    steepest = int(proved.argmax())
    first, second = ends[:, steepest]
    return Secant(first, second, max(best[steepest].item(), 0.0), proved[steepest].item())


@torch.no_grad()
def _proved(network: Float64Model, ends: Tensor) -> Tensor:
    """Return what |f(x') - f(x)| / |x' - x| is at least at pairs x, x', (2, S, *shape), in exact arithmetic, (S,)."""
    exact, points = Arithmetic.of(torch.float64, torch.float64), ends.flatten(0, 1)
    distance = _length(ends[0] - ends[1])
    radius = NEARBY * distance.clamp_min(torch.finfo(torch.float64).tiny / NEARBY).repeat(2)
    rounding = network.analyze(points, radius, Bound.GLOBAL, arithmetic=exact).region.rounding
    assert rounding is not None  # an arithmetic was given
    values = network.model(points.clone())
    operations = points[0].numel() + values[0].numel()
    sizes = 1 + 4 * operations * torch.finfo(torch.float64).eps  # rounding of the lengths themselves
    errors = rounding.length.expand(len(points)).unflatten(0, (2, -1)).sum(dim=0)
    rise = _length(torch.sub(*values.chunk(2))) / sizes - errors
    return (rise / (distance * sizes)).nan_to_num(0.0, 0.0, 0.0).clamp_min(0)


def _starts(inputs: Tensor, search: Search) -> tuple[Tensor, Tensor, Tensor]:
    """Return middles (S, *shape), unit directions, and distances (S, 1, ...) to start from."""
    generator = torch.Generator().manual_seed(search.seed)
    shape, count = inputs.shape[1:], search.starts
    given = inputs[torch.arange(count // 2) % len(inputs)]
    drawn = torch.randn(2 * count - len(given), *shape, generator=generator, dtype=torch.float64).to(inputs.device)
    spread = inputs.square().mean().sqrt().clamp_min(1e-3)
    middle = torch.cat([given, spread * drawn[count:]])
    shares = torch.logspace(math.log10(NEAREST), math.log10(FARTHEST), 4, dtype=torch.float64, device=inputs.device)
    distance = shares[torch.arange(count) % 4].view(-1, *(1 for _ in shape)) * spread * math.sqrt(math.prod(shape))
    return middle, _unit(drawn[:count]), distance


def _length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors.flatten(1), dim=1)


def _size(vectors: Tensor) -> Tensor:
    return _length(vectors).view(-1, *(1 for _ in vectors.shape[1:]))


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors (S, ...) of length 1; those of length 0 as they are."""
    size = _size(vectors)
    return vectors / torch.where(size > 0, size, 1)
