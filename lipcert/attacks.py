"""l2 attacks from a kept library (foolbox): upper bounds on robust accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipcert.bounds import check_epsilon


def pgd_robust(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 100,
    batch_size: int = 500,
) -> Tensor:
    """Return which images are classified correctly after an l2 PGD attack, (N,) bool.

    Steps of epsilon/4 on the cross-entropy from a random start, inside the ball and [0, 1].

    Args:
        model: in eval mode, on the device of `images`.
        images: (N, ...), pixels in [0, 1]; labels: (N,).
        epsilon: l2 radius.
        steps: gradient steps.
        batch_size: images attacked at a time.
    """
    from foolbox.attacks import L2ProjectedGradientDescentAttack  # type: ignore[attr-defined]
    from foolbox.models import PyTorchModel  # type: ignore[attr-defined]

    check_epsilon(epsilon)
    if model.training:
        raise ValueError("Expected a model in eval mode; call model.eval() first.")
    target = PyTorchModel(model, bounds=(0, 1), device=images.device)
    attack = L2ProjectedGradientDescentAttack(abs_stepsize=epsilon / 4, steps=steps, random_start=True)
    robust = []
    for batch, batch_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        _, adversarial, _ = attack(target, batch, batch_labels, epsilons=epsilon)
        with torch.no_grad():
            clean = model(batch).argmax(dim=1) == batch_labels
            robust.append(clean & (model(adversarial).argmax(dim=1) == batch_labels))
    return torch.cat(robust)
