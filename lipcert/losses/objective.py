"""What a training method is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from lipcert.bounds import Analysis, Bound, Economy, analyze
from lipcert.bounds.norms import Norms
from lipcert.losses.sparsity import Sparsity

MARGIN_ROUNDS = 5
"""Newton rounds for margins in training; the value is an upper bound at any number, exact at most images."""


@dataclass(frozen=True)
class Setting:
    """The state of the schedules, and how bounds are computed.

    Attributes:
        epsilon: l2 radius to train at, in pixels of [0, 1]; 0 while warming up.
        mixing: lambda of eq. 25, from 0 (clean loss) to 1 (robust loss).
        bound: which Lipschitz bound.
        norms: estimates of norms.
        sparsity: weights of the sparsity loss.
        clip_input: whether the input box is intersected with [0, 1].
        economy: leaves out work that tells next to nothing new, None for all of it.
    """

    epsilon: float
    mixing: float
    bound: Bound
    norms: Norms
    sparsity: Sparsity
    clip_input: bool = False
    economy: Economy | None = None

    def analyze(self, model: nn.Module, images: Tensor) -> Analysis:
        """Return what the bound knows of `model` on a batch, images (B, ...), at the present epsilon."""
        return analyze(model, images, self.epsilon, self.bound, self.norms, self.clip_input, economy=self.economy)


@dataclass(frozen=True)
class Objective:
    """What a method returns for a batch.

    Attributes:
        loss: to minimise, ().
        logits: clean ones, (B, K).
        analysis: of the bound; None where the method needs none.
    """

    loss: Tensor
    logits: Tensor
    analysis: Analysis | None = None


class Method(Protocol):
    """A training method: maps a batch to an objective."""

    name: str

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective: ...
