"""What an activation does to a region: it multiplies the Lipschitz constants behind it and opens the region anew.

Bounds differ here and nowhere else: which norms are masked, which radius the box pass uses, what is kept linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipcert.bounds.economy import FEW, Economy, pays
from lipcert.bounds.errors import UnsupportedLayerError
from lipcert.bounds.lazy import Lazy
from lipcert.bounds.linear_map import identity_map
from lipcert.bounds.norms import Norms
from lipcert.bounds.operators import scaling
from lipcert.bounds.region import NO_MASK, Box, Region, Source, Term, mask_terms, open_region, sum_of
from lipcert.bounds.rounding import Arithmetic, Rounding

LARGEST_MERGED = 2**15
"""Behind larger activations `liplt` starts anew: norms of runs across them would cost more than they are worth."""


class Bound(StrEnum):
    """How the Lipschitz constant is bounded, and which radius the box pass uses.

    GLOBAL: no masks (BCP, GloRo). LOCAL: the paper's masks, box pass with the global radius. TIGHT: masks that
    know MaxMin's order, box pass with the local radius. LINEAR_SPLIT: linear neurons kept apart (appendix A.2).
    LIPLT: `tight`, and at every layer the smaller of its radius and that of the loop transformation, by which a
    neuron is a linear one of slope 0, 1/2 or 1 plus a remainder of half the Lipschitz constant (Fazlyab et al. 2023).
    GLOBAL_LIPLT: `global`, and at every layer the smaller of its constant and that of the loop transformation with
    slope 1/2 for all neurons: one constant for all images, as published.
    """

    GLOBAL = "global"
    LOCAL = "local"
    TIGHT = "tight"
    LINEAR_SPLIT = "linear_split"
    LIPLT = "liplt"
    GLOBAL_LIPLT = "global_liplt"

    @property
    def masks(self) -> bool:
        """Whether norms leave out what is constant around an image."""
        return self not in (Bound.GLOBAL, Bound.GLOBAL_LIPLT)

    @property
    def merges(self) -> bool:
        """Whether linear runs are merged across activations, so that margins meet two families of terms."""
        return self in (Bound.LIPLT, Bound.GLOBAL_LIPLT)

    @property
    def splits(self) -> bool:
        """Whether linear neurons are told apart from those that bend."""
        return self in (Bound.LINEAR_SPLIT, Bound.LIPLT)

    @property
    def tightens(self) -> bool:
        """Whether the box pass uses the local radius, masked row norms and masks that know MaxMin's order."""
        return self in (Bound.TIGHT, Bound.LIPLT)

    @classmethod
    def _missing_(cls, value: object) -> Bound:
        raise ValueError(f"Expected a bound, one of {[str(bound) for bound in cls]}, got {value!r}.")


class Masks(NamedTuple):
    """What is constant behind an activation, 0/1 a neuron or None for ones.

    Attributes:
        varying: outputs that vary, (B, *shape).
        rows: inputs of the activation that any varying output depends on, (B, *shape).
    """

    varying: Tensor | None
    rows: Tensor | None


ALL_VARY = Lazy.of(Masks(None, None))


@dataclass(frozen=True)
class ActivationBounds:
    """What closing an activation found out; kept for losses, logs and figures.

    Attributes:
        name: the activation's, in the model.
        layer: the activation.
        box: lower and upper ends before the activation, (B, *shape) each.
        output_box: those after it.
        masks: what is constant.
        whole_norm: (1,), norm of the linear map before it.
        masked_norm: (B,) or (1,), the norm that the bound used.
    """

    name: str
    layer: nn.Module
    box: Lazy[Box]
    output_box: Lazy[Box]
    masks: Lazy[Masks]
    whole_norm: Tensor
    masked_norm: Tensor

    @property
    def lower(self) -> Tensor:
        """Lower ends of the box before the activation, (B, *shape)."""
        return self.box.value[0]

    @property
    def upper(self) -> Tensor:
        """Upper ends of the box before the activation, (B, *shape)."""
        return self.box.value[1]

    @property
    def output_lower(self) -> Tensor:
        """Lower ends of the box after the activation, (B, *shape)."""
        return self.output_box.value[0]

    @property
    def output_upper(self) -> Tensor:
        """Upper ends of the box after the activation, (B, *shape)."""
        return self.output_box.value[1]

    @property
    def varying(self) -> Tensor | None:
        """1 for each neuron of the output that varies, 0 for a constant one; None where nothing is known to be."""
        return self.masks.value.varying


@dataclass
class Walk:
    """What a walk through a model carries along: the bound, the norm algorithm, the activations met.

    Attributes:
        bound: which one.
        norms: norm algorithm.
        arithmetic: what the model is executed in, None for exact real numbers.
        economy: leaves out work that tells nothing new, None for all of it.
        activations: met so far.
    """

    bound: Bound
    norms: Norms
    arithmetic: Arithmetic | None = None
    economy: Economy | None = None
    activations: list[ActivationBounds] = field(default_factory=list)

    def pays(self, work: str, gain: Callable[[], Tensor]) -> bool:
        """Return whether optional work is to be done; `gain` as for `Economy.pays`."""
        return pays(self.economy, work, gain)


@dataclass(frozen=True)
class Closing:
    """An activation's input box, its output and what is constant in it.

    Attributes:
        box: lower and upper ends before the activation, (B, *shape) each.
        center: the output at the image itself, (B, *shape).
        output_box: lower and upper ends of the output.
        masks: what is constant.
        linear: for elementwise activations of slopes in [0, 1], 1 for neurons that equal their input all over the
            region; None for others.
        remainder: for those, the range of σ(z') - σ(z) - (z' - z)/2 over the box.
        rounding: of the output; None where nobody asks.
    """

    box: Lazy[Box]
    center: Tensor
    output_box: Lazy[Box]
    masks: Lazy[Masks] = ALL_VARY
    linear: Lazy[Tensor] | None = None
    remainder: Lazy[Box] | None = None
    rounding: Rounding | None = None


def _masked_norms(walk: Walk, name: str, terms: tuple[Term, ...], rows: Tensor | None, like: Tensor) -> list[Tensor]:
    return [
        walk.norms.masked(_term_name(name, index, terms), term.map, rows, term.source.varying, like)
        for index, term in enumerate(terms)
    ]


def _capped_norm(walk: Walk, name: str, term: Term, masks: Lazy[Masks], whole: Tensor, like: Tensor) -> Tensor:
    """Return the smaller of the masked norm, (B,), and the whole one; the latter alone where masks gain nothing."""

    def masked(images: slice) -> Tensor:
        both = masks.value.rows, term.source.varying
        few_rows, few_columns = (None if mask is None else mask[images] for mask in both)
        return torch.minimum(walk.norms.masked(name, term.map, few_rows, few_columns, like[images]), whole)

    if not term.map.per_image and not walk.pays(f"masks {name}", lambda: 1 - (masked(FEW) / whole).mean()):
        return whole
    return masked(slice(None))


def _whole_norms(walk: Walk, name: str, terms: tuple[Term, ...], like: Tensor) -> list[Tensor]:
    return [walk.norms.whole(_term_name(name, index, terms), term.map, like) for index, term in enumerate(terms)]


def _term_name(name: str, index: int, terms: tuple[Term, ...]) -> str:
    return name if len(terms) == 1 else f"{name}..{index}"  # no module is called so


def _carry(terms: tuple[Term, ...], norms: list[Tensor]) -> Tensor:
    """Return the Lipschitz constant behind `terms`: the sum of source constant times norm."""
    return sum_of([term.source.lipschitz * norm for term, norm in zip(terms, norms, strict=True)])


def close(walk: Walk, name: str, layer: nn.Module, region: Region, closing: Closing) -> Region:
    """Multiply Lipschitz constants with norms and open the region at the activation's output.

    Args:
        walk: the bound, the norm algorithm; is told of the activation.
        name: of the activation in the model.
        layer: the activation, 1-Lipschitz in l2.
        region: before it.
        closing: what the activation does to the region.

    Raises:
        UnsupportedLayerError: for an activation that changes the shape.
    """
    like, terms = region.center, region.lipschitz_terms
    if closing.center.shape != like.shape:
        raise UnsupportedLayerError(
            f"Layer {name!r}: a {type(layer).__name__} for another shape broadcasts {tuple(like.shape[1:])} "
            f"to {tuple(closing.center.shape[1:])}; its shape must be that of its input."
        )
    whole = _whole_norms(walk, name, region.ball_terms, like)
    ball_lipschitz = _carry(region.ball_terms, whole)
    masks = closing.masks if walk.bound.masks else ALL_VARY
    mask, norms = Lazy(lambda: masks.value.varying), whole
    product = sum_of([t.source.product * norm for t, norm in zip(region.ball_terms, whole, strict=True)])
    split: tuple[Term, ...] = ()
    if walk.bound is Bound.LINEAR_SPLIT:
        linear = torch.zeros_like(like) if closing.linear is None else closing.linear.value
        varying = (1 - linear) if masks.value.varying is None else masks.value.varying * (1 - linear)
        mask = Lazy.of(varying)
        norms = _masked_norms(walk, name, terms, None if masks.value.rows is None else varying, like)
        split = mask_terms(terms, linear)
    elif walk.bound.masks:
        capped = terms if walk.bound is not Bound.LIPLT else region.ball_terms
        norms = [
            _capped_norm(walk, _term_name(name, index, capped), term, masks, cap, like)
            for index, (term, cap) in enumerate(zip(capped, whole, strict=True))
        ]
    walk.activations.append(_summary(name, layer, closing, whole, norms))
    if walk.bound is Bound.LIPLT:
        return _close_with_remainder(walk, name, region, closing, _carry(region.ball_terms, norms), product)
    if walk.bound is Bound.GLOBAL_LIPLT:
        return _close_with_halves(walk, name, region, closing, ball_lipschitz, product)
    lipschitz = ball_lipschitz if norms is whole else _carry(terms, norms)
    source = Source(closing.center, closing.output_box, lipschitz, product, mask)
    same = walk.bound in (Bound.GLOBAL, Bound.TIGHT)
    ball_source = source if same else replace(source, lipschitz=ball_lipschitz, mask=NO_MASK)
    mask_ball = walk.bound is Bound.TIGHT and _constants_pay(walk, name, mask)
    opened = open_region(source, ball_source, region.epsilon, mask_ball)
    opened = replace(opened, rounding=closing.rounding)
    return replace(opened, lipschitz_terms=(*opened.lipschitz_terms, *split)) if split else opened


def _constants_pay(walk: Walk, name: str, mask: Lazy[Tensor | None]) -> bool:
    """Return whether row norms of the next map are to leave out its constant inputs."""

    def gain() -> Tensor:
        return torch.zeros(()) if mask.value is None else 1 - mask.value[FEW].mean()

    return walk.pays(f"rows behind {name}", gain)


def _close_with_remainder(
    walk: Walk, name: str, region: Region, closing: Closing, tight: Tensor, product: Tensor
) -> Region:
    """Close by the loop transformation: σ(z') - σ(z) = D (z' - z) + r, D of slopes 0, 1/2, 1 and |r| <= |z' - z| / 2.

    `tight`: Lipschitz constant of the varying outputs by the product of masked norms. Where an activation is not
    elementwise D is 0 and r all of σ(z') - σ(z).
    """
    like, terms = region.center, region.lipschitz_terms
    varying, rows = closing.masks.value

    def behind(kind: str, rows: Tensor | None) -> Tensor:
        return _carry(terms, _masked_norms(walk, f"{name}..{kind}", terms, rows, like))

    first = terms is region.ball_terms  # both then say the same
    outputs = tight if first else torch.minimum(tight, behind("outputs", rows))
    source = Source(closing.center, closing.output_box, outputs, product, Lazy.of(varying))
    opened = open_region(source, source, region.epsilon, mask_ball=True)
    opened = replace(opened, rounding=closing.rounding)
    if closing.linear is None or varying is None or closing.remainder is None:
        return opened
    if math.prod(region.shape) > LARGEST_MERGED:
        return opened
    linear = closing.linear.value
    unstable = varying * (1 - linear)
    remainder = torch.minimum(tight, behind("remainder", unstable)) / 2
    lower, upper = (unstable * each for each in closing.remainder.value)
    kept = Source(torch.zeros_like(like), Lazy.of((lower, upper)), remainder, product, Lazy.of(unstable))
    linear_part = mask_terms(terms, linear + unstable / 2)
    identity = open_region(kept, kept, region.epsilon, mask_ball=True).lipschitz_terms
    return replace(opened, lipschitz_terms=(*identity, *linear_part))


def _close_with_halves(
    walk: Walk, name: str, region: Region, closing: Closing, constant: Tensor, product: Tensor
) -> Region:
    """Close by the loop transformation everywhere: σ(z') - σ(z) = (z' - z)/2 + r with |r| <= |z' - z| / 2.

    `constant`: Lipschitz constant by whole norms from the last activation. No box is asked for.
    """
    like, terms = region.center, region.lipschitz_terms
    if terms is not region.ball_terms:
        constant = torch.minimum(constant, _carry(terms, _whole_norms(walk, f"{name}..halves", terms, like)))
    source = Source(closing.center, closing.output_box, constant, product)
    opened = open_region(source, source, region.epsilon, mask_ball=False)
    opened = replace(opened, rounding=closing.rounding)
    if closing.remainder is None or math.prod(region.shape) > LARGEST_MERGED:
        return opened
    kept = Term(identity_map(region.shape), Source(torch.zeros_like(like), None, constant / 2, product))
    half = scaling(region.shape, like.new_full((1,) * like.dim(), 0.5))
    halves = (Term(term.map.after(half), term.source) for term in terms)
    return replace(opened, lipschitz_terms=(kept, *halves))


def _summary(
    name: str, layer: nn.Module, closing: Closing, whole: list[Tensor], norms: list[Tensor]
) -> ActivationBounds:
    return ActivationBounds(name, layer, closing.box, closing.output_box, closing.masks, sum_of(whole), sum_of(norms))
