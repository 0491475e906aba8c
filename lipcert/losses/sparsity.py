"""Sparsity loss: push neurons to be constant over the region (eqs 12, 26)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lipcert.bounds import Analysis
from lipcert.nn import ClippedMaxMin, ClippedReLU
from lipcert.system.errors import refuse_below


def clipped_relu_hinge(lower: Tensor, upper: Tensor, threshold: Tensor, threshold_weight: float) -> Tensor:
    """Return max(0, UB) + weight * max(0, threshold - LB), averaged over images and neurons (eq. 26).

    `lower`, `upper`: (B, *shape), box before the activation.
    """
    return (upper.relu() + threshold_weight * (threshold - lower).relu()).mean()


def clipped_max_min_hinge(
    lower: Tensor, upper: Tensor, maximum: Tensor, minimum: Tensor, threshold_weight: float
) -> Tensor:
    """Return max(0, UB - min) of the smaller half + weight * max(0, max - LB) of the larger, averaged (eq. 12).

    `lower`, `upper`: (B, C, ...), box after the activation.
    """
    larger_lower, smaller_upper = lower.chunk(2, dim=1)[0], upper.chunk(2, dim=1)[1]
    return ((smaller_upper - minimum).relu() + threshold_weight * (maximum - larger_lower).relu()).mean()


def sparsity_loss(analysis: Analysis, threshold_weight: float) -> Tensor:
    """Return the sum over clipped activations of their mean hinge, () (eqs 12, 26).

    Args:
        analysis: of a batch.
        threshold_weight: lambda_theta, of the hinge at the thresholds.

    Raises:
        ValueError: for a network without clipped activations.
    """
    hinges = []
    for bounds in analysis.activations:
        layer = bounds.layer
        if isinstance(layer, ClippedReLU):
            hinges.append(clipped_relu_hinge(bounds.lower, bounds.upper, layer.threshold, threshold_weight))
        elif isinstance(layer, ClippedMaxMin):
            hinges.append(clipped_max_min_hinge(*bounds.output_box(), layer.max, layer.min, threshold_weight))
    if not hinges:
        raise ValueError(
            "The sparsity loss needs clipped activations: "
            "set model.activation=clipped_relu or clipped_maxmin, or sparsity.weight=0."
        )
    return torch.stack(hinges).sum()


@dataclass(frozen=True)
class Sparsity:
    """Weights of the sparsity loss.

    Attributes:
        weight: lambda_sparse, of the whole; 0 for none.
        threshold_weight: lambda_theta, of the hinge at the thresholds.

    Raises:
        ValueError: if one is negative or NaN.
    """

    weight: float = 0.0
    threshold_weight: float = 0.1

    def __post_init__(self) -> None:
        refuse_below(0, {"sparsity.weight": self.weight, "sparsity.threshold_weight": self.threshold_weight})

    def __call__(self, analysis: Analysis) -> Tensor:
        """Return the weighted loss, ()."""
        if self.weight == 0:
            return analysis.logits.new_zeros(())
        return self.weight * sparsity_loss(analysis, self.threshold_weight)
