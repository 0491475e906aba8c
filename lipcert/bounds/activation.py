"""What every bound is given at an activation, and what it returns: one file a bound says how."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

import torch
from torch import Tensor, nn

from lipcert.bounds.region import Region, Source, Term, Terms
from lipcert.graph.activations import Box, Nonlinearity
from lipcert.graph.nodes import Activation, Graph
from lipcert.norms.protocol import MapKey, Norms


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


@dataclass(frozen=True)
class Plan:
    """Work to skip, by name of layer; the bounds stay sound and become looser. `Plan()` skips nothing.

    Attributes:
        boxes: affine layers whose box is that of the ball alone.
        masks: activations before which the global norm stands in for local ones.
        rows: activations behind which row norms count constant inputs too (bound `tight`).
    """

    boxes: frozenset[str] = frozenset()
    masks: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ActivationBounds:
    """What a bound knows of an activation; for losses, logs and figures.

    Attributes:
        node: the activation in the graph.
        box: lower and upper ends before it, (B, *shape) each; None where no boxes were asked for.
        whole_norm: (1,), global norm of the linear map before it.
        masked_norm: (B,) or (1,), the norm that the bound used.
        mask: 1 for outputs that vary, 0 for constant ones, where the bound made it.
    """

    node: Activation
    box: Box | None
    whole_norm: Tensor
    masked_norm: Tensor
    mask: Tensor | None = None

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

    @property
    def output_lower(self) -> Tensor:
        """Lower ends of the box after the activation, (B, *shape)."""
        return self.output_box()[0]

    @property
    def output_upper(self) -> Tensor:
        """Upper ends of the box after the activation, (B, *shape)."""
        return self.output_box()[1]

    def output_box(self) -> Box:
        """Return lower and upper ends after the activation, (B, *shape) each, made anew at each call."""
        return self.node.function.range(*self._box())

    @property
    def varying(self) -> Tensor | None:
        """1 for each neuron of the output that varies, 0 for a constant one; None where nothing is known to be."""
        if self.mask is not None or self.box is None:
            return self.mask
        return self.node.function.varying(*self.box)

    def _box(self) -> Box:
        if self.box is None:
            raise ValueError(f"The analysis made no boxes, so that of activation {self.name!r} is not known.")
        return self.box


@dataclass(frozen=True)
class Entry:
    """An activation and the open region before it.

    Attributes:
        node: the activation; its `function` says what it does to boxes.
        region: before it.
        box: that of the region; None where no boxes are made.
        output_box: behind the activation; None where nobody asks for it.
        center: the activation's output at the image itself, (B, *shape).
        norms: norm algorithm.
        plan: work to skip.
        graph: of the model.
    """

    node: Activation
    region: Region
    box: Box | None
    output_box: Box | None
    center: Tensor
    norms: Norms
    plan: Plan
    graph: Graph

    @property
    def function(self) -> Nonlinearity:
        """What the activation does."""
        return self.node.function

    def keys(self, terms: Terms, across: bool) -> list[MapKey]:
        """Return which maps those of the terms are; `across`: they run across activations."""
        graph, target, suffix = self.graph.key, self.node.sources[0], "..across" * across  # no module is called so
        several = len(terms) > 1
        return [
            MapKey(graph, term.source.index, target, across, self.node.name + f"..{number}" * several + suffix)
            for number, term in enumerate(terms.values())
        ]

    def global_norms(self, terms: Terms, across: bool = False) -> list[Tensor]:
        """Return the norm of each term's map, (1,) each."""
        keys = self.keys(terms, across)
        return [self.norms.global_norm(key, term.map) for key, term in zip(keys, terms.values(), strict=True)]

    def local_norms(self, terms: Terms, rows: Tensor | None, across: bool = False) -> list[Tensor]:
        """Return the norms of each term's map, (B,) each, masked by `rows` and by what varies in its source."""
        keys = self.keys(terms, across)
        return [
            self.norms.local_norms(key, term.map, rows, term.source.varying)
            for key, term in zip(keys, terms.values(), strict=True)
        ]

    def source(
        self,
        lipschitz: Tensor,
        product: Tensor,
        box_lipschitz: Tensor | None = None,
        varying: Tensor | None = None,
    ) -> Source:
        """Return the set at the activation's output; `box_lipschitz`: `lipschitz` when None."""
        ball = lipschitz if box_lipschitz is None else box_lipschitz
        return Source(self.node.index, self.center, self.output_box, lipschitz, ball, product, varying)


@dataclass(frozen=True)
class Closed:
    """What a bound makes of an activation.

    Attributes:
        term: the open region's term at the activation's output.
        merged: further terms that run across it, None for none.
        whole_norms, masked_norms: of the maps before the activation, global ones and those that the bound used.
        mask: outputs that vary, where the bound made it.
    """

    term: Term
    merged: Terms | None
    whole_norms: list[Tensor]
    masked_norms: list[Tensor]
    mask: Tensor | None = None


Close = Callable[[Entry], Closed]


def constant(terms: Iterable[Term], norms: list[Tensor]) -> Tensor:
    """Return the Lipschitz constant behind `terms`: the sum of source constant times norm."""
    return reduce(torch.add, [term.source.lipschitz * norm for term, norm in zip(terms, norms, strict=True)])


def box_constant(terms: Iterable[Term], norms: list[Tensor]) -> Tensor:
    """Return the constant of the ball behind `terms` that bounds neurons: the sum of source constant times norm."""
    return reduce(torch.add, [term.source.box_lipschitz * norm for term, norm in zip(terms, norms, strict=True)])


def product_of(terms: Iterable[Term], norms: list[Tensor]) -> Tensor:
    """Return the product of global norms behind `terms`, (1,)."""
    return reduce(torch.add, [term.source.product * norm for term, norm in zip(terms, norms, strict=True)])
