"""The bounds by name, and what they know of an activation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from torch import Tensor, nn

from lipcert.bounds.region import Term
from lipcert.graph import Activation, Box


class Bound(StrEnum):
    """Names of the bounds; each has a file of its own or shares one with its kin.

    GLOBAL: product of global norms (BCP, GloRo). LOCAL: the paper's masked norms, box propagation with the global
    radius. TIGHT: masks that know MaxMin's order, box propagation with the local radius. LINEAR_SPLIT: linear neurons
    kept apart (appendix A.2). LIPLT: `tight`, and at every layer the smaller of its radius and that of the loop
    transformation (Fazlyab et al. 2023) with slopes 0, 1/2, 1. GLOBAL_LIPLT: `global`, and at every layer the smaller
    of its constant and that of the loop transformation with slope 1/2: one constant for all images, as published.
    """

    GLOBAL = "global"
    LOCAL = "local"
    TIGHT = "tight"
    LINEAR_SPLIT = "linear_split"
    LIPLT = "liplt"
    GLOBAL_LIPLT = "global_liplt"

    @classmethod
    def _missing_(cls, value: object) -> Bound:
        raise ValueError(f"Expected a bound, one of {[str(bound) for bound in cls]}, got {value!r}.")


class Near(NamedTuple):
    """Where those inputs of an activation are that any varying output depends on.

    Attributes:
        center: values at the image, (B, *shape).
        radius: (B,), how far from these in l2.
        term: the one linear map that leads here, with what it starts from; None where several do.
        norm: (B,), its norm on what varies there.
        error: (B,), what rounding of the analysis adds to the distance.
    """

    center: Tensor
    radius: Tensor
    term: Term | None = None
    norm: Tensor | None = None
    error: Tensor | None = None

    def of_images(self, kept: Tensor) -> Near:
        """Return what is known of the images `kept`, (k,), of a batch."""
        norm, error = (None if each is None else each[kept] for each in (self.norm, self.error))
        return Near(self.center[kept], self.radius[kept], self.term, norm, error)


@dataclass(frozen=True)
class ActivationBounds:
    """What a bound knows of an activation; for losses, logs and figures.

    Attributes:
        node: the activation in the graph.
        box: lower and upper ends before it, (B, *shape) each; None where no boxes were asked for.
        whole_norm: (1,), global norm of the linear map before it.
        masked_norm: (B,) or (1,), the norm that the bound used.
        mask: 1 for outputs that vary, 0 for constant ones, where the bound made it.
        ball: where its inputs are, rounding of the analysis included; None without an arithmetic.
    """

    node: Activation
    box: Box | None
    whole_norm: Tensor
    masked_norm: Tensor
    mask: Tensor | None = None
    ball: Near | None = None

    @property
    def name(self) -> str:
        """Name of the activation in the model."""
        return self.node.name

    @property
    def layer(self) -> nn.Module:
        """The activation layer."""
        return self.node.layer

    @property
    def lower(self) -> Tensor:
        """Lower ends of the box before the activation, (B, *shape)."""
        return self._box()[0]

    @property
    def upper(self) -> Tensor:
        """Upper ends of the box before the activation, (B, *shape)."""
        return self._box()[1]

    def output_box(self) -> Box:
        """Return lower and upper ends after the activation, (B, *shape) each, made anew at each call."""
        return self.node.function.range(*self._box())

    @property
    def varying(self) -> Tensor | None:
        """1 for each neuron of the output that varies, 0 for a constant one; None where nothing is known to be."""
        if self.mask is not None or self.box is None:
            return self.mask
        return self.node.function.varying(*self.box)

    def of_images(self, kept: Tensor) -> ActivationBounds:
        """Return what is known of the images `kept`, (k,), of a batch: the box and the ball alone."""
        lower, upper = self._box()
        ball = None if self.ball is None else self.ball.of_images(kept)
        return replace(self, box=(lower[kept], upper[kept]), ball=ball, mask=None)

    def _box(self) -> Box:
        if self.box is None:
            raise ValueError(f"The analysis made no boxes, so that of activation {self.name!r} is not known.")
        return self.box
