"""Losses at points of the ball on which the network does worst: adversarial training, TRADES, ReLU stability, in l2."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.attacks import evaluating, projected_ascent, uniform_in_ball
from lipcert.bounds import Analysis
from lipcert.losses.objective import Objective, Setting, after_warm_up
from lipcert.losses.options import check_number, check_switch, check_whole
from lipcert.nn import ClippedReLU

START_NOISE = 1e-3
"""Standard deviation of TRADES' start about the image, where the divergence and its gradient are 0."""


class Adversarial:
    """Cross-entropy at the points that an attack finds (Madry et al. 2018); a row of Table 5.

    The attack, gradient ascent inside the ball and [0, 1], asks the network in eval mode and leaves it as it was.

    Args:
        steps: gradient steps of the attack.
        step_size: l2 length of each, as a share of epsilon, so that it follows the schedule of epsilon.
        random_start: begin anywhere in the ball, by torch's global random state; otherwise at the image.

    Raises:
        ValueError: for settings out of range.
    """

    name = "adversarial"

    def __init__(self, steps: int = 7, step_size: float = 0.25, random_start: bool = True) -> None:
        self.steps = check_whole("steps", steps, 1)
        self.step_size = check_number("step_size", step_size, least=0)
        self.random_start = check_switch("random_start", random_start)

    def climb(
        self, model: nn.Module, images: Tensor, start: Tensor, epsilon: float, loss: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return points where `loss` of the logits is large, (B, ...); arguments as in `projected_ascent`."""
        with evaluating(model):
            return projected_ascent(
                lambda points: loss(model(points)), images, start, epsilon, self.steps, self.step_size * epsilon
            )

    def mislead(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        """Return points where the cross-entropy is large, (B, ...); arguments as in `pgd`."""
        start = uniform_in_ball(images, epsilon) if self.random_start else images
        return self.climb(
            model, images, start, epsilon, lambda logits: F.cross_entropy(logits, labels, reduction="sum")
        )

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        points = self.mislead(model, images, labels, setting.epsilon)
        return Objective(F.cross_entropy(model(points), labels))


def divergence(logits: Tensor, moved: Tensor) -> Tensor:
    """Return the sum over images of KL(softmax(logits) || softmax(moved)), (): both (B, K)."""
    return F.kl_div(moved.log_softmax(dim=1), logits.log_softmax(dim=1), reduction="sum", log_target=True)


def trades_loss(logits: Tensor, moved: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Return CE(z(x), y) + beta KL(softmax z(x) || softmax z(x')), averaged over images (Zhang et al. 2019, eq. 5).

    Args:
        logits, moved: of the images and of their moved copies, (B, K).
        labels: (B,).
        beta: weight of the divergence.
    """
    return F.cross_entropy(logits, labels) + beta * divergence(logits, moved) / len(labels)


class TRADES(Adversarial):
    """Clean cross-entropy and the divergence of predictions at the points that maximise it; a row of Table 5.

    Args:
        beta: weight of the divergence, 1/lambda there.
        steps, step_size: of the inner maximisation, as in `Adversarial`.

    Raises:
        ValueError: for settings out of range.
    """

    name = "trades"

    def __init__(self, beta: float = 6.0, steps: int = 10, step_size: float = 0.2) -> None:
        self.beta = check_number("beta", beta, least=0)
        super().__init__(steps, step_size)

    def moved_images(self, model: nn.Module, images: Tensor, epsilon: float) -> Tensor:
        """Return points of the l2 ball of radius `epsilon` and [0, 1] where `model` differs most from `images`."""
        with torch.no_grad(), evaluating(model):
            logits = model(images)
        start = images + START_NOISE * torch.randn_like(images)
        return self.climb(model, images, start, epsilon, lambda moved: divergence(logits, moved))

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        moved = self.moved_images(model, images, setting.epsilon)
        return Objective(trades_loss(model(images), model(moved), labels, self.beta))


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


class ReLUStability(Adversarial):
    """Adversarial training with the ReLU stability loss of Xiao et al. 2019, in l2 (appendix C.2).

    Its boxes are those of the run's bound around the clean images: `global` and `local` give the same ones, whose ball
    has the radius epsilon times the product of global norms; `tight` and `liplt` give smaller ones.

    Args:
        weight: of the stability loss.
        steps, step_size, random_start: as in `Adversarial`.

    Raises:
        ValueError: for settings out of range.
    """

    name = "relu_stability"
    activations: ClassVar[tuple[str, ...]] = ("relu", "clipped_relu")

    def __init__(self, weight: float = 1e-4, steps: int = 8, step_size: float = 0.3, random_start: bool = True) -> None:
        super().__init__(steps, step_size, random_start)
        self.weight = check_number("weight", weight, least=0)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        points = self.mislead(model, images, labels, setting.epsilon)
        analysis = setting.analyze(model, images, activation_boxes=True)
        loss = F.cross_entropy(model(points), labels) + self.weight * relu_stability_loss(analysis)
        return Objective(loss + setting.sparsity(analysis), analysis)
