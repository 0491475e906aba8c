"""EMMA (efficient margin maximisation): every other class gains what it can use, not more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import worst_increase
from lipcert.losses.objective import MARGIN_ROUNDS, Objective, Setting
from lipcert.losses.options import check_number, check_switch
from lipcert.losses.radii import margins
from lipcert.losses.standard import after_warm_up


def emma_logits(logits: Tensor, increase: Tensor, labels: Tensor, floor: float) -> Tensor:
    """Return z_j - z_y + s_j g_j with s_j = clip((z_y - z_j) / g_j, floor, 1) held constant, (B, K); 0 for the label.

    g_j is by how much z_j may gain on z_y inside the region: epsilon K_jy for a global Lipschitz bound, so that
    s_j epsilon is the radius at which class j draws level, at most epsilon. Gradients reach g_j, not s_j.

    Args:
        logits: z, (B, K).
        increase: g, (B, K).
        labels: (B,).
        floor: least share, in [0, 1].
    """
    margin = margins(logits, labels)
    smallest = torch.finfo(increase.dtype).tiny
    share = (margin / increase.clamp_min(smallest)).clamp(floor, 1).detach()
    is_label = F.one_hot(labels, logits.shape[1]).bool()
    return torch.where(is_label, torch.zeros_like(margin), share * increase - margin)


class EMMA:
    """Cross-entropy of logits that each class has raised until it draws level with the label, or to epsilon.

    Classes already ahead of the label keep `floor` of their increase, so that the Lipschitz bound goes on being learnt.
    The published loss has the global bound and no box; here any bound, and the increase at epsilon is scaled by s_j,
    which for a local bound or with the box is not the increase at the radius s_j epsilon.

    Args:
        floor: least share of the increase, in [0, 1].
        box: keep the box constraint in the increase.

    Raises:
        ValueError: for options out of range.

    Source: Hu et al. 2023, "Unlocking deterministic robustness certification on ImageNet", and its code.
    """

    name = "emma"

    def __init__(self, floor: float = 0.01, box: bool = True) -> None:
        self.floor = check_number("floor", floor)
        if not 0 <= self.floor <= 1:
            raise ValueError(f"Expected `method.floor` in [0, 1], got {floor!r}.")
        self.box = check_switch("box", box)

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        analysis = setting.analyze(model, images, self.box)
        increase = worst_increase(analysis, labels, self.box, MARGIN_ROUNDS)
        loss = F.cross_entropy(emma_logits(analysis.logits, increase, labels, self.floor), labels)
        return Objective(loss + setting.sparsity(analysis), analysis.logits, analysis)
