"""What a training method is given and gives back; the plainest, and the paper's own: BCP with its sparsity loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import Analysis, Bound, Plan, analyze, worst_logits
from lipcert.graph import Graph
from lipcert.nn import ClippedMaxMin, ClippedReLU
from lipcert.norms import Norms
from lipcert.system.errors import refuse_below

MARGIN_ROUNDS = 5
"""Newton rounds for margins in training; the value is an upper bound at any number, exact at most images."""


def clipped_relu_hinge(lower: Tensor, upper: Tensor, threshold: Tensor, threshold_weight: float) -> Tensor:
    """Return max(0, UB) + weight * max(0, threshold - LB), averaged over images and neurons (eq. 26).

    `lower`, `upper`: (B, *shape), box before the activation.
    """
    return torch.add(upper.relu(), (threshold - lower).relu(), alpha=threshold_weight).mean()


def clipped_max_min_hinge(
    lower: Tensor, upper: Tensor, maximum: Tensor, minimum: Tensor, threshold_weight: float
) -> Tensor:
    """Return max(0, UB - min) of the smaller half + weight * max(0, max - LB) of the larger, averaged (eq. 12).

    `lower`, `upper`: (B, C, ...), box after the activation.
    """
    larger_lower, smaller_upper = lower.chunk(2, dim=1)[0], upper.chunk(2, dim=1)[1]
    return torch.add((smaller_upper - minimum).relu(), (maximum - larger_lower).relu(), alpha=threshold_weight).mean()


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
        plan: work to skip; nothing by default.
        box_gradients: whether gradients flow through box propagation.
        graph: of the model, compiled once; the model is compiled at each call when None.
        measured: keep boxes of activations even where the method needs none, for logs.
    """

    epsilon: float
    mixing: float
    bound: Bound
    norms: Norms
    sparsity: Sparsity
    clip_input: bool = False
    plan: Plan = field(default_factory=Plan)
    box_gradients: bool = True
    graph: Graph | None = None
    measured: bool = False

    def analyze(self, model: nn.Module, images: Tensor, boxes: bool = True, activation_boxes: bool = False) -> Analysis:
        """Return what the bound knows of `model` on a batch, images (B, ...), at the present epsilon.

        Args:
            boxes: whether the method's margins are over boxes.
            activation_boxes: whether the method asks for those of activations.
        """
        asked = activation_boxes or self.measured or self.sparsity.weight > 0
        return analyze(
            model if self.graph is None else self.graph,
            images,
            self.epsilon,
            self.bound,
            self.norms,
            self.clip_input,
            plan=self.plan,
            box_gradients=self.box_gradients,
            boxes=boxes or asked,
            activation_boxes=asked,
        )


@dataclass(frozen=True)
class Objective:
    """What a method returns for a batch.

    Attributes:
        loss: to minimise, ().
        analysis: of the bound; None where the method needs none.
    """

    loss: Tensor
    analysis: Analysis | None = None


class Method(Protocol):
    """A training method: maps a batch to an objective."""

    name: str

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective: ...


class Standard:
    """Cross-entropy of clean logits; certifies nothing by itself, the reference of Table 5."""

    name = "standard"

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        return Objective(F.cross_entropy(model(images), labels))


M = TypeVar("M")
Call = Callable[[M, nn.Module, Tensor, Tensor, Setting], Objective]


def after_warm_up(call: Call[M]) -> Call[M]:
    """Return a method's `call` with standard training in its place while epsilon is 0: a decorator of `__call__`."""

    @wraps(call)
    def with_warm_up(method: M, model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> Objective:
        if setting.epsilon > 0:
            return call(method, model, images, labels, setting)
        return Standard()(model, images, labels, setting)

    return with_warm_up


def bcp_loss(logits: Tensor, worst: Tensor, labels: Tensor, mixing: float) -> Tensor:
    """Return (1 - mixing) CE(z, y) + mixing CE(z*, y) (eq. 25).

    Args:
        logits, worst: clean ones z and worst ones z*, (B, K).
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
        return Objective(loss + setting.sparsity(analysis), analysis)
