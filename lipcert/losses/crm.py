"""CRM (certified radius maximisation): cross-entropy, and a penalty on small certified radii."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.losses.objective import Objective, Setting
from lipcert.losses.options import check_number, check_switch
from lipcert.losses.radii import margins, pair_radii, pair_slopes
from lipcert.losses.standard import after_warm_up


def crm_penalty(radii: Tensor, labels: Tensor, temperature: float, threshold: float) -> Tensor:
    """Return the batch's mean of log(sum over j ≠ y of exp(-t R_j)) / t, where 0 < min R_j < r0, and 0 elsewhere: ().

    Minus the penalty bounds the smallest radius from below, and meets it as t grows.

    Args:
        radii: R_j of the pair (y, j) in pixels, (B, K).
        labels: (B,).
        temperature: t.
        threshold: r0, in pixels.
    """
    is_label = F.one_hot(labels, radii.shape[1]).bool()
    others = radii.masked_fill(is_label, torch.inf)
    smallest = others.amin(dim=1)
    penalty = torch.logsumexp(-temperature * others, dim=1) / temperature
    counts = (smallest > 0) & (smallest < threshold)
    return torch.where(counts, penalty, torch.zeros_like(penalty)).mean()


class CRM:
    """Cross-entropy of clean logits, plus `weight` times the soft minimum of radii of images classified right.

    R_j = (z_y - z_j) / K_yj, with K_yj = ||w_j - w_y|| L. Published is the global bound without the box, by
    default by LipLT (`bound=global_liplt`). Here L may be L(x), the local one at the schedule's epsilon: then R_j is a
    lower bound of the distance to the boundary up to epsilon only, and with the box R_j >= epsilon says "certified".

    Args:
        weight: lambda, a pixel of radius.
        temperature: t, a pixel of radius.
        threshold: r0 in pixels; images whose radius is larger are left alone.
        box: keep the box constraint.

    Raises:
        ValueError: for options out of range.

    Source: Fazlyab et al. 2023, "Certified robustness via dynamic margin maximization and improved Lipschitz
    regularization", and its code.
    """

    name = "crm"

    def __init__(self, weight: float, temperature: float, threshold: float, box: bool = False) -> None:
        self.weight = check_number("weight", weight, above=0)
        self.temperature = check_number("temperature", temperature, above=0)
        self.threshold = check_number("threshold", threshold, above=0)
        self.box = check_switch("box", box)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        analysis = setting.analyze(model, images, self.box)
        radii = pair_radii(margins(analysis.logits, labels), pair_slopes(analysis, labels, self.box))
        penalty = crm_penalty(radii, labels, self.temperature, self.threshold)
        loss = F.cross_entropy(analysis.logits, labels) + self.weight * penalty
        return Objective(loss + setting.sparsity(analysis), analysis.logits, analysis)
