"""Standard training: cross-entropy on clean images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.losses.objective import Objective, Setting


class Standard:
    """Cross-entropy of clean logits; certifies nothing by itself, the reference of Table 5."""

    name = "standard"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        logits = model(images)
        return Objective(F.cross_entropy(logits, labels), logits)
