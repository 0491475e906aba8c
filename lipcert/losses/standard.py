"""Standard training: cross-entropy on clean images, alone or until epsilon rises."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.losses.objective import Objective, Setting


class Standard:
    """Cross-entropy of clean logits; certifies nothing by itself, the reference of Table 5."""

    name = "standard"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        logits = model(images)
        return Objective(F.cross_entropy(logits, labels), logits)


class RobustMethod(ABC):
    """A method that is standard training while epsilon is 0, and has an objective of its own above."""

    name: str

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        objective = self.objective if setting.epsilon > 0 else Standard()
        return objective(model, images, labels, setting)

    @abstractmethod
    def objective(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        """Return the objective of a batch at an epsilon above 0: images (B, ...), labels (B,)."""
