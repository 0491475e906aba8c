"""PGD on the same images at growing radii: what is broken once stays broken, for balls grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipcert.attacks import pgd


@dataclass(frozen=True)
class Attacked:
    """Outcome of PGD on each image, (N,) on the CPU.

    Attributes:
        broken_at: smallest of the radii at which it left the label, 0 where the clean prediction is wrong, infinity
            where it withstood all.
        prediction: class at the point that broke it within epsilon, else the clean one.
    """

    broken_at: Tensor
    prediction: Tensor


def attack_at_growing_radii(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radii: Sequence[float],
    epsilon: float,
    steps: int,
    restarts: int,
    batch_size: int,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> Attacked:
    """Attack every image at every radius that it has withstood so far, the smallest first.

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, C, H, W), pixels in [0, 1]; labels: (N,).
        radii: l2, the smallest first.
        epsilon: predictions are those within it.
        steps, restarts: of PGD.
        batch_size: images attacked at a time.
        seed: of random starts.
        advance: called after each radius.
    """
    with torch.no_grad():
        prediction = torch.cat([model(batch).argmax(dim=1) for batch in images.split(batch_size)])
    broken_at = torch.where(prediction == labels, torch.inf, 0.0).double()
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        for radius in radii:
            for rows in broken_at.isinf().nonzero()[:, 0].split(batch_size):
                points = pgd(model, images[rows], labels[rows], radius, steps, restarts)
                with torch.no_grad():
                    reached = model(points).argmax(dim=1)
                broken = reached != labels[rows]
                broken_at[rows[broken]] = radius
                if radius <= epsilon:
                    prediction[rows] = reached
            advance()
    return Attacked(broken_at.cpu(), prediction.cpu())


def refutations(broken_at: Tensor, radius: Tensor, indices: Sequence[int]) -> list[str]:
    """Return a sentence for each image, (N,), that was broken within its certified radius."""
    return [
        f"image {indices[row]} is certified within {radius[row].item():.6g}, and PGD changes its prediction "
        f"within {broken_at[row].item():.6g}"
        for row in ((radius > 0) & (broken_at <= radius)).nonzero()[:, 0].tolist()
    ]
