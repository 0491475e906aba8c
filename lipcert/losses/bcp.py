"""Box constraint propagation (BCP): cross-entropy of worst logits over ball and box."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import worst_logits
from lipcert.losses.objective import MARGIN_ROUNDS, Objective, Setting
from lipcert.losses.standard import after_warm_up


def bcp_loss(logits: Tensor, worst: Tensor, labels: Tensor, mixing: float) -> Tensor:
    """Return (1 - mixing) CE(z, y) + mixing CE(z*, y) (eq. 25).

    Args:
        logits: clean ones z, (B, K).
        worst: worst ones z*, (B, K).
        labels: (B,).
        mixing: lambda, in [0, 1].
    """
    return (1 - mixing) * F.cross_entropy(logits, labels) + mixing * F.cross_entropy(worst, labels)


class BCP:
    """Mixed loss on clean and worst logits (eqs 24-26); source: appendix B, reference [20] there."""

    name = "bcp"

    @after_warm_up
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        analysis = setting.analyze(model, images)
        worst = worst_logits(analysis, labels, rounds=MARGIN_ROUNDS)
        loss = bcp_loss(analysis.logits, worst, labels, setting.mixing)
        return Objective(loss + setting.sparsity(analysis), analysis.logits, analysis)
