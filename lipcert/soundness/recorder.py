"""Watches an attack: the smallest margin at any point it asks about inside a ball, not only at those it returns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.bounds import robust_margin
from lipcert.certificates.float64 import executed_dtype


class Recorder(nn.Module):
    """A network that remembers, for each of some images, the point of its ball with the smallest executed margin.

    A point belongs to the image nearest to it; points outside that image's ball are answered, but not remembered.

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, ...); labels: (N,).
        epsilon: l2 radius of the balls.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> None:
        super().__init__()
        self.model, self.dtype = model, executed_dtype(model)
        self.labels, self.epsilon = labels, epsilon
        self.origins = images.flatten(1).double()
        self.points = images.clone()
        self.smallest = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        self.asked, self.inside = 0, 0
        self.eval()

    def forward(self, points: Tensor) -> Tensor:
        logits: Tensor = self.model(points.to(self.dtype))
        with torch.no_grad():
            self._remember(points.detach(), logits.detach())
        return logits

    def _remember(self, points: Tensor, logits: Tensor) -> None:
        flat = points.flatten(1).double()
        nearest = torch.cdist(flat, self.origins).argmin(dim=1)
        inside = (flat - self.origins[nearest]).norm(dim=1) <= self.epsilon
        self.asked += len(points)
        self.inside += int(inside.sum())
        points, logits, nearest = points[inside], logits[inside], nearest[inside]
        margins = robust_margin(logits.double(), self.labels[nearest])
        margins = torch.where(margins.isnan(), -torch.inf, margins)  # no prediction at all
        before = self.smallest
        self.smallest = before.scatter_reduce(0, nearest, margins, "amin")
        better = (margins == self.smallest[nearest]) & (margins < before[nearest])
        self.points[nearest[better]] = points[better].to(self.points.dtype)
