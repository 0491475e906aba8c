"""CLL (calibrated Lipschitz-margin loss): cross-entropy of distances, on a scale that epsilon sets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.losses.objective import Objective, Setting
from lipcert.losses.options import check_number, check_switch
from lipcert.losses.radii import margins, pair_radii, pair_slopes
from lipcert.losses.standard import after_warm_up


def calibrated_width(epsilon: float, slack: float) -> float:
    """Return sigma with which a logistic distribution of that scale has all but `slack` of its mass in ±epsilon.

    sigma = 2 epsilon / (logit(1 - p/2) - logit(p/2)), in pixels.

    Args:
        epsilon: l2 radius in pixels.
        slack: p, in (0, 1).
    """
    return epsilon / math.log((2 - slack) / slack)


def cll_logits(radii: Tensor, labels: Tensor, shift: float, width: float) -> Tensor:
    """Return (shift - R_j) / sigma, (B, K); 0 for the label.

    Args:
        radii: R_j = (z_y - z_j) / K_yj in pixels, (B, K).
        labels: (B,).
        shift: in pixels.
        width: sigma, in pixels.
    """
    is_label = F.one_hot(labels, radii.shape[1]).bool()
    return torch.where(is_label, torch.zeros_like(radii), (shift - radii) / width)


class CLL:
    """Cross-entropy of calibrated radii, plus `decay` times the squared Lipschitz constant.

    R_j = (z_y - z_j) / K_yj, with K_yj = ||w_j - w_y|| L held constant, so that `decay` alone keeps it small. Published
    is the global bound without the box, a constant epsilon, and the square of the one global constant; here any bound,
    `offset` times the schedule's epsilon (sigma keeps to `epsilon`), and the mean over images of max over j of K_yj².

    Args:
        epsilon: radius that sigma is calibrated to, in pixels.
        slack: p, the share of the logistic's mass beyond epsilon: larger is wider and forgives more.
        decay: lambda of the squared Lipschitz constant.
        offset: radius that makes label and class level, in epsilons; 2: published, epsilon off the label's and on the
            other classes' logits; 1 is one-sided.
        detach: hold K constant; false lets gradients shrink it.
        box: keep the box constraint.

    Raises:
        ValueError: for options out of range.

    Source: Losch et al. 2023, "Certified robust models with slack control and large Lipschitz constants", and its code.
    """

    name = "cll"

    def __init__(
        self, epsilon: float, slack: float, decay: float, offset: float = 2.0, detach: bool = True, box: bool = False
    ) -> None:
        self.width = calibrated_width(
            check_number("epsilon", epsilon, above=0), check_number("slack", slack, above=0, below=1)
        )
        self.decay = check_number("decay", decay)
        if self.decay < 0:
            raise ValueError(f"Expected `method.decay` >= 0, got {decay!r}.")
        self.offset = check_number("offset", offset, above=0)
        self.detach = check_switch("detach", detach)
        self.box = check_switch("box", box)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        analysis = setting.analyze(model, images, self.box)
        slopes = pair_slopes(analysis, labels, self.box)
        radii = pair_radii(margins(analysis.logits, labels), slopes.detach() if self.detach else slopes)
        logits = cll_logits(radii, labels, self.offset * setting.epsilon, self.width)
        loss = F.cross_entropy(logits, labels) + self.decay * slopes.amax(dim=1).square().mean()
        return Objective(loss + setting.sparsity(analysis), analysis.logits, analysis)
