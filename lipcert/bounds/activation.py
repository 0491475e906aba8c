"""What every bound is given at an activation, and what it returns: one file a bound says how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from torch import Tensor, nn

from lipcert.bounds.region import Region, Source, Term, Terms, map_keys
from lipcert.graph import Activation, Box, Graph
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

    def skips_varying(self, node: Activation, graph: Graph) -> bool:
        """Return whether no norm before or behind the activation `node` of `graph` asks what varies."""
        return self.masks.issuperset((node.name, *graph.followers[node.index]))


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

    def of_images(self, kept: Tensor) -> ActivationBounds:
        """Return what is known of the images `kept`, (k,), of a batch: the box and the ball alone."""
        lower, upper = self._box()
        ball = None if self.ball is None else self.ball.of_images(kept)
        return replace(self, box=(lower[kept], upper[kept]), ball=ball, mask=None)

    def _box(self) -> Box:
        if self.box is None:
            raise ValueError(f"The analysis made no boxes, so that of activation {self.name!r} is not known.")
        return self.box


@dataclass(frozen=True)
class Entry:
    """An activation and the open region before it, with what global norms make of them.

    Attributes:
        node: the activation; its `function` says what it does to boxes.
        region: before it.
        box: that of the region; None where nobody asks for it.
        source: the set at the activation's output, bounded by global norms; a bound replaces what it knows better.
        keys: of the region's terms; `global_norms`: of their maps, (1,) each.
        norms: norm algorithm.
        plan: work to skip.
        graph: of the model.
    """

    node: Activation
    region: Region
    box: Box | None
    source: Source
    keys: list[MapKey]
    global_norms: list[Tensor]
    norms: Norms
    plan: Plan
    graph: Graph

    @property
    def longest(self) -> Terms:
        """The terms that run across activations where there are any, else those from the last activations."""
        return self.region.terms if self.region.merged is None else self.region.merged

    def keys_of(self, terms: Terms) -> list[MapKey]:
        """Return which maps those of the terms are, the region's own or those across activations."""
        if terms is self.region.terms:
            return self.keys
        return map_keys(terms, self.graph, self.node.sources[0], self.node.name, across=True)

    def local_norms(self, terms: Terms, rows: Tensor | None) -> list[Tensor]:
        """Return the norms of each term's map, (B,) each, masked by `rows` and by what varies in its source."""
        pairs = zip(self.keys_of(terms), terms.values(), strict=True)
        return [self.norms.local_norms(key, term.map, rows, term.source.varying) for key, term in pairs]


@dataclass(frozen=True)
class Closed:
    """What a bound makes of an activation.

    Attributes:
        source: the set at its output.
        local_norms: of the maps before the activation, those that the bound used.
        merged: further terms that run across it, None for none.
        mask: outputs that vary, where the bound made it.
        mask_rows: row norms of what follows leave out constant outputs.
        own: `local_norms` are those of the region's own terms, masked by what varies on either side.
    """

    source: Source
    local_norms: list[Tensor]
    merged: Terms | None = None
    mask: Tensor | None = None
    mask_rows: bool = False
    own: bool = True


Close = Callable[[Entry], Closed]
