"""Worst margins at the logits: exact maxima over ball and box, rounding, and Lipschitz bounds of the whole map."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lipcert.bounds.analysis import Analysis
from lipcert.bounds.margins import pair_support, support
from lipcert.bounds.region import SMALLEST_CONSTANT, Region, Term, sum_of
from lipcert.graph import LinearMap, Operator
from lipcert.norms.protocol import MapKey, Norms


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
            lower, upper = ((end - source.center).flatten(1) for end in source.box)
        radius = (region.epsilon * source.lipschitz).expand(labels.shape[0])
        if term.map.per_image:
            units = torch.eye(region.center.shape[1], dtype=region.center.dtype, device=region.center.device)
            rows = (term.map.adjoint(units[each] - units[labels]).flatten(1).unsqueeze(1) for each in classes)
            gains = torch.cat([support(each, radius, lower, upper, rounds) for each in rows], dim=1)
        else:
            matrix = term.map.matrix()
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
    before = rounding.inherited
    if rounding.layer is not None and rounding.fresh is not None and before is not None:
        units = torch.eye(region.center.shape[1], dtype=region.center.dtype, device=region.center.device)
        matrix = rounding.layer.adjoint(units).flatten(1)
        differences = matrix - matrix[labels].unsqueeze(1)
        lengths = torch.linalg.vector_norm(differences, dim=-1)
        passed = lengths * before.length.unsqueeze(1)
        varying = _varying_inputs(region, rounding.layer)
        if varying is not None and before.stray is not None:
            masked = torch.linalg.vector_norm(differences * varying.flatten(1).unsqueeze(1), dim=-1)
            passed = torch.minimum(passed, masked * before.length.unsqueeze(1) + lengths * before.stray.unsqueeze(1))
        passed = torch.minimum(passed, (differences.abs() @ before.entries.flatten(1).unsqueeze(2))[:, :, 0])
        fresh = rounding.fresh + rounding.fresh.gather(1, labels.unsqueeze(1))
        pair = torch.minimum(pair, fresh + passed)
    return pair.scatter(1, labels.unsqueeze(1), 0.0)


def _varying_inputs(region: Region, layer: Operator) -> Tensor | None:
    """Return which inputs of the last `layer` vary, (B, ...); None where that is not known."""
    if len(region.terms) != 1:
        return None
    (term,) = region.terms.values()
    *moves, last = term.map.operators
    if term.source.varying is None or last is not layer or not all(each.moves for each in moves):
        return None
    return LinearMap(term.map.input_shape, last.input_shape, term.map.origin, tuple(moves)).apply(term.source.varying)


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


def lipschitz_to_logits(analysis: Analysis, norms: Norms) -> Tensor:
    """Return a bound on the Lipschitz constant of the whole map to the logits, (B,) or (1,) (appendix A.1).

    The last map's norm is masked by its varying inputs where the bound masks, and capped by its global norm.

    Args:
        analysis: of a batch.
        norms: norm algorithm; upper bounds where the constant is to be one.
    """
    graph = analysis.graph
    totals = []
    for family, terms in enumerate(analysis.families):
        across = analysis.region.merged is not None and family == 0
        constants = []
        for number, term in enumerate(terms):
            name = f"..output..{number}{'..across' * across}"  # no module is called so
            key = MapKey(graph.key, term.source.index, len(graph.nodes) - 1, across, name)
            norm = None if term.map.per_image else norms.global_norm(key, term.map)
            if norm is None or term.source.varying is not None:
                local = norms.local_norms(key, term.map, None, term.source.varying)
                norm = local if norm is None else torch.minimum(local, norm)
            constants.append(term.source.lipschitz * norm)
        totals.append(sum_of(constants).clamp_min(SMALLEST_CONSTANT))
    return totals[0] if len(totals) == 1 else torch.minimum(*totals)
