"""A search on the sphere that uses no gradients."""

import math

import torch
from torch import Tensor, nn

from lipcert.attacks.ball import PIXELS, Box, contained
from lipcert.attacks.target import check_attackable, margins
from lipcert.norms.krylov import lengths_of, per_image


def _proposals(delta: Tensor, query: int, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return directions to try next, (B, *shape): anywhere, one square patch, or near the best so far, in turn."""
    noise = torch.randn(delta.shape, generator=generator, dtype=torch.float64).to(delta)
    if query % 3 == 1 and delta.dim() == 4:
        height, width = delta.shape[2:]
        side = int(torch.randint(1, max(2, min(height, width) // 2 + 1), (), generator=generator))
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        patch = torch.zeros_like(delta)
        patch[:, :, top : top + side, left : left + side] = noise[:, :, :1, :1].sign()
        return patch if query % 2 else delta + epsilon * patch / side
    if query % 3 == 2:
        share = 10.0 ** -float(2 * torch.rand((), generator=generator))
        return delta + share * epsilon * noise / math.sqrt(noise[0].numel())
    return noise


@torch.no_grad()
def random_search(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    queries: int = 1000,
    seed: int = 0,
    box: Box = PIXELS,
) -> Tensor:
    """Return for each image the point of smallest margin that a random search found on its sphere, (N, ...).

    It uses no gradients, so no flat or shattered ones can mislead it.

    Args:
        model, images, labels, epsilon, box: as in `pgd`.
        queries: points tried an image.
        seed: of its random numbers.

    Raises:
        ValueError: where `pgd` does.
    """
    check_attackable(model, images, epsilon, box)
    generator = torch.Generator().manual_seed(seed)
    best, smallest = images, margins(model, images, labels)
    for query in range(queries):
        direction = _proposals(best - images, query, epsilon, generator)
        norms = lengths_of(direction).clamp_min(torch.finfo(direction.dtype).tiny)
        points = (images + direction * per_image(epsilon / norms, images.dim())).clamp(*box)
        reached = margins(model, points, labels)
        best = torch.where(per_image(reached < smallest, images.dim()), points, best)
        smallest = torch.minimum(reached, smallest)
    return contained(best, images, epsilon, box)
