"""ReLU stability: adversarial training that also keeps neurons on one side of their kinks all over the ball."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import Analysis
from lipcert.losses.adversarial import Ascent
from lipcert.losses.objective import Objective, Setting, after_warm_up
from lipcert.losses.options import check_number
from lipcert.nn import ClippedReLU


def instability(lower: Tensor, upper: Tensor, kink: Tensor | float = 0.0) -> Tensor:
    """Return the sum over neurons of -tanh(1 + (LB - kink)(UB - kink)), averaged over images, ().

    The product is negative where the kink lies inside the box, which is that before the activation.
    `lower`, `upper`: (B, *shape).
    """
    products = (lower - kink) * (upper - kink)
    return -(1 + products).tanh().flatten(1).sum(dim=1).mean()


def relu_stability_loss(analysis: Analysis) -> Tensor:
    """Return the sum over activations, kinks and neurons of -tanh(1 + LB·UB), averaged over images, ().

    A ReLU bends at 0, a clipped one also at its threshold. Source: Xiao et al. 2019, section 3.2.

    Args:
        analysis: of a batch; its boxes are those before the activations.

    Raises:
        ValueError: for activations of other kinds.
    """
    losses = []
    for bounds in analysis.activations:
        layer = bounds.layer
        if not isinstance(layer, nn.ReLU | ClippedReLU):
            raise ValueError(
                f"ReLU stability knows no kinks of {type(layer).__name__}: "
                "set model.activation=relu or clipped_relu, or choose another method."
            )
        losses.append(instability(bounds.lower, bounds.upper))
        if isinstance(layer, ClippedReLU):
            losses.append(instability(bounds.lower, bounds.upper, layer.threshold))
    return torch.stack(losses).sum()


class ReLUStability:
    """Adversarial training with the ReLU stability loss of Xiao et al. 2019, in l2 (appendix C.2).

    Its boxes are those of the run's bound around the clean images: `global` and `local` give the same ones, whose ball
    has the radius epsilon times the product of global norms; `tight` and `liplt` give smaller ones.

    Args:
        weight: of the stability loss.
        steps: gradient steps of the attack.
        step_size: of each, as a share of epsilon.
        random_start: begin anywhere in the ball.

    Raises:
        ValueError: for settings out of range.
    """

    name = "relu_stability"
    activations: ClassVar[tuple[str, ...]] = ("relu", "clipped_relu")

    def __init__(self, weight: float = 1e-4, steps: int = 8, step_size: float = 0.3, random_start: bool = True) -> None:
        self.weight = check_number("weight", weight, least=0)
        self.ascent = Ascent(steps, step_size, random_start)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        points = self.ascent.mislead(model, images, labels, setting.epsilon)
        analysis = setting.analyze(model, images, activation_boxes=True)
        loss = F.cross_entropy(model(points), labels) + self.weight * relu_stability_loss(analysis)
        return Objective(loss + setting.sparsity(analysis), analysis.logits, analysis)
