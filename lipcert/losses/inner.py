"""The inner problem of adversarial training: points of the ball on which the present network does worst."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.attacks import evaluating, projected_ascent, uniform_in_ball
from lipcert.losses.options import check_least, check_switch, check_whole


@dataclass(frozen=True)
class Ascent:
    """How long and how far to climb.

    Attributes:
        steps: gradient steps.
        step_size: l2 length of each, as a share of epsilon, so that it follows the schedule of epsilon.
        random_start: begin anywhere in the ball, by torch's global random state; otherwise at the image.

    Raises:
        ValueError: for values that make no ascent.
    """

    steps: int
    step_size: float
    random_start: bool = True

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1)
        check_least("step_size", self.step_size)
        check_switch("random_start", self.random_start)


def climb(
    model: nn.Module, images: Tensor, epsilon: float, ascent: Ascent, start: Tensor, loss: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return points inside the ball and [0, 1] where `loss` of the logits is large, (B, ...).

    The network is asked in eval mode; its modes, buffers and gradients stay as they are.
    """
    with evaluating(model):
        return projected_ascent(
            lambda points: loss(model(points)), images, start, epsilon, ascent.steps, ascent.step_size * epsilon
        )


def misleading_images(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, ascent: Ascent) -> Tensor:
    """Return points inside the ball and [0, 1] where the cross-entropy is large, (B, ...).

    Args:
        model: in any mode.
        images: (B, ...), pixels in [0, 1]; labels: (B,).
        epsilon: l2 radius.
        ascent: steps, their size, the start.
    """
    start = uniform_in_ball(images, epsilon) if ascent.random_start else images
    return climb(model, images, epsilon, ascent, start, lambda logits: F.cross_entropy(logits, labels, reduction="sum"))


@torch.no_grad()
def clean_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return logits that no loss needs, (B, K), without touching running statistics."""
    with evaluating(model):
        return model(images)
