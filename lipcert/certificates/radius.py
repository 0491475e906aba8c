"""Bisection over epsilon: the largest radius of each image that can be proved."""

from collections.abc import Callable

import torch
from torch import Tensor

Attempt = Callable[[Tensor, Tensor], Tensor]
"""Takes indices of images (n,) and a radius for each (n,), returns radii that are proved of them, (n,)."""


def bisect(
    attempt: Attempt,
    proved: Tensor,
    refused: Tensor,
    rounds: int,
    resolution: float | Tensor = 0.0,
    farthest: float = 0.0,
) -> Tensor:
    """Return radii that are proved, (N,) float64, each by an attempt or known before.

    A proof at one radius holds at every smaller one. A radius is refused where the attempt at it proves less; larger
    ones are not tried then.

    Args:
        attempt: see `Attempt`.
        proved: radii known to be proved, (N,) float64, on any device.
        refused: radii beyond which nothing is tried, (N,); infinity for none, then radii grow by factors of 2.
        rounds: attempts an image, at most.
        resolution: no further attempt where `refused` exceeds `proved` by no more; a number or (N,).
        farthest: where nothing is refused, tried before any larger radius.
    """
    for _ in range(rounds):
        rows = (refused - proved > resolution).nonzero()[:, 0]
        if not len(rows):
            break
        low, high = proved[rows], refused[rows]
        outward = torch.where(low < farthest, farthest, 2 * low)
        radii = torch.where(high.isinf(), outward, (low + high) / 2)
        reached = attempt(rows, radii)
        proved = proved.index_put((rows,), torch.maximum(low, reached))
        refused = refused.index_put((rows,), torch.where(reached >= radii, high, radii))
    return proved
