"""TRADES in l2: clean cross-entropy, and how far predictions can be moved inside the ball."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.attacks import evaluating
from lipcert.losses.inner import Ascent, climb
from lipcert.losses.objective import Objective, Setting
from lipcert.losses.options import check_least
from lipcert.losses.standard import after_warm_up

START_NOISE = 1e-3
"""Standard deviation of the start's pixels about the image, where the divergence and its gradient are 0."""


def divergence(logits: Tensor, moved: Tensor) -> Tensor:
    """Return the sum over images of KL(softmax(logits) || softmax(moved)), ().

    `logits`, `moved`: (B, K).
    """
    return F.kl_div(moved.log_softmax(dim=1), logits.log_softmax(dim=1), reduction="sum", log_target=True)


def trades_loss(logits: Tensor, moved: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Return CE(z(x), y) + beta KL(softmax z(x) || softmax z(x')), averaged over images (Zhang et al. 2019, eq. 5).

    Args:
        logits: of the images, (B, K).
        moved: of their moved copies, (B, K).
        labels: (B,).
        beta: weight of the divergence.
    """
    return F.cross_entropy(logits, labels) + beta * divergence(logits, moved) / len(labels)


class TRADES:
    """Clean cross-entropy and the divergence of predictions at the points that maximise it; a row of Table 5.

    Args:
        beta: weight of the divergence, 1/lambda there.
        steps: gradient steps of the inner maximisation.
        step_size: of each, as a share of epsilon.

    Raises:
        ValueError: for settings out of range.
    """

    name = "trades"

    def __init__(self, beta: float = 6.0, steps: int = 10, step_size: float = 0.2) -> None:
        check_least("beta", beta)
        self.beta = beta
        self.ascent = Ascent(steps, step_size)

    def moved_images(self, model: nn.Module, images: Tensor, epsilon: float) -> Tensor:
        """Return points where predictions differ most from those of the images, (B, ...).

        Args:
            model: the network.
            images: (B, ...), pixels in [0, 1].
            epsilon: l2 radius in pixels; the points stay inside the ball and [0, 1].
        """
        with torch.no_grad(), evaluating(model):
            logits = model(images)
        start = images + START_NOISE * torch.randn_like(images)
        return climb(model, images, epsilon, self.ascent, start, lambda moved: divergence(logits, moved))

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        moved = self.moved_images(model, images, setting.epsilon)
        logits = model(images)
        return Objective(trades_loss(logits, model(moved), labels, self.beta), logits)
