"""l2 projected gradient descent, by foolbox."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lipcert.attacks.containment import PIXELS, Box, column, contained
from lipcert.attacks.target import check_attackable, margins, without_gradients, withstanding


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 100,
    restarts: int = 1,
    box: Box = PIXELS,
) -> Tensor:
    """Return for each image the point of smallest margin at which a projected gradient descent ended, (N, ...).

    Steps of epsilon/4 on the cross-entropy from random starts; the library is foolbox.

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, ...), pixels in `box`; labels: (N,).
        epsilon: l2 radius.
        steps: gradient steps.
        restarts: descents, each from a start of its own.
        box: pixels allowed.

    Raises:
        ValueError: for epsilon out of range, pixels outside of the box or a model in train mode.
    """
    from foolbox.attacks import L2ProjectedGradientDescentAttack  # type: ignore[attr-defined]
    from foolbox.models import PyTorchModel  # type: ignore[attr-defined]

    check_attackable(model, images, epsilon, box)
    target = PyTorchModel(model, bounds=box, device=images.device)
    attack = L2ProjectedGradientDescentAttack(abs_stepsize=epsilon / 4, steps=steps, random_start=True)
    best, smallest = images, torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
    with without_gradients(model):
        for _ in range(restarts):
            _, found, _ = attack(target, images, labels, epsilons=epsilon)
            found = contained(found, images, epsilon, box)
            reached = margins(model, found, labels)
            best = torch.where(column(reached < smallest, images), found, best)
            smallest = torch.minimum(reached, smallest)
    return best


def pgd_robust(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 100,
    batch_size: int = 500,
    restarts: int = 1,
) -> Tensor:
    """Return which images are classified correctly, and still after `pgd` inside the ball and [0, 1], (N,) bool.

    Arguments as in `pgd`; `batch_size`: images attacked at a time.
    """
    return withstanding(model, images, labels, epsilon, [partial(pgd, steps=steps, restarts=restarts)], batch_size)
