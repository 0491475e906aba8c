"""Adversarial training in l2: cross-entropy where a gradient ascent makes it large."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.losses.inner import Ascent, clean_logits, misleading_images
from lipcert.losses.objective import Objective, Setting
from lipcert.losses.standard import after_warm_up


class Adversarial:
    """Cross-entropy at the points that an attack finds (Madry et al. 2018); a row of Table 5.

    Args:
        steps: gradient steps of the attack.
        step_size: of each, as a share of epsilon.
        random_start: begin anywhere in the ball.

    Raises:
        ValueError: for settings out of range.
    """

    name = "adversarial"

    def __init__(self, steps: int = 7, step_size: float = 0.25, random_start: bool = True) -> None:
        self.ascent = Ascent(steps, step_size, random_start)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        points = misleading_images(model, images, labels, setting.epsilon, self.ascent)
        return Objective(F.cross_entropy(model(points), labels), clean_logits(model, images))
