"""An attack of the job's own: descent from several starts to the worst point of a ball, in float64.

Steps go to the point of the ball that is best for the gradient, which is where a network without kinks is worst.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

MIXED = (0.0, 0.0, 0.5, 0.8)
"""How much of the point before each start's steps keep."""

STEPS = 10
INSIDE = 1 - 1e-12
"""Of the radius: what rounding of a point's distance leaves."""

Objective = Callable[[Tensor], Tensor]
"""Takes points (P, ...) to what is to be small, (P,)."""


@dataclass(frozen=True)
class Region:
    """Where points may lie: ‖x - image‖ <= radius, in [0, 1] if `clip`; images (P, ...), radii (P,), float64."""

    images: Tensor
    radii: Tensor
    clip: bool

    def repeated(self, count: int) -> Region:
        """Return every image `count` times, one after the other."""
        return Region(self.images.repeat_interleave(count, 0), self.radii.repeat_interleave(count), self.clip)

    def rows(self, chosen: Tensor) -> Region:
        """Return the images `chosen`."""
        return Region(self.images[chosen], self.radii[chosen], self.clip)

    def column(self, values: Tensor) -> Tensor:
        """Reshape (P,) so that it broadcasts against points."""
        return values.view(-1, *(1 for _ in self.images.shape[1:]))

    def inside(self, points: Tensor) -> Tensor:
        """Return the points brought inside."""
        points = points.clamp(0, 1) if self.clip else points
        change = points - self.images
        shares = self.radii * INSIDE / change.flatten(1).norm(dim=1).clamp_min(1e-300)
        return self.images + change * self.column(shares.clamp_max(1))

    def farthest(self, directions: Tensor) -> Tensor:
        """Return the points of the region that lie farthest in `directions`, (P, ...)."""
        largest = directions.flatten(1).abs().amax(dim=1)
        unit = directions / self.column(torch.where(largest > 0, largest, 1))
        unit = unit / self.column(unit.flatten(1).norm(dim=1).clamp_min(1e-300))
        step = self.radii.clone()
        if self.clip:
            low, high = self.radii, torch.full_like(self.radii, 1e4)
            for _ in range(60):
                step = (low * high).sqrt()
                moved = (self.images + unit * self.column(step)).clamp(0, 1) - self.images
                outside = moved.flatten(1).norm(dim=1) > self.radii
                low, high = torch.where(outside, low, step), torch.where(outside, step, high)
            step = low
        return self.inside(self.images + unit * self.column(step))

    def sphere(self, generator: Generator) -> Tensor:
        """Return random points on the sphere, cut where they leave [0, 1]."""
        directions = torch.randn(self.images.shape, generator=generator, dtype=self.images.dtype)
        return self.inside(self.images + directions * 1e3 * self.column(self.radii))


def descend(objective: Objective, region: Region, generator: Generator, steps: int = STEPS) -> list[Tensor]:
    """Return points (P, ...) of the region met on the way to small values of the objective, best ones first."""
    count = len(MIXED)
    wide = region.repeated(count)
    kept = torch.tensor(MIXED, dtype=torch.float64).repeat(len(region.images))
    random = torch.arange(len(kept)) % 2 == 1
    points = torch.where(wide.column(random), wide.sphere(generator), wide.images)
    best, least = points, torch.full_like(wide.radii, torch.inf)
    for step in range(steps + 1):
        points = points.detach().requires_grad_(True)
        values = objective(points)
        better = values.detach() < least
        best = torch.where(wide.column(better), points.detach(), best)
        least = torch.where(better, values.detach(), least)
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(values.sum(), points)
        towards = wide.farthest(-gradient.nan_to_num(0.0, 0.0, 0.0))
        points = wide.inside(wide.column(kept) * points.detach() + wide.column(1 - kept) * towards)
    best, least = _searched(objective, wide, best, least, generator)
    order = least.view(-1, count).argsort(dim=1)
    ranked = best.view(-1, count, *best.shape[1:])
    rows = torch.arange(len(order))
    return [ranked[rows, order[:, place]] for place in range(count)]


@torch.no_grad()
def _searched(
    objective: Objective, region: Region, best: Tensor, least: Tensor, generator: Generator, queries: int = 6
) -> tuple[Tensor, Tensor]:
    """Return better points that a random search finds around the best ones."""
    for query in range(queries):
        noise = torch.randn(best.shape, generator=generator, dtype=best.dtype) / best[0].numel() ** 0.5
        proposed = region.farthest(best - region.images + 10.0**-query * region.column(region.radii) * noise)
        values = objective(proposed)
        better = values < least
        best, least = torch.where(region.column(better), proposed, best), torch.where(better, values, least)
    return best, least


def margin_of(model: nn.Module, labels: Tensor, others: Tensor) -> Objective:
    """Return the objective z_y - z_j, `labels` y and `others` j (P,), one a point, or repeated for several a pair."""

    def margin(points: Tensor) -> Tensor:
        logits = model(points)
        repeats = len(points) // len(labels)
        columns = (each.repeat_interleave(repeats)[:, None] for each in (labels, others))
        own, other = (logits.gather(1, column)[:, 0] for column in columns)
        return own - other

    return margin


def worst_points(model: nn.Module, region: Region, labels: Tensor, generator: Generator) -> Tensor:
    """Return for each image points at which its label is closest to each other class, (P, N, ...)."""
    with torch.no_grad():
        classes = model(region.images[:1]).shape[1]
    shifts = torch.arange(1, classes).repeat(len(labels))
    own = labels.repeat_interleave(classes - 1)
    found = descend(margin_of(model, own, (own + shifts) % classes), region.repeated(classes - 1), generator)
    return torch.cat([each.view(len(labels), classes - 1, *each.shape[1:]).transpose(0, 1) for each in found])


def stretching_points(model: nn.Module, region: Region, generator: Generator) -> Tensor:
    """Return points where logits are as far from those at the image as their distance allows, (P, N, ...)."""
    with torch.no_grad():
        centers = model(region.images)

    def shrinking(points: Tensor) -> Tensor:
        repeats = len(points) // len(centers)
        change = model(points) - centers.repeat_interleave(repeats, 0)
        return -change.flatten(1).norm(dim=1) + 0 * points.flatten(1).sum(dim=1)

    near = Region(region.images, region.radii * 1e-2, region.clip)
    return torch.stack([*descend(shrinking, region, generator, 6), *descend(shrinking, near, generator, 6)])
