"""The walk from images to logits: the region behind the model, Lipschitz bounds and worst margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipcert.bounds.closing import ActivationBounds, Bound, Walk
from lipcert.bounds.economy import Economy
from lipcert.bounds.lazy import Lazy
from lipcert.bounds.linear_map import identity_map
from lipcert.bounds.margins import support
from lipcert.bounds.norms import Norms
from lipcert.bounds.pair_margins import pair_support
from lipcert.bounds.region import Region, Source, Term, open_region, sum_of
from lipcert.bounds.rounding import Arithmetic, input_rounding
from lipcert.bounds.rules import walk_layer


@dataclass(frozen=True)
class Analysis:
    """What a bound knows of a batch.

    Attributes:
        region: the open region at the logits.
        activations: what every activation on the way was found to do, in order.
        bound: how it was bounded.
    """

    region: Region
    activations: tuple[ActivationBounds, ...]
    bound: Bound

    @property
    def logits(self) -> Tensor:
        """Clean logits, (B, K): the region's center."""
        return self.region.center

    @property
    def families(self) -> list[tuple[Term, ...]]:
        """Sets of terms, each of which alone bounds the logits; more than one where linear runs are merged."""
        region = self.region
        separate = self.bound.merges and region.lipschitz_terms is not region.ball_terms
        return [region.lipschitz_terms, region.ball_terms] if separate else [region.lipschitz_terms]

    @property
    def global_lipschitz(self) -> Tensor:
        """The same with unmasked norms throughout, (1,), whatever the bound."""
        return torch.stack([term.source.product for term in self.region.ball_terms]).amax(dim=0)

    @property
    def lipschitz(self) -> Tensor:
        """Bound on the Lipschitz constant up to the last activation, (B,) or (1,): the paper's L(x).

        The largest when the last linear map starts from several activations.
        """
        terms = self.region.ball_terms if self.bound.merges else self.region.lipschitz_terms
        constants = [term.source.lipschitz for term in terms]
        return torch.stack(torch.broadcast_tensors(*constants)).amax(dim=0)


def check_epsilon(epsilon: float | Tensor) -> None:
    """Refuse an epsilon that no certificate can be about.

    Args:
        epsilon: l2 radius in pixels, a number or (B,).

    Raises:
        ValueError: unless every epsilon is positive and finite.
    """
    values = torch.as_tensor(epsilon, dtype=torch.float64)
    if not bool(((values > 0) & values.isfinite()).all()):
        raise ValueError(f"Expected `epsilon` > 0 and finite, got {epsilon}.")


def analyze(
    model: nn.Module,
    images: Tensor,
    epsilon: float | Tensor,
    bound: Bound | str,
    norms: Norms,
    clip_input: bool = False,
    arithmetic: Arithmetic | None = None,
    economy: Economy | None = None,
) -> Analysis:
    """Bound everything `model` may do when each image moves by at most `epsilon` in l2.

    Args:
        model: a tree of supported layers.
        images: (B, ...), pixels in [0, 1].
        epsilon: radius in pixels, a number or (B,); 0 only makes sense in tests.
        bound: one of `Bound`.
        norms: norm algorithm: estimates to train on, upper bounds to certify with.
        clip_input: intersect the input box with [0, 1].
        arithmetic: also bound how far the model executed in it is from the exact one; None to leave that out.
        economy: leaves out work that would tell next to nothing new while training; None for all of it.

    Raises:
        UnsupportedLayerError: naming a layer that has no sound rule.

    Source: section 1 of the design; eqs 21-23; Theorem 1.
    """
    if isinstance(epsilon, Tensor):
        radius = epsilon.to(images).reshape(-1)
    else:
        radius = torch.full((1,), epsilon, dtype=images.dtype, device=images.device)  # a copy would stop a GPU
    box = None
    if clip_input:
        reach = radius.view(-1, *(1 for _ in images.shape[1:]))
        box = Lazy.of(((images - reach).clamp_min(0), (images + reach).clamp_max(1)))
    one = torch.ones(1, dtype=images.dtype, device=images.device)
    source = Source(images, box, one, one)
    walk = Walk(Bound(bound), norms, arithmetic, economy)
    opened = open_region(source, source, radius, mask_ball=False)
    if arithmetic is not None:
        opened = replace(opened, rounding=input_rounding(opened.size(), arithmetic))
    region = walk_layer(model, opened, walk, "")
    return Analysis(region, tuple(walk.activations), walk.bound)


def worst_increase(analysis: Analysis, labels: Tensor, box: bool = True, rounds: int = 100) -> Tensor:
    """Return by how much each logit may gain on the label's logit inside the region, (B, K).

    Entry j is max { (w_j - w_y)·δ } over ball ∩ box (eq. 24), 0 for the label; never below the true maximum.

    Args:
        analysis: of a model whose output is a flat vector of logits.
        labels: (B,).
        box: keep the box; False leaves the ball alone, as GloRo does.
        rounds: Newton rounds at most, see `support`.
    """
    *others, last = analysis.families
    gains = _increase(last, analysis.region, labels, box, rounds, range(analysis.logits.shape[1]))
    for terms in others:
        dear = any(term.map.per_image for term in terms)
        open_classes = _undecided_classes(analysis, labels, gains) if dear else list(range(gains.shape[1]))
        if open_classes:
            refined = _increase(terms, analysis.region, labels, box, rounds, open_classes)
            gains = gains.index_copy(
                1,
                torch.tensor(open_classes, device=gains.device),
                torch.minimum(gains[:, open_classes], refined),
            )
    return gains


def _is_label(labels: Tensor, like: Tensor) -> Tensor:
    """Return which class is the label, bool of the shape of `like`, (B, K)."""
    return torch.arange(like.shape[1], device=labels.device) == labels.unsqueeze(1)


def _undecided_classes(analysis: Analysis, labels: Tensor, gains: Tensor) -> list[int]:
    """Return the classes that some image of the batch might be taken for; `gains`: (B, K)."""
    worst = analysis.logits + gains
    if analysis.region.rounding is not None:
        worst = worst + logit_rounding(analysis, labels)
    reaches = ~(worst < analysis.logits.gather(1, labels.unsqueeze(1)))
    is_label = _is_label(labels, gains)
    return (reaches & ~is_label).any(dim=0).nonzero()[:, 0].tolist()


def _increase(
    terms: tuple[Term, ...], region: Region, labels: Tensor, box: bool, rounds: int, classes: Sequence[int]
) -> Tensor:
    """Return the sum over `terms` of their largest contributions to `classes`, (B, k)."""
    total = []
    for term in terms:
        source = term.source
        lower = upper = None
        if box and source.box is not None:
            lower, upper = ((end - source.center).flatten(1) for end in source.box.value)
        radius = (region.epsilon * source.lipschitz).expand(labels.shape[0])
        if term.map.per_image:
            units = torch.eye(region.center.shape[1], dtype=region.center.dtype, device=region.center.device)
            rows = (term.map.adjoint(units[each] - units[labels]).flatten(1).unsqueeze(1) for each in classes)
            gains = torch.cat([support(each, radius, lower, upper, rounds) for each in rows], dim=1)
        else:
            matrix = term.map.matrix(region.center)[0]
            chosen = matrix if len(classes) == len(matrix) else matrix[list(classes)]
            gains = pair_support(chosen, matrix[labels], radius, lower, upper, rounds)
        total.append(gains)
    return sum_of(total)


def logit_rounding(analysis: Analysis, labels: Tensor) -> Tensor:
    """Return how far executed z_j - z_y may be from exact ones, (B, K); 0 for the label.

    Args:
        analysis: made with an arithmetic.
        labels: (B,).

    Source: `lipcert.bounds.rounding`; errors that earlier layers bring along reach z_j - z_y through row j minus row y.

    Raises:
        ValueError: for an analysis made without an arithmetic.
    """
    region = analysis.region
    rounding = region.rounding
    if rounding is None:
        raise ValueError("Expected an analysis made with an arithmetic.")
    pair = rounding.entries + rounding.entries.gather(1, labels.unsqueeze(1))
    if region.last is not None and rounding.fresh is not None and rounding.inherited is not None:
        matrix = identity_map(region.last.input_shape).after(region.last).matrix(region.center)[0]
        lengths = torch.linalg.vector_norm(matrix - matrix[labels].unsqueeze(1), dim=-1)
        fresh = rounding.fresh + rounding.fresh.gather(1, labels.unsqueeze(1))
        pair = torch.minimum(pair, fresh + lengths * rounding.inherited.unsqueeze(1))
    return pair.scatter(1, labels.unsqueeze(1), 0.0)


def worst_logits(analysis: Analysis, labels: Tensor, box: bool = True, rounds: int = 100) -> Tensor:
    """Return worst logits z*_j = z_j + max (w_j - w_y)·δ, z*_y = z_y, shape (B, K) (eq. 24).

    Args:
        analysis: of a model whose output is a flat vector of logits.
        labels: (B,).
        box: keep the box; False leaves the ball alone, as GloRo does.
        rounds: Newton rounds at most, see `support`.
    """
    gains = worst_increase(analysis, labels, box, rounds)
    is_label = _is_label(labels, gains)
    return analysis.logits + torch.where(is_label, torch.zeros_like(gains), gains)


def robust_margin(worst: Tensor, labels: Tensor) -> Tensor:
    """Return min over j ≠ y of z_y - z*_j, (B,): certified iff strictly positive. NaN stays NaN.

    Args:
        worst: worst logits z*, (B, K).
        labels: (B,).
    """
    is_label = _is_label(labels, worst)
    others = worst.masked_fill(is_label, -torch.inf).amax(dim=1)
    return worst.gather(1, labels.unsqueeze(1))[:, 0] - others


def lipschitz_to_logits(analysis: Analysis, norms: Norms, whole: bool) -> Tensor:
    """Return a bound on the Lipschitz constant of the whole map to the logits, (B,) or (1,) (appendix A.1).

    Args:
        analysis: of a batch.
        norms: norm algorithm; upper bounds where the constant is to be one.
        whole: the last layer's norm unmasked; otherwise masked by its varying inputs and capped by that norm.
    """
    like = analysis.region.center
    totals = []
    for family, terms in enumerate(analysis.families):
        constants = []
        for index, term in enumerate(terms):
            name = f"..output..{family}..{index}"  # no module is called so
            norm = None if term.map.per_image else norms.whole(name, term.map, like)
            if not whole or norm is None:
                masked = norms.masked(name, term.map, None, term.source.varying, like)
                norm = masked if norm is None else torch.minimum(masked, norm)
            constants.append(term.source.lipschitz * norm)
        totals.append(sum_of(constants))
    return totals[0] if len(totals) == 1 else torch.minimum(*totals)
