"""What a training method is given, what it gives back, and the plainest of them: cross-entropy of clean images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Protocol, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from lipcert.bounds import Analysis, Bound, Plan, analyze
from lipcert.graph import Graph
from lipcert.losses.sparsity import Sparsity
from lipcert.norms import Norms

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
